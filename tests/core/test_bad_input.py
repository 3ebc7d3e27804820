"""What a user gets for bad input, through the command line: a clear end or rows set aside, and nothing lost."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

SETS = [
    "--set",
    "synth.examples=20",
    "--set",
    "synth.context_tokens=[200, 400]",
    "--set",
    "synth.segment_tokens=30",
]
LINE = "Keeper {} of the lighthouse counted {} herring gulls on the {}th day of the long winter storm.\n"

as_root = pytest.mark.skipif(
    os.geteuid() != 0, reason="needs root, to become another user or to mount a tmpfs"
)


def texts(folder: Path, files: int = 6) -> Path:
    folder.mkdir()
    for number in range(files):
        (folder / f"{number}.txt").write_text(
            "".join(LINE.format(f"{number}-{k}", k * 7, k) for k in range(40))
        )
    return folder


def synth(run: Callable, corpus: Path, target: Path, *more: str):  # type: ignore[no-untyped-def]
    return run("synth", "--recipe", "in2", "--corpus", str(corpus), "--run", str(target), *SETS, *more)


def test_an_empty_corpus_ends_at_once_and_says_what_was_looked_at(cli: Callable, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    ran = synth(cli, tmp_path / "empty", tmp_path / "run", "--json")
    assert ran.code == 2
    assert "empty" in ran.json["error"]
    assert ran.json["hint"]
    assert "Traceback" not in ran.err


def test_a_corpus_of_nothing_but_bad_files_names_each_reason(cli: Callable, tmp_path: Path) -> None:
    folder = tmp_path / "bad"
    folder.mkdir()
    (folder / "a.txt").write_bytes(b"\x00\xff\x00" * 100)
    (folder / "b.md").write_bytes(b"plain " + b"\xe9\xe8")
    (folder / "c.jsonl").write_text('{"text": \n')
    ran = synth(cli, folder, tmp_path / "run", "--json")
    assert ran.code == 2
    for name in ("a.txt", "b.md", "c.jsonl"):
        assert name in ran.json["error"] + ran.json["why"]


def test_bad_rows_are_kept_aside_with_their_line_and_the_rest_is_used(cli: Callable, tmp_path: Path) -> None:
    folder = texts(tmp_path / "mixed")
    (folder / "rows.jsonl").write_text(
        '{"text": "a good row of text"}\n{"text": broken\n{"title": "no text"}\n'
    )
    (folder / "picture.txt").write_bytes(b"\x89PNG\x00\x00" * 50)
    (folder / "latin.txt").write_bytes(b"caf\xe9\n" * 10)
    (folder / "short.txt").write_text("too short for a segment")
    ran = synth(cli, folder, tmp_path / "run", "--json")
    assert ran.code == 0, ran.err
    aside = [
        json.loads(row) for row in (tmp_path / "run" / "synth" / "rejected.jsonl").read_text().splitlines()
    ]
    assert len(aside) == 4
    assert all(row["reason"] for row in aside)
    assert sum(n for key, n in ran.json["counts"].items() if key.startswith("set aside")) == 4
    assert (
        ran.json["counts"]["documents"] == 8
    )  # six texts, the good row, and the short text as a segment of its own


def test_unknown_names_come_with_a_suggestion(cli: Callable, tmp_path: Path) -> None:
    assert "Did you mean 'in2'?" in cli("synth", "--recipe", "im2").err
    assert (
        "Did you mean 'context_tokens'?"
        in cli("synth", "--recipe", "in2", "--set", "synth.contxt_tokens=[1,2]").err
    )
    assert "Did you mean 'train'?" in cli("train", "--recipe", "in2", "--set", "trian.batch=3").err
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("extends: in2\nsteps:\n  - id: synth\n    exampels: 3\n")
    ran = cli("recipes", "validate", str(recipe))
    assert ran.code == 2
    assert "Did you mean 'examples'?" in ran.err + ran.out


def test_a_context_longer_than_the_window_is_refused_before_training(
    cli: Callable, tmp_path: Path, small_model: Path
) -> None:
    corpus = texts(tmp_path / "corpus")
    assert synth(cli, corpus, tmp_path / "run", "--set", "synth.context_tokens=[900, 1200]").code == 0
    assert cli("score", "--recipe", "in2", "--run", str(tmp_path / "run")).code == 0
    train = (
        "train",
        "--recipe",
        "in2",
        "--run",
        str(tmp_path / "run"),
        "--model",
        str(small_model),
        "--json",
    )
    ran = cli(*train)
    assert ran.code in (1, 2)
    assert "256" in ran.json["error"]
    assert "truncate-middle" in ran.json["hint"]
    assert not (tmp_path / "run" / "train" / "model").exists()


@pytest.mark.slow
def test_a_probe_longer_than_the_window_is_refused_before_decoding(
    cli: Callable, tmp_path: Path, small_model: Path
) -> None:
    words = ("eval", "--recipe", "in2", "--run", str(tmp_path / "run"), "--model", str(small_model), "--json")
    ran = cli(*words, "--task", "val:code", "--set", "eval.sizes={code: 60}", "--set", "eval.sets=1")
    assert ran.code == 2
    assert "256" in ran.json["error"]
    assert "options.val:code.size" in ran.json["hint"]


@as_root
def test_a_full_disk_is_said_and_the_step_goes_on_elsewhere(tmp_path: Path, lcx_program: str) -> None:
    corpus, disk = texts(tmp_path / "corpus", files=30), tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=32k", "tmpfs", str(disk)], capture_output=True
    ).returncode:
        pytest.skip("no tmpfs can be mounted here")
    try:
        words = [
            lcx_program,
            "synth",
            "--recipe",
            "in2",
            "--corpus",
            str(corpus),
            "--run",
            str(disk / "run"),
            *SETS,
        ]
        ran = subprocess.run(words, capture_output=True, text=True)
        assert ran.returncode == 1
        assert "full" in ran.stderr
        assert "Traceback" not in ran.stderr
        leftovers = [p.name for p in (disk / "run").rglob("*") if p.is_file() and p.name.endswith(".parquet")]
        assert "bundles-00000-of-00001.parquet" not in leftovers
        subprocess.run(["mount", "-o", "remount,size=16m", str(disk)], check=True)
        again = subprocess.run(words, capture_output=True, text=True)
        assert again.returncode == 0, again.stderr
        assert (disk / "run" / "synth" / "data" / "bundles-00000-of-00001.parquet").is_file()
    finally:
        subprocess.run(["umount", str(disk)], check=False)


@as_root
def test_a_read_only_run_folder_is_said(tmp_path: Path) -> None:
    corpus, run = texts(tmp_path / "corpus"), tmp_path / "run"
    run.mkdir(mode=0o555)
    for place in (tmp_path, *tmp_path.parents):  # the other user must get as far as the folder
        if place != Path("/") and str(place).startswith("/tmp"):
            place.chmod(place.stat().st_mode | 0o055)
    # Everything is imported before the change of user, who may not read this environment.
    code = (
        "import os, sys\n"
        "from lcx import plugins; plugins.loaded()\n"
        "import pyarrow.parquet, lcx.cli.stages, lcx_in2.synth, lcx.data.table\n"
        "import lcx.training.settings, lcx.recipe, lcx.steps, lcx.cli.show, lcx.cli.boundary, typer, rich.console\n"
        "os.setgid(65534); os.setuid(65534)\n"
        "from lcx.cli.boundary import run\n"
        "sys.exit(run(sys.argv[1:]))\n"
    )
    words = ["synth", "--recipe", "in2", "--corpus", str(corpus), "--run", str(run), *SETS]
    ran = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True)
    assert ran.returncode == 1, ran.stderr
    assert str(run) in ran.stderr
    assert "Traceback" not in ran.stderr
    assert list(run.iterdir()) == []


@pytest.fixture(scope="module")
def small_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama of two layers with a window of 256 tokens, and a byte-level tokenizer."""
    from tests.llm.models import tiny_llama

    return tiny_llama(tmp_path_factory.mktemp("small"))


def test_the_run_folder_can_be_moved(cli: Callable, tmp_path: Path) -> None:
    corpus = texts(tmp_path / "corpus")
    assert synth(cli, corpus, tmp_path / "run").code == 0
    shutil.move(corpus, tmp_path / "elsewhere")  # the same corpus by another path
    again = synth(cli, tmp_path / "elsewhere", tmp_path / "run")
    assert (again.code, "already done" in again.out + again.err) == (0, True)
    shutil.move(tmp_path / "run", tmp_path / "moved")
    manifest = json.loads((tmp_path / "moved" / "manifest.json").read_text())
    files = manifest["steps"]["synth"]["files"]
    assert files
    assert all((tmp_path / "moved" / "synth" / path).exists() for path in files.values())
