"""Results on stdout: JSON for machines, plain aligned text for people. No colours, no boxes, nothing that
moves.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lcx.formatting import number as number
from lcx.storage import json_text

if TYPE_CHECKING:
    from lcx.context import StepResult
    from lcx.recipe import Step
    from lcx.run import Run


def emit_json(value: Any) -> None:
    """One JSON object on stdout."""
    print(json_text(value, default=str))


def table(rows: Sequence[Sequence[str]], head: Sequence[str]) -> str:
    """Left-aligned columns under their names; the last one runs free."""
    everything = [list(head), *[list(row) for row in rows]]
    widths = [max(len(row[i]) for row in everything) for i in range(len(head))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in everything
    ]
    return "\n".join(line.rstrip() for line in lines)


def done_report(step: Step, run: Run, result: StepResult, started: float) -> dict[str, Any]:
    """What is told of a step that is done; `started` is when it began, by the monotonic clock."""
    folder = run.folder(step)
    return {
        "step": step.id,
        "stage": step.stage,
        "state": run.state(run.key(step)),
        "reused": result.reused,
        "run": str(run.path),
        "folder": str(folder),
        "counts": result.counts,
        "metrics": result.metrics,
        "files": {name: os.path.normpath(folder / path) for name, path in result.files.items()},
        "notes": result.notes,
        "seconds": round(time.monotonic() - started, 3),
    }


def step_summary(report: Mapping[str, Any]) -> str:
    """A finished step in a few lines: headline numbers, counts, files, warnings."""
    head = f"{report['step']}: {report['state']}"
    head += " before, nothing to do" if report.get("reused") else f" in {report['seconds']:.1f} s"
    lines = [head]
    files = {name: _short(str(path)) for name, path in (report.get("files") or {}).items()}
    metrics = dict(report.get("metrics") or {})
    counts = report.get("counts") or {}
    if tasks := metrics.pop("tasks", None):
        lines += _curves(Path(report["folder"]).parent)
        counts = _by_task(counts, tasks)
    counts = {name: amount for name, amount in counts.items() if metrics.get(name) != amount}  # said once
    sections = [
        {name: value for name, value in metrics.items() if value is not None},
        counts,
        files or {"folder": report["folder"]},
    ]
    width = max(len(str(key)) for section in sections for key in section)
    for section in sections:
        lines += pairs(section, width)
    lines += [f"  {'note'.ljust(width)}  {note}" for note in report.get("notes") or []]
    return "\n".join(lines)


def _by_task(counts: Mapping[str, Any], tasks: Iterable[str]) -> dict[str, Any]:
    """Counts named `TASK WHAT` as one line a task."""
    found: dict[str, Any] = {}
    longest = sorted(tasks, key=len, reverse=True)
    for name, number_of in counts.items():
        task = next((task for task in longest if name.startswith(f"{task} ")), None)
        if task is None:
            found[name] = number_of
        else:
            found.setdefault(task, {})[name.removeprefix(f"{task} ")] = number_of
    return found


def _curves(folder: Path) -> list[str]:
    """The curves and heat maps of an eval step, with those of the run's other models."""
    from lcx.evaluation.scores import overlay
    from lcx.evaluation.show.terminal import tasks_text

    tasks, notes = overlay(folder)
    return [*(f"{text}\n" for text in tasks_text(tasks)), *(f"note: {note}\n" for note in notes)]


def plan(report: Mapping[str, Any]) -> str:
    """A step of --dry-run: its settings as YAML with origins, then the forecast."""
    lines = [f"{report['step']}: stage {report['stage']}, method {report['method']} ({report['state']})"]
    lines += [f"  {line}" for line in settings_lines(report["settings"], report["origins"])]
    lines += [f"  # {note}" for note in report.get("withheld", ())]
    if report["forecast"]:
        lines.append("  forecast")
        lines += [f"  {line}" for line in pairs(report["forecast"])]
    return "\n".join(lines)


def settings_lines(values: Mapping[str, Any], origins: Mapping[str, str] | None = None) -> list[str]:
    """Settings as lines of YAML, each with a comment that says where its value came from."""
    rows = [(f"{key}: {value_text(value)}", (origins or {}).get(key, "")) for key, value in values.items()]
    width = max([min(48, len(text)) for text, _ in rows], default=0)
    return [f"{text.ljust(width)}  # {origin}" if origin else text for text, origin in rows]


def value_text(value: Any) -> str:
    """A value as YAML on one line."""
    from lcx.yamls import yaml_text

    if isinstance(value, str) and "\n" in value:
        return json.dumps(value, ensure_ascii=False)
    return yaml_text(value, line=True)


def pairs(values: Mapping[str, Any], width: int = 0) -> list[str]:
    """A line for each name and its value, aligned; mappings of texts take a line an entry."""
    width = max([len(str(key)) for key in values] + [width, 6])
    lines = []
    for key, value in values.items():
        found = [number(value)]
        if isinstance(value, Mapping) and value and all(isinstance(inner, str) for inner in value.values()):
            found = [f"{name}: {inner}" for name, inner in value.items()]
        lines += [f"  {(str(key) if not n else '').ljust(width)}  {text}" for n, text in enumerate(found)]
    return lines


def _short(path: str) -> str:
    """A path below the working directory without it."""
    here = os.getcwd() + os.sep
    return path.removeprefix(here)


def lines(items: Iterable[str]) -> None:
    """Print lines on stdout."""
    for item in items:
        print(item)
