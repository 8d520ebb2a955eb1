"""Signals as a modality: sounds of every uncompressed kind, lengths, rates, waves and files of what is drawn."""

from __future__ import annotations

import struct
import sys
from io import BytesIO
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from conftest import shared_data
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from genhub import Signal
from genhub.data.open import load_data
from genhub.data.raw import StoredColumn, as_objects
from genhub.errors import DataError
from genhub.interfaces.columns import DataConfig
from genhub.modalities import sounds
from genhub.modalities.sounds import read_sound

WAVE = np.array([[0.0, 0.5, -0.5, 127 / 128], [0.25, -1.0, 0.0, -0.25]])
"""(2, 4): values that 8 bits hold exactly."""


def wav(
    values: np.ndarray, kind: int = 1, bits: int = 16, rate: int = 8000, before: bytes = b"", extended: bool = False
) -> bytes:
    """A WAV file of (c, t), by hand."""
    frames = values.T.reshape(-1)
    if kind == 3:
        data = frames.astype(f"<f{bits // 8}").tobytes()
    elif bits == 8:
        data = (frames * 128 + 128).astype(np.uint8).tobytes()
    else:
        whole = (frames * 2 ** (bits - 1)).astype("<i8").tobytes()
        data = b"".join(whole[at : at + bits // 8] for at in range(0, len(whole), 8))
    step = len(values) * bits // 8
    form = struct.pack("<HHIIHH", 0xFFFE if extended else kind, len(values), rate, rate * step, step, bits)
    if extended:
        form += struct.pack("<HHIH", 22, bits, 0, kind) + bytes(14)
    body = b"WAVE" + b"fmt " + struct.pack("<I", len(form)) + form + before + b"data" + struct.pack("<I", len(data)) + data
    return b"RIFF" + struct.pack("<I", len(body)) + body


def learnt(values: list[Any], **options: Any) -> Signal:
    return Signal.learn(StoredColumn("x", "data", as_objects(values)), Signal.Options(**options))


@pytest.mark.parametrize("extended", [False, True])
@pytest.mark.parametrize(("kind", "bits"), [(1, 8), (1, 16), (1, 24), (1, 32), (3, 32), (3, 64)])
def test_every_uncompressed_wav(tmp_path: Path, kind: int, bits: int, extended: bool) -> None:
    content = wav(WAVE, kind, bits, extended=extended, before=b"LIST" + struct.pack("<I", 3) + b"abc\0")
    (tmp_path / "x.wav").write_bytes(content)
    for value in (content, {"bytes": content, "path": "x.wav"}, {"bytes": None, "path": str(tmp_path / "x.wav")},
                  str(tmp_path / "x.wav")):  # fmt: skip
        values, rate = read_sound(value)
        assert (values.dtype, rate) == (np.float32, 8000)
        np.testing.assert_array_equal(values, WAVE.astype(np.float32))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"no sound", "not a WAV, FLAC, OGG or MP3 file; convert it to one"),
        (wav(WAVE)[:-3], "a WAV file that is cut off"),
        (wav(WAVE[:, :0]), "a WAV file without a sound"),
        (wav(WAVE)[:36], "a WAV file without a sound"),
        (wav(WAVE, kind=1, bits=12 * 4), "a WAV file of kind 1 and 48 bits; convert it to an uncompressed one of 16 bits"),
        (wav(WAVE, kind=3, bits=32).replace(struct.pack("<H", 3), struct.pack("<H", 2), 1),
         "a WAV file of kind 2 and 32 bits; convert it to an uncompressed one of 16 bits"),
    ],
)  # fmt: skip
def test_sounds_that_are_none(content: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=".") as caught:
        read_sound(content)
    assert str(caught.value) == message


def compressed(kind: str, values: np.ndarray, rate: int = 8000) -> bytes:
    import soundfile

    stream = BytesIO()
    soundfile.write(stream, values.T, rate, format=kind)
    return stream.getvalue()


TONE = (0.5 * np.sin(np.arange(8000) / 9)[None]).astype(np.float32)


@pytest.mark.parametrize(("kind", "off"), [("FLAC", 1 / 32768), ("OGG", 0.1), ("MP3", 0.1)])
def test_compressed_sounds(tmp_path: Path, kind: str, off: float) -> None:
    values, rate = read_sound(compressed(kind, TONE))
    assert (values.dtype, values.shape, rate) == (np.float32, (1, 8000), 8000)
    assert np.abs(values - TONE).max() <= off
    both, _ = read_sound(compressed(kind, np.concatenate([TONE, -TONE])))
    assert np.abs(both[0] + both[1]).max() <= 2 * off


def test_compressed_sounds_that_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    content = compressed("FLAC", TONE)
    for bad, message in ((content[:-500], "a FLAC file: Error : flac decoder lost sync."),
                         (b"\xff\xfb no sound", "an MP3 file: ")):  # fmt: skip
        with pytest.raises(ValueError, match=".") as caught:
            read_sound(bad)
        assert str(caught.value).startswith(message)
    monkeypatch.setattr(sounds, "MOST_VALUES", 7999)
    with pytest.raises(ValueError, match="a FLAC file of 8,000 values in each channel: a decompression bomb?"):
        read_sound(content)
    monkeypatch.setitem(sys.modules, "soundfile", None)
    with pytest.raises(ValueError, match=r"^a FLAC file needs soundfile: pip install 'genhub-framework\[audio\]'$"):
        read_sound(content)
    assert read_sound(wav(WAVE))[1] == 8000  # which needs nothing


def test_a_folder_of_sounds_of_several_kinds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in ("high", "low"):
        (tmp_path / kind).mkdir()
        for number, name in enumerate(("a.flac", "b.ogg", "c.wav")):
            loud = TONE / 2**number
            (tmp_path / kind / name).write_bytes(wav(loud) if number == 2 else compressed(name[2:].upper(), loud))
    keys: dict[str, Any] = {"columns": {"signal": {"length": 2000, "rate": 4000}}}
    data = load_data(DataConfig(name=str(tmp_path), **keys), ("label",))
    assert (data.num_rows, data.spec.modality.shape, data.spec.modality.rate) == (6, (1, 2000), 4000)  # type: ignore[attr-defined]
    np.testing.assert_allclose(data.kept(range(6)).abs().amax((1, 2)), [0.5, 0.25, 0.125] * 2, rtol=0.1)
    assert data.conditions(range(6)).values["label"].tolist() == [0, 0, 0, 1, 1, 1]
    monkeypatch.setitem(sys.modules, "soundfile", None)
    with pytest.raises(DataError, match=r"4 of 6 rows can't be read: row 0 \(.*a.flac\): a FLAC file needs soundfile: pip"):
        load_data(DataConfig(name=str(tmp_path), **keys))


def test_length_and_rate_hold_for_other_data_and_for_what_is_asked_for(tmp_path: Path) -> None:
    """Longer sounds of another rate, read by a model's columns as evaluation reads them, and given by a person."""
    for name, values, rate in (("train", TONE[:, :3000], 8000), ("test", TONE, 16000)):
        (tmp_path / name).mkdir()
        for number in range(2):
            (tmp_path / name / f"{number}.wav").write_bytes(wav(values, rate=rate))
    keys: dict[str, Any] = {"name": str(tmp_path), "columns": {"signal": {"length": 2000, "rate": 4000}}}
    data = load_data(DataConfig(**keys))
    modality = data.spec.modality
    for columns in ({}, keys["columns"]):
        other = load_data(DataConfig(name=str(tmp_path), split="test", columns=columns), (), data.spec.model_data)
        assert other.spec.modality == modality
        assert other.kept(range(2)).shape == (2, 1, 2000)
    own = other.own([0])[0, 0].numpy()
    for path in (tmp_path / "test" / "0.wav", tmp_path / "0.flac"):
        path.write_bytes(path.read_bytes() if path.exists() else compressed("FLAC", TONE, 16000))
        np.testing.assert_allclose(modality.ask(str(path))[0], own, atol=1e-3)
    short = modality.ask(str(tmp_path / "train" / "0.wav"))
    assert short.shape == (1, 2000)
    assert not short[0, 1500:].any()  # 3,000 values at 8 kHz are 1,500 at 4 kHz
    message = "data.columns.signal: by length it is 1x1000, and the model's is 1x2000; leave length out"
    with pytest.raises(DataError, match=message):
        load_data(DataConfig(name=str(tmp_path), columns={"signal": {"length": 1000}}), (), data.spec.model_data)


def test_all_are_equally_loud(tmp_path: Path) -> None:
    """Each by its own loudest value, whichever way it is read; and silence stays silence."""
    (tmp_path / "train").mkdir()
    for number, values in enumerate((TONE, TONE / 4, -TONE / 100, 0 * TONE)):
        (tmp_path / "train" / f"{number}.wav").write_bytes(wav(values))
    keys: dict[str, Any] = {"columns": {"signal": {"length": 2000, "rate": 4000, "peak": 0.9}}}
    data = load_data(DataConfig(name=str(tmp_path), **keys))
    loudest = data.own(range(4)).abs().amax((1, 2))
    np.testing.assert_allclose(loudest, [0.9, 0.9, 0.9, 0.0], atol=1e-5)
    np.testing.assert_allclose(data.own([1]), data.own([0]), atol=2e-3)  # 16 bits of a quarter of the loudness
    modality = data.spec.modality
    np.testing.assert_allclose(np.abs(modality.ask(str(tmp_path / "train" / "2.wav"))).max(), 0.9, rtol=1e-5)
    arrays = np.stack([TONE[:, :2000], TONE[:, :2000] / 7]).astype(np.float32)
    np.testing.assert_allclose(np.abs(modality.read_all(arrays)).max((1, 2)), [0.9, 0.9], rtol=1e-5)
    assert modality.facts()["peak"] == 0.9


def test_a_sound_that_was_written_as_a_stream() -> None:
    content = wav(WAVE)
    at = content.index(b"data") + 4
    endless = content[:at] + struct.pack("<I", 0xFFFFFFFF) + content[at + 4 :]
    np.testing.assert_array_equal(read_sound(endless)[0], WAVE.astype(np.float32))


def test_what_is_learnt() -> None:
    sounds = [wav(WAVE), None, wav(WAVE / 2), b"damaged"]
    modality = learnt(sounds)
    values = np.concatenate([WAVE, WAVE / 2], 1)
    assert (modality.shape, modality.rate, modality.fitted) == ((2, 4), 8000, False)
    np.testing.assert_allclose(modality.mean, values.mean(1), atol=1e-7)
    np.testing.assert_allclose(modality.std, values.std(1), atol=1e-7)
    assert learnt([np.full((1, 9), 0.1), np.full((1, 9), 0.1)]).std == (1,)  # constant
    assert learnt([[0.5, 1.0, 2.0]]).shape == (1, 3)


def test_lengths() -> None:
    short, long = np.ones((1, 3)), np.ones((1, 7))
    said = learnt([short, long], length=5)
    assert said.read(short).tolist() == [[1, 1, 1, 0, 0]]
    assert said.read(long).tolist() == [[1, 1, 1, 1, 1]]
    unsaid = learnt([short])
    assert unsaid.read(long).shape == (1, 7)  # not made to fit: it is told
    assert unsaid.ask(long).shape == (1, 3)  # but a person's is


def test_rates() -> None:
    """A tone keeps its pitch; one that the new rate can't hold is filtered out."""
    seconds = np.arange(8000) / 8000
    low, high = (0.5 * np.sin(2 * np.pi * pitch * seconds)[None] for pitch in (100, 3500))
    modality = learnt([wav(low)], rate=4000)
    assert (modality.shape, modality.rate) == ((1, 4000), 4000)
    expected = 0.5 * np.sin(2 * np.pi * 100 * np.arange(4000) / 4000)
    assert np.abs(modality.read(wav(low))[0] - expected)[50:-50].max() < 5e-3
    assert np.abs(modality.read(wav(high))[0])[50:-50].max() < 5e-3
    assert learnt([np.zeros(4000)], rate=4000).rate == 4000  # said of arrays, which have none


def test_channels() -> None:
    mono = learnt([wav(WAVE[:1])])
    np.testing.assert_allclose(mono.read(wav(WAVE))[0], WAVE.mean(0), atol=1e-6)
    with pytest.raises(ValueError, match="has 1 channels, not 2"):
        learnt([wav(WAVE)]).read(wav(WAVE[:1]))


@settings(deadline=None)
@given(values=arrays.arrays(np.float32, (3, 2, 5), elements=st.floats(-1e4, 1e4, width=32)))
def test_signals_there_and_back(values: np.ndarray) -> None:
    modality = learnt(list(values))
    kept = torch.from_numpy(modality.read_all(values))
    assert torch.equal(kept, torch.from_numpy(np.stack([modality.read(value) for value in values])))
    again = modality.from_batch(modality.to_batch(kept))
    assert ((again - kept).abs() <= 1e-6 * kept.abs().amax((0, 2), keepdim=True).clamp(min=1e-30)).all()


@pytest.mark.parametrize(
    ("rate", "channels", "ending"), [(8000, 1, ".wav"), (8000, 2, ".wav"), (8000, 3, ".npy"), (None, 1, ".npy")]
)
def test_files(tmp_path: Path, rate: int | None, channels: int, ending: str) -> None:
    modality = Signal(shape=(channels, 9), mean=(0,) * channels, std=(1,) * channels, rate=rate)
    assert modality.file_ending == ending
    value = torch.linspace(-1, 1, channels * 9).reshape(channels, 9)
    path = tmp_path / f"x{ending}"
    modality.write_file(value, path)
    again = modality.read_file(path)
    assert (again - value).abs().max() <= (0 if modality.is_lossless else 1 / 32768)
    modality.write_file(again, path)
    assert torch.equal(modality.read_file(path), again)  # the values of a WAV stay as they are


def test_a_picture_shows_each_wave() -> None:
    modality = Signal(shape=(1, 400), mean=(0,), std=(1,), rate=8000)
    quiet, loud = torch.zeros(1, 1, 400), torch.sin(torch.arange(400.0)).reshape(1, 1, 400)
    both = modality.picture(torch.cat([quiet, loud]), ["quiet", "loud"])
    assert both.tobytes() != modality.picture(torch.cat([loud, quiet]), ["quiet", "loud"]).tobytes()
    assert both.height > modality.picture(torch.cat([quiet, loud])).height


def test_real_sounds(tmp_path: Path) -> None:
    """The sounds of a parquet file and of a folder alike."""
    keys = {"split": "test[:40]", "columns": {"audio": {"length": 4096, "rate": 8000}}}
    data = load_data(DataConfig(name=str(shared_data("spoken_digits")), **keys), ("label", "speaker"))
    assert (data.spec.modality.shape, data.num_rows, data.spec.conditions["label"].classes) == ((1, 4096), 40, 10)
    x = data.x(range(40))
    assert abs(x.mean()) < 1e-3
    assert abs(x.std() - 1) < 1e-2
    table = datasets.Dataset.from_parquet(str(shared_data("spoken_digits") / "test.parquet"))
    for number, row in enumerate(table.cast_column("audio", datasets.Audio(decode=False)).select(range(40))):
        (tmp_path / f"{number:02}.wav").write_bytes(row["audio"]["bytes"])
    folder = load_data(DataConfig(name=str(tmp_path), columns={"signal": {"length": 4096}}))
    assert folder.spec.modality == data.spec.modality
    assert torch.equal(folder.own(range(40)), data.own(range(40)))
    with pytest.raises(DataError, match=r"is 1x\d+ but row .* is 1x\d+; set data.columns.audio.length"):
        load_data(DataConfig(name=str(shared_data("spoken_digits")), split="test[:40]"))
