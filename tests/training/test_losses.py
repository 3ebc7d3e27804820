"""Losses against naive loops over tokens and branches."""

from __future__ import annotations

import pytest
import torch

from lcx.modeling import logprobs
from lcx.training.losses import branch_means, branch_sums, sft_loss, summed_sft_loss, token_logprobs

BRANCH = torch.tensor([0, 0, 0, 1, 2, 2, 2, 2, 2])


def draw(dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    return (4 * torch.randn(9, 13)).to(dtype).requires_grad_(), torch.randint(0, 13, (9,))


def naive(logits: torch.Tensor, targets: torch.Tensor, weighting: str) -> torch.Tensor:
    per_branch: dict[int, list[torch.Tensor]] = {}
    for row, target, branch in zip(logits, targets, BRANCH, strict=True):
        value = -torch.log(torch.exp(row.double())[target] / torch.exp(row.double()).sum())
        per_branch.setdefault(int(branch), []).append(value)
    if weighting == "token":
        return torch.stack([value for values in per_branch.values() for value in values]).mean()
    return torch.stack([torch.stack(values).mean() for values in per_branch.values()]).mean()


@pytest.mark.parametrize("weighting", ["branch", "token"])
@pytest.mark.parametrize("tile", [2, 1024])
def test_sft_loss(weighting: str, tile: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logprobs, "TILE", tile)
    logits, targets = draw()
    loss = sft_loss(token_logprobs(logits, targets), BRANCH, 3, weighting)
    (mine,) = torch.autograd.grad(loss, logits)
    expected = naive(logits, targets, weighting)
    (theirs,) = torch.autograd.grad(expected, logits)
    assert torch.allclose(loss.double(), expected, rtol=1e-6)
    assert torch.allclose(mine, theirs, rtol=1e-5, atol=1e-7)


def test_parts_add_up_to_the_whole() -> None:
    logits, targets = draw()
    logp = token_logprobs(logits, targets)
    for weighting in ("branch", "token"):
        first = summed_sft_loss(logp[:3], BRANCH[:3], torch.ones(1), weighting)
        rest = summed_sft_loss(logp[3:], BRANCH[3:] - 1, torch.ones(2), weighting)
        whole = (first[0] + rest[0]) / (first[1] + rest[1])
        assert torch.allclose(whole, sft_loss(logp, BRANCH, 3, weighting))
        weights = torch.tensor([1.0, 0.0, 0.0])
        alone = summed_sft_loss(logp, BRANCH, weights, weighting)
        assert torch.allclose(alone[0], first[0])
        assert alone[1] == first[1]


def test_half_precision_logits_are_summed_in_fp32() -> None:
    logits, targets = draw(torch.bfloat16)
    logp = token_logprobs(logits, targets)
    assert logp.dtype is torch.float32
    exact = logits.double().log_softmax(-1).gather(1, targets[:, None])[:, 0]
    assert torch.allclose(logp.double(), exact, atol=1e-5)
    logp.sum().backward()
    assert logits.grad is not None
    assert logits.grad.dtype is torch.bfloat16


def test_means_and_sums() -> None:
    values = torch.arange(9.0)
    assert branch_means(values, BRANCH, 3).tolist() == [1.0, 3.0, 6.0]
    assert branch_sums(values, BRANCH, 3).tolist() == [3.0, 3.0, 30.0]
    assert token_logprobs(torch.zeros(0, 5), torch.zeros(0, dtype=torch.long)).shape == (0,)
    with pytest.raises(ValueError, match="'branch' or 'token'"):
        sft_loss(values, BRANCH, 3, "tokens")


@pytest.mark.parametrize("packs", [[[0, 1, 2]], [[0], [1, 2]], [[1], [0], [2]]])
def test_branch_weighting_is_longaligns(packs: list[list[int]]) -> None:
    """LongAlign (2401.18058, section 3.3): K packs, M sequences, N_i targets; each sequence's summed loss is scaled by
    K / (N_i M), a pack's loss is their sum, a batch's the mean over packs. However it is packed, it is the mean of the
    sequences' means."""
    logits, targets = draw(torch.float64)
    k, m = len(packs), 3
    expected = torch.zeros((), dtype=torch.float64)
    for pack in packs:
        for sequence in pack:
            rows = [t for t in range(len(BRANCH)) if BRANCH[t] == sequence]
            total = sum(logits[t].logsumexp(0) - logits[t, targets[t]] for t in rows)
            expected = expected + total * k / (len(rows) * m) / k
    logp = token_logprobs(logits, targets)
    parts = []
    for pack in packs:  # as the trainer sums them: a forward pass each, divided by what the step has
        rows = torch.tensor([t for sequence in pack for t in range(len(BRANCH)) if BRANCH[t] == sequence])
        place = torch.tensor([pack.index(int(BRANCH[t])) for t in rows])
        parts.append(summed_sft_loss(logp[rows], place, torch.ones(len(pack)), "branch"))
    mine = sum(part[0] for part in parts) / sum(part[1] for part in parts)
    assert torch.allclose(mine.double(), expected.double(), rtol=1e-6)
    token = sft_loss(logp, BRANCH, 3, "token")
    assert not torch.allclose(token.double(), expected.double(), rtol=1e-3)
    theirs = torch.autograd.grad(expected, logits, retain_graph=True)[0]
    assert torch.allclose(torch.autograd.grad(mine, logits)[0], theirs, rtol=1e-5, atol=1e-8)
