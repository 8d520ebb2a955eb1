"""README and CONTRIBUTING are run, not only read."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import genhub

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text()


def block(text: str, language: str, containing: str) -> str:
    blocks = re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)
    return next(b for b in blocks if containing in b)


def test_readme_recipe_is_the_shipped_one(tmp_path):
    (tmp_path / "r.yaml").write_text(block(README, "yaml", "name: ddpm"))
    written, shipped = genhub.read_recipe(tmp_path / "r.yaml"), genhub.read_recipe("digits-ddpm")
    assert written.model_copy(update={"run_dir": shipped.run_dir, "folder": shipped.folder}) == shipped


@pytest.mark.slow
def test_readme_python_runs(tmp_path):
    code = block(README, "python", "genhub.train").replace("max_steps=200", "max_steps=5")
    result = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "torch.Size([16, 1, 8, 8]) torch.uint8" in result.stdout
    assert (tmp_path / "digits.png").exists()


def test_readme_verbs_and_options_exist(capsys):
    from genhub.cli import app

    for line in block(README, "bash", "genhub info").splitlines():
        command = line.split("#")[0].split()
        for word in command[1:]:
            if word.startswith("-"):
                with pytest.raises(SystemExit):
                    app([command[1], "--help"])
                assert word in capsys.readouterr().out, line
        assert command[1] in {
            "train", "sample", "show", "evaluate", "compare", "push", "info", "recipe", "plugins", "doctor",
        }  # fmt: skip


def test_readme_names_every_sampler_and_picture():
    row = next(line for line in README.splitlines() if line.startswith("| Models"))
    assert f"with {len(genhub.scheduler_names())} samplers" in row
    for picture in re.findall(r"!\[.*?\]\((.*?)\)", README):
        assert (ROOT / picture).stat().st_size > 1000


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


def test_scale_pages_commands_and_keys_exist(tmp_path):
    from typer.testing import CliRunner

    from genhub.cli import app
    from genhub.interfaces.config import DataConfig
    from genhub.recipe.sections import AccelerateConfig

    page = (ROOT / "docs" / "scale.md").read_text()
    commands = re.findall(r"genhub (train|sample) (\S+)(.*?)(?:#.*)?$", page, re.MULTILINE)
    assert len(commands) >= 6
    for verb, name, words in commands:
        if verb == "train" and name != "RECIPE":
            genhub.read_recipe(name, [word for word in words.split() if "=" in word and not word.startswith("-")])
        options = CliRunner().invoke(app, [verb, "--help"]).output
        assert all(word in options for word in words.split() if word.startswith("--"))
    keys = set(re.findall(r"`(?:trainer|data)\.(\w+)", page)) | set(re.findall(r"^\| `(\w+)", page, re.MULTILINE))
    assert keys - {"md"} <= AccelerateConfig.model_fields.keys() | DataConfig.model_fields.keys()
    (tmp_path / "r.yaml").write_text("model: {name: gan}\n" + block(page, "yaml", "streaming"))
    assert genhub.read_recipe(tmp_path / "r.yaml").data.streaming


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
    mean = data.images(range(1797)).mean(0)
    assert (model.mean[0] - mean).abs().mean() < 0.15
    assert genhub.sample(model, 3, spread=0.0).shape == (3, 1, 8, 8)
