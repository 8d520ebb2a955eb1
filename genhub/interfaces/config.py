"""The Configs from which models and trainers are built: sections of a recipe as frozen pydantic models. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from genhub.interfaces.columns import ModelData, Name, columns_of_format_1
from genhub.interfaces.means import Means
from genhub.interfaces.modality import Modality
from genhub.interfaces.section import MAY_CHANGE, Duration, Fraction, PositiveInt, Section


class ModelConfig(Section):
    """Keys from which a model is built; a plugin's `Config` derives from it and adds its own."""

    name: str = ""
    """A registered name (`genhub plugins` lists them), or module:Class for a class of your own."""
    conditions: Annotated[tuple[Name, ...], Field(max_length=100)] = ()
    """Columns that it is given, [label, ink]; left out: none."""
    condition_dropout: Fraction | Mapping[Name, Fraction] = 0.0
    """Share of rows trained on without their conditions, which guidance needs: all of a row's together; {label: 0.1} drops
    each column for itself."""
    data: ModelData | None = None
    """The columns that it is made for, as learnt from the data, which fill it in: no key of a recipe."""

    @model_validator(mode="after")
    def _is_given_its_conditions(self) -> Self:
        if len(set(self.conditions)) < len(self.conditions):
            raise ValueError("conditions: a column is named twice")
        if self.data is not None and set(self.data.conditions) != set(self.conditions):
            raise ValueError(f"conditions: {', '.join(self.conditions)}, and the data has {', '.join(self.data.conditions)}")
        if isinstance(self.condition_dropout, Mapping):
            for name in self.condition_dropout.keys() - set(self.conditions):
                raise ValueError(f"condition_dropout: {name} is none of the conditions")
        return self

    @property
    def modality(self) -> Modality | None:
        """The modality of what it draws; None before the data are known."""
        return self.data.target if self.data else None

    @property
    def shape(self) -> tuple[int, ...] | None:
        """Shape of one element, channels first; None before the data are known."""
        return self.data.target.shape if self.data else None

    @property
    def contains(self) -> tuple[str, str] | None:
        """The key that names a trained model inside this one, and that model, as a folder or a Hub id: data are read as that
        one's were, so that both mean the same by a number. None: there is none, or it is described already."""
        return None

    @classmethod
    def keys_from(cls, other: ModelConfig) -> dict[str, Any] | None:
        """Return the keys that follow from another family's Config, where `model.from` names a model of that family: of a
        flow, a mean flow takes network and conditions. `load_networks` then reads its folder. None: it can't start so."""
        return None

    @classmethod
    def suited(cls, data: ModelData, means: Means) -> dict[str, Any]:
        """Return the keys of a recipe that suit some columns and what there is to train with, by their paths:
        {"model.latent_dim": 32, "data.batch_size": 128}. `genhub init` and `genhub bench` lay them over those that suit most
        families; {}: these will do.

        Raises:
            ValueError: nothing good would come of it in the time: why, and what to do.
        """
        return {}

    def mistakes(self) -> Mapping[str, str]:
        """Return the keys of a recipe that contradict each other, though each value is valid: key path to what is wrong,
        such as {"min_snr_gamma": "changes nothing without loss_weighting: min_snr"}. Only keys that the recipe gives are
        refused for it, and a model that was trained so still loads."""
        return {}

    @classmethod
    def from_format_1(cls, config: dict[str, Any], data: Mapping[str, Any]) -> dict[str, Any]:
        """Return this format's keys for a Config that genhub stored in format 1, before there were columns: its images are
        the column `image`, its classes the column `label`. A plugin whose own keys have changed extends it, and says by
        `conditions: [label]` in what it hands on that the model is told a class.

        Args:
            data: the facts of its data that format 1 stored, {} where it had none.
        """
        now = {key: value for key, value in config.items() if key not in ("sample_shape", "num_classes")}
        if config.get("sample_shape") is None:
            return now
        classes = config.get("num_classes") if "label" in now.get("conditions", ()) else None
        columns = columns_of_format_1(config["sample_shape"], data.get("value_range"), classes, data.get("class_names", ()))
        return now | {"data": {"column": "image", "target": columns.pop("image"), "conditions": columns}}


class TrainerConfig(Section):
    """The keys that every trainer has; its own `Config` adds to them, and honours all."""

    name: str = "accelerate"
    """A registered trainer, or module:Class for a class of your own."""
    max_steps: Annotated[PositiveInt, MAY_CHANGE] = 10_000
    max_time: Annotated[Duration | None, MAY_CHANGE] = None
    """Train for this time (10m, 1h30m), whatever max_steps says: how many steps fill it is measured before step 0, and is
    max_steps in the run's recipe.yaml. Previews, checkpoints and figures come on top."""
    device: Annotated[Literal["auto", "cpu"], MAY_CHANGE] = "auto"
    """auto: the accelerator that is there, else the CPU."""
    log_every: Annotated[PositiveInt, MAY_CHANGE] = 50
    sample_every: Annotated[PositiveInt | None, MAY_CHANGE] = 1000
    """Draw a preview every so many steps, and at the end; null: never."""
    num_samples: Annotated[PositiveInt, MAY_CHANGE] = 64
    """Images in a preview."""
    save_every: Annotated[PositiveInt, MAY_CHANGE] = 1000
    """Save a checkpoint every so many steps, and at the end."""
    keep_last: Annotated[PositiveInt, MAY_CHANGE] = 3
    """Number of checkpoints to keep, the newest ones."""
    keep_every: Annotated[PositiveInt | None, MAY_CHANGE] = None
    """Keep those at multiples of so many steps, too, for good; null: only the newest."""
