"""The model card: README.md of a checkpoint and of a repository, from what the folder holds and nothing else."""

from __future__ import annotations

import math
import platform
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from pydantic import TypeAdapter, ValidationError

from genhub.errors import CheckpointError, first_fault, one_line
from genhub.ground.ids import data_id, split_id
from genhub.interfaces.columns import ModelData, count_of
from genhub.interfaces.modality import Modality
from genhub.interfaces.section import Section
from genhub.store.manifest import Manifest, Word, read_json

if TYPE_CHECKING:
    from huggingface_hub import ModelCardData

CARD = "README.md"
PICTURE = "samples.png"
MEASURED = "metrics.json"
"""File in a repository with the figures of its model, a list of `Measured`."""
TASKS = {"image": "unconditional-image-generation"}
"""The Hub's tags of models that are given nothing, by what they draw; of others it has none."""
PACKAGES = ("genhub-framework", "torch", "diffusers", "transformers", "accelerate", "datasets", "safetensors")


class Measured(Section):
    """A figure of a model, with everything that it depends on."""

    name: Word
    value: float
    protocol: dict[str, Any]
    """Extractor, real split, counts, seed, sampler: numbers of different protocols don't compare. `weights` are those that
    it was measured on, `notes` what a reader must know."""


def read_measured(folder: Path) -> tuple[Measured, ...]:
    """Return the figures in a repository's metrics.json; none without the file.

    Raises:
        CheckpointError: the file is damaged.
    """
    if not (folder / MEASURED).is_file():
        return ()
    try:
        return TypeAdapter(tuple[Measured, ...]).validate_python(read_json(folder / MEASURED))
    except ValidationError as error:
        raise CheckpointError(f"{folder / MEASURED}: damaged: {first_fault(error)}") from error


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

    def text(self) -> str:
        from huggingface_hub import ModelCard

        manifest, source = self.manifest, self.repo_id or "FOLDER"
        parts = [f"# {_words(self.title or self.repo_id or manifest.plugin.name)}", _about(manifest)]
        if self.picture:
            parts.append(f"![Drawn by the model]({PICTURE})")
        parts += ["## Use it", _use(manifest, source)]
        pipelines = _diffusers_classes(self.folder)
        parts += [_diffusers(name, class_name, source) for name, class_name in pipelines]
        parts += ["## How it was trained", _training(manifest, self.recipe, self.repo_id or "recipe.yaml")]
        if self.measured:
            rows = [f"| {m.name} | {m.value:.6g} | {_words(_inline(m.protocol))} |" for m in self.measured]
            parts += ["## Measured", "\n".join(["| metric | value | protocol |", "| --- | --- | --- |", *rows])]
            notes = dict.fromkeys(str(note) for m in self.measured for note in m.protocol.get("notes", ()))
            parts += ["\n".join(f"- {_words(note)}" for note in notes)] if notes else []
        if manifest.versions:
            parts += ["## Versions", ", ".join(f"{name} {number}" for name, number in manifest.versions.items())]
        facts = self._facts(diffusers=bool(pipelines))
        return str(ModelCard(f"---\n{facts.to_yaml()}\n---\n\n" + "\n\n".join(parts) + "\n"))

    def _facts(self, diffusers: bool) -> ModelCardData:
        """Return the card's head, which the Hub reads."""
        from huggingface_hub import ModelCardData

        manifest, data = self.manifest, self.manifest.data
        data_set = (data_id(data.name) or (split_id(data.name) and data.name)) if data else None
        return ModelCardData(
            library_name="genhub",
            license=self.license,
            pipeline_tag=_task(manifest),
            datasets=[data_set] if data_set else None,
            base_model=_base_model(self.recipe),
            tags=["genhub", manifest.plugin.name, *(["diffusers"] if diffusers else []), *_subjects(manifest)],
            model_name=(self.repo_id or self.title or manifest.plugin.name).split("/")[-1],
            eval_results=_eval_results(self.measured, manifest) or None,
        )


def _task(manifest: Manifest) -> str | None:
    """Return the Hub's tag of what the model does, if it has one."""
    data = manifest.columns
    return TASKS.get(data.target.modality) if data and not data.conditions else None


def _subjects(manifest: Manifest) -> list[str]:
    """Return tags of what is drawn."""
    data = manifest.columns
    return [f"{_word(data.target.modality)}-generation"] if data else []


def _word(modality: str) -> str:
    """Return a modality's name in a word; of module:Class the class's, as it may be a stranger's."""
    return re.sub(r"[^\w-]", "", modality.rpartition(":")[2]).lower()


def _about(manifest: Manifest) -> str:
    data = manifest.columns
    drawn = f" of {_word(data.target.modality)}s, {_sides(data.target.shape)}" if data else ""
    steps = f" for {manifest.step:,} steps" if manifest.step else ""
    code = "`plugin.py` is its author's code." if manifest.code else "Nothing in here is code or pickle."
    lines = [f"A generative model{drawn}: `{manifest.plugin.name}`, trained{steps} with genhub. {code}"]
    if data and data.conditions:
        given = [f"- {_code(name)}: {_words(modality.told())}" for name, modality in data.conditions.items()]
        lines.append("It draws what it is told:\n\n" + "\n".join(given))
    return "\n\n".join(lines)


def _sides(shape: tuple[int, ...]) -> str:
    """Return an element's shape in words: channels and sides, or how many numbers a vector has."""
    if len(shape) < 2:
        return f"of {shape[0] if shape else 1} numbers each"
    return f"{shape[0]} channel{'s' * (shape[0] > 1)} of {'x'.join(map(str, shape[1:]))}"


def _use(manifest: Manifest, source: str) -> str:
    data, plugin = manifest.columns, manifest.plugin
    example = ", ".join(_example(data)) if data else ""
    asked = f"conditions={{{example}}}, " if example else ""
    others = [part.distribution for part in manifest.parts if part.distribution]
    packages = " ".join(dict.fromkeys(["genhub-framework", plugin.distribution or "genhub-framework", *others]))
    shell, load = f"pip install {packages}", f'genhub.load("{source}")'
    if ":" not in plugin.name:
        shell += f"\ngenhub sample {source} -n 64 --out samples.png"
    elif manifest.code:
        load = f'genhub.load("{source}", revision="COMMIT", trust_remote_code=True)  # runs plugin.py: read it first'
    else:
        load = f'{plugin.name.partition(":")[2]}.from_pretrained("{source}")  # its class, from its author'
    shape = ", ".join(map(str, (16, *data.target.shape))) if data else "16, ..."
    drawn = f'drawn = genhub.sample(model, 16, {asked}seed=0, out="drawn.png")  # ({shape}), in the column\'s own units'
    return f"```bash\n{shell}\n```\n\n```python\nimport genhub\n\nmodel = {load}\n{drawn}\n```"


def _example(data: ModelData) -> list[str]:
    """Return what a program that readers copy asks for: of each column, values that it may have, where all are plain words,
    as they may be a stranger's."""
    asked = {name: _example_of(modality) for name, modality in data.conditions.items()}
    written = [f"{name!r}: {value!r}" for name, value in asked.items() if value is not None]
    return [one for one in written if re.fullmatch(r"[\w ',:.\[\]+-]{1,200}", one)]


def _example_of(modality: Modality) -> Any:
    """Return two classes; a file's name; or the numbers in the middle, as few as fit a line; None: nothing short."""
    if modality.classes:
        names = tuple(getattr(modality, "names", ()))
        return list(names[:2]) or list(range(modality.classes))[:2]
    if ending := modality.file_ending or next(iter(modality.endings), None):
        return f"file{ending}"
    if math.prod(modality.shape) > 4:
        return None
    import torch

    middle = modality.from_batch(torch.zeros(1, *modality.shape))
    numbers = [float(f"{number:.3g}") for number in middle.flatten().tolist()]
    return numbers if modality.shape else numbers[0]


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
        given = f", given {', '.join(_code(name) for name in data.conditions)}" if data.conditions else ""
        lines.append(f"On {_code(data.name)}, split {_code(data.split)}: {count_of(data)}, of which it draws "
                     f"{_code(data.target)}{given}.")  # fmt: skip
        lines.append(f"Their fingerprint is {_code(data.fingerprint)}.")
    if recipe is None:
        return " ".join([*lines, "It was saved from Python, without a recipe."])
    lines.append(f"`genhub train {again}` trains it again, from this recipe:")
    return " ".join(lines) + "\n\n" + _block("yaml", recipe.rstrip())


def _base_model(recipe: str | None) -> str | None:
    """Return the Hub id of the model that training started from."""
    content = yaml.safe_load(recipe) if recipe else None
    base = content["model"].get("from") if content else None
    found = split_id(base) if base else None
    return found[0] if found else None


def _eval_results(measured: Sequence[Measured], manifest: Manifest) -> list[Any]:
    """Return the figures for the Hub's model-index."""
    from huggingface_hub import EvalResult

    data, named = manifest.data, one_line(manifest.data.name) if manifest.data else "unknown"
    task = _task(manifest) or next(iter(_subjects(manifest)), "generation")
    return [
        EvalResult(
            task_type=task, dataset_type=named, dataset_name=named, dataset_split=one_line(data.split) if data else None,
            metric_type=m.name, metric_name=m.name, metric_value=m.value,
            metric_args=m.protocol,
        )
        for m in measured
    ]  # fmt: skip


def _inline(protocol: dict[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in protocol.items() if key != "notes")


# What strangers may have written, in Markdown


def _words(text: str) -> str:
    """Return text for one line of a card with Markdown and HTML made harmless: no picture, link, tag or end of a field."""
    return re.sub(r"([\\<>\[\]`|*])", r"\\\1", one_line(text))


def _code(text: str) -> str:
    return f"`{one_line(text).replace('`', chr(39))}`"


def _block(language: str, text: str) -> str:
    """Return a block of code with a fence longer than any in `text`."""
    longest = max(map(len, re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text}\n{fence}"
