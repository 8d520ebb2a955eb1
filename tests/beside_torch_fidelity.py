"""A process that has torch-fidelity measure what genhub measures, by the same Inception network with random weights.

    python beside_torch_fidelity.py FOLDER

The folder gets a run, its drawn rows as PNGs and as an .npz, and the weights. Prints genhub's figures and torch-fidelity's of
both. `$GENHUB_TORCH_FIDELITY` may name a folder that torch-fidelity was installed into without what it needs: of torchvision,
whose builds go with one build of torch alone, it then gets the two functions that it calls here.
"""

from __future__ import annotations

import json
import os
import sys
from functools import reduce
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file

import genhub

REAL, DRAWN = 24, 20


def import_fidelity() -> ModuleType:
    if place := os.environ.get("GENHUB_TORCH_FIDELITY"):
        sys.path.insert(0, place)
    parts: dict[str, ModuleType] = {}
    try:
        import torchvision  # noqa: F401
    except (ImportError, RuntimeError):
        for name in [name for name in sys.modules if name.startswith("torchvision")]:
            del sys.modules[name]
        parts = {name: ModuleType(name) for name in ("torchvision", "torchvision.datasets", "torchvision.transforms",
                                                     "torchvision.transforms.functional")}  # fmt: skip
        sys.modules |= parts
        for name in ("CIFAR10", "CIFAR100", "STL10"):
            setattr(parts["torchvision.datasets"], name, object)
        functional = parts["torchvision.transforms.functional"]
        functional.pil_to_tensor = lambda image: torch.from_numpy(np.array(image)).permute(2, 0, 1)
        transforms = parts["torchvision"].transforms = parts["torchvision.transforms"]
        transforms.functional = functional
        transforms.Compose = lambda steps: lambda image: reduce(lambda value, step: step(value), steps, image)
    import torch_fidelity

    for name in parts:  # others look whether it is there
        del sys.modules[name]
    return torch_fidelity


def weights(fidelity: ModuleType, folder: Path) -> None:
    """Write random weights, whose features differ from image to image, as genhub reads them and as torch-fidelity does."""
    from torch_fidelity import feature_extractor_inceptionv3 as module

    read, download = module.FeatureExtractorInceptionV3.load_state_dict, module.load_state_dict_from_url
    module.FeatureExtractorInceptionV3.load_state_dict = lambda self, weights: None
    module.load_state_dict_from_url = lambda *_, **__: {}
    torch.manual_seed(0)
    network = module.FeatureExtractorInceptionV3("inception-v3-compat", ["2048"])
    module.FeatureExtractorInceptionV3.load_state_dict, module.load_state_dict_from_url = read, download
    for layer in network.modules():
        if isinstance(layer, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(layer.weight)
    state = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
    save_file(state, folder / "inception.safetensors")
    torch.save(state, folder / "inception.pth")


def main(folder: Path) -> None:
    fidelity = import_fidelity()
    weights(fidelity, folder)
    digits = genhub.load_data(split=f"train[:{REAL}]")
    (folder / "real").mkdir()
    for number, image in enumerate(digits.own(range(REAL))):
        Image.fromarray(image[0].numpy()).save(folder / "real" / f"{number:03}.png")
    gan = {"name": "gan", "generator": {"channels": [8, 8]}, "discriminator": {"channels": [8, 8]}}
    trainer = {"max_steps": 20, "sample_every": None, "trackers": []}
    genhub.train({"model": gan, "data": {"name": str(folder / "real")}, "trainer": trainer, "run_dir": str(folder / "run")})
    ours = genhub.evaluate(folder / "run", DRAWN, metrics=["frechet_distance", "kernel_distance"],
                           extractor=f"inception:{folder / 'inception.safetensors'}")  # fmt: skip
    for out in ("drawn", "drawn.npz"):
        genhub.sample(folder / "run", DRAWN, seed=0, out=folder / out)
    in_colour = torch.from_numpy(np.load(folder / "drawn.npz")["arr_0"]).permute(0, 3, 1, 2)
    theirs = [
        fidelity.calculate_metrics(
            input1=drawn, input2=str(folder / "real"), fid=True, kid=True, kid_subset_size=DRAWN, kid_subsets=100, cuda=False,
            cache=False, verbose=False, feature_extractor="inception-v3-compat", batch_size=20, save_cpu_ram=True,
            feature_extractor_weights_path=str(folder / "inception.pth"),
        )
        for drawn in (str(folder / "drawn"), _Images(in_colour))
    ]  # fmt: skip
    print(json.dumps({"ours": dict(ours.values), "theirs": theirs}))


class _Images(torch.utils.data.Dataset):
    def __init__(self, images: torch.Tensor) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> torch.Tensor:
        return self.images[index]


if __name__ == "__main__":
    main(Path(sys.argv[1]))
