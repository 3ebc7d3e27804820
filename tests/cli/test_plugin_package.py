"""A third party's distribution, installed by pip into this environment: listed, completed, run; a broken
one beside it.

The packages are always uninstalled again, also where a test fails.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import Ran

TESTS = Path(__file__).resolve().parents[1]


def pip(*argv: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pip", "--disable-pip-version-check", *argv],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module", autouse=True)
def _installed(lcx_program: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    try:
        for name in ("plugin_package", "broken_plugin"):
            # from a copy: building leaves folders beside the sources
            source = shutil.copytree(TESTS / name, tmp_path_factory.mktemp("source") / name)
            pip("install", "--no-deps", "--no-build-isolation", "--no-index", str(source))
        yield
    finally:
        pip("uninstall", "--yes", "lcx-haystack", "lcx-broken")


@pytest.fixture
def lcx(shell_lcx: Callable[..., Ran], tmp_path: Path) -> Callable[..., Ran]:
    return lambda line, **environment: shell_lcx(*line.split(), cwd=tmp_path, **environment)


def test_listed(lcx: Callable[..., Ran]) -> None:
    rows = {row["name"]: row for row in lcx("recipes list --json").json["recipes"]}
    assert rows["haystack-tiny"]["owner"] == "haystack"
    assert [step["id"] for step in rows["haystack-tiny"]["steps"]] == ["synth", "score", "train", "eval"]
    plugin = next(row for row in lcx("plugins list --json").json["plugins"] if row["name"] == "haystack")
    assert (plugin["package"], plugin["version"], plugin["state"]) == ("lcx-haystack", "0.3.0", "loaded")
    assert plugin["provides"] == {"recipes": ["haystack-tiny"]}
    assert lcx("recipes validate haystack-tiny").code == 0


def test_the_broken_one_is_reported(lcx: Callable[..., Ran]) -> None:
    row = next(row for row in lcx("plugins list --json").json["plugins"] if row["name"] == "broken")
    assert row["state"] == "failed"
    assert row["error"] == "RuntimeError: this plugin is broken on purpose"
    ran = lcx("plugins check")
    assert ran.code == 3
    assert "lcx_broken.py" in ran.out


@pytest.mark.parametrize(
    "line",
    [
        "--help",
        "train --help",
        "recipes list --json",
        "recipes show in2 --json",
        "recipes validate --json",
        "completion show bash",
        "run --recipe in2-tiny --dry-run --json",
        "plugins list --json",
    ],
)
def test_every_other_command_works_beside_the_broken_one(line: str, lcx: Callable[..., Ran]) -> None:
    ran = lcx(line)
    assert ran.code == 0, ran.err
    if "--json" in line:
        assert ran.json


def test_completed_by_bash(lcx_program: str, tmp_path: Path) -> None:
    from tests.cli.test_completion_shells import Terminal

    if not shutil.which("bash"):
        pytest.skip("bash is not installed")
    (tmp_path / "work").mkdir()
    terminal = Terminal("bash", lcx_program, tmp_path)
    screen = terminal.press_tab("lcx run --recipe hay", "lcx run --recipe haystack-tiny ")
    assert "noise" not in screen
    terminal.child.close(force=True)


def test_dry_run(lcx: Callable[..., Ran], tmp_path: Path) -> None:
    ran = lcx("run --recipe haystack-tiny --dry-run --json")
    assert ran.code == 0, ran.err
    steps = {step["step"]: step for step in ran.json["steps"]}
    assert steps["synth"]["settings"]["examples"] == 64
    assert steps["synth"]["origins"]["examples"] == "recipe haystack-tiny.yaml"
    assert steps["synth"]["origins"]["corpus"] == "recipe in2-tiny.yaml"
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_run(lcx: Callable[..., Ran], tmp_path: Path) -> None:
    ran = lcx("run --recipe haystack-tiny --json", OMP_NUM_THREADS="2")
    assert ran.code == 0, ran.err
    train = next(step for step in ran.json["steps"] if step["step"] == "train")
    assert train["metrics"]["plugin_seconds"] > 0
    assert "timed by lcx-haystack" in train["notes"]
    again = lcx("run --recipe haystack-tiny --json")
    assert all(step["reused"] for step in again.json["steps"])
    assert os.path.isdir(tmp_path / "runs" / "haystack-tiny")
