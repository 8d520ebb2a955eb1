"""Train a phase's networks alone: the rest frozen, an optimizer, and the learning rate as a pure function of the step."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from genhub.errors import RecipeError, TrainingError, did_you_mean
from genhub.interfaces.model import Model, Phase
from genhub.recipe.sections import AccelerateConfig, LRSchedulerConfig, OptimizerConfig, OptimizerOverride
from genhub.training.sharding import full

CLASSES = {name.lower(): cls for name, cls in vars(torch.optim).items() if isinstance(cls, type)}


class PhaseOptimizer:
    """Optimizer of one set of networks: clips, steps and clears, at a learning rate given each time."""

    def __init__(self, parameters: list[nn.Parameter], config: OptimizerConfig, max_grad_norm: float | None) -> None:
        self.parameters = parameters
        self.lr = config.lr
        self.max_grad_norm = max_grad_norm
        self.torch = _torch_optimizer(parameters, config)

    def step(self, lr_factor: float) -> torch.Tensor | None:
        """Make a whole update: clip, apply and clear; return the gradient's norm before clipping."""
        norm = self.clip()
        self.apply(lr_factor)
        self.clear()
        return norm

    def clip(self, scaler: torch.amp.GradScaler | None = None) -> torch.Tensor | None:
        """Clip the gradient, if it is to be; return its norm before that, or None where a scaler looks after it."""
        if scaler is not None and self.max_grad_norm is not None:
            scaler.unscale_(self.torch)  # this one alone: the others' gradients are still to come
        elif scaler is not None:
            return None
        norm = full(nn.utils.get_total_norm([p.grad for p in self.parameters if p.grad is not None]))
        if self.max_grad_norm is not None:
            nn.utils.clip_grads_with_norm_(self.parameters, self.max_grad_norm, norm)
        return None if scaler is not None else norm

    def apply(self, lr_factor: float, scaler: torch.amp.GradScaler | None = None) -> None:
        """Move the weights. A scaler leaves infinite gradients out; its `update()`, once a step, is the caller's."""
        for group in self.torch.param_groups:
            group["lr"] = self.lr * lr_factor
        if scaler is not None:
            scaler.step(self.torch)
        else:
            self.torch.step()

    def clear(self) -> None:
        self.torch.zero_grad(set_to_none=True)


def trained_parameters(model: Model, networks: tuple[str, ...]) -> list[nn.Parameter]:
    """Return the parameters that a phase training `networks` updates: what the model itself froze stays frozen."""
    children = dict(model.named_children())
    return [p for name in networks for p in children[name].parameters() if p.requires_grad]


class FrozenNetworks:
    """Switch of `requires_grad`: a phase's backward computes gradients for the networks it trains alone."""

    def __init__(self, model: Model, phases: Sequence[Phase]) -> None:
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


def check_phases(model: Model, phases: Sequence[Phase]) -> None:
    """Hold a model to the contract of `phases`.

    Raises:
        TrainingError: naming the class, the phase and what is wrong with it.
    """
    name, children = type(model).__name__, dict(model.named_children())
    if not phases:
        raise TrainingError(f"{name}.phases() is empty: a model trains by at least one phase")
    for index, phase in enumerate(phases):
        for network in phase.trains:
            if network not in children:
                raise TrainingError(
                    f"{name}, phase '{phase.name}': no network is called '{network}'; {did_you_mean(network, children)}"
                )
        if phase.interval < 1 or not trained_parameters(model, phase.trains):
            what = "interval is below 1" if phase.interval < 1 else f"{phase.trains} have no trainable parameters"
            raise TrainingError(f"{name}, phase '{phase.name}': {what}")
        for other in phases[:index]:
            if other.name == phase.name:
                raise TrainingError(f"{name}: two phases are called '{phase.name}'")
            shared = set(phase.trains) & set(other.trains)
            if shared and set(phase.trains) != set(other.trains):
                raise TrainingError(
                    f"{name}: phases '{other.name}' and '{phase.name}' both train {sorted(shared)}, but not the same "
                    "networks: sets must be equal or disjoint"
                )


def build_optimizers(
    model: Model, phases: Sequence[Phase], config: AccelerateConfig
) -> dict[frozenset[str], PhaseOptimizer]:
    """Return one optimizer for each distinct set of networks, in the order of the phases.

    Raises:
        RecipeError: an override names no network that is trained, two that share an optimizer disagree, or torch's
            class has no such argument.
    """
    sets = {frozenset(phase.trains): phase.trains for phase in phases}
    trained = {network for networks in sets for network in networks}
    for network in config.optimizers.keys() - trained:
        raise RecipeError(f"trainer.optimizers.{network}: no phase trains it; {did_you_mean(network, trained)}")
    return {
        key: PhaseOptimizer(trained_parameters(model, networks), _config_of(networks, config), config.max_grad_norm)
        for key, networks in sets.items()
    }


def _config_of(networks: tuple[str, ...], config: AccelerateConfig) -> OptimizerConfig:
    """Return the common settings with what the networks override; networks trained together must not disagree."""
    overrides = {network: config.optimizers[network] for network in networks if network in config.optimizers}
    if len(set(overrides.values())) > 1:
        names = " and ".join(overrides)
        raise RecipeError(f"trainer.optimizers: {names} are trained together, by one optimizer: give them the same keys")
    merged = _given(config.optimizer)
    for override in overrides.values():
        merged = merged | _given(override)
    return OptimizerConfig.model_validate(merged)


def _given(config: OptimizerOverride) -> dict[str, object]:
    return {key: value for key, value in config.model_dump().items() if value is not None}


def _torch_optimizer(parameters: list[nn.Parameter], config: OptimizerConfig) -> torch.optim.Optimizer:
    cls = CLASSES[config.name]
    options: Mapping[str, object] = {key: value for key, value in _given(config).items() if key != "name"}
    try:
        return cls(parameters, fused=True, **options)  # type: ignore[no-any-return]
    except (TypeError, RuntimeError, ValueError):  # no fused form of this class, or not on this device; or of neither kind
        pass
    try:
        return cls(parameters, **options)  # type: ignore[no-any-return]
    except (TypeError, ValueError) as error:
        raise RecipeError(f"trainer.optimizer: {config.name}: {error}") from error


def lr_factor(config: LRSchedulerConfig, step: int, max_steps: int) -> float:
    """Return the factor, in [0, 1], of the learning rate in step number `step`."""
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    if config.name == "constant":
        return 1.0
    progress = min(1.0, (step - config.warmup_steps) / max(1, max_steps - config.warmup_steps))
    fallen = progress if config.name == "linear" else (1 - math.cos(math.pi * progress)) / 2
    return 1.0 - (1.0 - config.final_ratio) * fallen


def learning_rates(optimizers: Mapping[frozenset[str], PhaseOptimizer], factor: float) -> dict[str, float]:
    """Learning rates of a step for the log: one `lr` where all optimizers have the same, else `lr/NETWORKS` for each."""
    rates = {"+".join(sorted(networks)): optimizer.lr * factor for networks, optimizer in optimizers.items()}
    if len(set(rates.values())) == 1:
        return {"lr": next(iter(rates.values()))}
    return {f"lr/{networks}": rate for networks, rate in rates.items()}


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return an optimizer's state as named tensors; settings come from the recipe and are not stored."""
    state = optimizer.state_dict()["state"]
    return {
        f"{index}.{key}": torch.as_tensor(value)
        for index, entries in state.items()
        for key, value in entries.items()
        if value is not None
    }


def load_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Load an optimizer's state from the named tensors of `optimizer_tensors`."""
    state: dict[int, dict[str, Any]] = {}
    for name, tensor in tensors.items():
        index, _, key = name.partition(".")
        state.setdefault(int(index), {})[key] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
