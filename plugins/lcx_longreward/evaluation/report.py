"""An eval step's results as Markdown: a table a task with the run's other models, and histograms as bars."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lcx.formatting import bar_lines
from lcx_longreward.pairs import DIMENSIONS

Models = Mapping[str, Mapping[str, Any]]
SCALES = {
    "reward": "0 to 10, the mean of four dimensions",
    "chat": "1 to 10",
    "qa": "0 to 1, from ratings of 1 to 3",
    "summary": "0 to 1, from ratings of 1 to 5",
    "versus": "a win counts 1, a tie 0.5",
    "support": "share of all statements that their context fully supports",
}


def report(
    mine: str, tasks: Mapping[str, Models], changes: Mapping[str, Mapping[str, Mapping[str, Any]]]
) -> str:
    """The report: numbers with intervals, changes, distributions, failures."""
    lines = [f"# Evaluation of {mine}", ""]
    for task, models in tasks.items():
        scores = models[mine]
        lines += [f"## {task}", "", SCALES.get(task, "0 to 1") + ".", ""]
        lines += ["| model | mean | interval | n | contexts |", "|---|---|---|---|---|"]
        for model, found in models.items():
            lines.append(
                f"| {model} | {number(found['mean'])} | {interval(found)} | {found['n']:,} | {found['contexts']:,} |"
            )
        lines.append("")
        for other, change in changes.get(task, {}).items():
            lines += [f"Change from {other}, question by question: {signed(change)}.", ""]
        lines += _parts(models, mine)
        lines += _shares(scores)
        if scores.get("histogram"):
            low, high = scores["scale"]
            step = (high - low) / len(scores["histogram"])
            labels = [f"{low + step * place:.2f}" for place in range(len(scores["histogram"]))]
            lines += ["```text", *bar_lines(labels, scores["histogram"]), "```", ""]
        counted = {
            name: scores[name]
            for name in ("empty", "cut", "truncated", "nulls", "silent")
            if scores.get(name)
        }
        counted |= {f"failed: {reason}": count for reason, count in scores["failed"].items()}
        lines += [f"- {name}: {count:,}" for name, count in counted.items()]
        lines += [""] if counted else []
    return "\n".join(lines)


def _parts(models: Models, mine: str) -> list[str]:
    """A row for each dimension, set and column, a column a model."""
    rows: list[tuple[str, list[Mapping[str, Any] | None]]] = []
    everyone = list(models.values())
    for name in DIMENSIONS:
        rows.append((name, [found.get("dimensions", {}).get(name) for found in everyone]))
    for name in ("right", "supported", "statements", "words"):
        rows.append((name, [found.get(name) for found in everyone]))
    for kind in ("columns", "sets"):
        for name in models[mine].get(kind, {}):
            rows.append((name, [found.get(kind, {}).get(name) for found in everyone]))
    rows.append(("mean of sets", [found.get("mean of sets") for found in everyone]))
    rows = [(name, cells) for name, cells in rows if any(cells)]
    if not rows:
        return []
    head = [f"| | {' | '.join(models)} |", "|---" * (len(models) + 1) + "|"]
    body = [f"| {name} | {' | '.join(map(_cell, cells))} |" for name, cells in rows]
    return [*head, *body, ""]


def _shares(scores: Mapping[str, Any]) -> list[str]:
    if not scores.get("shares"):
        return []
    lines = ["| | win | tie | loss |", "|---|---|---|---|"]
    for name, shares in scores["shares"].items():
        cells = [f"{number(shares[one]['mean'])} ({interval(shares[one])})" for one in ("win", "tie", "loss")]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    moved = scores["changed by the order"]
    lines += [
        "",
        f"Against {scores['against']}. Verdicts that changed with the order of the answers: {number(moved)}.",
        "",
    ]
    return lines


def _cell(found: Mapping[str, Any] | None) -> str:
    return f"{number(found['mean'])} ({interval(found)})" if found else "-"


def number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def signed(change: Mapping[str, Any]) -> str:
    if change["low"] is None:
        return f"{change['mean']:+.3f}"
    return f"{change['mean']:+.3f} ({change['low']:+.3f} to {change['high']:+.3f})"


def interval(found: Mapping[str, Any]) -> str:
    return "-" if found["low"] is None else f"{found['low']:.3f} to {found['high']:.3f}"
