"""The journal of calls to text generators: a row for each reply in sqlite, so that none is paid for twice.

A reply is on disk before anything else sees it. A process that is killed loses the calls in flight and no other.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lcx.errors import LcxError
from lcx.storage import make_folder

CALLS = "calls.sqlite"
"""The journal's name in a step's folder."""
_SUFFIXES = ("", "-wal", "-shm")
_SCHEMA = """
CREATE TABLE IF NOT EXISTS calls (
    key TEXT NOT NULL,
    sample INTEGER NOT NULL,
    spec TEXT NOT NULL,
    part TEXT NOT NULL,
    choices TEXT NOT NULL,
    prompt_tokens INTEGER NOT NULL,
    completion_tokens INTEGER NOT NULL,
    tries INTEGER NOT NULL,
    began REAL NOT NULL,
    seconds REAL NOT NULL,
    PRIMARY KEY (key, sample)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS failures (
    key TEXT NOT NULL, part TEXT NOT NULL, reason TEXT NOT NULL, time REAL NOT NULL,
    prompt_tokens INTEGER NOT NULL, completion_tokens INTEGER NOT NULL, spec TEXT NOT NULL,
    calls INTEGER NOT NULL DEFAULT 0
);
"""


@dataclass(frozen=True)
class Row:
    """One call's reply: its choices as (text, finish reason), the first of them being sample number `sample`."""

    sample: int
    choices: tuple[tuple[str, str], ...]
    prompt_tokens: int = 0
    completion_tokens: int = 0
    tries: int = 1
    began: float = 0.0
    seconds: float = 0.0


@dataclass(frozen=True)
class Total:
    """Replies of one spec, or of one part, in the journal, and calls that were sent and never answered."""

    calls: int
    prompt_tokens: int
    completion_tokens: int
    unanswered: int = 0


def call_key(spec: str, messages: bytes, parameters: Mapping[str, Any], attempt: int) -> str:
    """What a call is known by: the model, its messages as JSON, its parameters and the attempt.

    Where the model is served is no part of it, nor is anything secret.
    """
    head = json.dumps([spec, dict(parameters), attempt], sort_keys=True, separators=(",", ":"))
    digest = hashlib.sha256(head.encode())
    digest.update(b"\n")
    digest.update(messages)
    return digest.hexdigest()


class CallJournal:
    """Replies by key and sample, in a sqlite file in WAL mode. Use it from one thread.

    Raises LcxError for a file that is no journal, and for a full or read-only disk.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        make_folder(self.path.parent)
        with self._readable():
            # Autocommit: each statement is a transaction, and is in the file when it returns.
            self._db = sqlite3.connect(self.path, timeout=30, isolation_level=None, check_same_thread=False)
            self._db.execute("PRAGMA journal_mode=WAL")
            # The system holds what a killed process wrote; a sync at each checkpoint guards against its own crash.
            self._db.execute("PRAGMA synchronous=NORMAL")
            self._db.executescript(_SCHEMA)
            columns = [row[1] for row in self._db.execute("PRAGMA table_info(failures)")]
            if "calls" not in columns:  # a journal of an earlier version
                self._db.execute("ALTER TABLE failures ADD COLUMN calls INTEGER NOT NULL DEFAULT 0")

    def rows(self, key: str) -> list[Row]:
        """What is there of a call, in the order of its samples."""
        with self._readable():
            found = self._db.execute(
                "SELECT sample, choices, prompt_tokens, completion_tokens, tries, began, seconds "
                "FROM calls WHERE key = ? ORDER BY sample",
                (key,),
            ).fetchall()
        return [Row(one[0], tuple((t, f) for t, f in json.loads(one[1])), *one[2:]) for one in found]

    def add(self, key: str, row: Row, *, spec: str, part: str = "") -> None:
        """Keep a reply; it is in the file when this returns."""
        with self._readable():
            self._db.execute(
                "INSERT OR IGNORE INTO calls VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    key,
                    row.sample,
                    spec,
                    part,
                    json.dumps(row.choices, ensure_ascii=not _plain(row.choices)),
                    row.prompt_tokens,
                    row.completion_tokens,
                    row.tries,
                    row.began,
                    row.seconds,
                ),
            )

    def add_failure(
        self,
        key: str,
        reason: str,
        *,
        spec: str,
        part: str = "",
        tokens: tuple[int, int] = (0, 0),
        calls: int = 0,
    ) -> None:
        """Keep why a try came to nothing, the tokens it cost, and whether it counts as a call (`calls` 1)."""
        with self._readable():
            self._db.execute(
                "INSERT INTO failures (key, part, reason, time, prompt_tokens, completion_tokens, spec, calls) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (key, part, reason.encode("utf-8", "replace").decode(), time.time(), *tokens, spec, calls),
            )

    def totals(self, by: str = "spec") -> dict[str, Total]:
        """Replies and their tokens by `spec` or by `part`; tokens of replies that were of no use count too."""
        if by not in ("spec", "part"):
            raise ValueError(f"totals are by spec or by part, not by {by}")
        with self._readable():
            found = self._db.execute(
                f"SELECT {by}, SUM(good), SUM(p), SUM(c), SUM(lost) FROM ("
                f"SELECT {by}, 1 AS good, prompt_tokens AS p, completion_tokens AS c, 0 AS lost FROM calls "
                f"UNION ALL SELECT {by}, 0, prompt_tokens, completion_tokens, calls FROM failures) "
                f"GROUP BY {by} ORDER BY {by}"
            ).fetchall()
        return {name: Total(*map(int, sums)) for name, *sums in found if any(sums)}

    def reasons(self) -> dict[str, int]:
        """How many tries failed, by reason."""
        with self._readable():
            return dict(
                self._db.execute("SELECT reason, COUNT(*) FROM failures GROUP BY reason ORDER BY reason")
            )

    def __len__(self) -> int:
        with self._readable():
            return int(self._db.execute("SELECT COUNT(*) FROM calls").fetchone()[0])

    def close(self) -> None:
        """Close the file; what the write-ahead log holds is moved into it."""
        self._db.close()

    @contextmanager
    def _readable(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as bad:
            raise LcxError(
                f"cannot use the journal of calls {self.path}",
                why=str(bad),
                hint="Free some space or mend the folder's rights, then run the same command: it resumes.",
            ) from bad
        except sqlite3.DatabaseError as bad:
            raise LcxError(
                f"the journal of calls {self.path} is damaged",
                why=str(bad),
                hint="Move it away, and the step asks everything again.",
            ) from bad


def read_totals(path: str | Path, by: str = "spec") -> dict[str, Total]:
    """Totals of a journal that may not be there."""
    if not Path(path).is_file():
        return {}
    journal = CallJournal(path)
    try:
        return journal.totals(by)
    finally:
        journal.close()


def journal_files(folder: str | Path) -> list[Path]:
    """The journal in a step's folder with its log, what there is of them: they are moved only together."""
    return [path for suffix in _SUFFIXES if (path := Path(folder) / f"{CALLS}{suffix}").exists()]


def dump_messages(messages: Iterable[Mapping[str, str]]) -> bytes:
    """Messages as compact JSON; a lone surrogate becomes an escape, as UTF-8 cannot carry it."""
    listed = [dict(message) for message in messages]
    try:
        return json.dumps(listed, ensure_ascii=False, separators=(",", ":")).encode()
    except UnicodeEncodeError:
        return json.dumps(listed, separators=(",", ":")).encode()


def _plain(choices: Iterable[tuple[str, str]]) -> bool:
    """Whether UTF-8 can carry the texts."""
    encode: Callable[[str], bytes] = str.encode
    try:
        for text, _ in choices:
            encode(text)
    except UnicodeEncodeError:
        return False
    return True
