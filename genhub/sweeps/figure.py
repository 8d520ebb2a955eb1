"""The figure by which runs of a sweep are told apart, as they measure it while they train."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from genhub.errors import InputError, did_you_mean, shown
from genhub.evaluation.chosen import directions, metric_named
from genhub.evaluation.protocol import PREFIX
from genhub.ground.run_log import read_metrics
from genhub.interfaces.metric import Better
from genhub.interfaces.registry import METRICS, plugin_names
from genhub.recipe.recipe import Recipe
from genhub.store.run_folder import RunFolder, step_of


@dataclass(frozen=True)
class Figure:
    """A figure, and which way it is better."""

    name: str
    better: Better

    def measured(self, run: Path) -> dict[int, float]:
        """Return by step what a run has measured so far."""
        lines, _ = read_metrics(RunFolder(run).metrics)
        own = PREFIX + self.name
        return {int(line["step"]): line[own] for line in lines if own in line}

    def final(self, run: Path) -> float | None:
        """Return the figure of a run's newest checkpoint; None if it has not been measured."""
        newest = next(iter(RunFolder(run).checkpoints()), None)
        return self.measured(run).get(step_of(newest)) if newest else None

    def best_first(self, runs: Iterable[Path]) -> list[Path]:
        """Return runs in order; those that have not been measured last."""
        found = {run: self.final(run) for run in runs}
        sign = 1 if self.better == "lower" else -1
        return sorted(found, key=lambda run: (found[run] is None, sign * (found[run] or 0)))


def figure_of(recipe: Recipe, name: str | None) -> Figure:
    """Return the figure that a recipe's runs are told apart by.

    Args:
        name: a figure, or a metric, for its main figure. Left out: of what the recipe measures, the metric that it saves the
            best by, or the first.
    Raises:
        InputError: no figure has that name, it is better neither way, or the recipe does not measure it while it trains.
    """
    if recipe.evaluate is None:
        advice = f"evaluate: {{every: {_every(recipe)}, metrics: [{_metric_with(name) or 'frechet_distance'}]}}"
        raise InputError(f"--by {name or ''}".strip() + f": the recipe measures nothing while it trains; add to it {advice}")
    config, better = recipe.evaluate, directions()
    measured = {figure for metric in config.measured for figure in metric_named(metric).metric.figures}
    name = name or config.save_best or config.metrics[0]
    figure = metric_named(name).own if name in plugin_names(METRICS) else name
    if figure in measured and figure in better:
        return Figure(figure, better[figure])
    if figure in measured:
        raise InputError(f"--by {figure}: is better neither way; {did_you_mean('', measured & better.keys())}")
    if metric := _metric_with(figure):
        names = ", ".join([*config.metrics, metric])
        raise InputError(f"--by {figure}: the recipe does not measure it while it trains; evaluate.metrics: [{names}] does")
    raise InputError(f"--by: no figure is called {shown(name)}; {did_you_mean(name, better)}")


def _metric_with(figure: str | None) -> str | None:
    """Return the metric that has a figure, or the name."""
    names = plugin_names(METRICS)
    return next((name for name in names if figure == name or figure in metric_named(name).metric.figures), None)


def _every(recipe: Recipe) -> int:
    """Return every how many steps to measure a recipe some ten times, at checkpoints."""
    every = recipe.trainer.save_every
    return max(1, round(recipe.trainer.max_steps / 10 / every)) * every
