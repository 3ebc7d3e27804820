"""What an eval step reports: `scores.json`, counts, headline numbers and warnings. Torch-free."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from lcx import __version__
from lcx.evaluation.benchmarks.groups import FAMILIES, summarize
from lcx.evaluation.settings import EvalSettings
from lcx.run import versions

__all__ = ["check_notes", "eval_notes", "summary", "together"]

COUNTED = (
    *("texts", "joined", "nulls", "refused", "skipped", "duplicates", "ambiguous", "dropped", "truncated"),
    *("unfinished", "errors"),
)
"""Counts of a task that a step shows where they are not 0."""


def summary(
    name: str,
    tasks: Mapping[str, Mapping[str, Any]],
    settings: EvalSettings,
    *,
    weights: str,
    prompt: Mapping[str, Any],
    answering: Mapping[str, Any],
    skipped: Mapping[str, str],
) -> dict[str, Any]:
    """`scores.json`: every task, what the numbers depend on, and means over the tasks that have them.

    `name` is the model's, as its folder is called; `prompt` says which template was around probes' questions.
    """
    means: dict[str, float | None] = {}
    for key in ("average", "gap"):
        known = [score[key] for score in tasks.values() if score.get(key) is not None]
        means[key] = sum(known) / len(known) if known else None
    families = {family: summarize(tasks, family) for family in FAMILIES}
    return {
        "lcx": __version__,
        "versions": versions(),
        "model": name,
        "asked": settings.model,
        "weights": weights,
        **prompt,
        "corpus": settings.corpus,
        "seed": settings.seed,
        "style": settings.style,
        "limit": settings.limit,
        "sample_seed": settings.sample_seed,
        "answering": dict(answering),
        "skipped": dict(skipped),
        "tasks": dict(tasks),
        "families": {family: found for family, found in families.items() if found["sets"]},
        **means,
    }


def eval_notes(
    tasks: Mapping[str, Mapping[str, Any]], sets: int
) -> tuple[dict[str, int], dict[str, Any], list[str]]:
    """Counts, headline numbers and warnings of an eval step's results, by task. `sets` texts were asked for."""
    counts: dict[str, int] = {}
    metrics: dict[str, Any] = {}
    notes = []
    for task, found in tasks.items():
        read = "texts" in found
        counts[f"{task} {'tokens' if read else 'queries'}"] = found["n"]
        for what in COUNTED:
            if found.get(what):
                counts[f"{task} {what}"] = found[what]
        for reason, count in (found.get("set aside") or {}).items():
            counts[f"{task} set aside: {reason}"] = count
        if found.get("worst"):
            metrics[f"{task} worst cell"] = found["worst"]
        for what in ("perplexity", "decoys"):
            if found.get(what) is not None:
                metrics[task if what == task else f"{task} {what}"] = found[what]
        if found.get("truncated"):
            how = "texts were cut at the end" if read else "contexts were cut in the middle"
            notes.append(f"{task}: {found['truncated']} {how} to fit the window")
        if found.get("errors"):
            notes.append(
                f"{task}: {found['errors']} questions got no answer, and their rows say why; --force asks these "
                "again, and takes the others' replies from calls.sqlite"
            )
        if read and found["texts"] + found.get("dropped", 0) < sets:
            notes.append(
                f"{task}: the corpus gave {found['texts'] + found.get('dropped', 0)} texts, not {sets}"
            )
    return counts, metrics, notes


def together(tasks: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """How all tasks were answered, in one: way and reason, failed items by reason, and the checks added up.

    Each task's scores say it of themselves, so that one asked before is not forgotten when another is asked.
    """
    known = {task: one["answering"] for task, one in tasks.items() if one.get("answering")}
    if not known:
        return {}
    *_, newest = known.values()
    found = {key: value for key, value in newest.items() if key not in ("check", "failed")}
    found["reuse"] = all(one.get("reuse") for one in known.values())
    failed: Counter[str] = Counter()
    for one in known.values():
        failed.update(one.get("failed") or {})
    if failed:
        found["failed"] = dict(sorted(failed.items()))
    checks = {task: one["check"] for task, one in known.items() if one.get("check")}
    if not checks:
        return found
    total: dict[str, Any] = {
        key: sum(int(check.get(key, 0)) for check in checks.values()) for key in ("checked", "equal", "ties")
    }
    different = [f"{task} {name}" for task, check in checks.items() for name in check.get("different", [])]
    warnings = [f"{task}: {check['warning']}" for task, check in checks.items() if check.get("warning")]
    found["check"] = total | {"different": different} | ({"warning": " ".join(warnings)} if warnings else {})
    return found


def check_notes(answering: Mapping[str, Any]) -> list[str]:
    """What a self-check that failed means, for whoever reads the results."""
    check = answering.get("check") or {}
    different = check.get("different") or []
    if not different:
        return []
    return [
        f"do not trust these results: the self-check found {len(different)} of {check['checked']} answers that a "
        f"full computation gives otherwise, {different[0]} first"
    ]
