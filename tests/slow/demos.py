"""A demo as a newcomer runs it, on a base that other sessions may have trained."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest


def seeds(shown: int, *others: int) -> list[Any]:
    """One seed for the slow tests, and further ones for every night."""
    return [
        pytest.param(shown, marks=pytest.mark.slow),
        *(pytest.param(seed, marks=pytest.mark.nightly) for seed in others),
    ]


def demo(program: str, folder: Path, seed: int, *words: str) -> Any:
    """What `lcx demo --json` prints, in a process of its own, once it has ended well."""
    command = [program, "demo", "--json", *words, "--seed", str(seed), "--out", str(folder / "demo")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)
