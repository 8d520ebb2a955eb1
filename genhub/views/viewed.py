"""Subject of a view: a model, trained or as a recipe makes it, and its real data, each loaded when asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from genhub.data.batches import TableData
from genhub.data.open import load_data
from genhub.errors import CheckpointError, DataError, InputError, did_you_mean
from genhub.evaluation.given import conditions_at, data_for, given_rows, recipe_of, takes_rows
from genhub.ground.finite import check_finite
from genhub.ground.ids import nearest_path, split_id
from genhub.ground.randomness import CHOICE_STREAM, seed_for
from genhub.hub.load import placed
from genhub.hub.named import NamedModel
from genhub.interfaces.columns import DataConfig
from genhub.interfaces.conditions import Conditions
from genhub.interfaces.modality import Modality
from genhub.interfaces.model import Model
from genhub.recipe.recipe import Recipe, RecipeLike, read_data_config, read_recipe
from genhub.recipe.shipped import find_recipe, shipped_recipes
from genhub.run.prepare import Prepared, prepare
from genhub.sampling.draw import BATCH_SIZE, sample_elements
from genhub.sampling.options import read_options
from genhub.sampling.request import Drawing
from genhub.store.find import read_newest
from genhub.store.models import load_folder
from genhub.store.run_folder import RunFolder
from genhub.views.canvas import escape

Viewable = Model | RecipeLike
BEHIND = 2000
"""Number of real rows behind drawn ones."""

# Types of the options that several views have.
Count = Annotated[int, Field(strict=True, ge=1, le=1000)]
Steps = Annotated[int, Field(strict=True, ge=2, le=200)]
Seed = Annotated[int, Field(strict=True, ge=0, lt=2**63)]
Asked = Mapping[str, Any] | None
"""Conditions by column, as they are kept; None: nobody says."""


class Viewed:
    """A model, a run's or checkpoint's folder, a Hub id, or a recipe; `overrides` are of its recipe, as `key.path=value`."""

    def __init__(self, source: Viewable, overrides: Sequence[str] = (), device: str | torch.device | None = None) -> None:
        self._id = str(source) if isinstance(source, str | Path) and split_id(source) is not None else None
        if self._id is not None:
            source = NamedModel(self._id).read(lambda folder: folder)
        self.overrides = overrides
        self._device = device or torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
        self._model = source if isinstance(source, Model) else None
        self.folder = Path(source) if isinstance(source, str | Path) and Path(source).is_dir() else None
        self.recipe: Recipe | None = None
        if self._model is None and self.folder is None:
            self.recipe = read_recipe(_recipe(source), overrides)
        self.name = self._name(source)

    def _name(self, source: Viewable) -> str:
        if self._id is not None:
            return self._id
        if self.folder is None:
            return type(source).__name__ if self.recipe is None else Path(self.recipe.run_dir).name
        folder = self.folder.resolve()
        run = RunFolder.of(folder)
        return f"{run.path.name}/{folder.name}" if run else folder.name

    # What there is to look at

    @cached_property
    def model(self) -> Model:
        """The model, in eval mode."""
        if self._model is not None:
            return self._model.eval()
        if self.folder is not None:
            return self._opened[0]
        return self._prepared.model.eval()  # untrained: on the CPU, as nothing is drawn from it

    @cached_property
    def data(self) -> TableData:
        """The real data: a recipe's, those that a run was trained on, or what the overrides name instead.

        Raises:
            InputError: no recipe says which.
        """
        if self.recipe is not None:
            data = self._prepared.data
            return data if isinstance(data, TableData) else load_data(self.recipe.data)  # which refuses a stream
        config = self._opened[1] if self.folder else self._data_config(None)
        if isinstance(config, InputError):
            raise config
        return data_for(self.model, config)

    @cached_property
    def _opened(self) -> tuple[Model, DataConfig | InputError]:
        """The model in the folder, and which data its recipe names or why it names none: both of one checkpoint."""

        def read(checkpoint: Path) -> tuple[Model, DataConfig | InputError]:
            model = placed(load_folder(checkpoint), self._device)
            try:
                return model, self._data_config(checkpoint)
            except InputError as error:  # told if the data are asked for
                return model, error

        assert self.folder is not None
        return read(self.folder) if self._id else read_newest(self.folder, read)

    def _data_config(self, checkpoint: Path | None) -> DataConfig:
        file = recipe_of(checkpoint) if checkpoint else None
        if file is None and not any(override.startswith("data.name=") for override in self.overrides):
            raise InputError(f"{self.name}: no recipe.yaml tells which real data to show; give data.name=...")
        return read_data_config(file, self.overrides, self._id)

    @cached_property
    def _prepared(self) -> Prepared:
        assert self.recipe is not None
        return prepare(self.recipe)

    @property
    def modality(self) -> Modality:
        """The modality of what the model draws."""
        return self.model.modality

    @property
    def title(self) -> str:
        """The name as titles have it, where `$` would begin mathematics."""
        return escape(self.name)

    @property
    def data_seen(self) -> bool:
        """Whether the real rows were asked for so far."""
        return "data" in vars(self)

    # Rows

    def choose(self, n: int, seed: int) -> np.ndarray[Any, np.dtype[np.int64]]:
        """Return the numbers of n real rows, or of all where there are fewer."""
        generator = np.random.Generator(np.random.PCG64(seed_for(seed, CHOICE_STREAM)))
        return generator.permutation(self.data.num_rows)[:n]

    def x(self, rows: Any) -> Tensor:
        """Return real rows by number, on the model's device: (n, *shape) as in a batch."""
        return self.data.x(rows).to(self.model.device)

    def behind(self, seed: int) -> Tensor | None:
        """Return real rows to be shown in pale behind elements that share a picture; None where each has its own, or where
        it isn't known which are real, or they are not here.

        Raises:
            InputError, DataError: the overrides name rows that can't be read.
        """
        if not self.modality.together:
            return None
        try:
            return self.data.x(self.choose(BEHIND, seed))
        except (InputError, DataError):
            if self.overrides:
                raise
            return None

    def given(self, rows: Any) -> Conditions | None:
        """Return the conditions of real rows, on the model's device; None where there are none, or the data lack some."""
        if not self.model.conditions or not self.model.conditions.keys() <= self.data.spec.columns.keys():
            return None
        return self.data.conditions(rows).to(self.model.device)

    def drawing(self, n: int, seed: int, conditions: Mapping[str, Any] | None, options: Mapping[str, Any]) -> Drawing:
        """Return what `genhub sample` would be asked for, with conditions as they are kept; of a model that is given more
        than a class, and nobody says what, for the conditions of real rows."""
        drawing = Drawing(n, seed, conditions or {}, read_options(self.model, options))
        return given_rows(drawing, self.model, [self.data])[0] if self.takes_rows(conditions) else drawing

    def takes_rows(self, conditions: Mapping[str, Any] | None) -> bool:
        """Whether what is drawn is drawn for the conditions of real rows."""
        return not conditions and takes_rows(self.model)

    def draw(
        self, n: int, seed: int, conditions: Mapping[str, Any] | None = None, options: Mapping[str, Any] | None = None
    ) -> Tensor:
        """Draw what `genhub sample` does, on the CPU: (n, *shape) as in a batch."""
        return self.sample(self.drawing(n, seed, conditions, options or {}))

    def draw_for(self, rows: Any, seed: int, options: Mapping[str, Any] | None = None) -> Tensor:
        """Draw a row for the conditions of each of these real rows, as `draw`."""
        return self.sample(self.drawing_for(rows, seed, options or {}))

    def drawing_for(self, rows: Any, seed: int, options: Mapping[str, Any]) -> Drawing:
        """Return the drawing of a row for the conditions of each of these real rows; for any, where the data lack some."""
        known = self.model.conditions.keys() <= self.data.spec.columns.keys()
        given = conditions_at(self.data, self.model.conditions if known else (), rows)
        return Drawing(len(rows), seed, given, read_options(self.model, options))

    def sample(self, drawing: Drawing) -> Tensor:
        """Draw what `genhub sample` does, (n, *shape) as in a batch."""
        return self.modality.to_batch(sample_elements(self.model, drawing))


def in_batches(function: Callable[..., Tensor], tensor: Tensor, given: Conditions | None = None) -> Tensor:
    """Apply a function of x or latents, and of conditions, to a part at a time, so that any number fits; the result is on
    the CPU."""
    with torch.inference_mode():
        parts = [slice(start, start + BATCH_SIZE) for start in range(0, len(tensor), BATCH_SIZE)]
        made = [function(tensor[part], *([] if given is None else [given.rows(part)])).float().cpu() for part in parts]
        return check_finite(torch.cat(made), f"what {function.__name__} gives")


def _recipe(source: Any) -> RecipeLike:
    if isinstance(source, str | Path):
        try:
            find_recipe(str(source))
        except InputError as error:
            nearest = nearest_path(Path(source)).removeprefix("; ") or did_you_mean(str(source), shipped_recipes())
            raise CheckpointError(f"{source}: no such run, checkpoint, recipe file or shipped recipe; {nearest}") from error
    recipe: RecipeLike = source
    return recipe
