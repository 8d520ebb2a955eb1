"""The facts of a dry run: parameters and memory."""

from __future__ import annotations

import pytest

import genhub
from genhub.run.dry_run import estimate
from genhub.run.prepare import prepare


def test_estimate_counts_what_is_there(tiny):
    tiny["model"] = {"name": "models:Pair", "hidden": 8}
    prepared = prepare(genhub.read_recipe(tiny))
    facts = estimate(prepared)
    numbers = sum(p.numel() for p in prepared.model.parameters())
    assert facts["parameters"] == numbers
    assert facts["memory"]["weights and gradients"] == facts["memory"]["optimizer"] == 2 * 4 * numbers
    assert facts["memory"]["averages"] == 4 * numbers
    # at the least the batch, 16 images of 64 floats, is kept for backward
    assert 16 * 64 * 4 <= facts["memory"]["activations"] < 100 * 16 * 64 * 4
    assert facts["memory in all"] == sum(facts["memory"].values())


def test_activations_grow_with_the_batch(tiny):
    small, large = (
        estimate(prepare(genhub.read_recipe(tiny, [f"data.batch_size={n}"])))["memory"]["activations"] for n in (16, 64)
    )
    assert 3 < large / small < 4.5
    halves = genhub.read_recipe(tiny, ["data.batch_size=64", "trainer.gradient_accumulation_steps=4"])
    assert estimate(prepare(halves))["memory"]["activations"] == pytest.approx(small, rel=0.1)
