"""The notebooks: their form is looked at, and each is run from beginning to end. With GENHUB_NOTEBOOKS=FOLDER the executed
copies lie there, for the site."""

from __future__ import annotations

import ast
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
from IPython.core.inputtransformer2 import TransformerManager

import genhub
import genhub.testing

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "examples" / "notebooks").glob("*.ipynb"))
NAMES = (
    "1-autoencoder-to-vae",
    "2-gans-and-how-they-fail",
    "3-diffusion-step-by-step",
    "4-flows-and-few-steps",
    "5-your-data-your-model",
)
PARTS = ("Idea.", "Formula.", "Code.", "Picture.", "Change.")
"""Parts of each section, in bold and in this order; the code follows the third."""
WRITTEN = re.compile(r"%%writefile \S+\n")
"""First line of a cell that writes a module."""
PUBLIC = {"genhub": genhub.__all__, "genhub.testing": genhub.testing.__all__}
Cell = Any

each_notebook = pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.stem)


def read(file: Path) -> Any:
    return nbformat.read(file, as_version=nbformat.NO_CONVERT)


def sections(notebook: Any) -> dict[str, list[Cell]]:
    """Return the cells of each section by its heading; the title and the imports before the first are in none."""
    found: dict[str, list[Cell]] = {}
    for cell in notebook.cells:
        if heading := re.match(r"## (.+)", cell.source) if cell.cell_type == "markdown" else None:
            found[heading[1]] = []
        if found:
            list(found.values())[-1].append(cell)
    return found


def code_of(notebook: Any) -> Iterator[ast.Module]:
    """Yield the code of each cell, and of each module that a cell writes."""
    for cell in notebook.cells:
        if cell.cell_type == "code":
            yield ast.parse(TransformerManager().transform_cell(WRITTEN.sub("", cell.source)))


def test_they_are_five() -> None:
    assert tuple(file.stem for file in NOTEBOOKS) == NAMES


@each_notebook
def test_it_is_saved_without_outputs_and_with_ids_that_stay(file: Path) -> None:
    notebook = read(file)
    nbformat.validate(notebook)
    assert (notebook.nbformat, notebook.nbformat_minor) == (4, 5)
    assert notebook.metadata == {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    ids = [cell.id for cell in notebook.cells]
    assert len(set(ids)) == len(ids)
    assert all(re.fullmatch(r"[a-z]+(-[a-z]+)?", name) for name in ids)  # words: a tool's own are random
    for cell in notebook.cells:
        assert cell.metadata == {}
        if cell.cell_type == "code":
            assert (cell.outputs, cell.execution_count) == ([], None)


@each_notebook
def test_each_section_has_an_idea_a_formula_code_a_picture_and_something_to_change(file: Path) -> None:
    notebook = read(file)
    assert notebook.cells[0].source.startswith("# ")
    found = sections(notebook)
    assert len(found) >= 5
    for heading, cells in found.items():
        first, *between, last = cells
        assert {cell.cell_type for cell in between} == {"code"}, heading
        before, after = (re.findall(r"^\*\*(\w+\.)\*\*", cell.source, re.MULTILINE) for cell in (first, last))
        assert (tuple(before), tuple(after)) == (PARTS[:3], PARTS[3:]), heading
        formula = first.source.partition("**Formula.**")[2].partition("**Code.**")[0]
        assert formula.count("$") >= 2, heading


@each_notebook
def test_its_code_compiles_and_uses_public_names_only(file: Path) -> None:
    used = set()
    for tree in code_of(read(file)):
        compile(tree, file.name, "exec")
        for node in ast.walk(tree):
            match node:
                case ast.Attribute(ast.Name("genhub"), name):
                    used.add(("genhub", name))
                case ast.ImportFrom(str(module), names) if module.partition(".")[0] == "genhub":
                    used |= {(module, alias.name) for alias in names}
                case ast.Import(names):
                    assert not [alias.name for alias in names if alias.name.startswith("genhub.")]
    assert ("genhub", "train") in used
    assert sorted((module, name) for module, name in used if name not in PUBLIC.get(module, ())) == []


@each_notebook
def test_it_names_pages_that_are_there_and_nothing_of_a_machine(file: Path) -> None:
    text = file.read_text()
    assert all((ROOT / page).is_file() for page in re.findall(r"`(docs/[\w./-]+)`", text))
    assert not re.search(r"/(home|tmp|root|work|Users)/|https?://", text)


@pytest.mark.slow
@pytest.mark.timeout(900)
@each_notebook
def test_it_runs_from_beginning_to_end(file: Path, tmp_path: Path) -> None:
    from nbclient import NotebookClient

    notebook = read(file)
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "GENHUB_CACHE": str(tmp_path / "cache")}
    where = {"metadata": {"path": str(tmp_path)}}
    client = NotebookClient(notebook, kernel_name="python3", timeout=600, resources=where, record_timing=False)
    client.execute(env=environment)
    if folder := os.environ.get("GENHUB_NOTEBOOKS"):
        Path(folder).mkdir(parents=True, exist_ok=True)
        nbformat.write(notebook, Path(folder, file.name))
    for heading, cells in sections(notebook).items():
        outputs = [output for cell in cells if cell.cell_type == "code" for output in cell.outputs]
        assert any("image/png" in output.get("data", {}) for output in outputs), f"{heading}: no picture"
