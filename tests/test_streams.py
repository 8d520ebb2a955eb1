"""What a verb does when nobody takes what it says, when there is no place to keep things, and when it is stopped."""

from __future__ import annotations

import os
import re
import signal

import pytest
import yaml
from conftest import TINY_DDPM
from test_trainer import wait_for

import genhub
from genhub.cli import MAKERS

# Each verb but those that start processes of their own or need a Hub.
VERBS = [
    ["train", "recépe.yaml"], ["train", "recépe.yaml", "--dry-run"], ["train", "--help"], ["sample", "rün", "-n", "4"],
    ["show", "losses", "rün"], ["info", "rün"], ["evaluate", "rün", "-n", "4", "--metrics", "cost"], ["compare", "rün"],
    ["doctor"], ["recipe", "check", "recépe.yaml"], ["recipe", "show", "recépe.yaml"], ["recipe", "list"], ["recipe", "schema"],
    ["plugins", "list"], ["plugins", "info", "ddpm"], ["--help"]]  # fmt: skip
FULL = "genhub: stdout: not all could be written: No space left on device\n"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with a recipe and its run, whose names are not ASCII."""
    folder = tmp_path_factory.mktemp("trained")
    recipe = TINY_DDPM | {"run_dir": "rün"}
    (folder / "recépe.yaml").write_text(yaml.safe_dump(recipe))
    genhub.train(recipe, run_dir=str(folder / "rün"))
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("what", ["gone", "full", "closed", "ascii"])
def test_every_verb_survives_its_stdout(zygote, trained, what):
    for words in VERBS:
        job = zygote.start("faults:genhub_said_to", what, *words, cwd=trained)
        prints = words[0] not in MAKERS or "--dry-run" in words or "--help" in words
        assert job.wait() == (1 if what == "full" and prints else 0), (words, job.err)
        assert job.err == (FULL if what == "full" else ""), words
        if what == "ascii" and words[0] == "info":
            assert "r\\xfcn" in job.out or "r\\xfc" not in job.out


@pytest.mark.slow
def test_a_training_whose_reader_is_gone_is_the_same(zygote, tiny, tmp_path):
    from faults import write_recipe
    from test_trainer import pair, same_bits

    recipe = str(write_recipe(tmp_path, pair(tiny)))
    job = zygote.start("faults:genhub_said_to", "gone", "train", recipe, cwd=tmp_path)
    assert (job.wait(), job.err) == (0, "")
    same_bits(genhub.train(recipe, run_dir=str(tmp_path / "whole")), tmp_path / "run" / "checkpoints" / "step-000006")


@pytest.mark.slow
def test_without_a_home_the_cache_is_for_this_time(zygote, trained):
    words = ["evaluate", "rün", "-n", "4", "--metrics", "frechet_distance", "--extractor", "pixels"]
    job = zygote.start("faults:genhub_without_a_home", *words, cwd=trained)
    assert job.wait() == 0, job.err
    assert job.err == (
        "genhub: ~/.cache/genhub can't be written; there is no home; what is kept there is made for this time alone; set "
        "GENHUB_CACHE to another\n"
    )
    assert not (trained / "~").exists()
    place = {"GENHUB_CACHE": "/proc/none"}
    job = zygote.start("genhub.cli:main", *words, cwd=trained, env=place)
    assert job.wait() == 0, job.err
    assert job.err.startswith("genhub: /proc/none can't be written: No such file or directory; what is kept there")


@pytest.mark.slow
def test_a_repository_in_a_cache_that_can_not_be_written(zygote, hub, trained, tmp_path):
    genhub.push_to_hub(genhub.load(trained / "rün"), "alice/made")
    fetched = genhub.sample("alice/made", 2)
    words = ["sample", "alice/made", "-n", "2", "--out", str(tmp_path / "x.npz")]
    job = zygote.start("faults:genhub_with_a_read_only", os.environ["HF_HOME"], *words, cwd=tmp_path)
    if job.wait() == 77:
        pytest.skip("needs the right to mount a file system")
    assert (job.code, job.err) == (0, "")
    import numpy as np

    with np.load(tmp_path / "x.npz") as drawn:
        assert (drawn["image"] == fetched.permute(0, 2, 3, 1).numpy()).all()


@pytest.mark.slow
def test_little_memory_draws_fewer_at_once(zygote, trained, tmp_path):
    """512 rows take about 400 MiB."""
    wide = TINY_DDPM | {
        "run_dir": str(tmp_path / "wide"),
        "data": {"batch_size": 2, "target": "image", "columns": {"image": {"size": 64}}},
    }
    genhub.train(wide, ["trainer.max_steps=1", "model.sampling.num_inference_steps=1"])
    words = ["sample", str(tmp_path / "wide"), "-n", "512", "--batch-size", "512", "--out", str(tmp_path / "x.npz")]
    job = zygote.start("faults:genhub_with", {"memory": 250 * 2**20}, *words, cwd=trained)
    assert job.wait() == 0, job.err
    job = zygote.start("faults:genhub_with", {"memory": 2**20}, *words[:-1], str(tmp_path / "y.npz"), cwd=trained)
    assert job.wait() == 1
    assert re.fullmatch(r"genhub: out of memory: lower --batch-size, the rows drawn at once \(.{1,200}\)\n", job.err)


STAYS = "what is drawn is kept, and the same command goes on"


@pytest.mark.parametrize(
    ("number", "words", "said"),
    [
        (signal.SIGINT, ["sample", "rün", "-n", "1000000", "--out", "many"], STAYS),
        (signal.SIGTERM, ["sample", "rün", "-n", "1000000", "--out", "many.npz"], STAYS),
        (signal.SIGTERM, ["sample", "rün", "-n", "1000000", "--out", "many.png"],
         "the same command starts over; to a folder or a file of rows, such as x.npz, it would go on"),
        (signal.SIGINT, ["evaluate", "rün", "-n", "1000000", "--metrics", "frechet_distance", "--extractor", "pixels"],
         "what is drawn so far is kept, and the same command goes on"),
    ],
)  # fmt: skip
def test_a_signal_says_whether_the_same_command_goes_on(zygote, trained, number, words, said):
    job = zygote.start("faults:genhub_saying_often", *words, cwd=trained)
    wait_for(lambda: job._err.exists() and job.err.count("\n") >= 3)
    job.signal(number)
    assert job.wait() == 128 + number
    *progress, last = job.err.splitlines()
    assert last == f"genhub: stopped by {number.name}; {said}"
    assert all(re.fullmatch(r"row \d+/1000000  .* left", line) for line in progress)
