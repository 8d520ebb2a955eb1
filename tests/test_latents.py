"""What a frozen network makes of each image, computed once: the same training, the files, and who makes them."""

from __future__ import annotations

import json
import os
import shutil
import time
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock
from genhub_ddpm import DDPM
from PIL import Image
from test_ddpm_latent import build, halves, latent, vae  # noqa: F401  # fixtures
from test_registry import site  # noqa: F401
from test_trainer import metrics, same_bits

import genhub
from genhub.data.latents import CachedLatents, training_data
from genhub.data.open import load_data
from genhub.ground.processes import Share
from genhub.interfaces.columns import DataConfig
from genhub.run.prepare import prepare
from genhub.testing import check_model

CACHED = "data.cache_latents=true"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("GENHUB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "latents"


def files(cache: Path) -> dict[str, int]:
    """The cache's whole files, and when each was written."""
    return {file.relative_to(cache).as_posix(): file.stat().st_mtime_ns for file in cache.rglob("*.safetensors")}


@pytest.mark.parametrize("keys", [[], ["data.flip=true", "model.conditions=[label]", "trainer.gradient_accumulation_steps=2",
                                        "data.batch_size=32"]])  # fmt: skip
@pytest.mark.slow
def test_it_trains_the_same_weights(latent, tmp_path, cache, keys):  # noqa: F811
    """Bit for bit, stopped and gone on with as well, and whether the files are there or not; and so do the logs."""
    plain = genhub.train(latent, keys, run_dir=str(tmp_path / "plain"))
    assert not cache.exists()
    same_bits(plain, genhub.train(latent, [*keys, CACHED], run_dir=str(tmp_path / "cached")))
    assert metrics(tmp_path / "plain") == metrics(tmp_path / "cached")
    assert len(files(cache)) == (4 if keys else 2)
    genhub.train(latent, [*keys, CACHED, "trainer.max_steps=3"], run_dir=str(tmp_path / "parts"))
    shutil.rmtree(cache)
    shutil.rmtree(tmp_path / "vae")  # the checkpoint has its own
    same_bits(plain, genhub.train(latent, [*keys, CACHED], run_dir=str(tmp_path / "parts")))


@pytest.mark.slow
def test_files_are_found_again_by_what_they_were_made_of(latent, tmp_path, cache, capsys):  # noqa: F811
    genhub.train(latent, [CACHED, "trainer.max_steps=3"], run_dir=str(tmp_path / "one"))
    first = files(cache)
    assert len(first) == 2
    assert f"Latents  computing those of 1,797 rows in {cache}" in capsys.readouterr().out

    genhub.train(latent, [CACHED, "trainer.max_steps=3", "seed=1"], run_dir=str(tmp_path / "two"))
    genhub.train(latent, [CACHED], run_dir=str(tmp_path / "one"))  # from the checkpoint's own copy of the autoencoder
    assert files(cache) == first
    assert "Latents  found those of 1,797 rows" in capsys.readouterr().out

    genhub.train(latent, [CACHED, "trainer.max_steps=1", "data.flip=true"], run_dir=str(tmp_path / "three"))
    assert {name: at for name, at in files(cache).items() if "mirrored" not in name} == first  # only mirrored ones are new
    assert len(files(cache)) == 4

    count = 4
    for key in ("data.split=train[1:]", "data.split=train[:900]"):
        genhub.train(latent, [CACHED, "trainer.max_steps=1", key], run_dir=str(tmp_path / f"with {key}"))
        assert len(files(cache)) > count
        count = len(files(cache))
    other = genhub.load(tmp_path / "vae")
    other.likelihood.scaled.data.add_(1e-6)  # a single number
    other.save_pretrained(tmp_path / "other")
    latent["model"]["autoencoder"] = str(tmp_path / "other")
    genhub.train(latent, [CACHED, "trainer.max_steps=1"], run_dir=str(tmp_path / "four"))
    assert len(files(cache)) == count + 2
    assert first.items() <= files(cache).items()


# Batches, against the encoder itself


def table(data: DataConfig, autoencoder: Path) -> CachedLatents:
    found = training_data(build(autoencoder).train(), load_data(data, ("label",)))
    assert isinstance(found, CachedLatents)
    return found


def pictures(folder: Path, n: int, bad: tuple[int, ...] = ()) -> Path:
    for number in range(n):
        file = folder / "ab"[number % 2] / f"{number:02d}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.effect_noise((8, 8), 90).save(file)
        if number in bad:
            file.write_bytes(b"no image")
    return folder


@pytest.mark.parametrize("keys", [{}, {"in_memory": False, "num_workers": 0}, {"in_memory": False, "num_workers": 1}])
def test_batches_are_those_of_the_images(halves, tmp_path, keys):  # noqa: F811
    """In memory and mapped, by workers; mirrored; with labels; without the images that can't be read."""
    config = DataConfig(name=str(pictures(tmp_path / "set", 45, bad=(3, 4))), flip=True, on_error="skip", batch_size=8,
                        cache_latents=True, **keys)  # fmt: skip
    cached = table(config, halves)
    for share in (Share(), Share(1, 2, 2)):
        plain = load_data(config, ("label",)).batches(share, seed=5, start_step=2)
        for batch, images in islice(zip(cached.batches(share, seed=5, start_step=2), plain, strict=False), 15):
            assert (len(batch), batch.step) == (len(images), images.step)
            assert batch.x.shape == (len(images), 0)
            assert torch.equal(batch.conditions.values["label"], images.conditions.values["label"])
            torch.testing.assert_close(batch.cached["latents"], cached.encoder.encode(images.x), rtol=1e-6, atol=1e-5)
    assert cached.rows(seed=5, step=3).tolist() == load_data(config).rows(seed=5, step=3).tolist()
    assert cached.state(3) == {}


def test_a_file_that_is_written_again_is_seen_where_it_is_not_read_first(halves, tmp_path, cache):  # noqa: F811
    folder = pictures(tmp_path / "set", 12)
    config = DataConfig(name=str(folder), in_memory=False, num_workers=0, batch_size=4, cache_latents=True)
    next(table(config, halves).batches(seed=0))
    next(table(config, halves).batches(seed=0))
    assert len(files(cache)) == 1
    file, before = folder / "a" / "00.png", (folder / "a" / "00.png").stat()
    file.write_bytes(file.read_bytes())  # the same image
    next(table(config, halves).batches(seed=0))
    assert len(files(cache)) == 1
    file.write_bytes((folder / "b" / "01.png").read_bytes())
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))  # nor does an old time hide another
    next(table(config, halves).batches(seed=0))
    assert len(files(cache)) == 2


@pytest.mark.parametrize("damage", ["cut", "empty", "zeros", "flipped"])
def test_a_damaged_file_is_made_again(halves, cache, damage):  # noqa: F811
    config = DataConfig(split="train[:40]", batch_size=4, cache_latents=True)
    before = next(table(config, halves).batches(seed=0))
    file = cache / next(iter(files(cache)))
    whole = file.read_bytes()
    file.write_bytes({"cut": whole[:-7], "empty": b"", "zeros": bytes(len(whole)), "flipped": whole[:-1] + b"~"}[damage])
    after = next(table(config, halves).batches(seed=0))
    assert torch.equal(before.cached["latents"], after.cached["latents"])
    assert file.read_bytes() == whole


# Several processes


def recipe_file(folder: Path, recipe: dict[str, Any]) -> str:
    (folder / "r.yaml").write_text(json.dumps(recipe))
    return str(folder / "r.yaml")


@pytest.mark.slow
def test_what_a_killed_process_has_half_written_is_not_used(latent, tmp_path, cache, zygote):  # noqa: F811
    words = ("train", recipe_file(tmp_path, latent), CACHED, "trainer.max_steps=3")
    environment = {"GENHUB_CACHE": str(cache.parent)}
    job = zygote.start("faults:genhub_dying_at_latents", 2, *words, cwd=tmp_path, env=environment)
    assert job.wait() == -9
    (left,) = files(cache).items()
    assert len(list(cache.rglob("*.tmp"))) == 1
    again = zygote.start("genhub.cli:main", *words, cwd=tmp_path, env=environment)
    assert again.wait() == 0, again.err
    assert left in files(cache).items()  # what was whole is used
    assert len(files(cache)) == 2
    plain = genhub.train(latent, ["trainer.max_steps=3"], run_dir=str(tmp_path / "plain"))
    same_bits(plain, next((Path(latent["run_dir"]) / "checkpoints").glob("step-*")))


@pytest.mark.slow
def test_a_file_that_another_process_is_at_is_waited_for_last(latent, tmp_path, cache, zygote):  # noqa: F811
    words = ("train", recipe_file(tmp_path, latent), CACHED, "trainer.max_steps=1")
    found = training_data(
        genhub.run.prepare.prepare(genhub.read_recipe(latent, [CACHED])).model, load_data(DataConfig(cache_latents=True))
    )
    folder = found.table.files[0].parent
    shutil.rmtree(folder)
    folder.mkdir()
    with FileLock(folder / "00000.lock"):
        job = zygote.start("genhub.cli:main", *words, cwd=tmp_path, env={"GENHUB_CACHE": str(cache.parent)})
        while not (folder / "00001.safetensors").is_file():
            assert job.poll() is None, job.err
            time.sleep(0.05)
        assert not (folder / "00000.safetensors").exists()
        assert job.poll() is None
    assert job.wait() == 0, job.err
    assert (folder / "00000.safetensors").is_file()


@pytest.mark.slow
def test_two_processes_train_what_they_train_without(latent, tmp_path, cache, zygote):  # noqa: F811
    latent["data"]["batch_size"] = 32
    latent["trainer"]["save_every"] = 6
    cases = {"plain": latent, "cached": {**latent, "data": latent["data"] | {"cache_latents": True}}}
    world = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "GENHUB_CACHE": str(cache.parent)}
    jobs = [
        zygote.start("shares:train_all", cases, {"rank": rank, "world_size": 2}, False, cwd=tmp_path,
                     env=world | {"RANK": str(rank), "LOCAL_RANK": str(rank)})
        for rank in range(2)
    ]  # fmt: skip
    assert [job.wait() for job in jobs] == [0, 0], jobs[0].err + jobs[1].err
    assert len(files(cache)) == 2
    same_bits(*(tmp_path / name / "checkpoints" / "step-000006" for name in cases))


# What can't be


def test_what_can_not_be_cached_is_said_before_anything_is_computed(tiny, latent, cache):  # noqa: F811
    message = "data.cache_latents: this 'ddpm' learns from its target itself, and not from what a frozen network makes of"
    with pytest.raises(genhub.RecipeError, match=message):
        genhub.train({**tiny, "model": {"name": "ddpm"}}, [CACHED])
    with pytest.raises(genhub.RecipeError, match=message):
        prepare(genhub.read_recipe({**tiny, "model": {"name": "ddpm"}}, [CACHED]))
    message = "data.cache_latents: a stream's rows have no numbers to keep latents by; leave one of the two out"
    with pytest.raises(genhub.RecipeError, match=message):
        genhub.read_recipe(latent, [CACHED, "data.streaming=true", "data.name=x.parquet"])
    prepare(genhub.read_recipe(latent, [CACHED]))  # genhub train --dry-run
    assert not cache.exists()


def test_a_cache_that_can_not_be_written(latent, tmp_path, cache, capsys):  # noqa: F811
    cache.parent.write_text("a file in its way")
    genhub.train(latent, [CACHED])
    assert "can't be written: " in capsys.readouterr().err
    assert cache.parent.is_file()


def test_the_contract_is_checked(vae):  # noqa: F811
    report = check_model(DDPM, build(vae).config, only=("latents",))
    assert [result.outcome for result in report.results] == ["passed"]
