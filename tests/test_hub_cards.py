"""Model cards on the Hub: what they show is of these very weights, and what strangers wrote in them is text."""

from __future__ import annotations

import io
import json
import re
import shutil
import wave
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from conftest import HUB
from genhub_gan import GAN, ConditionalGAN
from huggingface_hub import ModelCard, parse_eval_result_entries
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from models import Pair
from PIL import Image as Picture
from test_sample_conditions import Told
from typer.testing import CliRunner

import genhub
from genhub import Image, Label, ModelData, Number, Signal, Text, Vector, cli
from genhub.errors import one_line
from genhub.evaluation.protocol import Evaluation, Protocol, evaluation_folders, weights_digest
from genhub.hub.push import Target
from genhub.interfaces.columns import described
from genhub.run.card_gallery import draw_for_card
from genhub.run.publish import push_checkpoint
from genhub.store.card import Card
from genhub.store.card_head import RESULTS, DrawnFile
from genhub.store.manifest import FileEntry, Manifest, read_manifest
from genhub.store.measured import Measured
from genhub.store.models import describe_model

DIGITS = Label(number=3, names=("zero", "one", "two"))
INK = Number(mean=0.25, std=0.1, low=0.1, high=0.4)
NASTY = (
    "<script>alert(1)</script>", "a|b", "`code`", "[x](http://evil.example)", "---", "line\nbreak", "😀 *bold* _it_", "- item",
    "key: value # no", "$$\\frac$$", "'\"", "![i](x.png)", "https://evil.example/x", "www.evil.example", "&lt;b&gt;", "\u202eabc",
    "# head", "{{x}}", "~~gone~~", "a\x1b[2Jb", "\\", "&copy;", "{a: [b", "!!python/object:os.system x", "null", "1e3", "| --- |",
)  # fmt: skip


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GENHUB_CACHE", str(tmp_path / "cache"))


def make(cls: Any = ConditionalGAN, target: Any = None, seed: int = 0, **conditions: Any) -> genhub.GenerativeModel:
    """A small model with random weights."""
    torch.manual_seed(seed)
    data = ModelData(target=target or Image(shape=(1, 8, 8)), conditions=conditions)
    sizes = (
        {}
        if issubclass(cls, Pair)
        else {"generator": {"channels": [4]}, "discriminator": {"channels": [4]}, "latent_dim": 4}
    )
    return cls(cls.Config(data=data, conditions=tuple(conditions), **sizes)).eval()


def pushed(model: Any, repo_id: str = "alice/x") -> tuple[dict[str, bytes], ModelCard]:
    genhub.push_to_hub(model, repo_id)
    return content(repo_id)


def content(repo_id: str = "alice/x") -> tuple[dict[str, bytes], ModelCard]:
    files = HUB.repos[repo_id].files
    return files, ModelCard(files["README.md"].decode())


def shown_in(files: Mapping[str, bytes]) -> dict[str, bytes]:
    return {name: content for name, content in files.items() if name.startswith("gallery/")}


def measure(folder: Path, value: float = 0.5, data: str = "digits", split: str = "test", **kept: Any) -> Evaluation:
    """Store a figure of a folder's weights, as `genhub evaluate` does."""
    columns = {"image": Image(shape=(1, 8, 8))}
    real = described(
        name=data, split=split, target="image", columns=columns, num_rows=9, fingerprints=dict.fromkeys(columns, "f")
    )
    protocol = Protocol(
        extractor="pixels", extractor_hash="0" * 64, preprocessing="none", reference=real, reference_rows=9, n=9, seed=0
    )
    weights = weights_digest(folder)
    found = Evaluation(
        model="gan", step=0, config={}, protocol=protocol, values={"frechet_distance": value}, weights=weights, **kept
    )
    found.write(evaluation_folders(folder, weights)[-1])
    return found


# The gallery


def test_a_picture_for_each_class_with_what_it_was_told(hub) -> None:
    model = make(label=DIGITS)
    files, card = pushed(model)
    assert [entry["text"] for entry in card.data.widget] == ["label: zero", "label: one", "label: two"]
    assert [entry["output"]["url"] for entry in card.data.widget] == ["gallery/0.png", "gallery/1.png", "gallery/2.png"]
    alone = genhub.sample(model, 1, seed=0, conditions={"label": "zero"})
    with Picture.open(io.BytesIO(files["gallery/0.png"])) as first:
        assert first.tobytes() == model.modality.picture(alone).tobytes()
    assert "<Gallery />\n\n![Drawn by the model](samples.png)" in card.content
    assert "samples.png" in files
    listed = Manifest.model_validate_json(files["genhub.json"]).files
    assert "samples.png" in listed
    assert not [name for name in listed if name.startswith("gallery/")]  # nobody who draws has to fetch them
    commit = hub.repos["alice/x"].branches["main"]
    assert genhub.push_to_hub(model, "alice/x") == commit  # the same weights draw the same
    hub.requests.clear()
    genhub.load("alice/x")
    assert hub.asked("GET", "gallery") == 0


def test_several_conditions_are_paired_and_a_model_told_nothing_is_named_by_its_rows(hub) -> None:
    _, card = pushed(make(Told, label=DIGITS, ink=INK))
    told = [entry["text"] for entry in card.data.widget]
    assert len(told) == 10
    assert (told[0], told[3], told[9]) == ("label: zero, ink: 0.1", "label: zero, ink: 0.2", "label: zero, ink: 0.4")
    text = Text(shape=(20,), templates=("a {}",), names=("cat", "dog"))
    assert [entry["text"] for entry in pushed(make(Told, caption=text))[1].data.widget] == [
        "caption: a cat",
        "caption: a dog",
    ]
    _, card = pushed(make(GAN))
    assert [entry["text"] for entry in card.data.widget] == [f"seed 0, row {number}" for number in range(10)]


def test_points_are_seen_together_and_sounds_are_heard(hub) -> None:
    points = Vector(shape=(2,), mean=(0.0, 0.0), std=(1.0, 1.0))
    files, card = pushed(make(Told, target=points, label=DIGITS))
    assert [entry["text"] for entry in card.data.widget] == ["label: zero", "label: one", "label: two"]
    assert len(set(shown_in(files).values())) == 3  # each class lies elsewhere, on the same axes
    files, card = pushed(make(Pair, target=points))
    assert [entry["text"] for entry in card.data.widget] == ["seed 0, rows 0 to 255"]
    files, card = pushed(make(Pair, target=Signal(shape=(1, 64), mean=(0.0,), std=(1.0,), rate=8000)))
    assert shown_in(files).keys() == {f"gallery/{number}.wav" for number in range(10)}
    with wave.open(io.BytesIO(files["gallery/9.wav"])) as sound:
        assert (sound.getframerate(), sound.getnframes()) == (8000, 64)
    assert card.data.widget[9] == {"text": "seed 0, row 9", "output": {"url": "gallery/9.wav"}}
    assert "<Gallery />" not in card.content  # which shows pictures
    assert "- [seed 0, row 9](gallery/9.wav)" in card.content
    assert 'out="drawn.wav"' in card.content


def test_drawing_disturbs_nothing_and_what_is_not_finite_is_not_shown(hub, capsys) -> None:
    model = make(Pair).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    files, _ = pushed(model)
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert files["gallery/0.png"] == draw_for_card(Pair.from_pretrained("alice/x")).files["gallery/0.png"]
    with torch.no_grad():
        next(model.parameters()).fill_(torch.nan)
    files, card = pushed(model)
    assert "the card has no pictures" in capsys.readouterr().err
    assert not shown_in(files)
    assert "samples.png" not in files
    assert (card.data.get("widget"), "](samples.png)" in card.content) == (None, False)


# How it is used


def test_the_two_lines_run_as_they_are_written(hub, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    _, card = pushed(make(label=DIGITS, ink=INK))
    program = card.content.partition("```python\n")[2].partition("```")[0]
    assert program == (
        "import genhub\n"
        "drawn = genhub.sample(\"alice/x\", 16, conditions={'label': ['zero', 'one'], 'ink': [0.1, 0.4]}, seed=0, "
        'out="drawn.png")\n'
    )
    names: dict[str, Any] = {}
    exec(program, names)
    assert names["drawn"].shape == (16, 1, 8, 8)
    assert Path("drawn.png").is_file()
    shell = card.content.partition("```bash\n")[2].partition("```")[0].splitlines()
    assert shell == ["pip install genhub-framework", "genhub sample alice/x -n 64 --out samples.png"]


def test_what_it_can_be_told_is_the_same_in_info(hub) -> None:
    text = Text(shape=(20,), templates=("a {}",), names=("cat", "dog"))
    _, card = pushed(make(GAN, label=DIGITS, ink=INK, caption=text, source=Image(shape=(1, 8, 8))))
    for line in (
        "| condition | takes | such as |",
        "| `label` | one of zero, one, two | `zero` |",
        "| `ink` | a number, 0.1 to 0.4 in the training data | `0.25` |",
        '| `caption` | a text, such as "a cat" | `a cat` |',
        "| `source` | an image, a file of which is made 1x8x8 |  |",
    ):
        assert line in card.content.splitlines()
    assert re.search(
        r"\| `truncation` \| draw z from a normal cut off at \+-truncation .* Left out: not cut off\. \|", card.content
    )
    facts = json.loads(CliRunner().invoke(cli.app, ["info", "alice/x", "--json"]).stdout)
    assert facts["options"].keys() == {"truncation"}
    assert all(line in card.content.splitlines() for line in facts["draw"])
    assert facts["draw"][0] == "genhub sample alice/x -n 64 --out samples.png"
    assert "options" not in pushed(make(Told))[1].content  # its class is not at hand
    assert HUB.asked("GET", "safetensors") == 0


def test_an_example_is_something_that_can_be_asked_for() -> None:
    many = Label(number=1000)
    assert list(many.examples(4)) == ["0", "250", "500", "750"]
    assert list(INK.examples(3)) == [0.1, 0.25, 0.4]
    assert list(INK.examples(1)) == [0.25]
    assert list(Number(low=2.0, high=2.0).examples(5)) == [2.0]
    assert list(Text(shape=(9,)).examples(3)) == list(Image(shape=(1, 8, 8)).examples(3)) == []  # nobody's own
    for modality in (many, INK, Vector(shape=(2,), mean=(0.5, 1.0), std=(1.0, 1.0)), DIGITS):
        for example in modality.examples(7):
            assert modality.ask(example).shape == modality.shape


# What it says of others


@pytest.mark.parametrize(
    ("model", "bases", "relation"),
    [
        ({"name": "ddpm"}, None, None),
        ({"name": "ddpm", "from": "alice/base@v1"}, "alice/base", "finetune"),
        ({"name": "ddpm", "autoencoder": "hf://alice/vae"}, "alice/vae", None),
        ({"name": "ddpm", "from": "alice/base", "autoencoder": "bob/vae"}, ["alice/base", "bob/vae"], "finetune"),
        ({"name": "ddpm", "from": "/home/alice/run"}, None, None),
        ({"name": "gan", "autoencoder": "bob/vae"}, None, None),  # a gan has no such key
    ],
)
def test_base_models(tmp_path, model, bases, relation) -> None:
    make(GAN).save_pretrained(tmp_path)
    card = ModelCard(Card(read_manifest(tmp_path), tmp_path, yaml.safe_dump({"model": model})).text())
    assert card.data.base_model == bases
    assert card.data.get("base_model_relation") == relation


def test_a_figure_is_shown_with_its_own_data_its_interval_and_its_floor(hub, tmp_path) -> None:
    make(GAN).save_pretrained(tmp_path / "model")
    measure(tmp_path / "model", data="hf://datasets/bob/glyphs", intervals={"frechet_distance": (0.25, 0.75)},
            floor={"frechet_distance": 0.125})  # fmt: skip
    files, card = pushed(tmp_path / "model")
    (result,) = card.data.eval_results
    assert (result.dataset_type, result.dataset_name) == ("bob/glyphs", "hf://datasets/bob/glyphs")
    assert (result.dataset_split, result.metric_value) == ("test", 0.5)
    assert (result.metric_args["interval"], result.metric_args["real_rows"]) == ([0.25, 0.75], 0.125)
    assert "| metric | value | 95% interval | real rows in their place | protocol |" in card.content
    assert r"| frechet\_distance | 0.5 | 0.25 to 0.75 | 0.125 |" in card.content
    (figure,) = json.loads(files["metrics.json"])
    assert (figure["interval"], figure["floor"], figure["split"]) == ([0.25, 0.75], 0.125, "test")
    assert RESULTS not in files  # bob/glyphs is no benchmark


@pytest.mark.parametrize(
    ("benchmark", "written"),
    [
        ("tasks: [{id: genhub/frechet_distance, split: test}]", True),
        ("tasks: [{id: genhub/frechet_distance}]", True),  # the Hub's default split is test
        ("tasks: [{id: frechet_distance}]", False),  # may be anybody's
        ("tasks: [{id: genhub/frechet_distance, split: train}]", False),
        ("tasks: [{id: genhub/other}]", False),
        ("tasks: 3", False),
        ("{", False),
        ("", False),
    ],
)
def test_eval_results_are_for_tasks_that_a_benchmark_names(hub, tmp_path, benchmark, written) -> None:
    hub.add("datasets/bob/glyphs", {"eval.yaml": f"name: Glyphs\n{benchmark}\n".encode()})
    make(GAN).save_pretrained(tmp_path / "model")
    measure(tmp_path / "model", data="hf://datasets/bob/glyphs")
    files, _ = pushed(tmp_path / "model")
    assert (RESULTS in files) == written
    if written:
        (entry,) = parse_eval_result_entries(yaml.safe_load(files[RESULTS]))
        assert (entry.dataset_id, entry.task_id, entry.value) == ("bob/glyphs", "genhub/frechet_distance", 0.5)
        assert (entry.source_url, entry.source_name) == (f"{hub.url}/alice/x/blob/main/metrics.json", "metrics.json")
        assert entry.notes == "pixels, 9 rows, seed 0"
        shutil.rmtree(evaluation_folders(tmp_path / "model", weights_digest(tmp_path / "model"))[-1])
        assert RESULTS not in pushed(tmp_path / "model")[0]


# Nothing of other weights


def test_figures_that_nothing_vouches_for_are_not_shown(hub, tmp_path, capsys) -> None:
    folder = tmp_path / "model"
    make(GAN).save_pretrained(folder)
    figure = {"name": "kid", "value": 0.01, "protocol": {"weights": weights_digest(folder)}}
    (folder / "metrics.json").write_text(json.dumps([figure]))  # lies there, and genhub.json doesn't list it
    assert "metrics.json" not in pushed(folder)[0]
    evaluation = measure(folder)
    (file,) = evaluation_folders(folder, evaluation.weights)[-1].glob("*.json")
    file.write_text(file.read_text().replace("0.5", "0.1"))  # edited
    files, card = pushed(folder)
    assert (card.data.eval_results, "metrics.json" in files) == (None, False)
    assert "its checksum does not match" in capsys.readouterr().err


@pytest.mark.slow
def test_a_preview_of_other_weights_is_no_picture_of_a_checkpoint(tmp_path) -> None:
    """One that an earlier run of the same steps left, of which nothing is drawn now."""
    trainer = {"max_steps": 1, "sample_every": 1, "num_samples": 2, "trackers": []}
    model = {"name": "gan", "latent_dim": 4, "generator": {"channels": [4]}, "discriminator": {"channels": [4]}}
    recipe = {"model": model, "data": {"split": "train[:64]"}, "run_dir": str(tmp_path / "run")}
    first = genhub.train(recipe | {"trainer": trainer})
    assert (first / "samples.png").is_file()
    shutil.copy(tmp_path / "run" / "samples" / "step-000001.png", tmp_path / "run" / "samples" / "step-000002.png")
    second = genhub.train(recipe | {"trainer": trainer | {"max_steps": 2, "sample_every": None}})
    assert second.name == "step-000002"
    assert not (second / "samples.png").exists()
    assert "](samples.png)" not in (second / "README.md").read_text()


STEPS = ("told", "plain", "other", "measured", "while it trains", "damaged", "by hand")


@pytest.mark.slow
@given(st.lists(st.sampled_from(STEPS), min_size=2, max_size=6))
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_was_pushed_before_all_is_of_these_weights(hub, tmp_path_factory, steps) -> None:
    """The same repository gets several models, measured and not; in one commit each, all of the earlier one goes."""
    HUB.repos.clear()
    folder, theirs = tmp_path_factory.mktemp("model"), dict[str, bytes]()
    models = {
        "told": make(label=DIGITS),
        "plain": make(GAN, seed=1),
        "other": make(GAN, seed=2),
        "measured": make(GAN, seed=3),
    }
    for step in steps:
        repo = HUB.repos.get("alice/x")
        if step in ("damaged", "by hand"):
            if repo and step == "damaged":  # genhub.json of the last push, so that it lists nothing
                repo.commit("main", repo.files | {"genhub.json": b"{}"}, "by hand")
            elif repo:
                theirs = {"gallery/mine.png": b"1", ".eval_results/theirs.yaml": b"2", "notes.md": b"3"}
                repo.commit("main", repo.files | theirs, "by hand")
            continue
        model = models[step] if step in models else models["plain"]
        model.save_pretrained(folder)
        if step == "measured":
            hub.add("datasets/bob/glyphs", {"eval.yaml": b"tasks: [{id: genhub/frechet_distance}]"})
            measure(folder, data="hf://datasets/bob/glyphs")
        before = len(repo.commits) if repo else 1
        if step == "while it trains":
            push_checkpoint(folder, Target("alice/x"))
        else:
            genhub.push_to_hub(folder, "alice/x")
        assert len(HUB.repos["alice/x"].commits) <= before + 1
        _check_all_is_of(folder, model, step, theirs)


def _check_all_is_of(folder: Path, model: Any, step: str, theirs: Mapping[str, bytes]) -> None:
    files, card = content()
    listed, weights = Manifest.model_validate_json(files["genhub.json"]).files, weights_digest(folder)
    assert all(FileEntry.of(files[name]) == entry for name, entry in listed.items())
    shown = {name: content for name, content in shown_in(files).items() if name not in theirs}
    assert [entry["output"]["url"] for entry in card.data.get("widget") or []] == sorted(shown)
    drawn = draw_for_card(model).files if step != "while it trains" else {}
    assert {name: drawn[name] for name in drawn if name != "samples.png"} == shown
    assert files.get("samples.png") == drawn.get("samples.png")
    assert ("](samples.png)" in card.content) == ("samples.png" in files)
    figures = json.loads(files.get("metrics.json", b"[]"))
    assert all(figure["protocol"]["weights"] == weights for figure in figures)
    assert len(figures) == (step == "measured")
    assert [result.metric_value for result in card.data.eval_results or ()] == [figure["value"] for figure in figures]
    assert (RESULTS in files) == (step == "measured")
    assert theirs.items() <= files.items()


# What strangers wrote


def test_nasty_names_are_text(hub, tmp_path) -> None:
    names = tuple(dict.fromkeys(NASTY))
    model = make(label=Label(number=len(names), names=names), **{"[c](http://evil.example)|`x`": INK})
    files, card = pushed(model)
    told = [entry["text"] for entry in card.data.widget]
    assert len(told) == 10
    for at in range(10):
        name = names[at * len(names) // 10]
        assert told[at].startswith(one_line(f"label: {name}, "))
    assert card.data.to_dict() == yaml.safe_load(files["README.md"].decode().split("\n---\n")[0])
    card.validate()
    _check_is_plain(card.text)
    exec(card.content.partition("```python\n")[2].partition("```")[0].replace("drawn.png", str(tmp_path / "drawn.png")), {})


@pytest.mark.parametrize("name", NASTY)
def test_one_nasty_name_everywhere(tmp_path, name) -> None:
    """A class, a column, a sound's caption, data, an extractor, a note, an option, the recipe."""
    target = Signal(shape=(1, 64), mean=(0.0,), std=(1.0,), rate=8000)
    model = make(Told, target=target, **{name: Label(number=2, names=(name, "b"))})
    data = described(name=name, split=name, target="x", columns={"x": target}, num_rows=3, fingerprints={"x": name})
    figure = Measured(name="kid", value=1.0, data=name, split="test", protocol={"extractor": name, "notes": [name]})
    card = ModelCard(
        Card(
            describe_model(model, data), tmp_path, yaml.safe_dump({"model": {"name": name}}), title=name, measured=[figure],
            gallery=[DrawnFile("gallery/0.wav", name)], options={name: name},
        ).text()
    )  # fmt: skip
    assert card.data.widget == [{"text": one_line(name), "output": {"url": "gallery/0.wav"}}]
    assert (card.data.eval_results[0].dataset_name, card.data.eval_results[0].metric_value) == (one_line(name), 1.0)
    _check_is_plain(card.text)
    assert len([line for line in card.text.splitlines() if line.startswith("| ")]) == 9  # three tables of one row


def _check_is_plain(markdown: str) -> None:
    """Assert that a card is rendered with the links, the pictures and the HTML of genhub's own, and no other."""
    html = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).render(markdown)
    text = re.sub(r"<code.*?</code>", "", html, flags=re.DOTALL)
    tags = {tag.lower() for tag in re.findall(r"<(\w+)", text)}
    assert tags <= {
        "gallery",
        "p",
        "h1",
        "h2",
        "img",
        "table",
        "thead",
        "tbody",
        "tr",
        "th",
        "td",
        "pre",
        "ul",
        "li",
        "a",
        "code",
    }
    assert set(re.findall(r'src="(.*?)"', text)) <= {"samples.png"}
    assert all(re.fullmatch(r"gallery/\d+\.wav", link) for link in re.findall(r'href="(.*?)"', text))
    assert not re.search(
        r"(?<!\\)\$\$|https?://|(?<!\\)www\.", re.sub(r"```.*?```|`[^`\n]*`", "", markdown, flags=re.DOTALL)
    )
    rows = re.findall(r"<tr>(.*?)</tr>", html, re.DOTALL)
    assert {len(re.findall("<t[hd]", row)) for row in rows} <= {2, 3}
    assert all(map(str.isprintable, markdown.splitlines()))
