"""A process among others: its number in a launch, and its end with whoever started it."""

from __future__ import annotations

import os
import shutil
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import NamedTuple

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
