"""A folder that may be a stranger's: a pipe, a device, or a link that leads out, in the place of any file that genhub reads."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

import genhub
from genhub import cli
from genhub.evaluation.protocol import Evaluation, Protocol, weights_digest
from genhub.ground.disk import check_files
from genhub.ground.weights import save_sealed
from genhub.sampling.draw import part_file
from genhub.store.manifest import read_manifest

SECRET, DRAWN = "hunter2", "drawn-000000000000"
RECIPE = {"model": {"name": "vae", "channels": [8], "latent_dim": 2},
          "trainer": {"max_steps": 2, "log_every": 1, "sample_every": 2, "save_every": 1, "num_samples": 4, "trackers": [],
                      "device": "cpu"}}  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with all that one can have: checkpoints, a preview, metrics, figures and the images they are of."""
    folder = tmp_path_factory.mktemp("strange") / "run"
    checkpoint = genhub.train(RECIPE, run_dir=str(folder))
    data = read_manifest(checkpoint).data
    assert data is not None
    protocol = Protocol(extractor="x", extractor_hash="x", preprocessing="x", reference=data, reference_rows=2, n=2, seed=0)
    Evaluation(model="vae", step=2, config={}, protocol=protocol, values={"frechet_distance": 1.0}, drawn=DRAWN,
               weights=weights_digest(checkpoint)).write(folder / "evaluations")  # fmt: skip
    (folder / "evaluations" / DRAWN).mkdir()
    save_sealed({"elements": torch.zeros(2, 1, 8, 8, dtype=torch.uint8)}, part_file(folder / "evaluations" / DRAWN, 0))
    return folder


def files_in(folder: Path) -> list[str]:
    return sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file())


@contextlib.contextmanager
def in_time() -> Iterator[None]:
    """A guard, so that what waits for a pipe fails and does not stand still."""
    before = signal.signal(signal.SIGALRM, lambda number, frame: pytest.fail("waits for ever"))
    signal.alarm(120)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def run(*words: str) -> tuple[object, str, str]:
    out, err, before = io.StringIO(), io.StringIO(), sys.argv
    sys.argv, code = ["genhub", *words], None
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), in_time():
            cli.main()
    except SystemExit as ended:
        code = ended.code
    finally:
        sys.argv = before
    return code, out.getvalue(), err.getvalue()


def pipe(file: Path, secret: Path) -> None:
    os.mkfifo(file)


def device(file: Path, secret: Path) -> None:
    file.symlink_to("/dev/zero")


def link(file: Path, secret: Path) -> None:
    file.symlink_to(secret)


def dangling(file: Path, secret: Path) -> None:
    file.symlink_to("nothing")


VERBS: dict[str, Callable[[Path], list[str]]] = {
    "info": lambda path: ["info", str(path)],
    "sample": lambda path: ["sample", str(path), "-n", "1", "--out", str(path.parent / "out.png")],
    "compare": lambda path: ["compare", str(path), "--out", str(path.parent / "out.html")],
    "evaluate": lambda path: ["evaluate", str(path), "-n", "2", "--metrics", "cost"],
    "show": lambda path: ["show", "losses", str(path), "--out", str(path.parent / "losses.png")],
    "push": lambda path: ["push", str(path), "alice/strange"],
    "train": lambda path: ["train", str(path.parent / "r.yaml"), "--run-dir", str(path)],
}


@pytest.mark.slow
@pytest.mark.parametrize(("turn", "put"), [*enumerate([pipe, device, link, dangling])])
def test_in_the_place_of_any_file(trained: Path, tmp_path: Path, turn: int, put: Callable[[Path, Path], None]) -> None:
    """Each verb in turn, for one file after another; of the newest checkpoint, as older ones are passed over unread."""
    secret, verbs = tmp_path / "secret", list(VERBS)
    secret.write_text(SECRET)
    names = [
        *files_in(trained),
        "samples",
        "evaluations",
        "checkpoints",
        "checkpoints/step-000002/extra.index.json",
        "samples/z.png",
    ]
    names = [name for name in names if "step-000001" not in name]
    assert len(names) > 18
    for number, name in enumerate(names):
        path = tmp_path / "run"
        shutil.rmtree(path, ignore_errors=True)
        shutil.copytree(trained, path)
        (tmp_path / "r.yaml").write_text(genhub.read_recipe(RECIPE, run_dir=str(path)).yaml())
        shutil.rmtree(path / name) if (path / name).is_dir() else (path / name).unlink(missing_ok=True)
        put(path / name, secret)
        verb = verbs[(number + turn) % len(verbs)]
        code, out, err = run(*VERBS[verb](path))
        assert SECRET not in out + err
        assert secret.read_text() == SECRET
        for made in tmp_path.glob("out.*"):
            assert SECRET.encode() not in made.read_bytes()
            made.unlink()
        if code == 2:
            assert err.count("\n") == 1, err
            assert " is a link that leads out of " in err or " is neither a file nor a folder; " in err or verb == "show"
        else:
            assert (verb, name == "metrics.jsonl") == ("show", False)  # the one verb that opens one file alone


@pytest.mark.parametrize("put", [pipe, device])
def test_no_recipe_is_read_from_a_pipe(tmp_path: Path, put: Callable[[Path, Path], None]) -> None:
    put(tmp_path / "r.yaml", tmp_path)
    for verb in (["recipe", "check"], ["recipe", "show"], ["train"], ["show", "forward"], ["sweep", "--set", "seed=1"]):
        code, out, err = run(*verb, str(tmp_path / "r.yaml"))
        assert (code, out) == (2, "")
        assert "r.yaml: is no file; a recipe is a text file\n" in err or "no such" in err


def test_links_within_a_folder_and_to_it_are_as_good_as_files(trained: Path, tmp_path: Path) -> None:
    """And the Hub's cache has links only."""
    copy = tmp_path / "runs" / "run"
    shutil.copytree(trained, copy)
    (tmp_path / "linked").symlink_to(copy)
    file = copy / "checkpoints" / "step-000002" / "model.safetensors"
    file.rename(file.with_name("real.safetensors"))
    file.symlink_to("real.safetensors")
    assert run("info", str(tmp_path / "linked"))[0] == 0
    cache = tmp_path / "models--a--b"
    (cache / "blobs").mkdir(parents=True)
    (cache / "snapshots" / "c0").mkdir(parents=True)
    (cache / "blobs" / "x").write_text("{}")
    (cache / "snapshots" / "c0" / "x.json").symlink_to("../../blobs/x")
    check_files(cache / "snapshots" / "c0")
    (cache / "snapshots" / "c0" / "y.json").symlink_to("/etc/hostname")
    with pytest.raises(genhub.CheckpointError, match=r"y.json: is a link that leads out of"):
        check_files(cache / "snapshots" / "c0")


def test_what_others_keep_in_a_runs_folder_is_their_own(trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained, tmp_path / "run")
    (tmp_path / "run" / "wandb").mkdir()
    (tmp_path / "run" / "wandb" / "debug.log").symlink_to("/etc/hostname")
    assert run("info", str(tmp_path / "run"))[0] == 0


def test_an_evaluation_names_rows_beside_it(trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained, tmp_path / "run")
    file = next((tmp_path / "run" / "evaluations").glob("*.json"))
    file.write_text(file.read_text().replace(DRAWN, "../../elsewhere"))
    code, _, err = run("compare", str(tmp_path / "run"))
    assert code == 0
    assert "damaged: drawn: must match pattern" in err
    assert "'../../elsewhere'; left out: " in err


def test_the_page_takes_in_pictures_alone(trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "evaluations")
    page = tmp_path / "page.html"
    run("compare", str(tmp_path / "run"), "--out", str(page))
    assert "data:image/png;base64," in page.read_text()
    (tmp_path / "run" / "samples" / "step-000009.png").write_text(SECRET)
    run("compare", str(tmp_path / "run"), "--out", str(page))
    assert "data:image/png;base64," not in page.read_text()
