"""The benchmark of seeds runs, with a cure too short to cure."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.nightly
def test_one_seed_trains_and_is_reported(tmp_path: Path) -> None:
    out = tmp_path / "seeds.json"
    words = [sys.executable, str(ROOT / "benchmarks" / "tiny_seeds.py"), "--seeds", "1", "--steps", "2"]
    done = subprocess.run([*words, "--json", str(out)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    result = json.loads(out.read_text())
    [row] = result["rows"]
    assert row["before_gap"] >= 0.25
    assert min(row["learnt"]) > 0.8
    assert {"cpu", "python", "torch"} <= set(result["machine"])


def test_the_committed_result_has_ten_seeds_and_none_failed() -> None:
    result = json.loads((ROOT / "benchmarks" / "results" / "tiny_seeds-cpu2.json").read_text())
    rows = result["rows"]
    assert len(rows) == 10
    assert all(row["before_gap"] >= 0.25 and row["after_gap"] <= 0.05 for row in rows)
    assert all(row["after_average"] > row["before_average"] for row in rows)
