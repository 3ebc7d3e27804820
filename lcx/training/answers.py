"""The answers of a batch's prompts as a preference loss sees them, what it makes of them, and their metrics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from lcx.errors import UsageError

__all__ = ["Answers", "Judged", "check_roles", "metric_means", "preference_metrics"]


@dataclass(frozen=True)
class Answers:
    """The answers of some prompts: `sums` [b] are log π(y|x), `lengths` [b] the numbers of answer tokens.

    `bundle` [b] is the number of each answer's prompt (0..prompts-1) and `chosen` [b] is true for the one
    chosen answer of a prompt. `reference` [b] are the reference model's sums, for a loss that asks for them.
    What stands in `bundle` and `chosen` is checked (`check_roles`) where they are on the CPU: reading them
    from a GPU would wait for it. There, a prompt without rejected answers has a loss of NaN.
    """

    sums: Tensor
    lengths: Tensor
    bundle: Tensor
    chosen: Tensor
    prompts: int
    reference: Tensor | None = None

    def __post_init__(self) -> None:
        for name in ("lengths", "bundle", "chosen", "reference"):
            value = getattr(self, name)
            if value is not None and value.shape != self.sums.shape:
                raise ValueError(
                    f"{name} has the shape {list(value.shape)}, sums has {list(self.sums.shape)}"
                )
        if self.bundle.device.type == self.chosen.device.type == "cpu":
            check_roles(self.bundle, self.chosen, self.prompts)

    @property
    def means(self) -> Tensor:
        """m [b]: the mean log-probability of each answer's tokens."""
        return self.sums / self.lengths

    def of_chosen(self, values: Tensor) -> Tensor:
        """The chosen answer's value for each prompt: [b] to [n]."""
        return values.new_zeros(self.prompts).index_add(0, self.bundle, values.where(self.chosen, 0))

    def over_rejected(self, values: Tensor) -> Tensor:
        """The mean over each prompt's rejected answers: [b] to [n]; what stands at chosen ones is not read."""
        rejected = ~self.chosen
        total = values.new_zeros(self.prompts).index_add(0, self.bundle, values.where(rejected, 0))
        return total / values.new_zeros(self.prompts).index_add(0, self.bundle, rejected.to(values.dtype))

    def gaps(self, values: Tensor) -> Tensor:
        """How far the chosen answer's value lies above each answer's: [b] to [b], 0 at the chosen ones."""
        return self.of_chosen(values).index_select(0, self.bundle) - values


@dataclass(frozen=True)
class Judged:
    """What a loss makes of `Answers`: `losses` [n], one a prompt, and the rest, detached, for the log.

    `rewards` [b] are the implicit rewards that TRL logs for the loss. `parts` are further numbers [n] by the
    name under which they are logged. `logps` [b] is what the log shows as an answer's log-probability: the
    sums unless given.
    """

    losses: Tensor
    rewards: Tensor
    parts: Mapping[str, Tensor] = field(default_factory=dict)
    logps: Tensor | None = None


def check_roles(bundle: Tensor, chosen: Tensor, prompts: int, names: Sequence[str] = ()) -> None:
    """Raise UsageError where a prompt has not exactly one chosen and at least one rejected answer.

    bundle [b], chosen [b], both on the CPU; `names` are what the error calls the prompts.
    """
    if len(bundle) and not 0 <= int(bundle.min()) <= int(bundle.max()) < prompts:
        raise ValueError(f"prompt numbers lie outside 0..{prompts - 1}")
    good = torch.bincount(bundle[chosen], minlength=prompts).tolist()
    bad = torch.bincount(bundle[~chosen], minlength=prompts).tolist()
    for number, (wins, losses) in enumerate(zip(good, bad, strict=True)):
        if wins != 1 or not losses:
            name = names[number] if number < len(names) else f"prompt {number} of the batch"
            wrong = "no rejected answer" if wins == 1 else f"{wins} chosen answers"
            raise UsageError(
                f"{name} has {wrong}",
                why="a preference compares exactly one chosen answer with one or more rejected ones",
                hint="Drop the prompt, or make its pairs again: `lcx synth` or `lcx score` with the same recipe.",
            )


def preference_metrics(answers: Answers, judged: Judged, weights: Tensor | None = None) -> dict[str, Tensor]:
    """What TRL's trainers log, each as a tensor [2] of sum and count on the device of the answers.

    Entries of micro-batches and processes are added and, at the end, divided (`metric_means`). `weights` [n]
    are the prompts' weights, 1 unless given. Chosen answers count once a prompt, rejected ones each:
    `rewards/accuracies` is the share of rejected answers that their chosen one beats, `rewards/margins` the
    mean lead over them.
    """
    rewards = judged.rewards.detach()
    logps = (answers.sums if judged.logps is None else judged.logps).detach()
    prompts = rewards.new_ones(answers.prompts) if weights is None else weights.to(rewards.dtype)
    each = prompts.index_select(0, answers.bundle)
    chosen, rejected = each.where(answers.chosen, 0), each.where(~answers.chosen, 0)
    leads = answers.gaps(rewards)
    rows = {
        "rewards/chosen": (rewards, chosen),
        "rewards/rejected": (rewards, rejected),
        "rewards/accuracies": ((leads > 0).to(rewards.dtype), rejected),
        "rewards/margins": (leads, rejected),
        "logps/chosen": (logps, chosen),
        "logps/rejected": (logps, rejected),
        **{name: (part.detach(), prompts) for name, part in judged.parts.items()},
    }
    return {
        name: torch.stack([(value * weight).sum(), weight.sum()]) for name, (value, weight) in rows.items()
    }


def metric_means(sums: Mapping[str, Tensor]) -> dict[str, float]:
    """Means of added-up `preference_metrics`, reading the device once; what was never counted is left out."""
    if not sums:
        return {}
    rows = torch.stack(list(sums.values())).tolist()
    return {name: total / count for name, (total, count) in zip(sums, rows, strict=True) if count}
