"""Two processes on the CPU: equal results, kills, resuming with another number, errors, and Ctrl-C."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.training.launch_runs import MARK, Start, losses, prepare, saboteur, variables, worst

pytestmark = pytest.mark.timeout(1800)
SLOW, NIGHTLY = pytest.mark.slow, pytest.mark.nightly

TWO = ("--gpus", "2", "--device", "cpu")
FSDP = (*TWO, "--strategy", "fsdp")
ONE = ("--device", "cpu")
FSDP_ALONE = ("--gpus", "1", *ONE, "--strategy", "fsdp")


@pytest.fixture(scope="module")
def begun(lcx_program: str, tmp_path_factory: pytest.TempPathFactory) -> Start:
    return prepare(lcx_program, tmp_path_factory.mktemp("begun"))


@pytest.fixture(scope="module")
def whole(begun: Start, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run in one process that nothing disturbed."""
    run = tmp_path_factory.mktemp("whole") / "run"
    done = begun.train(run, *ONE)
    assert done.returncode == 0, done.stderr
    assert len(losses(run)) == 20
    assert losses(run)[-1] < losses(run)[0]
    return run


FIRST = {
    "importlib",
    "warnings",
    "contextlib",
    "collections",
    "keyword",
    "operator",
    "reprlib",
    "functools",
    "types",
}
"""What `python -m` itself takes from the working folder, before lcx runs (SECURITY.md, line 11)."""


@pytest.mark.parametrize("way", [pytest.param("lcx", marks=SLOW), pytest.param("-m lcx", marks=NIGHTLY)])
def test_nothing_in_a_hostile_working_folder_runs(
    way: str, begun: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A module of every name there is, of Python's library and of those that training loads, each leaving a trace."""
    box, ran = tmp_path / "box", tmp_path / "ran"
    box.mkdir()
    others = "yaml torch accelerate transformers numpy typer rich pydantic peft trl sitecustomize usercustomize lcx_in2"
    names = {name for name in sys.stdlib_module_names if not name.startswith("_")} | {*others.split()}
    for name in names - (FIRST if way == "-m lcx" else set()):
        (box / f"{name}.py").write_text(f"open({str(ran)!r}, 'a').write('{name} ')\nraise SystemExit(3)\n")
    (box / "torch").mkdir()
    (box / "torch" / "__init__.py").write_text((box / "torch.py").read_text())
    before = sorted(box.rglob("*"))
    monkeypatch.chdir(box)
    words = begun.words(tmp_path / "run", *TWO, epochs="1", save_steps="0")
    program = [sys.executable, "-m", "lcx"] if way == "-m lcx" else [words[0]]
    done = subprocess.run(
        [*program, *words[1:]], capture_output=True, text=True, env=variables(tmp_path / "run"), check=False
    )
    assert done.returncode == 0, done.stderr
    assert not ran.exists(), ran.read_text()
    assert sorted(box.rglob("*")) == before
    assert len(losses(tmp_path / "run")) == 5


def equal(run: Path, whole: Path) -> None:
    assert losses(run) == pytest.approx(losses(whole), rel=1e-5)
    assert worst(run, whole) < 1e-5


def checkpoints(run: Path) -> list[str]:
    return sorted(path.name for path in (run / "train/checkpoints").glob("checkpoint-*"))


def started(
    begun: Start, run: Path, *words: str, environment: dict[str, str] | None = None
) -> subprocess.Popen[str]:
    return subprocess.Popen(
        begun.words(run, *words),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=variables(run) | (environment or {}),
    )


def until(condition: Callable[[], object], process: subprocess.Popen[str]) -> None:
    while not condition():
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.02)


def cut(begun: Start, run: Path, number: int, *words: str) -> subprocess.CompletedProcess[str]:
    """Send a signal once the first checkpoint is there, while all processes wait in the sixth step."""
    go = run.with_name("go")
    environment = saboteur(run.with_name("plugin"), str(go))
    process = started(begun, run, *words, environment=environment)
    until((run / "train/checkpoints/checkpoint-4/files.json").is_file, process)
    process.send_signal(number)
    seen = ""
    if number != signal.SIGKILL:  # nobody ends who has not heard it: the step goes on only then
        assert process.stderr is not None
        while "finishing this step" not in seen:
            line = process.stderr.readline()
            assert line, seen
            seen += line
        go.touch()
    out, err = process.communicate(timeout=120)
    assert not (run / "train/model").exists(), "it was faster than the signal"
    return subprocess.CompletedProcess([], process.returncode, out, seen + err)


def all_gone(run: Path) -> None:
    """Wait for the end of every process that was started on a run; the test's time limit is the limit."""

    def there(environ: Path) -> bool:
        try:
            return f"{MARK}={run}\0".encode() in environ.read_bytes()
        except OSError:  # another user's, or gone
            return False

    while any(there(environ) for environ in Path("/proc").glob("[0-9]*/environ")):
        time.sleep(0.05)


@pytest.mark.parametrize(
    "words",
    [
        pytest.param(FSDP, marks=SLOW),
        pytest.param(TWO, marks=NIGHTLY),  # tests/training/test_launch.py has it too
        pytest.param(FSDP_ALONE, marks=NIGHTLY),
    ],
)
def test_equal_to_one_process(begun: Start, whole: Path, tmp_path: Path, words: tuple[str, ...]) -> None:
    done = begun.train(tmp_path / "run", *words, "--json", keep_checkpoints="true")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["counts"]["steps"] == 20
    equal(tmp_path / "run", whole)
    sharded = (tmp_path / "run/train/checkpoints/checkpoint-20/pytorch_model_fsdp.bin").is_file()
    assert sharded == ("fsdp" in words), "accelerate ignores FSDP on the CPU unless it is told not to"


@pytest.mark.parametrize(
    ("strategy", "tuning"),
    [
        pytest.param(FSDP, "lora", marks=NIGHTLY),
        pytest.param(FSDP, "qlora", marks=NIGHTLY),
        pytest.param(TWO, "lora", marks=NIGHTLY),
        pytest.param(TWO, "qlora", marks=NIGHTLY),
    ],
)
def test_adapters(begun: Start, tmp_path: Path, strategy: tuple[str, ...], tuning: str) -> None:
    settings = {"tuning": tuning, "lora_r": "4", "epochs": "2", "gradient_checkpointing": "true"}
    for run, words in (("one", ONE), ("two", strategy)):
        done = begun.train(tmp_path / run, *words, **settings)
        assert done.returncode == 0, done.stderr
    # 4-bit weights pass through other kernels in other shapes
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=1e-5)
    assert worst(tmp_path / "two", tmp_path / "one") < (1e-5 if tuning == "lora" else 1e-3)


@pytest.mark.nightly
def test_trl(begun: Start, tmp_path: Path) -> None:
    settings = {"engine": "trl", "loss_weighting": "token", "epochs": "1"}
    for run, words in (("one", ONE), ("two", TWO)):
        done = begun.train(tmp_path / run, *words, **settings)
        assert done.returncode == 0, done.stderr
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=1e-5)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        pytest.param(TWO, ONE, marks=NIGHTLY),
        pytest.param(ONE, TWO, marks=NIGHTLY),
        pytest.param(FSDP, FSDP_ALONE, marks=NIGHTLY),
    ],
)
def test_killed_and_resumed_by_another_number(
    begun: Start, whole: Path, tmp_path: Path, before: tuple[str, ...], after: tuple[str, ...]
) -> None:
    run = tmp_path / "run"
    killed = cut(begun, run, signal.SIGKILL, *before)
    assert killed.returncode == -signal.SIGKILL
    all_gone(run)
    done = begun.train(run, *after)
    assert done.returncode == 0, done.stderr
    assert "resumed at step" in done.stderr
    equal(run, whole)


@pytest.mark.parametrize(
    ("words", "number"),
    [
        pytest.param(TWO, signal.SIGINT, marks=SLOW),
        pytest.param(TWO, signal.SIGTERM, marks=NIGHTLY),
        pytest.param(FSDP, signal.SIGINT, marks=NIGHTLY),
        pytest.param(FSDP, signal.SIGTERM, marks=NIGHTLY),
    ],
)
def test_stopped_and_resumed(
    begun: Start, whole: Path, tmp_path: Path, words: tuple[str, ...], number: int
) -> None:
    run = tmp_path / "run"
    stopped = cut(begun, run, number, *words)
    assert stopped.returncode == 130
    assert "finishing this step, then saving a checkpoint" in stopped.stderr
    last = stopped.stderr.strip().splitlines()
    assert last[-2] == "error: interrupted"
    assert last[-1].startswith("hint: resume with: lcx train --recipe in2-tiny")
    assert last[-1].endswith(" ".join(words))
    assert "Traceback" not in stopped.stderr
    assert json.loads((run / "manifest.json").read_text())["steps"]["train"]["state"] == "interrupted"
    if words == TWO and number == signal.SIGTERM:  # once is enough, and at night
        other = begun.train(run, *FSDP)
        assert other.returncode == 2
        assert "was saved by one process or ddp, and this is fsdp" in other.stderr
        assert "Traceback" not in other.stderr
    done = begun.train(run, *words)
    assert done.returncode == 0, done.stderr
    assert "resumed at step" in done.stderr
    equal(run, whole)


@pytest.mark.nightly
def test_stopped_before_training(begun: Start, tmp_path: Path) -> None:
    process = started(begun, tmp_path / "run", *TWO)
    assert process.stderr is not None
    assert "2 processes on the CPU" in process.stderr.readline()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.strip().splitlines()[0] == "error: interrupted"
    assert "Traceback" not in err
    all_gone(tmp_path / "run")


@pytest.mark.parametrize(
    ("sabotage", "code", "told"),
    [
        pytest.param(
            *("typed", 4),
            ["error: the second process lacks a thing", "why: it was told so", "hint: give it one"],
            marks=SLOW,
        ),
        pytest.param(
            *("bug", 1), ["error: unexpected ZeroDivisionError: in the second process"], marks=NIGHTLY
        ),
        pytest.param(*("kill", 4), ["error: process 1 of 2 was killed"], marks=NIGHTLY),
    ],
)
def test_an_error_in_one_process_ends_all_with_one_error(
    begun: Start, tmp_path: Path, sabotage: str, code: int, told: list[str]
) -> None:
    environment = saboteur(tmp_path / "plugin", sabotage)
    done = begun.train(tmp_path / "run", *TWO, "--json", environment=environment)
    assert done.returncode == code, done.stderr
    shown = done.stderr[done.stderr.index("error:") :].splitlines()
    assert shown[: len(told)] == told
    assert len(shown) <= 3
    assert "Traceback" not in done.stderr
    assert json.loads(done.stdout)["exit_code"] == code
    assert json.loads((tmp_path / "run/manifest.json").read_text())["steps"]["train"]["state"] != "done"
    all_gone(tmp_path / "run")


@pytest.mark.nightly
def test_a_loss_that_is_not_a_number(begun: Start, tmp_path: Path) -> None:
    done = begun.train(tmp_path / "run", *TWO, optimizer="sgd", learning_rate="1e30", max_grad_norm="0")
    assert done.returncode == 1
    assert done.stderr.count("error:") == 1
    assert "became" in done.stderr


@pytest.mark.nightly
def test_other_launchers(begun: Start, whole: Path, tmp_path: Path) -> None:
    """torchrun and its like: every process is lcx itself, and knows its place."""
    program, *words = begun.words(tmp_path / "run", *ONE, "--json")
    torchrun = str(Path(program).with_name("torchrun"))

    def launch(*more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [torchrun, "--standalone", "--nproc_per_node", "2", "-m", "--", "lcx", *words, *more],
            capture_output=True,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            check=False,
        )

    done = launch()
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads(done.stdout)["state"] == "done"
    equal(tmp_path / "run", whole)
    inside = launch("--gpus", "2")
    assert inside.returncode != 0
    assert "by a launcher already" in inside.stderr
