"""The page on which to draw: what it consists of, made from models alone; and in a real browser, against the verb."""

from __future__ import annotations

import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from base64 import b64decode
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import broken_parts
import models
import numpy as np
import pytest
import torch
from browser import browsing, page_of, sideways
from genhub_ddpm import DDPM
from genhub_flow import Flow
from genhub_gan import GAN
from genhub_vae import VAE
from PIL import Image as Pillow
from typer.testing import CliRunner

import genhub
from genhub import Choice, Image, Label, Line, ModelData, Number, Signal, Slider, Upload, Vector, cli
from genhub.cli.arguments import read_conditions
from genhub.demo.form import Form, SampleOption
from genhub.demo.shown import draw_shown, fault_line
from genhub.ground.parsing import read_pairs
from genhub.sampling.draw import sample_elements
from genhub.sampling.options import read_options
from genhub.sampling.request import Drawing

DIGIT, POINT = Image(shape=(1, 8, 8)), Vector(shape=(2,), mean=(0.0, 0.0), std=(1.0, 1.0))
SOUND = Signal(shape=(1, 64), mean=(0.0,), std=(0.1,), rate=8000)
KIND = {"kind": Label(number=3, names=("cat", "dog", "a, b"))}
GIVEN = KIND | {
    "ink": Number(mean=0.2, std=0.1, low=0.0625, high=0.4375),
    "place": Vector(shape=(2,), mean=(0.5, 1.0), std=(1.0, 1.0)),
    "sketch": Image(shape=(1, 4, 4)),
}
SMALL = {"name": "unet", "block_out_channels": [8, 16], "add_attention": False}
SIZES_AND_SCHEMES = [(size, scheme) for size in ("phone", "desktop") for scheme in ("light", "dark")]


def make(cls: Any, target: Any, conditions: Any = None, **keys: Any) -> Any:
    torch.manual_seed(0)
    data = ModelData(column=target.modality, target=target, conditions=conditions or {})
    model = cls(cls.Config.model_validate({"data": data, "conditions": list(conditions or {}), **keys})).eval()
    for parameter in model.parameters():  # what starts as zero would hide what it is given
        parameter.data += 0.02 * torch.randn(parameter.shape)
    return model


def ddpm(conditions: Any = None, **keys: Any) -> Any:
    return make(DDPM, DIGIT, conditions, **{"network": SMALL, "sampling": {"num_inference_steps": 4}, **keys})


# What the page consists of


def test_a_form_is_made_from_the_model_alone() -> None:
    form = Form.of({"a": ddpm(GIVEN)})
    assert {told.name: told.control for told in form.conditions} == {
        "kind": Choice(("cat", "dog", "a, b")), "ink": Slider(0.0625, 0.4375), "place": Line("0.5 1"),
        "sketch": Upload(Image(shape=(1, 4, 4)).endings),
    }  # fmt: skip
    assert form.conditions[1].words == "a number, 0.0625 to 0.4375 in the training data"
    assert [(option.name, option.kind, option.default, option.low, option.high) for option in form.options] == [
        ("num_inference_steps", "integer", None, 1, 2**63), ("eta", "number", None, 0, 1),
        ("guidance_scale", "number", None, 0, None),
    ]  # fmt: skip
    assert (form.n, form.shows_way, form.notes) == (16, True, [])


def test_an_option_that_would_change_nothing_is_not_shown() -> None:
    form = Form.of({"a": ddpm(sampling={"scheduler": "dpmsolver"})})
    assert [option.name for option in form.options] == ["num_inference_steps"]


def test_points_share_a_picture_and_a_default_is_shown() -> None:
    form = Form.of({"moons": make(Flow, POINT, network={"name": "mlp", "hidden": 16})})
    assert (form.n, [option.name for option in form.options]) == (500, ["num_inference_steps"])
    form = Form.of({"digits": make(VAE, DIGIT, channels=[4, 4], latent_dim=2)})
    assert (form.options, form.shows_way) == ([SampleOption("observe", "boolean", False)], False)


def test_several_models_are_asked_what_all_can_be() -> None:
    fewer = {"kind": Label(number=2, names=("dog", "cow")), "ink": Number(low=0.2, high=0.7), "place": Number(high=1.0)}
    form = Form.of({"a": ddpm(GIVEN), "b": make(VAE, DIGIT, fewer, channels=[4, 4], latent_dim=2)})
    assert {told.name: told.control for told in form.conditions} == {"kind": Choice(("dog",)), "ink": Slider(0.0625, 0.7)}
    assert form.options == []
    assert form.notes == [
        "Left out: place; it is another thing to each model.",
        "Left out: sketch; b can't be told it.",
        "Left out: num_inference_steps, eta, guidance_scale; of no use to b.",
        "Left out: observe; of no use to a.",
    ]


def test_a_strangers_modality_and_options() -> None:
    trace = broken_parts.Trace(scale=1.0)
    data = ModelData(target=DIGIT, conditions={"trace": trace, "same": Number(low=2.0, high=2.0)})
    form = Form.of({"mine": models.Pair(models.Pair.Config(data=data, conditions=("trace", "same")))})
    assert [told.control for told in form.conditions] == [Line(), Line("2")]
    assert form.options == [SampleOption("scale", "number", 1.0)]


def test_a_command_asks_the_same() -> None:
    form = Form.of({"a": ddpm(GIVEN)})
    said = {"kind": ["a, b", "dog"], "ink": 0.30000000000000004, "place": "1 2", "sketch": "/tmp/x/my sketch.png"}
    wish = form.wish(3, 7, said, {"num_inference_steps": "5", "eta": "", "guidance_scale": " 1e-1 "})
    command = wish.command("runs/it's", "x.png")
    assert command == (
        """genhub sample 'runs/it'"'"'s' -n 3 --condition 'kind=a, b' --condition kind=dog --condition ink=0.3 """
        """--condition 'place=1 2' --condition 'sketch=my sketch.png' --seed 7 --set num_inference_steps=5 """
        """--set guidance_scale=1e-1 --out x.png"""
    )
    words = shlex.split(command)
    values = {
        option: [words[i + 1] for i, word in enumerate(words) if word == option] for option in ("--condition", "--set")
    }
    asked = read_conditions(values["--condition"][:-1], None) or {}
    assert {name: tuple(texts) for name, texts in asked.items()} == {
        name: tuple(texts) for name, texts in wish.conditions.items() if name != "sketch"
    }
    options = read_options(ddpm(GIVEN), read_pairs(values["--set"], "--set"))
    assert options == {"num_inference_steps": 5, "guidance_scale": 0.1}


def test_what_is_left_out_is_not_in_the_command() -> None:
    form = Form.of({"a": ddpm(GIVEN)})
    wish = form.wish(16, 0, {"kind": [], "ink": None, "place": "", "sketch": None}, dict.fromkeys(("eta",), ""))
    assert wish.command("a") == "genhub sample a -n 16 --seed 0 --out samples.png"
    form = Form.of({"b": make(VAE, DIGIT, channels=[4, 4], latent_dim=2)})
    assert form.wish(1, 0, {}, {"observe": "true"}).command("b").endswith(" --set observe=true --out samples.png")
    assert form.wish(1, 0, {}, {"observe": "false"}).options == {}  # it is the default


@pytest.mark.parametrize(
    ("n", "seed", "options", "message"),
    [
        (0, 0, {}, "n: must be a whole number, 1 to 1,000"),
        (None, 0, {}, "n: must be a whole number, 1 to 1,000"),
        (1, 2**53, {}, "seed: must be a whole number, 0 to 9,007,199,254,740,991"),
        (1, 0.5, {}, "seed: must be a whole number, 0 to 9,007,199,254,740,991"),
        (1, 0, {"eta": "{"}, "--set: eta: value:1: not valid YAML"),
        (1, 0, {"eta": "2"}, "--set eta: must be less than or equal to 1"),
        (1, 0, {"num_inference_steps": "many"}, "--set num_inference_steps: must be a valid integer"),
    ],
)
def test_what_can_not_be_drawn_with_is_one_line(n: Any, seed: Any, options: Any, message: str) -> None:
    model = ddpm()
    with pytest.raises(genhub.InputError) as caught:
        Form.of({"a": model}).wish(n, seed, {}, options).drawing(model)
    assert str(caught.value).startswith(message)
    assert "\n" not in fault_line(caught.value)


# What is shown


@pytest.mark.parametrize(("name", "steps"), [("ddpm", 5), ("ddpm", 200), ("flow", 5), ("flow", 1000)])
def test_the_last_picture_is_the_verbs_whether_the_way_is_shown_or_not(tmp_path: Path, name: str, steps: int) -> None:
    model = ddpm(KIND) if name == "ddpm" else make(Flow, POINT, KIND, network={"name": "mlp", "hidden": 16})
    model.save_pretrained(tmp_path / "model")
    wish = Form.of({"a": model}).wish(5, 3, {"kind": ["dog"]}, {"num_inference_steps": str(steps)})
    command = wish.command(str(tmp_path / "model"), str(tmp_path / "x.png"))
    assert CliRunner().invoke(cli.app, shlex.split(command)[1:]).exit_code == 0
    for way in (False, True):
        *before, last = draw_shown(model, wish, way)
        assert (last.last, last.captions) == (True, ["dog"] * 5)
        assert np.array_equal(np.asarray(last.picture), np.asarray(Pillow.open(tmp_path / "x.png")))
        assert all(not shown.last and shown.picture.size == last.picture.size for shown in before)
        if steps > 5:  # the way of a few steps may be over before it is looked at
            assert bool(before) == way
            assert not way or np.any(np.asarray(before[0].picture) != np.asarray(last.picture))


def test_rows_of_several_batches_stay_where_they_are_while_others_come() -> None:
    model = ddpm()
    drawing = Drawing(3, seed=1, batch_size=2)
    seen: list[tuple[int, int]] = []
    drawn = sample_elements(model, drawing, on_step=lambda first, step: seen.append((first, len(step.sample))))
    assert seen == [(0, 2)] * 4 + [(2, 1)] * 4
    assert torch.equal(drawn, sample_elements(model, drawing))


def test_sounds_are_there_to_be_heard() -> None:
    model = make(GAN, SOUND, generator={"channels": [4]}, discriminator={"channels": [4]})
    (shown,) = draw_shown(model, Form.of({"a": model}).wish(3, 0, {}, {}))
    assert [sound[:4] for sound in shown.sounds] == [b"RIFF"] * 3


def test_a_fault_of_a_strangers_model_is_one_line() -> None:
    class Falls(models.Pair):
        def sample(self, n, *, conditions=None, generator=None):
            raise KeyError("no such\nthing")

    model = Falls(Falls.Config(data=models.images()))
    with pytest.raises(KeyError) as caught:
        list(draw_shown(model, Form.of({"a": model}).wish(1, 0, {}, {})))
    assert fault_line(caught.value) == r"KeyError: 'no such\nthing'"
    assert fault_line(torch.OutOfMemoryError("full")) == "out of memory: draw fewer at a time"
    assert fault_line(ValueError()) == "ValueError"


def test_without_gradio_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gradio", None)
    result = CliRunner().invoke(cli.app, ["demo", "nowhere"])
    assert str(result.exception) == "genhub demo needs gradio: pip install 'genhub-framework[demo]'"


# In a browser


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with models, and a picture to upload; the pages run there, and so do their commands."""
    folder = tmp_path_factory.mktemp("demo")
    ddpm(GIVEN).save_pretrained(folder / "every")
    ddpm(KIND).save_pretrained(folder / "digits")
    make(Flow, POINT, KIND, network={"name": "mlp", "hidden": 16}).save_pretrained(folder / "moons")
    make(GAN, SOUND, KIND, generator={"channels": [4]}, discriminator={"channels": [4]}).save_pretrained(folder / "sounds")
    fails = ddpm(KIND)
    next(fails.network.parameters()).data.fill_(torch.nan)
    fails.save_pretrained(folder / "fails")
    Pillow.fromarray(np.arange(16, dtype=np.uint8).reshape(4, 4) * 15).save(folder / "sketch.png")
    return folder


@contextmanager
def served(place: Path, *sources: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """Yield the address of the real verb's page, and its process."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "genhub", "demo", *sources, "--port", str(port)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        command, cwd=place, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout
        assert process.stdout.readline() == f"Page     http://127.0.0.1:{port}\n", process.communicate()[1]
        yield f"http://127.0.0.1:{port}", process
    finally:
        process.kill()
        process.communicate()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with browsing() as found:
        yield found


@pytest.fixture(scope="module")
def page_of_every(place: Path, browser: Any) -> Iterator[str]:
    with served(place, "every") as (url, _):
        yield url


def draw(page: Any, seed: int) -> list[str]:
    """Draw from a seed that was not there before, and return the commands when the last model is done."""
    button, command = page.get_by_role("button", name="Draw", exact=True), page.get_by_label("The same in a shell")
    page.get_by_label("seed", exact=True).fill(str(seed))
    button.click()
    page.wait_for_function(
        "([seed]) => [...document.querySelectorAll('textarea')].some(area => area.value.includes(`--seed ${seed} `))",
        arg=[seed],
    )
    page.wait_for_function("() => [...document.querySelectorAll('button')].some(b => b.innerText == 'Draw' && !b.disabled)")
    return command.input_value().splitlines()


def upload(page: Any, file: Path) -> None:
    """Upload a file, and wait until the page has it; the name that it shows while it uploads is soon gone."""
    page.locator("input[type=file]").set_input_files(file)
    page.get_by_label(file.name).wait_for()


def pictures(page: Any) -> list[bytes]:
    """Return the pictures as the page's buttons download them."""
    found = []
    for button in page.get_by_label("Download").all():
        with page.expect_download() as waiting:
            button.click()
        assert waiting.value.suggested_filename == "samples.png"
        found.append(Path(waiting.value.path()).read_bytes())
    return found


def of_verb(command: str, place: Path, monkeypatch: pytest.MonkeyPatch) -> bytes:
    """Return the picture that a command writes, run where it is to be run, with as many threads as the page."""
    monkeypatch.chdir(place)
    words, threads = shlex.split(command), torch.get_num_threads()
    torch.set_num_threads(1)
    result = CliRunner().invoke(cli.app, words[1:])
    torch.set_num_threads(threads)
    assert result.exit_code == 0, result.output
    return Path(words[-1]).read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize(("size", "scheme"), SIZES_AND_SCHEMES)
def test_every_control_moved_draws_what_the_command_draws(
    place: Path, browser: Any, page_of_every: str, size: str, scheme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with page_of(browser, size, scheme) as page:
        page.goto(page_of_every)
        seed = 10 * SIZES_AND_SCHEMES.index((size, scheme))
        (unsaid,) = draw(page, seed + 1)
        assert unsaid == f"genhub sample every -n 16 --seed {seed + 1} --out samples.png"
        assert pictures(page) == [of_verb(unsaid, place, monkeypatch)]
        assert sideways(page) == 0
        page.get_by_label("kind").click()
        page.get_by_role("option", name="a, b").click()
        page.keyboard.press("Escape")
        page.get_by_role("slider").press("ArrowRight")
        upload(page, place / "sketch.png")
        page.get_by_label("place").fill("1 -2")
        page.get_by_label("n", exact=True).fill("5")
        page.get_by_label("num inference steps").fill("3")
        page.get_by_label("eta").fill("0.5")
        page.get_by_label("guidance scale").fill("2")
        (said,) = draw(page, seed + 2)
        ink = re.search("ink=([0-9.]+)", said)
        assert ink
        assert said == (
            f"genhub sample every -n 5 --condition 'kind=a, b' --condition ink={ink[1]} --condition 'place=1 -2' --condition "
            f"sketch=sketch.png --seed {seed + 2} --set num_inference_steps=3 --set eta=0.5 --set guidance_scale=2 --out samples.png"
        )
        assert page.get_by_text("sketch.png is the file that was uploaded").is_visible()
        first = pictures(page)
        assert first == [of_verb(said, place, monkeypatch)]
        page.get_by_label("Show the way from noise").uncheck()
        page.get_by_label("Say ink").uncheck()
        (less,) = draw(page, seed + 3)
        assert less == said.replace(f"--condition ink={ink[1]} ", "").replace(f"seed {seed + 2}", f"seed {seed + 3}")
        assert pictures(page) == [of_verb(less, place, monkeypatch)] != first
        assert sideways(page) == 0


@pytest.mark.slow
def test_the_way_copying_another_seed_and_what_is_wrong(place: Path, browser: Any, page_of_every: str) -> None:
    with page_of(browser) as page:
        page.context.grant_permissions(["clipboard-read", "clipboard-write"])
        page.goto(page_of_every)
        page.get_by_label("num inference steps").fill("200")
        page.evaluate(
            """() => { window.shown = new Set(); new MutationObserver(() => document.querySelectorAll('img').forEach(
            image => window.shown.add(image.src))).observe(document.body, {subtree: true, childList: true, attributes: true}) }"""
        )
        (command,) = draw(page, 1)
        assert page.evaluate("window.shown.size") > 1  # noise, and what was drawn of it
        page.get_by_role("button", name="Copy the command").click()
        page.get_by_role("button", name="Copied").wait_for()
        assert page.evaluate("navigator.clipboard.readText()") == command
        page.get_by_role("button", name="Another seed").click()
        page.wait_for_function("() => ![...document.querySelectorAll('input')].some(input => input.value === '1')")
        page.get_by_label("num inference steps").fill("many")
        page.get_by_role("button", name="Draw", exact=True).click()
        page.get_by_role("alert").wait_for()
        assert page.get_by_role("alert").inner_text().startswith("--set num_inference_steps: must be a valid integer")
        (there,) = place.glob("sketch.png")
        with pytest.raises(urllib.error.HTTPError, match="403"):  # nothing of the folder is served
            urllib.request.urlopen(f"{page_of_every}/gradio_api/file={there}")


@pytest.mark.slow
def test_models_side_by_side_one_of_which_fails_until_it_is_stopped(
    place: Path, browser: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with served(place, "digits", "moons", "fails", "sounds") as (url, process):
        with page_of(browser, "phone") as page:
            page.goto(url)
            page.get_by_label("kind").click()
            page.get_by_role("option", name="dog").click()
            page.keyboard.press("Escape")
            page.get_by_label("n", exact=True).fill("2")
            commands = draw(page, 5)
            assert [command.split()[2] for command in commands] == ["digits", "moons", "fails", "sounds"]
            digits, moons, sounds = (of_verb(commands[number], place, monkeypatch) for number in (0, 1, 3))
            assert pictures(page) == [digits, moons, sounds]
            (fault,) = page.get_by_role("alert").all_inner_texts()
            assert "NaN" in fault
            assert "\n" not in fault
            players = page.locator("audio").evaluate_all("players => players.map(player => player.src)")
            assert page.locator("figcaption").all_inner_texts() == ["dog", "dog"]
            genhub.sample("sounds", 2, seed=5, conditions={"kind": "dog"}, out="heard")
            heard = [(place / "heard" / f"00000{number}.wav").read_bytes() for number in (0, 1)]
            assert [b64decode(source.partition(",")[2]) for source in players] == heard
            assert sideways(page) == 0
        port = url.rpartition(":")[2]
        monkeypatch.chdir(place)
        taken = CliRunner().invoke(cli.app, ["demo", "digits", "--port", port])
        assert str(taken.exception) == f"--port {port}: is taken; give another one"
        process.send_signal(signal.SIGINT)
        said = process.communicate(timeout=120)
        assert (process.returncode, said[1]) == (130, "genhub: stopped by SIGINT; the page is gone\n")
