"""The model card: README.md of a checkpoint and of a repository, from what the folder holds and nothing else."""

from __future__ import annotations

import platform
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from genhub.interfaces.columns import count_of
from genhub.store.card_head import GALLERY, RESULTS, DrawnFile, head, plain_word
from genhub.store.card_words import block, code, table, words
from genhub.store.manifest import Manifest, read_json
from genhub.store.measured import MEASURED, Measured
from genhub.store.usage import Usage

CARD = "README.md"
PICTURE = "samples.png"
PACKAGES = ("genhub-framework", "torch", "diffusers", "transformers", "accelerate", "datasets", "safetensors")


def is_beside_card(name: str) -> bool:
    """Whether a file of a repository is one that genhub put beside the card: pictures, sounds and figures of the weights
    that it was pushed with, and of no others."""
    return name in (PICTURE, MEASURED, RESULTS) or re.fullmatch(rf"{GALLERY}/\d+\.(png|wav)", name) is not None


def package_versions() -> dict[str, str]:
    """Return the installed versions of Python and of the packages that a model depends on."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


@dataclass(frozen=True)
class Card:
    """The model card of a folder. Its text is the same for the same folder."""

    manifest: Manifest
    folder: Path
    """The folder with the model's files."""
    recipe: str | None = None
    """Its recipe, as YAML."""
    title: str | None = None
    """The heading; None: the repository, or the model's name."""
    repo_id: str | None = None
    """The repository that the card is for; without one it tells how to open the folder."""
    license: str | None = None
    """An id as the Hub has them, such as mit or cc-by-4.0."""
    picture: bool = False
    """Whether samples.png lies beside it."""
    measured: Sequence[Measured] = ()
    """The figures to show, and to tell the Hub."""
    gallery: Sequence[DrawnFile] = ()
    """Pictures and sounds that were drawn for it, and lie beside it."""
    options: Mapping[str, str] = field(default_factory=dict)
    """Meaning of each option of the sampler."""

    def text(self) -> str:
        from huggingface_hub import ModelCard

        manifest, name = self.manifest, self.repo_id or self.title or self.manifest.plugin.name
        usage, pipelines = Usage(manifest, self.repo_id or "FOLDER"), _diffusers_classes(self.folder)
        parts = [f"# {words(self.title or name)}", _about(manifest), *self._drawn(), *_use(usage), *self._told(usage)]
        parts += [_diffusers(folder, class_name, usage.source) for folder, class_name in pipelines]
        parts += ["## How it was trained", _training(manifest, self.recipe, self.repo_id or "recipe.yaml")]
        parts += _figures(self.measured)
        if manifest.versions:
            parts += ["## Versions", ", ".join(f"{name} {number}" for name, number in manifest.versions.items())]
        facts = head(manifest, name, self.recipe, self.license, bool(pipelines), self.gallery, self.measured)
        return str(ModelCard(f"---\n{facts.to_yaml()}\n---\n\n" + "\n\n".join(parts) + "\n"))

    def _drawn(self) -> list[str]:
        """Return what shows what the model drew: the Hub's gallery of pictures, a picture for everywhere else, and links to
        sounds."""
        gallery = ["<Gallery />"] if any(one.is_picture for one in self.gallery) else []
        picture = [f"![Drawn by the model]({PICTURE})"] if self.picture else []
        sounds = [f"- [{words(one.told)}]({one.name})" for one in self.gallery if not one.is_picture]
        return [*gallery, *picture, *(["\n".join(sounds)] if sounds else [])]

    def _told(self, usage: Usage) -> list[str]:
        """Return tables of the conditions and of the sampler's options."""
        told = [[code(name), words(what), code(such) if such else ""] for name, (what, such) in usage.told().items()]
        options = [[code(name), words(meaning)] for name, meaning in self.options.items()]
        parts = ["## What it can be told", table(["condition", "takes", "such as"], told)] if told else []
        ways = "Options of its sampler, such as `genhub.sample(..., OPTION=VALUE)` or `genhub sample --set OPTION=VALUE`:"
        return [*parts, *([ways, table(["option", "meaning"], options)] if options else [])]


def _about(manifest: Manifest) -> str:
    data = manifest.columns
    drawn = f" of {plain_word(data.target.modality)}s, {_sides(data.target.shape)}" if data else ""
    steps = f" for {manifest.step:,} steps" if manifest.step else ""
    inside = "`plugin.py` is its author's code." if manifest.code else "Nothing in here is code or pickle."
    return f"A generative model{drawn}: `{manifest.plugin.name}`, trained{steps} with genhub. {inside}"


def _sides(shape: tuple[int, ...]) -> str:
    """Return an element's shape in words: channels and sides, or how many numbers a vector has."""
    if len(shape) < 2:
        return f"of {shape[0] if shape else 1} numbers each"
    return f"{shape[0]} channel{'s' * (shape[0] > 1)} of {'x'.join(map(str, shape[1:]))}"


def _use(usage: Usage) -> list[str]:
    data = usage.data
    shape = f"({', '.join(map(str, (16, *data.target.shape)))})" if data else "(16, ...)"
    result = f"`drawn` is a tensor {shape} in the column's own units. What it needs, and drawing from a shell:"
    shell = "\n".join(filter(None, [usage.packages(), usage.command()]))
    return ["## Use it", block("python", usage.program()), result, block("bash", shell)]


def _diffusers_classes(folder: Path) -> list[tuple[str, str]]:
    """Return (subfolder, class) of what plain diffusers opens: the pipeline, or networks of their own."""
    files = [("", folder / "model_index.json")] if (folder / "model_index.json").is_file() else [
        (file.parent.name, file) for file in sorted(folder.glob("*/config.json"))]  # fmt: skip
    found = []
    for name, file in files:
        content = read_json(file)
        if isinstance(content, dict) and ("_diffusers_version" in content or not name):
            found.append((name, str(content.get("_class_name"))))
    # They become part of a program that readers copy.
    return [(name, cls) for name, cls in found if cls.isidentifier() and re.fullmatch(r"[\w.-]*", name)]


def _diffusers(subfolder: str, class_name: str, source: str) -> str:
    where = f'"{source}"' + (f', subfolder="{subfolder}"' if subfolder else "")
    code = f"from diffusers import {class_name}\n\nopened = {class_name}.from_pretrained({where})"
    if subfolder:
        about = f"Its `{subfolder}` opens with plain diffusers, too:"
    else:
        about = "Plain diffusers opens and samples it, too:"
        code += "\nimage = opened(num_inference_steps=50).images[0]"
    return f"{about}\n\n```python\n{code}\n```"


def _training(manifest: Manifest, recipe: str | None, again: str) -> str:
    lines = []
    if data := manifest.data:
        given = f", given {', '.join(code(name) for name in data.conditions)}" if data.conditions else ""
        lines.append(f"On {code(data.name)}, split {code(data.split)}: {count_of(data)}, of which it draws "
                     f"{code(data.target)}{given}.")  # fmt: skip
        lines.append(f"Their fingerprint is {code(data.fingerprint)}.")
    if recipe is None:
        return " ".join([*lines, "It was saved from Python, without a recipe."])
    lines.append(f"`genhub train {again}` trains it again, from this recipe:")
    return " ".join(lines) + "\n\n" + block("yaml", recipe.rstrip())


def _figures(measured: Sequence[Measured]) -> list[str]:
    """Return a table of figures, and what a reader must know of them."""
    if not measured:
        return []
    rows = [[words(m.name), f"{m.value:.6g}", f"{m.interval[0]:.4g} to {m.interval[1]:.4g}" if m.interval else "",
             "" if m.floor is None else f"{m.floor:.4g}", words(_inline(m.protocol))] for m in measured]  # fmt: skip
    notes = dict.fromkeys(str(note) for m in measured for note in m.protocol.get("notes", ()))
    found = table(["metric", "value", "95% interval", "real rows in their place", "protocol"], rows)
    return ["## Measured", found, *(["\n".join(f"- {words(note)}" for note in notes)] if notes else [])]


def _inline(protocol: dict[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in protocol.items() if key != "notes")
