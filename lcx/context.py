"""What a stage hook is given besides its step and run: the console, modes, seed and process rank."""

from __future__ import annotations

import hashlib
import os
import sys
import time
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lcx.formatting import shown
from lcx.progress import Display, Progress

if TYPE_CHECKING:
    from rich.console import Console

    from lcx.plugins import Plugins

PULSE = 5.0
"""Seconds between two lines of progress."""


def stderr_console(quiet: bool = False) -> Console:
    """The console for progress and logs: always stderr, so that stdout carries results only."""
    from rich.console import Console  # methods are listed without one

    class Log(Console):
        """A console whose reader may leave: `lcx ... 2>&1 | head` ends neither the work nor what is saved of it."""

        def on_broken_pipe(self) -> None:
            self.quiet = True
            with suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())

    return Log(stderr=True, quiet=quiet, highlight=False, soft_wrap=True)


class Stopped(KeyboardInterrupt):
    """The user asked to stop, and what was done so far is saved: the same command goes on from there."""


class PartDone(Exception):
    """A process has done what it can of a step that several share; what is left waits for the others."""


DEALT_BY = "dealt by"
"""Field of a row in a shard's journal: what it was dealt by, so that it can be seen to belong there."""


@dataclass(eq=False)
class Deal:
    """How the items of a step are dealt out to the processes that share it; by default one process does them all.

    Passes follow one another where the items of one depend on all of another's. A shard (`index` of `count`) does its
    own items of the pass that is open, the first that is not `whole`. Whoever gathers has no `index`: it does what
    still lacks of whole passes, and stops where another begins. Data never depend on how many shards there are.
    """

    index: int | None = None
    count: int = 1
    whole: int = 1 << 30
    """Passes that all shards have done."""
    settled: int = 0
    """Passes that were gathered before: what failed in them has failed for good, as later ones were built on that."""
    folder: Path | None = None
    """Where a shard keeps its journals; the step's folder otherwise."""
    passed: int = 0
    """Passes that this process is through with."""
    told: Callable[[], Mapping[str, Any]] = dict
    """What the step's work says of how far it is: rows, calls, cost."""

    @property
    def alone(self) -> bool:
        """Whether nobody shares the step."""
        return self.index is None and self.whole >= 1 << 30

    @property
    def open(self) -> bool:
        """Whether this is a shard in the pass that it has its items of."""
        return self.index is not None and self.passed >= self.whole

    def mine(self, key: Hashable) -> bool:
        """Whether an item is this shard's, by a hash of its key that is the same everywhere."""
        digest = hashlib.blake2b(str(key).encode("utf-8", "surrogatepass"), digest_size=8).digest()
        return int.from_bytes(digest, "big") % self.count == self.index

    def skips(self, key: Hashable) -> bool:
        """Whether an item is left to another shard."""
        return self.open and not self.mine(key)

    def due(self) -> bool:
        """Whether an item that no journal has is to be done here. Raises PartDone where it is up to the shards."""
        if self.open:
            return True
        if self.passed < self.whole:
            return self.index is None
        raise PartDone

    def gathered(self) -> None:
        """Say that what comes now depends on all that was asked so far. Raises PartDone in a shard that asked it."""
        if self.open:
            raise PartDone
        self.passed += 1

    def writes(self) -> None:
        """Say that results are written now. Raises PartDone in a shard, which has no results of the whole."""
        if self.index is not None:
            raise PartDone


def _alone() -> None:
    """Wait for other processes: there are none."""


def _installed() -> Plugins:
    """The plugins of this process, for a context that was made without any."""
    from lcx.plugins import loaded

    return loaded()


@dataclass
class Context:
    """Handed to every stage hook. `device` is `auto`, `cpu` or `cuda[:N]`; only rank 0 writes files.

    `wait` returns once all processes of a launch have called it; `plugins` are those that the command loaded.
    `ready_model` takes a model's spec before it is looked up and returns it: a tiny model's folder, trained first
    where it has to be, since looking a model up trains none.
    """

    console: Console = field(default_factory=stderr_console)
    dry_run: bool = False
    force: bool = False
    json: bool = False
    device: str = "auto"
    rank: int = 0
    world_size: int = 1
    wait: Callable[[], None] = field(default=_alone, repr=False)
    plugins: Plugins = field(default_factory=_installed, repr=False)
    ready_model: Callable[[str], str] = field(default=str, repr=False)
    deal: Deal = field(default_factory=Deal, repr=False)
    """Which of the step's items this process does, where several share it."""
    identity: Mapping[str, str] = field(default_factory=dict, repr=False)
    """The running step's recipe, and fingerprints of it and of its inputs: what trackers of experiments are told."""
    reading: list[float] = field(default_factory=list, repr=False)
    """Seconds in which each corpus was read and cut: they do not grow with the number of questions."""

    _pulsed: float = field(default_factory=time.monotonic, repr=False)
    _display: Display | None = field(default=None, repr=False)

    @contextmanager
    def main_first(self) -> Iterator[None]:
        """Let rank 0 run the block before the others do: what it makes in a cache, they find there."""
        if self.rank != 0:
            self.wait()
        yield
        if self.rank == 0:
            self.wait()

    def progress(
        self, label: str, total: int, unit: str = "", *, done: int = 0, closing: bool = True
    ) -> Progress:
        """Show how far work of `total` units is: `with ctx.progress("judged", 400, "answers") as shown`.

        Inside, `shown.advance()` or `shown.update(done)`; see `lcx.progress.Progress`.
        """
        if self._display is None or self._display.console is not self.console:
            self._display = Display(self.console)
        return Progress(
            self._display, shown(label), total, unit, done=done, closing=closing, silent=self.rank != 0
        )

    def pulse(self, text: str) -> None:
        """A line that says how far a long part is, at most one every PULSE seconds."""
        if time.monotonic() - self._pulsed >= PULSE:
            self._pulsed = time.monotonic()
            self.log(text)

    def log(self, text: str) -> None:
        """One line of progress, from rank 0 only."""
        if self.rank == 0:
            self.console.print(shown(text), markup=False)


@dataclass
class StepResult:
    """What a stage hands back: counts for the manifest, headline numbers, files of interest and warnings.

    `files` are paths relative to the step's folder, so that a run directory can be moved.
    """

    counts: dict[str, int] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    extra: Mapping[str, Any] = field(default_factory=dict)
    spent: Sequence[str] = ()
    """Folders in the step's that nobody needs once it is done; they are removed then."""
    reused: bool = field(default=False, compare=False)
    """Whether the step was done before, so that nothing was run."""
