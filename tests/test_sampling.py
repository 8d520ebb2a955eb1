from __future__ import annotations

import models
import numpy as np
import pytest
import torch

import genhub
from genhub.sampling.draw import sample_elements
from genhub.sampling.pictures import image_grid, to_uint8
from genhub.sampling.request import Drawing


def make(cls=models.Pair, shape=(1, 4, 4)) -> models.Pair:
    torch.manual_seed(0)
    return cls(cls.Config(sample_shape=shape, num_classes=10)).eval()


def test_an_image_depends_on_its_seed_and_index_alone():
    model = make()
    ten = sample_elements(model, Drawing(10, seed=3))
    assert torch.equal(sample_elements(model, Drawing(4, seed=3)), ten[:4])
    assert torch.equal(sample_elements(model, Drawing(10, seed=3, batch_size=3)), ten)
    assert not torch.equal(sample_elements(model, Drawing(10, seed=4)), ten)
    assert len({tuple(image.flatten().tolist()) for image in ten}) == 10


def test_labels_are_asked_for_in_turn_or_refused():
    images = sample_elements(make(models.Labelled), Drawing(12))
    assert images[:, 0, 0, 0].tolist() == to_uint8(torch.arange(12) % 10 / 9 * 2 - 1).tolist()
    assert sample_elements(make(models.Labelled), Drawing(3, labels=[9])).float().mean() == 255
    with pytest.raises(genhub.InputError, match="12 is not a label of this model; it has 0 to 9"):
        sample_elements(make(models.Labelled), Drawing(2, labels=[12]))
    with pytest.raises(genhub.InputError, match="Pair is not conditional on labels"):
        sample_elements(make(), Drawing(2, labels=[1]))


def test_options_are_checked_against_the_signature():
    assert genhub.sample(make(), 2, scale=2).shape == (2, 1, 4, 4)
    with pytest.raises(genhub.InputError, match="--set scal: Pair has no such option; did you mean 'scale'"):
        genhub.sample(make(), 2, scal=2)
    with pytest.raises(genhub.InputError, match="--set scale: .* not 'big'"):
        genhub.sample(make(), 2, scale="big")


def test_uint8_covers_the_range():
    values = to_uint8(torch.tensor([-1.5, -1, 0, 1, 1.5]))
    assert values.tolist() == [0, 0, 128, 255, 255]


def test_grid_holds_every_image_in_order():
    images = torch.arange(6, dtype=torch.uint8).mul(40).view(6, 1, 1, 1).expand(6, 1, 64, 64)
    grid = np.asarray(image_grid(images, columns=3))
    assert grid.shape == (2 * 66 + 2, 3 * 66 + 2)
    assert [grid[2 + 66 * (i // 3) + 30, 2 + 66 * (i % 3) + 30] for i in range(6)] == [0, 40, 80, 120, 160, 200]


def test_too_little_memory_draws_fewer_images_at_once():
    asked = []

    class Narrow(models.Pair):  # as on a device that holds five images
        def sample(self, n, **options):
            asked.append(n)
            if n > 5:
                raise torch.OutOfMemoryError("full")
            return super().sample(n, **options)

    images = sample_elements(make(Narrow), Drawing(23, batch_size=20))
    assert asked == [20, 10, 5, 5, 5, 5, 3]
    assert torch.equal(images, sample_elements(make(), Drawing(23)))
