"""The journal survives a kill at any byte."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from lcx.errors import LcxError
from lcx.storage import Journal
from tests.conftest import Fault


def test_units_are_found_again_and_the_last_entry_wins(tmp_path: Path) -> None:
    path = tmp_path / "deep/journal.jsonl"
    with Journal(path) as journal:
        journal.append({"unit": "a", "n": 1}, {"unit": "b", "n": 2})
        journal.append({"unit": "a", "n": 3})
        assert journal["a"]["n"] == 3
    again = Journal(path, read_only=True)
    assert again.done == {"a", "b"}
    assert "a" in again
    assert "c" not in again
    assert again.get("c") is None
    assert [entry["n"] for entry in again.entries()] == [2, 3]
    with pytest.raises(ValueError, match="reading only"):
        again.append({"unit": "x"})


def test_any_torn_last_line_is_cut_off(tmp_path: Path, fault: Fault) -> None:
    path = tmp_path / "j"
    with Journal(path) as journal:
        journal.append({"unit": "a", "text": "é\n漢"}, {"unit": "b"})
    whole = path.read_bytes()
    first = whole.index(b"\n") + 1
    for length in range(first, len(whole)):
        path.write_bytes(whole[:length])
        with Journal(path) as journal:
            assert journal.done == {"a"}
            assert journal.torn == length - first
            journal.append({"unit": "b"})
        assert path.read_bytes() == whole
    fault("journals cut inside their last line: entries", len(whole) - first, 0)


def test_a_garbled_last_line_counts_as_torn(tmp_path: Path) -> None:
    path = tmp_path / "j"
    path.write_bytes(b'{"unit": "a"}\n\0\0\0\0\n')
    with Journal(path) as journal:
        assert journal.done == {"a"}


def test_a_damaged_line_in_the_middle_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "j"
    for line in (b'{"unit": ', b"[" * 3000):
        path.write_bytes(b'{"unit": "a"}\n' + line + b'\n{"unit": "c"}\n')
        with pytest.raises(LcxError, match="line 2 is damaged"):
            Journal(path)


def test_a_flipped_bit_is_no_other_reply(tmp_path: Path, fault: Fault) -> None:
    """Any bit of a line in the middle: it is called damaged, or reads as it was written."""
    path, wrong = tmp_path / "j", 0
    with Journal(path, of="x") as journal:
        journal.extend({"unit": unit, "reply": "12.5"} for unit in "abc")
        whole = list(journal.entries())
    data = path.read_bytes()
    places = range(data.index(b"\n") + 1, data.index(b'{"unit": "c"'))
    for place in places:
        path.write_bytes(data[:place] + bytes([data[place] ^ 1 << place % 8]) + data[place + 1 :])
        with contextlib.suppress(LcxError):
            read = list(Journal(path, read_only=True).entries())
            # A line whose end is gone takes the last one with it: both are done again
            wrong += not all({name: one.get(name) for name in ("unit", "reply")} in whole for one in read)
    fault("bits flipped in journals: read as other entries", len(places), wrong)
    path.write_bytes(b'{"unit": "a", "reply": "of an earlier version"}\n')
    with Journal(path) as journal:
        journal.append({"unit": "b", "reply": "new"})
    assert [one["reply"] for one in Journal(path, read_only=True).entries()] == [
        "of an earlier version",
        "new",
    ]


def test_reading_only_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "j"
    path.write_bytes(b'{"unit": "a"}\n{"un')
    assert Journal(path, read_only=True).done == {"a"}
    assert path.read_bytes() == b'{"unit": "a"}\n{"un'


def test_nothing_appended_is_lost_to_sigkill(tmp_path: Path, fault: Fault) -> None:
    path = tmp_path / "j"
    code = f"""
        from lcx.storage import Journal
        journal = Journal({str(path)!r})
        for number in range(10**9):
            journal.append({{"unit": str(number), "x": "y" * 300}})
            print(number, flush=True)
    """
    child = subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    seen = -1
    for line in child.stdout:
        seen = int(line)
        if seen == 60:
            os.kill(child.pid, signal.SIGKILL)
    child.wait()
    with Journal(path) as journal:
        fault(
            "kills of a journal's writer: entries", 1, len({str(n) for n in range(seen + 1)} - journal.done)
        )
        assert len(journal) <= seen + 2


def test_a_journal_of_something_else_is_begun_anew(tmp_path: Path) -> None:
    """What replies follow from is part of the journal: those to other settings are not taken for these."""
    path = tmp_path / "journal.jsonl"
    with Journal(path, of="five examples") as journal:
        journal.append({"unit": "a", "reply": 1})
        journal.append({"unit": "b", "reply": 2})
        assert journal["b"]["reply"] == 2
    with Journal(path, of="five examples") as journal:
        assert journal.done == {"a", "b"}
    with Journal(path, read_only=True) as journal:
        assert [one["unit"] for one in journal.entries()] == ["a", "b"]
    with Journal(path, of="six examples") as journal:
        assert not journal.done
        journal.append({"unit": "a", "reply": 3})
    with Journal(path, of="six examples") as journal:
        assert journal["a"]["reply"] == 3
        assert len(journal) == 1
