"""Options that would change nothing are refused, with where they would: those of `sample`, and a recipe's keys."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import TINY_DDPM
from models import images
from typer.testing import CliRunner

import genhub
from genhub import GenerativeModel, InputError, cli, scheduler_names
from genhub.interfaces.registry import MODELS, load_class
from genhub.recipe.shipped import shipped_recipes
from genhub.sampling.options import read_options
from genhub.views.films import Interpolate
from genhub.views.viewed import Viewed

TRIED: dict[str, list[Any]] = {
    "scheduler": ["heun", "ddpm"], "num_inference_steps": [3, 1001, 2000], "eta": [0.0, 0.5], "guidance_scale": [0.0, 7.0],
    "guidance_interval": [(0.0, 0.5)],
    "truncation": [0.5], "observe": [True],
    "temperature": [0.5], "denoise": [False], "step_size": [0.5], "momentum": [0.5], "noise_std": [0.3],
}  # fmt: skip
"""Of every option of every model, values that are not the default."""


def make(name: str, **keys: Any) -> GenerativeModel:
    cls = load_class(MODELS, name)
    torch.manual_seed(0)
    values = {"name": name, "data": images(classes=10 * len(keys.get("conditions", ()))), **keys}
    return cls(cls.Config.model_validate(values)).eval()


NETWORK = TINY_DDPM["model"]["network"]


def ddpm(sampler: str = "ddim", **keys: Any) -> GenerativeModel:
    own = {"network": NETWORK, "sampling": {"scheduler": sampler, "num_inference_steps": 5}}
    return make("ddpm", **{**own, **keys})


MODELS_TRIED = {
    "ddpm": ddpm, "ddpm with euler": lambda: ddpm("euler"), "conditional ddpm": lambda: ddpm(conditions=["label"]),
    "vae": lambda: make("vae", channels=[4], latent_dim=2), "autoencoder": lambda: make("autoencoder", channels=[4]),
    "gan": lambda: make("gan", generator={"channels": [8]}), "cgan": lambda: make("cgan", generator={"channels": [8]}, conditions=["label"]),
    "ebm": lambda: make("ebm", network=NETWORK, sampling={"num_inference_steps": 2}, langevin={"step_size": 1e3, "noise_std": 0.1}),
    "eqm": lambda: make("eqm", network=NETWORK, energy="dot", sampling={"num_inference_steps": 2, "step_size": 0.1}),
    "realnvp": lambda: make("realnvp", hidden_features=8), "tarflow": lambda: make("tarflow", hidden_size=8, noise_std=0.5),
}  # fmt: skip


@pytest.mark.parametrize("which", MODELS_TRIED)
def test_an_option_changes_what_is_drawn_or_is_refused(which):
    model = MODELS_TRIED[which]()
    plain = genhub.sample(model, 2)
    names = inspect.signature(type(model).sample).parameters.keys() - {"self", "n", "conditions", "generator", "callback"}
    refused = {}
    for name in names:
        for value in TRIED[name]:
            if which in ("ebm", "eqm") and name == "num_inference_steps" and value > 1000:
                continue  # which they take, and are as long about as it says
            try:
                assert not torch.equal(genhub.sample(model, 2, **{name: value}), plain), (name, value)
            except InputError as error:
                refused[name, value] = str(error)
    expected = {("num_inference_steps", 1001), ("num_inference_steps", 2000)} if "ddpm" in which else set()
    if which in ("ddpm", "ddpm with euler", "ebm", "eqm", "tarflow"):  # given nothing
        expected |= {("guidance_scale", 0.0), ("guidance_scale", 7.0)}
    if "ddpm" in which:  # the same; or a guidance_scale of 1
        expected.add(("guidance_interval", (0.0, 0.5)))
    if "euler" in which:
        expected |= {("eta", 0.0), ("eta", 0.5)}
    assert set(refused) == expected
    assert all(f"--set {name}: changes nothing here: " in line or f"{name}: at most 1000, not " in line
               for (name, _), line in refused.items())  # fmt: skip


def test_eta_is_for_the_samplers_that_have_it():
    for name in set(scheduler_names()) - {"ddim"}:
        with pytest.raises(InputError, match=f"^--set eta: changes nothing here: the sampler '{name}' has no .*; ddim has$"):
            read_options(ddpm(), {"eta": 0.5, "scheduler": name})
    assert read_options(ddpm("euler"), {"eta": 0.5, "scheduler": "ddim"}) == {"eta": 0.5, "scheduler": "ddim"}


@pytest.mark.parametrize("sampler", ["ddim", "euler"])
def test_between_two_seeds_nothing_else_is_random(sampler):
    """`interpolate` sets eta to 0 by itself, for a sampler that has one."""
    assert Interpolate().draw(Viewed(ddpm(sampler)), n=1, steps=3).panels[""].shape == (3, 1, 1, 8, 8)


def test_a_callback_is_no_option_of_the_command_line():
    model, steps = ddpm(), []
    genhub.sample(model, 1, callback=steps.append)
    assert len(steps) == 5
    for value in ("print", None):
        with pytest.raises(
            InputError,
            match="--set callback: DDPM has no such option; known: eta, guidance_interval, guidance_scale, num_inf",
        ):
            read_options(model, {"callback": value})


def test_every_verb_that_draws_refuses_it_and_writes_nothing(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ddpm().save_pretrained("model")
    before = sorted(tmp_path.rglob("*"))
    for verb in (["sample"], ["sample", "--out", "x.npz"], ["evaluate", "-n", "2", "data.name=digits"], ["show", "reverse"],
                 ["show", "interpolate"], ["show", "neighbours", "data.name=digits"]):  # fmt: skip
        line = [*verb[:1], *(verb[1:2] if verb[0] == "show" else []), "model", *verb[1 + (verb[0] == "show") :]]
        result = CliRunner().invoke(cli.app, [*line, "--set", "guidance_scale=7"])
        assert isinstance(result.exception, InputError), (line, result.output)
        assert str(result.exception) == (
            "--set guidance_scale: changes nothing here: this model is given nothing; it is for one trained with model.conditions"
        )
    assert sorted(tmp_path.rglob("*")) == before


# A recipe's keys

IDLE: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("sampling.eta", {"sampling": {"scheduler": "euler", "eta": 0.5}}, {"sampling": {"scheduler": "ddim", "eta": 0.5}}),
    ("sampling.guidance_scale", {"sampling": {"guidance_scale": 3}}, {"sampling": {"guidance_scale": 3}, "conditions": ["label"]}),
    ("condition_dropout", {"condition_dropout": 0.2}, {"condition_dropout": 0.2, "conditions": ["label"]}),
    ("vlb_weight", {"vlb_weight": 0.1}, {"vlb_weight": 0.1, "scheduler": {"variance_type": "learned_range"}}),
    ("min_snr_gamma", {"min_snr_gamma": 2}, {"min_snr_gamma": 2, "loss_weighting": "min_snr"}),
    ("sampling.num_inference_steps", {"sampling": {"num_inference_steps": 1001}}, {"sampling": {"num_inference_steps": 1000}}),
    ("sampling.guidance_scale", {"name": "eqm", "sampling": {"guidance_scale": 3}}, {"name": "eqm", "sampling": {"guidance_scale": 3}, "conditions": ["label"]}),
    ("condition_dropout", {"name": "ebm", "condition_dropout": 0.2}, {"name": "ebm", "condition_dropout": 0.2, "conditions": ["label"]}),
    ("condition_dropout", {"name": "eqm", "condition_dropout": 0.2}, {"name": "eqm", "condition_dropout": 0.2, "conditions": ["label"]}),
    ("condition_dropout", {"name": "tarflow", "condition_dropout": 0.2}, {"name": "tarflow", "condition_dropout": 0.2, "conditions": ["label"]}),
    ("condition_dropout", {"name": "flow", "condition_dropout": 0.2}, {"name": "flow", "condition_dropout": 0.2, "conditions": ["label"]}),
    ("levels", {"name": "tarflow", "levels": 17}, {"name": "tarflow", "levels": 17, "noise_std": 0}),
    ("sampling.denoise", {"name": "tarflow", "noise_std": 0, "sampling": {"denoise": False}}, {"name": "tarflow", "sampling": {"denoise": False}}),
    ("kl", {"name": "vae", "kl": {"layers_per_block": 2}}, {"name": "vae", "kl": {"layers_per_block": 2}, "network": "kl"}),
    ("penalty_weight", {"name": "gan", "penalty": "none", "penalty_weight": 2.0}, {"name": "gan", "penalty_weight": 2.0}),
    ("penalty_interval", {"name": "cgan", "conditions": ["label"], "penalty": "none", "penalty_interval": 2},
     {"name": "cgan", "conditions": ["label"], "penalty_interval": 2}),
]  # fmt: skip


@pytest.mark.parametrize(("key", "idle", "used"), IDLE)
def test_a_key_that_changes_nothing_is_refused_where_it_is(key, idle, used):
    idle, used = {"name": "ddpm", **idle}, {"name": "ddpm", **used}
    with pytest.raises(genhub.RecipeError, match=rf"^recipe: model\.{key}: (changes nothing|at most 1000)[^\n]*$"):
        genhub.read_recipe({"model": idle})
    genhub.read_recipe({"model": used})
    load_class(MODELS, idle["name"]).Config.model_validate(idle)  # what was trained so still loads


def test_shipped_and_resolved_recipes_have_no_such_key():
    for name in shipped_recipes():
        inside = getattr(genhub.read_recipe(name).model, "autoencoder", None)
        recipe = genhub.read_recipe(name, ["model.autoencoder=null"] if inside else [])
        genhub.read_recipe(recipe.dump())  # every key is given


def test_a_key_that_another_run_had_is_not_the_recipes_mistake(tmp_path: Path):
    ddpm(condition_dropout=0.3).save_pretrained(tmp_path / "theirs")
    recipe = genhub.read_recipe({"model": {"from": str(tmp_path / "theirs")}})
    assert recipe.model.condition_dropout == 0.3
    with pytest.raises(
        genhub.RecipeError, match="model.condition_dropout: changes nothing without conditions; leave it out"
    ):
        genhub.read_recipe({"model": {"from": str(tmp_path / "theirs"), "condition_dropout": 0.4}})


def test_an_error_of_a_model_keeps_its_traceback_and_a_refusal_is_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make("autoencoder", channels=[4])
    for error in (ValueError("a bug of the model"), InputError("eta: this model can't")):

        def sample(*_: Any, error: Exception = error, **__: Any) -> None:
            raise error

        monkeypatch.setattr(model, "sample", sample)
        with pytest.raises(type(error), match=str(error)):
            genhub.sample(model, 1)
        with pytest.raises(type(error), match=str(error)):
            genhub.show("interpolate", model, between="seeds", n=1, steps=2)


def test_a_scheduler_that_refuses_a_models_schedule_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    class Picky:
        def __init__(self) -> None:
            raise ValueError("follows flows alone")

    model = ddpm()
    monkeypatch.setattr("genhub_ddpm.samplers.load_scheduler", lambda name: Picky)
    with pytest.raises(InputError, match="scheduler: 'picky' can't sample for this model: follows flows alone"):
        model.sampler("picky")


def test_overrides_that_change_nothing_are_refused_before_anything_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    model = ddpm(conditions=["label"])
    monkeypatch.setattr(model, "sample", lambda *_, **__: pytest.fail("it draws"))
    monkeypatch.setattr(model, "denoise", lambda *_, **__: pytest.fail("it draws"))
    for view, options in (("reverse", {}), ("classes", {}), ("interpolate", {"between": "seeds"})):
        with pytest.raises(InputError, match=f"data.name=digits: {view} of DDPM shows no real "):
            genhub.show(view, model, ["data.name=digits"], **options)
