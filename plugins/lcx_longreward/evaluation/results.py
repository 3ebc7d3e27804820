"""What a task of the eval step found: its numbers with intervals, its rows, and what could not be counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lcx.evaluation.statistics.intervals import Estimate, mean_interval
from lcx.formatting import histogram
from lcx_longreward.eval_settings import LongRewardEval
from lcx_longreward.evaluation.data import Item

BINS = 20


@dataclass
class Result:
    """One task. `scores` go to `scores.json`, `rows` to `predictions-TASK.jsonl`."""

    task: str
    scores: dict[str, Any]
    rows: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Statistics:
    """Means with intervals by one level, number of resamples and seed."""

    level: float = 0.95
    resamples: int = 10_000
    seed: int = 0

    @classmethod
    def of(cls, settings: LongRewardEval) -> Statistics:
        return cls(settings.level, settings.resamples, settings.seed)

    def mean(
        self,
        values: Sequence[float | None],
        contexts: Sequence[Hashable],
        weights: Sequence[float] | None = None,
    ) -> Estimate:
        """The mean of what is known, and its interval; contexts are drawn again, or rows as the module says."""
        return mean_interval(
            values,
            contexts,
            weights=weights,
            level=self.level,
            resamples=self.resamples,
            seed=self.seed,
        )

    def brief(
        self,
        values: Sequence[float | None],
        contexts: Sequence[Hashable],
        weights: Sequence[float] | None = None,
    ) -> dict[str, Any]:
        """As `mean`, only the numbers: mean, low, high, n."""
        found = self.mean(values, contexts, weights).as_dict()
        return {name: found[name] for name in ("mean", "low", "high", "n")}


def reasons(found: Iterable[str]) -> dict[str, int]:
    """How often each reason occurs, the most frequent first."""
    return dict(sorted(Counter(found).items(), key=lambda pair: (-pair[1], pair[0])))


def spread(values: Iterable[float | None], low: float, high: float, bins: int = BINS) -> dict[str, Any]:
    """How values are distributed, for pictures: counts of equal parts of the scale."""
    known = [value for value in values if value is not None]
    return {"scale": [low, high], "histogram": histogram(known, bins, low, high)}


def question_row(item: Item) -> dict[str, Any]:
    """A question as a file of them has it, so that another model can be asked the same."""
    row: dict[str, Any] = {"id": item.id, "context": item.context, "query": item.question}
    return row | ({"answers": list(item.references)} if item.references else {})


def base_row(item: Item, sample: int, text: str, about: Mapping[str, Any]) -> dict[str, Any]:
    """The first fields of every row of predictions."""
    return {
        "id": item.id,
        **({"dataset": item.dataset} if item.dataset else {}),
        "sample": sample,
        "context_id": item.group,
        "question": item.question,
        "references": list(item.references),
        "answer": text,
        **about,
    }
