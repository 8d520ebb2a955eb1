"""Signals: sounds and other measurements over time, (channels, length)."""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from genhub.interfaces.means import Means
from genhub.interfaces.modality import Modality, RawColumn
from genhub.interfaces.section import PositiveInt, Section
from genhub.modalities.learnt import deviation, readable, single

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL import Image
    from torch import Tensor

    from genhub.interfaces.network import Embedding

MOST_CHANNELS = 10_000
FIRST = 100
"""Number of values among which the first one that can be read tells the shape of all."""
MOST_RATE, MOST_VALUES = (4000, 16_000), (2048, 16_384)
"""Values a second, and values in all, that a CPU and an accelerator have time for."""
Peak = Annotated[float, Field(gt=0)]
Rate = Annotated[int, Field(strict=True, ge=1, le=10_000_000)]


class Signal(Modality):
    """A column of signals (c, t). Networks get each channel standardised by its mean and deviation in the training data."""

    modality: Literal["signal"] = "signal"
    shape: tuple[PositiveInt, PositiveInt]
    """(channels, length)"""
    mean: Annotated[tuple[float, ...], Field(max_length=MOST_CHANNELS)]
    """Mean of each channel in the training data."""
    std: Annotated[tuple[float, ...], Field(max_length=MOST_CHANNELS)]
    """Standard deviation of each channel in the training data; 1 where it is constant."""
    rate: Rate | None = None
    """Values a second, for sounds; None: not known."""
    fitted: bool = False
    """Whether signals are cut to this length, or filled up with 0; else all must have it."""
    peak: Peak | None = None
    """Largest magnitude, to which each signal is scaled; None: they are as loud as they are."""

    class Options(Section):
        length: PositiveInt | None = None
        """Number of values: longer signals are cut, shorter ones filled up with 0. Left out: all must be as long."""
        rate: Rate | None = None
        """Values a second, to which sounds are resampled; left out: that of the first one."""
        peak: Peak | None = None
        """Scale each signal so that its largest magnitude is this: recordings of all loudnesses become alike, 0.9 say. Left
        out: they stay as loud as they are."""

    endings = (".wav", ".flac", ".ogg", ".mp3")

    @model_validator(mode="after")
    def _is_complete(self) -> Self:
        if {len(self.mean), len(self.std)} != {self.shape[0]} or min(self.std) <= 0:
            raise ValueError(f"mean, std: must have {self.shape[0]} numbers each, std above 0")
        return self

    @property
    def log_scale(self) -> float:
        return self.shape[1] * sum(map(math.log, self.std))

    @classmethod
    def recognise(cls, feature: Any, values: Sequence[Any]) -> bool:
        """Whether a column is marked as sounds, holds paths of sound files, or lists of lists, or arrays of two sides, of
        floating-point numbers: (channels, length). An Array2D of `datasets` is an image unless the recipe says otherwise."""
        import numpy as np

        if type(feature).__name__ == "Audio":
            return True
        there = [value for value in values if value is not None]
        if there and feature is None and all(isinstance(value, str) for value in there):
            return all(Path(value).suffix.lower() in cls.endings for value in there)
        lists = bool(there) and all(isinstance(value, list | np.ndarray) for value in there)
        if not lists or type(feature).__name__ == "Array2D":
            return False
        try:
            arrays = [np.asarray(value) for value in there]
        except ValueError:
            return False
        return all(array.ndim == 2 and array.dtype.kind == "f" for array in arrays)

    @classmethod
    def suited(cls, column: RawColumn, means: Means) -> dict[str, Any]:
        """Return a length, and for sounds a rate and a loudness, for signals that are not all as long or have more values
        than the time is enough for."""
        from genhub.modalities.sounds import read_sound

        found = readable(column, read_sound, column.spread(FIRST))
        lengths, rates = [values.shape[1] for values, _ in found], [rate for _, rate in found if rate]
        rate = min([*rates, MOST_RATE[means.accelerator]]) if rates else None
        typical = sorted(lengths)[len(lengths) // 2] * (rate / max(rates) if rate else 1)
        most = max(8, MOST_VALUES[means.accelerator] // found[0][0].shape[0])
        if rate:
            return {"length": min(most, 2 ** max(3, round(math.log2(max(typical, 1))))), "rate": rate, "peak": 0.9}
        length = max(8, min(most, lengths[0] if len(set(lengths)) == 1 else int(typical)) // 8 * 8)
        return {} if set(lengths) == {length} else {"length": length}

    @classmethod
    def learn(cls, column: RawColumn, options: Any) -> Self:
        """Return the modality of a column's signals: with the channels, the length and the rate of the first one, where the
        recipe doesn't say."""
        import numpy as np

        from genhub.modalities.sounds import read_sound, resampled

        values, rate = readable(column, read_sound, column.spread(FIRST))[0]
        wanted = options.rate or rate
        if rate and rate != wanted:
            values = resampled(values, rate, wanted)
        channels, length = values.shape
        plain = cls(
            shape=(channels, options.length or length), mean=(0.0,) * channels, std=(1.0,) * channels, rate=wanted,
            fitted=options.length is not None, peak=options.peak,
        )  # fmt: skip

        def moments(value: Any) -> Any:
            found = plain.read(value).astype(np.float64)
            return None if found.shape != plain.shape else np.stack([found.mean(1), found.var(1)])

        means, variances = np.stack(readable(column, moments), 1)
        std = deviation(np.sqrt(variances.mean(0) + means.var(0)))  # of all values, as all signals are as long
        return plain.model_copy(update={"mean": tuple(means.mean(0).tolist()), "std": tuple(std.tolist())})

    def read(self, value: Any) -> NDArray[Any]:
        """Return a signal (c, t) of a sound file, its bytes, or an array (t,) or (c, t): the mean of a file's channels where
        this has one."""
        import numpy as np

        from genhub.modalities.sounds import read_sound, resampled

        values, rate = read_sound(value)
        if len(values) != self.shape[0]:
            if self.shape[0] != 1 or rate is None:
                raise ValueError(f"has {len(values)} channels, not {self.shape[0]}")
            values = values.mean(0, keepdims=True)
        if rate and self.rate and rate != self.rate:
            values = resampled(values, rate, self.rate)
        values = single(values)
        if self.fitted:
            cut = values[:, : self.shape[1]]
            values = np.pad(cut, ((0, 0), (0, self.shape[1] - cut.shape[1])))
        return self._scaled(values)

    def _scaled(self, values: NDArray[Any]) -> NDArray[Any]:
        """Return signals (..., c, t), each with its largest magnitude at `peak`; silence as it is."""
        import numpy as np

        if self.peak is None:
            return values
        loudest = np.abs(values).max((-2, -1), keepdims=True, initial=0.0)
        return single(values * np.divide(self.peak, loudest, out=np.ones_like(loudest), where=loudest > 0))

    def read_all(self, values: NDArray[Any]) -> NDArray[Any]:
        import numpy as np

        if values.shape[1:] == self.shape:
            return self._scaled(single(values))
        return np.stack([self.read(value) for value in values])

    def to_batch(self, kept: Tensor) -> Tensor:
        return (kept - kept.new_tensor(self.mean)[:, None]) / kept.new_tensor(self.std)[:, None]

    def from_batch(self, x: Tensor) -> Tensor:
        from genhub.ground.finite import check_finite

        x = x.detach().double().cpu()
        check_finite(x, "signals")
        return (x * x.new_tensor(self.std)[:, None] + x.new_tensor(self.mean)[:, None]).float()

    def condition(self, width: int, sides: tuple[int, ...]) -> Embedding:
        from genhub.modalities.embeddings import PooledEmbedding, SpatialEmbedding

        return SpatialEmbedding(self.shape[0], sides) if len(sides) == 1 else PooledEmbedding(self.shape, width)

    def ask(self, value: Any) -> NDArray[Any]:
        """Return a signal of any length that a person asks with, cut or filled up to fit."""
        try:
            return self.model_copy(update={"fitted": True}).read(value)
        except FileNotFoundError:
            raise ValueError(f"no such file: {value}") from None
        except (OSError, ValueError, struct.error) as error:
            where = f"{value}: " if isinstance(value, str | Path) else ""
            raise ValueError(f"{where}{getattr(error, 'strerror', None) or error}") from error

    def told(self) -> str:
        return f"a signal of {self.shape[0]} x {self.shape[1]:,} values" + (
            f", a WAV at {self.rate:,} Hz" if self.rate else ""
        )

    def facts(self) -> Mapping[str, Any]:
        facts: dict[str, Any] = {"mean": list(self.mean), "std": list(self.std)}
        facts |= {"rate": self.rate, "seconds": round(self.shape[1] / self.rate, 4)} if self.rate else {}
        return facts | ({"peak": self.peak} if self.peak else {})

    def picture(self, values: Tensor, captions: Sequence[str] = ()) -> Image.Image:
        """Return the waves in a grid, all to the same scale."""
        from genhub.modalities.plots import tiled, wave

        span = _span(values)
        return tiled([wave(array, span) for array in values.numpy()], captions=captions)

    def tile(
        self, values: Tensor, captions: Sequence[str] = (), like: Tensor | None = None, real: Tensor | None = None
    ) -> Image.Image:
        """Return the wave, to the scale of `like`."""
        from genhub.modalities.plots import tiled, wave

        return tiled([wave(values[0].numpy(), _span(values if like is None else like))])

    def compare(self, real: Tensor, drawn: Tensor, captions: Sequence[str] = ()) -> Image.Image:
        """Return the first signals as waves and spectrograms."""
        from genhub.modalities.plots import sounds_beside

        return sounds_beside(real.numpy(), drawn.numpy(), captions, self.rate)

    @property
    def file_ending(self) -> str:  # type: ignore[override]  # .wav needs a rate
        return ".wav" if self.rate and self.shape[0] <= 2 else ".npy"

    def write_file(self, value: Tensor, path: Path) -> None:
        import numpy as np

        from genhub.modalities.sounds import write_wav

        if self.rate is None or self.shape[0] > 2:
            with path.open("wb") as stream:
                np.save(stream, value.numpy(), allow_pickle=False)
        else:
            write_wav(value.numpy(), self.rate, path)

    @property
    def joined_ending(self) -> str | None:  # type: ignore[override]
        return ".wav" if self.file_ending == ".wav" else None

    def write_joined(self, values: Tensor, path: Path) -> None:
        """Write sounds one after another, a quarter of a second of silence between two."""
        import numpy as np

        from genhub.modalities.sounds import write_wav

        assert self.rate is not None
        pause = np.zeros((self.shape[0], self.rate // 4), np.float32)
        parts = [part for value in values.numpy() for part in (pause, value)][1:]
        write_wav(np.concatenate(parts, 1), self.rate, path)

    def sounds(self, values: Tensor) -> list[bytes]:
        from genhub.modalities.sounds import wav_of

        if self.rate is None or self.shape[0] > 2:
            return []
        return [wav_of(value, self.rate) for value in values.numpy()]

    def read_file(self, path: Path) -> Tensor:
        import torch

        return torch.from_numpy(self.read(str(path)))

    @property
    def is_lossless(self) -> bool:
        """Whether files keep all digits: a WAV has 16 bits."""
        return self.file_ending == ".npy"


def _span(values: Tensor) -> float:
    """Return the largest value of signals that is shown."""
    import numpy as np

    return float(np.quantile(np.abs(values.numpy()), 0.999))
