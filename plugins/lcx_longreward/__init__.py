"""LongReward: a judge scores sampled answers on four dimensions, and the best is preferred to the worst in training.

Questions about long documents are answered ten times by the model that is to be trained; another model rates each
answer's helpfulness, logicality, faithfulness and completeness, and best against worst become preference pairs. This
plugin brings the data, the judge and the evaluations; training is the core's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from lcx import hookimpl


@hookimpl
def lcx_register_methods(register: Callable[..., None]) -> None:
    from lcx.steps import EVAL, PREFERENCE, Method, Stage
    from lcx_longreward.settings import LongRewardEval, LongRewardScore, LongRewardSynth, LongRewardTrain

    register(
        Method(
            "longreward",
            "Sampled answers scored by a judge on four dimensions; best against worst trained with DPO",
            stages={
                "synth": Stage(
                    LongRewardSynth,
                    "lcx_longreward.synth:synth",
                    "lcx_longreward.synth:forecast",
                ),
                "score": Stage(
                    LongRewardScore,
                    "lcx_longreward.score:score",
                    "lcx_longreward.score:forecast",
                ),
                "train": replace(PREFERENCE, settings=LongRewardTrain),
                "eval": replace(EVAL, settings=LongRewardEval),
            },
            paper="https://arxiv.org/abs/2410.21252",
        )
    )


@hookimpl
def lcx_register_probes(register: Callable[..., None]) -> None:
    for name in ("reward", "chat", "qa", "summary", "versus", "support", "short"):
        register(name, f"lcx_longreward.judged:{name.upper()}_TASK")
