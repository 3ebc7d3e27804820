"""The benchmark runs at toy size, finds its variants equal, and writes what it measured."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_toy_size(tmp_path: Path) -> None:
    sizes = "--context 96 --questions 3 --question 5 --answer 4 --layers 1 --width 32 --vocab 64 --repeats 1"
    flags = [*sizes.split(), "--threads", "1", "--json", str(tmp_path / "out.json")]
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks/shared_prefix_sft.py"), *flags],
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert "shared prefix" in done.stdout
    found = json.loads((tmp_path / "out.json").read_text())
    assert max(found["relative_difference"].values()) < 1e-5
    assert set(found["median_seconds"]) == set(found["peak_bytes"]) == {"shared", "batch", "micro"}
    assert found["machine"]["torch"]
    assert not found["efficiency"]


@pytest.mark.slow
def test_adapters_on_several_contexts_and_trl(tmp_path: Path) -> None:
    sizes = "--context 96 --questions 3 --question 5 --answer 4 --layers 1 --width 32 --vocab 64 --repeats 1"
    more = "--contexts 2 --tuning lora --variants shared,micro,trl --no-memory --threads 1"
    flags = [*sizes.split(), *more.split(), "--json", str(tmp_path / "out.json")]
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks/shared_prefix_sft.py"), *flags],
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "out.json").read_text())
    assert max(found["relative_difference"].values()) < 1e-5
    assert set(found["median_seconds"]) == {"shared", "micro", "trl"}
    assert found["efficiency"]["step"] > 0
    assert 0 < found["efficiency"]["share"] < 1
