"""The prepared script for a GPU: its sharing of the time, what it says of what it left out, and a trial on the CPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import gpu_check

    yield gpu_check
    for name in ("gpu_check", "machine"):
        del sys.modules[name]


class Clock:
    """A clock that a stub of a piece moves on."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def checked(
    script: Any, todo: list[Any], took: dict[str, float], done: dict[str, Any] | None = None, **states: str
) -> tuple[dict[str, Any], dict[str, float]]:
    """What `check` makes of pieces that take so long (at most what they get), and what each was given."""
    clock = Clock()
    given: dict[str, float] = {}
    written: list[int] = []

    def run(piece: Any, seconds: float, before: dict[str, Any]) -> dict[str, Any]:
        given[piece.name] = seconds
        clock.now += min(seconds, took.get(piece.name, 1e9))
        return {"state": states.get(piece.name, "done"), "found": {"before": before}}

    result: dict[str, Any] = {"pieces": done or {}}
    script.check(todo, result, 480, lambda: written.append(1), run=run, clock=clock)
    assert len(written) == len(todo) - sum(
        piece.get("state") in script.KEPT and name not in given for name, piece in (done or {}).items()
    )
    return result["pieces"], given


def test_pieces_share_what_time_is_left(script: Any) -> None:
    todo = [replace(piece, needs=()) for piece in script.pieces("cuda", toy=False)]
    names = [piece.name for piece in todo]
    assert names == ["equal", "tests", "bf16", "4bit", "rows", "questions"]
    assert sum(piece.least for piece in todo) < 480
    found, given = checked(script, todo, {})
    assert all(piece["state"] == "done" for piece in found.values())
    assert sum(given.values()) <= 480.001
    _, quick = checked(script, todo, {"equal": 5, "tests": 20})
    assert quick["bf16"] > given["bf16"]  # what others spare is shared out
    found, given = checked(script, [replace(todo[0], share=1e6), *todo[1:]], {})
    assert found["bf16"]["state"] == "left out"
    assert "0 s are left, it needs 80" in found["bf16"]["why"]
    assert "bf16" not in given


def test_nothing_is_timed_before_results_are_equal(script: Any) -> None:
    todo = [replace(piece, needs=()) for piece in script.pieces("cuda", toy=False)]
    for state in ("failed", "cut"):
        found, given = checked(script, todo, {"equal": 5, "tests": 5}, equal=state)
        assert set(given) == {"equal", "tests"}
        assert "same loss" in found["bf16"]["why"]


def test_what_is_done_is_kept_and_what_lacks_is_named(script: Any) -> None:
    todo = script.pieces("cuda", toy=False)
    todo[3] = replace(todo[3], needs=("no_such_library",))
    done = {"equal": {"state": "done"}, "bf16": {"state": "cut", "found": {"results": [1]}}}
    found, given = checked(script, todo, {}, done)
    assert "equal" not in given
    assert found["bf16"]["found"]["before"] == {"results": [1]}
    assert found["4bit"] == {
        "what": todo[3].what,
        "state": "left out",
        "why": "not installed here: no_such_library",
        "found": {},
    }
    alone = script.pieces("cuda", toy=False, trl=False)
    assert "equal" not in [piece.name for piece in alone]
    assert "lcx" in alone[1].command(60, Path("out"), {})


def test_verdicts_and_outcomes(script: Any, tmp_path: Path) -> None:
    row = {"trainer": "trl", "tokens": 8192}
    full = {"trainer": "trl", "tokens": 65536, "error": "out of memory"}
    late = {"trainer": "lcx", "tokens": 65536, "error": "no time left"}
    dead = {"trainer": "lcx", "error": "exit -9: killed"}
    assert script.verdict(0, {"results": [row, full]}, "") == ("done", "")
    assert script.verdict(0, {"results": [row, late]}, "") == ("cut", "no time left for lcx, 65,536 tokens")
    assert script.verdict(0, {"results": [row, dead]}, "")[0] == "failed"
    assert script.verdict(None, {}, "")[0] == "cut"
    assert script.verdict(0, {"outcomes": {"a": "passed", "b": "failed"}}, "") == (
        "failed",
        "b",
    )  # of an earlier run
    assert script.verdict(1, {}, "AssertionError: other") == ("failed", "exit 1: AssertionError: other")
    said = (
        "tests/a/test_a.py::test_b[x-1 2] PASSED [ 10%]\ntests/a/test_a.py::test_c SKIPPED (needs two GPUs) [50%]\n"
        "tests/a/test_a.py::test_d FAILED [100%]\ntests/a/test_a.py::test_e "
    )
    found = script.outcomes(said, {"outcomes": {"tests/z.py::test_z": "passed"}})
    assert found["counts"] == {"passed": 2, "skipped": 1, "failed": 1}
    assert found["outcomes"]["tests/a/test_a.py::test_c"] == "skipped: needs two GPUs"
    words = script.marked_tests(60, Path("out"), found)
    assert "--deselect=tests/z.py::test_z" in words
    assert {"tests/modeling/test_decode.py", "tests/training/test_launch_gpu.py"} <= set(words)
    assert script.earlier(tmp_path / "none.json", {"torch": "1"}) == {}
    (tmp_path / "old.json").write_text('{"here": {"torch": "0"}, "pieces": {"rows": {"state": "done"}}}')
    assert script.earlier(tmp_path / "old.json", {"torch": "1"}) == {}
    assert script.earlier(tmp_path / "old.json", {"torch": "0"}) == {"rows": {"state": "done"}}


def trial(path: Path, *flags: str) -> dict[str, Any]:
    command = [
        sys.executable,
        str(ROOT / "benchmarks/gpu_check.py"),
        "--device",
        "cpu",
        "--toy",
        "--json",
        str(path),
    ]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, *flags], env=env, capture_output=True, text=True, timeout=550, check=False
    )
    assert done.returncode == 0, done.stderr + done.stdout
    found: dict[str, Any] = json.loads(done.stdout)
    assert found == json.loads(path.read_text())
    return found


@pytest.mark.parametrize(
    ("name", "code", "said", "state"),
    [
        ("tests", "raise SystemExit(5)", {"outcomes": {"a": "passed"}}, "done"),
        ("tests", "raise SystemExit(5)", {}, "failed"),
        ("tests", "print('tests/a.py::test_a FAILED'); raise SystemExit(1)", {}, "failed"),
        ("equal", "pass", {}, "failed"),
        ("rows", "pass", {}, "done"),
        pytest.param("rows", "import time; time.sleep(60)", {}, "cut", marks=pytest.mark.slow),
    ],
)
def test_how_a_piece_ends(script: Any, name: str, code: str, said: dict[str, Any], state: str) -> None:
    piece = script.Piece(name, "", 1, 1, lambda *_: [sys.executable, "-S", "-c", code])
    found = script.run_piece(piece, 1 if state == "cut" else 60, said)
    assert found["state"] == state, found
    if state == "cut":
        assert found["why"] == "ended after its 1 s"


@pytest.mark.slow
def test_a_piece_on_the_cpu(tmp_path: Path) -> None:
    piece = trial(tmp_path / "out.json", "--pieces", "questions")["pieces"]["questions"]
    assert piece["state"] == "done", piece
    assert set(piece["found"]["seconds"]) == {"lcx", "generate", "copies"}
    assert set(piece["found"]["agreement"]["generate"]) <= {"equal", "ties"}


@pytest.mark.slow
@pytest.mark.nightly
@pytest.mark.timeout(1800)
def test_all_pieces_on_the_cpu_and_again(tmp_path: Path) -> None:
    found = trial(
        tmp_path / "out.json", "--minutes", "25"
    )  # on a loaded machine a share of eight is too little
    pieces = found["pieces"]
    assert {name: piece["state"] for name, piece in pieces.items()} == dict.fromkeys(
        ("equal", "tests", "bf16", "4bit", "rows", "questions"), "done"
    )
    assert set(pieces["tests"]["found"]["counts"]) == {"skipped"}
    for precision in ("bf16", "4bit"):
        rows = pieces[precision]["found"]["results"]
        assert {(row["trainer"], row["tokens"]) for row in rows} == {
            (trainer, tokens) for trainer in ("lcx", "trl") for tokens in (64, 128)
        }
        assert pieces[precision]["found"]["agreement"] < 0.02
    assert trial(tmp_path / "out.json")["pieces"] == pieces
