"""Latent diffusion: a trained autoencoder named in a recipe, frozen, measured, and stored inside the checkpoint."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path

import models
import pytest
import torch
from conftest import TINY_DDPM
from genhub_ddpm import DDPM
from genhub_ddpm.latent import WINDOW, Latents
from models import images
from safetensors.torch import load_file
from test_ddpm import PREDICTIONS, Exact
from test_ddpm import make as small
from test_ddpm_conditional import labels
from test_registry import install, site  # noqa: F401  # a fixture
from test_trainer import metrics, same_bits

import genhub
from genhub import Batch, Conditions, DataConfig, Denoiser, load_data
from genhub.store.manifest import file_digest, read_manifest
from genhub.training.ema import EMA

VAE = {"name": "vae", "network": "kl", "channels": [8, 8], "latent_dim": 3}


@pytest.fixture(scope="module")
def vae(tmp_path_factory) -> Path:
    """The run of an autoencoder with latents of 3x4x4, a few steps old."""
    folder = tmp_path_factory.mktemp("vae") / "run"
    recipe = copy.deepcopy(TINY_DDPM) | {"model": VAE, "run_dir": str(folder)}
    genhub.train(recipe, ["trainer.max_steps=3"])
    return folder


@pytest.fixture
def latent(tiny, tmp_path, vae) -> dict:
    """A recipe for a latent DDPM on an autoencoder's run that a test may delete."""
    shutil.copytree(vae, tmp_path / "vae")
    tiny["model"]["autoencoder"] = str(tmp_path / "vae")
    return tiny


def build(autoencoder: Path, **keys) -> DDPM:
    torch.manual_seed(0)
    network = {"name": "unet", "block_out_channels": [8, 16], "add_attention": False}
    values = {"name": "ddpm", "data": images(), "network": network, "autoencoder": str(autoencoder), **keys}
    return DDPM(DDPM.Config.model_validate(values))


@pytest.fixture
def halves(site, tmp_path) -> Path:  # noqa: F811
    """A third party's autoencoder, installed and saved."""
    install(site, "halves-model", "[genhub.models]\nhalves = models:Halves\n", version="1.2")
    models.Halves(models.Halves.Config(name="halves", data=images())).save_pretrained(tmp_path / "halves")
    return tmp_path / "halves"


def digits(n: int = 64) -> torch.Tensor:
    return load_data(DataConfig()).x(range(n))


# The checkpoint


def test_a_model_that_was_moved_is_saved_whole(vae, tmp_path):
    """A move to a GPU, say, makes plain tensors of its buffers."""
    model = build(vae)
    model.autoencoder.measure(torch.randn(16, 3, 4, 4))
    model._apply(torch.clone)
    model.save_pretrained(tmp_path / "saved")
    kept, back = model.state_dict(), genhub.load(tmp_path / "saved").state_dict()
    assert kept.keys() == back.keys()
    assert all(torch.equal(kept[name], back[name]) for name in kept)


def test_a_checkpoint_moves_as_one_folder(latent, tmp_path):
    """Sampled before and after, without the autoencoder's own run: the same bits. Nothing in it names a place."""
    from diffusers import AutoencoderKL, DDPMScheduler, UNet2DModel

    folder = genhub.train(latent)
    before = genhub.sample(folder, 3, seed=4)
    digest = file_digest(next((tmp_path / "vae").rglob("vae/diffusion_pytorch_model.safetensors")))
    shutil.move(folder, tmp_path / "moved")
    shutil.rmtree(tmp_path / "vae")
    shutil.rmtree(latent["run_dir"])
    assert torch.equal(genhub.sample(tmp_path / "moved", 3, seed=4), before)
    assert before.shape == (3, 1, 8, 8)

    inside = tmp_path / "moved" / "autoencoder"
    assert file_digest(inside / "vae" / "diffusion_pytorch_model.safetensors") == digest  # never trained, never averaged
    model, autoencoder = genhub.load(tmp_path / "moved"), genhub.load(inside)
    latents = torch.randn(2, 3, 4, 4)
    assert torch.equal(model.autoencoder.model.decode(latents), autoencoder.decode(latents))
    AutoencoderKL.from_pretrained(inside, subfolder="vae")
    assert UNet2DModel.from_pretrained(tmp_path / "moved", subfolder="unet").config.in_channels == 3
    assert not DDPMScheduler.from_pretrained(tmp_path / "moved", subfolder="scheduler").config.clip_sample
    described = read_manifest(tmp_path / "moved").config["autoencoder"]
    assert described["plugin"] == {"name": "vae", "distribution": "genhub-framework", "version": genhub.__version__}
    assert described["latent_shape"] == [3, 4, 4]
    for file in (tmp_path / "moved").rglob("*.json"):
        assert str(tmp_path) not in file.read_text(), file


def test_resume_is_exact_without_the_autoencoders_run(latent, tmp_path):
    """Stopped after step 3 and inside the window of measuring; then the autoencoder is gone."""
    latent["model"]["conditions"] = ["label"]
    whole = genhub.train(latent, run_dir=str(tmp_path / "whole"))
    genhub.train(latent, ["trainer.max_steps=3"], run_dir=str(tmp_path / "parts"))
    shutil.rmtree(tmp_path / "vae")
    same_bits(whole, genhub.train(latent, run_dir=str(tmp_path / "parts")))
    assert [m for m in metrics(tmp_path / "parts") if m["step"] != 3] == metrics(tmp_path / "whole")
    for name in ("weights", "averages"):  # what never changes is stored once
        kept = {key for key in load_file(whole / "trainer" / f"{name}.safetensors") if not key.startswith("network.")}
        assert kept == {f"autoencoder.{key}" for key in ("mean", "variance", "batches", "model.batches")}


@pytest.mark.slow
def test_resume_does_not_take_up_a_retrained_autoencoder(latent, tmp_path):
    whole = genhub.train(latent, run_dir=str(tmp_path / "whole"))
    genhub.train(latent, ["trainer.max_steps=3"], run_dir=str(tmp_path / "parts"))
    shutil.rmtree(tmp_path / "vae")
    recipe = copy.deepcopy(TINY_DDPM) | {"model": VAE | {"channels": [16, 16]}, "run_dir": str(tmp_path / "vae")}
    genhub.train(recipe, ["trainer.max_steps=1"])
    same_bits(whole, genhub.train(latent, run_dir=str(tmp_path / "parts")))


def test_trains_on_from_a_latent_checkpoint(latent, tmp_path):
    first = genhub.train(latent)
    (other := build(tmp_path / "vae").autoencoder.model).decoder[0].weight.data.add_(1)
    other.save_pretrained(tmp_path / "other")
    with pytest.raises(genhub.CheckpointError, match=r"trained on another autoencoder than .*other; leave model.autoenc"):
        genhub.train(
            {**latent, "model": {"from": str(first), "autoencoder": str(tmp_path / "other")}},
            run_dir=str(tmp_path / "unused"),
        )
    shutil.rmtree(tmp_path / "vae")
    latent["model"] = {"from": str(first)}
    second = genhub.train(latent, ["trainer.max_steps=1"], run_dir=str(tmp_path / "second"))
    names = ("latents.safetensors", "autoencoder/vae/diffusion_pytorch_model.safetensors")
    assert load_file(second / names[0])["batches"] == 7  # goes on measuring: 6 batches, and one more
    assert file_digest(first / names[1]) == file_digest(second / names[1])


# Frozen and measured


def test_the_autoencoder_is_frozen_and_shared(vae):
    model = build(vae).train()
    assert model.training
    assert model.autoencoder.training
    assert not any(module.training for module in model.autoencoder.model.modules())
    model.loss(Batch(digits()))["loss"].backward()
    assert all(p.grad is None and not p.requires_grad for p in model.autoencoder.parameters())
    assert all(p.grad is not None for p in model.network.parameters())
    copied = EMA(model, genhub.recipe.sections.EMAConfig(), {"network"}).model
    assert copied.autoencoder.model.encoder[0].conv_in.weight is model.autoencoder.model.encoder[0].conv_in.weight
    assert copied.network.unet.conv_in.weight is not model.network.unet.conv_in.weight


def test_the_scale_is_the_latents_own_and_then_stays(halves):
    model = build(halves)
    space, real = model.autoencoder.train(), digits(320)
    for batch in real.split(64):
        space.encode(batch)
    plain = nn_latents(real)
    torch.testing.assert_close(space.mean.squeeze(), plain.mean(), rtol=1e-4, atol=0)
    torch.testing.assert_close(space.scale, plain.std(correction=0), rtol=1e-4, atol=0)
    scaled = space.eval().encode(real)
    assert scaled.mean().abs() < 1e-4
    assert scaled.std() == pytest.approx(1, abs=1e-3)
    torch.testing.assert_close(space.decode(scaled), models.Halves.decode(space.model, plain), atol=1e-5, rtol=0)
    assert space.batches == 5  # eval mode measures nothing
    space.train().batches.fill_(WINDOW)
    before = space.scale.clone()
    space.encode(10 * real)
    assert torch.equal(space.scale, before)


def nn_latents(x: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.avg_pool2d(x, 2) * 5 + 30


# Any autoencoder


def test_a_third_partys_autoencoder_takes_part_unchanged(halves, tiny, tmp_path, site):  # noqa: F811
    tiny["model"]["autoencoder"] = str(halves)
    folder = genhub.train(tiny)
    model = genhub.load(folder)
    assert type(model.autoencoder.model) is models.Halves
    drawn = model.sample(2, generator=torch.Generator().manual_seed(0))
    assert torch.equal(drawn, torch.nn.functional.interpolate(drawn[..., ::2, ::2], scale_factor=2))  # its decoder's
    (next(site.glob("*.dist-info")) / "entry_points.txt").write_text("")
    genhub.interfaces.registry.all_plugins.cache_clear()
    message = "this model needs 'halves' from halves-model 1.2: pip install halves-model"
    with pytest.raises(genhub.CheckpointError, match=message):
        genhub.load(folder)


@pytest.mark.parametrize("name", ["vae", "autoencoder"])
def test_latents_that_are_vectors_get_a_network_for_vectors(tiny, tmp_path, name):
    recipe = copy.deepcopy(TINY_DDPM) | {"model": {"name": name, "channels": [8], "latent_dim": 5}}
    genhub.train(recipe, ["trainer.max_steps=1"], run_dir=str(tmp_path / name))
    tiny["model"]["autoencoder"] = str(tmp_path / name)
    message = r"model.network.name: unet is for 2 sides, .*mlp is for vectors \(x is the autoencoder's latents, 5\)"
    with pytest.raises(genhub.RecipeError, match=message):
        genhub.train(tiny)
    del tiny["model"]["network"]
    folder = genhub.train(tiny, ["trainer.max_steps=1"])
    model = genhub.load(folder)
    assert model.config.network.name == "mlp"
    assert model.network_shape == (5,)
    assert (folder / "network").is_dir()
    assert genhub.sample(folder, 2).shape == (2, 1, 8, 8)


def test_without_an_autoencoder_nothing_is_added():
    model = small()
    assert {key.split(".")[0] for key in model.state_dict()} == {"network"}
    x = torch.randn(2, 1, 8, 8)
    assert model.autoencoder.encode(x) is x
    assert model.autoencoder.decode(x) is x
    assert model.scheduler.config.clip_sample


# The loss and the samplers


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("name", ["ddpm", "ddim", "dpmsolver", "unipc"])
def test_latents_are_not_clipped(halves, name, prediction):
    """With the exact denoiser of latents N(2.5, 0.05^2), samples must be images of such latents."""
    model = build(halves, scheduler={"prediction_type": prediction})
    model.network = Exact(model, 2.5, 0.05)
    model.autoencoder.mean.fill_(30.0)  # so that an image is twice its scaled latent over ten
    model.autoencoder.variance.fill_(1.0)
    drawn = model.sample(64, generator=torch.Generator().manual_seed(0), scheduler=name, num_inference_steps=40)
    assert drawn.mean() == pytest.approx(2.5 / 5, abs=0.01)
    assert 0.005 < drawn.std() < 0.02


def test_steps_are_images(vae):
    model, steps = build(vae).eval(), []
    assert isinstance(model, Denoiser)
    drawn = model.sample(2, generator=torch.Generator().manual_seed(0), num_inference_steps=3, callback=steps.append)
    again = list(model.denoise(2, generator=torch.Generator().manual_seed(0), num_inference_steps=3))
    for ours, theirs in zip(steps, again, strict=True):
        assert torch.equal(ours.sample, theirs.sample)
        assert ours.sample.shape == ours.pred_original_sample.shape == (2, 1, 8, 8)
    assert torch.equal(drawn, again[-1].sample.clamp(-1, 1))


def test_noise_is_added_to_latents_and_seen_in_images(halves):
    """Two by two pixels stay alike, as the decoder makes them, and at the first level the image is hardly changed."""
    model = build(halves).eval()
    model.autoencoder.mean.fill_(30.0)
    real = digits(4)
    noisy = model.add_noise(real, torch.randn(4, 1, 8, 8), torch.tensor([0, 300, 600, 999]))
    assert torch.equal(noisy, torch.nn.functional.interpolate(noisy[..., ::2, ::2], scale_factor=2))
    clean = models.Halves.decode(model.autoencoder.model, nn_latents(real))
    far = (noisy - clean).square().mean((1, 2, 3))
    assert far[0] < 1e-3 < far[1] < far[2]


def test_a_variance_is_learned_by_the_latents_bound(vae):
    model = build(vae, scheduler={"variance_type": "learned_range"}, vlb_weight=1.0).train()
    losses = model.loss(Batch(digits()))
    losses["loss"].backward()
    assert torch.isfinite(losses["vlb"])
    assert model.network.unet.conv_out.weight.grad[3:].abs().max() > 0
    assert model.sample(2, scheduler="ddpm", num_inference_steps=2).shape == (2, 1, 8, 8)


def test_bits_per_dimension_are_refused(vae):
    with pytest.raises(genhub.InputError, match="bits per dimension: a latent DDPM bounds the density of latents"):
        build(vae).bits_per_dimension(Batch(digits(2)))


# What can't be


def test_an_autoencoder_that_is_not_there_is_told_before_step_0(tiny, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(genhub.RecipeError) as error:
        genhub.train("digits-ddpm-latent")
    assert str(error.value) == "model.autoencoder: runs/digits-vae-kl: not trained yet: genhub train digits-vae-kl"
    with pytest.raises(genhub.RecipeError, match="model.autoencoder: nowhere: no such folder"):
        genhub.train(tiny, ["model.autoencoder=nowhere"])


def test_what_can_not_serve_is_refused(tiny, tmp_path, vae, site):  # noqa: F811
    pixels = genhub.train(tiny, ["trainer.max_steps=1"], run_dir=str(tmp_path / "pixels"))
    with pytest.raises(genhub.RecipeError, match="model.autoencoder: 'ddpm' is no autoencoder .*vae is one"):
        genhub.train(tiny, [f"model.autoencoder={pixels}"])
    message = "data.columns.image: by channels it is 3x8x8, and the model's is 1x8x8; leave channels out"
    with pytest.raises(genhub.DataError, match=message):
        genhub.train(tiny, [f"model.autoencoder={vae}", "data.columns.image.channels=3"])
    with pytest.raises(genhub.RecipeError, match="model.autoencoder: must be a valid string or .*, not 3"):
        genhub.read_recipe(tiny, ["model.autoencoder=3"])


def test_latents_of_one_side_get_a_network_for_signals(tiny, tmp_path, site):  # noqa: F811
    install(site, "tokens", "[genhub.models]\ntokens = tokens:Tokens\n", tokens=TOKENS)
    import tokens

    tokens.Tokens(tokens.Tokens.Config(name="tokens", data=images())).save_pretrained(tmp_path / "tokens")
    keys = [f"model.autoencoder={tmp_path / 'tokens'}", "trainer.max_steps=1"]
    with pytest.raises(genhub.RecipeError, match=r"model.network.name: unet is for 2 sides, .*latents, 4x4\)"):
        genhub.train(tiny, keys)
    del tiny["model"]["network"]
    folder = genhub.train(tiny, keys)
    assert genhub.load(folder).config.network.name == "unet1d"
    assert genhub.sample(folder, 2).shape == (2, 1, 8, 8)


TOKENS = """
from models import Halves
class Tokens(Halves):
    def encode(self, x, conditions=None): return super().encode(x).flatten(2).unflatten(2, (4, 4))[:, 0]
    def decode(self, latents, conditions=None): return super().decode(latents[:, None])
"""


def test_an_autoencoder_is_given_what_it_was_trained_with(tmp_path, site):  # noqa: F811
    install(site, "shifts", "[genhub.models]\nshifts = shifts:Shifts\n", shifts=SHIFTS)
    import shifts

    shifts.Shifts(shifts.Shifts.Config(name="shifts", data=images(classes=3), conditions=["label"])).save_pretrained(
        tmp_path / "shifts"
    )
    message = "model.autoencoder: this 'shifts' is given label; model.conditions needs it, too"
    with pytest.raises(genhub.RecipeError, match=message):
        build(tmp_path / "shifts")
    model = build(tmp_path / "shifts", data=images(classes=3), conditions=["label"]).eval()
    space, zeros, told = model.autoencoder, labels(0, 0, 0), labels(0, 1, 2)
    torch.testing.assert_close(space.encode(digits(3), told), space.encode(digits(3) - shift(told), zeros))
    latents = torch.randn(3, 1, 4, 4)
    torch.testing.assert_close(space.decode(latents, told), space.decode(latents, zeros) + shift(told))
    assert model.frozen_encoder() is None  # latents are no function of x alone
    assert model.sample(3, conditions=told, num_inference_steps=2).shape == (3, 1, 8, 8)
    assert model.loss(Batch(digits(3), told))["loss"].isfinite()


def shift(conditions: Conditions) -> torch.Tensor:
    return conditions.values["label"].view(-1, 1, 1, 1)


SHIFTS = """
from models import Halves
class Shifts(Halves):
    def encode(self, x, conditions=None): return super().encode(x - self.by(len(x), conditions))
    def decode(self, latents, conditions=None): return super().decode(latents) + self.by(len(latents), conditions)
    def by(self, n, conditions): return self.conditions_of(n, conditions).values["label"].view(-1, 1, 1, 1)
"""


def test_a_checkpoint_can_not_name_another_folder(latent, vae):
    """Only a recipe, which is the user's own, may; else loading one folder would open others."""
    folder = genhub.train(latent, ["trainer.max_steps=1"])
    manifest = read_manifest(folder)
    for stranger in (str(vae), "someone/else"):
        forged = manifest.model_copy(update={"config": manifest.config | {"autoencoder": stranger}}).sealed()
        (folder / "genhub.json").write_text(json.dumps(forged.model_dump(mode="json")))
        with pytest.raises(genhub.CheckpointError, match=r"genhub.json: config: .*a model folder stands alone"):
            genhub.load(folder)
    described = manifest.config["autoencoder"] | {"plugin": {"name": "os:system", "distribution": "", "version": ""}}
    forged = manifest.model_copy(update={"config": manifest.config | {"autoencoder": described}}).sealed()
    (folder / "genhub.json").write_text(json.dumps(forged.model_dump(mode="json")))
    with pytest.raises(genhub.CheckpointError, match="this model needs 'os:system' from your own code"):
        genhub.load(folder)


def test_it_is_built_without_memory_from_its_config_alone(latent, tmp_path):
    """As whoever counts a model's parameters before downloading it does."""
    folder = genhub.train(latent, ["trainer.max_steps=1"])
    config = DDPM.Config.model_validate(read_manifest(folder).config)
    shutil.rmtree(tmp_path / "vae")
    with torch.device("meta"):
        model = DDPM(config)
    assert isinstance(model.autoencoder, Latents)
    assert sum(p.numel() for p in model.parameters()) == sum(p.numel() for p in genhub.load(folder).parameters())


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_digits_through_latents(tmp_path: Path):
    """The shipped recipes, one after the other, in half their steps."""
    from judge import judge

    vae = genhub.train("digits-vae-kl", ["trainer.max_steps=600"], run_dir=str(tmp_path / "vae"))
    keys = [f"model.autoencoder={vae}", "trainer.max_steps=800", "trainer.sample_every=null"]
    folder = genhub.train("digits-ddpm-latent", keys, run_dir=str(tmp_path / "run"))
    figures = judge(genhub.sample(folder, 2000).permute(0, 2, 3, 1).numpy())
    assert figures["frechet"] <= 0.25, figures
    assert figures["near"] >= 0.95, figures
    assert figures["smallest_class"] >= 0.04, figures


# The data


def test_data_are_read_as_the_autoencoders_were(tmp_path):
    """Its mean and deviation are those of other rows; a number means the same to both. A run that goes on reads so, too."""
    keys = {"data": {"name": "moons", "num_rows": 400}, "trainer": {"max_steps": 2, "trackers": [], "save_every": 1}}
    inner = keys | {"model": {"name": "vae", "latent_dim": 2, "channels": [8]}, "run_dir": str(tmp_path / "vae")}
    genhub.train(inner, ["data.split=train[:100]"])
    latent = keys | {"model": {"name": "ddpm", "autoencoder": str(tmp_path / "vae")}, "run_dir": str(tmp_path / "ddpm")}
    genhub.train(latent, ["trainer.max_steps=1"])
    genhub.train(latent)
    theirs, model = genhub.load(tmp_path / "vae"), genhub.load(tmp_path / "ddpm")
    assert model.modality == theirs.modality
    assert model.modality != load_data(DataConfig(**keys["data"])).spec.modality
    with pytest.raises(genhub.RecipeError, match=r"^model.autoencoder: .*nowhere: no such folder"):
        genhub.train(latent, [f"model.autoencoder={tmp_path}/nowhere"], run_dir=str(tmp_path / "other"))
