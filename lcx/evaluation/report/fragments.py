"""Pieces of the page as HTML: sentences, cards, tables, the models' switches. Every text is escaped here."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from lcx.evaluation.report.items import clean
from lcx.evaluation.report.sentences import Line
from lcx.formatting import length_name, percent, signed

__all__ = [
    "MARKS",
    "PARTS",
    "STROKES",
    "Cell",
    "card",
    "estimate_of",
    "lines_list",
    "numbers_table",
    "parts_table",
    "switches",
    "table",
    "task_row",
    "text",
    "verdict",
]

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
