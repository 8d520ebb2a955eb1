"""Checks of a metric: beside images, points and signals, of models that draw them well and badly."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast, get_args

import numpy as np
import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from genhub.data.batches import TableData
from genhub.data.open import load_data
from genhub.evaluation.given import given_rows
from genhub.evaluation.in_place import Unseen
from genhub.evaluation.intervals import values_of
from genhub.evaluation.measurement import Measurement
from genhub.ground.randomness import Generators, randn
from genhub.interfaces.columns import ModelData
from genhub.interfaces.conditions import Conditions
from genhub.interfaces.config import ModelConfig
from genhub.interfaces.metric import Better, Metric
from genhub.interfaces.model import Batch, Phase
from genhub.modalities.label import Label
from genhub.modalities.signal import Signal
from genhub.model import GenerativeModel
from genhub.sampling.request import Drawing
from genhub.store.manifest import Word
from genhub.testing.report import Broken, NotHere, Subject
from genhub.testing.rows import write_rows

DRAWN, REAL = 80, 160
"""Number of rows that are drawn, and of real ones that they are compared with."""
FAR = 3.0
"""Standard deviations by which bad rows are off."""
NAMES = TypeAdapter(dict[Word, Any])


class NoiseModel(GenerativeModel):
    """Draws noise, whatever it is given, and has the capabilities that metrics ask for."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.scale = torch.nn.ParameterList([torch.ones(self.shape)])

    def phases(self) -> list[Phase]:
        return []

    def sample(self, n: int, *, conditions: Conditions | None = None, generator: Generators = None) -> Tensor:
        scale: Tensor = self.scale[0]
        return randn((n, *self.shape), generator, self.device) * scale

    def encode(self, x: Tensor, conditions: Conditions | None = None) -> Tensor:
        return x

    def decode(self, latents: Tensor, conditions: Conditions | None = None) -> Tensor:
        return latents

    def bits_per_dimension(self, batch: Batch, *, generator: Generators = None) -> Tensor:
        return batch.x.flatten(1).square().mean(1)


@dataclass(frozen=True)
class MeasuredCase:
    """Real rows, and a model that is measured beside them."""

    name: str
    data: TableData
    held_out: TableData
    extractor: str

    def subject(self, good: bool = True, n: int = DRAWN, real: int = REAL) -> Measurement:
        """Return a measurement of a model that draws held-out rows, those whose conditions it is given; or rows
        far off."""
        model = NoiseModel(ModelConfig(conditions=tuple(self.data.spec.conditions), data=self.data.spec.model_data)).eval()
        drawing, rows = given_rows(Drawing(n), model, [self.held_out])
        whole = np.arange(n) if rows is None else rows.numbers[:n]
        if rows is None:  # of a column of classes alone
            asked = {name: self.held_out.column(name).kept(whole) for name in model.conditions}
            drawing = Drawing(n, conditions=asked)
        noise = torch.randn((n, *self.data.spec.modality.shape), generator=torch.Generator().manual_seed(0))
        drawn = self.held_out.own(whole) if good else self.data.spec.modality.from_batch(noise + FAR)
        found = Measurement(model, self.data, self.held_out, self.extractor, drawing, drawn.clone, rows_of=rows)
        found.reference_rows = found.reference_rows[:real]
        return found


class MetricSubject(Subject):
    """A metric's class under examination."""

    def __init__(self, cls: type[Metric]) -> None:
        self.cls = cls

    @cached_property
    def metric(self) -> Metric:
        return self.cls()

    @cached_property
    def cases(self) -> list[MeasuredCase]:
        file = self.folder / "waves.parquet"
        wave = Signal(shape=(1, 16), mean=(0.0,), std=(1.0,))
        write_rows(ModelData(column="wave", target=wave, conditions={"label": Label(number=3)}), file)
        found = list[MeasuredCase]()
        for name, data, conditions, extractor in (
            ("images", {"data": "digits", "split": "train[:200]"}, ("label", "ink"), "pixels"),
            ("points", {"data": "moons", "num_rows": 200}, ("label",), "values"),
            ("signals", {"data": str(file), "target": "wave"}, ("label",), "values"),
        ):
            read = load_data(**data, conditions=conditions)
            split = {"images": "train[200:400]", "points": "test", "signals": "train"}[name]
            held_out = load_data(**{**data, "split": split}, conditions=conditions, known=read.spec.model_data)
            found.append(MeasuredCase(name, read, held_out, extractor))
        return found

    def applies(self) -> Iterator[MeasuredCase]:
        """Yield the cases that the metric can be computed of.

        Raises:
            NotHere: it applies to none.
        """
        reasons = {case.name: self.metric.missing(case.subject()) for case in self.cases}
        if all(reasons.values()):
            raise NotHere("; ".join(f"of {name} it says: {reason}" for name, reason in reasons.items()))
        yield from (case for case in self.cases if not reasons[case.name])


def figures(subject: MetricSubject) -> None:
    """`figures` names at least one figure, and which way each is better; what `least` warns of, `bias` says."""
    named, at = subject.cls.figures, subject.cls
    if not isinstance(named, Mapping) or not named:
        raise Broken(f"figures is {named!r}", 'name its figures: {"my_figure": "lower"}', at)
    for name, better in named.items():
        if better is not None and better not in get_args(Better):
            raise Broken(f"{name} is better {better!r}", "say lower, higher or None", at)
    try:
        NAMES.validate_python(named)
    except ValidationError as error:
        raise Broken(f"can't name figures so: {', '.join(named)}", "letters, digits and _", at) from error
    if subject.metric.least and not subject.metric.bias:
        raise Broken("least without bias", "say how it misleads with fewer rows", at)


def missing(subject: MetricSubject) -> None:
    """`missing` says in one line why it can't be computed, or None, before anything is drawn."""
    at = subject.cls.missing
    for case in subject.cases:
        found = case.subject()
        reason = subject.metric.missing(found)
        if reason is not None and (not isinstance(reason, str) or not reason or "\n" in reason):
            raise Broken(f"of {case.name} it says {reason!r}", "return one line, or None", at)
        if "drawn" in found.__dict__:
            raise Broken(f"of {case.name} it has the model draw", "look at the model and the data alone", at)


def compute(subject: MetricSubject) -> None:
    """`compute` returns all that `figures` names, the first always and others where it can, and more whose names begin like
    its first: finite numbers, or finite values of rows (n,)."""
    at, own, named = subject.cls.compute, next(iter(subject.metric.figures)), set(subject.metric.figures)
    for case in subject.applies():
        found = subject.metric.compute(case.subject())
        if own not in found:
            raise Broken(f"of {case.name}, there is no {own}", "return the first that `figures` names", at)
        for name, value in found.items():
            rows = isinstance(value, Tensor) and value.ndim == 1 and len(value) and bool(value.isfinite().all())
            if not rows and not (isinstance(value, float) and math.isfinite(value)):
                raise Broken(f"of {case.name}, {name} is {value!r}", "return finite floats, or rows' values (n,)", at)
        named -= found.keys()
        others = [name for name in found if name not in subject.metric.figures and not name.startswith(own)]
        if others:
            raise Broken(f"of {case.name}, there is {', '.join(others)}", f"name it in `figures`, or {own}_...", at)
    if named:
        raise Broken(f"of no case there is {', '.join(named)}", "return all that `figures` names", at)


def floor(subject: MetricSubject) -> None:
    """A metric that `has_floor` can be computed of real rows in the drawn ones' place, whatever the model."""
    if not subject.cls.has_floor:
        raise NotHere("it says that real rows in the drawn ones' place tell nothing")
    for case in subject.applies():
        if case.subject().no_unseen is not None:
            continue
        beside = [case.subject(), case.subject()]
        for one, scale in zip(beside, (1.0, 2.0), strict=True):
            for parameter in one.model.parameters():
                torch.nn.init.constant_(parameter, scale)
        rows = [cast(Measurement, Unseen(one)) for one in beside]
        try:
            found = [values_of(subject.metric.compute(those)) for those in rows if not subject.metric.missing(those)]
        except Exception as error:
            raise Broken(
                f"of {case.name}, of real rows: {type(error).__name__}: {error}",
                "or say has_floor = False",
                subject.cls.compute,
            ) from error
        if found and found[0] != found[-1]:
            raise Broken(
                f"of {case.name}, real rows have {found[0]} beside one model and {found[-1]} beside another",
                "look at the rows alone, or say has_floor = False", subject.cls,
            )  # fmt: skip


def same(subject: MetricSubject) -> None:
    """Figures that are better one way are the same for the same rows, and the global random state is left alone."""
    for case in subject.applies():
        before = torch.get_rng_state()
        first, again = (_with_direction(subject.metric, case.subject()) for _ in range(2))
        if first != again:
            raise Broken(
                f"of {case.name}, it is {first}, then {again}", "draw by a generator of its own", subject.cls.compute
            )
        if not torch.equal(before, torch.get_rng_state()):
            raise Broken(f"of {case.name}, it draws random numbers from torch", "give it a generator", subject.cls.compute)


def untouched(subject: MetricSubject) -> None:
    """Drawn elements and features are left as they are: other metrics are given them, too."""
    for case in subject.applies():
        found = case.subject()
        before = [found.drawn.clone(), *(part.clone() for part in found.features)]
        subject.metric.compute(found)
        if not all(map(torch.equal, before, [found.drawn, *found.features])):
            raise Broken(f"of {case.name}, it changes what it is given", "work on new tensors", subject.cls.compute)


def features(subject: MetricSubject) -> None:
    """`by_features` says whether it compares features: of what can't be trusted, readers are warned by it."""
    for case in subject.applies():
        found = case.subject()
        subject.metric.compute(found)
        if ("features" in found.__dict__) != subject.metric.by_features:
            does = "looks" if "features" in found.__dict__ else "does not look"
            raise Broken(
                f"of {case.name}, it {does} at features, and by_features is {subject.metric.by_features}",
                "say which it is",
                subject.cls,
            )


def few(subject: MetricSubject) -> None:
    """It takes as few rows, drawn and real, as `rows` says."""
    least = max(subject.metric.rows, 1)
    for case in subject.applies():
        try:
            subject.metric.compute(case.subject(n=max(least, 2), real=max(least, 2)))
        except Exception as error:
            raise Broken(
                f"of {case.name}, with {max(least, 2)} rows: {type(error).__name__}: {error}",
                "say by `rows` how many it needs",
                subject.cls.compute,
            ) from error


def better(subject: MetricSubject) -> None:
    """By its first figure, rows far off are not better than real ones that were asked for."""
    own, way = next(iter(subject.metric.figures.items()))
    if way is None:
        raise NotHere("its first figure is better neither way")
    for case in subject.applies():
        good, bad = (values_of(subject.metric.compute(case.subject(good)))[own] for good in (True, False))
        if (bad < good) if way == "lower" else (bad > good):
            raise Broken(
                f"of {case.name}, {own} is {good:.4g} for real rows and {bad:.4g} for others, and {way} is better",
                "turn it around, or say the other way in `figures`",
                subject.cls,
            )


def _with_direction(metric: Metric, subject: Measurement) -> dict[str, float]:
    return {name: value for name, value in values_of(metric.compute(subject)).items() if metric.figures.get(name)}
