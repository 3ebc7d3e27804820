"""Synth on ten megabytes of mixed files, killed again and again: it resumes, and ends with the same bytes."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import signal
import subprocess
import sysconfig
import time
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

SIZE = 10 << 20


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """About 10 MB: the standard library's code, its long docstrings as prose files, and a JSONL file of rows."""
    import ast
    import json

    folder = tmp_path_factory.mktemp("mixed")
    total = 0
    rows = []
    for path in sorted(Path(sysconfig.get_paths()["stdlib"]).rglob("*.py")):
        if total > SIZE or "site-packages" in path.parts:
            continue
        place = folder / "code" / f"{len(rows):04d}-{path.name}"
        place.parent.mkdir(exist_ok=True)
        shutil.copyfile(path, place)
        total += path.stat().st_size
        try:
            text = ast.get_docstring(ast.parse(path.read_bytes())) or ""
        except (SyntaxError, ValueError):
            text = ""
        rows.append({"text": text or path.name, "source": path.name})
        if len(text) > 500:
            (folder / f"{path.stem}.md").write_text(text, encoding="utf-8")
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    assert total > SIZE
    return folder


SETS = {
    "in2": ["synth.examples=4000", "synth.context_tokens=[2000, 8000]", "synth.shards=4", "synth.batch=16"],
    "logo": ["synth.examples=300", "synth.shards=4", "synth.batch=16"],
}


def command(program: str, recipe: str, corpus: Path, run: Path) -> list[str]:
    words = [program, "synth", "--recipe", recipe, "--corpus", str(corpus), "--run", str(run), "--json"]
    return words + [word for text in SETS[recipe] for word in ("--set", text)]


def data(run: Path) -> dict[str, str]:
    files = sorted((run / "synth" / "data").iterdir())
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.mark.parametrize("recipe", list(SETS))
def test_a_synth_step_killed_many_times_ends_with_the_same_bytes(
    mixed: Path, lcx_program: str, tmp_path: Path, recipe: str
) -> None:
    began = time.monotonic()
    subprocess.run(
        command(lcx_program, recipe, mixed, tmp_path / "whole"),
        check=True,
        capture_output=True,
        env=os.environ,
    )
    whole = time.monotonic() - began
    rng = random.Random(0)
    killed = 0
    for _ in range(8):
        process = subprocess.Popen(
            command(lcx_program, recipe, mixed, tmp_path / "cut"),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=os.environ,
        )
        try:
            process.wait(timeout=rng.uniform(0.1, 0.9) * whole)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            killed += 1
        process.wait()
    subprocess.run(
        command(lcx_program, recipe, mixed, tmp_path / "cut"), check=True, capture_output=True, env=os.environ
    )
    assert killed >= 1
    assert data(tmp_path / "cut") == data(tmp_path / "whole")
    assert sum(name.startswith("bundles") for name in data(tmp_path / "cut")) == 4
