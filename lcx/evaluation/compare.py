"""Several models of one run side by side: which results may share a picture, and the picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lcx.evaluation.plots import panels_png
from lcx.work.files import read_json

__all__ = ["comparable", "run_picture", "run_scores"]

PICTURE = "curves.png"
SAME = ("corpus", "seed", "style")
SAME_TASK = ("positions", "contexts", "span")
"""What two results, and two curves of a task, must share to be drawn over one another."""


def run_scores(folder: Path) -> dict[str, dict[str, Any]]:
    """`scores.json` of every model in an eval step's folder, the oldest first, by the folder's name."""
    files = sorted(folder.glob("*/scores.json"), key=lambda path: path.stat().st_mtime_ns)
    return {path.parent.name: read_json(path) for path in files}


def comparable(folder: Path) -> dict[str, dict[str, dict[str, Any]]]:
    """Curves by task and then model: the newest result, and those of the same contexts."""
    scores = run_scores(folder)
    found: dict[str, dict[str, dict[str, Any]]] = {}
    if not scores:
        return found
    newest = list(scores.values())[-1]
    for model, result in scores.items():
        if any(result.get(key) != newest.get(key) for key in SAME):
            continue
        for task, curve in result["tasks"].items():
            like = newest["tasks"].get(task)
            if like is not None and all(curve.get(key) == like.get(key) for key in SAME_TASK):
                found.setdefault(task, {})[model] = curve
    return found


def run_picture(folder: Path) -> Path:
    """Draw the models of an eval step's folder over one another, a panel a task."""
    return panels_png(folder / PICTURE, comparable(folder))
