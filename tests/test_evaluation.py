"""`genhub evaluate` and what it stores: on small models and scikit-learn's digits."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import genhub
from genhub.cli import app
from genhub.data.open import load_data
from genhub.evaluation.extractors import as_rgb, resized
from genhub.evaluation.probe import Probe
from genhub.evaluation.protocol import read_evaluation, stored_evaluations
from genhub.interfaces.columns import DataConfig
from genhub.interfaces.registry import EXTRACTORS, METRICS, load_class, plugin_names
from genhub.sampling.draw import read_part


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory) -> Path:
    """One cache for the module: the probe is trained once."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GENHUB_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> dict[str, Path]:
    """Small trained models, by name."""
    folder = tmp_path_factory.mktemp("runs")
    networks = {"generator": {"channels": [8, 8]}, "discriminator": {"channels": [8, 8]}}
    settings = {"vae": {"channels": [8]}, "cgan": {"conditions": ["label"], **networks}}
    found = {}
    for name, options in settings.items():
        recipe = {"model": {"name": name, **options}, "data": {"split": "train[:80%]"},
                  "trainer": {"max_steps": 30, "log_every": 10, "sample_every": None, "trackers": []}}  # fmt: skip
        genhub.train(recipe, run_dir=str(folder / name))
        found[name] = folder / name
    return found


@pytest.mark.slow
def test_every_metric_that_applies_and_its_protocol(runs):
    names = set(plugin_names(METRICS)) - {"label_accuracy", "condition_error", "sliced_wasserstein"}
    found = genhub.evaluate(runs["vae"], 300, held_out="train[80%:]", metrics=sorted(names))
    values = found.values
    assert values["frechet_distance"] > 0
    assert 0 <= values["precision"] <= 1
    assert 0 <= values["coverage"] <= 1
    assert 1 <= values["label_entropy"] <= 10
    assert values["memorised"] == 0
    assert 0 < values["reconstruction_mse"] < 0.25
    assert 1 < values["bits_per_dimension"] < 12
    assert values["network_evaluations"] == 1
    assert values["parameters"] == sum(p.numel() for p in genhub.load(runs["vae"]).parameters())
    protocol = found.protocol
    assert protocol.reference.num_rows == 1438
    assert protocol.held_out.num_rows == 359
    assert (protocol.n, protocol.seed, len(protocol.extractor_hash)) == (300, 0, 64)
    assert "trained on digits's labels" in protocol.extractor
    assert protocol.reader == protocol.extractor_hash
    assert any("300 rows are few" in note for note in found.notes)
    stored = stored_evaluations(runs["vae"] / "checkpoints" / "step-000030")
    assert stored[-1].values == values


def test_the_same_figures_again_without_drawing_again(runs):
    first = genhub.evaluate(runs["vae"], 600, metrics=["frechet_distance"], extractor="pixels")
    parts = sorted((runs["vae"] / "evaluations" / first.drawn).glob("part-*"))
    assert len(parts) == 2
    times = [part.stat().st_mtime_ns for part in parts]
    parts[1].unlink()  # as if the drawing had been stopped there
    again = genhub.evaluate(runs["vae"], 600, metrics=["frechet_distance"], extractor="pixels", batch_size=70)
    assert again.values == pytest.approx(first.values, rel=1e-3)
    assert parts[0].stat().st_mtime_ns == times[0]
    drawn = read_part(parts[0])[:80].int()
    assert (drawn - genhub.sample(runs["vae"], 80).int()).abs().max() <= 1


@pytest.mark.slow
def test_a_conditional_model_is_asked_for_every_label(runs, capsys):
    words = ["-n", "200", "--metrics", "label_accuracy,cost", "--condition", "label=3,4", "--json"]
    command = ["evaluate", str(runs["cgan"]), *words]
    with pytest.raises(SystemExit) as stopped:
        app(command)
    assert stopped.value.code == 0
    said = capsys.readouterr().out
    facts = json.loads(said)
    assert 0 <= facts["values"]["label_accuracy"] <= 1
    assert facts["protocol"]["conditions"] == {"label": ["3", "4"]}
    file = next((runs["cgan"] / "evaluations").glob("step-*.json"))
    genhub.evaluate(runs["cgan"], 200, metrics=["frechet_distance"], conditions={"label": [3, 4]})
    merged = read_evaluation(file)
    assert {"label_accuracy", "frechet_distance", "parameters"} <= merged.values.keys()


def test_what_does_not_apply_is_said(runs):
    with pytest.raises(genhub.InputError, match="metric 'label_accuracy': the model draws without labels"):
        genhub.evaluate(runs["vae"], 10, metrics=["label_accuracy"])
    with pytest.raises(genhub.InputError, match="'memorised': needs rows that were not trained on: .*no split 'test'"):
        genhub.evaluate(runs["vae"], 10, metrics=["memorised"])
    with pytest.raises(genhub.InputError, match="metric 'reconstruction': the model is no Autoencoder"):
        genhub.evaluate(runs["cgan"], 10, metrics=["reconstruction"])
    with pytest.raises(genhub.InputError, match="'precision_recall': needs 4 drawn rows or more, not 3"):
        genhub.evaluate(runs["vae"], 3, metrics=["precision_recall"], extractor="pixels")
    with pytest.raises(genhub.InputError, match="'density_coverage': needs 6 real rows or more, not 5"):
        genhub.evaluate(runs["vae"], 9, metrics=["density_coverage"], extractor="pixels", overrides=["data.split=train[:5]"])
    with pytest.raises(genhub.InputError, match="-n: a figure needs 2 rows or more, not 1"):
        genhub.evaluate(runs["vae"], 1, metrics=["cost"])
    with pytest.raises(genhub.InputError, match="did you mean 'cost'"):
        genhub.evaluate(runs["vae"], 10, metrics=["costs"])
    with pytest.raises(genhub.PluginError, match="no extractor is called 'dinov3'; did you mean 'dinov2'"):
        genhub.evaluate(runs["vae"], 10, metrics=["frechet_distance"], extractor="dinov3")
    with pytest.raises(genhub.RecipeError, match="data.nme: unknown key; did you mean 'name'"):
        genhub.evaluate(runs["vae"], 10, overrides=["data.nme=digits"])
    with pytest.raises(genhub.InputError, match="'inception' needs torch-fidelity"):
        genhub.evaluate(runs["vae"], 10, metrics=["frechet_distance"], extractor="inception:x.safetensors")


def test_other_data_than_it_was_trained_on_is_noted(runs):
    found = genhub.evaluate(
        runs["vae"], 50, metrics=["frechet_distance"], extractor="pixels", overrides=["data.split=train"]
    )
    assert "the real rows are not those that the model was trained on" in found.notes
    assert found.protocol.reference.num_rows == 1797


@pytest.mark.slow
def test_the_probe_reads_digits_and_is_kept(cache):
    data = load_data(DataConfig(split="train[:80%]"))  # which other tests have it trained on
    probe = Probe(data, None, torch.device("cpu"))
    assert probe.accuracy > 0.97
    (kept,) = (cache / "probes").glob("*.safetensors")
    written = kept.stat().st_mtime_ns
    again = Probe(data, None, torch.device("cpu"))
    assert kept.stat().st_mtime_ns == written
    assert again.fingerprint == probe.fingerprint
    images = data.own(range(100))
    assert probe.features(images).shape == (100, 128)
    alone = torch.cat([again.features(images[i : i + 1]) for i in range(5)])
    assert torch.allclose(alone, probe.features(images)[:5], atol=1e-5)
    assert (probe.probabilities(images).argmax(1) == data.labels.kept(range(100))).float().mean() > 0.97


def test_resizing_is_pillows():
    from PIL import Image

    image = (torch.rand(3, 40, 40, generator=torch.Generator().manual_seed(0)) * 255).to(torch.uint8)
    for side in (16, 224):
        ours = (resized(image[None], side)[0] * 255).round().to(torch.uint8)
        pillows = np.asarray(Image.fromarray(image.permute(1, 2, 0).numpy()).resize((side, side), Image.Resampling.BICUBIC))
        difference = np.abs(ours.permute(1, 2, 0).numpy().astype(int) - pillows.astype(int))
        assert difference.max() <= 1
    assert as_rgb(image[:1][None]).shape == (1, 3, 40, 40)


@pytest.mark.slow
def test_two_processes_draw_and_extract_together(runs, tmp_path):
    """The same images to the bit, and the same figures; said and written once."""
    alone = genhub.evaluate(runs["vae"], 520, metrics=["kernel_distance"], extractor="pixels", seed=5)
    shutil.copytree(runs["vae"], tmp_path / "run", ignore=shutil.ignore_patterns("evaluations"))
    command = [sys.executable, "-m", "genhub", "evaluate", "run", "-n", "520", "--metrics", "kernel_distance", "--extractor", "pixels",
               "--seed", "5", "--num-processes", "2", "--json"]  # fmt: skip
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    together = json.loads(done.stdout)
    assert together["values"] == pytest.approx(alone.values, rel=1e-6)
    assert together["protocol"] == alone.protocol.model_dump(mode="json")
    ours, theirs = (sorted((run / "evaluations" / alone.drawn).iterdir()) for run in (tmp_path / "run", runs["vae"]))
    assert [file.read_bytes() for file in ours] == [file.read_bytes() for file in theirs]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["dinov2", "clip"])
def test_networks_of_transformers_from_a_folder(runs, tmp_path, name):
    """Tiny ones with random weights."""
    import transformers

    torch.manual_seed(0)
    small = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    if name == "dinov2":
        network = transformers.Dinov2Model(transformers.Dinov2Config(**small, patch_size=14, image_size=56))
    else:
        config = transformers.CLIPVisionConfig(
            **small, intermediate_size=48, patch_size=32, image_size=224, projection_dim=16
        )
        network = transformers.CLIPVisionModelWithProjection(config)
    network.save_pretrained(tmp_path / "network")
    extractor = load_class(EXTRACTORS, name)(load_data(DataConfig()), str(tmp_path / "network"), torch.device("cpu"))
    images = genhub.sample(runs["vae"], 5)
    features = extractor.features(images)
    assert features.shape == (5, 24 if name == "dinov2" else 16)
    assert torch.allclose(extractor.features(images[2:3]), features[2:3], atol=1e-5)
    shown = (resized(as_rgb(images), 224) - torch.tensor(extractor.mean).view(3, 1, 1)) / torch.tensor(extractor.std).view(
        3, 1, 1
    )
    with torch.inference_mode():
        outputs = network.eval()(pixel_values=shown)
    theirs = outputs.last_hidden_state[:, 0] if name == "dinov2" else outputs.image_embeds
    assert torch.allclose(features, theirs, atol=1e-5)
    found = genhub.evaluate(
        runs["vae"],
        20,
        overrides=["data.split=train[:100]"],
        metrics=["frechet_distance"],
        extractor=f"{name}:{tmp_path / 'network'}",
    )
    assert found.values["frechet_distance"] > 0
    assert "224x224 bicubic antialiased" in found.protocol.preprocessing
    with pytest.raises(genhub.InputError, match="no weights from .*nothing .*`probe` and `pixels` need no download"):
        genhub.evaluate(runs["vae"], 20, metrics=["frechet_distance"], extractor=f"{name}:{tmp_path / 'nothing'}")
