"""Tiny encoders of texts with random weights, written as transformers does, with a tokenizer of a few words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

VOCABULARY = [
    "<pad>",
    "<s>",
    "</s>",
    "<unk>",
    *["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "a", "the", "digit", "cat", "dog"],
    *"0123456789",
]
LONGEST = 8
"""Most tokens of a text, of those that have places."""


def tokenizer(folder: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    made = Tokenizer(models.WordLevel({word: number for number, word in enumerate(VOCABULARY)}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)])
    made.save(str(folder / "tokenizer.json"))


def encoder(kind: str, folder: Path, seed: int = 0) -> Path:
    """Write an encoder of a kind, clip, whole clip, t5 or bert, into a folder, and return that."""
    import transformers

    words = {"vocab_size": len(VOCABULARY), "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    layers: dict[str, Any] = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
                              "max_position_embeddings": LONGEST}  # fmt: skip
    torch.manual_seed(seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        if kind == "clip":
            network: Any = transformers.CLIPTextModel(transformers.CLIPTextConfig(**words, **layers))
        elif kind == "whole clip":
            picture = {key: value for key, value in layers.items() if key != "max_position_embeddings"} | {
                "image_size": 8,
                "patch_size": 4,
            }
            config = transformers.CLIPConfig(text_config=words | layers, vision_config=picture, projection_dim=8)
            network = transformers.CLIPModel(config)
        elif kind == "t5":
            config = transformers.T5Config(**words, d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2)
            network = transformers.T5EncoderModel(config)
        else:
            network = transformers.BertModel(transformers.BertConfig(**words, **layers))
        network.save_pretrained(folder)
    tokenizer(folder)
    return folder
