"""benchmarks/mnist.py: that its figures mean what they say, on real digits that a model only repeats."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import models
import pytest
import torch
from conftest import shared_data
from safetensors.torch import save_file

import genhub

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(scope="module")
def court(tmp_path_factory) -> Iterator:
    """A judge that has seen 6,000 digits for two epochs: a few seconds, and 97% right."""
    folder = shared_data("mnist")
    sys.path.insert(0, str(BENCHMARKS))
    import mnist

    weights = tmp_path_factory.mktemp("judge") / "judge.safetensors"
    save_file(mnist.train_judge(*mnist.split(str(folder), "train[:6000]"), epochs=2).state_dict(), weights)
    yield mnist.Court(str(folder), weights)
    sys.path.remove(str(BENCHMARKS))


AT_ONCE = {"batch_size": 200}  # each batch of `Repeats` starts over


class Repeats(genhub.GenerativeModel):
    """Draws the real digits that it was given, in turn; a conditional one those of the label, moved on by `shift`."""

    class Config(genhub.ModelConfig):
        shift: int = 0

    def __init__(self, config, images, labels=None):
        super().__init__(config)
        self.images, self.labels = torch.nn.Parameter(images), labels

    def phases(self):
        return []

    def sample(self, n, *, conditions=None, generator=None):
        if not self.conditions:
            return self.images[:n]
        labels = (self.conditions_of(n, conditions).values["label"] + self.config.shift) % 10
        return self.images[torch.cat([torch.nonzero(self.labels == label)[at // 10] for at, label in enumerate(labels)])]


def repeats(court, conditional: bool, shift: int = 0) -> Repeats:
    data = models.images((1, 28, 28), classes=10 if conditional else 0)
    config = Repeats.Config(data=data, conditions=tuple(data.conditions), shift=shift)
    return Repeats(config, court.images, court.labels if conditional else None)


@pytest.mark.slow
def test_real_digits_are_read_as_their_labels(court):
    assert court.test_accuracy > 0.95
    right = court.figures(repeats(court, conditional=True), 200, 0, AT_ONCE)
    assert right["label_accuracy"] > 0.95
    assert sum(right["class_accuracy"]) / 10 == pytest.approx(right["label_accuracy"])
    assert court.figures(repeats(court, conditional=True, shift=1), 200, 0, AT_ONCE)["label_accuracy"] < 0.05


@pytest.mark.slow
def test_real_digits_are_as_near_to_real_ones_as_can_be(court):
    real = court.figures(repeats(court, conditional=False), 200, 0, AT_ONCE)
    assert sum(real["class_shares"]) == pytest.approx(1)
    assert min(real["class_shares"]) > 0.02
    assert real["sure"] > 0.5
    assert real["frechet"] == pytest.approx(real["frechet_real"], rel=0.5)
    one = Repeats(Repeats.Config(data=models.images((1, 28, 28))), court.images[:1].repeat(200, 1, 1, 1))
    collapsed = court.figures(one, 200, 0, AT_ONCE)
    assert max(collapsed["class_shares"]) == 1
    assert collapsed["frechet"] > 5 * real["frechet"]
    assert collapsed["frechet_pixels"] > 5 * real["frechet_pixels"]


@pytest.mark.slow
def test_frechet_is_its_formula(court):
    import mnist

    a = torch.randn(4000, 5, generator=torch.Generator().manual_seed(0))
    assert mnist.frechet(a, a) == pytest.approx(0, abs=1e-6)
    assert mnist.frechet(a, a + 2) == pytest.approx(5 * 2**2)
    assert mnist.frechet(a - a.mean(0), 3 * (a - a.mean(0))) == pytest.approx(4 * a.var(0).sum().item(), rel=1e-4)


@pytest.mark.slow
def test_autoencoding_and_nats(court):
    class Copies(Repeats):
        encode = decode = staticmethod(lambda images, conditions=None: images)

        def bits_per_dimension(self, batch, *, generator=None):
            return (batch.x > 0).float().mean((1, 2, 3))

    model = Copies(Copies.Config(data=models.images((1, 28, 28))), court.images)
    assert court.reconstructed(model) == {"mse": 0, "label_accuracy": pytest.approx(court.test_accuracy)}
    nats, white = court.nats(model, 600, seed=0), (court.images[:600] > 0).float().sum((1, 2, 3)).mean().item()
    assert nats["grey"] == pytest.approx(white * 0.6931, rel=1e-3)
    assert nats["binarised"] == pytest.approx(nats["grey"], rel=0.05)
    assert nats["binarised"] != nats["grey"]
