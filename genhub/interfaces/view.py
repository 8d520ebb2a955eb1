"""Interface of views: pictures that show how a model works, a class each. Import costs no torch.

class Spread(View):
    def draw(self, subject, *, n: int = 100, seed: int = 0, **options):     # options: those of the model's `sample`
        drawn = subject.draw(n, seed, options=options)                      # (n, *shape), as in a batch
        return subject.modality.picture(subject.modality.from_batch(drawn.std(0, keepdim=True)))
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from genhub.interfaces.conditions import Conditions
    from genhub.interfaces.modality import Modality
    from genhub.interfaces.model import Model
    from genhub.interfaces.trainer import TrainingData


class ViewSubject(Protocol):
    """Subject of a view: a model and its real rows, each loaded when it is first asked for."""

    @property
    def name(self) -> str:
        """Name of the run, the recipe, the repository or the class, for messages."""

    @property
    def title(self) -> str:
        """The name as titles have it, where `$` would begin mathematics."""

    @property
    def folder(self) -> Path | None:
        """The run's or checkpoint's folder; None for a recipe and for a model that is in memory alone."""

    @property
    def model(self) -> Model:
        """The model, in eval mode."""

    @property
    def modality(self) -> Modality:
        """The modality of what the model draws."""

    @property
    def data(self) -> TrainingData:
        """The real rows: those that the model was trained on, or what the user names instead.

        Raises:
            InputError: nothing says which.
        """

    def choose(self, n: int, seed: int) -> Any:
        """Return the numbers of n real rows, or of all where there are fewer."""

    def x(self, rows: Any) -> Tensor:
        """Return real rows by number, on the model's device: (n, *shape) as in a batch."""

    def given(self, rows: Any) -> Conditions | None:
        """Return the conditions of real rows, on the model's device; None where there are none, or the data lack some."""

    def draw(
        self, n: int, seed: int, conditions: Mapping[str, Any] | None = None, options: Mapping[str, Any] | None = None
    ) -> Tensor:
        """Draw what `genhub sample` does, on the CPU: (n, *shape) as in a batch.

        Args:
            conditions: by column, as `View.draw` is given them.
            options: those of the model's `sample`.
        """

    def draw_for(self, rows: Any, seed: int, options: Mapping[str, Any] | None = None) -> Tensor:
        """Draw a row for the conditions of each of these real rows, as `draw`."""


class Moving(Protocol):
    """A picture that moves: `genhub.Film` is one."""

    def strip(self) -> Image:
        """Return all of it as one picture."""

    def frames(self) -> tuple[list[Image], list[int]]:
        """Return its frames, of one size, and how many milliseconds each is shown."""


class View(ABC):
    """A picture that shows how a model works: `genhub show NAME MODEL`. A class is registered under `genhub.views` and built
    without arguments; it asks what a model can do, never which class it is."""

    capability: ClassVar[type | None] = None
    """Capability that the model must have, such as `genhub.Denoiser`; None: any model will do."""
    conditional: ClassVar[bool] = False
    """Whether the model must be given something."""
    sample_option: ClassVar[str | None] = None
    """Name of an option that the model's `sample` must have."""
    of_log: ClassVar[bool] = False
    """Whether it is of the log in a run's folder alone, and needs no weights."""
    moves: ClassVar[bool] = False
    """Whether it can be an animation: then `draw` returns a `Film`, or what has its methods."""
    untrained: ClassVar[bool] = False
    """Whether a recipe will do in place of a trained model."""

    def shows_rows(self, subject: Any, options: Mapping[str, Any]) -> bool:
        """Whether it shows real rows, or draws for their conditions, with these of its options. Where it doesn't, a user who
        names other rows is told so before anything is drawn."""
        return True

    @abstractmethod
    def draw(self, subject: Any, *args: Any, **options: Any) -> Image | Moving:
        """Return the picture. A view declares it as

            def draw(self, subject: ViewSubject, *, OPTIONS) -> Image

        Keyword arguments are its options: the signature, with its annotations and defaults, is what they are checked
        against. `n`, `steps`, `seed`, `conditions`, `scales` and `between` have options of `genhub show`, others are given
        by `--set key=value`. With `**options` it takes those of the model's `sample`, too. `conditions` are by column, lists
        of values as they are kept; None: nobody says.

        Raises:
            InputError: an option has a value that nothing can be shown with.
        """
