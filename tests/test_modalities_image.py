"""Images as a modality: what `read` takes, 8 and 16 bits, grey and colour, pictures and files of what is drawn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from image_files import load, noise, save

from genhub import Image, InputError
from genhub.data.raw import StoredColumn, as_objects
from genhub.modalities.image import ENDINGS
from genhub.modalities.pixels import IMAGE_FORMATS
from genhub.modalities.plots import tiled
from genhub.views.canvas import beside

GREY = np.linspace(0, 65535, 36).astype(np.uint16).reshape(6, 6)


def learnt(values: list[Any], **options: Any) -> Image:
    return Image.learn(StoredColumn("x", "data", as_objects(values)), Image.Options(**options))


def test_endings_are_those_of_the_formats_that_are_read() -> None:
    known = {ending for ending, kind in PIL.Image.registered_extensions().items() if kind in IMAGE_FORMATS}
    assert known <= set(ENDINGS)
    assert set(ENDINGS) - known <= {".avif", ".avifs"}  # Pillow may be built without


# What is read


@pytest.mark.parametrize("channels", [1, 3])
def test_whatever_holds_pixels_is_read_alike(tmp_path: Path, channels: int) -> None:
    array = noise(1, channels=channels)
    pixels = np.atleast_3d(array).transpose(2, 0, 1)
    path = save(tmp_path / "x.png", array)
    modality = learnt([str(path)])
    assert modality == Image(shape=(channels, 6, 6))
    content = path.read_bytes()
    for value in (
        str(path), content, {"bytes": content, "path": None}, {"bytes": None, "path": str(path)}, array, pixels,
        torch.from_numpy(pixels), PIL.Image.fromarray(array), PIL.Image.open(path),
    ):  # fmt: skip
        assert np.array_equal(modality.read(value), pixels)
        assert np.array_equal(modality.ask(value), pixels)
        assert learnt([value]) == modality


def test_a_persons_picture_stays_as_it_is() -> None:
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    picture = PIL.Image.fromarray(noise(1, 4, 8))
    picture.info["exif"] = exif.tobytes()
    before = picture.tobytes()
    modality = learnt([picture])
    assert modality.shape == (3, 8, 4)
    assert modality.read(picture).shape == (3, 8, 4)
    assert (picture.size, picture.tobytes()) == ((8, 4), before)


def test_arrays_all_at_once() -> None:
    modality = Image(shape=(3, 6, 7))
    rows = np.stack([noise(number, 6, 7) for number in range(4)])
    expected = rows.transpose(0, 3, 1, 2)
    assert np.array_equal(modality.read_all(rows), expected)
    assert np.array_equal(modality.read_all(expected), expected)
    assert np.array_equal(Image(shape=(1, 6, 7)).read_all(expected[:, 0]), expected[:, :1])
    assert np.array_equal(Image(shape=(1, 6, 7), value_range=(0, 510)).read_all(expected[:, :1]),
                          np.round(expected[:, :1] / 2).astype(np.uint8))  # fmt: skip


def test_size_and_channels_are_kept_for_other_splits(tmp_path: Path) -> None:
    path = save(tmp_path / "x.png", noise(1, 12, 18))
    modality = learnt([str(path)], size=(4, 5), channels=1)
    assert modality == Image(shape=(1, 4, 5), resized=True, converted=True)
    assert modality.read(str(save(tmp_path / "y.png", noise(2, 9, 9, channels=4)))).shape == (1, 4, 5)
    assert learnt([noise(1)]).read(noise(2, 9, 9)).shape == (3, 9, 9)  # not made to fit: it is told


def test_grey_and_colour() -> None:
    grey, colour = Image(shape=(1, 2, 2)), Image(shape=(3, 2, 2))
    pixels = noise(1, 2, 2).transpose(2, 0, 1)
    expected = np.asarray(PIL.Image.fromarray(noise(1, 2, 2)).convert("L"))
    assert grey.widened((3, 2, 2)) == colour
    assert grey.widened((3, 2, 3)) is colour.widened((1, 2, 2)) is None
    narrowed = grey.narrowed(pixels)
    assert narrowed is not None
    assert np.array_equal(narrowed, expected[None])
    assert np.array_equal(colour.narrowed(expected[None]), np.stack([expected] * 3))  # type: ignore[arg-type]
    assert grey.narrowed(noise(1, 3, 3).transpose(2, 0, 1)) is grey.narrowed(noise(1, 2, 2, channels=4)) is None


# 8 and 16 bits


@settings(deadline=None)
@given(bits=st.sampled_from([8, 16]), seed=st.integers(0, 999), channels=st.integers(1, 4))
def test_pixels_there_and_back(bits: Any, seed: int, channels: int) -> None:
    modality = Image(shape=(channels, 5, 6), bits=bits)
    values = np.random.default_rng(seed).integers(0, modality.levels, (3, *modality.shape)).astype(modality.dtype)
    x = modality.to_batch(torch.from_numpy(values))
    assert modality.bounds[0] <= x.min() <= x.max() <= modality.bounds[1]
    assert np.array_equal(modality.from_batch(x).numpy(), values)


def test_every_level_there_and_back_with_the_bits_of_before() -> None:
    levels = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16)
    modality = Image(shape=(1, 16, 16))
    assert torch.equal(modality.to_batch(levels), levels.div(127.5).sub_(1))
    assert levels.flatten().tolist() == list(range(256))  # kept values stay as they are
    assert torch.equal(modality.from_batch(modality.to_batch(levels)), levels)
    beyond = torch.tensor([[[[-7.0, 7.0, 0.0, 0.003]]]])
    assert modality.from_batch(beyond).flatten().tolist() == [0, 255, 128, 128]


def test_sixteen_bits(tmp_path: Path) -> None:
    path = save(tmp_path / "x.png", PIL.Image.fromarray(GREY))
    modality = learnt([str(path)], bits=16)
    assert (modality, modality.dtype, modality.levels) == (Image(shape=(1, 6, 6), bits=16), "uint16", 65536)
    assert np.array_equal(modality.read(str(path)), GREY[None])
    assert np.array_equal(modality.read(GREY), GREY[None])
    eight = noise(1, channels=1)
    assert np.array_equal(modality.read(eight), eight[None].astype(np.uint16) * 257)
    scaled = learnt([GREY // 16], bits=16, value_range="auto")
    assert scaled.value_range == (0, 4095)
    assert np.array_equal(scaled.read(GREY // 16), np.round(GREY // 16 * (65535 / 4095))[None])
    assert learnt([GREY], bits=16, size=3).read(GREY).shape == (1, 3, 3)
    assert learnt([GREY]).read(GREY).dtype == np.uint8


def test_sixteen_bits_of_grey_and_colour() -> None:
    colour = np.stack([GREY] * 3)
    modality = learnt([colour], bits=16, channels=1)
    assert np.abs(modality.read(colour)[0].astype(int) - GREY).max() <= 1
    assert np.array_equal(learnt([GREY], bits=16, channels=3).read(GREY), colour)
    with pytest.raises(ValueError, match="4 channels can't be made of 1 in an array of 16 bits"):
        learnt([GREY], bits=16, channels=4).read(GREY)


def test_batches_of_sixteen_bits(tmp_path: Path) -> None:
    for number in range(4):
        save(tmp_path / f"{number}.png", PIL.Image.fromarray(GREY // (number + 1)))
    for in_memory in (True, False):
        data = load(tmp_path, image={"bits": 16}, in_memory=in_memory, batch_size=2, flip=True)
        assert np.array_equal(data.own([0, 1]).numpy()[:, 0], [GREY, GREY // 2])
        assert next(data.batches(seed=0)).x.abs().max() <= 1


# Pictures and files


def grid_of_before(images: torch.Tensor, columns: int | None = None) -> PIL.Image.Image:
    """What genhub drew before there were other modalities."""
    n, _, height, width = images.shape
    columns = columns or max(1, round((n * height / width) ** 0.5))
    tiles = []
    for image in images:
        array = image.permute(1, 2, 0).numpy()
        tile = PIL.Image.fromarray(array[..., 0] if array.shape[-1] == 1 else array)
        scale = max(1, 64 // max(tile.size))
        tiles.append(tile.resize((tile.width * scale, tile.height * scale), PIL.Image.Resampling.BICUBIC))
    width, height = tiles[0].size
    canvas = PIL.Image.new(tiles[0].mode, (columns * (width + 2) + 2, -(-n // columns) * (height + 2) + 2),
                           (128,) * len(tiles[0].getbands()))  # fmt: skip
    for i, tile in enumerate(tiles):
        canvas.paste(tile, (2 + i % columns * (width + 2), 2 + i // columns * (height + 2)))
    return canvas


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 5, 9), (4, 70, 65)])
def test_a_grid_is_the_one_of_before_and_has_captions(shape: tuple[int, int, int]) -> None:
    images = torch.randint(256, (7, *shape), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    modality = Image(shape=shape)
    plain, told = modality.picture(images), modality.picture(images, ["cat", "dog"])
    assert (plain.mode, plain.tobytes()) == (grid_of_before(images).mode, grid_of_before(images).tobytes())
    assert told.width == plain.width
    assert told.height > plain.height
    tile = told.crop((0, 0, told.width, 2 + max(shape[1], shape[1] * (64 // max(shape[1:])))))
    assert tile.tobytes() == plain.crop((0, 0, *tile.size)).tobytes()


def test_captions_are_cut_to_their_tiles() -> None:
    tiles = [PIL.Image.new("L", (20, 8)) for _ in range(2)]
    (short, long) = (tiled(tiles, columns=2, captions=captions) for captions in (["", "i"], ["W" * 99, "i"]))
    assert short.size == long.size
    assert short.crop((24, 0, *short.size)).tobytes() == long.crop((24, 0, *long.size)).tobytes()


def test_captions_have_the_letters_of_other_alphabets() -> None:
    tile = PIL.Image.new("L", (40, 8))
    assert len({tiled([tile], captions=[letter]).tobytes() for letter in "eéüłЖЩΩאس"}) == 9  # not a box each
    assert len({beside({letter: tile}).tobytes() for letter in "eéüłЖЩΩאس"}) == 9


@pytest.mark.parametrize(("channels", "bits"), [(1, 8), (3, 8), (4, 8), (1, 16)])
def test_files_and_rows_give_back_what_they_were_given(tmp_path: Path, channels: int, bits: Any) -> None:
    modality = Image(shape=(channels, 5, 6), bits=bits)
    values = np.random.default_rng(0).integers(0, modality.levels, (3, *modality.shape)).astype(modality.dtype)
    own = torch.from_numpy(values)
    modality.write_file(own[0], tmp_path / "x.png")
    assert modality.is_lossless
    assert torch.equal(modality.read_file(tmp_path / "x.png"), own[0])
    assert torch.equal(modality.from_rows(modality.to_rows(own)), own)
    assert modality.to_array(own).shape == (3, 5, 6, channels)
    assert torch.equal(modality.from_array(modality.to_array(own)), own)
    assert modality.picture(own).size[0] > 64
    if channels != 4:
        assert np.array_equal(modality.read(modality.to_rows(own)[0]), values[0])


def test_colour_of_sixteen_bits_has_eight_in_a_file(tmp_path: Path) -> None:
    modality = Image(shape=(3, 5, 6), bits=16)
    own = torch.from_numpy(np.random.default_rng(0).integers(0, 65536, (1, 3, 5, 6)).astype(np.uint16))
    modality.write_file(own[0], tmp_path / "x.png")
    assert (modality.read_file(tmp_path / "x.png").int() - own[0].int()).abs().max() <= 257
    with pytest.raises(InputError, match="a PNG of 16 bits has 1 channel, not 3; x.npz keeps them all"):
        modality.to_rows(own)


def test_two_channels_have_no_png() -> None:
    modality = Image(shape=(2, 5, 6))
    own = torch.zeros(1, 2, 5, 6, dtype=torch.uint8)
    assert not modality.is_lossless
    assert modality.picture(own).mode == "L"
    for write in (modality.feature, lambda: modality.to_rows(own)):
        with pytest.raises(InputError, match="a PNG has 1, 3 or 4 channels, not 2; x.npz keeps them all"):
            write()
