"""Panels of other views than accuracy by position: heat maps of a grid, and perplexity by position."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from functools import partial
from math import exp
from typing import Any

from lcx.evaluation.drawing.plots import INK, Draw, Scores, dress, line, shortened
from lcx.formatting import length_name

__all__ = ["grid_panels", "perplexity_panels"]

SHADES = "cividis"
"""Made for readers with and without colour blindness alike: it goes from dark to light without a turn."""
DARK = 0.55
"""Cells below this are dark: their numbers are white."""
EMPTY = "#E8E8E8"


def grid_panels(title: str, models: Mapping[str, Scores]) -> list[Draw]:
    """A heat map a model: length of the context to the right, depth in it downwards, its score in each cell."""
    return [
        partial(_heat, scores=scores, title=f"{title}: {shortened(model)}", first=number == 0)
        for number, (model, scores) in enumerate(models.items())
    ]


def _heat(axes: Any, scores: Scores, title: str, first: bool) -> None:
    import numpy as np
    from matplotlib import colormaps

    lengths, depths, cells = scores["lengths"], scores["depths"], scores["cells"]
    values = np.array([[np.nan if cell is None else cell for cell in row] for row in cells], dtype=float).T
    shades = colormaps[SHADES].with_extremes(bad=EMPTY)
    axes.imshow(np.ma.masked_invalid(values), cmap=shades, vmin=0, vmax=1, aspect="auto")
    small = 9 if len(lengths) <= 6 and len(depths) <= 12 else 6
    for column, row in enumerate(cells):
        for place, cell in enumerate(row):
            ink = INK if cell is None or cell >= DARK else "white"
            text = "–" if cell is None else f"{cell:.2f}"
            axes.text(column, place, text, ha="center", va="center", fontsize=small, color=ink)
    axes.set_xticks(range(len(lengths)), [length_name(length) for length in lengths])
    axes.set_yticks(range(len(depths)), [f"{depth:.0%}" for depth in depths])
    axes.tick_params(colors=INK, labelsize=9, length=0, pad=6)
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.set_xlabel(f"length of the context ({scores.get('unit', 'tokens')})", fontsize=10, color=INK)
    if first:
        axes.set_ylabel("depth in the context", fontsize=10, color=INK)
    average = scores["average"]
    note = (
        "no answers"
        if average is None
        else f"average {average:.3f}, worst cell {scores['worst']['score']:.2f}"
    )
    axes.set_title(title, fontsize=12, color=INK, loc="left", pad=22, fontweight="bold")
    axes.text(0, 1.02, note, transform=axes.transAxes, fontsize=9, color=INK, va="bottom")


def perplexity_panels(panels: Mapping[str, Mapping[str, Scores]]) -> list[Draw]:
    """One panel for each title: perplexity of the tokens in each bucket of positions, a curve a model."""
    return [partial(_reading, curves=curves, title=title) for title, curves in panels.items()]


def _reading(axes: Any, curves: Mapping[str, Scores], title: str) -> None:
    from matplotlib.ticker import FuncFormatter, NullFormatter

    axes.set_yscale("log")
    for number, (label, scores) in enumerate(curves.items()):
        edges = scores.get("edges") or [0]
        middles = [(start + end) / 2 for start, end in itertools.pairwise(edges)]
        heights = [None if nll is None else exp(min(nll, 700.0)) for nll in scores.get("curve") or []]
        whole = scores["perplexity"]
        words = "nothing read" if whole is None else f"perplexity {whole:.4g}"
        line(axes, middles, heights, f"{shortened(label)}   {words}", number, alone=len(curves) == 1)
    longest = max((scores["edges"][-1] for scores in curves.values() if scores.get("edges")), default=0)
    ticks = sorted({round(longest * part / 4) for part in range(5)})
    axes.set_xlim(0, max(1, longest))
    axes.set_xticks(ticks, [length_name(tick) for tick in ticks])
    plain = FuncFormatter(lambda value, _: f"{value:.4g}")
    axes.yaxis.set_major_formatter(plain)
    low, high = axes.get_ylim()
    axes.yaxis.set_minor_formatter(plain if high / max(low, 1e-300) < 10 else NullFormatter())
    axes.tick_params(which="minor", colors=INK, labelsize=8, length=0)
    dress(axes, title, "position in the text (tokens)", "perplexity")
