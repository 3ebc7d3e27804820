"""The benchmark of prefix reuse runs at toy size, finds all ways equal, and its committed result holds."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
RESULT = ROOT / "benchmarks/results/prefix_reuse-cpu2.json"
WAYS = {"lcx", "generate", "copies", "lm_eval"}
TOY = (
    "--context 96 --queries 6 --question 5 --new 4 --layers 1 --width 32 --heads 2 --intermediate 32 --vocab 300 "
    "--batch 4 --copy-batch 2 --rounds 2 --lm-eval-queries 1 --threads 1 --counts 1,6 --agree 2"
)


def bench(*flags: str) -> str:
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks/prefix_reuse.py"), *TOY.split(), *flags],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "COLUMNS": "120"},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_toy_size(tmp_path: Path) -> None:
    out, picture = tmp_path / "out.json", tmp_path / "out.png"
    said = bench("--no-memory", "--json", str(out), "--plot", str(picture))
    assert "lm-eval's HF backend" in said
    assert "scaled from the queries that were timed" in said
    found = json.loads(out.read_text())
    assert set(found["seconds"]) == WAYS
    assert found["measured"] == {"lcx": 6, "generate": 6, "lm_eval": 2}
    assert found["scaled"] == ["copies", "lm_eval"]
    assert found["seconds"]["generate"] == pytest.approx(sum(found["generate_each"]))
    # Two before the clock, all of them under it: and of every way the same.
    assert found["agreement"] == {"generate": {"equal": 8}, "copies": {"equal": 6}, "lm_eval": {"equal": 4}}
    assert [row["queries"] for row in found["curve"]] == [1, 6]
    assert all(set(row["seconds"]) == WAYS for row in found["curve"])
    assert picture.stat().st_size > 10_000
    assert len(found["floor_rounds"]) == 2
    assert found["over_floor"] > 0
    assert "over the floor" in said


@pytest.mark.nightly
def test_a_named_shape_in_half_precision_and_memory(tmp_path: Path) -> None:
    """What a GPU would measure, on the CPU: ties are told apart from differences."""
    out = tmp_path / "out.json"
    bench("--shape", "toy", "--baseline-queries", "3", "--json", str(out))
    found = json.loads(out.read_text())
    assert found["model"] == "toy, bf16"
    assert found["measured"]["generate"] == 3
    assert "generate" in found["scaled"]
    assert all(set(counts) <= {"equal", "ties"} for counts in found["agreement"].values())
    assert set(found["peak_bytes"]) == {"lcx", "lcx, one query", "generate, one query", "copies, one batch"}


def test_the_committed_result_meets_its_targets() -> None:
    found: dict[str, Any] = json.loads(RESULT.read_text())
    sizes, seconds = found["sizes"], found["seconds"]
    assert (sizes["context"], sizes["queries"], sizes["question"], sizes["new"]) == (8192, 200, 20, 16)
    assert (sizes["layers"], sizes["width"], sizes["heads"], sizes["kv_heads"], sizes["vocab"]) == (
        *(4, 256, 8, 2, 8192),
    )
    assert found["measured"]["generate"] == 200
    assert found["agreement"]["generate"]["equal"] >= 200
    assert all(set(counts) == {"equal"} for counts in found["agreement"].values())
    assert seconds["generate"] / seconds["lcx"] >= 35
    assert seconds["lm_eval"] / seconds["lcx"] >= 20
    assert found["peak_bytes"]["lcx"] <= 1.5 * found["peak_bytes"]["generate, one query"]
    assert [row["queries"] for row in found["curve"]] == [1, 5, 20, 50, 200]
