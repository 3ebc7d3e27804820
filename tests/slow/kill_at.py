"""`lcx`, killed at a named point of its own work: `python -m tests.slow.kill_at POINT PATTERN COUNT WORD...`.

A point is when the COUNT-th file whose path ends with what PATTERN (a regular expression) matches is

    unrenamed   whole under its temporary name
    renamed     in its place, and the process has not gone on
    torn        a journal whose last line has lost its end, as a power cut leaves it
    synced      a journal whose last line is on disk, and the process has not gone on

With `list` for a point it runs to its end and prints every point that it passes.
"""

from __future__ import annotations

import os
import re
import signal
import sys
from typing import Any


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def main(point: str, pattern: str, count: int, words: list[str]) -> int:
    """Run the command line; it ends by SIGKILL unless it never comes to the point."""
    from lcx.cli.boundary import run

    replace, fsync = os.replace, os.fsync
    met = {"rename": 0, "sync": 0}

    def here(kind: str, path: str) -> bool:
        if not re.search(f"(?:{pattern})$", path):
            return False
        met[kind] += 1
        if point == "list":
            print(kind, met[kind], path, file=sys.stderr)
        return met[kind] == count

    def replacing(source: Any, target: Any, **how: Any) -> None:
        now = here("rename", os.fspath(target))
        if now and point == "unrenamed":
            kill()
        replace(source, target, **how)
        if now and point == "renamed":
            kill()

    def syncing(handle: int) -> None:
        path = os.readlink(f"/proc/self/fd/{handle}")
        now = here("sync", path) if not os.path.isdir(path) else False
        if now and point == "torn":
            os.truncate(path, os.path.getsize(path) - 3)
            kill()
        fsync(handle)
        if now and point == "synced":
            kill()

    os.replace, os.fsync = replacing, syncing
    return run(words)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4:]))
