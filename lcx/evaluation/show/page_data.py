"""All that the page shows: models, tasks with their panels, verdicts, single answers, and it all in sentences."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lcx.evaluation.result import Histogram, Table, result_of
from lcx.evaluation.scores import EvalResult, Side, comparable, label_results, warnings_of
from lcx.evaluation.show.sentences import (
    NOTHING,
    Line,
    change_line,
    loss_line,
    lost_line,
    overall_line,
    weak_stretch,
)
from lcx.paths import slug

if TYPE_CHECKING:
    from lcx.evaluation.compare import Verdict

__all__ = [
    "CHARTED",
    "MOST_BYTES",
    "MOST_ITEMS",
    "Card",
    "PageSummary",
    "Row",
    "TaskSummary",
    "asks_of",
    "changes_of",
    "choose",
    "clean",
    "collect",
    "groups_of",
    "item_of",
    "read_predictions",
    "reference",
    "summarize",
]

MOST_ITEMS = 240
"""Answers of a task that a page holds."""
MOST_BYTES = 3_600_000
"""Bytes of answers that a page holds in all; with more, every task gets fewer."""
LEAST_ITEMS = 24
Key = tuple[str, int]
"""A task's name, and the number of the set of questions that it was asked: results of other questions are apart."""


def collect(
    results: Sequence[EvalResult], title: str, verdicts: Sequence[Verdict] | None = None
) -> dict[str, Any]:
    """The report's object: `title`, `models`, `tasks`; models in the order of `results`, tasks in that of their views.

    A task's `results` has each model's `Result` (None where it was not asked the same thing), `change` the verdict on
    the last model against the first (`verdicts`, or computed here), and `items` single answers. Results that were
    asked different things are tasks of their own, told apart by the names of their eval steps.
    """
    labels = label_results(results)
    names = list(labels)
    groups, notes = _grouped(results, labels)
    if verdicts is None:
        changes = pair_changes(groups, names)
    else:
        told = changes_of(verdicts)
        changes = {key: {**told[key[0]], "models": [0, len(names) - 1]} for key in groups if key[0] in told}
    tasks = [_task(key, groups, names, changes.get(key)) for key in groups]
    tasks.sort(key=lambda task: (*CHARTED, "table", "other").index(task["view"]))
    _shrink(tasks)
    return {
        "title": title,
        "models": [{"name": name, "label": labels[name]} for name in names],
        "tasks": tasks,
        "setup": _setup(results),
        "skipped": _skipped(results),
        "notes": notes,
        "warnings": [f"{labels[one.name]}: {note}" for one in results for note in warnings_of(one)],
    }


def _answering(scores: Mapping[str, Any]) -> Mapping[str, Any]:
    found = scores.get("answering")
    return found if isinstance(found, Mapping) else {}


def _grouped(
    results: Sequence[EvalResult], labels: Mapping[str, str]
) -> tuple[dict[Key, dict[str, EvalResult]], list[str]]:
    """Results by model, of each task and each set of questions that it was asked, and what else differs in a group."""
    groups: dict[Key, dict[str, EvalResult]] = {}
    notes: dict[str, None] = {}
    for one in results:
        for task in one.scores["tasks"]:
            number = 0
            while group := groups.get((task, number)):
                first = next(iter(group.values()))
                differences = comparable(first.scores, one.scores, task)
                if not any(found.questions for found in differences):
                    names = f"{labels[first.name]} and {labels[one.name]}"
                    notes |= {f"{names}: {found}": None for found in differences}
                    break
                number += 1
            groups.setdefault((task, number), {})[one.name] = one
    return groups, list(notes)


def _skipped(results: Sequence[EvalResult]) -> dict[str, str]:
    """Tasks that were asked for and left out, with the reason, where no model has them."""
    done = {task for one in results for task in one.scores["tasks"]}
    given = [one.scores.get("skipped") for one in results]
    found = {str(task): str(why) for of in given if isinstance(of, Mapping) for task, why in of.items()}
    return {
        task: why
        for task, why in found.items()
        if not any(f"{name}:".startswith(f"{task}:") for name in done)
    }


def _setup(results: Sequence[EvalResult]) -> dict[str, str]:
    """What the newest result says of itself, for the foot of the page."""
    newest = max(results, key=lambda one: one.made).scores
    said = {"corpus": newest.get("corpus"), "seed": newest.get("seed"), "lcx": newest.get("lcx")}
    said |= {"limit": newest.get("limit"), "sample seed": newest.get("sample_seed")}
    template = newest.get("template")
    said["template"] = template.get("name") if isinstance(template, Mapping) else template
    if isinstance(newest.get("chat_template"), str):
        said["chat template"] = newest["chat_template"]
    check = _answering(newest).get("check")
    if isinstance(check, Mapping) and check.get("checked"):
        said["answers checked against full recomputation"] = (
            f"{check.get('equal')} of {check['checked']} equal"
            + (f", {check['ties']} equally likely" if check.get("ties") else "")
        )
    return {key: str(value) for key, value in said.items() if value not in (None, "")}


def _task(
    key: Key,
    groups: Mapping[Key, Mapping[str, EvalResult]],
    names: Sequence[str],
    change: dict[str, Any] | None,
) -> dict[str, Any]:
    task, by_model = key[0], groups[key]
    found = [by_model.get(name) for name in names]
    made = [None if one is None else result_of(task, one.scores["tasks"][task]) for one in found]
    first = next(one for one in made if one is not None)
    several = sum(name == task for name, _ in groups) > 1
    steps = list(dict.fromkeys(one.step for one in by_model.values()))
    rows = _rows(found, task)
    empty = first.view == "perplexity" and not first.curve.values
    view = "other" if empty else first.view
    asked = [] if view == "other" else list(dict.fromkeys(name for of in rows for name in of))
    items = [item_of([of.get(name) for of in rows]) for name in asked]
    return {
        "name": task,
        "title": f"{task} ({', '.join(steps)})" if several else task,
        "view": view,
        "results": made,
        "change": change,
        "items": items,
    }


def _rows(found: Sequence[EvalResult | None], task: str) -> list[dict[Hashable, Row]]:
    """Each model's rows of a task by what names them in all of the models' files."""
    from lcx.evaluation.compare import row_names

    score, name = getattr(_known(task), "score", None), f"predictions-{slug(task)}.jsonl"
    files = [[] if one is None else read_predictions(one.folder / name, score) for one in found]
    _, names = row_names(files)
    return [dict(zip(of, rows, strict=True)) for of, rows in zip(names, files, strict=True)]


def _known(task: str) -> Any:
    """The task of that name; None where it is not known here."""
    from lcx.errors import LcxError
    from lcx.plugins import loaded

    with suppress(LcxError):
        return loaded().probes.load(task)
    return None


def _shrink(tasks: Sequence[dict[str, Any]]) -> None:
    """Keep as many answers of every task as the page has room for, and say how many those are."""
    sizes = [
        len(json.dumps(task["items"][:200], ensure_ascii=False)) / max(1, len(task["items"][:200]))
        for task in tasks
    ]
    most = MOST_ITEMS
    while (
        most > LEAST_ITEMS
        and sum(size * min(most, len(task["items"])) for size, task in zip(sizes, tasks, strict=True))
        > MOST_BYTES
    ):
        most -= 8
    for task in tasks:
        task["items"], task["kept"] = choose(task["items"], most)


# ---- the last model against the first

Groups = Mapping[Key, Mapping[str, EvalResult]]
"""Results by model, of each task and each way in which it was asked."""


def pair_changes(groups: Groups, names: Sequence[str]) -> dict[Key, dict[str, Any]]:
    """The `change` of every group that two models or more answered: the last of `names` against the first.

    Tasks that were asked in several ways are compared once each way. A group that cannot be compared has `reason`.
    """
    from lcx.evaluation.compare import compare

    batches: list[dict[str, Key]] = []
    for key, by_model in groups.items():
        if len(by_model) > 1:
            batch = next((one for one in batches if key[0] not in one), None)
            if batch is None:
                batches.append(batch := {})
            batch[key[0]] = key
    found: dict[Key, dict[str, Any]] = {}
    for batch in batches:
        ends = {task: [name for name in names if name in groups[key]] for task, key in batch.items()}
        sides = [
            Side(
                f"side {place}",
                tuple(_only(groups[key][ends[task][place]], task) for task, key in batch.items()),
            )
            for place in (0, -1)
        ]
        comparison = compare(sides[0], sides[1])
        told = changes_of(comparison.verdicts)
        for task, key in batch.items():
            change = told.get(task) or {"reason": comparison.not_compared.get(task, "")}
            found[key] = {**change, "models": [names.index(ends[task][place]) for place in (0, -1)]}
    return found


def _only(result: EvalResult, task: str) -> EvalResult:
    """The result with one task alone."""
    return replace(result, scores={**result.scores, "tasks": {task: result.scores["tasks"][task]}})


def changes_of(verdicts: Sequence[Verdict]) -> dict[str, dict[str, Any]]:
    """By task: the whole's verdict with `mean`, `low` and `high` in the task's own numbers, and its `parts`."""
    found: dict[str, dict[str, Any]] = {}
    for one in verdicts:
        change = _change_of(one)
        if one.kind == "task":
            found[one.task] = {**change, "parts": [], "short": one.short, "reading": one.reading}
        elif one.task in found:
            found[one.task]["parts"].append({**change, "kind": one.kind, "group": one.group})
    return found


def _change_of(one: Verdict) -> dict[str, Any]:
    """A verdict as the page shows it; points are hundredths of the scores, which go from 0 to 1."""
    share = 100.0 if one.unit == "points" else 1.0
    return {
        "a": one.a / share,
        "b": one.b / share,
        "mean": one.difference / share,
        "low": None if one.low is None else one.low / share,
        "high": None if one.high is None else one.high / share,
        **({"lacking": one.lacking} if one.lacking else {}),
        "p": one.p_holm,
        "verdict": one.verdict,
        "unit": one.unit,
        "n": one.n,
        "regression": one.regression,
    }


# ---- single answers

Row = Mapping[str, Any]
TEXT_MOST, QUESTION_MOST = 700, 400
"""Characters of a text that are kept; what is longer loses its middle."""
REFERENCES = ("answers", "answer", "value", "values", "gold_answer", "name", "sentence", "function")
CONTROL = {code: 0x2400 + code for code in range(32) if chr(code) not in "\n\t"} | {0x7F: 0x2421, 13: None}
"""Control characters as the signs that stand for them: a page cannot show them, and NUL breaks some readers."""


def read_predictions(path: Path, score: Callable[[Row], float | None] | None = None) -> list[dict[str, Any]]:
    """The rows of a predictions file with their `score`; those without one get `score(row)`. None where it is absent.

    Lines that are no JSON objects are passed over: a report shows what there is.
    """
    if not path.is_file():
        return []
    rows = []
    for line in path.read_text(encoding="utf-8", errors="replace").split("\n"):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(row, dict):
            if "score" not in row and "reward" not in row:
                row["score"] = _scored(row, score)
            rows.append(row)
    return rows


def _scored(row: Row, score: Callable[[Row], float | None] | None) -> float | None:
    if score is None or row.get("skip"):
        return None
    if not isinstance(row.get("pred"), str):
        return 0.0
    try:
        return score(row)
    except (KeyError, TypeError, ValueError):
        return None


def reference(row: Row) -> str:
    """The right answer, from whichever field has it."""
    for name in REFERENCES:
        value = row.get(name)
        if isinstance(value, str) and value:
            return value
        if isinstance(value, list | tuple) and value:
            return "\nor: ".join(str(one) for one in value)
    parts = [str(row[name]) for name in ("label", "description") if row.get(name)]
    return "\nor: ".join(parts)


def item_of(rows: Sequence[Row | None]) -> dict[str, Any]:
    """One question for the page: what was asked, where the evidence stood, and each model's answer and score.

    Keys are short because there are many: q question, g gold, x excerpt, s set, p position, l length, d depth,
    a the evidence's place from 0 to 1, y predictions, v scores, f how each answer ended where not by itself.
    """
    row = next(row for row in rows if row is not None)
    found: dict[str, Any] = {
        "q": clean(row.get("question") or row.get("input") or row.get("query"), QUESTION_MOST),
        "g": clean(reference(row), TEXT_MOST),
        "x": clean(row.get("excerpt"), TEXT_MOST),
        "s": row.get("set_id"),
        "p": row.get("position_id"),
        "l": row.get("length"),
        "d": row.get("depth"),
        "a": row.get("at"),
        "k": [row.get(name) for name in ("difficulty", "domain")],
        "y": [None if one is None else clean(one.get("pred"), TEXT_MOST) for one in rows],
        "v": [None if one is None else _number(one.get("score")) for one in rows],
        "f": [None if one is None or one.get("finish") != "length" else "length" for one in rows],
        "n": [bool(one is not None and one.get("pred") is None) for one in rows],
    }
    return {name: value for name, value in found.items() if _says(value)}


def _says(value: Any) -> bool:
    return value not in (None, "", []) and (
        not isinstance(value, list) or any(one is not None for one in value)
    )


def _number(value: Any) -> float | None:
    return round(float(value), 4) if isinstance(value, int | float) and value == value else None


def clean(value: Any, most: int) -> str:
    """A text for the page: control characters shown, lone surrogates replaced, the middle left out where too long."""
    text = "" if value is None else str(value)
    if len(text) > most:
        text = f"{text[: most * 2 // 3]} […] {text[len(text) - most // 3 :]}"
    text = re.sub(r"\r\n?", "\n", text).translate(CONTROL)
    return text.encode("utf-8", "replace").decode("utf-8")


def choose(items: Sequence[dict[str, Any]], most: int) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """At most so many items, in their order, and counts: three quarters of them wrong ones if there are so many.

    Both the wrong ones (that any model got less than right) and the right ones are spread evenly over their
    order, so that every place of the context has some.
    """
    wrong = [n for n, item in enumerate(items) if any(v is not None and v < 1 for v in item.get("v", ()))]
    right = sorted(set(range(len(items))) - set(wrong))
    if len(items) <= most:
        kept_wrong, kept_right = wrong, right
    else:
        bad = min(len(wrong), max(most * 3 // 4, most - len(right)))
        kept_wrong, kept_right = _spread(wrong, bad), _spread(right, most - bad)
    kept = sorted([*kept_wrong, *kept_right])
    counts = {"all": len(items), "kept": len(kept), "wrong": len(wrong), "kept_wrong": len(kept_wrong)}
    return [items[n] for n in kept], counts


def _spread(places: Sequence[int], most: int) -> list[int]:
    """At most so many of the places, evenly."""
    if most >= len(places):
        return list(places)
    return [places[(2 * n + 1) * len(places) // (2 * most)] for n in range(most)]


# ---- what the page tells

CHARTED = ("curve", "grid", "lengths", "perplexity")
PLACED = ("curve", "grid", "lengths")
"""Views that show where information is lost."""
MANY = 3
"""Tasks of a family (of one suite, say) that have a card each; with more they share one."""


@dataclass(frozen=True)
class TaskSummary:
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
class PageSummary:
    """The page's sentences; tasks in the order in which they are shown."""

    tasks: list[TaskSummary]
    cards: list[Card] = field(default_factory=list)
    overall: Line | None = None
    lost: list[Line] = field(default_factory=list)
    before_after: bool = False


def summarize(data: Mapping[str, Any], *, before_after: bool) -> PageSummary:
    """Put the data into words, and its tasks into order: what has a chart first, in it what shows most."""
    labels = [model["label"] for model in data["models"]]
    tasks = [_summarized(task, labels, before_after) for task in data["tasks"]]
    views = [*CHARTED, "table", "other"]
    tasks.sort(key=lambda one: (views.index(one.task["view"]), -_weight(one.task)))
    tasks = [
        TaskSummary(one.task, one.losses, one.change, f"task-{number}" if _has_section(one.task) else "")
        for number, one in enumerate(tasks)
    ]
    overall = overall_line(_changes(tasks), before_after, labels)
    return PageSummary(
        tasks, _cards(tasks, labels, before_after), overall, _lost(tasks, labels, before_after), before_after
    )


def _lost(tasks: Sequence[TaskSummary], labels: Sequence[str], before_after: bool) -> list[Line]:
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


def _changes(tasks: Sequence[TaskSummary]) -> list[tuple[str, Mapping[str, Any], Line]]:
    """Name, change and verdict of the tasks that have a verdict."""
    return [(one.task["title"], one.task["change"], one.change) for one in tasks if one.change is not None]


def _summarized(task: dict[str, Any], labels: Sequence[str], before_after: bool) -> TaskSummary:
    losses = [
        loss_line(one, label.capitalize() if before_after else label)
        for label, one in zip(labels, task["results"], strict=True)
        if one is not None
    ]
    change = task.get("change")
    named = labels if change is None else [labels[number] for number in change["models"]]
    line = change_line(change, named, before_after, nothing=_finds_nothing(task))
    first = next(one for one in task["results"] if one is not None)
    lost = task["view"] == "curve" and losses[0]["tone"] == "loss"
    weak = weak_stretch(first.curve.values) if lost and first.view == "curve" else None
    if weak is not None:
        which = f" {named[0]}" if len(labels) > 1 else ""
        task["weak"] = {
            "start": weak["start"],
            "end": weak["end"],
            "text": f"weakest{which}: {weak['score']:.2f}",
        }
    return TaskSummary(task, losses, line, "")


def _finds_nothing(task: Mapping[str, Any]) -> bool:
    """Whether almost nothing is right in any model's answers: such a task says little of what training did."""
    if task["view"] in ("perplexity", "other"):
        return False
    means = [one.estimate.mean for one in task["results"] if one is not None]
    return bool(means) and all(mean is not None and mean < NOTHING for mean in means)


def _weight(task: Mapping[str, Any]) -> float:
    """How much a task shows: the largest gap of a model that finds something, or the change."""
    gaps = [one.gap or 0.0 for one in task["results"] if one is not None and (one.average or 0) >= NOTHING]
    return max([*gaps, abs((task.get("change") or {}).get("mean") or 0.0)])


def _has_section(task: Mapping[str, Any]) -> bool:
    panels = [panel for one in task["results"] if one is not None for panel in one.panels]
    shown = any(isinstance(panel, Histogram | Table) for panel in panels)
    return task["view"] in CHARTED or bool(groups_of(task)) or shown


def groups_of(task: Mapping[str, Any]) -> list[str]:
    """What a task's scores are broken down by, as charts show it: length, difficulty, domain."""
    bars = [panel for one in task["results"] if one is not None for panel in one.bars]
    return [] if task["view"] == "perplexity" else list(dict.fromkeys(panel.by for panel in bars))


def _cards(tasks: Sequence[TaskSummary], labels: Sequence[str], before_after: bool) -> list[Card]:
    """A card a task; families of many tasks without a chart share one."""
    families: dict[str, list[TaskSummary]] = {}
    for one in tasks:
        name = one.task["title"] if one.task["view"] in CHARTED else str(one.task["name"]).split(":")[0]
        families.setdefault(name, []).append(one)
    cards = []
    for name, members in families.items():
        if len(members) <= MANY:
            cards += [
                Card(one.task["title"], one.target or "tasks", one.lines, asks_of(one.task["name"]))
                for one in members
            ]
        else:
            cards.append(
                Card(f"{name}: {len(members)} tasks", "tasks", _family(members, labels, before_after))
            )
    return cards


def _family(members: Sequence[TaskSummary], labels: Sequence[str], before_after: bool) -> list[Line]:
    """A family in a few lines: each model's mean over its tasks, and in how many of them the last one differs."""
    lines: list[Line] = []
    for model, label in enumerate(labels):
        found = [one.task["results"][model] for one in members]
        means = [one.estimate.mean for one in found if one is not None and one.estimate.mean is not None]
        if means:
            who = label.capitalize() if before_after else label
            mean = sum(means) / len(means)
            lines.append({"tone": "flat", "text": f"{who}: {mean:.2f} on average of {len(means)} tasks."})
    total = overall_line(_changes(members), before_after, labels)
    if total is not None:
        lines.append({**total, "kind": "answer"})
    return lines


def asks_of(name: str) -> str:
    """What a task asks, in its own words, where it is known here."""
    return str(getattr(_known(name), "summary", "")).replace("->", "→")
