"""A DDPM of vectors, signals and volumes, given several columns at once; its densities; its folders, format 1's among them."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from genhub_ddpm import DDPM
from test_ddpm import SAMPLERS, Exact, make

import genhub
from genhub import Batch, Conditions, Denoiser, Image, Label, Likelihood, Modality, ModelData, Number, Signal, Vector
from genhub.store.manifest import checksum_of, describe_files, read_manifest

POINT = Vector(shape=(3,), mean=(1.0, 2.0, 3.0), std=(2.0, 2.0, 4.0))
SOUND = Signal(shape=(2, 16), mean=(0.0, 1.0), std=(0.5, 2.0))
GIVEN = {
    "label": Label(number=3, names=("a", "b", "c")),
    "ink": Number(mean=0.2, std=0.1, low=0.0, high=0.5),
    "sketch": Image(shape=(1, 4, 4)),
}
SMALL = {"vector": {"name": "mlp", "hidden": 16}, "signal": {"name": "unet1d", "block_out_channels": [8, 16]}}


def model_of(target: Modality, conditions: dict[str, Modality] | None = None, **keys) -> DDPM:
    torch.manual_seed(0)
    data = ModelData(column=target.modality, target=target, conditions=conditions or {})
    values = {"name": "ddpm", "data": data, "conditions": list(conditions or {}), **keys}
    return DDPM(DDPM.Config.model_validate(values))


def given(n: int) -> Conditions:
    """What n rows of an image are given: a class, a number and another image."""
    generator = torch.Generator().manual_seed(1)
    values = {"label": torch.arange(n) % 3, "ink": torch.randn(n, generator=generator),
              "sketch": torch.rand(n, 1, 4, 4, generator=generator) * 2 - 1}  # fmt: skip
    return Conditions(values, {name: torch.ones(n, dtype=torch.bool) for name in values})


# Any target


def test_the_network_is_the_shapes_own_where_none_is_named():
    names = {shape: DDPM.Config(name="ddpm", data=ModelData(target=target)).network.name
             for shape, target in [("point", POINT), ("sound", SOUND), ("image", Image(shape=(1, 8, 8)))]}  # fmt: skip
    assert names == {"point": "mlp", "sound": "unet1d", "image": "unet"}
    assert DDPM.Config(name="ddpm").network is None  # before the data are known
    with pytest.raises(ValueError, match=r"network.name: unet is for 2 sides"):
        model_of(POINT, network="unet")


@pytest.mark.parametrize("target", [POINT, SOUND])
def test_vectors_and_signals_train_draw_and_come_back(tmp_path: Path, target):
    model = model_of(target, network=SMALL[target.modality], scheduler={"variance_type": "learned_range"})
    assert isinstance(model, Denoiser)
    x = torch.randn(8, *target.shape)
    losses = model.loss(Batch(x))
    losses["loss"].backward()
    assert losses["vlb"].isfinite()
    assert all(p.grad is not None for p in model.parameters())
    model.eval().save_pretrained(tmp_path / "model")
    again = genhub.load(tmp_path / "model")
    assert sorted(path.name for path in (tmp_path / "model").iterdir() if path.is_dir()) == ["network", "scheduler"]
    for name in ("ddim", "ddpm", "dpmsolver"):
        options = {"scheduler": name, "num_inference_steps": 4}
        drawn = model.sample(3, generator=torch.Generator().manual_seed(2), **options)
        assert drawn.shape == (3, *target.shape)
        assert torch.equal(drawn, again.sample(3, generator=torch.Generator().manual_seed(2), **options))


@pytest.mark.slow
@pytest.mark.parametrize("name", SAMPLERS)
def test_every_scheduler_turns_noise_into_vectors_beyond_any_bound(name):
    """The exact denoiser of N(4, 0.1^2), which is far outside of an image's [-1, 1]: nothing is clipped."""
    model = model_of(POINT, network=SMALL["vector"])
    model.network = Exact(model, 4.0, 0.1)
    drawn = model.sample(64, generator=torch.Generator().manual_seed(0), scheduler=name, num_inference_steps=40)
    assert drawn.mean() == pytest.approx(4.0, abs=0.05)
    assert 0.04 < drawn.std() < 0.16
    assert not model.scheduler.config.clip_sample


class Volume(Modality):
    """A stranger's kind of column, of three sides."""

    modality: str = "test_ddpm_columns:Volume"

    @classmethod
    def learn(cls, column, options):
        raise NotImplementedError

    def read(self, value):
        return value

    def to_batch(self, kept):
        return kept

    def from_batch(self, x):
        return x

    def picture(self, values, captions=()):
        raise NotImplementedError


def test_a_strangers_modality_is_one_like_any_other():
    model = model_of(Volume(shape=(2, 4, 4, 4)), {"ink": GIVEN["ink"]})
    assert model.config.network.name == "dit"
    told = Conditions({"ink": torch.zeros(3)}, {"ink": torch.tensor([True, True, False])})
    model.loss(Batch(torch.randn(3, 2, 4, 4, 4), told))["loss"].backward()
    assert all(p.grad is not None for p in model.parameters())
    assert model.sample(3, conditions=told, num_inference_steps=2, guidance_scale=2.0).shape == (3, 2, 4, 4, 4)


# Densities


def expected_bits(model: DDPM, mean: float, std: float, unit: float) -> float:
    """The bound in float64, in bits a number, for data N(mean, std^2) in a batch's units and their exact denoiser."""
    a = model.scheduler.alphas_cumprod.double()
    of_x0, _, small, large = model.posterior_table.double()
    log_variance = small if model.config.scheduler.variance_type == "fixed_small" else large
    error = std**2 * (1 - a) / (a * std**2 + 1 - a)  # E (x_0 - E[x_0 | x_t])^2
    ratio = small - log_variance
    terms = 0.5 * (ratio.exp() - 1 - ratio) + of_x0**2 * error / (2 * log_variance.exp())
    terms[0] = 0.5 * (math.log(2 * math.pi) + log_variance[0] + error[0] / log_variance[0].exp())
    prior = 0.5 * (a[-1] * (mean**2 + std**2) - a[-1] - torch.log1p(-a[-1]))
    return (terms.sum() + prior + math.log(unit)).item() / math.log(2)


@pytest.mark.slow
@pytest.mark.parametrize("variance", ["fixed_small", "fixed_large"])
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_the_density_of_a_normal_distribution(prediction, variance):
    """What is computed is the closed form, above the entropy, and with the better variance (fixed_large) a little; in the
    column's own units: numbers twice as far apart need a bit more each."""
    schedule = {"num_train_timesteps": 400, "beta_schedule": "linear", "beta_start": 2.5e-4, "beta_end": 0.05,
                "prediction_type": prediction, "variance_type": variance}  # fmt: skip
    n, means = 4000, []
    batch = Batch(0.3 + 0.5 * torch.randn(n, 2, generator=torch.Generator().manual_seed(0)))
    for unit in (1.0, 2.0):
        model = model_of(Vector(shape=(2,), mean=(0.0, 0.0), std=(unit, unit)), network=SMALL["vector"], scheduler=schedule)
        model.network = Exact(model, 0.3, 0.5)
        assert isinstance(model, Likelihood)
        bits = model.bits_per_dimension(batch, generator=torch.Generator().manual_seed(1))
        means.append(bits.mean().item())
        assert means[-1] == pytest.approx(expected_bits(model, 0.3, 0.5, unit), abs=4 * bits.std().item() / math.sqrt(n))
        entropy = math.log2(0.5 * unit * math.sqrt(2 * math.pi * math.e))
        assert entropy - 0.03 < means[-1] < entropy + (1.5 if variance == "fixed_small" else 0.3)
    assert means[1] - means[0] == pytest.approx(1, abs=1e-4)


def test_16_bits_are_65536_levels():
    """The same picture in twice the bits a number needs about eight more, as its levels lie closer together."""
    schedule = {"num_train_timesteps": 100, "beta_schedule": "linear", "beta_end": 0.2}
    x, bits = torch.rand(16, 1, 8, 8, generator=torch.Generator().manual_seed(0)) - 0.5, {}
    for depth, levels in ((8, 255), (16, 65535)):
        model = model_of(Image(shape=(1, 8, 8), bits=depth), network={"name": "unet", "block_out_channels": [8]},
                         scheduler=schedule | {"variance_type": "fixed_large"})  # fmt: skip
        model.network = Exact(model, 0.0, 0.3)
        kept = ((x + 1) / 2 * levels).round() / levels * 2 - 1
        bits[depth] = model.bits_per_dimension(Batch(kept), generator=torch.Generator().manual_seed(1)).mean().item()
    assert bits[16] - bits[8] == pytest.approx(math.log2(65535 / 255), abs=0.05)


# Any conditions


def test_a_class_a_number_and_an_image_at_once(tmp_path: Path):
    network = {"name": "unet", "block_out_channels": [8, 16], "add_attention": False}
    model = model_of(Image(shape=(1, 8, 8)), GIVEN, network=network)
    model.loss(Batch(torch.randn(6, 1, 8, 8), given(6)))["loss"].backward()
    assert [phase.trains for phase in model.phases()] == [("network", "conditioner")]
    assert all(p.grad is not None for p in model.parameters())  # also of rows that have none: DDP finds no unused one
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))  # some start at zero

    model.eval().save_pretrained(tmp_path / "model")
    again = genhub.load(tmp_path / "model")
    parts = {path.name for path in (tmp_path / "model").iterdir()}
    assert {"unet", "scheduler", "conditioner.safetensors"} <= parts
    assert "model_index.json" not in parts

    def drawn(model: DDPM, conditions: Conditions | None, **options) -> torch.Tensor:
        generator = torch.Generator().manual_seed(0)
        return model.sample(2, conditions=conditions, generator=generator, num_inference_steps=3, **options)

    whole = drawn(model, given(2))
    assert torch.equal(whole, drawn(again, given(2)))
    for name in GIVEN:
        assert not torch.equal(whole, drawn(model, given(2).without({name: torch.tensor([True, True])}))), name
    assert not torch.equal(whole, drawn(model, given(2), guidance_scale=3.0))
    torch.testing.assert_close(drawn(model, given(2), guidance_scale=0.0), drawn(model, None), atol=1e-4, rtol=0)


# Folders


def test_an_image_without_conditions_alone_is_a_pipelines_folder(tmp_path: Path):
    patches = {"name": "unet", "patch_size": 2}
    models = {"plain": make(), "told": make(classes=3), "deep": model_of(Image(shape=(1, 8, 8), bits=16)),
              "patches": model_of(Image(shape=(1, 8, 8)), network=patches)}  # fmt: skip
    for name, model in models.items():
        model.save_pretrained(tmp_path / name)
        assert (tmp_path / name / "model_index.json").exists() == (name == "plain")
        assert (tmp_path / name / "unet" / "config.json").exists()
        assert (tmp_path / name / "scheduler" / "scheduler_config.json").exists()
        assert not (tmp_path / name / "conditioner.safetensors").exists()


def of_format_1(folder: Path, **keys) -> None:
    """Rewrite a folder's genhub.json as format 1 had it: its own names of keys, and the facts of images and labels."""
    manifest = read_manifest(folder).model_dump(mode="json")
    names = ("scheduler", "vlb_weight", "loss_weighting", "min_snr_gamma")
    config = {"name": "ddpm", "sample_shape": [1, 8, 8], "num_classes": 3, "autoencoder": None, "label_dropout": 0.2,
              "unet": {key: value for key, value in manifest["config"]["network"].items() if key != "name"},
              "sampling": {"scheduler": "ddim", "num_inference_steps": 4, "eta": 1.0, "guidance_scale": 1.5},
              **{name: manifest["config"][name] for name in names}, **keys}  # fmt: skip
    data = {"name": "digits", "split": "train", "shape": [1, 8, 8], "num_classes": 3, "class_names": ["x", "y", "z"],
            "num_images": 7, "fingerprint": "0" * 32}  # fmt: skip
    kept = ("genhub", "plugin", "step", "versions", "code")
    old = {key: manifest[key] for key in kept} | {"format": 1, "config": config, "data": data}
    files = {name: entry.model_dump() for name, entry in describe_files(folder).items()}
    old |= {"files": files, "conditions": ["labels"] if config["conditional"] else [], "checksum": ""}
    (folder / "genhub.json").write_text(json.dumps(old | {"checksum": checksum_of(old)}))


@pytest.mark.parametrize("classes", [0, 3])
def test_a_folder_of_format_1_draws_what_it_drew(tmp_path: Path, classes):
    model = make(classes=classes, sampling={"num_inference_steps": 4, "guidance_scale": 1.5}).eval()
    model.save_pretrained(tmp_path / "old")
    of_format_1(tmp_path / "old", conditional=bool(classes))
    old = genhub.load(tmp_path / "old")
    assert old.config.network == model.config.network
    assert old.config.condition_dropout == 0.2
    assert old.config.sampling.guidance_scale == 1.5
    assert list(old.conditions) == (["label"] if classes else [])
    given = None
    if classes:
        assert old.conditions["label"].names == ("x", "y", "z")
        given = Conditions({"label": torch.tensor([0, 2])}, {"label": torch.tensor([True, False])})
    drawn = [each.sample(2, conditions=given, generator=torch.Generator().manual_seed(0)) for each in (model, old)]
    assert torch.equal(*drawn)
    old.save_pretrained(tmp_path / "new")
    assert read_manifest(tmp_path / "new").format == 2


def test_a_folder_of_format_1_with_vectors_of_latents(tmp_path: Path):
    """A U-Net had them as d channels of 1x1, which it still has."""
    stored = {"plugin": {"name": "vae", "distribution": "", "version": ""}, "latent_shape": [5],
              "config": {"name": "vae", "sample_shape": [1, 8, 8], "num_classes": 10, "channels": [8], "latent_dim": 5}}  # fmt: skip
    unet = {"block_out_channels": [8], "add_attention": False}
    config = {
        "name": "ddpm",
        "sample_shape": [1, 8, 8],
        "num_classes": 10,
        "unet": unet,
        "conditional": False,
        "autoencoder": stored,
    }
    model = DDPM(DDPM.Config.model_validate(DDPM.Config.from_format_1(config, {}))).eval()
    assert model.network.unet.config.in_channels == 5
    assert model.autoencoder.mean.shape == (5, 1, 1)
    assert model.sample(2, num_inference_steps=2).shape == (2, 1, 8, 8)
    assert model.autoencoder.encode(torch.zeros(3, 1, 8, 8)).shape == (3, 5, 1, 1)


@pytest.mark.slow
def test_points_on_demand(tmp_path: Path):
    """The shipped recipe, in a fifth of its steps, draws points that lie as near to real ones as these to one another, each
    on the moon that is asked for."""
    keys = ["trainer.max_steps=1000", "trainer.sample_every=null"]
    folder = genhub.train("moons-ddpm", keys, run_dir=str(tmp_path / "run"))
    drawn, data = genhub.sample(folder, 2000), genhub.load_data("moons")
    near = torch.cdist(drawn, data.own(range(10_000))).min(1)
    real = torch.cdist(data.own(range(2000)), data.own(range(2000, 10_000))).min(1).values
    assert near.values.quantile(0.9) < 1.5 * real.quantile(0.9)
    moons = data.column("label").kept(range(10_000))[near.indices]
    assert (moons == torch.arange(2000) % 2).float().mean() > 0.99
    covered = torch.cdist(data.own(range(2000)), drawn).min(1).values
    assert covered.quantile(0.9) < 0.1
