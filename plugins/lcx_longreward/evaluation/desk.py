"""What the tasks of one eval step share: settings, models, journal, statistics, counts."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from lcx.context import Context
from lcx.llm.client import LLMClient, Service
from lcx.work.journal import Journal
from lcx_longreward.eval_settings import LongRewardEval
from lcx_longreward.evaluation.answers import Answerer, Subject
from lcx_longreward.evaluation.results import Statistics


@dataclass
class Desk:
    """Handed to every task. `mine` is the model under evaluation, `other` the one it is compared with."""

    settings: LongRewardEval
    folder: Path
    service: Service
    journal: Journal
    ctx: Context
    answerer: Answerer
    mine: Subject
    other: Subject | None = None
    counts: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)

    @property
    def statistics(self) -> Statistics:
        return Statistics.of(self.settings)

    @property
    def judge(self) -> LLMClient:
        return self.service.client(self.settings.judge, self.settings.judge_options)

    @property
    def lanes(self) -> int:
        """Questions in the judge's hands at a time: a kill may cost what a local judge has not yet finished."""
        local = self.settings.judge.startswith("local:")
        return self.settings.batch if local else self.settings.concurrency
