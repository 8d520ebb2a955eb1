"""Estimate what limits a recipe on many GPUs, for `genhub train --dry-run --gpu NAME`: from the operations of one step,
counted here, and a card's figures. docs/scale.md has the formulas, what they were checked against, what they leave out."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from copy import copy
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from genhub.data.batches import TableData
from genhub.errors import InputError, did_you_mean, shown
from genhub.interfaces.config import TrainerConfig
from genhub.interfaces.model import Batch
from genhub.recipe.sections import AccelerateConfig
from genhub.run.prepare import Prepared
from genhub.training.optim import FrozenNetworks, build_optimizers, optimizer_tensors, trained_parameters

STARTED, IN_GRAPH = 60e-6, 15e-6
"""Seconds that the host takes to start an operation, and that one takes in a CUDA graph at least; measured on one H200."""
MATRIX_SHARE, MEMORY_SHARE, WIRE_SHARE = 0.2, 0.8, 0.8
"""Shares of the data sheet's rates that convolutions and products, other operations, and messages reach; the first two
measured on one H200."""
HOP = 10e-6
"""Seconds of each hop of a message, which needs as many as log2 of the processes, there and back."""
BUCKET = 25 * 2**20
"""Bytes of gradients that DistributedDataParallel sends at a time."""
DISK = 10**9
"""Bytes that a shared file system takes in a second."""
ROWS = (4, 8)
"""Two sizes of a batch on which operations are counted: what grows from one to the other is a row's."""
ATEN = torch.ops.aten
FLOPS = flop_registry | {
    ATEN._scaled_dot_product_flash_attention_for_cpu: flop_registry[ATEN._scaled_dot_product_flash_attention],
    ATEN._scaled_dot_product_flash_attention_for_cpu_backward: flop_registry[
        ATEN._scaled_dot_product_flash_attention_backward
    ],
}
"""Formulas of torch's for an operation's floating-point operations; attention has another name on a CPU."""


@dataclass(frozen=True)
class Gpu:
    """A card by its maker's data sheet; no sparsity."""

    title: str
    matrix: Mapping[str, float]
    """Rates of products in tf32, float32 and half precision, 10^12 operations a second."""
    memory: int
    """Size in GiB."""
    bandwidth: float
    """Rate of its memory, 10^9 bytes a second."""
    link: float
    """Rate to another card of the node, one way, 10^9 bytes a second."""
    wire: float
    """Rate to other nodes, one way, each card's share, 10^9 bytes a second."""
    node: int = 8
    """Cards of a node."""


def _gpu(title: str, tf32: float, float32: float, half: float, *rest: Any) -> Gpu:
    return Gpu(title, {"tf32": tf32, "float32": float32, "half": half}, *rest)


GPUS = {
    "a100": _gpu("A100 80 GB SXM", 156, 19.5, 312, 80, 2039, 300, 25),
    "b200": _gpu("B200", 1125, 75, 2250, 180, 7700, 900, 50),
    "h100": _gpu("H100 SXM", 494, 67, 989, 80, 3350, 450, 50),
    "h200": _gpu("H200 SXM", 494, 67, 989, 141, 4800, 450, 50),
    "l40s": _gpu("L40S", 183, 91.6, 362, 48, 864, 25, 25),
    "rtx4090": _gpu("RTX 4090", 82.6, 82.6, 165, 24, 1008, 25, 12.5),
}


@dataclass(frozen=True)
class Work:
    """Work of one step, whatever does it."""

    rows: int
    operations: float
    """Number of operations of all phases, each by how often it is due."""
    graphs: bool
    """Whether one card can have them as a CUDA graph: the model has one phase."""
    flops: float
    """Floating-point operations of products and convolutions, for a row."""
    bytes: float
    """Bytes that all other operations read and write, for a row, in float32."""
    fixed: float
    """Bytes that they read and write once a step: an embedding's table."""
    gradients: float
    """Bytes of the gradients that processes add up."""
    kept: float
    """Bytes of a checkpoint."""
    row_bytes: int
    """Bytes of a row of the data as it is kept."""
    read: float
    """Rows a second that one process reads here."""


@dataclass(frozen=True)
class Forecast:
    """A step on so many cards, in seconds."""

    work: Work
    gpu: Gpu
    processes: int
    card: float
    """Time of the card's own work."""
    host: float
    """Time that the host takes to start it; the longer of the two counts."""
    wire: float
    """Time in which the gradients are added up."""
    waits: float
    """Part of it that is not behind the backward pass."""

    @property
    def step(self) -> float:
        return max(self.card, self.host) + self.waits


def work_of(prepared: Prepared) -> Work:
    """Count what a step of a recipe takes, by making one on a few rows on the CPU, which moves the model's weights."""
    config, model, data = prepared.recipe.trainer, prepared.model, prepared.data
    assert isinstance(config, AccelerateConfig)
    phases = list(model.phases())
    optimizers = build_optimizers(model, phases, config)
    frozen = FrozenNetworks(model, phases)
    few, some = (_batch(prepared, rows) for rows in ROWS)
    counts = []
    for batch in (few, some):
        counts.append(_Count())
        for phase in phases:
            frozen.all_but(phase)
            counts[-1].share = 1 / phase.interval
            with counts[-1]:
                model(batch, phase.name)["loss"].backward()
            optimizers[frozenset(phase.trains)].step(1.0)
    more = ROWS[1] - ROWS[0]
    flops, moved = ((getattr(counts[1], name) - getattr(counts[0], name)) / more for name in ("flops", "bytes"))
    trained = {phase.trains: 4 * sum(p.numel() for p in trained_parameters(model, phase.trains)) for phase in phases}
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    state = sum(tensor.nbytes for each in optimizers.values() for tensor in optimizer_tensors(each).values())
    kept = weights + (1 + bool(config.ema)) * sum(trained.values()) + state
    row = some.cached.get("latents", data.kept([0]) if isinstance(data, TableData) else some.x)[:1]
    gradients = sum(trained[phase.trains] / phase.interval for phase in phases)
    return Work(
        rows=data.config.batch_size, operations=counts[1].operations, graphs=len(phases) == 1, flops=flops, bytes=moved,
        fixed=max(0.0, counts[0].bytes - ROWS[0] * moved), gradients=gradients, kept=kept, row_bytes=row.nbytes,
        read=_read(prepared),
    )  # fmt: skip


def _batch(prepared: Prepared, rows: int) -> Batch:
    """Return a batch of so many rows as training has them, with latents where they are computed once."""
    data = copy(prepared.data)
    data.config = data.config.model_copy(update={"batch_size": rows})
    batch = next(data.batches(seed=prepared.recipe.seed))
    encoder = prepared.model.frozen_encoder() if data.config.cache_latents else None
    if encoder is None:
        return batch
    with torch.no_grad():
        return replace(batch, x=batch.x.new_empty((rows, 0)), cached={"latents": encoder.encode(batch.x).float()})


def _read(prepared: Prepared) -> float:
    """Return how many rows a second one process reads here."""
    batches = prepared.data.batches(seed=prepared.recipe.seed)
    next(batches)
    started = time.perf_counter()
    rows = sum(len(batch.x) for batch in islice(batches, 3))
    return rows / max(1e-9, time.perf_counter() - started)


class _Count(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts operations, what products take, and the bytes that the others move; views are free."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.share, self.operations, self.flops, self.bytes = 1.0, 0.0, 0.0, 0.0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if any(each.alias_info is not None and not each.alias_info.is_write for each in func._schema.returns):
            return out
        self.operations += self.share
        if flops := FLOPS.get(func._overloadpacket):
            self.flops += self.share * flops(*args, **(kwargs or {}), out_val=out)
        else:
            self.bytes += self.share * sum(
                leaf.nbytes for leaf in tree_leaves((args, kwargs, out)) if isinstance(leaf, Tensor)
            )
        return out


def gpu_called(name: str, config: TrainerConfig) -> Gpu:
    """Return the card of a name, in any case.

    Raises:
        InputError: no card of that name is known, or what the trainer does in a step.
    """
    if not isinstance(config, AccelerateConfig):
        raise InputError(
            f"--gpu: what a step of trainer.name: {shown(config.name)} takes is not known, accelerate's alone is"
        )
    if name.lower() not in GPUS:
        raise InputError(f"--gpu: no card is called {name}; {did_you_mean(name.lower(), GPUS)}")
    return GPUS[name.lower()]


def forecast(work: Work, config: AccelerateConfig, gpu: Gpu, processes: int) -> Forecast:
    """Return how long a step takes on so many cards: the longer of the card's work and the host's, and of the gradients'
    ring what is not behind the backward pass, which is two thirds of it."""
    half, pieces, parts = config.mixed_precision != "no", config.sharding == "full", config.gradient_accumulation_steps
    rate = 1e12 * gpu.matrix["half" if half else "tf32" if config.tf32 else "float32"]
    rows = work.rows / processes
    passes = 10 * work.gradients / (processes if pieces else 1)  # AdamW's and the averages', over all weights
    moved = (rows * work.bytes + parts * work.fixed) * (0.5 if half else 1) + passes
    card = rows * work.flops / (MATRIX_SHARE * rate) + moved / (MEMORY_SHARE * 1e9 * gpu.bandwidth)
    graphs = config.compile and work.graphs and processes == 1
    host = parts * work.operations * (IN_GRAPH if graphs else STARTED)
    if processes == 1:
        return Forecast(work, gpu, processes, card, host, 0.0, 0.0)
    between = gpu.link if processes <= gpu.node else min(gpu.link, gpu.node * gpu.wire)  # a ring through each card's wire
    around = 2 * parts + 1 if pieces else 2
    messages = math.ceil(work.gradients / BUCKET)
    wire = around * (processes - 1) / processes * work.gradients / (WIRE_SHARE * 1e9 * between)
    wire += around * messages * math.log2(processes) * HOP
    hidden = 0.0 if pieces else 2 / 3 * max(card, host)
    return Forecast(work, gpu, processes, card, host, wire, max(wire / messages, wire - hidden))


def scaled(prepared: Prepared, gpu: Gpu, processes: int, memory: Mapping[str, float]) -> list[str]:
    """Return what a person is told of a recipe of the built-in trainer on so many cards.

    Args:
        memory: bytes on one card, by what they hold, as `estimate` says.
    """
    config, work = prepared.recipe.trainer, work_of(prepared)
    assert isinstance(config, AccelerateConfig)
    now, alone = forecast(work, config, gpu, processes), forecast(work, config, gpu, 1)
    many = processes
    rows = work.rows / now.step
    limits = {"the card's own work": now.card, "the host, which starts the operations": now.host, "the wire": now.waits}
    limit = max(limits, key=lambda name: limits[name])
    saving = work.kept / DISK / (config.save_every * now.step)
    at_node = rows * min(many, gpu.node) / many
    lines = [
        f"Scale    {many} {gpu.title}, {work.rows / many:g} rows each: an estimate (docs/scale.md)",
        f"         card: {work.flops * work.rows / many / 1e9:,.1f} GFLOP and other operations, {_ms(now.card)}",
        f"         host: {work.operations:,.0f} operations a step, {_ms(now.host)}",
    ]
    if many > 1:
        hidden = f"{_ms(now.waits)} of them not behind the backward pass"
        lines.append(f"         wire: {work.gradients / 2**20:,.1f} MiB of gradients, {_ms(now.wire)}, {hidden}")
    speed = f"{rows:,.0f} rows/s" + (f", {alone.step / now.step:.1f} times one card" if many > 1 else "")
    state = sum(memory.values()) - memory["activations"]
    filled = state / (many if config.sharding == "full" else 1)
    filled += memory["activations"] / many * (1 if config.mixed_precision == "no" else 0.5)
    here = f"one process here reads {work.read:,.0f} rows/s"
    return [
        *lines,
        f"         memory: {filled / 2**30:.1f} of {gpu.memory} GiB a card",
        f"         a step takes {_ms(now.step)}: {speed}; what limits it is {limit}",
        f"         data: {at_node:,.0f} rows/s a node, {at_node * work.row_bytes / 2**20:,.1f} MiB/s; {here}",
        f"         checkpoints: {work.kept / 2**20:,.1f} MiB, {work.kept / DISK:.2f} s at 1 GB/s, {saving:.1%} of the time",
    ]


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:.3g} ms"
