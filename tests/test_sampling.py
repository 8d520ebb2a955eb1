from __future__ import annotations

import models
import pytest
import torch

import genhub
from genhub.sampling.draw import sample_elements
from genhub.sampling.request import Drawing


def make(cls=models.Pair, shape=(1, 4, 4)) -> models.Pair:
    torch.manual_seed(0)
    given = {"conditions": ("label",)} if cls is models.Labelled else {}
    return cls(cls.Config(data=models.images(shape, 10 if given else 0), **given)).eval()


def test_an_image_depends_on_its_seed_and_index_alone():
    model = make()
    ten = sample_elements(model, Drawing(10, seed=3))
    assert torch.equal(sample_elements(model, Drawing(4, seed=3)), ten[:4])
    assert torch.equal(sample_elements(model, Drawing(10, seed=3, batch_size=3)), ten)
    assert not torch.equal(sample_elements(model, Drawing(10, seed=4)), ten)
    assert len({tuple(image.flatten().tolist()) for image in ten}) == 10


def test_classes_take_turns_or_are_asked_for():
    greys = [round(255 * label / 9) for label in range(10)]
    elements = sample_elements(make(models.Labelled), Drawing(12))
    assert elements[:, 0, 0, 0].tolist() == [greys[number % 10] for number in range(12)]
    drawing = Drawing(5, conditions={"label": torch.tensor([9, 2])})
    assert sample_elements(make(models.Labelled), drawing)[:, 0, 0, 0].tolist() == [greys[n] for n in (9, 2, 9, 2, 9)]
    part = sample_elements(make(models.Labelled), drawing.part(range(3, 5)))
    assert part[:, 0, 0, 0].tolist() == [greys[2], greys[9]]


def test_options_are_checked_against_the_signature():
    assert genhub.sample(make(), 2, scale=2).shape == (2, 1, 4, 4)
    with pytest.raises(genhub.InputError, match="--set scal: Pair has no such option; did you mean 'scale'"):
        genhub.sample(make(), 2, scal=2)
    with pytest.raises(genhub.InputError, match="--set scale: .* not 'big'"):
        genhub.sample(make(), 2, scale="big")


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
