"""The curves of a training as one picture: the loss, and what a preference loss says of its answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lcx.work.files import atomic_path

PANELS = (
    ("Loss", {"loss": "loss", "nll_loss": "cross-entropy of the chosen"}),
    ("Rewards", {"rewards/chosen": "chosen", "rewards/rejected": "rejected", "rewards/margins": "margin"}),
    ("Chosen beats rejected", {"rewards/accuracies": "share of pairs"}),
)
"""Title of a panel, and its curves: key in `curve.json` and label."""
COLOURS = ("#0072B2", "#D55E00", "#009E73")
MARKED = 40
"""Up to so many points, each is marked; one alone would not show otherwise."""


def training_png(path: Path, points: Sequence[Mapping[str, float]]) -> Path:
    """Draw the curves that the points of a training have, by optimizer step. Written atomically."""
    # The object interface needs no pyplot: no display, no global state, nothing left open.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    panels = [(title, curves) for title, curves in PANELS if any(key in p for p in points for key in curves)]
    figure = Figure(figsize=(4.8 * max(1, len(panels)), 3.6), dpi=120, facecolor="white")
    FigureCanvasAgg(figure)
    for number, (title, curves) in enumerate(panels):
        axes = figure.add_subplot(1, len(panels), number + 1)
        _draw(axes, points, curves)
        axes.set_title(title, fontsize=11)
        axes.set_xlabel("optimizer step")
    if any(key == "rewards/accuracies" for _, curves in panels for key in curves):
        figure.axes[-1].set_ylim(-0.03, 1.03)
    figure.tight_layout()
    with atomic_path(path) as temporary:
        # The creation date and library version would make equal curves give different files.
        figure.savefig(temporary, format="png", metadata={"Software": None})
    return path


def _draw(axes: Any, points: Sequence[Mapping[str, float]], curves: Mapping[str, str]) -> None:
    shown = [(key, label) for key, label in curves.items() if any(key in point for point in points)]
    for colour, (key, label) in zip(COLOURS, shown, strict=False):
        held = [(point["step"], point[key]) for point in points if key in point]
        marker = "o" if len(held) <= MARKED else None
        axes.plot(
            *zip(*held, strict=True), color=colour, marker=marker, markersize=3, linewidth=1.5, label=label
        )
    axes.grid(color="#D9D9D9", linewidth=0.6)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    if len(shown) > 1:
        axes.legend(frameon=False, fontsize=8)
