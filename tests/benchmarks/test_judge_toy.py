"""The benchmark of the judge's calls runs at toy size, and its committed result meets the targets."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
RESULT = ROOT / "benchmarks/results/judge_pipeline-cpu2.json"


@pytest.mark.slow
def test_toy_size(tmp_path: Path) -> None:
    toy = "--latency 0.2 --in-flight 16 --calls 48 --workers 4 --cases 2 --tokens 6000 --cache-tokens 20000"
    out = tmp_path / "out.json"
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks/judge_pipeline.py"), *toy.split(), "--json", str(out)],
        env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'plugins'}"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(out.read_text())
    ways = found["throughput"]["ways"]
    assert set(ways) == {"lcx", "wire", "sdk", "pool"}
    assert ways["pool"]["seconds"] > 48 / 4 * 0.2
    assert ways["lcx"]["seconds"] < ways["pool"]["seconds"]
    for row in found["calls"]["cases"]:
        assert row["calls"] == row["bound"]  # every reply could be read: nothing was asked again
        assert 0 < row["calls_early"] <= row["calls"]
    assert found["calls"]["sent"] == found["calls"]["calls"]
    assert 0 < found["calls"]["early_saves"] < 1
    for kind in ("judge", "documents"):
        one = found["prefixes"][kind]
        assert one["ours"]["prompt_tokens"] == one["arrival"]["prompt_tokens"] > one["ours"]["prefilled"] > 0
    assert found["prefixes"]["documents"]["saved"] > 0.4


def test_a_cache_of_prefixes_computes_what_it_lacks() -> None:
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        from judge_sim import BLOCK, PrefixCache
    finally:
        sys.path.pop(0)
    cache = PrefixCache(10)
    assert cache.prefill("a" * BLOCK * 4) == (4, 4)
    assert cache.prefill("a" * BLOCK * 3 + "b" * BLOCK) == (4, 1)
    assert cache.prefill("b" + "a" * BLOCK * 3) == (4, 4)  # the same words elsewhere are no prefix
    assert cache.prefill("a" * BLOCK * 4) == (4, 0)
    assert cache.prefill("c" * BLOCK * 9) == (9, 9)
    assert cache.prefill("a" * BLOCK * 4)[1] >= 3  # gone by now but for what fits


def test_committed_result_meets_its_targets() -> None:
    found = json.loads(RESULT.read_text())
    settings = found["settings"]
    assert (settings["latency"], settings["in_flight"], settings["workers"]) == (2.0, 256, 100)
    assert (settings["tokens"], found["calls"]["answers"]) == (32_768, 10)
    assert [row["what"] for row in found["targets"] if not row["met"]] == []
    ways = found["throughput"]["ways"]
    assert ways["lcx"]["calls_per_second"] >= 0.9 * 256 / 2
    assert ways["pool"]["seconds"] >= 2 * ways["lcx"]["seconds"]
    assert ways["lcx"]["cpu_ms_per_call"] < 1.5
    assert found["prefixes"]["documents"]["saved"] >= 0.4
    assert all(row["calls"] <= row["bound"] for row in found["calls"]["cases"])
