"""Errors as the user meets them: words, hints, exit codes, JSON; never a traceback."""

from __future__ import annotations

import errno
import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from lcx.cli.boundary import _explained, render
from lcx.errors import LcxError
from lcx.plugins import Plugins
from tests.conftest import Ran
from tests.toy import Toy


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("trian", "no such command 'trian'. Did you mean 'train'?"),
        ("recipes sohw", "no such command 'sohw'. Did you mean 'show'?"),
        ("train --recpie in2", "no such option '--recpie'. Did you mean '--recipe'?"),
        ("train", "missing option '--recipe'"),
        ("train --recipe in2 --seed many", "--seed"),
        ("train --recipe in2-tyni", "unknown recipe 'in2-tyni'. Did you mean 'in2-tiny'?"),
        ("train --recipe ./none.yaml", "no recipe file './none.yaml'"),
        ("train --recipe in2 --set train.bach=1", "unknown key 'bach'. Did you mean 'batch'?"),
        (
            "synth --recipe in2 --corpus x --set synth.context_tokens=4000,32000",
            "is a list: write [4000, 32000]",
        ),
        ("train --recipe in2 --corpus x", "step 'train' of recipe 'in2' takes no --corpus"),
        ("eval --recipe in2 --llm builtin", "step 'eval' of recipe 'in2' takes no --llm"),
        ("train --recipe in2 --step synth", "step 'synth' of recipe 'in2' belongs to the stage synth"),
        ("run --recipe in2 --from eval --to train", "step 'train' comes before step 'eval'"),
        ("run --recipe in2 --from evil", "recipe 'in2' has no step 'evil'. Did you mean 'eval'?"),
        ("eval", "eval needs a --recipe"),
        (
            "eval --task val:docment --predictions x",
            "there is no task 'val:docment'. Did you mean 'val:document'?",
        ),
        (
            "eval --recipe in2-tiny --run none --task needel",
            "there is no task 'needel'. Did you mean 'needle'?",
        ),
        ("eval --task val:document --predictions none.jsonl", "no predictions file 'none.jsonl'"),
        ("eval --task val:code --predictions x --compat flim", "--compat"),
        ("eval --task csqa --predictions x --limit 9", "--limit does not go with --predictions"),
        ("eval --task csqa --predictions x --no-prefix-reuse", "--no-prefix-reuse does not go with"),
        ("eval --task lm-eval:mmlu --predictions x", "lm-eval:mmlu is scored by lm-eval while it runs"),
        ("plugins check in3", "no plugin 'in3'. Did you mean 'in2'?"),
        ("completion show tcsh", "SHELL"),
    ],
)
def test_usage_errors_exit_with_2(line: str, message: str, cli: Callable[..., Ran]) -> None:
    ran = cli(*line.split())
    assert ran.code == 2, ran.err
    assert ran.out == ""
    assert ran.err.startswith("error: ")
    assert message in ran.err
    assert "Traceback" not in ran.err
    as_json = cli(*line.split(), "--json")
    assert as_json.code == 2
    assert as_json.json["exit_code"] == 2
    assert as_json.json["error"]


def test_a_bare_machine_is_told_the_next_command(cli: Callable[..., Ran], tmp_path: Path) -> None:
    ran = cli("train", "--recipe", "in2-tiny", "--run", str(tmp_path / "run"))
    assert ran.code == 4
    assert f"hint: lcx synth --recipe in2-tiny --run {tmp_path / 'run'}" in ran.err
    assert not (tmp_path / "run").exists()


def test_the_hint_for_a_model_repeats_the_tasks(cli: Callable[..., Ran], tmp_path: Path) -> None:
    ran = cli("eval", "--task", "needle,stale", "--run", str(tmp_path / "run"))
    assert ran.code == 4
    assert "--model PATH_OR_HUB_ID --task needle,stale" in ran.err


def test_data_of_a_misspelt_family_is_refused(cli: Callable[..., Ran], tmp_path: Path) -> None:
    ran = cli("eval", "--model", "x", "--task", "csqa", "--set", "data.cqsa=x", "--run", str(tmp_path))
    assert ran.code == 2
    assert "data: no task is of the family 'cqsa'. Did you mean 'csqa'?" in ran.err


def toy_run(recipe: Path) -> list[str]:
    return ["synth", "--recipe", str(recipe), "--run", str(recipe.parent / "run")]


@pytest.mark.parametrize(
    ("failure", "code", "words"),
    [
        (
            KeyError("x"),
            1,
            ["unexpected KeyError: 'x'", "LCX_DEBUG=1", "plugin 'toy' (lcx_synth, ", "toy.py"],
        ),
        (
            OSError(errno.ENOSPC, "No space left on device", "/some/file"),
            1,
            ["no space left: /some/file", "resumes"],
        ),
        (PermissionError(errno.EACCES, "Permission denied", "/some/file"), 1, ["no permission: /some/file"]),
        (OSError(errno.EROFS, "Read-only file system"), 1, ["no permission", "LCX_RUNS"]),
        (
            ModuleNotFoundError("No module named 'umap'", name="umap.plot"),
            4,
            ["library 'umap'", "pip install umap"],
        ),
        (MemoryError(), 4, ["memory"]),
        (LcxError("what", why="why", hint="hint"), 1, ["error: what\nwhy: why\nhint: hint\n"]),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else None,
)
def test_failures_inside_a_stage(
    failure: BaseException,
    code: int,
    words: list[str],
    cli: Callable[..., Ran],
    toy: Toy,
    toy_plugins: Plugins,
    toy_recipe: Path,
) -> None:
    toy.fail = failure
    ran = cli(*toy_run(toy_recipe), "--json")
    assert ran.code == code
    assert ran.json["exit_code"] == code
    for word in words:
        assert word in ran.err
    assert "Traceback" not in ran.err


def test_verbose_shows_the_traceback(
    cli: Callable[..., Ran], toy: Toy, toy_plugins: Plugins, toy_recipe: Path
) -> None:
    toy.fail = KeyError("x")
    assert "Traceback" in cli(*toy_run(toy_recipe), "-v").err
    assert "Traceback" in cli("-v", *toy_run(toy_recipe)).err
    assert "Traceback" not in cli(*toy_run(toy_recipe)).err


def test_interrupt_prints_the_command_that_resumes(
    cli: Callable[..., Ran], toy: Toy, toy_plugins: Plugins, toy_recipe: Path
) -> None:
    toy.fail = KeyboardInterrupt()
    ran = cli(*toy_run(toy_recipe), "--set", "synth.title=two words", "--force")
    assert ran.code == 130
    again = ran.err.split("resume with: ")[1].strip()
    assert again == f"lcx {' '.join(toy_run(toy_recipe))} --set 'synth.title=two words'"
    toy.fail = None
    resumed = cli(*toy_run(toy_recipe), "--set", "synth.title=two words")
    assert resumed.code == 0
    assert "resuming" in resumed.err


def test_sigterm_is_as_graceful_as_ctrl_c(
    cli: Callable[..., Ran], toy_plugins: Plugins, toy_recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Toy, "_stage", lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    for ctrl_c in (signal.default_int_handler, signal.SIG_IGN):  # ignored: started in the background
        before = signal.signal(signal.SIGINT, ctrl_c)
        try:
            ran = cli(*toy_run(toy_recipe), "--force")
        finally:
            signal.signal(signal.SIGINT, before)
        assert ran.code == 130
        assert "resume with: lcx synth" in ran.err
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_a_signal_interrupts_quietly(tmp_path: Path) -> None:
    (tmp_path / "slow.yaml").write_text("method: toy\nsteps:\n  - stage: synth\n")
    code = (
        "import signal, sys, time\n"
        # A shell that starts the tests in the background has SIGINT ignored, and children inherit that.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from lcx import plugins\nfrom lcx.cli.boundary import run\nfrom tests.toy import Toy\n"
        "class Slow(Toy):\n"
        "    def _stage(self, step, run):\n        print('working', flush=True)\n        time.sleep(60)\n"
        "found = plugins.load(extra={'toy': Slow()})\nplugins.loaded = lambda: found\n"
        "sys.exit(run(['synth', '--recipe', './slow.yaml']))\n"
    )
    root = str(Path(__file__).resolve().parents[2])
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": root, "LCX_PLUGINS": ""},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    assert process.stderr.readline() == "working\n"  # what a stage prints is kept off stdout
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert out == ""
    assert process.returncode == 130
    assert "resume with: lcx synth --recipe ./slow.yaml" in err
    assert "Traceback" not in err
    manifest = json.loads((tmp_path / "runs" / "slow" / "manifest.json").read_text())
    assert manifest["steps"]["synth"]["state"] == "interrupted"


def test_a_reader_that_leaves_is_no_error(lcx_program: str) -> None:
    command = f"{lcx_program} recipes show in2 --origin | true"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert done.stderr == ""


def test_colours_only_where_wanted() -> None:
    error = LcxError("what", hint="do")
    assert render(error) == "error: what\nhint: do"
    assert "\x1b[" in render(error, coloured=True)


def test_no_colour_off_a_terminal(shell_lcx: Callable[..., Ran]) -> None:
    ran = shell_lcx("train", "--recipe", "nothing", FORCE_COLOR="1")
    assert "\x1b" not in ran.err + ran.out


def test_what_the_system_or_a_cut_file_causes_is_no_bug(tmp_path: Path) -> None:
    import pyarrow.parquet as pq
    from safetensors import safe_open

    def weights() -> None:
        (tmp_path / "w.safetensors").write_bytes(b"\xff" * 40)
        safe_open(tmp_path / "w.safetensors", "numpy").__enter__()

    def table() -> None:
        (tmp_path / "t.parquet").write_bytes(b"PAR1 cut")
        pq.ParquetFile(tmp_path / "t.parquet")

    def calls() -> None:
        (tmp_path / "calls.sqlite").write_bytes(b"no database at all" * 99)
        sqlite3.connect(tmp_path / "calls.sqlite").execute("SELECT * FROM calls")

    def fail(bad: Exception) -> Callable[[], None]:
        def raises() -> None:
            raise bad

        return raises

    full = RuntimeError(
        "[enforce fail at inline_container.cc] PytorchStreamWriter failed writing file data/3"
    )
    for work, said in (
        (weights, "a file of weights cannot be read"),
        (table, "a Parquet file cannot be read"),
        (calls, "a file of calls (calls.sqlite) cannot be read"),
        (lambda: json.loads("{"), "a JSON file cannot be read"),
        (lambda: Path("~no such user/x").expanduser(), "a path begins with `~`"),
        (fail(full), "no space left"),
        (fail(OSError(errno.EMFILE, "Too many open files", "a.bin")), "too many files are open: a.bin"),
        (fail(OSError(errno.EIO, "Input/output error", "b.bin")), "what is to be done: b.bin"),
        (fail(ZeroDivisionError("division by zero")), "unexpected ZeroDivisionError"),
    ):
        with pytest.raises(Exception) as caught:
            work()
        error = _explained(caught.value)
        assert said in error.what
        assert ("bug" in error.why) == ("ZeroDivision" in said)
        assert error.hint
