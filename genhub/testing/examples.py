"""Examples of stored values of a column, of each kind that a modality may be of, where a check is given none."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

NUMBER_OF_EXAMPLES = 24
SHAPES_OF_ARRAYS = ((4,), (2, 16), (1, 4, 4, 4), (4, 4, 4))


def example_columns() -> Iterator[list[Any]]:
    """Yield columns of values: pictures, numbers, arrays of one to four sides, texts."""
    n, generator = NUMBER_OF_EXAMPLES, np.random.default_rng(0)
    yield list(generator.integers(0, 256, (n, 8, 8), dtype=np.uint8))
    yield generator.normal(3.0, 2.0, n).astype(np.float32).tolist()
    for shape in SHAPES_OF_ARRAYS:
        yield list(generator.normal(3.0, 2.0, (n, *shape)).astype(np.float32))
    yield [("cat", "dog", "horse")[row % 3] for row in range(n)]
