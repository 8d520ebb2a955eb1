"""Use of a model, for its card and for `genhub info`: what it can be told, its options, a program, from genhub.json."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from genhub.errors import PluginError
from genhub.interfaces.columns import ModelData
from genhub.interfaces.modality import Modality
from genhub.interfaces.registry import MODELS, load_class, plugin_names
from genhub.interfaces.sampler_options import sampler_options
from genhub.store.manifest import Manifest

PLAIN = re.compile(r"[\w ,:.+-]{1,60}")
"""Texts that a program which readers copy may say as they are, as a stranger may have written them."""
SEVERAL = 2
"""Values of each condition in a program that draws."""
MOST = 10
"""Values of each condition that a card shows what was drawn for."""


@dataclass(frozen=True)
class Usage:
    """Words on the use of a model."""

    manifest: Manifest
    source: str
    """The repository or folder that it is loaded from."""

    @property
    def data(self) -> ModelData | None:
        return self.manifest.columns

    def told(self) -> dict[str, tuple[str, str]]:
        """Return, by column, what the model can be told, and an example, "" where none is known."""
        conditions = self.data.conditions if self.data else {}
        return {name: (its.told(), ", ".join(map(str, its.examples(1)))) for name, its in conditions.items()}

    def options(self) -> dict[str, str]:
        """Return the meaning of each option of its sampler; {} where its plugin is not installed, or is its author's own."""
        name = self.manifest.plugin.name
        if name not in plugin_names(MODELS):
            return {}
        try:
            return sampler_options(load_class(MODELS, name).sample)
        except PluginError:  # a broken one can't be asked, which loading it says
            return {}

    def packages(self) -> str:
        """Return the command that installs what the model needs."""
        parts = [part.distribution for part in (self.manifest.plugin, *self.manifest.parts)]
        return f"pip install {' '.join(dict.fromkeys(['genhub-framework', *filter(None, parts)]))}"

    def command(self) -> str:
        """Return the command that draws; "" for a class that no distribution has."""
        return "" if ":" in self.manifest.plugin.name else f"genhub sample {self.source} -n 64 --out samples.png"

    def program(self) -> str:
        """Return a program that loads the model and draws: two lines, but for a class that no distribution has."""
        name, source = self.manifest.plugin.name, self.source
        ending = (self.data and self.data.target.joined_ending) or ".png"
        given = f'16, {self._conditions()}seed=0, out="drawn{ending}"'
        if ":" not in name:
            return f'import genhub\ndrawn = genhub.sample("{source}", {given})'
        load = f'{name.partition(":")[2]}.from_pretrained("{source}")  # its class, from its author'
        if self.manifest.code:
            load = f'genhub.load("{source}", revision="COMMIT", trust_remote_code=True)  # runs plugin.py: read it first'
        return f"import genhub\nmodel = {load}\ndrawn = genhub.sample(model, {given})"

    def _conditions(self) -> str:
        """Return the conditions that a program asks for, as an argument: of each column some values that are plain words."""
        asked = {name: some for name, its in self._modalities.items() if PLAIN.fullmatch(name) and (some := plain(its))}
        return f"conditions={{{', '.join(f'{name!r}: {values!r}' for name, values in asked.items())}}}, " if asked else ""

    @property
    def _modalities(self) -> Mapping[str, Modality]:
        return self.data.conditions if self.data else {}

    def facts(self) -> dict[str, Any]:
        """Return how one draws, for `genhub info`."""
        return {"options": self.options(), "draw": [*filter(None, [self.command()]), *self.program().split("\n")]}


def plain(modality: Modality) -> Sequence[Any]:
    """Return a few values that can be asked for and are plain words or numbers."""
    several = modality.examples(SEVERAL)
    some = several if all(map(_is_plain, several)) else modality.examples(MOST)
    return [value for value in some if _is_plain(value)][:SEVERAL]


def _is_plain(value: Any) -> bool:
    return PLAIN.fullmatch(str(value)) is not None
