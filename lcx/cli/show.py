"""Results on stdout: JSON for machines, plain aligned text for people. No colours, no boxes, nothing that moves."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

BAR = "▁▂▃▄▅▆▇█"


def emit_json(value: Any) -> None:
    """One JSON object on stdout."""
    print(json.dumps(value, ensure_ascii=False, default=str))


def table(rows: Sequence[Sequence[str]], head: Sequence[str]) -> str:
    """Left-aligned columns under their names; the last one runs free."""
    everything = [list(head), *[list(row) for row in rows]]
    widths = [max(len(row[i]) for row in everything) for i in range(len(head))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in everything]
    return "\n".join(line.rstrip() for line in lines)


def number(value: Any) -> str:
    """A value as a person wants to read it."""
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no"}.get(value, "none")  # type: ignore[arg-type]
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, int):
        return f"{value:,}" if abs(value) >= 10_000 else str(value)
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {number(inner)}" for key, inner in value.items())
    if isinstance(value, list | tuple):
        return " ".join(number(inner) for inner in value)
    return str(value)


def curve(spans: Sequence[float | None]) -> str:
    """Accuracies from 0 to 1 as a row of bars; a dot where there is no row."""
    return "".join(
        "·" if value is None else BAR[min(len(BAR) - 1, max(0, int(value * len(BAR))))] for value in spans
    )


def step_summary(report: Mapping[str, Any]) -> str:
    """A finished step in a few lines: headline numbers, counts, files, warnings."""
    head = f"{report['step']}: {report['state']}"
    head += " before, nothing to do" if report.get("reused") else f" in {report['seconds']:.1f} s"
    lines = [head]
    for title in ("metrics", "counts"):
        lines += _pairs(report.get(title) or {})
    files = report.get("files") or {}
    lines += _pairs({name: _short(str(path)) for name, path in files.items()}) or [f"  folder  {report['folder']}"]
    lines += [f"  note    {note}" for note in report.get("notes") or []]
    return "\n".join(lines)


def plan(report: Mapping[str, Any]) -> str:
    """A step of --dry-run: its settings as YAML with origins, then the forecast."""
    lines = [f"{report['step']}: stage {report['stage']}, method {report['method']} ({report['state']})"]
    lines += [f"  {line}" for line in settings_lines(report["settings"], report["origins"])]
    if report["forecast"]:
        lines.append("  forecast")
        lines += [f"  {line}" for line in _pairs(report["forecast"])]
    return "\n".join(lines)


def settings_lines(values: Mapping[str, Any], origins: Mapping[str, str] | None = None) -> list[str]:
    """Settings as lines of YAML, each with a comment that says where its value came from."""
    import yaml

    width = 0
    rows: list[tuple[list[str], str]] = []
    for key, value in values.items():
        text = yaml.safe_dump(
            {key: value}, default_flow_style=None, sort_keys=False, allow_unicode=True, width=10**6
        )
        rows.append((text.rstrip("\n").split("\n"), (origins or {}).get(key, "")))
        if len(rows[-1][0]) == 1:
            width = max(width, min(48, len(rows[-1][0][0])))
    lines: list[str] = []
    for body, origin in rows:
        if not origin:
            lines += body
        elif len(body) == 1:
            lines.append(f"{body[0].ljust(width)}  # {origin}")
        else:  # a comment inside a value of several lines could become part of it
            lines += [f"# {origin}", *body]
    return lines


def _pairs(values: Mapping[str, Any]) -> list[str]:
    width = max([len(str(key)) for key in values] + [6])
    return [f"  {str(key).ljust(width)}  {number(value)}" for key, value in values.items()]


def _short(path: str) -> str:
    """A path below the working directory without it."""
    here = os.getcwd() + os.sep
    return path.removeprefix(here)


def lines(items: Iterable[str]) -> None:
    """Print lines on stdout."""
    for item in items:
        print(item)
