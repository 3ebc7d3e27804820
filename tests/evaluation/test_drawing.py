"""Curves as PNG files and as text."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import pytest

from lcx.evaluation.result import result_of
from tests.evaluation.from_scores import curve_png, curve_text, draw_tasks, score_table

pytestmark = pytest.mark.pictures


def scores(*spans: float | None) -> dict[str, Any]:
    known = [span for span in spans if span is not None]
    if not known:
        return {"spans": list(spans), "average": None, "gap": None, "n": 0}
    return {
        "spans": list(spans),
        "average": sum(known) / len(known),
        "gap": max(known) - min(known),
        "n": 128,
    }


BEFORE, AFTER = scores(1, 0.9, 0.6, 0.4, 0.6, 0.9, 1), scores(1, 1, 0.98, 0.97, 1, 1, 1)


def test_png_files_are_whole_and_repeatable(tmp_path: Path) -> None:
    one = curve_png(tmp_path / "a" / "one.png", {"before": BEFORE, "after": AFTER}, title="val:database")
    two = curve_png(tmp_path / "two.png", {"before": BEFORE, "after": AFTER}, title="val:database")
    assert one.read_bytes() == two.read_bytes()
    assert one.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "two.png"]
    odd = scores(None, 0.5, None)
    draw_tasks(
        tmp_path / "p.png", {"x": {"a" * 90: odd}, "y": {"none": scores(None)}, "z": {"one": scores(0.3)}}
    )


def test_places_are_the_middles_of_spans() -> None:
    assert result_of("x", {**scores(1, 1), "span": 50}).curve.middles == [25, 75]
    assert result_of("x", {**scores(1), "span": 100}).curve.middles == [50]


@pytest.mark.parametrize("width", [40, 60, 80])
@pytest.mark.parametrize("unicode", [True, False])
def test_text_fits_its_width(width: int, unicode: bool) -> None:
    text = curve_text(
        {"before": BEFORE, "a/very/long/path/" * 8: AFTER}, width=width, unicode=unicode, colour=False
    )
    assert max(len(line) for line in text.split("\n")) <= width
    assert "\x1b" not in text
    if not unicode:
        assert text.isascii()
    assert f"{BEFORE['average']:.3f}" in text
    assert f"{BEFORE['gap']:.3f}" in text


def test_heights_stand_on_their_rows() -> None:
    lines = curve_text({"x": scores(1, 0, 0.5)}, width=37, height=11, unicode=False, colour=False).split("\n")
    plot = [line[6:].ljust(30) for line in lines[:11]]
    # Middles of three spans in thirty columns: 5, 15 and 25.
    for column, row in ((5, 0), (15, 10), (25, 5)):
        marked = [number for number in range(11) if plot[number][column - 1 : column + 1].strip()]
        assert row in marked, (column, marked)
    assert lines[0].startswith(" 1.0 |")
    assert lines[5].startswith(" 0.5 |")
    assert lines[10].startswith(" 0.0 |")


def test_two_curves_differ_without_colour() -> None:
    text = curve_text(
        {"before": scores(0.2, 0.2), "after": scores(0.8, 0.8)}, width=50, unicode=True, colour=False
    )
    drawn = [line[6:] for line in text.split("\n") if re.search("[\u2801-\u28ff]", line) and "┤" in line]
    dots = [sum(bin(ord(c) - 0x2800).count("1") for c in line if "\u2800" <= c <= "\u28ff") for line in drawn]
    assert len(dots) == 2
    assert dots[0] > 2.5 * dots[1] > 0


def test_colour_and_unicode_follow_the_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.TextIOWrapper):
        def isatty(self) -> bool:
            return True

    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert "\x1b[" in curve_text({"x": AFTER}, stream=Terminal(io.BytesIO(), encoding="utf-8"))
    assert curve_text({"x": AFTER}, colour=False, stream=Terminal(io.BytesIO(), encoding="latin-1")).isascii()
    assert "\x1b[" not in curve_text({"x": AFTER}, stream=io.TextIOWrapper(io.BytesIO(), encoding="utf-8"))
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[" not in curve_text({"x": AFTER}, stream=Terminal(io.BytesIO(), encoding="utf-8"))


def test_no_answers_are_a_dash() -> None:
    assert score_table({"none": scores(None)})[1].split() == ["none", "-", "-", "0"]
    assert "none" in curve_text({"none": scores(None)}, unicode=True, colour=False)
