"""Views of points, tables and signals, and views that strangers bring."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from test_registry import install
from test_registry import site as site
from typer.testing import CliRunner

import genhub
from genhub import Denoiser, Energy, GenerativeModel, InputError, ModelConfig, PluginError, Signal, Vector, cli
from genhub.data.open import load_data
from genhub.interfaces.columns import DataConfig
from genhub.modalities import plots
from genhub.testing.sketches import sketch_class
from genhub.views import canvas
from genhub.views.films import Reverse
from genhub.views.landscape import Landscape
from genhub.views.sheets import Samples
from genhub.views.viewed import Viewed

MOONS = ["data.name=moons", "data.num_rows=300"]
PALE = tuple(int(plots.PALE[at : at + 2], 16) for at in (1, 3, 5))


class Says(GenerativeModel):
    """Draws the point (label, seed's noise)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.weight = torch.nn.ParameterList([torch.ones(1)])

    def phases(self):
        return []

    def sample(self, n, *, conditions=None, generator=None, far: float = 0.0):
        label = self.conditions_of(n, conditions).values["label"].float()
        return torch.stack([label, torch.full_like(label, far)], 1)


def moons(cls: type[GenerativeModel], *conditions: str) -> GenerativeModel:
    data = load_data(DataConfig(name="moons", num_rows=300), conditions)
    return cls(ModelConfig(data=data.spec.model_data, conditions=conditions)).eval()


def table_of(cls: type[GenerativeModel]) -> GenerativeModel:
    return cls(ModelConfig(data=load_data(DataConfig(name="wine"), ()).spec.model_data)).eval()


def pale(picture: Image.Image) -> int:
    """Number of pixels that have the colour of real values."""
    return sum(count for count, colour in picture.convert("RGB").getcolors(2**24) if colour == PALE)


# Points


class Bowl(Says):
    """Its energy is the square of the distance from (label, 0), as it was given; of nothing, from 0."""

    def energy(self, x, conditions=None):
        given = self.conditions_of(len(x), conditions)
        label = given.values["label"].float() * given.present["label"]
        return (x - torch.stack([label, torch.zeros_like(label)], 1)).square().sum(1)


@pytest.mark.parametrize(("asked", "middle"), [(None, 0.0), ([1], 1.0)])
def test_a_landscape_has_the_energy_of_what_is_asked_on_its_own_units(monkeypatch, asked, middle) -> None:
    model, seen = moons(Bowl, "label"), []
    monkeypatch.setattr(canvas, "landscape", lambda *parts: seen.append(parts) or Image.new("RGB", (9, 9)))
    Landscape().draw(Viewed(model, MOONS), n=20, grid=50, conditions=asked and {"label": asked})
    ((_, note, ground, points),) = seen
    assert note.startswith("above the lowest; given 1;" if asked else "above the lowest; given nothing;")
    assert {name: len(its) for name, its in points.items()} == {"20 real points": 20, "20 drawn points": 20}
    place = np.stack(np.meshgrid(ground.across, ground.up), 2)
    standard = (place - np.array(model.modality.mean)) / np.array(model.modality.std)
    expected = np.square(standard - [middle, 0]).sum(2)
    np.testing.assert_allclose(ground.heights, expected - expected.min(), atol=1e-2)
    real = points["20 real points"]
    assert ground.across[0] < real[:, 0].min() < real[:, 0].max() < ground.across[-1]
    assert 0 < ground.top < ground.heights.max()


def test_a_landscape_is_of_points_of_the_plane() -> None:
    with pytest.raises(InputError, match="landscape: is for points of the plane, and Sketched draws 13 numbers"):
        genhub.show("landscape", table_of(sketch_class(Energy, None)), ["data.name=wine"])
    assert genhub.show("landscape", moons(sketch_class(Energy, None)), MOONS, n=20, grid=10).width > 800


def test_points_flow_on_axes_that_stay_before_real_ones(tmp_path: Path) -> None:
    model = moons(sketch_class(Denoiser, None), "label")
    known = Reverse().draw(Viewed(model, MOONS), n=30, steps=2)
    unknown = Reverse().draw(Viewed(model), n=30, steps=2)
    assert known.real.shape == (300, 2)
    assert unknown.real is None
    with pytest.raises(genhub.DataError, match="nowhere"):
        Reverse().draw(Viewed(model, ["data.name=nowhere.npz"]), n=3)
    assert known.given[:3] == ["0", "1", "0"]  # by whose colours they are told apart
    frames, _ = known.frames()
    assert pale(frames[0]) > 500 > 50 > pale(replace(unknown, panels={"": unknown.panels["$x$"]}).frames()[0][0])
    assert len(frames) == 2
    axes = [np.asarray(frame.convert("L"))[-46:-30] for frame in frames]  # the numbers below
    assert all(np.array_equal(axes[0], other) for other in axes)
    moving = genhub.show("reverse", model, MOONS, out=tmp_path / "x.gif", n=30, steps=2)
    assert moving.n_frames == 2
    assert moving.width > moving.height  # x beside the guess of x_0


def test_a_sampler_that_counts_in_sigma_staysin_sight() -> None:
    from genhub.views.films import FAR, in_sight

    modality = moons(sketch_class(Denoiser, None)).modality
    x = torch.randn(200, 2)
    assert torch.equal(in_sight(x, modality), x)
    assert in_sight(157 * x, modality).std() == pytest.approx(FAR)


def test_what_is_drawn_is_drawn_for_the_conditions_of_the_same_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = {}
    monkeypatch.setattr(Vector, "compare", lambda self, *shown: (seen.update(shown=shown), Image.new("RGB", (9, 9)))[1])
    subject = Viewed(moons(Says, "label"), MOONS)
    picture = Samples().draw(subject, n=40, seed=3, far=2.0)
    assert picture.width > 100
    real, drawn, captions = seen["shown"]
    rows = subject.choose(40, 3)
    labels = subject.data.column("label").kept(rows)
    assert torch.equal(real, subject.data.own(rows))
    assert torch.allclose(subject.modality.to_batch(drawn)[:, 0], labels.float(), atol=1e-5)
    assert torch.allclose(subject.modality.to_batch(drawn)[:, 1], torch.full((40,), 2.0), atol=1e-5)
    assert captions == [str(label) for label in labels.tolist()]
    with pytest.raises(InputError, match="--condition: the view samples has no such option; known: n, seed"):
        genhub.show("samples", moons(Says, "label"), MOONS, conditions={"label": 1})
    with pytest.raises(InputError, match="--set near: Says has no such option; known: far"):
        genhub.show("samples", moons(Says, "label"), MOONS, near=1)


def test_users_settings_of_matplotlib_change_nothing_here_either() -> None:
    import matplotlib

    model = moons(Says, "label")
    before = genhub.show("samples", model, MOONS, n=5)
    with matplotlib.rc_context({"font.size": 30, "axes.facecolor": "red", "savefig.dpi": 40}):
        assert genhub.show("samples", model, MOONS, n=5) == before


@pytest.mark.parametrize("size", [1, 2, 5])
def test_vectors_are_compared(size: int) -> None:
    modality = Vector(shape=(size,), mean=(0.0,) * size, std=(1.0,) * size)
    real, drawn = (torch.randn(80, size, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    drawn[:, 0] = 1.0  # a number that is constant has no correlation
    assert modality.compare(real, drawn).width > 600
    tiles = [canvas.tiles(modality, drawn, real=real, like=real)[0], canvas.tiles(modality, drawn)[0]]
    assert all(max(tile.size) <= canvas.MAX_PLOT for tile in tiles)
    assert np.any(np.asarray(tiles[0]) != np.asarray(tiles[1]))


def test_correlations_are_numpys_and_0_with_what_is_constant() -> None:
    values = np.random.default_rng(0).normal(size=(50, 3))
    values[:, 2] = 4
    found = plots._correlations(values)
    assert found[0, 1] == pytest.approx(np.corrcoef(values[:, 0], values[:, 1])[0, 1])
    assert found[:2, 2].tolist() == [0, 0]


# Signals


@pytest.mark.parametrize(("channels", "length", "rate"), [(1, 2000, 8000), (2, 40, None), (1, 3, None)])
def test_signals_are_waves_and_spectrograms(channels: int, length: int, rate: int | None) -> None:
    modality = Signal(shape=(channels, length), mean=(0.0,) * channels, std=(1.0,) * channels, rate=rate)
    values = torch.randn(3, channels, length, generator=torch.Generator().manual_seed(0))
    narrow, wide = modality.compare(values, values[:1], ["one"]), modality.compare(values[:2], 0 * values)
    assert narrow.width < wide.width  # a column a pair


def test_a_spectrogram_has_its_power_where_the_tone_is() -> None:
    tone = np.sin(2 * np.pi * 1000 * np.arange(4000) / 8000)
    powers, highest = plots._spectrum(tone, 8000)
    assert highest == 4000
    assert abs(powers.mean(1).argmax() * highest / (len(powers) - 1) - 1000) < 40


def test_waves_in_a_row_have_one_scale() -> None:
    modality = Signal(shape=(1, 50), mean=(0.0,), std=(1.0,))
    loud = torch.sin(torch.arange(50.0))[None, None]
    low, high = (np.asarray(tile.convert("L"))[4:-4, 4:-4] for tile in canvas.tiles(modality, torch.cat([0.1 * loud, loud])))
    assert np.ptp(np.nonzero((low < 200).any(1))[0]) < np.ptp(np.nonzero((high < 200).any(1))[0])


# Views that strangers bring

STRANGER = """
from PIL import Image
from genhub import View

class Stripes(View):
    '''Stripes as wide as you like.'''

    def draw(self, subject, *, n: int = 2, width: int = 3, seed: int = 0, **options):
        return Image.new("RGB", (width * n, 20), "red")
"""


@pytest.fixture
def strangers(site: Path) -> Path:
    install(site, "stripes", "[genhub.views]\nstripes = stripes_view:Stripes\n", stripes_view=STRANGER)
    install(site, "torn", "[genhub.views]\ntorn = torn_view:Torn\n", torn_view="raise RuntimeError('torn')")
    return site


def test_a_strangers_view_needs_one_entry_point_line(strangers: Path, tmp_path: Path) -> None:
    model = moons(Says, "label")
    assert genhub.show("stripes", model, n=4, width=5, out=tmp_path / "x.png").size == (20, 20)
    assert genhub.show("stripes", model).width == 1500  # 500 points, if nobody says
    with pytest.raises(InputError, match="--set width: must be a valid integer, .*not 'wide'"):
        genhub.show("stripes", model, width="wide")
    with pytest.raises(InputError, match="no view is called 'stripe'; did you mean 'stripes'"):
        genhub.show("stripe", model)
    with pytest.raises(PluginError, match="view 'torn' from torn 1.0 can't be used: RuntimeError: torn"):
        genhub.show("torn", model)
    with pytest.raises(InputError, match="give x.png, or x.gif for a view that moves"):
        genhub.show("stripes", model, out="x.gif")
    with pytest.raises(InputError, match="reverse needs .* it has the views .*stripes"):
        genhub.show("reverse", model)


def test_the_help_and_the_plugins_name_it(strangers: Path) -> None:
    shown = CliRunner().invoke(cli.app, ["show", "--help"]).stdout
    assert "stripes" in shown.partition("Views:")[2]
    assert "samples" in shown.partition("Views:")[2]
    listed = CliRunner().invoke(cli.app, ["plugins"]).stdout
    assert "stripes_view:Stripes" in listed
    told = CliRunner().invoke(cli.app, ["plugins", "info", "stripes"]).stdout
    assert "Stripes as wide as you like." in told
    assert "width: 3  (int)" in told
    checked = CliRunner().invoke(cli.app, ["plugins", "check", "losses"])
    assert checked.exit_code == 0, checked.stdout
    assert "view 'losses' from genhub-framework" in checked.stdout
