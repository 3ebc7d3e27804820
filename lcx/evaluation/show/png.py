"""Results as PNG and SVG files: rows of panels with curves, heat maps, bars, histograms and shares."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from math import exp
from pathlib import Path
from typing import Any, TypeVar

from lcx.evaluation.result import VIEWS, Curve, Histogram, Result, Table, view_of
from lcx.evaluation.scores import overlay
from lcx.formatting import cut_middle, length_name
from lcx.paths import slug
from lcx.storage import atomic_path

__all__ = [
    "COLOURS",
    "INK",
    "Draw",
    "curve_png",
    "draw_task",
    "draw_tasks",
    "dress",
    "rows_png",
    "run_picture",
]

Results = Mapping[str, Result]
"""The results of one task by model."""

COLOURS = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
"""Okabe and Ito's palette: colour-blind readers can tell them apart. Marks and strokes differ as well."""
MARKS = ("o", "s", "^", "D", "v", "P")
STROKES = ("--", "-", "-.", ":", "--", "-")
INK, FAINT, TIES = "#222222", "#D9D9D9", "#C9C9C9"
T = TypeVar("T", Histogram, Table)


def curve_png(path: str | Path, results: Results, *, title: str = "", note: str = "") -> Path:
    """Draw labelled curves over one another (0 to 1, by position in percent). Written atomically."""
    return rows_png(path, [[partial(_curves, results=results, title=title, first=True)]], note=note)


Draw = Callable[[Any], None]
"""Draws one panel on matplotlib's axes."""


def rows_png(
    path: str | Path,
    rows: Sequence[Sequence[Draw]],
    *,
    note: str = "",
    shared: bool = True,
    svg: bool = False,
) -> Path:
    """Rows of panels; those of one row share their vertical axis unless told otherwise. Written atomically.

    With `svg` the same drawing is written beside it, as `.svg`. Equal results give equal files.
    """
    # The object interface needs no pyplot: no display, no global state, nothing left open.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = max(len(row) for row in rows)
    size = (6.4 if columns == 1 else 4.6 * columns, 4.4 * len(rows))
    figure = Figure(figsize=size, dpi=150, facecolor="white")
    FigureCanvasAgg(figure)
    for number, row in enumerate(rows):
        first = None
        for place, draw in enumerate(row):
            axes = figure.add_subplot(len(rows), columns, number * columns + place + 1, sharey=first)
            draw(axes)
            if first is None:
                first = axes if shared else None
            else:
                axes.tick_params(labelleft=False)
    if note:
        figure.text(0.5, 0.005, note, ha="center", va="bottom", fontsize=8, color="#666666")
    figure.tight_layout(rect=(0, _foot(note, size[1]), 1, 1), w_pad=2.5)
    # The creation date, the library's version and random ids would make equal curves give different files.
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", metadata={"Software": None})
    if svg:
        from matplotlib import rc_context

        with atomic_path(Path(path).with_suffix(".svg")) as temporary, rc_context({"svg.hashsalt": "lcx"}):
            figure.savefig(temporary, format="svg", metadata={"Date": None, "Creator": None})
    return Path(path)


def _foot(note: str, inches: float) -> float:
    """The share of a picture's height that a note at its foot takes."""
    lines = note.count("\n") + 1 if note else 0
    return 0.03 * lines if lines < 2 else 0.16 * lines / inches


def _curves(axes: Any, results: Results, title: str, *, first: bool) -> None:
    """Curves over one another: accuracy by position or by length, perplexity by position in the text."""
    curves = [one.curve for one in results.values()]
    lengths = sorted({place for curve in curves if curve.by == "length" for place in curve.places})
    by = curves[0].by if curves else "position"
    for number, (label, one) in enumerate(results.items()):
        xs, ys = _points(one.curve, lengths)
        line(axes, xs, ys, f"{cut_middle(label)}   {_legend(one)}", number, alone=len(results) == 1)
        band(axes, xs, one.curve.intervals, number, alone=len(results) == 1)
    axis = curves[0].axis if curves else "position in the context"
    if by == "tokens":
        _perplexity_axes(axes, max((curve.places[-1] for curve in curves if curve.places), default=0))
        dress(axes, title, axis, "perplexity")
        return
    if by == "length":
        axes.set_xlim(-0.3, max(1, len(lengths)) - 0.7)
        axes.set_xticks(range(len(lengths)), [length_name(int(length)) for length in lengths])
    else:
        axes.set_xlim(0, 100)
        axes.set_xticks(range(0, 101, 20), [f"{tick}%" for tick in range(0, 101, 20)])
    axes.set_ylim(0, 1)
    axes.set_yticks([0, 0.2, 0.4, 0.6, 0.8, 1.0])
    dress(axes, title, axis, "accuracy" if first else "")


def _points(curve: Curve, lengths: Sequence[float]) -> tuple[list[float], Sequence[float | None]]:
    """Where a curve's points stand: positions in percent, lengths at even distances, tokens as they are."""
    if curve.by == "length":
        return [float(lengths.index(place)) for place in curve.places], curve.values
    if curve.by == "tokens":
        return curve.middles, [None if nll is None else exp(min(nll, 700.0)) for nll in curve.values]
    return [100 * middle / curve.places[-1] for middle in curve.middles], curve.values


def _perplexity_axes(axes: Any, longest: float) -> None:
    from matplotlib.ticker import FuncFormatter, NullFormatter

    axes.set_yscale("log")
    ticks = sorted({round(longest * part / 4) for part in range(5)})
    axes.set_xlim(0, max(1, longest))
    axes.set_xticks(ticks, [length_name(tick) for tick in ticks])
    plain = FuncFormatter(lambda value, _: f"{value:.4g}")
    axes.yaxis.set_major_formatter(plain)
    low, high = axes.get_ylim()
    axes.yaxis.set_minor_formatter(plain if high / max(low, 1e-300) < 10 else NullFormatter())
    axes.tick_params(which="minor", colors=INK, labelsize=8, length=0)


def _legend(one: Result) -> str:
    """A model's numbers beside its name."""
    if one.view == "perplexity":
        return "nothing read" if one.estimate.mean is None else f"perplexity {one.estimate.mean:.4g}"
    if one.average is None:
        return "no answers"
    between = "" if one.estimate.half is None else f" ± {one.estimate.half:.3f}"
    gap = f", gap {one.gap:.3f}" if one.view == "curve" else ""
    below = "".join(f"\n{words}" for words in one.cautions)
    return f"average {one.average:.3f}{between}{gap}{below}"


def line(
    axes: Any, xs: Sequence[float], ys: Sequence[float | None], label: str, number: int, *, alone: bool
) -> None:
    """A curve in the look of its number; a model alone is drawn solid. None leaves a gap."""
    look = 1 if alone else number % len(COLOURS)
    axes.plot(
        xs,
        [float("nan") if value is None else value for value in ys],
        STROKES[look],
        color=COLOURS[look],
        marker=MARKS[look],
        markersize=3 if len(xs) > 24 else 5.5,
        markerfacecolor="white" if STROKES[look] != "-" else COLOURS[look],
        linewidth=2,
        label=label,
        clip_on=False,
        zorder=3 + number,
    )


def band(
    axes: Any, xs: Sequence[float], ends: Sequence[Sequence[float] | None], number: int, *, alone: bool
) -> None:
    """The interval of each point as a light band in the curve's colour; points without one leave a gap."""
    if not any(ends) or len(ends) != len(xs):
        return
    low, high = ([float("nan") if pair is None else pair[side] for pair in ends] for side in (0, 1))
    look = 1 if alone else number % len(COLOURS)
    axes.fill_between(xs, low, high, color=COLOURS[look], alpha=0.16, linewidth=0, zorder=2)


def dress(axes: Any, title: str, below: str, beside: str) -> None:
    """Ticks, grid, names of the axes, title and a legend under the panel."""
    axes.tick_params(colors=INK, labelsize=9, length=0, pad=6)
    axes.grid(axis="y", color=FAINT, linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color("#888888")
    axes.set_xlabel(below, fontsize=10, color=INK)
    if beside:
        axes.set_ylabel(beside, fontsize=10, color=INK)
    axes.set_title(title, fontsize=12, color=INK, loc="left", pad=12, fontweight="bold")
    if not axes.get_legend_handles_labels()[0]:
        return
    axes.legend(
        loc="upper center",
        bbox_to_anchor=(0.5, -0.17),
        frameon=False,
        fontsize=9,
        labelcolor=INK,
        handlelength=3.2,
    )


SHADES = "cividis"
"""Made for readers with and without colour blindness alike: it goes from dark to light without a turn."""
DARK = 0.55
"""Cells below this are dark: their numbers are white."""
EMPTY = "#E8E8E8"


def _heat_maps(title: str, results: Results) -> list[Draw]:
    """A heat map a model: length of the context to the right, depth in it downwards, its score in each cell."""
    return [
        partial(_heat, one=one, title=f"{title}: {cut_middle(model)}", first=number == 0)
        for number, (model, one) in enumerate(results.items())
    ]


def _heat(axes: Any, one: Result, title: str, first: bool) -> None:
    import numpy as np
    from matplotlib import colormaps

    grid = one.grid
    values = np.array(
        [[np.nan if cell is None else cell for cell in row] for row in grid.cells], dtype=float
    ).T
    shades = colormaps[SHADES].with_extremes(bad=EMPTY)
    axes.imshow(np.ma.masked_invalid(values), cmap=shades, vmin=0, vmax=1, aspect="auto")
    small = 9 if len(grid.lengths) <= 6 and len(grid.depths) <= 12 else 6
    for column, row in enumerate(grid.cells):
        for place, cell in enumerate(row):
            ink = INK if cell is None or cell >= DARK else "white"
            text = "–" if cell is None else f"{cell:.2f}"
            axes.text(column, place, text, ha="center", va="center", fontsize=small, color=ink)
    axes.set_xticks(range(len(grid.lengths)), [length_name(length) for length in grid.lengths])
    axes.set_yticks(range(len(grid.depths)), [f"{depth:.0%}" for depth in grid.depths])
    axes.tick_params(colors=INK, labelsize=9, length=0, pad=6)
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.set_xlabel(grid.axis, fontsize=10, color=INK)
    if first:
        axes.set_ylabel("depth in the context", fontsize=10, color=INK)
    note = "no answers"
    if one.average is not None and grid.worst:
        note = f"average {one.average:.3f}, worst cell {grid.worst['score']:.2f}"
    axes.set_title(title, fontsize=12, color=INK, loc="left", pad=22, fontweight="bold")
    axes.text(0, 1.02, note, transform=axes.transAxes, fontsize=9, color=INK, va="bottom")


def _suites(axes: Any, tasks: Mapping[str, Results]) -> None:
    """Means of all tasks without a curve: a row a task, the first at the top, a mark a model."""
    names = list(dict.fromkeys(name for results in tasks.values() for name in results))
    for number, name in enumerate(names):
        look = 1 if len(names) == 1 else number % len(COLOURS)
        shift = (number - (len(names) - 1) / 2) * 0.5 / len(names)
        shown = False
        for row, results in enumerate(tasks.values()):
            estimate = results[name].estimate if name in results else None
            if estimate is None or estimate.mean is None:
                continue
            if estimate.ends:
                axes.plot(estimate.ends, [row + shift] * 2, color=COLOURS[look], linewidth=1.5)
            label = "" if shown else cut_middle(name)
            axes.plot(
                [estimate.mean], [row + shift], MARKS[look], color=COLOURS[look], markersize=5, label=label
            )
            shown = True
    axes.set_yticks(range(len(tasks)), list(tasks), fontsize=7 if len(tasks) > 12 else 9)
    axes.set_ylim(len(tasks) - 0.5, -0.5)
    axes.set_xlim(0, 1)
    dress(axes, "suites", "mean score, with its 95% interval", "")
    axes.tick_params(axis="y", labelsize=7 if len(tasks) > 12 else 9, colors=INK)
    axes.grid(axis="x", color=FAINT, linewidth=0.8)
    axes.grid(axis="y", visible=False)


def _histograms(axes: Any, results: Results, title: str) -> None:
    """The share of answers in each part of the scale, an outline a model, and the mean with its interval on top."""
    top = 0.0
    drawn = {name: panel for name, one in results.items() if (panel := _panel(one, Histogram)) is not None}
    looks = {name: 1 if len(drawn) == 1 else number % len(COLOURS) for number, name in enumerate(drawn)}
    for number, (name, panel) in enumerate(drawn.items()):
        one, colour = results[name], COLOURS[looks[name]]
        total = sum(panel.counts) or 1
        heights = [count / total for count in panel.counts]
        mean = "none" if one.estimate.mean is None else f"{one.estimate.mean:.3g}"
        ends = one.estimate.ends
        between = "" if ends is None else f" ({ends[0]:.3g} to {ends[1]:.3g})"
        axes.stairs(heights, panel.edges, fill=True, alpha=0.25, color=colour)
        axes.stairs(
            heights,
            panel.edges,
            color=colour,
            linewidth=2,
            linestyle="--" if len(drawn) > 1 and not number else "-",
            label=f"{cut_middle(name)}   mean {mean}{between}   n {one.n}",
        )
        top = max([top, *heights])
    for number, name in enumerate(drawn):
        place, estimate = (top or 1) * (1.08 + 0.07 * number), results[name].estimate
        if estimate.mean is not None:
            axes.plot([estimate.mean], [place], "o", color=COLOURS[looks[name]], markersize=6, clip_on=False)
        if estimate.ends:
            axes.plot(estimate.ends, [place] * 2, color=COLOURS[looks[name]], linewidth=2, clip_on=False)
    first = next(iter(drawn.values()))
    axes.set_xlim(first.low, first.high)
    axes.set_ylim(0, (top or 1) * (1.12 + 0.07 * len(drawn)))
    axes.set_yticks([tick for tick in axes.get_yticks() if tick <= 1])
    dress(axes, title, "score", "share of answers")


def _shares(axes: Any, panel: Table, title: str, n: int) -> None:
    """A bar a row of the table, its columns beside one another: wins, ties and losses as shares of the questions."""
    shades = (COLOURS[1], TIES, COLOURS[0])
    rows = list(reversed(panel.rows))
    for place, (_, means) in enumerate(rows):
        left = 0.0
        for number, (column, mean) in enumerate(zip(panel.columns, means, strict=True)):
            value, colour = mean.mean or 0.0, shades[number % len(shades)]
            axes.barh(place, value, left=left, color=colour, height=0.62, label=column if not place else None)
            if value >= 0.06:
                ink, at = INK if colour == TIES else "white", left + value / 2
                axes.text(at, place, f"{value:.2f}", ha="center", va="center", fontsize=9, color=ink)
            left += value
    axes.set_yticks(range(len(rows)), [name for name, _ in rows])
    axes.set_xlim(0, 1)
    dress(axes, title, f"share of {n} questions, {cut_middle(panel.title)}", "")


def _panel(one: Result, kind: type[T]) -> T | None:
    return next((panel for panel in one.panels if isinstance(panel, kind)), None)


MOST_PANELS = 4
"""Panels in a row of a picture."""
MOST_NOTES = 4
"""Lines at the foot of a picture."""
FILES = {"grid": "heatmap", "table": "histogram"}
"""First word of a picture's file name, where it is not `curve`."""


def draw_task(folder: Path, task: str, results: Results) -> Path | None:
    """Draw one task's results, one model or several, into `folder`, as PNG and SVG.

    Nothing for tables without a histogram or shares, which have one picture together, nor where the view is a
    plugin's own.
    """
    view = view_of(results)
    if view not in VIEWS or (view == "table" and not _distributions(task, results)):
        return None
    name = f"{FILES.get(view, 'curve')}-{slug(task)}.png"
    return draw_tasks(folder / name, {task: results})


def draw_tasks(path: Path, tasks: Mapping[str, Results], *, note: str = "") -> Path:
    """Draw several tasks as PNG, and as SVG beside it: curves and accuracy by length side by side, then a row of
    heat maps (a model each) a grid, then perplexity, then suites, histograms and shares.
    """
    of = {view: {t: one for t, one in tasks.items() if view_of(one) == view} for view in VIEWS}
    rows: list[list[Draw]] = []
    for view in ("curve", "lengths"):
        drawn: list[Draw] = [
            partial(_curves, results=results, title=task, first=number == 0 or view == "lengths")
            for number, (task, results) in enumerate(of[view].items())
        ]
        rows += [drawn[start : start + MOST_PANELS] for start in range(0, len(drawn), MOST_PANELS)]
    rows += [_heat_maps(task, results) for task, results in of["grid"].items()]
    if of["perplexity"]:
        rows.append(
            [partial(_curves, results=one, title=task, first=True) for task, one in of["perplexity"].items()]
        )
    shares = {task: one for task, one in of["table"].items() if not any(r.scale for r in one.values())}
    rows += [[partial(_suites, tasks=shares)]] if shares else []
    # A row each: panels of one row would share a vertical axis.
    rows += [[draw] for task, results in of["table"].items() for draw in _distributions(task, results)]
    empty = [[partial(_curves, results={}, title="no results", first=True)]]
    return rows_png(path, rows or empty, svg=True, note=note)


def _distributions(task: str, results: Results) -> list[Draw]:
    """How a task's scores are distributed, and its wins, ties and losses, where its results have them."""
    found: list[Draw] = []
    if any(_panel(one, Histogram) for one in results.values()):
        found.append(partial(_histograms, results=results, title=task))
    for name, one in results.items():
        panel = _panel(one, Table)
        if panel is not None:
            found.append(partial(_shares, panel=panel, title=f"{task}: {cut_middle(name)}", n=one.n))
    return found


PICTURE = "curves.png"


def run_picture(folder: Path) -> Path:
    """Draw the models of an eval step's folder together: curves over one another, heat maps side by side.

    Results of other questions are left out, and what else differs is said at the foot: see `scores.comparable`.
    """
    tasks, notes = overlay(folder)
    return draw_tasks(folder / PICTURE, tasks, note="\n".join(notes[:MOST_NOTES]))
