"""Where lcx keeps things. Light enough for the completion fast path: `pathlib` is imported only when
called.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pathlib import Path


def cache_directory() -> str:
    """`cache_folder` as a string, for code that cannot afford `pathlib`."""
    if os.environ.get("LCX_CACHE"):
        return os.environ["LCX_CACHE"]
    home = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return os.path.join(home, "lcx")


def cache_folder() -> Path:
    """Where lcx keeps what it can rebuild: $LCX_CACHE, or the user's cache directory."""
    from pathlib import Path

    return Path(cache_directory())


def runs_folder() -> Path:
    """Where runs are kept by default: $LCX_RUNS, or `runs` in the working directory."""
    from pathlib import Path

    return Path(os.environ.get("LCX_RUNS") or "runs")


def named_file(name: str | Path) -> Path | None:
    """The file of that name; None where there is none, as for a name that no file can have."""
    from pathlib import Path

    try:
        path = Path(name).expanduser()
        return path if path.is_file() else None
    except (OSError, RuntimeError, ValueError):  # too long, with a NUL, or `~` and the name of no user
        return None


def check_regular(path: str | Path) -> None:
    """Raise OSError for what is no file: reading a pipe waits for ever, and /dev/zero, by a link, never ends."""
    import errno
    import stat

    mode = os.stat(path).st_mode
    if not stat.S_ISREG(mode):
        kind = (
            "a folder, and no file"
            if stat.S_ISDIR(mode)
            else "a pipe, a device or the like, and no regular file"
        )
        raise OSError(errno.EINVAL, kind, str(path))


MOST_NAME = 120
"""Bytes of a name that others are put around."""


def slug(text: str) -> str:
    """A file name for a model, task or data spec: `step:train` -> `train`, a path -> its last part.

    A name too long for a file is cut; its end then tells it from others.
    """
    import re

    text = text.removeprefix("step:").rstrip("/")
    name = re.sub(r"[^\w.+-]+", "-", text.split("/")[-1]).strip("-.") or "model"
    if len(name.encode()) <= MOST_NAME:
        return name
    import hashlib

    return (
        f"{name.encode()[:MOST_NAME].decode(errors='ignore')}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
    )
