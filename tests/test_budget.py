"""What a config may ask for is counted before memory is taken; shapes, classes and names have bounds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from models import images
from pydantic import ValidationError
from test_hub import sealed
from torch import nn

import genhub
from genhub import GenerativeModel, Image, Label, ModelConfig, ModelData, Phase
from genhub.hub.load import load_model
from genhub.interfaces.columns import DataSpec, described
from genhub.sampling.draw import check_room
from genhub.sampling.request import Drawing


class Asks(GenerativeModel):
    """Takes as many numbers as its config says, in one of the ways that there are."""

    class Config(ModelConfig):
        how: str = "linspace"
        numbers: int = 1000
        reads: bool = False

    def __init__(self, config: Asks.Config) -> None:
        super().__init__(config)
        self.network, n = nn.Linear(4, 4), config.numbers
        if config.reads:  # can't be done without memory, so that it is built in earnest
            self.network.weight.sum().item()
        match config.how:
            case "parameter":
                self.extra = nn.Linear(n, 1, bias=False)
            case "buffer":
                self.network.register_buffer("table", torch.zeros(n))
            case "table":
                self.network.register_buffer("table", torch.arange(n), persistent=False)
            case "linspace":
                self.levels = torch.linspace(0, 1, n)
            case "on the cpu":
                self.levels = torch.empty(n, device="cpu")
            case "like":
                self.levels = torch.zeros(1).expand(n).clone()
            case "many":
                for index in range(n):
                    self.network.register_buffer(f"b{index}", torch.zeros(()))

    def phases(self) -> list[Phase]:
        return [Phase("fit", lambda batch: {"loss": self.network.weight.sum()}, trains=("network",))]

    def sample(self, n: int, *, conditions: Any = None, generator: Any = None) -> torch.Tensor:
        return torch.zeros(n, *self.shape)


def edited(folder: Path, **config: object) -> Path:
    """A model folder whose genhub.json says another config."""
    content = json.loads((folder / "genhub.json").read_text())
    content["config"] |= config
    (folder / "genhub.json").write_bytes(sealed(content))
    return folder


@pytest.mark.parametrize("reads", [False, True])
@pytest.mark.parametrize("how", ["parameter", "buffer", "table", "linspace", "on the cpu", "like", "many"])
def test_more_than_the_weights_have_is_refused_before_memory_is_taken(tmp_path: Path, how: str, reads: bool) -> None:
    Asks(Asks.Config(data=images(), how=how, numbers=2)).save_pretrained(tmp_path)
    load_model(edited(tmp_path, reads=reads), model_class=Asks)
    if how == "like" and reads:
        return  # a copy on the CPU is counted once it is there
    with pytest.raises(
        genhub.CheckpointError, match=r"its config asks for [\d,]+ (parameters and buffers|bytes|tensors) or more"
    ):
        load_model(edited(tmp_path, numbers=6000 if how == "many" else 2**40), model_class=Asks)


def test_the_models_that_come_with_genhub_are_within_it(tmp_path: Path) -> None:
    from genhub.interfaces.registry import MODELS, load_all

    for name, cls in load_all(MODELS)[0].items():
        shape = {"data": images(classes=3), "conditions": ["label"]}
        torch.manual_seed(1)
        model = cls(cls.Config(name=name, **shape))
        model.save_pretrained(tmp_path / name)
        loaded = genhub.load(tmp_path / name).state_dict()
        assert all(torch.equal(tensor, loaded[key]) for key, tensor in model.state_dict().items())


def test_a_covariance_of_gigabytes(tmp_path: Path) -> None:
    """An autoencoder's buffer grows with the square of latent_dim: 120 KB of weights took 3.6 GB."""
    from test_autoencoder import make

    make().save_pretrained(tmp_path)
    with (tmp_path / "big.safetensors").open("wb") as stream:  # as many bytes as its parameters need
        stream.truncate(2**26)
    with pytest.raises(genhub.CheckpointError, match="its config asks for "):
        genhub.load(edited(tmp_path, latent_dim=30_000))


@pytest.mark.parametrize(
    ("modality", "text"),
    [({"modality": "image", "shape": (3, 65_536, 65_536)},
      "columns.it.shape: an element of 3x65536x65536 is more than genhub draws, 268,435,456 numbers"),
     ({"modality": "label", "number": 2**62}, "columns.it.number: must be less than or equal to 1000000, not 4611686018427387904"),
     ({"modality": "label", "number": 1, "names": ("a" * 200_000,)}, "columns.it.names.0: must have at most 255 characters, not 'aaa"),
     ({"modality": "label", "number": 1, "names": ("a",) * 1_000_001}, "columns.it.names: must have at most 1000000 items")],
    ids=["shape", "classes", "name", "names"],
)  # fmt: skip
def test_a_data_set_has_bounds(modality: dict[str, Any], text: str) -> None:
    values = {"name": "x", "split": "train", "target": "image", "columns": {"image": Image(shape=(1, 8, 8))}, "num_rows": 1,
              "fingerprints": {"image": "x"}}  # fmt: skip
    assert described(**values) == DataSpec(**values)
    columns = {"columns": {**values["columns"], "it": modality}, "fingerprints": {"image": "x", "it": "x"}}
    with pytest.raises(genhub.DataError) as caught:
        described(**values | columns)
    assert text in str(caught.value)
    assert len(str(caught.value)) < 300
    with pytest.raises(ValidationError):
        ModelData.model_validate({"target": modality})


def test_images_that_memory_has_no_room_for() -> None:
    model = Asks(Asks.Config(data=images((1, 16_384, 16_384))))
    with pytest.raises(
        genhub.InputError, match=r"^1,000,000 rows of 1x16384x16384 take 250,002.0 GiB of memory, and this machine"
    ):
        genhub.sample(model, 10**6)
    check_room(Asks(Asks.Config(data=images())), 64)


@pytest.mark.parametrize("label", [-1, 3, 2**62, 10**30])
def test_a_class_that_the_model_does_not_have(label: int) -> None:
    from models import Labelled

    data = ModelData(target=Image(shape=(1, 8, 8)), conditions={"label": Label(number=3)})
    model = Labelled(Labelled.Config(data=data, conditions=("label",)))
    assert Drawing.of(model, 4, {}, conditions={"label": [2]}).conditions_of(model).values["label"].tolist() == [2, 2, 2, 2]
    with pytest.raises(genhub.InputError, match=rf"^--condition label: '{label}' is none of its classes; it has 0 to 2"):
        Drawing.of(model, 4, {}, conditions={"label": [label]})
