"""The training loop, the same for every model. `AccelerateTrainer.fit` reads top to bottom; accelerate brings devices,
processes, precision and trackers, and genhub keeps order, randomness and state to itself, so that a stopped run goes on
exactly."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.state import AcceleratorState
from accelerate.utils import ProjectConfiguration

from genhub.data.split import check_split
from genhub.errors import CheckpointError, Interrupted
from genhub.ground.console import say
from genhub.ground.processes import Share, Together, launched
from genhub.ground.randomness import seed_in_turn
from genhub.interfaces.model import Batch, Model
from genhub.interfaces.section import seconds_in
from genhub.interfaces.trainer import StoppedRun, Trainer, TrainingData
from genhub.recipe.sections import AccelerateConfig
from genhub.store.run_folder import RunFolder
from genhub.training.checks import check_config, check_loss
from genhub.training.guards import FiniteGuard, StopSignal
from genhub.training.memory import find_accumulation, memory_explained, step_fits
from genhub.training.networks import Networks, prepare_networks
from genhub.training.optim import build_optimizers, check_phases, learning_rates, lr_factor
from genhub.training.state import RunState
from genhub.training.tracking import Tracking


class AccelerateTrainer(Trainer):
    """The built-in trainer: trains by phases, on one device or many. Its keys are `AccelerateConfig`."""

    Config = AccelerateConfig
    config: AccelerateConfig

    def check(self, model: Model, data: TrainingData) -> None:
        """Check phases, config, split and optimizers: see `Trainer.check`."""
        phases = list(model.phases())
        check_phases(model, phases)
        check_config(self.config)
        check_split(data.config, self.config, launched() or 1)
        build_optimizers(model, phases, self.config)  # they have no state yet, and go again

    def fit(self, model: Model, data: TrainingData) -> Path:
        """Train to `max_steps`, from the run's newest checkpoint if there is one. `check` has been asked before.

        Returns:
            The last checkpoint's folder.
        Raises:
            TrainingError: a loss breaks the contract or is not finite, or memory is full.
            Interrupted: a signal or the deadline came; the run has saved.
        """
        # where to start: at the newest checkpoint, or at step 0
        config, phases = self.config, list(model.phases())
        accelerator = self._accelerator(several_phases=len(phases) > 1)
        stopped = self.run.stopped_run(data)
        start, folder = (stopped.step, stopped.folder) if stopped else (0, None)
        if stopped and start >= config.max_steps:
            self.run.evaluate(start, model.to(accelerator.device))  # which a stop may have left out
            say(f"Already trained to step {start} (a larger trainer.max_steps goes on, --fresh starts over)")
            return stopped.folder

        # networks with optimizers and averages on the device, the state of a stopped run, batches from its step on
        networks = prepare_networks(model, phases, config, accelerator)
        state, batches = self._start(networks, data, stopped, accelerator)
        log, accumulation = state.log, state.share.accumulation
        guard = FiniteGuard(config.skip_bad_steps, self.run, state, data)
        deadline = self.run.started + seconds_in(config.stop_after) if config.stop_after else None
        explained = memory_explained(data.config.batch_size, accelerator.num_processes, accumulation)

        with contextlib.closing(log), networks.guards(), explained, StopSignal(accelerator, deadline) as stop:
            saved = start
            for step in range(start, config.max_steps):
                # the step's batch, in parts for gradient accumulation; a signal ends the wait for it
                self._seed_draws(step, accelerator)
                micro_batches = stop.waiting_for(lambda: [next(batches) for _ in range(accumulation)])
                if micro_batches is None:
                    done, last, stopping = step, False, True
                    if step > saved:
                        self._save(step, state, data, guard)
                    break

                # forward, backward and optimizer of each phase, then the averages
                factor = lr_factor(config.lr_scheduler, step, config.max_steps)
                self._update(step, micro_batches, factor, state, guard)
                if networks.ema:
                    networks.ema.update(step)
                model.after_update(step)

                # is this the last step, or has a signal or the deadline come, or was the last checkpoint refused
                done = step + 1
                last, stopping = done == config.max_steps, stop.seen()
                self.run.check_saved()
                log.progress.advance(done)

                # losses: check and log them
                logging = done % config.log_every == 0 or last
                if logging or step == start:
                    guard.check_logged()
                if logging:
                    self._log(done, factor, state, data)

                # preview, checkpoint and evaluation, where they are due; their time is not counted as training
                with log.clock_stopped():
                    if config.sample_every and (done % config.sample_every == 0 or last):
                        self._preview(done, state)
                    if done % config.save_every == 0 or last or stopping:
                        folder, saved = self._save(done, state, data, guard), done
                        if not stopping:  # it may take long; when the run goes on, it is made up for
                            self._evaluate(done, state)
                if stopping:
                    break
            self.run.check_saved(wait=True)  # while a signal still lets it be written

        # the end: let go of the wrapper and of trackers; `train` parts from the other processes
        networks.unwrap(accelerator)
        state.trackers.finish(done if last else None)
        if stopping and not last:
            raise Interrupted(f"stopped at step {done}; the same command goes on from there", stop.number)
        assert folder is not None  # the last step saves
        return folder

    @property
    def _files(self) -> RunFolder:
        return RunFolder(self.run.folder)

    # Parts of the loop, in its order

    def _accelerator(self, several_phases: bool) -> Accelerator:
        config = self.config
        AcceleratorState._reset_state()  # else a process can't train twice, at different precisions; there is no public way
        accelerator = Accelerator(
            cpu=config.device == "cpu" or not torch.accelerator.is_available(),  # else it starts no gloo group
            mixed_precision=config.mixed_precision,
            log_with=list(config.trackers) or None,
            project_config=ProjectConfiguration(str(self.run.folder), logging_dir=str(self._files.logs)),
            # With several phases, the networks of the others are unused in each backward.
            kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=several_phases)],
        )
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = config.tf32
        return accelerator

    def _start(
        self, networks: Networks, data: TrainingData, stopped: StoppedRun | None, accelerator: Accelerator
    ) -> tuple[RunState, Iterator[Batch]]:
        """Go back to where a stopped run was; return the state and the batches from there.

        Raises:
            CheckpointError: the checkpoint is whole, but not what this model or this genhub writes.
            TrainingError: see `fit`.
        """
        start = stopped.step if stopped else 0
        accumulation = self._accumulation(networks, data, accelerator)
        share = Share(self.run.together.rank, self.run.together.world_size, accumulation)
        states = stopped.state.values.get("data", []) if stopped else []
        position = states[share.rank] if len(states) == share.world_size else None
        batches = data.batches(share, seed=self.run.seed, start_step=start, device=accelerator.device, state=position)
        log, trackers = self.run.log(data, start), Tracking(accelerator, self.run, self.config.trackers, start)
        state = RunState(networks, log, accelerator, trackers, share, {phase.name for phase in networks.phases})
        if stopped:
            try:
                state.load(stopped.state)
            except (LookupError, RuntimeError, TypeError, ValueError) as error:
                message = " ".join(str(error).split())
                raise CheckpointError(
                    f"{stopped.folder}: the model's or genhub's code has changed since: {message:.300}"
                ) from error
            say(f"resuming at step {start} from {stopped.folder}")
            self._evaluate(start, state)
        return state, batches

    def _accumulation(self, networks: Networks, data: TrainingData, accelerator: Accelerator) -> int:
        """Return how many parts each process's share of a batch is split into; with `find_batch_size`, as many as memory
        needs."""
        config = self.config
        if not config.find_batch_size:
            return config.gradient_accumulation_steps

        def trial(parts: int) -> None:
            share = Share(self.run.together.rank, self.run.together.world_size, parts)
            batches = data.batches(share, seed=self.run.seed, start_step=0, device=accelerator.device)
            micro_batches = list(islice(batches, parts))
            for phase in networks.phases:
                networks.frozen.all_but(phase)
                losses = networks.model(micro_batches[0], phase.name)
                check_loss(networks.model, phase, losses)
                accelerator.backward(losses["loss"])
                networks.optimizers[frozenset(phase.trains)].step(1.0)

        def fits(parts: int) -> bool:
            with networks.as_written():
                return step_fits(lambda: trial(parts), networks.model, networks.optimizers.values(), accelerator)

        return find_accumulation(
            self._files.found_batch_size, data.config.batch_size, config.gradient_accumulation_steps, self.run.together, fits
        )

    def _seed_draws(self, step: int, accelerator: Accelerator) -> None:
        """Seed a step's own randomness. Like `torch.manual_seed`, but for the devices in use alone: for each of the others
        that torch knows, that formats a stack trace every time, which took a tenth of a small VAE's step."""
        seed = seed_in_turn(self.run.seed, accelerator.process_index, step)
        torch.default_generator.manual_seed(seed)
        if accelerator.device.type != "cpu":
            torch.get_device_module(accelerator.device).manual_seed(seed)

    def _update(self, step: int, micro_batches: Sequence[Batch], factor: float, state: RunState, guard: FiniteGuard) -> None:
        """Make a step's updates: each phase's, in order, its learning rate times `factor`."""
        networks, accelerator, scaler = state.networks, state.accelerator, state.accelerator.scaler
        if networks.graphs:  # what they gave in the last step may be overwritten
            torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]
        scaled = set[frozenset[str]]()  # whose optimizers the loss scaler has seen since its last update
        for phase in networks.phases:
            if step % phase.interval:
                continue
            trained = frozenset(phase.trains)
            if trained in scaled:  # two phases of one optimizer, which it takes once between its updates
                scaler.update()
                scaled.clear()
            networks.frozen.all_but(phase)
            guard.before_update()
            for batch in micro_batches:
                last_part = batch is micro_batches[-1]
                with contextlib.nullcontext() if last_part else accelerator.no_sync(networks.live):
                    losses = networks.live(batch, phase.name)
                    if phase.name in state.unseen:
                        check_loss(networks.model, phase, losses)
                        state.unseen.remove(phase.name)
                    accelerator.backward(losses["loss"] / len(micro_batches))
                state.log.add(step, phase.name, losses)
            optimizer = networks.optimizers[trained]
            norm = optimizer.clip(scaler)
            if norm is not None:
                state.log.add(step, phase.name, {"grad_norm": norm})
            left_out = guard.leaves_out(step, phase.name)
            if not left_out:
                optimizer.apply(factor, scaler)
            if scaler is not None and not (left_out and self.config.max_grad_norm is None):
                scaled.add(trained)
            optimizer.clear()
        if scaled:
            scaler.update()

    def _log(self, done: int, factor: float, state: RunState, data: TrainingData) -> None:
        log = state.log
        losses = _mean_over_processes(log.means(), self.run.together)
        if done % self.config.log_every == 0:  # the run's last line may come early; going on from it, nothing is lost
            log.entries = []
        facts = learning_rates(state.networks.optimizers, factor)
        if data.spec.num_rows:
            facts = {"epoch": round(done * data.config.batch_size / data.spec.num_rows, 4)} | facts
        if self.config.skip_bad_steps:
            facts["left_out"] = len(log.left_out)
        state.trackers.numbers(log.line(done, facts, losses), done)

    def _preview(self, done: int, state: RunState) -> None:
        model, accelerator = state.networks.exported, state.accelerator
        device = model.device
        model.to(accelerator.device)  # it is there, but for the copy of a sharded one
        with state.networks.as_written():
            picture = self.run.save_preview(done, model)
        model.to(device)
        if picture:
            state.trackers.preview(done)

    def _save(self, done: int, state: RunState, data: TrainingData, guard: FiniteGuard) -> Path:
        guard.check_logged()
        guard.check_weights(done)
        windows, positions = zip(*self.run.together.collect((state.log.entries, data.state(done))), strict=True)
        exported, stored = state.networks.exported, state.save(windows, positions)  # of a sharded model all have pieces
        return self.run.save_checkpoint(done, exported, data, stored)

    def _evaluate(self, done: int, state: RunState) -> None:
        with state.networks.as_written():
            values = self.run.evaluate(done, state.networks.exported)
        if values:
            state.trackers.evaluation(values, done)


def _mean_over_processes(means: dict[str, float], together: Together) -> dict[str, float]:
    if together.world_size == 1 or not means:
        return means
    return dict(zip(means, together.mean(torch.tensor(list(means.values()))).tolist(), strict=True))
