"""Extragradient training (Gidel et al. 2019, arXiv:1802.10551, algorithm 4: ExtraAdam).

Gradient steps chase each other in circles around the balance of a game such as a GAN. Extragradient first looks ahead: it
takes a step with all networks at once, computes the gradients there, and applies those to where it came from. A step thus
needs two gradients and moves all networks together, which phases can't say, so it is a Trainer.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from genhub import Batch, Model, Phase, Trainer, TrainerConfig, TrainerState, TrainingData, seed_for

Decay = Annotated[float, Field(ge=0, lt=1)]


class MyTrainer(Trainer):
    """Trainer of any model by extragradient steps with Adam, in one process."""

    class Config(TrainerConfig):
        # A recipe's keys under `trainer`; max_steps, log_every, sample_every, save_every and others are there already.
        lr: Annotated[float, Field(gt=0)] = 1e-3
        """Learning rate of both halves of a step."""
        betas: tuple[Decay, Decay] = (0.0, 0.99)
        """Adam's decay rates of its two averages."""
        ema_decay: Decay = 0.995
        """Decay of the averaged weights, which sample and are exported."""

    config: Config

    def fit(self, model: Model, data: TrainingData) -> Path:
        """Train to `max_steps`, from the newest checkpoint if there is one; return the last one."""
        config = self.config
        accelerator = torch.accelerator.current_accelerator(check_available=True) if config.device == "auto" else None
        device = accelerator or torch.device("cpu")
        phases = model.phases()
        model.to(device).train()
        optimizer = torch.optim.Adam(model.parameters(), lr=config.lr, betas=config.betas)
        average = copy.deepcopy(model)

        # What a stopped run needs to go on: all that `save` writes. The order of data and the noise are functions of the
        # step's number, so nothing has to be kept of them.
        start = 0
        stopped = self.run.stopped_run(data)
        if stopped:
            if stopped.step >= config.max_steps:
                return stopped.folder
            start = stopped.step
            model.load_state_dict(stopped.state.tensors["weights"])
            average.load_state_dict(stopped.state.tensors["average"])
            load_moments(optimizer, stopped.state.tensors["optimizer"])

        batches = data.batches(seed=self.run.seed, start_step=start, device=device)
        log = self.run.log(data, start)
        with contextlib.closing(log):
            self.run.evaluate(start, average)  # what a stop may have left out
            for step in range(start, config.max_steps):
                torch.manual_seed(seed_for(self.run.seed, 0, step))
                batch, now = next(batches), [phase for phase in phases if step % phase.interval == 0]
                here = [parameter.detach().clone() for parameter in model.parameters()]
                gradients(model, now, batch)
                optimizer.step()  # look ahead, to where the networks would go
                losses = gradients(model, now, batch)
                with torch.no_grad():
                    for parameter, value in zip(model.parameters(), here, strict=True):
                        parameter.copy_(value)
                optimizer.step()  # and go from here by the gradients found there
                follow(average, model, min(config.ema_decay, (1 + step) / (10 + step)))
                model.after_update(step)

                done = step + 1
                last = done == config.max_steps
                for name, values in losses.items():
                    log.add(step, name, values)
                log.progress.advance(done)
                if done % config.log_every == 0 or last:
                    log.write(done, {"lr": config.lr})
                if config.sample_every and (done % config.sample_every == 0 or last):
                    self.run.save_preview(done, average)
                if done % config.save_every == 0 or last:
                    log.check_finite()
                    tensors = {
                        "weights": model.state_dict(),
                        "average": average.state_dict(),
                        "optimizer": moments(optimizer),
                    }
                    folder = self.run.save_checkpoint(done, average, data, TrainerState(tensors))
                    self.run.evaluate(done, average)
        return folder


def gradients(model: Model, phases: Sequence[Phase], batch: Batch) -> dict[str, Mapping[str, Tensor]]:
    """Compute each parameter's gradient from the phases that train it; return the losses. Adam leaves the others alone."""
    losses = {}
    model.zero_grad()
    for phase in phases:
        losses[phase.name] = model(batch, phase.name)
        trained = [parameter for name in phase.trains for parameter in getattr(model, name).parameters()]
        torch.autograd.backward(losses[phase.name]["loss"], inputs=trained)
    return losses


@torch.no_grad()
def follow(average: Model, model: Model, decay: float) -> None:
    """Move averaged weights towards a model's; what is no weight, such as a counter, is copied."""
    for mean, value in zip(average.state_dict().values(), model.state_dict().values(), strict=True):
        mean.lerp_(value, 1 - decay) if mean.is_floating_point() else mean.copy_(value)


def moments(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return Adam's state as named tensors, which a checkpoint can hold."""
    return {f"{i}.{key}": value for i, state in optimizer.state_dict()["state"].items() for key, value in state.items()}


def load_moments(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Load Adam's state from the named tensors of `moments`."""
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        index, key = name.split(".")
        state.setdefault(int(index), {})[key] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
