"""Where a key that is not known belongs."""

from __future__ import annotations

import pytest

from genhub import RecipeError, read_recipe
from genhub.recipe.hints import EPOCHS, OTHER_NAMES, key_paths
from genhub.recipe.recipe import _BuiltIn
from genhub.recipe.sections import AccelerateConfig

CORE = key_paths(_BuiltIn)


def said(override: str) -> str:
    with pytest.raises(RecipeError) as caught:
        read_recipe("digits-ddpm", [override])
    return str(caught.value)


@pytest.mark.parametrize(
    ("override", "right"),
    [
        ("trainer.lr=1", "trainer.optimizer.lr"),
        ("lr=1", "trainer.optimizer.lr"),
        ("trainer.batch_size=4", "data.batch_size"),
        ("model.batch_size=4", "data.batch_size"),
        ("trainer.weight_decay=0", "trainer.optimizer.weight_decay"),
        ("data.max_steps=4", "trainer.max_steps"),
        ("trainer.ema_decay=0.9", "trainer.ema.decay"),
        ("data.resolution=8", "data.columns"),
        ("trainer.fp16=true", "trainer.mixed_precision"),
        ("trainer.clip-grad-norm=1", "trainer.max_grad_norm"),
        ("output_dir=x", "run_dir"),
        ("model.num_inference_steps=4", "model.sampling.num_inference_steps"),
        ("trainer.max_step=4", "max_steps"),
        ("model.network.layer_per_block=1", "layers_per_block"),
    ],
)
def test_the_right_key_is_named(override: str, right: str) -> None:
    key = override.partition("=")[0]
    assert said(override) == f"command line: {key}: unknown key; did you mean '{right}'?"


@pytest.mark.parametrize("section", ["", "trainer.", "data.", "model."])
def test_every_other_name_leads_to_a_key_that_there_is(section: str) -> None:
    for right, others in OTHER_NAMES.items():
        assert right in (*CORE, "model.from")
        for other in others.split():
            assert other not in {path.rpartition(".")[2] for path in CORE}, f"{other} is a key's own name"
            own = right.removeprefix(section)  # near enough to be named without its section
            assert said(f"{section}{other}=1").endswith((f"did you mean '{right}'?", f"did you mean '{own}'?")), other


def test_epochs_are_told_in_steps() -> None:
    for word in EPOCHS:
        assert said(f"trainer.{word}=3").endswith(
            "a run is counted in steps: give trainer.max_steps, which is epochs x rows / data.batch_size"
        )


def test_a_key_of_many_sections_is_not_guessed() -> None:
    assert said("evaluate.name=x").endswith("known: every, extractor, held_out, metrics, n, save_best")
    assert said("data.every=3").endswith("did you mean 'trainer.ema.every' or 'evaluate.every' or 'hub.every'?")


def test_the_paths_of_all_keys() -> None:
    assert {"lr_scheduler.warmup_steps", "ema.decay", "optimizer", "optimizer.lr"} <= set(key_paths(AccelerateConfig))
    assert len(CORE) == len(set(CORE))
