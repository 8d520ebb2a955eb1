"""Optuna's part of a search: what to try next, which runs to prune, and the file that remembers it. Imports optuna."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner, NopPruner
from optuna.samplers import BaseSampler, GPSampler, RandomSampler, TPESampler
from optuna.storages import JournalStorage
from optuna.storages.journal import BaseJournalBackend
from optuna.trial import FrozenTrial, Trial, TrialState

from genhub.ground.disk import append, saving, sync
from genhub.ground.randomness import seed_for
from genhub.interfaces.metric import Better
from genhub.sweeps.settings import Range, Setting

STREAM = 2**32 + 2
"""Number that keeps the seeds of trials apart from those of training and drawing."""
SEARCHED = "searched"


class Journal(BaseJournalBackend):
    """Optuna's log of a study, a line of JSON an operation. One process writes it, which holds the sweep's folder: so there
    is no lock to be left behind, and a line that a kill cut off is passed over, not an error for ever as in Optuna's."""

    def __init__(self, file: Path) -> None:
        self._file = file
        lines = file.read_text("utf-8", "replace").splitlines() if file.is_file() else []
        self._logs = [log for log in map(_content, lines) if log]

    def read_logs(self, log_number_from: int) -> list[dict[str, Any]]:
        return self._logs[log_number_from:]

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        with saving(self._file):
            for log in logs:
                text = json.dumps(log)
                append(self._file, text)
                self._logs.append(json.loads(text))
            sync(self._file)


def _content(line: str) -> dict[str, Any] | None:
    try:
        content = json.loads(line)
    except ValueError:
        return None
    return content if isinstance(content, dict) and "op_code" in content else None


class Study:
    """The trials of a search. What one tries is a function of the recipe's seed, its number and the earlier results."""

    def __init__(
        self, file: Path, settings: Sequence[Setting], better: Better, seed: int, *, sampler: str, pruner: BasePruner
    ) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._settings, self._seed, self._sampler = settings, seed, sampler
        self._study = optuna.create_study(
            storage=JournalStorage(Journal(file)),
            study_name="sweep",
            direction="minimize" if better == "lower" else "maximize",
            pruner=pruner,
            load_if_exists=True,
        )

    @property
    def searched(self) -> Mapping[str, Any]:
        """Description of what was searched when the file was begun; empty for a new one."""
        searched: Mapping[str, Any] = self._study.user_attrs.get(SEARCHED, {})
        return searched

    def begin(self, searched: Mapping[str, Any]) -> None:
        self._study.set_user_attr(SEARCHED, searched)

    def trials(self, *states: TrialState) -> list[FrozenTrial]:
        return self._study.get_trials(deepcopy=False, states=states or None)

    def opened(self) -> Iterator[Trial]:
        """Yield the trials that were begun and are not done, as their runs were stopped or failed."""
        for frozen in self.trials(TrialState.RUNNING):
            self._study.sampler = self._sampler_of(frozen.number)
            yield Trial(self._study, frozen._trial_id)

    def ask(self) -> Trial:
        """Return a new trial."""
        self._study.sampler = self._sampler_of(len(self.trials()))
        return self._study.ask()

    def values(self, trial: Trial) -> dict[str, str]:
        """Return the values that a trial tries, by key; they are chosen when this is first asked."""
        return {setting.key: _text(_suggested(trial, setting)) for setting in self._settings}

    def twin(self, trial: Trial) -> FrozenTrial | None:
        """Return a trial that is over and tried the same values."""
        over = self.trials(TrialState.COMPLETE, TrialState.PRUNED)
        return next((one for one in over if one.params == trial.params), None)

    def tell(self, trial: Trial, value: float | None) -> None:
        """End a trial, with its value; None: it was pruned."""
        if value is None:
            self._study.tell(trial, state=TrialState.PRUNED)
        else:
            self._study.tell(trial, value)

    def repeat(self, trial: Trial, twin: FrozenTrial) -> None:
        """End a trial as another that tried the same values."""
        for step, value in twin.intermediate_values.items():
            trial.report(value, step)
        self.tell(trial, twin.value if twin.state == TrialState.COMPLETE else None)

    def _sampler_of(self, number: int) -> BaseSampler:
        seed = seed_for(self._seed, STREAM, number) % 2**32
        if self._sampler == "random":
            return RandomSampler(seed)
        if self._sampler == "gp":
            return GPSampler(seed=seed)
        return TPESampler(seed=seed, constant_liar=True)  # those that run, or have failed, count as bad


def pruner_named(name: str, trials: int, every: int) -> BasePruner:
    """Return a pruner for so many trials, which are measured every so many steps."""
    if name == "none":
        return NopPruner()
    if name == "hyperband":
        return HyperbandPruner(min_resource=every)
    return MedianPruner(n_startup_trials=min(5, max(1, trials // 4)))


def _suggested(trial: Trial, setting: Setting) -> object:
    values = setting.values
    if not isinstance(values, Range):
        return trial.suggest_categorical(setting.key, values)
    if values.whole:
        return trial.suggest_int(setting.key, int(values.low), int(values.high), log=values.log)
    return trial.suggest_float(setting.key, values.low, values.high, log=values.log)


def _text(value: object) -> str:
    """Return a value as YAML reads it back: to YAML, 1e-05 is a text, and 1.0e-05 a number."""
    text = str(value)
    return text.replace("e", ".0e") if isinstance(value, float) and "e" in text and "." not in text else text
