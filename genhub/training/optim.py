"""Train a phase's networks alone: the rest frozen, an optimizer, and the learning rate as a pure function of the step."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence, Set
from typing import Any

import torch
from torch import Tensor, nn

from genhub.errors import RecipeError, TrainingError, did_you_mean
from genhub.interfaces.model import Model, Phase
from genhub.recipe.optimizers import arguments, known_arguments, optimizer_classes
from genhub.recipe.sections import AccelerateConfig, LRSchedulerConfig, OptimizerConfig, OptimizerOverride
from genhub.training.sharding import full


class PhaseOptimizer:
    """Optimizer of one set of networks: clips, steps and clears, at a learning rate given each time."""

    def __init__(
        self,
        parameters: list[nn.Parameter],
        config: OptimizerConfig,
        max_grad_norm: float | None,
        embeddings: Set[nn.Parameter] = frozenset(),
    ) -> None:
        """
        Args:
            embeddings: those of the parameters that are tables, not matrices, which Muon leaves to AdamW.
        Raises:
            RecipeError: a class refuses its arguments, or there is no matrix for Muon.
        """
        self.parameters = parameters
        self.lr = config.lr
        self.max_grad_norm = max_grad_norm
        classes = optimizer_classes(config.name)
        shares = [parameters] if len(classes) == 1 else matrices_and_others(parameters, embeddings)
        self.parts = [_built(cls, share, config) for cls, share in zip(classes, shares, strict=True) if share]
        """torch's optimizers, each of a share of the parameters: one, or Muon and AdamW."""

    def step(self, lr_factor: float) -> torch.Tensor | None:
        """Make a whole update: clip, apply and clear; return the gradient's norm before clipping."""
        norm = self.clip()
        self.apply(lr_factor)
        self.clear()
        return norm

    def clip(self, scaler: torch.amp.GradScaler | None = None) -> torch.Tensor | None:
        """Clip the gradient, if it is to be; return its norm before that, or None where a scaler looks after it."""
        if scaler is not None and self.max_grad_norm is not None:
            for part in self.parts:
                scaler.unscale_(part)  # these alone: the others' gradients are still to come
        elif scaler is not None:
            return None
        norm = full(nn.utils.get_total_norm([p.grad for p in self.parameters if p.grad is not None]))
        if self.max_grad_norm is not None:
            nn.utils.clip_grads_with_norm_(self.parameters, self.max_grad_norm, norm)
        return None if scaler is not None else norm

    def apply(self, lr_factor: float, scaler: torch.amp.GradScaler | None = None) -> None:
        """Move the weights. A scaler leaves infinite gradients out; its `update()`, once a step, is the caller's."""
        for part in self.parts:
            for group in part.param_groups:
                group["lr"] = self.lr * lr_factor
            if scaler is not None:
                scaler.step(part)
            else:
                part.step()

    def clear(self) -> None:
        for part in self.parts:
            part.zero_grad(set_to_none=True)


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
    tables = {p for module in model.modules() if isinstance(module, nn.Embedding) for p in module.parameters()}
    optimizers = {}
    for key, networks in sets.items():
        settings = _config_of(networks, config)
        if ":" in settings.name:  # torch's own are known to
            check_goes_on(settings)
        optimizers[key] = PhaseOptimizer(trained_parameters(model, networks), settings, config.max_grad_norm, tables)
    return optimizers


def _config_of(networks: tuple[str, ...], config: AccelerateConfig) -> OptimizerConfig:
    """Return the common settings with what the networks override; networks trained together must not disagree. Another
    class than the common one starts from its own defaults, with the common learning rate."""
    overrides = {network: config.optimizers[network] for network in networks if network in config.optimizers}
    if any(override != next(iter(overrides.values())) for override in overrides.values()):
        names = " and ".join(overrides)
        raise RecipeError(f"trainer.optimizers: {names} are trained together, by one optimizer: give them the same keys")
    merged = _given(config.optimizer)
    for override in overrides.values():
        own = _given(override)
        merged = (merged if own.get("name", merged["name"]) == merged["name"] else {"lr": merged["lr"]}) | own
    return OptimizerConfig.model_validate(merged)


def _given(config: OptimizerOverride) -> dict[str, object]:
    return {key: value for key, value in config.model_dump().items() if value is not None}


def matrices_and_others(
    parameters: Sequence[nn.Parameter], embeddings: Set[nn.Parameter]
) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Return the matrices, whose updates Muon makes orthogonal (Jordan et al. 2024), and all other weights: vectors,
    convolutions, and tables of embeddings, whose rows are looked up one at a time."""
    matrices = [p for p in parameters if p.ndim == 2 and p not in embeddings]
    if not matrices:
        raise RecipeError("trainer.optimizer: muon is for matrices, and these networks have none; adamw is for them")
    chosen = set(matrices)
    return matrices, [p for p in parameters if p not in chosen]


def _built(
    cls: type[torch.optim.Optimizer], parameters: list[nn.Parameter], config: OptimizerConfig
) -> torch.optim.Optimizer:
    known = known_arguments(cls)
    options = {key: value for key, value in arguments(config).items() if key in known}
    if "adjust_lr_fn" in known:  # Muon's steps as long as AdamW's, so that one learning rate is for both (arXiv:2502.16982)
        options = {"adjust_lr_fn": "match_rms_adamw"} | options
    if "fused" in known:
        try:
            return cls(parameters, **{"fused": True} | options)
        except (RuntimeError, ValueError):  # not on this device, or not of this kind
            pass
    try:
        return cls(parameters, **options)
    except Exception as error:  # anybody's class may raise anything
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


def optimizer_tensors(optimizer: PhaseOptimizer) -> dict[str, Tensor]:
    """Return an optimizer's state as named tensors, INDEX.KEY, the index being that of the parameter. Settings come from the
    recipe and are not stored.

    Raises:
        TrainingError: it keeps something else than tensors and numbers.
    """
    index: dict[Tensor, int] = {parameter: number for number, parameter in enumerate(optimizer.parameters)}
    return {
        f"{index[parameter]}.{key}": _as_tensor(part, key, value)
        for part in optimizer.parts
        for parameter, entries in part.state.items()
        for key, value in entries.items()
        if value is not None
    }


def _as_tensor(optimizer: torch.optim.Optimizer, key: str, value: Any) -> Tensor:
    try:
        return torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError) as error:
        name = type(optimizer).__name__
        raise TrainingError(f"{name} keeps a {type(value).__name__} as '{key}', which a checkpoint can't hold") from error


def load_optimizer(optimizer: PhaseOptimizer, tensors: Mapping[str, Tensor]) -> None:
    """Load an optimizer's state from the named tensors of `optimizer_tensors`."""
    state: dict[nn.Parameter, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        index, _, key = name.partition(".")
        state.setdefault(optimizer.parameters[int(index)], {})[key] = tensor
    for part in optimizer.parts:
        its = [parameter for group in part.param_groups for parameter in group["params"]]
        numbered = {number: state[parameter] for number, parameter in enumerate(its) if parameter in state}
        part.load_state_dict({"state": numbered, "param_groups": part.state_dict()["param_groups"]})


def check_goes_on(config: OptimizerConfig) -> None:
    """Try that an optimizer takes the same step from its saved state as without a stop, which exact resume needs.

    Raises:
        RecipeError: it doesn't, or can't step without more than gradients.
    """

    def made() -> PhaseOptimizer:
        return PhaseOptimizer([nn.Parameter(torch.ones(2, 3)), nn.Parameter(torch.ones(3))], config, None)

    def step(optimizer: PhaseOptimizer, number: int) -> None:
        for parameter in optimizer.parameters:
            parameter.grad = torch.linspace(-1, number, parameter.numel()).view_as(parameter)
        optimizer.step(1.0)

    through, stopped = made(), made()
    try:
        step(through, 1)
        step(through, 2)
        state = {name: tensor.clone() for name, tensor in optimizer_tensors(through).items()}
        for ours, theirs in zip(stopped.parameters, through.parameters, strict=True):
            ours.data.copy_(theirs.data)
        load_optimizer(stopped, state)
        step(through, 3)
        step(stopped, 3)
    except Exception as error:  # anybody's class may raise anything
        raise RecipeError(f"trainer.optimizer: {config.name}: {error}") from error
    if not all(map(torch.equal, through.parameters, stopped.parameters)):
        raise RecipeError(
            f"trainer.optimizer: {config.name} takes another step when it goes on from its saved state: it keeps something "
            "outside of it, such as in param_groups, and a run could not be resumed exactly"
        )
