"""Extract features by networks that others trained, or take the numbers themselves. Registered under `genhub.extractors`."""

from __future__ import annotations

import logging
import math
from functools import cached_property
from typing import Any, ClassVar
from unittest.mock import patch

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from genhub.errors import InputError
from genhub.ground.digests import digest_of, hash_of
from genhub.hub.client import connect
from genhub.interfaces.trainer import TrainingData
from genhub.modalities.image import as_rgb, in_bytes

OFFLINE = "`probe` and `pixels` need no download"
MISMATCH = "torch and torchvision must be of one build: install torchvision from where torch came from"


MOST = 4096
"""Most numbers of an element that are compared as they are."""


class Pixels:
    """Extractor of the pixels themselves, in [0, 1]: the same everywhere, and of use for small images that are centred."""

    fingerprint = source = "pixels"
    preprocessing = "none"

    def __init__(self, data: TrainingData, source: str | None, device: torch.device) -> None:
        self.top = levels_of("pixels", data) - 1
        size = math.prod(data.spec.modality.shape)
        if size > MOST:
            raise InputError(f"extractor 'pixels' is for images of at most {MOST} numbers, these have {size}; use probe")

    def features(self, values: Tensor) -> Tensor:
        return values.flatten(1).float() / self.top


class Values:
    """Extractor of the numbers themselves, standardised as the data's modality does it: for anything that is made of few."""

    source = "values"
    preprocessing = "standardised"

    def __init__(self, data: TrainingData, source: str | None, device: torch.device) -> None:
        self.modality = data.spec.modality
        self.fingerprint = hash_of(self.modality.model_dump_json())
        size = math.prod(self.modality.shape)
        if size > MOST:
            labels = "where the data has a column of labels, probe learns to read it"
            raise InputError(f"extractor 'values' is for at most {MOST} numbers, '{data.spec.target}' has {size}; {labels}")

    def features(self, values: Tensor) -> Tensor:
        return self.modality.to_batch(values).flatten(1).float()


def levels_of(name: str, data: TrainingData) -> int:
    """Return the number of levels of the images that an extractor is for.

    Raises:
        InputError: the data are no images, (c, h, w) of so many levels.
    """
    modality = data.spec.modality
    if len(modality.shape) != 3 or modality.levels is None:
        what = f"'{data.spec.target}' is {modality.told()}"
        raise InputError(f"extractor '{name}' is for images, and {what}; probe and values take it")
    return modality.levels


class Pretrained:
    """Extractor by a vision network of transformers, from the Hub or a folder; safetensors only."""

    network: ClassVar[str]
    """Name of the class in transformers."""
    default: ClassVar[str]
    output: ClassVar[str]
    mean: ClassVar[tuple[float, float, float]]
    std: ClassVar[tuple[float, float, float]]
    side = 224
    batch_size = 64

    def __init__(self, data: TrainingData, source: str | None, device: torch.device) -> None:
        self.source, self.device = source or self.default, device
        name = type(self).__name__.lower()
        self.levels = levels_of(name, data)
        import transformers

        transformers.logging.set_verbosity(logging.ERROR)
        try:
            network = getattr(transformers, self.network)  # imports what it needs only now
        except (ImportError, RuntimeError) as error:
            raise InputError(
                f"extractor '{name}': transformers can't import it ({_cause(error)}); {MISMATCH}; {OFFLINE}"
            ) from error
        try:
            with connect(self.source, None, "fetching it"):  # whose client says nothing by itself
                loaded = network.from_pretrained(self.source, use_safetensors=True)
        except Exception as error:  # a folder may hold anything, and its readers raise as much
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise InputError(
                f"extractor '{name}': no weights from {self.source} ({reason}); give a folder that has them as "
                f"{name}:FOLDER, or take another extractor: {OFFLINE}"
            ) from error
        self.model: nn.Module = loaded.to(device).eval()

    @property
    def preprocessing(self) -> str:
        return f"RGB, {self.side}x{self.side} bicubic antialiased, mean {self.mean} std {self.std}"

    @cached_property
    def fingerprint(self) -> str:
        return digest_of(self.model, self.preprocessing)

    @torch.inference_mode()
    def features(self, values: Tensor) -> Tensor:
        mean, std = (torch.tensor(numbers).view(3, 1, 1) for numbers in (self.mean, self.std))
        rows = []
        for batch in torch.split(values, self.batch_size):
            pixels = (resized(as_rgb(in_bytes(batch, self.levels)), self.side) - mean) / std
            rows.append(self.pooled(self.model(pixel_values=pixels.to(self.device))).float().cpu())
        return torch.cat(rows)

    def pooled(self, outputs: Any) -> Tensor:
        found: Tensor = getattr(outputs, self.output)
        return found


class DINOv2(Pretrained):
    """The class token of DINOv2, which Stein et al. 2023 (arXiv:2306.04675) found closest to people's judgement."""

    network, default, output = "Dinov2Model", "facebook/dinov2-small", "pooler_output"
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class CLIP(Pretrained):
    """CLIP's image embedding (Jayasumana et al. 2024, arXiv:2401.09603)."""

    network, default, output = "CLIPVisionModelWithProjection", "openai/clip-vit-base-patch32", "image_embeds"
    mean, std = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


class Inception:
    """The Inception network that published FID figures use, through torch-fidelity. Its weights are published as a pickle,
    which is never opened here: they are converted once, and given as inception:FILE.safetensors."""

    source = "torch-fidelity inception-v3-compat"
    preprocessing = "RGB, 299x299 bilinear as TensorFlow 1 does it"
    batch_size = 64

    def __init__(self, data: TrainingData, source: str | None, device: torch.device) -> None:
        self.device, self.levels = device, levels_of("inception", data)
        if source is None or not source.endswith(".safetensors"):
            raise InputError(
                "extractor 'inception' needs its weights as safetensors, inception:FILE.safetensors; docs/evaluation.md has "
                f"the lines that convert the published ones; {OFFLINE}"
            )
        try:
            from torch_fidelity import feature_extractor_inceptionv3
        except ModuleNotFoundError as error:
            raise InputError(
                f"extractor 'inception' needs torch-fidelity: pip install 'genhub-framework[inception]'; {OFFLINE}"
            ) from error
        except (ImportError, RuntimeError) as error:
            raise InputError(
                f"extractor 'inception': torch-fidelity can't be imported ({_cause(error)}); {MISMATCH}; {OFFLINE}"
            ) from error
        try:
            weights = load_file(source)
            # Its constructor unpickles a file, or what this function downloads: there is no other door for weights.
            with patch.object(feature_extractor_inceptionv3, "load_state_dict_from_url", lambda *_, **__: weights):
                network = feature_extractor_inceptionv3.FeatureExtractorInceptionV3("inception-v3-compat", ["2048"])
        except (OSError, RuntimeError, SafetensorError) as error:
            reason = str(error).strip().splitlines()[0]
            raise InputError(f"extractor 'inception': no weights from {source} ({reason}); {OFFLINE}") from error
        self.model = network.to(device).eval()

    @cached_property
    def fingerprint(self) -> str:
        return digest_of(self.model, self.preprocessing)

    @torch.inference_mode()
    def features(self, values: Tensor) -> Tensor:
        parts = (as_rgb(in_bytes(part, self.levels)) for part in torch.split(values, self.batch_size))
        return torch.cat([self.model(part.to(self.device))[0].float().cpu() for part in parts])


def _cause(error: BaseException) -> str:
    """Return, in a line, the first cause of a failed import."""
    while error.__cause__ is not None:
        error = error.__cause__
    return str(error).strip().partition("\n")[0]


def resized(images: Tensor, side: int) -> Tensor:
    """Return images (n, c, h, w) uint8 as (n, c, side, side) float in [0, 1], resized as by Pillow's bicubic filter:
    averaging where it makes smaller, rounded to 8 bits."""
    other = functional.interpolate(images, (side, side), mode="bicubic", antialias=True, align_corners=False)
    return other.float() / 255
