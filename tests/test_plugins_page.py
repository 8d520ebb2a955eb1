"""docs/plugins.md, block by block, as a newcomer would type it: a fresh environment, real pip, real processes."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import genhub
from genhub.cli.scaffold import TEMPLATES

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "plugins.md").read_text()


def fresh_environment(folder: Path) -> dict[str, str]:
    """Variables for an environment with nothing of its own installed, that sees what is installed here (`pip` included)."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "env"], check=True)
    (site,) = (folder / "env").glob("lib/python3*/site-packages")
    seen = [path for path in sys.path if "site-packages" in path or path in (str(ROOT), str(ROOT / "plugins"))]
    (site / "around.pth").write_text("\n".join(seen))
    for name in ("genhub", "pip", "pytest"):  # the scripts that an installation would have made
        script = folder / "env" / "bin" / name
        script.write_text(f'#!/bin/sh\nexec {folder}/env/bin/python -m {name} "$@"\n')
        script.chmod(0o755)
    return os.environ | {"PATH": f"{folder}/env/bin:{os.environ['PATH']}", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_block_of_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    environment = fresh_environment(tmp_path)
    said = ""
    for marker, language, block in re.findall(r"(?:<!-- (.*?) -->\n)?```(\w+)\n(.*?)```", PAGE, re.DOTALL):
        if marker.startswith("file: "):
            (tmp_path / marker.removeprefix("file: ")).write_text(block)
        elif language == "toml":
            assert block in (tmp_path / "my-model" / "pyproject.toml").read_text()
        elif marker != "not run":
            assert (language, marker) == ("bash", "")
            done = subprocess.run(["bash", "-euo", "pipefail", "-c", block], cwd=tmp_path, env=environment,
                                  capture_output=True, text=True)  # fmt: skip
            assert done.returncode == 0, f"{block}\n{done.stdout}\n{done.stderr}"
            said += done.stdout
    assert re.search(r"model +my-model +my_model:MyModel +my-model +0.1.0 +installed\n", said)
    assert re.search(r"model +my-model +my_model:MyModel +my-model +0.1.0 +fine\n", said)
    assert "temperature" not in said  # an option of `sample`, not of the recipe
    assert "latent_dim: 8  (int)  # Number of noise values that make an element." in said
    assert re.search(r"ink +my-modality +1 +0 +mean of logs -1.193", said)
    pictures = ("digits", "threes-and-sevens", "moon", "fives", "network", "ink", "four", "runs/recipe/samples/step-002000")
    for picture in (f"{name}.png" for name in pictures):
        assert (tmp_path / picture).stat().st_size > 500
    assert sharpness(tmp_path / "runs" / "recipe" / "checkpoints" / "step-002000", monkeypatch) < 0.75


def sharpness(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> float:
    """The mean distance from a drawn digit to the nearest real one, as a share of that from the mean image."""
    import torch

    monkeypatch.syspath_prepend(TEMPLATES / "model")
    from my_model import MyModel

    model = MyModel.from_pretrained(checkpoint)
    real = genhub.load_data(genhub.read_recipe("digits-ddpm").data).x(range(1797)).flatten(1)
    drawn = genhub.sample(model, 128).float().flatten(1) / 127.5 - 1
    return float(torch.cdist(drawn, real).min(1)[0].mean() / (real - real.mean(0)).norm(dim=1).mean())
