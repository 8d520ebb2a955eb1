"""Publishing: what of a checkpoint leaves the machine, one commit whatever happens, and pushing while a run trains."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import py_compile
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
import yaml
from conftest import CACHE
from huggingface_hub import ModelCard
from minihub import MiniHub
from test_hub import DRAWING, said

import genhub
from genhub.evaluation.protocol import Evaluation, Protocol, weights_digest
from genhub.store.manifest import Manifest

TINY = {
    "model": {"name": "autoencoder", "channels": [8]},
    "trainer": {"max_steps": 2, "sample_every": 2, "num_samples": 4, "trackers": []},
}
UNET = {
    "network": {"name": "unet", "block_out_channels": [8, 16], "add_attention": False},
    "sampling": {"num_inference_steps": 4},
}
BUILT_IN = {
    "autoencoder": {"name": "autoencoder", "channels": [8]},
    "vae": {"name": "vae", "network": "kl", "channels": [8, 16], "latent_dim": 2},
    "gan": {"name": "gan", "generator": {"channels": [8, 8]}, "discriminator": {"channels": [8, 8]}},
    "cgan": {"name": "cgan", "generator": {"channels": [8, 8]}, "discriminator": {"channels": [8, 8]},
             "conditions": ["label"]},
    "ddpm": {"name": "ddpm", **UNET},
    "latent": {"name": "ddpm", "autoencoder": "run/vae", **UNET},
}  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return genhub.train(TINY | {"run_dir": str(tmp_path_factory.mktemp("publish") / "run")})


@pytest.fixture
def checkpoint(trained: Path, tmp_path: Path) -> Path:
    """A copy of a checkpoint, to be changed."""
    return Path(shutil.copytree(trained, tmp_path / "run" / "checkpoints" / trained.name))


def commits(hub: MiniHub, repo_id: str) -> list[str]:
    return [message for message, _ in hub.repos[repo_id].commits.values()]


# The round trip


LOAD_ALL = """
import hashlib, sys, genhub
for name in sys.argv[1:]:
    print(name, hashlib.sha256(genhub.sample(f"alice/{name}", 4, seed=7).numpy().tobytes()).hexdigest())
"""


@pytest.mark.slow
def test_every_built_in_model_comes_back_in_another_process(hub, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    expected = []
    for name, model in BUILT_IN.items():
        trainer = {"max_steps": 2, "sample_every": None, "trackers": []}
        folder = genhub.train({"model": model, "trainer": trainer, "run_dir": f"run/{name}"})
        genhub.push_to_hub(folder, f"alice/{name}", private=True)
        images = genhub.sample(folder, 4, seed=7)
        expected.append(f"{name} {hashlib.sha256(images.numpy().tobytes()).hexdigest()}")
        files = hub.repos[f"alice/{name}"].files
        assert "samples.png" in files  # drawn by the push, as the run made no preview
        assert not [file for file in files if file.startswith("trainer/")]
    done = subprocess.run([sys.executable, "-c", LOAD_ALL, *BUILT_IN], capture_output=True, text=True)
    assert done.stdout.splitlines() == expected, done.stderr

    import diffusers

    pipeline = diffusers.DDPMPipeline.from_pretrained("alice/ddpm")
    theirs = pipeline(generator=torch.Generator().manual_seed(3), num_inference_steps=5, output_type="np").images
    model = genhub.load("alice/ddpm")
    with torch.inference_mode():
        ours = model.sample(1, generator=torch.Generator().manual_seed(3), scheduler="ddpm", num_inference_steps=5)
    torch.testing.assert_close(torch.from_numpy(theirs).permute(0, 3, 1, 2), ours / 2 + 0.5, atol=1e-5, rtol=0)
    kl = diffusers.AutoencoderKL.from_pretrained("alice/vae", subfolder="vae")
    x = torch.rand(2, 1, 8, 8) * 2 - 1
    vae = genhub.load("alice/vae")
    torch.testing.assert_close(kl.encode(x).latent_dist.mean, vae.encode(x), atol=1e-5, rtol=1e-4)
    cards = {name: hub.repos[f"alice/{name}"].files["README.md"].decode() for name in BUILT_IN}
    assert "samples it, too:\n\n```python\nfrom diffusers import DDPMPipeline\n" in cards["ddpm"]
    assert 'DDPMPipeline.from_pretrained("alice/ddpm")' in cards["ddpm"]
    assert 'UNet2DModel.from_pretrained("alice/latent", subfolder="unet")' in cards["latent"]
    assert "DDPMPipeline" not in cards["latent"]  # its latents are no images
    assert 'AutoencoderKL.from_pretrained("alice/vae", subfolder="vae")' in cards["vae"]
    assert "diffusers" not in cards["gan"].partition("## Versions")[0]
    assert ModelCard(cards["cgan"]).data.pipeline_tag is None
    assert "conditions={'label': ['0', '5']}" in cards["cgan"]  # the classes' names


def test_a_live_model_and_a_folder_of_diffusers(hub, tmp_path) -> None:
    import models
    from test_ddpm import make

    model = make()
    model.push_to_hub("alice/live", tag="v1")
    repo = hub.repos["alice/live"]
    assert repo.tags["v1"] == repo.branches["main"]
    assert "without a recipe" in repo.files["README.md"].decode()
    with torch.inference_mode():
        again = type(model).from_pretrained("alice/live", revision="v1")
    assert torch.equal(again.network.unet.conv_in.weight, model.network.unet.conv_in.weight)
    model.save_networks(tmp_path)
    genhub.push_to_hub(tmp_path, "alice/theirs")
    assert "genhub.json" in hub.repos["alice/theirs"].files
    with pytest.raises(genhub.InputError, match="must look like user/name"):
        models.Pair(models.Pair.Config(data=models.images((1, 4, 4)))).push_to_hub("nowhere")


# Case 23: one commit, whatever happens


def test_case_23_again_and_again(hub, checkpoint, capsys) -> None:
    first = genhub.push_to_hub(checkpoint, "alice/ae")
    assert capsys.readouterr().out == f"{DRAWING}Pushed  {hub.url}/alice/ae  commit {first[:12]}\n"
    assert genhub.push_to_hub(checkpoint, "alice/ae") == first
    assert capsys.readouterr().out.startswith(f"{DRAWING}Nothing has changed  ")
    assert commits(hub, "alice/ae") == ["initial commit", "Step 2"]
    hub.repos["alice/ae"].commit("main", hub.repos["alice/ae"].files | {"LICENSE": b"mine", "old.json": b"{}"}, "by hand")
    genhub.push_to_hub(checkpoint, "alice/ae", license="mit")
    assert commits(hub, "alice/ae") == ["initial commit", "Step 2", "by hand", "Step 2"]
    assert {"LICENSE", "old.json"} <= hub.repos["alice/ae"].files.keys()
    assert ModelCard(hub.repos["alice/ae"].files["README.md"].decode()).data.license == "mit"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "path", "kind", "value"),
    [
        ("POST", "/repos/create", "status", 503), ("POST", "/repos/create", "after_reset", None), ("POST", "preupload", "status", 500),
        ("PUT", "/upload/", "status", 503), ("PUT", "/upload/", "reset", None), ("POST", "/commit/", "status", 503),
        ("POST", "/commit/", "reset", None), ("POST", "/commit/", "after_reset", None), ("GET", "/api/models", "status", 502),
        ("POST", "/commit/", "status", (429, {"Retry_After": "0"})), ("POST", "/tag/", "after_reset", None),
    ],
)  # fmt: skip
def test_case_23_one_fault_leaves_one_commit(hub, checkpoint, method, path, kind, value) -> None:
    hub.fail(method, path, kind, value)
    genhub.push_to_hub(checkpoint, "alice/ae", tag="v1")
    repo = hub.repos["alice/ae"]
    assert commits(hub, "alice/ae") == ["initial commit", "Step 2"]
    assert repo.tags == {"v1": repo.branches["main"]}
    genhub.load("alice/ae")


def test_case_23_an_upload_that_can_not_be(hub, checkpoint, capsys) -> None:
    """The client makes a RuntimeError of whatever ends an upload: told as what it was."""
    hub.fail("PUT", "/upload/", "status", 403, times=50)
    message = said(capsys, "push", str(checkpoint), "alice/ae")
    assert message == "alice/ae: no access (403: fault); pushing needs a token with that right: `hf auth login` [2]"
    hub.faults = []
    genhub.push_to_hub(checkpoint, "alice/ae")
    assert commits(hub, "alice/ae") == ["initial commit", "Step 2"]


def test_case_23_faults_without_end_and_a_second_try(hub, checkpoint, capsys) -> None:
    before = {file: file.read_bytes() for file in checkpoint.rglob("*") if file.is_file()}
    hub.fail("POST", "/commit/", "status", 503, times=4)
    assert said(capsys, "push", str(checkpoint), "alice/ae") == (
        f"alice/ae: pushing: the Hub ({hub.url}) answers 503: fault, again and again; try later [1]")  # fmt: skip
    assert commits(hub, "alice/ae") == ["initial commit"]
    sent = hub.asked("PUT", "/upload/")
    genhub.push_to_hub(checkpoint, "alice/ae")
    assert hub.asked("PUT", "/upload/") == sent  # what was sent is not sent again
    assert commits(hub, "alice/ae") == ["initial commit", "Step 2"]
    assert {file: file.read_bytes() for file in checkpoint.rglob("*") if file.is_file()} == before


def test_case_23_killed_while_it_sends(hub, checkpoint) -> None:
    hub.fail("POST", "/commit/", "stall", (0, 60))
    process = subprocess.Popen([str(Path(sys.executable).with_name("genhub")), "push", str(checkpoint), "alice/ae"])
    while not hub.asked("POST", "/commit/"):
        assert process.poll() is None
        time.sleep(0.05)
    process.kill()
    process.wait()
    hub.faults.clear()
    genhub.push_to_hub(checkpoint, "alice/ae")
    assert commits(hub, "alice/ae") == ["initial commit", "Step 2"]
    genhub.load("alice/ae")


def test_case_23_somebody_else_pushed_meanwhile(hub, checkpoint, capsys, monkeypatch) -> None:
    genhub.push_to_hub(checkpoint, "alice/ae")

    def meanwhile(self, path: str, body: bytes) -> None:
        if "/preupload/" in path and "theirs" not in commits(hub, "alice/ae"):
            hub.repos["alice/ae"].commit("main", hub.repos["alice/ae"].files | {"theirs.md": b"x"}, "theirs")
        original(self, path, body)

    original = hub.server.RequestHandlerClass._route
    monkeypatch.setattr(hub.server.RequestHandlerClass, "_route", meanwhile)
    assert said(capsys, "push", str(checkpoint), "alice/ae", "--license", "mit") == (
        "alice/ae: somebody else pushed to it meanwhile; nothing was changed. Look at it, then push again to go on from there [2]"
    )
    assert commits(hub, "alice/ae") == ["initial commit", "Step 2", "theirs"]
    genhub.push_to_hub(checkpoint, "alice/ae", license="mit")
    assert "theirs.md" in hub.repos["alice/ae"].files


def test_what_an_earlier_push_left_is_deleted(hub, checkpoint) -> None:
    from test_ddpm import make

    make().push_to_hub("alice/x")
    hub.repos["alice/x"].commit("main", hub.repos["alice/x"].files | {"mine.md": b"x"}, "by hand")
    genhub.push_to_hub(checkpoint, "alice/x")
    files = hub.repos["alice/x"].files
    assert not {"model_index.json", "unet/config.json"} & files.keys()
    assert {"mine.md", "model.safetensors"} <= files.keys()


def test_branches_and_tags(hub, checkpoint, capsys) -> None:
    genhub.push_to_hub(checkpoint, "alice/ae")
    commit = genhub.push_to_hub(checkpoint, "alice/ae", revision="dev", tag="v1", license="mit")
    repo = hub.repos["alice/ae"]
    assert repo.branches["dev"] == repo.tags["v1"] == commit != repo.branches["main"]
    genhub.load("alice/ae", revision="dev")
    assert "the tag 'v1' is at" in said(capsys, "push", str(checkpoint), "alice/ae", "--tag", "v1")


def test_case_20_pushing_without_the_right(hub, checkpoint, capsys, monkeypatch) -> None:
    genhub.push_to_hub(checkpoint, "alice/ae")
    assert "is there already, and public" in said(capsys, "push", str(checkpoint), "alice/ae", "--private")
    assert said(capsys, "push", str(checkpoint), "bob/ae") == (
        "bob/ae: no access (403: You don't have the rights to create a model for bob/ae with Bearer ***); pushing needs a token with "
        "that right: `hf auth login` [2]")  # fmt: skip
    monkeypatch.setenv("HF_TOKEN", "hf_reader")
    assert "no access (403" in said(capsys, "push", str(checkpoint), "bob/ae")
    monkeypatch.delenv("HF_TOKEN")
    assert (
        said(capsys, "push", str(checkpoint), "bob/ae")
        == "bob/ae: pushing needs a login: `hf auth login`, or set HF_TOKEN [2]"
    )
    assert said(capsys, "push", str(checkpoint), "ae") == "ae: must look like user/name to be pushed to [2]"
    assert list(hub.repos) == ["alice/ae"]


# Case 26: what leaves the machine


def test_case_26_only_the_manifests_files_are_published(hub, checkpoint, tmp_path) -> None:
    (checkpoint / ".env").write_text("SECRET=1")
    (checkpoint / "notes.md").write_text("mine")
    (checkpoint / "stray.safetensors").write_bytes(b"SECRET")
    genhub.push_to_hub(checkpoint, "alice/ae")
    files = hub.repos["alice/ae"].files
    drawn = {f"gallery/{number}.png" for number in range(10)}
    own = {".gitattributes", "README.md", "genhub.json", "model.safetensors", "recipe.yaml", "samples.png"}
    assert set(files) == own | drawn
    assert not any(b"SECRET" in content for content in files.values())
    listed = Manifest.model_validate_json(files["genhub.json"])
    assert listed.files.keys() == own - {".gitattributes", "genhub.json"}
    assert listed.sealed() == listed


def test_case_26_a_link_in_place_of_a_file(hub, checkpoint, tmp_path, capsys) -> None:
    (checkpoint / "model.safetensors").rename(tmp_path / "elsewhere")
    (checkpoint / "model.safetensors").symlink_to(tmp_path / "elsewhere")
    assert "model.safetensors: is a link that leads out of" in said(capsys, "push", str(checkpoint), "alice/ae")
    assert "alice/ae" not in hub.repos


def test_a_damaged_checkpoint_is_not_published(hub, checkpoint, capsys) -> None:
    (checkpoint / "model.safetensors").write_bytes(b"x")
    assert "model.safetensors: damaged" in said(capsys, "push", str(checkpoint), "alice/ae")
    assert "alice/ae" not in hub.repos


def test_what_belongs_to_this_machine_is_left_out(hub, tmp_path) -> None:
    import datasets
    from PIL import Image

    (tmp_path / "secret" / "digits").mkdir(parents=True)
    for i in range(4):
        Image.new("L", (8, 8), i * 60).save(tmp_path / "secret" / "digits" / f"{i}.png")
    recipe = TINY | {"data": {"name": str(tmp_path / "secret" / "digits"), "batch_size": 2}, "run_dir": str(tmp_path / "run"),
                     "hub": {"repo_id": "alice/during", "private": True}}  # fmt: skip
    folder = genhub.train(recipe)
    genhub.push_to_hub(folder, "alice/after")
    for repo_id in ("alice/during", "alice/after"):
        files = hub.repos[repo_id].files
        assert not [name for name, content in files.items() if str(tmp_path).encode() in content or b"secret" in content]
        published = yaml.safe_load(files["recipe.yaml"])
        assert published["data"]["name"] == "digits"
        assert not {"run_dir", "hub"} & published.keys()
    assert hub.repos["alice/during"].private

    rows = {"image": [Image.new("L", (8, 8), i * 60) for i in range(4)]}
    for name in ("a", "b"):
        datasets.Dataset.from_dict(rows).cast_column("image", datasets.Image()).to_parquet(
            tmp_path / "secret" / f"{name}.parquet"
        )
    names = [str(tmp_path / "secret" / "a.parquet"), str(tmp_path / "secret" / "b*.parquet")]
    folder = genhub.train(TINY | {"data": {"name": names, "batch_size": 2}, "run_dir": str(tmp_path / "listed")})
    genhub.push_to_hub(folder, "alice/listed")
    files = hub.repos["alice/listed"].files
    assert not [name for name, content in files.items() if b"secret" in content]
    assert yaml.safe_load(files["recipe.yaml"])["data"]["name"] == ["a.parquet", "b*.parquet"]
    assert b"On `a.parquet + b*.parquet`, split `train`: 8 rows, of which it draws `image`." in files["README.md"]


# The card


def test_the_card(hub, checkpoint) -> None:
    spec = Manifest.model_validate_json((checkpoint / "genhub.json").read_bytes()).data
    protocol = Protocol(extractor="dinov2:/home/alice/secret/d (/home/alice/secret/d)", extractor_hash="0" * 64, preprocessing="8x8", reference_rows=1000, n=1000, seed=3,
                        reference=spec.model_copy(update={"name": "/home/alice/secret/digits"}))  # fmt: skip
    evaluation = Evaluation(model="autoencoder", step=2, config={}, protocol=protocol, values={"kid": 0.25, "fd": 7.5},
                            notes=("few images",), weights=weights_digest(checkpoint))  # fmt: skip
    evaluation.write(checkpoint.parents[1] / "evaluations")
    genhub.push_to_hub(checkpoint, "alice/ae", license="cc-by-4.0")
    files = hub.repos["alice/ae"].files
    card = ModelCard(files["README.md"].decode())
    assert (card.data.library_name, card.data.license, card.data.pipeline_tag) == (
        "genhub",
        "cc-by-4.0",
        "unconditional-image-generation",
    )
    assert {"genhub", "autoencoder"} <= set(card.data.tags)
    results = {result.metric_type: result for result in card.data.eval_results}
    assert (results["kid"].metric_value, results["fd"].metric_value) == (0.25, 7.5)
    assert results["kid"].metric_args["n"] == 1000
    assert results["kid"].metric_args["reference"] == f"digits train, fingerprint {spec.fingerprint}"
    assert b"secret" not in files["README.md"] + files["metrics.json"]
    assert [figure["name"] for figure in json.loads(files["metrics.json"])] == ["kid", "fd"]
    for part in ("![Drawn by the model](samples.png)", 'genhub.sample("alice/ae", 16, ', "genhub sample alice/ae", "genhub train alice/ae",
                 "1,797 rows, of which it draws `image`.", "torch 2.", "| kid | 0.25 | extractor dinov2:d (d)", "\n\n- few images\n"):  # fmt: skip
        assert part in card.content
    shown = card.content.partition("```yaml\n")[2].partition("```")[0]
    assert yaml.safe_load(shown) == yaml.safe_load(files["recipe.yaml"])
    assert "model-index" not in (checkpoint / "README.md").read_text()  # the checkpoint's own was written before measuring
    copy = checkpoint.parents[1] / "copy"
    for name, content in files.items():
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / name).write_bytes(content)
    genhub.push_to_hub(copy, "alice/copy")  # the figures stay with the model
    assert len(ModelCard(hub.repos["alice/copy"].files["README.md"].decode()).data.eval_results) == 2
    (copy / "metrics.json").write_text('[{"name": "kid"}]')
    with pytest.raises(genhub.CheckpointError, match=r"metrics.json: damaged"):
        genhub.push_to_hub(copy, "alice/copy")


# Code


def test_own_code_goes_along_only_when_told_and_runs_only_when_told(hub, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    source = (Path(__file__).parent / "models.py").read_text()
    (tmp_path / "mine.py").write_text(source)
    recipe = {
        "model": {"name": "mine:Pair"},
        "trainer": {"max_steps": 1, "trackers": [], "sample_every": 1, "num_samples": 2},
    }
    folder = genhub.train(recipe)
    images = genhub.sample(sys.modules["mine"].Pair.from_pretrained(folder), 2)
    genhub.push_to_hub(folder, "alice/mine")
    assert "plugin.py" not in hub.repos["alice/mine"].files
    with pytest.raises(genhub.CheckpointError, match=r"needs 'mine:Pair' from your own code: Pair.from_pretrained loads it"):
        genhub.load("alice/mine")
    commit = genhub.push_to_hub(folder, "alice/mine", with_code=True)
    assert hub.repos["alice/mine"].files["plugin.py"].decode() == source
    assert "`plugin.py` is its author's code." in hub.repos["alice/mine"].files["README.md"].decode()
    with pytest.raises(genhub.CheckpointError, match=r"its author's own code, plugin.py in the repository; read it"):
        genhub.load("alice/mine")
    with pytest.raises(genhub.HubError, match=rf"read that, then name the commit that you read: revision='{commit}'"):
        genhub.load("alice/mine", trust_remote_code=True)
    assert not [name for name in sys.modules if name.startswith("genhub_remote")]
    capsys.readouterr()
    model = genhub.load("alice/mine", trust_remote_code=True, revision=commit)
    assert f"running alice/mine/plugin.py at {commit} ({len(source)} bytes, SHA-256 " in capsys.readouterr().err
    assert torch.equal(genhub.sample(model, 2), images)
    cached, evil = next(Path(CACHE, "hub").rglob("snapshots/*/plugin.py")), tmp_path / "evil.py"
    evil.write_text("raise SystemExit('a compiled file was run')")
    compiled = importlib.util.cache_from_source(str(cached))
    py_compile.compile(str(evil), compiled, invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH)
    assert torch.equal(genhub.sample(genhub.load("alice/mine", trust_remote_code=True, revision=commit), 2), images)
    hub.repos["alice/mine"].files["plugin.py"] = source.encode() + b"\n"
    del sys.modules[type(model).__module__]
    shutil.rmtree(Path(CACHE, "hub"))
    with pytest.raises(genhub.CheckpointError, match=r"alice/mine/plugin.py: damaged"):
        genhub.load("alice/mine", trust_remote_code=True, revision=commit)
    with pytest.raises(genhub.InputError, match="'autoencoder' is an installed plugin"):
        genhub.push_to_hub(genhub.train(TINY | {"run_dir": "run"}), "alice/ae", with_code=True)


# While a run trains


def train(tmp_path: Path, **hub: object) -> Path:
    trainer = {"max_steps": 6, "save_every": 1, "keep_last": 1, "sample_every": None, "trackers": []}
    return genhub.train(
        {
            "model": TINY["model"],
            "trainer": trainer,
            "run_dir": str(tmp_path / "run"),
            "hub": {"repo_id": "alice/run", **hub},
        }
    )


def test_a_run_pushes_its_checkpoints(hub, tmp_path, capsys) -> None:
    folder = train(tmp_path, every=2, private=True, license="mit")
    assert capsys.readouterr().err == ""
    made = commits(hub, "alice/run")
    assert made[-1] == "Step 6"
    assert set(made) <= {"initial commit", "Step 1", "Step 2", "Step 4", "Step 6"}
    assert torch.equal(genhub.sample("alice/run", 2), genhub.sample(folder, 2))
    assert not (tmp_path / "run" / ".publishing").exists()


def test_a_push_that_fails_is_a_warning(hub, tmp_path, capsys) -> None:
    hub.fail("*", "/api/models", "status", 503, times=10**6)
    folder = train(tmp_path, every=6)
    warnings = capsys.readouterr().err.splitlines()
    assert warnings
    assert all(w.startswith("genhub: alice/run: pushing: the Hub") and w.endswith("; the run goes on") for w in warnings)
    genhub.load(folder)
    hub.faults.clear()
    genhub.push_to_hub(folder, "alice/run")


@pytest.mark.slow
def test_a_push_that_never_ends_does_not_hold_the_run(hub, tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.setattr("genhub.run.train.LAST_PUSH", 0.6)
    hub.fail("GET", "/api/models", "stall", (0, 3), times=10**6)
    genhub.load(train(tmp_path))
    assert "genhub: alice/run: the last push is not done after 1 s; genhub push finishes it" in capsys.readouterr().err
    hub.faults.clear()
    for thread in threading.enumerate():
        if thread.name == "genhub-push":
            thread.join()


@pytest.mark.parametrize("hub_section", [{"repo_id": "nowhere"}, {"repo_id": "a/b/c"}, {"repo_id": "alice/x", "evry": 3}])
def test_a_hub_section_is_checked_before_the_run(tmp_path, hub_section) -> None:
    with pytest.raises(genhub.RecipeError, match=r"hub\.(repo_id|evry)"):
        genhub.train(TINY | {"run_dir": str(tmp_path), "hub": hub_section})
    assert os.listdir(tmp_path) == []  # noqa: PTH208
