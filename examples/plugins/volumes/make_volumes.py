"""Write volumes to train on: spheres and cubes of any size, at any place, a folder a class.

python make_volumes.py volumes writes volumes/sphere/000.npy to volumes/cube/099.npy, each 12 x 12 x 12.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

SIDE = 12


def make_volumes(folder: Path, number: int = 200, side: int = SIDE, seed: int = 0) -> None:
    """Write volumes (side, side, side) float32, half of them spheres and half cubes: 1 inside, 0 outside, and between the
    two at the surface."""
    generator = np.random.default_rng(seed)
    places = np.stack(np.meshgrid(*[np.arange(side) + 0.5] * 3, indexing="ij"))
    for place in range(number):
        kind = ("sphere", "cube")[place % 2]
        radius = generator.uniform(0.2, 0.35) * side
        centre = generator.uniform(radius, side - radius, 3)
        away = np.abs(places - centre[:, None, None, None])
        distance = np.sqrt((away**2).sum(0)) if kind == "sphere" else away.max(0)
        file = folder / kind / f"{place // 2:03d}.npy"
        file.parent.mkdir(parents=True, exist_ok=True)
        np.save(file, np.clip(radius - distance + 0.5, 0, 1).astype(np.float32))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Write spheres and cubes, (12, 12, 12) each, to train on.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--number", type=int, default=200)
    make_volumes(**vars(parser.parse_args()))
