"""The causal transformer: GPT-2's layers (Radford et al. 2019), from transformers, with weights of our own.

GPT-2 and not Llama, as elements have one length: a learnt vector for each place says which pixel it is, its row and its
column, where Llama's rotations tell only how far apart two tokens are.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from genhub import Given
from genhub_ar.config import TransformerConfig

TAKES = frozenset({"vector", "sequence"})
SPREAD = 0.02
"""Standard deviation of new weights, GPT-2's."""


class Memory(NamedTuple):
    """Keys and values of a sequence so far, which are not computed again."""

    cache: Any
    """Keys and values of each layer: transformers' `DynamicCache`."""
    mask: Tensor | None
    """(n, length) bool: which tokens of the prefix are there; None: all."""
    place: int
    """Number of the next token."""


class Transformer(nn.Module):
    """Network from tokens (n, length) to logits of each, given those before it and a prefix.

    The prefix: tokens of texts, then one token "start", to which the vector of all other conditions is added.
    """

    def __init__(self, config: TransformerConfig, num_tokens: int, length: int) -> None:
        super().__init__()
        from transformers import GPT2Config, GPT2Model

        rate, network = config.dropout, GPT2Model
        self.gpt: Any = network(
            GPT2Config(
                vocab_size=num_tokens, n_positions=length + 1, n_embd=config.hidden_size, n_layer=config.num_layers,
                n_head=config.num_heads, resid_pdrop=rate, embd_pdrop=rate, initializer_range=SPREAD,
                attn_pdrop=0.0,  # attention has no fast kernel for it on a CPU: a step of 784 tokens takes six times as long
                activation_function="gelu_pytorch_tanh", bos_token_id=None, eos_token_id=None,
            )
        )  # fmt: skip
        self.length = length
        self.start = nn.Parameter(SPREAD * torch.randn(config.hidden_size))
        self.head = nn.Linear(config.hidden_size, num_tokens, bias=False)
        nn.init.normal_(self.head.weight, std=SPREAD)

    def forward(self, tokens: Tensor, given: Given) -> Tensor:
        """Return logits (n, length, num_tokens) for tokens (n, length): at i, given the prefix and those before i."""
        prefix = self._prefix(len(tokens), given)
        inputs = torch.cat([prefix, self.gpt.wte(tokens[:, :-1])], 1)
        hidden = self._hidden(inputs, self._places(prefix), _padded(given.mask, tokens.shape[1]), None)
        logits: Tensor = self.head(hidden[:, prefix.shape[1] - 1 :])
        return logits

    # The same a token at a time, which remembers keys and values instead of computing them again

    def begin(self, n: int, given: Given) -> tuple[Tensor, Memory]:
        """Return the logits (n, num_tokens) of the first token of n rows, and what to go on from."""
        from transformers import DynamicCache

        prefix, cache = self._prefix(n, given), DynamicCache()
        mask = _padded(given.mask, 1)
        hidden = self._hidden(prefix, self._places(prefix)[:, : prefix.shape[1]], mask, cache)
        return self.head(hidden[:, -1]), Memory(cache, mask, 1)

    def go_on(self, token: Tensor, memory: Memory) -> tuple[Tensor, Memory]:
        """Return the logits (n, num_tokens) of the token behind `token` (n,), and what to go on from."""
        place = torch.full((1, 1), memory.place, device=token.device)
        mask = _padded(memory.mask, 1)
        hidden = self._hidden(self.gpt.wte(token[:, None]), place, mask, memory.cache)
        return self.head(hidden[:, -1]), Memory(memory.cache, mask, memory.place + 1)

    def _prefix(self, n: int, given: Given) -> Tensor:
        start = self.start.expand(n, 1, -1)
        if given.vector is not None:
            start = start + given.vector[:, None]
        return start if given.sequence is None else torch.cat([given.sequence, start], 1)

    def _places(self, prefix: Tensor) -> Tensor:
        """Return the numbers of the learnt places (1, texts + length): 0 for the start token, which is where the first token
        is foretold; `length` for the tokens of texts, which bring places of their own."""
        texts = torch.full((prefix.shape[1] - 1,), self.length, device=prefix.device)
        return torch.cat([texts, torch.arange(self.length, device=prefix.device)])[None]

    def _hidden(self, inputs: Tensor, places: Tensor, mask: Tensor | None, cache: Any) -> Tensor:
        # The cache goes by its place: newer releases call it `cache`, older ones `past_key_values`.
        found = self.gpt(
            None, cache, attention_mask=mask, position_ids=places, inputs_embeds=inputs, use_cache=cache is not None
        )
        hidden: Tensor = found.last_hidden_state
        return hidden


def _padded(mask: Tensor | None, more: int) -> Tensor | None:
    """Return a mask (n, length) with so many tokens more, all of them there."""
    return None if mask is None else torch.cat([mask, mask.new_ones(len(mask), more)], 1)
