from __future__ import annotations

import models
import pytest
import torch

from genhub.recipe.sections import EMAConfig
from genhub.training.ema import EMA


def make() -> models.Pair:
    torch.manual_seed(0)
    return models.Pair(models.Pair.Config(data=models.images((1, 4, 4))))


@pytest.mark.parametrize("every", [1, 3])
def test_average_is_the_recurrence(every):
    model = make()
    ema = EMA(model, EMAConfig(decay=0.9, every=every), {"generator"})
    expected = model.generator[0].weight.detach().double().clone()
    for step in range(12):
        with torch.no_grad():
            model.generator[0].weight.add_(torch.randn(8, 4))
        ema.update(step)
        if (step + 1) % every == 0:
            decay = min(0.9, (1 + step) / (10 + step)) ** every
            expected = decay * expected + (1 - decay) * model.generator[0].weight.detach().double()
    torch.testing.assert_close(ema.model.generator[0].weight.double(), expected, atol=1e-5, rtol=1e-5)


def test_current_has_todays_buffers_and_other_networks_and_samples_in_eval_mode():
    model = make()
    ema = EMA(model, EMAConfig(decay=0.9), {"generator"})
    model.train().generator(torch.randn(32, 4))  # moves the running statistics
    with torch.no_grad():
        model.critic[0].weight.add_(1)
    averaged = ema.current()
    assert torch.equal(averaged.generator[1].running_mean, model.generator[1].running_mean)
    assert torch.equal(averaged.critic[0].weight, model.critic[0].weight)
    assert not averaged.training
    assert not any(p.requires_grad for p in averaged.parameters())


def test_the_copy_uses_its_own_networks():
    model = make()
    ema = EMA(model, EMAConfig(), {"generator"})
    with torch.no_grad():
        for p in ema.model.parameters():
            p.zero_()
    generator = torch.Generator().manual_seed(0)
    assert ema.model.sample(2, generator=generator).abs().max() == 0
