"""Checks of a modality: it learns from a column, and its values come back from batches, rows, arrays and files."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from PIL import Image as Pillow
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from genhub.data.open import load_data
from genhub.data.raw import StoredColumn, as_objects
from genhub.errors import NotFinite, PluginError
from genhub.interfaces.columns import ModelData
from genhub.interfaces.control import Choice, Line, Slider, Upload
from genhub.interfaces.modality import AnyModality, Modality
from genhub.interfaces.network import Embedding
from genhub.testing.examples import example_columns
from genhub.testing.report import Broken, NotHere, Subject, told
from genhub.testing.rows import write_parquet

WIDTH = 6
SIDES = ((), (8,), (8, 8), (4, 4, 4))
"""Sides of the x beside which a condition is tried."""
NEAR = 1e-4
"""Most that a number may change on the way to a batch and back, as a share of the largest."""
PARTS = ("vector", "sequence", "spatial")


class ModalitySubject(Subject):
    """A modality's class under examination."""

    def __init__(self, cls: type[Modality], values: Sequence[Any] | None, options: Mapping[str, Any] | None) -> None:
        self.cls = cls
        self.given = None if values is None else list(values)
        self.options = dict(options or {})

    def learn(self, values: Sequence[Any]) -> Modality:
        try:
            options = self.cls.Options.model_validate(self.options)
        except ValidationError as error:
            fault = error.errors()[0]
            key = ".".join(map(str, fault["loc"]))
            raise Broken(f"data.columns.NAME.{key}: {fault['msg']}", at=self.cls) from error
        return self.cls.learn(self.column(values), options)

    def column(self, values: Sequence[Any]) -> StoredColumn:
        return StoredColumn("column", "the kit's data", as_objects(list(values)))

    @cached_property
    def values(self) -> list[Any]:
        """Example values: those given, else the first of the kit's that it learns from and reads."""
        if self.given is not None:
            return self.given
        for values in example_columns():
            if self._takes(values):
                return values
        raise Broken(
            "it can't be learnt from any of the kit's examples",
            "call genhub.testing.check_modality(cls, values=[...]) with a few values as its columns store them",
            self.cls.learn,
        )

    def _takes(self, values: Sequence[Any]) -> bool:
        try:
            self.learn(values).read(values[0])
        except (ValueError, TypeError, OSError, AttributeError, IndexError):
            return False
        return True

    @cached_property
    def modality(self) -> Modality:
        return self.learn(self.values)

    @property
    def kept(self) -> Tensor:
        """Values as they are kept, (n, *shape); always new ones."""
        return torch.from_numpy(np.stack([self.modality.read(value) for value in self.values]))

    @property
    def own(self) -> Tensor:
        """Values in the column's own units, as they are drawn."""
        return self.modality.from_batch(self.modality.to_batch(self.kept))


def learn(subject: ModalitySubject) -> None:
    """`learn` makes of a column a modality of its class, and of the same column the same one."""
    first, again = subject.learn(subject.values), subject.learn(subject.values)
    if type(first) is not subject.cls:
        raise Broken(f"learn gives {first!r}", "return cls(...)", subject.cls.learn)
    if first != again:
        raise Broken("learnt twice from one column, it differs", "let nothing random into learn", subject.cls.learn)


def config(subject: ModalitySubject) -> None:
    """It comes back from JSON as it was, by the name in its key `modality`: genhub.json of a checkpoint has it so."""
    content = json.loads(json.dumps(subject.modality.model_dump(mode="json")))
    again: Any
    try:
        again = TypeAdapter(AnyModality).validate_python(content)
    except ValidationError as error:
        again = error.errors()[0]["msg"]
    if again != subject.modality:
        raise Broken(
            f"written as JSON and read again, it is {again!r}",
            'let `modality` be the name that it is registered by, or module:Class: modality: Literal["..."] = "..."',
            subject.cls,
        )


def read(subject: ModalitySubject) -> None:
    """`read` makes of a stored value an array of `dtype` and `shape`, and `read_all` the same of many at once."""
    modality, at = subject.modality, subject.cls.read
    arrays = [modality.read(value) for value in subject.values]
    for array in arrays:
        found = (str(getattr(array, "dtype", type(array))), tuple(np.shape(array)))
        if found != (modality.dtype, modality.shape):
            raise Broken(f"read gives {found[0]} {found[1]}", f"make it {modality.dtype} {modality.shape}", at)
    are_numbers = all(isinstance(value, int | float | np.ndarray) for value in subject.values)
    if are_numbers and not np.array_equal(modality.read_all(np.asarray(subject.values)), np.stack(arrays)):
        raise Broken("read_all makes something else of values than read", "leave it out, or do what read does", at)


def batch(subject: ModalitySubject) -> None:
    """`to_batch` gives (n, *shape), of each value by itself, and leaves what is kept as it was; of what can be a target,
    finite float32 within `bounds`."""
    modality, kept, at = subject.modality, subject.kept, subject.cls.to_batch
    x = modality.to_batch(kept)
    if tuple(x.shape) != (len(kept), *modality.shape):
        raise Broken(f"to_batch gives {tuple(x.shape)}", f"return (n, *shape): {(len(kept), *modality.shape)}", at)
    if not torch.equal(kept, subject.kept):
        raise Broken("to_batch changes what is kept in place", "work on a new tensor", at)
    if not torch.equal(modality.to_batch(subject.kept[1:2]), x[1:2]):
        raise Broken("to_batch makes something else of a value that is alone", "let values not depend on each other", at)
    if not modality.can_be_target:
        return
    low, high = modality.bounds or (-float("inf"), float("inf"))
    if x.dtype != torch.float32 or not x.isfinite().all():
        raise Broken(f"to_batch gives {x.dtype}, or numbers that are not finite", "return finite float32", at)
    if not low <= x.min() <= x.max() <= high:
        raise Broken(f"to_batch gives values from {x.min():.4g} to {x.max():.4g}", f"keep to bounds, {low} to {high}", at)


def back(subject: ModalitySubject) -> None:
    """`from_batch` takes batches back to the values that are kept, on the CPU, and raises NotFinite for NaN in what can be a
    target."""
    modality, kept, at = subject.modality, subject.kept, subject.cls.from_batch
    own = modality.from_batch(modality.to_batch(subject.kept))
    if own.dtype != kept.dtype or own.shape != kept.shape or not _same(own, kept):
        raise Broken(
            f"from_batch(to_batch(kept)) is not what is kept: {own.dtype} {tuple(own.shape)} for {kept.dtype} "
            f"{tuple(kept.shape)}",
            "let it undo to_batch, in the column's own units and type",
            at,
        )
    if modality.can_be_target:
        try:
            modality.from_batch(torch.full((2, *modality.shape), torch.nan))
        except NotFinite:
            return
        raise Broken("from_batch takes NaN", "raise genhub.NotFinite: nobody should draw, write or measure it", at)


def _same(own: Tensor, kept: Tensor) -> bool:
    """Whether values are equal: whole numbers exactly, others nearly."""
    if not kept.dtype.is_floating_point:
        return torch.equal(own, kept)
    return bool((own - kept).abs().max() <= NEAR * max(1.0, float(kept.abs().max())))


def picture(subject: ModalitySubject) -> None:
    """`picture` makes one picture of one value and of several, with and without captions."""
    for values in (subject.own[:1], subject.own):
        for captions in ((), ["a", ""]):
            found = subject.modality.picture(values, captions)
            if not isinstance(found, Pillow.Image):
                raise Broken(f"picture gives {type(found)}", "return a PIL.Image.Image", subject.cls.picture)


def words(subject: ModalitySubject) -> None:
    """`told` says in a line what can be asked for, `examples` are some of it, `caption` says a value in a word or two, and
    `facts` are JSON."""
    modality = subject.modality
    line, caption = modality.told(), modality.caption(subject.kept[0])
    if not isinstance(line, str) or not line or "\n" in line:
        raise Broken(f"told gives {line!r}", "say in a few words what a person can ask for", subject.cls.told)
    own = subject.cls.examples is not Modality.examples  # else they are what `control` offers
    for example in modality.examples(3) if own else ():
        try:
            modality.ask(example)
        except Exception as error:  # a stranger's may raise anything
            raise Broken(
                f"ask refuses the example {example!r}: {error}", "give what ask takes", subject.cls.examples
            ) from error
    if not isinstance(caption, str):
        raise Broken(f"caption gives {caption!r}", 'return a text, "" where nothing can be said', subject.cls.caption)
    try:
        json.dumps(dict(modality.facts()))
    except TypeError as error:
        raise Broken(f"facts are no JSON: {error}", "give numbers, texts and lists of them", subject.cls.facts) from error


def control(subject: ModalitySubject) -> None:
    """`control` offers what can be asked for, as one text each: a choice's names, a slider's ends, a line's example, a file
    with an upload's ending."""
    modality, at = subject.modality, subject.cls.control
    for text in _offered(subject):
        try:
            (part,) = modality.split(text)
            asked = np.asarray(modality.ask(part))
        except Exception as error:  # a stranger's reader may raise anything
            raise Broken(f"control offers {text!r}, which ask refuses: {told(error)}", "let ask read it", at) from error
        if asked.shape != modality.shape and modality.narrowed(asked) is None:
            raise Broken(f"control offers {text!r}, of which ask makes {asked.shape}", f"make it {modality.shape}", at)


def _offered(subject: ModalitySubject) -> list[str]:
    """Return texts that a person can say by the modality's control."""
    match subject.modality.control():
        case Choice(names):
            return list(names)
        case Slider(low, high):
            return [f"{low:g}", f"{high:g}"]
        case Line(example):
            return [example] if example else []
        case Upload(endings):
            ending = subject.modality.file_ending
            if ending is None or ending not in endings:
                return []
            path = subject.folder / f"asked{ending}"
            subject.modality.write_file(subject.own[0], path)
            return [str(path)]
        case other:
            raise Broken(f"control gives {other!r}", "return a Choice, Slider, Line or Upload", subject.cls.control)


def rows(subject: ModalitySubject) -> None:
    """Drawn values come back from the array of an .npz, from rows, and from a parquet file of them with `feature`."""
    modality, own = subject.modality, subject.own
    if not modality.can_be_target:
        raise NotHere("it is never drawn")
    ways: dict[str, Callable[[], Tensor]] = {
        "to_array, from_array": lambda: modality.from_array(modality.to_array(own)),
        "to_rows, from_rows": lambda: modality.from_rows(modality.to_rows(own)),
        "to_rows and feature, written as parquet, and read": lambda: _from_parquet(subject),
    }
    for way, values in ways.items():
        if not torch.equal(values(), own):
            raise Broken(f"{way}: other values come back", "let nothing be lost, and keep the order", subject.cls.to_rows)


def _from_parquet(subject: ModalitySubject) -> Tensor:
    """Return what genhub reads of a parquet file of drawn rows, in its own units."""
    file, modality = subject.folder / "rows.parquet", subject.modality
    write_parquet({"column": (modality, subject.own)}, file)
    known = ModelData(column="column", target=modality)
    return load_data(str(file), (), known, target="column").kept(range(len(subject.own)))


def files(subject: ModalitySubject) -> None:
    """`read_file` gives back what `write_file` wrote: all of it, where it `is_lossless`."""
    modality, own = subject.modality, subject.own
    if modality.file_ending is None:
        raise NotHere("what is drawn are rows, which have no files")
    for number, value in enumerate(own[:3]):
        path = subject.folder / f"{number}{modality.file_ending}"
        modality.write_file(value, path)
        again = modality.read_file(path)
        if again.dtype != value.dtype or again.shape != value.shape:
            raise Broken(
                f"read_file gives {again.dtype} {tuple(again.shape)} for {value.dtype} {tuple(value.shape)}",
                "give back the element that write_file was given",
                subject.cls.read_file,
            )
        if modality.is_lossless and not torch.equal(again, value):
            raise Broken(
                "read_file gives other values than write_file was given", "keep all digits, or say is_lossless = False",
                subject.cls.write_file,
            )  # fmt: skip


def condition(subject: ModalitySubject) -> None:
    """`condition` makes an Embedding of its part, by a row's value where it is present and by nothing else; whoever is
    present, a gradient reaches every parameter."""
    for sides in SIDES:
        try:
            embedding = subject.modality.condition(WIDTH, sides)
        except PluginError as reason:
            raise NotHere(str(reason)) from reason
        if not isinstance(embedding, Embedding) or embedding.gives not in PARTS:
            raise Broken(
                f"condition gives {embedding!r}", f"return a genhub.Embedding whose `gives` is one of {', '.join(PARTS)}",
                subject.cls.condition,
            )  # fmt: skip
        _check_embedding(subject, embedding, sides)


def _check_embedding(subject: ModalitySubject, embedding: Embedding, sides: tuple[int, ...]) -> None:
    at, values = type(embedding).forward, subject.modality.to_batch(subject.kept)[:8]
    beside = f"beside an x of sides {sides}" if sides else "beside a vector"
    with torch.no_grad():  # what starts as zero would hide what it multiplies
        for index, parameter in enumerate(embedding.parameters()):
            noise = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(index))
            parameter.add_(0.1 * noise.to(parameter))
    n = len(values)
    there, nowhere = torch.ones(n, dtype=torch.bool), torch.zeros(n, dtype=torch.bool)
    half = torch.arange(n) % 2 == 0

    def made(values: Tensor, present: Tensor) -> Tensor:
        part = getattr(embedding(values, present), embedding.gives)
        if part is None:
            raise Broken(f"{beside}, it gives no {embedding.gives}", "return what `gives` says", at)
        found: Tensor = part
        return found

    part = made(values, there)
    wanted: dict[str, tuple[int, ...]] = {
        "vector": (n, WIDTH), "sequence": (n, *part.shape[1:2], WIDTH), "spatial": (n, embedding.channels, *sides),
    }  # fmt: skip
    if tuple(part.shape) != wanted[embedding.gives]:
        raise Broken(f"{beside}, its {embedding.gives} is {tuple(part.shape)}", f"make it {wanted[embedding.gives]}", at)
    other = next((index for index in range(1, n) if not torch.equal(values[index], values[0])), None)
    if other is not None and torch.equal(part[other], part[0]):
        raise Broken(f"{beside}, different values give the same", "let it depend on the value", at)
    turned = values.roll(1, 0)
    if not torch.equal(made(values, nowhere), made(turned, nowhere)):
        raise Broken(
            f"{beside}, rows that are not present depend on the values", "put a learnt value there, by torch.where", at
        )
    if not torch.allclose(made(values, half)[half], part[half], atol=1e-5):
        raise Broken(f"{beside}, a row depends on which others are present", "look at each row by itself", at)
    for who, present in (("all rows", there), ("no rows", nowhere), ("some rows", half)):
        embedding.zero_grad(set_to_none=True)
        try:
            made(values, present).sum().backward()  # type: ignore[no-untyped-call]
        except RuntimeError as error:
            raise Broken(f"{beside}, with {who} present: {told(error)}", "let every parameter take part", at) from error
        missed = [name for name, parameter in embedding.named_parameters() if parameter.grad is None]
        if missed:
            raise Broken(
                f"{beside}, with {who} present, no gradient reaches {', '.join(missed)}",
                "let every parameter take part in every forward, by torch.where",
                at,
            )
