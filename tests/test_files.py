"""Drawing to disk: one process or several, killed or not, the same images."""

from __future__ import annotations

import os
import re
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from genhub_gan import GAN
from models import Labelled, Pair, images
from PIL import Image
from test_launch import start
from test_trainer import wait_for

import genhub
from genhub.api import sample_to
from genhub.data.open import load_data
from genhub.interfaces.columns import DataConfig
from genhub.modalities.sounds import read_sound
from genhub.sampling.draw import PART, draw_parts, read_part, sample_elements
from genhub.sampling.files import draw_to, save_elements
from genhub.sampling.request import Drawing


def make(channels: int = 1) -> GAN:
    torch.manual_seed(0)
    networks = {"channels": (4,)}
    data = images((channels, 8, 8))
    return GAN(GAN.Config(name="gan", data=data, latent_dim=4, generator=networks, discriminator=networks)).eval()


@pytest.fixture
def saved(tmp_path: Path) -> str:
    make().save_pretrained(tmp_path / "model")
    return str(tmp_path / "model")


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5])
def test_files(tmp_path: Path, channels):
    data = images((channels, 8, 6), 10)
    model = Labelled(Labelled.Config(data=data, conditions=("label",)))
    drawing = Drawing(5, conditions={"label": torch.tensor([3, 4])})
    pixels = torch.randint(256, (5, channels, 8, 6), dtype=torch.uint8)

    def write(out: str) -> Path:
        return save_elements(pixels, tmp_path / out, model, drawing)

    arrays = np.load(write("new/x.npz"))
    assert np.array_equal(arrays["image"], pixels.permute(0, 2, 3, 1).numpy())
    assert arrays["label"].tolist() == [3, 4, 3, 4, 3]
    assert arrays["label_names"][arrays["label"]].tolist() == ["3", "4", "3", "4", "3"]
    files = sorted(write("folder").iterdir())
    assert [f.name for f in files] == [f"{i:06d}.png" for i in range(5)]
    with Image.open(files[2]) as image:
        shown = pixels[2] if channels in (1, 3, 4) else pixels[2, : 1 if channels == 2 else 3]
        assert np.array_equal(np.asarray(image).reshape(8, 6, -1), shown.permute(1, 2, 0).numpy())
        assert image.size == (6, 8)
    with Image.open(write("grid.png")) as image:
        assert image.width > 6 * 8
    with pytest.raises(genhub.InputError, match=r"x.jpg: give x.png \(a picture\), x.npz, x.parquet or a folder"):
        write("x.jpg")
    with pytest.raises(genhub.InputError, match=r"x.csv: give x.png \(a picture\), x.npz, x.parquet or a folder"):
        write("x.csv")
    if channels in (2, 5):
        with pytest.raises(genhub.InputError, match="1, 3 or 4 channels, not .; x.npz keeps them all"):
            write("x.parquet")
        return
    config = DataConfig(name=str(write("x.parquet")), target="image", columns={"image": {"channels": channels}})
    read = load_data(config, conditions=("label",))
    assert torch.equal(read.kept(range(5)), pixels)
    assert read.labels is not None
    assert [read.labels.modality.names[label] for label in read.labels.kept(range(5))] == ["3", "4", "3", "4", "3"]


def test_a_place_that_can_not_be_written(tmp_path: Path, saved):
    (tmp_path / "file").write_text("")
    with pytest.raises(genhub.InputError, match="--out"):
        save_elements(torch.zeros(1, 1, 8, 8, dtype=torch.uint8), tmp_path / "file" / "x.png", make(), Drawing(1))
    for out in ("x.npz", "x.parquet", "folder"):
        with pytest.raises(genhub.InputError, match=f"--out {tmp_path}/file/{out}: Not a directory"):
            sample_to(saved, 2, tmp_path / "file" / out)
    with pytest.raises(genhub.InputError, match="x.parquet or a folder"):
        sample_to(saved, 2, tmp_path / "x.jpg")


SIGNAL = {"shape": (2, 40), "mean": (0.0, 1.0), "std": (0.1, 0.2)}


@pytest.mark.parametrize(
    ("modality", "outs"),
    [(genhub.Image(shape=(1, 8, 8), bits=16), ["x.npz", "x.parquet", "folder"]),
     (genhub.Image(shape=(3, 8, 8), bits=16), ["x.npz", "folder"]),
     (genhub.Signal(**SIGNAL), ["x.npz", "x.parquet", "folder"]),
     (genhub.Signal(**SIGNAL, rate=8000), ["x.npz", "x.parquet", "folder"]),
     (genhub.Vector(shape=(3,), mean=(0.0,) * 3, std=(1.0,) * 3), ["x.npz", "x.parquet", "x.csv"])],
    ids=["16 bits", "16 bits, colour", "signal", "sound", "vector"],
)  # fmt: skip
def test_rows_of_any_modality(tmp_path: Path, modality, outs):
    torch.manual_seed(0)
    model = Pair(Pair.Config(data=genhub.ModelData(column="it", target=modality))).eval()
    given = {"seed": 5, "batch_size": 100}  # of which a part is a multiple: other batches may round the last digit otherwise
    whole = genhub.sample(model, PART + 3, **given)
    assert whole.shape == (PART + 3, *modality.shape)
    for out in outs:
        assert torch.equal(genhub.sample(model, PART + 3, out=tmp_path / out, **given), whole), out
        if out == "folder":
            files = sorted(file for file in (tmp_path / out).iterdir() if file.suffix == modality.file_ending)
            assert [file.stem for file in files] == [f"{number:06d}" for number in range(PART + 3)]
            assert modality.read_file(files[7]).shape == modality.shape
    with Image.open(save_elements(whole[:9], tmp_path / "x.png", model, Drawing(9))) as picture:
        assert picture.width > 20
    if "x.npz" in outs:
        assert np.array_equal(np.load(tmp_path / "x.npz")["it"], modality.to_array(whole))


class Stopped(Exception):
    pass


def stopping_at(n: int):
    def on_progress(drawn: int) -> None:
        if drawn > n:
            raise Stopped

    return on_progress


@pytest.mark.parametrize("out", ["x.npz", "x.parquet", "folder"])
def test_a_stopped_drawing_goes_on(tmp_path, out):
    model, n, drawn = make(), 2 * PART + 30, []
    drawing = Drawing(n, seed=5, batch_size=100)
    whole = sample_elements(model, drawing)
    with pytest.raises(Stopped):
        draw_to(model, drawing, tmp_path / out, on_progress=stopping_at(PART))
    assert not (tmp_path / out).is_file()
    sampling = model.sample
    model.sample = lambda n, **options: drawn.append(n) or sampling(n, **options)
    draw_to(model, drawing, tmp_path / out)
    assert sum(drawn) == n - PART  # what was there is not drawn again
    if out == "x.npz":
        found = torch.from_numpy(np.load(tmp_path / out)["image"]).permute(0, 3, 1, 2)
    else:
        name = str(tmp_path / out)
        found = load_data(DataConfig(name=name)).kept(range(n))
    assert torch.equal(found, whole)
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {out}, left
    if out == "folder":
        draw_to(model, replace(drawing, n=n + 5), tmp_path / out)  # more of the same
        assert len(list((tmp_path / out).glob("*.png"))) == n + 5
        assert sum(drawn) <= n - PART + 100


@pytest.mark.parametrize(
    ("out", "batch_size", "there"), [("x.npz", 100, PART), ("x.parquet", 100, PART), ("folder", 20, 120)]
)
def test_from_python_a_killed_drawing_goes_on(zygote, tmp_path, saved, out, batch_size, there):
    n, drawn, given = there + 30, [], {"seed": 5, "batch_size": batch_size}
    first = zygote.start("faults:sample_dying_at", there // batch_size + 1, saved, n, out, given, cwd=tmp_path)
    assert first.wait() == -signal.SIGKILL, first.err
    written = {file: file.stat().st_mtime_ns for file in (tmp_path / "folder").glob("*.png")}
    assert len(written) == (there if out == "folder" else 0)
    model = genhub.load(saved)
    sampling = model.sample
    model.sample = lambda n, **options: drawn.append(n) or sampling(n, **options)
    images = genhub.sample(model, n, out=tmp_path / out, **given)
    assert sum(drawn) == 30  # only what is missing
    assert {file: file.stat().st_mtime_ns for file in written} == written
    assert torch.equal(images, sample_elements(make(), Drawing(n, **given)))
    genhub.sample(saved, n, out=tmp_path / "whole" / out, **given)
    for file in (path for path in (tmp_path / "whole").rglob("*") if path.suffix):
        assert file.read_bytes() == (tmp_path / file.relative_to(tmp_path / "whole")).read_bytes(), file
    assert not list(tmp_path.glob(".x*"))


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5])
def test_from_python_what_is_drawn_to_a_place_is_returned(tmp_path, channels):
    model = make(channels)
    whole = genhub.sample(model, 7, seed=5)
    for out in ("folder", "folder", "x.npz", "x.png", *(["x.parquet"] if channels in (1, 3, 4) else [])):
        images = genhub.sample(model, 7, seed=5, out=tmp_path / out)
        assert torch.equal(images, whole), out
        assert images.is_contiguous(), out
    assert torch.equal(genhub.sample(model, 3, seed=5, out=tmp_path / "folder"), whole[:3])
    assert len(list((tmp_path / "folder").glob("*.png"))) == 7


def test_from_python_a_callback_is_no_part_of_what_is_drawn(tmp_path):
    """It can't be written down, and another one draws the same images."""

    class Watched(GAN):
        def sample(self, n, *, conditions=None, generator=None, callback: Callable[[int], None] | None = None):
            if callback is not None:
                callback(n)
            return super().sample(n, generator=generator)

    model, seen = Watched(make().config).eval(), []
    genhub.sample(model, 3, out=tmp_path / "folder", callback=seen.append)
    genhub.sample(model, 5, out=tmp_path / "folder", batch_size=3, callback=lambda n: seen.append(-n))
    assert seen == [3, -2]


def test_a_folder_of_other_images_is_left_alone(tmp_path, saved):
    sample_to(saved, 3, tmp_path / "a")
    sample_to(saved, 3, tmp_path / "a")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.png").write_text("meow")
    for folder, options in [("a", {"seed": 1}), ("a", {"truncation": 1.0}), ("photos", {})]:
        for draw in (lambda out, options: sample_to(saved, 3, out, **options),
                     lambda out, options: genhub.sample(saved, 3, out=out, **options)):  # fmt: skip
            with pytest.raises(genhub.InputError, match=f"{folder}: holds other things than these rows; choose another"):
                draw(tmp_path / folder, options)
    assert [path.name for path in (tmp_path / "photos").iterdir()] == ["cat.png"]


def test_parts_are_drawn_once_and_exactly_so_many(tmp_path):
    model = make()
    files = draw_parts(model, Drawing(PART + 7), tmp_path)
    found = torch.cat([read_part(file) for file in files])
    assert torch.equal(found, sample_elements(model, Drawing(PART + 7)))
    before = files[0].stat().st_mtime_ns
    more = draw_parts(model, Drawing(2 * PART), tmp_path)
    assert (more[0], more[0].stat().st_mtime_ns) == (files[0], before)
    assert [len(read_part(file)) for file in more] == [PART, PART]


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["empty", "zeros", "cut", "flipped", "a folder"])
@pytest.mark.parametrize("out", ["x.npz", "folder"])
def test_what_is_damaged_is_drawn_again(tmp_path, out, damage):
    """A part of a file, or a PNG of a folder: of a drawing that was stopped, by a power cut, say."""
    model, drawing = make(), Drawing(2 * PART + 30, seed=5, batch_size=100)
    with pytest.raises(Stopped):
        draw_to(model, drawing, tmp_path / out, on_progress=stopping_at(PART))
    file = tmp_path / ".x.npz.parts" / "part-000000.safetensors" if out == "x.npz" else tmp_path / out / "000007.png"
    whole = file.read_bytes()
    middle = len(whole) // 2
    flipped = whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :]
    if damage == "a folder":
        file.unlink()
        file.mkdir()
        with pytest.raises(genhub.GenhubError, match="^[^\n]*can't be saved: [^\n]*Is a directory[^\n]*$"):
            draw_to(model, drawing, tmp_path / out)
        return
    file.write_bytes({"empty": b"", "zeros": bytes(len(whole)), "cut": whole[:-1], "flipped": flipped}[damage])
    draw_to(model, drawing, tmp_path / out)
    images = sample_elements(model, drawing)
    if out == "x.npz":
        assert np.array_equal(np.load(tmp_path / out)["image"], images.permute(0, 2, 3, 1).numpy())
    else:
        assert file.read_bytes() == whole


@pytest.mark.parametrize("out", ["x.npz", "x.parquet", "folder"])
def test_two_draw_into_one_place(tmp_path, out):
    """The second is told who is at it, and harms nothing, whether it draws the same images or others."""
    model, drawing = make(), Drawing(30, seed=5, batch_size=4)
    told = []

    def second(drawn: int) -> None:
        for seed in (5, 6):
            with pytest.raises(genhub.InputError) as error:
                draw_to(model, Drawing(30, seed), tmp_path / out)
            told.append(str(error.value))

    draw_to(model, drawing, tmp_path / out, on_progress=second)
    assert len(told) > 4
    in_use = rf" is in use by process {os.getpid()} on \S+; wait until it ends, stop it, or choose another with --out"
    others = ": holds other things than these rows; choose another folder"  # said first, where it is so
    assert all(re.fullmatch(f"--out {tmp_path / out}{in_use}", text) for text in told[::2]), told
    assert all(re.fullmatch(f"--out {tmp_path / out}(?:{in_use}|{others})", text) for text in told[1::2]), told
    draw_to(model, drawing, tmp_path / "alone")
    if out == "folder":
        for file in (tmp_path / "alone").glob("*.png"):
            assert file.read_bytes() == (tmp_path / out / file.name).read_bytes()
    draw_to(model, drawing, tmp_path / out)  # and the place is free again


def test_a_full_disk_while_it_draws(zygote, tmp_path, saved):
    """Written by Python, Rust and C++: a line, exit code 1, no half of a file, and the same command goes on."""
    for out, size in [("x.parquet", 700), ("x.parquet", 2000), ("x.npz", 700)]:
        words = ("sample", saved, "-n", "20", "--seed", "3", "--out", f"{size}{out}/{out}")
        full = zygote.start("faults:genhub_with", {"fsize": size}, *words, cwd=tmp_path)
        assert full.wait() == 1, (out, size, full.err)
        assert re.fullmatch(r"genhub: [^\n]*can't be saved: [^\n]*\n", full.err), full.err
        place = tmp_path / f"{size}{out}"
        assert not list(place.rglob("*.parquet")) + list(place.rglob("*.npz")) + list(place.rglob("*.png"))
        again = zygote.genhub(*words, cwd=tmp_path)
        assert again.wait() == 0, again.err
        assert not [path for path in place.rglob(".*") if path.name not in (".lock", ".owner")]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="finds the command's processes in /proc")
def test_two_processes_one_killed_and_the_same_images_in_the_end(zygote, tmp_path, saved):
    words = ["sample", saved, "-n", "4000", "--batch-size", "4", "--seed", "7", "--out"]
    command = start(*words, "pictures", "--num-processes", "2", cwd=tmp_path)
    pictures = tmp_path / "pictures"
    wait_for(lambda: len(list(pictures.glob("*.png"))) > 200 or command.poll() is not None)
    processes = Path(f"/proc/{command.pid}/task/{command.pid}/children").read_text().split()
    os.kill(int(processes[1]), signal.SIGKILL)
    _, errors = command.communicate(timeout=120)
    assert command.returncode == 1
    assert "genhub: process 1 was killed by SIGKILL" in errors
    there = {file: file.stat().st_mtime_ns for file in pictures.glob("*.png")}
    assert 200 < len(there) < 4000
    again = start(*words, "pictures", "--num-processes", "2", cwd=tmp_path)
    output, errors = again.communicate(timeout=120)
    assert (again.returncode, output) == (0, "4000 drawn: pictures\n"), errors
    files = sorted(pictures.glob("*.png"))
    assert len(files) == 4000
    assert {file: file.stat().st_mtime_ns for file in there} == there

    alone = zygote.genhub(*words, "x.npz", cwd=tmp_path)
    assert alone.wait() == 0, alone.err
    expected = np.load(tmp_path / "x.npz")["image"][..., 0]
    for number in range(0, 4000, 37):
        with Image.open(files[number]) as image:
            assert np.array_equal(np.asarray(image), expected[number]), number


def test_sounds_in_one_file(tmp_path: Path):
    """One alone is the file; several follow one another, a quarter of a second apart."""
    modality = genhub.Signal(shape=(1, 400), mean=(0.0,), std=(0.1,), rate=8000)
    model = Pair(Pair.Config(data=genhub.ModelData(column="it", target=modality))).eval()
    drawn = genhub.sample(model, 3, seed=5, out=tmp_path / "x.wav").clamp(-1, 1 - 2**-15)
    found, rate = read_sound(tmp_path / "x.wav")
    assert (rate, found.shape) == (8000, (1, 3 * 400 + 2 * 2000))
    for number in range(3):
        np.testing.assert_allclose(found[:, number * 2400 :][:, :400], drawn[number], atol=2**-15)
    assert not found[:, 400:2400].any()
    genhub.sample(model, 1, seed=5, out=tmp_path / "one.wav")
    assert read_sound(tmp_path / "one.wav")[0].shape == (1, 400)
    with pytest.raises(
        genhub.InputError,
        match=r"x.flac: give x.png \(a picture\), x.wav \(all, one after another\), x.npz, x.parquet or a folder \(one .wav a row\)",
    ):
        genhub.sample(model, 1, out=tmp_path / "x.flac")
    unknown = modality.model_copy(update={"rate": None})
    model = Pair(Pair.Config(data=genhub.ModelData(column="it", target=unknown))).eval()
    with pytest.raises(
        genhub.InputError, match=r"x.wav: give x.png \(a picture\), x.npz, x.parquet or a folder \(one .npy a row\)"
    ):
        genhub.sample(model, 1, out=tmp_path / "x.wav")
