"""Checks of a view: it draws of a model that has what it asks for, always the same, and leaves the model as it was."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from functools import cached_property
from typing import Any, get_type_hints

import torch
from PIL import Image as Pillow
from torch import Tensor

from genhub.errors import InputError
from genhub.interfaces.columns import ModelData
from genhub.interfaces.config import ModelConfig
from genhub.interfaces.modality import Modality
from genhub.interfaces.view import Moving, View
from genhub.modalities.image import Image
from genhub.modalities.label import Label
from genhub.modalities.signal import Signal
from genhub.modalities.vector import Vector
from genhub.store.run_folder import RunFolder
from genhub.testing.report import Broken, NotHere, Subject
from genhub.testing.rows import write_rows
from genhub.testing.samples import global_states
from genhub.testing.sketches import sketch_class
from genhub.views import encoded, make, own_options
from genhub.views.viewed import Viewed

COLUMNS: tuple[Modality, ...] = (
    Image(shape=(1, 8, 8)),
    Vector(shape=(2,), mean=(0.0, 0.0), std=(1.0, 1.0)),
    Signal(shape=(1, 64), mean=(0.0,), std=(1.0,), rate=8000),
)
"""Modalities of what the models draw that a view is tried with."""
FEW = {"n": 2, "steps": 2}
"""Options that make a picture quick, where a view has them."""


class PictureSubject(Subject):
    """A view's class under examination."""

    def __init__(self, cls: type[View], options: Mapping[str, Any] | None) -> None:
        self.cls = cls
        self.options = dict(options or {})

    @cached_property
    def view(self) -> View:
        return self.cls()

    @cached_property
    def subjects(self) -> list[Viewed]:
        """Subjects that have what the view asks for and nothing else: a log, or a model of each modality with its rows."""
        if self.view.of_log:
            lines = [json.dumps({"step": step, "fit/loss": 1 / step}) + "\n" for step in (10, 20, 30)]
            RunFolder(self.folder).metrics.write_text("".join(lines))
            return [Viewed(self.folder)]
        return [self._subject(modality, self.folder / f"{at}.parquet") for at, modality in enumerate(COLUMNS)]

    def _subject(self, modality: Modality, file: Any) -> Viewed:
        cls = sketch_class(self.view.capability, self.view.sample_option)
        if cls is None:
            raise NotHere(f"the kit has no model with {self.view.capability} and an option {self.view.sample_option}")
        conditions = {"label": Label(number=3)} if self.view.conditional else {}
        data = ModelData(column="target", target=modality, conditions=conditions)
        write_rows(data, file)
        model = cls(ModelConfig(data=data, conditions=tuple(conditions)))
        return Viewed(model, [f"data.name={file}", "data.target=target"], "cpu")

    def draw(self, subject: Viewed, **more: Any) -> Pillow.Image | Moving:
        few = {name: FEW[name] for name in own_options(self.view) if name in FEW}
        return make(self.view, subject, few | self.options | more)

    @cached_property
    def drawn(self) -> list[tuple[Viewed, Pillow.Image | Moving]]:
        """Each subject that the view doesn't refuse, with the picture.

        Raises:
            Broken: it refuses all.
        """
        found, refused = [], []
        self.weights = {subject: weights(subject) for subject in self.subjects}
        for subject in self.subjects:
            try:
                found.append((subject, self.draw(subject)))
            except InputError as error:  # of what it is not for
                refused.append(str(error))
        if not found:
            raise Broken(f"it draws of none of the kit's models: {refused[0]}", "ask for what it needs", self.cls.draw)
        return found


def weights(subject: Viewed) -> dict[str, Tensor]:
    """Return a copy of a subject's weights; none of a log's."""
    return {} if subject.folder else {name: value.clone() for name, value in subject.model.state_dict().items()}


def options(subject: PictureSubject) -> None:
    """Its options are keyword-only arguments of `draw`, each with a type and a default; it is built without arguments."""
    function = subject.view.draw
    try:
        hints = get_type_hints(function, include_extras=True)
    except NameError as error:
        raise Broken(
            f"an annotation of `draw` can't be read: {error}", "import its name where all see it", function
        ) from error
    for parameter in list(inspect.signature(function).parameters.values())[1:]:
        if parameter.kind is parameter.VAR_KEYWORD:
            continue
        if parameter.kind is not parameter.KEYWORD_ONLY:
            raise Broken(f"`draw` takes {parameter.name} by its place", "put a * before it", function)
        if parameter.default is parameter.empty or parameter.name not in hints:
            lacking = "default" if parameter.name in hints else "type"
            raise Broken(f"`draw` has an option {parameter.name} without a {lacking}", "give it one", function)


def picture(subject: PictureSubject) -> None:
    """It draws a picture of a model that has what its class attributes ask for, and no more, whatever is drawn."""
    for viewed, made in subject.drawn:
        if not isinstance(made, Pillow.Image) and not hasattr(made, "strip"):
            raise Broken(f"`draw` gives {type(made)}", "return a PIL.Image.Image or a genhub.Film", subject.cls.draw)
        shown = made if isinstance(made, Pillow.Image) else made.strip()
        if min(shown.size) < 8:
            raise Broken(
                f"of {viewed.modality.told()}, the picture has {shown.size} pixels", "make it large enough", subject.cls.draw
            )


def rows(subject: PictureSubject) -> None:
    """Whether it looks at real rows, `shows_rows` says: a user who names other rows is refused where it doesn't."""
    for viewed, _ in subject.drawn:
        said = subject.view.shows_rows(viewed, subject.options)
        if said != viewed.data_seen:
            what = "looks at real rows" if viewed.data_seen else "looks at no real rows"
            raise Broken(f"`shows_rows` gives {said}, and it {what}", "let them agree", type(subject.view).draw)


def moves(subject: PictureSubject) -> None:
    """Whether it is a film, `moves` says: then it has frames of one size, each shown for some time."""
    for _, made in subject.drawn:
        moving = not isinstance(made, Pillow.Image)
        if moving != subject.view.moves:
            what = "a film" if moving else "a picture"
            raise Broken(f"`moves` is {subject.view.moves}, and `draw` gives {what}", "let them agree", subject.cls)
        if not isinstance(made, Pillow.Image):
            frames, durations = made.frames()
            if len({frame.size for frame in frames}) != 1 or len(frames) != len(durations) or min(durations) <= 0:
                sizes = sorted({frame.size for frame in frames})
                raise Broken(
                    f"{len(frames)} frames of sizes {sizes}, {len(durations)} durations", "make all alike", subject.cls.draw
                )


def repeats(subject: PictureSubject) -> None:
    """The same options give the same picture, and no global random numbers are touched."""
    states = global_states()
    for viewed, made in subject.drawn:
        if encoded(made, False) != encoded(subject.draw(viewed), False):
            raise Broken(
                "a second time it draws another picture",
                "take all that is random from an option `seed`: subject.choose, subject.draw, genhub.randn",
                subject.cls.draw,
            )
    touched = [library for library, state in global_states().items() if state != states[library]]
    if touched:
        raise Broken(
            f"it draws from the global random numbers of {touched[0]}", "make a generator of the seed", subject.cls.draw
        )


def untouched(subject: PictureSubject) -> None:
    """The model is as it was: its weights, and the eval mode."""
    if subject.view.of_log:
        raise NotHere("it is of a log")
    for viewed, _ in subject.drawn:
        before, after = subject.weights[viewed], weights(viewed)
        changed = [name for name in after if not torch.equal(after[name], before[name])]
        if changed or viewed.model.training:
            what = changed[0] if changed else "training mode"
            raise Broken(f"afterwards the model is another: {what}", "work on a copy", subject.cls.draw)
