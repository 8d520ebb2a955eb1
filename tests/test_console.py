"""What people read: escaped, cut to a line and put out in one place, whoever wrote it."""

from __future__ import annotations

import ast
import contextlib
import doctest
import io
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
import yaml
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from models import images

import genhub
from genhub import cli, errors
from genhub.errors import LINE, VALUE, one_line, shown
from genhub.evaluation.protocol import Evaluation, Protocol, weights_digest
from genhub.ground import console
from genhub.ground.console import Progress, aside, put, say
from genhub.ground.parsing import to_yaml
from genhub.interfaces import registry
from genhub.interfaces.columns import DataSpec
from genhub.interfaces.registry import MODELS, TRAINERS, Plugin, load_all
from genhub.recipe.recipe import _check
from genhub.store.card import Card
from genhub.store.manifest import Manifest, PluginEntry, read_manifest
from genhub.store.measured import Measured

PACKAGE = Path(genhub.__file__).parent
EVIL = (
    "x\ngenhub: forged\r\x1b[2J\x9b1A\x7f\u202egnihtyna\u2066\u200b`<script>alert(1)</script>![i](http://e)|\n---\n$\\frac$ "
)
TEXTS = st.one_of(st.just(EVIL), st.just(EVIL + "n" * 50_000), st.text("\n\r\x1b\x85\u2028 genhub:-", max_size=30))
few = settings(
    max_examples=8, deadline=None, phases=[Phase.generate], suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def clean(text: str) -> None:
    lines = text.split("\n")
    assert all(map(str.isprintable, lines)), text[:500]
    assert max(map(len, lines)) <= LINE


def run(*words: str) -> tuple[str, str]:
    """What a verb says on stdout and stderr."""
    out, err, before = io.StringIO(), io.StringIO(), sys.argv
    sys.argv = ["genhub", *words]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), contextlib.suppress(SystemExit):
            cli.main()
    finally:
        sys.argv = before
    return out.getvalue(), err.getvalue()


def said(*words: str) -> str:
    """The same, held to the rules: no control character, no endless line, and what is wrong said once."""
    out, err = run(*words)
    clean(out)
    clean(err)
    assert "Traceback" not in err
    assert not re.search(r"^genhub: (?!\d)", out, re.MULTILINE)  # but `info`, which tells the version
    assert len(re.findall("^genhub: ", err, re.MULTILINE)) == bool(err)
    return out + err


def test_the_examples_in_the_docs() -> None:
    assert doctest.testmod(console).failed == 0


def test_nothing_is_printed_elsewhere() -> None:
    found = []
    for file in PACKAGE.rglob("*.py"):
        calls = [node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Call)]
        for name in (ast.unparse(call.func) for call in calls):
            if name in ("print", "typer.echo", "typer.secho", "rich.print") or re.fullmatch(
                r"(sys\.)?std(out|err)\.write", name
            ):
                found.append((file.relative_to(PACKAGE).as_posix(), name))
    assert found == [("cli/output.py", "sys.stdout.write")]  # JSON, which has escapes of its own


@given(st.text() | TEXTS)
@settings(deadline=None)
def test_any_text_is_one_line(text: str) -> None:
    for made in (one_line(text), str(genhub.RecipeError(text)), shown(text)):
        assert made.isprintable()
        assert len(made) <= LINE
    assert len(shown(text)) <= VALUE
    assert one_line(one_line(text)) == one_line(text)
    if text.isprintable() and len(text) <= LINE:
        assert one_line(text) == text
    stream = io.StringIO()
    put(text, "b", stream=stream)
    clean(stream.getvalue())
    assert stream.getvalue() == f"{one_line(text)}\nb\n"


@given(st.recursive(st.text() | st.integers() | st.floats() | st.booleans() | st.none() | st.binary(), st.lists))
@settings(deadline=None)
def test_any_value_is_quoted_within_a_line(value: Any) -> None:
    assert len(shown(value)) <= VALUE
    assert shown(value).isprintable()


def test_how_values_are_quoted() -> None:
    cases = [("mnist", "'mnist'"), (None, "null"), (True, "True"), ([1, 2], "[1, 2]"), (1e-4, "0.0001"), ({"a": 1}, "{'a': 1}"),
             (10**9000, "a number of 29898 bits"), ("a\nb", r"'a\nb'"), ("\x1b\u202e", r"'\x1b\u202e'")]  # fmt: skip
    for value, text in cases:
        assert shown(value) == text


@pytest.mark.parametrize("value", [np.arange(100_000), b"\xff" * 565_865, ["x"] * 10**4, "y" * 10**6, {i: i for i in range(10**4)}, object()],
                         ids=["array", "bytes", "list", "text", "mapping", "object"])  # fmt: skip
def test_no_message_shows_a_value_longer_than_a_line(value: object) -> None:
    """As any key of any section."""
    for section in ("data", "trainer", "model"):
        for key in ("name", "batch_size", "max_steps", "conditions", "nonsense"):
            message = fault({"model": {"name": "vae"}, "data": {}, "trainer": {}} | {section: {"name": "vae", key: value}})
            assert max(map(len, message.split("\n"))) < 600
            assert message or (section, key) == ("data", "name")  # text, and a list of it


def fault(recipe: dict[str, Any]) -> str:
    try:
        genhub.read_recipe(recipe)
    except genhub.RecipeError as error:
        return str(error)
    return ""


@given(TEXTS)
@settings(deadline=None, max_examples=50)
def test_yaml_with_escapes_reads_back_as_the_same(text: str) -> None:
    content = {"name": text.encode("utf-8", "replace").decode(), "é": 1}
    printed = to_yaml(content)
    assert all(map(str.isprintable, printed.split("\n")))
    assert yaml.safe_load(printed) == content


# Where strangers' texts come from


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's folder with a checkpoint that was never trained."""
    from test_vae import make

    checkpoint = tmp_path_factory.mktemp("run") / "checkpoints" / "step-000005"
    make().save_pretrained(checkpoint)
    return checkpoint


def rewritten(folder: Path, **keys: Any) -> Manifest:
    manifest = read_manifest(folder).model_copy(update={"step": 5, **keys})
    (folder / "genhub.json").write_text(manifest.text())
    return manifest


def spec(text: str) -> Any:
    columns = {"image": genhub.Image(shape=(1, 8, 8)), f"{text}k"[:255]: genhub.Label(number=1, names=(text[:255],))}
    return DataSpec(
        name=text, split=text, target="image", columns=columns, num_rows=3, fingerprints=dict.fromkeys(columns, text)
    )


@given(TEXTS)
@few
@pytest.mark.slow
def test_a_strangers_manifest(folder: Path, text: str) -> None:
    text = text.encode("utf-8", "replace").decode()
    manifest = rewritten(folder, data=spec(text))
    said("info", str(folder))
    for key, value in {"plugin": {"name": text}, text: 1, "versions": {text: text}, "genhub": text, "parts": [{"kind": "network", "name": text}],
                       "files": {text: {"size": 1, "sha256": text}}, "config": {"name": "vae", text: text}}.items():  # fmt: skip
        content = json.loads(manifest.text()) | {key: value}
        (folder / "genhub.json").write_text(json.dumps(content))
        said("info", str(folder))
        said("sample", str(folder))
    (folder / "genhub.json").write_text(manifest.text())


@pytest.mark.slow
@given(TEXTS)
@few
def test_a_strangers_recipe(tmp_path: Path, text: str) -> None:
    file, text = tmp_path / "r.yaml", text.encode("utf-8", "replace").decode()
    for content in ({text: 1}, {"model": {"name": text}}, {"model": {"name": "vae", text: text}}, {"data": {"name": text}},
                    {"model": {"name": "vae"}, "trainer": {"optimizers": {text: {"lr": text}}}}, {"model": text}):  # fmt: skip
        file.write_text(yaml.safe_dump(content, allow_unicode=True))
        said("recipe", "check", str(file))
        said("recipe", "show", str(file))
    file.write_text(text.replace("\r", "\n"))
    said("recipe", "check", str(file))
    said("recipe", "check", "digits-vae", "k" + text.replace("\0", ""))


@given(TEXTS)
@few
def test_a_strangers_figures_and_the_page_made_of_them(folder: Path, text: str) -> None:
    manifest, run_dir = rewritten(folder, data=spec("digits")), folder.parents[1]
    assert manifest.data is not None
    protocol = Protocol(extractor=text, extractor_hash=text, preprocessing=text, reference=manifest.data, reference_rows=3, n=3,
                        seed=0, options={text: text, "num_inference_steps": 2})  # fmt: skip
    evaluation = Evaluation(model="vae", step=5, config={text: text}, protocol=protocol, notes=(text,), weights=weights_digest(folder),
                            values={"frechet_distance": 1.0, "network_evaluations": 1.0, "rows_per_second": 2.0})  # fmt: skip
    for file in (run_dir / "evaluations").glob("*"):
        file.unlink()
    evaluation.write(run_dir / "evaluations")
    lines = [{"step": step, f"{text}/loss": 1.0, text: 2.0, "seconds": 1.0} for step in (1, 2, 3)]
    (run_dir / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    page = run_dir / "page.html"
    said("compare", str(folder), "--out", str(page))
    written = page.read_text()
    assert "How it was measured" in written  # the figures are shown
    assert not re.search(r"<script|[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", written)
    page.unlink()


@given(TEXTS)
@few
def test_a_strangers_plugin(text: str) -> None:
    plugin = Plugin(MODELS, text, text, text, text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "all_plugins", lambda: ((plugin,), (text,)))
        for words in (["plugins"], ["plugins", "--load"], ["plugins", "info", "x"], ["recipe", "check", "digits-vae"]):
            said(*words)


@given(TEXTS)
@few
def test_a_card_is_what_genhub_wrote(folder: Path, text: str) -> None:
    """Nothing in it ends the front matter or a block of code, and nothing is a tag, a link or a picture."""
    text = text.encode("utf-8", "replace").decode()
    plain, evil = (_card(folder, one) for one in ("x", text))
    assert evil.split("\n").count("---") == plain.split("\n").count("---") == 2
    assert yaml.safe_load(evil.split("\n---\n")[0]).keys() == yaml.safe_load(plain.split("\n---\n")[0]).keys()
    body, recipe = re.subn(r"\n(`{3,})yaml\n.*?\n\1\n", "\n", evil.split("\n---\n", 1)[1], flags=re.DOTALL)
    assert recipe == 1
    assert all(map(str.isprintable, body.split("\n")))
    assert len(body.split("\n")) == len(
        re.sub(r"\n```yaml\n.*?\n```\n", "\n", plain.split("\n---\n", 1)[1], flags=re.DOTALL).split("\n")
    )
    outside = re.sub(r"(?<!\\)`[^`\n]*`", "", body)
    assert not re.search(r"(?<!\\)<script|(?<!\\)\[i", outside)


def _card(folder: Path, text: str) -> str:
    manifest = Manifest(
        plugin=PluginEntry(name="vae", distribution="", version=""), config={}, data=spec(text), versions={"a": "1"}
    )
    figures = [Measured(name="frechet_distance", value=1.0, protocol={"extractor": text, "n": 3})]
    recipe = to_yaml({"model": {"name": "vae", "x": text}})
    return Card(manifest, folder, recipe, title=text, measured=figures).text()


# Hints


BAD: list[Callable[[], Any]] = [lambda: "dpmsolver++", lambda: "nope", lambda: -1, lambda: 10**30, lambda: [], lambda: {}, lambda: None,
       lambda: [-1, "a"], lambda: {"nope": 1}, lambda: 2.5, lambda: True]  # fmt: skip


def test_a_hint_ends_a_message() -> None:
    """For every value of every key of every Config, and of every section: what a rule says of itself gets nothing behind it."""
    from genhub.ground.parsing import TextSource
    from genhub.interfaces.columns import DataConfig
    from genhub.recipe.sections import AccelerateConfig, EvaluateConfig, HubConfig

    configs = [AccelerateConfig, DataConfig, EvaluateConfig, HubConfig]
    configs += [cls.Config for group in (MODELS, TRAINERS) for cls in load_all(group)[0].values()]
    messages: set[str] = set()
    for config in dict.fromkeys(configs):
        for keys in _keys(config):
            for bad in BAD:
                value: Any = bad()
                for key in reversed(keys):
                    value = {key: value}
                with contextlib.suppress(genhub.PluginError):
                    try:
                        _check(config, value, (), TextSource("r.yaml"))
                    except genhub.RecipeError as error:
                        messages |= set(str(error).split("\n"))
    assert len(messages) > 300
    assert not [text for text in messages if re.search(r"(did you mean|known: ).*, not ", text)]
    assert not [text for text in messages if "Value error" in text or "Input should" in text]
    assert any("no scheduler is called 'dpmsolver++'; did you mean 'dpmsolver'?" in text for text in messages)


def _keys(config: Any) -> list[tuple[str, ...]]:
    found = []
    for name, field in config.model_fields.items():
        found.append((name,))
        if hasattr(field.annotation, "model_fields"):
            found += [(name, *inner) for inner in _keys(field.annotation)]
    return found


def test_a_hint_ends_an_options_message() -> None:
    from genhub.sampling.options import read_options

    cls = registry.load_class(MODELS, "ddpm")
    ddpm = cls(cls.Config(data=images()))
    for value, text in [
        ("dpmsolver++", "no scheduler is called 'dpmsolver++'; did you mean 'dpmsolver'?"),
        ("nope", "known: .*vae|known: ddim, .* more"),
    ]:
        with pytest.raises(
            genhub.InputError, match=rf"^--set scheduler: .*{re.escape(text) if 'known' not in text else text}$"
        ):
            read_options(ddpm, {"scheduler": value})
    with pytest.raises(genhub.InputError, match=r"^--set eta: must be less than or equal to 1, not 3$"):
        read_options(ddpm, {"eta": 3})


def test_of_many_faults_the_first_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And no words are looked for that nobody reads: 12,000 unknown keys took 8 seconds."""
    looked_for = []
    monkeypatch.setattr(
        "genhub.recipe.recipe.did_you_mean", lambda name, known: looked_for.append(name) or errors.did_you_mean(name, known)
    )
    for section in ("", "model:\n  name: vae\n", "data:\n"):
        indent = "  " if section else ""
        (tmp_path / "r.yaml").write_text("seed: 1\n" + section + "".join(f"{indent}k{i}: 1\n" for i in range(8000)))
        looked_for.clear()
        with pytest.raises(genhub.RecipeError) as caught:
            genhub.read_recipe(tmp_path / "r.yaml")
        *told, rest = str(caught.value).split("\n")
        assert "k0: unknown key; " in told[0] or "k0: unknown key; " in told[1]
        assert 19 <= len(told) <= 20
        assert re.search(r": and 7,98\d more$", rest)
        assert len(looked_for) <= 21


def test_with_json_what_is_said_meanwhile_is_on_stderr(capsys):
    with aside():
        say("Probe    training")
        Progress(2).report(1, "drawn")
    say("at last")
    captured = capsys.readouterr()
    assert captured.out == "at last\n"
    assert captured.err.startswith("Probe    training\nstep 1/2  drawn")


def test_every_verb_that_prints_json_does_so_alone():
    def options(command, name=""):
        for verb, inner in getattr(command, "commands", {}).items():
            yield from options(inner, f"{name} {verb}")
        yield from ((name, option) for option in command.params if "--json" in option.opts)

    whole = typer.main.get_command(cli.app)
    found = dict(options(whole))
    assert {" evaluate", " compare", " info", " data", " plugins check"} <= found.keys()
    for verb, option in found.items():
        with whole.make_context("genhub", ["doctor"], resilient_parsing=True) as context:
            assert option.callback(context, option, True) is True, verb
            assert console._aside, verb
        assert not console._aside, verb
