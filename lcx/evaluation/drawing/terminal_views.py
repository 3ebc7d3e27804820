"""Heat maps and perplexity for a terminal. Every cell has its number, so that neither colour nor blocks are needed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import exp
from typing import Any, TextIO

from lcx.evaluation.drawing.terminal import Scores, Screen, gap_lines, plot_lines, sample
from lcx.formatting import length_name

__all__ = ["grid_text", "perplexity_text"]

BLOCKS, MARKS = " ░▒▓█", " .:+#"
"""From nothing found to all found, a quarter each."""
SHADES = ((17, 231), (60, 231), (102, 231), (143, 16), (227, 16))
"""ANSI 256-colour background and ink of the same steps: dark blue to yellow, as in the picture."""
CELL = 7
DEPTH = 6
"""Columns of the depths at the left."""
GAP = 3


def grid_text(
    models: Mapping[str, Scores],
    *,
    title: str = "",
    width: int | None = None,
    unicode: bool | None = None,
    colour: bool | None = None,
    stream: TextIO | None = None,
) -> str:
    """A heat map a model, side by side where the width allows, and a table. Arguments as of `curve_text`."""
    screen = Screen.of(width, unicode, colour, stream)
    unit = next((scores.get("unit", "tokens") for scores in models.values()), "tokens")
    lines = [title] if title else []
    row: list[list[str]] = []
    taken = 0
    most = max(1, (screen.width - DEPTH) // CELL)
    for name, scores in models.items():
        for start in range(0, len(scores["lengths"]), most):
            part = slice(start, start + most)
            wide = DEPTH + CELL * len(scores["lengths"][part])
            if row and taken + GAP + wide > screen.width:
                lines += [*_beside(row), ""]
                row, taken = [], 0
            row.append(_heat_map(name, scores, part, wide, screen))
            taken += wide + (GAP if taken else 0)
    lines += _beside(row)
    lines += ["", f"  down: depth   right: length ({unit})", ""]
    return "\n".join([*lines, *_grid_table(models, screen), *gap_lines(models, screen)])


def _heat_map(name: str, scores: Scores, part: slice, wide: int, screen: Screen) -> list[str]:
    """Lines of one model's heat map, or of a part of its lengths, each `wide` columns."""
    lengths = "".join(f"{length_name(length):>{CELL - 1}} " for length in scores["lengths"][part])
    lines = [
        f"{'':{DEPTH}}{_cut(name, wide - DEPTH, screen)}".ljust(wide),
        f"{'depth':>{DEPTH - 1}} {lengths}",
    ]
    for place, depth in enumerate(scores["depths"]):
        cells = "".join(_cell(row[place], screen) for row in scores["cells"][part])
        lines.append(f"{depth:>{DEPTH - 1}.0%} {cells}")
    return lines


def _cell(score: float | None, screen: Screen) -> str:
    if score is None:
        return f"{'-':>{CELL - 1}} "
    step = min(4, int(4 * score + 1e-9))
    text = f"{(BLOCKS if screen.unicode else MARKS)[step] * 2}{score:.2f}"
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


def _grid_table(models: Mapping[str, Scores], screen: Screen) -> list[str]:
    decoys = any(scores.get("decoys") is not None for scores in models.values())
    narrow = screen.width < 60
    names = [_cut(name, max(6, screen.width - (28 if narrow else 48)), screen) for name in models]
    wide = max([len(name) for name in names] + [0])
    head = f"  {'':{wide}}  {'average':>8}  {'rows':>6}" + (f"  {'decoys':>6}" if decoys else "")
    lines = [head + ("" if narrow else "  worst cell")]
    for name, scores in zip(names, models.values(), strict=True):
        worst = scores.get("worst")
        where = (
            f"{worst['score']:.2f} at {length_name(worst['length'])}, {worst['depth']:.0%}" if worst else "-"
        )
        parts = [f"{_number(scores['average']):>8}", f"{scores.get('n', ''):>6}"]
        parts += [f"{_number(scores.get('decoys')):>6}"] if decoys else []
        parts += [] if narrow else [where]
        lines.append(f"  {name:<{wide}}  {'  '.join(parts)}")
    return lines


def perplexity_text(
    models: Mapping[str, Scores],
    *,
    title: str = "",
    width: int | None = None,
    height: int = 11,
    unicode: bool | None = None,
    colour: bool | None = None,
    stream: TextIO | None = None,
) -> str:
    """Perplexity by position, a curve a model (the height is its logarithm), and at each length in a table."""
    screen = Screen.of(width, unicode, colour, stream)
    known = [nll for scores in models.values() for nll in scores.get("curve") or [] if nll is not None]
    low, high = (min(known), max(known)) if known else (0.0, 1.0)
    if high - low < 1e-3:  # a flat curve stands in the middle
        low, high = low - 5e-4, high + 5e-4
    drawn: dict[str, Any] = {
        name: {
            "spans": [
                None if nll is None else (nll - low) / (high - low) for nll in scores.get("curve") or [None]
            ]
        }
        for name, scores in models.items()
    }
    low_mid_high = (_number(exp(min(nll, 700.0))) for nll in (high, (low + high) / 2, low))
    top, middle, bottom = low_mid_high
    columns = max(20, screen.width - max(6, 2 + max(len(text) for text in (top, middle, bottom))) - 1)
    last = length_name(
        max((scores["edges"][-1] for scores in models.values() if scores.get("edges")), default=0)
    )
    room = columns - 1 - len(last)
    words = "position in the text (tokens)"
    scale = f"0{words if len(words) < room - 1 else 'tokens':^{room}}{last}"
    lines = [f"{title} (the lower the better)"] if title else []
    lines += plot_lines(drawn, columns, height, screen, (top, middle, bottom), scale)
    return "\n".join([*lines, "", *_perplexity_table(models, screen)])


def _perplexity_table(models: Mapping[str, Scores], screen: Screen) -> list[str]:
    """Perplexity of all tokens, of the first ones up to each length, and how many tokens of how many texts."""
    lengths = sorted({length for scores in models.values() for length in scores["lengths"]})
    lengths = lengths[-max(1, (screen.width - 31) // 9) :]
    names = [_cut(name, max(6, screen.width - 25 - 9 * len(lengths)), screen) for name in models]
    wide = max([len(name) for name in names] + [0])
    heads = "".join(f"  {'to ' + length_name(length):>7}" for length in lengths)
    lines = [f"       {'':{wide}}{heads}  {'texts':>5}  {'tokens':>9}"]
    for number, (name, scores) in enumerate(zip(names, models.values(), strict=True)):
        at = dict(zip(scores["lengths"], scores["at_length"], strict=True))
        cells = "".join(f"  {_number(at.get(length)):>7}" for length in lengths)
        key = sample(number, len(models), screen.unicode, screen.colour)
        lines.append(f"  {key}{name:<{wide}}{cells}  {scores['texts']:>5}  {scores['n']:>9}")
    return lines


def _number(value: float | None) -> str:
    """Three decimals below ten, then fewer: at most seven characters."""
    if value is None:
        return "-"
    if value < 10:
        return f"{value:.3f}"
    return f"{value:.1f}" if value < 10_000 else f"{value:.1e}"


def _cut(name: str, most: int, screen: Screen) -> str:
    return name if len(name) <= most else name[: most - 1] + ("…" if screen.unicode else "~")
