"""The loop, through `genhub.train`: what runs, what it writes, and that stopping costs nothing."""

from __future__ import annotations

import json
import signal
import sys
import time
from pathlib import Path

import models
import pytest
import torch
from safetensors.torch import load_file

import genhub

WEIGHTS = ("trainer/weights", "trainer/averages", "trainer/optimizer-0")


def metrics(run: Path) -> list[dict]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in ("seconds", "rows_per_second")} for line in lines]


def same_bits(a: Path, b: Path) -> None:
    names = sorted(f.relative_to(a).as_posix() for f in a.rglob("*.safetensors"))
    assert names == sorted(f.relative_to(b).as_posix() for f in b.rglob("*.safetensors"))
    for name in names:
        left, right = load_file(a / name), load_file(b / name)
        assert left.keys() == right.keys()
        for key in left:
            assert torch.equal(left[key], right[key]), (name, key)


def pair(tiny: dict, name: str = "models:Pair", **trainer) -> dict:
    tiny["model"] = {"name": name}
    tiny["trainer"] |= trainer
    return tiny


def test_a_run_writes_what_it_promises(tiny):
    tiny["trainer"] |= {"sample_every": 3, "trackers": ["tensorboard"]}
    folder = genhub.train(tiny)
    run = Path(tiny["run_dir"])
    assert folder == run / "checkpoints" / "step-000006"
    assert sorted(p.name for p in (run / "samples").iterdir()) == ["step-000003.png", "step-000006.png"]
    assert [line["step"] for line in metrics(run)] == [2, 4, 6]
    assert {"denoise/loss", "denoise/grad_norm", "lr", "epoch"} <= metrics(run)[0].keys()
    assert any((run / "logs").rglob("events.out.tfevents.*"))
    assert {p.name for p in folder.iterdir()} == {
        "README.md", "genhub.json", "model_index.json", "recipe.yaml", "samples.png", "scheduler", "trainer", "unet"}  # fmt: skip
    again = genhub.read_recipe(run / "recipe.yaml")
    assert again.model.data is None  # the data fill it in again
    assert genhub.load(folder).shape == (1, 8, 8)
    assert not list(run.rglob("*.pt")) + list(run.rglob("*.pkl")) + list(run.rglob("*.bin"))


@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize("name", ["ddpm", "models:Pair"])
def test_resume_is_exact(tiny, tmp_path, name, accumulation):
    """Stopped after step 3, in the middle of a log window, the run ends with the same bits."""
    if name != "ddpm":
        pair(tiny, name)
    tiny["trainer"]["gradient_accumulation_steps"] = accumulation
    whole = genhub.train(tiny, run_dir=str(tmp_path / "whole"))
    genhub.train(tiny, ["trainer.max_steps=3"], run_dir=str(tmp_path / "parts"))
    parts = genhub.train(tiny, run_dir=str(tmp_path / "parts"))
    same_bits(whole, parts)
    assert [m for m in metrics(tmp_path / "parts") if m["step"] != 3] == metrics(tmp_path / "whole")


def test_accumulation_changes_nothing_but_rounding(tiny, tmp_path):
    """Without randomness in the loss, a batch in two parts gives the whole batch's gradient."""
    pair(tiny, "models:Fit", max_steps=3)
    one = load_file(genhub.train(tiny, run_dir=str(tmp_path / "one")) / "trainer/weights.safetensors")
    two = genhub.train(tiny, ["trainer.gradient_accumulation_steps=2"], run_dir=str(tmp_path / "two"))
    for key, value in load_file(two / "trainer/weights.safetensors").items():
        torch.testing.assert_close(value, one[key], atol=1e-6, rtol=1e-5)


def test_phases_train_their_networks_alone(tiny):
    pair(tiny, max_steps=1, save_every=1, sample_every=None)
    torch.manual_seed(0)  # as the run seeds the weights
    before = models.Pair(models.Pair.Config(data=models.images((1, 8, 8)))).state_dict()
    folder = genhub.train(tiny)
    after = load_file(folder / "trainer/weights.safetensors")
    changed = {key.split(".")[0] for key in after if not torch.equal(before[key], after[key])}
    assert changed == {"generator", "critic"}
    untrained = {key for key in before if key.startswith("unused.")}  # stored once, in the model's own folder
    assert before.keys() - after.keys() == untrained
    exported = load_file(folder / "model.safetensors")
    assert all(torch.equal(before[key], exported[key]) for key in untrained)
    averages = load_file(folder / "trainer/averages.safetensors")
    assert torch.equal(averages["critic.0.weight"], after["critic.0.weight"])  # ema=False: follows
    assert not torch.equal(averages["generator.0.weight"], after["generator.0.weight"])
    assert torch.equal(averages["generator.1.running_mean"], after["generator.1.running_mean"])  # buffers follow


def test_lazy_phases_run_on_their_interval(tiny):
    pair(tiny, log_every=1)
    genhub.train(tiny)
    assert ["penalty/loss" in line for line in metrics(Path(tiny["run_dir"]))] == [True, False] * 3


def test_optimizers_differ_by_network(tiny):
    pair(tiny, optimizers={"critic": {"lr": 1e-9, "name": "sgd", "momentum": 0.5}}, max_steps=2)
    folder = genhub.train(tiny)
    torch.manual_seed(0)
    before = models.Pair(models.Pair.Config(data=models.images((1, 8, 8)))).state_dict()
    after = load_file(folder / "trainer/weights.safetensors")
    assert torch.allclose(before["critic.0.weight"], after["critic.0.weight"], atol=1e-7)
    assert not torch.allclose(before["generator.0.weight"], after["generator.0.weight"], atol=1e-4)
    assert any(key.endswith("momentum_buffer") for key in load_file(folder / "trainer/optimizer-1.safetensors"))


def test_the_log_has_each_optimizers_learning_rate(tiny):
    schedule = {"name": "linear", "warmup_steps": 2, "final_ratio": 0.0}
    pair(tiny, optimizers={"critic": {"lr": 4e-3}}, optimizer={"lr": 1e-3}, lr_scheduler=schedule, max_steps=4, log_every=1)
    genhub.train(tiny)
    lines = metrics(Path(tiny["run_dir"]))
    assert [line["lr/critic"] for line in lines] == pytest.approx([2e-3, 4e-3, 4e-3, 2e-3])
    assert [line["lr/generator"] for line in lines] == pytest.approx([5e-4, 1e-3, 1e-3, 5e-4])
    assert not any("lr" in line for line in lines)
    pair(
        tiny, optimizers={"critic": {"lr": 2e-3}, "generator": {"lr": 2e-3}}, lr_scheduler=schedule, max_steps=4, log_every=1
    )
    genhub.train(tiny, fresh=True)
    lines = metrics(Path(tiny["run_dir"]))
    assert [line["lr"] for line in lines] == pytest.approx([1e-3, 2e-3, 2e-3, 1e-3])
    assert not any(key.startswith("lr/") for line in lines for key in line)


def test_train_on_from_a_checkpoint(tiny, tmp_path):
    first = genhub.train(tiny)
    tiny["model"] = {"from": str(first)}
    tiny["trainer"] |= {"max_steps": 1, "optimizer": {"lr": 1e-12}, "ema": None}
    second = genhub.train(tiny, run_dir=str(tmp_path / "second"))
    a, b = (load_file(f / "unet/diffusion_pytorch_model.safetensors") for f in (first, second))
    assert all(torch.allclose(a[key], b[key], atol=1e-6) for key in a)


@pytest.mark.parametrize(
    "keys",
    [
        pytest.param({"compile": True, "ema": None}, marks=pytest.mark.slow),  # the preview is the compiled network's
        {"mixed_precision": "bf16"},
        {"ema": None},
        {"max_grad_norm": None},
        {"channels_last": True, "mixed_precision": "bf16"},
    ],
)
def test_options_of_the_loop(tiny, keys):
    if keys.get("compile") and sys.platform != "linux":
        pytest.skip("torch.compile needs a C++ compiler at hand")
    tiny["trainer"] |= keys | {"max_steps": 2, "sample_every": 2}
    folder = genhub.train(tiny)
    assert genhub.sample(folder, 2, compile=bool(keys.get("compile"))).shape == (2, 1, 8, 8)
    for name in WEIGHTS if tiny["trainer"]["ema"] else WEIGHTS[::2]:  # whatever the losses' precision
        assert all(tensor.dtype == torch.float32 for tensor in load_file(folder / f"{name}.safetensors").values())


@pytest.mark.parametrize("keys", [{}, {"max_grad_norm": None}, {"gradient_accumulation_steps": 2}])
def test_a_loss_scaler_and_phases_at_different_rates(tiny, tmp_path, monkeypatch, keys):
    """fp16's scaler, at work on the CPU in float32: its powers of two change no bit, whichever phases a step has, two of
    which share an optimizer."""
    from genhub.training.loop import AccelerateTrainer

    pair(tiny, max_steps=4, **keys)
    plain = genhub.train(tiny, run_dir=str(tmp_path / "plain"))
    make = AccelerateTrainer._accelerator

    def with_scaler(self, several_phases):
        accelerator = make(self, several_phases)
        accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
        return accelerator

    monkeypatch.setattr(AccelerateTrainer, "_accelerator", with_scaler)
    scaled = genhub.train(tiny, run_dir=str(tmp_path / "scaled"))
    same_bits(plain, scaled)


def test_channels_last_changes_nothing_but_rounding(tiny, tmp_path):
    tiny["trainer"]["optimizer"] = {"lr": 1e-3, "eps": 1e-4}  # or Adam makes steps of rounding where a gradient is 0
    one = genhub.train(tiny, run_dir=str(tmp_path / "one"))
    two = genhub.train(tiny, ["trainer.channels_last=true"], run_dir=str(tmp_path / "two"))
    a, b = (load_file(folder / "trainer/weights.safetensors") for folder in (one, two))
    assert all(torch.allclose(a[key], b[key], atol=1e-5) for key in a)
    assert not all(torch.equal(a[key], b[key]) for key in a)  # it did something


def test_tf32_is_as_the_recipe_says(tiny):
    for wanted in (False, True):
        genhub.train(tiny, [f"trainer.tf32={wanted}", "trainer.max_steps=1"], fresh=True)
        assert torch.backends.cuda.matmul.allow_tf32 == torch.backends.cudnn.allow_tf32 == wanted


def test_lr_follows_the_schedule(tiny):
    tiny["trainer"] |= {"log_every": 1, "lr_scheduler": {"name": "linear", "warmup_steps": 2, "final_ratio": 0.5},
                        "optimizer": {"lr": 1.0e-3}}  # fmt: skip
    genhub.train(tiny)
    assert [round(m["lr"], 6) for m in metrics(Path(tiny["run_dir"]))] == [
        0.0005,
        0.001,
        0.001,
        0.000875,
        0.00075,
        0.000625,
    ]


# Stopping


def wait_for(condition, seconds: float = 240) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.02)


@pytest.fixture
def recipe_file(tiny, tmp_path) -> Path:
    import yaml

    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump(tiny))
    return file


@pytest.mark.parametrize(("number", "code"), [
    (signal.SIGINT, 130), pytest.param(signal.SIGTERM, 143, marks=pytest.mark.slow), pytest.param(signal.SIGKILL, -9, marks=pytest.mark.slow),
])  # fmt: skip
def test_a_signal_loses_nothing(zygote, recipe_file, tiny, tmp_path, number, code):
    """Stopped in the middle, started again by the same command: the same bits as never stopped."""
    words = ["train", str(recipe_file), "trainer.max_steps=60", "trainer.save_every=20"]
    run = Path(tiny["run_dir"])
    job = zygote.genhub(*words, cwd=tmp_path)
    wait_for(lambda: (run / "checkpoints" / "step-000020").exists() or job.poll() is not None)
    job.signal(number)
    assert job.wait() == code, job.err
    assert "Traceback" not in job.err
    if number != signal.SIGKILL:
        assert "the same command goes on from there" in job.err
    again = zygote.genhub(*words, cwd=tmp_path)
    assert again.wait() == 0, again.err
    assert "resuming at step" in again.out
    whole = genhub.train(recipe_file, words[2:], run_dir=str(tmp_path / "whole"))
    same_bits(whole, run / "checkpoints" / "step-000060")
    assert metrics(run) == metrics(tmp_path / "whole")


def test_damaged_newest_checkpoint_falls_back(tiny, capsys):
    newest = genhub.train(tiny)
    weights = newest / "trainer" / "weights.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    expected = load_file(newest / "trainer" / "averages.safetensors")
    again = genhub.train(tiny, ["trainer.max_steps=7"])
    assert "weights.safetensors: damaged" in capsys.readouterr().err
    assert again.name == "step-000007"
    genhub.load(newest)  # written anew on the way, whole again
    assert all(torch.equal(v, expected[k]) for k, v in load_file(newest / "trainer/averages.safetensors").items())


@pytest.mark.parametrize(("keys", "kept"), [({"keep_last": 2}, [5, 6]), ({"keep_last": 1, "keep_every": 2}, [2, 4, 6])])
def test_old_checkpoints_are_pruned(tiny, keys, kept):
    tiny["trainer"] |= {"save_every": 1} | keys
    folder = genhub.train(tiny)
    assert sorted(p.name for p in folder.parent.iterdir()) == [f"step-{step:06d}" for step in kept]


def test_a_finished_run_says_so(tiny, capsys):
    folder = genhub.train(tiny)
    assert genhub.train(tiny) == folder
    assert "Already trained to step 6" in capsys.readouterr().out


def test_fresh_keeps_the_old_run(tiny):
    genhub.train(tiny)
    genhub.train(tiny, fresh=True)
    assert Path(tiny["run_dir"] + ".old-1", "checkpoints", "step-000006").is_dir()


def test_a_changed_recipe_is_refused_with_the_difference(tiny):
    genhub.train(tiny)
    with pytest.raises(genhub.RecipeError, match=r"data.batch_size: was 16, is 8\n"):
        genhub.train(tiny, ["data.batch_size=8"])
    genhub.train(tiny, ["trainer.max_steps=7", "trainer.log_every=3"])


def test_code_that_has_changed_is_told_from_damage(tiny):
    """The checkpoint is whole, and not what the model is today."""
    folder = genhub.train(pair(tiny))
    from genhub.store.manifest import Manifest, describe_files, read_manifest

    (folder / "trainer" / "weights.safetensors").write_bytes((folder / "trainer" / "optimizer-0.safetensors").read_bytes())
    manifest = read_manifest(folder).model_dump() | {"files": describe_files(folder)}
    (folder / "genhub.json").write_text(Manifest.model_validate(manifest).sealed().model_dump_json())
    with pytest.raises(
        genhub.CheckpointError, match="step-000006: the model's or genhub's code has changed since: .*Missing"
    ):
        genhub.train(tiny, ["trainer.max_steps=7"])


def test_changed_data_is_refused(tiny, tmp_path):
    from PIL import Image

    images = tmp_path / "images"
    images.mkdir()
    for i in range(4):
        Image.new("L", (8, 8), i * 9).save(images / f"{i}.png")
    tiny["data"] = {"name": str(images), "batch_size": 4}
    genhub.train(tiny, ["trainer.max_steps=3"])
    Image.new("L", (8, 8), 200).save(images / "4.png")
    with pytest.raises(genhub.RecipeError, match="data: the values or the order of .* have changed since"):
        genhub.train(tiny)


# Folders


def test_run_dir_that_is_not_a_run(tiny, tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.txt").write_text("meow")
    (tmp_path / "file").write_text("")
    with pytest.raises(genhub.RecipeError, match=r"holds other files \(cat.txt"):
        genhub.train(tiny, run_dir=str(tmp_path / "photos"))
    with pytest.raises(genhub.RecipeError, match="run_dir"):
        genhub.train(tiny, run_dir=str(tmp_path / "file"))


def test_spaces_and_unicode_in_paths(tiny, tmp_path):
    folder = genhub.train(tiny, run_dir=str(tmp_path / "mein Lauf ü"))
    assert genhub.sample(folder, 1, out=tmp_path / "mein Lauf ü" / "a b.png").shape == (1, 1, 8, 8)
