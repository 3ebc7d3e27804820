"""A local model in several processes: the same replies, and an end to all of them in every case."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lcx.errors import LcxError, MissingError, UsageError
from lcx.llm import open_llm
from lcx.llm.local import Pool, devices
from lcx.llm.protocol import Request
from tests.llm.models import tiny_llama
from tests.llm.test_local import PROMPTS, ask

WAIT = 60.0


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def pool(folder: Path) -> Iterator[Pool]:
    opened = open_llm(f"local:{folder}", {"batch": 2, "device": "cpu", "gpus": 2})
    assert isinstance(opened, Pool)
    yield opened
    opened.close()


def gone(pids: list[int]) -> bool:
    """Whether all processes end within WAIT seconds."""
    end = time.monotonic() + WAIT
    while time.monotonic() < end:
        if not any(alive(pid) for pid in pids):
            return True
        time.sleep(0.02)
    return False


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.slow
def test_two_processes_answer_as_one(folder: Path, pool: Pool) -> None:
    requests: list[Request] = [ask(text) for text in PROMPTS]
    requests += [ask(text, n=3, temperature=1.0, top_p=0.9, seed=i) for i, text in enumerate(PROMPTS)]
    requests.append(ask("word " * 400))  # does not fit
    one = open_llm(f"local:{folder}", {"batch": 2, "device": "cpu"})
    assert pool.generate(requests) == one.generate(requests)
    assert pool.describe() == one.describe()
    assert len({worker.process.pid for worker in pool.workers} | {os.getpid()}) == 3


def test_both_processes_work(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    from lcx.llm.local import Worker

    sent: list[int] = []
    send = Worker.send
    monkeypatch.setattr(Worker, "send", lambda self, what: (sent.append(self.number), send(self, what))[1])
    pool.generate([ask(text, seed=i) for i, text in enumerate(PROMPTS * 3)])
    assert set(sent) == {0, 1}
    assert len(sent) == 8  # 15 rows, two at a time


@pytest.mark.slow
def test_a_process_that_dies_is_an_error_and_takes_the_others_along(folder: Path) -> None:
    pool = open_llm(f"local:{folder}", {"device": "cpu", "gpus": 2})
    assert isinstance(pool, Pool)
    pids = [worker.process.pid or 0 for worker in pool.workers]
    os.kill(pids[1], signal.SIGKILL)
    with pytest.raises(MissingError, match="process 1 of the model was killed") as caught:
        pool.generate([ask(text, temperature=t) for text in PROMPTS for t in (0.0, 0.5)])
    assert "goes on" in caught.value.hint
    assert gone(pids)
    with pytest.raises(LcxError, match="have ended"):
        pool.generate([ask("x")])


@pytest.mark.slow
def test_an_error_in_a_process_is_told_in_its_own_words(folder: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(folder, broken)
    (broken / "model.safetensors").unlink()
    with pytest.raises(LcxError) as alone:
        open_llm(f"local:{broken}", {"device": "cpu"})
    with pytest.raises(LcxError) as together:
        open_llm(f"local:{broken}", {"device": "cpu", "gpus": 2})
    assert together.value.as_dict() == alone.value.as_dict()
    assert type(together.value) is type(alone.value)


PARENT = """
import sys
from lcx.llm import open_llm
from lcx.llm.protocol import Request

def main():
    pool = open_llm("local:" + sys.argv[1], {"device": "cpu", "gpus": 2, "batch": 1})
    print(*(worker.process.pid for worker in pool.workers), flush=True)
    while True:
        pool.generate([Request(({"role": "user", "content": "x"},), max_tokens=200, seed=i) for i in range(9)])

if __name__ == "__main__":
    main()
"""


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_processes_end_with_their_parent(folder: Path, tmp_path: Path, number: signal.Signals) -> None:
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    parent = subprocess.Popen(
        [sys.executable, str(script), str(folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert parent.stdout is not None
    pids = [int(word) for word in parent.stdout.readline().split()]
    assert len(pids) == 2
    if number == signal.SIGINT:  # as a terminal does it: to the whole group
        os.killpg(parent.pid, number)
    else:
        parent.kill()
    _, err = parent.communicate(timeout=WAIT)
    assert gone(pids)
    assert err.count("Traceback") == (1 if number == signal.SIGINT else 0)  # the parent's own alone


def test_how_many_devices_there_are() -> None:
    assert devices("cpu", 3) == ["cpu"] * 3
    with pytest.raises(UsageError, match="is one GPU"):
        devices("cuda:1", 2)


def test_a_wrong_number_of_processes() -> None:
    with pytest.raises(UsageError, match="gpus is a number from 1, not 0"):
        open_llm("local:x", {"gpus": 0})
