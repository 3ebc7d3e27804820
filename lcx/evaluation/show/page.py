"""The report as one HTML file that needs nothing else: the template `page.html` with its tables, style, script, data.

The template escapes every value that is put in; `page_data` says what is told, and `page.js` draws the panels.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lcx import __version__
from lcx.evaluation.result import Bars, Curve, Grid, Histogram, Mean, Panel, Result, Table
from lcx.evaluation.scores import ROLES, EvalResult, Side, find_results, run_of
from lcx.evaluation.show.page_data import (
    CHARTED,
    PageSummary,
    TaskSummary,
    asks_of,
    clean,
    collect,
    groups_of,
    summarize,
)
from lcx.evaluation.show.sentences import Line, shape_line
from lcx.formatting import length_name, percent, signed
from lcx.storage import write_text

if TYPE_CHECKING:
    from jinja2 import Environment

    from lcx.evaluation.compare import Verdict

__all__ = ["FILE", "page_of", "write_comparison", "write_report"]

FILE = "report.html"
MOST = 400
"""Characters of a text that the page shows where nothing else is said."""
PARTS = {"span": "place"}
"""What a reader calls the parts of a task."""
MARKS = (
    "M-4 0a4 4 0 1 0 8 0a4 4 0 1 0 -8 0",
    "M-4 -4H4V4H-4Z",
    "M0 -5L5 4H-5Z",
    "M0 -5L5 0L0 5L-5 0Z",
    "M0 5L5 -4H-5Z",
    "M-1.5 -5H1.5V-1.5H5V1.5H1.5V5H-1.5V1.5H-5V-1.5H-1.5Z",
)
STROKES = ("7 5", "", "9 4 2 4", "2 4", "12 4", "4 2")
"""The looks of the models: the page's script draws them too."""
ODD = {
    "nulls": "no answer",
    "refused": "refused",
    "truncated": "context cut",
    "dropped": "too long",
    "errors": "no reply, left out",
    "unfinished": "cut short",
    "thoughts": "with thoughts",
    "unfinished_thoughts": "only thoughts",
    "cut_prompts": "cut by the server",
    "skipped": "not counted",
    "duplicates": "twice",
    "empty": "empty",
    "unjudged": "not judged",
}
"""Counts of a task's rows in a reader's words."""


def write_report(folder: str | Path, path: str | Path | None = None, *, step: str | None = None) -> Path:
    """Write the page of all results in a run's folder, an eval step's or a model's: `report.html` in it, or `path`.

    Untrained models come before trained ones, then the oldest first. Raises MissingError where there are none.
    """
    folder = Path(folder)
    results = find_results(folder, step)
    place = folder / step if step else folder
    return write_text(path or place / FILE, page_of(results, _title(place)))


def write_comparison(path: str | Path, a: Side, b: Side, verdicts: Sequence[Verdict] | None = None) -> Path:
    """Write the page of two results, `b` against `a`; `verdicts` are those of `lcx compare`, else computed here."""
    results = [replace(one, name=side.name, trained=-1) for side in (a, b) for one in side.results]
    return write_text(path, page_of(results, f"{b.name} against {a.name}", verdicts))


def page_of(results: Sequence[EvalResult], title: str, verdicts: Sequence[Verdict] | None = None) -> str:
    """The page's HTML. The same results give the same page."""
    from markupsafe import Markup

    data = collect(results, title, verdicts)
    labels = [model["label"] for model in data["models"]]
    summary = summarize(data, before_after=tuple(labels) == ROLES)
    script = _asset("page.js")
    shown = list(enumerate(summary.tasks))
    warned = [{"tone": "bad", "text": said[:1].upper() + said[1:] + "."} for said in data["warnings"]]
    return (
        _environment()
        .get_template("page.html")
        .render(
            title=title,
            question=_question(summary.before_after, len(labels)),
            models=[{**model, "look": look_of(n, len(labels))} for n, model in enumerate(data["models"])],
            top=[*warned, *([summary.overall] if summary.overall else [])],
            lost=summary.lost,
            cards=summary.cards,
            tasks=_all_tasks(summary, labels),
            notes=data["notes"],
            skipped=data["skipped"],
            charted=[(n, _section(one, labels)) for n, one in shown if one.task["view"] in CHARTED],
            grouped=[
                (n, _section(one, labels))
                for n, one in shown
                if one.target and one.task["view"] not in CHARTED
            ],
            setup=data["setup"],
            lcx=data["setup"].get("lcx", __version__),
            marks=MARKS,
            strokes=STROKES,
            script=Markup(script),  # nosec B704  # the project's own
            script_hash=f"sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}",
            style=Markup(_asset("page.css")),  # nosec B704  # the project's own
            data=Markup(_embedded(data["models"], summary)),  # nosec B704  # JSON whose `<` are escapes
        )
    )


@cache
def _environment() -> Environment:
    """The templates, which escape what is put in and refuse a name that is not there."""
    from jinja2 import DictLoader, Environment, StrictUndefined
    from markupsafe import Markup, escape

    made = Environment(
        loader=DictLoader({"page.html": _asset("page.html")}), autoescape=True, undefined=StrictUndefined
    )
    made.filters["shown"] = lambda value, most=MOST: clean(value, most)
    # A task's name may be broken after a colon or an underscore.
    made.filters["title"] = lambda value: Markup(  # nosec B704  # escaped inside
        re.sub(r"([:_])(?!#)", r"\1<wbr>", str(escape(clean(value, MOST))))
    )
    return made


@cache
def _asset(name: str) -> str:
    return resources.files("lcx.evaluation.show").joinpath(name).read_text(encoding="utf-8")


def look_of(model: int, models: int) -> int:
    """How a model is drawn; one alone is drawn solid."""
    return 1 if models == 1 else model % len(MARKS)


def _question(before_after: bool, models: int) -> str:
    who = "does the model" if before_after or models == 1 else "do the models"
    return f"Where {who} lose information{', and did training help' if before_after else ''}?"


def _title(folder: Path) -> str:
    run = run_of(folder)
    if run is None:
        return folder.resolve().name
    inside = folder.resolve().relative_to(run.resolve())
    return run.resolve().name + ("" if str(inside) == "." else f" / {inside}")


# ---- the data that the script draws


def _embedded(models: Sequence[Mapping[str, str]], summary: PageSummary) -> str:
    """The data as JSON that ends no script element, whatever the texts in it are."""
    looks = [{"mark": mark, "stroke": stroke} for mark, stroke in zip(MARKS, STROKES, strict=True)]
    kept = {"models": models, "tasks": [_task_data(one.task) for one in summary.tasks], "looks": looks}
    raw = json.dumps(kept, ensure_ascii=False, separators=(",", ":"), allow_nan=False, default=str)
    return raw.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _task_data(task: Mapping[str, Any]) -> dict[str, Any]:
    """A task for the script: each model's panels, and single answers."""
    results = [
        one and {"positions": one.positions, "panels": [*_drawn(one.panels)], **_scaled(one)}
        for one in task["results"]
    ]
    kept = {key: task[key] for key in ("name", "title", "view", "items", "kept")}
    return {**kept, "results": results, **({"weak": task["weak"]} if "weak" in task else {})}


def _scaled(one: Result) -> dict[str, Any]:
    """From where to where the axis of scores goes, where it is not from 0 to 1."""
    return {"scale": one.scale} if one.scale else {}


def _measured(given: Sequence[tuple[str, Result]]) -> list[Line]:
    """A line a model of the means that have scales of their own."""
    lines: list[Line] = []
    for who, one in given:
        parts = [
            f"{name} {mean.mean:.2f}" + ("" if mean.ends is None else f" ({mean.low:.2f} to {mean.high:.2f})")
            for name, mean in one.measures.items()
            if mean.mean is not None
        ]
        if parts:
            lines.append({"tone": "flat", "text": f"{who}: {', '.join(parts)}."})
    return lines


def _drawn(panels: Iterable[Panel]) -> Iterable[dict[str, Any]]:
    """The panels that the script draws, as JSON holds them."""
    for panel in panels:
        if isinstance(panel, Curve):
            yield {
                **{"kind": "curve", "by": panel.by, "axis": panel.axis, "places": panel.places},
                **{"names": panel.names, "values": panel.values, "intervals": panel.intervals},
            }
        elif isinstance(panel, Grid):
            yield {
                **{"kind": "grid", "unit": panel.unit, "lengths": panel.lengths, "depths": panel.depths},
                **{"cells": panel.cells, "intervals": panel.intervals},
            }
        elif isinstance(panel, Bars):
            values, ends = [one.mean for one in panel.means], [one.ends for one in panel.means]
            yield {"kind": "bars", "by": panel.by, "names": panel.names, "values": values, "intervals": ends}
        elif isinstance(panel, Histogram):
            yield {"kind": "histogram", "low": panel.low, "high": panel.high, "counts": panel.counts}


# ---- tables


@dataclass(frozen=True)
class Cell:
    """A cell of a table: its text with a small one below, and where it sorts by a number that `value` (None: last).

    `kind` is its class and `of` the model that it tells of. `name` says that its text may be broken like a task's name.
    """

    text: str = ""
    small: str = ""
    value: float | None = None
    sorted: bool = False
    sorts: bool = True
    kind: str = ""
    of: int | None = None
    link: str = ""
    name: bool = False
    whiskers: list[dict[str, Any]] | None = None
    answers_of: int | None = None
    hint: str = ""


def _number(text: str, value: float | None, small: str = "", kind: str = "", of: int | None = None) -> Cell:
    return Cell(text, small, value, sorted=True, kind=kind, of=of)


def _mean(one: Mean | None, model: int) -> Cell:
    """A mean with its interval below it."""
    if one is None or one.mean is None:
        return _number("–", None, kind="num", of=model)
    small = one.no_interval if one.ends is None else f"{one.low:.2f}–{one.high:.2f}"
    return _number(f"{one.mean:.2f}", round(one.mean, 6), small, "num", model)


def _all_tasks(summary: PageSummary, labels: Sequence[str]) -> dict[str, Any]:
    """The table of all tasks."""
    head = [Cell("task"), *(Cell(clean(label, 32), of=number) for number, label in enumerate(labels))]
    head += [Cell("change")] if len(labels) > 1 else []
    head += [Cell("from 0 to 1", sorts=False, kind="dots"), Cell("answers")]
    head += [Cell("missing or cut", sorts=False), Cell("single answers", sorts=False)]
    caption = (
        "Mean score of each task, its 95% interval below it where one was computed. Click a heading to sort."
    )
    return {
        "head": head,
        "rows": [_task_row(one, number) for number, one in enumerate(summary.tasks)],
        "caption": caption,
    }


def _task_row(one: TaskSummary, number: int) -> list[Cell]:
    task, line = one.task, one.change
    results: list[Result | None] = task["results"]
    own = any(result.own_scale for result in results if result)
    shares = task["view"] not in ("perplexity", "other") and not own
    row = [Cell(task["title"], "" if shares else _scale(task), link=one.target, name=True)]
    row += [_mean(None if result is None else result.estimate, model) for model, result in enumerate(results)]
    if len(results) > 1:
        row.append(_change(task.get("change") or {}, line))
    row.append(Cell(kind="dots", whiskers=_whiskers(results) if shares else None))
    most = max((result.n for result in results if result), default=0)
    row.append(_number(f"{most:,}", most, kind="num"))
    row.append(Cell(small=_odd(results)))
    row.append(Cell(answers_of=number, hint=task["title"]) if task["items"] else Cell())
    return row


def _change(change: Mapping[str, Any], line: Line | None) -> Cell:
    tone = line["tone"] if line else ""
    words = {"good": "better", "bad": "worse", "none": "no clear change"}.get(tone, "not compared")
    size = line.get("size") if line else None
    words = {"little": f"a little {words}", "nothing": "almost none right"}.get(str(size), words)
    if change.get("mean") is None:
        return _number("–", None, kind=f"num change {tone}")
    return _number(signed(change["mean"]), change["mean"], words, f"num change {tone}")


def _whiskers(results: Sequence[Result | None]) -> list[dict[str, Any]]:
    """Means of 0 to 1 with their intervals as a small picture, a line a model."""

    def x(share: float) -> str:
        return f"{4 + 112 * min(1.0, max(0.0, share)):.1f}"

    found = []
    for number, one in enumerate(results):
        mean = None if one is None else one.estimate.mean
        ends = None if one is None or one.estimate.ends is None else [x(end) for end in one.estimate.ends]
        look = look_of(number, len(results))
        at = None if mean is None else x(mean)
        found.append({"model": number, "look": look, "y": 12 * number + 7, "x": at, "ends": ends})
    return found


def _scale(task: Mapping[str, Any]) -> str:
    if task["view"] == "perplexity":
        return "perplexity: lower is better"
    scale = next((one.scale for one in task["results"] if one and one.own_scale), None)
    return f"from {scale[0]:g} to {scale[1]:g}" if scale else ""


def _odd(results: Sequence[Result | None]) -> str:
    """Rows without an answer and the like, a part a kind: how many of each model's, of two as `2 → 0`."""
    parts = []
    for key, word in ODD.items():
        counts = [one.counts.get(key, 0) for one in results if one]
        if any(counts):
            between = " → " if len(counts) == 2 else " / "
            parts.append(f"{word}: {between.join(str(count) for count in counts)}")
    parts += dict.fromkeys(one.cut for one in results if one and one.cut)
    return "; ".join(parts) or "none"


# ---- a task's section


def _section(one: TaskSummary, labels: Sequence[str]) -> dict[str, Any]:
    """What the template needs of a task that has a section."""
    task = one.task
    results: list[Result | None] = task["results"]
    given = [(who, result) for who, result in zip(labels, results, strict=True) if result]
    kinds = dict.fromkeys(part["kind"] for part in (task["change"] or {}).get("parts", ()))
    curve = task["view"] == "curve"
    return {
        "target": one.target,
        "title": task["title"],
        "asks": asks_of(task["name"]),
        "lines": one.lines,
        "measured": _measured(given),
        "view": task["view"],
        "items": task["items"],
        "shapes": [words for who, result in given if curve and (words := shape_line(result, who))],
        "numbers": _numbers(task, labels) if task["view"] in ("curve", "lengths") else None,
        "parts": [(PARTS.get(kind, kind), _parts(task, kind, labels)) for kind in kinds],
        "groups": groups_of(task),
        "histogram": any(isinstance(panel, Histogram) for _, result in given for panel in result.panels),
        "shares": [
            _shares(who, panel)
            for who, result in given
            for panel in result.panels
            if isinstance(panel, Table)
        ],
    }


def _numbers(task: Mapping[str, Any], labels: Sequence[str]) -> dict[str, Any]:
    """The numbers behind a chart of places or lengths, with their intervals."""
    given = [(model, one.curve) for model, one in enumerate(task["results"]) if one]
    first = given[0][1]
    head = [Cell("places in the context" if task["view"] == "curve" else "length"), Cell("answers")]
    head += [Cell(clean(labels[model], 60), of=model) for model, _ in given]
    rows = []
    for n, name in enumerate(first.names):
        count = first.counts[n]
        row = [_number(name, n), _number("–" if count is None else f"{count:,}", count)]
        for model, curve in given:
            known = n < len(curve.values)
            low, high = (curve.intervals[n] if known else None) or (None, None)
            row.append(_mean(Mean(curve.values[n] if known else None, low, high), model))
        rows.append(row)
    caption = f"{task['title']}: the numbers, with 95% intervals where they were computed"
    return {"head": head, "rows": rows, "caption": caption}


def _part_name(task: Mapping[str, Any], part: Mapping[str, Any]) -> str:
    """A part of a task as the charts name it: `1–10` of the places, `4K`, `13%`."""
    group = str(part["group"])
    if part["kind"] == "span" and (ends := re.fullmatch(r"(\d+)[-–](\d+)", group)):
        return f"{int(ends[1]) + 1}–{int(ends[2]) + 1}"
    first = next(one for one in task["results"] if one)
    names: dict[str, str] = {}
    for panel in first.panels:
        if isinstance(panel, Curve) and panel.by == "length":
            names |= {f"{place:,}": length_name(int(place)) for place in panel.places}
        elif isinstance(panel, Curve) and panel.by == "depth":
            names |= {f"{place:.0%}": percent(place) for place in panel.places}
    return names.get(group, group)


def _parts(task: Mapping[str, Any], kind: str, labels: Sequence[str]) -> dict[str, Any]:
    """The verdict on each part of a task (its spans, lengths or depths): both means, the difference, and p."""
    change = task["change"]
    first, last = (clean(labels[number], 60) for number in change["models"])
    head = [Cell(name) for name in (PARTS.get(kind, kind), first, last, "change", "p", "verdict")]
    rows = []
    for n, part in enumerate(one for one in change["parts"] if one["kind"] == kind):
        short = f"no interval: {part['lacking']}" if part.get("lacking") else ""
        small = short if part["low"] is None else f"{signed(part['low'])} to {signed(part['high'])}"
        tone = {"better": "good", "worse": "bad"}.get(part["verdict"], "none")
        rows.append(
            [
                _number(clean(_part_name(task, part), MOST), n),
                _number(f"{part['a']:.2f}", part["a"], kind="num"),
                _number(f"{part['b']:.2f}", part["b"], kind="num"),
                _number(signed(part["mean"]), part["mean"], small, f"num change {tone}"),
                _number("<0.001" if part["p"] < 0.001 else f"{part['p']:.3f}", part["p"], kind="num"),
                Cell(part["verdict"]),
            ]
        )
    words = PARTS.get(kind, kind)
    caption = f"{task['title']}: by {words}; p is corrected (Holm) for how many there are"
    return {"head": head, "rows": rows, "caption": caption}


def _shares(who: str, panel: Table) -> dict[str, Any]:
    """Shares of wins, ties and losses, a row a respect."""
    head = [Cell(""), *(Cell(column) for column in panel.columns)]
    rows = [
        [Cell(clean(name, MOST)), *(replace(_mean(mean, 0), of=None) for mean in means)]
        for name, means in panel.rows
    ]
    return {"head": head, "rows": rows, "caption": f"{who}, {panel.title}: shares of the questions"}
