"""How far long work is: a bar on a terminal, a plain line every few seconds elsewhere. Torch-free.

Stages open it by `ctx.progress(...)`; it writes to the context's console, which is stderr, from rank 0 only.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["LINE_SECONDS", "Display", "Pace", "Progress", "duration", "short_count"]

LINE_SECONDS = 10.0
"""Seconds between two plain lines of one piece of work."""


def duration(seconds: float) -> str:
    """A length of time in words: `45s`, `3m20s`, `2h05m`."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m"


def short_count(number: float) -> str:
    """A count in at most five characters: `950`, `12.3K`, `4.5M`."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("K", 1e3)):
        if number >= size:
            return f"{number / size:.1f}{unit}"
    return f"{number:.0f}"


FEW = 3
"""Units behind the first ones from which on a speed is told,"""
LONG = 60.0
"""or seconds that one of them took."""
RECENT = 20.0
"""A speed is that of the last so many seconds at least, twice as many at most where units are short."""


class Pace:
    """How fast units are done of late. What the first ones took is no part of it, since loading is in there."""

    def __init__(self, now: float, done: int = 0) -> None:
        self._since = self._next = (now, done)
        self._begun = False

    def see(self, now: float, done: int) -> None:
        """Note that so many units are done by now."""
        if not self._begun:
            self._begun = done > self._since[1]
            self._since = self._next = (now, done) if self._begun else self._since
        elif now - self._next[0] >= RECENT and done - self._next[1] >= FEW:
            self._since, self._next = self._next, (now, done)

    def speed(self, now: float, done: int) -> float | None:
        """Units a second; None before a few are done."""
        seconds, units = now - self._since[0], done - self._since[1]
        known = self._begun and seconds > 0 and (units >= FEW or (units > 0 and seconds >= LONG))
        return units / seconds if known else None


class Display:
    """The bars of one console. rich draws one live display at a time, so that work inside other work shares it."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.live: Any = None
        self.shown = 0

    @property
    def draws(self) -> bool:
        """True if bars can be drawn: on a terminal that can move its cursor, and that is to be written to."""
        console = self.console
        return console.is_terminal and not console.is_dumb_terminal and not console.quiet

    def open(self, label: str, total: int, done: int) -> Any:
        """Show a bar and return its number."""
        if self.live is None:
            from rich.progress import BarColumn, TextColumn
            from rich.progress import Progress as Bars

            self.live = Bars(
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                TextColumn("{task.fields[text]}", markup=False),
                console=self.console,
                transient=True,
            )
            self.live.start()
        self.shown += 1
        return self.live.add_task(label, total=total, completed=done, text="")

    def close(self, bar: Any) -> None:
        """Take a bar away, and the display with the last of them."""
        self.live.remove_task(bar)
        self.shown -= 1
        if not self.shown:
            self.live.stop()
            self.live = None


class Progress:
    """One piece of work of `total` units, of which `done` were there before: those do not enter the speed.

    A context manager: inside it call `update` or `advance`. It ends with one line, unless `closing` is false or an
    error ends it. `clock` gives seconds, for tests.
    """

    def __init__(
        self,
        display: Display,
        label: str,
        total: int,
        unit: str = "",
        *,
        done: int = 0,
        closing: bool = True,
        silent: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.label, self.total, self.unit, self.done = label, total, unit, done
        self.note = ""
        self._before, self._closing, self._silent = done, closing, silent
        self._display, self._clock = display, clock
        self._bar: Any = None
        self._began = self._said = clock()
        self._pace = Pace(self._began)

    def __enter__(self) -> Progress:
        self._began = self._said = self._clock()
        self._pace = Pace(self._began)
        if not self._silent and self._display.draws:
            self._bar = self._display.open(self.label, self.total, self.done)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(said=error is None)

    def close(self, *, said: bool = True) -> None:
        """Take the bar away; `said` lets the closing line be printed."""
        if self._bar is not None:
            self._display.close(self._bar)
            self._bar = None
        if said and self._closing:
            self._say()

    @property
    def seconds(self) -> float:
        """Seconds since the work began."""
        return self._clock() - self._began

    def skip(self, count: int) -> None:
        """Count units that an earlier run has done."""
        self._before += count
        self.advance(count)

    def advance(self, count: int = 1, note: str | None = None) -> None:
        """Count units that were done now. `note` is what stands beside the counts, until another one comes."""
        self.update(self.done + count, note)

    def update(self, done: int, note: str | None = None) -> None:
        """Set how many units are done in all; move the bar, or print a line where the last one is old enough."""
        self.done = done
        self.note = self.note if note is None else note
        self._pace.see(self._clock(), done - self._before)
        if self._silent:
            return
        if self._bar is not None:
            self._display.live.update(self._bar, completed=done, text=self.text())
        elif self._clock() - self._said >= LINE_SECONDS and done < self.total:
            self._say()

    def text(self) -> str:
        """`2,100 of 3,000 answers, 88.1 answers/s, 10s left`, with the note behind the counts; at the end `in 35s`.

        The speed is that of late, at the end that of all; no time left is told before a few units are done.
        """
        spent = max(1e-9, self.seconds)
        fresh, left = self.done - self._before, self.total - self.done
        parts = [f"{self.done:,} of {self.total:,} {self.unit}".rstrip()]
        if self.note:
            parts.append(self.note)
        if fresh > 0:
            of_late = self._pace.speed(self._clock(), fresh) if left > 0 else None
            speed = of_late or fresh / spent
            parts.append(
                f"{speed:.1f} {self.unit}".rstrip() + "/s" if speed > 1 else f"{duration(1 / speed)} each"
            )
            if left <= 0:
                parts.append(f"in {duration(spent)}")
            elif of_late is not None:
                parts.append(f"{duration(left / of_late)} left")
        return ", ".join(parts)

    def _say(self) -> None:
        if not self._silent:
            self._said = self._clock()
            self._display.console.print(f"{self.label}: {self.text()}", markup=False)
