"""genhub.json: it vouches for every byte of a model folder."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from models import images

from genhub import CheckpointError
from genhub.errors import NewerFormat
from genhub.store.classes import describe_folder, read_model
from genhub.store.find import find_checkpoint
from genhub.store.manifest import MANIFEST, Manifest, PartEntry, PluginEntry, describe_files, read_json, read_manifest
from genhub.store.run_folder import RunFolder


def write(folder: Path, **changes: object) -> Manifest:
    """A checkpoint's folder with one file and its manifest."""
    (folder / "unet").mkdir(parents=True, exist_ok=True)
    (folder / "unet" / "weights.bin").write_bytes(bytes(range(256)))
    plugin = PluginEntry(name="ddpm", distribution="genhub-framework", version="0.1.0")
    config = {"name": "ddpm", "data": images().model_dump(mode="json")}
    manifest = Manifest(genhub="0.1.0", plugin=plugin, config=config, files=describe_files(folder), step=3)
    manifest = manifest.model_copy(update=changes).sealed()
    (folder / MANIFEST).write_text(json.dumps(manifest.model_dump(mode="json"), indent=2))
    return manifest


def test_what_is_sealed_reads_back_and_verifies(tmp_path: Path) -> None:
    manifest = write(tmp_path)
    assert read_manifest(tmp_path) == manifest
    manifest.verify(tmp_path)
    assert list(manifest.files) == ["unet/weights.bin"]


@given(position=st.integers(0, 10_000), bit=st.integers(0, 7))
def test_a_flipped_bit_is_found_or_changes_nothing(
    tmp_path_factory: pytest.TempPathFactory, position: int, bit: int
) -> None:
    folder = tmp_path_factory.getbasetemp() / "flipped"
    manifest = write(folder)
    content = bytearray((folder / MANIFEST).read_bytes())
    content[position % len(content)] ^= 1 << bit
    (folder / MANIFEST).write_bytes(content)
    with contextlib.suppress(CheckpointError):
        assert read_manifest(folder) == manifest


@given(length=st.integers(0, 10_000))
def test_a_truncated_manifest_is_found(tmp_path_factory: pytest.TempPathFactory, length: int) -> None:
    folder = tmp_path_factory.getbasetemp() / "truncated"
    write(folder)
    content = (folder / MANIFEST).read_bytes()
    (folder / MANIFEST).write_bytes(content[: length % len(content)])
    with pytest.raises(CheckpointError, match="damaged"):
        read_manifest(folder)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(key=st.sampled_from([*Manifest.model_fields, "surprise"]), value=json_values)
def test_any_json_in_any_place_is_answered(tmp_path_factory: pytest.TempPathFactory, key: str, value: object) -> None:
    folder = tmp_path_factory.getbasetemp() / "any"
    write(folder)
    content = json.loads((folder / MANIFEST).read_text()) | {key: value}
    (folder / MANIFEST).write_text(json.dumps(content))
    with contextlib.suppress(CheckpointError):
        read_manifest(folder)


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"3", b"{", b"\xff\xfe", b"[" * 100_000, b"9" * 10_000, b'{"a": "\\ud800"}']
)
def test_files_that_are_no_manifest(tmp_path: Path, content: bytes) -> None:
    (tmp_path / MANIFEST).write_bytes(content)
    with pytest.raises(CheckpointError, match=MANIFEST):
        read_manifest(tmp_path)


def test_a_damaged_or_missing_file_is_named(tmp_path: Path) -> None:
    manifest = write(tmp_path)
    weights = tmp_path / "unet" / "weights.bin"
    weights.write_bytes(bytes(256))
    with pytest.raises(CheckpointError, match=r"unet/weights.bin: damaged"):
        manifest.verify(tmp_path)
    weights.write_bytes(bytes(3))
    with pytest.raises(CheckpointError, match=r"unet/weights.bin: damaged"):
        manifest.verify(tmp_path)
    weights.unlink()
    with pytest.raises(CheckpointError, match=r"unet/weights.bin: missing"):
        manifest.verify(tmp_path)


def test_a_newer_format_says_which_genhub_reads_it(tmp_path: Path) -> None:
    write(tmp_path, format=3, genhub="7.1.0")
    with pytest.raises(CheckpointError, match="format 3 needs genhub >= 7.1.0"):
        read_manifest(tmp_path)


def test_json_has_a_bounded_size(tmp_path: Path) -> None:
    with (tmp_path / "big.json").open("wb") as stream:
        stream.truncate(2**30)
    with pytest.raises(CheckpointError, match="larger than"):
        read_json(tmp_path / "big.json")


def test_an_unknown_plugin_is_named_with_its_distribution(tmp_path: Path) -> None:
    write(tmp_path, plugin=PluginEntry(name="mixer", distribution="mixer-models", version="0.4"))
    with pytest.raises(CheckpointError, match=r"needs 'mixer' from mixer-models 0.4: pip install mixer-models$"):
        read_model(tmp_path)


@pytest.mark.parametrize(
    ("kind", "name", "distribution", "message"),
    [("network", "mamba", "genhub-mamba", "needs network 'mamba' from genhub-mamba 2.0: pip install genhub-mamba$"),
     ("modality", "volume", "volumes", "needs modality 'volume' from volumes 2.0: pip install volumes$"),
     ("scheduler", "edm", "schedules", "needs scheduler 'edm' from schedules 2.0: pip install schedules$"),
     ("modality", "intruder:Volume", "", "needs modality 'intruder:Volume' from its author's own code; import intruder first$"),
     ("kindless", "x", "others", "needs kindless 'x' from others 2.0: pip install others$")],
)  # fmt: skip
def test_a_part_that_is_not_installed_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, name: str, distribution: str, message: str
) -> None:
    (tmp_path / "intruder.py").write_text("raise SystemExit('ran')")
    monkeypatch.syspath_prepend(tmp_path)
    write(tmp_path, parts=(PartEntry(kind=kind, name=name, distribution=distribution, version="2.0"),))
    with pytest.raises(CheckpointError, match=message):
        read_model(tmp_path)


def test_every_part_is_listed(tmp_path: Path) -> None:
    import torch
    from genhub_ddpm import DDPM

    torch.manual_seed(0)
    network = {"name": "unet", "block_out_channels": [8, 16], "add_attention": False}
    given = {"conditions": ["label"], "data": images(classes=3)}
    DDPM(DDPM.Config.model_validate({"name": "ddpm", "network": network, **given})).save_pretrained(tmp_path)
    parts = read_manifest(tmp_path).parts
    kinds = {(part.kind, part.name) for part in parts}
    assert kinds >= {
        ("model", "ddpm"),
        ("network", "unet"),
        ("modality", "image"),
        ("modality", "label"),
        ("scheduler", "ddim"),
    }
    assert {part.distribution for part in parts} == {"genhub-framework"}
    assert len(set(parts)) == len(parts)


def test_a_checkpoint_imports_nothing_that_is_not_registered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "intruder.py").write_text("raise SystemExit('ran')")
    monkeypatch.syspath_prepend(tmp_path)
    write(tmp_path, plugin=PluginEntry(name="intruder:Model", distribution="", version=""))
    with pytest.raises(CheckpointError, match="'intruder:Model' from your own code"):
        read_model(tmp_path)


def test_a_config_that_the_plugin_refuses(tmp_path: Path) -> None:
    write(tmp_path, config={"name": "ddpm", "network": {"name": "unet", "block_out_channels": "wide"}})
    with pytest.raises(CheckpointError, match=r"config: network.block_out_channels: "):
        read_model(tmp_path)


def test_a_runs_newest_whole_checkpoint_is_found(tmp_path: Path) -> None:
    folders = [tmp_path / "checkpoints" / f"step-{step:06d}" for step in (5, 10, 1_000_000)]
    for folder in folders:
        write(folder, step=int(folder.name[5:]))
    for leftover in (".step-000020.tmp", "step-x", "step-²", "other"):
        (tmp_path / "checkpoints" / leftover).mkdir()
    assert RunFolder(tmp_path).checkpoints() == folders[::-1]
    (folders[2] / "unet" / "weights.bin").unlink()
    assert find_checkpoint(tmp_path) == folders[1]
    newest, faults = RunFolder(tmp_path).newest_whole()
    assert newest == folders[1]
    assert len(faults) == 1
    assert "step-1000000" in faults[0]
    write(folders[1], step=9)
    assert RunFolder(tmp_path).newest_whole()[0] == folders[0]
    assert "step-000010: holds step 9" in RunFolder(tmp_path).newest_whole()[1][1]
    write(folders[1], format=3, genhub="7.1.0", step=10)
    with pytest.raises(NewerFormat, match=r"needs genhub >= 7.1.0"):  # nothing is wrong with it: going back would lose it
        RunFolder(tmp_path).newest_whole()
    for folder in folders:
        (folder / MANIFEST).write_text("{}")
    with pytest.raises(CheckpointError, match=r"no checkpoint is whole: .*step-1000000.*step-000010.*step-000005"):
        find_checkpoint(tmp_path)


def test_paths_that_hold_no_model(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert RunFolder(tmp_path).newest_whole() == (None, [])
    for path, message in [(tmp_path / "nowhere", "no such folder"), (tmp_path, "neither a run"),
                          (tmp_path / "file", "neither a run"), (tmp_path / ("x" * 5000), "too long")]:  # fmt: skip
        with pytest.raises(CheckpointError, match=message):
            find_checkpoint(path)


@pytest.mark.parametrize(
    "config",
    [{}, {"sample_size": "big"}, {"sample_size": [1]}, {"sample_size": 8, "block_out_channels": 3}, {"sample_size": 8, "in_channels": None}],
)  # fmt: skip
def test_a_foreign_folder_with_any_json_is_answered(tmp_path: Path, config: dict[str, object]) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"_class_name": "UNet2DModel"} | config))
    with pytest.raises(CheckpointError):
        read_model(find_checkpoint(tmp_path))


def test_what_info_prints(tmp_path: Path) -> None:
    write(tmp_path)
    header = json.dumps({"w": {"dtype": "F32", "shape": [3, 4], "data_offsets": [0, 48]}, "__metadata__": {}}).encode()
    tensors = len(header).to_bytes(8, "little") + header + bytes(48)
    (tmp_path / "model.safetensors").write_bytes(tensors)
    (tmp_path / "trainer").mkdir()
    (tmp_path / "trainer" / "model.safetensors").write_bytes(tensors)
    facts = describe_folder(tmp_path)
    assert facts["parameters"] == 12
    assert facts["step"] == 3
    assert facts["plugin"]["name"] == "ddpm"
    assert facts["draws"]["image"].items() >= {"modality": "image", "shape": [1, 8, 8]}.items()
    assert facts["can be told"] == {}
    assert "checksum" not in facts
    (tmp_path / "model.safetensors").write_bytes(b"\xff" * 100)
    with pytest.raises(CheckpointError, match=r"model.safetensors: damaged"):
        describe_folder(tmp_path)
