"""What an eval step leaves: predictions, scores, report.md, histograms.png, and the change from other models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from lcx.context import StepResult
from lcx.evaluation.show.png import COLOURS, INK, Draw, dress, rows_png
from lcx.evaluation.statistics.intervals import estimate_mean
from lcx.formatting import bar_lines, cut_middle, sparkline
from lcx.paths import slug
from lcx.recipe import Step
from lcx.run import Run
from lcx.storage import read_json, read_jsonl, write_json, write_lines, write_text
from lcx_longreward.evaluation.judged import EvalContext, Result, Statistics
from lcx_longreward.evaluation.reward import SUPPORT, full_shares, judged_rows
from lcx_longreward.pairs import DIMENSIONS

__all__ = ["draw", "draw_rewards"]

# ---- pictures
TIES = "#C9C9C9"
UNITS = {"reward": "reward", "chat": "rating", "support": "share of statements supported"}


def draw(path: Path, tasks: Mapping[str, Models]) -> Path | None:
    """Histograms of every task that has them, then wins and losses; None where there is nothing to draw."""
    panels: list[Draw] = [
        partial(_histogram, models=models, title=task)
        for task, models in tasks.items()
        if any(scores.get("histogram") for scores in models.values())
    ]
    panels += [
        partial(_wins, scores=scores, title=f"{task}: {cut_middle(model)}")
        for task, models in tasks.items()
        for model, scores in models.items()
        if scores.get("shares")
    ]
    if not panels:
        return None
    # A row each: panels of one row would share a vertical axis
    return rows_png(path, [[panel] for panel in panels])


def draw_rewards(path: Path, models: Models) -> Path | None:
    """Before and after: the rewards of several results over one another, by their labels."""
    return draw(path, {"reward": models})


def _histogram(axes: Any, models: Models, title: str) -> None:
    """The share of answers in each part of the scale, an outline a model, and the mean with its interval on top."""
    low, high = next(iter(models.values()))["scale"]
    top = 0.0
    for number, (label, scores) in enumerate(models.items()):
        counts = scores["histogram"]
        total = sum(counts) or 1
        heights = [count / total for count in counts]
        width = (high - low) / len(counts)
        edges = [low + place * width for place in range(len(counts) + 1)]
        look = 1 if len(models) == 1 else number % len(COLOURS)
        mean = "none" if scores["mean"] is None else f"{scores['mean']:.3g}"
        axes.stairs(heights, edges, fill=True, alpha=0.25, color=COLOURS[look])
        axes.stairs(
            heights,
            edges,
            color=COLOURS[look],
            linewidth=2,
            linestyle="--" if len(models) > 1 and not number else "-",
            label=f"{cut_middle(label)}   mean {mean}{_interval(scores)}   n {scores['n']}",
        )
        top = max([top, *heights])
    for number, scores in enumerate(models.values()):
        look = 1 if len(models) == 1 else number % len(COLOURS)
        place = (top or 1) * (1.08 + 0.07 * number)
        if scores["mean"] is not None:
            axes.plot([scores["mean"]], [place], "o", color=COLOURS[look], markersize=6, clip_on=False)
        if scores["low"] is not None:
            axes.plot(
                [scores["low"], scores["high"]],
                [place, place],
                color=COLOURS[look],
                linewidth=2,
                clip_on=False,
            )
    axes.set_xlim(low, high)
    axes.set_ylim(0, (top or 1) * (1.12 + 0.07 * len(models)))
    axes.set_yticks([tick for tick in axes.get_yticks() if tick <= 1])
    dress(axes, title, UNITS.get(title, "score"), "share of answers")


def _interval(scores: Mapping[str, Any]) -> str:
    return "" if scores["low"] is None else f" ({scores['low']:.3g} to {scores['high']:.3g})"


def _wins(axes: Any, scores: Mapping[str, Any], title: str) -> None:
    """A bar a respect: wins, ties and losses as shares of the questions."""
    names = list(scores["shares"])
    for place, name in enumerate(reversed(names)):
        left = 0.0
        for share, colour in (("win", COLOURS[1]), ("tie", TIES), ("loss", COLOURS[0])):
            value = scores["shares"][name][share]["mean"] or 0.0
            axes.barh(place, value, left=left, color=colour, height=0.62, label=share if not place else None)
            if value >= 0.06:
                ink = INK if share == "tie" else "white"
                axes.text(
                    left + value / 2, place, f"{value:.2f}", ha="center", va="center", fontsize=9, color=ink
                )
            left += value
    axes.set_yticks(range(len(names)), list(reversed(names)))
    axes.set_xlim(0, 1)
    dress(axes, title, f"share of {scores['n']} questions, against {cut_middle(str(scores['against']))}", "")


# ---- report

Models = Mapping[str, Mapping[str, Any]]
SCALE_WORDS = {
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
        lines += [f"## {task}", "", SCALE_WORDS.get(task, "0 to 1") + ".", ""]
        lines += ["| model | mean | interval | n | contexts |", "|---|---|---|---|---|"]
        for model, found in models.items():
            lines.append(
                f"| {model} | {number(found['mean'])} | {interval(found)} | {found['n']:,} | {found['contexts']:,} |"
            )
        lines.append("")
        for other, change in changes.get(task, {}).items():
            lines += [f"Change from {other}, question by question: {signed(change)}.", ""]
        lines += _parts(models, mine)
        lines += _share_lines(scores)
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


def _share_lines(scores: Mapping[str, Any]) -> list[str]:
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


# ---- files and headlines

PICTURE = "histograms.png"
SAME = ("judge", "judging")
"""What two results must share beside the questions to be compared."""


def finish(
    desk: EvalContext,
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
    desk: EvalContext, step: Step, results: Sequence[Result], described: Mapping[str, Any]
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
            "method": "cluster-robust over contexts",
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
    old, new = ((_statement_shares if task == SUPPORT else _means)(file, task) for file in files)
    shared = [name for name in new if name in old]
    pulls = [_pulls([one[name][:2] for name in shared]) for one in (old, new)]
    if not shared or not all(pulls):
        return None
    moves = [after - before for before, after in zip(*pulls, strict=True)]
    found = estimate_mean(moves, [new[name][2] for name in shared], level=statistics.level, scale=None)
    return {name: getattr(found, name) for name in ("mean", "low", "high", "n")}


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


def _statement_shares(file: Path, task: str) -> dict[str, tuple[float, float, str]]:
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
            notes.append(f"{result.task}: no interval: {scores.get('lacking') or 'too few contexts'}")
        elif str(scores["drawn"]).startswith("rows of"):
            notes.append(f"{result.task}: its intervals hold for these {scores['contexts']} contexts only")
        if scores.get("empty"):
            notes.append(f"{result.task}: answers that are empty: {scores['empty']}")
    return notes
