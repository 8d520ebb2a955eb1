"""The command line: exit codes, JSON, one readable message, and what is not imported."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from test_registry import install
from typer.testing import CliRunner

from genhub import GenhubError, InputError, cli

VERBS = [[], ["train"], ["sample"], ["show"], ["info"], ["push"], ["evaluate"], ["compare"], ["data"], ["sweep"], ["init"], ["bench"], ["watch"], ["doctor"], ["recipe"], ["recipe", "check"],
         ["recipe", "show"], ["recipe", "list"], ["recipe", "schema"], ["plugins"], ["plugins", "list"], ["plugins", "info"],
         ["plugins", "new"]]  # fmt: skip


def genhub(*words: str, fails: type[Exception] | None = None) -> str:
    """What a verb prints, run in this process."""
    result = CliRunner().invoke(cli.app, words)
    if fails is None:
        assert result.exit_code == 0, (result.output, result.exception)
    else:
        assert isinstance(result.exception, fails), (result.output, result.exception)
    return result.stdout


def process(*words: str, cwd: Path | None = None, **env: str) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).with_name("genhub")), *words]
    return subprocess.run(command, cwd=cwd, env=os.environ | env, capture_output=True, text=True)


@pytest.mark.parametrize("verb", VERBS, ids=" ".join)
def test_every_verb_has_help_that_fits_a_terminal(verb: list[str]) -> None:
    text = genhub(*verb, "--help")
    assert "Usage:" in text
    assert "..." not in text.partition("Commands:")[2]  # no description is cut off
    assert max(map(len, text.splitlines())) <= 80


PROBE = """
import sys
sys.argv = ["genhub", *sys.argv[1:]]
from genhub.cli import main
try:
    main()
except SystemExit as error:
    code = error.code or 0
heavy = {"torch", "diffusers", "accelerate", "datasets", "transformers", "numpy", "sklearn", "genhub_ddpm"}
print(code, sorted(heavy & set(sys.modules)), file=sys.stderr)
"""


@pytest.mark.parametrize(
    "words",
    [
        ["--help"],
        ["plugins"],
        ["plugins", "list", "--json"],
        ["plugins", "new", "thing"],
        ["recipe", "list"],
        ["train", "--help"],
    ],
    ids=" ".join,
)
def test_light_verbs_import_nothing_heavy(words: list[str], tmp_path: Path) -> None:
    command = [sys.executable, "-c", PROBE, *words]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stderr == "0 []\n"


HELP = PROBE.replace("heavy =", "heavy = {'pydantic', 'importlib.metadata', 'hashlib', 'logging'} |")


def test_help_waits_for_no_library(tmp_path: Path) -> None:
    """typer itself needs pydantic as soon as it reads a verb's arguments."""
    done = subprocess.run([sys.executable, "-c", HELP, "--help"], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stderr == "0 []\n"


def test_a_users_mistake_is_one_line_and_exit_code_2(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text("model: {name: ddpm}\ntrainer:\n  max_step: 3\n")
    for verb in (["recipe", "check", "r.yaml"], ["train", "r.yaml"], ["train", "r.yaml", "--dry-run"]):
        done = process(*verb, cwd=tmp_path)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr == "genhub: r.yaml:3: trainer.max_step: unknown key; did you mean 'max_steps'?\n"
    assert [path.name for path in tmp_path.iterdir()] == ["r.yaml"]


def test_a_mistake_in_the_command_itself_is_exit_code_2() -> None:
    done = process("trian")
    assert done.returncode == 2
    assert "No such command 'trian'" in done.stderr
    assert "Traceback" not in done.stderr
    assert process().returncode == 2  # no command: the help


def test_bytes_that_are_no_text_on_the_command_line(tmp_path: Path) -> None:
    done = subprocess.run(
        [Path(sys.executable).with_name("genhub"), "recipe", "check", b"\xff.yaml"], capture_output=True, cwd=tmp_path
    )
    assert done.returncode == 2
    assert b"Traceback" not in done.stderr


def test_training_says_which_versions_were_never_tested(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("genhub.cli.doctor.installed_versions", lambda: ({}, ["rich: 3.0 is installed, >=15 was tested"]))
    monkeypatch.setattr("genhub.train", lambda recipe, fresh: None, raising=False)
    result = CliRunner().invoke(cli.app, ["train", "digits-ddpm"])
    assert (result.exit_code, result.stderr) == (0, "genhub: rich: 3.0 is installed, >=15 was tested\n")


def test_recipe_check_and_show(tmp_path: Path) -> None:
    assert genhub("recipe", "check", "digits-ddpm") == "digits-ddpm: fine\n"
    shown = genhub("recipe", "show", "digits-ddpm", "seed=5")
    assert yaml.safe_load(shown)["seed"] == 5
    assert json.loads(genhub("recipe", "show", "digits-ddpm", "seed=5", "--json")) == yaml.safe_load(shown)
    (tmp_path / "again.yaml").write_text(shown)
    assert genhub("recipe", "show", str(tmp_path / "again.yaml")) == shown


def test_recipe_check_takes_several_recipes(tmp_path: Path) -> None:
    for name, more in [("a", ""), ("b", "seed: yes\n"), ("c", "trainer: {lr: 1}\n")]:
        (tmp_path / f"{name}.yaml").write_text("model: {name: ddpm}\n" + more)
    a, b, c = (str(tmp_path / f"{name}.yaml") for name in "abc")
    assert genhub("recipe", "check", a, "digits-vae", "trainer.max_steps=3") == f"{a}: fine\ndigits-vae: fine\n"
    result = CliRunner().invoke(cli.app, ["recipe", "check", b, a, c])
    assert result.stdout == f"{a}: fine\n"
    assert str(result.exception).splitlines() == [
        f"{b}:2: seed: must be a valid integer, not True",
        f"{c}:2: trainer.lr: unknown key; did you mean 'trainer.optimizer.lr'?",
    ]
    genhub("recipe", "check", a, "nowhere.yaml", fails=InputError)


def test_recipe_list_and_schema() -> None:
    listed = [line.split(maxsplit=1) for line in genhub("recipe", "list").splitlines()]
    assert ["digits-ddpm", "A DDPM on 8x8 digits: offline, about a minute on two cores."] in listed
    assert {"name": "digits-ddpm", "about": "A DDPM on 8x8 digits: offline, about a minute on two cores."} in json.loads(
        genhub("recipe", "list", "--json")
    )
    assert json.loads(genhub("recipe", "schema"))["title"] == "genhub recipe"


def test_plugins_list_and_info() -> None:
    rows = json.loads(genhub("plugins", "--json"))
    assert rows == json.loads(genhub("plugins", "list", "--json"))
    assert {"kind": "model", "name": "ddpm", "class": "genhub_ddpm:DDPM", "distribution": "genhub-framework",
            "version": "0.1.0", "state": "installed"} in rows  # fmt: skip
    assert len(genhub("plugins").splitlines()) == len(rows)
    text = genhub("plugins", "info", "ddpm")
    assert "ddpm (model): genhub_ddpm:DDPM, genhub-framework 0.1.0" in text
    assert "  network: null  (" in text
    assert "Capabilities: denoiser, likelihood" in text
    assert yaml.safe_load(text.partition("A recipe:\n")[2].partition("ddpm (scheduler)")[0])["model"] == {"name": "ddpm"}
    assert [facts["kind"] for facts in json.loads(genhub("plugins", "info", "ddpm", "--json"))] == ["model", "scheduler"]
    genhub("plugins", "info", "nothing", fails=InputError)


@pytest.mark.slow
def test_plugins_of_other_distributions_in_a_real_process(tmp_path: Path) -> None:
    install(tmp_path, "copycat", "[genhub.models]\nddpm = copycat:Model\nbroken = broken_model:X\n", "2.0",
            broken_model="import sys; sys.exit('gone')")  # fmt: skip
    done = process("plugins", PYTHONPATH=str(tmp_path))
    assert done.returncode == 0
    assert done.stdout.splitlines()[0].endswith("installed")
    marked = [line for line in done.stdout.splitlines() if line.endswith("claimed twice: uninstall one")]
    assert len(marked) == 2
    loaded = process("plugins", "--load", "--json", PYTHONPATH=str(tmp_path))
    states = {(row["kind"], row["name"]): (row["state"], row["capabilities"]) for row in json.loads(loaded.stdout)}
    assert states["model", "broken"] == ("broken: SystemExit('gone')", "")
    assert states["model", "ddpm"][0] == "claimed twice: uninstall one"
    assert states["model", "vae"] == ("fine", "autoencoder, likelihood")
    assert states["model", "cgan"] == ("fine", "")
    assert states["scheduler", "ddim"] == ("fine", "")
    assert "copycat" in "".join(marked)
    assert "genhub-framework" in "".join(marked)
    done = process("recipe", "check", "digits-ddpm", PYTHONPATH=str(tmp_path))
    assert done.returncode == 2
    assert "copycat 2.0" in done.stderr
    assert "genhub-framework" in done.stderr
    done = process("doctor", "--json", PYTHONPATH=str(tmp_path))
    assert done.returncode == 1
    problems = "\n".join(json.loads(done.stdout)["problems"])
    assert "model 'broken' from copycat 2.0 can't be used: SystemExit: gone" in problems
    assert "two distributions claim one name" in problems


def test_a_new_plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "my_model", raising=False)  # another test's
    said = genhub("plugins", "new", "my-model")
    assert said.splitlines()[0] == "my-model: README.md, my_model.py, pyproject.toml, recipe.yaml, test_my_model.py"
    assert "pip install -e my-model && genhub train my-model/recipe.yaml && pytest my-model" in said
    genhub("plugins", "new", "my-model", fails=InputError)
    genhub("plugins", "new", "other", "--kind", "modle", fails=InputError)


def test_doctor() -> None:
    assert json.loads(genhub("doctor", "--json"))["problems"] == []
    assert yaml.safe_load(genhub("doctor"))["genhub"] == "0.1.0"


def test_info_of_a_model_folder(tmp_path: Path) -> None:
    from test_manifest import write

    write(tmp_path)
    facts = json.loads(genhub("info", str(tmp_path), "--json"))
    assert (facts["step"], facts["plugin"]["name"], facts["parameters"]) == (3, "ddpm", None)
    assert "its weights are a pickle (weights.bin)" in facts["note"]
    assert "save_pretrained" in facts["note"]
    assert yaml.safe_load(genhub("info", str(tmp_path))) == facts
    (tmp_path / "unet" / "weights.bin").write_bytes(b"")
    genhub("info", str(tmp_path), fails=InputError)
    genhub("info", str(tmp_path / "nowhere"), fails=InputError)


def test_sample_passes_on_what_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    monkeypatch.setattr("genhub.api.sample_to", lambda **given: calls.append(given) or 3)
    text = genhub("sample", "runs/x", "-n", "3", "--condition", "label=1,2", "--condition", "ink=0.2", "--condition", "label=3", "--seed", "7", "--set", "num_inference_steps=20",
                  "--set", "scheduler=ddim", "--out", "a.png", "--dtype", "bfloat16", "--compile")  # fmt: skip
    assert text == "3 drawn: a.png\n"
    expected = {"source": "runs/x", "n": 3, "conditions": {"label": ("1,2", "3"), "ink": ("0.2",)}, "seed": 7, "out": Path("a.png"), "num_inference_steps": 20,
                "scheduler": "ddim", "dtype": "bfloat16", "compile": True}  # fmt: skip
    assert expected.items() <= calls[0].items()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--labels", "1,2"], "--labels: is --condition now: --condition label=1,2, by the name of the column"),
        (["--condition", "3"], "--condition: NAME=VALUES, such as label=3,7 or source=photo.png; not '3'"),
        (["--condition", "=3"], "--condition: NAME=VALUES, such as label=3,7 or source=photo.png; not '=3'"),
        (["--set", "steps"], "--set: 'steps' must look like key.path=value"),
        (["--set", "seed=3"], "--set seed: has an option of its own; see genhub sample --help"),
        (["--set", "model=3"], "--set model: has an option of its own; see genhub sample --help"),
    ],
)
def test_mistakes_in_sample(words: list[str], message: str) -> None:
    result = CliRunner().invoke(cli.app, ["sample", "runs/x", *words])
    assert isinstance(result.exception, InputError)
    assert str(result.exception) == message


@pytest.mark.parametrize(
    ("error", "code"), [(GenhubError("no"), 1), (InputError("no"), 2), (KeyboardInterrupt(), 130)], ids=repr
)
def test_exit_codes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: BaseException, code: int
) -> None:
    def fail() -> None:
        raise error

    monkeypatch.setattr(cli, "app", fail)
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert caught.value.code == code
    assert capsys.readouterr().err == ("" if code == 130 else "genhub: no\n")


def test_out_of_memory_says_what_to_lower(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    import torch

    def fail() -> None:
        raise torch.OutOfMemoryError("tried to allocate 3 GiB")

    monkeypatch.setattr(cli, "app", fail)
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert caught.value.code == 1
    assert "lower --batch-size" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "there"), [({}, "2000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "active"}, "None")]
)
def test_threads_that_wait_let_others_work_unless_told(given, there):
    code = "import os, sys, genhub.cli\nsys.argv = ['genhub', '--help']\ntry:\n    genhub.cli.main()\nfinally:\n    print(os.environ.get('GOMP_SPINCOUNT'))"
    env = {name: value for name, value in os.environ.items() if name not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")} | given
    said = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True).stdout
    assert said.splitlines()[-1] == there
