"""The conditional GAN: what its networks do with labels; the game itself is the GAN's, and tested there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from genhub_gan import GAN, ConditionalGAN
from genhub_gan.config import ResidualConfig
from genhub_gan.networks import Discriminator, Generator
from judge import judge
from made_columns import LABEL, columns, image
from test_gan import DOCS, LOSSES, SMALL, trained
from test_trainer import metrics, same_bits

import genhub

CONDITIONINGS = ["projection", "concatenation"]
GIVEN = {"label": genhub.Label(number=3)}


def make(shape=(1, 8, 8), **keys) -> ConditionalGAN:
    torch.manual_seed(0)
    values = {"name": "cgan", **columns(image(*shape), label=LABEL), **SMALL, **keys}
    return ConditionalGAN(ConditionalGAN.Config.model_validate(values))


def told(*labels: int) -> genhub.Conditions:
    """The conditions of rows that are told these labels."""
    return genhub.Conditions({"label": torch.tensor(labels)}, {"label": torch.ones(len(labels), dtype=torch.bool)})


def batch(labels=(0, 1, 2, 2), shape=(1, 8, 8)) -> genhub.Batch:
    x = torch.rand(len(labels), *shape, generator=torch.Generator().manual_seed(1)) * 2 - 1
    return genhub.Batch(x, told(*labels))


def cgan(tiny: dict, **model) -> dict:
    tiny["model"] = {"name": "cgan", "conditions": ["label"], **SMALL, **model}
    return tiny


def test_the_game_is_the_gans_own():
    """Nothing of it is copied or replaced: a conditional GAN says that it is given something, and no more."""
    own = {name for name in vars(ConditionalGAN) if not name.startswith("_")}
    assert own == {"Config"}
    assert ConditionalGAN.discriminator_loss is GAN.discriminator_loss
    assert ConditionalGAN.sample is GAN.sample


# Networks


def test_projection_is_an_inner_product_with_the_labels_vector():
    """Miyato & Koyama 2018: C(x, y) - C(x, y') = (v_y - v_y') . phi(x)."""
    torch.manual_seed(0)
    network = Discriminator(GIVEN, (1, 8, 8), ResidualConfig(channels=(4, 8)))
    features = []
    network.to_logit.register_forward_hook(lambda module, inputs, output: features.append(inputs[0]))
    x = torch.randn(5, 1, 8, 8)
    a, b = (network(x, told(*[label] * 5)) for label in (2, 0))
    vectors = network.class_vectors.weight
    torch.testing.assert_close(a - b, features[0] @ (vectors[2] - vectors[0]))
    with torch.no_grad():
        vectors.zero_()
    plain = Discriminator({}, (1, 8, 8), ResidualConfig(channels=(4, 8)))
    plain.load_state_dict({k: v for k, v in network.state_dict().items() if k != "class_vectors.weight"})
    assert torch.equal(plain(x), network(x, told(1, 1, 1, 1, 1)))


def test_concatenation_is_planes_beside_the_image_and_one_hot_beside_the_noise():
    torch.manual_seed(0)
    network = Discriminator(GIVEN, (2, 8, 8), ResidualConfig(channels=(4, 8)), "concatenation")
    seen = []
    network.from_image.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    x = torch.randn(2, 2, 8, 8)
    network(x, told(2, 0))
    assert torch.equal(seen[0][:, :2], x)
    assert seen[0][:, 2:].mean((2, 3)).tolist() == [[0, 0, 1], [1, 0, 0]]
    generator = Generator(GIVEN, (2, 8, 8), 4, ResidualConfig(channels=(4, 8)), "concatenation")
    generator.from_noise.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    generator(torch.zeros(2, 4), told(1, 2))
    assert seen[1].tolist() == [[0, 0, 0, 0, 0, 1, 0], [0, 0, 0, 0, 0, 0, 1]]


@pytest.mark.parametrize("conditioning", CONDITIONINGS)
def test_labels_change_what_is_drawn_and_how_it_is_judged(conditioning):
    model = make(conditioning=conditioning).eval()
    noise, x = torch.randn(2, 4), batch((0, 0)).x
    zeros, ones = told(0, 0), told(1, 1)
    assert (model.generator(noise, zeros) - model.generator(noise, ones)).abs().max() > 1e-4
    assert (model.discriminator(x, zeros) - model.discriminator(x, ones)).abs().max() > 1e-4


@pytest.mark.parametrize("conditioning", CONDITIONINGS)
def test_a_row_without_its_label_has_zeros_in_the_labels_place(conditioning):
    """Whatever label stands there; a projection is then psi(phi(x)) alone."""
    model, x, seen = make(conditioning=conditioning).eval(), batch((0, 0)).x, []
    model.generator.from_noise.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    missing = genhub.Conditions({"label": torch.tensor([2, 0])}, {"label": torch.tensor([False, True])})
    model.generator(torch.ones(2, 4), missing)
    assert (seen[0][0, 4:] == 0).all()
    assert (seen[0][1, 4:] != 0).any()
    logits = model.discriminator(x, missing)
    alone = model.discriminator(x[:1], genhub.Conditions.nothing(model.conditions, 1))
    assert torch.allclose(logits[:1], alone, atol=1e-6)  # not its bits, which hang on the batch
    assert (model.sample(2) - model.sample(2, conditions=told(0, 1))).abs().max() > 1e-4
    if conditioning == "projection":
        model.discriminator.class_vectors.weight.data.zero_()
        torch.testing.assert_close(model.discriminator(x, missing), model.discriminator(x, told(1, 1)))


@pytest.mark.parametrize("conditioning", CONDITIONINGS)
@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32), (3, 7, 12)])
def test_any_size(shape, conditioning):
    model = make(shape, conditioning=conditioning, loss="relativistic")
    assert model.sample(2, conditions=told(0, 2)).shape == (2, *shape)
    model.discriminator_loss(batch((0, 1, 2), shape))["loss"].backward()
    model.generator_loss(batch((0, 1, 2), shape))["loss"].backward()
    assert all(p.grad is not None for p in model.parameters())


# Training


@pytest.mark.slow
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("conditioning", CONDITIONINGS)
def test_every_loss_trains_with_either_conditioning(tiny, conditioning, loss):
    tiny["trainer"] |= {"max_steps": 2, "mixed_precision": "bf16", "log_every": 1}
    folder = genhub.train(cgan(tiny, conditioning=conditioning, loss=loss, penalty_interval=2))
    assert genhub.sample(folder, 2, conditions={"label": [9, 0]}).shape == (2, 1, 8, 8)
    assert {"discriminator/loss", "generator/loss", "penalty/loss"} <= metrics(Path(tiny["run_dir"]))[0].keys()


@pytest.mark.slow
@pytest.mark.parametrize("conditioning", CONDITIONINGS)
def test_resume_is_exact(tiny, tmp_path, conditioning):
    cgan(tiny, conditioning=conditioning, loss="relativistic", penalty_interval=2)
    whole = genhub.train(tiny, run_dir=str(tmp_path / "whole"))
    genhub.train(tiny, ["trainer.max_steps=3"], run_dir=str(tmp_path / "parts"))
    parts = genhub.train(tiny, run_dir=str(tmp_path / "parts"))
    same_bits(whole, parts)


# Sampling


@pytest.mark.parametrize("conditioning", CONDITIONINGS)
def test_saved_and_loaded_it_draws_the_same_bits(tmp_path, conditioning):
    model = make(conditioning=conditioning).eval()
    model.save_pretrained(tmp_path / "model")
    again = genhub.load(tmp_path / "model")
    labels = told(2, 0, 1)
    a, b = (m.sample(3, conditions=labels, generator=torch.Generator().manual_seed(3)) for m in (model, again))
    assert torch.equal(a, b)
    assert a.shape == (3, 1, 8, 8)


def test_an_image_is_its_generators_and_its_labels_alone():
    model = make().eval()
    generators = lambda: [torch.Generator().manual_seed(i) for i in range(3)]  # noqa: E731
    a = model.sample(3, conditions=told(2, 0, 1), generator=generators())
    alone = model.sample(1, conditions=told(0), generator=generators()[1:2])
    torch.testing.assert_close(alone[0], a[1], atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("conditions", "message"),
    [(genhub.Conditions(), "this model is given label, not nothing"), (told(0, 1, 2), "of 3 rows, for 2 to draw")],
)
def test_conditions_of_others_are_refused(conditions, message):
    with pytest.raises(ValueError, match=message):
        make().sample(2, conditions=conditions)


def test_labels_that_it_does_not_have_are_refused(tmp_path):
    make().save_pretrained(tmp_path / "m")
    for label in (3, -1):
        with pytest.raises(genhub.InputError, match=f"label: .*{label}"):
            genhub.sample(tmp_path / "m", 2, conditions={"label": [label]})
    assert len(genhub.sample(tmp_path / "m", 4)) == 4  # every class in turn


def test_a_conditional_gan_is_given_something(tiny, tmp_path):
    with pytest.raises(ValueError, match="conditions"):
        make(conditions=[])
    with pytest.raises(genhub.RecipeError, match="model.conditions"):
        genhub.train(tiny | {"model": {"name": "cgan", **SMALL}})
    from PIL import Image

    (tmp_path / "plain").mkdir()
    for index in range(20):
        Image.fromarray(np.full((8, 8), index, np.uint8)).save(tmp_path / "plain" / f"{index}.png")
    with pytest.raises(genhub.GenhubError, match="label"):
        genhub.train(cgan(tiny), [f"data.name={tmp_path / 'plain'}"])


def test_what_format_1_stored_is_given_its_labels():
    stored = {"name": "cgan", "sample_shape": [1, 8, 8], "num_classes": 3, "conditioning": "projection", **SMALL}
    keys = ConditionalGAN.Config.from_format_1(stored, {"class_names": ["a", "b", "c"]})
    model = ConditionalGAN(ConditionalGAN.Config.model_validate(keys))
    assert (model.shape, model.conditions["label"].names) == ((1, 8, 8), ("a", "b", "c"))
    assert model.state_dict().keys() == make().state_dict().keys()


# The page and the recipe


def test_the_page_names_what_there_is():
    page = (DOCS / "cgan.md").read_text()
    for word in [*CONDITIONINGS, "class_vectors", "to_logit"]:
        assert f"`{word}`" in page, word
    assert (DOCS.parent / "images" / "digits-cgan.png").stat().st_size > 1000


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_digits_recipe(tmp_path):
    from sklearn.datasets import load_digits
    from sklearn.svm import SVC

    with np.load(trained(tmp_path, "digits-cgan", 0, 600, "--condition", "label=0,1,2,3,4,5,6,7,8,9")) as arrays:
        images, labels = arrays["image"], arrays["label"]
    figures, digits = judge(images), load_digits()
    order = np.random.RandomState(0).permutation(len(digits.data))[: len(digits.data) * 2 // 3]
    classifier = SVC().fit(digits.data[order] / 16, digits.target[order])
    accuracy = (classifier.predict(images.reshape(len(images), -1) / 255) == labels).mean()
    assert figures["frechet"] <= 0.25, figures
    assert figures["smallest_class"] >= 0.04, figures
    assert figures["copies"] < 0.1, figures
    assert accuracy >= 0.98
