"""Measure a run while it trains, as `genhub evaluate` does: each checkpoint that is due, on all of the run's processes."""

from __future__ import annotations

import json
from contextlib import suppress

import torch
from torch import Tensor

from genhub.data.batches import TableData
from genhub.errors import CheckpointError, InputError, RecipeError, TrainingError
from genhub.evaluation.chosen import about, metric_named
from genhub.evaluation.evaluate import held_out_of, measure
from genhub.evaluation.given import given_rows
from genhub.evaluation.measurement import Measurement
from genhub.evaluation.protocol import PREFIX, Evaluation, evaluations_in, weights_digest
from genhub.ground.console import say, warn
from genhub.ground.disk import append, saving
from genhub.ground.processes import Together, main_process
from genhub.ground.run_log import read_metrics
from genhub.interfaces.model import Model
from genhub.recipe.sections import EvaluateConfig
from genhub.sampling.draw import BATCH_SIZE, sample_elements
from genhub.sampling.request import Drawing
from genhub.store.manifest import MANIFEST
from genhub.store.run_folder import RunFolder


class Evaluator:
    """Measure a run's model where the recipe's `evaluate` says so. All processes call it; the main one keeps the figures,
    in the run's `evaluations/` and then in metrics.jsonl: a step has been measured if there is a line of it and figures of
    its checkpoint's weights."""

    def __init__(self, config: EvaluateConfig, model: Model, data: TableData, run: RunFolder, max_steps: int) -> None:
        """Find out before step 0 whether all can be measured.

        Raises:
            RecipeError: a metric that does not apply to the model or the data, or an extractor that can't be had.
        """
        self.config, self._data, self._run, self.max_steps = config, data, run, max_steps
        self.held_out = held_out_of(model, data.config, config.held_out)
        drawing = Drawing(config.n, batch_size=min(BATCH_SIZE, data.config.batch_size))
        self._drawing, self._rows_of = given_rows(drawing, model, [self.held_out, data])
        subject = self._subject(model, None)
        try:
            self._digest = subject.protocol.digest()
        except InputError as error:
            raise RecipeError(f"evaluate.extractor: {error}") from error
        metrics = [metric_named(name) for name in config.measured]
        for metric in metrics:
            if reason := metric.missing(subject):
                raise RecipeError(f"evaluate.metrics: {metric.name}: {reason}")
            if warning := metric.warning(subject):
                say(f"         evaluate: {warning}")
        for note in about(subject, metrics):
            say(f"         evaluate: {note}")

    def due(self, step: int) -> bool:
        """Whether the recipe wants a step measured."""
        return step > 0 and (step % self.config.every == 0 or step == self.max_steps)

    def __call__(self, step: int, model: Model, together: Together | None = None) -> dict[str, float]:
        if not self.due(step) or self._is_measured(step, together):
            return {}
        training = model.training
        with torch.random.fork_rng([model.device] if model.device.type == "cuda" else []):
            evaluation = measure(self._subject(model.eval(), together), self.config.measured, step)
        model.train(training)
        values = {f"{PREFIX}{name}": value for name, value in evaluation.values.items()}
        if main_process():
            self._keep(evaluation.model_copy(update={"weights": self._weights(step)}), values)
        return values

    def best(self, step: int) -> Evaluation | None:
        """Return the best evaluation up to a step by `save_best`, the first of equals, among the checkpoints that are
        there; what was measured otherwise, or of other weights, does not count."""
        if self.config.save_best is None:
            return None
        metric = metric_named(self.config.save_best)
        stored = evaluations_in(self._run.evaluations, protocol=self._digest)
        found = [one for one in stored if one.step <= step and metric.own in one.values]
        found = sorted((one for one in found if one.weights == self._weights(one.step)), key=lambda one: one.step)
        choose = min if metric.better == "lower" else max
        return choose(found, key=lambda one: one.values[metric.own], default=None)

    def measured(self, step: int) -> list[tuple[int, str, float, float | None, float | None]]:
        """Return the figures in metrics.jsonl up to a step: see `Run.measured`. The intervals are with what is stored."""
        stored = evaluations_in(self._run.evaluations, protocol=self._digest)
        rows = []
        for line in read_metrics(self._run.metrics)[0]:
            own = [one for one in stored if one.step == line["step"]]
            for name in (name.removeprefix(PREFIX) for name in line if name.startswith(PREFIX) and line["step"] <= step):
                value = line[PREFIX + name]
                ends = (one.intervals.get(name) for one in own if one.values.get(name) == value)
                low, high = next((pair for pair in ends if pair), (None, None))
                rows.append((int(line["step"]), name, value, low, high))
        return rows

    def conclude(self) -> None:
        """Print which checkpoint is best; or that nothing was measured, by a trainer that never calls `evaluate`."""
        if not self._measured_steps() and main_process():
            warn(f"the trainer does not measure while it trains; genhub evaluate {self._run} does it now")
        best = self.best(self.max_steps)
        if best and self.config.save_best:
            own = metric_named(self.config.save_best).own
            say(f"Best     {self._run.checkpoint(best.step)}, {own} {best.values[own]:.4g}")

    def _subject(self, model: Model, together: Together | None) -> Measurement:
        def draw() -> Tensor:
            return sample_elements(model, self._drawing, together=together)

        name, drawing = self.config.extractor, self._drawing
        return Measurement(model, self._data, self.held_out, name, drawing, draw, together, rows_of=self._rows_of)

    def _measured_steps(self) -> set[float]:
        lines, _ = read_metrics(self._run.metrics)  # what is damaged there, the run's log says
        return {line["step"] for line in lines if any(name.startswith(PREFIX) for name in line)}

    def _is_measured(self, step: int, together: Together | None) -> bool:
        """Whether a step has been measured. The main process, which has the files, decides for all."""
        found = False
        if main_process():
            weights = self._weights(step)
            if not weights:
                raise TrainingError(f"step {step} has no checkpoint; a trainer calls evaluate after save_checkpoint")
            stored = evaluations_in(self._run.evaluations, weights)
            found = step in self._measured_steps() and any(one.step == step for one in stored)
        return together.broadcast(found) if together else found

    def _weights(self, step: int) -> str:
        """Return the digest of a checkpoint's weights; empty if there is no such checkpoint, or it is damaged."""
        folder = self._run.checkpoint(step)
        if (folder / MANIFEST).is_file():
            with suppress(CheckpointError):
                return weights_digest(folder)
        return ""

    def _keep(self, evaluation: Evaluation, values: dict[str, float]) -> None:
        evaluation.write(self._run.evaluations)
        file = self._run.metrics
        with saving(file):
            append(file, json.dumps({"step": evaluation.step, **values}))
        shown = "  ".join(f"{name} {value:.4g}" for name, value in evaluation.values.items())
        say(f"step {evaluation.step} measured by {self.config.n} rows: {shown}")
