"""`Drawn`: rows of a model as a tensor that a notebook shows as a picture, or plays."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import Any

import torch
from torch import Tensor

from genhub.errors import InputError
from genhub.ground.brief import line, sides
from genhub.ground.embedded import data_uri, players
from genhub.interfaces.modality import Modality
from genhub.sampling.pictures import png_of

MOST_SHOWN, MOST_NUMBERS = 64, 2**22
"""Most elements of a picture in which each has its own place, and most numbers of them: a picture of ten megabytes makes a
notebook slow."""
MOST_HEARD = 8
"""Most sounds that can be played."""


class Drawn(Tensor):
    """Elements in their column's own units, (n, *shape), or one of them, (*shape): a tensor like any other, which a notebook
    shows as `Modality.picture` does, with players where it can be heard. Rows of it, `drawn[:4]` or `drawn[labels == 3]`,
    show themselves, too; whatever else is made of it is a plain tensor.

    `genhub.sample` returns one. `Drawn.of(values, model.modality)` makes one of real rows.
    """

    __torch_function__: Any = torch._C._disabled_torch_function_impl  # what operations return is a Tensor

    modality: Modality
    """The modality of the elements."""
    captions: tuple[str, ...]
    """Captions of the rows: what each was given, in a word or two; (): nothing can be said."""

    @classmethod
    def of(cls, values: Tensor, modality: Modality, captions: Sequence[str] = ()) -> Drawn:
        """Return elements, (n, *shape) or (*shape) in their column's own units, as such a tensor; they are not copied.

        Args:
            captions: a caption a row; (): none.
        Raises:
            InputError: the shape is another one, or there are not as many captions.
        """
        rank = values.ndim - len(modality.shape)
        if rank not in (0, 1) or values.shape[rank:] != modality.shape:
            raise InputError(f"rows of {modality.modality} are n x {sides(modality.shape)}, not {sides(values.shape)}")
        if captions and len(captions) != (len(values) if rank else 1):
            raise InputError(f"{len(captions)} captions, of {len(values) if rank else 1} rows")
        drawn = values.detach().as_subclass(cls)
        drawn.modality, drawn.captions = modality, tuple(captions)
        return drawn

    @property
    def plain(self) -> Tensor:
        """The same tensor, without its pictures."""
        return self.as_subclass(Tensor)

    @property
    def elements(self) -> Tensor:
        """The elements as a plain tensor (n, *shape), also where there is one."""
        return self.plain.reshape(-1, *self.modality.shape)

    def __getitem__(self, index: Any) -> Tensor:
        found = self.plain[index]
        one = isinstance(index, int | slice | list) or getattr(index, "ndim", None) == 1
        if not one or self.ndim == len(self.modality.shape):
            return found
        numbers = torch.arange(len(self))[index]
        if numbers.ndim > 1:
            return found
        captions = [self.captions[number] for number in numbers.reshape(-1).tolist()] if self.captions else ()
        return Drawn.of(found, self.modality, captions)

    def __repr__(self, *, tensor_contents: Any = None) -> str:  # type: ignore[override]  # torch's own is untyped
        """Return one line: how many of what."""
        element = f"{self.modality.modality} {sides(self.modality.shape)}".strip()
        rows = "" if self.ndim == len(self.modality.shape) else f"{len(self):,} rows of "
        return line("Drawn", rows + element, self.modality.dtype)

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.plain.__reduce_ex__(protocol)  # type: ignore[no-untyped-call]  # a file of torch.save has the tensor alone

    def __deepcopy__(self, memo: dict[int, Any]) -> Drawn:
        return Drawn.of(self.plain.clone(), self.modality, self.captions)

    # In a notebook

    @property
    def _shown(self) -> Tensor:
        """The elements that are shown: of those that share a picture all."""
        elements = self.elements
        if self.modality.together:
            return elements
        return elements[: min(MOST_SHOWN, max(1, MOST_NUMBERS // max(1, math.prod(self.modality.shape))))]

    def _repr_png_(self) -> bytes | None:
        shown = self._shown
        if not len(shown):
            return None
        return png_of(self.modality.picture(shown, self.captions[: len(shown)]))

    def _repr_html_(self) -> str | None:
        """Return the picture with players below it, and how many rows it leaves out; None where it says all."""
        picture, shown = self._repr_png_(), self._shown
        sounds = self.modality.sounds(shown[:MOST_HEARD])
        if picture is None or (not sounds and len(shown) == len(self.elements)):
            return None
        parts = [f'<img style="max-width: 100%" alt="{escape(repr(self))}" src="{data_uri(picture, "image/png")}">']
        parts += players(sounds, self.captions)
        left_out = len(self.elements) - len(shown)
        return "".join([*parts, f"<p>the first {len(shown)} of {len(self):,} rows</p>" if left_out else ""])
