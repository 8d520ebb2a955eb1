"""Builds the documentation site into a folder, strictly: python docs/make_site.py OUT [--notebooks FOLDER]

A source folder is put together first: the pages of docs/ as they are, and what they link to outside it. A link that leaves
docs/ leads to a page on the site, as it leads to a file in the repository. --notebooks has copies of examples/notebooks that
were run; without it they are shown without outputs. Nothing is fetched, and nothing on the pages comes from elsewhere.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

os.environ["NO_MKDOCS_2_WARNING"] = "1"  # Material's notice on the terminal

from latex2mathml.converter import convert as latex_to_mathml
from mkdocs.commands.build import build
from mkdocs.config import load_config

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
NOTEBOOKS = ROOT / "examples" / "notebooks"
PICTURES = {".png", ".gif", ".css"}
SHOWN = PICTURES | {".md", ".ipynb"}
LINK = re.compile(r"(?<=\]\()(?!https?:|#|mailto:)([^)#\s]+)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, metavar="OUT")
    parser.add_argument("--notebooks", type=Path, default=NOTEBOOKS, metavar="FOLDER")
    args = parser.parse_args()
    logging.basicConfig(format="%(levelname)s: %(message)s")  # mkdocs' own command line does so
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder)
        gather(source)
        notebooks = gather_notebooks(args.notebooks, source)
        config = load_config(str(DOCS / "mkdocs.yml"), docs_dir=str(source), site_dir=str(args.out.resolve()), strict=True)
        config.nav = with_notebooks(config.nav, notebooks)
        build(config)


def gather(source: Path) -> None:
    """Put the pages and pictures of docs/ into a folder, and every file outside it that a page there links to."""
    waiting = [file for file in DOCS.rglob("*") if file.suffix in PICTURES | {".md"}]
    waiting += [ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *NOTEBOOKS.glob("README.md")]
    done = set[Path]()
    while waiting:
        file = waiting.pop()
        if file in done or file.suffix == ".ipynb":  # these have a way of their own
            continue
        done.add(file)
        place = source / place_of(file)
        place.parent.mkdir(parents=True, exist_ok=True)
        if file.suffix in PICTURES:
            shutil.copyfile(file, place)
            continue
        text = file.read_text()
        if file.suffix != ".md":  # a recipe, a module: shown as it is
            place.write_text(f"# {file.name}\n\n```{file.suffix[1:]}\n{text}```\n")
            continue
        waiting += [
            target for link in LINK.findall(text) if (target := target_of(file, link)).is_file()
        ]  # mkdocs says the others
        text = LINK.sub(
            lambda link, file=file: os.path.relpath(place_of(target_of(file, link[1])), place_of(file).parent), text
        )
        place.write_text(re.sub(r"```mermaid\n(.*?)```\n", lambda drawing: house(drawing[1]), text, flags=re.DOTALL))


def target_of(page: Path, link: str) -> Path:
    """Return the file that a page's link leads to; of a folder its README, of the README that of the site: its start."""
    target = (page.parent / link).resolve()
    target = target / "README.md" if target.is_dir() else target
    return DOCS / "index.md" if target == ROOT / "README.md" else target


def place_of(file: Path) -> Path:
    """Return where a file lies on the site: docs/ and the examples' folder are its root, and what is no page becomes one."""
    root = next(folder for folder in (DOCS, ROOT / "examples", ROOT) if file.is_relative_to(folder))
    place = file.relative_to(root)
    return place if file.suffix in SHOWN else place.with_name(place.name + ".md")


# Notebooks


def gather_notebooks(folder: Path, source: Path) -> list[dict[str, str]]:
    """Put notebooks into the source folder, and return their entries in the nav; formulas become MathML, so that no script
    has to be fetched to draw them, and neither have widgets."""
    entries = []
    # those of the folder in place of those without outputs
    newest = {file.name: file for place in (NOTEBOOKS, folder) for file in place.glob("*.ipynb")}
    for file in (newest[name] for name in sorted(newest)):
        content = json.loads(file.read_text())
        content["metadata"].pop("widgets", None)
        texts = [cell for cell in content["cells"] if cell["cell_type"] == "markdown"]
        for cell in texts:
            cell["source"] = with_formulas("".join(cell["source"]))
        place = place_of(NOTEBOOKS / file.name)
        (source / place).parent.mkdir(exist_ok=True)
        (source / place).write_text(json.dumps(content))
        entries.append({texts[0]["source"].partition("\n")[0].lstrip("# "): str(place)})
    return entries


def with_formulas(text: str) -> str:
    """Return Markdown with its formulas, $...$ and $$...$$, as MathML, which browsers draw by themselves."""

    def drawn(found: re.Match[str]) -> str:
        display = "block" if found[1] else "inline"
        formula = latex_to_mathml(found[1] or found[2], display=display).replace("*", "&#42;").replace("_", "&#95;")
        return f'<div class="formula">{formula}</div>' if found[1] else formula

    return re.sub(r"\$\$(.+?)\$\$|\$([^$\n]+)\$", drawn, text, flags=re.DOTALL)


def with_notebooks(nav: list[Any], entries: list[dict[str, str]]) -> list[Any]:
    """Return the nav with a section of notebooks after the how-to pages, if there are any."""
    about = [str(place_of(file)) for file in NOTEBOOKS.glob("README.md")]
    return [*nav[:3], {"Notebooks": [*about, *entries]}, *nav[3:]] if entries else nav


# The house of architecture.md


def house(drawing: str) -> str:
    """Return a flowchart as rows of boxes, what imports above what is imported: a page without a script to draw it."""
    names = {name: label.split("<br>", 1) for name, label in re.findall(r'(\w+)\["(.*?)"\]', drawing)}
    arrows = re.findall(r'^ +(\w+)(?:\[".*?"\])? --> (\w+)', drawing, re.MULTILINE)
    floors = dict.fromkeys((name for arrow in arrows for name in arrow), 0)
    for _ in floors:  # the longest way down
        for above, below in arrows:
            floors[below] = max(floors[below], floors[above] + 1)
    rows = [[name for name in floors if floors[name] == floor] for floor in range(max(floors.values()) + 1)]
    beside = [name for name in names if name not in floors]
    boxes = [[room(names[name], "room") for name in row] for row in rows] + [[room(names[n], "room beside") for n in beside]]
    lines = "\n".join(f'<div class="floor">{"".join(row)}</div>' for row in boxes)
    return f'<div class="house">\n{lines}\n</div>\n'


def room(label: list[str], kind: str) -> str:
    name, *about = label
    return f'<div class="{kind}"><b>{name}</b>{"".join(f"<br>{line}" for line in about)}</div>'


if __name__ == "__main__":
    main()
