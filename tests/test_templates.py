"""The templates' schedule, trainer, network, modality and view: a third party's, installed as their own distributions would be."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from test_registry import install, site

import genhub
from genhub import RecipeError
from genhub.cli.scaffold import TEMPLATE_KINDS, TEMPLATES
from genhub.data.open import load_data
from genhub.interfaces import registry
from genhub.run.run import FolderRun

__all__ = ["site"]

KINDS = {kind: group for kind, group in registry.KINDS.items() if kind in TEMPLATE_KINDS and kind != "model"}
SIGMOID = {"name": "my-scheduler", "num_train_timesteps": 100, "options": {"tau": 0.8}}


@pytest.fixture
def third_parties(site: Path) -> Path:
    for kind, group in KINDS.items():
        source = (TEMPLATES / kind / f"my_{kind}.py").read_text()
        points = f"[{group}]\nmy-{kind} = my_{kind}:My{kind.title()}\n"
        install(site, f"my-{kind}", points, "0.1.0", **{f"my_{kind}": source})
    return site


@pytest.fixture
def trained(third_parties: Path, tiny: dict) -> Path:
    """A DDPM that was trained on the third party's noise for some steps."""
    tiny["model"] |= {"scheduler": SIGMOID, "sampling": {"scheduler": "my-scheduler", "num_inference_steps": 4}}
    return genhub.train(tiny)


def test_a_schedule_of_a_third_party_is_saved_and_loaded(trained: Path, third_parties: Path) -> None:
    model = genhub.load(trained)
    assert type(model.scheduler).__module__ == "my_scheduler"
    assert model.scheduler.config["tau"] == 0.8
    expected = genhub.load_scheduler("my-scheduler")(100, tau=0.8).alphas_cumprod
    assert torch.equal(model.scheduler.alphas_cumprod, expected)
    assert not torch.allclose(expected, genhub.load_scheduler("my-scheduler")(100).alphas_cumprod)
    assert json.loads((trained / "genhub.json").read_text())["config"]["scheduler"]["options"] == {"tau": 0.8}
    drawn = genhub.sample(model, 2)
    assert torch.equal(drawn, genhub.sample(trained, 2))
    assert not torch.equal(drawn, genhub.sample(trained, 2, scheduler="ddim", eta=0.0))
    # Every other sampler follows the same noise levels, up to where they are bent.
    ddim = model.sampler("ddim").alphas_cumprod
    assert torch.allclose(ddim[:90], expected[:90], atol=1e-3)
    for name in ("dpmsolver", "euler", "unipc"):
        assert genhub.sample(model, 2, scheduler=name).shape == (2, 1, 8, 8)


def test_plain_diffusers_opens_it_without_the_plugin(trained: Path, third_parties: Path) -> None:
    from diffusers import DDPMPipeline, DDPMScheduler

    index = json.loads((trained / "model_index.json").read_text())
    assert index["scheduler"] == ["diffusers", "DDPMScheduler"]
    pipeline = DDPMPipeline.from_pretrained(trained)
    assert isinstance(pipeline.scheduler, DDPMScheduler)
    assert torch.allclose(pipeline.scheduler.alphas_cumprod, genhub.load(trained).scheduler.alphas_cumprod, atol=1e-6)
    assert pipeline.scheduler.config.prediction_type == "v_prediction"
    assert pipeline(batch_size=1, num_inference_steps=2, output_type="np").images.shape == (1, 8, 8, 1)


def test_without_its_plugin_a_checkpoint_says_what_it_needs(trained: Path, third_parties: Path) -> None:
    from genhub.interfaces.registry import all_plugins

    for file in (third_parties / "my_scheduler-0.1.0.dist-info").iterdir():
        file.unlink()
    all_plugins.cache_clear()
    with pytest.raises(genhub.CheckpointError, match="needs scheduler 'my-scheduler' from my-scheduler 0.1.0"):
        genhub.load(trained)


def test_any_ddpm_draws_with_it(third_parties: Path, tiny: dict) -> None:
    tiny["model"]["scheduler"] = {"num_train_timesteps": 100, "prediction_type": "epsilon"}
    model = genhub.load(genhub.train(tiny))
    ours, ddim = model.sampler("my-scheduler"), model.sampler("ddim")
    assert torch.allclose(ours.alphas_cumprod, ddim.alphas_cumprod, atol=1e-5)  # the model's noise levels, not its own
    for prediction_type in ("epsilon", "v_prediction"):  # and the same steps as diffusers' own DDIM
        ours.config["prediction_type"] = prediction_type
        ddim.register_to_config(prediction_type=prediction_type)
        ours.set_timesteps(4)
        ddim.set_timesteps(4)
        assert ours.timesteps.tolist() == ddim.timesteps.tolist()
        x, output = torch.randn(2, 1, 8, 8), torch.randn(2, 1, 8, 8)
        for timestep in ours.timesteps[1:]:
            mine = ours.step(output, timestep, x).prev_sample
            assert torch.allclose(mine, ddim.step(output, timestep, x, use_clipped_model_output=True).prev_sample, atol=1e-4)
    drawn = genhub.sample(model, 2, scheduler="my-scheduler", num_inference_steps=5)
    assert torch.equal(drawn, genhub.sample(model, 2, scheduler="my-scheduler", num_inference_steps=5))


@pytest.mark.parametrize(
    ("scheduler", "message"),
    [
        (SIGMOID | {"options": {"tua": 1}}, "model.scheduler.options.tua: scheduler 'my-scheduler' has no such argument"),
        ({"name": "ddpm", "options": {"beta_start": 1}}, "has no such argument; known"),
        ({"name": "my-schedule"}, "no scheduler is called 'my-schedule'; did you mean 'my-scheduler'?"),
    ],
)
def test_mistakes_in_a_schedule_are_told_by_the_check(
    third_parties: Path, tiny: dict, scheduler: dict, message: str
) -> None:
    tiny["model"]["scheduler"] = scheduler
    with pytest.raises(RecipeError) as caught:
        genhub.read_recipe(tiny)
    assert message in str(caught.value)


def test_a_schedule_that_refuses_its_values_or_is_none(third_parties: Path, tiny: dict) -> None:
    tiny["model"]["scheduler"] = SIGMOID | {"options": {"tau": -1}}
    with pytest.raises(
        RecipeError, match="model.scheduler.options: 'my-scheduler': start must be below end, and tau above 0"
    ):
        genhub.train(tiny, run_dir=tiny["run_dir"] + "-1")
    source = "class Flow:\n" + "".join(f"  def {name}(self): ...\n" for name in
                                       ("add_noise", "set_timesteps", "scale_model_input", "step"))  # fmt: skip
    install(third_parties, "flow", "[genhub.schedulers]\nflow = flow_schedule:Flow\n", flow_schedule=source)
    tiny["model"]["scheduler"] = {"name": "flow"}
    with pytest.raises(RecipeError, match="'flow' has no alphas_cumprod of 1000 levels, which a DDPM needs"):
        genhub.train(tiny, run_dir=tiny["run_dir"] + "-2")


# The trainer


def game(folder: Path, **trainer: object) -> dict:
    return {
        "model": {"name": "models:Pair"},
        "data": {"batch_size": 32},
        "trainer": {
            "name": "my-trainer",
            "max_steps": 6,
            "save_every": 2,
            "sample_every": 3,
            "log_every": 2,
            "num_samples": 4,
        }
        | trainer,
        "run_dir": str(folder),
    }


def test_a_trainer_of_a_third_party_keeps_a_runs_folder(third_parties: Path, tmp_path: Path) -> None:
    from models import Pair

    whole = genhub.train(game(tmp_path / "whole"))
    assert whole == tmp_path / "whole" / "checkpoints" / "step-000006"
    assert [file.name for file in sorted((tmp_path / "whole" / "samples").iterdir())] == [
        "step-000003.png",
        "step-000006.png",
    ]
    lines = [json.loads(line) for line in (tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 4, 6]
    assert {"generator/loss", "critic/loss", "penalty/loss", "lr"} <= lines[0].keys()
    assert json.loads((whole / "genhub.json").read_text())["step"] == 6
    model = Pair.from_pretrained(whole)
    assert genhub.sample(model, 3).shape == (3, 1, 8, 8)

    # Stopped and gone on is the same, bit for bit; a finished run is left alone.
    genhub.train(game(tmp_path / "parts", max_steps=2))
    parts = genhub.train(game(tmp_path / "parts"))
    for name, value in model.state_dict().items():
        assert torch.equal(value, Pair.from_pretrained(parts).state_dict()[name]), name
    before = (parts / "genhub.json").stat().st_mtime_ns
    assert genhub.train(game(tmp_path / "parts")) == parts
    assert (parts / "genhub.json").stat().st_mtime_ns == before
    recipe = genhub.read_recipe(game(tmp_path / "parts"), ["data.split=train[:1000]"])
    run = FolderRun(tmp_path / "parts", recipe.trainer, seed=0)
    with pytest.raises(RecipeError, match="the values or the order of image have changed"):
        run.stopped_run(load_data(recipe.data))


def test_extragradient_settles_where_gradient_steps_circle(third_parties: Path, tmp_path: Path) -> None:
    """min_x max_y xy: the game that alternating steps never finish. With plain steps for Adam's, x, y shrink."""
    from models import Pair, images
    from my_trainer import gradients

    from genhub import Batch, Phase

    class Bilinear(Pair):
        def __init__(self, config) -> None:
            super().__init__(config)
            self.x, self.y = (torch.nn.ParameterList([torch.ones(())]) for _ in range(2))

        def phases(self):
            return [
                Phase("x", lambda batch: {"loss": self.x[0] * self.y[0]}, trains=("x",)),
                Phase("y", lambda batch: {"loss": -self.x[0] * self.y[0]}, trains=("y",)),
            ]

    model = Bilinear(Pair.Config(data=images()))
    sgd = torch.optim.SGD([*model.x, *model.y], lr=0.3)
    for _ in range(100):
        here = [p.detach().clone() for p in (*model.x, *model.y)]
        gradients(model, model.phases(), Batch(torch.zeros(1, 1, 8, 8)))
        sgd.step()
        gradients(model, model.phases(), Batch(torch.zeros(1, 1, 8, 8)))
        with torch.no_grad():
            for parameter, value in zip((*model.x, *model.y), here, strict=True):
                parameter.copy_(value)
        sgd.step()
    assert abs(model.x[0].item()) < 0.05
    assert abs(model.y[0].item()) < 0.05


def test_a_trainers_keys_are_its_own(third_parties: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from genhub.run.dry_run import estimate
    from genhub.run.prepare import prepare

    with pytest.raises(RecipeError, match="trainer.mixed_precision: unknown key; known: .*ema_decay"):
        genhub.read_recipe(game(tmp_path / "run", mixed_precision="bf16"))
    with pytest.raises(RecipeError, match="trainer.lr: must be greater than 0"):
        genhub.read_recipe(game(tmp_path / "run", lr=0))
    facts = estimate(prepare(genhub.read_recipe(game(tmp_path / "run"))))
    assert facts["memory"].keys() == {"weights and gradients", "activations"}


def test_a_loss_that_is_no_number_stops_it(third_parties: Path, tmp_path: Path) -> None:
    recipe = game(tmp_path / "run", save_every=1, sample_every=None) | {"model": {"name": "models:Explodes"}}
    with pytest.raises(genhub.TrainingError, match="phase 'generator': loss is nan; a lower learning rate may help"):
        genhub.train(recipe)
    assert (tmp_path / "run" / "checkpoints" / "step-000002" / "genhub.json").exists()


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_the_test_that_comes_with_it_passes(third_parties: Path, kind: str) -> None:
    scope: dict = {}
    exec((TEMPLATES / kind / f"test_my_{kind}.py").read_text(), scope)
    scope[f"test_my_{kind}"]()


# The network


def test_a_network_of_a_third_party_serves_any_family_and_shape(third_parties: Path, tiny: dict) -> None:
    from my_network import MyNetwork

    tiny["model"] |= {"network": {"name": "my-network", "hidden": 16}, "conditions": ["label", "ink"]}
    folder = genhub.train(tiny)
    model = genhub.load(folder)
    assert type(model.network) is MyNetwork
    parts = json.loads((folder / "genhub.json").read_text())["parts"]
    assert {"kind": "network", "name": "my-network", "distribution": "my-network", "version": "0.1.0"} in parts
    drawn = genhub.sample(model, 4, conditions={"label": ["3", "7"], "ink": 0.3})
    assert drawn.shape == (4, 1, 8, 8)
    assert torch.equal(drawn, genhub.sample(folder, 4, conditions={"label": ["3", "7"], "ink": 0.3}))
    tiny["data"] |= {"name": "moons"}
    tiny["model"]["conditions"] = ["label"]
    assert genhub.sample(genhub.train(tiny, run_dir=tiny["run_dir"] + "-moons"), 3).shape == (3, 2)


def test_a_network_says_what_it_cant_have(third_parties: Path, tiny: dict, tmp_path: Path) -> None:
    from my_network import MyNetwork

    with pytest.raises(ValueError, match="sees all numbers of x at once, and 786,432 are too many"):
        MyNetwork.Config().check((3, 512, 512))
    tiny["model"] |= {"network": {"name": "my-network"}, "conditions": ["small"]}
    data = {"image": torch.zeros(20, 1, 8, 8, dtype=torch.uint8), "small": torch.zeros(20, 1, 4, 4, dtype=torch.uint8)}
    np.savez(tmp_path / "pairs.npz", **{name: values.squeeze(1).numpy() for name, values in data.items()})
    tiny["data"] |= {"name": str(tmp_path / "pairs.npz"), "target": "image"}
    with pytest.raises(RecipeError, match=r"small \(image\) gives a spatial part, which this network does not take"):
        genhub.train(tiny)


# The modality


def test_a_modality_of_a_third_party_is_given_and_drawn(third_parties: Path, tiny: dict, tmp_path: Path) -> None:
    tiny["model"]["conditions"] = ["ink"]
    tiny["data"] |= {"target": "image", "columns": {"ink": "my-modality"}}
    folder = genhub.train(tiny)
    model = genhub.load(folder)
    ink = model.conditions["ink"]
    values = load_data("digits").column("ink").kept(range(1797)).double()
    assert ink.mean == pytest.approx(values.log().mean().item(), abs=1e-5)
    assert ink.std == pytest.approx(values.log().std(correction=0).item(), abs=1e-5)
    drawn = genhub.sample(model, 2, conditions={"ink": [[0.2], [0.4]]})
    assert not torch.equal(drawn, genhub.sample(model, 2, conditions={"ink": "0.4,0.2"}))
    with pytest.raises(genhub.InputError, match=r"ink.*must be a number above 0, most are 0.272 to 0.339"):
        genhub.sample(model, 2, conditions={"ink": -1})

    data = {"name": "wine", "target": "proline", "columns": {"proline": "my-modality"}}
    wine = tiny | {"model": {"name": "vae"}, "data": data}
    drawn = genhub.sample(genhub.train(wine, run_dir=str(tmp_path / "wine")), 64)
    assert drawn.shape == (64, 1)
    assert drawn.min() > 0


def test_without_its_plugin_a_modality_is_missed(third_parties: Path, tiny: dict) -> None:
    tiny["model"]["conditions"] = ["ink"]
    tiny["data"] |= {"target": "image", "columns": {"ink": "my-modality"}}
    folder = genhub.train(tiny)
    for file in (third_parties / "my_modality-0.1.0.dist-info").iterdir():
        file.unlink()
    registry.all_plugins.cache_clear()
    with pytest.raises(genhub.CheckpointError, match="needs modality 'my-modality' from my-modality 0.1.0"):
        genhub.load(folder)


def test_a_modality_reads_what_it_draws(third_parties: Path) -> None:
    from my_modality import LARGEST, LEAST, MyModality

    modality = MyModality(mean=6.5, std=0.4)
    x = torch.tensor([[-1e9], [0.0], [3.0], [1e9]])
    values = modality.from_batch(x)
    assert values.flatten()[[0, 3]].tolist() == [LEAST, LARGEST]
    assert torch.allclose(modality.to_batch(values)[1:3], x[1:3], atol=1e-5)
    for given in (values, values.tolist(), modality.to_rows(values), [str(value) for value in values.flatten().tolist()]):
        assert [modality.read(value)[0] for value in given] == values.flatten().tolist()
    for value in (0, -1, float("nan"), float("inf"), "two", [1, 2]):
        with pytest.raises(ValueError, match="must be a number above 0"):
            modality.ask(value)
    with pytest.raises(genhub.NotFinite):
        modality.from_batch(torch.tensor([[torch.nan]]))
    assert modality.picture(values).size[0] > 100


# The view


def test_a_view_of_a_third_party_shows_any_model(third_parties: Path) -> None:
    from models import Pair, images

    model = Pair(Pair.Config(data=images())).eval()
    narrow, wide = (genhub.show("my-view", model, ["data.name=digits"], n=8, shown=shown) for shown in (2, 8))
    assert narrow.width < wide.width
    with pytest.raises(genhub.InputError, match="--set shown: must be less than or equal to 50, not 51"):
        genhub.show("my-view", model, ["data.name=digits"], shown=51)
