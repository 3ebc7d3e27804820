"""What an eval step leaves: predictions, scores, a report, pictures, and the change from the run's other models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lcx.context import StepResult
from lcx.evaluation.histogram import sparkline
from lcx.paths import slug
from lcx.recipe import Step
from lcx.run import Run
from lcx.work.files import read_json, write_json, write_lines, write_text
from lcx.work.shards import read_jsonl
from lcx_longreward.evaluation.desk import Desk
from lcx_longreward.evaluation.plots import draw
from lcx_longreward.evaluation.report import report
from lcx_longreward.evaluation.results import Result, Statistics
from lcx_longreward.judge.reward import DIMENSIONS

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
    """By how much the mean moved between two models' folders: question by question, with its interval."""
    files = [folder / f"predictions-{slug(task)}.jsonl" for folder in (before, after)]
    if not all(file.is_file() for file in files):
        return None
    old, new = (_means(file, task) for file in files)
    shared = [name for name in new if name in old]
    if not shared:
        return None
    moves = [new[name][0] - old[name][0] for name in shared]
    return statistics.brief(moves, [new[name][1] for name in shared])


def _means(file: Path, task: str) -> dict[str, tuple[float, str]]:
    """The mean score of each question, where it has one, and its context."""
    found: dict[str, list[float]] = {}
    contexts: dict[str, str] = {}
    for row in read_jsonl(file):
        value = row.get("reward") if task == "reward" else row.get("score")
        if value is not None:
            found.setdefault(row["id"], []).append(value)
            contexts[row["id"]] = row["context_id"]
    return {name: (sum(values) / len(values), contexts[name]) for name, values in found.items()}


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
