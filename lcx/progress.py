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

__all__ = ["LINE_SECONDS", "Display", "Progress", "duration", "short_count"]

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

    def __enter__(self) -> Progress:
        self._began = self._said = self._clock()
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
        if self._silent:
            return
        if self._bar is not None:
            self._display.live.update(self._bar, completed=done, text=self.text())
        elif self._clock() - self._said >= LINE_SECONDS and done < self.total:
            self._say()

    def text(self) -> str:
        """`2,100 of 3,000 answers, 88.1 answers/s, 10s left`, with the note behind the counts; at the end `in 35s`."""
        spent = max(1e-9, self.seconds)
        fresh, left = self.done - self._before, self.total - self.done
        parts = [f"{self.done:,} of {self.total:,} {self.unit}".rstrip()]
        if self.note:
            parts.append(self.note)
        if fresh > 0:
            parts.append(
                f"{fresh / spent:.1f} {self.unit}".rstrip() + "/s"
                if fresh > spent
                else f"{duration(spent / fresh)} each"
            )
            parts.append(f"{duration(left * spent / fresh)} left" if left > 0 else f"in {duration(spent)}")
        return ", ".join(parts)

    def _say(self) -> None:
        if not self._silent:
            self._said = self._clock()
            self._display.console.print(f"{self.label}: {self.text()}", markup=False)
