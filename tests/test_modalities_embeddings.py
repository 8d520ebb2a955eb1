"""The modules by which a network is given one condition: what they give, for rows that have it and rows that haven't."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from genhub import Image, Label, Modality, Number, Signal, Text, Vector

WIDTH = 12
CASES: list[tuple[Modality, tuple[int, ...], str]] = [
    (Label(number=3), (4, 4), "vector"),
    (Number(mean=1, std=2), (), "vector"),
    (Vector(shape=(3,), mean=(0,) * 3, std=(1,) * 3), (16,), "vector"),
    (Image(shape=(2, 9, 7)), (), "vector"),
    (Image(shape=(2, 9, 7)), (16,), "vector"),
    (Image(shape=(2, 9, 7)), (4, 4, 4), "vector"),
    (Image(shape=(2, 9, 7)), (9, 7), "spatial"),
    (Image(shape=(2, 9, 7)), (4, 5), "spatial"),
    (Image(shape=(2, 9, 7)), (18, 14), "spatial"),
    (Signal(shape=(2, 25), mean=(0,) * 2, std=(1,) * 2), (25,), "spatial"),
    (Signal(shape=(2, 25), mean=(0,) * 2, std=(1,) * 2), (10,), "spatial"),
    (Signal(shape=(2, 25), mean=(0,) * 2, std=(1,) * 2), (8, 8), "vector"),
    (Text(shape=(9,)), (8, 8), "sequence"),
    (Text(shape=(9,)), (), "sequence"),
]
every = pytest.mark.parametrize(("modality", "sides", "gives"), CASES)


def values_of(modality: Modality, n: int = 4) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    top = modality.classes or 200
    kept = torch.randint(top, (n, *modality.shape), generator=generator).to(getattr(torch, modality.dtype))
    return modality.to_batch(kept)


def made(modality: Modality, sides: tuple[int, ...]) -> Any:
    torch.manual_seed(0)
    return modality.condition(WIDTH, sides)


@every
def test_what_is_given(modality: Modality, sides: tuple[int, ...], gives: str) -> None:
    embedding = made(modality, sides)
    given = embedding(values_of(modality), torch.ones(4, dtype=torch.bool))
    assert embedding.gives == gives
    if gives == "vector":
        assert given.spatial is None
        assert given.vector.shape == (4, WIDTH)
    elif gives == "sequence":
        assert given.sequence.shape == (4, *modality.shape, WIDTH)
        assert given.mask.shape == given.sequence.shape[:2]
    else:
        assert given.vector is None
        assert given.spatial.shape == (4, embedding.channels, *sides)
        assert embedding.channels == modality.shape[0] + 1
        assert torch.equal(given.spatial[:, -1], torch.ones(4, *sides))


@every
def test_rows_that_have_none_are_told_so_alike_and_leave_the_others_alone(
    modality: Modality, sides: tuple[int, ...], gives: str
) -> None:
    embedding = made(modality, sides)
    with torch.no_grad():
        embedding.nothing.fill_(7)
    values, present = values_of(modality), torch.tensor([True, False, True, False])
    some = getattr(embedding(values, present), gives)
    all_ = getattr(embedding(values, torch.ones(4, dtype=torch.bool)), gives)
    assert torch.equal(some[present], all_[present])
    assert torch.equal(some[1], some[3])
    assert not torch.equal(some[1], all_[1])
    other = getattr(embedding(torch.zeros_like(values), present), gives)
    assert torch.equal(some[1], other[1])  # whatever lies in their place


@every
@pytest.mark.parametrize("share", [True, False])
def test_every_parameter_takes_part(modality: Modality, sides: tuple[int, ...], gives: str, share: bool) -> None:
    embedding = made(modality, sides)
    given = embedding(values_of(modality), torch.full((4,), share))
    getattr(given, gives).square().sum().backward()
    assert all(parameter.grad is not None for parameter in embedding.parameters())
    assert list(embedding.parameters())


@every
def test_made_alike_from_one_seed_and_loaded_alike(modality: Modality, sides: tuple[int, ...], gives: str) -> None:
    one, other = made(modality, sides), made(modality, sides)
    assert one.state_dict().keys() == other.state_dict().keys()
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))
    fresh = modality.condition(WIDTH, sides)
    fresh.load_state_dict(one.state_dict())
    values, present = values_of(modality), torch.tensor([True, True, False, True])
    assert torch.equal(getattr(fresh(values, present), gives), getattr(one(values, present), gives))


def test_classes_and_numbers_are_told_apart() -> None:
    label, number = made(Label(number=3), ()), made(Number(), ())
    vectors = label(torch.arange(3), torch.ones(3, dtype=torch.bool)).vector
    assert len(vectors.unique(dim=0)) == 3
    near = number(torch.tensor([0.0, 0.01, 3.0, 100.0]), torch.ones(4, dtype=torch.bool)).vector
    assert 0 < (near[0] - near[1]).norm() < (near[0] - near[2]).norm()
    assert torch.isfinite(near).all()


def test_an_image_keeps_its_place() -> None:
    image = torch.full((1, 1, 8, 8), -1.0)
    image[..., :4, 4:] = 1
    for sides in ((4, 4), (8, 8), (16, 16)):
        spatial = made(Image(shape=(1, 8, 8)), sides)(image, torch.tensor([True])).spatial
        assert spatial[0, 0, 0, -1] == 1
        assert spatial[0, 0, -1, -1] == spatial[0, 0, 0, 0] == -1
        assert abs(spatial[0, 0].mean() - image.mean()) < 0.05
