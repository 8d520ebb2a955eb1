"""Estimate what a run takes, for `genhub train --dry-run`: parameters, memory, and what bf16 would be worth."""

from __future__ import annotations

import time
from typing import Any

import torch
from torch import Tensor

from genhub.ground.processes import Share
from genhub.recipe.sections import AccelerateConfig
from genhub.run.prepare import Prepared


def estimate(prepared: Prepared) -> dict[str, Any]:
    """Return what a run will take: parameters, and bytes of memory at its batch size, from one forward pass on the CPU."""
    config, model, data = prepared.recipe.trainer, prepared.model, prepared.data
    built_in = config if isinstance(config, AccelerateConfig) else None  # of another trainer only the model's part is known
    accumulation = built_in.gradient_accumulation_steps if built_in else 1
    parts = data.config.batch_size // accumulation
    batch = next(data.batches(Share(accumulation=accumulation), seed=prepared.recipe.seed))
    saved: dict[int, int] = {}

    def count(tensor: Tensor) -> Tensor:
        saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    kept = []  # what backward would need stays alive, so that no address is counted for two
    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        for phase in model.phases():
            kept.append(model(batch, phase.name))
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    memory = {"weights and gradients": 2 * weights}
    if built_in:
        adaptive = 0 if built_in.optimizer.name == "sgd" and not built_in.optimizer.momentum else 2
        memory |= {"optimizer": adaptive * weights, "averages": weights if built_in.ema else 0}
    memory["activations"] = max(0, sum(saved.values()) - weights)
    return {"parameters": sum(p.numel() for p in model.parameters()), "steps": config.max_steps,
            "images a forward pass": parts, "memory": memory, "memory in all": sum(memory.values())}  # fmt: skip


def time_in_bf16(prepared: Prepared) -> tuple[float, float] | None:
    """Return the seconds of a step's forward and backward on this CPU as the recipe has it, and with `mixed_precision:
    bf16`: the fastest of three, in turn. None where the recipe has chosen, or the CPU can't multiply in bf16, or won't be
    used.

    Nothing chooses it by itself: it changes what is computed, and a run's result must not hang on a stopwatch.
    """
    config, model, data = prepared.recipe.trainer, prepared.model, prepared.data
    elsewhere = config.device != "cpu" and torch.accelerator.is_available()
    if not isinstance(config, AccelerateConfig) or config.mixed_precision != "no" or elsewhere:
        return None
    known = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}  # of late torch
    if not any(has for name, has in known.items() if "bf16" in name):
        return None
    batch = next(data.batches(Share(accumulation=config.gradient_accumulation_steps), seed=prepared.recipe.seed))
    found: dict[bool, list[float]] = {False: [], True: []}
    for turn in range(8):
        half, started = turn % 2 == 1, time.perf_counter()
        for phase in model.phases():
            with torch.autocast("cpu", torch.bfloat16, enabled=half):
                loss = model(batch, phase.name)["loss"]
            loss.backward()
        model.zero_grad(set_to_none=True)
        found[half].append(time.perf_counter() - started)
    return min(found[False][1:]), min(found[True][1:])  # the first of each sets up
