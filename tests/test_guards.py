"""What stops a run while it trains: numbers that are not finite, here; signals and the deadline in test_reliability.py."""

from __future__ import annotations

import json
from pathlib import Path

import models
import pytest
import torch
from safetensors.torch import load_file
from test_trainer import metrics, pair, same_bits

import genhub


def test_not_finite_stops_with_step_phase_and_rows(tiny):
    pair(tiny, "models:Explodes", save_every=2, log_every=3)
    with pytest.raises(genhub.TrainingError) as caught:
        genhub.train(tiny)
    text = str(caught.value)
    assert "step 5, phase 'generator': loss is nan" in text  # the check before step 0 is undone: it does not count
    assert "step-000004" in text
    assert len(text.split("rows: [")[1].split("]")[0].split(",")) == 16


@pytest.mark.parametrize("clip", [1.0, None])
def test_a_gradient_that_is_not_finite_is_found_where_the_loss_is(tiny, clip):
    pair(tiny, "models:Steep", save_every=1, log_every=3, max_grad_norm=clip)
    with pytest.raises(
        genhub.TrainingError, match=r"step 1, phase 'critic': grad_norm is nan\..*Last good checkpoint: none"
    ):
        genhub.train(tiny)


def test_weights_that_are_not_finite_are_never_saved(tiny):
    pair(tiny, "models:Overflows", save_every=1, max_grad_norm=None, optimizer={"name": "sgd", "lr": 1.0e38})
    with pytest.raises(genhub.TrainingError, match=r"step 1: critic.2.bias has numbers that are not finite"):
        genhub.train(tiny)
    assert not any(Path(tiny["run_dir"], "checkpoints").glob("*"))


def test_bad_steps_are_left_out_up_to_a_number(tiny, capsys):
    pair(tiny, "models:Spikes", skip_bad_steps=2, max_steps=40, log_every=40)
    with pytest.raises(genhub.TrainingError, match=r"phase 'generator': loss is nan.* trainer.skip_bad_steps=2 are used up"):
        genhub.train(tiny)
    said = capsys.readouterr().err.splitlines()
    assert ["Left out (1 of 2)." in said[0], "Left out (2 of 2)." in said[1]] == [True, True]
    assert "The batch's rows: [" in said[0]


@pytest.mark.slow
@pytest.mark.parametrize("accumulation", [1, 2])
def test_what_is_left_out_leaves_no_trace_and_resumes_exactly(tiny, tmp_path, accumulation):
    pair(tiny, "models:Spikes", skip_bad_steps=100, max_steps=20, log_every=5, gradient_accumulation_steps=accumulation)
    whole = genhub.train(tiny, run_dir=str(tmp_path / "whole"))
    for steps in (7, 13, 20):
        parts = genhub.train(tiny, [f"trainer.max_steps={steps}"], run_dir=str(tmp_path / "parts"))
    same_bits(whole, parts)
    states = [json.loads((folder / "trainer" / "state.json").read_text()) for folder in (whole, parts)]
    assert states[0]["left_out"] == states[1]["left_out"]
    assert {phase for _, phase in states[0]["left_out"]} == {"generator"}
    assert metrics(tmp_path / "whole")[-1]["left_out"] == len(states[0]["left_out"]) > 2
    assert all(tensor.isfinite().all() for tensor in load_file(whole / "trainer" / "weights.safetensors").values())


def test_an_update_that_is_left_out_is_not_applied(tiny, tmp_path):
    pair(tiny, "models:Spikes", skip_bad_steps=100, max_steps=3)
    tiny["model"]["share"] = 1.0
    folder = genhub.train(tiny)
    torch.manual_seed(0)
    recipe = genhub.read_recipe(tiny)
    config = recipe.model.model_copy(update={"data": models.images()})
    first = recipe.model_class()(config).state_dict()
    last = load_file(folder / "trainer" / "weights.safetensors")
    assert first.keys() - last.keys() == {name for name in first if name.startswith("unused")}  # trained by no phase
    assert {name for name in last if name.startswith("generator") and not torch.equal(first[name], last[name])} == {
        name for name in first if "num_batches" in name or "running" in name
    }  # the critic's phases, which are fine, run the generator's batch normalisation, too
    assert all(tensor.isfinite().all() for tensor in last.values())


def test_bad_steps_may_be_allowed_when_a_run_goes_on(tiny):
    pair(tiny, "models:Spikes", max_steps=12, save_every=1)
    with pytest.raises(genhub.TrainingError, match="or set trainer.skip_bad_steps"):
        genhub.train(tiny)
    assert genhub.train(tiny, ["trainer.skip_bad_steps=12"]).name == "step-000012"
