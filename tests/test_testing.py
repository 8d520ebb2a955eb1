"""The conformance kit finds what it should, says so in plain words, and nothing else."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import broken_models
import pytest
from diffusers import DDIMScheduler
from models import images
from typer.testing import CliRunner

import genhub
from genhub import cli
from genhub.interfaces.registry import MODELS, load_class
from genhub.testing.abilities import capabilities
from genhub.testing.report import Broken
from genhub.testing.subject import ModelSubject
from genhub.testing.suites import check_model, model_suite, scheduler_suite, trainer_suite
from genhub.training.loop import AccelerateTrainer

RUNS = ("checkpoint", "files", "resume", "processes")
"""The checks that start other processes."""

BROKEN = {
    "NoDefault": ("config", "model.hidden: is required"),
    "SuitsNobody": ("config", "what suited returns for a GPU is no recipe: recipe: model.hiden: unknown key; did you mean"),
    "Misnamed": ("phases", "NAME, phase 'fit': no network is called 'lables'; did you mean 'labels'?"),
    "NotScalar": ("losses", "NAME, phase 'fit': 'loss' must be a scalar tensor"),
    "NotFinite": ("losses", "phase 'fit': the very first loss is inf: look for what divides by zero"),
    "InPlace": ("losses", "phase 'fit' changes batch.x in place: work on a new tensor"),
    "Undecided": (
        "latents",
        "frozen_encoder makes another thing of an element that is alone in its batch: use nothing random",
    ),
    "Unreached": ("gradients", "no gradient reaches labels.unused.bias, labels.unused.weight: use them in the loss"),
    "Stray": ("gradients", "phase 'fit' depends on gain, which no phase trains: put them into a network"),
    "Uphill": ("training", "in 30 steps on one batch: look for a wrong sign"),
    "NoBF16": ("bf16", "phase 'fit' in bf16: the loss is inf: do what needs digits in float32"),
    "NotCompiled": ("compile", "does not currently support double backward"),
    "NoAnnotation": ("options", "sample's option 'scale' has no annotation or no default: write scale: float"),
    "OutOfRange": ("sample", "sample gives values from 1"),
    "GlobalNoise": ("randomness", "sample draws from the global random numbers of torch: draw with genhub.randn"),
    "OwnSeed": ("seeds", "other seeds give the same: draw with the given generator"),
    "OverTheBatch": ("batches", "from the same row drawn alone: draw a row's noise from its own generator"),
    "AnyRows": ("conditions", "given the conditions of 3 rows, sample(2) draws all the same: begin it with conditions ="),
    "SameForAllLabels": (
        "conditions",
        "different values of 'label' give the same from the same seeds: let the networks have",
    ),
    "ZeroForNone": ("conditions", "sample(2, conditions=None) and rows without any condition give different things"),
    "EnergyOfTheBatch": (
        "capabilities",
        "energy makes another thing of a row that is alone: use no statistics of the batch",
    ),
    "BoundToTheOriginal": ("ema", "the averaged copy draws something else than a fresh model with its weights: reach"),
}
BROKEN_RUNS = {
    "Gathers": ("checkpoint", "a saved model fails in another process: "),
    "Forgets": ("checkpoint", "the model that came back draws something else: keep all that sample needs in parameters"),
    "Pickles": ("files", "a checkpoint has a file model.pt: write tensors by genhub.save_tensors"),
    "CountsInAnAttribute": ("resume", "stopped after step 2 and resumed, model.safetensors: "),
    "PullsWeights": ("processes", "trained on two processes, net.last.bias differs between them: change weights through"),
}


def found(name: str, **options) -> None:
    """A broken model fails in its check alone; what needs that check is skipped, and all else passes."""
    cls = getattr(broken_models, name)
    check, message = (BROKEN | BROKEN_RUNS)[name]
    with model_suite(cls, None, **options) as suite:
        report = suite.report()
    assert [result.name for result in report.failures] == [check], report.failures
    failure = report.failures[0]
    assert message.replace("NAME", name) in failure.message
    assert failure.where.startswith(f"{broken_models.__file__}:")
    assert all(result.message.startswith("means nothing before") for result in report.results if result.outcome == "skipped")


@pytest.mark.slow
@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_model_fails_in_its_check_alone(name: str) -> None:
    found(name, skip=RUNS)


@pytest.mark.slow
@pytest.mark.parametrize("name", BROKEN_RUNS)
def test_what_only_other_processes_show(name: str) -> None:
    found(name, skip=("compile",))


def test_every_check_has_a_model_that_fails_it() -> None:
    checks = model_suite(broken_models.Sound, None).checks
    assert {check for check, _ in (BROKEN | BROKEN_RUNS).values()} == set(checks)
    assert all(check.contract for check in checks.values())


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("OneEnergy", "energy gives ()"),
        ("EndlessBits", "bits_per_dimension gives values that are not finite: look for what overflows"),
        ("CodesFromOne", "encode_codes gives torch.int64 from 1 to 2: return int64 in [0, num_codes): below 2"),
        (
            "StopsBeforeTheEnd",
            "the last step of denoise is not what sample draws from the same seeds: draw by denoise itself",
        ),
        ("OtherOptions", "one of sample and denoise has scale, the other has not: give both the same options"),
        ("MoreNoiseMoreSignal", "signal_to_noise of all 10 timesteps does not fall from one to the next"),
        ("Denoises", None),
        ("NoEnergyHere", None),
    ],
)
def test_what_a_model_can_do_beside_drawing(name: str, message: str | None) -> None:
    with ModelSubject(getattr(broken_models, name), None) as subject:
        if message is None:
            capabilities(subject)
            return
        with pytest.raises(Broken) as caught:
            capabilities(subject)
    assert str(caught.value).startswith(message)
    assert caught.value.where.startswith(f"{broken_models.__file__}:")


def test_check_model_lists_failures_with_place_and_contract() -> None:
    with pytest.raises(AssertionError) as caught:
        check_model(broken_models.OutOfRange, skip=RUNS)
    first, second, third = str(caught.value).splitlines()
    assert first.startswith("OutOfRange: 16 checks, 1 failed, 6 skipped, in ")
    assert second.startswith("sample: sample gives values from ")
    assert f"({broken_models.__file__}:" in second
    assert third == "    The contract: `sample(n)` gives (n, *shape), finite floats within the modality's bounds; `generator` may " \
        "be one, a list of n, or None."  # fmt: skip


def test_only_and_skip_and_other_shapes() -> None:
    only = ("conditions", "batches")
    report = check_model(broken_models.Conditional, data=images((3, 6, 5), classes=4), only=only)
    assert [(result.name, result.outcome) for result in report.results] == [("batches", "passed"), ("conditions", "passed")]
    config = broken_models.Sound.Config(hidden=4)
    assert [
        result.name
        for result in check_model(broken_models.Sound, config, only=["sample", "phases"], skip=["phases"]).results
    ] == ["sample"]
    with pytest.raises(genhub.InputError, match="no check is called 'sampel'; did you mean 'sample'"):
        check_model(broken_models.Sound, only=("sampel",))


def test_the_public_names_and_no_trace_in_the_callers_random_numbers() -> None:
    import torch

    from genhub import testing

    kinds = ("metric", "modality", "model", "network", "scheduler", "trainer", "view")
    assert testing.__all__ == ["ContractError", "Report", "Result", *(f"check_{kind}" for kind in kinds)]
    state = torch.get_rng_state()
    check_model(broken_models.Sound, only=("seeds", "training"))
    assert torch.equal(torch.get_rng_state(), state)


def test_a_class_that_others_can_not_import() -> None:
    class Local(broken_models.Sound):
        pass

    with pytest.raises(AssertionError, match="Local can't be imported by other processes: define it at the top"):
        check_model(Local)


# Schedulers and trainers


class WrongSign(DDIMScheduler):
    def step(self, model_output, *args, **kwargs):
        return super().step(-model_output, *args, **kwargs)


class Restless(DDIMScheduler):
    def step(self, model_output, timestep, sample):
        import torch

        return super().step(model_output + 1e-3 * torch.randn(sample.shape), timestep, sample)


class Backwards(DDIMScheduler):
    def set_timesteps(self, *args, **kwargs):
        super().set_timesteps(*args, **kwargs)
        self.timesteps = self.timesteps.flip(0)


class Uneven(DDIMScheduler):
    """diffusers' own fault with `trailing`: a step ends T // n levels below, wherever the next one begins."""

    def set_timesteps(self, n, device=None):
        import torch

        super().set_timesteps(n, device)
        levels = len(self.alphas_cumprod)
        self.timesteps = (levels - torch.arange(n) * levels / n).round().long() - 1


class OneNoiseForAll(DDIMScheduler):
    def add_noise(self, images, noise, timesteps):
        return super().add_noise(images, noise[:1].expand_as(noise), timesteps)


class Forgetful(DDIMScheduler):
    def __init__(self, beta_end: float = 0.01):
        super().__init__(beta_end=beta_end)
        self.register_to_config(beta_end=0.5)


class NoStep:
    config: dict = {}  # noqa: RUF012

    def set_timesteps(self, n):
        pass


@pytest.mark.parametrize(
    ("cls", "check", "message"),
    [
        (NoStep, "interface", "it has no timesteps, init_noise_sigma, add_noise, scale_model_input, step: diffusers'"),
        (Backwards, "timesteps", "noise grows on the way: order timesteps from noise to image"),
        (OneNoiseForAll, "noise", "an image's noise depends on the other images"),
        (WrongSign, "step", "with a perfect network, 20 steps end this far from the image: "),
        (Uneven, "distribution", "in 60 steps of 100 levels, images of deviation 0.25 are drawn with 0.388 for epsilon"),
        (Forgetful, "saved", "built again from its config, it is another schedule: keep every argument"),
        (Restless, "randomness", "step draws from the global random numbers of torch: take generator=None"),
    ],
)
def test_broken_schedulers(cls, check: str, message: str) -> None:
    with scheduler_suite(cls, None) as suite:
        failures = suite.report().failures
    assert [failure.name for failure in failures] == [check], failures
    assert message in failures[0].message


class Lazy(AccelerateTrainer):
    """Saves what it was given."""

    def fit(self, model, data):
        before = {name: value.clone() for name, value in model.state_dict().items()}
        folder = super().fit(model, data)
        fresh = type(model)(model.config)
        fresh.load_state_dict(before)
        fresh.save_pretrained(folder)
        return folder


class StartsOver(AccelerateTrainer):
    def fit(self, model, data):
        import shutil

        shutil.rmtree(self.run.folder / "checkpoints", ignore_errors=True)
        done = self.config.max_steps
        self.config = self.config.model_copy(update={"max_steps": min(done, 2)})
        return super().fit(model, data)


class Unmeasured(AccelerateTrainer):
    def fit(self, model, data):
        self.run.evaluator = None
        return super().fit(model, data)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("cls", "check", "message"),
    [
        (
            Unmeasured,
            "evaluate",
            "with evaluate.every=2, 0 of 2 checkpoints are measured: call self.run.evaluate(step, model)",
        ),
        (Lazy, "fit", "the checkpoint has the weights that training began with: save the model that was trained"),
        (
            StartsOver,
            "resume",
            "going on to step 4, fit returns a checkpoint of step 2: train from self.run.stopped_run(data)",
        ),
    ],
)
def test_broken_trainers(cls, check: str, message: str) -> None:
    with trainer_suite(cls, None) as suite:
        failures = suite.report().failures
    assert [failure.name for failure in failures] == [check], failures
    assert message in failures[0].message


# From the shell, and from pytest


def test_plugins_check_reports_and_exits(tmp_path: Path) -> None:
    result = CliRunner().invoke(cli.app, ["plugins", "check", "unipc"])
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert lines[0].startswith("scheduler 'unipc' from genhub-framework ")
    assert lines[1] == "  ok    interface   It is built without arguments, and has what `genhub.Scheduler` names."
    assert lines[-1].startswith("7 checks, 0 failed, 0 skipped, in ")
    for words, message in [
        (["unipcc"], "no plugin is called 'unipcc'; did you mean 'unipc'?"),
        (["ddpm", "num_train_timesteps=50"], "'ddpm' is several plugins: say by --kind which of them the keys are for"),
        (["ddpm", "--kind", "modell"], "--kind modell: did you mean 'model'?"),
    ]:
        assert str(CliRunner().invoke(cli.app, ["plugins", "check", *words]).exception) == message
    words = ["plugins", "check", "ddpm", "--kind", "scheduler", "num_train_timesteps=50", "--json"]
    result = CliRunner().invoke(cli.app, words)
    assert result.exit_code == 0
    assert [report["plugin"].split(" from")[0] for report in json.loads(result.stdout)] == ["scheduler 'ddpm'"]


def test_a_model_for_vectors_alone_is_checked_with_points() -> None:
    model = load_class(MODELS, "ddpm")
    with ModelSubject(model, {"network": "mlp", "conditions": ["label"]}) as points, ModelSubject(model, {}) as digits:
        assert points.build().modality.shape == (2,)
        assert list(points.build().conditions) == ["label"]
        assert digits.build().modality.shape == (1, 8, 8)


def test_plugins_check_says_what_is_broken() -> None:
    result = CliRunner().invoke(cli.app, ["plugins", "check", "broken_models:Misnamed", "hidden=8", "--json"])
    assert result.exit_code == 1
    (report,) = json.loads(result.stdout)
    assert report["plugin"] == "model 'broken_models:Misnamed'"
    assert not report["passed"]
    outcomes = {check["name"]: check["outcome"] for check in report["checks"]}
    assert (outcomes["config"], outcomes["phases"], outcomes["resume"]) == ("passed", "failed", "skipped")
    result = CliRunner().invoke(cli.app, ["plugins", "check", "broken_models:Misnamed", "hiden=8"])
    assert "recipe: model.hiden: unknown key; did you mean 'hidden'?" in result.stdout


def pytest_in(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", "-v", "-p", "no:cacheprovider", *options]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


@pytest.mark.slow
def test_pytest_runs_the_checks_as_tests(tmp_path: Path) -> None:
    (tmp_path / "broken_models.py").write_bytes(Path(broken_models.__file__).read_bytes())
    done = pytest_in(tmp_path, "--genhub-model", "broken_models:OutOfRange", "-k", "sample or phases or seeds")
    assert done.returncode == 1, done.stdout + done.stderr
    for line in ("genhub-model[broken_models:OutOfRange]::phases PASSED", "::sample FAILED", "::seeds SKIPPED"):
        assert line in done.stdout
    assert "sample: sample gives values from 1" in done.stdout
    assert "1 failed, 1 passed, 1 skipped, 17 deselected" in done.stdout
    assert "Traceback" not in done.stdout
    done = pytest_in(tmp_path, "--genhub-model", "dpdm")
    assert done.returncode == 4
    assert "--genhub-model dpdm: no model is called 'dpdm'; did you mean 'ddpm'?" in done.stderr


def test_pytest_pays_nothing_without_the_option(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(
        "import sys\ndef test_it():\n"
        "    heavy = {'torch', 'pydantic', 'yaml', 'numpy'} & set(sys.modules)\n"
        "    assert not heavy\n    assert [m for m in sys.modules if m.startswith('genhub.')] == ['genhub.testing', 'genhub.testing.pytest_plugin']\n"
    )
    done = pytest_in(tmp_path, "-p", "no:hypothesispytest")
    assert done.returncode == 0, done.stdout
