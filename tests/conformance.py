"""Check that a family trains on a kind of column, given others: stopped and gone on with, saved, loaded and drawn from."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import genhub
from genhub.run.run import FolderRun

ROWS = 20
"""Number of rows: two and a half batches, so that the third step begins in one epoch and ends in the next."""

FAMILIES: dict[str, dict[str, Any]] = {
    "ar": {"network": {"hidden_size": 16, "num_layers": 1, "num_heads": 2}},
    "autoencoder": {"channels": [8], "latent_dim": 4},
    "vae": {"channels": [8], "latent_dim": 4},
    "gan": {"latent_dim": 4, "generator": {"channels": [8]}, "discriminator": {"channels": [8]}},
    "cgan": {"latent_dim": 4, "generator": {"channels": [8]}, "discriminator": {"channels": [8]}},
    "ddpm": {"sampling": {"num_inference_steps": 2}},
    "flow": {"sampling": {"num_inference_steps": 2}},
    "meanflow": {"guidance_scale": 2.0},
    "ebm": {"chain_steps": 2, "langevin": {"step_size": 1.0, "noise_std": 0.1}, "sampling": {"num_inference_steps": 3}},
    "eqm": {"sampling": {"num_inference_steps": 2, "step_size": 0.5}},
    "realnvp": {"hidden_features": 16, "num_couplings": 4},
    "tarflow": {"hidden_size": 16, "num_heads": 2, "num_blocks": 2, "layers_per_block": 1},
    "vqvae": {"channels": [8], "num_vq_embeddings": 8},
}
SMALL_UNET = {"block_out_channels": [8, 16], "norm_num_groups": 4, "add_attention": False}
NETWORKS = {
    "image": {"name": "unet", **SMALL_UNET},
    "signal": {"name": "unet1d", **SMALL_UNET},
    "vector": {"name": "mlp", "hidden": 16, "depth": 1},
}
"""Networks of those that have one, by what they draw."""
WITH_NETWORK = {"ddpm", "ebm", "eqm", "flow", "meanflow"}
CONDITIONS: tuple[tuple[str, ...], ...] = (
    (),
    ("label",),
    ("number",),
    ("vector",),
    ("image",),
    ("text",),
    ("label", "number"),
)
TYPICAL = {
    ("ddpm", "image", ("label",)), ("ebm", "vector", ("label",)), ("eqm", "vector", ("number",)),
    ("flow", "vector", ("label", "number")), ("meanflow", "vector", ("label",)), ("realnvp", "vector", ("image",)),
    ("tarflow", "image", ("label",)), ("vae", "signal", ()), ("gan", "vector", ("image",)), ("vae", "vector", ("text",)),
    ("ar", "image", ("text",)), ("vqvae", "signal", ("number",)),
}  # fmt: skip
"""Combinations that are tried every time, slow or not."""

SHAPES = {"image": (1, 8, 8), "signal": (1, 16), "vector": (3,)}
SPANS = {"image": (0.0, 255.0), "signal": (500.0, 1500.0), "vector": (500.0, 1500.0)}
"""Range, in the column's own units, that what is drawn lies in: signals and vectors have a mean of 1000, deviation 10."""
EDGES = (np.arange(16).reshape(4, 4) * 17).astype(np.uint8)
ASKED: dict[str, list[Any]] = {
    "label": ["cat", "dog"],
    "number": [0.0021, 0.0035],
    "vector": [[1.0, -200.0, 0.5], [3.0, 400.0, 0.1]],
    "image": [EDGES, EDGES.T],
    "text": ["a red shoe", "two dogs, one cat"],
}
"""Values that a person asks for, as the file has them: by name, and in the columns' own units."""

Case = tuple[str, str, tuple[str, ...]]
"""Family, target, conditions."""
RESULTS: dict[Case, str] = {}
"""What came of each combination that was tried in this process, with its seconds."""


def cases(target: str) -> list[Any]:
    """Return the families and conditions of a target as pytest's parameters, all but the typical ones slow."""
    found = []
    for family in FAMILIES:
        for conditions in CONDITIONS:
            if family == "cgan" and not conditions:
                continue  # which is a GAN: its Config asks for a condition
            if family == "tarflow" and target == "vector":
                continue  # which has no patches
            if family == "ar" and target != "image":
                continue  # what has no levels it draws by the codes of a vqvae: tests/test_ar_codes.py
            if family == "ar" and conditions == ("image",):
                continue  # four steps move no choice among 256 levels: tests/test_ar.py looks at the logits
            marks = () if (family, target, conditions) in TYPICAL else pytest.mark.slow
            found.append(pytest.param(family, conditions, id=f"{family}-{told(conditions)}", marks=marks))
    return found


def told(conditions: tuple[str, ...]) -> str:
    return "+".join(conditions) or "nothing"


def check(family: str, target: str, conditions: tuple[str, ...], folder: Path, file: Path) -> None:
    """Check one combination, and keep what came of it for the table.

    Args:
        folder: an empty one to train in.
        file: what `write_rows` wrote.
    """
    started, case = time.monotonic(), (family, target, conditions)
    RESULTS[case] = "FAILED"
    recipe = recipe_of(family, target, conditions, file)
    with drawing_when_saved() as drawn:
        whole = genhub.train(recipe, run_dir=str(folder / "whole"))
    genhub.train(recipe, ["trainer.max_steps=2"], run_dir=str(folder / "parts"))
    same_bits(whole, genhub.train(recipe, run_dir=str(folder / "parts")))
    check_drawing(whole, target, conditions, *drawn[-1], folder / "drawn.npz")
    RESULTS[case] = f"{time.monotonic() - started:.1f} s"


# Data


def write_rows(target: str, file: Path) -> None:
    """Write a parquet file with a target called `drawn`, and a column of every kind of condition, some rows without one."""
    from datasets import Array2D, Dataset, Features, Image, List, Value
    from PIL import Image as Pictures

    random = np.random.default_rng(0)

    def pictures(side: int) -> list[Any]:
        return [Pictures.fromarray(random.integers(0, 256, (side, side), dtype=np.uint8)) for _ in range(ROWS)]

    targets = {
        "image": (lambda: pictures(8), Image()),
        "signal": (lambda: random.normal(1000, 10, (ROWS, 1, 16)).astype(np.float32), Array2D((1, 16), "float32")),
        "vector": (lambda: random.normal(1000, 10, (ROWS, 3)).astype(np.float32), List(Value("float32"))),
    }
    make, feature = targets[target]
    scales = np.array([1.0, 200.0, 0.1])
    columns = {
        "drawn": list(make()),
        "label": ["dog" if number % 3 == 1 else "cat" for number in range(ROWS)],
        "number": random.normal(0.003, 0.001, ROWS).tolist(),
        "vector": list((random.normal(0, 1, (ROWS, 3)) * scales).astype(np.float32)),
        "image": pictures(4),
        "text": [f"{'a red shoe' if number % 2 else 'two dogs, one cat'} {number}" for number in range(ROWS)],
    }
    for every, name in enumerate(ASKED, start=3):
        columns[name] = [value if number % every else None for number, value in enumerate(columns[name])]
    features = {"drawn": feature, "label": Value("string"), "number": Value("float64"),
                "vector": List(Value("float32")), "image": Image(), "text": Value("string")}  # fmt: skip
    Dataset.from_dict(columns, Features(features)).to_parquet(file)


def recipe_of(family: str, target: str, conditions: tuple[str, ...], file: Path) -> dict[str, Any]:
    """Return a recipe of four steps, with tiny networks."""
    model = {"name": family, "conditions": list(conditions), **FAMILIES[family]}
    if family == "meanflow" and not conditions:
        del model["guidance_scale"]
    if family in WITH_NETWORK:
        attends = {"add_attention": True} if target == "image" and "text" in conditions else {}  # else it takes no tokens
        model["network"] = NETWORKS[target] | attends
    columns = {"drawn": {"modality": target}}
    trainer = {"max_steps": 4, "log_every": 2, "sample_every": None, "save_every": 2, "num_samples": 2, "trackers": [],
               "ema": {"decay": 0.5}, "optimizer": {"lr": 0.01}}  # fmt: skip
    data = {"name": str(file), "target": "drawn", "columns": columns, "batch_size": 8}
    return {"model": model, "data": data, "trainer": trainer}


# Checks


def asked(conditions: tuple[str, ...]) -> dict[str, list[Any]]:
    return {name: ASKED[name] for name in conditions}


@contextmanager
def drawing_when_saved() -> Iterator[list[tuple[torch.Tensor, torch.Tensor]]]:
    """Draw from the model in memory each time that it is saved; the list has what was drawn as asked, and unasked."""
    save, drawn = FolderRun.save_checkpoint, []

    def draw_and_save(run: Any, step: int, model: Any, *rest: Any) -> Path:
        rows = genhub.sample(model, 4, seed=1, conditions=asked(model.config.conditions))
        drawn.append((rows, genhub.sample(model, 3, seed=1)))
        return save(run, step, model, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FolderRun, "save_checkpoint", draw_and_save)
        yield drawn


def same_bits(a: Path, b: Path) -> None:
    names = sorted(file.relative_to(a).as_posix() for file in a.rglob("*.safetensors"))
    assert names == sorted(file.relative_to(b).as_posix() for file in b.rglob("*.safetensors"))
    assert {"trainer/weights.safetensors", "trainer/optimizer-0.safetensors"} <= set(names)
    for name in names:
        left, right = load_file(a / name), load_file(b / name)
        assert left.keys() == right.keys(), name
        for key in left:
            assert torch.equal(left[key], right[key]), (name, key)


def check_drawing(
    saved: Path, target: str, conditions: tuple[str, ...], drawn: torch.Tensor, unasked: torch.Tensor, out: Path
) -> None:
    """Check that the saved model draws what the one in memory drew in the column's own units, (4, *shape) as `asked` and
    (3, *shape) without, is moved by what it is asked for, and writes it to a file."""
    assert drawn.shape == (4, *SHAPES[target])
    assert drawn.dtype == (torch.uint8 if target == "image" else torch.float32)
    low, high = SPANS[target]
    assert low <= drawn.min() < drawn.max() <= high
    wanted = asked(conditions)
    model = genhub.load(saved)
    for source in (saved, model, model):
        assert torch.equal(genhub.sample(source, 4, seed=1, conditions=wanted), drawn)
    assert unasked.shape == (3, *SHAPES[target])
    assert torch.equal(genhub.sample(model, 3, seed=1), unasked)
    for name in conditions:
        others = wanted | {name: wanted[name][::-1]}
        assert not torch.equal(genhub.sample(model, 4, seed=1, conditions=others), drawn), f"{name} moves nothing"

    assert torch.equal(genhub.sample(saved, 4, seed=1, conditions=wanted, out=out), drawn)
    with np.load(out) as arrays:
        check_file({name: arrays[name] for name in arrays.files}, target, conditions, drawn)


def check_file(arrays: Mapping[str, Any], target: str, conditions: tuple[str, ...], drawn: torch.Tensor) -> None:
    """Check that a file has the rows, and beside them what they were given, in the columns' own units."""
    rows = np.moveaxis(arrays["drawn"], -1, 1) if target == "image" else arrays["drawn"]
    assert np.array_equal(rows, drawn.numpy())
    for name in conditions:
        given = arrays[name]
        if name == "label":
            given = arrays["label_names"][given]
            assert given.tolist() == ASKED["label"] * 2
        elif name == "text":
            assert [bytes(row).rstrip(b"\0").decode() for row in given] == ASKED["text"] * 2
        else:
            expected = np.array(ASKED[name] * 2)
            np.testing.assert_allclose(given.reshape(expected.shape), expected, rtol=1e-4, atol=1e-4 * expected.std())


# The table


def table(target: str) -> str:
    """Return what came of the combinations of a target: families by what they are given."""
    heads = [told(conditions) for conditions in CONDITIONS]
    lines = [f"{target:12}" + "".join(f"{head:>14}" for head in heads)]
    for family in FAMILIES:
        cells = [RESULTS.get((family, target, conditions), "-") for conditions in CONDITIONS]
        lines.append(f"{family:12}" + "".join(f"{cell:>14}" for cell in cells))
    return "\n".join(lines)


def print_table(target: str) -> None:
    """Print the table past pytest's workers, whose standard output goes nowhere; seen with -s."""
    print(f"\n{table(target)}", file=sys.stderr)
