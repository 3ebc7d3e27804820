"""IN2 (information-intensive training, FILM-7B): questions whose evidence sits anywhere in a long context.

The method writes question-answer pairs about short segments, hides those segments at random places of long contexts,
and trains on the answers. Training and evaluation are the core's; this plugin brings the data.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from lcx import hookimpl

if TYPE_CHECKING:
    from lcx.context import Context, StepResult
    from lcx.recipe import Step
    from lcx.run import Run

NAME = "in2"


@hookimpl
def lcx_register_methods(register: Callable[..., None]) -> None:
    from lcx.evaluation.settings import EvalSettings
    from lcx.methods import Method
    from lcx.training.settings import TrainSettings
    from lcx_in2.settings import In2Score, In2Synth

    register(
        Method(
            name=NAME,
            summary="QA whose evidence sits anywhere in a 4K-32K context of ~128-token segments",
            stages={"synth": In2Synth, "score": In2Score, "train": TrainSettings, "eval": EvalSettings},
            paper="https://arxiv.org/abs/2404.16811",
        )
    )


@hookimpl
def lcx_synth(step: Step, run: Run, ctx: Context) -> StepResult | None:
    if step.method != NAME:
        return None
    from lcx_in2.synth import synth

    return synth(step, run, ctx)


@hookimpl
def lcx_score(step: Step, run: Run, ctx: Context) -> StepResult | None:
    if step.method != NAME:
        return None
    from lcx_in2.score import score

    return score(step, run, ctx)


@hookimpl
def lcx_train(step: Step, run: Run, ctx: Context) -> StepResult | None:
    if step.method != NAME:
        return None
    from lcx.training.train import train_step

    return train_step(step, run, ctx)


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
        from lcx_in2.forecast import forecast_score, forecast_synth

        return forecast_synth(step) if step.stage == "synth" else forecast_score(step, run)
    from lcx.steps import forecast_step

    return forecast_step(step, run, ctx)
