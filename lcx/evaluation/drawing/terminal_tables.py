"""Suites and accuracy by length for a terminal: a row a task or length, with its interval where one is known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TextIO

from lcx.evaluation.drawing.terminal import Scores, Screen, plot_lines, sample
from lcx.formatting import length_name

__all__ = ["interval_bar", "lengths_text", "suites_text", "table_text", "with_half"]

BAR, LEAST_BAR = 24, 8
"""Columns of a bar from 0 to 1, and the fewest that one is drawn in."""


def with_half(mean: float | None, low: float | None, high: float | None) -> str:
    """`0.46 ±0.05`, half the interval after the mean; the mean alone where there is none."""
    if mean is None:
        return "-"
    return f"{mean:.2f}" if low is None or high is None else f"{mean:.2f} ±{(high - low) / 2:.2f}"


def interval_bar(estimate: Mapping[str, Any], columns: int, unicode: bool) -> str:
    """A scale from 0 to 1 with the mean on it, and a line over its interval."""
    dot, line, end = ("●", "─", "│") if unicode else ("o", "-", "|")
    cells = [" "] * columns
    mean, low, high = (estimate.get(key) for key in ("mean", "low", "high"))

    def place(value: float) -> int:
        return min(columns - 1, max(0, round(value * (columns - 1))))

    if low is not None and high is not None:
        for column in range(place(low), place(high) + 1):
            cells[column] = line
    if mean is not None:
        cells[place(mean)] = dot
    return end + "".join(cells) + end


def lengths_text(
    models: Mapping[str, Scores],
    *,
    title: str = "",
    width: int | None = None,
    height: int = 9,
    unicode: bool | None = None,
    colour: bool | None = None,
    stream: TextIO | None = None,
) -> str:
    """Accuracy by length: curves over one another and a table of lengths, the table alone where there is one length.

    Arguments as of `curve_text`.
    """
    screen = Screen.of(width, unicode, colour, stream)
    first: Scores = next(iter(models.values()), {"lengths": []})
    lengths = list(first["lengths"])
    columns = max(10, screen.width - 7)
    names = [length_name(length) for length in lengths]
    words = f"length of the context ({first.get('unit', 'tokens')})"
    ends = (names[0], names[-1]) if names else ("", "")
    room = columns - len(ends[0]) - len(ends[1])
    scale = f"{ends[0]}{words if len(words) <= room - 2 else 'length':^{room}}{ends[1]}"
    drawn = {name: {"spans": scores.get("values") or [None]} for name, scores in models.items()}
    lines = [title] if title else []
    if len(lengths) == 1:  # one point is no curve
        lines.append(f"  by {words}")
    else:
        lines += [*plot_lines(drawn, columns, height, screen, ("1.0", "0.5", "0.0"), scale), ""]
    lines += _lengths_table(models, lengths, screen)
    return "\n".join(lines)


def _lengths_table(models: Mapping[str, Scores], lengths: Sequence[int], screen: Screen) -> list[str]:
    """A row a model with its value at each length; as many of the longest lengths as there is room for."""
    rows = []
    for number, (name, scores) in enumerate(models.items()):
        values = scores.get("values") or [None] * len(lengths)
        ends = scores.get("intervals") or [None] * len(values)
        cells = [with_half(value, *(pair or (None, None))) for value, pair in zip(values, ends, strict=False)]
        key = sample(number, len(models), screen.unicode, screen.colour)
        rows.append((key, name, cells if screen.unicode else [cell.replace("±", "+-") for cell in cells]))
    wide = max((len(cell) for _, _, cells in rows for cell in cells), default=4)
    most = max(1, (screen.width - 20) // (wide + 2))
    space = max(6, screen.width - 7 - most * (wide + 2))
    label = min(space, max((len(name) for _, name, _ in rows), default=0))
    heads = "".join(f"  {length_name(length):>{wide}}" for length in lengths[-most:])
    lines = [f"       {'':{label}}{heads}"]
    for key, name, cells in rows:
        shown = "".join(f"  {cell:>{wide}}" for cell in cells[-most:])
        lines.append(f"  {key}{_cut(name, label, screen.unicode):<{label}}{shown}")
    return lines


def table_text(
    models: Mapping[str, Scores],
    *,
    title: str = "",
    width: int | None = None,
    unicode: bool | None = None,
    colour: bool | None = None,
    stream: TextIO | None = None,
) -> str:
    """One suite: a row a model with score, interval, answers and how many had none; then its groups."""
    screen = Screen.of(width, unicode, colour, stream)
    rows = [(name, [scores]) for name, scores in models.items()]
    lines = [*([title] if title else []), *_table(rows, [""], screen)]
    for by in dict.fromkeys(key for scores in models.values() for key in scores.get("by") or {}):
        groups = dict.fromkeys(
            group for scores in models.values() for group in (scores.get("by") or {}).get(by, {})
        )
        of = [(str(group), [_group(scores, by, group) for scores in models.values()]) for group in groups]
        lines += ["", *_table(of, list(models) if len(models) > 1 else [""], screen, head=f"by {by}")]
    return "\n".join(lines)


def _group(scores: Scores, by: str, group: str) -> Scores:
    found = ((scores.get("by") or {}).get(by) or {}).get(group) or {}
    return {"estimate": found, "n": found.get("n", "")}


def suites_text(
    tasks: Mapping[str, Mapping[str, Scores]],
    *,
    title: str = "",
    width: int | None = None,
    unicode: bool | None = None,
    colour: bool | None = None,
    stream: TextIO | None = None,
) -> str:
    """Several suites in one table: a row a task, a column a model, and below it LongBench's means by category."""
    screen = Screen.of(width, unicode, colour, stream)
    names = list(dict.fromkeys(name for models in tasks.values() for name in models))
    rows = [(task, [models.get(name, {}) for name in names]) for task, models in tasks.items()]
    heads = names if len(names) > 1 else [""]
    lines = [*([title] if title else []), *_table(rows, heads, screen)]
    for family in ("longbench", "longbench_e"):
        means = _category_means(tasks, names, family)
        if len(means) > 2:
            lines += ["", *_table(means, heads, screen, head=f"{family}: means")]
    return "\n".join(lines)


def _category_means(
    tasks: Mapping[str, Mapping[str, Scores]], names: Sequence[str], family: str
) -> list[tuple[str, list[Scores]]]:
    """The mean of each of LongBench's categories and of all its tasks, a row each."""
    from lcx.evaluation.benchmarks.groups import summarize

    found = [
        summarize({task: models[name] for task, models in tasks.items() if name in models}, family)
        for name in names
    ]
    categories = dict.fromkeys(name for one in found for name in one["categories"])
    rows: list[tuple[str, list[Scores]]] = []
    for category in categories:
        of = [one["categories"].get(category, {}) for one in found]
        sets = max((one.get("sets", 0) for one in of), default=0)
        rows.append((category, [{"average": _share(one.get("score")), "n": f"{sets} sets"} for one in of]))
    if rows:
        sets = max(one["sets"] for one in found)
        rows.append(("all", [{"average": _share(one["average"]), "n": f"{sets} sets"} for one in found]))
    return rows


def _share(percent: float | None) -> float | None:
    return None if percent is None else percent / 100


def _estimate(scores: Scores) -> dict[str, Any]:
    """Mean and interval; of results without an interval the average alone."""
    found = dict(scores.get("estimate") or {})
    if found.get("mean") is None:
        found["mean"] = scores.get("average")
    return found


def _table(
    rows: Sequence[tuple[str, Sequence[Scores]]], heads: Sequence[str], screen: Screen, head: str = ""
) -> list[str]:
    """Lines of a table: name, a mean ± half its interval for each head, a bar where one is alone, answers, nulls."""
    estimates = [[_estimate(scores) for scores in of] for _, of in rows]
    cells = [[with_half(one.get("mean"), one.get("low"), one.get("high")) for one in of] for of in estimates]
    if not screen.unicode:
        cells = [[cell.replace("±", "+-") for cell in of] for of in cells]
    wide = [
        max([len(of[n]) for of in cells if n < len(of)] + [min(len(name), 12), 5])
        for n, name in enumerate(heads)
    ]
    counts = ["/".join(dict.fromkeys(str(scores.get("n", "")) for scores in of if scores)) for _, of in rows]
    nulls = ["/".join(str(scores.get("nulls", 0) or 0) for scores in of if scores) for _, of in rows]
    some = any(text.strip("0/") for text in nulls)
    right = max([len(text) for text in counts] + [4])
    last = max([len(text) for text in nulls] + [5]) if some else 0
    fixed = 2 + sum(part + 2 for part in wide) + right + 2 + (last + 2 if some else 0)
    label = min(max([len(name) for name, _ in rows] + [len(head)]), max(8, screen.width - fixed))
    spare = screen.width - fixed - label - 4
    bar = min(BAR, spare) if len(heads) == 1 and spare >= LEAST_BAR else 0
    names = [_cut(name, 12, screen.unicode) or "score" for name in heads]
    title = "".join(f"  {name:>{part}}" for name, part in zip(names, wide, strict=True))
    scale = f"  0{'1':>{bar + 1}}" if bar else ""
    lines = [
        f"  {_cut(head, label, screen.unicode):<{label}}{title}{scale}  {'n':>{right}}"
        + (f"  {'nulls':>{last}}" if some else "")
    ]
    for (name, _), of, shown, count, null in zip(rows, estimates, cells, counts, nulls, strict=True):
        line = f"  {_cut(name, label, screen.unicode):<{label}}"
        line += "".join(f"  {cell:>{part}}" for cell, part in zip(shown, wide, strict=True))
        line += f"  {interval_bar(of[0], bar, screen.unicode)}" if bar else ""
        line += f"  {count:>{right}}" + (f"  {null:>{last}}" if some else "")
        lines.append(line.rstrip())
    return lines


def _cut(name: str, most: int, unicode: bool) -> str:
    return name if len(name) <= most else name[: most - 1] + ("…" if unicode else "~")
