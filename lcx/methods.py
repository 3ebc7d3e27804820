"""A method: a name and, for each stage it serves, the schema of that stage's settings. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from lcx.settings import Settings

STAGES = ("synth", "score", "train", "eval")


@dataclass(frozen=True)
class Method:
    """What a plugin registers so that recipes can name it. `stages` maps a stage to its settings class."""

    name: str
    summary: str
    stages: Mapping[str, type[Settings]]
    paper: str = ""

    def __post_init__(self) -> None:
        wrong = set(self.stages) - set(STAGES)
        if wrong:
            raise ValueError(f"method {self.name}: no such stage: {', '.join(sorted(wrong))}")
