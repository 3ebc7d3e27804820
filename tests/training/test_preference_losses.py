"""Preference losses against the papers' formulas in plain Python; see test_preference_losses_trl.py for TRL's."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal, getcontext

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lcx.errors import UsageError
from lcx.training import losses as losses_module
from lcx.training.losses import (
    DPO,
    LOGO,
    ORPO,
    SIMPO,
    Answers,
    Loss,
    LossOutput,
    check_roles,
    log_odds,
    metric_means,
    preference_metrics,
)

LOSSES = [LOGO, SIMPO, DPO, ORPO]
named = pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.name)

Prompt = list[tuple[float, int, float]]
"""(sum of log-probs, length, reference sum) of each answer, the chosen one first."""


def pack(
    prompts: list[Prompt], dtype: torch.dtype = torch.float64, order: list[int] | None = None
) -> Answers:
    """The prompts' answers as tensors, in the given order of rows."""
    rows = [(*answer, n, i == 0) for n, prompt in enumerate(prompts) for i, answer in enumerate(prompt)]
    rows = [rows[place] for place in order] if order else rows
    sums, lengths, reference, bundle, chosen = zip(*rows, strict=True)
    return Answers(
        sums=torch.tensor(sums, dtype=dtype, requires_grad=True),
        lengths=torch.tensor(lengths, dtype=dtype),
        bundle=torch.tensor(bundle),
        chosen=torch.tensor(chosen),
        prompts=len(prompts),
        reference=torch.tensor(reference, dtype=dtype),
    )


def grads(answers: Answers, output: LossOutput) -> list[float]:
    """Gradient of the summed losses by each answer's summed log-probability."""
    (found,) = torch.autograd.grad(output.losses.sum(), answers.sums)
    return found.tolist()


def softplus(x: float) -> float:
    return x + math.log1p(math.exp(-x)) if x > 0 else math.log1p(math.exp(x))


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x > 0 else math.exp(x) / (1 + math.exp(x))


def logo(prompt: Prompt, beta: float, gamma: float, sft_weight: float) -> tuple[float, list[float]]:
    """The paper's loss of one prompt, and its derivative by each answer's sum, worked out by hand."""
    (sum_w, length_w, _), *rejected = prompt
    z = beta / length_w * sum_w - gamma
    for sum_l, length_l, _ in rejected:
        z -= beta / len(rejected) / length_l * sum_l
    slope = -sigmoid(-z)
    gradient = [slope * beta / length_w - sft_weight / length_w]
    gradient += [-slope * beta / len(rejected) / length_l for _, length_l, _ in rejected]
    return softplus(-z) - sft_weight * sum_w / length_w, gradient


def pairwise(
    prompt: Prompt, score: Callable[[float, int, float], float], gamma: float, weight: float, per_token: bool
) -> float:
    """−mean over the rejected of log σ(score_w − score_l − γ), plus the weighted cross-entropy."""
    sum_w, length_w, _ = prompt[0]
    total = 0.0
    for rejected in prompt[1:]:
        total += softplus(-(score(*prompt[0]) - score(*rejected) - gamma))
    return total / (len(prompt) - 1) - weight * (sum_w / length_w if per_token else sum_w)


def odds(total: float, length: int, _: float) -> float:
    p = math.exp(total / length)
    return math.log(p / (1 - p))


answer = st.tuples(st.floats(-60, -0.01), st.integers(1, 40), st.floats(-60, -0.01))
weights = st.floats(0, 2)
betas = st.floats(0.01, 12)


def ragged(fewest: int = 1, most: int = 4) -> st.SearchStrategy[list[Prompt]]:
    return st.lists(st.lists(answer, min_size=1 + fewest, max_size=1 + most), min_size=1, max_size=4)


@pytest.mark.parametrize("rejected", [1, 2, 4, None], ids=["M=1", "M=2", "M=4", "ragged"])
@settings(max_examples=40, deadline=None)
@given(data=st.data(), beta=betas, gamma=st.floats(0, 4), weight=weights)
def test_logo_is_the_papers(
    rejected: int | None, data: st.DataObject, beta: float, gamma: float, weight: float
) -> None:
    prompts = data.draw(ragged(rejected, rejected) if rejected else ragged())
    order = data.draw(st.permutations(range(sum(map(len, prompts)))))
    mine = pack(prompts, order=order)
    output = LOGO.compute(mine, beta=beta, gamma=gamma, sft_weight=weight)
    values, slopes = zip(*(logo(prompt, beta, gamma, weight) for prompt in prompts), strict=True)
    assert output.losses.tolist() == pytest.approx(values, rel=1e-9, abs=1e-12)
    expected = [slope for prompt in slopes for slope in prompt]
    assert grads(mine, output) == pytest.approx([expected[place] for place in order], rel=1e-9, abs=1e-12)


@settings(max_examples=40, deadline=None)
@given(prompts=ragged(), beta=betas, gamma=st.floats(0, 4), weight=weights)
def test_pairwise_losses_are_means_over_the_rejected(
    prompts: list[Prompt], beta: float, gamma: float, weight: float
) -> None:
    answers = pack(prompts)

    def by_mean(total: float, length: int, _: float) -> float:
        return beta * total / length

    def by_ratio(total: float, _: int, reference: float) -> float:
        return beta * (total - reference)

    simpo = SIMPO.compute(answers, beta=beta, gamma=gamma, sft_weight=weight).losses.tolist()
    assert simpo == pytest.approx([pairwise(p, by_mean, gamma, weight, True) for p in prompts], rel=1e-9)
    for ce in ("token", "sum"):
        dpo = DPO.compute(answers, beta=beta, sft_weight=weight, ce=ce).losses.tolist()
        expected = [pairwise(p, by_ratio, 0, weight, ce == "token") for p in prompts]
        assert dpo == pytest.approx(expected, rel=1e-9, abs=1e-12)
    orpo = ORPO.compute(answers, beta=beta).losses.tolist()
    expected = [beta * pairwise(p, odds, 0, 0, True) - p[0][0] / p[0][1] for p in prompts]
    assert orpo == pytest.approx(expected, rel=1e-9, abs=1e-12)


@settings(max_examples=30, deadline=None)
@given(prompts=ragged(1, 1), beta=betas, gamma=st.floats(0, 4))
def test_logo_with_one_rejected_and_no_sft_is_simpo(prompts: list[Prompt], beta: float, gamma: float) -> None:
    options = {"beta": beta, "gamma": gamma, "sft_weight": 0.0}
    one, other = pack(prompts), pack(prompts)
    mine, theirs = LOGO.compute(one, **options), SIMPO.compute(other, **options)
    assert mine.losses.tolist() == pytest.approx(theirs.losses.tolist(), rel=1e-12)
    assert grads(one, mine) == pytest.approx(grads(other, theirs), rel=1e-9, abs=1e-15)


@named
def test_gradients_are_those_of_the_values(loss: Loss) -> None:
    torch.manual_seed(1)
    answers = pack([[(-3.0, 4, -2.0), (-1.0, 2, -2.5)], [(-5.0, 3, -4.0), (-2.0, 7, -2.0), (-9.0, 5, -8.0)]])
    options = {**loss.defaults, **({"sft_weight": 0.3} if "sft_weight" in loss.defaults else {})}

    def losses(sums: torch.Tensor) -> torch.Tensor:
        return loss.compute(replace(answers, sums=sums), **options).losses

    assert torch.autograd.gradcheck(losses, (answers.sums,))


@named
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_extremes_stay_finite(loss: Loss, dtype: torch.dtype) -> None:
    extremes = [1e-7, 0.0, -1e-30, -1e-9, -1e-7, -0.5, -88.0, -1e4, -1e6]
    prompts = [
        [(w, 1, -3.0), (a, 1, -3.0), (b, 1, -3.0)] for w in extremes for a in extremes for b in extremes
    ]
    answers = pack(prompts, dtype)
    output = loss.compute(answers, **loss.defaults)
    assert torch.isfinite(output.losses).all()
    assert torch.isfinite(torch.tensor(grads(answers, output))).all()
    for part in output.parts.values():
        assert torch.isfinite(part).all()


def test_log_odds_against_sixty_digits() -> None:
    getcontext().prec = 60
    logps = [-1e-15, -1e-9, -1e-5, -0.01, -0.6931, -1.0, -5.0, -40.0, -700.0]
    exact = [float(Decimal(x).exp().ln() - (1 - Decimal(x).exp()).ln()) for x in logps]
    slopes = [float(1 / (1 - Decimal(x).exp())) for x in logps]
    values = torch.tensor(logps, dtype=torch.float64, requires_grad=True)
    found = log_odds(values)
    (gradient,) = torch.autograd.grad(found.sum(), values)
    assert found.tolist() == pytest.approx(exact, rel=1e-14)
    assert gradient.tolist() == pytest.approx(slopes, rel=1e-12)
    single = log_odds(torch.tensor(logps[2:], dtype=torch.float32))
    assert single.tolist() == pytest.approx(exact[2:], rel=1e-6, abs=1e-6)


@named
def test_what_is_given_and_logged(loss: Loss) -> None:
    """Losses have a graph; rewards, parts and log-probs have none, and the parts add up."""
    answers = pack([[(-3.0, 4, -2.0), (-1.0, 2, -2.5)], [(-5.0, 3, -4.0), (-2.0, 7, -2.0), (-9.0, 5, -8.0)]])
    output = loss.compute(answers, **loss.defaults)
    assert output.losses.shape == (2,)
    assert output.losses.requires_grad
    assert output.logps is not None
    for value in (output.rewards, output.logps, *output.parts.values()):
        assert not value.requires_grad
    assert output.rewards.shape == output.logps.shape == (5,)
    weight = loss.defaults.get("sft_weight", 1.0)
    whole = output.parts["preference_loss"] + weight * output.parts["nll_loss"]
    assert whole.tolist() == pytest.approx(output.losses.tolist())
    beta, sums, lengths, reference = loss.defaults["beta"], answers.sums, answers.lengths, answers.reference
    expected = beta * (sums - reference if loss.reference else sums / lengths)
    assert output.rewards.tolist() == pytest.approx(expected.tolist())
    assert output.logps.tolist() == pytest.approx((sums if loss.reference else sums / lengths).tolist())


def test_defaults() -> None:
    assert LOGO.defaults == {"beta": 10.0, "gamma": 3.0, "sft_weight": 0.1}
    assert SIMPO.defaults == {"beta": 2.0, "gamma": 1.0, "sft_weight": 0.0}
    assert DPO.defaults == {"beta": 0.1, "sft_weight": 0.0, "ce": "token"}
    assert ORPO.defaults == {"beta": 0.1}
    assert [loss.name for loss in LOSSES if loss.reference] == ["dpo"]


def test_metrics_by_hand() -> None:
    """Two prompts, with one and with three rejected answers; rewards are 2 m."""
    answers = pack(
        [
            [(-2.0, 2, 0.0), (-8.0, 4, 0.0)],  # m: -1; -2
            [(-6.0, 3, 0.0), (-1.0, 1, 0.0), (-4.0, 2, 0.0), (-9.0, 3, 0.0)],  # m: -2; -1, -2, -3
        ]
    )
    output = SIMPO.compute(answers, beta=2.0, gamma=0.0, sft_weight=0.0)
    sums = preference_metrics(answers, output)
    assert {name: row.tolist()[1] for name, row in sums.items()} == {
        "rewards/chosen": 2,
        "rewards/rejected": 4,
        "rewards/accuracies": 4,
        "rewards/margins": 4,
        "logps/chosen": 2,
        "logps/rejected": 4,
        "preference_loss": 2,
        "nll_loss": 2,
    }
    first, second = math.log1p(math.exp(-2)), (softplus(2) + softplus(0) + softplus(-2)) / 3
    assert metric_means(sums) == pytest.approx(
        {
            "rewards/chosen": -3.0,
            "rewards/rejected": -4.0,
            "rewards/accuracies": 0.5,  # beats the first prompt's, and one of three; a tie is no win
            "rewards/margins": (2 - 2 + 0 + 2) / 4,
            "logps/chosen": -1.5,
            "logps/rejected": -2.0,
            "preference_loss": (first + second) / 2,
            "nll_loss": 1.5,
        }
    )
    sums = preference_metrics(answers, output, torch.tensor([0.0, 1.0]))  # the first only pads the batch
    alone = metric_means(sums)
    assert alone["rewards/chosen"] == -4.0
    assert alone["rewards/accuracies"] == pytest.approx(1 / 3)
    assert alone["preference_loss"] == pytest.approx(second)
    assert metric_means(preference_metrics(answers, output, torch.zeros(2))) == {}
    assert metric_means({}) == {}


@settings(max_examples=20, deadline=None)
@given(prompts=ragged(), others=ragged())
def test_metrics_of_parts_add_up(prompts: list[Prompt], others: list[Prompt]) -> None:
    def metrics(given: list[Prompt]) -> dict[str, torch.Tensor]:
        answers = pack(given)
        return preference_metrics(answers, DPO.compute(answers, **DPO.defaults))

    one, two, whole = metrics(prompts), metrics(others), metrics(prompts + others)
    assert list(one) == list(two) == list(whole)
    assert metric_means({name: one[name] + two[name] for name in one}) == pytest.approx(metric_means(whole))


def test_logps_are_sums_unless_a_loss_says_otherwise() -> None:
    answers = pack([[(-2.0, 2, 0.0), (-8.0, 4, 0.0)]])
    bare = LossOutput(answers.sums[:1].detach(), answers.sums.detach())
    assert metric_means(preference_metrics(answers, bare))["logps/rejected"] == -8.0


@pytest.mark.parametrize(
    ("bundle", "chosen", "wrong"),
    [
        ([0, 0, 1], [True, False, True], "prompt 1 of the batch has no rejected answer"),
        ([0, 0, 1], [True, False, False], "prompt 1 of the batch has 0 chosen answers"),
        ([0, 0, 1, 1, 1], [True, False, True, True, False], "prompt 1 of the batch has 2 chosen answers"),
        ([0, 0], [True, False], "prompt 1 of the batch has 0 chosen answers"),
    ],
)
def test_prompts_that_cannot_be_compared(bundle: list[int], chosen: list[bool], wrong: str) -> None:
    sums = -torch.ones(len(bundle))
    with pytest.raises(UsageError, match=wrong) as bad:
        Answers(sums, -sums, torch.tensor(bundle), torch.tensor(chosen), 2)
    assert bad.value.hint
    with pytest.raises(UsageError, match=wrong.replace("prompt 1 of the batch", "doc-9/q")):
        check_roles(torch.tensor(bundle), torch.tensor(chosen), 2, names=["doc-1/q", "doc-9/q"])


def test_answers_of_unlike_shapes() -> None:
    ones = torch.ones(2)
    good = (ones, ones, torch.tensor([0, 0]), torch.tensor([True, False]), 1)
    with pytest.raises(ValueError, match=r"reference has the shape \[3\], sums has \[2\]"):
        Answers(*good, reference=torch.ones(3))
    with pytest.raises(ValueError, match=r"outside 0\.\.0"):
        Answers(ones, ones, torch.tensor([0, 1]), torch.tensor([True, False]), 1)
    with pytest.raises(ValueError, match="needs the reference"):
        DPO.compute(Answers(*good), **DPO.defaults)
    with pytest.raises(ValueError, match="'token' or 'sum', not 'mean'"):
        DPO.compute(Answers(*good, reference=ones), beta=1.0, sft_weight=0.0, ce="mean")


@named
def test_nothing_rejected_is_never_a_number(loss: Loss, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where roles are on a GPU and are not read, the loss of a prompt without rejected answers is NaN."""
    monkeypatch.setattr(losses_module, "check_roles", lambda *_: None)
    answers = pack([[(-3.0, 4, -2.0), (-1.0, 2, -2.5)], [(-5.0, 3, -4.0)]])
    assert loss.compute(answers, **loss.defaults).losses.isnan().tolist() == [False, True]
