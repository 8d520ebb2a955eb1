"""The checks of each kind of part, and the functions that run them all."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from genhub.errors import InputError, PluginError, did_you_mean, shown
from genhub.interfaces.columns import ModelData
from genhub.interfaces.config import ModelConfig, TrainerConfig
from genhub.interfaces.metric import Metric
from genhub.interfaces.modality import Modality
from genhub.interfaces.network import Network, NetworkConfig
from genhub.interfaces.registry import (
    KINDS,
    METRICS,
    MODALITIES,
    MODELS,
    NETWORKS,
    SCHEDULERS,
    TRAINERS,
    VIEWS,
    Plugin,
    find_plugin,
    load_class,
    plugin_names,
)
from genhub.interfaces.trainer import Trainer
from genhub.interfaces.view import View
from genhub.model import GenerativeModel
from genhub.testing import (
    abilities,
    learning,
    metric_checks,
    modalities,
    network_checks,
    running,
    samples,
    schedulers,
    trainers,
    view_checks,
)
from genhub.testing.report import Check, Report, Suite

MODEL_CHECKS = (
    Check(learning.config),
    Check(learning.phases, needs=("config",)),
    Check(learning.losses, needs=("phases",)),
    Check(learning.latents, needs=("losses",)),
    Check(learning.gradients, needs=("losses",)),
    Check(learning.training, needs=("gradients",)),
    Check(learning.bf16, needs=("gradients",)),
    Check(learning.compile, needs=("gradients",)),
    Check(samples.options, needs=("config",)),
    Check(samples.sample, needs=("gradients",)),
    Check(samples.randomness, needs=("sample",)),
    Check(samples.seeds, needs=("randomness",)),
    Check(samples.batches, needs=("seeds",)),
    Check(samples.conditions, needs=("seeds",)),
    Check(samples.ema, needs=("seeds",)),
    Check(abilities.capabilities, needs=("batches",)),
    Check(running.checkpoint, needs=("seeds",)),
    Check(running.files, needs=("sample",)),
    Check(running.resume, needs=("sample",)),
    Check(running.processes, needs=("sample",)),
)
SCHEDULER_CHECKS = (
    Check(schedulers.interface),
    Check(schedulers.timesteps, needs=("interface",)),
    Check(schedulers.noise, needs=("timesteps",)),
    Check(schedulers.step, needs=("noise",)),
    Check(schedulers.distribution, needs=("step",)),
    Check(schedulers.randomness, needs=("step",)),
    Check(schedulers.saved, needs=("interface",)),
)
TRAINER_CHECKS = (
    Check(trainers.config),
    Check(trainers.fit, needs=("config",)),
    Check(trainers.files, needs=("fit",)),
    Check(trainers.resume, needs=("fit",)),
    Check(trainers.evaluate, needs=("resume",)),
)
MODALITY_CHECKS = (
    Check(modalities.learn),
    Check(modalities.config, needs=("learn",)),
    Check(modalities.read, needs=("learn",)),
    Check(modalities.batch, needs=("read",)),
    Check(modalities.back, needs=("batch",)),
    Check(modalities.picture, needs=("back",)),
    Check(modalities.words, needs=("read",)),
    Check(modalities.control, needs=("back",)),
    Check(modalities.rows, needs=("config", "back")),
    Check(modalities.files, needs=("back",)),
    Check(modalities.condition, needs=("batch",)),
)
NETWORK_CHECKS = (
    Check(network_checks.config),
    Check(network_checks.shape, needs=("config",)),
    Check(network_checks.given, needs=("shape",)),
    Check(network_checks.gradients, needs=("shape",)),
    Check(network_checks.rows_apart, needs=("shape",)),
    Check(network_checks.saved, needs=("shape",)),
    Check(network_checks.bf16, needs=("gradients",)),
    Check(network_checks.compile, needs=("gradients",)),
)
METRIC_CHECKS = (
    Check(metric_checks.figures),
    Check(metric_checks.missing, needs=("figures",)),
    Check(metric_checks.compute, needs=("missing",)),
    Check(metric_checks.same, needs=("compute",)),
    Check(metric_checks.untouched, needs=("compute",)),
    Check(metric_checks.features, needs=("compute",)),
    Check(metric_checks.few, needs=("compute",)),
    Check(metric_checks.better, needs=("compute",)),
    Check(metric_checks.floor, needs=("same", "few")),
)
VIEW_CHECKS = (
    Check(view_checks.options),
    Check(view_checks.picture, needs=("options",)),
    Check(view_checks.rows, needs=("picture",)),
    Check(view_checks.moves, needs=("picture",)),
    Check(view_checks.repeats, needs=("picture",)),
    Check(view_checks.untouched, needs=("picture",)),
)
Names = Collection[str]


def check_model(
    cls: type[GenerativeModel], config: ModelConfig | Mapping[str, Any] | None = None, *, data: ModelData | None = None,
    only: Names = (), skip: Names = (),
) -> Report:  # fmt: skip
    """Hold a model class to the contract of `GenerativeModel`, in a quarter of a minute for a small network.

    Args:
        config: keys of its Config that differ from the defaults: a small network makes the checks quick.
        data: columns that it draws and is given, whose rows are made up. Left out: the digits' images (1, 8, 8), and what
            `conditions` names of them: label, ink; the label, where the Config can't be made without any.
        only: names of the checks to run; left out: all. What they need runs first.
        skip: names of checks to leave out.
    Returns:
        What was checked, with the reason of each check that does not apply.
    Raises:
        ContractError: an AssertionError that lists every failure: the check, what is wrong and what to do, file and
            line, and the contract.
        InputError: no check has that name.
    """
    return _checked(model_suite(cls, config, skip, data), only)


def check_scheduler(
    cls: type[Any], config: Mapping[str, Any] | None = None, *, only: Names = (), skip: Names = ()
) -> Report:
    """Hold a noise schedule's class to the contract of `Scheduler`, in about a second.

    Args:
        config: arguments of its constructor; all else as for `check_model`.
    """
    return _checked(scheduler_suite(cls, config, skip), only)


def check_trainer(
    cls: type[Trainer], config: TrainerConfig | Mapping[str, Any] | None = None, *, only: Names = (), skip: Names = ()
) -> Report:
    """Hold a trainer's class to the contract of `Trainer`, with a small model, in a few seconds.

    Args:
        config: keys of its Config that differ from the defaults; all else as for `check_model`.
    """
    return _checked(trainer_suite(cls, config, skip), only)


def check_modality(
    cls: type[Modality], values: Sequence[Any] | None = None, options: Mapping[str, Any] | None = None, *,
    only: Names = (), skip: Names = (),
) -> Report:  # fmt: skip
    """Hold a modality's class to the contract of `Modality`, in about a second.

    Args:
        values: a few values as a column stores them, from which it is learnt. Left out: whichever of the kit's own it can
            be learnt from: pictures, numbers, arrays of one to four sides, texts.
        options: keys of its `Options`, as under data.columns.NAME; all else as for `check_model`.
    """
    return _checked(modality_suite(cls, options, skip, values), only)


def check_network(
    cls: type[Network], config: NetworkConfig | Mapping[str, Any] | None = None, *, shapes: Sequence[Sequence[int]] = (),
    only: Names = (), skip: Names = (),
) -> Report:  # fmt: skip
    """Hold a network's class to the contract of `Network`, in a few seconds for a small one.

    Args:
        config: keys of its Config that differ from the defaults.
        shapes: of x. Left out: those of (3,), (2, 16), (1, 8, 8) and (1, 4, 4, 4) that its Config's `check` takes; all else
            as for `check_model`.
    """
    return _checked(network_suite(cls, config, skip, shapes), only)


def check_metric(cls: type[Metric], *, only: Names = (), skip: Names = ()) -> Report:
    """Hold a metric's class to the contract of `Metric`, in seconds: beside images, points and signals, of models that draw
    them well and badly.

    Args:
        only, skip: as for `check_model`.
    """
    return _checked(metric_suite(cls, None, skip), only)


def check_view(cls: type[View], options: Mapping[str, Any] | None = None, *, only: Names = (), skip: Names = ()) -> Report:
    """Hold a view's class to the contract of `View`, in about a second, with small models of images, points, tables and
    signals that have what it asks for.

    Args:
        options: of its `draw`, beside few rows and steps; all else as for `check_model`.
    """
    return _checked(view_suite(cls, options, skip), only)


def _checked(suite: Suite, only: Names) -> Report:
    with suite:
        report = suite.report(only)
    report.raise_failures()
    return report


def suites_of(name: str, config: Mapping[str, Any], kind: str | None = None) -> Iterator[tuple[Plugin, Suite]]:
    """Yield the checks of every plugin of that name (a model and a scheduler may share one), or of that kind alone.

    Args:
        name: a registered name, or module:Class, which is a model where `kind` does not say otherwise.
    Raises:
        PluginError: there is none, two distributions claim it, or it is broken.
        InputError: no such kind, or a `config` for plugins of several kinds.
    """
    suites: dict[str, Callable[..., Suite]] = {
        MODELS: model_suite, NETWORKS: network_suite, MODALITIES: modality_suite, SCHEDULERS: scheduler_suite,
        TRAINERS: trainer_suite, METRICS: metric_suite, VIEWS: view_suite,
    }  # fmt: skip
    kinds = {kind: group for kind, group in KINDS.items() if group in suites}
    if kind is not None and kind not in kinds:
        raise InputError(f"--kind {kind}: {did_you_mean(kind, kinds)}")
    groups = [kinds[kind]] if kind else [MODELS] if ":" in name else [g for g in suites if name in plugin_names(g)]
    if not groups:
        known = {known for group in suites for known in plugin_names(group)}
        raise PluginError(f"no plugin is called {shown(name)}; {did_you_mean(name, known)}")
    if config and len(groups) > 1:
        raise InputError(f"'{name}' is several plugins: say by --kind which of them the keys are for")
    for group in groups:
        cls = load_class(group, name, Path.cwd())
        plugin = Plugin(group, name, name) if ":" in name else find_plugin(group, name)
        yield plugin, suites[group](cls, config)


def model_suite(
    cls: type[GenerativeModel],
    config: ModelConfig | Mapping[str, Any] | None,
    skip: Names = (),
    data: ModelData | None = None,
) -> Suite:
    return Suite(cls, MODEL_CHECKS, running.TrainedSubject(cls, config, data), skip)


def scheduler_suite(cls: type[Any], config: Mapping[str, Any] | None, skip: Names = ()) -> Suite:
    return Suite(cls, SCHEDULER_CHECKS, schedulers.SchedulerSubject(cls, config), skip)


def trainer_suite(cls: type[Trainer], config: TrainerConfig | Mapping[str, Any] | None, skip: Names = ()) -> Suite:
    return Suite(cls, TRAINER_CHECKS, trainers.TrainerSubject(cls, config), skip)


def modality_suite(
    cls: type[Modality], options: Mapping[str, Any] | None, skip: Names = (), values: Sequence[Any] | None = None
) -> Suite:
    return Suite(cls, MODALITY_CHECKS, modalities.ModalitySubject(cls, values, options), skip)


def network_suite(
    cls: type[Network], config: NetworkConfig | Mapping[str, Any] | None, skip: Names = (),
    shapes: Sequence[Sequence[int]] = (),
) -> Suite:  # fmt: skip
    return Suite(cls, NETWORK_CHECKS, network_checks.NetworkSubject(cls, config, shapes), skip)


def metric_suite(cls: type[Metric], config: Mapping[str, Any] | None, skip: Names = ()) -> Suite:
    if config:
        raise InputError(f"a metric has no keys: leave {', '.join(config)} out")
    return Suite(cls, METRIC_CHECKS, metric_checks.MetricSubject(cls), skip)


def view_suite(cls: type[View], options: Mapping[str, Any] | None, skip: Names = ()) -> Suite:
    return Suite(cls, VIEW_CHECKS, view_checks.PictureSubject(cls, options), skip)
