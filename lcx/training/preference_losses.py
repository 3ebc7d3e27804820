"""Preference losses as pure functions of the answers' log-probabilities, and the objects that name them.

Notation of the docstrings: a prompt x has one chosen answer w and rejected answers j = 1..M, where M may differ
from prompt to prompt. s = log π(y|x) is an answer's summed log-probability, m = s / |y| its mean over the
answer's tokens, r the reference model's s, σ the logistic function. Shapes: n prompts, b answers in any order.
A loss is one number a prompt; the caller weighs and averages them. Every function here takes fp32 or fp64.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_type_hints

import torch
from pydantic import Field, TypeAdapter, ValidationError
from torch import Tensor
from torch.nn.functional import logsigmoid

from lcx.errors import PluginError, UsageError, suggestion
from lcx.plugins import Registry
from lcx.training.answers import Answers, Judged, check_roles, metric_means, preference_metrics

__all__ = [
    "DPO",
    "LOGO",
    "ORPO",
    "SIMPO",
    "Answers",
    "Judged",
    "Loss",
    "check_roles",
    "dpo_loss",
    "find_loss",
    "log_odds",
    "logo_loss",
    "loss_options",
    "metric_means",
    "orpo_loss",
    "preference_metrics",
    "simpo_loss",
]

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]


@dataclass(frozen=True)
class Loss:
    """A named preference loss. `compute(answers, **options)` gives a `Judged`; `defaults` are all its options.

    `reference` says that it needs reference log-probabilities. Options are checked against the annotations of
    `compute` (which may be pydantic's), or against the type of their default where there are none.
    """

    name: str
    compute: Callable[..., Judged]
    defaults: Mapping[str, Any]
    reference: bool = False
    summary: str = ""
    paper: str = ""


def logo_loss(answers: Answers, *, beta: Positive, gamma: NotNegative, sft_weight: NotNegative) -> Judged:
    """LOGO: the chosen answer's mean log-probability against the mean of all rejected ones'.

    L = −log σ( β m_w − (β/M) Σ_j m_j − γ ) − λ m_w, where λ is `sft_weight`.

    The paper prints +λ log π(y_w), which would unlearn the chosen answer; the sign here is that of a
    cross-entropy. Each m_j is divided by its own answer's length. Rewards are β m.
    Paper: https://arxiv.org/abs/2410.18533, eq. 3.
    """
    means = answers.means
    chosen = answers.of_chosen(means)
    preference = -logsigmoid(beta * (chosen - answers.over_rejected(means)) - gamma)
    return _judged(preference, -chosen, sft_weight, beta * means, means)


def simpo_loss(answers: Answers, *, beta: Positive, gamma: NotNegative, sft_weight: NotNegative) -> Judged:
    """SimPO: mean log-probabilities, pair by pair, with a margin and no reference.

    L = −(1/M) Σ_j log σ( β (m_w − m_j) − γ ) − λ m_w, where λ is `sft_weight` (TRL's `cpo_alpha`).

    γ is the paper's, and TRL's `simpo_gamma`; a "gamma_beta_ratio" elsewhere is γ/β. Rewards are β m.
    Paper: https://arxiv.org/abs/2405.14734, eq. 6.
    """
    means = answers.means
    preference = answers.over_rejected(-logsigmoid(beta * answers.gaps(means) - gamma))
    return _judged(preference, -answers.of_chosen(means), sft_weight, beta * means, means)


def dpo_loss(
    answers: Answers,
    *,
    beta: Positive,
    sft_weight: NotNegative,
    ce: Literal["token", "sum"],
) -> Judged:
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
    return _judged(preference, nll, sft_weight, beta * ratios, answers.sums)


def orpo_loss(answers: Answers, *, beta: Positive) -> Judged:
    """ORPO: cross-entropy of the chosen answer plus the log odds ratio of each pair, with no reference.

    L = −m_w − (β/M) Σ_j log σ( o_w − o_j ), where o = log( p / (1 − p) ) and p = exp m.

    The cross-entropy counts answer tokens, as in the paper; TRL's counts the prompt's too. Rewards are β m.
    Paper: https://arxiv.org/abs/2403.07691, eq. 6 and 7.
    """
    means = answers.means
    odds = answers.gaps(log_odds(means))
    ratio = answers.over_rejected(logsigmoid(odds))
    judged = _judged(-beta * ratio, -answers.of_chosen(means), 1.0, beta * means, means)
    extra = {"log_odds_ratio": ratio.detach(), "log_odds_chosen": answers.over_rejected(odds.detach())}
    return Judged(judged.losses, judged.rewards, {**judged.parts, **extra}, judged.logps)


def log_odds(logp: Tensor) -> Tensor:
    """log( p / (1 − p) ) of log-probabilities of any shape; finite, with a finite gradient, also at p = 1.

    Written with expm1, 1 − p loses no digits near p = 1, and no branch has a gradient that overflows. A log p
    that rounding has pushed to 0 or above counts as the largest that the type can tell from 0.
    """
    logp = logp.clamp(max=-torch.finfo(logp.dtype).eps)
    return logp - torch.log(-torch.expm1(logp))


def _judged(preference: Tensor, nll: Tensor, weight: float, rewards: Tensor, logps: Tensor) -> Judged:
    """preference + weight · nll, with both parts, the rewards and the log-probabilities for the log."""
    parts = {"preference_loss": preference.detach(), "nll_loss": nll.detach()}
    losses = preference + weight * nll if weight else preference
    return Judged(losses, rewards.detach(), parts, logps.detach())


LOGO = Loss(
    name="logo",
    compute=logo_loss,
    defaults={"beta": 10.0, "gamma": 3.0, "sft_weight": 0.1},
    summary="one chosen against the mean of any number of rejected answers, by length, with a margin",
    paper="https://arxiv.org/abs/2410.18533",
)
SIMPO = Loss(
    name="simpo",
    compute=simpo_loss,
    defaults={"beta": 2.0, "gamma": 1.0, "sft_weight": 0.0},
    summary="pairs by length-normalised log-probability, with a margin, no reference",
    paper="https://arxiv.org/abs/2405.14734",
)
DPO = Loss(
    name="dpo",
    compute=dpo_loss,
    defaults={"beta": 0.1, "sft_weight": 0.0, "ce": "token"},
    reference=True,
    summary="pairs by log-ratio to a reference model, with a cross-entropy term by choice",
    paper="https://arxiv.org/abs/2305.18290",
)
ORPO = Loss(
    name="orpo",
    compute=orpo_loss,
    defaults={"beta": 0.1},
    summary="cross-entropy of the chosen answer plus the odds ratio of each pair, no reference",
    paper="https://arxiv.org/abs/2403.07691",
)


def find_loss(losses: Registry, name: str) -> Loss:
    """The loss of that name in `plugins.loaded().losses`.

    Raises UsageError where there is none, PluginError where its plugin gives something else or fails.
    """
    losses.get(name)  # an unknown name is the user's error, whatever fails after it is the plugin's
    try:
        loss = losses.load(name)
    except (ImportError, AttributeError) as failure:
        raise PluginError(
            f"the loss '{name}' of '{losses.owner(name)}' cannot be imported", why=str(failure)
        ) from failure
    if not isinstance(loss, Loss):
        raise PluginError(
            f"the loss '{name}' of '{losses.owner(name)}' is a {type(loss).__name__}, not a Loss",
            hint='Register a `Loss` of lcx.training.preference_losses, or "module:attribute" of one.',
        )
    return loss


def loss_options(loss: Loss, given: Mapping[str, Any]) -> dict[str, Any]:
    """The loss's defaults with the given options that are not None.

    Raises UsageError for an option that the loss does not have, or a value that it cannot take.
    """
    options = dict(loss.defaults)
    try:
        hints = get_type_hints(loss.compute, include_extras=True)
    except (NameError, TypeError):  # a stranger's annotations need not resolve
        hints = {}
    for name, value in given.items():
        if value is None:
            continue
        if name not in loss.defaults:
            near = suggestion(name, loss.defaults)
            raise UsageError(
                f"the loss '{loss.name}' has no option '{name}'{'. ' if near else ''}{near}",
                why=f"it has: {', '.join(sorted(loss.defaults)) or 'none'}",
                hint="`lcx recipes show NAME --origin` prints where the value comes from.",
            )
        options[name] = _checked(loss, name, value, hints.get(name))
    return options


def _checked(loss: Loss, name: str, value: Any, hint: Any) -> Any:
    """An option's value by its annotation, or by the type of its default. Numbers may come as strings."""
    default = loss.defaults[name]
    if hint is None:
        hint = Any if default is None else type(default)
    try:
        if isinstance(value, bool) and isinstance(default, int | float) and not isinstance(default, bool):
            raise UsageError(f"the loss '{loss.name}': '{name}' is a number, not {value!r}")
        return TypeAdapter(hint).validate_python(value)
    except ValidationError as bad:
        message = bad.errors()[0]["msg"]
        raise UsageError(
            f"the loss '{loss.name}': '{name}': {message[:1].lower()}{message[1:]}, not {value!r}"
        ) from None
