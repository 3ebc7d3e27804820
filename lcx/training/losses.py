"""Token log-probabilities and their means, as pure functions of tensors."""

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


def branch_means(logprobs: torch.Tensor, branch: torch.Tensor, branches: int) -> torch.Tensor:
    """Mean log-probability of each branch: logprobs [t], branch numbers [t] to [branches].

    m_b = (1/|y_b|) Σ_{i in b} log p_i. A branch without tokens has no mean: NaN.
    """
    sums = logprobs.new_zeros(branches).index_add(0, branch, logprobs)
    counts = torch.bincount(branch, minlength=branches)
    return sums / counts


def branch_sums(logprobs: torch.Tensor, branch: torch.Tensor, branches: int) -> torch.Tensor:
    """Log-probability of each branch's answer: s_b = Σ_{i in b} log p_i. logprobs [t] to [branches]."""
    return logprobs.new_zeros(branches).index_add(0, branch, logprobs)


def summed_sft_loss(
    logprobs: torch.Tensor,
    branch: torch.Tensor,
    weights: torch.Tensor,
    weighting: str = "branch",
) -> tuple[torch.Tensor, torch.Tensor]:
    """Numerator and denominator of `sft_loss` for a part of a batch: logprobs [t], branch [t], weights [b].

    Summed over the parts of a batch (micro-batches, processes) and then divided, they give the loss of the
    whole.
    """
    if weighting == "token":
        per_token = weights[branch]
        return -(logprobs * per_token).sum(), per_token.sum()
    if weighting != "branch":
        raise ValueError(f"loss weighting is 'branch' or 'token', not '{weighting}'")
    return -(branch_means(logprobs, branch, len(weights)) * weights).sum(), weights.sum()


def sft_loss(
    logprobs: torch.Tensor, branch: torch.Tensor, branches: int, weighting: str = "branch"
) -> torch.Tensor:
    """Negative log-likelihood of the answers: logprobs [t], branch numbers [t] to a scalar.

    `branch`: L = −(1/B) Σ_b (1/|y_b|) Σ_{i in b} log p_i.   `token`: L = −(1/t) Σ_i log p_i.
    """
    total, count = summed_sft_loss(logprobs, branch, logprobs.new_ones(branches), weighting)
    return total / count
