"""The public names, pinned: adding one is a decision, and removing one breaks somebody."""

from __future__ import annotations

import inspect
import operator
import subprocess
import sys
from pathlib import Path

import pytest

import genhub

PUBLIC = [
    "AnyNetwork", "Autoencoder", "Batch", "CheckpointError", "Choice", "Comparison", "ConditionEncoder", "Conditioner",
    "Conditions", "ContainedModel", "DataConfig", "DataError",
    "DataSpec", "Denoiser", "DenoisingStep", "DiscreteAutoencoder", "Drawn", "Embedding", "Energy", "Evaluation", "Film", "Fraction", "FrozenEncoder",
    "GenerativeModel",
    "Generators", "GenhubError", "Given", "HubError", "HubUnavailable", "Image", "InputError", "Interrupted", "Interval", "Label",
    "Likelihood", "Line", "MAY_CHANGE", "Means", "MeasuredModel", "Metric", "Modality", "Model", "ModelConfig", "ModelData",
    "ModelPath", "Network", "NetworkConfig", "NetworkedConfig", "NewerFormat", "NonNegative", "NotFinite", "Number", "Phase", "PictureRow",
    "PluginError", "PositiveInt", "Ranking", "RawColumn", "Recipe", "RecipeError", "Run", "RunLog", "Scheduler", "SchedulerName",
    "Section", "Shape", "Share", "Signal", "Slider", "StoppedRun", "StoredModel", "Text", "Together", "Trainer",
    "TrainerConfig", "TrainerState", "TrainingData", "TrainingError", "Unreadable", "Upload", "Vector", "View", "ViewSubject",
    "bench", "check_contained", "compare", "did_you_mean", "evaluate", "folded", "grid", "guidance_at", "guided", "load", "load_data", "load_scheduler", "load_strictly",
    "network_for", "patch_for", "push_to_hub", "randn", "read_json", "read_recipe", "sample", "save_tensors", "scheduler_names",
    "seed_for", "show", "table", "train", "unfolded", "unused_guidance",
]  # fmt: skip

DOCS = Path(__file__).parents[1] / "docs"

# What classes of third parties derive from, call or are called by.
SIGNATURES = {
    "Phase": "(name: 'str', loss: 'Callable[[Batch], Mapping[str, Tensor]]', trains: 'tuple[str, ...]', interval: 'int' = 1, ema: 'bool' = True) -> None",
    "GenerativeModel": "(config: 'ModelConfig') -> 'None'",
    "FrozenEncoder": "(encode: 'Callable[[Tensor], Tensor]', networks: 'nn.Module', config: 'str' = '') -> None",
    "GenerativeModel.frozen_encoder": "(self) -> 'FrozenEncoder | None'",
    "GenerativeModel.phases": "(self) -> 'Sequence[Phase]'",
    "GenerativeModel.sample": "(self, n: 'int', *args: 'Any', **options: 'Any') -> 'Tensor'",  # *args: a model may name any options
    "GenerativeModel.forward": "(self, batch: 'Batch', phase: 'str') -> 'Mapping[str, Tensor]'",
    "GenerativeModel.save_networks": "(self, path: 'Path') -> 'None'",
    "GenerativeModel.load_networks": "(self, path: 'Path') -> 'None'",
    "GenerativeModel.config_from_foreign": "(path: 'Path') -> 'ModelConfig'",
    "GenerativeModel.save_pretrained": "(self, path: 'str | Path') -> 'None'",
    "GenerativeModel.from_pretrained": "(path: 'str | Path', **options: 'Any') -> 'Self'",
    "Autoencoder.encode": "(self, x: 'Tensor', conditions: 'Conditions | None' = None) -> 'Tensor'",
    "Autoencoder.decode": "(self, latents: 'Tensor', conditions: 'Conditions | None' = None) -> 'Tensor'",
    "DiscreteAutoencoder.encode_codes": "(self, x: 'Tensor', conditions: 'Conditions | None' = None) -> 'Tensor'",
    "DiscreteAutoencoder.decode_codes": "(self, codes: 'Tensor', conditions: 'Conditions | None' = None) -> 'Tensor'",
    "Denoiser.add_noise": "(self, x: 'Tensor', noise: 'Tensor', timesteps: 'Tensor') -> 'Tensor'",
    "Denoiser.signal_to_noise": "(self, timesteps: 'Tensor') -> 'Tensor'",
    "Denoiser.denoise": "(self, n: 'int', *, conditions: 'Conditions | None' = None, generator: 'Generators' = None, **options: 'Any') -> 'Iterator[DenoisingStep]'",
    "Energy.energy": "(self, x: 'Tensor', conditions: 'Conditions | None' = None) -> 'Tensor'",
    "Likelihood.bits_per_dimension": "(self, batch: 'Batch', *, generator: 'Generators' = None) -> 'Tensor'",
    "Scheduler.add_noise": "(self, original_samples: 'Tensor', noise: 'Tensor', timesteps: 'Tensor') -> 'Tensor'",
    "Scheduler.set_timesteps": "(self, num_inference_steps: 'int', device: 'Any' = None) -> 'None'",
    "Scheduler.scale_model_input": "(self, sample: 'Tensor', timestep: 'Any') -> 'Tensor'",
    "Scheduler.step": "(self, model_output: 'Tensor', timestep: 'Any', sample: 'Tensor', **options: 'Any') -> 'Any'",
    "Trainer": "(config: 'TrainerConfig', run: 'Run') -> 'None'",
    "Trainer.check": "(self, model: 'Model', data: 'TrainingData') -> 'None'",
    "Trainer.fit": "(self, model: 'Model', data: 'TrainingData') -> 'Path'",
    "Run.stopped_run": "(self, data: 'TrainingData') -> 'StoppedRun | None'",
    "Run.save_checkpoint": "(self, step: 'int', model: 'Model', data: 'TrainingData', state: 'TrainerState') -> 'Path'",
    "Run.check_saved": "(self, wait: 'bool' = False) -> 'None'",
    "Run.save_preview": "(self, step: 'int', model: 'Model') -> 'Path | None'",
    "Run.evaluate": "(self, step: 'int', model: 'Model') -> 'dict[str, float]'",
    "Run.log": "(self, data: 'TrainingData', start: 'int' = 0) -> 'RunLog'",
    "TrainingData.batches": "(self, share: 'Share' = Share(rank=0, world_size=1, accumulation=1), *, seed: 'int', start_step: 'int', device: 'torch.device', state: 'Mapping[str, Any] | None' = None) -> 'Iterator[Batch]'",
    "Batch": "(x: 'Tensor', conditions: 'Conditions' = <factory>, step: 'int' = 0, cached: 'Mapping[str, Tensor]' = <factory>) -> None",
    "Conditioner.forward": "(self, conditions: 'Conditions') -> 'Given'",
    "Denoiser.predict_x0": "(self, x_t: 'Tensor', timesteps: 'Tensor', conditions: 'Conditions | None' = None) -> 'Tensor'",
    "GenerativeModel.after_update": "(self, step: 'int') -> 'None'",
    "GenerativeModel.conditions_of": "(self, n: 'int', conditions: 'Conditions | None') -> 'Conditions'",
    "Modality.learn": "(column: 'RawColumn', options: 'Any') -> 'Self'",
    "Modality.recognise": "(feature: 'Any', values: 'Sequence[Any]') -> 'bool'",
    "Modality.read": "(self, value: 'Any') -> 'NDArray[Any]'",
    "Modality.to_batch": "(self, kept: 'Tensor') -> 'Tensor'",
    "Modality.from_batch": "(self, x: 'Tensor') -> 'Tensor'",
    "Modality.condition": "(self, width: 'int', sides: 'tuple[int, ...]') -> 'Embedding'",
    "Modality.picture": "(self, values: 'Tensor', captions: 'Sequence[str]' = ()) -> 'Image.Image'",
    "Network.forward": "(self, x: 'Tensor', t: 'Tensor | None', given: 'Given') -> 'Tensor'",
    "Embedding.forward": "(self, values: 'Tensor', present: 'Tensor') -> 'Given'",
    "Metric.missing": "(self, subject: 'MeasuredModel') -> 'str | None'",
    "Metric.compute": "(self, subject: 'MeasuredModel') -> 'Mapping[str, float | Tensor]'",
    "View.draw": "(self, subject: 'Any', *args: 'Any', **options: 'Any') -> 'Image | Moving'",
    "View.shows_rows": "(self, subject: 'Any', options: 'Mapping[str, Any]') -> 'bool'",
    "ViewSubject.draw": "(self, n: 'int', seed: 'int', conditions: 'Mapping[str, Any] | None' = None, options: 'Mapping[str, Any] | None' = None) -> 'Tensor'",
    "ViewSubject.draw_for": "(self, rows: 'Any', seed: 'int', options: 'Mapping[str, Any] | None' = None) -> 'Tensor'",
    "Modality.tile": "(self, values: 'Tensor', captions: 'Sequence[str]' = (), like: 'Tensor | None' = None, real: 'Tensor | None' = None) -> 'Image.Image'",
    "Modality.compare": "(self, real: 'Tensor', drawn: 'Tensor', captions: 'Sequence[str]' = ()) -> 'Image.Image | None'",
    "guided": "(network: 'Callable[[Tensor, Tensor | None, Given], Tensor]', x: 'Tensor', t: 'Tensor | None', given: 'Given', nothing: 'Given', scale: 'float') -> 'Tensor'",
    "randn": "(shape: 'tuple[int, ...]', generator: 'Generators' = None, device: 'torch.device | str | None' = None) -> 'Tensor'",
    "seed_for": "(*numbers: 'int') -> 'int'",
}


def test_the_public_names() -> None:
    assert sorted(genhub.__all__) == PUBLIC
    assert all(getattr(genhub, name) is not None for name in PUBLIC)
    assert set(PUBLIC) <= set(dir(genhub))
    assert genhub.__version__ == __import__("importlib.metadata").metadata.version("genhub-framework")


def test_the_signatures() -> None:
    for dotted, pinned in SIGNATURES.items():
        assert str(inspect.signature(operator.attrgetter(dotted)(genhub))) == pinned, dotted
    abstract = {
        name: sorted(getattr(genhub, name).__abstractmethods__)
        for name in ("GenerativeModel", "Metric", "Modality", "Network", "Trainer", "View")
    }
    assert abstract == {
        "GenerativeModel": ["phases", "sample"],
        "Metric": ["compute"],
        "Modality": ["from_batch", "learn", "picture", "read", "to_batch"],
        "Network": ["forward"],
        "Trainer": ["fit"],
        "View": ["draw"],
    }  # one more breaks every subclass


def test_the_reference_is_what_the_docstrings_make(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(DOCS)
    import make_reference

    page = make_reference.page()
    assert (DOCS / "reference.md").read_text() == page, "run: python docs/make_reference.py"
    for name in genhub.__all__:
        assert f"### {name}\n" in page


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        genhub.trian  # noqa: B018


def test_importing_genhub_costs_nothing() -> None:
    script = "import sys, genhub; print(sorted({'torch', 'pydantic', 'yaml', 'typer', 'numpy'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
