"""Volumes: a modality that genhub does not have, of three sides, such as scans, densities and simulations. Every family and
every network that takes data of three sides then draws them, and is given them as conditions.

A volume is (c, d, h, w): c channels, and d slices of h x w numbers. It lies in a NumPy file (.npy) of its own, or is a row
of an array; one without channels, (d, h, w), has one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from genhub import Modality, NotFinite, PositiveInt, RawColumn, Unreadable

if TYPE_CHECKING:  # nothing heavy is imported before it is needed: `genhub --help` looks at every modality
    from numpy.typing import NDArray
    from PIL import Image
    from torch import Tensor

    from genhub import Embedding

LARGEST = 3.4e38
"""Largest number that is kept, about that of float32."""
SLICES, SLICE_SIDE, GAP, LETTERS = 5, 32, 2, 11
"""Of a picture: the most slices a volume, pixels a slice's longer side has at least, pixels between, a caption's height."""
Numbers = Annotated[tuple[float, ...], Field(min_length=1, max_length=10_000)]


class Volume(Modality):
    """A column of volumes (c, d, h, w). Networks get each channel standardised by its mean and deviation in the training
    data."""

    modality: Literal["volume"] = "volume"
    shape: tuple[PositiveInt, PositiveInt, PositiveInt, PositiveInt]
    """(channels, slices, height, width)"""
    mean: Numbers
    """Mean of each channel in the training data."""
    std: Numbers
    """Standard deviation of each channel in the training data; 1 where it is constant."""
    low: float
    """Least number of the training data: black in pictures."""
    high: float
    """Greatest number of the training data: white in pictures."""

    endings = (".npy",)
    file_ending: ClassVar[str | None] = ".npy"

    @model_validator(mode="after")
    def _is_complete(self) -> Self:
        if {len(self.mean), len(self.std)} != {self.shape[0]} or min(self.std) <= 0:
            raise ValueError(f"mean, std: must have {self.shape[0]} numbers each, std above 0")
        return self

    @property
    def log_scale(self) -> float:
        return math.prod(self.shape[1:]) * sum(map(math.log, self.std))

    # From a column to a batch, and back

    @classmethod
    def recognise(cls, feature: Any, values: Sequence[Any]) -> bool:
        """Whether all are paths of .npy files, or arrays of four sides, or of three sides of floating-point numbers: those
        of integers are images, which genhub recognises first."""
        import numpy as np

        if type(feature).__name__ == "Array4D":
            return True
        there = [value for value in values if value is not None]
        if there and all(isinstance(value, str) for value in there):
            return feature is None and all(Path(value).suffix.lower() in cls.endings for value in there)
        arrays = [value for value in there if isinstance(value, np.ndarray) and value.dtype.kind in "buif"]
        volumes = [array for array in arrays if array.ndim == 4 or (array.ndim == 3 and array.dtype.kind == "f")]
        return bool(there) and len(volumes) == len(there)

    @classmethod
    def learn(cls, column: RawColumn, options: Any) -> Self:
        """Return the modality of a column's volumes, all of the shape of the first that can be read. Each is read once,
        and its moments alone are kept."""
        import numpy as np

        def moments(value: Any) -> Any:
            volume = _read(value).astype(np.float64)
            sides = 1, 2, 3
            return volume.shape, volume.mean(sides), volume.var(sides), volume.min(), volume.max()

        rows = range(len(column))
        each = column.each(moments, rows)
        found = [one for one in each if one is not None and not isinstance(one, Unreadable)]
        if not found:
            row = next((row for row in rows if each[row] is not None), None)
            raise ValueError("no row has a volume" if row is None else f"{column.place(row)}: {each[row]}")
        shape = found[0][0]
        # One of another shape is told, with both rows' names, when the rows are read.
        alike = [one[1:] for one in found if one[0] == shape]
        means, variances, lows, highs = (np.stack(part) for part in zip(*alike, strict=True))
        std = np.sqrt(variances.mean(0) + means.var(0))  # of all numbers, as all volumes have as many
        return cls(
            shape=shape,
            mean=tuple(means.mean(0).tolist()),
            std=tuple(np.where(std > np.finfo(np.float32).tiny, std, 1.0).tolist()),
            low=float(lows.min()),
            high=float(highs.max()),
        )

    def read(self, value: Any) -> NDArray[Any]:
        return _read(value)

    def to_batch(self, kept: Tensor) -> Tensor:
        return (kept - _by_channel(self.mean, kept)) / _by_channel(self.std, kept)

    def from_batch(self, x: Tensor) -> Tensor:
        x = x.detach().double().cpu()
        if not x.isfinite().all():
            raise NotFinite("volumes: NaN or infinity, which is not shown, written or measured")
        return (x * _by_channel(self.std, x) + _by_channel(self.mean, x)).float()

    # As a condition

    def condition(self, width: int, sides: tuple[int, ...]) -> Embedding:
        return _beside(self.shape[0], sides) if len(sides) == 3 else _pooled(self.shape[0], width)

    def ask(self, value: Any) -> NDArray[Any]:
        try:
            volume = self.read(value)
        except OSError as error:
            raise ValueError(f"{value}: {error.strerror or error}") from error
        if volume.shape != self.shape:
            raise ValueError(f"must be a volume of {_times(self.shape)}, not of {_times(volume.shape)}")
        return volume

    def told(self) -> str:
        return f"a volume of {_times(self.shape)} numbers, an .npy"

    def facts(self) -> Mapping[str, Any]:
        return {"mean": list(self.mean), "std": list(self.std), "low": self.low, "high": self.high}

    # Seen and written

    def picture(self, values: Tensor, captions: Sequence[str] = ()) -> Image.Image:
        """Return a grid of volumes, each a strip of evenly spaced slices, from the first to the last; channels lie under one
        another. Black and white are the least and the greatest number of the training data."""
        import numpy as np
        from PIL import Image

        span = max(self.high - self.low, 1e-30)
        grey = np.clip((values.double().numpy() - self.low) / span * 255, 0, 255).round().astype(np.uint8)
        return _grid([Image.fromarray(self._strip(volume)) for volume in grey], captions)

    def _strip(self, volume: NDArray[Any]) -> NDArray[Any]:
        """Return the pixels of one volume (c, d, h, w)."""
        import numpy as np

        _, depth, height, width = self.shape
        number = min(depth, SLICES)
        chosen = [(2 * slice_ + 1) * depth // (2 * number) for slice_ in range(number)]
        times = -(-SLICE_SIDE // max(height, width))
        large = volume[:, chosen].repeat(times, 2).repeat(times, 3)
        framed = np.pad(large, ((0, 0), (0, 0), (0, 1), (0, 1)), constant_values=128)  # a grey line between
        return np.concatenate([np.concatenate(list(channel), 1) for channel in framed])[:-1, :-1]

    def write_file(self, value: Tensor, path: Path) -> None:
        import numpy as np

        with path.open("wb") as stream:  # np.save adds an ending to a path that has another
            np.save(stream, value.numpy(), allow_pickle=False)

    def read_file(self, path: Path) -> Tensor:
        import torch

        return torch.from_numpy(self.read(path))

    def feature(self) -> Any:
        from datasets import Array4D

        return Array4D(shape=self.shape, dtype=self.dtype)


def _read(value: Any) -> NDArray[Any]:
    """Return a volume (c, d, h, w) float32 of a file's path, an array, a tensor or lists.

    Raises:
        ValueError: it is no volume, or has numbers that are not finite.
    """
    import numpy as np

    if isinstance(value, str | Path):
        value = np.load(value, allow_pickle=False)
    if hasattr(value, "detach"):
        value = value.detach().cpu()
    volume = np.asarray(value, np.float64)
    volume = volume[None] if volume.ndim == 3 else volume
    if volume.ndim != 4 or not volume.size:
        raise ValueError(f"must be a volume (d, h, w) or (c, d, h, w), not of shape {np.shape(value)}")
    if not (np.abs(volume) <= LARGEST).all():  # nor is NaN
        raise ValueError("has values that are not finite, or beyond 3.4e38")
    return volume.astype(np.float32)


# The modules are defined where they are made, as a class of torch's at the top would import torch.


def _beside(channels: int, sides: tuple[int, ...]) -> Embedding:
    """Return the embedding of volumes for an x that has three sides, too: channels beside x."""
    import torch
    from torch import nn

    from genhub import Embedding, Given

    class Beside(Embedding):
        """Volumes resized to the sides of x, and a channel that says whether they are there; in place of a missing one, a
        learnt number a channel."""

        gives: ClassVar[str] = "spatial"

        def __init__(self) -> None:
            super().__init__()
            self.channels = channels + 1
            self.nothing = nn.Parameter(torch.zeros(channels, 1, 1, 1))

        def forward(self, values: Tensor, present: Tensor) -> Given:
            there = present.view(-1, 1, 1, 1, 1)
            if tuple(values.shape[2:]) != sides:
                values = nn.functional.interpolate(values, sides, mode="trilinear")
            mask = there.to(values.dtype).expand(-1, 1, *sides)
            return Given(spatial=torch.cat([torch.where(there, values, self.nothing), mask], 1))

    return Beside()


def _pooled(channels: int, width: int) -> Embedding:
    """Return the embedding of volumes for an x of other sides, such as an image: a vector."""
    import torch
    from torch import nn

    from genhub import Embedding, Given

    class Pooled(Embedding):
        """Three convolutions of stride 2, their mean over all places, and a layer; in place of a missing volume, a learnt
        vector."""

        gives: ClassVar[str] = "vector"

        def __init__(self) -> None:
            super().__init__()
            layers: list[nn.Module] = []
            for before, after in [(channels, 16), (16, 32), (32, 64)]:
                layers += [nn.Conv3d(before, after, 3, stride=2, padding=1), nn.SiLU()]
            self.convolutions = nn.Sequential(*layers)
            self.linear = nn.Linear(64, width)
            self.nothing = nn.Parameter(torch.zeros(width))

        def forward(self, values: Tensor, present: Tensor) -> Given:
            vectors = self.linear(self.convolutions(values).mean((2, 3, 4)))
            return Given(vector=torch.where(present[:, None], vectors, self.nothing))

    return Pooled()


def _by_channel(numbers: Sequence[float], like: Tensor) -> Tensor:
    return like.new_tensor(numbers).view(-1, 1, 1, 1)


def _times(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape))


def _grid(tiles: Sequence[Image.Image], captions: Sequence[str]) -> Image.Image:
    """Return tiles of equal size in a grid about as wide as high, a caption under each where there are any."""
    from PIL import Image, ImageDraw, ImageFont

    width, height = tiles[0].size
    below = LETTERS + 2 if any(captions) else 0
    across, down = width + GAP, height + below + GAP
    columns = min(len(tiles), max(1, round(math.sqrt(len(tiles) * down / across))))
    canvas = Image.new("L", (columns * across + GAP, -(-len(tiles) // columns) * down + GAP), 64)
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(LETTERS)
    for place, tile in enumerate(tiles):
        left, top = GAP + place % columns * across, GAP + place // columns * down
        canvas.paste(tile, (left, top))
        if below:
            draw.text((left, top + height), captions[place % len(captions)], 255, font)
    return canvas
