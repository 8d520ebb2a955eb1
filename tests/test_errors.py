"""The error tree, its exit codes, and the tail of an unknown name's message."""

from __future__ import annotations

import doctest

import pytest

import genhub
from genhub import errors


def test_every_error_is_a_genhub_error_with_its_exit_code() -> None:
    codes = {name: cls.exit_code for name, cls in vars(errors).items()
             if isinstance(cls, type) and issubclass(cls, errors.GenhubError)}  # fmt: skip
    assert codes == {
        "GenhubError": 1, "InputError": 2, "RecipeError": 2, "DataError": 2, "PluginError": 2, "CheckpointError": 2, "NewerFormat": 2,
        "HubError": 2, "HubUnavailable": 1, "TrainingError": 1, "NotFinite": 1, "Interrupted": 1,
    }  # fmt: skip
    assert all(hasattr(genhub, name) for name in codes)
    assert (genhub.Interrupted("x", 2).exit_code, genhub.Interrupted("x", 15).exit_code) == (130, 143)


@pytest.mark.parametrize(
    ("name", "known", "tail"),
    [
        ("dpm", ["ddpm", "vae"], "did you mean 'ddpm'?"),
        ("x", ["vae", "ddpm"], "known: ddpm, vae"),
        ("", ["vae"], "known: vae"),
        ("x", [], "known: none"),
    ],
)
def test_the_nearest_name_or_all_of_them(name: str, known: list[str], tail: str) -> None:
    assert errors.did_you_mean(name, known) == tail


def test_the_examples_in_the_docs() -> None:
    assert doctest.testmod(errors).failed == 0
