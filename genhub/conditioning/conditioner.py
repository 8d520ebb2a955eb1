"""Turn a batch's conditions into what a network is given."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch._compile import _disable_dynamo

from genhub.errors import PluginError, RecipeError
from genhub.ground.brief import BriefModule
from genhub.interfaces.conditions import Conditions
from genhub.interfaces.modality import Modality
from genhub.interfaces.network import Embedding, Given
from genhub.interfaces.registry import NETWORKS, load_all


class Conditioner(BriefModule, nn.Module):
    """Embeddings of a model's conditions, for one network. Vectors of several columns are added up; tokens and channels
    stand behind one another, in the order of the columns' names. Tokens become a vector, their mean, for a network that
    takes no sequence. Every parameter takes part in every forward."""

    def __init__(
        self, conditions: Mapping[str, Modality], shape: tuple[int, ...], width: int, takes: frozenset[str]
    ) -> None:
        """
        Args:
            conditions: what there is to be given, by column.
            shape: of the network's x, (channels, *sides).
            width: of the vector and of the tokens that the network is given.
            takes: the parts of `Given` that it takes, its Config's `takes`.
        Raises:
            RecipeError: a column that can't be a condition, or not one of this network.
        """
        super().__init__()
        self.width = width
        labels = [name for name, modality in conditions.items() if modality.classes]
        whole = labels if len(labels) == 1 and "label" in takes else []

        def made(name: str) -> Embedding:
            embedding = _embedding(name, conditions[name], shape, width)
            as_vector = embedding.gives == "sequence" and takes & {"sequence", "vector"} == {"vector"}
            return MeanOfTokens(embedding) if as_vector else embedding

        embeddings = {name: made(name) for name in conditions if name not in whole}
        if whole and any(embedding.gives == "vector" for embedding in embeddings.values()):
            embeddings |= {name: made(name) for name in whole}
            whole = []
        self.label = whole[0] if whole else None
        """The column that the network embeds by itself: a label where no other column gives a vector."""
        self.num_classes = conditions[whole[0]].classes if whole else None
        """Number of that label's classes; None: the network is given no label."""
        self.names = sorted(embeddings)  # not the order of a recipe or of a JSON file: weights are by number
        self.embeddings = nn.ModuleList(embeddings[name] for name in self.names)
        self._modalities = {name: conditions[name] for name in self.names if embeddings[name].takes_encoded}
        self.gives = frozenset(embedding.gives for embedding in embeddings.values()) | ({"label"} if whole else set())
        """The parts of `Given` that it makes."""
        self.spatial_channels = sum(embedding.channels for embedding in embeddings.values())
        """Channels of the spatial part; 0: there is none."""
        for name, embedding in embeddings.items():
            if embedding.gives not in takes:
                raise RecipeError(
                    f"model.conditions: {name} ({conditions[name].modality}) gives a {embedding.gives} part, which this "
                    f"network does not take; {_who_takes(embedding.gives)}"
                )

    def forward(self, conditions: Conditions) -> Given:
        """Return what the network is given for n rows: `Given()` where there are no conditions."""
        parts = [
            embedding(self._seen(name, conditions), conditions.present[name])
            for name, embedding in zip(self.names, self.embeddings, strict=True)
        ]
        vectors = [part.vector for part in parts if part.vector is not None]
        sequences = [part.sequence for part in parts if part.sequence is not None]
        masks = [part.mask for part in parts if part.mask is not None]
        spatials = [part.spatial for part in parts if part.spatial is not None]
        return Given(
            vector=sum(vectors[1:], vectors[0]) if vectors else None,
            sequence=torch.cat(sequences, 1) if sequences else None,
            mask=torch.cat(masks, 1) if masks else None,
            spatial=torch.cat(spatials, 1) if spatials else None,
            label=self._class(conditions),
        )

    def _seen(self, name: str, conditions: Conditions) -> Tensor:
        """Return a column's values, or what its frozen encoder makes of them: kept from before, or computed now."""
        if name in conditions.cached:
            return conditions.cached[name]
        values = conditions.values[name]
        return _encoded(self._modalities[name], values, conditions.present[name]) if name in self._modalities else values

    def _class(self, conditions: Conditions) -> Tensor | None:
        if self.label is None:
            return None
        assert self.num_classes is not None
        return conditions.values[self.label].masked_fill(~conditions.present[self.label], self.num_classes)


class MeanOfTokens(Embedding):
    """Embedding of a sequence as a vector: the mean of the tokens that are there."""

    gives: ClassVar[str] = "vector"

    def __init__(self, embedding: Embedding) -> None:
        super().__init__()
        self.embedding = embedding
        self.takes_encoded = embedding.takes_encoded  # type: ignore[misc]  # of this one

    def forward(self, values: Tensor, present: Tensor) -> Given:
        given: Given = self.embedding(values, present)
        assert given.sequence is not None
        there = torch.ones_like(given.sequence[:, :, :1]) if given.mask is None else given.mask[:, :, None]
        return Given(vector=(given.sequence * there).sum(1) / there.sum(1))


@_disable_dynamo  # torch.compiler.disable imports torch._dynamo at once: a second of every start
def _encoded(modality: Modality, values: Tensor, present: Tensor) -> Tensor:
    """Return what a column's frozen encoder makes of values (n, *shape), each by itself; zeros for rows that have none."""
    encoder = modality.encoder()
    assert encoder is not None
    made = torch.zeros((len(values), *encoder.shape), device=values.device)
    if present.any():
        made[present] = encoder.encode_each(values[present])
    return made


def _embedding(name: str, modality: Modality, shape: tuple[int, ...], width: int) -> Embedding:
    try:
        return modality.condition(width, shape[1:])
    except PluginError as error:
        raise RecipeError(f"model.conditions: {name}: {error}") from error


def _who_takes(part: str) -> str:
    """Return the tail of a message: which networks take a part."""
    names = [name for name, network in load_all(NETWORKS)[0].items() if part in network.Config.takes]
    return f"networks that do: {', '.join(names)}" if names else "no installed network does"
