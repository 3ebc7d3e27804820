"""The assembly benchmark runs at toy size, and checks itself that both ways mean the same text."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_toy_run_prints_json(tmp_path: Path) -> None:
    toy = "--contexts 20 --timed 2 --tokens 600 --repeats 1 --vocabulary 400 --documents 12 --json"
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks/assembly.py"), *toy.split(), "--cache", str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["disk"]["contexts"] == 20
    assert result["settings"]["context_tokens"] == 600
    assert result["time"]["speedup"] > 1
    assert {"cpu", "cores", "python", "tokenizers"} <= set(result["machine"])


def test_committed_result_meets_its_targets() -> None:
    result = json.loads((ROOT / "benchmarks/results/assembly-cpu2.json").read_text())
    assert result["settings"]["context_tokens"] == 32_768
    assert result["disk"]["contexts"] == 10_000
    assert result["time"]["speedup"] >= 100
    assert result["disk"]["smaller"] >= 50
