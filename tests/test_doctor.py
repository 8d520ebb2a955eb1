"""The doctor finds what is wrong with an installation, and says nothing of a sound one."""

from __future__ import annotations

import importlib.metadata
import sys
from pathlib import Path

import pytest
from test_registry import install, site  # noqa: F401 - a fixture

from genhub.cli import doctor


def test_a_sound_installation_has_no_problems() -> None:
    facts = doctor.diagnose()
    assert facts["problems"] == []
    assert {"torch", "diffusers", "pydantic"} <= set(facts["versions"])
    assert "pytest" not in facts["versions"]  # extras are nobody's duty
    assert facts["devices"][-1].startswith("cpu")


def test_versions_outside_the_tested_ranges(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        if name == "rich":
            raise importlib.metadata.PackageNotFoundError(name)
        return {"torch": "2.1.0+cpu", "numpy": "2.0.0rc1"}.get(name) or importlib.metadata.version(name)

    monkeypatch.setattr(doctor, "version", version)
    versions, problems = doctor.installed_versions()
    assert versions["torch"] == "2.1.0+cpu"
    assert "rich" not in versions
    assert [problem.split(": ")[0] for problem in problems] == ["numpy", "rich", "torch"]
    assert problems[2] == "torch: 2.1.0+cpu is installed, <2.14,>=2.10 was tested"
    assert "pip install 'rich" in problems[1]


def test_broken_claimed_and_damaged_plugins_are_named(site: Path) -> None:  # noqa: F811
    install(site, "bad-luck", "[genhub.models]\nbroken = broken_model:Broken\n", "0.3", broken_model="1 / 0")
    install(site, "copycat", "[genhub.schedulers]\nddim = copycat:DDIM\n", "2.0")
    install(site, "damaged", "[genhub.models]\nnothing\n")
    problems = doctor.diagnose()["problems"]
    assert len(problems) == 3
    text = "\n".join(problems)
    assert "model 'broken' from bad-luck 0.3 can't be used: ZeroDivisionError" in text
    assert "copycat 2.0" in text
    assert "genhub-framework" in text
    assert "damaged-1.0.dist-info" in text


def test_a_damaged_torch_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> list[str]:
        raise OSError("libtorch.so: cannot open shared object file")

    monkeypatch.setattr(doctor, "_devices", fail)
    facts = doctor.diagnose()
    assert facts["devices"] == []
    assert facts["problems"] == ["torch can't be used: OSError: libtorch.so: cannot open shared object file"]


def test_nothing_here_is_imported_by_asking_for_versions() -> None:
    assert "genhub.cli.doctor" in sys.modules
    versions, problems = doctor.installed_versions()
    assert len(versions) >= 10
    assert problems == []
