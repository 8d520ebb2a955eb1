"""The conformance kit: does a class keep the contract that the rest of genhub relies on?

    from genhub.testing import check_model
    from my_model import MyModel

    def test_my_model():
        check_model(MyModel, {"hidden": 16})

The same from the shell is `genhub plugins check NAME [key=value ...]`, and `pytest --genhub-model NAME` makes a test of
every check. All runs on the CPU, on scikit-learn's digits in whatever shape the config asks for; nothing is downloaded.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from genhub.config import ModelConfig
from genhub.interfaces import GenerativeModel
from genhub.testing import drawing, learning, running
from genhub.testing.report import Check, ContractError, Report, Result, Suite

__all__ = ["ContractError", "Report", "Result", "check_model", "check_scheduler", "check_trainer"]

MODEL_CHECKS = (
    Check(learning.config),
    Check(learning.phases, needs=("config",)),
    Check(learning.losses, needs=("phases",)),
    Check(learning.gradients, needs=("losses",)),
    Check(learning.training, needs=("gradients",)),
    Check(learning.bf16, needs=("gradients",)),
    Check(learning.compile, needs=("gradients",)),
    Check(drawing.options, needs=("config",)),
    Check(drawing.sample, needs=("gradients",)),
    Check(drawing.randomness, needs=("sample",)),
    Check(drawing.seeds, needs=("randomness",)),
    Check(drawing.batches, needs=("seeds",)),
    Check(drawing.labels, needs=("seeds",)),
    Check(drawing.ema, needs=("seeds",)),
    Check(running.checkpoint, needs=("seeds",)),
    Check(running.files, needs=("sample",)),
    Check(running.resume, needs=("sample",)),
    Check(running.processes, needs=("sample",)),
)


def check_model(
    cls: type[GenerativeModel], config: ModelConfig | Mapping[str, Any] | None = None, *,
    only: Collection[str] = (), skip: Collection[str] = (),
) -> Report:  # fmt: skip
    """Hold a model class to the contract of `GenerativeModel`, in about half a minute for a small network.

    Args:
        config: keys of its Config that differ from the defaults: a small network makes the checks quick. Images are
            (1, 8, 8) with 10 classes, or of `sample_shape`: (1, 3 or 4 channels, height, width).
        only: names of the checks to run; left out: all. What they need runs first.
        skip: names of checks to leave out.
    Returns:
        What was checked, with the reason of each check that does not apply.
    Raises:
        ContractError: an AssertionError that lists every failure: the check, what is wrong and what to do, file and
            line, and the contract.
        InputError: a check of that name does not exist.
    """
    subject = running.TrainedSubject(cls, config)
    try:
        report = Suite(cls.__name__, MODEL_CHECKS, subject, cls, skip).report(only)
    finally:
        subject.close()
    report.raise_failures()
    return report
