"""Log-probabilities of target tokens from logits, without a second copy of the vocabulary."""

from __future__ import annotations

from typing import Any

import torch
from torch.autograd.function import once_differentiable

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
