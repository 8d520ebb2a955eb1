"""The autoregressive model: its tokens, likelihood, prefix, cache and ways to choose a token."""

from __future__ import annotations

import math

import pytest
import torch
from genhub_ar import AR
from genhub_ar.choice import choose, kept
from made_columns import LABEL, NUMBER, TARGETS, batch, columns, image, vector
from test_trainer import same_bits
from torch import nn

import genhub
from genhub import Batch, Conditions

TEXT = {"modality": "text", "shape": [12]}
MANY = {"label": LABEL, "ink": NUMBER, "point": vector(2), "source": image(1, 8, 8), "caption": TEXT}
NETWORK = {"hidden_size": 16, "num_layers": 2, "num_heads": 2}


def make(target=None, given=None, **keys) -> AR:
    torch.manual_seed(0)
    values = {**columns(target or image(1, 4, 4), **(given or {})), "network": NETWORK, **keys}
    return AR(AR.Config.model_validate(values)).eval()


def generators(*seeds):
    return [torch.Generator().manual_seed(seed) for seed in seeds]


# Tokens


def test_tokens_are_pixels_row_after_row_channels_interleaved():
    model = make(image(3, 2, 2))
    x = torch.arange(12.0).view(1, 2, 2, 3).movedim(-1, 1) / 127.5 - 1  # the value is the number in raster order
    tokens = model.tokens.of_batch(Batch(x))
    assert tokens.tolist() == [list(range(12))]
    torch.testing.assert_close(model.tokens.decode(tokens, Conditions()), x)


def test_every_level_comes_back():
    model = make(image(1, 16, 16))
    x = model.modality.to_batch(torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16))
    tokens = model.tokens.of_batch(Batch(x))
    assert tokens.tolist() == [list(range(256))]
    back = model.modality.from_batch(model.tokens.decode(tokens, Conditions()))
    assert back.flatten().tolist() == list(range(256))


# Likelihood


def test_a_model_that_knows_nothing_needs_log2_of_the_levels():
    model = make()
    nn.init.zeros_(model.network.head.weight)
    rows = batch(model)
    assert torch.equal(model.bits_per_dimension(rows), torch.full((6,), 8.0))
    torch.testing.assert_close(model.loss(rows)["loss"].item(), math.log(256))


class Known(nn.Module):
    """Logits that are a function of the token before, and of how many there were."""

    def __init__(self, length: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(5)
        self.first = nn.Parameter(torch.randn(256, generator=generator), requires_grad=False)
        self.table = torch.randn(256, 256, generator=generator)
        self.length = length

    def forward(self, tokens, given):
        before = self.table[tokens[:, :-1]] / (1 + torch.arange(1, self.length))[None, :, None]
        return torch.cat([self.first.expand(len(tokens), 1, -1), before], 1)


def test_bits_are_those_of_known_factors():
    """-log2 p(x_1) p(x_2 | x_1) ..., computed by hand, over the number of pixels."""
    model = make()
    model.network = known = Known(16)
    rows = batch(model)
    expected = []
    for tokens in model.tokens.of_batch(rows).tolist():
        log_p = known.first.log_softmax(0)[tokens[0]]
        for place in range(1, 16):
            log_p = log_p + (known.table[tokens[place - 1]] / (1 + place)).log_softmax(0)[tokens[place]]
        expected.append(-log_p / math.log(2) / 16)
    torch.testing.assert_close(model.bits_per_dimension(rows), torch.stack(expected))
    torch.testing.assert_close(model.loss(rows)["bits"], torch.stack(expected).mean())


def test_a_token_is_foretold_by_those_before_it_alone():
    model = make(given={"label": LABEL})
    rows = batch(model)
    tokens, given = model.tokens.of_batch(rows), model.conditioner(rows.conditions)
    logits = model.network(tokens, given)
    changed = tokens.clone()
    changed[:, 7] = (changed[:, 7] + 100) % 256
    other = model.network(changed, given)
    assert torch.equal(logits[:, :8], other[:, :8])
    assert (logits[:, 8:] - other[:, 8:]).abs().amax((0, 2)).min() > 1e-5


# Conditions


@pytest.mark.parametrize("channels", [1, 3])
def test_it_is_given_anything(channels):
    """Every parameter has a gradient, whatever is missing, and each column moves the logits."""
    model = make(image(channels, 4, 4), MANY).train()
    rows = batch(model)
    for given in (rows.conditions, Conditions.nothing(model.conditions, 6)):
        model.zero_grad()
        model.loss(Batch(rows.x, given))["loss"].backward()
        assert [name for name, p in model.named_parameters() if p.grad is None] == []
    bits = model.eval().bits_per_dimension(rows)
    for name in MANY:
        without = rows.conditions.without({name: torch.ones(6, dtype=torch.bool)})
        assert (bits - model.bits_per_dimension(Batch(rows.x, without))).abs().max() > 1e-6, name


def test_what_a_text_is_filled_up_with_changes_nothing():
    """Rows with shorter texts beside longer ones."""
    model = make(given={"caption": TEXT})
    rows = batch(model, 2)
    rows.conditions.values["caption"][0, 5:] = 0
    alone = model.bits_per_dimension(Batch(rows.x[:1], rows.conditions.rows(slice(0, 1))))
    with torch.no_grad():
        table = model.conditioner.embeddings[0]
        table.places[6:] += 1.0  # of row 0 nothing is there
    torch.testing.assert_close(model.bits_per_dimension(rows)[:1], alone)


# Drawing


@pytest.mark.parametrize("given", [{}, {"label": LABEL}, {"caption": TEXT, "ink": NUMBER}])
def test_the_cache_changes_nothing(given):
    """Logits a token at a time, from remembered keys and values, are those of the whole sequence at once."""
    model = make(given=given)
    rows = batch(model)
    if "caption" in given:
        rows.conditions.values["caption"][:3, 4:] = 0  # texts of different lengths
    tokens, parts = model.tokens.of_batch(rows), model.conditioner(rows.conditions)
    logits, memory = model.network.begin(6, parts)
    found = [logits]
    for token in tokens.T[:-1]:
        logits, memory = model.network.go_on(token, memory)
        found.append(logits)
    torch.testing.assert_close(torch.stack(found, 1), model.network(tokens, parts), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("scale", [None, 2.5])
def test_it_draws_what_a_drawing_without_cache_would(scale):
    model = make(given={"label": LABEL})
    conditions = batch(model, 3).conditions
    drawn = model.sample(3, conditions=conditions, generator=generators(0, 1, 2), guidance_scale=scale)
    uniform = torch.special.ndtr(torch.cat([torch.randn(1, 16, generator=one) for one in generators(0, 1, 2)]))
    given, nothing = (model.conditioner(of) for of in (conditions, Conditions.nothing(model.conditions, 3)))
    tokens = torch.zeros(3, 16, dtype=torch.int64)
    for place in range(16):
        logits = model.network(tokens, given)[:, place].log_softmax(-1)
        if scale is not None:
            unasked = model.network(tokens, nothing)[:, place].log_softmax(-1)
            logits = unasked + scale * (logits - unasked)
        tokens[:, place] = choose(kept(logits), uniform[:, place])
    assert torch.equal(model.tokens.of_batch(Batch(drawn)), tokens)


def test_an_elements_randomness_is_its_own():
    model = make(given={"label": LABEL})
    conditions = batch(model, 4).conditions
    together = model.sample(4, conditions=conditions, generator=generators(0, 1, 2, 3))
    for row in range(4):
        alone = model.sample(1, conditions=conditions.rows(slice(row, row + 1)), generator=generators(row))
        assert torch.equal(alone[0], together[row])


def test_drawn_tokens_have_the_models_probabilities():
    """Of a model that knows its first token, over many draws; and the second, given the first."""
    model = make(image(1, 1, 2))
    with torch.no_grad():
        model.network.head.weight.mul_(40)
    tokens = model.tokens.of_batch(Batch(model.sample(20_000, generator=torch.Generator().manual_seed(0))))
    with torch.no_grad():
        first = model.network(tokens[:1], model.conditioner(Conditions()))[0, 0].softmax(0)
    shares = tokens[:, 0].bincount(minlength=256) / len(tokens)
    assert (shares - first).abs().max() < 0.01
    likely = first.argmax()
    with torch.no_grad():
        second = model.network(torch.tensor([[likely, 0]]), model.conditioner(Conditions()))[0, 1].softmax(0)
    after = tokens[tokens[:, 0] == likely, 1]
    deviation = (second.max() * (1 - second.max()) / len(after)).sqrt()
    assert abs((after == second.argmax()).float().mean() - second.max()) < 4 * deviation


def test_a_token_is_chosen_by_the_inverse_of_its_distribution():
    probabilities = torch.tensor([[0.2, 0.0, 0.5, 0.3]]).expand(7, 4)
    uniform = torch.tensor([0.0, 0.19, 0.21, 0.69, 0.71, 0.999, 1.0])
    assert choose(probabilities, uniform).tolist() == [0, 0, 2, 2, 3, 3, 3]
    assert choose(torch.tensor([[0.0, 0.5, 0.0]]), torch.tensor([1.0])).tolist() == [1]  # never one that can't be


def test_likely_tokens_are_kept():
    logits = torch.tensor([[0.5, 0.15, 0.25, 0.1]]).log()
    torch.testing.assert_close(kept(logits), logits.exp())
    torch.testing.assert_close(kept(logits, temperature=0.5), logits.exp().square() / logits.exp().square().sum())
    torch.testing.assert_close(kept(logits, top_k=2), torch.tensor([[2 / 3, 0, 1 / 3, 0]]))
    torch.testing.assert_close(kept(logits, top_k=9), logits.exp())
    assert kept(logits, top_p=0.5).nonzero()[:, 1].tolist() == [0]
    assert kept(logits, top_p=0.51).nonzero()[:, 1].tolist() == [0, 2]
    assert kept(logits, top_p=0.8).nonzero()[:, 1].tolist() == [0, 1, 2]
    assert kept(logits, top_p=1e-6).nonzero()[:, 1].tolist() == [0]


def test_top_k_of_one_draws_the_likeliest_whatever_the_seed():
    model = make()
    drawn = [model.sample(2, generator=torch.Generator().manual_seed(seed), top_k=1) for seed in (0, 1)]
    assert torch.equal(drawn[0], drawn[1])
    assert torch.equal(drawn[0][0], drawn[0][1])


def test_guidance_needs_conditions():
    told = make().unused_options({"guidance_scale": 2.0})
    assert told == {"guidance_scale": "this model is given nothing; it is for one trained with model.conditions"}
    assert make(given={"label": LABEL}).unused_options({"guidance_scale": 2.0}) == {}


# What can't be


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (TARGETS["vector"], "data: a vector has no levels to draw one by one: train a vqvae on it"),
        (TARGETS["signal"], "data: a signal has no levels to draw one by one: train a vqvae on it"),
        ({**image(1, 4, 4), "bits": 16}, "data: its values have 65,536 levels, and ar draws at most 256"),
    ],
)
def test_what_has_no_levels_is_refused(target, message):
    with pytest.raises(ValueError, match=message):
        make(target)


def test_points_are_refused_before_training(tiny):
    tiny |= {"model": {"name": "ar"}}
    tiny["data"]["name"] = "moons"
    with pytest.raises(genhub.RecipeError, match=r"^[^\n]*a vector has no levels[^\n]*model\.autoencoder$"):
        genhub.train(tiny)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"network": {"hidden_size": 30}}, "network.hidden_size: 30 does not divide by num_heads 4; 32 does"),
        ({"network": {"dropout": 1.0}}, "network.dropout"),
        ({"network": {"heads": 4}}, "network.heads: unknown key; did you mean 'num_heads'"),
        ({"condition_dropout": 0.3}, "condition_dropout: changes nothing without conditions; leave it out"),
    ],
)
def test_mistakes_are_answered_at_the_recipe(keys, message):
    with pytest.raises(genhub.RecipeError, match=message) as error:
        genhub.read_recipe({"model": {"name": "ar", **keys}})
    assert "\n" not in str(error.value)


# Training


@pytest.mark.slow
@pytest.mark.parametrize("given", [[], ["label", "ink"]])
def test_resume_is_exact(tiny, tmp_path, given):
    """With dropout, whose random numbers are a step's too."""
    tiny |= {"model": {"name": "ar", "conditions": given, "network": {**NETWORK, "dropout": 0.1}}}
    whole = genhub.train(tiny, run_dir=str(tmp_path / "whole"))
    genhub.train(tiny, ["trainer.max_steps=3"], run_dir=str(tmp_path / "parts"))
    same_bits(whole, genhub.train(tiny, run_dir=str(tmp_path / "parts")))
    assert torch.equal(genhub.sample(whole, 5, seed=1), genhub.sample(whole, 5, seed=1, batch_size=2))
