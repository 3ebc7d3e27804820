"""Log-probabilities of tokens without a second copy of the vocabulary: from logits, from the head, and of a text.

A head of V words makes [t, V] logits for t answer tokens: 3 answers of 512 tokens and 128K words are 0.8 GB in
fp32, and as much again for their gradient. `AnswerHead` lets the head itself, when it is asked for targets, return the
[t] log-probabilities. Tiles are recomputed in the backward pass, so that one tile of logits is held at a time. The
head is called inside the model's own forward pass, where sharded weights are whole and adapters work.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

__all__ = ["text_logprobs"]


TILE = 1024
"""Tokens whose logits are held in fp32 at a time."""


class _TargetLogProbs(torch.autograd.Function):
    """logits [t,V], targets [t] to log-probabilities [t] in fp32, `TILE` rows at a time both ways."""

    @staticmethod
    def forward(ctx: Any, *tensors: torch.Tensor) -> torch.Tensor:
        logits, targets = tensors
        norms = [tile.float().logsumexp(-1) for tile in logits.split(TILE)]
        lse = torch.cat(norms) if norms else logits.new_zeros(0, dtype=torch.float32)
        ctx.save_for_backward(logits, targets, lse)
        return logits.gather(1, targets[:, None])[:, 0].float() - lse

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None]:
        (grad,) = grads
        logits, targets, lse = ctx.saved_tensors
        out = torch.empty_like(logits)
        for start in range(0, len(targets), TILE):
            part = slice(start, start + TILE)
            tile = (logits[part].float() - lse[part, None]).exp_().mul_(-grad[part, None])
            tile.scatter_add_(1, targets[part, None], grad[part, None])
            out[part] = tile
        return out, None


def token_logprobs(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Log-probability of every target, in fp32: logits [t,V], targets [t] to [t].

    log p_i = z_{i,y_i} − log Σ_v exp z_{i,v}, with gradient 1[v = y_i] − p_{i,v}. Besides the logits and
    their gradient (in their own precision) no more than `TILE` rows of the vocabulary are held at a time.
    """
    return _TargetLogProbs.apply(logits, targets)


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
    """True if the model's logits are its head's output, unchanged."""
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


CHUNK = 1024
"""Tokens run through the model at a time: their logits are held together, in the model's own precision."""


@torch.inference_mode()
def text_logprobs(
    model: Any,
    ids: Sequence[int],
    *,
    chunk: int = CHUNK,
    on_done: Callable[[int], None] | None = None,
) -> torch.Tensor:
    """log p(x_t | x_<t) of tokens x_1 to x_{T-1} of a text [T], as fp32 [T-1] on the CPU.

    The text runs through the model's own attention, `chunk` tokens at a time, with keys and values kept, so
    any model that can generate can read. `on_done` is told how many tokens each chunk had.
    """
    from transformers import DynamicCache

    from lcx.modeling.load import few_threads  # with transformers, which no loss needs

    tokens = torch.as_tensor(list(ids), dtype=torch.long, device=model.device)
    found = [torch.empty(0)]
    cache = DynamicCache(config=model.config)
    training = model.training
    model.eval()
    try:
        with few_threads(model):
            # The last token is a target only.
            for start in range(0, len(tokens) - 1, chunk):
                end = min(start + chunk, len(tokens) - 1)
                logits = model(
                    input_ids=tokens[None, start:end],
                    position_ids=torch.arange(start, end, device=tokens.device)[None],
                    past_key_values=cache,
                    use_cache=True,
                ).logits[0]
                found.append(token_logprobs(logits, tokens[start + 1 : end + 1]).cpu())
                if on_done:
                    on_done(end - start)
    finally:
        model.train(training)
    return torch.cat(found)
