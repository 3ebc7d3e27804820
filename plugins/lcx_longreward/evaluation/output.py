"""What an eval step leaves: predictions, scores, a report, pictures, and the change from the run's other models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lcx.context import StepResult
from lcx.formatting import sparkline
from lcx.paths import slug
from lcx.recipe import Step
from lcx.run import Run
from lcx.work.files import read_json, write_json, write_lines, write_text
from lcx.work.shards import read_jsonl
from lcx_longreward.evaluation.desk import Desk
from lcx_longreward.evaluation.plots import draw
from lcx_longreward.evaluation.report import report
from lcx_longreward.evaluation.results import Result, Statistics
from lcx_longreward.evaluation.reward import full_shares, judged_rows
from lcx_longreward.evaluation.support import TASK as SUPPORT
from lcx_longreward.pairs import DIMENSIONS

PICTURE = "histograms.png"
SAME = ("judge", "judging")
"""What two results must share beside the questions to be compared."""


def finish(
    desk: Desk,
    step: Step,
    run: Run,
    results: Sequence[Result],
    notes: list[str],
    described: Mapping[str, Any],
) -> StepResult:
    """Write everything; the numbers that a person wants first go into the step's metrics."""
    folder = desk.folder
    for result in results:
        write_lines(folder / f"predictions-{slug(result.task)}.jsonl", result.rows)
    total = summary(desk, step, results, described)
    write_json(folder / "scores.json", total)
    others = earlier(run, run.key(step), total)
    models = {
        result.task: {
            **{label: scores[result.task] for label, (_, scores) in others.items() if result.task in scores},
            folder.name: result.scores,
        }
        for result in results
    }
    changes = {
        task: {
            label: moved
            for label in scores
            if label in others and (moved := change(others[label][0], folder, task, desk.statistics))
        }
        for task, scores in models.items()
    }
    write_text(folder / "report.md", report(folder.name, models, changes))
    files = {"scores": "scores.json", "report": "report.md"}
    if drawn := draw(folder / PICTURE, models):
        files["picture"] = drawn.name
    counts = {name: number for name, number in sorted(desk.counts.items()) if number}
    for result in results:
        for name in ("cut", "truncated", "empty", "nulls"):
            if result.scores.get(name):
                counts[f"{result.task} {name}"] = result.scores[name]
        for reason, number in result.scores["failed"].items():
            counts[f"{result.task} failed: {reason}"] = number
        notes += result.notes
    notes += _warnings(results)
    metrics = headline(results, changes)
    return StepResult(counts=counts, metrics=metrics, files=files, notes=notes, extra=described)


def summary(
    desk: Desk, step: Step, results: Sequence[Result], described: Mapping[str, Any]
) -> dict[str, Any]:
    """`scores.json`: every task, and what the numbers depend on."""
    settings = desk.settings
    return {
        "model": desk.folder.name,
        "asked": desk.mine.name,
        "step": step.id,
        "corpus": settings.corpus,
        "seed": settings.seed,
        "template": {"name": settings.template, "hash": desk.answerer.template.hash},
        "judge": described["judge"],
        **({"answering": described["answering"]} if described.get("answering") else {}),
        "judging": {
            "retriever": settings.retriever,
            "tokenizer": settings.tokenizer,
            "language": settings.language,
            "attempts": settings.attempts,
            **settings.judging,
        },
        "intervals": {
            "level": settings.level,
            "resamples": settings.resamples,
            "method": "BCa bootstrap over contexts",
        },
        "tasks": {result.task: result.scores for result in results},
    }


def earlier(run: Run, mine: str, own: Mapping[str, Any]) -> dict[str, tuple[Path, dict[str, Any]]]:
    """Folders and comparable tasks of the run's other models, by their labels: same questions, same judge.

    They may come from other eval steps: what counts is what was asked, not which step asked it.
    """
    found: dict[str, tuple[Path, dict[str, Any]]] = {}
    for key, record in run.manifest["steps"].items():
        file = run.folder(key) / "scores.json"
        if (
            key == mine
            or record.get("stage") != "eval"
            or record.get("state") != "done"
            or not file.is_file()
        ):
            continue
        scores = read_json(file)
        if any(scores.get(name) != own[name] for name in SAME):
            continue
        tasks = {
            task: other
            for task, other in scores["tasks"].items()
            if task in own["tasks"] and _alike(other, own["tasks"][task])
        }
        label = key.rpartition("/")[2]
        if label in found or label == own["model"]:
            label = key.replace("/", " ")
        if tasks:
            found[label] = (file.parent, tasks)
    return found


def _alike(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return all(one.get(key) == other.get(key) for key in ("data", "metric", "compat", "against"))


def change(before: Path, after: Path, task: str, statistics: Statistics) -> dict[str, Any] | None:
    """By how much the headline moved between two models' folders, from the questions that both have, with its interval.

    Questions are drawn in pairs. For support the headline is the share of all statements, so long answers weigh more.
    """
    files = [folder / f"predictions-{slug(task)}.jsonl" for folder in (before, after)]
    if not all(file.is_file() for file in files):
        return None
    old, new = ((_shares if task == SUPPORT else _means)(file, task) for file in files)
    shared = [name for name in new if name in old]
    pulls = [_pulls([one[name][:2] for name in shared]) for one in (old, new)]
    if not shared or not all(pulls):
        return None
    moves = [after - before for before, after in zip(*pulls, strict=True)]
    return statistics.brief(moves, [new[name][2] for name in shared])


def _pulls(parts: Sequence[tuple[float, float]]) -> list[float]:
    """What each of (weight x value, weight) gives to the weighted mean: these numbers' plain mean is that mean, and
    varies as it does (to first order) when they are drawn again. Empty where all weights are 0.
    """
    weight = sum(size for _, size in parts)
    mean = sum(amount for amount, _ in parts) / weight if weight else 0.0
    count = len(parts)
    return [mean + (amount - mean * size) * count / weight for amount, size in parts] if weight else []


def _means(file: Path, task: str) -> dict[str, tuple[float, float, str]]:
    """The mean score of each question, where it has one, all of the same weight, and its context."""
    found: dict[str, list[float]] = {}
    contexts: dict[str, str] = {}
    for row in read_jsonl(file):
        value = row.get("reward") if task == "reward" else row.get("score")
        if value is not None:
            found.setdefault(row["id"], []).append(value)
            contexts[row["id"]] = row["context_id"]
    return {name: (sum(values) / len(values), 1.0, contexts[name]) for name, values in found.items()}


def _shares(file: Path, task: str) -> dict[str, tuple[float, float, str]]:
    """Of each question whose statements were all judged: fully supported ones, all of them, and its context."""
    rows = judged_rows(list(read_jsonl(file)))
    found = {}
    for row, share in zip(rows, full_shares(rows), strict=True):
        size = float(len(row["statements"]))
        found[row["id"]] = (share * size, size, row["context_id"])
    return found


def headline(
    results: Sequence[Result], changes: Mapping[str, Mapping[str, Mapping[str, Any]]]
) -> dict[str, Any]:
    """A line a number for the terminal: {task: {mean, low, high, n, failed}}, and what belongs to it."""
    found: dict[str, Any] = {}
    for result in results:
        task, scores = result.task, result.scores
        found[task] = {name: scores[name] for name in ("mean", "low", "high", "n")}
        found[task]["failed"] = sum(scores["failed"].values())
        for name in DIMENSIONS:
            if name in scores.get("dimensions", {}):
                found[f"{task} {name}"] = scores["dimensions"][name]
        for name, numbers in scores.get("columns", {}).items():
            found[f"{task} {name}"] = numbers
        for name in ("mean of sets", "right", "supported", "statements"):
            if name in scores and scores[name]["n"]:
                found[f"{task} {name}"] = scores[name]
        for name, shares in scores.get("shares", {}).items():
            found[f"{task} {name}"] = {
                one: f"{numbers['mean']:.2f} ({numbers['low']:.2f} to {numbers['high']:.2f})"
                if numbers["low"] is not None
                else numbers["mean"]
                for one, numbers in shares.items()
            }
        if scores.get("histogram"):
            low, high = scores["scale"]
            found[f"{task} {low:g} to {high:g}"] = sparkline(scores["histogram"])
        for other, numbers in changes.get(task, {}).items():
            found[f"{task} change from {other}"] = numbers
    return found


def _warnings(results: Sequence[Result]) -> list[str]:
    notes = []
    for result in results:
        scores = result.scores
        if not scores["n"]:
            notes.append(f"{result.task}: nothing could be scored; the counts say why")
        elif scores["low"] is None:
            notes.append(f"{result.task}: one context says nothing about others, so there is no interval")
        elif str(scores["drawn"]).startswith("rows of"):
            notes.append(f"{result.task}: its intervals hold for these {scores['contexts']} contexts only")
        if scores.get("empty"):
            notes.append(f"{result.task}: answers that are empty: {scores['empty']}")
    return notes
