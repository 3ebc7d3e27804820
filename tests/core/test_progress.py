"""Progress: lines now and then where there is no terminal, bars that share one display where there is."""

from __future__ import annotations

import io
import os
import sys

import pytest
from rich.console import Console

from lcx.context import Context, stderr_console
from lcx.progress import Display, Pace, Progress, duration, short_count


def lines_of(terminal: bool = False) -> tuple[Console, io.StringIO]:
    said = io.StringIO()
    return Console(file=said, force_terminal=terminal, width=100, highlight=False), said


def test_off_a_terminal_a_line_comes_every_ten_seconds_and_one_at_the_end() -> None:
    now = [0.0]
    console, said = lines_of()
    with Progress(Display(console), "val:code", 400, "answers", clock=lambda: now[0]) as shown:
        shown.skip(100)  # an earlier run's: they are no speed of this one
        for number in range(30):
            now[0] += 1.0
            shown.advance(5, note=f"loss {number}")
        assert shown.text() == "250 of 400 answers, loss 29, 5.0 answers/s, 30s left"
        now[0] += 5
        shown.update(400)
    lines = said.getvalue().splitlines()
    assert lines[0] == "val:code: 150 of 400 answers, loss 9, 5.0 answers/s, 50s left"
    assert [line.split(",")[0] for line in lines] == [
        f"val:code: {count} of 400 answers" for count in (150, 200, 250, 400)
    ]
    assert lines[-1].endswith("8.6 answers/s, in 35s")
    assert "\x1b" not in said.getvalue()


def test_slow_units_are_told_by_their_time() -> None:
    now = [0.0]
    with Progress(Display(lines_of()[0]), "training", 10, "steps", done=4, clock=lambda: now[0]) as shown:
        now[0] = 90.0
        shown.update(5)
        assert shown.text() == "5 of 10 steps, 1m30s each"
        now[0] = 150.0  # the first step warms up, and says nothing of the others
        shown.update(6)
        assert shown.text() == "6 of 10 steps, 1m00s each, 4m00s left"


def test_a_slow_beginning_is_no_part_of_the_time_left() -> None:
    now = [0.0]
    with Progress(Display(lines_of()[0]), "training", 60, "steps", clock=lambda: now[0]) as shown:
        for seconds, expected in ((37, ""), (1, ""), (1, ""), (1, "56s left")):
            now[0] += seconds
            shown.advance()
            assert shown.text().partition(" steps")[2].rpartition(", ")[2].endswith(expected)
            assert ("left" in shown.text()) == bool(expected)
        for _ in range(16):  # of late each takes longer
            now[0] += 10
            shown.advance()
        assert shown.text() == "20 of 60 steps, 10s each, 6m40s left"


def test_units_that_come_many_at_a_time_have_a_speed() -> None:
    pace = Pace(0.0)
    for now, done, speed in ((30.0, 64, None), (31.0, 64, None), (40.0, 128, 6.4), (50.0, 192, 6.4)):
        pace.see(now, done)
        assert pace.speed(now, done) == speed


def test_bars_inside_bars_share_one_display_which_ends_with_the_last() -> None:
    console, said = lines_of(terminal=True)
    ctx = Context(console=console)
    with ctx.progress("outer", 2) as outer:
        for _ in range(2):
            with ctx.progress("inner [b]", 3, closing=False) as inner:
                inner.update(3, note="[red] is text")
            outer.advance()
        assert ctx._display is not None
        assert ctx._display.live is not None
    assert ctx._display.live is None
    assert ctx._display.shown == 0
    assert "outer: 2 of 2" in said.getvalue()


def test_only_the_first_process_tells_and_an_error_ends_without_a_line() -> None:
    console, said = lines_of()
    with Context(console=console, rank=1).progress("judged", 3) as shown:
        shown.advance(3)
    try:
        with Context(console=console).progress("judged", 3) as shown:
            shown.advance()
            raise RuntimeError
    except RuntimeError:
        pass
    assert said.getvalue() == ""


def test_times_and_counts_in_words() -> None:
    assert [duration(s) for s in (0.2, 59.4, 60, 200, 7500)] == ["0s", "59s", "1m00s", "3m20s", "2h05m"]
    assert [short_count(n) for n in (950, 12_345, 4.5e6, 2e9)] == ["950", "12.3K", "4.5M", "2.0G"]


def test_a_reader_that_leaves_ends_no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """`lcx ... 2>&1 | head`: what is logged goes nowhere from then on, and the step goes on."""
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as closed:
        monkeypatch.setattr(sys, "stderr", closed)
        console = stderr_console()
        console.print("first")
        console.print("second")
        print("a library's line", file=sys.stderr, flush=True)
    assert console.quiet
