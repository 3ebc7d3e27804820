"""The benchmark of real weights: its short questions, its verdict, and all three methods once on a tiny model."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import real_weights

    yield real_weights
    for name in ("real_weights", "machine"):
        del sys.modules[name]


def test_short_questions_have_one_right_word_of_five(script: Any) -> None:
    words = ["river", "lantern", "harbour", "kettle", "meadow", "candle", "garden", "winter", "marble"]
    texts = [f"The old {one} stood behind the {other} for a long time." for one in words for other in words]
    rows = script.short_questions([" ".join(texts)], 20)
    assert len(rows) == 20
    assert rows == script.short_questions([" ".join(texts)], 20)
    for row in rows:
        assert len(set(row["candidates"])) == 5
        whole = row["question"].removeprefix("Which word fills the gap? ").replace("____", row["answer"])
        assert whole in texts
        assert sum(word in whole for word in row["candidates"]) == 1


def row(task: str, at: str, difference: float, half: float | None = 2.0, **more: Any) -> dict[str, Any]:
    ends = (None, None) if half is None else (difference - half, difference + half)
    found = {"task": task, "at": at, "a": 50.0, "b": 50.0 + difference, "difference": difference}
    return {**found, "low": ends[0], "high": ends[1], "seed": 0, **more}


def test_the_verdict_counts_what_lies_beyond_its_interval(script: Any) -> None:
    probes = [row(task, "at-1000", 1.0) for task in script.PROBES]
    rows = [*probes, row("val:code", "at-2000", 5.0, gap_before=30.0, gap_after=20.0)]
    rows += [
        row("val:document", "at-2000", -3.0),
        row("needle", "at-1000", 9.0, None),
        row("csqa", "cost", -1.5),
    ]
    found = script.in2_verdict(rows)
    assert found["short_change"] == -1.5
    code = found["probes"]["val:code"]
    assert (code["comparisons"], code["better"], code["worse"]) == (2, 1, 0)
    assert (code["change"], code["gap_before"], code["gap_after"]) == (3.0, 30.0, 20.0)
    assert found["probes"]["val:document"]["worse"] == 1
    assert found["probes"]["needle"]["better"] == 0  # without an interval nothing is said


def committed(name: str) -> Any:
    place = ROOT / f"benchmarks/results/real_{name}-cpu2.json"
    return json.loads(place.read_text(encoding="utf-8"))[name]


def told(start: str) -> list[str]:
    """The cells of the guide's table row that begins so."""
    lines = (ROOT / "docs/first-real-run.md").read_text(encoding="utf-8").splitlines()
    [line] = [line for line in lines if line.startswith(f"| {start} |")]
    return [cell.split()[0] for cell in line.strip("| ").split("|")[1:]]


def test_in2s_committed_result_is_told_as_it_came_out(script: Any) -> None:
    found = committed("in2")
    assert script.in2_verdict(found["rows"]) == found["verdict"]
    for task in (*PROBES, "needle"):
        cells = []
        for at in ("at-1000", "at-2000", "at-4000"):
            rows = [one for one in found["rows"] if (one["task"], one["at"]) == (task, at)]
            assert len(rows) == 3  # seeds
            cells += [f"{fmean(one[side] for one in rows):.1f}" for side in "ab"]
        assert told(task) == cells


def test_longrewards_committed_result_is_told_as_it_came_out() -> None:
    [row] = committed("longreward")["rows"]
    assert told("reward") == [f"{row['a']:.2f}", f"{row['b']:.2f}"]
    for name, (a, b) in row["parts"].items():
        if name != "answers cut":
            assert told(name) == [f"{a:.2f}", f"{b:.2f}"]


def test_logos_committed_result_is_told_as_it_came_out() -> None:
    tasks = committed("logo")["tasks"]
    for who, label in (("plain", "as it is"), ("yarn", "YaRN"), ("logo 0", "YaRN and LOGO")):
        of = tasks[who]
        near, far = of["perplexity"]["at_length"]
        found = [round(6 * share) for share in of["needle"]["by_length"]]
        right = round(of["stale"]["n"] * of["stale"]["average"])
        assert told(label) == [f"{near:.2f}", f"{far:.2f}", *map(str, found), str(right)]


@pytest.mark.slow
@pytest.mark.nightly
@pytest.mark.timeout(900)
def test_all_three_at_toy_size(tmp_path: Path, tiny_model: Callable[..., Path]) -> None:
    tiny_model()
    out = tmp_path / "out.json"
    words = [
        "--work",
        tmp_path / "work",
        "--size",
        "toy",
        "--model",
        "tiny",
        "--precision",
        "fp32",
        "--seeds",
        "0",
    ]
    command = [sys.executable, ROOT / "benchmarks/real_weights.py", *words, "--json", out, "--plot", tmp_path]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    for _ in range(2):  # the second time everything is there
        done = subprocess.run(
            list(map(str, command)), env=env, capture_output=True, text=True, timeout=800, check=False
        )
        assert done.returncode == 0, done.stderr + done.stdout
        found = json.loads(out.read_text())
    assert {r["task"] for r in found["in2"]["rows"]} == {*PROBES, "needle", "csqa", "perplexity"}
    assert [r["at"] for r in found["longreward"]["rows"]] == ["fresh answers"]
    assert {r["at"] for r in found["logo"]["rows"]} == {"plain to yarn", "plain to logo", "yarn to logo"}
    for name in ("in2", "longreward", "logo"):
        assert (tmp_path / f"real_{name}.png").stat().st_size > 10_000


PROBES = ("val:document", "val:code", "val:database")
