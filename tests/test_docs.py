"""README, CONTRIBUTING and docs/ are run, not only read."""

from __future__ import annotations

import ast
import pkgutil
import re
import shlex
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

import genhub

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text()
PAGES = {path: path.read_text() for path in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")]}
NO_MODULES = {"json", "py"} | {
    "models",
    "networks",
    "modalities",
    "schedulers",
    "trainers",
    "formats",
    "extractors",
    "metrics",
}  # files, and entry-point groups


def block(text: str, language: str, containing: str) -> str:
    blocks = re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)
    return next(b for b in blocks if containing in b)


def test_the_recipe_that_is_explained_is_the_shipped_one(tmp_path):
    (tmp_path / "r.yaml").write_text(block((ROOT / "docs" / "recipe.md").read_text(), "yaml", "name: ddpm"))
    written, shipped = genhub.read_recipe(tmp_path / "r.yaml"), genhub.read_recipe("digits-ddpm")
    assert written.model_copy(update={"run_dir": shipped.run_dir, "folder": shipped.folder}) == shipped


@pytest.mark.slow
@pytest.mark.parametrize("page", ["README.md", "docs/verbs.md"])
def test_python_of_the_readme_and_of_the_verbs_runs(tmp_path, page):
    code = block((ROOT / page).read_text(), "python", "genhub.train").replace("max_steps=200", "max_steps=5")
    result = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "torch.Size([16, 1, 8, 8]) torch.uint8" in result.stdout
    assert (tmp_path / "digits.png").exists()


def commands_of(text: str) -> list[str]:
    """Return the lines of a page's bash blocks that are genhub's, lines that go on below joined."""
    blocks = "".join(re.findall(r"```bash\n(.*?)```", text, re.DOTALL)).replace("\\\n", " ")
    return re.findall(r"^genhub .*", blocks, re.MULTILINE)


def test_every_command_of_every_page_has_a_verb_options_and_a_recipe_that_are_there():
    from typer.testing import CliRunner

    from genhub.cli import app

    recipes = {path.stem for path in (ROOT / "recipes").glob("*.yaml")}
    told = cache(lambda *words: CliRunner().invoke(app, [*words, "--help"]))
    checked = 0
    for page, text in PAGES.items():
        for command in commands_of(text):
            _, verb, *words = shlex.split(command, comments=True)
            where = (verb, words[0]) if verb in ("plugins", "recipe") and words and not words[0].startswith("-") else (verb,)
            shown = told(*where)
            assert shown.exit_code == 0, f"{page.name}: {command}"
            options = set(re.findall(r"(?<![\w-])--?[a-z][\w-]*", shown.output))
            asked = [word.partition("=")[0] for word in words if re.match(r"--?[a-z]", word)]
            assert set(asked) <= options, f"{page.name}: {command}"
            if verb == "train" and words[0] in recipes:
                keys = [
                    word for word in words[1:] if "=" in word and not word.startswith(("-", "model.from="))
                ]  # no such run
                genhub.read_recipe(words[0], keys)
            checked += 1
    assert checked > 200


def test_the_page_of_verbs_has_all_of_them():
    from typer.main import get_command

    from genhub.cli import app

    page = (ROOT / "docs" / "verbs.md").read_text().partition("## From Python")[0]
    shown = {name for name, command in get_command(app).commands.items() if not command.hidden}
    assert {command.split()[1] for command in commands_of(page)} == shown


@pytest.mark.slow
@pytest.mark.parametrize("page", sorted((ROOT / "docs" / "howto").glob("*.md")), ids=lambda page: page.stem)
def test_every_command_of_a_how_to_page_runs(page, tmp_path, monkeypatch):
    """In order, on data as the page has them, for two steps and a few rows each; what is marked `not run` takes hours, a
    cluster or a network."""
    from typer.testing import CliRunner

    from genhub.cli import app

    monkeypatch.chdir(tmp_path)
    howto_data()
    text = re.sub(r"<!-- not run -->\n```bash\n.*?```", "", page.read_text(), flags=re.DOTALL)
    commands = commands_of(text)
    assert commands
    for command in commands:
        words = shlex.split(command, comments=True)[1:]
        if words[0] == "train":
            words = [word for word in words if not word.startswith("trainer.max_steps")] + FEW_STEPS
        words = [FEW_ROWS.get(word, word) for word in words]
        done = CliRunner().invoke(app, words)
        assert done.exit_code == 0, f"{command}\n{done.output}\n{done.exception}"
    typed = [shlex.split(command, comments=True) for command in commands]
    drawn = [words[words.index("--out") + 1] for words in typed if "--out" in words]
    assert [name for name in drawn if not Path(name).exists()] == []


FEW_STEPS = [
    "trainer.max_steps=2",
    "trainer.max_time=null",
    "trainer.trackers=[]",
    "trainer.num_samples=2",
    "data.batch_size=4",
]
FEW_ROWS = {"16": "2", "8": "2", "100": "4", "1000": "8"}


def howto_data() -> None:
    """Write the folders and the table that the how-to pages speak of."""
    import numpy as np
    from PIL import Image
    from scipy.io.wavfile import write as write_wav

    random = np.random.default_rng(0)
    captions = ["a red square", "a blue square"]
    for index in range(12):
        picture = Image.fromarray(random.integers(0, 255, (40, 48, 3), dtype=np.uint8))
        for name in (f"photos/{index}.png", f"pets/{('cat', 'dog')[index % 2]}/{index}.png", f"captioned/{index}.png"):
            Path(name).parent.mkdir(parents=True, exist_ok=True)
            picture.save(name)
    rows = "".join(f"{index}.png,{captions[index % 2]} no {index}\n" for index in range(12))
    Path("captioned/metadata.csv").write_text(f"file_name,caption\n{rows}")
    for pitch, period in {"high": 8, "low": 32}.items():
        Path(f"sounds/{pitch}").mkdir(parents=True)
        for index in range(4):
            wave = np.sin(np.arange(2000 + 100 * index) * 2 * np.pi / period) * 20_000
            write_wav(Path(f"sounds/{pitch}/{index}.wav"), 8000, wave.astype("<i2"))
    table = "".join(f"{160 + index},{60 + index % 7},{20 + index % 50},{'ab'[index % 2]}\n" for index in range(60))
    Path("table.csv").write_text(f"height,weight,age,group\n{table}")


def test_readme_names_every_sampler_and_picture():
    row = next(line for line in (ROOT / "docs" / "features.md").read_text().splitlines() if line.startswith("| Models"))
    flows = [name for name in genhub.scheduler_names() if name.startswith("flow_")]
    assert f"with {len(genhub.scheduler_names()) - len(flows)} samplers" in row
    assert all(f"`{name}`" in row for name in flows)
    for picture in re.findall(r"!\[.*?\]\((.*?)\)", README):
        assert (ROOT / picture).stat().st_size > 1000


@pytest.mark.slow
def test_ddpm_page_runs(tiny, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    page = (ROOT / "docs" / "models" / "ddpm.md").read_text()
    genhub.train(tiny, ["trainer.max_steps=1", "model.scheduler.num_train_timesteps=1000"], run_dir="runs/digits-ddpm")
    capsys.readouterr()
    exec(block(page, "python", "genhub.load"), {})
    said = capsys.readouterr().out
    assert said.startswith("[999, 899, 799, 699, 599, 499, 399, 299, 199, 99]\ntorch.Size([4, 1, 8, 8])")
    for picture in re.findall(r"!\[.*?\]\((.*?)\)", page):
        assert (ROOT / "docs" / "models" / picture).is_file()


@pytest.mark.slow
def test_hub_page_runs(hub, tiny, tmp_path, monkeypatch):
    """Its Python against the tests' Hub, its verbs and options against the command line, its recipe against the schema."""
    from typer.testing import CliRunner

    from genhub.cli import app

    monkeypatch.chdir(tmp_path)
    page = (ROOT / "docs" / "hub.md").read_text()
    genhub.train(tiny, ["trainer.max_steps=1"], run_dir="runs/digits-ddpm")
    exec(block(page, "python", "import genhub").replace('"max_steps": 100', '"max_steps": 1, "trackers": []'), {})
    assert (tmp_path / "runs" / "tuned" / "checkpoints" / "step-000001").is_dir()
    lines = block(page, "bash", "genhub push").splitlines()
    for line in lines:
        result = CliRunner().invoke(app, [word.replace("64", "2") for word in line.split()[1:]])
        assert result.exit_code == 0, (line, result.output, result.exception)
    assert [line.split()[1] for line in lines] == ["push", "sample", "info", "train"]
    assert (tmp_path / "digits.png").exists()
    (tmp_path / "r.yaml").write_text(block(page, "yaml", "repo_id"))
    assert genhub.read_recipe("r.yaml").hub.every == 5000
    help_text = CliRunner().invoke(app, ["push", "--help"]).output
    assert all(option in help_text for option in re.findall(r"`(?:genhub push [^`]*)?(--[a-z-]+)", page))


def test_bench_pages_commands_options_and_example_are_right(capsys):
    from genhub.cli import app

    page = (ROOT / "docs" / "bench.md").read_text()
    helps = {}
    for verb in ("init", "bench", "train"):
        with pytest.raises(SystemExit):
            app([verb, "--help"])
        helps[verb] = capsys.readouterr().out
    commands = re.findall(r"^genhub (\w+) (.*)$", page, re.MULTILINE)
    assert len(commands) >= 5
    for verb, words in commands:
        options = [word for word in shlex.split(words, comments=True) if word.startswith("-")]
        assert [option for option in options if option not in helps[verb]] == []
    assert all(option in helps["bench"] for option in re.findall(r"`(-[-\w]+)", page) if option != "--model")
    names: dict = {}
    exec(block(page, "python", "suited"), names)
    config, data = names["BlurConfig"], genhub.load_data("digits").spec.model_data
    assert config.suited(data, genhub.Means(10)) == {"model.hidden": 64, "data.batch_size": 128}


def test_the_demo_page_runs(tiny, tmp_path, monkeypatch, capsys):
    from typer.testing import CliRunner

    from genhub.cli import app

    monkeypatch.chdir(tmp_path)
    page = (ROOT / "docs" / "demo.md").read_text()
    tiny["model"]["conditions"] = ["label"]
    genhub.train(tiny, ["trainer.max_steps=1"], run_dir="runs/digits-ddpm-conditional")
    capsys.readouterr()
    exec(block(page, "python", "Form.of"), {})
    assert capsys.readouterr().out == (
        "genhub sample runs/digits-ddpm-conditional -n 8 --condition label=3 --condition label=7 --seed 0 "
        "--set num_inference_steps=10 --out samples.png\n"
    )
    assert (tmp_path / "digits.png").is_file()
    options = CliRunner().invoke(app, ["demo", "--help"]).output
    assert all(option in options for option in re.findall(r"--[a-z]+", page))
    assert (ROOT / "docs" / "images" / "demo.png").stat().st_size > 1000


def test_scale_pages_commands_and_keys_exist(tmp_path):
    from typer.testing import CliRunner

    from genhub.cli import app
    from genhub.interfaces.columns import DataConfig
    from genhub.recipe.sections import AccelerateConfig

    page = (ROOT / "docs" / "scale.md").read_text()
    commands = re.findall(r"genhub (train|sample) (\S+)(.*?)(?:#.*)?$", page, re.MULTILINE)
    assert len(commands) >= 6
    for verb, name, words in commands:
        if verb == "train" and name != "RECIPE":
            genhub.read_recipe(name, [word for word in shlex.split(words) if "=" in word and not word.startswith("-")])
        options = CliRunner().invoke(app, [verb, "--help"]).output
        assert all(word in options for word in words.split() if word.startswith("--"))
    keys = set(re.findall(r"`(?:trainer|data)\.(\w+)", page)) | set(re.findall(r"^\| `(\w+)", page, re.MULTILINE))
    assert keys - {"md"} <= AccelerateConfig.model_fields.keys() | DataConfig.model_fields.keys()
    (tmp_path / "r.yaml").write_text("model: {name: gan}\n" + block(page, "yaml", "streaming"))
    assert genhub.read_recipe(tmp_path / "r.yaml").data.streaming


def test_the_data_pages_commands_recipes_and_python(tmp_path, monkeypatch):
    """Its recipe is of data that there can be; its commands' recipes, verbs and options are there; its Python runs."""
    import numpy as np
    from datasets import Dataset, Image
    from typer.testing import CliRunner

    from genhub.cli import app
    from genhub.data.open import load_data

    monkeypatch.chdir(tmp_path)
    page = (ROOT / "docs" / "data.md").read_text()
    pictures = [np.full((80, 72, 3), shade, np.uint8) for shade in range(8)]
    numbers = {name: [float(shade) for shade in range(8)] for name in ("price", "x", "y")}
    Dataset.from_dict({"photo": pictures, **numbers}).cast_column("photo", Image()).to_parquet("houses.parquet")
    Path("r.yaml").write_text(block(page, "yaml", "houses.parquet"))
    recipe = genhub.read_recipe("r.yaml")
    data = load_data(recipe.data, recipe.model.conditions)
    assert {name: its.shape for name, its in data.spec.columns.items()} == {"photo": (3, 64, 64), "price": (), "place": (2,)}
    assert data.column("small").modality.shape == (3, 16, 16)
    for verb, words in re.findall(r"^genhub (\w+) ([^#\n]*)", page, re.MULTILINE):
        names = shlex.split(words)
        if verb == "train":
            genhub.read_recipe(names[0], names[1:])
        options = CliRunner().invoke(app, [verb, "--help"]).output
        assert all(word in options for word in names if word.startswith("-"))
    exec(block(page, "python", "genhub.train").replace("max_steps=20", "max_steps=1"), {})
    assert Path("runs/points/checkpoints/step-000001").is_dir()


def test_contributing_example_trains(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "blur.py").write_text(block(CONTRIBUTING, "python", "class Blur"))
    (tmp_path / "recipe.yaml").write_text(
        "model: {name: 'blur:Blur', spread: 0.2}\ntrainer: {max_steps: 30, optimizer: {lr: 0.1}, trackers: []}\n"
    )
    genhub.train("recipe.yaml")
    import blur

    model = blur.Blur.from_pretrained("runs/recipe")
    from genhub.data.open import load_data

    data = load_data(genhub.read_recipe("recipe.yaml").data)
    mean = data.x(range(1797)).mean(0)
    assert (model.mean.bias.detach().view(1, 8, 8) - mean).abs().mean() < 0.15
    assert genhub.sample(model, 3, spread=0.0).shape == (3, 1, 8, 8)


def test_every_tracked_text_ends_with_one_newline():
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    texts = {name: (ROOT / name).read_bytes() for name in listed.split("\0") if (ROOT / name).is_file()}
    texts = {name: text for name, text in texts.items() if text and b"\0" not in text}
    assert len(texts) > 200
    assert [name for name, text in texts.items() if not text.endswith(b"\n") or text.endswith(b"\n\n")] == []


def test_every_file_that_a_page_names_is_there():
    """`genhub/run/train.py` or, as in architecture.md, `run/train.py: train`, a file below genhub/ and what it defines."""
    named = [
        (page.name, file)
        for page, text in PAGES.items()
        for file in re.findall(r"(?<![\w/])genhub(?:_\w+)?/[\w/]+\.py\b", text)
    ]
    assert len(named) > 5
    assert [it for it in named if not any((folder / it[1]).is_file() for folder in (ROOT, ROOT / "plugins"))] == []
    trips = re.findall(r"`([\w/]+\.py): ([\w.]+)`", (ROOT / "docs" / "architecture.md").read_text())
    assert len(trips) > 40
    assert [it for it in trips if not defines(ROOT / "genhub" / it[0], it[1].split("."))] == []


def defines(file: Path, names: list[str]) -> bool:
    """Whether a file has the function, the class, or the class's function of these names."""
    body = ast.parse(file.read_text()).body if file.is_file() else []
    for name in names:
        found = [node for node in body if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name == name]
        if not found:
            return False
        body = found[0].body
    return True


def test_every_name_of_genhub_that_a_page_names_is_there():
    names = {
        (page.name, name) for page, text in PAGES.items() for name in re.findall(r"(?<![\w./@])genhub\.[a-z_][\w.]*\w", text)
    }
    names = {(page, name) for page, name in names if name.split(".")[1] not in NO_MODULES}
    assert len({name for _, name in names}) > 10

    def missing(name: str) -> bool:
        try:
            pkgutil.resolve_name(name)
        except (ImportError, AttributeError):
            return True
        return False

    assert sorted((page, name) for page, name in names if missing(name)) == []


def test_every_link_between_pages_leads_somewhere():
    for page, text in PAGES.items():
        for target, anchor in re.findall(r"\]\((?!https?:)([^)#\s]*)(?:#([^)\s]+))?\)", text):
            file = page.parent / target if target else page
            assert file.exists(), f"{page.name}: {target}"
            if anchor and file.suffix == ".md":
                assert anchor in anchors(file.read_text()), f"{page.name}: {target}#{anchor}"


def anchors(text: str) -> set[str]:
    """Names by which a page's headings are linked to."""
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_house_is_drawn_as_import_linter_holds_it():
    import tomllib

    contract = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"][0]
    tree = re.findall(r"^  (\S+(?: \| \S+)?)  ", block(CONTRIBUTING, "text", "errors.py"), re.MULTILINE)
    assert [line.replace(".py", "") for line in tree] == contract["layers"]
    drawing = block((ROOT / "docs" / "architecture.md").read_text(), "mermaid", "flowchart")
    drawn = re.findall(r'\["(\w+)', drawing)
    assert [room for room in drawn if room != "plugins"] == [
        room for layer in contract["layers"] for room in layer.split(" | ")
    ]


def test_licence_and_citation_are_those_of_the_distribution():
    import tomllib

    import yaml

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert (ROOT / "LICENSE").read_text().strip().startswith("Apache License\n")
    assert citation["license"] == project["license"] == "Apache-2.0"
    assert citation["version"] == project["version"]
