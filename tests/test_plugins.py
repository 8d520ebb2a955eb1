"""Every installed model, network, modality, noise schedule, trainer and view keeps its contract, the built-in ones like anybody's."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest

from genhub.evaluation.figures import Cost
from genhub.interfaces.registry import MODALITIES, MODELS, NETWORKS, SCHEDULERS, TRAINERS, VIEWS, load_class, plugin_names
from genhub.testing import check_modality, check_model, check_network, check_scheduler, check_trainer, check_view
from genhub.testing.subject import ModelSubject

UNET = {
    "network": {"name": "unet", "block_out_channels": [8, 16], "add_attention": False},
    "sampling": {"num_inference_steps": 4},
}
FEW = {"scheduler": {"num_train_timesteps": 50}}
"""Its bits are a sum over all levels."""
GAN = {"generator": {"channels": [8, 16]}, "discriminator": {"channels": [8, 16]}}
FIELD = {"network": {"name": "dit", "hidden_size": 16, "depth": 1, "num_heads": 2}}
TRANSFORMER = {"network": {"hidden_size": 16, "num_layers": 1, "num_heads": 2}}
SMALL: dict[str, list[dict[str, Any]]] = {
    "ar": [TRANSFORMER],  # given a number, it draws the same tokens after the few steps that the check takes
    "autoencoder": [{"channels": [8]}],
    "cgan": [GAN],
    "ddpm": [UNET | FEW, UNET | FEW | {"conditions": ["label", "ink"]}],
    "flow": [UNET, UNET | {"conditions": ["label", "ink"], "preconditioning": "edm", "coupling": "optimal_transport"}],
    "gan": [GAN],
    "meanflow": [
        {"network": UNET["network"]},
        {"network": UNET["network"], "conditions": ["label", "ink"], "guidance_scale": 2.0},
    ],
    "ebm": [FIELD | {"chain_steps": 2, "conditions": ["label"], "sampling": {"num_inference_steps": 3}}],
    "eqm": [FIELD, FIELD | {"energy": "dot", "conditions": ["label", "ink"]}],
    "realnvp": [{"hidden_features": 16}, {"hidden_features": 16, "conditions": ["label", "ink"]}],
    "tarflow": [{"hidden_size": 16, "num_blocks": 2, "layers_per_block": 1, "conditions": ["label"]}],
    "vae": [{"channels": [8]}, {"network": "kl", "channels": [8, 8], "latent_dim": 3}],
    "vqvae": [{"channels": [8]}, {"channels": [8], "quantizer": "fsq", "levels": [3, 3, 3]}],
}
"""Configs that make a model small, each checked; others are checked as their defaults make them."""
SMALL_NETWORKS: dict[str, dict[str, Any]] = {
    "dit": {"hidden_size": 16, "depth": 1, "num_heads": 2},
    "mlp": {"hidden": 8},
    "unet": {"block_out_channels": [8, 16]},
    "unet1d": {"block_out_channels": [8, 16]},
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "config"), [(name, config) for name in plugin_names(MODELS) for config in SMALL.get(name, [{}])]
)
def test_a_model_keeps_its_contract(name: str, config: dict[str, Any]) -> None:
    report = check_model(load_class(MODELS, name), config)
    assert all(result.outcome == "passed" for result in report.results), report.results


@pytest.mark.slow
@pytest.mark.parametrize("name", plugin_names(NETWORKS))
def test_a_network_keeps_its_contract(name: str) -> None:
    report = check_network(load_class(NETWORKS, name), SMALL_NETWORKS.get(name))
    assert all(result.outcome == "passed" for result in report.results), report.results


@pytest.mark.parametrize("name", plugin_names(MODALITIES))
def test_a_modality_keeps_its_contract(name: str) -> None:
    check_modality(load_class(MODALITIES, name))


@pytest.mark.slow
@pytest.mark.parametrize("name", plugin_names(SCHEDULERS))
def test_a_scheduler_keeps_its_contract(name: str) -> None:
    check_scheduler(load_class(SCHEDULERS, name))


@pytest.mark.parametrize("name", plugin_names(TRAINERS))
def test_a_trainer_keeps_its_contract(name: str) -> None:
    check_trainer(load_class(TRAINERS, name))


@pytest.mark.slow
@pytest.mark.parametrize("name", plugin_names(VIEWS))
def test_a_view_keeps_its_contract(name: str) -> None:
    check_view(load_class(VIEWS, name))


EVALUATIONS = {
    "ar": 64, "autoencoder": 1, "cgan": 1, "ddpm": 4, "ebm": 3, "eqm": 50, "flow": 8, "gan": 1, "meanflow": 1, "realnvp": 1,
    "tarflow": 17, "vae": 1, "vqvae": 1,
}  # fmt: skip
"""Evaluations of the networks that a row takes, with the keys of SMALL: a pixel, a step, a patch each, and what denoises
at the end; Heun's two a step."""


@pytest.mark.parametrize("name", EVALUATIONS)
def test_what_a_row_takes_is_counted_however_a_network_is_entered(name: str) -> None:
    for config in SMALL[name]:
        with ModelSubject(load_class(MODELS, name), config) as subject:
            model = subject.build().eval()
            measured = SimpleNamespace(model=model, n=3, draw_again=partial(subject.draw, model))
            assert Cost().compute(measured)["network_evaluations"] == EVALUATIONS[name], config
