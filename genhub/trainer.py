"""The loop: every model, one way. `AccelerateTrainer.fit` reads top to bottom; accelerate brings devices, processes,
precision and trackers, and genhub keeps order, randomness and state to itself, so that a stopped run goes on exactly."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.state import AcceleratorState
from accelerate.utils import ProjectConfiguration, broadcast_object_list, gather_object
from torch import Tensor

from genhub.allocator import FreedMemory
from genhub.checkpoint import (
    check_same_data,
    load_optimizer,
    load_state,
    newest_checkpoint,
    optimizer_tensors,
)
from genhub.checks import check_config, check_losses
from genhub.config import AccelerateConfig, check_split, seconds_in
from genhub.disk import saving
from genhub.ema import EMA
from genhub.errors import CheckpointError, Interrupted
from genhub.guards import FiniteGuard, StopSignal
from genhub.interfaces import GenerativeModel, Phase
from genhub.logs import Entry, RunLog, say, warn
from genhub.manifest import step_of
from genhub.memory import find_accumulation, memory_explained, step_fits
from genhub.optim import PhaseOptimizer, build_optimizers, check_phases, lr_factor, trained_parameters
from genhub.sampling import sample_images, save_preview
from genhub.seeds import seed_for
from genhub.sharding import autocast, full, gather, like, shard
from genhub.training import Trainer, TrainerState, TrainingData


class AccelerateTrainer(Trainer):
    """Trains by phases, on one device or many. Its keys are `AccelerateConfig`."""

    Config = AccelerateConfig
    config: AccelerateConfig

    def fit(self, model: GenerativeModel, data: TrainingData) -> Path:
        """Train to `max_steps`, from the newest checkpoint in `run_dir` if there is one.

        Returns:
            The last checkpoint's folder.
        Raises:
            RecipeError: the recipe asks for what this machine or model doesn't have.
            TrainingError: a loss breaks the contract or is not finite, or memory is full.
            Interrupted: a signal or the deadline came; the run has saved.
        """
        config, phases = self.config, list(model.phases())
        check_phases(model, phases)
        check_config(config)
        accelerator = self._accelerator(several_phases=len(phases) > 1)
        cuda = accelerator.device.type == "cuda"
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = config.tf32
        folder = self._newest(accelerator)
        start = step_of(folder) if folder else 0
        if folder and start >= config.max_steps:
            self.evaluate(start, model.to(accelerator.device), accelerator)  # which a stop may have left out
            say(f"Already trained to step {start} (a larger trainer.max_steps goes on, --fresh starts over)")
            return folder

        # Networks, optimizers, averages; then the wrapped model, which all losses go through.
        model.to(accelerator.device).train()
        if config.channels_last or (config.channels_last is None and cuda and config.mixed_precision != "no"):
            model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stubs lack it
        trained = {name for phase in phases for name in phase.trains}
        shards = config.sharding == "full" and accelerator.num_processes > 1
        whole = shard(model, trained, accelerator) if shards else None
        frozen = FrozenNetworks(model, phases)
        optimizers = build_optimizers(model, phases, config)
        averaged = {name for phase in phases if phase.ema for name in phase.trains}
        ema = EMA(model, config.ema, averaged, whole) if config.ema else None
        if config.compile:
            for network in trained:
                getattr(model, network).compile()
        live = autocast(model, accelerator) if shards else accelerator.prepare_model(model)

        # A first batch through every loss; then back to where a stopped run was.
        stored = load_state(folder) if folder else None
        if folder:
            check_same_data(folder, data)
        check_split(data.config, config, accelerator.num_processes)
        accumulation = self._accumulation(model, phases, frozen, optimizers, data, accelerator)
        share = {"rank": accelerator.process_index, "world_size": accelerator.num_processes, "accumulation": accumulation}
        memory = (data.config.batch_size, accelerator.num_processes, accumulation)
        states = stored.values.get("data", []) if stored else []
        state = states[share["rank"]] if len(states) == share["world_size"] else None
        batches = data.batches(seed=self.seed, start_step=start, device=accelerator.device, state=state, **share)
        with memory_explained(*memory):
            first = next(batches)
            seed_draws(seed_for(self.seed, accelerator.process_index, start), accelerator.device)
            check_losses(model, phases, first, finite=start == 0 and not config.skip_bad_steps)
        log = RunLog(self.run_dir / "metrics.jsonl", config.max_steps, data.config.batch_size, start,
                     writes=accelerator.is_main_process)  # fmt: skip
        run = RunState(model, ema, whole, optimizers, log, accelerator, accumulation)
        if stored:
            try:
                run.load(stored)
            except (LookupError, RuntimeError, TypeError, ValueError) as error:  # whole, but not what this code writes
                message = " ".join(str(error).split())
                raise CheckpointError(f"{folder}: the model's or genhub's code has changed since: {message:.300}") from error
            say(f"resuming at step {start} from {folder}")
            self._evaluate(start, run)

        batches, freed = chain([first], batches), FreedMemory(config.keep_memory)
        guard = FiniteGuard(config.skip_bad_steps, self.run_dir, model, data, accelerator, log, self.seed, share)
        deadline = self.started + seconds_in(config.stop_after) if config.stop_after else None
        with contextlib.closing(log), memory_explained(*memory), StopSignal(accelerator, deadline) as stop:
            for step in range(start, config.max_steps):
                seed_draws(seed_for(self.seed, accelerator.process_index, step), accelerator.device)  # a step has its own
                micro_batches = [next(batches) for _ in range(accumulation)]
                factor = lr_factor(config.lr_scheduler, step, config.max_steps)
                scaled = set[frozenset[str]]()  # whose optimizers the loss scaler has seen since its last update
                for phase in phases:
                    if step % phase.interval:
                        continue
                    networks = frozenset(phase.trains)
                    if networks in scaled:  # two phases of one optimizer, which it takes once between its updates
                        accelerator.scaler.update()
                        scaled.clear()
                    frozen.all_but(phase)
                    guard.before_update()
                    for batch in micro_batches:
                        last_part = batch is micro_batches[-1]
                        with contextlib.nullcontext() if last_part else accelerator.no_sync(live):
                            losses = live(batch, phase.name)
                            accelerator.backward(losses["loss"] / accumulation)
                        log.add(step, phase.name, losses)
                    optimizer = optimizers[networks]
                    norm = optimizer.clip(accelerator.scaler)
                    if norm is not None:
                        log.add(step, phase.name, {"grad_norm": norm})
                    left_out = guard.leaves_out(step, phase.name)
                    if not left_out:
                        optimizer.apply(factor, accelerator.scaler)
                    if accelerator.scaler is not None and not (left_out and config.max_grad_norm is None):
                        scaled.add(networks)
                    optimizer.clear()
                if scaled:
                    accelerator.scaler.update()
                if ema:
                    ema.update(step)

                done = step + 1
                last, stopping = done == config.max_steps, stop.seen()
                log.progress.advance(done)
                freed.after_step()
                if done % config.log_every == 0 or last:
                    guard.check_logged()
                    self._log(done, log, factor, accelerator, data)
                with log.clock_stopped():
                    if config.sample_every and (done % config.sample_every == 0 or last):
                        self._preview(done, run.exported, accelerator)
                    if done % config.save_every == 0 or last or stopping:
                        guard.check_logged()
                        guard.check_weights(done)
                        folder = self._save(done, run, data, accelerator)
                        if not stopping:  # it may take long; when the run goes on, it is made up for
                            self._evaluate(done, run)
                if stopping:
                    break
        with saving(self.run_dir / "logs"):
            accelerator.end_training()
        if stopping and not last:
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

    def _accumulation(
        self, model: GenerativeModel, phases: Sequence[Phase], frozen: FrozenNetworks,
        optimizers: Mapping[frozenset[str], PhaseOptimizer], data: TrainingData, accelerator: Accelerator,
    ) -> int:  # fmt: skip
        """Into how many parts each process's share of a batch is split; with `find_batch_size`, as many as memory needs."""
        config = self.config
        if not config.find_batch_size:
            return config.gradient_accumulation_steps

        def trial(parts: int) -> None:
            batches = data.batches(seed=self.seed, start_step=0, rank=accelerator.process_index, accumulation=parts,
                                   world_size=accelerator.num_processes, device=accelerator.device)  # fmt: skip
            micro_batches = list(islice(batches, parts))
            check_losses(model, phases, micro_batches[0], finite=False)
            for phase in phases:
                frozen.all_but(phase)
                accelerator.backward(model(micro_batches[0], phase.name)["loss"])
                optimizers[frozenset(phase.trains)].step(1.0)

        def fits(parts: int) -> bool:
            return step_fits(lambda: trial(parts), model, optimizers.values(), accelerator)

        return find_accumulation(
            self.run_dir, data.config.batch_size, config.gradient_accumulation_steps, accelerator, fits
        )  # fmt: skip

    def _log(self, done: int, log: RunLog, factor: float, accelerator: Accelerator, data: TrainingData) -> None:
        losses = _mean_over_processes(log.means(), accelerator)
        if done % self.config.log_every == 0:  # the run's last line may come early; going on from it, nothing is lost
            log.entries = []
        facts: dict[str, float] = {"lr": self.config.optimizer.lr * factor}
        if data.spec.num_images:
            facts = {"epoch": round(done * data.config.batch_size / data.spec.num_images, 4)} | facts
        if self.config.skip_bad_steps:
            facts["left_out"] = len(log.left_out)
        values = log.line(done, facts, losses)
        with saving(self.run_dir / "logs"):
            accelerator.log(values, step=done)

    def _preview(self, done: int, model: GenerativeModel, accelerator: Accelerator) -> None:
        """The same seeds every time, so that pictures of different steps compare."""
        training, device = model.training, model.device
        model.eval().to(accelerator.device)  # it is there, but for the copy of a sharded one
        images = sample_images(model, self.config.num_samples, seed=self.seed, accelerator=accelerator)
        model.train(training).to(device)
        if accelerator.is_main_process:
            save_preview(self.run_dir, done, images)

    def _save(self, done: int, run: RunState, data: TrainingData, accelerator: Accelerator) -> Path:
        windows, states = zip(*gather_object([(run.log.entries, data.state(done))]), strict=True)
        exported, state = run.exported, run.save(windows, states)  # of a sharded model all have pieces
        accelerator.wait_for_everyone()  # only one process writes, and nobody runs ahead of it
        if accelerator.is_main_process:
            run.log.sync()
            self.save_checkpoint(done, exported, data, state)
        accelerator.wait_for_everyone()
        return self.run_dir / "checkpoints" / f"step-{done:06d}"

    def _evaluate(self, done: int, run: RunState) -> None:
        values = self.evaluate(done, run.exported, run.accelerator) if self.evaluator else {}
        if values:
            with saving(self.run_dir / "logs"):
                run.accelerator.log(values, step=done)


@dataclass
class RunState:
    """All that changes in a run, to and from a checkpoint."""

    model: GenerativeModel
    ema: EMA | None
    whole: GenerativeModel | None
    """Of a sharded model, the copy that is drawn from and saved."""
    optimizers: Mapping[frozenset[str], PhaseOptimizer]
    log: RunLog
    accelerator: Accelerator
    accumulation: int

    @property
    def exported(self) -> GenerativeModel:
        """The model that samples and is shared."""
        if self.ema:
            return self.ema.current()
        return gather(self.model, self.whole) if self.whole else self.model

    @property
    def machine(self) -> dict[str, Any]:
        """What bit-equality depends on besides the recipe."""
        return {"threads": torch.get_num_threads(), "processes": self.accelerator.num_processes,
                "device": self.accelerator.device.type, "torch": str(torch.__version__),
                "gradient_accumulation_steps": self.accumulation}  # fmt: skip

    def save(self, windows: Sequence[list[Entry]], states: Sequence[Mapping[str, Any]]) -> TrainerState:
        """`windows` are the processes' losses since the last log line, `states` where they are in the data."""
        tensors = {"weights": self._changing(self.model)}
        if self.ema:
            tensors["averages"] = self._changing(self.ema.current())
        for index, optimizer in enumerate(self.optimizers.values()):
            stored = optimizer_tensors(optimizer.torch)
            tensors[f"optimizer-{index}"] = {name: full(tensor) for name, tensor in stored.items()}
        scaler = self.accelerator.scaler.state_dict() if self.accelerator.scaler else None
        values = {"windows": windows, "data": states, "seconds": self.log.seconds, "machine": self.machine, "scaler": scaler,
                  "left_out": self.log.left_out}  # fmt: skip
        return TrainerState(tensors, values)

    def _changing(self, model: GenerativeModel) -> dict[str, Tensor]:
        """The trained networks and all buffers. Weights that no phase trains are in the model's own folder already."""
        trained = frozenset().union(*self.optimizers)
        names = {name for name, _ in model.named_parameters(remove_duplicate=False)}
        return {k: full(v) for k, v in model.state_dict().items() if k not in names or k.split(".")[0] in trained}

    def _restore(self, model: GenerativeModel, tensors: dict[str, Tensor]) -> None:
        """The inverse of `_changing`."""
        missing = self._changing(model).keys() - tensors.keys()
        if missing:
            raise LookupError(f"Missing: {', '.join(sorted(missing)[:5])}")
        own = model.state_dict()
        model.load_state_dict(own | {name: like(tensor, own[name]) for name, tensor in tensors.items()})

    def load(self, state: TrainerState) -> None:
        self._restore(self.model, state.tensors["weights"])
        if self.ema:
            self._restore(self.ema.model, state.tensors["averages"])
            self.ema.restored()
        for index, optimizer in enumerate(self.optimizers.values()):
            stored = state.tensors[f"optimizer-{index}"]
            owners = {name: optimizer.parameters[int(name.partition(".")[0])] for name in stored}
            whole = {name: like(tensor, owners[name]) if tensor.dim() else tensor for name, tensor in stored.items()}
            load_optimizer(optimizer.torch, whole)
        if self.accelerator.scaler:
            self.accelerator.scaler.load_state_dict(state.values["scaler"])
        windows = state.values["windows"]
        mine = windows[self.accelerator.process_index % len(windows)]
        self.log.entries = [(step, phase, values) for step, phase, values in mine]
        self.log.seconds_before = state.values["seconds"]
        self.log.left_out = [(step, phase) for step, phase in state.values["left_out"]]
        for key, now in self.machine.items():
            before = state.values["machine"][key]
            if before != now:
                warn(f"{key} was {before}, is {now}: the run goes on, but not bit for bit the same")


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


def seed_draws(seed: int, device: torch.device) -> None:
    """What `torch.manual_seed` does, for the devices in use: for each of the others that torch knows, it formats a stack
    trace every time, which took a tenth of a small VAE's step."""
    torch.default_generator.manual_seed(seed)
    if device.type != "cpu":
        torch.get_device_module(device).manual_seed(seed)


def _mean_over_processes(means: dict[str, float], accelerator: Accelerator) -> dict[str, float]:
    if accelerator.num_processes == 1 or not means:
        return means
    tensor = torch.tensor(list(means.values()), device=accelerator.device)
    return dict(zip(means, accelerator.reduce(tensor, "mean").tolist(), strict=True))
