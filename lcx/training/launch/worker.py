"""One of several processes that train: its number, its silence, and what it leaves for the command that started it.

A launch starts `python -m lcx` with FOLDER in its environment. Each process finds the command line that it is to run in
the launch's folder, and leaves its outcome there (its report, its error, or that it was stopped): exit codes and
tracebacks of processes do not survive their launcher, and only one of several errors is the cause. Torch-free.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from lcx.process import die_with

if TYPE_CHECKING:
    from lcx.context import Context

FOLDER, PARENT = "LCX_LAUNCH_FOLDER", "LCX_LAUNCH_PARENT"
"""Variables: where outcomes are left, and the process id of the command that waits for the launcher."""
WORDS = "words.json"


class Place(NamedTuple):
    """A process among others: its number over all machines, how many there are, its number on this one."""

    rank: int
    processes: int
    local: int


def launched(environment: Mapping[str, str] = os.environ) -> Place | None:
    """This process's place as accelerate and torchrun tell it, or None where it is alone."""
    try:
        place = Place(*(int(environment[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK")))
    except (KeyError, ValueError):
        return None
    alone = place.processes < 2 and FOLDER not in environment
    return None if alone else place


def has_launcher() -> bool:
    """Whether `lcx` itself started this process and prints its result."""
    return FOLDER in os.environ


def leave(folder: Path, rank: int, outcome: Mapping[str, Any]) -> None:
    """Write a process's outcome; whole or not at all."""
    from lcx.work.files import write_json

    write_json(folder / f"outcome-{rank}.json", {**outcome, "rank": rank, "time": time.time()})


_report: dict[str, Any] = {}


def hand_over(report: Mapping[str, Any]) -> bool:
    """Keep a step's report for the command that launched this process; whether there is one."""
    if not has_launcher():
        return False
    _report.update(report)
    return True


@contextmanager
def joined(ctx: Context) -> Iterator[None]:
    """The time in which this process works with the others: they can wait for each other at `ctx.wait`."""
    if launched() is None:
        yield
        return
    from lcx.context import Stopped
    from lcx.training.launch.group import join, part

    join(ctx)
    try:
        yield
    except Stopped:
        part(ctx)
        raise
    part(ctx)  # not after an error: the others may never come


def main(attempt: Callable[[Sequence[str]], Any]) -> int:
    """Run one lcx command as a worker; its exit code tells the launcher whether the others may go on.

    `attempt` runs a command line and says how it ended (`lcx.cli.boundary.attempt`).
    """
    place = launched()
    if place is None:
        raise SystemExit("this module is started by `lcx train --gpus N`")
    folder = Path(os.environ[FOLDER])
    try:
        _settle(folder, place.rank)
        from lcx.work.files import read_json

        ended = attempt(read_json(folder / WORDS))
    except KeyboardInterrupt:
        leave(folder, place.rank, {"state": "stopped"})
        return 130
    if isinstance(ended.cause, KeyboardInterrupt):
        from lcx.context import Stopped

        leave(folder, place.rank, {"state": "stopped"})
        return 0 if isinstance(ended.cause, Stopped) else ended.code  # 0: the others may be saving still
    if ended.error is None:
        leave(folder, place.rank, {"state": "done", "report": _report})
        return ended.code
    if ended.cause is not None:
        with _log(folder, place.rank) as log:
            traceback.print_exception(ended.cause, file=log)
    expected = ended.error is ended.cause
    leave(folder, place.rank, {"state": "failed", "expected": expected, "error": ended.error.as_dict()})
    return ended.code


def _settle(folder: Path, rank: int) -> None:
    """Signals as they should be, output where it belongs, and this process's id for whoever wants to stop it."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # it is ignored where lcx runs in the background
    _redirect(folder, rank)
    die_with(os.getppid())
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    (folder / f"pid-{rank}").write_text(str(os.getpid()))


def _log(folder: Path, rank: int) -> Any:
    return (folder / f"worker-{rank}.log").open("a", encoding="utf-8")


def _redirect(folder: Path, rank: int) -> None:
    """Send what is printed to a file; only the first process's stderr goes to the user."""
    sys.stdout.flush()
    with _log(folder, rank) as log:
        os.dup2(log.fileno(), 1)
        if rank:
            sys.stderr.flush()
            os.dup2(log.fileno(), 2)


def read_outcomes(folder: Path) -> list[dict[str, Any]]:
    """The outcomes that processes on this machine left, by their numbers."""
    found = [json.loads(path.read_text(encoding="utf-8")) for path in folder.glob("outcome-*.json")]
    return sorted(found, key=lambda outcome: outcome["rank"])
