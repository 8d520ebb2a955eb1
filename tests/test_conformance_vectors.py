"""Vectors of every built-in family, given nothing, a class, a number, a vector, an image, a text, or two at once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from conformance import ASKED, ROWS, cases, check, print_table, write_rows

import genhub


@pytest.fixture(scope="session")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    file = tmp_path_factory.mktemp("rows") / "rows.parquet"
    write_rows("vector", file)
    yield file
    print_table("vector")


@pytest.mark.parametrize(("family", "conditions"), cases("vector"))
def test_vectors(family, conditions, rows, tmp_path):
    check(family, "vector", conditions, tmp_path, rows)


def test_some_rows_have_no_condition(rows):
    """All the combinations train on such: every third row has no label, every fourth no number."""
    data = genhub.load_data(genhub.DataConfig(name=str(rows), target="drawn"), tuple(ASKED))
    present = data.conditions(range(ROWS)).present
    assert {name: int((~there).sum()) for name, there in present.items()} == {
        "label": 7, "number": 5, "vector": 4, "image": 4, "text": 3}  # fmt: skip
    assert {name: modality.modality for name, modality in data.spec.conditions.items()} == {name: name for name in ASKED}
