"""A process among others: its number in a launch, its end with whoever started it, and workers of its own."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, NamedTuple, ParamSpec, TypeVar

from lcx.errors import LcxError

if TYPE_CHECKING:
    import subprocess
    from concurrent.futures import Future, ThreadPoolExecutor

P = ParamSpec("P")
T = TypeVar("T")

FOLDER = "LCX_LAUNCH_FOLDER"
"""Variable of processes that `lcx train --gpus N` started: where each leaves its outcome."""

WATCH_SECONDS = 0.5


class Rank(NamedTuple):
    """A process among others: its number over all machines, how many there are, its number on this one."""

    rank: int
    processes: int
    local: int


def launched(environment: Mapping[str, str] = os.environ) -> Rank | None:
    """This process's rank as accelerate and torchrun tell it, or None where it is alone."""
    try:
        rank = Rank(*(int(environment[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK")))
    except (KeyError, ValueError):
        return None
    alone = rank.processes < 2 and FOLDER not in environment
    return None if alone else rank


def die_with(parent: int, folder: Path | None = None) -> None:
    """End this process as soon as its parent has ended: nobody could stop it any more. Removes `folder`."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(WATCH_SECONDS)
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()


@contextmanager
def ended_gently() -> Iterator[None]:
    """Have SIGTERM, as schedulers send it, do in this block what Ctrl-C does: work is kept, and the way on is said."""
    main = threading.current_thread() is threading.main_thread()
    if (
        not main or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
    ):  # whoever set another one knows better
        yield
        return

    def as_interrupt(number: int, frame: FrameType | None) -> None:
        handler = signal.getsignal(signal.SIGINT)
        if callable(handler):
            handler(signal.SIGINT, frame)
        else:  # started in the background, where Ctrl-C is ignored
            raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, as_interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def cores() -> int:
    """The number of cores that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on Linux
        return os.cpu_count() or 1


class Workers:
    """Processes that call functions of modules: `submit(function, *arguments)` gives a future of the result.

    They start with the first call and never run the user's own script again, as the standard library's pools do. A
    worker whose parent is gone ends. Raises, as the future's result, what the function raised, and LcxError where the
    worker itself was killed.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self._threads: ThreadPoolExecutor | None = None
        self._idle: list[subprocess.Popen[bytes]] = []
        self._all: list[subprocess.Popen[bytes]] = []

    def submit(self, function: Callable[P, T], /, *arguments: P.args, **named: P.kwargs) -> Future[T]:
        """Have a worker call a function of some module, with arguments that can be pickled."""
        from concurrent.futures import ThreadPoolExecutor

        if self._threads is None:
            self._threads = ThreadPoolExecutor(self.count)
        return self._threads.submit(self._call, function, arguments, named)

    def _call(self, function: Callable[..., T], arguments: Any, named: Any) -> T:
        import pickle

        try:
            worker = self._idle.pop()
        except IndexError:
            worker = self._start()
        assert worker.stdin is not None
        assert worker.stdout is not None
        try:
            pickle.dump((function, arguments, named), worker.stdin)
            worker.stdin.flush()
            well, found = pickle.load(worker.stdout)  # nosec B301  # a process that this one started
        except (OSError, EOFError, pickle.UnpicklingError) as bad:
            code = worker.wait()
            raise LcxError(
                f"a worker process ended ({f'signal {-code}' if code < 0 else f'status {code}'})",
                why="Signal 9 is what a machine that is out of memory sends." if code == -9 else "",
                hint="Run the same command again: what was finished stays.",
            ) from bad
        self._idle.append(worker)
        if not well:
            raise found
        return found  # type: ignore[no-any-return]

    def _start(self) -> subprocess.Popen[bytes]:
        import subprocess

        places = os.pathsep.join([place for place in sys.path if place])
        worker = subprocess.Popen(
            [sys.executable, "-P", "-c", "from lcx.process import serve; serve()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            # Each worker is one of many: threads of its own would only be in the way of the others
            env={
                **os.environ,
                "PYTHONPATH": places,
                "TOKENIZERS_PARALLELISM": "false",
                "OMP_NUM_THREADS": "1",
            },
        )
        self._all.append(worker)
        return worker

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if error is not None:  # nobody waits for what is still being done
            for worker in self._all:
                worker.kill()
        if self._threads is not None:
            self._threads.shutdown(cancel_futures=True)
        for worker in self._all:
            for pipe in (worker.stdin, worker.stdout):
                if pipe is not None:
                    pipe.close()
            worker.wait()


def serve() -> None:
    """Do what `Workers` of the parent process ask for, until it closes the pipe."""
    import pickle

    signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # Ctrl-C reaches all of a terminal's processes; the parent decides
    asked = sys.stdin.buffer
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a library prints is no answer
    while True:
        try:
            function, arguments, named = pickle.load(asked)  # nosec B301  # the parent
        except EOFError:
            return
        try:
            answer = True, function(*arguments, **named)
        except Exception as bad:
            answer = False, bad
        pickle.dump(answer, answers)
        answers.flush()
