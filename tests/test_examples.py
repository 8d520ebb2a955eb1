"""The plugins in examples/plugins as a stranger's: wheels, in an environment of their own, beside genhub's wheel."""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import numpy as np
import pytest
import yaml

import genhub

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples" / "plugins"
PLUGINS = {
    "pix2pix": ("pix2pix",),
    "angles": ("mixture-density", "angle"),
}
"""Folder to the names it registers; the first is the model's."""
MODALITIES = {"volumes": ("volume",)}
TRAINERS = {"diloco": ("diloco",)}
ALL = PLUGINS | MODALITIES | TRAINERS
CAN = {
    "pix2pix": "",
    "mixture-density": "likelihood",
}
COLUMNS = {"angles": ("point", (2,))}
"""The target's column and shape of those that don't draw digits."""
ASKED = {"angles": ["--condition", "angle=30,120,359"]}
FEW_STEPS = ("trainer.max_steps=4", "trainer.save_every=2", "trainer.sample_every=4", "trainer.num_samples=4")


@pytest.mark.parametrize("name", ALL)
def test_a_plugin_is_one_module_over_the_public_names(name: str) -> None:
    (module,) = (EXAMPLES / name).glob("genhub_*.py")
    imports = [node for node in ast.walk(ast.parse(module.read_text())) if isinstance(node, ast.Import | ast.ImportFrom)]
    modules = {node.module for node in imports if isinstance(node, ast.ImportFrom)}
    modules |= {alias.name for node in imports if isinstance(node, ast.Import) for alias in node.names}
    assert {module for module in modules if module and module.startswith("genhub")} == {"genhub"}
    taken = {a.name for node in imports if isinstance(node, ast.ImportFrom) and node.module == "genhub" for a in node.names}
    assert taken <= set(genhub.__all__)


class Site:
    """A fresh environment, and a folder with the examples' recipes and tests, but not their modules."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.bin = folder / "venv" / ("Scripts" if os.name == "nt" else "bin")

    def __call__(self, command: str, *arguments: str) -> str:
        plain = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")}
        done = subprocess.run([self.bin / command, *arguments], cwd=self.folder, env=plain, capture_output=True, text=True)
        assert done.returncode == 0, f"{command} {arguments}: {done.stdout[-2000:]}{done.stderr[-4000:]}"
        return done.stdout


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    folder = tmp_path_factory.mktemp("examples")
    pip = [sys.executable, "-m", "pip", "-q", "--disable-pip-version-check"]
    sources = [str(ROOT), *(str(EXAMPLES / name) for name in ALL)]
    build = ["wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder / "dist")]
    subprocess.run([*pip, *build, *sources], check=True)
    venv.create(folder / "venv", with_pip=False, symlinks=os.name != "nt")
    site = Site(folder)
    python = next(site.bin.glob("python*"))
    wheels = [str(wheel) for wheel in (folder / "dist").glob("*.whl")]
    subprocess.run([*pip, "--python", str(python), "install", "--no-deps", "--no-index", *wheels], check=True)
    # The libraries are this environment's. It comes last on the path, and a .pth file found there is not read: what is
    # installed editable here is not seen.
    libraries = [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
    own = Path(site("python", "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
    (own / "libraries.pth").write_text("\n".join(libraries) + "\n")
    for name in ALL:
        (folder / name).mkdir()
        for file in [*(EXAMPLES / name).glob("*.yaml"), *(EXAMPLES / name).glob("*.py")]:
            if not file.name.startswith("genhub_"):
                shutil.copy(file, folder / name)
    return site


@pytest.mark.slow
def test_they_are_listed_with_who_brought_them(site: Site) -> None:
    rows = json.loads(site("genhub", "plugins", "list", "--load", "--json"))
    listed = {row["name"]: (row["distribution"], row["version"], row["state"]) for row in rows}
    for folder, names in ALL.items():
        for name in names:
            assert listed[name] == (f"genhub-{folder}", "0.1.0", "fine")
    can = {row["name"]: row["capabilities"] for row in rows}
    assert {name: can[name] for name in CAN} == CAN
    assert listed["ddpm"][0] == "genhub-framework"
    where = site("python", "-c", "import genhub, genhub_pix2pix; print(genhub.__file__, genhub_pix2pix.__file__)").split()
    assert all(Path(file).is_relative_to(site.folder / "venv") for file in where), where


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", PLUGINS)
def test_its_recipe_trains_and_its_model_comes_back(site: Site, name: str) -> None:
    said = site("genhub", "train", f"{name}/recipe.yaml", *FEW_STEPS, "--run-dir", f"runs/{name}")
    assert f"Picture  runs/{name}/samples/step-000004.png" in said
    assert not any((site.folder / "runs" / name).rglob("*.bin"))
    site("genhub", "sample", f"runs/{name}", "-n", "3", *ASKED.get(name, []), "--out", f"{name}.npz")  # what was trained
    column, shape = COLUMNS.get(name, ("image", (8, 8, 1)))
    drawn = np.load(site.folder / f"{name}.npz")[column]
    assert drawn.shape == (3, *shape)
    assert len(np.unique(drawn)) > 2


@pytest.mark.slow
@pytest.mark.parametrize("name", ["angle", "volume"])
def test_its_modality_keeps_the_contract(site: Site, name: str) -> None:
    site("genhub", "plugins", "check", name)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_its_modality_s_recipe_trains(site: Site) -> None:
    site("python", "volumes/make_volumes.py", "volumes/volumes", "--number", "20")
    site("genhub", "train", "volumes/recipe.yaml", *FEW_STEPS, "data.name=volumes/volumes", "--run-dir", "runs/volumes")
    quick = ["--set", "num_inference_steps=3", "--condition", "label=sphere"]
    site("genhub", "sample", "runs/volumes", "-n", "3", *quick, "--out", "volumes.npz")
    assert np.load(site.folder / "volumes.npz")["volume"].shape == (3, 1, 12, 12, 12)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_angles_are_conditions_of_a_model_that_never_heard_of_them(site: Site) -> None:
    recipe = yaml.safe_load((EXAMPLES / "angles" / "recipe.yaml").read_text())
    recipe["model"] = {"name": "flow", "conditions": ["angle"], "network": {"name": "mlp", "hidden": 16}}
    (site.folder / "both.yaml").write_text(yaml.safe_dump(recipe))
    site("genhub", "train", "both.yaml", *FEW_STEPS, "--run-dir", "runs/both")
    site("genhub", "sample", "runs/both", "-n", "4", "--condition", "angle=30,120", "--out", "both.npz")
    drawn = np.load(site.folder / "both.npz")
    assert drawn["point"].shape == (4, 2)
    assert drawn["angle"] == pytest.approx([30, 120, 30, 120])


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_their_own_tests_pass(site: Site) -> None:
    site("python", "-m", "pytest", "-q", "-p", "no:cacheprovider", *ALL)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_trainer_s_recipe_trains_and_it_keeps_the_contract(site: Site) -> None:
    site("genhub", "train", "diloco/recipe.yaml", *FEW_STEPS, "--run-dir", "runs/diloco")
    site("genhub", "sample", "runs/diloco", "-n", "3", "--out", "diloco.npz", "--set", "num_inference_steps=2")
    assert np.load(site.folder / "diloco.npz")["image"].shape == (3, 8, 8, 1)
    site("genhub", "plugins", "check", "diloco", "inner_steps=2")
