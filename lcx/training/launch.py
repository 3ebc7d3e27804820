"""The processes of a launched train step: the command that starts them, accelerate's launcher, and the workers.

`run` belongs to the command: it starts a plan's processes, passes signals on, and turns what they left into one report
or one error. `python -m lcx.training.launch` is the process in between: accelerate's launcher, without its tracebacks.
`work` runs in each process that trains (`python -m lcx` with FOLDER in its environment): it finds the command line in
the launch's folder and leaves its outcome there (its report, its error, or that it was stopped), because exit codes and
tracebacks of processes do not survive their launcher, and only one of several errors is the cause.

Torch-free but for the group of processes, once they meet.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import yaml

from lcx.context import Context, Stopped
from lcx.errors import LcxError, MissingError
from lcx.formatting import shown
from lcx.process import FOLDER, die_with, launched
from lcx.storage import read_json, write_json
from lcx.training.plan import LaunchPlan

PARENT = "LCX_LAUNCH_PARENT"
"""Variable: the process id of the command that waits for the launcher."""
WORDS = "words.json"
"""The command line of the workers, in the launch's folder."""
NOTE = "host.json"
"""How workers ended that left no outcome, in the launch's folder."""
STEP_TIMEOUT = timedelta(minutes=30)
"""How long one exchange between processes may take in training; transformers' own value."""
WAIT_TIMEOUT = timedelta(days=1)
"""How long processes wait for the first one, which may be building a token store."""
GRACE = 20.0
"""Seconds that processes have to end after a second Ctrl-C."""
POLL = 0.1


def run(plan: LaunchPlan, words: Sequence[str]) -> dict[str, Any]:
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


def _result(plan: LaunchPlan, folder: Path, asked: int) -> dict[str, Any]:
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
            print(shown(_tail(folder, cause["rank"], 200)), file=sys.stderr)
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


def host(argv: Sequence[str]) -> int:
    """Start the workers, wait for them, and note how they ended."""
    warnings.simplefilter("ignore")
    folder = Path(os.environ[FOLDER])
    die_with(int(os.environ[PARENT]), folder)

    from accelerate.commands.launch import launch_command, launch_command_parser
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    logging.getLogger("torch.distributed.run").setLevel(logging.CRITICAL)
    try:
        launch_command(launch_command_parser().parse_args(list(argv)))
    except ChildFailedError as failed:
        ends = {str(rank): failure.exitcode for rank, failure in failed.failures.items()}
        write_json(folder / NOTE, {"ends": ends})
        return 1
    except Exception as bad:
        write_json(folder / NOTE, {"ends": {}, "error": f"{type(bad).__name__}: {bad}"})
        return 1
    return 0


def has_launcher() -> bool:
    """True if `lcx` itself started this process and prints its result."""
    return FOLDER in os.environ


def leave(folder: Path, rank: int, outcome: Mapping[str, Any]) -> None:
    """Write a process's outcome; whole or not at all."""
    write_json(
        folder / f"outcome-{rank}.json", {**outcome, "rank": rank, "time": time.monotonic()}
    )  # one clock for all here, which nobody sets


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
    join(ctx)
    try:
        yield
    except Stopped:
        part(ctx)
        raise
    part(ctx)  # not after an error: the others may never come


def work(attempt: Callable[[Sequence[str]], Any]) -> int:
    """Run one lcx command as a worker; its exit code tells the launcher whether the others may go on.

    `attempt` runs a command line and says how it ended (`lcx.cli.boundary.attempt`).
    """
    rank = launched()
    if rank is None:
        raise SystemExit("this module is started by `lcx train --gpus N`")
    folder = Path(os.environ[FOLDER])
    try:
        _settle(folder, rank.rank)
        ended = attempt(read_json(folder / WORDS))
    except KeyboardInterrupt:
        leave(folder, rank.rank, {"state": "stopped"})
        return 130
    if isinstance(ended.cause, KeyboardInterrupt):
        leave(folder, rank.rank, {"state": "stopped"})
        return 0 if isinstance(ended.cause, Stopped) else ended.code  # 0: the others may be saving still
    if ended.error is None:
        leave(folder, rank.rank, {"state": "done", "report": _report})
        return ended.code
    if ended.cause is not None:
        with _log(folder, rank.rank) as log:
            traceback.print_exception(ended.cause, file=log)
    expected = ended.error is ended.cause
    leave(folder, rank.rank, {"state": "failed", "expected": expected, "error": ended.error.as_dict()})
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


def join(ctx: Context) -> None:
    """Meet the other processes; from then on `ctx.wait` waits for all of them.

    The group has to be there before a model is loaded: only then does transformers let one process read the
    weights and the others wait for their parts.
    """
    import torch.distributed as dist
    from accelerate import PartialState

    from lcx.modeling.load import pick_device
    from lcx.training.sharding import allow_fsdp_on_cpu, strategy

    cpu = pick_device(ctx.device).type == "cpu"
    if cpu and strategy() == "fsdp":
        allow_fsdp_on_cpu()
    # accelerate meets as its config says; what follows finds the group there
    PartialState(cpu=cpu, timeout=STEP_TIMEOUT)
    waiting = dist.new_group(backend="gloo", timeout=WAIT_TIMEOUT)

    def wait() -> None:
        dist.barrier(waiting)

    ctx.wait = wait


def part(ctx: Context) -> None:
    """Wait for the others once more, and leave the group: a process that just ended could abort in its exit."""
    import torch.distributed as dist

    ctx.wait()
    ctx.wait = Context.wait
    dist.destroy_process_group()


if __name__ == "__main__":
    raise SystemExit(host(sys.argv[1:]))
