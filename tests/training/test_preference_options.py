"""Options of preference losses, and losses that plugins bring."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import wraps
from typing import Any, get_type_hints

import pytest
import torch

from lcx import hookimpl, plugins
from lcx.errors import PluginError, UsageError
from lcx.training.losses import (
    DPO,
    LOGO,
    ORPO,
    SIMPO,
    Answers,
    Loss,
    LossOutput,
    find_loss,
    loss_options,
    metric_means,
    preference_metrics,
)
from lcx.training.settings import LOSSES as CORE_LOSSES

LOSSES = [LOGO, SIMPO, DPO, ORPO]


def test_what_dry_runs_check_is_what_the_losses_take() -> None:
    for loss in LOSSES:
        hints = get_type_hints(loss.compute, include_extras=True)
        wanted, defaults = CORE_LOSSES[loss.name]
        assert loss.defaults == defaults
        assert {name: hints[name] for name in defaults} == wanted


def test_options() -> None:
    options = loss_options(LOGO, {"beta": None, "gamma": 0, "sft_weight": "1e-1"})
    assert options == {"beta": 10.0, "gamma": 0.0, "sft_weight": 0.1}
    assert loss_options(DPO, {"ce": "sum"})["ce"] == "sum"
    with pytest.raises(UsageError, match=r"'dpo' has no option 'bta'. Did you mean 'beta'\?") as bad:
        loss_options(DPO, {"bta": 1})
    assert bad.value.why == "it has: beta, ce, sft_weight"
    assert loss_options(DPO, {"gamma": None}) == DPO.defaults


@pytest.mark.parametrize(
    ("loss", "name", "value", "wrong"),
    [
        (LOGO, "beta", 0, "greater than 0, not 0"),
        (LOGO, "beta", "sharp", "valid number.*, not 'sharp'"),
        (LOGO, "gamma", True, "is a number, not True"),
        (SIMPO, "sft_weight", -0.1, "greater than or equal to 0, not -0.1"),
        (ORPO, "beta", math.nan, "finite number"),
        (DPO, "ce", "mean", "'token' or 'sum', not 'mean'"),
        (DPO, "beta", [1], r"valid number, not \[1\]"),
    ],
)
def test_values_that_an_option_cannot_take(loss: Loss, name: str, value: Any, wrong: str) -> None:
    with pytest.raises(UsageError, match=wrong) as bad:
        loss_options(loss, {name: value})
    assert f"the loss '{loss.name}': '{name}'" in bad.value.what


def test_options_without_annotations_go_by_their_default() -> None:
    def compute(answers, **options):  # type: ignore[no-untyped-def]
        raise NotImplementedError

    def unknown(answers: Nowhere, *, steps: Nowhere) -> LossOutput:  # type: ignore[name-defined]  # noqa: F821
        raise NotImplementedError

    for function in (compute, unknown):
        loss = Loss("mine", function, {"steps": 3, "mode": "a", "on": False, "any": None})
        given = {"steps": 4, "mode": "b", "on": True, "any": [1]}
        assert loss_options(loss, given) == given
        for bad in ({"steps": 0.5}, {"steps": True}, {"mode": 3}, {"on": "perhaps"}):
            with pytest.raises(UsageError, match="the loss 'mine'"):
                loss_options(loss, bad)


class Brings:
    """A plugin that registers what it is given."""

    def __init__(self, **losses: Any) -> None:
        self.losses = losses

    @hookimpl
    def lcx_register_losses(self, register: Callable[..., None]) -> None:
        for name, loss in self.losses.items():
            register(name, loss)


def test_the_core_registers_its_losses() -> None:
    losses = plugins.load().losses
    assert {loss.name: find_loss(losses, loss.name) for loss in LOSSES} == {
        loss.name: loss for loss in LOSSES
    }
    assert isinstance(losses.get("logo"), str)  # nothing is imported to list it
    with pytest.raises(UsageError, match=r"unknown loss 'simp'\. Did you mean 'simpo'"):
        find_loss(losses, "simp")


def test_a_plugin_adds_a_loss_and_wraps_one() -> None:
    def hinge(answers: Answers, *, beta: float) -> LossOutput:
        losses = answers.over_rejected(torch.relu(1 - beta * answers.gaps(answers.means)))
        return LossOutput(losses, beta * answers.means.detach(), {"hinge_loss": losses.detach()})

    @wraps(LOGO.compute)
    def doubled(answers: Answers, **options: Any) -> LossOutput:
        inner = find_loss(plugins.loaded().losses, "logo")
        output = inner.compute(answers, **options)
        return replace(output, losses=2 * output.losses)

    mine = Brings(
        hinge=Loss("hinge", hinge, {"beta": 1.0}), doubled=replace(LOGO, name="doubled", compute=doubled)
    )
    losses = plugins.load(extra={"mine": mine}).losses
    assert losses.owner("hinge") == "mine"
    answers = Answers(
        sums=torch.tensor([-3.0, -1.0, -5.0, -2.0, -9.0]),
        lengths=torch.tensor([4.0, 2.0, 3.0, 7.0, 5.0]),
        bundle=torch.tensor([0, 0, 1, 1, 1]),
        chosen=torch.tensor([True, False, True, False, False]),
        prompts=2,
    )
    added = find_loss(losses, "hinge")
    output = added.compute(answers, **loss_options(added, {"beta": 3}))
    # m: -0.75; -0.5 and -5/3; -2/7, -1.8
    expected = [1 + 3 * 0.25, ((1 + 3 * (5 / 3 - 2 / 7)) + (1 + 3 * (5 / 3 - 1.8))) / 2]
    assert output.losses.tolist() == pytest.approx(expected)
    assert metric_means(preference_metrics(answers, output))["hinge_loss"] == pytest.approx(sum(expected) / 2)
    wrapped = find_loss(losses, "doubled")
    with pytest.raises(UsageError, match="greater than 0"):  # its annotations are those of what it wraps
        loss_options(wrapped, {"beta": -1})
    twice, once = (loss.compute(answers, **loss_options(loss, {})) for loss in (wrapped, LOGO))
    assert twice.losses.tolist() == pytest.approx([2 * value for value in once.losses.tolist()])


def test_what_a_plugin_must_not_register() -> None:
    broken = Brings(function=LOGO.compute, lost="lcx.training.losses:KTO", gone="no_such_module:X")
    strangers = {"broken": broken, "again": Brings(logo=LOGO, mine=LOGO), "other": Brings(mine=LOGO)}
    losses = plugins.load(extra=strangers).losses
    with pytest.raises(PluginError, match="'function' of 'broken' is a function, not a Loss"):
        find_loss(losses, "function")
    for name, why in (("lost", "KTO"), ("gone", "no_such_module")):
        with pytest.raises(PluginError, match=f"the loss '{name}' of 'broken' cannot be imported") as bad:
            find_loss(losses, name)
        assert why in bad.value.why
    assert losses.owner("logo") == plugins.CORE, "a stranger's loss of a bundled name takes nothing away"
    with pytest.raises(PluginError, match="two plugins claim the loss 'mine'"):
        find_loss(losses, "mine")
