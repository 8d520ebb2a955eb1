"""Estimate what a run takes, for `genhub train --dry-run`: parameters and memory."""

from __future__ import annotations

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
            "rows a forward pass": parts, "memory": memory, "memory in all": sum(memory.values())}  # fmt: skip
