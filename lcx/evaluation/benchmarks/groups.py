"""Names of the benchmarks' tasks and of groups of them, and the means by category that the papers' tables give.

Light: every start of the program reads it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lcx.errors import UsageError, suggestion

__all__ = ["BENCHMARKS", "BY_CATEGORY", "E_NAMES", "FAMILIES", "expand", "groups", "summarize"]

BY_CATEGORY: dict[str, tuple[str, ...]] = {
    "single-doc": ("narrativeqa", "qasper", "multifieldqa_en", "multifieldqa_zh"),
    "multi-doc": ("hotpotqa", "2wikimqa", "musique", "dureader"),
    "summary": ("gov_report", "qmsum", "multi_news", "vcsum"),
    "few-shot": ("trec", "triviaqa", "samsum", "lsht"),
    "synthetic": ("passage_count", "passage_retrieval_en", "passage_retrieval_zh"),
    "code": ("lcc", "repobench-p"),
}
"""LongBench's 21 sets by the columns of its paper's tables."""

E_NAMES = tuple(
    name
    for names in BY_CATEGORY.values()
    for name in names
    if name
    not in (
        "narrativeqa",
        "multifieldqa_zh",
        "musique",
        "dureader",
        "qmsum",
        "vcsum",
        "lsht",
        "passage_retrieval_zh",
    )
)
"""The 13 sets of LongBench-E, whose lengths are spread evenly."""

BENCHMARKS: dict[str, str] = {
    **{
        f"longbench:{name}": f"lcx.evaluation.benchmarks.longbench:{name}"
        for names in BY_CATEGORY.values()
        for name in names
    },
    **{f"longbench_e:{name}": f"lcx.evaluation.benchmarks.longbench:{name}_e" for name in E_NAMES},
    "longbench_v2": "lcx.evaluation.benchmarks.longbench_v2:LONGBENCH_V2",
    "csqa": "lcx.evaluation.benchmarks.short:CSQA",
    "gsm8k": "lcx.evaluation.benchmarks.short:GSM8K",
}
"""Where each benchmark's task is, as the registry takes it."""


FAMILIES: dict[str, tuple[str, ...]] = {
    "longbench": tuple(name for names in BY_CATEGORY.values() for name in names),
    "longbench_e": E_NAMES,
}
"""Sets by the family that their tasks begin with."""


def groups() -> dict[str, list[str]]:
    """Every group with its tasks: `longbench`, `longbench:summary`, `longbench_e`, `longbench_e:code`, ..."""
    found: dict[str, list[str]] = {}
    for family, sets in FAMILIES.items():
        found[family] = [f"{family}:{name}" for name in sets]
        for category, names in BY_CATEGORY.items():
            found[f"{family}:{category}"] = [f"{family}:{name}" for name in names if name in sets]
    return {name: tasks for name, tasks in found.items() if tasks}


def expand(tasks: Sequence[str]) -> list[str]:
    """The tasks with every group in place of its name, each once, in order.

    Names that are no group stay as they are. Raises UsageError for a LongBench set or group that there is not.
    """
    known = groups()
    found: dict[str, None] = {}
    for task in tasks:
        family, _, name = task.partition(":")
        if task not in known and family in FAMILIES and name not in FAMILIES[family]:
            others = [*known, *known[family]]
            raise UsageError(
                f"there is no task '{task}'. {suggestion(task, others)}".rstrip(),
                why=f"{family} has {', '.join(FAMILIES[family])}.",
                hint=f"{family}, {', '.join(g for g in known if g.startswith(family + ':'))} take several.",
            )
        found.update(dict.fromkeys(known.get(task, [task])))
    return list(found)


def summarize(scores: Mapping[str, Mapping[str, Any]], family: str = "longbench") -> dict[str, Any]:
    """Means over the tasks of a family that have a score, in percent.

    `categories` has, for each category with a task among them, the mean of its tasks' scores, how many they are
    and how many the benchmark has; `average` is the mean of all tasks (as IN2 and LOGO report it, on the tasks
    they chose), `category_average` that of the categories (as LongBench's table does). None where there is none.
    """
    sets = FAMILIES[family]
    known = {
        name: float(found["score"])
        for name in sets
        if (found := scores.get(f"{family}:{name}")) and found.get("score") is not None
    }
    categories = {}
    for category, names in BY_CATEGORY.items():
        all_of_it = [name for name in names if name in sets]
        mine = [known[name] for name in all_of_it if name in known]
        if mine:
            categories[category] = {"score": _mean(mine), "sets": len(mine), "of": len(all_of_it)}
    return {
        "family": family,
        "sets": len(known),
        "of": len(sets),
        "average": _mean(list(known.values())),
        "category_average": _mean([one["score"] for one in categories.values()]),
        "categories": categories,
    }


def _mean(values: Sequence[float | None]) -> float | None:
    real = [value for value in values if value is not None]
    return sum(real) / len(real) if real else None
