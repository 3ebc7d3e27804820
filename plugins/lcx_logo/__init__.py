"""LOGO (long context alignment by preference): a model learns to answer from the right chunks of a long context.

The method lets the model answer a question from the chunks that matter and from chunks that do not, and trains it to
prefer the first answer where both kinds stand in one context, at positions spread over a longer window. Training and
evaluation are the core's; this plugin brings the data.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from lcx import hookimpl


@hookimpl
def lcx_register_methods(register: Callable[..., None]) -> None:
    from lcx.steps import EVAL, PREFERENCE, Method, Stage
    from lcx_logo.settings import LogoScore, LogoSynth, LogoTrain

    register(
        Method(
            "logo",
            "Preference of answers from the right chunks over answers from wrong ones, in a widened window",
            stages={
                "synth": Stage(LogoSynth, "lcx_logo.synth:synth", "lcx_logo.synth:forecast"),
                "score": Stage(LogoScore, "lcx_logo.score:score", "lcx_logo.score:forecast"),
                "train": replace(PREFERENCE, settings=LogoTrain),
                "eval": EVAL,
            },
            paper="https://arxiv.org/abs/2410.18533",
        )
    )
