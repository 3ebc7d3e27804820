"""SEALONG (arXiv 2411.08147): a model's answers are preferred by how much they agree with its others."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from lcx import hookimpl
from lcx.settings import FILE, Settings, setting
from lcx.steps import EVAL, PREFERENCE, Method, Stage

HOOK_API = 2


class Score(Settings):
    """Settings of the stage `score`."""

    input: str | None = setting(
        None, description="answers to score: step:ID or a folder of bundles with candidates"
    )
    similarity: str = setting(
        "words",
        description="how alike two answers are: words (the F1 of their words), or a retriever's spec (its nearest)",
        json_schema_extra=FILE,
    )
    similarity_options: dict[str, Any] = setting({}, description="options of the retriever")
    near: int = setting(
        3, ge=1, description="with a retriever: an answer agrees with so many of the nearest others"
    )
    least: int = setting(3, ge=2, description="answers that a question needs")
    margin: float = setting(0.05, ge=0, le=1, description="least lead of the chosen answer's agreement")
    low: float = setting(
        0.5, gt=0, le=1, description="share of the answers, the lowest, that the rejected is drawn from"
    )
    seed: int = setting(0, description="the draw of rejected answers follows from it")

    def check_names(self, plugins: Any) -> None:
        super().check_names(plugins)
        if self.similarity != "words":
            plugins.retrievers.get(self.similarity.partition(":")[0])


@hookimpl
def lcx_register_methods(register: Any) -> None:
    score = Stage(Score, "lcx_sealong.score:score")
    stages = {"score": score, "train": replace(PREFERENCE), "eval": EVAL}
    register(
        Method(
            "sealong",
            "the answer that others agree with, preferred",
            stages,
            "https://arxiv.org/abs/2411.08147",
        )
    )


@hookimpl
def lcx_register_recipes(register: Any) -> None:
    register(Path(__file__).parent / "recipes")
