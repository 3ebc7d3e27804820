"""A comparison for the terminal: a line a group, at most 80 columns wide, and how to read them."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from lcx.evaluation.compare import Comparison, Verdict
from lcx.formatting import cut, signed

__all__ = ["comparison_text"]

WIDTH = 80
LEAST_NAME = 8


def comparison_text(found: Comparison) -> str:
    """All verdicts by family, what could not be compared, and what the numbers mean."""
    whole = [one for one in found.verdicts if one.kind == "task"]
    parts = [_head(found)]
    long = [one for one in whole if not one.short]
    short = [one for one in whole if one.short]
    if long:
        parts.append(_table("tasks", long, found))
    if short:
        parts.append(_table("short tasks", short, found, readings=True))
    families: dict[str, list[Verdict]] = {}
    for one in found.verdicts:
        if one.kind != "task":
            families.setdefault(one.family, []).append(one)
    parts += [_table(family, of, found) for family, of in families.items()]
    if found.not_compared:
        lines = [_wrapped(f"{task}: {why}", 2) for task, why in found.not_compared.items()]
        parts.append("\n".join(["not compared", *lines]))
    if found.notes:
        parts.append("\n".join(["notes", *[_wrapped(note, 2) for note in found.notes]]))
    parts.append(_legend(found))
    return "\n\n".join(parts)


def _head(found: Comparison) -> str:
    lines = [f"{letter}  {side.name}  ({side.place})" for letter, side in (("A", found.a), ("B", found.b))]
    counts = {word: sum(one.verdict == word for one in found.verdicts) for word in ("better", "worse")}
    total = len(found.verdicts)
    say = f"B is better than A in {counts['better']}, worse in {counts['worse']} of {total} groups."
    return "\n".join([*[cut(line, WIDTH) for line in lines], say])


def _table(title: str, rows: Sequence[Verdict], found: Comparison, *, readings: bool = False) -> str:
    """The rows of a family under their heads; the names give way where the line would be too long."""
    units = list(dict.fromkeys(one.unit for one in rows))
    cells = [_cells(one) for one in rows]
    heads = ("A", "", "B", "B - A", f"{found.options.level:.0%} interval", "p", "verdict")
    columns = [heads, *[tuple(row) for row in cells]]
    widths = [max(len(row[k]) for row in columns) for k in range(len(heads))]
    room = WIDTH - sum(widths) - len(widths)
    name = max(
        LEAST_NAME, min(room, max(len(rows[0].kind), *(len(one.group) + one.conditional for one in rows)))
    )
    lines = [_title(title, rows, units)]
    mixed = (
        len({one.drawn for one in rows if one.conditional}) > 1 or len({one.conditional for one in rows}) > 1
    )
    lines.append(_line(rows[0].kind.ljust(name), heads, widths))
    for one, row in zip(rows, cells, strict=True):
        star = "*" if mixed and one.conditional else ""
        lines.append(_line((cut(one.group, name - len(star)) + star).ljust(name), row, widths))
    if readings:
        lines += [_wrapped(f"{one.group}: {one.reading}", 2) for one in rows if one.reading]
    return "\n".join(lines)


def _title(title: str, rows: Sequence[Verdict], units: Sequence[str]) -> str:
    size = rows[0].family_size
    parts = [f"p corrected over {size} groups" if size > 1 else "one group", ", ".join(units)]
    drawn = {one.drawn for one in rows if one.conditional}
    if len(drawn) == 1 and all(one.conditional for one in rows):
        parts.append(f"for {next(iter(drawn)).removeprefix('rows of ')} only")
    elif drawn:
        parts.append("* for its few contexts only")
    return _wrapped(f"{title}  ({'; '.join(parts)})", 0)


def _cells(one: Verdict) -> tuple[str, ...]:
    digits = 2 if one.unit == "score" else 1
    sees = "" if one.sees is None or one.verdict != "no evidence" else f" (±{one.sees:.{digits}f})"
    ends = f"none: {one.lacking}" if one.lacking else "too few"
    if one.low is not None and one.high is not None:
        ends = f"{_change(one.low, digits)} to {_change(one.high, digits)}"
    return (
        _mean(one.a, one.unit),
        "→",
        _mean(one.b, one.unit),
        _change(one.difference, digits),
        ends,
        "<.001" if one.p_holm < 0.001 else f"{one.p_holm:.3f}".removeprefix("0"),
        one.verdict + sees,
    )


def _line(name: str, cells: Sequence[str], widths: Sequence[int]) -> str:
    """Numbers flush right, the verdict flush left."""
    middle = " ".join(cell.rjust(width) for cell, width in zip(cells[:-1], widths[:-1], strict=True))
    return f"{name} {middle} {cells[-1]}".rstrip()


def _mean(value: float, unit: str) -> str:
    if unit == "points":
        return f"{value:.1f}"
    return f"{value:.2f}" if abs(value) < 1000 else f"{value:.3g}"


def _change(value: float, digits: int) -> str:
    return signed(value, digits, minus="-", finer=False)


def _wrapped(text: str, indent: int) -> str:
    return textwrap.fill(
        text, WIDTH, initial_indent=" " * indent, subsequent_indent=" " * (indent + 2), break_long_words=True
    )


def _legend(found: Comparison) -> str:
    level = f"{found.options.level:.0%}"
    alpha = f"{found.options.alpha:g}"
    lines = [
        f"A verdict is given where p, corrected by Holm for the groups of its table, is at most {alpha}, "
        f"and the interval leaves 0 out. The interval is of one group, {level}, not corrected. ± is half of it: "
        "about the least difference that these items could have shown.",
    ]
    if any(one.conditional for one in found.verdicts):
        lines.append(
            "For N contexts only: with fewer than 20 contexts the items stand for themselves, and nothing is "
            "said about other contexts."
        )
    if any(one.lacking for one in found.verdicts):
        lines.append(
            "No interval, and no verdict, where there are fewer than six contexts (or items) to tell from."
        )
    if any(one.lower_is_better for one in found.verdicts):
        lines.append("Perplexity: lower is better; B - A is in percent of A's.")
    return "\n".join(textwrap.fill(line, WIDTH) for line in lines)
