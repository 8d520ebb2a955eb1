"""Noise of generators, one an image, and what lies between two."""

from __future__ import annotations

import torch

from genhub import randn
from genhub.ground.randomness import Between


def test_noise_is_the_images_own():
    generators = [torch.Generator().manual_seed(seed) for seed in (1, 2, 3)]
    noise = randn((3, 2, 4, 4), generators)
    alone = randn((1, 2, 4, 4), torch.Generator().manual_seed(2))
    assert torch.equal(noise[1:2], alone)
    assert randn((3, 5)).shape == (3, 5)


def test_noise_is_diffusers_own():
    from diffusers.utils.torch_utils import randn_tensor

    ours = randn((2, 3), [torch.Generator().manual_seed(seed) for seed in (1, 2)], "cpu")
    theirs = randn_tensor((2, 3), generator=[torch.Generator().manual_seed(seed) for seed in (1, 2)])
    assert torch.equal(ours, theirs)


def test_noise_between_two_generators_is_noise():
    def between(share: float) -> torch.Tensor:
        return randn((1, 100, 100), [Between(*(torch.Generator().manual_seed(seed) for seed in (1, 2)), share, seed=3)])

    for share, seed in [(0, 1), (1, 2)]:
        own = randn((1, 100, 100), torch.Generator().manual_seed(seed))
        assert torch.allclose(between(share), own, atol=1e-6)
    assert abs(between(0.5).std() - 1) < 0.02
    one, other = (Between(torch.Generator(), torch.Generator(), share, seed=3) for share in (0.2, 0.9))
    assert torch.equal(torch.rand(5, generator=one), torch.rand(5, generator=other))
