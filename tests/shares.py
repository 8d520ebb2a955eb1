"""The processes of test_scale.py: they train a list of recipes one after another, alone or as a share of a pair.

So that one process and two can be compared, the losses' randomness is taken from the rows: while a model computes a loss,
torch's random functions give each row of the result the numbers that the same row of the batch asks for, whatever batch it
is in. Ordinary runs draw by (seed, process, step) and are not like this.
"""

from __future__ import annotations

import faulthandler
import json
from hashlib import blake2b
from itertools import count
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor

import genhub
from genhub.model import GenerativeModel


def train_all(cases: dict[str, Any], share: dict[str, int], from_rows: bool) -> None:
    """Train each recipe into a folder of its name. share: rank, world_size."""
    from accelerate.state import AcceleratorState

    faulthandler.dump_traceback_later(200, exit=True)  # if they wait for each other: where
    for name, recipe in cases.items():
        if share["world_size"] > 1:
            where = f"file://{Path.cwd()}/meeting-{name}-{recipe['trainer']['max_steps']}"  # a place is good for once
            torch.distributed.init_process_group("gloo", init_method=where, **share)
        with mock.patch.object(GenerativeModel, "forward", from_the_rows if from_rows else GenerativeModel.forward):
            folder = genhub.train(recipe, run_dir=name)
        AcceleratorState._reset_state(reset_partial_state=True)
        Path(f"{name}-{share['rank']}.json").write_text(json.dumps(str(folder)))


def from_the_rows(self: GenerativeModel, batch: Any, phase: str) -> Any:
    """In the place of `GenerativeModel.forward`."""
    values = (batch.x, *(batch.conditions.values[name] for name in self.conditions))
    content = zip(*(column.cpu() for column in values), strict=True)
    seeds = [blake2b(b"".join(part.numpy().tobytes() for part in row), digest_size=7).digest() for row in content]
    calls = count()

    def like_rows(draw: Any) -> Any:
        def drawn(*args: Any, device: Any = None, **options: Any) -> Tensor:
            call = next(calls)
            function = draw
            if isinstance(args[0], Tensor):  # randn_like, rand_like
                args, function = (tuple(args[0].shape),), torch_functions[draw.__name__.removesuffix("_like")]
            *bounds, shape = args if isinstance(args[-1], tuple | torch.Size) else ((), args)
            assert shape[0] == len(seeds), "randomness that is no row's own"
            generators = [torch.Generator().manual_seed(int.from_bytes(seed) + call) for seed in seeds]
            return torch.cat([function(*filter(None, bounds), (1, *shape[1:]), generator=g) for g in generators])

        return drawn

    torch_functions = {name: getattr(torch, name) for name in ("randn", "rand", "randint", "randn_like", "rand_like")}
    with mock.patch.multiple(torch, **{name: like_rows(function) for name, function in torch_functions.items()}):
        return self._phases[phase].loss(batch)
