"""The ratios of `preference_step.py` over prompt lengths as a picture."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lcx.work.files import atomic_path

CURVES = (
    ("logo", "full", "LOGO, rows with all logits", "#0072B2", "o", "-"),
    ("logo", "rows", "LOGO, rows with the answers' logits", "#56B4E9", "s", "-"),
    ("logo", "micro", "LOGO, rows one at a time", "#999999", "v", ":"),
    ("dpo", "trl-dpo", "DPO + CE, TRL's DPOTrainer", "#D55E00", "^", "--"),
    ("simpo", "trl-simpo", "SimPO, TRL's CPOTrainer", "#009E73", "D", "-."),
    ("logo", "floor", "the floor: causal LM on the same tokens", "#222222", "x", ":"),
)
"""lcx's way, the other, label, colour, mark, stroke. Okabe and Ito's palette."""


def plot(path: Path, lengths: Mapping[str, Any], title: str) -> Path:
    """Draw how many times faster lcx is, and the share of the other's memory that it takes, by prompt length."""
    # The object interface needs no pyplot: no display, no global state, nothing left open.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10.4, 4.4), dpi=150, facecolor="white")
    FigureCanvasAgg(figure)
    panels = (
        ("median_seconds", "Time: the other's / lcx's", lambda mine, other: other / mine),
        ("peak_bytes", "Peak memory: lcx's / the other's", lambda mine, other: mine / other),
    )
    for number, (key, name, ratio) in enumerate(panels):
        axes = figure.add_subplot(1, 2, number + 1)
        for mine, other, label, colour, mark, stroke in CURVES:
            points = [
                (int(length), ratio(found[key][mine], found[key][other]))
                for length, found in lengths.items()
                if mine in found[key] and other in found[key]
            ]
            if points:
                points.sort()
                axes.plot(
                    *zip(*points, strict=True), stroke, color=colour, marker=mark, markersize=5, label=label
                )
        axes.axhline(1, color="#222222", linewidth=0.6)
        axes.set_xscale("log", base=2)
        ticks = sorted(int(length) for length in lengths)
        axes.set_xticks(ticks, [f"{tick / 1024:g}K" for tick in ticks])
        axes.set_ylim(bottom=0)
        axes.set_title(name, fontsize=11)
        axes.set_xlabel("prompt tokens")
        axes.grid(color="#D9D9D9", linewidth=0.6)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower center", ncols=3, frameon=False, fontsize=8.5)
    figure.suptitle(title, fontsize=10, color="#444444")
    figure.tight_layout(rect=(0, 0.1, 1, 1), w_pad=2.5)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        # The creation date and library version would make equal curves give different files.
        figure.savefig(temporary, format="png", metadata={"Software": None})
    return path
