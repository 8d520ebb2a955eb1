"""Models from the Hub: what a repository may and may not do, and what happens when the Hub doesn't do its part.

The client is the unmodified huggingface_hub; the Hub is tests/minihub.py, over real HTTP. Case numbers are those of the
list of faults that genhub must survive.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import CACHE
from minihub import MiniHub, Repo
from safetensors.torch import load, save

import genhub
from genhub import cli
from genhub.ground.ids import split_id
from genhub.store.manifest import FileEntry, Manifest

Files = dict[str, bytes]
WEIGHTS = "model.safetensors"
DRAWING = "Drawing the card's pictures\n"


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Files:
    """The files of a pushed model: an autoencoder after two steps."""
    from conftest import HUB

    os.environ["HF_TOKEN"] = "hf_alice"
    run_dir = tmp_path_factory.mktemp("run")
    genhub.train(
        {"model": {"name": "autoencoder", "channels": [8]}, "run_dir": str(run_dir / "run"),
         "trainer": {"max_steps": 2, "sample_every": 2, "num_samples": 4, "trackers": []}}
    )  # fmt: skip
    genhub.push_to_hub(run_dir / "run", "alice/made")
    del os.environ["HF_TOKEN"]
    return HUB.repos.pop("alice/made").files


@pytest.fixture
def model(hub: MiniHub, published: Files) -> Callable[..., Files]:
    """Put the published files, some of them changed, into a repository, with a genhub.json that fits."""

    def put(
        repo_id: str, changes: dict[str, bytes | None] | None = None, manifest: dict[str, object] | None = None
    ) -> Files:
        files = {**published, **(changes or {})}
        files = {name: content for name, content in files.items() if content is not None}
        if manifest is not None or changes:
            own = Manifest.model_validate_json(published["genhub.json"])
            listed = {n: FileEntry.of(c) for n, c in files.items() if n in own.files or n in (changes or {})}
            content = own.model_copy(update={"files": listed}).model_dump(mode="json") | (manifest or {})
            files["genhub.json"] = sealed(content)
        hub.add(repo_id, files)
        return files

    return put


def sealed(content: dict[str, object]) -> bytes:
    from genhub.store.manifest import checksum_of

    return json.dumps(content | {"checksum": checksum_of(content)}).encode()


def said(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """The one line that a verb ends with, and its exit code; no token is in it."""
    sys.argv = ["genhub", *words]
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        cli.main()
    out, err = capsys.readouterr()
    assert out in ("", DRAWING)  # before a push that fails
    assert err.count("\n") == 1, err
    assert err.startswith("genhub: ")
    assert "hf_" not in err
    return f"{err.removeprefix('genhub: ').strip()} [{ended.value.code}]"


def cached() -> set[str]:
    """Files in the cache that look like files of a model."""
    return {file.name for file in Path(CACHE, "hub").rglob("snapshots/*/**/*") if not file.is_dir()}


# Names


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("alice/digits", ("alice/digits", None)), ("alice/di.gi-ts_1", ("alice/di.gi-ts_1", None)),
        ("alice/digits@v1", ("alice/digits", "v1")), ("alice/digits@refs/pr/1", ("alice/digits", "refs/pr/1")),
        ("digits", None), ("a/b/c", None), ("./a", None), ("../a", None), ("a/..", None), ("/a", None), ("~/a", None),
        ("a/b/", None), ("a--b/c", None), ("a/b.git", None), ("recipes/a.yaml", None), ("a/-b", None), ("ä/b", None), ("a/b@", None), ("a\\b/c", None),
        (f"a/{'b' * 100}", None), ("", None), ("x" * 5000, None),
    ],
)  # fmt: skip
def test_what_is_an_id(source: str, expected: object) -> None:
    assert split_id(source) == expected


def test_an_existing_folder_goes_before_an_id(tmp_path, monkeypatch, hub, model) -> None:
    model("runs/x")
    monkeypatch.chdir(tmp_path)
    genhub.load("runs/x")
    Path("runs/x").mkdir(parents=True)
    with pytest.raises(genhub.CheckpointError, match=r"runs/x: neither a run"):
        genhub.load("runs/x")
    with pytest.raises(genhub.CheckpointError, match=r"no such folder .*, and no Hub id, user/name"):
        genhub.load("runs/x/y")


# What works


def test_load_sample_info_and_train(tmp_path, monkeypatch, capsys, hub, model) -> None:
    monkeypatch.chdir(tmp_path)
    model("alice/ae")
    commit = hub.repos["alice/ae"].branches["main"]
    sys.argv = ["genhub", "info", "alice/ae", "--json"]
    with pytest.raises(SystemExit):
        cli.app()
    facts = json.loads(capsys.readouterr().out)
    assert (facts["commit"], facts["step"], facts["plugin"]["name"]) == (commit, 2, "autoencoder")
    assert hub.asked("GET", WEIGHTS) == 0  # facts don't need weights
    first = genhub.sample("alice/ae", 3, seed=5, out="x.png")
    assert torch.equal(first, genhub.sample(genhub.load(f"alice/ae@{commit}"), 3, seed=5))
    assert hub.asked("GET", WEIGHTS) == 1
    folder = genhub.train("alice/ae")
    assert folder == Path("runs/alice--ae/checkpoints/step-000002")
    again = genhub.sample(folder, 3, seed=5)
    assert torch.equal(again, first)  # the same recipe, the same seed, the same machine: the same bits
    started = genhub.train(
        {"model": {"from": "alice/ae"}, "trainer": {"max_steps": 1, "trackers": [], "sample_every": None}}
    )
    assert genhub.load(started).config.channels == (8,)


@pytest.mark.parametrize("dtype", [torch.bfloat16, "float16"])
def test_load_in_another_precision(hub, model, dtype) -> None:
    model("alice/ae")
    exact, half = genhub.load("alice/ae"), genhub.load("alice/ae", dtype=dtype)
    assert half.dtype == getattr(torch, str(dtype).removeprefix("torch."))
    difference = genhub.sample(exact, 8).float() - genhub.sample(half, 8).float()
    assert difference.abs().max() <= 8
    with pytest.raises(genhub.InputError, match="dtype: float32, bfloat16"):
        genhub.load("alice/ae", dtype="int8")


def test_revisions_and_local_files_only(hub, model, published) -> None:
    model("alice/ae")
    repo = hub.repos["alice/ae"]
    repo.tags["v1"] = repo.branches["main"]
    repo.commit("main", {"README.md": b"empty"}, "gone")
    with pytest.raises(genhub.CheckpointError, match="alice/ae: holds no model"):
        genhub.load("alice/ae")
    with pytest.raises(genhub.HubError, match="is not in the cache"):
        genhub.load("alice/ae", revision="v1", local_files_only=True)
    genhub.load("alice/ae", revision="v1")
    hub.requests.clear()
    genhub.load("alice/ae@v1", local_files_only=True)
    assert hub.requests == []
    with pytest.raises(genhub.InputError, match="gives a revision already"):
        genhub.load("alice/ae@v1", revision="main")
    with pytest.raises(genhub.InputError, match="are for models on the Hub"):
        genhub.load(".", revision="main")
    with pytest.raises(genhub.InputError, match="can't be a branch"):
        genhub.load("alice/ae", revision="../../x")


# Case 20: who may not


def test_case_20_no_access(capsys, monkeypatch, hub, model) -> None:
    model("alice/ae")
    hub.repos["bob/private"] = Repo(private=True, branches={"main": ""})
    hub.add("bob/gated", hub.repos["alice/ae"].files, gated=True)
    at = hub.url
    assert said(capsys, "sample", "alice/nothing") == (
        f"alice/nothing: no such folder, and no such model on the Hub ({at}), or it is private and not yours to see; check the "
        "name, or log in with `hf auth login` [2]")  # fmt: skip
    assert "no such model" in said(capsys, "info", "bob/private")
    assert said(capsys, "sample", "bob/gated") == (
        f"bob/gated: is gated; ask for access at {at}/bob/gated, then log in with `hf auth login` [2]")  # fmt: skip
    assert said(capsys, "sample", "alice/ae@v9") == (
        f"alice/ae: has no branch, tag or commit 'v9'; {at}/alice/ae/tree/main lists them [2]")  # fmt: skip
    hub.fail("GET", "/api/models/alice/ae", "status", 403)
    assert said(capsys, "train", "alice/ae").startswith(
        "alice/ae: no access (403: fault); looking it up needs a token with that right"
    )
    monkeypatch.setenv("HF_TOKEN", "hf_expired")
    assert said(capsys, "sample", "alice/ae") == (
        f"alice/ae: the Hub ({at}) does not know your token (401); log in with `hf auth login`, or set HF_TOKEN [2]")  # fmt: skip
    monkeypatch.delenv("HF_TOKEN")
    assert "no such model" in said(capsys, "sample", "bob/private")
    assert cached() <= {"genhub.json"}


# Case 21: a Hub that falters, and one that is gone


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("status", 503), ("status", (429, {"Retry_After": "0"})), ("reset", None), ("cutreset", 1000), ("cut", 1000),
        ("stall", (1000, 3)), ("drop_header", ("Content-Length",)),
    ],
)  # fmt: skip
def test_case_21_one_fault_is_survived(hub, model, kind, value) -> None:
    model("alice/ae")
    hub.fail(
        "GET", "/api/models/alice/ae", kind if kind in ("status", "reset") else "status", value if kind == "status" else 500
    )
    hub.fail("GET", WEIGHTS, kind, value)
    hub.fail("HEAD", "genhub.json", kind if kind in ("status", "reset") else "reset", value if kind == "status" else None)
    genhub.load("alice/ae")
    assert hub.asked("GET", WEIGHTS) >= 1 + (kind != "drop_header")


@pytest.mark.slow
def test_case_21_faults_without_end(capsys, monkeypatch, hub, model) -> None:
    model("alice/ae")
    hub.fail("GET", "/api/models/alice/ae", "status", 503, times=99)
    assert said(capsys, "sample", "alice/ae") == (
        f"alice/ae: looking it up: the Hub ({hub.url}) answers 503: fault, again and again; try later; nothing of it is in the cache, and there is no such folder here [1]")  # fmt: skip
    assert hub.asked("GET", "/api/models") == 4
    hub.faults.clear()
    monkeypatch.setattr("genhub.hub.client.DELAYS", ())  # the client itself tries a cut download five times
    hub.fail("GET", WEIGHTS, "cut", 1000, times=99)
    assert "fetching model.safetensors: the Hub" in said(capsys, "sample", "alice/ae")
    assert WEIGHTS not in cached()
    hub.faults.clear()
    hub.fail("HEAD", WEIGHTS, "drop_header", ("X-Repo-Commit",), times=99)
    assert "does not say which commit a file is of" in said(capsys, "sample", "alice/ae")
    hub.faults.clear()
    genhub.load("alice/ae")  # and a further try goes on from there


def test_case_21_the_hub_is_gone(capsys, hub, model) -> None:
    model("alice/ae")
    images = genhub.sample("alice/ae", 2)
    with hub.gone():
        assert torch.equal(genhub.sample("alice/ae", 2), images)
        warning = capsys.readouterr().err
        assert warning.count("\n") == 1
        assert "can't be reached (ConnectError" in warning
        assert f"going on with commit {hub.repos['alice/ae'].branches['main'][:12]} from the cache" in warning
        assert "no such model" not in said(capsys, "sample", "alice/other")
        with pytest.raises(genhub.HubUnavailable, match="nothing of it is in the cache"):
            genhub.load("alice/ae", revision="v2")
        next(Path(CACHE, "hub").rglob(f"snapshots/*/{WEIGHTS}")).resolve().write_bytes(b"damaged")
        with pytest.raises(genhub.HubUnavailable, match=f"{WEIGHTS} is not whole in the cache, and the Hub can't be asked"):
            genhub.load("alice/ae")
    assert torch.equal(genhub.sample("alice/ae", 2), images)  # the damaged file is fetched anew


def test_case_21_an_older_commit_serves_when_the_newer_never_came(capsys, hub, model, published) -> None:
    model("alice/ae")
    old = hub.repos["alice/ae"].branches["main"]
    genhub.load("alice/ae")
    hub.repos["alice/ae"].commit("main", published | {"genhub.json": published["genhub.json"] + b" "}, "newer")
    hub.fail("GET", "genhub.json", "status", 500, times=99)
    with pytest.raises(genhub.HubUnavailable):
        genhub.load("alice/ae")
    with hub.gone():
        genhub.load("alice/ae")
    assert f"commit {old[:12]} from the cache" in capsys.readouterr().err


@pytest.mark.slow
def test_offline_mode_asks_nobody(published, model, hub) -> None:
    model("alice/ae")
    genhub.load("alice/ae")
    hub.requests.clear()
    code = """
import genhub, sys
print(tuple(genhub.load("alice/ae").shape))
try:
    genhub.load("alice/other")
except genhub.HubUnavailable as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=os.environ | {"HF_HUB_OFFLINE": "1"}
    )
    assert done.stdout.splitlines() == [
        "(1, 8, 8)", "alice/other: the Hub is not asked (HF_HUB_OFFLINE is set); nothing of it is in the cache, and there is no such folder here",
    ], done.stderr  # fmt: skip
    assert done.stderr == ""
    assert hub.requests == []


# Case 22: the right size, the wrong bytes


def test_case_22_corruption_is_fetched_again_once(capsys, hub, model) -> None:
    model("alice/ae")
    hub.fail("GET", WEIGHTS, "corrupt")
    hub.fail("GET", "genhub.json", "corrupt")
    genhub.load("alice/ae")
    assert hub.asked("GET", WEIGHTS) == hub.asked("GET", "genhub.json") == 2
    model("alice/other", {WEIGHTS: save(load(hub.repos["alice/ae"].files[WEIGHTS]) | {"latent_mean": torch.ones(16)})})
    hub.fail("GET", f"other/.*{WEIGHTS}", "corrupt", times=99)
    assert said(capsys, "sample", "alice/other") == (
        f"alice/other: {WEIGHTS} came damaged twice (its hash is not the one the Hub lists); try again later [2]")  # fmt: skip
    assert hub.asked("GET", f"other/.*{WEIGHTS}") == 2
    assert not list(Path(CACHE, "hub", "models--alice--other").rglob(WEIGHTS))
    hub.faults.clear()
    genhub.load("alice/other")


def test_case_22_a_file_that_is_not_the_manifests(hub, model, published) -> None:
    hub.add("alice/ae", published | {WEIGHTS: published[WEIGHTS][:-1] + b"\0"})
    with pytest.raises(genhub.CheckpointError, match=f"^alice/ae/{WEIGHTS}: damaged"):
        genhub.load("alice/ae")
    hub.add("alice/bc", published | {"genhub.json": published["genhub.json"].replace(b'"step": 2', b'"step": 3')})
    with pytest.raises(genhub.CheckpointError, match=r"^alice/bc/genhub.json: damaged \(its checksum does not match"):
        genhub.load("alice/bc")


# Case 24: a hostile repository


def test_case_24_no_code_runs(hub, model, tmp_path) -> None:
    mark = tmp_path / "ran"
    code = f"from pathlib import Path; Path({str(mark)!r}).touch()".encode()
    model("eve/code", {"genhub_vae.py": code, "plugin.py": code, "__init__.py": code})
    with pytest.raises(
        genhub.HubError, match=r"genhub.json lists genhub_vae.py; .*fetches .json .yaml .safetensors .md .png only"
    ):
        genhub.load("eve/code")
    files = model("eve/code", manifest={"code": FileEntry.of(code).model_dump()})
    hub.add("eve/code", files | {"plugin.py": code, "evil.py": code, "weights.bin": b"pickle"})
    genhub.load(
        "eve/code", revision=hub.repos["eve/code"].branches["main"], trust_remote_code=True
    )  # autoencoder is installed
    assert not mark.exists()
    assert hub.asked("GET", "py|bin$") == 0


def test_case_24_an_unknown_plugin(hub, model) -> None:
    plugin = {"name": "mixer", "distribution": "mixer-models", "version": "0.4"}
    model("eve/mixer", manifest={"plugin": plugin})
    with pytest.raises(
        genhub.CheckpointError,
        match=r"^eve/mixer: this model needs 'mixer' from mixer-models 0.4: pip install mixer-models$",
    ):
        genhub.load("eve/mixer")
    model("eve/os", manifest={"plugin": {"name": "os:system", "distribution": "", "version": ""}})
    with pytest.raises(genhub.CheckpointError, match=r"needs 'os:system' from your own code"):
        genhub.load("eve/os")
    model("eve/shell", manifest={"plugin": plugin | {"distribution": "x; rm -rf ~"}})
    with pytest.raises(genhub.CheckpointError, match=r"damaged: plugin.distribution: must match"):
        genhub.load("eve/shell")
    assert WEIGHTS not in cached()


@pytest.mark.parametrize(
    "name", ["../evil.json", "/etc/evil.json", "a/../../evil.json", "C:\\evil.json", "a\\b.json", "x\x1b[2J.json"]
)
def test_case_24_names_that_lead_out(hub, model, published, name) -> None:
    hub.add("eve/out", published | {name: b"{}"})
    with pytest.raises(genhub.HubError, match="is no path inside the folder; refused"):
        genhub.load("eve/out")
    model("eve/listed", manifest={"files": {name: FileEntry.of(b"{}").model_dump()}})
    with pytest.raises(genhub.CheckpointError, match=r"eve/listed/genhub.json: damaged: files"):
        genhub.load("eve/listed")


def test_case_24_an_etag_that_leads_out(hub, model) -> None:
    model("eve/etag")
    evil = {"ETag": '"../../../../evil"', "X-Linked-Etag": '"../../../../evil"'}
    hub.fail("HEAD", WEIGHTS, "header", evil, times=99)
    with pytest.raises(genhub.HubError, match="comes with the ETag .*, which leads out of the cache; refused"):
        genhub.load("eve/etag")
    blobs = Path(CACHE, "hub", "models--eve--etag", "blobs")
    assert not [path for folder in (blobs, *blobs.parents) for path in folder.glob("evil*")]
    outside = [path for path in Path(CACHE, "hub").iterdir() if "eve" not in path.name]
    assert {path.name for path in outside} <= {".locks", "CACHEDIR.TAG", "version.txt"}


@pytest.mark.parametrize(
    "config",
    [{"channels": [10**6, 10**6]}, {"channels": [2**40]}, {"latent_dim": 10**12}, {"channels": [8, 8], "latent_dim": 2**62},
     {"data": {"target": {"modality": "image", "shape": [1, 2**31, 2**31]}}}],
)  # fmt: skip
def test_case_24_a_config_that_asks_for_terabytes(hub, model, published, config) -> None:
    own = json.loads(published["genhub.json"])["config"]
    model("eve/huge", manifest={"config": own | config})
    with pytest.raises(genhub.CheckpointError, match=r"^eve/huge(: its config asks for |.* is more than genhub draws)"):
        genhub.load("eve/huge")
    assert WEIGHTS not in cached()


def test_case_24_a_config_without_end(hub, tmp_path) -> None:
    """A million layers are refused at the ten-thousandth tensor, from a local folder as well."""
    from test_ddpm import make

    make().save_pretrained(tmp_path)
    content = json.loads((tmp_path / "genhub.json").read_text())
    content["config"]["network"]["layers_per_block"] = 10**9
    with (tmp_path / "big.safetensors").open("wb") as stream:
        stream.truncate(2**34)
    (tmp_path / "genhub.json").write_bytes(sealed(content))
    with pytest.raises(genhub.CheckpointError, match=r"asks for 5,001 tensors or more|asks for [\d,]+ parameters"):
        genhub.load(tmp_path)


def test_case_24_more_files_or_bytes_than_any_model_has(hub, model, published) -> None:
    hub.add("eve/many", published | {f"{i}.json": b"{}" for i in range(10_001)})
    with pytest.raises(genhub.HubError, match=r"eve/many: holds 10,0\d\d files; refused"):
        genhub.load("eve/many")
    model("eve/text", {"big.json": b" " * (2**24 + 1)})
    with pytest.raises(genhub.HubError, match=r"eve/text: big.json is larger than 16777216 bytes; refused"):
        genhub.load("eve/text")
    assert "big.json" not in cached()


def test_case_24_a_million_tensors(hub, model, published) -> None:
    header = {f"t{i}": {"dtype": "U8", "shape": [1], "data_offsets": [i, i + 1]} for i in range(100_000)}
    text = json.dumps(header).encode()
    model("eve/tensors", {WEIGHTS: len(text).to_bytes(8, "little") + text + bytes(100_000)})
    with pytest.raises(genhub.CheckpointError, match=r"100,0\d\d tensors don't fit: "):
        genhub.load("eve/tensors")


def test_case_24_a_recipe_that_writes_elsewhere_or_imports(hub, model, published, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = published["recipe.yaml"].decode()
    model("eve/recipe", {"recipe.yaml": f"run_dir: {tmp_path}/victim\nhub: {{repo_id: alice/stolen}}\n{recipe}".encode()})
    read = genhub.read_recipe("eve/recipe")
    assert (read.run_dir, read.hub) == ("runs/eve--recipe", None)
    model("eve/import", {"recipe.yaml": b"model: {name: 'this:Model'}"})
    with pytest.raises(
        genhub.RecipeError,
        match="model.name: a recipe from the Hub can name nothing of this machine, and 'this:Model' might",
    ):
        genhub.read_recipe("eve/import")
    assert "this" not in sys.modules
    model("eve/none", {"recipe.yaml": None})
    with pytest.raises(genhub.HubError, match="holds no recipe.yaml"):
        genhub.read_recipe("eve/none")


# Case 25: weights that are another model's


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"latent_mean": None, "encoder.extra": torch.zeros(1)}, r"2 tensors don't fit: encoder.extra is not part of the model; latent_mean is missing"),
        ({"latent_mean": torch.zeros(3)}, r"latent_mean is \(3,\), the model's is \(16,\)"),
        ({"latent_mean": torch.zeros(16, dtype=torch.int64)}, "latent_mean is of I64, the model's of float32"),
    ],
)  # fmt: skip
def test_case_25_weights_that_do_not_fit(hub, model, published, change, message) -> None:
    tensors = load(published[WEIGHTS]) | change
    model("alice/wrong", {WEIGHTS: save({name: tensor for name, tensor in tensors.items() if tensor is not None})})
    with pytest.raises(genhub.CheckpointError, match=f"^alice/wrong/{WEIGHTS}: .*{message}"):
        genhub.load("alice/wrong")
