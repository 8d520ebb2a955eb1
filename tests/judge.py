"""How good 8x8 digits are, by measures that need no download: pixel-space Frechet distance, an SVC, nearest neighbours."""

from __future__ import annotations

import numpy as np
from sklearn.datasets import load_digits
from sklearn.svm import SVC


def frechet(a: np.ndarray, b: np.ndarray) -> float:
    """Frechet distance between Gaussian fits of two sets of rows: |m_a - m_b|^2 + tr(A + B - 2 (A^1/2 B A^1/2)^1/2)."""
    means, covariances = (a.mean(0), b.mean(0)), (np.cov(a.T), np.cov(b.T))
    values, vectors = np.linalg.eigh(covariances[0])
    root = (vectors * np.sqrt(values.clip(0))) @ vectors.T
    cross = np.sqrt(np.linalg.eigvalsh(root @ covariances[1] @ root).clip(0)).sum()
    return float(((means[0] - means[1]) ** 2).sum() + np.trace(covariances[0]) + np.trace(covariances[1]) - 2 * cross)


def nearest(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """L2 distance of each row of a to the nearest row of b."""
    squares = (a**2).sum(1)[:, None] + (b**2).sum(1)[None] - 2 * a @ b.T
    return np.sqrt(squares.clip(0)).min(1)


def judge(images: np.ndarray) -> dict[str, float]:
    """Figures for generated digits (n, 8, 8, 1) uint8.

    frechet: against all 1,797 real digits, pixels in [0, 1]. Two halves of the real data are 0.07 apart.
    smallest_class: share of the rarest class, by an SVC trained on two thirds of the real digits.
    near: share with a real neighbour within the 99th percentile of held-out digits' distances.
    copies: share with one under their 1st percentile.
    """
    digits = load_digits()
    real, generated = digits.data / 16, images.reshape(len(images), -1) / 255
    train, held_out = _thirds(len(real))
    shares = np.bincount(read_labels(images), minlength=10) / len(generated)
    low, high = np.percentile(nearest(real[held_out], real[train]), [1, 99])
    distances = nearest(generated, real)
    return {"frechet": frechet(generated, real), "smallest_class": shares.min(), "near": (distances <= high).mean(),
            "copies": (distances < low).mean()}  # fmt: skip


def read_labels(images: np.ndarray) -> np.ndarray:
    """(n,) what an SVC, trained on two thirds of the real digits, reads in images (n, 8, 8, 1) uint8."""
    digits = load_digits()
    train, _ = _thirds(len(digits.data))
    classifier = SVC().fit(digits.data[train] / 16, digits.target[train])
    return classifier.predict(images.reshape(len(images), -1) / 255)


def _thirds(n: int) -> tuple[np.ndarray, np.ndarray]:
    order = np.random.RandomState(0).permutation(n)
    return order[: n * 2 // 3], order[n * 2 // 3 :]
