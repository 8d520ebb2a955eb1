"""Small third-party models for the tests, as a stranger would write them; `module:Class` names them in recipes."""

from __future__ import annotations

import math
import os
import signal
import time
from pathlib import Path

import torch
from torch import nn

from genhub import GenerativeModel, Image, Label, ModelConfig, ModelData, Phase, randn


def images(shape: tuple[int, ...] = (1, 8, 8), classes: int = 0) -> ModelData:
    """8-bit images as what a model draws, and so many classes, named 0, 1, ..., as what it is given."""
    label = Label(number=classes, names=tuple(map(str, range(classes)))) if classes else None
    return ModelData(target=Image(shape=shape), conditions={"label": label} if label else {})


class Pair(GenerativeModel):
    """Two networks that alternate, as in a GAN: a generator moves noise to the data's mean, a critic tells real from
    fake. With batch normalisation (buffers), a lazy third phase and its own options."""

    class Config(ModelConfig):
        hidden: int = 8

    def __init__(self, config: Pair.Config) -> None:
        super().__init__(config)
        size = math.prod(self.shape)
        hidden = config.hidden
        self.generator = nn.Sequential(nn.Linear(4, hidden), nn.BatchNorm1d(hidden), nn.ReLU(), nn.Linear(hidden, size))
        self.critic = nn.Sequential(nn.Linear(size, hidden), nn.ReLU(), nn.Linear(hidden, 1))
        self.unused = nn.Linear(2, 2)  # trained by no phase

    def phases(self) -> list[Phase]:
        return [
            Phase("generator", self.generator_loss, trains=("generator",)),
            Phase("critic", self.critic_loss, trains=("critic",), ema=False),
            Phase("penalty", self.penalty, trains=("critic",), interval=2, ema=False),
        ]

    def fake(self, n: int) -> torch.Tensor:
        return self.generator(torch.randn(n, 4, device=self.device))

    def generator_loss(self, batch):
        return {"loss": -self.critic(self.fake(len(batch))).mean()}

    def critic_loss(self, batch):
        real = self.critic(batch.x.flatten(1))
        fake = self.critic(self.fake(len(batch)).detach())
        return {"loss": (1 - real).relu().mean() + (1 + fake).relu().mean(), "real": real.mean()}

    def penalty(self, batch):
        images = batch.x.flatten(1).requires_grad_()
        (gradient,) = torch.autograd.grad(self.critic(images).sum(), images, create_graph=True)
        return {"loss": gradient.square().sum(1).mean()}

    def sample(self, n, *, conditions=None, generator=None, scale: float = 1.0):
        noise = randn((n, 4), generator, self.device)
        return (scale * self.generator(noise)).tanh().view(n, *self.shape)


class Labelled(Pair):
    """Draws the grey of its label: needs `conditions: [label]`."""

    def sample(self, n, *, conditions=None, generator=None):
        labels = self.conditions_of(n, conditions).values["label"]
        return (labels / (self.conditions["label"].classes - 1) * 2 - 1).view(-1, 1, 1, 1).expand(-1, *self.shape)


class Explodes(Pair):
    """Its loss is not a number from the fourth step on."""

    def __init__(self, config) -> None:
        super().__init__(config)
        self.register_buffer("step", torch.zeros(()), persistent=True)

    def generator_loss(self, batch):
        self.step += 1
        losses = super().generator_loss(batch)
        return {"loss": losses["loss"] * (float("nan") if self.step > 4 else 1.0)}


class Spikes(Pair):
    """Its loss is not a number in some steps, which the step's own randomness chooses; batch normalisation sees it, too."""

    class Config(Pair.Config):
        share: float = 0.3

    def generator_loss(self, batch):
        bad = torch.where(torch.rand(()) > 1 - self.config.share, torch.nan, 1.0)
        fakes = self.generator(bad * torch.randn(len(batch), 4, device=self.device))
        return {"loss": -self.critic(fakes).mean()}


class Steep(Pair):
    """A finite loss whose gradient is not."""

    def critic_loss(self, batch):
        return {"loss": (0 * self.critic(batch.x.flatten(1))).abs().sqrt().mean()}


class Overflows(Pair):
    """A finite loss and a finite gradient, with which a learning rate of 1e38 makes infinite weights."""

    def phases(self):
        return [Phase("critic", lambda batch: {"loss": 1e3 * self.critic[2].bias.sum()}, trains=("critic",))]


class Hungry(Pair):
    """Has memory for four rows at once."""

    def generator_loss(self, batch):
        if len(batch) > 4:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.\nand more lines")
        return super().generator_loss(batch)


class Wide(Pair):
    """Keeps 8 MiB a row for its gradient."""

    def critic_loss(self, batch):
        wide = self.critic(batch.x.flatten(1)).expand(-1, 2**21)
        return {"loss": wide.exp().mean()}


class Uncopied(Pair):
    """Keeps what it drew, with the graph by which it came about, which Python can't copy."""

    def fake(self, n: int) -> torch.Tensor:
        self.last = super().fake(n)
        return self.last


class Waits(Pair):
    """Stays in a step for a minute, while there is a file `wait` beside it, after making a file `waiting`."""

    def generator_loss(self, batch):
        if self.training and Path("wait").exists():
            Path("waiting").touch()
            for _ in range(600):  # Python looks for signals between; before a long sleep they would wait for its end
                time.sleep(0.1)
        return super().generator_loss(batch)


class Fit(Pair):
    """Nothing random in its loss."""

    def phases(self):
        return [Phase("critic", self.critic_loss, trains=("critic",))]

    def critic_loss(self, batch):
        return {"loss": (self.critic(batch.x.flatten(1)) - batch.x.flatten(1).mean(1)[:, None]).square().mean()}


class NoLoss(Pair):
    def generator_loss(self, batch):
        return {"lss": torch.zeros(())}


class WrongNetwork(Pair):
    def phases(self):
        return [Phase("generator", self.generator_loss, trains=("genrator",))]


class Overlap(Pair):
    def phases(self):
        return [
            Phase("a", self.generator_loss, trains=("generator",)),
            Phase("b", self.critic_loss, trains=("generator", "critic")),
        ]


class Halves(GenerativeModel):
    """An autoencoder: the means of 2x2 pixels, moved far away from mean 0 and deviation 1."""

    def __init__(self, config) -> None:
        super().__init__(config)
        self.gain = nn.ParameterList([torch.tensor(5.0)])

    def phases(self):
        return [Phase("fit", self.loss, trains=("gain",))]

    def loss(self, batch):
        return {"loss": (self.decode(self.encode(batch.x)) - batch.x).square().mean()}

    def sample(self, n, *, conditions=None, generator=None):
        return torch.zeros(n, *self.shape, device=self.device)

    def encode(self, x, conditions=None):
        return nn.functional.avg_pool2d(x, 2) * self.gain[0] + 30

    def decode(self, latents, conditions=None):
        return nn.functional.interpolate((latents - 30) / self.gain[0], scale_factor=2)


class Brightens(GenerativeModel):
    """Grey images, brighter with each step: nearest to the digits somewhere on the way from black to white."""

    def __init__(self, config) -> None:
        super().__init__(config)
        self.grey = nn.ParameterList([torch.full((1,), -1.0)])

    def phases(self):
        return [Phase("fit", lambda batch: {"loss": -self.grey[0].sum()}, trains=("grey",))]

    def sample(self, n, *, conditions=None, generator=None):
        noise = randn((n, *self.shape), generator, self.device)
        return (self.grey[0] + 0.1 * noise).clamp(-1, 1)


class Terminated(Pair):
    """Its process gets a SIGTERM in the third step."""

    def __init__(self, config) -> None:
        super().__init__(config)
        self.register_buffer("updates", torch.zeros(()))

    def generator_loss(self, batch):
        self.updates += 1
        if self.updates == 3:  # the check before step 0 leaves no trace
            os.kill(os.getpid(), signal.SIGTERM)
        return super().generator_loss(batch)


class KilledAfterEight(Brightens):
    """Its process is killed in the ninth step, where there is a file `kill` beside it, once what it has logged is written."""

    def __init__(self, config) -> None:
        super().__init__(config)
        self.register_buffer("updates", torch.zeros(()))

    def phases(self):
        return [Phase("fit", self.loss, trains=("grey",))]

    def loss(self, batch):
        if self.updates == 8 and Path("kill").exists():
            time.sleep(1.5)
            os.kill(os.getpid(), signal.SIGKILL)
        self.updates += self.training
        return {"loss": -self.grey[0].sum()}


class SlowToSave(Pair):
    """Takes a minute to be saved, all of it in torch, and says by a file that it has begun."""

    def save_networks(self, folder):
        Path("saving").touch()
        end = time.monotonic() + 60
        while time.monotonic() < end:
            torch.ones(100, 100) @ torch.ones(100, 100)
        super().save_networks(folder)
