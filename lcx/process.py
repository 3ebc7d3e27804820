"""Processes that lcx starts must not outlive whoever started them."""

from __future__ import annotations

import os
import shutil
import signal
import threading
import time
from pathlib import Path

WATCH_SECONDS = 0.5


def die_with(parent: int, folder: Path | None = None) -> None:
    """End this process as soon as its parent has ended: nobody could stop it any more. Removes `folder`."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(WATCH_SECONDS)
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()
