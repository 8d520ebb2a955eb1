"""Installed beside genhub, so that its name is registered: pip install . && pytest"""

from __future__ import annotations

import copy

import torch
from genhub_diloco import Copies, DiLoCo, load_moments, moments
from torch import nn

import genhub
from genhub.testing import check_trainer


class Line(genhub.GenerativeModel):
    """One network whose loss is its distance from 1."""

    def __init__(self, config: genhub.ModelConfig) -> None:
        super().__init__(config)
        self.net = nn.Linear(2, 2)

    def phases(self):
        return [genhub.Phase("fit", lambda batch: {"loss": (self.net.weight - 1).square().mean()}, trains=("net",))]

    def sample(self, n, *, conditions=None, generator=None):
        return torch.zeros(n, *self.shape)


class Log:
    def add(self, *entry):
        pass


def copies(**keys) -> Copies:
    torch.manual_seed(0)
    data = genhub.ModelData(target=genhub.Image(shape=(1, 2, 2)))
    return Copies(Line(genhub.ModelConfig(data=data)), DiLoCo.Config(**keys), genhub.Together("cpu"))


def rows() -> genhub.Batch:
    return genhub.Batch(torch.zeros(2, 1, 2, 2))


def test_it_keeps_the_contract():
    check_trainer(DiLoCo, {"inner_steps": 2})


def test_an_outer_step_is_nesterov_s_on_what_the_processes_moved_by():
    made = copies(outer_lr=0.5, outer_momentum=0.5)
    began = copy.deepcopy(made.shared.net.weight.detach())
    for step in range(3):
        made.inner_step(step, rows(), Log())
    moved = began - made.own.net.weight.detach()
    made.outer_step()
    torch.testing.assert_close(made.shared.net.weight, began - 0.5 * (moved + 0.5 * moved))
    assert torch.equal(made.own.net.weight, made.shared.net.weight)


def test_all_that_changes_comes_back():
    one, other = copies(), copies(lr=0.1)
    for step in range(3):
        one.inner_step(step, rows(), Log())
        one.outer_step()
    one.inner_step(3, rows(), Log())
    other.load(*one.tensors())
    for ours, theirs in zip(one.tensors(), other.tensors(), strict=True):
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    fresh = torch.optim.SGD([torch.zeros(2, requires_grad=True)], 0.1)
    load_moments(fresh, moments(fresh))  # before the first step there is nothing
    assert moments(fresh) == {}
