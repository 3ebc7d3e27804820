"""A wheel in a clean venv: everything that is shipped is there, and a tiny run works from it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import venv
from collections.abc import Callable
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bin folder of a venv that holds nothing but the wheel and what it asks for."""
    place = tmp_path_factory.mktemp("wheel")
    # Built from a copy, so that a stale build/ or egg-info of the checkout cannot lend it a file.
    source = place / "source"
    ignored = shutil.ignore_patterns(".venv", ".git", "build", "*.egg-info", "runs", "__pycache__", "tests")
    shutil.copytree(ROOT, source, ignore=ignored)
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(place), str(source)]
    done = subprocess.run(build, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    [wheel] = place.glob("lcx-*.whl")
    venv.create(place / "venv", with_pip=True)
    python = place / "venv" / "bin" / "python"
    install = [python, "-m", "pip", "install", "-q", "--no-compile", "-c", ROOT / "constraints.txt", wheel]
    done = subprocess.run(list(map(str, install)), capture_output=True, text=True, check=False)
    if done.returncode and os.environ.get("CI"):
        pytest.fail(f"pip cannot install the wheel's dependencies: {done.stderr[-2000:]}")
    if done.returncode:
        pytest.skip(f"pip cannot install the wheel's dependencies here: {done.stderr[-300:]}")
    return python.parent


def lcx(clean: Path, *words: str, cwd: Path) -> str:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    done = subprocess.run(
        [str(clean / "lcx"), *words], capture_output=True, text=True, cwd=cwd, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_the_wheel_lists_its_recipes_and_plugins_and_runs_one(
    clean: Path, tmp_path: Path, tiny_model: Callable[..., Path]
) -> None:
    tiny_model()
    recipes = json.loads(lcx(clean, "recipes", "list", "--json", cwd=tmp_path))
    names = {row["name"] for row in (recipes["recipes"] if isinstance(recipes, dict) else recipes)}
    assert {"in2", "in2-tiny", "in2-qlora"} <= names
    assert "in2" in lcx(clean, "plugins", "list", cwd=tmp_path)
    assert "fsdp-qlora" in lcx(clean, "presets", "list", cwd=tmp_path)
    sets = ("synth.examples=128", "eval.sets=1", "train.max_steps=2")
    words = [word for text in sets for word in ("--set", text)]
    report = json.loads(
        lcx(clean, "run", "--recipe", "in2-tiny", "--run", "run", "--json", *words, cwd=tmp_path)
    )
    assert [step["step"] for step in report["steps"]] == ["synth", "score", "train", "eval"]
    assert {step["state"] for step in report["steps"]} == {"done"}
    assert (tmp_path / "run" / "eval" / "curves.png").is_file()
    assert (tmp_path / "run" / "train" / "model" / "config.json").is_file()


def test_the_wheel_has_every_prompt(clean: Path, tmp_path: Path) -> None:
    row = {"context": "In 1805 the port sent 35 ships.", "query": "How many ships?", "answer": "35 ships."}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row))
    judged = json.loads(
        lcx(clean, "score", "--recipe", "longreward", "--input", "rows.jsonl", "--json", cwd=tmp_path)
    )
    assert judged["counts"]["answers scored"] == 1
    library = next((clean.parent / "lib").glob("python*/site-packages"))
    for package, folder in (("lcx_longreward", "plugins/lcx_longreward"), ("lcx_in2", "plugins/lcx_in2")):
        names = {path.name for path in (ROOT / folder / "prompts").glob("*.txt")}
        assert names
        assert {path.name for path in (library / package / "prompts").glob("*.txt")} == names
