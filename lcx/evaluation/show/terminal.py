"""Results for a terminal: curves in braille dots (plain characters where there is no Unicode), heat maps, tables.

Every cell and point has its number, so that neither colour nor blocks are needed. At most 80 columns.
"""

from __future__ import annotations

import os
import shutil
import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from math import exp
from typing import Any, TextIO

from lcx.evaluation.result import Grid, Histogram, Mean, Result, Table, view_of
from lcx.formatting import bar_lines, cut, length_name

__all__ = [
    "Screen",
    "curve_text",
    "grid_text",
    "interval_bar",
    "lengths_text",
    "perplexity_text",
    "score_table",
    "suites_text",
    "table_text",
    "task_text",
    "tasks_text",
    "with_half",
]

Values = Sequence[float | None]
Results = Mapping[str, Result]
"""The results of one task by model."""


COLOURS = ("33", "36", "35", "32")
"""ANSI yellow, cyan, magenta, green, for the first curves; their strokes differ as well."""
STRIDES = (3, 1, 2, 4)
"""In braille, every how many dots a curve has one: the first is dotted, the second solid."""
MARKS = ("o", "#", "x", "+")
BOTH = "@"
LEFT = 6
"""Columns that the numbers at the left take."""


@dataclass(frozen=True)
class Screen:
    """What a terminal can show: its width (80 or fewer), block characters, colours."""

    width: int
    unicode: bool
    colour: bool

    @property
    def ellipsis(self) -> str:
        """The sign for what is cut off."""
        return "…" if self.unicode else "~"

    @property
    def sign(self) -> str:
        """The sign before half an interval."""
        return "±" if self.unicode else "+-"

    @classmethod
    def of(
        cls,
        width: int | None = None,
        unicode: bool | None = None,
        colour: bool | None = None,
        stream: TextIO | None = None,
    ) -> Screen:
        """What is not given follows `stream` (stdout): its encoding, whether it is a terminal, NO_COLOR, TERM."""
        stream = sys.stdout if stream is None else stream
        if unicode is None:
            unicode = "utf" in (getattr(stream, "encoding", None) or "").lower()
        if width is None:
            width = min(80, shutil.get_terminal_size((80, 24)).columns)
        return cls(width, unicode, _wants_colour(stream) if colour is None else colour)


def curve_text(results: Results, *, title: str = "", height: int = 11, **options: Any) -> str:
    """Curves by position over one another with a table of averages and gaps. `options` are those of `Screen.of`."""
    screen = Screen.of(**options)
    columns = max(10, screen.width - LEFT - 1)
    words = "position in the context"
    scale = f"0%{words:^{columns - 6}}100%" if columns >= len(words) + 8 else f"0%{'':{columns - 6}}100%"
    lines = [title] if title else []
    curves = [one.curve.values for one in results.values()]
    lines += _plot(curves, columns, height, screen, ("1.0", "0.5", "0.0"), scale)
    return "\n".join([*lines, "", *_score_lines(results, screen, keys=True), *_gap_lines(results, screen)])


def _gap_lines(results: Results, screen: Screen) -> list[str]:
    """For each model whose gap was tested: the gap, what noise alone gives, and p."""
    lines = []
    for name, one in results.items():
        if one.p is not None:
            words = one.gap_words()
            if len(words) > screen.width - 12:  # what noise gives is the first to go
                words = ", ".join(part for part in words.split(", ") if not part.startswith("noise"))
            lines.append(f"  {cut(name, max(6, screen.width - len(words) - 4), screen.ellipsis)}: {words}")
    return ["", *lines] if lines else []


def _plot(
    curves: Sequence[Values],
    columns: int,
    height: int,
    screen: Screen,
    labels: tuple[str, str, str],
    scale: str,
) -> list[str]:
    """Rows of curves from 0 to 1, labelled at top, middle and bottom, and the line of `scale` below."""
    draw = _braille if screen.unicode else _plain
    tick, floor, corner = ("┤", "─", "└") if screen.unicode else ("|", "-", "+")
    left = max(LEFT, 2 + max(len(label) for label in labels))
    lines = []
    for number, row in enumerate(draw(curves, columns, height, screen.colour)):
        label = {0: labels[0], height - 1: labels[2]}.get(number, "")
        if 2 * number == height - 1:
            label = labels[1]
        lines.append(f"{label:>{left - 2}} {tick}{row}".rstrip())
    return [*lines, " " * (left - 1) + corner + floor * columns, " " * left + scale]


def score_table(results: Results, **options: Any) -> list[str]:
    """Lines of a table: average (± half its interval, where known), gap and rows of each model."""
    return _score_lines(results, Screen.of(**options))


def _score_lines(results: Results, screen: Screen, *, keys: bool = False) -> list[str]:
    """`keys` shows how each model's curve is drawn."""
    some = screen.width >= 60 and any(one.estimate.half is not None for one in results.values())
    space = max(6, screen.width - 28 - (5 if keys else 0) - (8 if some else 0))
    names = [cut(name, space, screen.ellipsis) for name in results]
    wide = max([len(name) for name in names] + [0])
    lead = " " * (5 if keys else 0)
    lines = [f"  {lead}{'':{wide}}  {'average':>8}{'':{8 if some else 0}}  {'gap':>6}  {'rows':>6}"]
    for number, (name, one) in enumerate(zip(names, results.values(), strict=True)):
        key = _sample(number, len(results), screen) if keys else ""
        average, gap = ("-" if value is None else f"{value:.3f}" for value in (one.average, one.gap))
        half = one.estimate.half
        beside = f" {'' if half is None else f'{screen.sign}{half:.3f}':<7}" if some else ""
        lines.append(f"  {key}{name:<{wide}}  {average:>8}{beside}  {gap:>6}  {one.n:>6}")
    return lines


def _sample(number: int, curves: int, screen: Screen) -> str:
    """A bit of a curve, as a legend shows it."""
    look = look_of(number, curves)
    drawn = ("⠉⠉⠉", "⠁⠈⠁")[STRIDES[look] > 1] if screen.unicode else MARKS[look] * 3
    return _paint(f"{drawn:<3}", look, screen.colour) + "  "


def _wants_colour(stream: TextIO) -> bool:
    if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return False
    return bool(getattr(stream, "isatty", lambda: False)())


def look_of(number: int, curves: int) -> int:
    """A curve alone is drawn solid; of two, the first is dotted."""
    return 1 if curves == 1 else number % len(COLOURS)


def _paint(text: str, look: int, colour: bool) -> str:
    return f"\x1b[{COLOURS[look]}m{text}\x1b[0m" if colour and text.strip() else text


def _painted_row(letters: Sequence[str], owners: Sequence[int], colour: bool) -> str:
    """A row of characters, each stretch of one curve painted once."""
    stretches = groupby(zip(letters, owners, strict=True), key=lambda pair: pair[1])
    return "".join(
        _paint("".join(letter for letter, _ in stretch), look, colour) for look, stretch in stretches
    )


def _heights(spans: Values, columns: int) -> list[float | None]:
    """The curve at each column: straight between the middles of its spans, flat outside them."""
    known = [(100 * (n + 0.5) / len(spans), value) for n, value in enumerate(spans) if value is not None]
    heights: list[float | None] = []
    for column in range(columns):
        x = 100 * (column + 0.5) / columns
        before = [point for point in known if point[0] <= x]
        after = [point for point in known if point[0] > x]
        if not known:
            heights.append(None)
        elif not before or not after:
            heights.append((before[-1] if before else after[0])[1])
        else:
            (x0, y0), (x1, y1) = before[-1], after[0]
            heights.append(y0 + (y1 - y0) * (x - x0) / (x1 - x0))
    return heights


def _place(value: float, steps: int) -> int:
    """Row from the top, of `steps`, for a value of 0 to 1."""
    return min(steps - 1, max(0, round((1 - value) * (steps - 1))))


def _braille(curves: Sequence[Values], columns: int, height: int, colour: bool) -> list[str]:
    """Rows of braille: two dots across and four down in each character."""
    bits = ((0x01, 0x02, 0x04, 0x40), (0x08, 0x10, 0x20, 0x80))
    cells = [[0] * columns for _ in range(height)]
    owner = [[-1] * columns for _ in range(height)]
    for number, values in enumerate(curves):
        look = look_of(number, len(curves))
        last: int | None = None
        drawn = 0
        for x, value in enumerate(_heights(values, 2 * columns)):
            if value is None:
                continue
            y = _place(value, 4 * height)
            # A steep stretch is filled in, so that the line stays whole.
            steep = range(min(y, last), max(y, last)) if last is not None and abs(y - last) > 1 else ()
            last = y
            for dot in (y, *steep):
                drawn += 1
                if drawn % STRIDES[look]:
                    continue
                cells[dot // 4][x // 2] |= bits[x % 2][dot % 4]
                owner[dot // 4][x // 2] = look
    return [
        _painted_row([chr(0x2800 + cell) if cell else " " for cell in row], whose, colour)
        for row, whose in zip(cells, owner, strict=True)
    ]


def _plain(curves: Sequence[Values], columns: int, height: int, colour: bool) -> list[str]:
    """Rows of ASCII, one mark a column and curve."""
    cells = [[" "] * columns for _ in range(height)]
    owner = [[0] * columns for _ in range(height)]
    for number, values in enumerate(curves):
        look = look_of(number, len(curves))
        for x, value in enumerate(_heights(values, columns)):
            if value is None:
                continue
            y = _place(value, height)
            cells[y][x] = MARKS[look] if cells[y][x] == " " else BOTH
            owner[y][x] = look
    return [_painted_row(row, whose, colour) for row, whose in zip(cells, owner, strict=True)]


BAR, LEAST_BAR = 24, 8
"""Columns of a bar from 0 to 1, and the fewest that one is drawn in."""


def with_half(one: Mean, sign: str = "±") -> str:
    """`0.46 ±0.05`, half the interval after the mean; the mean alone where there is none."""
    if one.mean is None:
        return "-"
    return f"{one.mean:.2f}" if one.half is None else f"{one.mean:.2f} {sign}{one.half:.2f}"


def interval_bar(one: Mean, columns: int, unicode: bool) -> str:
    """A scale from 0 to 1 with the mean on it, and a line over its interval."""
    dot, line, end = ("●", "─", "│") if unicode else ("o", "-", "|")
    cells = [" "] * columns

    def place(value: float) -> int:
        return min(columns - 1, max(0, round(value * (columns - 1))))

    if one.low is not None and one.high is not None:
        for column in range(place(one.low), place(one.high) + 1):
            cells[column] = line
    if one.mean is not None:
        cells[place(one.mean)] = dot
    return end + "".join(cells) + end


def lengths_text(results: Results, *, title: str = "", height: int = 9, **options: Any) -> str:
    """Accuracy by length: curves over one another and a table of lengths, the table alone where there is one length."""
    screen = Screen.of(**options)
    first = next(iter(results.values())).curve
    columns = max(10, screen.width - 7)
    ends = (first.names[0], first.names[-1]) if first.names else ("", "")
    room = columns - len(ends[0]) - len(ends[1])
    scale = f"{ends[0]}{first.axis if len(first.axis) <= room - 2 else 'length':^{room}}{ends[1]}"
    lines = [title] if title else []
    if len(first.places) == 1:  # one point is no curve
        lines.append(f"  by {first.axis}")
    else:
        curves = [one.curve.values for one in results.values()]
        lines += [*_plot(curves, columns, height, screen, ("1.0", "0.5", "0.0"), scale), ""]
    return "\n".join([*lines, *_lengths_table(results, first.names, screen)])


def _lengths_table(results: Results, names: Sequence[str], screen: Screen) -> list[str]:
    """A row a model with its value at each length; as many of the longest lengths as there is room for."""
    rows = []
    for number, (name, one) in enumerate(results.items()):
        curve = one.curve
        means = [Mean(v, *(pair or ())) for v, pair in zip(curve.values, curve.intervals, strict=True)]
        cells = [with_half(mean, screen.sign) for mean in means]
        rows.append((_sample(number, len(results), screen), name, cells))
    wide = max((len(cell) for _, _, cells in rows for cell in cells), default=4)
    most = max(1, (screen.width - 20) // (wide + 2))
    space = max(6, screen.width - 7 - most * (wide + 2))
    label = min(space, max((len(name) for _, name, _ in rows), default=0))
    lines = [f"       {'':{label}}" + "".join(f"  {name:>{wide}}" for name in names[-most:])]
    for key, name, cells in rows:
        shown = "".join(f"  {cell:>{wide}}" for cell in cells[-most:])
        lines.append(f"  {key}{cut(name, label, screen.ellipsis):<{label}}{shown}")
    return lines


@dataclass(frozen=True)
class _Cell:
    """One model's part of a row in a table of means: its mean, how many rows (or sets) it has, and nulls among them."""

    mean: Mean
    n: str = ""
    nulls: int = 0


def _cell_of(one: Result | None) -> _Cell | None:
    return None if one is None else _Cell(one.estimate, str(one.n), one.nulls)


def table_text(results: Results, *, title: str = "", **options: Any) -> str:
    """One task without a curve: a row a model with score, interval, answers and how many had none; then its groups,
    its histogram and its shares.
    """
    screen = Screen.of(**options)
    rows = [(name, [_cell_of(one)]) for name, one in results.items()]
    own = any(one.own_scale for one in results.values())
    lines = [*([title] if title else []), *_table(rows, [""], screen, bars=not own)]
    names = list(results) if len(results) > 1 else [""]
    for by in dict.fromkeys(bars.by for one in results.values() for bars in one.bars):
        found = [next((bars for bars in one.bars if bars.by == by), None) for one in results.values()]
        cells = [
            {}
            if bars is None
            else {
                name: _Cell(mean, "" if mean.n is None else str(mean.n))
                for name, mean in zip(bars.names, bars.means, strict=True)
            }
            for bars in found
        ]
        groups = dict.fromkeys(group for of in cells for group in of)
        of_group = [(group, [of.get(group, _Cell(Mean())) for of in cells]) for group in groups]
        lines += ["", *_table(of_group, names, screen, head=f"by {by}", bars=not own)]
    measures = dict.fromkeys(name for one in results.values() for name in one.measures)
    if measures:
        of_each = [
            (name, [_Cell(one.measures.get(name, Mean())) for one in results.values()]) for name in measures
        ]
        lines += ["", *_table(of_each, names, screen, head="beside it", bars=False)]
    for name, one in results.items():
        for panel in one.panels:
            who = f"  {cut(name, screen.width - 4, screen.ellipsis)}, " if len(results) > 1 else "  "
            if isinstance(panel, Histogram):
                lines += ["", f"{who}from {panel.low:g} to {panel.high:g}", *_histogram(panel, screen)]
            elif isinstance(panel, Table):
                heads = [(row, [_Cell(mean) for mean in means]) for row, means in panel.rows]
                lines += ["", f"{who}{panel.title}", *_table(heads, panel.columns, screen)]
    return "\n".join(lines)


def _histogram(panel: Histogram, screen: Screen) -> list[str]:
    """A row for each part of the scale that has values, and those between them."""
    known = [place for place, count in enumerate(panel.counts) if count]
    if not known:
        return []
    part = slice(known[0], known[-1] + 1)
    lines = bar_lines(
        [f"{edge:.2f}" for edge in panel.edges[:-1]][part], panel.counts[part], width=screen.width - 24
    )
    return [f"  {line if screen.unicode else line.replace('█', '#')}" for line in lines]


def suites_text(tasks: Mapping[str, Results], *, title: str = "", **options: Any) -> str:
    """Several tasks in one table: a row a task, a column a model, and below it LongBench's means by category."""
    screen = Screen.of(**options)
    names = list(dict.fromkeys(name for results in tasks.values() for name in results))
    rows = [(task, [_cell_of(results.get(name)) for name in names]) for task, results in tasks.items()]
    heads = names if len(names) > 1 else [""]
    lines = [*([title] if title else []), *_table(rows, heads, screen)]
    for family in ("longbench", "longbench_e"):
        means = _category_means(tasks, names, family)
        if len(means) > 2:
            lines += ["", *_table(means, heads, screen, head=f"{family}: means")]
    return "\n".join(lines)


def _category_means(
    tasks: Mapping[str, Results], names: Sequence[str], family: str
) -> list[tuple[str, list[_Cell | None]]]:
    """The mean of each of LongBench's categories and of all its tasks, a row each."""
    from lcx.evaluation.benchmarks.groups import summarize

    found = [
        summarize(
            {task: {"score": results[name].percent} for task, results in tasks.items() if name in results},
            family,
        )
        for name in names
    ]
    categories = dict.fromkeys(name for one in found for name in one["categories"])
    rows: list[tuple[str, list[_Cell | None]]] = []
    for category in categories:
        of = [one["categories"].get(category, {}) for one in found]
        sets = max((one.get("sets", 0) for one in of), default=0)
        rows.append((category, [_Cell(Mean(_share(one.get("score"))), f"{sets} sets") for one in of]))
    if rows:
        sets = max(one["sets"] for one in found)
        rows.append(("all", [_Cell(Mean(_share(one["average"])), f"{sets} sets") for one in found]))
    return rows


def _share(percent: float | None) -> float | None:
    return None if percent is None else percent / 100


def _table(
    rows: Sequence[tuple[str, Sequence[_Cell | None]]],
    heads: Sequence[str],
    screen: Screen,
    head: str = "",
    bars: bool = True,
) -> list[str]:
    """Lines of a table: name, a mean ± half its interval for each head, a bar where one is alone, answers, nulls."""
    means = [[Mean() if cell is None else cell.mean for cell in of] for _, of in rows]
    cells = [[with_half(mean, screen.sign) for mean in of] for of in means]
    wide = [
        max([len(of[n]) for of in cells if n < len(of)] + [min(len(name), 12), 5])
        for n, name in enumerate(heads)
    ]
    counts = ["/".join(dict.fromkeys(cell.n for cell in of if cell)) for _, of in rows]
    nulls = ["/".join(str(cell.nulls) for cell in of if cell) for _, of in rows]
    some = any(text.strip("0/") for text in nulls)
    right = max([len(text) for text in counts] + [4])
    last = max([len(text) for text in nulls] + [5]) if some else 0
    fixed = 2 + sum(part + 2 for part in wide) + right + 2 + (last + 2 if some else 0)
    label = min(max([len(name) for name, _ in rows] + [len(head)]), max(8, screen.width - fixed))
    spare = screen.width - fixed - label - 4
    bar = min(BAR, spare) if bars and len(heads) == 1 and spare >= LEAST_BAR else 0
    names = [cut(name, 12, screen.ellipsis) or "score" for name in heads]
    title = "".join(f"  {name:>{part}}" for name, part in zip(names, wide, strict=True))
    scale = f"  0{'1':>{bar + 1}}" if bar else ""
    lines = [
        f"  {cut(head, label, screen.ellipsis):<{label}}{title}{scale}  {'n':>{right}}"
        + (f"  {'nulls':>{last}}" if some else "")
    ]
    for (name, _), of, shown, count, null in zip(rows, means, cells, counts, nulls, strict=True):
        line = f"  {cut(name, label, screen.ellipsis):<{label}}"
        line += "".join(f"  {cell:>{part}}" for cell, part in zip(shown, wide, strict=True))
        line += f"  {interval_bar(of[0], bar, screen.unicode)}" if bar else ""
        line += f"  {count:>{right}}" + (f"  {null:>{last}}" if some else "")
        lines.append(line.rstrip())
    return lines


BLOCKS, SHADE_MARKS = " ░▒▓█", " .:+#"
"""From nothing found to all found, a quarter each."""
SHADES = ((17, 231), (60, 231), (102, 231), (143, 16), (227, 16))
"""ANSI 256-colour background and ink of the same steps: dark blue to yellow, as in the picture."""
CELL = 7
DEPTH = 6
"""Columns of the depths at the left."""
GAP = 3


def grid_text(results: Results, *, title: str = "", **options: Any) -> str:
    """A heat map a model, side by side where the width allows, and a table."""
    screen = Screen.of(**options)
    lines = [title] if title else []
    row: list[list[str]] = []
    taken = 0
    most = max(1, (screen.width - DEPTH) // CELL)
    for name, one in results.items():
        grid = one.grid
        for start in range(0, len(grid.lengths), most):
            part = slice(start, start + most)
            wide = DEPTH + CELL * len(grid.lengths[part])
            if row and taken + GAP + wide > screen.width:
                lines += [*_beside(row), ""]
                row, taken = [], 0
            row.append(_heat_map(name, grid, part, wide, screen))
            taken += wide + (GAP if taken else 0)
    unit = next((one.grid.unit for one in results.values()), "tokens")
    lines += [*_beside(row), "", f"  down: depth   right: length ({unit})", ""]
    return "\n".join([*lines, *_grid_table(results, screen), *_gap_lines(results, screen)])


def _heat_map(name: str, grid: Grid, part: slice, wide: int, screen: Screen) -> list[str]:
    """Lines of one model's heat map, or of a part of its lengths, each `wide` columns."""
    lengths = "".join(f"{length_name(length):>{CELL - 1}} " for length in grid.lengths[part])
    lines = [
        f"{'':{DEPTH}}{cut(name, wide - DEPTH, screen.ellipsis)}".ljust(wide),
        f"{'depth':>{DEPTH - 1}} {lengths}",
    ]
    for place, depth in enumerate(grid.depths):
        cells = "".join(_heat_cell(row[place], screen) for row in grid.cells[part])
        lines.append(f"{depth:>{DEPTH - 1}.0%} {cells}")
    return lines


def _heat_cell(score: float | None, screen: Screen) -> str:
    if score is None:
        return f"{'-':>{CELL - 1}} "
    step = min(4, int(4 * score + 1e-9))
    text = f"{(BLOCKS if screen.unicode else SHADE_MARKS)[step] * 2}{score:.2f}"
    if not screen.colour:
        return f"{text} "
    back, ink = SHADES[step]
    return f"\x1b[48;5;{back};38;5;{ink}m  {score:.2f}\x1b[0m "


def _beside(blocks: Sequence[Sequence[str]]) -> list[str]:
    """Blocks of lines next to one another. All lines of a block take as many columns."""
    height = max((len(block) for block in blocks), default=0)
    plain = [len(block[0]) for block in blocks]
    rows = []
    for number in range(height):
        parts = [
            block[number] if number < len(block) else " " * wide
            for block, wide in zip(blocks, plain, strict=True)
        ]
        rows.append((" " * GAP).join(parts).rstrip())
    return rows


def _grid_table(results: Results, screen: Screen) -> list[str]:
    decoys = any(one.decoys is not None for one in results.values())
    narrow = screen.width < 60
    names = [cut(name, max(6, screen.width - (28 if narrow else 48)), screen.ellipsis) for name in results]
    wide = max([len(name) for name in names] + [0])
    head = f"  {'':{wide}}  {'average':>8}  {'rows':>6}" + (f"  {'decoys':>6}" if decoys else "")
    lines = [head + ("" if narrow else "  worst cell")]
    for name, one in zip(names, results.values(), strict=True):
        worst = one.grid.worst
        where = (
            f"{worst['score']:.2f} at {length_name(int(worst['length']))}, {worst['depth']:.0%}"
            if worst
            else "-"
        )
        parts = [f"{_number(one.average):>8}", f"{one.n:>6}"]
        parts += [f"{_number(one.decoys):>6}"] if decoys else []
        parts += [] if narrow else [where]
        lines.append(f"  {name:<{wide}}  {'  '.join(parts)}")
    return lines


def perplexity_text(results: Results, *, title: str = "", height: int = 11, **options: Any) -> str:
    """Perplexity by position, a curve a model (the height is its logarithm), and at each length in a table."""
    screen = Screen.of(**options)
    known = [nll for one in results.values() for nll in one.curve.values if nll is not None]
    low, high = (min(known), max(known)) if known else (0.0, 1.0)
    if high - low < 1e-3:  # a flat curve stands in the middle
        low, high = low - 5e-4, high + 5e-4
    drawn = [
        [None if nll is None else (nll - low) / (high - low) for nll in one.curve.values or [None]]
        for one in results.values()
    ]
    top, middle, bottom = (_number(exp(min(nll, 700.0))) for nll in (high, (low + high) / 2, low))
    columns = max(20, screen.width - max(6, 2 + max(len(text) for text in (top, middle, bottom))) - 1)
    last = length_name(
        int(max((one.curve.places[-1] for one in results.values() if one.curve.places), default=0))
    )
    room = columns - 1 - len(last)
    words = "position in the text (tokens)"
    scale = f"0{words if len(words) < room - 1 else 'tokens':^{room}}{last}"
    lines = [f"{title} (the lower the better)"] if title else []
    lines += _plot(drawn, columns, height, screen, (top, middle, bottom), scale)
    return "\n".join([*lines, "", *_perplexity_table(results, screen)])


def _perplexity_table(results: Results, screen: Screen) -> list[str]:
    """Perplexity of the first tokens up to each length, and how many tokens of how many texts were read."""
    at = [dict(zip(one.bars[0].names, one.bars[0].means, strict=True)) for one in results.values()]
    lengths = list(dict.fromkeys(name for of in at for name in of))
    lengths = lengths[-max(1, (screen.width - 31) // 9) :]
    names = [cut(name, max(6, screen.width - 25 - 9 * len(lengths)), screen.ellipsis) for name in results]
    wide = max([len(name) for name in names] + [0])
    heads = "".join(f"  {name:>7}" for name in lengths)
    lines = [f"       {'':{wide}}{heads}  {'texts':>5}  {'tokens':>9}"]
    for number, (name, one, of) in enumerate(zip(names, results.values(), at, strict=True)):
        cells = "".join(f"  {_number(of[length].mean if length in of else None):>7}" for length in lengths)
        key = _sample(number, len(results), screen)
        lines.append(f"  {key}{name:<{wide}}{cells}  {one.texts:>5}  {one.n:>9}")
    return lines


def _number(value: float | None) -> str:
    """Three decimals below ten, then fewer: at most seven characters."""
    if value is None:
        return "-"
    if value < 10:
        return f"{value:.3f}"
    return f"{value:.1f}" if value < 10_000 else f"{value:.1e}"


TEXTS: Mapping[str, Callable[..., str]] = {
    "curve": curve_text,
    "grid": grid_text,
    "lengths": lengths_text,
    "perplexity": perplexity_text,
    "table": table_text,
}


def task_text(task: str, results: Results, **options: Any) -> str:
    """One task's results for a terminal, by the view of the first. `options` are those of `Screen.of`."""
    show = TEXTS.get(view_of(results))
    cautions = caution_lines({task: results}, **options)
    if show is None:
        return "\n".join([task, *score_table(results, **options), *cautions])
    return "\n".join([show(results, title=task, **options), *cautions])


def caution_lines(tasks: Mapping[str, Results], **options: Any) -> list[str]:
    """What to know before the scores of some tasks are read, each in a paragraph with those whom it concerns."""
    whose: dict[str, list[str]] = {}
    for task, results in tasks.items():
        for model, one in results.items():
            name = " ".join([task] * (len(tasks) > 1) + [model] * (len(results) > 1))
            for words in one.cautions:
                whose.setdefault(words, []).append(name)
    lines = []
    for words, names in whose.items():
        said = ", ".join(filter(None, names))
        text = f"{said}: {words}" if said else words
        lines += textwrap.wrap(
            text, Screen.of(**options).width, initial_indent="  ", subsequent_indent="    "
        )
    return ["", *lines] if lines else []


def tasks_text(tasks: Mapping[str, Results], **options: Any) -> list[str]:
    """A step's results for a terminal, a text a task; those without a curve share a table."""
    suites = {
        task: results
        for task, results in tasks.items()
        if view_of(results) == "table" and not any(one.scale for one in results.values())
    }
    texts = [task_text(task, results, **options) for task, results in tasks.items() if task not in suites]
    if len(suites) == 1:
        texts += [task_text(task, results, **options) for task, results in suites.items()]
    elif suites:
        text = suites_text(suites, title="suites", **options)
        texts.append("\n".join([text, *caution_lines(suites, **options)]))
    return texts
