"""Checks of a network: what it makes of x, the time and what it is given, for every shape that it takes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from genhub.conditioning.conditioner import Conditioner
from genhub.interfaces.conditions import Conditions
from genhub.interfaces.modality import Modality
from genhub.interfaces.network import Given, Network, NetworkConfig
from genhub.interfaces.registry import NETWORKS, plugin_of
from genhub.modalities.label import Label
from genhub.testing.given_parts import PARTS_OF_GIVEN, PartModality
from genhub.testing.learning import some
from genhub.testing.report import Broken, Subject, told
from genhub.testing.running import SAFE

SHAPES_OF_X = ((3,), (2, 16), (1, 8, 8), (1, 4, 4, 4))
"""Shapes of x that a network is tried with: one for each number of sides."""
ROWS, CLASSES = 4, 5
ALONE_TOLERANCE = 1e-4


class NetworkSubject(Subject):
    """A network's class under examination."""

    def __init__(
        self, cls: type[Network], values: NetworkConfig | Mapping[str, Any] | None, shapes: Sequence[Sequence[int]]
    ) -> None:
        self.cls = cls
        self.values = values.model_dump() if isinstance(values, NetworkConfig) else dict(values or {})
        self.given_shapes = [tuple(shape) for shape in shapes]

    @property
    def config(self) -> NetworkConfig:
        plugin = plugin_of(NETWORKS, self.cls)
        name = {"name": plugin.name} if plugin else {}
        return self.cls.Config.model_validate(name | self.values)

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        """Shapes of x: those given, else all of the kit's that it takes."""
        return self.given_shapes or [shape for shape in SHAPES_OF_X if refusal_of(self.config, shape) is None]

    def cases(self) -> Iterator[Case]:
        """Yield every shape with nothing given, and with each part that it takes."""
        for shape in self.shapes:
            for part in (None, *sorted(self.config.takes)):
                yield Case(self, shape, part)


class Case:
    """A network for one shape of x, given one part or nothing, with a conditioner that makes it. None of its weights is
    zero, as some start."""

    def __init__(
        self, subject: NetworkSubject, shape: tuple[int, ...], part: str | None, out_channels: int | None = None
    ) -> None:
        torch.manual_seed(0)
        self.shape, self.part, config = shape, part, subject.config
        self.parts = config.takes
        self.modalities: dict[str, Modality] = {} if part is None else {"column": _modality(part)}
        self.conditioner = Conditioner(self.modalities, shape, config.width, config.takes)
        self.network = subject.cls(config, shape, self.conditioner, out_channels)
        with torch.no_grad():
            for parameter in self.network.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=0.02)
        self.where = f"x of {'x'.join(map(str, shape))}, given " + (f"a {part}" if part else "nothing")

    def x(self, seed: int = 1) -> Tensor:
        return torch.randn(ROWS, *self.shape, generator=torch.Generator().manual_seed(seed))

    @property
    def t(self) -> Tensor:
        return torch.linspace(10, 900, ROWS)

    def conditions(self, seed: int = 1) -> Conditions:
        generator = torch.Generator().manual_seed(seed)
        labels, numbers = (torch.arange(ROWS) + seed) % CLASSES, torch.randn(ROWS, 3, generator=generator)
        values = labels if self.part == "label" else numbers
        present = torch.ones(ROWS, dtype=torch.bool)
        return Conditions({"column": values}, {"column": present}) if self.part else Conditions()

    def given(self, seed: int = 1) -> Given:
        given: Given = self.conditioner(self.conditions(seed))
        return given

    def output(self) -> Tensor:
        output: Tensor = self.network(self.x(), self.t, self.given())
        return output


def _modality(part: str) -> Modality:
    return Label(number=CLASSES) if part == "label" else PartModality(gives=part)


def refusal_of(config: NetworkConfig, shape: tuple[int, ...]) -> ValueError | None:
    """Return why a network can't have an x of a shape; None: it can."""
    try:
        config.check(shape)
    except ValueError as error:
        return error
    return None


def config(subject: NetworkSubject) -> None:
    """Every key of Config has a default, a Config survives JSON, `takes` are parts of `genhub.Given`, `width` is a number,
    and `check` lets through what it is the default for."""
    made = subject.config
    if type(made).model_validate_json(made.model_dump_json()) != made:
        raise Broken("the Config is another one after it was written as JSON and read again",
                     "give its keys types that pydantic writes as JSON", type(made))  # fmt: skip
    if unknown := made.takes - PARTS_OF_GIVEN:
        raise Broken(f"takes names {some(unknown)}", f"the parts are {some(PARTS_OF_GIVEN)}", type(made))
    if made.takes & {"vector", "sequence"} and not made.width >= 1:
        raise Broken(f"width is {made.width}", "let it be the width of the vector and the tokens", type(made))
    for sides in made.default_for:
        shape = next(shape for shape in SHAPES_OF_X if len(shape) - 1 == sides)
        if not subject.given_shapes and (error := refusal_of(made, shape)):
            raise Broken(f"it is the default for {sides} sides, and refuses {shape}: {error}",
                         "let defaults take small data, or name others by `shapes`", type(made).check)  # fmt: skip
    if not subject.shapes:
        raise Broken(f"check refuses all of {', '.join(map(str, SHAPES_OF_X))}", "name others by `shapes`", type(made).check)


def shape(subject: NetworkSubject) -> None:
    """It makes (n, out_channels, *sides) of x (n, channels, *sides), or as many channels as x has; t is (n,), (n, k) or
    None."""
    for case in subject.cases():
        channels, *sides = case.shape
        for out_channels in (None, channels + 1):
            each = Case(subject, case.shape, case.part, out_channels)
            for t in (each.t, torch.stack([each.t, each.t], 1), None):
                with torch.no_grad():
                    output = each.network(each.x(), t, each.given())
                wanted = (ROWS, out_channels or channels, *sides)
                if tuple(output.shape) != wanted or not output.isfinite().all():
                    times = "no t" if t is None else f"t {tuple(t.shape)}"
                    raise Broken(f"{each.where}, {times}, out_channels={out_channels}: it gives {tuple(output.shape)}",
                                 f"return finite {wanted}", subject.cls.forward)  # fmt: skip


def given(subject: NetworkSubject) -> None:
    """The time, x, and each part that it takes change what it makes."""
    for case in subject.cases():
        network = case.network.eval()
        with torch.no_grad():
            base = network(case.x(), case.t, case.given())
            others = {
                "x": network(case.x(2), case.t, case.given()),
                "the time": network(case.x(), case.t.flip(0), case.given()),
            } | ({f"the {case.part}": network(case.x(), case.t, case.given(2))} if case.part else {})
        for what, other in others.items():
            if torch.equal(base, other):
                at = subject.cls.forward
                raise Broken(f"{case.where}: {what} changes nothing", "use it, or leave it out of `takes`", at)


def gradients(subject: NetworkSubject) -> None:
    """Gradients reach every parameter, and those of what embeds the conditions."""
    for case in subject.cases():
        case.output().square().mean().backward()  # type: ignore[no-untyped-call]
        modules: dict[str, torch.nn.Module] = {"": case.network, "conditioner.": case.conditioner}
        missed = [before + name for before, module in modules.items() for name, parameter in module.named_parameters()
                  if parameter.requires_grad and parameter.grad is None]  # fmt: skip
        if missed:
            raise Broken(f"{case.where}: no gradient reaches {some(missed)}", "make only what it uses", subject.cls.forward)


def rows_apart(subject: NetworkSubject) -> None:
    """In eval mode, a row does not depend on the others of its batch."""
    for case in subject.cases():
        network, conditions = case.network.eval(), case.conditions()
        with torch.no_grad():
            together = network(case.x(), case.t, case.given())
            one = case.conditioner(conditions.rows(slice(1, 2)))
            alone = network(case.x()[1:2], case.t[1:2], one)
        distance = (together[1:2] - alone).abs().max().item()
        if not distance <= ALONE_TOLERANCE * max(1.0, together.abs().max().item()):
            raise Broken(f"{case.where}: a row differs by {distance:.3g} from the same row alone",
                         "let nothing run over the batch", subject.cls.forward)  # fmt: skip


def saved(subject: NetworkSubject) -> None:
    """`load` gives back the bits that `save` wrote, as JSON and safetensors: nothing that loading would execute."""
    for number, case in enumerate(subject.cases()):
        folder = subject.folder / str(number)
        case.network.save(folder)
        for file in (path for path in folder.rglob("*") if path.is_file() and path.suffix not in SAFE):
            raise Broken(f"save writes a file {file.name}", "write tensors by genhub.save_tensors", subject.cls.save)
        again = Case(subject, case.shape, case.part)
        with torch.no_grad():
            for parameter in again.network.parameters():
                parameter.zero_()
        again.network.load(folder)
        again.conditioner = case.conditioner
        for network in (case.network, again.network):
            network.eval()
        with torch.no_grad():
            if not torch.equal(case.output(), again.output()):
                raise Broken(f"{case.where}: saved and loaded, it makes something else",
                             "keep all it needs in parameters or persistent buffers", subject.cls)  # fmt: skip


def bf16(subject: NetworkSubject) -> None:
    """Its output and gradients are finite under bfloat16 autocast (`trainer.mixed_precision: bf16`)."""
    for case in subject.cases():
        with torch.autocast("cpu", torch.bfloat16):
            output = case.output()
        output.float().square().mean().backward()  # type: ignore[no-untyped-call]
        wrong = [name for name, p in case.network.named_parameters() if p.grad is not None and not p.grad.isfinite().all()]
        if wrong or not output.isfinite().all():
            what = f"the gradient of {some(wrong)}" if output.isfinite().all() else "what it makes"
            raise Broken(f"{case.where}, in bf16: {what} is not finite", "do what needs digits in float32",
                         subject.cls.forward)  # fmt: skip


def compile(subject: NetworkSubject) -> None:
    """Compiled (`trainer.compile`), it makes the same, and has the same gradients: with the backend aot_eager, as for a
    model."""
    try:
        for case in subject.cases():
            if case.part != max(case.parts, default=None):
                continue  # compiling takes seconds: each shape once
            torch.compiler.reset()
            compiled = Case(subject, case.shape, case.part)
            compiled.network.compile(backend="aot_eager")
            try:
                ours, theirs = made_of(case), made_of(compiled)
            except RuntimeError as error:
                raise Broken(f"{case.where}, compiled: {told(error)}", "simplify it", subject.cls.forward) from error
            for name, tensor in ours.items():
                if not torch.allclose(tensor, theirs[name], rtol=1e-2, atol=1e-4):
                    raise Broken(f"{case.where}, compiled: another {name}", "look for Python side effects in forward()",
                                 subject.cls.forward)  # fmt: skip
    finally:
        torch.compiler.reset()


def made_of(case: Case) -> dict[str, Tensor]:
    """Return a case's output, and its network's gradients."""
    torch.manual_seed(0)
    output = case.output()
    output.square().mean().backward()  # type: ignore[no-untyped-call]
    found = {f"gradient of {name}": p.grad for name, p in case.network.named_parameters() if p.grad is not None}
    return {"output": output.detach()} | found
