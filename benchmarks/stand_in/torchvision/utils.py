"""Grids of images, as the peers save them when an epoch ends."""

import math

import torch
from PIL import Image


def make_grid(images, nrow=8, padding=2, normalize=False, **_):
    """(n, c, h, w) to (3, height, width)."""
    if normalize:
        images = (images - images.amin()) / (images.amax() - images.amin()).clamp(min=1e-5)
    n, _, height, width = images.shape
    rows = math.ceil(n / nrow)
    grid = images.new_zeros(3, rows * (height + padding) + padding, nrow * (width + padding) + padding)
    for index, image in enumerate(images):
        top, left = (
            padding + place * (side + padding) for place, side in zip(divmod(index, nrow), (height, width), strict=True)
        )
        grid[:, top : top + height, left : left + width] = image
    return grid


def save_image(image, path, nrow=8):
    grid = make_grid(image, nrow) if image.dim() == 4 else image
    pixels = grid.mul(255).add(0.5).clamp(0, 255).permute(1, 2, 0).to("cpu", torch.uint8)
    Image.fromarray(pixels.numpy()).save(path)
