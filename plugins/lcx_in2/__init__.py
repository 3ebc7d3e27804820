"""IN2 (information-intensive training, FILM-7B): questions whose evidence sits anywhere in a long context.

The method writes question-answer pairs about short segments, hides those segments at random places of long contexts,
and trains on the answers. Training and evaluation are the core's; this plugin brings the data.
"""

from __future__ import annotations

from collections.abc import Callable

from lcx import hookimpl


@hookimpl
def lcx_register_methods(register: Callable[..., None]) -> None:
    from lcx.steps import EVAL, TRAIN, Method, Stage
    from lcx_in2.settings import In2Score, In2Synth

    register(
        Method(
            "in2",
            "QA whose evidence sits anywhere in a 4K-32K context of ~128-token segments",
            stages={
                "synth": Stage(In2Synth, "lcx_in2.synth:synth", "lcx_in2.synth:forecast"),
                "score": Stage(In2Score, "lcx_in2.score:score", "lcx_in2.score:forecast"),
                "train": TRAIN,
                "eval": EVAL,
            },
            paper="https://arxiv.org/abs/2404.16811",
        )
    )
