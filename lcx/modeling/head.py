"""Log-probabilities straight from the output head, a tile of tokens at a time.

A head of V words makes [t, V] logits for t answer tokens: 3 answers of 512 tokens and 128K words are 0.8 GB in
fp32, and as much again for their gradient. Here the head itself, when it is asked for targets, returns the [t]
log-probabilities. Tiles are recomputed in the backward pass, so that one tile of logits is held at a time. The
head is called inside the model's own forward pass, where sharded weights are whole and adapters work.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

from lcx.modeling.logprobs import token_logprobs

TILE_BYTES = 128 << 20
"""Most memory that one tile's logits take in fp32."""
PLAIN_HEAD = frozenset(
    {"llama", "mistral", "qwen2", "qwen3", "glm", "glm4", "phi3", "olmo2", "smollm3", "starcoder2"}
)
"""Model types whose logits are what the head gives; others scale or cap them afterwards."""


def tile_rows(vocabulary: int) -> int:
    """Tokens a tile."""
    return max(1, TILE_BYTES // (4 * vocabulary))


def has_plain_head(config: Any) -> bool:
    """Whether the model's logits are its head's output, unchanged."""
    return getattr(config, "model_type", "") in PLAIN_HEAD


class AnswerHead:
    """Lets a model's head answer with log-probabilities while `asked` is open; otherwise it gives logits.

    The head's `forward` is replaced on the instance, so that names of weights, hooks and wrappers stay as
    they are. `remove` puts it back.
    """

    def __init__(self, model: Any) -> None:
        self.head: Any = model.get_output_embeddings()
        self.plain = self.head.forward
        self.had = "forward" in vars(self.head)
        self.targets: torch.Tensor | None = None
        self.head.forward = self._forward

    def remove(self) -> None:
        """Put the head's own forward back."""
        if self.had:
            self.head.forward = self.plain
        else:
            vars(self.head).pop("forward", None)

    @contextmanager
    def asked(self, targets: torch.Tensor) -> Iterator[None]:
        """Inside, the model's `logits` are log-probabilities [1,t] of `targets` [t], in fp32."""
        self.targets = targets
        try:
            yield
        finally:
            self.targets = None

    def _forward(self, hidden: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        if self.targets is None:
            return self.plain(hidden, *args, **kwargs)
        rows, targets = hidden.flatten(0, -2), self.targets
        if len(rows) != len(targets):
            raise ValueError(f"{len(targets)} targets for {len(rows)} rows of hidden states")
        size = tile_rows(self.vocabulary)
        if len(rows) <= size:
            return self._logprobs(rows, targets)[None]
        parts = [
            checkpoint(self._logprobs, rows[at : at + size], targets[at : at + size], use_reentrant=False)
            for at in range(0, len(rows), size)
        ]
        return torch.cat(parts)[None]

    @property
    def vocabulary(self) -> int:
        """Words that the head knows."""
        return int(self.head.out_features)

    def _logprobs(self, rows: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return token_logprobs(self.plain(rows), targets)
