"""Frozen encoders of texts, of transformers': read from its folders, kept as safetensors with tokenizer.json, run once a
text.

What is kept needs neither the Hub nor transformers' tokenizers: tokenizer.json is all of a fast one. Encoders in use are
known in a process by their digest, so that models and networks share them, and no copy of a model copies them.
"""

from __future__ import annotations

import copy
import hashlib
import inspect
import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from genhub.errors import CheckpointError, did_you_mean
from genhub.ground.budget import budget
from genhub.ground.console import warn
from genhub.ground.digests import hash_of
from genhub.ground.weights import save_tensors

CLASSES = {
    "clip": "CLIPTextModel", "clip_text_model": "CLIPTextModel",
    "t5": "T5EncoderModel", "mt5": "MT5EncoderModel", "umt5": "UMT5EncoderModel",
    "albert": "AlbertModel", "bert": "BertModel", "camembert": "CamembertModel", "deberta-v2": "DebertaV2Model",
    "distilbert": "DistilBertModel", "electra": "ElectraModel", "modernbert": "ModernBertModel", "mpnet": "MPNetModel",
    "roberta": "RobertaModel", "xlm-roberta": "XLMRobertaModel",
}  # fmt: skip
"""Classes of transformers' that encode texts, by the `model_type` in a folder's config.json."""
LONGEST = 512
"""Most tokens of a text, where its network has no places of its own."""
FIRST_PLACE = {"camembert": 2, "mpnet": 2, "roberta": 2, "xlm-roberta": 2}
"""Numbers of places before the first token's, of networks that leave some free."""
CONFIG, TOKENIZER, WEIGHTS = "config.json", "tokenizer.json", "model.safetensors"
ATTENTION = "sdpa"
"""torch's own attention, whatever a config says: it may name a kernel on the Hub, and that is code."""
REMEMBERED = 10_000
"""Most texts whose tokens are remembered, of those that are encoded one by one."""


def is_wanted(name: str) -> bool:
    """Whether an encoder needs a file of a repository of transformers'."""
    weights = name.endswith(".safetensors") and name.startswith("model")
    return name in (CONFIG, TOKENIZER, f"{WEIGHTS}.index.json") or weights


class TextEncoder:
    """Frozen network from tokens to a vector each, with its tokenizer. Both are built when they are first used."""

    def __init__(self, config: dict[str, Any], tensors: dict[str, Tensor], tokenizer: bytes) -> None:
        """
        Args:
            config: of the network, as transformers has it.
            tensors: its weights.
            tokenizer: the content of tokenizer.json.
        """
        self.config, self.tensors, self._tokenizer = config, tensors, tokenizer
        self._remembered: dict[tuple[str, int], Tensor] = {}

    # Read and written

    @classmethod
    def of_transformers(cls, folder: Path) -> Self:
        """Return the encoder in a folder of transformers', which may have more than its texts' half.

        Raises:
            ValueError: it is none of those that are read, or of a form that is not.
        """
        for name in (CONFIG, TOKENIZER):
            if not (folder / name).is_file():
                slow = " (a slow tokenizer; AutoTokenizer's save_pretrained writes a fast one)" if name == TOKENIZER else ""
                raise ValueError(f"{folder} has no {name}{slow}")
        if not (folder / WEIGHTS).is_file() and not (folder / f"{WEIGHTS}.index.json").is_file():
            pickles = [file.name for file in folder.iterdir() if file.suffix in (".bin", ".pt", ".pth", ".ckpt")]
            found = f"; its weights are a pickle ({pickles[0]:.100}), which can run code when opened" if pickles else ""
            raise ValueError(f"{folder} has no {WEIGHTS}{found}; genhub reads safetensors only")
        try:
            network = _loaded(folder)
            return cls(_plain(network.config.to_dict()), dict(network.state_dict()), (folder / TOKENIZER).read_bytes())
        except (OSError, RuntimeError, SafetensorError, LookupError, TypeError, AttributeError, ImportError) as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise ValueError(f"{folder}: transformers can't read it: {reason:.300}") from error

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Return what `save` wrote.

        Raises:
            CheckpointError: it is not there, or damaged.
        """
        try:
            config = json.loads((folder / CONFIG).read_text("utf-8"))
            return cls(config, load_file(folder / WEIGHTS), (folder / TOKENIZER).read_bytes())
        except (OSError, SafetensorError, ValueError) as error:
            raise CheckpointError(f"{folder}: the encoder of a condition can't be read: {error}") from error

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        save_tensors(self.tensors, folder / WEIGHTS)
        (folder / CONFIG).write_text(json.dumps(self.config, indent=2, sort_keys=True) + "\n", "utf-8")
        (folder / TOKENIZER).write_bytes(self._tokenizer)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of all that its tokens depend on."""
        digest = hashlib.sha256(json.dumps(self.config, sort_keys=True).encode() + self._tokenizer)
        for name, tensor in sorted(self.tensors.items()):
            digest.update(repr((name, tensor.dtype, tuple(tensor.shape))).encode())
            digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
        return digest.hexdigest()

    # Used

    @property
    def network_class(self) -> str:
        return _class_of(self.config)

    @property
    def width(self) -> int:
        """Numbers of a token's vector."""
        return int(self.config.get("d_model") or self.config.get("hidden_size") or self.config["dim"])

    @property
    def longest(self) -> int:
        """Most tokens of a text."""
        places = self.config.get("max_position_embeddings")
        return int(places) - FIRST_PLACE.get(self.config["model_type"], 0) if places else LONGEST

    @cached_property
    def tokenizer(self) -> Any:
        from tokenizers import Tokenizer

        with _explained():
            tokenizer = Tokenizer.from_str(self._tokenizer.decode("utf-8"))
        tokenizer.no_padding()
        tokenizer.no_truncation()
        return tokenizer

    def lengths(self, texts: Sequence[str]) -> list[int]:
        """Return the numbers of tokens of texts, with those that stand at their beginning and end."""
        return [len(self.tokenizer.encode(text).ids) for text in texts]

    @cached_property
    def network(self) -> nn.Module:
        """
        Raises:
            CheckpointError: the weights are not those of its config.
        """
        size = sum(tensor.nbytes for tensor in self.tensors.values())
        with _explained():
            cls = getattr(_transformers(), self.network_class)
            config = cls.config_class.from_dict(copy.deepcopy(_plain(self.config)))  # which takes keys out of it
            config._attn_implementation = ATTENTION
            # What it would draw as its first weights must not change what is drawn around it, whenever it is built.
            with budget(size, "the encoder of a condition"), torch.device("cpu"), torch.random.fork_rng(devices=[]):
                network: nn.Module = cls(config, **_without_pooling(cls))
            network.load_state_dict(self.tensors)
        return network.eval().requires_grad_(False)

    @torch.no_grad()
    def together(self, texts: Sequence[str], length: int, device: torch.device) -> Tensor:
        """Return (n, length, width) float32 of texts encoded together, zeros behind the last token of each; longer texts are
        cut."""
        self.tokenizer.enable_truncation(length)
        found = [self.tokenizer.encode(text).ids for text in texts]  # its batches use threads, which no fork survives
        self.tokenizer.no_truncation()
        mask = torch.zeros(len(found), length, dtype=torch.int64)
        ids = torch.full_like(mask, self.config.get("pad_token_id") or 0)
        for row, numbers in enumerate(found):
            ids[row, : len(numbers)], mask[row, : len(numbers)] = torch.tensor(numbers), 1
        ids, mask, network = ids.to(device), mask.to(device), self.network.to(device)
        with torch.autocast(device.type, enabled=False):
            tokens: Tensor = network(input_ids=ids, attention_mask=mask).last_hidden_state.float()
        return tokens * mask[:, :, None]

    def one_by_one(self, texts: Sequence[str], length: int, device: torch.device) -> Tensor:
        """Return what `together` makes of each text by itself, so that its bits don't hang on the others; remember it."""
        for text in set(texts):
            if (text, length) not in self._remembered:
                if len(self._remembered) >= REMEMBERED:
                    self._remembered.clear()
                self._remembered[text, length] = self.together([text], length, device)[0].cpu()
        return torch.stack([self._remembered[text, length] for text in texts]).to(device)


@dataclass(frozen=True)
class TextsEncoder:
    """Encoder of a column's texts, as they are in a batch: `interfaces.modality.ConditionEncoder`."""

    encoder: TextEncoder
    length: int
    """Tokens of a text; longer ones are cut."""
    name: str

    @property
    def digest(self) -> str:
        return hash_of(self.encoder.digest, self.length)

    @property
    def folder(self) -> str:
        return self.encoder.digest[:16]

    @property
    def shape(self) -> tuple[int, int]:
        return self.length, self.encoder.width

    def encode(self, values: Tensor, device: torch.device) -> Tensor:
        return self.encoder.together(_texts(values), self.length, device)

    def encode_each(self, values: Tensor) -> Tensor:
        texts = _texts(values)
        if cut := [text for text in texts if self.encoder.lengths([text])[0] > self.length]:
            warn(f"a text is cut to {self.length} tokens, the most in the training data: {cut[0]:.100}")
        return self.encoder.one_by_one(texts, self.length, values.device)

    def save(self, folder: Path) -> None:
        self.encoder.save(folder)


def _texts(values: Tensor) -> list[str]:
    return [bytes(row).rstrip(b"\0").decode(errors="replace") for row in values.cpu().tolist()]


OPENED: dict[str, TextEncoder] = {}
"""Encoders in use, by their digest."""


def opened(digest: str) -> TextEncoder:
    """
    Raises:
        CheckpointError: nobody has read it.
    """
    if digest not in OPENED:
        raise CheckpointError("the encoder of a condition was not read; load the model by genhub.load or from_pretrained")
    return OPENED[digest]


def open_encoder(folder: Path, digest: str, width: int, length: int) -> None:
    """Read what `TextEncoder.save` wrote, where it is not in use already.

    Raises:
        CheckpointError: it is not there, damaged, or another than one of this digest, width and length.
    """
    encoder = OPENED.get(digest) or TextEncoder.read(folder)
    try:
        fits = encoder.digest == digest and encoder.width == width and encoder.longest >= length
    except (LookupError, TypeError, ValueError):  # a stranger's config
        fits = False
    if not fits:
        raise CheckpointError(f"{folder}: holds another encoder than the one that the model was trained with")
    OPENED[digest] = encoder


def _class_of(config: dict[str, Any]) -> str:
    """
    Raises:
        ValueError: no text is encoded by such a network.
    """
    kind = str(config.get("model_type"))
    if kind not in CLASSES:
        raise ValueError(f"a network of type '{kind:.50}' is none that encodes texts here; {did_you_mean(kind, CLASSES)}")
    return CLASSES[kind]


def _transformers() -> Any:
    import transformers

    library: Any = transformers
    library.logging.set_verbosity(logging.ERROR)
    library.logging.disable_progress_bar()
    return library


def _loaded(folder: Path) -> Any:
    """Return the network in a folder of transformers', as it reads its own: names of weights have changed over the years.

    Raises:
        ValueError: weights are missing, or it is none that encodes texts.
    """
    found = json.loads((folder / CONFIG).read_bytes())
    name = _class_of(found if isinstance(found, dict) else {})
    cls = getattr(_transformers(), name)
    config = cls.config_class.from_pretrained(folder, local_files_only=True)
    config._attn_implementation = ATTENTION
    with torch.random.fork_rng(devices=[]):
        network, told = cls.from_pretrained(
            folder, config=config, use_safetensors=True, local_files_only=True, dtype=torch.float32,
            output_loading_info=True, attn_implementation=ATTENTION, **_without_pooling(cls),
        )  # fmt: skip
    if missing := sorted(told["missing_keys"]):
        raise ValueError(f"{folder}: {name} misses {len(missing)} of its weights, such as {missing[0]}")
    return network.eval()


def _plain(config: dict[str, Any]) -> dict[str, Any]:
    """Return a config without what names an implementation: transformers would fetch a kernel, and that is code."""
    return {key: value for key, value in config.items() if "implementation" not in key}


def _without_pooling(cls: Any) -> dict[str, Any]:
    """Return the arguments that leave out a network's layer behind its tokens, which is of no use here."""
    return {"add_pooling_layer": False} if "add_pooling_layer" in inspect.signature(cls.__init__).parameters else {}


@contextmanager
def _explained() -> Iterator[None]:
    """Raise what transformers makes of a stranger's config or tokenizer as one line.

    Raises:
        CheckpointError: it can't be built.
    """
    try:
        yield
    except CheckpointError:
        raise
    except Exception as error:  # whatever a library raises
        reason = (str(error).strip() or type(error).__name__).splitlines()[-1].strip()
        raise CheckpointError(f"the encoder of a condition can't be built from its config: {reason:.300}") from error
