"""Starting a plan's processes, passing signals on, and turning what they left into one report or one error."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import yaml

from lcx.errors import LcxError, MissingError
from lcx.training.launch.host import NOTE
from lcx.training.launch.plan import Plan
from lcx.training.launch.worker import FOLDER, PARENT, WORDS, read_outcomes
from lcx.work.files import read_json

GRACE = 20.0
"""Seconds that processes have to end after a second Ctrl-C."""
POLL = 0.1


def run(plan: Plan, words: Sequence[str]) -> dict[str, Any]:
    """Run `lcx WORDS` in all of a plan's processes on this machine; returns the first one's report.

    Raises the error of the process that failed first, and KeyboardInterrupt where the user stopped them.
    """
    with tempfile.TemporaryDirectory(prefix="lcx-launch-") as name:
        folder = Path(name)
        config = folder / "accelerate.yaml"
        config.write_text(yaml.safe_dump(dict(plan.config), sort_keys=False), encoding="utf-8")
        # Not as arguments: launchers read some of them as their own
        (folder / WORDS).write_text(json.dumps(list(words)), encoding="utf-8")
        environment = {**os.environ, **plan.environment(), FOLDER: name, PARENT: str(os.getpid())}
        process = subprocess.Popen(
            plan.argv(config),
            env=environment,
            stdin=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C comes to this process, which passes it on once
        )
        asked = _wait(process, folder)
        return _result(plan, folder, asked)


def _wait(process: subprocess.Popen[bytes], folder: Path) -> int:
    """Wait for the launcher; returns how often the user asked to stop."""
    asked = 0

    def ask(number: int, frame: Any) -> None:
        nonlocal asked
        asked += 1
        if asked == 1:
            _send(process, folder, signal.SIGINT)
        elif asked == 2:
            _send(process, folder, signal.SIGINT)
            threading.Thread(target=end, daemon=True).start()
        else:
            _send(process, folder, signal.SIGKILL)
            process.kill()

    def end() -> None:
        with suppress(subprocess.TimeoutExpired):
            process.wait(GRACE)
            return
        _send(process, folder, signal.SIGKILL)
        process.kill()

    try:
        with _handling(ask):
            while process.poll() is None:
                with suppress(subprocess.TimeoutExpired):
                    process.wait(POLL)
    finally:
        if process.poll() is None:  # only where this process is about to end by something else
            _send(process, folder, signal.SIGKILL)
            process.kill()
            process.wait()
    return asked


@contextmanager
def _handling(ask: Callable[[int, Any], None]) -> Iterator[None]:
    """SIGINT and SIGTERM as wishes to stop; only the main thread can be told."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _send(process: subprocess.Popen[bytes], folder: Path, number: int) -> None:
    """Send a signal to the workers; to their launcher where none has started yet."""
    found = [int(path.read_text() or 0) for path in folder.glob("pid-*")]
    for pid in filter(None, found):
        with suppress(ProcessLookupError):
            os.kill(pid, number)
    if not found:
        process.terminate()


def _result(plan: Plan, folder: Path, asked: int) -> dict[str, Any]:
    """The first process's report. Raises the error that was the cause, or KeyboardInterrupt."""
    outcomes = read_outcomes(folder)
    if len(outcomes) == plan.local and all(outcome["state"] == "done" for outcome in outcomes):
        return dict(outcomes[0]["report"])
    failed = [outcome for outcome in outcomes if outcome["state"] == "failed"]
    # An error in our own words is the cause; others may only say that the process that failed has gone
    cause = min(failed, key=lambda outcome: (not outcome["expected"], outcome["time"]), default=None)
    expected = cause is not None and cause["expected"]
    if not expected and (asked or any(outcome["state"] == "stopped" for outcome in outcomes)):
        raise KeyboardInterrupt
    note = read_json(folder / NOTE) if (folder / NOTE).is_file() else {}
    told = {outcome["rank"] for outcome in outcomes}
    silent = {int(rank): code for rank, code in note.get("ends", {}).items() if int(rank) not in told}
    # The launcher ends the others by SIGTERM, so that any other end is the cause
    silent = {rank: code for rank, code in silent.items() if code != -signal.SIGTERM}
    if cause is not None and (expected or not silent):
        if cause["rank"] and "LCX_DEBUG" in os.environ:  # the first process shows its own
            print(_tail(folder, cause["rank"], 200), file=sys.stderr)
        raise _error(cause["error"])
    rank, code = next(iter(silent.items()), (0, 0))
    if code == -signal.SIGKILL:
        raise MissingError(
            f"process {rank} of {plan.processes} was killed",
            why="Usually this machine's memory is full: every process reads the model.",
            hint="Fewer --gpus, --strategy fsdp (one process reads), or a machine with more memory.",
        )
    raise LcxError(
        f"process {rank} of {plan.processes} ended"
        + (f" by {signal.Signals(-code).name}" if code < 0 else " without a word"),
        why=note.get("error") or _tail(folder, rank, 1),
    )


def _error(found: dict[str, Any]) -> LcxError:
    error = LcxError(str(found["error"]), why=str(found["why"]), hint=str(found["hint"]))
    error.exit_code = int(found["exit_code"])
    return error


def _tail(folder: Path, rank: int, lines: int) -> str:
    """The last lines that a process printed where the user did not see them."""
    log = folder / f"worker-{rank}.log"
    text = log.read_text(encoding="utf-8", errors="replace") if log.is_file() else ""
    return "\n".join([line for line in text.splitlines() if line.strip()][-lines:])
