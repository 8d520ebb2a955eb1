"""The conformance kit: check that a class keeps the contract that the rest of genhub relies on. Names of `__all__` are
public; the command line also uses `suites`, and the rest is inside.

    from genhub.testing import check_model
    from my_model import MyModel

    def test_my_model():
        check_model(MyModel, {"hidden": 16})

The same from the shell is `genhub plugins check NAME [key=value ...]`, and `pytest --genhub-model NAME` makes a test of
every check. `check_network`, `check_modality`, `check_scheduler`, `check_trainer`, `check_metric` and `check_view` are for
the other kinds of plugins. All runs on the CPU, on scikit-learn's digits or on made-up rows of whatever columns are asked
for; nothing is downloaded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from genhub.testing.report import ContractError as ContractError
    from genhub.testing.report import Report as Report
    from genhub.testing.report import Result as Result
    from genhub.testing.suites import check_metric as check_metric
    from genhub.testing.suites import check_modality as check_modality
    from genhub.testing.suites import check_model as check_model
    from genhub.testing.suites import check_network as check_network
    from genhub.testing.suites import check_scheduler as check_scheduler
    from genhub.testing.suites import check_trainer as check_trainer
    from genhub.testing.suites import check_view as check_view

__all__ = [
    "ContractError",
    "Report",
    "Result",
    "check_metric",
    "check_modality",
    "check_model",
    "check_network",
    "check_scheduler",
    "check_trainer",
    "check_view",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: every run of pytest where genhub is installed imports this package."""
    if name not in __all__:
        raise AttributeError(f"module 'genhub.testing' has no attribute '{name}'")
    from importlib import import_module

    module = "suites" if name.startswith("check_") else "report"
    return getattr(import_module(f"genhub.testing.{module}"), name)
