"""A small model that keeps the contract, and others that each break one rule of it: what `genhub.testing` must find."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from genhub import (
    Batch,
    DenoisingStep,
    FrozenEncoder,
    GenerativeModel,
    InputError,
    ModelConfig,
    Phase,
    load_strictly,
    randn,
    save_tensors,
)


class Net(nn.Module):
    """Latents (n, 4) to pixels (n, size)."""

    def __init__(self, hidden: int, size: int) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, hidden), nn.Linear(hidden, size)

    def forward(self, latents):
        return self.last(torch.tanh(self.first(latents)))


class Sound(GenerativeModel):
    """Moves noise towards the data's mean image, for each label its own if it is conditional."""

    class Config(ModelConfig):
        hidden: int = 16

    def __init__(self, config) -> None:
        super().__init__(config)
        self.labels = nn.Embedding(1 + sum(modality.classes for modality in self.conditions.values()), 4)
        self.net = Net(config.hidden, math.prod(self.shape))

    def phases(self):
        return [Phase("fit", self.loss, trains=("net", "labels"))]

    def loss(self, batch):
        labels = self.numbers(len(batch), batch.conditions)
        images = self.net(torch.randn(len(labels), 4) + self.labels(labels))
        return {"loss": (images.view_as(batch.x) - batch.x).square().mean()}

    def sample(self, n, *, conditions=None, generator=None, scale: float = 1.0):
        labels = self.numbers(n, self.conditions_of(n, conditions))
        return self.picture(scale * randn((n, 4), generator, self.device) + self.labels(labels))

    def numbers(self, n, conditions):
        """0 for a row without a label, or for all; else 1 and more."""
        if not self.conditions:
            return torch.zeros(n, dtype=torch.int64)
        return (conditions.values["label"] + 1) * conditions.present["label"]

    def picture(self, latents):
        return self.net(latents).view(-1, *self.shape).clamp(-1, 1)


class Conditional(Sound):
    class Config(Sound.Config):
        conditions: tuple[str, ...] = ("label",)


# What breaks before anything is trained


class NoDefault(Sound):
    class Config(ModelConfig):
        hidden: int


class SuitsNobody(Sound):
    class Config(Sound.Config):
        @classmethod
        def suited(cls, data, means):
            return {"model.hiden": 64} if means.accelerator else {}


class Misnamed(Sound):
    def phases(self):
        return [Phase("fit", self.loss, trains=("net", "lables"))]


class NotScalar(Sound):
    def loss(self, batch):
        return {"loss": super().loss(batch)["loss"].expand(2)}


class NotFinite(Sound):
    def loss(self, batch):
        return {"loss": super().loss(batch)["loss"] / 0}


class InPlace(Sound):
    def loss(self, batch):
        batch.x.add_(0.1)
        return super().loss(batch)


class Undecided(Sound):
    """Its frozen network draws something of its own."""

    def __init__(self, config) -> None:
        super().__init__(config)
        self.frozen = nn.Linear(1, 1).requires_grad_(False)

    def frozen_encoder(self):
        return FrozenEncoder(lambda images: images + torch.rand(()), self.frozen)

    def loss(self, batch):
        return super().loss(Batch(batch.cached.get("latents", batch.x)))


# Gradients


class Unreached(Sound):
    def __init__(self, config) -> None:
        super().__init__(config)
        self.labels.unused = nn.Linear(3, 3)


class Stray(Sound):
    """A parameter of the model itself, which no phase can name."""

    def __init__(self, config) -> None:
        super().__init__(config)
        self.gain = nn.Parameter(torch.ones(()))

    def loss(self, batch):
        return {"loss": self.gain * super().loss(batch)["loss"]}


class Uphill(Sound):
    def loss(self, batch):
        loss = super().loss(batch)["loss"]
        return {"loss": 2 * loss.detach() - loss}


class NoBF16(Sound):
    """The logarithm of what float32 can tell from 0, and bfloat16 can't."""

    def loss(self, batch):
        logits = self.net(torch.randn(len(batch.x), 4)) + 10
        return {"loss": super().loss(batch)["loss"] - 1e-6 * (1 - logits.sigmoid()).log().mean()}


class NotCompiled(Sound):
    """A penalty on a gradient through a network that may be compiled: a second derivative."""

    def loss(self, batch):
        latents = torch.randn(len(batch.x), 4).requires_grad_()
        (gradient,) = torch.autograd.grad(self.net(latents).sum(), latents, create_graph=True)
        return {"loss": super().loss(batch)["loss"] + 0.01 * gradient.square().mean()}


# Samples


class OutOfRange(Sound):
    def picture(self, latents):
        return 3 + self.net(latents).view(-1, *self.shape)


class NoAnnotation(Sound):
    def sample(self, n, *, conditions=None, generator=None, scale=1.0):
        return super().sample(n, conditions=conditions, generator=generator)


class GlobalNoise(Sound):
    def sample(self, n, *, conditions=None, generator=None):
        return self.picture(torch.randn(n, 4))


class OwnSeed(Sound):
    def sample(self, n, *, conditions=None, generator=None):
        return self.picture(torch.randn(n, 4, generator=torch.Generator().manual_seed(0)))


class OverTheBatch(Sound):
    def picture(self, latents):
        return super().picture(latents - latents.mean(0))


class AnyRows(Conditional):
    """Takes the conditions of other rows than those it draws."""

    def sample(self, n, *, conditions=None, generator=None):
        given = self.conditions_of(n, None if conditions is None else conditions.rows(slice(0, n)))
        return self.picture(randn((n, 4), generator, self.device) + self.labels(self.numbers(n, given)))


class SameForAllLabels(Conditional):
    def sample(self, n, *, conditions=None, generator=None):
        self.conditions_of(n, conditions)
        return self.picture(randn((n, 4), generator, self.device))


class ZeroForNone(Conditional):
    """Draws label 0 where it is given nothing."""

    def numbers(self, n, conditions):
        return conditions.values["label"] + 1

    def sample(self, n, *, conditions=None, generator=None):
        rows = torch.arange(n) if conditions is None else self.numbers(n, self.conditions_of(n, conditions))
        return self.picture(randn((n, 4), generator, self.device) + self.labels(rows))


class BoundToTheOriginal(Sound):
    def __init__(self, config) -> None:
        super().__init__(config)
        self.draw = lambda latents: self.net(latents)  # copied with the model, it goes on to use the original's network

    def picture(self, latents):
        return self.draw(latents).view(-1, *self.shape).clamp(-1, 1)


# What else it can do


class EnergyOfTheBatch(Sound):
    def energy(self, x, conditions=None):
        return (x - x.mean(0)).flatten(1).square().sum(1)


class OneEnergy(Sound):
    def energy(self, x, conditions=None):
        return x.square().mean()


class NoEnergyHere(Sound):
    def energy(self, x, conditions=None):
        raise InputError("this one has none")


class EndlessBits(Sound):
    def bits_per_dimension(self, batch, *, generator=None):
        return -batch.x.flatten(1).min(1).values.add(1).log2()  # a black pixel can't be


class CodesFromOne(Sound):
    num_codes = 2
    code_shape = (64,)

    def encode(self, x, conditions=None):
        return x.flatten(1)

    def decode(self, latents, conditions=None):
        return latents.view(-1, *self.shape)

    def encode_codes(self, x, conditions=None):
        return 1 + (x.flatten(1) > 0).long()

    def decode_codes(self, codes, conditions=None):
        return self.decode(codes - 1.0)


class Denoises(Sound):
    num_train_timesteps = 10

    def add_noise(self, x, noise, timesteps):
        share = ((timesteps + 1) / 10).view(-1, 1, 1, 1)
        return (1 - share) * x + share * noise

    def predict_x0(self, x_t, timesteps, conditions=None):
        return x_t

    def signal_to_noise(self, timesteps):
        return (9.0 - timesteps) ** 2

    def denoise(self, n, *, conditions=None, generator=None, scale: float = 1.0):
        x = self.sample(n, conditions=conditions, generator=generator, scale=scale)
        yield DenoisingStep(0, 9, x, x)


class StopsBeforeTheEnd(Denoises):
    def denoise(self, n, *, conditions=None, generator=None, scale: float = 1.0):
        for step in super().denoise(n, conditions=conditions, generator=generator, scale=scale):
            yield replace(step, sample=step.sample / 2)


class OtherOptions(Denoises):
    def denoise(self, n, *, conditions=None, generator=None):
        yield from super().denoise(n, conditions=conditions, generator=generator)


class MoreNoiseMoreSignal(Denoises):
    def signal_to_noise(self, timesteps):
        return timesteps.float()


# Runs and checkpoints


class Gathers(Sound):
    """What is saved is gathered by attributes, which a buffer that was moved does not follow."""

    def __init__(self, config) -> None:
        super().__init__(config)
        self.shift = nn.Buffer(torch.zeros(()))

    def all_of_it(self):
        rest = nn.Module()
        rest.net, rest.labels, rest.shift = self.net, self.labels, self.shift
        return rest

    def save_networks(self, path):
        save_tensors(self.all_of_it().state_dict(), path / "model.safetensors")

    def load_networks(self, path):
        load_strictly(self.all_of_it(), path / "model.safetensors")


class Forgets(Sound):
    """What training leaves in an attribute is not part of a checkpoint."""

    shift = 0.0

    def loss(self, batch):
        self.shift = 0.1 * batch.x.mean().item()
        return super().loss(batch)

    def picture(self, latents):
        return (self.net(latents).view(-1, *self.shape) + self.shift).clamp(-1, 1)


class Pickles(Sound):
    def save_networks(self, path: Path) -> None:
        super().save_networks(path)
        torch.save(self.state_dict(), path / "model.pt")


class CountsInAnAttribute(Sound):
    calls = 0

    def loss(self, batch):
        self.calls += 1
        return {"loss": super().loss(batch)["loss"] * (1 + self.calls % 3)}


class PullsWeights(Sound):
    """Moves weights by what this process's part of the batch says."""

    def loss(self, batch):
        with torch.no_grad():
            self.net.last.bias.add_(0.01 * batch.x.mean())
        return super().loss(batch)
