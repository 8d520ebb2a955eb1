"""Interface of modalities: what a column can be, with what was learnt of it from the data. Import costs no torch.

class Volume(Modality):
    modality: Literal["volume"] = "volume"
    mean: float
    endings = (".npy",)

    def read(self, value): ...                        # a path or an array -> float32 (c, d, h, w)
    def to_batch(self, kept): ...                     # what networks get: standardised
    def from_batch(self, x): ...                      # back to the column's own units
    def picture(self, values, captions=()): ...       # slices, side by side
"""

from __future__ import annotations

import sys
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Protocol, Self

from pydantic import BeforeValidator, Field, SerializeAsAny, ValidationInfo, field_validator

from genhub.errors import PluginError, shown
from genhub.interfaces.control import Control, Line, Upload
from genhub.interfaces.means import Means
from genhub.interfaces.registry import MODALITIES, load_class, plugin_names
from genhub.interfaces.section import STORED, Section, Shape, drawable

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray
    from PIL import Image
    from torch import Tensor

    from genhub.interfaces.network import Embedding


class Unreadable(str):
    """Reason why a value can't be read, in the value's place."""


class RawColumn(Protocol):
    """Column of a split as it is stored: nothing is decoded. `Modality.learn` looks at it."""

    name: str
    """The column's name."""
    title: str
    """Name of the data, for messages."""
    feature: Any
    """The feature by which `datasets` knows it; None where there is none."""

    def __len__(self) -> int: ...

    def raw(self, rows: Sequence[int]) -> Sequence[Any]:
        """Return the values of these rows as they are stored: paths, {"bytes", "path"}, arrays, numbers, texts; None where
        a row has none."""

    def spread(self, most: int) -> list[int]:
        """Return evenly spaced row numbers, at most `most`."""

    def each(self, function: Callable[[Any], Any], rows: Sequence[int]) -> list[Any]:
        """Return `function` of each of these rows' values, on threads: `Unreadable` where it raises, None where the row has
        no value."""

    def place(self, row: int) -> str:
        """Return the name of a row's value, for messages."""

    def fetched(self, source: str, wanted: Callable[[str], bool]) -> tuple[Path, str]:
        """Return the folder of a network that a recipe names, and its commit: a folder of this machine, and "", or that of
        the files of a repository on the Hub that are `wanted`, which are fetched.

        Raises:
            ValueError, GenhubError: it is not there, or can't be fetched.
        """


class ConditionEncoder(Protocol):
    """Frozen network through which a condition's values are seen: run once for each, shared by all who are given them, and
    kept in a folder of its own in a model's."""

    @property
    def name(self) -> str:
        """Name for messages."""

    @property
    def digest(self) -> str:
        """Changes with anything that the result depends on."""

    @property
    def folder(self) -> str:
        """Name of its folder: the same for one network."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of what is made of one value."""

    def encode(self, values: Tensor, device: torch.device) -> Tensor:
        """Return (n, ...) float32, on the device, of values (n, *shape) as in a batch."""

    def encode_each(self, values: Tensor) -> Tensor:
        """Return what `encode` makes of each value by itself, so that its bits don't hang on the others; remembered."""

    def save(self, folder: Path) -> None:
        """Write the network into a folder that is not there yet: safetensors and JSON."""


class Modality(Section):
    """Kind of a column, with what was learnt of it from the training data: it lies in a model's Config, and so in every
    checkpoint. Functions of arrays are pure: nothing is learnt after `learn`."""

    modality: str
    """A registered name (`genhub plugins` lists them), or module:Class for a class of your own."""
    shape: Shape = ()
    """Shape of one element in a batch, channels first: (c, h, w) of an image, (d,) of a vector, () of a number."""

    class Options(Section):
        """Keys that a recipe may set for such a column, under `data.columns.NAME`."""

    @field_validator("shape", check_fields=False)
    @classmethod
    def _is_drawable(cls, shape: tuple[int, ...]) -> tuple[int, ...]:
        return drawable(shape)  # also where a modality declares its own shape

    can_be_target: ClassVar[bool] = True
    """Whether a model can draw it: labels, numbers and texts are conditions only."""
    mirrors: ClassVar[bool] = False
    """Whether `data.flip` mirrors it: its last side goes from left to right."""
    called: ClassVar[tuple[str, ...]] = ()
    """Names of columns of integers, texts or booleans that are of this kind whatever their values, for genhub's own."""
    claims: ClassVar[frozenset[str]] = frozenset()
    """Keys of `Options` by which a recipe says that a column is of this kind, whatever it looks like: {"templates"}."""
    endings: ClassVar[tuple[str, ...]] = ()
    """Endings of the files that it reads, each file one element: (".npy",)."""

    # What it is

    @property
    def dtype(self) -> str:
        """Name of NumPy's type in which values are kept: "uint8" pixels, "float32", "int64" classes."""
        return "float32"

    @property
    def bounds(self) -> tuple[float, float] | None:
        """Range of values in a batch, to which a family clips; None: there is none."""
        return None

    @property
    def levels(self) -> int | None:
        """Number of equally spaced values within `bounds`, 256 for 8 bits; None: continuous."""
        return None

    @property
    def log_scale(self) -> float:
        """Sum over an element's numbers of the log of a batch's unit in the column's own, for densities: minus it, a
        log-density of a batch's values is one of the column's."""
        return 0.0

    @property
    def classes(self) -> int:
        """Number of classes, of which a drawing goes through all in turn where nobody asks for one; 0: it has none."""
        return 0

    # From a column to a batch, and back

    @classmethod
    def recognise(cls, feature: Any, values: Sequence[Any]) -> bool:
        """Whether a column is of this kind, by its feature in `datasets` (None where it has none) and some of its values."""
        return False

    @classmethod
    def suited(cls, column: RawColumn, means: Means) -> dict[str, Any]:
        """Return the `Options` of such a column that suit what there is to train with: {"size": 32} of photos. {}: none are
        needed."""
        return {}

    @classmethod
    @abstractmethod
    def learn(cls, column: RawColumn, options: Any) -> Self:
        """Return the modality of a column, learnt from it: of the training split, of a stream's first 10,000 rows.

        Args:
            options: `Options`, checked.
        Raises:
            ValueError: the column can't be of this kind: what is wrong, and what to do, without the column's name.
        """

    @abstractmethod
    def read(self, value: Any) -> NDArray[Any]:
        """Return a stored value, or one that a person gives from Python, as it is kept: an array of `dtype` and `shape`.

        Raises:
            Exception: it can't be read; the first line of the message says why.
        """

    def widened(self, shape: tuple[int, ...]) -> Self | None:
        """Return the modality that has elements of this shape, too, which `read` gave: values kept so far are broadcast
        to it; None: they don't fit together."""
        return None

    def narrowed(self, value: NDArray[Any]) -> NDArray[Any] | None:
        """Return a value of another shape, which `read` gave, made to fit this modality's: grey of colour. It is asked where
        nothing can widen: of rows that are not kept in memory, and of other data than those it was learnt from. None: it
        can't be."""
        return None

    def read_all(self, values: NDArray[Any]) -> NDArray[Any]:
        """Return what `read` makes of each row of an array of numbers (n, ...), all at once: (n, *shape)."""
        import numpy as np

        return np.stack([self.read(value) for value in values])

    def notes(self, column: RawColumn) -> Sequence[str]:
        """Return lines on what is odd about the column that it was just learnt from, which are printed before training."""
        return ()

    @abstractmethod
    def to_batch(self, kept: Tensor) -> Tensor:
        """Return kept values (n, *shape) as networks get them: images in [-1, 1], signals and vectors standardised."""

    @abstractmethod
    def from_batch(self, x: Tensor) -> Tensor:
        """Return values as networks make them, (n, *shape) float, in the column's own units and type, on the CPU.

        Raises:
            NotFinite: a value is NaN or infinite.
        """

    # As a condition

    def condition(self, width: int, sides: tuple[int, ...]) -> Embedding:
        """Return a new module from values (n, *shape) as in a batch to their share of what a network is `Given`.

        Args:
            width: of a vector (n, width) and of a sequence's tokens (n, length, width).
            sides: of the x that is drawn, (h, w) for images, () for vectors: a spatial condition has them.
        """
        raise PluginError(f"a {self.modality} can't be a condition")

    def wordings(self) -> NDArray[Any] | None:
        """Return other forms of values, (n, k, *shape) as they are kept: the k of each of n values, first the one that
        `read` gives. Training shows a row one of them at random, another in each epoch. None: values have one form."""
        return None

    def encoder(self) -> ConditionEncoder | None:
        """Return the frozen network whose output `condition`'s module takes in the place of values; None: it takes these."""
        return None

    def open_encoder(self, folder: Path) -> None:
        """Read its `encoder`, if it has one, from the folder of encoders in a model's."""

    def split(self, text: str) -> list[str]:
        """Return the values that a text on the command line names: `3,7` are two labels, and a file's name is one."""
        return [text]

    def ask(self, value: Any) -> NDArray[Any]:
        """Return a value that a person asks for, as it is kept: a label by its name, a number in the column's own units.

        Raises:
            ValueError: there is no such value; the nearest right one.
        """
        return self.read(value)

    def told(self) -> str:
        """Return in a few words what can be asked for: `0, 1, 2 and 7 more`, or `a number, 0.06 to 0.42`."""
        return f"a {self.modality} of {'x'.join(map(str, self.shape))}"

    def control(self) -> Control:
        """Return how a person says a value on a page: a `Choice` of names, a `Slider`, a `Line` of text or an `Upload`."""
        return Upload(self.endings) if self.endings else Line()

    def examples(self, most: int) -> Sequence[Any]:
        """Return at most so many different values that can be asked for, as `ask` takes them, which between them show what
        there is: names of classes, numbers from low to high. Cards show them, and what is drawn for them. []: none is
        known."""
        return self.control().examples(most)

    def caption(self, kept: Tensor) -> str:
        """Return one value, as it is kept, in a word or two for a picture's caption; "" where it can't be said."""
        return ""

    # Seen and written

    @property
    def together(self) -> bool:
        """Whether elements are seen in one picture that they share, as points of a plane are; else each has its own."""
        return len(self.shape) < 2

    @abstractmethod
    def picture(self, values: Tensor, captions: Sequence[str] = ()) -> Image.Image:
        """Return one picture of values (n, *shape) in the column's own units: a grid of images, a scatter of points.

        Args:
            captions: of the elements, in their order, repeated in turn; (): none.
        """

    def tile(
        self, values: Tensor, captions: Sequence[str] = (), like: Tensor | None = None, real: Tensor | None = None
    ) -> Image.Image:
        """Return a small picture for a row of them: of one element (1, *shape), or, where they are seen `together`, of all
        (n, *shape), in the column's own units.

        Args:
            captions: of the elements; (): none.
            like: values (m, *shape) that set the axes, so that pictures beside one another have the same; None: its own.
            real: real values (k, *shape), which may be shown in pale behind; None: nothing is.
        """
        return self.picture(values)

    def compare(self, real: Tensor, drawn: Tensor, captions: Sequence[str] = ()) -> Image.Image | None:
        """Return one picture of real values beside drawn ones, (n, *shape) in the column's own units, by which to tell in
        what they differ; None: the `picture` of each will do.

        Args:
            captions: what both elements of a number are given, in their order; (): nothing.
        """
        return None

    def facts(self) -> Mapping[str, Any]:
        """Return what was learnt, for `genhub data` and `genhub info`: JSON by a word or two each."""
        return {}

    file_ending: ClassVar[str | None] = None
    """Ending of the files of a folder of drawn elements, ".png"; None: they are rows, which a folder has no files for."""

    def write_file(self, value: Tensor, path: Path) -> None:
        """Write one element (*shape), in its own units, to a file of `file_ending`."""
        raise PluginError(f"{type(self).__name__} has a file_ending, and no write_file")

    def read_file(self, path: Path) -> Tensor:
        """Return one element that `write_file` wrote; see `is_lossless`."""
        raise PluginError(f"{type(self).__name__} has a file_ending, and no read_file")

    joined_ending: ClassVar[str | None] = None
    """Ending of one file that holds all drawn elements, one after another, as a picture has them side by side: ".wav" of
    sounds; None: there is no such file."""

    def write_joined(self, values: Tensor, path: Path) -> None:
        """Write elements (n, *shape), in their own units, one after another to a file of `joined_ending`."""
        raise PluginError(f"{type(self).__name__} has a joined_ending, and no write_joined")

    def sounds(self, values: Tensor) -> list[bytes]:
        """Return elements (n, *shape), in their own units, each as the content of a WAV file that a page can play; []: they
        can't be heard."""
        return []

    @property
    def is_lossless(self) -> bool:
        """Whether `read_file` gives back all that `write_file` was given."""
        return True

    def to_array(self, values: Tensor) -> NDArray[Any]:
        """Return values (n, *shape) in their own units as the array that an .npz has of them: images (n, h, w, c)."""
        return values.numpy()

    def from_array(self, array: NDArray[Any]) -> Tensor:
        """Return the inverse of `to_array`."""
        import torch

        return torch.from_numpy(array)

    def to_rgb(self, values: Tensor) -> NDArray[Any] | None:
        """Return values (n, *shape) in their own units as colour images (n, h, w, 3) uint8, as others' evaluators read them
        from an .npz, in its array `arr_0`; None: they are no images."""
        return None

    def to_rows(self, values: Tensor) -> list[Any]:
        """Return values (n, *shape) in their own units as rows of a parquet or CSV file: numbers, texts, lists, or what
        `feature` names."""
        rows: list[Any] = values.tolist()
        return rows

    def from_rows(self, rows: Sequence[Any]) -> Tensor:
        """Return the inverse of `to_rows`."""
        import numpy as np
        import torch

        return torch.from_numpy(np.array(rows, dtype=self.dtype))

    def feature(self) -> Any:
        """Return the feature of `datasets` by which a parquet file's column of such rows is known."""
        from datasets import Sequence as List
        from datasets import Value

        kind = Value(self.dtype)
        for _ in self.shape:
            kind = List(kind)
        return kind


def _typed(value: Any, info: ValidationInfo) -> Any:
    """Return a modality as its own class types it: `{modality: image, shape: [1, 8, 8], ...}`."""
    if not isinstance(value, dict):
        return value
    name = value.get("modality")
    own = isinstance(name, str) and ":" in name and name.partition(":")[0] in sys.modules
    if not isinstance(name, str) or (info.context == STORED and not own and name not in plugin_names(MODALITIES)):
        raise ValueError(f"no modality is called {shown(name)} here; its plugin is not installed")
    try:
        cls = load_class(MODALITIES, name, Path.cwd() if ":" in name else None)
    except PluginError as error:
        raise ValueError(str(error)) from error
    return cls.model_validate(value, context=info.context)


AnyModality = Annotated[SerializeAsAny[Modality], BeforeValidator(_typed)]
"""A modality in a Config, typed by its name."""
Columns = Annotated[Mapping[str, AnyModality], Field(max_length=1000)]
"""Columns by name."""
