"""Words: the first line of a docstring says what the thing is or does, in the grammar of numpy's and torch's."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted(file for folder in ("genhub", "plugins") for file in (ROOT / folder).rglob("*.py"))
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
LONGEST = 125

BEGINNING = re.compile(r"""[A-Z`'"(\[|>\d]|[a-z_]+(: |'s |' )""")
"""Beginning of a sentence, of a doctest, of a library's own name, or of a value with its meaning, as in `auto: ...`."""
RIDDLE = re.compile(
    r"(How|What|Which|Where|Who|Whose|Why|When|As many|As much|Of|That|Those|Gives|There|Seen|In each|From so)\b"
)
"""Openings of docstrings that said what a thing is only at their end, all of which there were."""
NO_VERB = re.compile(r"(How|The|A|An|Its|One|Of)\b|\(\w+(, [\w']+)*,?\)|\(steps, |x_t\b|\|")
"""Openings of a function's docstring that name its result, in words or by its shape, and not what it does."""


def docstrings(file: Path) -> Iterator[tuple[ast.AST, str]]:
    """Yield (owner, text) of each docstring in a file, and of each string below a name, whose owner is the assignment."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, (ast.Module, ast.ClassDef, *FUNCTIONS)) and (text := ast.get_docstring(node)):
            yield node, text
        body = node.body if isinstance(node, ast.Module | ast.ClassDef) else []
        for before, after in pairwise(body):
            match before, after:
                case ast.Assign() | ast.AnnAssign(), ast.Expr(ast.Constant(str(text))):
                    yield before, text


def fault(owner: ast.AST, text: str, contract: bool) -> str | None:
    """Return what is wrong with a docstring; None if nothing is.

    Args:
        contract: whether functions without a result are checks of the kit, whose docstrings are sentences of a contract.
    """
    first = text.partition("\n")[0]
    if len(first) + getattr(owner, "col_offset", 0) > LONGEST:
        return "is too long"
    if not BEGINNING.match(first):
        return "begins in the middle of a sentence"
    if RIDDLE.match(first):
        return "is a riddle"
    if isinstance(owner, FUNCTIONS) and not any("property" in ast.unparse(each) for each in owner.decorator_list):
        states = contract and owner.returns is not None and ast.unparse(owner.returns) == "None"
        if NO_VERB.match(first) and not states:
            return "has no verb"
    return None


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.relative_to(ROOT).as_posix())
def test_the_first_line_says_what_it_is_or_does(file: Path) -> None:
    contract = file.parent == ROOT / "genhub" / "testing"
    found = [(text.partition("\n")[0], fault(owner, text, contract)) for owner, text in docstrings(file)]
    assert [f"{why}: {first}" for first, why in found if why] == []


@pytest.mark.parametrize(
    ("code", "why"),
    [
        ('def f() -> int:\n    """What of an image is kept."""', "is a riddle"),
        ('def f() -> int:\n    """Of each micro-batch, which images it shows."""', "is a riddle"),
        ('SHARE = 0.01\n"""Of a step\'s time that faults must take."""', "is a riddle"),
        ('class C:\n    """There without waiting."""', "is a riddle"),
        ('def f() -> int:\n    """The smallest number that fits."""', "has no verb"),
        ('def f() -> Tensor:\n    """(n,) bits a pixel."""', "has no verb"),
        ('def f() -> None:\n    """and so on."""', "begins in the middle of a sentence"),
        (f'def f() -> None:\n    """Return{" on" * 50}."""', "is too long"),
        ('@property\ndef f() -> int:\n    """The number of images."""', None),
        ('def f() -> bool:\n    """Whether it fits."""', None),
        ('def f() -> int:\n    """\n    >>> f()\n    3\n    """', None),
        ('def f() -> None:\n    """\n    Raises:\n        ValueError: it is none.\n    """', None),
    ],
)
def test_what_is_found(tmp_path: Path, code: str, why: str | None) -> None:
    file = tmp_path / "code.py"
    file.write_text(code)
    ((owner, text),) = docstrings(file)
    assert fault(owner, text, contract=False) == why
