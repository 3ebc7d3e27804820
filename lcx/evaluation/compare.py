"""Several models of one run side by side: which results may share a picture, and the picture."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lcx.evaluation.plots import panels_png
from lcx.work.files import read_json

__all__ = ["panels", "run_picture", "run_scores"]

PICTURE = "curves.png"
SAME = ("corpus", "seed")
"""What two results must share to be drawn over one another."""


def run_scores(folder: Path) -> dict[str, dict[str, Any]]:
    """`scores.json` of every model in an eval step's folder, the oldest first, by the folder's name."""
    files = sorted(folder.glob("*/scores.json"), key=lambda path: path.stat().st_mtime_ns)
    return {path.parent.name: read_json(path) for path in files}


def panels(scores: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Curves by task and then model, as plots want them."""
    found: dict[str, dict[str, Any]] = {}
    for model, result in scores.items():
        for task, curve in result["tasks"].items():
            found.setdefault(task, {})[model] = curve
    return found


def run_picture(folder: Path) -> Path:
    """Draw the models of an eval step's folder over one another: those comparable with the newest result."""
    scores = run_scores(folder)
    newest = list(scores.values())[-1]
    alike = {name: s for name, s in scores.items() if all(s.get(key) == newest.get(key) for key in SAME)}
    return panels_png(folder / PICTURE, panels(alike))
