"""Checks of a trainer: it trains a model from start to end, and its checkpoint comes back."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from genhub.evaluation.protocol import PREFIX
from genhub.ground.randomness import Generators, randn
from genhub.ground.run_log import read_metrics
from genhub.interfaces.conditions import Conditions
from genhub.interfaces.config import ModelConfig, TrainerConfig
from genhub.interfaces.model import Batch, Phase
from genhub.interfaces.registry import TRAINERS, plugin_of
from genhub.interfaces.trainer import Trainer
from genhub.model import GenerativeModel
from genhub.recipe.recipe import read_recipe
from genhub.run.train import train
from genhub.store.manifest import read_manifest
from genhub.store.run_folder import RunFolder
from genhub.testing.report import Broken, Subject
from genhub.testing.running import SAFE
from genhub.testing.subject import STOPPED_AT, TRAINER_KEYS, importable_name

Values = TrainerConfig | Mapping[str, Any] | None


class MeanImage(GenerativeModel):
    """Smallest model there is to train: it learns the mean."""

    Config = ModelConfig

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.mean = nn.ParameterList([torch.zeros(self.shape)])

    def phases(self) -> list[Phase]:
        return [Phase("fit", self.loss, trains=("mean",))]

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        return {"loss": (batch.x - self.mean[0]).square().mean()}

    def sample(self, n: int, *, conditions: Conditions | None = None, generator: Generators = None) -> Tensor:
        noise = randn((n, *self.shape), generator, self.device)
        grey: Tensor = (self.mean[0] + 0.1 * noise).clamp(-1, 1)
        return grey


class TrainerSubject(Subject):
    """A trainer class under examination, and a run of it."""

    EVALUATE: ClassVar = {"every": STOPPED_AT, "n": 8, "extractor": "pixels"}

    def __init__(self, cls: type[Trainer], values: Values) -> None:
        self.cls = cls
        given = values.model_dump(exclude_unset=True) if isinstance(values, TrainerConfig) else dict(values or {})
        plugin = plugin_of(TRAINERS, cls)
        common = {key: value for key, value in TRAINER_KEYS.items() if key in cls.Config.model_fields}
        self.values = common | given | {"name": plugin.name if plugin else importable_name(cls)}

    @property
    def run_dir(self) -> Path:
        return self.folder / "run"

    def train(self, steps: int) -> Path:
        name = f"{MeanImage.__module__}:{MeanImage.__qualname__}"
        content = {
            "model": {"name": name},
            "data": {"batch_size": 16},
            "run_dir": str(self.run_dir),
            "trainer": self.values | {"max_steps": steps},
            "evaluate": self.EVALUATE,
        }
        with contextlib.redirect_stdout(io.StringIO()):
            return train(content)

    @cached_property
    def checkpoint(self) -> Path:
        """The run's first checkpoint, in the middle."""
        return self.train(STOPPED_AT)


def config(subject: TrainerSubject) -> None:
    """Config derives from `genhub.TrainerConfig`, and every key has a default."""
    if not issubclass(subject.cls.Config, TrainerConfig):
        raise Broken(f"Config is {subject.cls.Config!r}", "derive it from genhub.TrainerConfig", subject.cls)
    read_recipe({"model": {"name": f"{MeanImage.__module__}:MeanImage"}, "trainer": subject.values})


def fit(subject: TrainerSubject) -> None:
    """`fit` trains the model and returns a checkpoint, below the run's folder, that loads and samples."""
    folder = subject.checkpoint
    at = subject.cls.fit
    if not isinstance(folder, Path) or subject.run_dir not in folder.parents:
        raise Broken(f"fit returns {folder!r}", "return the checkpoint's folder, what self.run.save_checkpoint returns", at)
    model = MeanImage.from_pretrained(folder)
    if not model.mean[0].any():
        raise Broken("the checkpoint has the weights that training began with", "save the model that was trained", at)
    if model.sample(2).shape != (2, *model.shape):
        raise Broken("the model that came back does not sample", "save the model that fit was given", at)
    if read_manifest(folder).step != STOPPED_AT:
        raise Broken(
            f"the checkpoint says step {read_manifest(folder).step}, max_steps was {STOPPED_AT}",
            "train to max_steps, and save with that step",
            at,
        )


def files(subject: TrainerSubject) -> None:
    """A checkpoint is made of JSON, safetensors, YAML, Markdown and PNG files: nothing that loading would execute."""
    for file in (path for path in subject.checkpoint.rglob("*") if path.is_file()):
        if file.suffix not in SAFE:
            raise Broken(
                f"a checkpoint has a file {file.relative_to(subject.checkpoint)}",
                f"write tensors as safetensors, facts as JSON; what may be there: {', '.join(sorted(SAFE))}",
                subject.cls.fit,
            )


def resume(subject: TrainerSubject) -> None:
    """`fit` goes on from the run's newest checkpoint to a larger max_steps, and leaves a finished run alone."""
    before = subject.checkpoint
    if subject.train(STOPPED_AT) != before:
        raise Broken("fit on a finished run returns another folder", "return the newest checkpoint", subject.cls.fit)
    mean = MeanImage.from_pretrained(before).mean[0]
    steps = 2 * STOPPED_AT
    after = subject.train(steps)
    if read_manifest(after).step != steps or torch.equal(MeanImage.from_pretrained(after).mean[0], mean):
        raise Broken(
            f"going on to step {steps}, fit returns a checkpoint of step {read_manifest(after).step}",
            "train from self.run.stopped_run(data) to max_steps",
            subject.cls.fit,
        )


def evaluate(subject: TrainerSubject) -> None:
    """`fit` calls `evaluate` after each `save_checkpoint`, so that a recipe's `evaluate` and `save_best` work."""
    lines, _ = read_metrics(RunFolder(subject.run_dir).metrics)
    measured = {line["step"] for line in lines if any(name.startswith(PREFIX) for name in line)}
    if not {STOPPED_AT, 2 * STOPPED_AT} <= measured:
        raise Broken(
            f"with evaluate.every={STOPPED_AT}, {len(measured)} of 2 checkpoints are measured",
            "call self.run.evaluate(step, model) after self.run.save_checkpoint(step, model, ...)",
            subject.cls.fit,
        )
