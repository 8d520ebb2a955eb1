"""Frozen encoders of texts: read from transformers' folders, kept with a model, run once a text. They are tiny and random."""

from __future__ import annotations

import json
import shutil
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from encoders import LONGEST, encoder

import genhub
from genhub import CheckpointError, DataError, Text
from genhub.data.encoded import with_encoders
from genhub.modalities import encoders
from genhub.modalities.encoders import TextEncoder
from genhub.run.prepare import prepare

TEMPLATES = ["a {}", "the digit {}"]


def recipe(encoder: Path, **model: Any) -> dict[str, Any]:
    network = {"name": "dit", "hidden_size": 8, "depth": 1, "num_heads": 2, "patch_size": 4}
    caption = {"from": "label", "templates": TEMPLATES, "encoder": str(encoder)}
    return {
        "model": {"name": "ddpm", "conditions": ["caption"], "network": network, "sampling": {"num_inference_steps": 2}}
        | model,
        "data": {"name": "digits", "split": "train[:60]", "batch_size": 8, "columns": {"caption": caption}},
        "trainer": {"max_steps": 4, "save_every": 2, "sample_every": None, "trackers": [], "log_every": 2},
    }


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GENHUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(encoders, "OPENED", {})
    return tmp_path / "cache"


# Read


@pytest.mark.parametrize("kind", ["clip", "whole clip", "t5", "bert"])
def test_tokens_are_those_of_transformers(kind: str, tmp_path: Path) -> None:
    import transformers

    found = TextEncoder.of_transformers(encoder(kind, tmp_path / "e"))
    cls = getattr(transformers, found.network_class)
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_file=str(tmp_path / "e/tokenizer.json"), pad_token="<pad>")
    inputs = tokenizer(["a three", "the digit cat nine"], padding=True, return_tensors="pt")
    inputs.pop("token_type_ids", None)
    with torch.no_grad():
        wanted = cls.from_pretrained(tmp_path / "e").eval()(**inputs).last_hidden_state
    made = found.together(["a three", "the digit cat nine"], 7, torch.device("cpu"))
    assert made.shape == (2, 7, 16)
    assert (found.width, found.longest) == (16, 512 if kind == "t5" else LONGEST)
    torch.testing.assert_close(made[1, :6], wanted[1])
    torch.testing.assert_close(made[0, :4], wanted[0, :4], atol=1e-5, rtol=1e-4)
    assert not made[0, 4:].any()
    assert not made[1, 6:].any()


def test_what_is_kept_is_the_same_and_needs_nothing_else(tmp_path: Path) -> None:
    found = TextEncoder.of_transformers(encoder("whole clip", tmp_path / "e"))
    found.save(tmp_path / "kept")
    shutil.rmtree(tmp_path / "e")
    assert sorted(file.name for file in (tmp_path / "kept").iterdir()) == [
        "config.json",
        "model.safetensors",
        "tokenizer.json",
    ]
    again = TextEncoder.read(tmp_path / "kept")
    assert again.digest == found.digest
    one, other = (each.together(["a cat"], 4, torch.device("cpu")) for each in (found, again))
    assert torch.equal(one, other)
    assert not any("vision" in name for name in again.tensors)


def damaged(folder: Path, how: str) -> Path:
    encoder("bert", folder)
    config = json.loads((folder / "config.json").read_text())
    match how:
        case "slow":
            (folder / "tokenizer.json").unlink()
        case "pickle":
            (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
        case "vision":
            (folder / "config.json").write_text(json.dumps(config | {"model_type": "vit"}))
        case "deeper":
            (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 3}))
        case "cut":
            (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:-100])
    return folder


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("slow", "{} has no tokenizer.json (a slow tokenizer; AutoTokenizer's save_pretrained writes a fast one)"),
        ("pickle", "{} has no model.safetensors; its weights are a pickle (pytorch_model.bin), which can run code when opened; "
                   "genhub reads safetensors only"),
        ("vision", "a network of type 'vit' is none that encodes texts here; known: albert, bert, camembert, "),
        ("deeper", "{}: BertModel misses 16 of its weights, such as encoder.layer.2"),
        ("cut", "{}: transformers can't read it: "),
    ],
)  # fmt: skip
def test_what_is_no_encoder_is_one_line(how: str, message: str, tmp_path: Path) -> None:
    folder = damaged(tmp_path / "e", how)
    with pytest.raises(DataError) as caught:
        prepare(genhub.read_recipe(recipe(folder)))
    assert str(caught.value).startswith(f"data.columns.caption: encoder: {message.format(folder)}")
    assert "\n" not in str(caught.value)


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    encoder("bert", tmp_path / "encoder")
    with pytest.raises(
        DataError, match=f"^data.columns.caption: no such folder: {tmp_path}/encodr; did you mean '{tmp_path}/encoder'?"
    ):
        prepare(genhub.read_recipe(recipe(tmp_path / "encodr")))


# Trained, kept, drawn from


@pytest.mark.parametrize("kind", ["clip", pytest.param("t5", marks=pytest.mark.slow)])
def test_a_run_goes_on_and_its_folder_stands_alone(
    kind: str, tmp_path: Path, cache: Path, monkeypatch: Any, capsys: Any
) -> None:
    folder = encoder(kind, tmp_path / "e")
    whole = genhub.train(recipe(folder), run_dir=str(tmp_path / "whole"))
    assert f"Encoded  computing 20 values of caption in {cache}" in capsys.readouterr().out
    genhub.train(recipe(folder), ["trainer.max_steps=2"], run_dir=str(tmp_path / "parts"))
    shutil.rmtree(folder)  # what goes on needs it no more
    monkeypatch.setattr(encoders, "OPENED", {})
    parts = genhub.train(recipe(folder), run_dir=str(tmp_path / "parts"))
    assert "Encoded  found 20 values of caption" in capsys.readouterr().out
    for name in sorted(file.relative_to(whole) for file in whole.rglob("*.safetensors")):
        assert (whole / name).read_bytes() == (parts / name).read_bytes(), name

    (kept,) = (whole / "encoders").iterdir()
    first, second = (file / "encoders" / kept.name / "model.safetensors" for file in sorted(whole.parent.iterdir()))
    assert first.samefile(second)  # once a run
    described = json.loads((whole / "genhub.json").read_text())
    assert f"encoders/{kept.name}/model.safetensors" in described["files"]
    stored = described["config"]["data"]["conditions"]["caption"]["encoded_by"]
    assert stored["name"] == "e"
    assert (stored["width"], stored["length"]) == (16, 5)
    assert str(tmp_path) not in (whole / "genhub.json").read_text()

    moved = tmp_path / "elsewhere"
    shutil.copytree(whole, moved)
    shutil.rmtree(tmp_path / "whole")
    asked = {"caption": ["a 3", "the digit 7"]}
    drawn = genhub.sample(parts, 4, seed=1, conditions=asked)
    monkeypatch.setattr(encoders, "OPENED", {})
    model = genhub.load(moved)
    assert torch.equal(genhub.sample(model, 4, seed=1, conditions=asked), drawn)
    model.save_pretrained(tmp_path / "saved")
    monkeypatch.setattr(encoders, "OPENED", {})
    assert torch.equal(genhub.sample(tmp_path / "saved", 4, seed=1, conditions=asked), drawn)


def test_what_was_computed_before_is_what_is_computed_now(tmp_path: Path) -> None:
    """A batch has what the encoder made of its texts, whichever form a row's text has; a model makes the same of the texts."""
    made = prepare(genhub.read_recipe(recipe(encoder("clip", tmp_path / "e"))))
    data = with_encoders(made.model, made.data)
    (batch,) = islice(data.batches(seed=0), 1)
    conditions = batch.conditions
    assert conditions.cached["caption"].shape == (8, 5, 16)
    now = genhub.Conditions(conditions.values, conditions.present)
    one, other = made.model.conditioner(conditions), made.model.conditioner(now)
    torch.testing.assert_close(one.sequence, other.sequence, atol=1e-5, rtol=1e-4)
    assert torch.equal(one.mask, other.mask)
    none = conditions.without(torch.ones(8, dtype=torch.bool))
    assert torch.equal(made.model.conditioner(none).sequence[0, 0], made.model.conditioner(none).sequence[7, 0])


def test_it_is_run_once_a_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = prepare(genhub.read_recipe(recipe(encoder("clip", tmp_path / "e"))))
    seen: list[str] = []
    together = TextEncoder.together
    monkeypatch.setattr(
        TextEncoder, "together", lambda self, texts, *rest: (seen.extend(texts), together(self, texts, *rest))[1]
    )
    for _ in range(2):
        genhub.sample(made.model, 6, conditions={"caption": ["a 3", "a 4"]})
    assert sorted(seen) == ["a 3", "a 4"]
    data = with_encoders(made.model, made.data)
    list(islice(data.batches(seed=0), 20))
    assert len(seen) == 2 + 32  # all 20 in one group, filled up


def test_longer_texts_are_cut_with_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = prepare(genhub.read_recipe(recipe(encoder("clip", tmp_path / "e"))))
    genhub.sample(made.model, 1, conditions={"caption": "3 4 5 6"})
    assert "a text is cut to 5 tokens, the most in the training data: 3 4 5 6" in capsys.readouterr().err


def test_an_encoder_that_was_exchanged_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = prepare(genhub.read_recipe(recipe(encoder("clip", tmp_path / "e"))))
    made.model.save_pretrained(tmp_path / "m")
    (kept,) = (tmp_path / "m/encoders").iterdir()
    other = TextEncoder.of_transformers(encoder("clip", tmp_path / "other", seed=1))
    shutil.rmtree(kept)
    other.save(kept)
    monkeypatch.setattr(encoders, "OPENED", {})
    with pytest.raises(CheckpointError, match="damaged|holds another encoder"):
        genhub.load(tmp_path / "m")
    modality = made.model.conditions["caption"]
    assert isinstance(modality, Text)
    with pytest.raises(CheckpointError, match="holds another encoder than the one that the model was trained with"):
        modality.open_encoder(tmp_path / "m/encoders")


def test_half_the_precision(tmp_path: Path) -> None:
    made = prepare(genhub.read_recipe(recipe(encoder("clip", tmp_path / "e"))))
    made.model.save_pretrained(tmp_path / "m")
    model = genhub.load(tmp_path / "m", dtype="bfloat16")
    assert genhub.sample(model, 2, conditions={"caption": ["a 3", "a 4"]}).shape == (2, 1, 8, 8)


def test_a_config_that_no_network_can_be_built_from_is_one_line(tmp_path: Path) -> None:
    """Whatever a stranger's config says; and no kernel that it names is fetched."""
    found = TextEncoder.of_transformers(encoder("bert", tmp_path / "e"))
    for changes in ({"model_type": "vit"}, {"num_hidden_layers": 3}, {"num_hidden_layers": 10**6}, {"hidden_size": "x"}):
        other = TextEncoder(found.config | changes, found.tensors, b"{}")
        with pytest.raises(CheckpointError, match="^the encoder of a condition") as caught:
            _ = other.network
        assert "\n" not in str(caught.value)
        with pytest.raises(CheckpointError, match="^the encoder of a condition can't be built from its config: "):
            _ = other.tokenizer
    kernel = TextEncoder(
        found.config | {"attn_implementation": "eve/kernel", "_attn_implementation": "eve/kernel"}, found.tensors, b""
    )
    assert kernel.network.config._attn_implementation == "sdpa"


# On the Hub


@pytest.mark.slow
def test_an_encoder_on_the_hub(hub: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is known by its commit, fetched as safetensors, and goes along in a push; whoever loads that fetches nothing else."""
    folder = encoder("clip", tmp_path / "e")
    commit = hub.add("eve/clip", {file.name: file.read_bytes() for file in folder.iterdir()} | {"pytorch_model.bin": b"no"})
    made = prepare(genhub.read_recipe(recipe(Path("eve/clip"))))
    modality = made.model.conditions["caption"]
    assert isinstance(modality, Text)
    assert modality.encoded_by is not None
    assert (modality.encoded_by.name, modality.encoded_by.commit) == ("eve/clip", commit)
    assert hub.asked("GET", "pytorch_model.bin") == 0

    asked = {"caption": "the digit 7"}
    drawn = genhub.sample(made.model, 2, conditions=asked)
    made.model.push_to_hub("alice/told")
    del hub.repos["eve/clip"]
    monkeypatch.setattr(encoders, "OPENED", {})
    assert torch.equal(genhub.sample("alice/told", 2, conditions=asked), drawn)
    with pytest.raises(genhub.HubError, match="^eve/gone: no such folder, and no such model on the Hub"):
        prepare(genhub.read_recipe(recipe(Path("eve/gone"))))
