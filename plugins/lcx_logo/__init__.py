"""LOGO (long context alignment by preference): a model learns to answer from the right chunks of a long context.

The method lets the model answer a question from the chunks that matter and from chunks that do not, and trains it to
prefer the first answer where both kinds stand in one context, at positions spread over a longer window. Training and
evaluation are the core's; this plugin brings the data.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from lcx import hookimpl

if TYPE_CHECKING:
    from lcx.context import Context, StepResult
    from lcx.recipe import Step
    from lcx.run import Run

NAME = "logo"


@hookimpl
def lcx_register_methods(register: Callable[..., None]) -> None:
    from lcx.evaluation.settings import EvalSettings
    from lcx.methods import Method
    from lcx_logo.settings import LogoScore, LogoSynth, LogoTrain

    register(
        Method(
            name=NAME,
            summary="Preference of answers from the right chunks over answers from wrong ones, in a widened window",
            stages={"synth": LogoSynth, "score": LogoScore, "train": LogoTrain, "eval": EvalSettings},
            paper="https://arxiv.org/abs/2410.18533",
        )
    )


@hookimpl
def lcx_synth(step: Step, run: Run, ctx: Context) -> StepResult | None:
    if step.method != NAME:
        return None
    from lcx_logo.synth import synth

    return synth(step, run, ctx)


@hookimpl
def lcx_score(step: Step, run: Run, ctx: Context) -> StepResult | None:
    if step.method != NAME:
        return None
    from lcx_logo.score import score

    return score(step, run, ctx)


@hookimpl
def lcx_train(step: Step, run: Run, ctx: Context) -> StepResult | None:
    if step.method != NAME:
        return None
    from lcx.training.train import preference_step

    return preference_step(step, run, ctx)


@hookimpl
def lcx_eval(step: Step, run: Run, ctx: Context) -> StepResult | None:
    if step.method != NAME:
        return None
    from lcx.evaluation.step import eval_step

    return eval_step(step, run, ctx)


@hookimpl
def lcx_forecast(step: Step, run: Run, ctx: Context) -> dict[str, Any] | None:
    if step.method != NAME:
        return None
    if step.stage in ("synth", "score"):
        from lcx_logo.forecast import forecast_score, forecast_synth

        return forecast_synth(step) if step.stage == "synth" else forecast_score(step, run)
    from lcx.steps import forecast_step

    return forecast_step(step, run, ctx)
