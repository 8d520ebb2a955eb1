"""A modality, a network and a view that keep their contracts, and others that each break one rule of them: what `genhub.testing`
must find."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from PIL import Image
from torch import nn

from genhub import Choice, Embedding, Given, Metric, Modality, Network, NetworkConfig, NotFinite, PictureRow, View, table

# Modalities


class Trace(Modality):
    """Four numbers."""

    modality: str = "broken_parts:Trace"
    shape: tuple[int] = (4,)
    scale: float

    file_ending: ClassVar[str] = ".npy"

    def __init_subclass__(cls) -> None:
        if "modality" not in cls.__dict__:
            cls.__annotations__["modality"] = "str"
            cls.modality = f"broken_parts:{cls.__name__}"

    @classmethod
    def learn(cls, column, options):
        values = column.each(lambda value: np.abs(np.asarray(value, np.float32)).max(), range(len(column)))
        return cls(scale=float(max(values)))

    def read(self, value):
        return np.asarray(value, np.float32).reshape(4)

    def to_batch(self, kept):
        return kept / self.scale

    def from_batch(self, x):
        if not x.isfinite().all():
            raise NotFinite("traces: NaN or infinity")
        return x.cpu() * self.scale

    def picture(self, values, captions=()):
        return Image.new("L", (len(values), 4))

    def condition(self, width, sides):
        return Layer(width)

    def write_file(self, value, path: Path):
        np.save(path, value.numpy())

    def read_file(self, path: Path):
        return torch.from_numpy(np.load(path))


class Layer(Embedding):
    gives = "vector"

    def __init__(self, width):
        super().__init__()
        self.layer, self.nothing = nn.Linear(4, width), nn.Parameter(torch.zeros(width))

    def forward(self, values, present):
        return Given(vector=torch.where(present[:, None], self.layer(values), self.nothing))


class Seven(Trace):
    """Of seven numbers, which none of the kit's examples is."""

    shape: tuple[int] = (7,)

    def read(self, value):
        return np.asarray(value, np.float32).reshape(7)


class Restless(Trace):
    @classmethod
    def learn(cls, column, options):
        return cls(scale=float(np.random.default_rng().random()) + 1)


class Renamed(Trace):
    modality: str = "vector"


class Doubles(Trace):
    def read(self, value):
        return super().read(value).astype(np.float64)


class Centres(Trace):
    """Subtracts the mean of the batch."""

    def to_batch(self, kept):
        return (kept - kept.mean(0)) / self.scale


class Stays(Trace):
    def from_batch(self, x):
        return super().from_batch(x) / self.scale


class TakesNaN(Trace):
    def from_batch(self, x):
        return x * self.scale


class NoPicture(Trace):
    def picture(self, values, captions=()):
        return values.numpy()


class Silent(Trace):
    def told(self):
        return ""


class Offers(Trace):
    """Names a value that it can't read."""

    def control(self):
        return Choice(("loud",))


class Misleads(Trace):
    def examples(self, most):
        return ["four numbers"]


class Rounds(Trace):
    def to_rows(self, values):
        return [[round(number, 1) for number in value] for value in values.tolist()]


class Halves(Trace):
    def write_file(self, value, path):
        super().write_file(value.half().float(), path)


class PeeksLayer(Layer):
    """Adds a little of the value where there is none."""

    def forward(self, values, present):
        return Given(vector=torch.where(present[:, None], self.layer(values), self.nothing + 1e-3 * values[:, :1]))


class Peeks(Trace):
    def condition(self, width, sides):
        return PeeksLayer(width)


class ShortcutLayer(Layer):
    """Leaves out the learnt value where all rows are present."""

    def forward(self, values, present):
        return Given(vector=self.layer(values)) if present.all() else super().forward(values, present)


class Shortcut(Trace):
    def condition(self, width, sides):
        return ShortcutLayer(width)


# Networks


class Plain(Network):
    """Two layers on vectors."""

    class Config(NetworkConfig):
        takes: ClassVar = frozenset({"vector"})
        default_for: ClassVar = frozenset({0})
        hidden: int = 8

        @property
        def width(self):
            return self.hidden

        def check(self, shape):
            if len(shape) != 1:
                raise ValueError("name: plain is for vectors")

    def __init__(self, config, shape, conditioner, out_channels=None):
        super().__init__()
        self.enter = nn.Linear(shape[0] + 1, config.hidden)
        self.leave = nn.Linear(config.hidden, out_channels or shape[0])

    def forward(self, x, t, given):
        return self.leave(torch.tanh(self.hidden(x, t, given)))

    def hidden(self, x, t, given):
        time = x.new_zeros(len(x)) if t is None else t.reshape(len(x), -1)[:, 0] / 1000
        hidden = self.enter(torch.cat([x, time[:, None]], 1))
        return hidden if given.vector is None else hidden + given.vector


class Refuses(Plain):
    class Config(Plain.Config):
        def check(self, shape):
            if len(shape) != 1 or shape[0] < 100:
                raise ValueError("name: wants more")


class Narrow(Plain):
    """Has as many channels as x, whatever is asked for."""

    def __init__(self, config, shape, conditioner, out_channels=None):
        super().__init__(config, shape, conditioner)


class Timeless(Plain):
    def hidden(self, x, t, given):
        return super().hidden(x, None, given)


class Deaf(Plain):
    def hidden(self, x, t, given):
        return super().hidden(x, t, given if given.vector is None else Given(vector=0 * given.vector))


class Spare(Plain):
    def __init__(self, config, shape, conditioner, out_channels=None):
        super().__init__(config, shape, conditioner, out_channels)
        self.spare = nn.Linear(2, 2)


class BatchMean(Plain):
    def hidden(self, x, t, given):
        return super().hidden(x - x.mean(0), t, given)


class Unsaved(Plain):
    """Has an attribute that no two of them share."""

    built = 0

    def __init__(self, config, shape, conditioner, out_channels=None):
        super().__init__(config, shape, conditioner, out_channels)
        Unsaved.built += 1
        self.drawn = 0.01 * Unsaved.built

    def hidden(self, x, t, given):
        return super().hidden(x, t, given) + self.drawn


class NotInBF16(Plain):
    """The logarithm of what float32 can tell from 0, and bfloat16 can't."""

    def forward(self, x, t, given):
        output = super().forward(x, t, given)
        return output + 1e-6 * (1 - (0 * output + 10).sigmoid()).log()


class Counts(Plain):
    """Doubles what a compiler runs."""

    def hidden(self, x, t, given):
        return super().hidden(x, t, given) * (2 if torch.compiler.is_compiling() else 1)


# Metrics


class Apart(Metric):
    """Distance of the means of the numbers."""

    figures: ClassVar = {"apart": "lower"}
    has_floor = True

    def compute(self, subject):
        real = subject.numbers(subject.reference.own(subject.reference_rows))
        return {"apart": float((real.mean(0) - subject.numbers(subject.drawn).mean(0)).norm())}


class Nameless(Apart):
    figures: ClassVar = {"how far apart": "lower"}


class Eager(Apart):
    def missing(self, subject):
        return None if len(subject.drawn) else "draws nothing"


class Partial(Apart):
    figures: ClassVar = {"apart": "lower", "apart_too": None}


class Tosses(Apart):
    def compute(self, subject):
        return {"apart": super().compute(subject)["apart"] + torch.rand(()).item()}


class Scales(Apart):
    def compute(self, subject):
        subject.drawn.mul_(2)
        return super().compute(subject)


class Secret(Apart):
    def compute(self, subject):
        real, drawn = subject.features
        return {"apart": float((real.mean(0) - drawn.mean(0)).norm())}


class Greedy(Apart):
    """Compares the fifth rows alone."""

    def compute(self, subject):
        return super().compute(subject) | {"apart_of_fifth": float(subject.drawn[4].float().mean())}


class Sways(Apart):
    """Real rows are the farther, the larger the model's weights."""

    def compute(self, subject):
        return {"apart": super().compute(subject)["apart"] + next(subject.model.parameters()).mean().item()}


class Backwards(Apart):
    figures: ClassVar = {"apart": "higher"}


# Views


class Drawn(View):
    """Some drawn elements in a row."""

    def shows_rows(self, subject, options):
        return False

    def draw(self, subject, *, n: int = 3, seed: int = 0, **options):
        return self.row(subject, subject.draw(n, seed, options=options))

    def row(self, subject, x):
        return table(subject.title, "", [PictureRow.of("drawn", subject.modality, x)])


class Untyped(Drawn):
    def draw(self, subject, *, n=3, seed: int = 0, **options):
        return super().draw(subject, n=n, seed=seed, **options)


class Sneaks(Drawn):
    """Uses a capability that it doesn't ask for."""

    def draw(self, subject, *, n: int = 3, seed: int = 0, **options):
        x = subject.draw(n, seed, options=options)
        return self.row(subject, subject.model.decode(subject.model.encode(x)))


class Blind(Drawn):
    def shows_rows(self, subject, options):
        return True


class Still(Drawn):
    moves = True


class Restive(Drawn):
    def draw(self, subject, *, n: int = 3, seed: int = 0, **options):
        return self.row(subject, torch.from_numpy(np.random.default_rng().normal(size=(n, *subject.modality.shape))).float())


class Meddles(Drawn):
    """Leaves the model's weights changed."""

    def draw(self, subject, *, n: int = 3, seed: int = 0, **options):
        made = super().draw(subject, n=n, seed=seed, **options)
        with torch.no_grad():
            for parameter in subject.model.parameters():
                parameter.add_(1e-6)
        return made
