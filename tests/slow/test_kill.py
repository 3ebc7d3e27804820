"""Synth, killed at each named point of its work: it resumes, and ends with the same bytes."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from tests.conftest import Fault

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

FILES = 40
SETS = {
    "in2": ["synth.examples=400", "synth.context_tokens=[500, 1000]", "synth.shards=3", "synth.batch=16"],
    "logo": ["synth.examples=60", "synth.shards=3", "synth.batch=4"],
}
POINTS = [
    ("unrenamed", "table.json", 1),
    ("renamed", "table.json", 1),
    ("unrenamed", "bundles-00001.*parquet", 1),
    ("renamed", "bundles-00001.*parquet", 1),
    ("unrenamed", "manifest.json", 1),
    ("unrenamed", "manifest.json", 2),
    ("renamed", "manifest.json", 2),
]
"""In the order in which one run comes to them, each after the kill before. The manifest is written first and last.

Rules are computed again and leave no journal; tests/work/test_journal.py kills the writer of one."""


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A megabyte: the standard library's code, and a JSONL file of rows."""
    folder = tmp_path_factory.mktemp("mixed")
    paths = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("[a-h]*.py"))[:FILES]
    assert len(paths) == FILES
    for path in paths:
        shutil.copyfile(path, folder / path.name)
    rows = [{"text": path.read_text(encoding="utf-8")[:2000], "source": path.name} for path in paths]
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return folder


def synth(recipe: str, corpus: Path, run: Path, *point: object) -> subprocess.CompletedProcess[str]:
    words = ["synth", "--recipe", recipe, "--corpus", str(corpus), "--run", str(run), "--json"]
    words += [word for text in SETS[recipe] for word in ("--set", text)]
    program = [sys.executable, "-m", "tests.slow.kill_at", *map(str, point or ("list", "no file", 0)), *words]
    root = Path(__file__).resolve().parents[2]
    environment = {**os.environ, "PYTHONPATH": f"{root}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    return subprocess.run(program, capture_output=True, text=True, env=environment, check=False)


def data(run: Path) -> dict[str, str]:
    files = sorted((run / "synth" / "data").iterdir())
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.mark.parametrize("recipe", list(SETS))
def test_a_synth_step_killed_at_every_point_ends_with_the_same_bytes(
    mixed: Path, tmp_path: Path, recipe: str, fault: Fault
) -> None:
    whole = synth(recipe, mixed, tmp_path / "whole")
    assert whole.returncode == 0, whole.stderr
    for point in POINTS:
        killed = synth(recipe, mixed, tmp_path / "cut", *point)
        assert killed.returncode == -signal.SIGKILL, (point, killed.stderr[-2000:])
    done = synth(recipe, mixed, tmp_path / "cut")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["state"] == "done"
    cut, wanted = data(tmp_path / "cut"), data(tmp_path / "whole")
    fault("kills of synth at named points: files", len(POINTS), len(cut.items() ^ wanted.items()))
    assert sum(name.startswith("bundles") for name in data(tmp_path / "cut")) == 3
