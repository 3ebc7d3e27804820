"""The report as one HTML file that needs nothing else: what it tells, its sections and tables, template, style, script.

Every text is escaped in this module: `text` makes markup of what models, files and people wrote.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cache
from html import escape
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lcx import __version__
from lcx.evaluation.scores import ROLES, EvalResult, Side, find_results, run_of
from lcx.evaluation.show.page_data import clean, collect
from lcx.evaluation.show.sentences import (
    NOTHING,
    Line,
    change_line,
    loss_line,
    lost_line,
    overall_line,
    shape_line,
    weak_stretch,
)
from lcx.formatting import length_name, percent, signed
from lcx.storage import write_text

if TYPE_CHECKING:
    from lcx.evaluation.compare import Verdict

__all__ = ["FILE", "page_of", "tell", "write_comparison", "write_report"]


FILE = "report.html"


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
    data = collect(results, title, verdicts)
    labels = [model["label"] for model in data["models"]]
    told = tell(data, before_after=tuple(labels) == ROLES)
    data["tasks"] = [one.task for one in told.tasks]
    script = _asset("page.js")
    parts = {
        "TITLE": text(f"{title}: lcx report"),
        "QUESTION": _question(told.before_after, len(labels)),
        "SUBTITLE": _subtitle(title, data["models"]),
        "HASHES": f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'",
        "STYLE": _asset("page.css"),
        "BODY": _body(data, told),
        "FOOT": _foot(data["setup"]),
        "DATA": _embedded(data),
        "SCRIPT": script,
    }
    # In one pass: what is put in may itself hold such a mark.
    return re.sub(r"@@([A-Z]+)@@", lambda found: parts[found[1]], _asset("page.html"))


def _embedded(data: Mapping[str, Any]) -> str:
    """The data as JSON that ends no script element, whatever the texts in it are."""
    looks = [{"mark": mark, "stroke": stroke} for mark, stroke in zip(MARKS, STROKES, strict=True)]
    kept = {"models": data["models"], "tasks": data["tasks"], "looks": looks}
    raw = json.dumps(kept, ensure_ascii=False, separators=(",", ":"), allow_nan=False, default=str)
    return raw.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _body(data: Mapping[str, Any], told: Told) -> str:
    labels = [model["label"] for model in data["models"]]
    head: list[dict[str, Any]] = [{"html": "task"}]
    head += [{"html": text(label, 32), "of": number} for number, label in enumerate(labels)]
    head += [{"html": "change"}] if len(labels) > 1 else []
    head.append({"html": "from 0 to 1", "sorts": False, "kind": "dots"})
    head += [
        {"html": "answers"},
        {"html": "missing or cut", "sorts": False},
        {"html": "single answers", "sorts": False},
    ]
    rows = [task_row(one.task, number, one.target, one.change) for number, one in enumerate(told.tasks)]
    top = [verdict({"tone": "bad", "text": said[:1].upper() + said[1:] + "."}) for said in data["warnings"]]
    top += [verdict(told.overall)] if told.overall else []
    cards = "".join(card(one.title, one.target, one.lines, one.asks) for one in told.cards)
    caption = (
        "Mean score of each task, its 95% interval below it where one was computed. Click a heading to sort."
    )
    return "\n".join(
        [
            '<section id="short"><h2>In short</h2>',
            *top,
            f'<div class="lost">{lines_list(told.lost)}</div>' if told.lost else "",
            f'<div class="cards">{cards}</div></section>',
            switches(data["models"]),
            f'<section id="tasks"><h2>All tasks</h2>{table(head, rows, caption)}'
            f"{_differences(data['notes'])}{_left_out(data['skipped'])}</section>",
            task_sections(told, labels),
        ]
    )


def _question(before_after: bool, models: int) -> str:
    who = "does the model" if before_after or models == 1 else "do the models"
    return f"Where {who} lose information{', and did training help' if before_after else ''}?"


def _differences(notes: Sequence[str]) -> str:
    """What differs between results that are shown together, besides their models."""
    return "".join(f'<p class="note">{text(note)}</p>' for note in notes)


def _left_out(skipped: Mapping[str, str]) -> str:
    if not skipped:
        return ""
    rows = "".join(f"<li><b>{text(task)}</b>: {text(why, 1000)}</li>" for task, why in skipped.items())
    return f"<details><summary>Left out: {text(', '.join(skipped))}</summary><ul>{rows}</ul></details>"


def _subtitle(title: str, models: Sequence[Mapping[str, str]]) -> str:
    names = [
        text(model["label"], 80)
        if model["name"] == model["label"]
        else f"{text(model['label'], 80)}: {text(model['name'], 80)}"
        for model in models
    ]
    return f"{text(title)} · {'; '.join(names)}"


def _foot(setup: Mapping[str, str]) -> str:
    facts = "; ".join(f"{text(key)} {text(value)}" for key, value in setup.items())
    return (
        f"<p>{facts}</p><p>Written by lcx {text(setup.get('lcx', __version__))}. Scores go from 0 (nothing right) to 1 "
        "(all right). A 95% interval holds the mean of other contexts of this kind in 19 of 20 cases, or says that "
        "it holds for these contexts only. A gap between the best and the worst place is above zero by noise alone: "
        "p is how often shuffled places give one as large.</p>"
    )


def _title(folder: Path) -> str:
    run = run_of(folder)
    if run is None:
        return folder.resolve().name
    inside = folder.resolve().relative_to(run.resolve())
    return run.resolve().name + ("" if str(inside) == "." else f" / {inside}")


@cache
def _asset(name: str) -> str:
    return resources.files("lcx.evaluation.show").joinpath(name).read_text(encoding="utf-8")


CHARTED = ("curve", "grid", "lengths", "perplexity")
HINT = "Point at a place for its numbers, or tap it; on the keyboard, Tab and the arrow keys."
"""Said once, under the first chart."""
PLACED = ("curve", "grid", "lengths")
"""Views that show where information is lost."""
MANY = 3
"""Tasks of a family (of one suite, say) that have a card each; with more they share one."""


@dataclass(frozen=True)
class ToldTask:
    """A task with its sentences; `target` is the id of its section, empty where it has none."""

    task: dict[str, Any]
    losses: list[Line]
    change: Line | None
    target: str

    @property
    def lines(self) -> list[Line]:
        verdict = [] if self.change is None else [{**self.change, "kind": "answer"}]
        return [*self.losses, *verdict]


@dataclass(frozen=True)
class Card:
    title: str
    target: str
    lines: list[Line]
    asks: str = ""


@dataclass(frozen=True)
class Told:
    """The page's sentences; tasks in the order in which they are shown."""

    tasks: list[ToldTask]
    cards: list[Card] = field(default_factory=list)
    overall: Line | None = None
    lost: list[Line] = field(default_factory=list)
    before_after: bool = False


def tell(data: Mapping[str, Any], *, before_after: bool) -> Told:
    """Put the data into words, and its tasks into order: what has a chart first, in it what shows most."""
    labels = [model["label"] for model in data["models"]]
    tasks = [_told(task, labels, before_after) for task in data["tasks"]]
    views = [*CHARTED, "table", "other"]
    tasks.sort(key=lambda one: (views.index(one.task["view"]), -_weight(one.task)))
    tasks = [
        ToldTask(one.task, one.losses, one.change, f"task-{number}" if _has_section(one.task) else "")
        for number, one in enumerate(tasks)
    ]
    overall = overall_line(_changes(tasks), before_after, labels)
    return Told(
        tasks, _cards(tasks, labels, before_after), overall, _lost(tasks, labels, before_after), before_after
    )


def _lost(tasks: Sequence[ToldTask], labels: Sequence[str], before_after: bool) -> list[Line]:
    """What each model loses over all tasks that show where; nothing where none does."""
    lines = []
    tasks = [one for one in tasks if (one.change or {}).get("size") != "nothing"] or tasks
    before: set[str] | None = None
    for model, label in enumerate(labels):
        found = []
        for one in tasks:
            given = [number for number, scores in enumerate(one.task["results"]) if scores]
            if one.task["view"] in PLACED and model in given:
                found.append((one.task["title"], one.losses[given.index(model)]))
        if found:
            who = label.capitalize() if before_after else label
            lines.append(lost_line(found, who, before=before))
            before = {line["what"] for _, line in found if line.get("what")} if before_after else None
    return lines


def _changes(tasks: Sequence[ToldTask]) -> list[tuple[str, Mapping[str, Any], Line]]:
    """Name, change and verdict of the tasks that have a verdict."""
    return [(one.task["title"], one.task["change"], one.change) for one in tasks if one.change is not None]


def _told(task: dict[str, Any], labels: Sequence[str], before_after: bool) -> ToldTask:
    losses = [
        loss_line(scores, label.capitalize() if before_after else label)
        for label, scores in zip(labels, task["results"], strict=True)
        if scores is not None
    ]
    change = task.get("change")
    named = labels if change is None else [labels[number] for number in change["models"]]
    line = change_line(change, named, before_after, nothing=_finds_nothing(task))
    first: Mapping[str, Any] = next((scores for scores in task["results"] if scores), {})
    weak = weak_stretch(first.get("spans") or []) if losses and losses[0]["tone"] == "loss" else None
    if weak is not None:
        which = f" {named[0]}" if len(labels) > 1 else ""
        task["weak"] = {
            "start": weak["start"],
            "end": weak["end"],
            "text": f"weakest{which}: {weak['score']:.2f}",
        }
    return ToldTask(task, losses, line, "")


def _finds_nothing(task: Mapping[str, Any]) -> bool:
    """Whether almost nothing is right in any model's answers: such a task says little of what training did."""
    if task["view"] in ("perplexity", "other"):
        return False
    means = [(estimate_of(scores) or {}).get("mean") for scores in task["results"] if scores]
    return bool(means) and all(mean is not None and mean < NOTHING for mean in means)


def _weight(task: Mapping[str, Any]) -> float:
    """How much a task shows: the largest gap of a model that finds something, or the change."""
    gaps = [s.get("gap") or 0.0 for s in task["results"] if s and (s.get("average") or 0) >= 0.1]
    return max([*gaps, abs((task.get("change") or {}).get("mean") or 0.0)])


def _has_section(task: Mapping[str, Any]) -> bool:
    return task["view"] in CHARTED or any(_groups(task))


def _groups(task: Mapping[str, Any]) -> list[str]:
    """What a task's scores are broken down by: length, difficulty, domain."""
    return list(dict.fromkeys(key for scores in task["results"] if scores for key in scores.get("by") or {}))


def _cards(tasks: Sequence[ToldTask], labels: Sequence[str], before_after: bool) -> list[Card]:
    """A card a task; families of many tasks without a chart share one."""
    families: dict[str, list[ToldTask]] = {}
    for one in tasks:
        name = one.task["title"] if one.task["view"] in CHARTED else str(one.task["name"]).split(":")[0]
        families.setdefault(name, []).append(one)
    cards = []
    for name, members in families.items():
        if len(members) <= MANY:
            cards += [
                Card(one.task["title"], one.target or "tasks", one.lines, _asks(one.task["name"]))
                for one in members
            ]
        else:
            cards.append(
                Card(f"{name}: {len(members)} tasks", "tasks", _family(members, labels, before_after))
            )
    return cards


def _family(members: Sequence[ToldTask], labels: Sequence[str], before_after: bool) -> list[Line]:
    """A family in a few lines: each model's mean over its tasks, and in how many of them the last one differs."""
    lines: list[Line] = []
    for model, label in enumerate(labels):
        found = [estimate_of(one.task["results"][model]) for one in members]
        means = [one["mean"] for one in found if one and one.get("mean") is not None]
        if means:
            who = label.capitalize() if before_after else label
            mean = sum(means) / len(means)
            lines.append({"tone": "flat", "text": f"{who}: {mean:.2f} on average of {len(means)} tasks."})
    total = overall_line(_changes(members), before_after, labels)
    if total is not None:
        lines.append({**total, "kind": "answer"})
    return lines


def task_sections(told: Told, labels: Sequence[str]) -> str:
    """The charts: a section a task that has one, and one for all that are broken down by groups of rows."""
    parts = [_section(one, n, labels) for n, one in enumerate(told.tasks) if one.task["view"] in CHARTED]
    grouped = [(n, one) for n, one in enumerate(told.tasks) if one.target and one.task["view"] not in CHARTED]
    if grouped:
        parts.append('<section class="task"><h2>By length and other groups</h2>')
        parts.append('<p class="asks">Mean scores with 95% intervals.</p><div class="small">')
        parts += [_grouped(one, n) for n, one in grouped]
        parts.append("</div></section>")
    return "\n".join(parts)


def _grouped(one: ToldTask, number: int) -> str:
    """A suite's charts, a figure for what its rows are grouped by."""
    figures = "".join(_figure("groups", number, f"by {text(by)}", by=by) for by in _groups(one.task))
    return f'<article id="{one.target}"><h3>{text(one.task["title"])}</h3>{figures}</article>'


def _section(one: ToldTask, number: int, labels: Sequence[str]) -> str:
    task = one.task
    parts = [f'<section class="task" id="{one.target}"><h2>{text(task["title"])}</h2>']
    asks = _asks(task["name"])
    parts += [f'<p class="asks">{text(asks)}</p>'] if asks else []
    parts.append(lines_list(one.lines))
    view = task["view"]
    if view == "curve":
        parts.append(
            _figure(
                "curve",
                number,
                "<strong>Share of right answers by where the evidence stands.</strong> "
                "The bands are 95% intervals." + _open(task),
                hint=number == 0,
            )
        )
        shapes = [
            shape_line(scores, who) for who, scores in zip(labels, task["results"], strict=True) if scores
        ]
        said = "".join(f'<p class="note">{text(words)}</p>' for words in shapes if words)
        parts.append(f"<details><summary>The numbers</summary>{said}{numbers_table(task, labels)}</details>")
    elif view == "grid":
        parts.append(
            _figure(
                "grid",
                number,
                "<strong>Share of right answers by length (to the right) and depth "
                "(downwards).</strong> Dark is nothing found, yellow is all found." + _open(task),
                "heats",
                hint=number == 0,
            )
        )
        lines = _figure("by-length", number, "<strong>By length</strong>, the mean of all depths.")
        lines += _figure("by-depth", number, "<strong>By depth</strong>, the mean of all lengths.")
        parts.append(f'<div class="two">{lines}</div>')
    elif view == "lengths":
        parts.append(
            _figure(
                "lengths",
                number,
                "<strong>Share of right answers by length of the context.</strong>" + _open(task),
                hint=number == 0,
            )
        )
        parts.append(f"<details><summary>The numbers</summary>{numbers_table(task, labels)}</details>")
    elif view == "perplexity":
        parts.append(
            _figure(
                "perplexity",
                number,
                "<strong>Perplexity: how surprised the model is by each part of the text.</strong> Lower is better.",
                hint=number == 0,
            )
        )
    for kind in dict.fromkeys(part["kind"] for part in (task["change"] or {}).get("parts", ())):
        shown = parts_table(task, kind, labels)
        parts.append(
            f"<details><summary>Verdicts by {text(PARTS.get(kind, kind))}</summary>{shown}</details>"
        )
    if task["items"]:
        parts.append(
            f'<button type="button" class="look" data-task="{number}">Look at single answers</button>'
        )
    return "".join(parts) + "</section>"


def _figure(
    chart: str, number: int, caption: str, holder: str = "plot", by: str = "", *, hint: bool = False
) -> str:
    more = f' data-by="{text(by)}"' if by else ""
    return (
        f'<figure data-chart="{chart}" data-task="{number}"{more}><figcaption>{caption}</figcaption>'
        f'<div class="{holder}"></div><p class="readout" aria-live="polite">{HINT if hint else ""}</p></figure>'
    )


def _open(task: Mapping[str, Any]) -> str:
    return " Click a place, or press Enter on it, to read the answers there." if task["items"] else ""


def _asks(name: str) -> str:
    """What a task asks, in its own words, where it is known here."""
    from lcx.errors import LcxError
    from lcx.plugins import loaded

    with suppress(LcxError):
        return str(getattr(loaded().probes.load(name), "summary", "")).replace("->", "→")
    return ""


MOST = 400
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

Cell = Mapping[str, Any]
"""`html`, and where it sorts by a number `value` (None: last); `kind` is its class and `of` the model it tells of."""


def text(value: Any, most: int = MOST) -> str:
    """Any text, escaped, its control characters shown."""
    return escape(clean(value, most), quote=True)


def look_of(model: int, models: int) -> int:
    """How a model is drawn; one alone is drawn solid."""
    return 1 if models == 1 else model % len(MARKS)


def verdict(line: Line) -> str:
    return f'<p class="verdict {line["tone"]}">{text(line["text"])}</p>'


def lines_list(lines: Sequence[Line], *, brief: bool = False) -> str:
    """Sentences as a list, `brief` without their statistics; a line of `kind` answer is the verdict among them."""
    said = [line.get("brief", line["text"]) if brief else line["text"] for line in lines]
    rows = "".join(
        f'<li class="{line["tone"]} {line.get("kind", "")}">{text(words, 2000)}</li>'
        for line, words in zip(lines, said, strict=True)
    )
    return f'<ul class="lines">{rows}</ul>'


def card(title: str, target: str, lines: Sequence[Line], asks: str = "") -> str:
    link = f'<a href="#{target}">{title_text(title)}</a>' if target else title_text(title)
    said = f'<p class="asks">{text(asks)}</p>' if asks else ""
    return f'<article class="card"><h3>{link}</h3>{said}{lines_list(lines, brief=True)}</article>'


def title_text(title: str) -> str:
    """A task's name, which may be broken after a colon or an underscore."""
    return text(title).replace(":", ":<wbr>").replace("_", "_<wbr>")


def switches(models: Sequence[Mapping[str, str]]) -> str:
    """The legend, which is also where models are shown and hidden."""
    parts = []
    for number, model in enumerate(models):
        look = look_of(number, len(models))
        sample = (
            f'<svg width="40" height="14" aria-hidden="true"><line class="s{look}" x1="1" x2="39" y1="7" y2="7" '
            f'stroke-width="2.5" stroke-dasharray="{STROKES[look]}"/>'
            f'<path class="f{look}" d="{MARKS[look]}" transform="translate(20 7)"/></svg>'
        )
        more = "" if model["name"] == model["label"] else f" <small>{text(model['name'], 60)}</small>"
        parts.append(
            f'<label><input type="checkbox" data-model="{number}" checked> {sample} '
            f"<span>{text(model['label'], 60)}{more}</span></label>"
        )
    return f'<div class="models" role="group" aria-label="Models shown in the charts">{"".join(parts)}</div>'


def table(head: Sequence[Cell], rows: Sequence[Sequence[Cell]], caption: str) -> str:
    """A table that sorts by any column with a name; the first cell of a row is its heading."""
    heads = "".join(
        f'<th scope="col"{_of(cell)}{_kind(cell)}'
        + (
            f' aria-sort="none"><button type="button">{cell["html"]}</button></th>'
            if cell.get("sorts", True)
            else f">{cell['html']}</th>"
        )
        for cell in head
    )
    body = "".join(
        "<tr>"
        + "".join(_cell(cell, "th" if place == 0 else "td") for place, cell in enumerate(row))
        + "</tr>"
        for row in rows
    )
    return (
        f'<p class="note">{text(caption)}</p>'
        f'<div class="scroll" tabindex="0" role="region" aria-label="{text(caption)}"><table class="data">'
        f"<thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _of(cell: Cell) -> str:
    return "" if cell.get("of") is None else f' data-of="{cell["of"]}"'


def _kind(cell: Cell) -> str:
    return f' class="{cell["kind"]}"' if cell.get("kind") else ""


def _cell(cell: Cell, name: str) -> str:
    scope = ' scope="row"' if name == "th" else ""
    value = "" if "value" not in cell else f' data-value="{"" if cell["value"] is None else cell["value"]}"'
    return f"<{name}{scope}{_kind(cell)}{value}{_of(cell)}>{cell['html']}</{name}>"


def estimate_cell(estimate: Mapping[str, Any] | None, model: int, digits: int = 2) -> Cell:
    """A mean with its interval below it."""
    mean = None if estimate is None else estimate.get("mean")
    if mean is None or estimate is None:
        return {"html": "–", "value": None, "kind": "num", "of": model}
    low, high = estimate.get("low"), estimate.get("high")
    small = "" if low is None or high is None else f"<small>{low:.{digits}f}–{high:.{digits}f}</small>"
    return {"html": f"{mean:.{digits}f}{small}", "value": round(mean, 6), "kind": "num", "of": model}


def estimate_of(scores: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """A task's mean with its interval, from newer results; the average alone from older ones."""
    if scores is None:
        return None
    found = dict(scores.get("estimate") or {})
    if found.get("mean") is None and "average" in scores:
        found["mean"] = scores["average"]
    if found.get("mean") is None and scores.get("view") == "perplexity":
        found = {"mean": scores.get("perplexity")}
    return found or {key: scores.get(key) for key in ("mean", "low", "high")}


def whiskers(estimates: Sequence[Mapping[str, Any] | None]) -> str:
    """Means of 0 to 1 with their intervals as a small picture, a line a model."""
    parts = []
    tall = 12 * len(estimates) + 2
    for number, one in enumerate(estimates):
        if one is None or one.get("mean") is None:
            continue
        look, y = look_of(number, len(estimates)), 12 * number + 7
        x = 4 + 112 * min(1.0, max(0.0, one["mean"]))
        line = ""
        if one.get("low") is not None and one.get("high") is not None:
            ends = [4 + 112 * min(1.0, max(0.0, one[key])) for key in ("low", "high")]
            line = f'<line class="s{look}" x1="{ends[0]:.1f}" x2="{ends[1]:.1f}" y1="{y}" y2="{y}" stroke-width="2"/>'
        mark = f'<path class="f{look}" d="{MARKS[look]}" transform="translate({x:.1f} {y}) scale(.8)"/>'
        parts.append(f'<g data-of="{number}">{line}{mark}</g>')
    rules = "".join(f'<line class="rule" x1="{x}" x2="{x}" y1="0" y2="{tall}"/>' for x in (4, 60, 116))
    return f'<svg width="120" height="{tall}" aria-hidden="true">{rules}{"".join(parts)}</svg>'


def task_row(task: Mapping[str, Any], number: int, target: str, line: Line | None) -> list[Cell]:
    """A task's row in the table of all tasks."""
    estimates = [estimate_of(scores) for scores in task["results"]]
    shares = task["view"] not in ("perplexity", "other")
    title = title_text(task["title"])
    name = f'<a href="#{target}">{title}</a>' if target else title
    most = max((scores.get("n") or 0 for scores in task["results"] if scores), default=0)
    row: list[Cell] = [{"html": name + ("" if shares else f"<small>{_scale(task)}</small>")}]
    row += [estimate_cell(one, model) for model, one in enumerate(estimates)]
    if len(estimates) > 1:
        change, tone = task.get("change") or {}, line["tone"] if line else ""
        words = {"good": "better", "bad": "worse", "none": "no clear change"}.get(tone, "not compared")
        size = line.get("size") if line else None
        words = {"little": f"a little {words}", "nothing": "almost none right"}.get(str(size), words)
        html = "–" if change.get("mean") is None else f"{signed(change['mean'])}<small>{words}</small>"
        row.append({"html": html, "value": change.get("mean"), "kind": f"num change {tone}"})
    row.append({"html": whiskers(estimates) if shares else "", "kind": "dots"})
    row.append({"html": f"{most:,}", "value": most, "kind": "num"})
    row.append({"html": _odd(task["results"])})
    button = f'<button type="button" class="look" data-task="{number}" aria-label="Answers of {text(task["title"])}">'
    row.append({"html": f"{button}Answers</button>" if task["items"] else ""})
    return row


def _scale(task: Mapping[str, Any]) -> str:
    if task["view"] == "perplexity":
        return "perplexity: lower is better"
    scale = next((scores["scale"] for scores in task["results"] if scores and scores.get("scale")), None)
    return f"from {scale[0]:g} to {scale[1]:g}" if scale else ""


def _odd(results: Sequence[Mapping[str, Any] | None]) -> str:
    """Rows without an answer and the like, a part a kind: how many of each model's, of two as `2 → 0`."""
    words = {"nulls": "no answer", "refused": "refused", "truncated": "context cut", "dropped": "too long"}
    words |= {
        "errors": "no reply",
        "unfinished": "cut short",
        "skipped": "not counted",
        "duplicates": "twice",
    }
    parts = []
    for key, word in words.items():
        counts = [scores.get(key) or 0 for scores in results if scores]
        if any(isinstance(count, int) and count for count in counts):
            between = " → " if len(counts) == 2 else " / "
            parts.append(f"{word}: {between.join(str(count) for count in counts)}")
    return f"<small>{text('; '.join(parts))}</small>" if parts else "<small>none</small>"


def numbers_table(task: Mapping[str, Any], labels: Sequence[str]) -> str:
    """The numbers behind a chart of places or lengths, with their intervals."""
    given = [(model, scores) for model, scores in enumerate(task["results"]) if scores]
    first = given[0][1]
    key = "spans" if task["view"] == "curve" else "values"
    if task["view"] == "curve":
        width = first.get("span") or 1
        names = [f"{n * width + 1}–{(n + 1) * width}" for n in range(len(first[key]))]
        heading = "places in the context"
    else:
        names, heading = [length_name(length) for length in first["lengths"]], "length"
    head: list[Cell] = [{"html": heading}, {"html": "answers"}]
    head += [{"html": text(labels[model], 60), "of": model} for model, _ in given]
    rows: list[list[Cell]] = []
    for n, name in enumerate(names):
        counts = first.get("counts") or []
        count = counts[n] if n < len(counts) else None
        row: list[Cell] = [
            {"html": name, "value": n},
            {"html": "–" if count is None else f"{count:,}", "value": count},
        ]
        for model, scores in given:
            ends = (scores.get("intervals") or [None] * len(names))[n]
            mean = scores[key][n] if n < len(scores[key]) else None
            low, high = ends or (None, None)
            row.append(estimate_cell({"mean": mean, "low": low, "high": high}, model))
        rows.append(row)
    return table(head, rows, f"{task['title']}: the numbers, with 95% intervals where they were computed")


def _part_name(task: Mapping[str, Any], part: Mapping[str, Any]) -> str:
    """A part of a task as the charts name it: `1–10` of the places, `4K`, `13%`."""
    first: Mapping[str, Any] = next((scores for scores in task["results"] if scores), {})
    group = str(part["group"])
    if part["kind"] == "span" and (ends := re.fullmatch(r"(\d+)[-–](\d+)", group)):
        return f"{int(ends[1]) + 1}–{int(ends[2]) + 1}"
    names = {f"{length:,}": length_name(length) for length in first.get("lengths", ())}
    names |= {f"{depth:.0%}": percent(depth) for depth in first.get("depths", ())}
    return names.get(group, group)


def parts_table(task: Mapping[str, Any], kind: str, labels: Sequence[str]) -> str:
    """The verdict on each part of a task (its spans, lengths or depths): both means, the difference, and p."""
    change = task["change"]
    first, last = (labels[number] for number in change["models"])
    head: list[Cell] = [
        {"html": html}
        for html in (
            PARTS.get(kind, kind),
            text(first, 60),
            text(last, 60),
            "change",
            "p",
            "verdict",
        )
    ]
    rows: list[list[Cell]] = []
    for n, part in enumerate(one for one in change["parts"] if one["kind"] == kind):
        low, high = part["low"], part["high"]
        small = "" if low is None else f"<small>{signed(low)} to {signed(high)}</small>"
        tone = {"better": "good", "worse": "bad"}.get(part["verdict"], "none")
        rows.append(
            [
                {"html": text(_part_name(task, part)), "value": n},
                {"html": f"{part['a']:.2f}", "value": part["a"], "kind": "num"},
                {"html": f"{part['b']:.2f}", "value": part["b"], "kind": "num"},
                {"html": signed(part["mean"]) + small, "value": part["mean"], "kind": f"num change {tone}"},
                {
                    "html": "&lt;0.001" if part["p"] < 0.001 else f"{part['p']:.3f}",
                    "value": part["p"],
                    "kind": "num",
                },
                {"html": part["verdict"]},
            ]
        )
    return table(
        head,
        rows,
        f"{task['title']}: by {PARTS.get(kind, kind)}; p is corrected (Holm) for how many there are",
    )
