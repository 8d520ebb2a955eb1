"""Plugins from real distributions: dist-info folders on the path, as pip would write them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import genhub
from genhub import PluginError
from genhub.interfaces import registry
from genhub.interfaces.registry import (
    MODELS,
    SCHEDULERS,
    all_plugins,
    find_plugin,
    load_all,
    load_class,
    plugin_names,
    plugin_of,
)

MODEL = """
from genhub import GenerativeModel
class Mean(GenerativeModel):
    def phases(self): return []
    def sample(self, n, *, conditions=None, generator=None): raise NotImplementedError
"""

BUILT_IN = list(plugin_names(MODELS))


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A site-packages folder of the test's own."""
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.setattr(sys, "path", [*sys.path, str(folder)])
    before = set(sys.modules)
    all_plugins.cache_clear()
    yield folder
    for name in set(sys.modules) - before:
        if str(folder) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]
    all_plugins.cache_clear()


def install(site: Path, distribution: str, entry_points: str, version: str = "1.0", **modules: str) -> None:
    info = site / f"{distribution.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n")
    (info / "entry_points.txt").write_text(entry_points)
    for name, source in modules.items():
        (site / f"{name}.py").write_text(source)
    all_plugins.cache_clear()


def test_a_strangers_model_needs_one_entry_point_line(site: Path) -> None:
    install(site, "mean-model", "[genhub.models]\nmean = mean_model:Mean\n", mean_model=MODEL)
    assert plugin_names(MODELS) == sorted([*BUILT_IN, "mean"])
    assert "mean_model" not in sys.modules  # listing imports nothing
    cls = load_class(MODELS, "mean")
    assert issubclass(cls, genhub.GenerativeModel)
    assert plugin_of(MODELS, cls) == find_plugin(MODELS, "mean")
    assert str(find_plugin(MODELS, "mean")) == "model 'mean' from mean-model 1.0"


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("raise RuntimeError('no luck')", "RuntimeError: no luck"),
        ("import sys; sys.exit(3)", "SystemExit: 3"),
        ("import nothing_of_that_name", "ModuleNotFoundError: No module named 'nothing_of_that_name'"),
        ("x = 1", "AttributeError: module 'broken_model' has no attribute 'Broken'"),
        ("Broken = 3", "TypeError: broken_model:Broken has no Config, phases"),
        ("class Broken:\n  pass", "TypeError: broken_model:Broken has no Config, phases"),
        ("this is no Python", "SyntaxError"),
    ],
)
def test_a_broken_plugin_harms_nothing_else_and_is_named(site: Path, source: str, reason: str) -> None:
    install(site, "bad-luck", "[genhub.models]\nbroken = broken_model:Broken\n", "0.3", broken_model=source)
    assert plugin_names(MODELS) == sorted([*BUILT_IN, "broken"])
    with pytest.raises(PluginError, match="model 'broken' from bad-luck 0.3 can't be used: ") as caught:
        load_class(MODELS, "broken")
    assert reason in str(caught.value)
    classes, faults = load_all(MODELS)
    assert list(classes) == BUILT_IN
    assert faults == [str(caught.value)]


@pytest.mark.parametrize("value", ["broken_model", "a b:c", "", ":", "os:", "..os:getcwd"])
def test_an_entry_point_that_names_no_class(site: Path, value: str) -> None:
    install(site, "bad-luck", f"[genhub.models]\nbroken = {value}\n")
    with pytest.raises(PluginError, match="is not written as module:Class"):
        load_class(MODELS, "broken")


def test_two_distributions_that_claim_one_name_are_both_named(site: Path) -> None:
    install(site, "mean-model", "[genhub.models]\nmean = mean_model:Mean\n", "1.0", mean_model=MODEL)
    install(site, "other-model", "[genhub.models]\nmean = other:Mean\n[genhub.schedulers]\nddim = other:X\n", "2.0")
    with pytest.raises(PluginError) as caught:
        load_class(MODELS, "mean")
    for part in ("'mean'", "mean-model 1.0", "other-model 2.0", "other:Mean", "uninstall one"):
        assert part in str(caught.value)
    with pytest.raises(PluginError, match="genhub-framework"):
        genhub.load_scheduler("ddim")
    assert load_class(MODELS, "ddpm").__name__ == "DDPM"


def test_one_distribution_seen_twice_is_one(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(site, "mean-model", "[genhub.models]\nmean = mean_model:Mean\n", "1.0", mean_model=MODEL)
    install(site / "again", "mean-model", "[genhub.models]\nmean = mean_model:Mean\n", "0.9")
    monkeypatch.setattr(sys, "path", [*sys.path, str(site), str(site / "again")])
    all_plugins.cache_clear()
    assert find_plugin(MODELS, "mean").version == "1.0"


def test_damaged_metadata_are_that_distributions_own_affair(site: Path) -> None:
    install(site, "damaged", "[genhub.models]\nthis is not an entry point\n")
    install(site, "mean-model", "[genhub.models]\nmean = mean_model:Mean\n", mean_model=MODEL)
    assert plugin_names(MODELS) == sorted([*BUILT_IN, "mean"])
    assert len(all_plugins()[1]) == 1
    assert "damaged-1.0.dist-info" in all_plugins()[1][0]


def test_metadata_without_a_name_or_version(site: Path) -> None:
    install(site, "mean-model", "[genhub.models]\nmean = mean_model:Mean\n", mean_model=MODEL)
    (site / "mean_model-1.0.dist-info" / "METADATA").unlink()
    all_plugins.cache_clear()
    assert "ddpm" in plugin_names(MODELS)


def test_an_unknown_name_gets_the_nearest_and_what_to_do() -> None:
    with pytest.raises(PluginError, match="no model is called 'ddmp'; did you mean 'ddpm'\\?.*pip install"):
        load_class(MODELS, "ddmp")
    with pytest.raises(PluginError, match="known: ddim, ddpm, deis"):
        genhub.load_scheduler("xyz")


def test_module_and_class_with_the_folder_importable(site: Path, tmp_path: Path) -> None:
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "my_own_model.py").write_text(MODEL)
    with pytest.raises(PluginError, match="no model is called"):  # a checkpoint may not
        load_class(MODELS, "my_own_model:Mean")
    assert load_class(MODELS, "my_own_model:Mean", folder).__name__ == "Mean"
    assert plugin_of(MODELS, load_class(MODELS, "my_own_model:Mean", folder)) is None
    with pytest.raises(PluginError, match="'my_own_model:Median'.*no attribute 'Median'"):
        load_class(MODELS, "my_own_model:Median", folder)
    del sys.modules["my_own_model"]


def test_neighbours_of_a_recipe_hide_nothing_that_is_installed(site: Path, tmp_path: Path) -> None:
    (tmp_path / "colorsys.py").write_text("raise RuntimeError('the wrong one')")
    with pytest.raises(PluginError, match="colorsys:Nothing.*no attribute"):
        load_class(MODELS, "colorsys:Nothing", tmp_path)


def test_schedulers_are_listed_without_import_and_load() -> None:
    assert set(registry.plugin_names(SCHEDULERS)) == set(genhub.scheduler_names())
    assert {"ddpm", "ddim", "dpmsolver", "unipc", "euler", "heun", "lms", "pndm", "deis"} <= set(genhub.scheduler_names())
    assert load_all(SCHEDULERS)[1] == []
