"""Images: pictures in files, arrays and tables, as 8-bit or 16-bit pixels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import Field, field_validator

from genhub.errors import InputError
from genhub.interfaces.means import Means
from genhub.interfaces.modality import Modality, RawColumn, Unreadable
from genhub.interfaces.section import PositiveInt, Section
from genhub.modalities.learnt import readable

if TYPE_CHECKING:
    import PIL.Image
    from numpy.typing import NDArray
    from torch import Tensor

    from genhub.interfaces.network import Embedding

SURVEYED, LOOKED_AT = 1000, 64
"""Number of images whose headers tell the shape of all, and that are looked at for the range of values in use."""
LEAST = 16
"""Least side to which images are made smaller where nobody says one."""
PNG_CHANNELS = (1, 3, 4)
ENDINGS = (
    ".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".pbm",
    ".pnm", ".pfm", ".tga", ".icb", ".vda", ".vst", ".avif", ".avifs", ".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx",
)  # fmt: skip
"""Endings of files of `pixels.IMAGE_FORMATS`, as Pillow knows them."""


class Image(Modality):
    """A column of images (c, h, w). Networks get them in [-1, 1]; black is -1, white 1."""

    modality: Literal["image"] = "image"
    shape: tuple[PositiveInt, PositiveInt, PositiveInt]
    """(channels, height, width)"""
    bits: Literal[8, 16] = 8
    """Bits of a pixel's channel, as kept and drawn."""
    value_range: tuple[float, float] | None = Field(default=None, exclude_if=lambda value: value is None)
    """The stored values that became black and white; None: the type's own, such as 0 and 255."""
    resized: bool = False
    """Whether images are resized to cover this shape, then centre-cropped; else all must have it."""
    converted: bool = False
    """Whether images are converted to these channels; else only grey and colour are made to fit together."""

    class Options(Section):
        size: PositiveInt | tuple[PositiveInt, PositiveInt] | None = None
        """Side, or [height, width]: images are resized to cover it, then centre-cropped. Left out: all must be one size."""
        channels: Literal[1, 3, 4] | None = None
        """Convert to grey (1), RGB (3) or RGBA (4). Left out: grey if all images are grey, else RGB."""
        value_range: Literal["auto"] | tuple[float, float] | None = None
        """The values that are black and white in the images as they are stored, such as [0, 4095] for 12 bits in a 16-bit
        file; those beyond are cut off. auto: the least and the largest of the training data. Left out: the type's, as 0 to
        65535."""
        bits: Literal[8, 16] = 8
        """Shades that are kept and drawn: 256, or 65,536."""

        @field_validator("value_range")
        @classmethod
        def _has_two_ends(
            cls, values: Literal["auto"] | tuple[float, float] | None
        ) -> Literal["auto"] | tuple[float, float] | None:
            if isinstance(values, tuple) and values[0] >= values[1]:
                raise ValueError(f"must be [low, high] with low below high, not [{values[0]:g}, {values[1]:g}]")
            return values

    mirrors = True
    endings = ENDINGS
    file_ending = ".png"

    # What it is

    @property
    def dtype(self) -> str:
        return "uint8" if self.bits == 8 else "uint16"

    @property
    def bounds(self) -> tuple[float, float]:
        return -1.0, 1.0

    @property
    def levels(self) -> int:
        return 256 if self.bits == 8 else 65_536

    @property
    def _top(self) -> int:
        return self.levels - 1

    # From a column to a batch, and back

    @classmethod
    def recognise(cls, feature: Any, values: Sequence[Any]) -> bool:
        """Whether a column is marked as images, or holds pictures, paths of image files, or arrays of two or three sides."""
        import numpy as np

        if type(feature).__name__ in ("Image", "Array2D", "Array3D"):
            return True
        there = [value for value in values if value is not None]
        if not there or isinstance(there[0], Mapping):
            return False
        if all(isinstance(value, str) for value in there):
            return feature is None and all(Path(value).suffix.lower() in cls.endings for value in there)
        if all(isinstance(value, np.ndarray) for value in there):
            return all(value.ndim in (2, 3) and value.dtype in (np.uint8, np.uint16) for value in there)
        return all(hasattr(value, "convert") and hasattr(value, "getbands") for value in there)

    @classmethod
    def suited(cls, column: RawColumn, means: Means) -> dict[str, Any]:
        """Return a size for images that are not all of one, or too large for the time; one that networks can halve."""
        from genhub.modalities.pixels import stored_shape

        found = column.each(stored_shape, column.spread(LOOKED_AT))
        shapes = [shape[1:] for shape in found if isinstance(shape, tuple)]
        most = 64 if means.accelerator else 32
        if not shapes:
            return {}  # which `learn` tells
        if len(set(shapes)) == 1 and max(shapes[0]) <= most and not any(side % 4 for side in shapes[0]):
            return {}
        shorter = sorted(map(min, shapes))[len(shapes) // 10]  # a few small ones are made larger
        return {"size": min(most, max(LEAST, shorter // 4 * 4))}

    @classmethod
    def learn(cls, column: RawColumn, options: Any) -> Self:
        """Return the modality of a column's images: of the size and channels that 1,000 evenly spaced ones have by their
        headers."""
        from genhub.modalities.pixels import as_array, refuse_bombs, stored_shape, type_range

        refuse_bombs()
        rows = column.spread(SURVEYED)
        found = column.each(stored_shape, rows)
        shapes = [(row, shape) for row, shape in zip(rows, found, strict=True) if isinstance(shape, tuple)]
        if not shapes:
            reasons = [(row, reason) for row, reason in zip(rows, found, strict=True) if isinstance(reason, Unreadable)]
            said = "; ".join(f"{column.place(row)}: {reason}" for row, reason in reasons[:5])
            raise ValueError(
                f"{len(reasons)} of {len(column)} images can't be read: {said}" if said else "has no image at all"
            )
        first, (channels, *stored) = shapes[0]
        (raw,) = column.raw([first])
        if as_array(raw) is None:
            channels = max(shape[0] for _, shape in shapes)
        elif options.value_range is None:
            type_range(raw)  # of arrays that have none
        size = (options.size, options.size) if isinstance(options.size, int) else options.size
        span = _span(column, options)
        height, width = size or stored
        return cls(
            shape=(options.channels or channels, height, width), bits=options.bits, value_range=span,
            resized=size is not None, converted=options.channels is not None,
        )  # fmt: skip

    def read(self, value: Any) -> NDArray[Any]:
        """Return pixels (c, h, w). Grey and colour come as they are, unless the recipe says which: see `widened`."""
        from genhub.modalities.pixels import decoded

        channels = self.shape[0] if self.converted else None
        return decoded(value, channels, self.shape[1:] if self.resized else None, self.value_range, self._top)

    def read_all(self, values: NDArray[Any]) -> NDArray[Any]:
        import numpy as np

        if values.dtype == self.dtype and values.shape[1:] == self.shape and self.value_range is None:
            return values
        if values.dtype == self.dtype and self.shape == (1, *values.shape[1:]) and self.value_range is None:
            return values[:, None]
        return np.stack([self.read(value) for value in values])

    def widened(self, shape: tuple[int, ...]) -> Self | None:
        """Return colour for grey, when colour is found among grey images."""
        grey_too = (self.shape[0], shape[0]) == (1, 3) and shape[1:] == self.shape[1:]
        return self.model_copy(update={"shape": shape}) if grey_too else None

    def narrowed(self, value: NDArray[Any]) -> NDArray[Any] | None:
        """Return colour as grey, and grey as colour."""
        from genhub.modalities.pixels import recoloured

        if value.shape[1:] != self.shape[1:] or {len(value), self.shape[0]} != {1, 3}:
            return None
        return recoloured(value, self.shape[0])

    def notes(self, column: RawColumn) -> Sequence[str]:
        """Return a line where images use less than a quarter of their type's range of values."""
        if self.value_range is not None:
            return ()
        from genhub.modalities.pixels import extent, type_range

        top = readable(column, type_range, column.spread(LOOKED_AT))[0]
        for rows in (column.spread(LOOKED_AT), _most(column)):  # the few tell of most data that nothing is odd
            found = readable(column, extent, rows)
            low, high = min(low for low, _ in found), max(high for _, high in found)
            if not 0 < high - low < top / 4:
                return ()
        key = f"data.columns.{column.name}.value_range"
        return (
            f"{column.title}: its values are {low:g} to {high:g}, and 0 to {top:g} are taken for black to white: "
            f"few shades are left; {key}=auto, or =[{low:g},{high:g}], scales them",
        )

    def to_batch(self, kept: Tensor) -> Tensor:
        values = kept if self.bits == 8 else kept.float()  # torch divides no uint16
        return values.div(self._top / 2).sub_(1)

    def from_batch(self, x: Tensor) -> Tensor:
        import torch

        from genhub.ground.finite import check_finite

        check_finite(x, "images")
        half = self._top / 2
        return x.float().add(1).mul(half).round().clamp(0, self._top).to(getattr(torch, self.dtype)).cpu()

    # As a condition

    def condition(self, width: int, sides: tuple[int, ...]) -> Embedding:
        from genhub.modalities.embeddings import PooledEmbedding, SpatialEmbedding

        return SpatialEmbedding(self.shape[0], sides) if len(sides) == 2 else PooledEmbedding(self.shape, width)

    def ask(self, value: Any) -> NDArray[Any]:
        """Return a picture of any size and colour that a person asks with, a file's path or an array, made to fit."""
        from genhub.modalities.pixels import decoded

        where = f"{value}: " if isinstance(value, str | Path) else ""
        try:
            given = str(value) if where else value
            return decoded(given, self.shape[0], self.shape[1:], self.value_range, self._top)
        except FileNotFoundError:
            raise ValueError(f"no such file: {value}") from None
        except Exception as error:  # decoders raise OSError, SyntaxError, struct.error and more
            raise ValueError(f"{where}{getattr(error, 'strerror', None) or error}") from error

    def told(self) -> str:
        return f"an image, a file of which is made {'x'.join(map(str, self.shape))}"

    # Seen and written

    def picture(self, values: Tensor, captions: Sequence[str] = ()) -> PIL.Image.Image:
        from genhub.modalities.plots import tiled

        return tiled([enlarged(image_of(image)) for image in values], captions=captions)

    def tile(
        self, values: Tensor, captions: Sequence[str] = (), like: Tensor | None = None, real: Tensor | None = None
    ) -> PIL.Image.Image:
        """Return the pixels of one image, without a frame around them."""
        return image_of(in_bytes(values[0], self.levels))

    def facts(self) -> Mapping[str, Any]:
        facts: dict[str, Any] = {} if self.bits == 8 else {"bits": self.bits}
        return facts | ({"black": self.value_range[0], "white": self.value_range[1]} if self.value_range else {})

    def write_file(self, value: Tensor, path: Path) -> None:
        image_of(value).save(path, format="PNG")

    def read_file(self, path: Path) -> Tensor:
        import PIL.Image

        with PIL.Image.open(path) as image:
            return _pixels(image, self.dtype)

    @property
    def is_lossless(self) -> bool:
        return self.shape[0] in PNG_CHANNELS if self.bits == 8 else self.shape[0] == 1

    def _check_png(self) -> None:
        if not self.is_lossless:
            kind = "a PNG has 1, 3 or 4 channels" if self.bits == 8 else "a PNG of 16 bits has 1 channel"
            raise InputError(f"--out: {kind}, not {self.shape[0]}; x.npz keeps them all")

    def to_array(self, values: Tensor) -> NDArray[Any]:
        return values.permute(0, 2, 3, 1).contiguous().numpy()

    def from_array(self, array: NDArray[Any]) -> Tensor:
        import torch

        return torch.from_numpy(array).permute(0, 3, 1, 2).contiguous()

    def to_rgb(self, values: Tensor) -> NDArray[Any]:
        """Return images of 8 bits in colour: grey repeated, of more than three channels the first three."""
        return self.to_array(as_rgb(in_bytes(values, self.levels)))

    def to_rows(self, values: Tensor) -> list[Any]:
        from io import BytesIO

        self._check_png()
        rows = []
        for value in values:
            stream = BytesIO()
            image_of(value).save(stream, format="PNG")
            rows.append({"bytes": stream.getvalue(), "path": None})
        return rows

    def from_rows(self, rows: Sequence[Any]) -> Tensor:
        from io import BytesIO

        import PIL.Image
        import torch

        return torch.stack([_pixels(PIL.Image.open(BytesIO(row["bytes"])), self.dtype) for row in rows])

    def feature(self) -> Any:
        from datasets import Image as Feature

        self._check_png()
        return Feature()


def _span(column: RawColumn, options: Any) -> tuple[float, float] | None:
    """Return the values that are black and white: with `value_range: auto` the least and the largest of a column."""
    if options.value_range != "auto":
        given: tuple[float, float] | None = options.value_range
        return given
    from genhub.modalities.pixels import extent

    found = readable(column, extent, _most(column))
    low, high = min(low for low, _ in found), max(high for _, high in found)
    if low == high:
        raise ValueError(f"value_range: auto: all images hold the value {low:g} alone; give [low, high]")
    return low, high


def _most(column: RawColumn) -> Sequence[int]:
    """Return the rows that are looked at for the values in use: all, of very many some."""
    return range(len(column)) if len(column) <= 20 * SURVEYED else column.spread(SURVEYED)


def image_of(value: Tensor) -> PIL.Image.Image:
    """Return (c, h, w) as a picture: grey, RGB or RGBA; of other channel counts the first one or first three. Of 16 bits,
    grey stays as it is, and colour has 8."""
    import PIL.Image
    import torch

    channels = value.shape[0]
    shown = value if channels in PNG_CHANNELS else value[: 1 if channels == 2 else 3]
    if value.dtype == torch.uint16 and len(shown) > 1:
        shown = (shown.to(torch.int32) // 257).to(torch.uint8)
    array = shown.permute(1, 2, 0).contiguous().numpy()
    return PIL.Image.fromarray(array[..., 0] if array.shape[-1] == 1 else array)


def in_bytes(images: Tensor, levels: int) -> Tensor:
    """Return images of so many levels as uint8."""
    import torch

    return images if levels == 256 else (images.float() * (255 / (levels - 1))).round().to(torch.uint8)


def as_rgb(images: Tensor) -> Tensor:
    """Return images (n, c, h, w) as (n, 3, h, w): grey repeated, of more than three channels the first three."""
    channels = images.shape[1]
    return images[:, :3] if channels >= 3 else images[:, :1].expand(-1, 3, -1, -1)


def enlarged(image: PIL.Image.Image) -> PIL.Image.Image:
    """Return a small image enlarged, and smoothly, as eyes read an 8x8 digit better that way; of 16 bits, with 8."""
    import PIL.Image

    if image.mode[0] == "I":
        import numpy as np

        image = PIL.Image.fromarray((np.asarray(image) // 257).astype(np.uint8))
    scale = max(1, 64 // max(image.size))
    return image.resize((image.width * scale, image.height * scale), PIL.Image.Resampling.BICUBIC)


def _pixels(image: PIL.Image.Image, dtype: str) -> Tensor:
    """Return (c, h, w), the inverse of `image_of` where a PNG has room for all channels."""
    import numpy as np
    import torch

    array = np.array(image)
    if array.dtype == np.uint8 and dtype == "uint16":  # colour, which has 8 bits in a file
        array = array.astype(np.uint16) * 257
    array = array.astype(dtype)
    return torch.from_numpy(array.reshape(*array.shape[:2], -1)).permute(2, 0, 1)
