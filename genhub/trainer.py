"""The loop: every model, one way. `AccelerateTrainer.fit` reads top to bottom; accelerate brings devices, processes,
precision and trackers, and genhub keeps order, randomness and state to itself, so that a stopped run goes on exactly."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.state import AcceleratorState
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers
from accelerate.utils import ProjectConfiguration, broadcast_object_list
from torch import Tensor

from genhub.checkpoint import (
    TrainerState,
    load_optimizer,
    load_state,
    newest_checkpoint,
    optimizer_tensors,
    save_checkpoint,
)
from genhub.config import TrainerConfig
from genhub.ema import EMA
from genhub.errors import Interrupted, RecipeError, TrainingError, did_you_mean
from genhub.interfaces import Batch, GenerativeModel, Phase, Trainer, TrainingData
from genhub.logs import RunLog, say, warn
from genhub.manifest import checkpoints, read_manifest
from genhub.optim import PhaseOptimizer, build_optimizers, check_phases, lr_factor, trained_parameters
from genhub.sampling import image_grid, sample_images
from genhub.seeds import seed_for


class AccelerateTrainer(Trainer):
    """Trains by phases, on one device or many. Its keys are `TrainerConfig`."""

    def fit(self, model: GenerativeModel, data: TrainingData) -> Path:
        """Train to `max_steps`, from the newest checkpoint in `run_dir` if there is one.

        Returns:
            The last checkpoint's folder.
        Raises:
            RecipeError: the recipe asks for what this machine or model doesn't have.
            TrainingError: a loss breaks the contract or is not finite.
            Interrupted: a signal came; the run has saved.
        """
        config, phases = self.config, list(model.phases())
        check_phases(model, phases)
        check_config(config)
        accelerator = self._accelerator(several_phases=len(phases) > 1)
        folder = self._newest(accelerator)
        start = int(folder.name[5:]) if folder else 0
        if folder and start >= config.max_steps:
            say(f"Already trained to step {start} (a larger trainer.max_steps goes on, --fresh starts over)")
            return folder

        # Networks, optimizers, averages; then the wrapped model, which all losses go through.
        model.to(accelerator.device).train()
        frozen = FrozenNetworks(model, phases)
        optimizers = build_optimizers(model, phases, config)
        ema = EMA(model, config.ema, {name for p in phases if p.ema for name in p.trains}) if config.ema else None
        if config.compile:
            for network in {name for phase in phases for name in phase.trains}:
                getattr(model, network).compile()
        live = accelerator.prepare_model(model)

        # A first batch through every loss; then back to where a stopped run was.
        share = {"rank": accelerator.process_index, "world_size": accelerator.num_processes,
                 "accumulation": config.gradient_accumulation_steps}  # fmt: skip
        batches = data.batches(seed=self.seed, start_step=start, device=accelerator.device, **share)
        first = next(batches)
        check_losses(model, phases, first)
        log = RunLog(self.run_dir / "metrics.jsonl", config.max_steps, data.config.batch_size, start,
                     writes=accelerator.is_main_process)  # fmt: skip
        run = RunState(model, ema, optimizers, log, accelerator)
        if folder:
            check_same_data(folder, data)
            run.load(load_state(folder))
            say(f"resuming at step {start} from {folder}")

        batches = chain([first], batches)
        with contextlib.closing(log), StopSignal() as stop:
            for step in range(start, config.max_steps):
                torch.manual_seed(seed_for(self.seed, accelerator.process_index, step))  # randomness is the step's own
                micro_batches = [next(batches) for _ in range(config.gradient_accumulation_steps)]
                factor = lr_factor(config.lr_scheduler, step, config.max_steps)
                for phase in phases:
                    if step % phase.interval:
                        continue
                    frozen.all_but(phase)
                    for batch in micro_batches:
                        last_part = batch is micro_batches[-1]
                        with contextlib.nullcontext() if last_part else accelerator.no_sync(live):
                            losses = live(batch, phase.name)
                            accelerator.backward(losses["loss"] / len(micro_batches))
                        log.add(step, phase.name, losses)
                    norm = optimizers[frozenset(phase.trains)].step(factor, accelerator.scaler)
                    if norm is not None and accelerator.scaler is None:  # a scaler skips infinite gradients by itself
                        log.add(step, phase.name, {"grad_norm": norm})
                if accelerator.scaler is not None:
                    accelerator.scaler.update()
                if ema:
                    ema.update(step)

                done = step + 1
                last = done == config.max_steps
                stopping = stop.seen(accelerator, meet=done % config.log_every == 0)
                log.progress.advance(done)
                if done % config.log_every == 0 or last:
                    self._log(done, log, factor, accelerator, data, share)
                with log.clock_stopped():
                    if config.sample_every and (done % config.sample_every == 0 or last):
                        self._preview(done, ema.current() if ema else model, accelerator)
                    if done % config.save_every == 0 or last or stopping:
                        self._check_finite(log, data, share)
                        folder = self._save(done, run, data, accelerator)
                if stopping:
                    break
        accelerator.end_training()
        if stop.number and done < config.max_steps:
            raise Interrupted(f"stopped at step {done}; the same command goes on from there", stop.number)
        assert folder is not None  # the last step saves
        return folder

    # Parts of the loop, in its order

    def _accelerator(self, several_phases: bool) -> Accelerator:
        config = self.config
        AcceleratorState._reset_state()  # a process may train twice, at different precisions
        accelerator = Accelerator(
            cpu=config.device == "cpu" or not torch.accelerator.is_available(),  # else it starts no gloo group
            mixed_precision=config.mixed_precision,
            log_with=list(config.trackers) or None,
            project_config=ProjectConfiguration(str(self.run_dir), logging_dir=str(self.run_dir / "logs")),
            # With several phases, the networks of the others are unused in each backward.
            kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=several_phases)],
        )
        if config.trackers:
            accelerator.init_trackers(self.run_dir.name)
        return accelerator

    def _newest(self, accelerator: Accelerator) -> Path | None:
        """The checkpoint to go on from; the main process decides for all."""
        found: list[Path | None] = [None]
        if accelerator.is_main_process:
            found[0], faults = newest_checkpoint(self.run_dir)
            for fault in faults:
                warn(f"{fault}; going back to an earlier checkpoint")
        broadcast_object_list(found)
        return found[0]

    def _log(
        self,
        done: int,
        log: RunLog,
        factor: float,
        accelerator: Accelerator,
        data: TrainingData,
        share: Mapping[str, int],
    ) -> None:
        self._check_finite(log, data, share)
        losses = _mean_over_processes(log.means(), accelerator)
        if done % self.config.log_every == 0:  # the run's last line may come early; going on from it, nothing is lost
            log.entries = []
        epoch = done * data.config.batch_size / data.spec.num_images
        values = log.line(done, {"epoch": round(epoch, 4), "lr": self.config.optimizer.lr * factor}, losses)
        accelerator.log(values, step=done)

    def _check_finite(self, log: RunLog, data: TrainingData, share: Mapping[str, int]) -> None:
        log.fetch()
        bad = log.first_not_finite()
        if bad:
            step, phase, key, value = bad
            rows = [int(row) for row in data.rows(seed=self.seed, step=step, **share)]
            raise TrainingError(
                f"step {step + 1}, phase '{phase}': {key} is {value}. The batch's rows: {rows}. Last good checkpoint: "
                f"{next(checkpoints(self.run_dir), 'none')}. Lower trainer.optimizer.lr, or look at those images."
            )

    def _preview(self, done: int, model: GenerativeModel, accelerator: Accelerator) -> None:
        """The same seeds every time, so that pictures of different steps compare."""
        training = model.training
        images = sample_images(model.eval(), self.config.num_samples, seed=self.seed, accelerator=accelerator)
        model.train(training)
        if accelerator.is_main_process:
            (self.run_dir / "samples").mkdir(exist_ok=True)
            image_grid(images).save(self.run_dir / "samples" / f"step-{done:06d}.png")

    def _save(self, done: int, run: RunState, data: TrainingData, accelerator: Accelerator) -> Path:
        accelerator.wait_for_everyone()  # only one process writes, and nobody runs ahead of it
        if accelerator.is_main_process:
            folder = save_checkpoint(self.run_dir, done, run.exported, run.save(), data.spec, self.config.keep_last)
            self.saved(folder, last=done == self.config.max_steps)
        accelerator.wait_for_everyone()
        return self.run_dir / "checkpoints" / f"step-{done:06d}"


@dataclass
class RunState:
    """All that changes in a run, to and from a checkpoint."""

    model: GenerativeModel
    ema: EMA | None
    optimizers: Mapping[frozenset[str], PhaseOptimizer]
    log: RunLog
    accelerator: Accelerator

    @property
    def exported(self) -> GenerativeModel:
        """The model that samples and is shared."""
        return self.ema.current() if self.ema else self.model

    @property
    def machine(self) -> dict[str, Any]:
        """What bit-equality depends on besides the recipe."""
        return {"threads": torch.get_num_threads(), "processes": self.accelerator.num_processes,
                "device": self.accelerator.device.type, "torch": str(torch.__version__)}  # fmt: skip

    def save(self) -> TrainerState:
        tensors = {"weights": self._changing(self.model)}
        if self.ema:
            tensors["averages"] = self._changing(self.ema.current())
        for index, optimizer in enumerate(self.optimizers.values()):
            tensors[f"optimizer-{index}"] = optimizer_tensors(optimizer.torch)
        scaler = self.accelerator.scaler.state_dict() if self.accelerator.scaler else None
        values = {"window": self.log.entries, "seconds": self.log.seconds, "machine": self.machine, "scaler": scaler}
        return TrainerState(tensors, values)

    def _changing(self, model: GenerativeModel) -> dict[str, Tensor]:
        """The trained networks and all buffers. Weights that no phase trains are in the model's own folder already."""
        trained = frozenset().union(*self.optimizers)
        names = {name for name, _ in model.named_parameters(remove_duplicate=False)}
        return {k: v for k, v in model.state_dict().items() if k not in names or k.split(".")[0] in trained}

    def load(self, state: TrainerState) -> None:
        self.model.load_state_dict(self.model.state_dict() | state.tensors["weights"])
        if self.ema:
            self.ema.model.load_state_dict(self.ema.model.state_dict() | state.tensors["averages"])
        for index, optimizer in enumerate(self.optimizers.values()):
            load_optimizer(optimizer.torch, state.tensors[f"optimizer-{index}"])
        if self.accelerator.scaler:
            self.accelerator.scaler.load_state_dict(state.values["scaler"])
        self.log.entries = [(step, phase, values) for step, phase, values in state.values["window"]]
        self.log.seconds_before = state.values["seconds"]
        for key, now in self.machine.items():
            if state.values["machine"][key] != now:
                warn(f"{key} was {state.values['machine'][key]}, is {now}: the run goes on, but not bit for bit the same")


class FrozenNetworks:
    """Switches `requires_grad`, so that a phase's backward computes gradients for the networks it trains alone."""

    def __init__(self, model: GenerativeModel, phases: Sequence[Phase]) -> None:
        self._parameters = {phase.trains: trained_parameters(model, phase.trains) for phase in phases}
        wanted = {id(p) for parameters in self._parameters.values() for p in parameters}
        for parameter in model.parameters():
            parameter.requires_grad_(id(parameter) in wanted)
        self._active: tuple[str, ...] | None = phases[0].trains if len(self._parameters) == 1 else None

    def all_but(self, phase: Phase) -> None:
        if phase.trains == self._active:
            return
        for trains, parameters in self._parameters.items():
            if set(trains) != set(phase.trains):
                for parameter in parameters:
                    parameter.requires_grad_(False)
        for parameter in self._parameters[phase.trains]:
            parameter.requires_grad_(True)
        self._active = phase.trains


class StopSignal:
    """Remembers SIGINT or SIGTERM until the step is done; the second one acts at once, as if nobody listened."""

    def __init__(self) -> None:
        self.number = 0
        self._old: dict[int, Any] = {}

    def __enter__(self) -> StopSignal:
        if threading.current_thread() is threading.main_thread():
            self._old = {number: signal.signal(number, self._remember) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)
        self._old = {}

    def _remember(self, number: int, frame: FrameType | None) -> None:
        self.number = number
        self.__exit__()
        warn(f"{signal.Signals(number).name}: finishing the step and saving (once more: stop at once)")

    def seen(self, accelerator: Accelerator, meet: bool) -> bool:
        """Whether to stop now. Several processes agree on it when they meet, every `log_every` steps."""
        if accelerator.num_processes == 1:
            return self.number > 0
        if not meet:
            return False
        highest = accelerator.gather(torch.tensor([self.number], device=accelerator.device)).max()
        self.number = int(highest.item())
        return self.number > 0


def check_config(config: TrainerConfig) -> None:
    """What can't work is said before step 0.

    Raises:
        RecipeError: fp16 without CUDA, or a tracker that is unknown or not installed.
    """
    if config.mixed_precision == "fp16" and (config.device == "cpu" or not torch.cuda.is_available()):
        raise RecipeError("trainer.mixed_precision: fp16 needs a CUDA device; use bf16 or no")
    available = [str(tracker) for tracker in get_available_trackers()]
    for tracker in config.trackers:
        if tracker not in LOGGER_TYPE_TO_CLASS:
            raise RecipeError(
                f"trainer.trackers: no tracker is called '{tracker}'; {did_you_mean(tracker, LOGGER_TYPE_TO_CLASS)}"
            )
        if tracker not in available:
            raise RecipeError(f"trainer.trackers: {tracker} is not installed: pip install {tracker}")


def check_same_data(folder: Path, data: TrainingData) -> None:
    """
    Raises:
        RecipeError: the images are not those that the checkpoint was trained on.
    """
    before = read_manifest(folder).data
    if before is None or before.fingerprint != data.spec.fingerprint:
        raise RecipeError(
            f"data: the images, labels or their order have changed since {folder}; put them back, start over with --fresh, "
            f"or start a new run from these weights (model.from={folder})"
        )


def check_losses(model: GenerativeModel, phases: Sequence[Phase], batch: Batch) -> None:
    """Send a batch through every loss before step 0; buffers and gradients are left as they were.

    Raises:
        RecipeError: the model needs a column that the data lacks.
        TrainingError: a loss breaks the contract of `Phase`.
    """
    for column in model.conditions:
        if column not in batch:
            raise RecipeError(f"data: {type(model).__name__} needs '{column}', which the data does not have")
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    for phase in phases:
        losses = model(batch, phase.name)
        where = f"{type(model).__name__}, phase '{phase.name}'"
        loss = losses.get("loss") if isinstance(losses, Mapping) else None
        if not isinstance(loss, Tensor) or not loss.requires_grad:
            raise TrainingError(f"{where}: must return a mapping whose 'loss' is a tensor with a gradient, not {losses!r}")
        for key, value in losses.items():
            if not isinstance(value, Tensor) or value.numel() != 1:
                raise TrainingError(f"{where}: '{key}' must be a scalar tensor; every entry is logged")
        if not torch.isfinite(loss):
            raise TrainingError(f"{where}: the very first loss is {loss.item()}")
    for name, buffer in model.named_buffers():
        buffer.copy_(buffers[name])


def _mean_over_processes(means: dict[str, float], accelerator: Accelerator) -> dict[str, float]:
    if accelerator.num_processes == 1 or not means:
        return means
    tensor = torch.tensor(list(means.values()), device=accelerator.device)
    return dict(zip(means, accelerator.reduce(tensor, "mean").tolist(), strict=True))
