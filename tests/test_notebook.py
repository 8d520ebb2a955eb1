"""Notebooks: pictures and players of what is drawn, pages in a cell, one short line of everything, one bar; and a run that the
stop button ends."""

from __future__ import annotations

import base64
import copy
import gc
import inspect
import io
import re
import wave
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import models
import numpy as np
import pytest
import torch
from made_columns import Volume
from PIL import Image
from test_bench import ranking, result

import genhub
from genhub import Drawn, InputError
from genhub.ground.brief import Brief, BriefModule
from genhub.sampling.drawn import MOST_HEARD, MOST_SHOWN

DIGITS = {
"model": {"name": "vae"}, "data": {"split": "train[:200]"}, "run_dir": "run",
    "trainer": {"max_steps": 2, "sample_every": None, "trackers": []},
}  # fmt: skip
MODALITY = genhub.Image(shape=(1, 8, 8))
LONGEST = 120


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, module_cache: None) -> Path:
    return genhub.train(DIGITS | {"run_dir": str(tmp_path_factory.mktemp("runs") / "short")}).parents[1]


def drawn(n: int, modality: Any = MODALITY, captions: bool = True) -> Drawn:
    values = torch.arange(n * int(np.prod(modality.shape))).reshape(n, *modality.shape)
    values = values.remainder(255).to(getattr(torch, modality.dtype))
    return Drawn.of(values, modality, [str(row) for row in range(n)] if captions else ())


def pictured(rows: Drawn) -> Image.Image:
    return Image.open(io.BytesIO(rows._repr_png_() or b""))


def addresses(html: str, kind: str) -> list[bytes]:
    """The contents of a page's addresses of one kind, which are in it."""
    return [base64.b64decode(found) for found in re.findall(rf'src="data:{kind};base64,([^"]+)"', html)]


# What is drawn


def test_sample_gives_a_tensor_that_shows_itself():
    torch.manual_seed(0)
    config = models.Labelled.Config(data=models.images(classes=10), conditions=("label",))
    rows = genhub.sample(models.Labelled(config).eval(), 4, conditions={"label": [3, 7]})
    assert rows.captions == ("3", "7", "3", "7")
    assert repr(rows) == "Drawn(4 rows of image 1x8x8, uint8)"
    assert torch.equal(
        rows, (torch.tensor([3, 7, 3, 7]) / 9 * 255).round().to(torch.uint8).view(4, 1, 1, 1).expand(4, 1, 8, 8)
    )
    assert pictured(rows).tobytes() == rows.modality.picture(torch.as_tensor(rows.plain), rows.captions).tobytes()


def test_it_is_a_tensor_like_any_other():
    rows = drawn(5)
    plain = rows.plain
    assert type(plain) is torch.Tensor
    assert isinstance(rows, torch.Tensor)
    assert torch.equal(rows, plain)
    assert (rows == plain).all()
    assert np.array_equal(rows.numpy(), plain.numpy())
    assert np.array_equal(np.asarray(rows), plain.numpy())
    assert rows.tolist() == plain.tolist()
    made = [rows + 1, rows.float(), rows.flatten(1), rows.to("cpu", torch.int32), torch.cat([rows, rows]), rows[:, 0],
            rows[0, 0], rows[None], rows.clone(), *rows]  # fmt: skip
    assert {type(one) for one in made} == {torch.Tensor}
    file = io.BytesIO()
    torch.save(rows, file)
    file.seek(0)
    again = torch.load(file, weights_only=True)
    assert type(again) is torch.Tensor
    assert torch.equal(again, plain)
    assert torch.equal(copy.deepcopy(rows), plain)


def test_some_of_its_rows_keep_their_captions():
    rows = drawn(6)
    for index, wanted in [(slice(2, 4), (2, 3)), ([5, 0], (5, 0)), (torch.tensor([1, 1]), (1, 1)), (3, (3,)), (-1, (5,)),
                          (torch.arange(6) % 2 == 0, (0, 2, 4)), (np.array([4]), (4,))]:  # fmt: skip
        some = rows[index]
        assert isinstance(some, Drawn), index
        assert some.captions == tuple(map(str, wanted))
        assert torch.equal(some.elements, rows.plain[list(wanted)])
        assert some._repr_png_()
    assert repr(rows[3]) == "Drawn(image 1x8x8, uint8)"
    assert type(rows[3][0]) is torch.Tensor
    assert rows[:0]._repr_png_() is rows[:0]._repr_html_() is None


def test_what_does_not_fit_is_no_such_tensor():
    with pytest.raises(InputError, match="rows of image are n x 1x8x8, not 4x8x8"):
        Drawn.of(torch.zeros(4, 8, 8), MODALITY)
    with pytest.raises(InputError, match="3 captions, of 4 rows"):
        Drawn.of(torch.zeros(4, 1, 8, 8), MODALITY, "abc")


def test_many_rows_show_the_first_and_say_so():
    few, many = drawn(MOST_SHOWN), drawn(MOST_SHOWN + 36)
    assert few._repr_html_() is None  # the picture says all
    html = many._repr_html_() or ""
    assert "the first 64 of 100 rows" in html
    assert pictured(many).tobytes() == pictured(few).tobytes()
    assert addresses(html, "image/png") == [few._repr_png_()]
    points = drawn(300, genhub.Vector(shape=(2,), mean=(0.0, 0.0), std=(1.0, 1.0)), captions=False)
    assert points._repr_html_() is None  # which share one picture


def test_sounds_have_players():
    sound = genhub.Signal(shape=(1, 32), mean=(0.0,), std=(1.0,), rate=8000)
    rows = Drawn.of(torch.linspace(-1, 1, 320).reshape(10, 1, 32), sound, ["<a>"] * 10)
    html = rows._repr_html_() or ""
    heard = addresses(html, "audio/wav")
    assert len(heard) == MOST_HEARD
    assert heard == sound.sounds(rows.plain[:MOST_HEARD])
    with wave.open(io.BytesIO(heard[0])) as file:
        assert (file.getframerate(), file.getnframes()) == (8000, 32)
    assert html.count("<figcaption>&lt;a&gt;</figcaption>") == MOST_HEARD
    assert not addresses(Drawn.of(rows.plain, sound.model_copy(update={"rate": None}))._repr_html_() or "", "audio/wav")


class Slices(Volume):
    """A stranger's volumes, seen by their first slice."""

    modality: str = "test_notebook:Slices"
    shape: tuple[int, ...] = (1, 2, 3, 4)
    together: ClassVar[bool] = False

    def picture(self, values: torch.Tensor, captions: Any = ()) -> Image.Image:
        return Image.fromarray(values[:, 0, 0].reshape(-1, 4).mul(10).byte().numpy())


def test_a_strangers_modality_shows_itself():
    rows = Drawn.of(torch.arange(48.0).reshape(2, 1, 2, 3, 4), Slices())
    assert pictured(rows).size == (4, 6)
    assert repr(rows) == "Drawn(2 rows of test_notebook:Slices 1x2x3x4, float32)"
    assert genhub.grid(rows, columns=1).height > genhub.grid(rows, columns=2).height


# Grids


def test_a_grid_has_so_many_columns_and_rows():
    wide, tall = (genhub.grid(drawn(6), columns=columns) for columns in (6, 2))
    assert wide.width > 2.5 * tall.width
    assert tall.height > 2.5 * wide.height
    assert genhub.grid(drawn(6), n=2, columns=2).tobytes() == genhub.grid(drawn(2), columns=2).tobytes()


def test_a_grid_has_real_rows_tensors_and_drawn_ones_beside_one_another():
    data, rows = genhub.load_data("digits", ["label"], split="train[:20]"), drawn(4)
    three = genhub.grid({"real": data, "drawn": rows, "plain": rows.plain}, n=4)
    one = genhub.grid({"real": data}, n=4)
    assert three.width > 2.9 * one.width
    real = Drawn.of(
        data.own(range(4)), data.spec.modality, [str(int(label)) for label in data.column("label").kept(range(4))]
    )
    assert genhub.grid(data, n=4).tobytes() == genhub.grid(real).tobytes()


def test_points_in_a_grid_have_the_same_axes():
    points = genhub.Vector(shape=(2,), mean=(0.0, 0.0), std=(1.0, 1.0))
    near, far = (
        Drawn.of(scale * torch.randn(50, 2, generator=torch.Generator().manual_seed(1)), points) for scale in (1, 9)
    )
    alone, both = genhub.grid(near), genhub.grid({"near": near, "far": far})
    left = both.crop((0, both.height - alone.height, alone.width, both.height))
    assert left.size == alone.size
    assert left.tobytes() != alone.tobytes()  # room for the far ones


@pytest.mark.parametrize(
    ("rows", "options", "said"),
    [
        (torch.zeros(2, 1, 8, 8), {}, "of what kind are these rows"),
        ({"a": drawn(2), "b": torch.zeros(2, 1, 9, 9)}, {}, "rows of image are n x 1x8x8, not 2x1x9x9"),
        ({}, {}, "of what kind"),
        (drawn(0), {}, "no rows to show"),
        (
            drawn(9, genhub.Vector(shape=(2,), mean=(0.0, 0.0), std=(1.0, 1.0))),
            {"columns": 3},
            "columns: .* share one picture",
        ),
    ],
)
def test_a_grid_of_nothing_that_can_be_shown_is_an_error_of_one_line(rows, options, said):
    with pytest.raises(InputError, match=said) as error:
        genhub.grid(rows, **options)
    assert len(error.value.args) == 1


# Pages in a cell


def of_a_cell(html: str) -> None:
    """A cell's styles reach nothing else, and it needs nothing else."""
    assert html.startswith('<div class="genhub"><style>.genhub {')
    assert html.rstrip().endswith("</div>")
    style = html[: html.index("</style>")]
    assert "body" not in style
    assert style.count("{") == style.count("}")
    assert "<html" not in html
    assert not re.findall(r'(?:src|href)="(?!data:|#)', html)


def test_a_comparison_shows_its_page(run):
    genhub.evaluate(run, 20, metrics=["frechet_distance"], extractor="pixels")
    comparison = genhub.compare([run])
    html = comparison._repr_html_()
    of_a_cell(html)
    (figure,) = (found.values["frechet_distance"] for found in comparison.shown() if found)
    assert f"{figure:,.4g}" in html
    assert "<h2>Pictures</h2>" in html
    assert len(addresses(html, "image/png")) == 1


def test_an_evaluation_shows_its_figures(run):
    found = genhub.evaluate(run, 20, metrics=["frechet_distance"], extractor="pixels")
    html = found._repr_html_()
    of_a_cell(html)
    assert "frechet distance ↓" in html
    assert f"{found.values['frechet_distance']:,.4g}" in html
    assert repr(found) == f"Evaluation(vae at step 2, frechet_distance {found.values['frechet_distance']:,.4g})"


def test_a_ranking_shows_its_page():
    shown = ranking(
        "frechet_distance", vae=[result("vae", 0, frechet_distance=1.5)], gan=[result("gan", 0, frechet_distance=2)]
    )
    html = shown._repr_html_()
    of_a_cell(html)
    assert "<td>vae</td><td>1.5 ± 1</td>" in html
    assert repr(shown) == "Ranking(by frechet_distance, vae 1.5, gan 2)"


def test_what_moves_is_shown_moving(tmp_path):
    torch.manual_seed(0)
    model = models.Pair(models.Pair.Config(data=models.images())).eval()
    shown = genhub.show("interpolate", model, moving=True, n=2, steps=3)
    assert shown.n_frames == 4  # there and back
    (gif,) = addresses(shown._repr_html_(), "image/gif")
    genhub.show("interpolate", model, out=tmp_path / "x.gif", n=2, steps=3)
    assert gif == (tmp_path / "x.gif").read_bytes()
    assert genhub.show("interpolate", model, n=2, steps=3).format == "PNG"
    with pytest.raises(InputError, match="moving: this view does not move; those that do: .*interpolate"):
        genhub.show("samples", model, moving=True)


# One line


def test_every_error_is_its_message_in_a_notebook():
    with pytest.raises(genhub.RecipeError) as error:
        genhub.read_recipe("no-such-recipe")
    assert error.value._render_traceback_() == [f"RecipeError: {error.value}"]


def public_classes() -> list[type]:
    return [found for name in genhub.__all__ if inspect.isclass(found := getattr(genhub, name))]


def is_seen(cls: type) -> bool:
    """Whether there are objects of a public class that Python prints: an error is its message."""
    return not (getattr(cls, "_is_protocol", False) or issubclass(cls, BaseException | str))


def test_everything_public_prints_as_one_short_line(run, tmp_path):
    """Of each class an object, from a run and from data with long names, many columns and large tensors."""
    names = tuple(f"a class with a long name, {number}" for number in range(500))
    long = genhub.ModelData(
        target=MODALITY, conditions={f"column {at}": genhub.Label(number=500, names=names) for at in range(40)}
    )
    model, data = genhub.load(run), genhub.load_data("digits", ["label", "ink"])
    assert repr(model) == f"VAE(image 1x8x8, {sum(p.numel() for p in model.parameters()):,} parameters, step 2)"
    assert repr(data) == "TableData(digits, 1,797 rows of image: image 1x8x8, given label, ink)"
    assert repr(data.conditions(range(5))) == "Conditions(values={label, ink}, present={label, ink})"
    assert repr(genhub.Batch(torch.zeros(64, 3, 32, 32))) == "Batch(x=64x3x32x32 float32, conditions=Conditions(), step=0)"
    conditional = genhub.read_recipe("digits-ddpm-text").model
    kept: list[Any] = [
        long, model, data, data.conditions(range(500)), next(data.batches(seed=0)), conditional, *model.phases(),
        models.Labelled(models.Labelled.Config(data=long, conditions=tuple(long.conditions))),
        genhub.read_recipe("digits-ddpm", ["run_dir=" + "long/" * 90]), genhub.compare([run] * 30), drawn(9), drawn(9)[2],
        genhub.Conditioner(long.conditions, MODALITY.shape, 64, takes=frozenset({"vector"})),
        genhub.DenoisingStep(0, 9.0, torch.zeros(9, 3), torch.zeros(9, 3)), genhub.Given(torch.zeros(9, 64)),
        genhub.FrozenEncoder(model.encode, model), genhub.Film("x" * 99, "", MODALITY, {"x": torch.zeros(2, 3, 1, 8, 8)}, names),
        genhub.PictureRow("x", [Image.new("L", (9, 9))] * 99, names), genhub.Choice(names), genhub.Line("x" * 999),
        genhub.Upload(names), genhub.Means(5.0, False, 10**9), genhub.StoppedRun(run, 2, genhub.TrainerState({"x": {}}, {"x": 1})),
        genhub.TrainerState({"weights": {name: torch.zeros(9) for name in names}}), genhub.Slider(0.0, 1 / 3), genhub.Share(1, 2, 3),
        genhub.Vector(shape=(400,), mean=(0.1,) * 400, std=(1 / 3,) * 400), genhub.evaluate(run, 20, metrics=["cost"]),
        ranking("frechet_distance", **{f"m{at}": [result("gan", 0, frechet_distance=at)] for at in range(90)}),
    ]  # fmt: skip
    public = tuple(filter(is_seen, public_classes()))
    objects = [one for one in gc.get_objects() if issubclass(type(one), public)]
    assert len(objects) > len(kept)
    too_long = {repr(one) for one in objects if len(repr(one)) > LONGEST or "\n" in repr(one) or len(str(one)) > LONGEST}
    assert too_long == set()
    own = {object.__repr__, Brief.__repr__, BriefModule.__repr__, genhub.Section.__repr__}
    unseen = [cls for cls in public if not any(isinstance(one, cls) for one in objects)]
    assert [cls for cls in unseen if cls.__repr__ not in own] == []


def test_a_long_line_is_found():
    """The test above would not let torch's, pydantic's and dataclasses' own lines pass."""
    model = models.Pair(models.Pair.Config(data=models.images()))
    assert "\n" in torch.nn.Module.__repr__(model)
    assert len(repr(model)) < LONGEST


# A kernel


class Kernel:
    """A real one, which runs a cell at a time."""

    def __init__(self, folder: Path) -> None:
        from jupyter_client.manager import start_new_kernel

        self.manager, self.client = start_new_kernel(cwd=str(folder))

    def run(self, code: str, interrupt_at: str = "") -> list[tuple[str, dict[str, Any]]]:
        """Return a cell's outputs, by the kind of message; the first of kind `interrupt_at` presses the stop button."""
        cell, outputs = self.client.execute(code), []
        while True:
            message = self.client.get_iopub_msg(timeout=300)
            kind, content = message["msg_type"], message["content"]
            if message["parent_header"].get("msg_id") != cell or kind in ("execute_input", "clear_output"):
                continue
            if kind == "status":
                if content["execution_state"] == "idle":
                    return outputs
                continue
            if kind == interrupt_at:
                self.manager.interrupt_kernel()
                interrupt_at = ""
            outputs.append((kind, content))


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kernel]:
    made = Kernel(tmp_path_factory.mktemp("kernel"))
    yield made
    made.client.stop_channels()
    made.manager.shutdown_kernel(now=True)


def printed(outputs: list[tuple[str, dict[str, Any]]]) -> str:
    return "".join(content["text"] for kind, content in outputs if kind == "stream")


def bits(run: Path) -> dict[str, bytes]:
    (newest, *_) = sorted((run / "checkpoints").iterdir(), reverse=True)
    return {file.name: file.read_bytes() for file in newest.rglob("*.safetensors")}


TRAIN = (
    'import genhub\nfolder = genhub.train("digits-vae", ["trainer.max_steps={steps}", "trainer.sample_every=null", '
    '"trainer.save_every=1000", "trainer.log_every=5", "trainer.trackers=[]"], run_dir="{name}")'
)


@pytest.mark.slow
def test_the_stop_button_saves_and_the_cell_again_goes_on(kernel):
    outputs = kernel.run(TRAIN.format(name="stopped", steps=300), interrupt_at="update_display_data")
    kind, error = outputs[-1]
    assert kind == "error"
    assert error["ename"] == "Interrupted"
    (line,) = error["traceback"]
    step = int(re.fullmatch(r"Interrupted: stopped at step (\d+); the same command goes on from there", line)[1])
    assert 0 < step < 300
    _, waited = kernel.run("import time\nprint('waits', flush=True)\ntime.sleep(300)", interrupt_at="stream")[-1]
    assert waited["ename"] == "KeyboardInterrupt"  # the kernel's own handler is back
    again = printed(kernel.run(TRAIN.format(name="stopped", steps=300)))
    assert f"resuming at step {step} from stopped/checkpoints/step-{step:06d}" in again
    kernel.run(TRAIN.format(name="whole", steps=300))
    (_, place), *_ = kernel.run("import os\nprint(os.getcwd())")
    folder = Path(place["text"].strip())
    assert bits(folder / "stopped") == bits(folder / "whole")
    assert len(bits(folder / "whole")) > 2


@pytest.mark.slow
def test_a_bar_is_one_line_and_a_mistake_too(kernel):
    outputs = kernel.run(TRAIN.format(name="bar", steps=60))
    bars = [content for kind, content in outputs if kind in ("display_data", "update_display_data")]
    assert len({bar["transient"]["display_id"] for bar in bars}) == 1
    assert "60/60" in bars[-1]["data"]["text/plain"]
    assert "elbo/loss" in bars[-1]["data"]["text/html"]
    assert all(len(bar["data"]["text/plain"].splitlines()) == 1 for bar in bars)
    assert "step " not in printed(outputs)
    assert len(printed(outputs).splitlines()) < 10
    *_, (kind, error) = kernel.run("genhub.sample(folder, 4, num_inference_steps=3)")
    assert kind == "error"
    assert error["traceback"] == [f"InputError: {error['evalue']}"]
    *_, (kind, content) = kernel.run("genhub.sample(folder, 4)")
    assert kind == "execute_result"
    assert content["data"]["text/plain"] == "Drawn(4 rows of image 1x8x8, uint8)"
    assert base64.b64decode(content["data"]["image/png"]).startswith(b"\x89PNG")
    *_, (_, content) = kernel.run("genhub.load(folder)")
    assert re.fullmatch(r"VAE\(image 1x8x8, [\d,]+ parameters, step 60\)", content["data"]["text/plain"])


@pytest.mark.slow
def test_the_pages_python_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GENHUB_CACHE", str(tmp_path / "cache"))
    page = (Path(__file__).parents[1] / "docs" / "notebooks.md").read_text()
    blocks, names = re.findall(r"```python\n(.*?)```", page, re.DOTALL), {}
    assert len(blocks) == 3
    for block in blocks:
        exec(block.replace("max_steps=300", "max_steps=2"), names)
    told = re.search(r"load\(folder\)  # (.*), step 300\)", page)[1]
    assert repr(names["model"]) == f"{told}, step 2)"
