"""Reading a text: the log-probability of every token given all before it, with memory flat in text x vocabulary."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from lcx.modeling.logprobs import token_logprobs
from lcx.modeling.threads import few_threads

__all__ = ["read_text"]

CHUNK = 1024
"""Tokens run through the model at a time: their logits are held together, in the model's own precision."""


@torch.inference_mode()
def read_text(
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
