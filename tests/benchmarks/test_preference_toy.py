"""The benchmark of preference steps runs at toy size, finds all ways equal, and its committed result holds."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
RESULT = ROOT / "benchmarks/results/preference_step-cpu2.json"
WAYS = {
    *("logo", "rows", "full", "micro", "floor", "simpo", "trl-simpo"),
    *("dpo", "trl-dpo", "dpo-cached", "trl-dpo-cached"),
}


def bench(*flags: str) -> str:
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks/preference_step.py"), *flags],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_toy_size(tmp_path: Path) -> None:
    sizes = "--prompt 96 --answer 8 --layers 1 --width 32 --vocab 64 --threads 1 --repeats 1 --peaks logo"
    sweep = "--sweep 48 --sweep-repeats 1"
    out, picture = tmp_path / "out.json", tmp_path / "out.png"
    said = bench(*sizes.split(), *sweep.split(), "--json", str(out), "--plot", str(picture))
    assert "LOGO, lcx" in said
    assert "TRL's DPOTrainer" in said
    found = json.loads(out.read_text())
    assert set(found["median_seconds"]) == WAYS
    assert set(found["peak_bytes"]) == {"logo"}
    equal = found["relative_difference"]
    assert set(equal) == WAYS - {"logo", "dpo", "simpo", "floor"}
    assert max(value for row in equal.values() for value in row.values()) < 1e-5
    assert set(found["lengths"]) == {"48", "96"}
    assert found["machine"]["trl"]
    assert picture.stat().st_size > 10_000


@pytest.mark.nightly
def test_lora_at_toy_size(tmp_path: Path) -> None:
    """What a GPU would measure, on the CPU: quantised adapters, a length that does not fit, the longest that does."""
    flags = (
        "--shape toy --lengths 64,128,512 --answer 8 --repeats 1 --limit 1024 --minutes 30 --precision 4bit"
    )
    out = tmp_path / "out.json"
    said = bench(*flags.split(), "--refuse-above", "300", "--json", str(out))
    assert "LOGO (M = 2), lcx" in said
    found = json.loads(out.read_text())
    rows = {(row["trainer"], row["tokens"]): row for row in found["results"]}
    assert set(rows) == {(name, length) for name in ("lcx", "trl", "lcx-logo") for length in (64, 128, 512)}
    for (_, tokens), row in rows.items():
        if tokens == 512:
            assert row["error"] == "out of memory"
        else:
            assert row["tokens_per_second"] == pytest.approx(tokens / row["median_seconds"])
            assert row["peak_bytes"] > 0
    assert found["agreement"] < 0.02
    assert [row["bounded_by"] for row in found["longest"]] == ["memory"] * 3
    assert all(280 <= row["longest"] <= 300 for row in found["longest"])


def test_flops_count_what_each_trainer_computes() -> None:
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        from random_models import model_flops, separate_rows, shape_of, shared_rows
    finally:
        sys.path.pop(0)
    shape = shape_of("layers=3,hidden=16,heads=4,kv_heads=2,intermediate=24,vocab=50")
    matrices = 3 * (16 * 16 + 2 * 16 * 8 + 16 * 16 + 3 * 16 * 24)
    one = separate_rows(10, 4, 1, learns=False)
    by_hand = 2 * 14 * (matrices + 5) + 4 * 3 * 16 * (14 * 15 // 2) + 2 * 4 * 50 * 16
    assert model_flops(shape, [one], adapter=5) == by_hand
    # one branch: the same pairs as a row of its own
    assert shared_rows(10, 4, 1, learns=False).pairs == one.pairs
    three, apart = shared_rows(1000, 4, 3, learns=True), separate_rows(1000, 4, 3, learns=True)
    assert three.scored == apart.scored
    whole = replace(three, spared=0)
    assert 2.8 < model_flops(shape, [apart], 0) / model_flops(shape, [whole], 0) < 3.0
    # in the last of 3 layers, 999 prompt rows attend to nothing: forward once, backward twice
    spared = 3 * 4 * 16 * (999 * 1000 // 2)
    assert model_flops(shape, [whole], 0) - model_flops(shape, [three], 0) == spared


def test_the_committed_result_meets_its_targets() -> None:
    found: dict[str, Any] = json.loads(RESULT.read_text())
    sizes = found["sizes"]
    assert (sizes["prompt"], sizes["answer"], sizes["rejected"]) == (4096, 128, 2)
    assert (sizes["layers"], sizes["width"], sizes["vocab"]) == (4, 256, 8192)
    seconds, peak = found["median_seconds"], found["peak_bytes"]
    for ours, other, faster, memory in (
        ("logo", "rows", 2.5, 0.62),
        ("logo", "full", 3.5, 0.5),
        ("dpo", "trl-dpo", 3.0, 0.5),
        ("simpo", "trl-simpo", 2.5, 1.0),
    ):
        assert seconds[other] / seconds[ours] >= faster, (ours, other)
        assert peak[ours] / peak[other] <= memory, (ours, other)
    assert seconds["logo"] / seconds["floor"] <= 1.06
    equal = found["relative_difference"]
    assert max(equal[name]["loss"] for name in ("rows", "full", "micro", "trl-simpo")) < 1e-5
    assert {"1024", "2048", "4096", "8192", "16384"} <= set(found["lengths"])
