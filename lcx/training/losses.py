"""The supervised loss: means of token log-probabilities, as pure functions of tensors."""

from __future__ import annotations

import torch

from lcx.modeling.logprobs import token_logprobs

__all__ = ["branch_means", "branch_sums", "sft_loss", "summed_sft_loss", "token_logprobs"]


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
