"""The losses as pure functions of the answers' log-probabilities: supervised ones, preference losses, their metrics.

The public place for whoever brings a loss: `Answers` in, `LossOutput` out, and a `Loss` that names it
(docs/plugins.md).

Notation of the docstrings: a prompt x has one chosen answer w and rejected answers j = 1..M, where M may differ
from prompt to prompt. s = log π(y|x) is an answer's summed log-probability, m = s / |y| its mean over the
answer's tokens, r the reference model's s, σ the logistic function. Shapes: n prompts, b answers in any order.
A loss is one number a prompt; the caller weighs and averages them. Every function here takes fp32 or fp64.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from lcx.errors import PluginError, UsageError
from lcx.modeling.logprobs import token_logprobs
from lcx.plugins import Registry
from lcx.training.settings import LOSSES, NotNegative, Positive, checked_options, option_hints

__all__ = [
    "DPO",
    "LOGO",
    "ORPO",
    "SIMPO",
    "Answers",
    "Loss",
    "LossOutput",
    "branch_means",
    "branch_sums",
    "check_roles",
    "dpo_loss",
    "find_loss",
    "log_odds",
    "logo_loss",
    "loss_options",
    "metric_means",
    "orpo_loss",
    "preference_metrics",
    "sft_loss",
    "simpo_loss",
    "summed_sft_loss",
    "token_logprobs",
]


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
        """The lead of the chosen answer's value over each answer's: [b] to [b], 0 at the chosen ones."""
        return self.of_chosen(values).index_select(0, self.bundle) - values


@dataclass(frozen=True)
class LossOutput:
    """The output of a loss on `Answers`: `losses` [n], one a prompt, and the rest, detached, for the log.

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


def preference_metrics(
    answers: Answers, output: LossOutput, weights: Tensor | None = None
) -> dict[str, Tensor]:
    """The metrics that TRL's trainers log, each as a tensor [2] of sum and count on the device of the answers.

    Entries of micro-batches and processes are added and, at the end, divided (`metric_means`). `weights` [n]
    are the prompts' weights, 1 unless given. Chosen answers count once a prompt, rejected ones each:
    `rewards/accuracies` is the share of rejected answers that their chosen one beats, `rewards/margins` the
    mean lead over them.
    """
    rewards = output.rewards.detach()
    logps = (answers.sums if output.logps is None else output.logps).detach()
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
        **{name: (part.detach(), prompts) for name, part in output.parts.items()},
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


@dataclass(frozen=True)
class Loss:
    """A named preference loss. `compute(answers, **options)` gives a `LossOutput`; `defaults` are all its options.

    `reference` says that it needs reference log-probabilities. Options are checked against the annotations of
    `compute` (which may be pydantic's), or against the type of their default where there are none.
    """

    name: str
    compute: Callable[..., LossOutput]
    defaults: Mapping[str, Any]
    reference: bool = False
    summary: str = ""
    paper: str = ""


def logo_loss(answers: Answers, *, beta: Positive, gamma: NotNegative, sft_weight: NotNegative) -> LossOutput:
    """LOGO: the chosen answer's mean log-probability against the mean of all rejected ones'.

    L = −log σ( β m_w − (β/M) Σ_j m_j − γ ) − λ m_w, where λ is `sft_weight`.

    The paper prints +λ log π(y_w), which would unlearn the chosen answer; the sign here is that of a
    cross-entropy. Each m_j is divided by its own answer's length. Rewards are β m.
    Paper: https://arxiv.org/abs/2410.18533, eq. 3.
    """
    means = answers.means
    chosen = answers.of_chosen(means)
    preference = -logsigmoid(beta * (chosen - answers.over_rejected(means)) - gamma)
    return _with_sft(preference, -chosen, sft_weight, beta * means, means)


def simpo_loss(
    answers: Answers, *, beta: Positive, gamma: NotNegative, sft_weight: NotNegative
) -> LossOutput:
    """SimPO: mean log-probabilities, pair by pair, with a margin and no reference.

    L = −(1/M) Σ_j log σ( β (m_w − m_j) − γ ) − λ m_w, where λ is `sft_weight` (TRL's `cpo_alpha`).

    γ is the paper's, and TRL's `simpo_gamma`; a "gamma_beta_ratio" elsewhere is γ/β. Rewards are β m.
    Paper: https://arxiv.org/abs/2405.14734, eq. 6.
    """
    means = answers.means
    preference = answers.over_rejected(-logsigmoid(beta * answers.gaps(means) - gamma))
    return _with_sft(preference, -answers.of_chosen(means), sft_weight, beta * means, means)


def dpo_loss(
    answers: Answers,
    *,
    beta: Positive,
    sft_weight: NotNegative,
    ce: Literal["token", "sum"],
) -> LossOutput:
    """DPO (sigmoid): log-ratios to a reference model, pair by pair, with a cross-entropy term by choice.

    L = −(1/M) Σ_j log σ( β [ (s_w − r_w) − (s_j − r_j) ] ) − λ c, where λ is `sft_weight` and c is m_w for
    `ce` "token" and s_w for "sum".

    Needs `answers.reference`, else ValueError. Rewards are β (s − r). TRL's "sft" loss type takes the mean over
    all chosen tokens of a batch; here each prompt counts alike.
    Papers: https://arxiv.org/abs/2305.18290, eq. 7; the cross-entropy as in https://arxiv.org/abs/2410.21252.
    """
    if answers.reference is None:
        raise ValueError("DPO needs the reference model's log-probabilities")
    if ce not in ("token", "sum"):
        raise ValueError(f"ce is 'token' or 'sum', not '{ce}'")
    ratios = answers.sums - answers.reference.detach()
    preference = answers.over_rejected(-logsigmoid(beta * answers.gaps(ratios)))
    nll = -answers.of_chosen(answers.means if ce == "token" else answers.sums)
    return _with_sft(preference, nll, sft_weight, beta * ratios, answers.sums)


def orpo_loss(answers: Answers, *, beta: Positive) -> LossOutput:
    """ORPO: cross-entropy of the chosen answer plus the log odds ratio of each pair, with no reference.

    L = −m_w − (β/M) Σ_j log σ( o_w − o_j ), where o = log( p / (1 − p) ) and p = exp m.

    The cross-entropy counts answer tokens, as in the paper; TRL's counts the prompt's too. Rewards are β m.
    Paper: https://arxiv.org/abs/2403.07691, eq. 6 and 7.
    """
    means = answers.means
    odds = answers.gaps(log_odds(means))
    ratio = answers.over_rejected(logsigmoid(odds))
    output = _with_sft(-beta * ratio, -answers.of_chosen(means), 1.0, beta * means, means)
    extra = {"log_odds_ratio": ratio.detach(), "log_odds_chosen": answers.over_rejected(odds.detach())}
    return LossOutput(output.losses, output.rewards, {**output.parts, **extra}, output.logps)


def log_odds(logp: Tensor) -> Tensor:
    """log( p / (1 − p) ) of log-probabilities of any shape; finite, with a finite gradient, also at p = 1.

    Written with expm1, 1 − p loses no digits near p = 1, and no branch has a gradient that overflows. A log p
    that rounding has pushed to 0 or above counts as the largest that the type can tell from 0.
    """
    logp = logp.clamp(max=-torch.finfo(logp.dtype).eps)
    return logp - torch.log(-torch.expm1(logp))


def _with_sft(preference: Tensor, nll: Tensor, weight: float, rewards: Tensor, logps: Tensor) -> LossOutput:
    """preference + weight · nll, with both parts, the rewards and the log-probabilities for the log."""
    parts = {"preference_loss": preference.detach(), "nll_loss": nll.detach()}
    losses = preference + weight * nll if weight else preference
    return LossOutput(losses, rewards.detach(), parts, logps.detach())


LOGO = Loss(
    name="logo",
    compute=logo_loss,
    defaults=LOSSES["logo"][1],
    summary="one chosen against the mean of any number of rejected answers, by length, with a margin",
    paper="https://arxiv.org/abs/2410.18533",
)
SIMPO = Loss(
    name="simpo",
    compute=simpo_loss,
    defaults=LOSSES["simpo"][1],
    summary="pairs by length-normalised log-probability, with a margin, no reference",
    paper="https://arxiv.org/abs/2405.14734",
)
DPO = Loss(
    name="dpo",
    compute=dpo_loss,
    defaults=LOSSES["dpo"][1],
    reference=True,
    summary="pairs by log-ratio to a reference model, with a cross-entropy term by choice",
    paper="https://arxiv.org/abs/2305.18290",
)
ORPO = Loss(
    name="orpo",
    compute=orpo_loss,
    defaults=LOSSES["orpo"][1],
    summary="cross-entropy of the chosen answer plus the odds ratio of each pair, no reference",
    paper="https://arxiv.org/abs/2403.07691",
)


def find_loss(losses: Registry, name: str) -> Loss:
    """The loss of that name in `plugins.loaded().losses`.

    Raises UsageError where there is none, PluginError where its plugin gives something else or fails.
    """
    loss = losses.load(name)
    if not isinstance(loss, Loss):
        raise PluginError(
            f"the loss '{name}' of '{losses.owner(name)}' is a {type(loss).__name__}, not a Loss",
            hint='Register a `Loss` of lcx.training.losses, or "module:attribute" of one.',
        )
    return loss


def loss_options(loss: Loss, given: Mapping[str, Any]) -> dict[str, Any]:
    """The loss's defaults with the given options that are not None.

    Raises UsageError for an option that the loss does not have, or a value that it cannot take.
    """
    given = {name: value for name, value in given.items() if value is not None}
    return checked_options(loss.name, loss.defaults, option_hints(loss.compute), given)
