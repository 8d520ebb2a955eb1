"""The pictures of `genhub show`: what they hold, that they depend on the seed alone, and what is said instead."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import models
import numpy as np
import pytest
import torch
from conftest import TINY_DDPM
from PIL import Image
from torch import nn
from typer.main import get_command
from typer.testing import CliRunner

import genhub
from genhub import DenoisingStep, GenerativeModel, InputError, ModelConfig, Phase, cli, randn
from genhub.interfaces.registry import VIEWS, load_class, plugin_names
from genhub.views import canvas, own_options
from genhub.views.canvas import Film, PictureRow
from genhub.views.films import Forward, Interpolate, Reverse
from genhub.views.latent_map import plane_of
from genhub.views.sheets import nearest
from genhub.views.viewed import Viewed

ROOT = Path(__file__).parents[1]
DIGITS = ["data.name=digits"]


class Whole(GenerativeModel):
    """A stranger's model with every capability: its latents are the pixels, its noise is mixed in evenly."""

    num_train_timesteps = 20

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.weight = nn.ParameterList([torch.ones(1)])

    def phases(self) -> list[Phase]:
        return []

    def sample(self, n, *, conditions=None, generator=None, guidance_scale: float = 1.0):
        steps = self.denoise(n, conditions=conditions, generator=generator, guidance_scale=guidance_scale)
        return list(steps)[-1].sample

    def encode(self, x, conditions=None):
        return x.flatten(1)

    def decode(self, latents, conditions=None):
        return latents.view(-1, *self.shape)

    def add_noise(self, images, noise, timesteps):
        share = ((timesteps + 1) / self.num_train_timesteps).view(-1, 1, 1, 1)
        return (1 - share) * images + share * noise

    def predict_x0(self, x_t, timesteps, conditions=None):
        labels = self.conditions_of(len(x_t), conditions).values["label"]
        return (labels / 5 - 1).view(-1, 1, 1, 1).expand_as(x_t)

    def signal_to_noise(self, timesteps):
        share = (timesteps + 1) / self.num_train_timesteps
        return ((1 - share) / share) ** 2

    def denoise(self, n, *, conditions=None, generator=None, guidance_scale: float = 1.0) -> Iterator[DenoisingStep]:
        labels = self.conditions_of(n, conditions).values["label"]
        noise, guess = (
            randn((n, *self.shape), generator, self.device),
            (labels / 5 - 1).view(-1, 1, 1, 1) * guidance_scale,
        )
        for index in range(4):
            yield DenoisingStep(index, 19 - 5 * index, noise * (3 - index) / 4 + guess, guess.expand_as(noise))


class Plane(GenerativeModel):
    """Its latents are two numbers: the brightness of the left and the right half."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.weight = nn.ParameterList([torch.ones(1)])

    def phases(self) -> list[Phase]:
        return []

    def encode(self, x, conditions=None):
        return x.mean(1).unflatten(2, (2, -1)).mean((1, 3))

    def decode(self, latents, conditions=None):
        return latents.clamp(-1, 1)[:, None, None, :].repeat_interleave(4, 3).expand(-1, 1, 8, 8)

    def sample(self, n, *, conditions=None, generator=None):
        return torch.zeros(n, *self.shape)


def make(cls: type[GenerativeModel]) -> GenerativeModel:
    """A model of the digits; Whole and Labelled are given their labels."""
    torch.manual_seed(0)
    given = {"conditions": ("label",)} if cls in (Whole, models.Labelled) else {}
    return cls(cls.Config(data=models.images(classes=10 if given else 0), **given)).eval()


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Runs of a few steps: what is drawn is mush, but all that a run has is there."""
    folder = tmp_path_factory.mktemp("runs")
    sections = {
        "ddpm": TINY_DDPM["model"] | {"conditions": ["label"], "condition_dropout": 0.1},
        "vae": {"name": "vae", "channels": [4], "latent_dim": 3},
        "gan": {"name": "gan"},
    }
    for name, model in sections.items():
        recipe = {"model": model, "data": TINY_DDPM["data"], "trainer": TINY_DDPM["trainer"], "run_dir": str(folder / name)}
        genhub.train(recipe)
    return {name: folder / name for name in sections}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "view", "options"),
    [
        ("ddpm", "forward", {"n": 2}), ("ddpm", "reverse", {"n": 2, "steps": 3}), ("ddpm", "interpolate", {"n": 1, "steps": 2}),
        ("ddpm", "classes", {"n": 1}), ("ddpm", "guidance", {"n": 2, "scales": [1, 3]}), ("ddpm", "neighbours", {"n": 2}),
        ("vae", "reconstruct", {"n": 2}), ("vae", "latent", {"n": 4}), ("vae", "interpolate", {"n": 1, "steps": 3}),
        ("vae", "neighbours", {"n": 2, "observe": True}), ("gan", "interpolate", {"n": 2, "steps": 3, "truncation": 1.0}),
    ],
)  # fmt: skip
def test_a_picture_is_the_seeds_alone(runs, tmp_path, name, view, options) -> None:
    pictures = []
    for index, seed in enumerate([0, 0, 1]):
        image = genhub.show(view, runs[name], out=tmp_path / f"{index}.png", seed=seed, **options)
        with Image.open(tmp_path / f"{index}.png") as written:
            assert np.array_equal(np.asarray(written), np.asarray(image))
        assert image.width >= 100
        assert image.height >= 100
        pictures.append((tmp_path / f"{index}.png").read_bytes())
    assert pictures[0] == pictures[1]
    assert pictures[0] != pictures[2]


@pytest.mark.slow
def test_users_settings_of_matplotlib_change_nothing_and_stay(runs) -> None:
    import matplotlib

    before = genhub.show("losses", runs["gan"])
    with matplotlib.rc_context({"font.size": 30, "axes.facecolor": "red", "savefig.dpi": 40}):
        assert genhub.show("losses", runs["gan"]) == before
        assert matplotlib.rcParams["font.size"] == 30


def test_a_model_object_of_a_strangers_class_has_every_view_its_capabilities_allow() -> None:
    model, data = make(Whole), {"forward", "reconstruct", "latent", "neighbours", "interpolate", "samples"}
    for view in set(plugin_names(VIEWS)) - {"losses", "landscape"}:  # a landscape is of points
        assert genhub.show(view, model, DIGITS if view in data else (), n=2).format == "PNG"


def test_a_picture_that_is_shared_names_no_folder_of_this_machine(tmp_path, monkeypatch) -> None:
    heads: list[str] = []
    monkeypatch.setattr(canvas, "_ends", lambda *texts, real=canvas._ends: heads.extend(texts) or real(*texts))
    monkeypatch.setattr(canvas, "_head", lambda *all, real=canvas._head: heads.extend(all[2:]) or real(*all))
    digits = genhub.load_data(genhub.read_recipe("digits-vae-label").data)
    image = (digits.x(range(40)).permute(0, 2, 3, 1).numpy() * 127.5 + 127.5).astype(np.uint8)
    np.savez(tmp_path / "mine.npz", image=image, label=np.arange(40) % 10)
    for view in ("forward", "reconstruct", "latent", "neighbours", "interpolate", "samples"):
        genhub.show(view, make(Whole), [f"data.name={tmp_path / 'mine.npz'}", "data.columns.label=label"], n=2)
    assert any("mine.npz" in head for head in heads)
    assert not [head for head in heads if str(tmp_path) in head]


@pytest.mark.parametrize(
    ("view", "cls", "message"),
    [
        ("reconstruct", models.Pair, "reconstruct needs the capability Autoencoder (encode, decode), which Pair lacks; "
                                     "it has the views interpolate, neighbours, samples"),
        ("reverse", Plane, "reverse needs the capability Denoiser (add_noise, predict_x0, signal_to_noise, denoise), which Plane lacks; "
                           "it has the views interpolate, latent, neighbours, reconstruct, samples"),
        ("classes", models.Pair, "classes needs a condition, such as a label, which Pair lacks; it has the views interpolate, neighbours, samples"),
        ("guidance", models.Labelled, "guidance needs a condition and an option guidance_scale of `sample`, which "
                                      "Labelled lacks; it has the views classes, interpolate, neighbours, samples"),
        ("losses", models.Pair, "losses needs a run's folder, with metrics.jsonl, which Pair lacks; it has the views "
                                "interpolate, neighbours, samples"),
    ],
)  # fmt: skip
def test_a_missing_capability_is_named(view, cls, message) -> None:
    with pytest.raises(InputError) as caught:
        genhub.show(view, make(cls), DIGITS)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("view", "options", "message"),
    [
        ("revers", {}, "no view is called 'revers'; did you mean 'reverse'?"),
        ("reverse", {"out": "x.jpg"}, "--out x.jpg: give x.png, or x.gif for a view that moves (forward, interpolate, reverse)"),
        ("classes", {"out": "x.gif"}, "--out x.gif: give x.png, or x.gif for a view that moves (forward, interpolate, reverse)"),
        ("forward", {"conditions": {"label": 1}}, "--condition: the view forward has no such option; known: n, steps, seed"),
        ("forward", {"step": 3}, "--set step: the view forward has no such option; did you mean 'steps'?"),
        ("forward", {"n": 0}, "--n: must be greater than or equal to 1, not 0"),
        ("reverse", {"steps": 1000}, "--steps: must be less than or equal to 200, not 1000"),
        ("reverse", {"scales": [1]}, "--scales: the view reverse has no such option; known: conditions, n, seed, steps"),
        ("reverse", {"guidance": 3.0}, "--set guidance: Whole has no such option; did you mean 'guidance_scale'?"),
        ("reverse", {"conditions": {"label": [10]}}, "--condition label: "),
        ("interpolate", {"between": "labels"}, "--between: can't be 'labels'; known: images, seeds"),
        ("interpolate", {"guidance_scale": 2.0}, "interpolate: between two images nothing is drawn, so guidance_scale has no "
                                                 "use; add --between seeds"),
        ("forward", {}, "Whole: no recipe.yaml tells which real data to show; give data.name=..."),
        ("forward", {"overrides": ["data.name=digits", "seed=1"]}, "command line: 'seed=1': the model is trained; only data.key=value can differ"),
        ("forward", {"overrides": ["data.name=digits", "data.image_size=4"]}, "data.image_size: unknown key"),
        ("forward", {"overrides": ["data.nam=digits"]}, "no recipe.yaml tells"),
        ("forward", {"overrides": ["data.name=digits", "data.splt=test"]}, "data.splt: unknown key; did you mean 'split'?"),
        ("classes", {"overrides": DIGITS}, "data.name=digits: classes of Whole shows no real rows, so this changes nothing"),
    ],
)  # fmt: skip
def test_mistakes(tmp_path, monkeypatch, view, options, message) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError) as caught:
        genhub.show(view, make(Whole), **options)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_data_of_another_shape_than_the_models_are_refused(tmp_path) -> None:
    np.save(tmp_path / "small.npy", np.zeros((9, 4, 4), np.uint8))
    with pytest.raises(genhub.DataError, match="1x4x4"):
        genhub.show("forward", make(Whole), [f"data.name={tmp_path / 'small.npy'}"])


def test_a_recipe_will_do_for_forward_alone(runs) -> None:
    linear = Forward().draw(Viewed("digits-ddpm", ["model.scheduler.beta_schedule=linear"]), n=1)
    cosine = Forward().draw(Viewed("digits-ddpm"), n=1)
    assert linear.title.startswith("digits-ddpm: ")
    assert linear.captions != cosine.captions
    assert torch.equal(linear.panels["$x_t$"][0], cosine.panels["$x_t$"][0])
    with pytest.raises(
        InputError, match="reverse needs a trained model, and digits-ddpm is a recipe: train it, then give runs/d"
    ):
        genhub.show("reverse", "digits-ddpm")
    with pytest.raises(InputError, match="digits-dpm: no such run, checkpoint, recipe file or shipped recipe; did you mean"):
        genhub.show("reverse", "digits-dpm")
    newest = max((runs["ddpm"] / "checkpoints").iterdir())
    assert Viewed(newest).name == f"ddpm/{newest.name}"
    assert genhub.show("losses", newest).size == genhub.show("losses", runs["ddpm"]).size


def test_real_images_are_the_runs_own_unless_told(runs) -> None:
    own, fewer = Viewed(runs["vae"]), Viewed(runs["vae"], ["data.split=train[:7]"])
    assert own.data.num_rows == 1797
    assert sorted(fewer.choose(10, 0)) == list(range(7))
    film = Interpolate().draw(fewer, n=1, steps=2)
    first, last = film.panels[""][0, 0], film.panels[""][-1, 0]
    assert torch.equal(torch.stack([first, last]), fewer.data.x(fewer.choose(2, 0)))


def test_forward_is_the_models_own_process() -> None:
    model = make(Whole)
    film = Forward().draw(Viewed(model, DIGITS), n=3, steps=4, seed=2)
    x, captions = film.panels["$x_t$"], [caption.split("\n")[0] for caption in film.captions]
    assert captions == ["$x_0$", "t = 4", "t = 9", "t = 14", "t = 19"]
    assert film.captions[1].endswith("SNR 9")
    assert film.captions[-1].endswith("SNR 0")
    noise = x[4]  # all that is left in the last column
    assert torch.allclose(x[2], x[0] / 2 + noise / 2, atol=1e-6)
    assert abs(noise.std() - 1) < 0.2
    assert len(Forward().draw(Viewed(model, DIGITS), steps=10).captions) == 11
    assert len(Forward().draw(Viewed(model, DIGITS), steps=200).captions) == 21  # it has no more


def test_reverse_ends_at_the_sample(runs) -> None:
    subject = Viewed(runs["ddpm"])
    film = Reverse().draw(subject, n=3, steps=3, seed=5, conditions={"label": [7]}, num_inference_steps=6, scheduler="ddim")
    assert [caption.split("\n")[0] for caption in film.captions] == ["step 1", "step 3", "step 6"] or film.captions[
        0
    ].startswith("step 1")
    assert film.panels["$x$"].shape == film.panels["guess of $x_0$"].shape == (3, 3, 1, 8, 8)
    sample = genhub.sample(subject.model, 3, seed=5, conditions={"label": [7]}, num_inference_steps=6, scheduler="ddim")
    assert torch.equal(film.modality.from_batch(film.panels["$x$"][-1]), sample)
    euler = Reverse().draw(subject, n=2, num_inference_steps=4, scheduler="euler")
    assert euler.panels["$x$"].std((2, 3, 4)).max() < 1.01  # its x_T has a deviation of 157


def test_between_seeds_lie_images_of_their_noise() -> None:
    model = make(models.Pair)
    film = Interpolate().draw(Viewed(model), n=2, steps=5, seed=3)
    ends = genhub.sample(model, 4, seed=3)
    assert torch.equal(film.modality.from_batch(film.panels[""][0]), ends[::2])
    assert torch.equal(film.modality.from_batch(film.panels[""][-1]), ends[1::2])
    jumps = film.panels[""].diff(dim=0).square().mean((1, 2, 3, 4)).sqrt()
    assert jumps.max() < 0.7 * (film.panels[""][0] - film.panels[""][-1]).square().mean().sqrt()
    with pytest.raises(InputError, match="Labelled does not draw its noise with genhub.randn, so nothing lies between"):
        Interpolate().draw(Viewed(make(models.Labelled)))


def test_an_animation_goes_there_and_back(tmp_path) -> None:
    image = genhub.show("interpolate", make(models.Pair), out=tmp_path / "x.gif", n=3, steps=5)
    assert (image.format, image.n_frames, image.info["loop"]) == ("GIF", 8, 0)
    durations = []
    for frame in range(image.n_frames):
        image.seek(frame)
        durations.append(image.info["duration"])
    assert durations == [1200, 120, 120, 120, 1200, 120, 120, 120]
    again = genhub.show("reverse", make(Whole), out=tmp_path / "y.gif", n=2)
    assert again.n_frames == 4
    first = (tmp_path / "y.gif").read_bytes()
    genhub.show("reverse", make(Whole), out=tmp_path / "y.gif", n=2)
    assert (tmp_path / "y.gif").read_bytes() == first


def test_latent_map_and_points_share_their_axes() -> None:
    picture = np.asarray(genhub.show("latent", make(Plane), DIGITS, n=6).convert("L"), dtype=float)
    left = picture[90:560, 70:530]
    halves = [[left[:200, :200], left[:200, -200:]], [left[-200:, :200], left[-200:, -200:]]]
    (top_left, top_right), (bottom_left, bottom_right) = [[half.mean() for half in row] for row in halves]
    assert bottom_left < min(top_left, bottom_right)
    assert top_right > max(top_left, bottom_right)
    stripes = left[-60:-10, -70:-5]  # a tile at the bottom right: z_1 is large there and z_2 small
    assert stripes[:, :30].mean() > stripes[:, -20:].mean()


def test_more_than_two_dimensions_are_seen_along_principal_components() -> None:
    subject = Viewed(make(Whole), DIGITS)
    points = subject.data.x(range(1797)).flatten(1).double()
    centre, axes, note = plane_of(points)
    values = np.linalg.svd((points - points.mean(0)).numpy(), compute_uv=False) ** 2
    spread = ((points - centre) @ axes.T).var(0, correction=0) * len(points)
    assert np.allclose(spread.numpy(), values[:2])
    assert f"{values[:2].sum() / values.sum():.0%} of the variance" in note
    assert plane_of(points[:, :1])[1].shape == (2, 1)


def test_neighbours_are_the_nearest_in_pixels() -> None:
    subject = Viewed(make(Whole), DIGITS)
    queries = subject.data.x([5, 900, 5])
    found, distance = nearest(subject, queries, [-1, -1, 5])
    assert found[:2] == [5, 900]
    assert distance[:2].tolist() == [0, 0]
    reals = subject.data.x(range(1797))
    expected = (reals - queries[2]).square().mean((1, 2, 3)).sqrt()
    expected[5] = 9
    assert found[2] == expected.argmin()
    assert torch.allclose(distance[2], expected.min())


def test_losses_are_read_from_the_log_as_it_is(tmp_path, capsys) -> None:
    run = tmp_path / "my_$run"
    run.mkdir()
    lines = [{"step": step, "generator/loss": 1 / step, "critic/loss": float("nan"), "lr": 1e-3} for step in (10, 20, 30)]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 4')
    two_rows = genhub.show("losses", run)
    (run / "metrics.jsonl").write_text('{"step": 1, "fit/loss": 2.0}\n')
    assert genhub.show("losses", run).height < two_rows.height
    (run / "metrics.jsonl").write_text('{"step": 1, "fit/loss": 2.0}\n{"step": 2, "fit/loss": "high"}\n')
    assert genhub.show("losses", run)
    assert f"{run}/metrics.jsonl: line 2 is damaged; left out" in capsys.readouterr().err
    (run / "metrics.jsonl").write_text("")
    with pytest.raises(InputError, match="nothing is logged yet"):
        genhub.show("losses", run)
    with pytest.raises(InputError, match="--steps: the view losses has no such option; known: none"):
        genhub.show("losses", run, steps=3)


@pytest.mark.parametrize(("channels", "side", "shown"), [(1, 8, 64), (2, 28, 56), (3, 100, 100), (4, 300, 128), (5, 64, 64)])
def test_images_of_any_kind_are_shown_at_a_size_one_can_see(channels, side, shown) -> None:
    modality = genhub.Image(shape=(channels, side, side))
    x = modality.to_batch(torch.full((2, channels, side, side), 200, dtype=torch.uint8))
    assert canvas.tiles(modality, x[:1])[0].size == (shown, shown)
    rows = [PictureRow.of(label, modality, x) for label in ("a", "b")]
    picture = np.asarray(canvas.table("t", "n", rows))
    assert picture.shape[2] == 3
    grey = 255 - 55 * 200 // 255 if channels == 4 else 200  # alpha over white
    like = (abs(picture.astype(int) - grey) <= 1).all(2).sum()  # and a few at the edges of letters
    assert 4 * shown**2 <= like < 4 * shown**2 + 50


def test_captions_never_touch() -> None:
    narrow, wide = ["1"] * 30, ["1\n0.00000000001"] * 30
    x, modality = torch.zeros(30, 1, 8, 8), genhub.Image(shape=(1, 8, 8))
    pictures = [canvas.table("", "", [PictureRow.of("", modality, x, captions)]) for captions in (narrow, wide)]
    assert pictures[1].width > pictures[0].width > 30 * 64
    film = Film("a title that is wider than the two images in the picture are", "", modality, {"": x[:2, None]}, ["a", "b"])
    assert film.strip().width > 400
    assert len({frame.size for frame in film.frames()[0]}) == 1


# The command line and the page


def test_the_verb(runs, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)

    def run(*words: str) -> str:
        result = CliRunner().invoke(cli.app, ["show", *words])
        return result.stdout if result.exception is None else str(result.exception)

    words = ("--scales", "0,2.5", "--condition", "label=3,4", "-n", "2")
    assert run("guidance", str(runs["ddpm"]), *words) == "guidance: guidance.png\n"
    assert run("reconstruct", str(runs["vae"]), "data.split=train[:5]", "--out", "new/x.png") == "reconstruct: new/x.png\n"
    assert run("reverse", str(runs["ddpm"]), "--steps", "2", "--set", "num_inference_steps=3", "--out", "x.gif")
    assert sorted(path.name for path in tmp_path.rglob("*.*")) == ["guidance.png", "x.gif", "x.png"]
    assert (
        run("guidance", "x", "--scales", "much") == "--scales: numbers with commas between them, such as 0,1,2; not 'much'"
    )
    assert run("reverse", "x", "--set", "steps=3") == "--set steps: has an option of its own; see genhub show --help"
    assert run("reverse", "x", "--set", "view=3") == "--set view: has an option of its own; see genhub show --help"
    assert run("losses", str(runs["gan"]), "--seed", "3") == "--seed: the view losses has no such option; known: none"
    (tmp_path / "file").write_text("")
    assert run("losses", str(runs["gan"]), "--out", "file/x.png") == "--out file/x.png: File exists"


def test_the_pages_commands_and_pictures_exist() -> None:
    page = (ROOT / "docs" / "views.md").read_text()
    commands = [line.split("#")[0].split() for line in re.findall(r"^genhub show .*", page, re.MULTILINE)]
    assert {command[2] for command in commands} == set(plugin_names(VIEWS))
    options = {option for parameter in get_command(cli.app).commands["show"].params for option in parameter.opts}
    for command in commands:
        own = [word for word in command if word.startswith("-")]
        assert set(own) <= options, command
        for name in {word.lstrip("-") for word in own} - {"out", "set", "device"}:
            assert {"condition": "conditions"}.get(name, name) in own_options(load_class(VIEWS, command[2])), command
        if "--out" in command:
            assert command[command.index("--out") + 1].endswith(
                (".png", ".gif") if load_class(VIEWS, command[2]).moves else ".png"
            )
    pictures = [ROOT / "docs" / path for path in re.findall(r"!\[.*?\]\((.*?)\)", page)]
    assert all(1000 < picture.stat().st_size < 150_000 for picture in pictures)
    assert sum(picture.stat().st_size for picture in set(pictures)) < 1_200_000
