"""The journal of calls: what a key stands for, what a kill leaves, and texts of every kind."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from collections import deque
from pathlib import Path
from typing import Any

import pytest

from lcx.errors import LcxError
from lcx.llm.ledger import CALLS, CallLedger, Row, Total, call_key, dump_messages

MESSAGES = dump_messages([{"role": "user", "content": "hello"}])
KEY = "375b3e0420f141a3bb5fdb08d783bc763bb2e27a1538ed73b46c728781a9e35f"
"""sha256 of `["openai:m",{"seed":1},0]`, a line break and MESSAGES, by hand."""
ODD = [
    "",
    "\x00 nul",
    "lone \ud83d surrogate",
    "😀 中文\u2028",
    "quote \" ' ; -- DROP TABLE calls",
    "x" * 2_000_000,
]


def key(spec: str = "openai:m", messages: bytes = MESSAGES, attempt: int = 0, **parameters: Any) -> str:
    return call_key(spec, messages, {"seed": 1, **parameters}, attempt)


def test_a_key_follows_from_model_messages_parameters_and_attempt() -> None:
    other = dump_messages([{"role": "system", "content": "hello"}])
    keys = [
        key(),
        key(spec="openai:n"),
        key(messages=other),
        key(attempt=1),
        key(seed=2),
        key(n=2),
        key(stop=["a"]),
    ]
    assert len(set(keys)) == len(keys)
    assert call_key("m", MESSAGES, {"a": 1, "b": 2}, 0) == call_key("m", MESSAGES, {"b": 2, "a": 1}, 0)
    assert key() == call_key("openai:m", bytes(MESSAGES), {"seed": 1}, 0)
    # Journals outlive versions of this program: what was paid for must be found again.
    assert key() == KEY
    assert all(len(one) == 64 for one in keys)


@pytest.mark.parametrize("text", ODD)
def test_any_text_comes_back_as_it_was(tmp_path: Path, text: str) -> None:
    one = key(messages=dump_messages([{"role": "user", "content": text}]))
    with_text = Row(0, ((text, "stop"), ("second", "length")), 3, 4, 2, 1.5, 0.25)
    journal = CallLedger(tmp_path)
    journal.paid(one, with_text, spec="openai:m", part="p")
    journal.close()
    journal = CallLedger(tmp_path)
    assert journal.rows(one) == [with_text]
    assert journal.rows(key(seed=77)) == []
    journal.close()


def test_samples_are_rows_and_the_first_reply_stays(tmp_path: Path) -> None:
    journal = CallLedger(tmp_path)
    for sample in (2, 0, 1, 0):
        journal.paid(key(), Row(sample, ((f"text {sample}", "stop"),), 1, 1), spec="openai:m")
    journal.paid(key(), Row(0, (("another", "stop"),), 1, 1), spec="openai:m")
    assert [row.choices[0][0] for row in journal.rows(key())] == ["text 0", "text 1", "text 2"]
    assert len(journal) == 3


def test_totals_count_what_was_of_no_use_too(tmp_path: Path) -> None:
    assert CallLedger(tmp_path).totals() == {}
    journal = CallLedger(tmp_path)
    journal.paid("a", Row(0, (("t", "stop"),), 10, 5), spec="openai:m", part="one")
    journal.paid("b", Row(0, (("t", "stop"),), 20, 6), spec="openai:n", part="one")
    journal.lost("c", "no choices", spec="openai:m", part="two", tokens=(7, 0))
    journal.lost("c", "HTTP 500", spec="openai:x", part="two")
    journal.lost("c", "timeout", spec="openai:n", part="two", tokens=(9, 0), calls=1)
    assert journal.reasons() == {"HTTP 500": 1, "no choices": 1, "timeout": 1}
    journal.close()
    assert CallLedger(tmp_path).totals() == {"openai:m": Total(1, 17, 5), "openai:n": Total(1, 29, 6, 1)}
    assert CallLedger(tmp_path).totals("part") == {"one": Total(2, 30, 11), "two": Total(0, 16, 0, 1)}


def test_a_journal_of_an_earlier_version_is_taken_over(tmp_path: Path) -> None:
    old = sqlite3.connect(tmp_path / CALLS)
    old.execute(
        "CREATE TABLE failures (key TEXT NOT NULL, part TEXT NOT NULL, reason TEXT NOT NULL, time REAL NOT NULL, "
        "prompt_tokens INTEGER NOT NULL, completion_tokens INTEGER NOT NULL, spec TEXT NOT NULL)"
    )
    old.execute("INSERT INTO failures VALUES ('a', 'p', 'HTTP 500', 1.0, 3, 0, 'openai:m')")
    old.commit()
    old.close()
    for _ in range(2):
        journal = CallLedger(tmp_path)
        journal.lost("a", "timeout", spec="openai:m", calls=1)
        journal.close()
    assert CallLedger(tmp_path).totals() == {"openai:m": Total(0, 3, 0, 2)}


def test_what_was_written_outlives_a_kill(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from lcx.llm.ledger import *\n"
        f"j = CallLedger(Path({str(tmp_path)!r}))\n"
        "for i in range(10**9):\n"
        "    j.paid(f'key {i}', Row(0, (('text', 'stop'),)), spec='openai:m'); print(i, flush=True)\n"
    )
    for _ in range(3):
        process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        last = -1
        for line in process.stdout:
            last = int(line)
            if last >= 200:
                os.kill(process.pid, signal.SIGKILL)
                break
        last = max([last, *(int(line) for line in process.stdout)])
        process.wait()
        journal = CallLedger(tmp_path)
        assert last + 1 <= len(journal) <= last + 2
        assert journal.rows(f"key {last}")
        journal.close()
        (tmp_path / CALLS).unlink()


def test_a_file_that_is_no_journal_is_named(tmp_path: Path) -> None:
    (tmp_path / CALLS).write_text("this is not a database, and long enough to be sure of it" * 20)
    with pytest.raises(LcxError, match="damaged") as caught:
        CallLedger(tmp_path).rows("a")
    assert CALLS in caught.value.what


def test_a_full_disk_is_an_error_of_ours(tmp_path: Path) -> None:
    journal = CallLedger(tmp_path)
    with journal._database() as database:
        database.execute("PRAGMA max_page_count = 10")
    row = Row(0, (("x" * 4096, "stop"),))
    journal.paid("first", row, spec="openai:m")
    with pytest.raises(LcxError, match="cannot use the journal"):
        deque((journal.paid(f"{i}", row, spec="openai:m") for i in range(100)), maxlen=0)
    found = len(journal)
    journal.close()
    assert sqlite3.connect(tmp_path / CALLS).execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert len(CallLedger(tmp_path)) == found
