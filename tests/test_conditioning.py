"""Conditions, made into what networks are given; dropout and guidance."""

from __future__ import annotations

import pytest
import torch
from genhub_networks import MLP, DiT, UNet
from parts import LABEL, Asked, built, conditions, modalities

from genhub import Conditioner, Conditions, Given, RecipeError, guidance_at, guided
from genhub.conditioning.guidance import dropped

ALL = frozenset({"label", "vector", "sequence", "spatial"})


def conditioner(asked, shape=(1, 8, 8), width=16, takes=ALL):
    torch.manual_seed(0)
    return Conditioner(asked, shape, width, frozenset(takes))


# Conditioner


def test_nothing_is_given_where_there_are_no_conditions():
    empty = conditioner({})
    assert empty(Conditions()) == Given()
    assert empty.gives == frozenset()
    assert not list(empty.parameters())
    assert (empty.num_classes, empty.spatial_channels, empty.width) == (None, 0, 16)


def test_each_part_has_its_shape():
    asked = modalities("vector", "sequence", "spatial")
    given = conditioner(asked)(conditions(asked, 3))
    assert given.vector.shape == (3, 16)
    assert given.sequence.shape == (3, 4, 16)
    assert given.mask.shape == (3, 4)
    assert given.spatial.shape == (3, 2, 8, 8)
    assert given.label is None


def test_several_columns_add_up_or_stand_behind_one_another_in_the_order_of_their_names():
    asked = {
        name: Asked(gives=part) for name, part in [("d", "vector"), ("c", "spatial"), ("b", "spatial"), ("a", "vector")]
    }
    asked |= {"f": Asked(gives="sequence"), "e": Asked(gives="sequence")}
    whole, values = conditioner(asked), conditions(asked, 3)
    assert whole.spatial_channels == 4
    assert whole.names == ["a", "b", "c", "d", "e", "f"]
    parts = [
        embedding(values.values[name], values.present[name])
        for name, embedding in zip("abcdef", whole.embeddings, strict=True)
    ]
    given = whole(values)
    assert torch.equal(given.vector, parts[0].vector + parts[3].vector)
    assert torch.equal(given.spatial, torch.cat([parts[1].spatial, parts[2].spatial], 1))
    assert torch.equal(given.sequence, torch.cat([parts[4].sequence, parts[5].sequence], 1))
    assert given.mask.shape == (3, 8)


def test_tokens_are_averaged_to_a_vector_for_a_network_that_takes_no_sequence():
    asked = {"text": Asked(gives="sequence"), "number": Asked(), "kind": LABEL}
    whole, values = conditioner(asked, takes={"vector", "label"}), conditions(asked, 3)
    assert whole.gives == {"vector"}  # so that the label is a vector, too
    values = values.without({"text": torch.tensor([False, True, False])})
    text, others = whole.embeddings[2].embedding, zip(["kind", "number"], whole.embeddings, strict=False)
    tokens = text(values.values["text"], values.present["text"]).sequence
    means = torch.stack([tokens[0].mean(0), tokens[1, 0], tokens[2].mean(0)])  # a row without it has one token alone
    vectors = [embedding(values.values[name], values.present[name]).vector for name, embedding in others]
    given = whole(values)
    torch.testing.assert_close(given.vector, sum(vectors) + means)
    assert given.sequence is given.mask is None


def test_weights_are_the_same_columns_whatever_the_order_of_the_config():
    asked = {"b": Asked(), "a": Asked()}
    one = conditioner(asked)
    other = conditioner(dict(reversed(asked.items())))
    other.load_state_dict(one.state_dict())
    values = conditions(asked, 2)
    assert torch.equal(one(values).vector, other(values).vector)


def test_a_name_may_be_any_text():
    asked = {name: Asked() for name in ("a.b", "keys", "", "ä b")}
    assert conditioner(asked)(conditions(asked, 2)).vector.shape == (2, 16)


def test_one_label_is_handed_through_to_a_network_that_embeds_it():
    whole = conditioner({"digit": LABEL, "photo": Asked(gives="spatial")})
    values = conditions({"digit": LABEL, "photo": Asked()}, 4).without(torch.tensor([False, True, False, True]))
    given = whole(values)
    assert whole.num_classes == 5
    assert whole.gives == {"label", "spatial"}
    assert given.vector is None
    assert given.label.tolist() == [values.values["digit"][0], 5, values.values["digit"][2], 5]


def test_one_label_alone_draws_no_weights():
    torch.manual_seed(0)
    Conditioner({"digit": LABEL}, (1, 8, 8), 16, ALL)
    after = torch.rand(1)
    torch.manual_seed(0)
    assert torch.equal(after, torch.rand(1))


@pytest.mark.parametrize(
    ("others", "takes"),
    [({"ink": Asked()}, ALL), ({"other": LABEL}, ALL), ({}, ALL - {"label"})],
    ids=["beside a number", "two labels", "the network embeds none"],
)
def test_else_a_label_is_embedded(others, takes):
    whole = conditioner({"digit": LABEL} | others, takes=takes)
    assert whole.num_classes is None
    assert whole.gives == {"vector"}
    assert len(whole.embeddings) == 1 + len(others)
    given = whole(conditions({"digit": LABEL} | others, 3))
    assert given.label is None
    assert given.vector.shape == (3, 16)


@pytest.mark.parametrize("present", [True, False])
def test_every_parameter_takes_part(present):
    asked = modalities("vector", "sequence", "spatial")
    whole = conditioner(asked)
    given = whole(conditions(asked, 3, present))
    (given.vector.sum() + given.sequence.sum() + given.spatial.sum()).backward()
    assert all(parameter.grad is not None for parameter in whole.parameters())


def test_a_row_that_is_not_present_is_nothing_whatever_its_value():
    asked = modalities("vector", "sequence", "spatial", "label")
    whole = conditioner(asked, takes=ALL - {"label"})
    some, nothing = conditions(asked, 4, present=False), Conditions.nothing(asked, 4)
    for one, other in zip(vars(whole(some)).values(), vars(whole(nothing)).values(), strict=True):
        assert one is other is None or torch.equal(one, other)


@pytest.mark.parametrize(
    ("part", "takes", "others"), [("spatial", MLP.Config.takes, "dit, unet, unet1d"), ("sequence", {"spatial"}, "dit, unet")]
)
def test_what_a_network_does_not_take_is_one_line(part, takes, others):
    with pytest.raises(RecipeError) as caught:
        conditioner({"photo": Asked(gives=part)}, takes=takes)
    assert str(caught.value) == (
        f"model.conditions: photo (asked) gives a {part} part, which this network does not take; networks that do: {others}"
    )


def test_a_column_that_is_no_condition_is_named():
    class Mute(Asked):
        condition = Asked.__mro__[1].condition

    with pytest.raises(RecipeError, match="^model.conditions: noise: a asked can't be a condition$"):
        conditioner({"noise": Mute()})


# Guidance


def answers(x, t, given):
    """A network of twice x's channels that tells which rows had the condition."""
    output = torch.cat([x, x], 1) + given.vector.view(-1, *[1] * (x.ndim - 1))
    return output if t is None else output + t.view(len(t), -1).sum(1).view(-1, *[1] * (x.ndim - 1))


@pytest.mark.parametrize("shape", [(2,), (1, 8), (1, 4, 4)])
@pytest.mark.parametrize("times", [None, (3,), (3, 2)])
@pytest.mark.parametrize("scale", [0.0, 0.5, 1.0, 3.0])
def test_guided_is_the_two_calls_formula(shape, times, scale):
    torch.manual_seed(0)
    x, t = torch.randn(3, *shape), None if times is None else torch.rand(times)
    given, nothing = Given(vector=torch.tensor([1.0, 2.0, 3.0])), Given(vector=torch.zeros(3))
    output, c = guided(answers, x, t, given, nothing, scale), shape[0]
    wanted, unasked = answers(x, t, given), answers(x, t, nothing)
    torch.testing.assert_close(output[:, :c], unasked[:, :c] + scale * (wanted[:, :c] - unasked[:, :c]))
    assert torch.equal(output[:, c:], wanted[:, c:])  # a learned variance is the condition's own


def test_guided_calls_once():
    calls = []

    def counts(x, t, given):
        calls.append(len(x))
        return x * given.vector.view(-1, 1)

    for scale in (1.0, 2.0):
        guided(counts, torch.ones(4, 2), torch.ones(4), Given(vector=torch.ones(4)), Given(vector=torch.zeros(4)), scale)
    assert calls == [4, 8]


def test_guided_of_all_parts_at_once():
    parts = ("vector", "sequence", "spatial")
    for cls, keys in ((UNet, {"block_out_channels": (8, 16)}), (DiT, {"hidden_size": 32, "depth": 1})):
        network, whole = built(cls, (1, 8, 8), parts, **keys)
        asked = modalities(*parts)
        given, nothing = whole(conditions(asked, 2)), whole(Conditions.nothing(asked, 2))
        x, t = torch.randn(2, 1, 8, 8), torch.tensor([3.0, 900.0])
        expected = torch.lerp(network(x, t, nothing), network(x, t, given), 2.0)
        torch.testing.assert_close(guided(network, x, t, given, nothing, 2.0), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("level", "scale"), [(0.0, 1.0), (0.2, 3.0), (0.5, 3.0), (0.8, 3.0), (0.81, 1.0), (1.0, 1.0)])
def test_guidance_is_for_an_interval_of_levels(level, scale):
    assert guidance_at(3.0, (0.2, 0.8), level) == scale


# Dropout


def test_dropout_takes_all_of_a_row_together():
    asked = modalities("vector", "label")
    values = conditions(asked, 4000)
    left = dropped(values, 0.25, torch.Generator().manual_seed(0))
    assert torch.equal(left.present["vector"], left.present["label"])
    assert left.values is values.values
    assert 0.22 < 1 - left.present["label"].float().mean() < 0.28


def test_dropout_by_column_draws_each_for_itself():
    asked = modalities("vector", "label", "spatial")
    left = dropped(conditions(asked, 4000), {"vector": 0.5, "label": 0.25}, torch.Generator().manual_seed(0)).present
    assert left["spatial"].all()
    assert not torch.equal(left["vector"], left["label"])
    assert abs(left["vector"].float().mean() - 0.5) < 0.03
    assert abs(left["label"].float().mean() - 0.75) < 0.03
    assert abs((left["vector"] & left["label"]).float().mean() - 0.375) < 0.03


@pytest.mark.parametrize("share", [0.3, {"vector": 0.3, "label": 0.3}])
def test_dropout_is_the_generators(share):
    values = conditions(modalities("vector", "label"), 100)
    one, same, other = (dropped(values, share, torch.Generator().manual_seed(seed)).present["label"] for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_a_row_without_a_condition_stays_without():
    values = conditions(modalities("vector"), 50, present=False)
    assert not dropped(values, 0.5, torch.Generator()).present["vector"].any()


@pytest.mark.parametrize(("share", "present"), [(0.0, True), (1.0, False), ({"vector": 1.0}, False)])
def test_none_or_all(share, present):
    left = dropped(conditions(modalities("vector"), 50), share, torch.Generator()).present["vector"]
    assert left.tolist() == [present] * 50


def test_a_model_without_conditions_drops_none():
    assert len(dropped(Conditions(), 0.5, torch.Generator())) == 0
