"""The benchmark runs at toy size, finds its variants equal, and writes what it measured."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


SIZES = "--context 96 --questions 3 --question 5 --answer 4 --layers 1 --width 32 --vocab 64 --repeats 1 --threads 1"


def bench(home: Path, more: str = "") -> tuple[dict[str, Any], str]:
    """What the benchmark wrote at toy size, and what it printed."""
    flags = [*SIZES.split(), *more.split(), "--json", str(home / "out.json")]
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks/shared_prefix_sft.py"), *flags],
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "HOME": str(home)},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return json.loads((home / "out.json").read_text()), done.stdout


@pytest.mark.slow
def test_toy_size(tmp_path: Path) -> None:
    found, said = bench(tmp_path)
    assert "shared prefix" in said
    assert max(found["relative_difference"].values()) < 1e-5
    assert set(found["median_seconds"]) == set(found["peak_bytes"]) == {"shared", "batch", "micro"}
    assert found["machine"]["torch"]
    assert not found["efficiency"]


@pytest.mark.slow
def test_adapters_on_several_contexts_and_trl(tmp_path: Path) -> None:
    found, _ = bench(tmp_path, "--contexts 2 --tuning lora --variants shared,micro,trl --no-memory")
    assert max(found["relative_difference"].values()) < 1e-5
    assert set(found["median_seconds"]) == {"shared", "micro", "trl"}
    assert found["efficiency"]["step"] > 0
    assert 0 < found["efficiency"]["share"] < 1
