"""Texts as conditions: read by their bytes, made from the names of classes by templates, and asked for."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from genhub_ddpm import DDPM
from image_files import load, table
from typer.testing import CliRunner

import genhub
from genhub import DataError, Image, ModelData, Text, cli
from genhub.data.wordings import Keys, scattered
from genhub.ground.processes import Share
from genhub.modalities.embeddings import ByteEmbedding
from genhub.sampling.request import Drawing

DIGITS = {"from": "label", "templates": ["a {}", "the digit {}"], "words": ["zero", "one", "two", "three", "four", "five",
                                                                           "six", "seven", "eight", "nine"]}  # fmt: skip
WORDS = DIGITS["words"]


def captions(data: Any, batch: Any) -> list[str]:
    return [data.spec.conditions["caption"].caption(row) for row in batch.conditions.values["caption"]]


def digits(**keys: Any) -> Any:
    return genhub.load_data("digits", ("label", "caption"), columns={"caption": DIGITS}, **keys)


# Bytes


def test_what_stands_behind_a_text_and_other_rows_change_nothing():
    torch.manual_seed(0)
    short, long = ByteEmbedding(4, 8), ByteEmbedding(9, 8)
    long.load_state_dict({**short.state_dict(), "places": torch.cat([short.places, torch.randn(5, 8)])})
    rows = [torch.from_numpy(np.stack([Text(shape=(size,)).ask(text) for text in ("ab", "é")])) for size in (4, 9)]
    there = torch.ones(2, dtype=torch.bool)
    one, other = short(rows[0], there), long(rows[1], there)
    assert one.mask.tolist() == [[True, True, False, False]] * 2
    torch.testing.assert_close(one.sequence[:, :2], other.sequence[:, :2])
    alone = short(rows[0][1:], there[1:])
    torch.testing.assert_close(alone.sequence, one.sequence[1:])


def test_an_empty_text_is_one_and_is_not_nothing():
    embedding = ByteEmbedding(4, 8)
    given = embedding(torch.zeros(2, 4, dtype=torch.uint8), torch.tensor([True, False]))
    assert given.mask.tolist() == [[True, False, False, False]] * 2
    assert given.sequence.isfinite().all()
    assert not torch.equal(given.sequence[0, 0], given.sequence[1, 0])


def test_the_order_of_bytes_counts():
    embedding = ByteEmbedding(4, 8)
    rows = torch.from_numpy(np.stack([Text(shape=(4,)).ask(text) for text in ("ab", "ba")]))
    given = embedding(rows, torch.ones(2, dtype=torch.bool))
    assert not torch.allclose(given.sequence[0, :2].mean(0), given.sequence[1, :2].mean(0))


# Templates


def test_a_text_says_its_rows_class_another_way_in_each_epoch():
    data = digits(batch_size=1797)
    said = []
    for batch, step in zip(data.batches(seed=1), range(3), strict=False):
        rows = data.rows(seed=1, step=step)
        texts = dict(zip(rows.tolist(), captions(data, batch), strict=True))
        said.append([texts[row] for row in range(1797)])
        for text, label in zip(captions(data, batch), batch.conditions.values["label"].tolist(), strict=True):
            assert text in {f"{start} {name}" for start in ("a", "the digit") for name in (WORDS[label], str(label))}
    assert len(set(said[0])) == 40
    changed = [sum(a != b for a, b in zip(said[0], other, strict=True)) / 1797 for other in said[1:]]
    assert changed == pytest.approx([0.75, 0.75], abs=0.05)  # one of four, drawn anew


def test_the_wording_is_a_function_of_the_seed_and_the_position():
    """Whichever step a run begins at, and however many processes and accumulation steps share a batch."""
    data = digits(batch_size=12)

    def read(start: int, seed: int = 1, **share: int) -> list[list[str]]:
        batches = data.batches(Share(**share) if share else Share(0, 1, 1), seed=seed, start_step=start)
        return [captions(data, batch) for batch in islice(batches, 4)]

    whole = read(148)  # beyond the end of the first epoch
    assert read(149)[:3] == whole[1:]
    assert read(148, seed=2) != whole
    halves = [read(148, rank=rank, world_size=2, accumulation=1) for rank in (0, 1)]
    assert [a + b for a, b in zip(*halves, strict=True)] == whole
    parts = read(148, rank=0, world_size=1, accumulation=2)
    assert [*parts[0], *parts[1]] == whole[0]


def test_rows_by_number_always_say_the_same():
    data = digits()
    first, again = data.conditions([5, 700, 5]), data.conditions([5])
    assert torch.equal(first.values["caption"][2:], again.values["caption"])
    assert torch.equal(data.column("caption").kept([5, 700]), first.values["caption"][:2])


def test_templates_of_a_column_without_words_that_is_not_in_memory(tmp_path: Path):
    rows = table(20).remove_columns("label").add_column("kind", ["cat", None] * 5 + ["dog"] * 10)
    rows.to_parquet(str(tmp_path / "x.parquet"))
    keys = {"from": "kind", "templates": ["{}s are {}s"]}
    kinds = {"kind": {"modality": "label"}, "caption": keys}
    data = load(
        tmp_path / "x.parquet", ("caption",), target="image", columns=kinds, batch_size=20, in_memory=False, num_workers=0
    )
    (batch,) = islice(data.batches(seed=1), 1)
    assert sorted(captions(data, batch)) == [""] * 5 + ["cats are cats"] * 5 + ["dogs are dogs"] * 10
    assert batch.conditions.present["caption"].sum() == 15


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"templates": ["a {}", "b"]}, "templates: 'b' has no {} where the name goes"),
        ({"templates": []}, "templates: must have at least 1 item, not []"),
        ({"words": ["a"]}, "words: no key of a column of modality label; known: names"),
        ({"words": ["a"], "modality": "text"}, "words: changes nothing without templates; leave it out"),
        ({"templates": ["{}"], "words": ["a", "a"]}, "words: one stands there twice"),
        ({"templates": ["{}"], "words": ["a"]}, "words: 1 for 10 classes, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9"),
        ({"template": ["{}"]}, "template: no column's key; did you mean 'templates'?"),
        ({"templates": ["{}"], "size": 8}, "size: no key of a column of modality text; known: encoder, templates, words"),
    ],
)
def test_templates_that_make_no_sense(keys: dict[str, Any], message: str):
    with pytest.raises(DataError) as caught:
        genhub.load_data("digits", ("caption",), columns={"caption": {"from": "label", **keys}})
    assert str(caught.value).removeprefix("data.columns.caption").removeprefix(".").removeprefix(": ") == message


def test_values_are_found_among_keys():
    values = torch.randint(0, 256, (500, 7), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    number, known = Keys(values).find(torch.cat([values.flip(0), values[:1] + 1]))
    assert number[:500].tolist() == list(range(500))[::-1]
    assert known.tolist() == [True] * 500 + [False]
    floats = torch.tensor([[0.5], [-0.5], [1.0]])
    assert Keys(floats).find(floats)[0].tolist() == [0, 1, 2]


def test_choices_are_even_and_know_nothing_of_each_other():
    choices = scattered(3, np.arange(100_000))
    assert choices.min() >= 0
    assert np.bincount(choices % 7) / 100_000 == pytest.approx([1 / 7] * 7, abs=0.01)
    assert abs(np.corrcoef(choices[:-1] % 2, choices[1:] % 2)[0, 1]) < 0.02


# Asked for


def model() -> genhub.GenerativeModel:
    torch.manual_seed(0)
    data = ModelData(target=Image(shape=(1, 8, 8)), conditions={"caption": Text(shape=(13,))})
    keys = {
        "network": {"name": "dit", "hidden_size": 8, "depth": 1, "num_heads": 2, "patch_size": 4},
        "sampling": {"num_inference_steps": 2},
    }
    made = DDPM(DDPM.Config(name="ddpm", data=data, conditions=["caption"], condition_dropout=0.1, **keys)).eval()
    with torch.no_grad():  # what starts as zero would hide what it is told
        for parameter in made.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return made


def test_a_text_is_asked_for_whole(capsys: pytest.CaptureFixture[str]):
    drawing = Drawing.of(model(), None, {}, conditions={"caption": ["a three, or so", "the digit 4"]})
    assert drawing.n == 2
    assert drawing.captions(model()) == ["a three, or s", "the digit 4"]
    assert "a text is cut to 13 bytes, the most of a text in the training data: a three, or so" in capsys.readouterr().err
    assert Drawing.of(model(), None, {}, conditions={"caption": "a, b"}).captions(model()) == ["a, b"]
    with pytest.raises(genhub.InputError, match="^--condition caption: must be a text, not a int$"):
        Drawing.of(model(), None, {}, conditions={"caption": 3})


def test_a_text_is_asked_for_on_the_command_line(tmp_path: Path):
    model().save_pretrained(tmp_path / "model")
    out = tmp_path / "x.npz"
    words = ["--condition", "caption=a three, or", "--condition", "caption=b", "--out", str(out), "--seed", "1"]
    result = CliRunner().invoke(cli.app, ["sample", str(tmp_path / "model"), *words])
    assert result.exit_code == 0, result.output
    with np.load(out) as arrays:
        assert arrays["image"].shape == (2, 8, 8, 1)
        assert [bytes(row).rstrip(b"\0").decode() for row in arrays["caption"]] == ["a three, or", "b"]
    told = CliRunner().invoke(cli.app, ["info", str(tmp_path / "model")])
    assert "a text of up to 13 bytes" in told.output


def test_guidance_and_dropout_know_a_row_without_its_text():
    made = model()
    wanted = {"caption": ["a three"]}
    plain, guided, none = (
        genhub.sample(made, 1, seed=1, conditions=asked, guidance_scale=scale)
        for asked, scale in ((wanted, 1.0), (wanted, 3.0), (wanted, 0.0))
    )
    assert not torch.equal(plain, guided)
    assert torch.equal(none, genhub.sample(made, 1, seed=1))  # a scale of 0 ignores it, as if nobody had asked


def test_what_can_be_asked_for_tells_no_row():
    assert Text(shape=(13,)).told() == "a text of up to 13 bytes"
    learnt = digits().spec.conditions["caption"]
    assert learnt.told() == 'a text, such as "a zero"'
    assert learnt.facts()["longest"] == 15
