"""DiLoCo (Douillard et al. 2023, arXiv:2311.08105): processes that train alone most of the time.

Each process has a copy of the model and an AdamW of its own. Every `inner_steps` steps the processes average how far they
have moved from where they began together; an outer SGD with Nesterov momentum takes that mean for a gradient, and all copies
go on from its weights. No gradient is sent in between, which an optimizer of the built-in trainer can't say.
"""

from __future__ import annotations

import contextlib
import copy
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor
from torch.optim import SGD, AdamW, Optimizer

from genhub import (
    Batch,
    Interrupted,
    Model,
    PositiveInt,
    RecipeError,
    RunLog,
    Share,
    StoppedRun,
    Together,
    Trainer,
    TrainerConfig,
    TrainerState,
    TrainingData,
    seed_for,
)

Rate = Annotated[float, Field(gt=0)]
Tensors = dict[str, Tensor]


class DiLoCo(Trainer):
    """Trains any model in any number of processes that talk once in `inner_steps` steps."""

    class Config(TrainerConfig):
        inner_steps: PositiveInt = 25
        """Steps that each process takes alone, a round; the run's last round may be shorter."""
        lr: Rate = 1e-3
        """Learning rate of each process's AdamW."""
        weight_decay: Annotated[float, Field(ge=0)] = 0.01
        """Of each process's AdamW."""
        outer_lr: Rate = 0.7
        """Learning rate of the outer step, with which the weights follow the processes."""
        outer_momentum: Annotated[float, Field(gt=0, lt=1)] = 0.9
        """Nesterov momentum of the outer step."""

    config: Config

    def fit(self, model: Model, data: TrainingData) -> Path:
        """Train to `max_steps`, from the newest checkpoint if there is one; returns the last one."""
        config, run, together = self.config, self.run, self.run.together
        stopped = run.stopped_run(data)
        start = stopped.step if stopped else 0
        copies = Copies(model.to(together.device).train(), config, together)
        if stopped and start >= config.max_steps:
            run.evaluate(start, copies.shared)  # which a stop may have left out
            return stopped.folder
        share = Share(together.rank, together.world_size)
        log = run.log(data, start)
        position = restore(copies, log, stopped) if stopped else None
        batches = data.batches(share, seed=run.seed, start_step=start, device=together.device, state=position)

        with contextlib.closing(log), Signals() as signals:
            if stopped:
                run.evaluate(start, copies.shared)
            for step in range(start, config.max_steps):
                torch.manual_seed(seed_for(run.seed, together.rank, step))
                copies.inner_step(step, next(batches), log)
                done = step + 1
                last = done == config.max_steps
                round_ends = done % config.inner_steps == 0 or last
                if round_ends:
                    copies.outer_step()
                stopping = round_ends and signals.seen_by_any(together)

                log.progress.advance(done)
                if done % config.log_every == 0 or last:
                    write_line(log, done, {"lr": config.lr}, together)
                if config.sample_every and (done % config.sample_every == 0 or last):
                    run.save_preview(done, copies.shared)
                if done % config.save_every == 0 or last or stopping:
                    log.check_finite()
                    folder = run.save_checkpoint(done, copies.shared, data, state_of(copies, log, data.state(done)))
                    if not stopping:  # it may take long; when the run goes on, it is made up for
                        run.evaluate(done, copies.shared)
                if stopping and not last:
                    raise Interrupted(f"stopped at step {done}; the same command goes on from there", signals.number)
        return folder


class Copies:
    """The model that the processes share, as it was when they last talked, and this one's own copy of it."""

    def __init__(self, model: Model, config: DiLoCo.Config, together: Together) -> None:
        self.own, self.shared, self.together = model, copy.deepcopy(model), together
        self.phases = model.phases()
        trained = {name for phase in self.phases for name in phase.trains}
        names = [name for name, _ in model.named_parameters() if name.split(".")[0] in trained]
        mine, theirs = dict(model.named_parameters()), dict(self.shared.named_parameters())
        self.pairs = [(mine[name], theirs[name]) for name in names]
        self.inner = [
            AdamW(parameters_of(model, phase.trains), lr=config.lr, weight_decay=config.weight_decay)
            for phase in self.phases
        ]
        self.outer = SGD([theirs[name] for name in names], config.outer_lr, config.outer_momentum, nesterov=True)

    def inner_step(self, step: int, batch: Batch, log: RunLog) -> None:
        """Update this process's copy by its part of a batch, each phase that is due in order."""
        for phase, optimizer in zip(self.phases, self.inner, strict=True):
            if step % phase.interval == 0:
                optimizer.zero_grad()
                losses = self.own(batch, phase.name)
                torch.autograd.backward(losses["loss"], inputs=parameters_of(self.own, phase.trains))
                optimizer.step()
                log.add(step, phase.name, losses)

    @torch.no_grad()
    def outer_step(self) -> None:
        """Move the shared weights towards the processes' mean, and have all copies go on from there."""
        for mine, theirs in self.pairs:
            theirs.grad = theirs - self.together.mean(mine.detach())
        self.outer.step()
        for mine, theirs in self.pairs:
            mine.copy_(theirs)
        for buffer, common in zip(self.own.buffers(), self.shared.buffers(), strict=True):
            common.copy_(self.together.mean(buffer) if buffer.is_floating_point() else buffer)
            buffer.copy_(common)

    def tensors(self) -> tuple[Tensors, Tensors]:
        """Return what changes in training: what the processes share, and what is this one's own."""
        own = {f"model.{name}": tensor for name, tensor in self.own.state_dict().items()}
        for index, optimizer in enumerate(self.inner):
            own |= {f"{index}.{name}": tensor for name, tensor in moments(optimizer).items()}
        shared = {f"model.{name}": tensor for name, tensor in self.shared.state_dict().items()}
        return shared | {f"outer.{name}": tensor for name, tensor in moments(self.outer).items()}, own

    def load(self, shared: Tensors, own: Tensors) -> None:
        """The inverse of `tensors`."""
        self.shared.load_state_dict(within("model", shared))
        load_moments(self.outer, within("outer", shared))
        self.own.load_state_dict(within("model", own))
        for index, optimizer in enumerate(self.inner):
            load_moments(optimizer, within(str(index), own))


# To a checkpoint and back: the first process writes, so it is given what is the others' own


def state_of(copies: Copies, log: RunLog, position: dict[str, Any]) -> TrainerState:
    """Return all that a stopped run needs: of each process its tensors, its losses since the last line, its place in the
    data. The noise is a function of the step's number, and so is nothing to keep."""
    log.fetch()
    shared, own = copies.tensors()
    together = copies.together
    stacked = {name: together.gather(tensor[None]) for name, tensor in own.items()}
    values = {"processes": together.collect({"entries": log.entries, "position": position}), "seconds": log.seconds}
    return TrainerState({"shared": shared, "own": stacked}, values)


def restore(copies: Copies, log: RunLog, stopped: StoppedRun) -> dict[str, Any]:
    """Go back to where a stopped run was; returns this process's place in the data."""
    processes, rank = stopped.state.values["processes"], copies.together.rank
    if len(processes) != copies.together.world_size:
        raise RecipeError(
            f"trainer.name: diloco: {stopped.folder} is of {len(processes)} processes, each with weights of its own; go on "
            f"with --num-processes {len(processes)}"
        )
    own = {name: tensor[rank] for name, tensor in stopped.state.tensors["own"].items()}
    copies.load(stopped.state.tensors["shared"], own)
    log.entries = [(step, phase, losses) for step, phase, losses in processes[rank]["entries"]]
    log.seconds_before = stopped.state.values["seconds"]
    position: dict[str, Any] = processes[rank]["position"]
    return position


def moments(optimizer: Optimizer) -> Tensors:
    """Return an optimizer's state as named tensors, which a checkpoint can hold."""
    state = optimizer.state_dict()["state"]
    return {f"{i}.{key}": value for i, values in state.items() for key, value in values.items() if value is not None}


def load_moments(optimizer: Optimizer, tensors: Tensors) -> None:
    """The inverse of `moments`."""
    state: dict[int, Tensors] = {}
    for name, tensor in tensors.items():
        index, key = name.split(".")
        state.setdefault(int(index), {})[key] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def within(prefix: str, tensors: Tensors) -> Tensors:
    """Return the tensors whose names begin with a prefix and a dot, by the rest of their names."""
    return {name[len(prefix) + 1 :]: tensor for name, tensor in tensors.items() if name.startswith(f"{prefix}.")}


def parameters_of(model: Model, networks: tuple[str, ...]) -> list[Tensor]:
    """Return the parameters of some of a model's networks that can be trained."""
    return [p for name in networks for p in getattr(model, name).parameters() if p.requires_grad]


def write_line(log: RunLog, step: int, values: Mapping[str, float], together: Together) -> None:
    """Write a line of metrics.jsonl, with the processes' mean losses since the last one."""
    log.check_finite()
    means, log.entries = log.means(), []
    if means:
        losses = together.mean(torch.tensor(list(means.values())))
        log.line(step, values, dict(zip(means, losses.tolist(), strict=True)))


class Signals:
    """Remembers SIGINT or SIGTERM until the processes talk; the second one acts at once, as if nobody listened."""

    def __init__(self) -> None:
        self.number = 0
        self._old: dict[int, Any] = {}

    def __enter__(self) -> Signals:
        self._old = {number: signal.signal(number, self._remember) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)
        self._old = {}

    def _remember(self, number: int, frame: object) -> None:
        self.number = number
        self.__exit__()

    def seen_by_any(self, together: Together) -> bool:
        """Whether a signal has come to any process; all must ask in the same step."""
        self.number = max(together.collect(self.number))
        return self.number > 0
