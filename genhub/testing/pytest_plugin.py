"""`pytest --genhub-model NAME`: every check of the conformance kit as a test, besides the tests that are collected.

Without the option this costs nothing: no other module of genhub, and no torch, is imported.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from genhub.testing.report import Suite


HELP = "Hold a model (a registered name, or module:Class) to genhub's contract; may be given several times."


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.getgroup("genhub").addoption("--genhub-model", action="append", default=[], metavar="NAME", help=HELP)


@pytest.hookimpl(tryfirst=True)  # so that -k chooses among the checks, too
def pytest_collection_modifyitems(session: pytest.Session, config: pytest.Config, items: list[pytest.Item]) -> None:
    for name in config.getoption("--genhub-model"):
        items.extend(ModelChecks.from_parent(session, name=f"genhub-model[{name}]", model=name).collect())


class ModelChecks(pytest.Collector):
    """One model's checks, which share what they make."""

    def __init__(self, *, model: str, **options: Any) -> None:
        super().__init__(**options)
        self.model = model
        self.suite: Suite | None = None

    def setup(self) -> None:
        self.suite = self._suite().__enter__()

    def teardown(self) -> None:
        if self.suite is not None:
            self.suite.__exit__(None, None, None)

    def collect(self) -> Iterable[CheckItem]:
        return [CheckItem.from_parent(self, name=name) for name in self._suite().checks]

    def _suite(self) -> Suite:
        from genhub.errors import GenhubError
        from genhub.interfaces.registry import MODELS, load_class

        try:
            cls = load_class(MODELS, self.model, Path.cwd())
        except GenhubError as error:
            raise pytest.UsageError(f"--genhub-model {self.model}: {error}") from None
        from genhub.testing.suites import model_suite

        return model_suite(cls, None)


class CheckItem(pytest.Item):
    """One check of a model."""

    parent: ModelChecks

    def runtest(self) -> None:
        from genhub.testing.report import ContractError

        assert self.parent.suite is not None
        result = self.parent.suite.run(self.name)
        if result.outcome == "skipped":
            pytest.skip(result.message)
        if result.outcome == "failed":
            raise ContractError(str(result))

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        from genhub.testing.report import ContractError

        return str(excinfo.value) if isinstance(excinfo.value, ContractError) else super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[Path, int | None, str]:
        return self.path, None, f"{self.parent.name}::{self.name}"
