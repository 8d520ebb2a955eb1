"""Signals of every built-in family, given nothing, a class, a number, a vector, an image, a text, or two at once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from conformance import cases, check, print_table, write_rows


@pytest.fixture(scope="session")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    file = tmp_path_factory.mktemp("rows") / "rows.parquet"
    write_rows("signal", file)
    yield file
    print_table("signal")


@pytest.mark.parametrize(("family", "conditions"), cases("signal"))
def test_signals(family, conditions, rows, tmp_path):
    check(family, "signal", conditions, tmp_path, rows)
