"""Losses, gradients and metrics against TRL's own trainers, run on given logits instead of a model."""

from __future__ import annotations

import warnings
from collections import defaultdict
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.utils.rnn import pad_sequence
from trl import DPOTrainer

from lcx.training.losses import (
    DPO,
    ORPO,
    SIMPO,
    Answers,
    Loss,
    LossOutput,
    metric_means,
    preference_metrics,
)

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # experimental, says TRL
    from trl.experimental.cpo import CPOTrainer
    from trl.experimental.orpo import ORPOTrainer

VOCABULARY = 11
ACCELERATOR = SimpleNamespace(
    device=torch.device("cpu"), gather=lambda value: value, gather_for_metrics=lambda value: value
)
seeds = st.integers(0, 10**6)
checked = settings(max_examples=15, deadline=None)


@dataclass
class Rows:
    """Pairs as separate rows, chosen ones first: ids, answer masks [2n,L] and a model's logits [2n,L,V]."""

    ids: torch.Tensor
    mask: torch.Tensor
    filled: torch.Tensor
    logits: torch.Tensor
    reference: torch.Tensor

    @property
    def logps(self) -> torch.Tensor:
        """Log-probabilities [2n,L-1] of the answer tokens, 0 elsewhere."""
        table = self.logits[:, :-1].log_softmax(-1)
        return table.gather(2, self.ids[:, 1:, None])[..., 0] * self.mask[:, 1:]

    @property
    def pairs(self) -> int:
        return len(self.ids) // 2

    def answers(self) -> Answers:
        return Answers(
            sums=self.logps.sum(1),
            lengths=self.mask.sum(1).float(),
            bundle=torch.arange(self.pairs).repeat(2),
            chosen=torch.arange(2 * self.pairs) < self.pairs,
            prompts=self.pairs,
            reference=self.reference,
        )

    def batch(self) -> dict[str, torch.Tensor]:
        """As CPO's and ORPO's collators give it."""
        labels = self.ids.masked_fill(~self.mask, -100)
        columns = {"input_ids": self.ids, "attention_mask": self.filled.long(), "labels": labels}
        halves = {name: value.chunk(2) for name, value in columns.items()}
        return {
            f"{side}_{name}": half[place]
            for place, side in enumerate(("chosen", "rejected"))
            for name, half in halves.items()
        }


def draw(seed: int, *, prompt: int | None = None, alike: bool = False) -> Rows:
    """One to four pairs of unequal lengths; `alike` makes the chosen answers of one length."""
    torch.manual_seed(seed)
    pairs = int(torch.randint(1, 5, ()))
    heads = [prompt or int(torch.randint(1, 5, ())) for _ in range(pairs)] * 2
    tails = torch.randint(1, 9, (2 * pairs,))
    if alike:
        tails[:pairs] = tails[0]
    rows = [
        torch.randint(0, VOCABULARY, (head + int(tail),)) for head, tail in zip(heads, tails, strict=True)
    ]
    marks = [torch.arange(len(row)) >= head for row, head in zip(rows, heads, strict=True)]
    ids = pad_sequence(rows, batch_first=True)
    return Rows(
        ids=ids,
        mask=pad_sequence(marks, batch_first=True),
        filled=pad_sequence([torch.ones(len(row), dtype=torch.bool) for row in rows], batch_first=True),
        logits=(2 * torch.randn(*ids.shape, VOCABULARY)).requires_grad_(),
        reference=-8 * torch.rand(2 * pairs),
    )


def trl_dpo(rows: Rows, beta: float, weight: float) -> tuple[torch.Tensor, dict[str, float]]:
    """DPOTrainer's loss and metrics, its model replaced by the given logits."""
    trainer: Any = DPOTrainer.__new__(DPOTrainer)
    nothing = torch.zeros_like(rows.logps)
    vars(trainer).update(
        model=SimpleNamespace(training=True),
        accelerator=ACCELERATOR,
        aux_loss_enabled=False,
        ld_alpha=None,
        precompute_ref_logps=True,
        f_divergence_type="reverse_kl",
        beta=beta,
        label_smoothing=0.0,
        loss_types=["sigmoid", "sft"],
        loss_weights=[1.0, weight],
        use_weighting=False,
        _metrics={"train": defaultdict(list)},
        _total_train_tokens=0,
        _tp_size=1,
    )
    chosen, rejected = rows.reference.chunk(2)
    inputs = {
        "input_ids": rows.ids,
        "attention_mask": rows.filled.long(),
        "completion_mask": rows.mask.long(),
        "ref_chosen_logps": chosen,
        "ref_rejected_logps": rejected,
    }
    outputs = SimpleNamespace(
        logits=rows.logits, log_probs=rows.logps, entropy=nothing, mean_logits=nothing, is_top1=nothing.bool()
    )
    loss = trainer._compute_loss(lambda **_: outputs, inputs, False)
    return loss, {name: values[0] for name, values in trainer._metrics["train"].items()}


def trl_rows(kind: type, rows: Rows, **options: Any) -> tuple[torch.Tensor, dict[str, float]]:
    """CPOTrainer's or ORPOTrainer's loss and metrics, their model replaced by the given logits."""
    trainer: Any = kind.__new__(kind)
    vars(trainer).update(
        accelerator=ACCELERATOR,
        is_encoder_decoder=False,
        pad_token_id=0,
        padding_value=0,
        aux_loss_enabled=False,
    )
    vars(trainer).update(options)

    def model(ids: torch.Tensor, **_: Any) -> SimpleNamespace:
        assert torch.equal(ids, rows.ids)
        return SimpleNamespace(logits=rows.logits)

    return trainer.get_batch_loss_metrics(model, rows.batch())


def compare(
    rows: Rows, loss: Loss, options: dict[str, Any], theirs: torch.Tensor, logged: dict[str, float]
) -> None:
    """Equal losses, equal gradients by the logits, and equal metrics wherever TRL has one of that name."""
    answers = rows.answers()
    output: LossOutput = loss.compute(answers, **options)
    mine = output.losses.mean()
    assert mine.item() == pytest.approx(theirs.item(), rel=1e-5, abs=1e-6)
    (ours,) = torch.autograd.grad(mine, rows.logits)
    (expected,) = torch.autograd.grad(theirs, rows.logits)
    assert torch.allclose(ours, expected, rtol=1e-4, atol=1e-6)
    assert expected.abs().sum() > 0
    found = metric_means(preference_metrics(answers, output))
    shared = sorted(set(found) & set(logged))
    assert {"rewards/chosen", "rewards/rejected", "rewards/accuracies", "rewards/margins"} <= set(shared)
    assert {"logps/chosen", "logps/rejected"} <= set(shared)
    for name in shared:
        assert found[name] == pytest.approx(float(logged[name]), rel=1e-4, abs=1e-5), name


@checked
@given(seed=seeds, beta=st.floats(0.05, 2), weight=st.sampled_from([0.0, 0.1, 1.0]))
def test_dpo(seed: int, beta: float, weight: float) -> None:
    rows = draw(seed, alike=weight > 0)  # TRL's cross-entropy is a mean over all chosen tokens of the batch
    theirs, logged = trl_dpo(rows, beta, weight)
    compare(rows, DPO, {"beta": beta, "sft_weight": weight, "ce": "token"}, theirs, logged)


@checked
@given(seed=seeds, beta=st.floats(0.05, 10), gamma=st.floats(0, 3), weight=st.sampled_from([0.0, 0.1, 1.0]))
def test_simpo(seed: int, beta: float, gamma: float, weight: float) -> None:
    rows = draw(seed, alike=weight > 0)
    theirs, logged = trl_rows(
        CPOTrainer,
        rows,
        loss_type="simpo",
        beta=beta,
        simpo_gamma=gamma,
        cpo_alpha=weight,
        label_smoothing=0.0,
        alpha=0.0,
    )
    if not weight:
        del logged["nll_loss"]  # TRL does not compute it, and logs 0
    compare(rows, SIMPO, {"beta": beta, "gamma": gamma, "sft_weight": weight}, theirs, logged)


@checked
@given(seed=seeds, beta=st.floats(0.05, 2))
def test_orpo(seed: int, beta: float) -> None:
    rows = draw(
        seed, prompt=1, alike=True
    )  # TRL's cross-entropy counts the prompt: of one token nothing is left
    theirs, logged = trl_rows(ORPOTrainer, rows, beta=beta)
    assert {"log_odds_ratio", "log_odds_chosen", "nll_loss"} <= set(logged)
    compare(rows, ORPO, {"beta": beta}, theirs, logged)
