"""A job of 120 answers, killed in flight: the files are those of an undisturbed run, and nothing is paid twice."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.plugins.longreward import scripted_judge as judge

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

ROOT = Path(__file__).resolve().parents[3]
DOCUMENTS, KILLS, CONCURRENCY = 12, 3, 16


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """The judge in a process of its own: its URL, and its log with the key of every call that reached it."""
    log = tmp_path / "calls.log"
    words = [
        sys.executable,
        "-m",
        "tests.plugins.longreward.scripted_judge",
        "--log",
        str(log),
        "--latency",
        "0.05",
    ]
    process = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield process.stdout.readline().strip(), log
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def calls(log: Path) -> list[str]:
    return log.read_text().splitlines() if log.exists() else []


def journalled(run: Path) -> set[str]:
    path = run / "score" / "calls.sqlite"
    if not path.exists():
        return set()
    with closing(sqlite3.connect(path)) as db:
        return {key for (key,) in db.execute("SELECT key FROM calls")}


def test_killed_in_flight(server: tuple[str, Path], tmp_path: Path, lcx_program: str) -> None:
    url, log = server
    rows = judge.write_rows(tmp_path / "rows.jsonl", DOCUMENTS)
    recipe = judge.recipe(tmp_path / "judged.yaml", extract_tokens=256)

    def start(run: str) -> subprocess.Popen[bytes]:
        words = [lcx_program, "score", "-r", str(recipe), "--input", str(rows), "--base-url", url, "-q"]
        words += ["--concurrency", str(CONCURRENCY), "--run", str(tmp_path / run)]
        return subprocess.Popen(words, stdout=subprocess.DEVNULL, start_new_session=True)

    assert start("whole").wait() == 0
    whole = calls(log)
    assert len(whole) == len(set(whole)) > 500
    os.truncate(log, 0)

    rng = random.Random(4)
    for _ in range(KILLS):
        before, known = len(calls(log)), journalled(tmp_path / "killed")
        target = before + rng.randint(1, len(whole) // KILLS - 2 * CONCURRENCY)
        process = start("killed")
        while len(calls(log)) < target and process.poll() is None:
            time.sleep(rng.uniform(0.001, 0.02))
        assert process.poll() is None, "the job was over before it could be killed"
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        time.sleep(0.1)  # what was on its way to the server arrives
        asked = calls(log)[before:]
        assert not known.intersection(asked), "a journalled call was made again"
        lost = set(asked) - journalled(tmp_path / "killed")
        assert len(lost) <= CONCURRENCY
    before, known = len(calls(log)), journalled(tmp_path / "killed")
    assert start("killed").wait() == 0
    assert not known.intersection(calls(log)[before:])
    paid = Counter(calls(log))
    assert set(paid) == set(whole)
    assert paid.total() - len(paid) <= KILLS * CONCURRENCY
    assert judge.result_files(tmp_path / "killed" / "score") == judge.result_files(
        tmp_path / "whole" / "score"
    )
