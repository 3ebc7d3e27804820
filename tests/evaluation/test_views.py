"""Heat maps and perplexity as pictures and as text: what is drawn, where, and what is readable without colour."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
import pytest
from matplotlib import colormaps

from lcx.evaluation.scores import overlay
from lcx.evaluation.show.png import run_picture
from lcx.evaluation.statistics.grids import grid
from lcx.formatting import length_name
from tests.evaluation.from_scores import draw_task, draw_tasks, grid_text, perplexity_text, task_text

pytestmark = pytest.mark.pictures

LENGTHS, DEPTHS = (1024, 2048, 3000), (0.0, 0.5, 1.0)


def heat(*columns: tuple[float | None, ...], decoys: float | None = None) -> dict[str, Any]:
    """A grid's result; a column a length, and in it a score a depth."""
    rows = [
        (length, depth, score)
        for length, column in zip(LENGTHS, columns, strict=False)
        for depth, score in zip(DEPTHS, column, strict=True)
    ]
    made = {"view": "grid", "unit": "tokens", "n": 9, "contexts": 3, **grid(rows)}
    return made if decoys is None else {**made, "decoys": decoys, "decoy_rows": 5}


def reading(*nll: float | None, lengths: tuple[int, ...] = (512, 1024), content: str = "a") -> dict[str, Any]:
    known = [value for value in nll if value is not None]
    whole = sum(known) / len(known) if known else None
    return {
        "view": "perplexity",
        "n": 1023,
        "texts": 1,
        "content": content,
        "nll": whole,
        "perplexity": None if whole is None else math.exp(whole),
        "lengths": list(lengths),
        "at_length": [None if whole is None else math.exp(whole)] * len(lengths),
        "edges": [round(1024 * n / len(nll)) for n in range(len(nll) + 1)],
        "curve": list(nll),
        "counts": [10] * len(nll),
    }


def curve(*spans: float) -> dict[str, Any]:
    return {
        "spans": list(spans),
        "average": 0.5,
        "gap": 0.1,
        "n": 4,
        "positions": 8,
        "contexts": 1,
        "span": 4,
    }


BEFORE = heat((1.0, 0.5, 1.0), (0.75, 0.0, 1.0), (None, None, None), decoys=0.5)
AFTER = heat((1.0, 1.0, 1.0), (1.0, 0.9, 1.0), (None, None, None), decoys=0.1)


def pixels(path: Path) -> np.ndarray:
    return matplotlib.image.imread(path)[:, :, :3]


def has(image: np.ndarray, colour: tuple[float, ...]) -> int:
    """Pixels of a colour, within a step of eight bits."""
    return int((np.abs(image - np.array(colour[:3])).max(-1) < 1.5 / 255).sum())


def test_a_heat_map_is_drawn_in_the_colours_of_its_cells(tmp_path: Path) -> None:
    path = draw_task(tmp_path, "needle", {"base": BEFORE})
    assert path == tmp_path / "heatmap-needle.png"
    image = pixels(path)
    assert image.shape == (660, 960, 3)
    assert image.std() > 0.1
    shades = colormaps["cividis"]
    # Six cells have a score: 1 three times, and 0.75, 0.5 and 0 once. A cell is about a ninth of the panel.
    cell = has(image, shades(0.0))
    assert cell > 5000
    for score, times in ((1.0, 3), (0.75, 1), (0.5, 1)):
        assert has(image, shades(score)) == pytest.approx(times * cell, rel=0.15), score
    assert has(image, shades(0.9)) < cell / 20
    again = draw_task(tmp_path / "again", "needle", {"base": BEFORE})
    assert again is not None
    assert again.read_bytes() == path.read_bytes()


def test_depth_goes_down_and_length_to_the_right(tmp_path: Path) -> None:
    path = draw_task(tmp_path, "needle", {"base": heat((1.0, 0.8, 0.6), (0.4, 0.2, 0.0), (None, None, None))})
    assert path is not None
    image, shades = pixels(path), colormaps["cividis"]

    def middle(score: float) -> np.ndarray:
        near = np.abs(image - np.array(shades(score)[:3])).max(-1) < 1.5 / 255
        return np.argwhere(near).mean(0)

    (top, left), (bottom, below) = middle(1.0), middle(0.6)
    assert top < middle(0.8)[0] < bottom
    assert abs(left - below) < 20
    assert middle(0.4)[1] > left + 100
    assert abs(middle(0.0)[0] - bottom) < 20


def test_two_models_stand_side_by_side_and_views_in_rows(tmp_path: Path) -> None:
    two = draw_tasks(tmp_path / "two.png", {"needle": {"base": BEFORE, "tuned": AFTER}})
    image = pixels(two)
    assert image.shape == (660, 1380, 3)
    shades = colormaps["cividis"]
    left, right = image[:, :690], image[:, 690:]
    assert has(left, shades(0.0)) > 3000
    assert has(right, shades(0.0)) == 0
    assert has(right, shades(0.9)) > 3000
    tasks = {
        "val:code": {"base": curve(0.2, 0.4)},
        "val:database": {"base": curve(0.2, 0.4)},
        "needle": {"base": BEFORE, "tuned": AFTER},
        "perplexity": {"base": reading(3.0, 2.0), "tuned": reading(2.5, 1.0)},
    }
    image = pixels(draw_tasks(tmp_path / "all.png", tasks))
    assert image.shape == (3 * 660, 1380, 3)
    for row in range(3):
        assert image[660 * row : 660 * (row + 1)].std() > 0.05, "each row has something in it"
    assert pixels(draw_tasks(tmp_path / "none.png", {})).shape == (660, 960, 3)


def test_perplexity_is_drawn_and_gaps_are_none(tmp_path: Path) -> None:
    path = draw_task(
        tmp_path, "perplexity", {"base": reading(3.0, None, 2.0), "tuned": reading(2.5, 2.0, 1.0)}
    )
    assert path == tmp_path / "curve-perplexity.png"
    image = pixels(path)
    blue, vermilion = (0, 0x72 / 255, 0xB2 / 255), (0xD5 / 255, 0x5E / 255, 0)
    assert has(image, blue) > 500
    assert has(image, vermilion) > 50
    assert draw_task(tmp_path, "perplexity", {"base": {"view": "perplexity", "perplexity": None}}) is not None
    assert draw_task(tmp_path, "mine", {"base": {"view": "mine"}}) is None


def test_the_heat_map_in_plain_text() -> None:
    text = grid_text({"base": BEFORE, "tuned": AFTER}, title="needle", width=80, unicode=False, colour=False)
    assert text == (
        "needle\n"
        "      base                          tuned\n"
        "depth     1K     2K   3000    depth     1K     2K   3000\n"
        "   0% ##1.00 ++0.75      -       0% ##1.00 ##1.00      -\n"
        "  50% ::0.50   0.00      -      50% ##1.00 ++0.90      -\n"
        " 100% ##1.00 ##1.00      -     100% ##1.00 ##1.00      -\n"
        "\n"
        "  down: depth   right: length (tokens)\n"
        "\n"
        "          average    rows  decoys  worst cell\n"
        "  base      0.708       9   0.500  0.00 at 2K, 50%\n"
        "  tuned     0.983       9   0.100  0.90 at 2K, 50%"
    )
    blocks = grid_text({"base": BEFORE}, width=80, unicode=True, colour=False)
    assert "▓▓0.75" in blocks
    assert "\x1b" not in blocks
    colours = grid_text({"base": BEFORE}, width=80, unicode=True, colour=True)
    assert "\x1b[48;5;17;38;5;231m  0.00\x1b[0m" in colours
    assert "\x1b[48;5;227;38;5;16m  1.00\x1b[0m" in colours


@pytest.mark.parametrize("width", [40, 60, 80])
@pytest.mark.parametrize("unicode", [True, False])
def test_texts_fit_their_width(width: int, unicode: bool) -> None:
    wide = {**BEFORE, "lengths": [1 << n for n in range(12)], "cells": [[0.61] * 3] * 12}
    models = {"base": wide, "a/very/long/path/" * 8: wide}
    text = grid_text(models, title="needle", width=width, unicode=unicode, colour=False)
    assert max(len(line) for line in text.split("\n")) <= width
    assert text.count("0.61") == 2 * 36
    read = {
        "base": reading(3.0, 2.0, lengths=(64, 128, 256, 512, 1024)),
        "a/very/long/path/" * 8: reading(9.0, 12.0, lengths=(64, 128, 256, 512, 1024)),
    }
    text = perplexity_text(read, title="perplexity", width=width, unicode=unicode, colour=False)
    assert max(len(line) for line in text.split("\n")) <= width
    if not unicode:
        assert text.isascii()


def test_perplexity_in_text_has_its_scale() -> None:
    falling = reading(math.log(8.0), math.log(4.0), math.log(2.0))
    lines = perplexity_text(
        {"base": falling}, title="perplexity", width=60, unicode=False, colour=False
    ).split("\n")
    assert lines[0] == "perplexity (the lower the better)"
    assert lines[1].startswith("8.000 |#")
    assert lines[6].startswith("4.000 |")
    assert lines[11].startswith("2.000 |")
    assert lines[11].endswith("#")
    assert lines[13].split()[-1] == "1K"
    assert lines[-1].split() == ["###", "base", "4.000", "4.000", "1", "1023"]
    flat = perplexity_text({"base": reading(1.0, 1.0)}, width=60, unicode=False, colour=False)
    assert sum("#" in line for line in flat.split("\n")) == 2, "a flat curve is one row, and the legend"
    assert " - " in perplexity_text({"base": reading(None)}, width=60, unicode=False, colour=False)


def test_lengths_by_name() -> None:
    assert [length_name(n) for n in (0, 16, 1000, 1024, 65536, 1536)] == [
        "0",
        "16",
        "1000",
        "1K",
        "64K",
        "1536",
    ]


def test_only_like_results_share_a_picture(tmp_path: Path) -> None:
    def save(model: str, **tasks: Any) -> None:
        (tmp_path / model).mkdir()
        head = {"model": model, "corpus": "c", "seed": 0, "style": "natural"}
        (tmp_path / model / "scores.json").write_text(json.dumps({**head, "tasks": tasks}))

    short = {**BEFORE, "lengths": [512, 1024, 3000]}
    save("base", needle=BEFORE, perplexity=reading(3.0, 2.0), code=curve(0.2))
    save("other", needle=short, perplexity=reading(3.0, 2.0, content="b"), code=curve(0.3))
    save("tuned", needle=AFTER, perplexity=reading(2.0, 1.0), code={**curve(0.4), "view": "curve"})
    found, _ = overlay(tmp_path)
    assert {task: list(models) for task, models in found.items()} == {
        "needle": ["base", "tuned"],
        "perplexity": ["base", "tuned"],
        "code": ["base", "other", "tuned"],
    }
    assert pixels(run_picture(tmp_path)).shape == (3 * 660, 1380, 3)
    assert "tuned" in task_text("needle", found["needle"], width=80, unicode=True, colour=False)
