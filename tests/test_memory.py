"""Too little memory: what is said, and the part of a batch that is found to fit."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml
from test_reliability import write_recipe
from test_trainer import pair, same_bits

import genhub
from genhub.data.split import splits


def test_splits():
    assert splits(12, 1) == [1, 2, 3, 4, 6, 12]
    assert splits(12, 2, first=2) == [2, 3, 6]
    assert splits(5, 2) == []  # the data refuse that batch, and say why


@pytest.mark.parametrize("accumulation", [1, 2])
def test_out_of_memory_says_what_keeps_the_batch(tiny, accumulation):
    pair(tiny, "models:Hungry", gradient_accumulation_steps=accumulation)
    with pytest.raises(genhub.TrainingError) as caught:
        genhub.train(tiny)
    assert str(caught.value) == (
        f"out of memory: data.batch_size=16 puts {16 // accumulation} rows at once through the model (1 processes, "
        f"gradient_accumulation_steps={accumulation}); trainer.gradient_accumulation_steps={2 * accumulation} keeps the batch "
        f"of 16 with {8 // accumulation} at once, and trainer.find_batch_size=true finds what fits "
        "(CUDA out of memory. Tried to allocate 20.00 GiB.)"
    )


@pytest.mark.slow
def test_find_batch_size_keeps_the_batch_and_is_remembered(tiny, tmp_path, capsys):
    """Found once: a run that goes on uses the same, and both end with the bits of one that was told."""
    pair(tiny, "models:Hungry")
    found = genhub.train(tiny, ["trainer.find_batch_size=true", "trainer.max_steps=3"])
    assert "Memory   4 rows at once fit: gradient_accumulation_steps=4" in capsys.readouterr().out
    record = Path(tiny["run_dir"]) / "find_batch_size.json"
    assert json.loads(record.read_text()) == {"rows_at_once": 4}
    record.write_text('{"rows_at_once": 2}\n')  # as if another had been found; it counts
    found = genhub.train(tiny, ["trainer.find_batch_size=true", "trainer.max_steps=5"])
    said = capsys.readouterr()
    assert "2 rows at once fit: gradient_accumulation_steps=8" in said.out
    assert "gradient_accumulation_steps was 4, is 8: the run goes on, but not bit for bit the same" in said.err
    record.write_text("[]")
    with pytest.raises(genhub.CheckpointError, match="find_batch_size.json: damaged"):
        genhub.train(tiny, ["trainer.find_batch_size=true"])

    found = genhub.train(tiny, ["trainer.find_batch_size=true"], run_dir=str(tmp_path / "found"))
    told = genhub.train(tiny, ["trainer.gradient_accumulation_steps=4"], run_dir=str(tmp_path / "told"))
    same_bits(found, told)


def test_not_even_one_image_fits(tiny, monkeypatch):
    import models

    monkeypatch.setattr(models.Hungry, "generator_loss", lambda self, batch: self.full())
    monkeypatch.setattr(models.Hungry, "full", lambda self: (_ for _ in ()).throw(MemoryError()), raising=False)
    with pytest.raises(genhub.TrainingError, match="find_batch_size: not even one row at a time fits"):
        genhub.train(pair(tiny, "models:Hungry", find_batch_size=True))


@pytest.mark.slow
def test_a_real_lack_of_memory(zygote, tiny, tmp_path):
    """8 MiB a row and as much again for its gradient, 64 rows, and 350 MiB to spare."""
    pair(tiny, "models:Wide", max_steps=2)
    tiny["data"]["batch_size"] = 64
    recipe = str(write_recipe(tmp_path, tiny))
    limits = {"memory": 350 * 2**20}
    full = zygote.start("faults:genhub_with", limits, "train", recipe, cwd=tmp_path)
    assert full.wait() == 1
    assert re.fullmatch(r"genhub: out of memory: data.batch_size=64 puts 64 rows at once .*steps=2 keeps .*\n", full.err)
    fits = zygote.start("faults:genhub_with", limits, "train", recipe, "trainer.find_batch_size=true", cwd=tmp_path)
    assert fits.wait() == 0, fits.err
    found = json.loads((tmp_path / "run" / "find_batch_size.json").read_text())["rows_at_once"]
    assert found in (4, 8, 16, 32)
    assert yaml.safe_load((tmp_path / "run" / "recipe.yaml").read_text())["data"]["batch_size"] == 64
