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
    from lcx.steps import PREFERENCE, Method, Stage
    from lcx_longreward.eval_settings import LongRewardEval
    from lcx_longreward.settings import LongRewardScore, LongRewardSynth, LongRewardTrain

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
                "eval": Stage(
                    LongRewardEval,
                    "lcx_longreward.evaluation.evaluate:evaluate",
                    "lcx_longreward.evaluation.evaluate:forecast_eval",
                ),
            },
            paper="https://arxiv.org/abs/2410.21252",
        )
    )
