"""LongBench's sets: what kind of task each is, how it is scored, and how long an answer may be.

Facts of the benchmark (Bai et al., 2308.14508, and its published configuration).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from lcx.evaluation import metrics
from lcx.evaluation.metrics import Metric
from lcx.evaluation.suites.names import BY_CATEGORY, E_NAMES

__all__ = ["E_SETS", "SETS", "LongBenchSet"]


@dataclass(frozen=True)
class LongBenchSet:
    """One set. `tokens` is the length of an answer, `rows` how many questions are published.

    `first_line`: only the first line of a prediction counts. `chat` is off where a model only continues a text.
    """

    name: str
    metric: Metric
    tokens: int
    language: str = "en"
    rows: int = 200
    first_line: bool = False
    chat: bool = True

    @property
    def category(self) -> str:
        return next(category for category, names in BY_CATEGORY.items() if self.name in names)

    @property
    def qa(self) -> bool:
        """Whether FILM scores the first paragraph of a prediction only."""
        return self.metric is metrics.f1

    @property
    def needs_classes(self) -> bool:
        return self.metric is metrics.classification

    @property
    def published(self) -> Metric:
        """The metric as the published code computes it."""
        return metrics.classification_as_published if self.needs_classes else self.metric


def _shots(name: str, metric: Metric, tokens: int, language: str = "en") -> LongBenchSet:
    """A set whose context is a row of examples: the model continues it, and goes on with more of them."""
    return LongBenchSet(name, metric, tokens, language, first_line=True, chat=False)


_ALL = (
    LongBenchSet("narrativeqa", metrics.f1, 128),
    LongBenchSet("qasper", metrics.f1, 128),
    LongBenchSet("multifieldqa_en", metrics.f1, 64, rows=150),
    LongBenchSet("multifieldqa_zh", metrics.f1_zh, 64, "zh"),
    LongBenchSet("hotpotqa", metrics.f1, 32),
    LongBenchSet("2wikimqa", metrics.f1, 32),
    LongBenchSet("musique", metrics.f1, 32),
    LongBenchSet("dureader", metrics.rouge_l_zh, 128, "zh"),
    LongBenchSet("gov_report", metrics.rouge_l, 512),
    LongBenchSet("qmsum", metrics.rouge_l, 512),
    LongBenchSet("multi_news", metrics.rouge_l, 512),
    LongBenchSet("vcsum", metrics.rouge_l_zh, 512, "zh"),
    _shots("trec", metrics.classification, 64),
    _shots("triviaqa", metrics.f1, 32),
    _shots("samsum", metrics.rouge_l, 128),
    _shots("lsht", metrics.classification, 64, "zh"),
    LongBenchSet("passage_count", metrics.count, 32),
    LongBenchSet("passage_retrieval_en", metrics.retrieval, 32),
    LongBenchSet("passage_retrieval_zh", metrics.retrieval_zh, 32, "zh"),
    LongBenchSet("lcc", metrics.code_similarity, 64, "code", rows=500, chat=False),
    LongBenchSet("repobench-p", metrics.code_similarity, 64, "code", rows=500, chat=False),
)
SETS: Mapping[str, LongBenchSet] = {one.name: one for one in _ALL}
"""All 21 by name, in the order of the paper's tables."""
E_SETS: Mapping[str, LongBenchSet] = {name: SETS[name] for name in E_NAMES}
