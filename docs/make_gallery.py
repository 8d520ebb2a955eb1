"""The gallery: each shipped recipe trained, its picture drawn, its figure measured, and docs/gallery.md of what came out.

    python docs/make_gallery.py [RECIPE ...] [--runs runs] [--data data] [-n 1000]
    python docs/make_gallery.py --page

RECIPES left out: all, those first that need no files. Of the others, --data has the folders mnist, cifar10, emoji and
spoken_digits, or names that begin so; what isn't there is left out, and said. A run that is finished in --runs is taken as
it is. Started again, it goes on: a recipe that has an entry is left alone; remove docs/gallery/RECIPE.json to make it
anew, RECIPE.png to draw its run again. `--page` writes the page alone. Let nothing else run on the machine: the page says
how long training took.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from PIL import Image

import genhub
from genhub.api import sample_to
from genhub.errors import GenhubError
from genhub.evaluation.compare import figure_text
from genhub.ground.console import duration, say, warn
from genhub.ground.disk import write_whole
from genhub.interfaces.columns import BUILT_IN
from genhub.recipe.shipped import shipped_recipes

DOCS = Path(__file__).parent
GALLERY = DOCS / "gallery"
FIGURES = {"sliced_wasserstein": "sliced Wasserstein distance", "frechet_distance": "Frechet distance"}
"""Main figures: the first that applies to what a recipe draws."""
WIDTH, COLOURS = 780, 48
UNSHOWN = ("cifar10",)
"""Data whose real rows the pages don't show: its pictures have no licence."""
TITLES = {"mnist": "MNIST", "cifar10": "CIFAR-10", "emoji": "Emoji", "spoken_digits": "Spoken digits", "images": "A folder"}
HEAD = """# Gallery

```bash
genhub train moons-flow
genhub show samples runs/moons-flow --out moons.png
```

Every shipped recipe: what it draws beside real rows, the command that trains it, how far what it draws is from real rows,
and how long training took. Of a distance, less is better; in brackets its interval, and what as many real rows get where
some are held out ([what the figures are](evaluation.md)). Made by `python docs/make_gallery.py`; none was chosen by hand.
MNIST's digits are Y. LeCun's and C. Cortes' (CC BY-SA 3.0), the emoji Twitter's and other contributors' (CC BY 4.0);
CIFAR-10's real pictures are left out, as they have no licence to be shown.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="RECIPE", help=argparse.SUPPRESS)
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("-n", type=int, default=1000, help="rows to draw for the figure")
    parser.add_argument("--page", action="store_true", help="write the page alone")
    args = parser.parse_args()
    failed = []
    for name in [] if args.page else args.names or in_order():
        try:
            make(name, args.runs, args.data, args.n)
        except GenhubError as error:
            warn(f"{name}: {error}")
            failed.append(name)
        write_whole(DOCS / "gallery.md", page().encode())
    write_whole(DOCS / "gallery.md", page().encode())
    if failed:
        raise SystemExit(f"not made: {', '.join(failed)}")


# Recipes


def in_order() -> list[str]:
    """Return the shipped recipes' names: those that need no files first."""
    return sorted(shipped_recipes(), key=lambda name: (needs_files(name), name))


@cache
def written(name: str) -> dict[str, Any]:
    """Return a shipped recipe as it is written."""
    recipe: dict[str, Any] = yaml.safe_load(shipped_recipes()[name].read_text())
    return recipe


def about(name: str) -> str:
    """Return what a shipped recipe's first comment says of it."""
    return next(
        line[2:] for line in shipped_recipes()[name].read_text().splitlines() if line.startswith("# ") and " $" not in line
    )


def data_of(name: str) -> str:
    """Return the last part of the name of a recipe's data: mnist, digits."""
    return Path(written(name)["data"]["name"]).name


def needs_files(name: str) -> bool:
    return data_of(name) not in BUILT_IN


def before(name: str) -> str | None:
    """Return the recipe whose run a recipe's model.autoencoder names."""
    autoencoder = written(name)["model"].get("autoencoder")
    return Path(autoencoder).name if autoencoder else None


def digest(name: str) -> str:
    """Return a digest of a shipped recipe, comments aside: an entry is of one recipe."""
    return hashlib.sha256(json.dumps(written(name), sort_keys=True).encode()).hexdigest()[:16]


def command(name: str) -> list[str]:
    """Return the lines that train a recipe, as a person would write them."""
    first = command(earlier) if (earlier := before(name)) else []
    return [*first, f"genhub train {name}" + (f" data.name=path/to/{data_of(name)}" if needs_files(name) else "")]


# Entries


def make(name: str, runs: Path, data: Path, n: int) -> None:
    """Train a recipe, or take its finished run, and write its picture and its entry; said where its data isn't there."""
    picture = GALLERY / f"{name}.png"
    if entry(name) and picture.is_file():
        return say(f"{name}: has an entry")
    if needs_files(name) and not found(data, name):
        return say(f"{name}: left out, no {data_of(name)} in {data}")
    checkpoint = trained(name, runs, data)
    GALLERY.mkdir(exist_ok=True)
    draw(name, runs / name, picture)
    if entry(name):
        return say(f"{name}: drawn again")
    figures = genhub.evaluate(runs / name, n)
    figure = next(key for key in FIGURES if key in figures.values)
    state = json.loads((checkpoint / "trainer" / "state.json").read_text())
    made = {
        "recipe": digest(name), "model": figures.model, "figure": figure, "n": n,
        "value": rounded(figures.values[figure]),
        "interval": [rounded(end) for end in figures.intervals.get(figure, ())],
        "floor": rounded(figures.floor[figure]) if figure in figures.floor else None,
        "steps": figures.step, "seconds": round(state["seconds"], 1), "machine": state["machine"],
    }  # fmt: skip
    write_whole(GALLERY / f"{name}.json", (json.dumps(made, indent=1) + "\n").encode())
    return say(f"{name}: {FIGURES[figure]} {made['value']}")


def found(data: Path, name: str) -> Path | None:
    """Return the folder of a recipe's data."""
    return next(iter(sorted(data.glob(f"{data_of(name)}*"))), None)


def trained(name: str, runs: Path, data: Path) -> Path:
    """Train a recipe, after the one that it builds on, and return its last checkpoint."""
    overrides = [f"data.name={found(data, name)}"] if needs_files(name) else []
    if earlier := before(name):
        trained(earlier, runs, data)
        overrides.append(f"model.autoencoder={runs / earlier}")
    return genhub.train(name, overrides, run_dir=str(runs / name))


def draw(name: str, run: Path, out: Path) -> None:
    """Draw rows of a recipe's run, beside real ones where those may be shown, in a small file."""
    if data_of(name) in UNSHOWN:
        sample_to(run, 16, out=out)
        picture = Image.open(out).convert("RGB")
    else:
        many = {} if genhub.load(run).modality.together else {"n": 16}  # what shares one picture has a number of its own
        picture = genhub.show("samples", run, **many).convert("RGB")
    picture.thumbnail((WIDTH, WIDTH * 2), Image.Resampling.LANCZOS)
    picture.quantize(COLOURS, dither=Image.Dither.NONE).save(out, optimize=True)


def rounded(value: float) -> float:
    return float(f"{value:.4g}")


def entry(name: str) -> dict[str, Any] | None:
    """Return what was measured of a recipe as it is now, if it was."""
    file = GALLERY / f"{name}.json"
    made = json.loads(file.read_text()) if file.is_file() else None
    return made if made and made["recipe"] == digest(name) else None


# The page


def page() -> str:
    """Return the whole of gallery.md, from the entries that there are."""
    parts, missing = [HEAD], []
    for title, names in sections():
        shown = [shown_entry(name, made) for name in names if (made := entry(name))]
        parts += [f"## {title}\n", *shown] if shown else []
        missing += [name for name in names if not entry(name)]
    if missing:
        parts.append("## Not measured yet\n")
        parts.append("\n".join(f"- `{gallery_command(name)}`: {reason(name)}" for name in missing) + "\n")
    return "\n".join(parts)


def sections() -> Iterator[tuple[str, Sequence[str]]]:
    """Yield recipes by their data, in the gallery's order: title, names."""
    names = in_order()
    for data in dict.fromkeys(map(data_of, names)):
        yield TITLES.get(data, data.capitalize()), [name for name in names if data_of(name) == data]


def shown_entry(name: str, made: dict[str, Any]) -> str:
    """Return a recipe's part of the page."""
    ends = " to ".join(figure_text(end) for end in made["interval"])
    floor = f"real rows {figure_text(made['floor'])}" if made["floor"] is not None else ""
    beside = ", ".join(part for part in (ends, floor) if part)
    figure = f"{FIGURES[made['figure']]} {figure_text(made['value'])}{f' ({beside})' if beside else ''}"
    threads = f"{made['machine']['threads']} thread{'s' * (made['machine']['threads'] > 1)}"
    lines = "\n".join(command(name))
    beside_real = "" if data_of(name) in UNSHOWN else ", beside real rows"
    return f"""### {name}

{about(name)}

![What {name} draws{beside_real}](gallery/{name}.png)

```bash
{lines}
```

[{made["model"]}](models/{made["model"]}.md): {figure}, {made["n"]:,} rows drawn;
{made["steps"]:,} steps in {duration(made["seconds"])} on {threads}.
"""


def reason(name: str) -> str:
    """Return why a recipe has no entry."""
    if (GALLERY / f"{name}.json").is_file():
        return "changed since it was measured"
    if data_of(name) == "images":
        return "for a folder of your own"
    return f"needs {TITLES.get(data_of(name), data_of(name))}" if needs_files(name) else "not trained yet"


def gallery_command(name: str) -> str:
    return f"python docs/make_gallery.py {name}" + (" --data path/to/data" if needs_files(name) else "")


if __name__ == "__main__":
    main()
