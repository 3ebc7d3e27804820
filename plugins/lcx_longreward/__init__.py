"""LongReward: a judge scores sampled answers on four dimensions, and the best is preferred to the worst in training.

Questions about long documents are answered ten times by the model that is to be trained; another model rates each
answer's helpfulness, logicality, faithfulness and completeness, and best against worst become preference pairs. This
plugin brings the data, the judge and the evaluations; training is the core's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from lcx import hookimpl

if TYPE_CHECKING:
    from lcx.context import Context, StepResult
    from lcx.recipe import Step
    from lcx.run import Run

NAME = "longreward"


@hookimpl
def lcx_register_methods(register: Callable[..., None]) -> None:
    from lcx.methods import Method
    from lcx_longreward.eval_settings import LongRewardEval
    from lcx_longreward.settings import LongRewardScore, LongRewardTrain
    from lcx_longreward.synth_settings import LongRewardSynth

    register(
        Method(
            name=NAME,
            summary="Sampled answers scored by a judge on four dimensions; best against worst trained with DPO",
            stages={
                "synth": LongRewardSynth,
                "score": LongRewardScore,
                "train": LongRewardTrain,
                "eval": LongRewardEval,
            },
            paper="https://arxiv.org/abs/2410.21252",
        )
    )


@hookimpl
def lcx_synth(step: Step, run: Run, ctx: Context) -> StepResult | None:
    if step.method != NAME:
        return None
    from lcx_longreward.synth.synth import synth

    return synth(step, run, ctx)


@hookimpl
def lcx_score(step: Step, run: Run, ctx: Context) -> StepResult | None:
    if step.method != NAME:
        return None
    from lcx_longreward.score.score import score

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
    from lcx_longreward.evaluation.evaluate import evaluate

    return evaluate(step, run, ctx)


@hookimpl
def lcx_forecast(step: Step, run: Run, ctx: Context) -> dict[str, Any] | None:
    if step.method != NAME:
        return None
    if step.stage == "synth":
        from lcx_longreward.synth.forecast import forecast_synth

        return forecast_synth(step, run)
    if step.stage == "score":
        from lcx_longreward.score.forecast import forecast_score

        return forecast_score(step, run)
    if step.stage == "eval":
        from lcx_longreward.evaluation.forecast import forecast_eval

        return forecast_eval(step, run, ctx.plugins)
    from lcx.steps import forecast_step

    return forecast_step(step, run, ctx)
