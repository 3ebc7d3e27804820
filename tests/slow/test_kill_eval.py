"""An evaluation that is killed inside a context goes on from its last answers, and ends with the same bytes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.conftest import Fault
from tests.llm.models import tiny_llama

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

SETS = ("sizes.document=60", "sets=1", "window=60000", "max_new_tokens=6", "check=0", "batch=4")
KILLS = 1
NAME = "predictions-val-document.jsonl"


def command(program: str, place: Path, run: Path) -> list[str]:
    words = [
        program,
        "eval",
        "--model",
        str(place / "model"),
        "--task",
        "val:document",
        "--run",
        str(run),
        "--json",
    ]
    return [*words, "--no-prefix-reuse", *(word for text in SETS for word in ("--set", f"eval.{text}"))]


def answers(journal: Path) -> int:
    return journal.read_bytes().count(b"\n") if journal.is_file() else 0


def test_killed_inside_a_context_it_goes_on_from_there(
    lcx_program: str, tmp_path: Path, fault: Fault
) -> None:
    tiny_llama(tmp_path / "model")
    run, whole = tmp_path / "killed", tmp_path / "whole"
    journal = run / "eval" / "model" / "journal.jsonl"
    kept = 0
    for _ in range(KILLS):
        child = subprocess.Popen(
            command(lcx_program, tmp_path, run), stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        while child.poll() is None and answers(journal) < kept + 4:
            time.sleep(0.02)
        assert child.poll() is None, "it was done before it could be killed"
        os.kill(child.pid, signal.SIGKILL)
        child.communicate()
        assert kept < answers(journal) < 60, "one context, and it is not done"
        kept = answers(journal)
    done = subprocess.run(command(lcx_program, tmp_path, run), capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["state"] == "done"
    units = [json.loads(line)["unit"] for line in journal.read_text().splitlines()]
    assert len(units) == len(set(units)), "no question was answered twice"
    subprocess.run(command(lcx_program, tmp_path, whole), capture_output=True, check=True)
    one, two = ((place / "eval" / "model" / NAME).read_bytes() for place in (run, whole))
    fault(
        "kills of eval inside a context: answers", KILLS, len(set(one.splitlines()) ^ set(two.splitlines()))
    )
    assert one == two
