"""Two processes are one with half the work each: what they train, from the same recipe, is the same to float32's rounding."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from zygote import Zygote

import genhub

NETWORKS = {"generator": {"channels": [8, 8]}, "discriminator": {"channels": [8, 8]}, "latent_dim": 4}
R3GAN = {"architecture": "r3gan", "channels": [8, 8]}
UNET = {"block_out_channels": [8, 8], "norm_num_groups": 4, "add_attention": True}

MODELS: dict[str, dict[str, Any]] = {
    **{f"gan-{loss}": {"name": "gan", "loss": loss, **NETWORKS}
       for loss in ("minimax", "non_saturating", "hinge", "wasserstein", "relativistic")},
    "gan-lazy": {"name": "gan", "penalty_interval": 4, "n_critic": 2, **NETWORKS},
    "gan-augment": {"name": "gan", "augment": {"target": 0.0, "ramp_rows": 400}, **NETWORKS},
    "gan-r3gan": {"name": "gan", "latent_dim": 4, "generator": R3GAN, "discriminator": R3GAN},
    "cgan-projection": {"name": "cgan", "conditions": ["label"], **NETWORKS},
    "cgan-concatenation": {"name": "cgan", "conditions": ["label"], "conditioning": "concatenation", **NETWORKS},
    **{f"vae-{likelihood}": {"name": "vae", "likelihood": likelihood, "channels": [8, 8], "latent_dim": 4}
       for likelihood in ("gaussian", "bernoulli", "discretized_logistic")},
    "vae-kl": {"name": "vae", "network": "kl", "channels": [8, 8], "latent_dim": 2, "kl": {"norm_num_groups": 4}},
    "autoencoder": {"name": "autoencoder", "channels": [8, 8], "latent_dim": 4},
    "vae-adversarial": {"name": "vae", "channels": [8, 8], "latent_dim": 4, "adversarial": {"channels": [8], "start_step": 5}},
    **{f"ddpm-{kind}": {"name": "ddpm", "network": {"name": "unet"} | UNET, "scheduler": {"prediction_type": kind}}
       for kind in ("epsilon", "sample", "v_prediction")},
    "ddpm-conditional": {"name": "ddpm", "network": {"name": "unet"} | UNET, "conditions": ["label"], "condition_dropout": 0.0,
                         "loss_weighting": "min_snr"},
    "flow": {"name": "flow", "network": {"name": "unet"} | UNET, "conditions": ["label"], "condition_dropout": 0.0},
    "meanflow": {"name": "meanflow", "network": {"name": "unet"} | UNET, "conditions": ["label"], "condition_dropout": 0.0,
                 "equal_times": 0.5, "guidance_scale": 2.0},
    "eqm": {"name": "eqm", "network": {"name": "unet"} | UNET, "conditions": ["label"], "condition_dropout": 0.0},
    "eqm-dot": {"name": "eqm", "network": {"name": "unet"} | UNET, "energy": "dot"},
    "ar": {"name": "ar", "network": {"hidden_size": 16, "num_layers": 1, "num_heads": 2}},
    "realnvp": {"name": "realnvp", "hidden_features": 16, "num_couplings": 4},
    "tarflow": {"name": "tarflow", "hidden_size": 16, "num_heads": 2, "num_blocks": 2, "layers_per_block": 1},
    "vqvae": {"name": "vqvae", "channels": [8], "num_vq_embeddings": 8},
    "vqvae-fsq": {"name": "vqvae", "channels": [8], "quantizer": "fsq", "levels": [3, 3]},
    "ddpm-variance": {"name": "ddpm", "network": {"name": "unet"} | UNET, "scheduler": {"variance_type": "learned_range"}},
}  # fmt: skip


STATISTICS = ("latent_mean", "latent_covariance", "frequencies", "batches")
"""What the first process's own share tells."""


def recipe(model: dict[str, Any], **trainer: Any) -> dict[str, Any]:
    return {
        "model": model, "data": {"batch_size": 8},
        "trainer": {"max_steps": 20, "sample_every": None, "trackers": [], "ema": {"decay": 0.9},
                    # Not Adam's usual 1e-8: some gradients, such as that of an attention's key bias, are 0 but for rounding,
                    # of which it would make whole steps.
                    "optimizer": {"name": "adam", "lr": 1e-3, "eps": 1e-4}} | trainer,
    }  # fmt: skip


def train(
    zygote: Zygote, folder: Path, cases: dict[str, Any], processes: int, from_rows: bool = True, tries: int = 1
) -> dict[str, Any]:  # fmt: skip
    """Each case's weights, and averages behind them, after training on so many processes. `tries`: torch 2.13 crashed once,
    in native code, when it gathered pieces over gloo; the run goes on from its checkpoint, as any that is killed."""
    folder.mkdir(exist_ok=True)
    world = {"WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes)}
    jobs = [
        zygote.start("shares:train_all", cases, {"rank": rank, "world_size": processes}, from_rows, cwd=folder,
                     env=world | {"RANK": str(rank), "LOCAL_RANK": str(rank)} if processes > 1 else {})
        for rank in range(processes)
    ]  # fmt: skip
    codes = [job.wait() for job in jobs]
    if -signal.SIGSEGV in codes and tries > 1:
        for place in folder.glob("meeting-*"):
            place.unlink()
        return train(zygote, folder, cases, processes, from_rows, tries - 1)
    assert codes == [0] * processes, "\n".join(job.err for job in jobs)
    files = {name: folder / json.loads((folder / f"{name}-0.json").read_text()) / "trainer" for name in cases}
    return {
        name: (load_file(at / "weights.safetensors"), load_file(at / "averages.safetensors")) for name, at in files.items()
    }


def difference(one: Any, two: Any) -> float:
    """The largest between two runs' weights and averages, statistics that no gradient trains left out."""
    return max(float((a[key].double() - b[key].double()).abs().max())
               for a, b in zip(one, two, strict=True) for key in a if key not in STATISTICS)  # fmt: skip


@pytest.mark.slow
def test_two_processes_equal_one_for_every_model_and_loss(zygote, tmp_path):
    """20 steps: one process, two, and two that accumulate over two half batches each. The averages, too."""
    cases = {name: recipe(model) for name, model in MODELS.items()}
    kinds = ("gan-relativistic", "gan-lazy", "cgan-projection", "vae-gaussian", "vae-kl", "vae-adversarial", "autoencoder",
             "ddpm-conditional", "eqm", "ar", "tarflow", "vqvae", "gan-augment")  # fmt: skip
    parts = {name: recipe(MODELS[name], gradient_accumulation_steps=2) for name in kinds}
    one = train(zygote, tmp_path / "one", cases, 1)
    two = train(zygote, tmp_path / "two", cases, 2)
    four = train(zygote, tmp_path / "four", parts, 2)
    print()
    for name in MODELS:
        in_parts = difference(one[name], four[name]) if name in parts else 0.0
        print(f"| {name} | {difference(one[name], two[name]):.1e} | {in_parts:.1e} |")
        assert difference(one[name], two[name]) < 2e-6, name
        assert in_parts < 2e-6, name
    # It is seen where there is a difference: noise of the processes' own, as in ordinary runs.
    usual = {name: cases[name] for name in ("gan-hinge", "vae-gaussian", "ddpm-epsilon")}
    drawn = train(zygote, tmp_path / "drawn", usual, 2, from_rows=False)
    assert all(difference(one[name], drawn[name]) > 1e-4 for name in usual)


SHARDED = {name: recipe(MODELS[name]) for name in ("gan-relativistic", "gan-lazy", "ddpm-conditional")}
SHARDED["muon"] = recipe(
    {"name": "ddpm", "network": {"name": "dit", "hidden_size": 16, "depth": 1, "num_heads": 2}},
    optimizer={"name": "muon", "lr": 1e-3, "eps": 1e-4},
)


@pytest.mark.slow
def test_pieces_train_what_whole_copies_do(zygote, tmp_path):
    """trainer.sharding: full, against two whole copies: weights, averages, what is exported; stopped and gone on with;
    and gone on with by one process, from the same folder."""
    whole = train(zygote, tmp_path / "whole", SHARDED, 2)
    pieces: dict[str, Any] = {}
    for name, case in SHARDED.items():
        case = case | {"trainer": case["trainer"] | {"sharding": "full"}}
        part = case | {"trainer": case["trainer"] | {"max_steps": 11, "save_every": 5}}
        train(zygote, tmp_path / "pieces", {name: part}, 2, tries=3)
        pieces |= train(zygote, tmp_path / "pieces", {name: case}, 2, tries=3)
        print(f"| {name} | {difference(whole[name], pieces[name]):.1e} |")
        assert difference(whole[name], pieces[name]) < 2e-6, name
        one, two = (genhub.load(tmp_path / kind / name).state_dict() for kind in ("whole", "pieces"))
        assert max(float((one[key] - two[key]).abs().max()) for key in one if key not in STATISTICS) < 2e-6, name
    more = {"gan-lazy": recipe(MODELS["gan-lazy"], max_steps=21)}
    train(zygote, tmp_path / "pieces", more, 1)


def test_single_numbers_can_not_be_sharded(zygote, tmp_path):
    with pytest.raises(AssertionError, match="VAE has a weight that is a single number, likelihood.scaled; leave it out"):
        train(zygote, tmp_path / "x", {"vae": recipe(MODELS["vae-gaussian"], sharding="full")}, 2)
    with pytest.raises(genhub.RecipeError, match="full does not go with trainer.find_batch_size=True; leave one out"):
        genhub.train(recipe(MODELS["vae-gaussian"], sharding="full", find_batch_size=True), run_dir=str(tmp_path / "y"))
