"""The ledger of a step's calls to text generators: every reply in sqlite, what was spent, and what is counted.

A reply is on disk before anything else sees it, under a key made of what was asked (the backend, the messages, the
sampling, the attempt) and the number of its sample: none is paid for twice, whoever asks. A process that is killed
loses the calls in flight and no other.
"""

from __future__ import annotations

import hashlib
import json
import re
import sqlite3
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lcx.errors import LcxError, MissingError, UsageError
from lcx.llm.limits import Budget, Prices, Spent, cost_of
from lcx.llm.prompts import said_in
from lcx.llm.protocol import Completion, Response, Usage
from lcx.storage import COUNTED, make_folder

if TYPE_CHECKING:
    from lcx.llm.settings import Calling

CALLS = "calls.sqlite"
"""The ledger's file in a step's folder. It outlives a `--force`: what was paid for stays paid."""
PAID_BACKEND = "openai"
"""The backend whose calls cost something; its replies count towards the budget."""
THOUGHTS = ("replies with thoughts", "replies of an unfinished thought only")
"""How replies with thoughts are counted."""
FREE = ("calls", "prompt_tokens", "completion_tokens")
"""What is counted of calls to rules, by the names that a journal's entry has."""
_ASKED_FOR: ContextVar[Counter[str] | None] = ContextVar("asked for", default=None)
"""Where calls to rules are counted a second time: what they were asked for is kept elsewhere, and they are not."""
DAMAGED = "its reply was damaged on disk"
"""Why a call that was answered is asked again."""
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
    crc INTEGER NOT NULL,
    PRIMARY KEY (key, sample)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS failures (
    key TEXT NOT NULL, part TEXT NOT NULL, reason TEXT NOT NULL, time REAL NOT NULL,
    prompt_tokens INTEGER NOT NULL, completion_tokens INTEGER NOT NULL, spec TEXT NOT NULL,
    calls INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE IF NOT EXISTS rules (
    key TEXT PRIMARY KEY, choices TEXT NOT NULL, prompt_tokens INTEGER NOT NULL, completion_tokens INTEGER NOT NULL,
    crc INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS settled (key TEXT PRIMARY KEY, error TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS taken (shard TEXT PRIMARY KEY, failures INTEGER NOT NULL) WITHOUT ROWID;
"""
"""Of a step that shards share, `rules` has what rules said, which costs nothing and is no call; `settled` the calls
that failed before later ones were built on that; `taken` how many failures of each shard's ledger are in this one.
"""
_COLUMNS = "key, sample, spec, part, choices, prompt_tokens, completion_tokens, tries, began, seconds, crc"


@dataclass(frozen=True)
class Row:
    """One call's reply: its choices, the first of them being sample number `sample`.

    A choice is (text, finish reason), with the thought as a third where a server hands it out apart.
    """

    sample: int
    choices: tuple[tuple[str, ...], ...]
    prompt_tokens: int = 0
    completion_tokens: int = 0
    tries: int = 1
    began: float = 0.0
    seconds: float = 0.0


@dataclass(frozen=True)
class Total:
    """Replies of one spec, or of one part, in the ledger, and calls that were sent and never answered."""

    calls: int
    prompt_tokens: int
    completion_tokens: int
    unanswered: int = 0


@contextmanager
def counting_rules() -> Iterator[None]:
    """Count the calls to rules that a block makes, those of tasks that it begins included, for `rules_counted`."""
    token = _ASKED_FOR.set(Counter())
    try:
        yield
    finally:
        _ASKED_FOR.reset(token)


def rules_counted() -> dict[str, Any]:
    """What the block that counts has asked of rules until now, as a field of a journal's entry; empty for nothing.

    Rules' replies are not kept: of what a journal has, a later process learns from its entry alone what was asked.
    """
    mine = _ASKED_FOR.get()
    return {COUNTED: dict(mine)} if mine else {}


def call_key(backend: str, messages: bytes, parameters: Mapping[str, Any], attempt: int) -> str:
    """What a call is known by: the backend, its messages as JSON, its parameters and the attempt.

    `backend` is a server's spec (`openai:MODEL`: where it is served is no part of it, nor is anything secret) or a
    local model's spec with the fingerprint of its weights.
    """
    head = json.dumps([backend, dict(parameters), attempt], sort_keys=True, separators=(",", ":"))
    digest = hashlib.sha256(head.encode())
    digest.update(b"\n")
    digest.update(messages)
    return digest.hexdigest()


def dump_messages(messages: Iterable[Mapping[str, str]]) -> bytes:
    """Messages as compact JSON; a lone surrogate becomes an escape, as UTF-8 cannot carry it."""
    listed = [dict(message) for message in messages]
    try:
        return json.dumps(listed, ensure_ascii=False, separators=(",", ":")).encode()
    except UnicodeEncodeError:
        return json.dumps(listed, separators=(",", ":")).encode()


def response_of(rows: Iterable[Row], n: int) -> Response:
    """The first `n` samples that rows hold, and the tokens of all of them."""
    rows = list(rows)
    choices = [choice for row in rows for choice in row.choices][:n]
    usage = sum((Usage(row.prompt_tokens, row.completion_tokens) for row in rows), Usage())
    return Response(tuple(Completion(*choice) for choice in choices), usage)


class CallLedger:
    """The books of a step: replies by key and sample, the budget, and the counts. Use it from one thread.

    Without a folder nothing is kept beyond the process. The file is opened by its first use. Raises LcxError for a
    file that is no ledger, and for a full or read-only disk.
    """

    def __init__(
        self,
        folder: Path | None = None,
        budget: Budget = Budget(),
        prices: Prices | None = None,
        known: Path | None = None,
    ) -> None:
        """`known` is a folder with a ledger that nobody writes to now: its replies are found here, too."""
        self.path = folder / CALLS if folder is not None else None
        self._known_path = known / CALLS if known is not None and (known / CALLS).is_file() else None
        self._known: sqlite3.Connection | None = None
        self.budget = budget
        self.prices: Prices = prices or {}
        self.in_flight = Spent()
        self.stopped: LcxError | None = None
        """Why no further call is made."""
        self.expected = self.done = self.known = self.retries = 0
        self.failed: Counter[str] = Counter()
        self.sentences: dict[str, dict[str, list[Any]]] = {}
        """By reason, what servers said of failed calls: how often, and one of the sentences, alike but for numbers."""
        self.free = Spent()
        """Calls to rules, which cost nothing and are not kept, in this process."""
        self.weighed = self.useful = 0
        """Requests of which it is known whether their reply is of use, and those of which it is."""
        self.fresh = 0
        """Tokens that models in this process have made in it."""
        self._open: sqlite3.Connection | None = None
        self._unchecked = False
        self._spent: Spent | None = None
        self._own = Spent()
        self._listeners: list[Callable[[], None]] = []

    # -- replies

    def rows(self, key: str) -> list[Row]:
        """What is there of a call, in the order of its samples."""
        found, own = self._select(
            "SELECT crc, sample, choices, prompt_tokens, completion_tokens, tries, began, seconds, spec, part "
            "FROM calls WHERE key = ? ORDER BY sample",
            key,
        )
        rows = []
        for crc, *one, spec, part in found:
            if self._holds(crc, key, *one[:4]):
                rows.append(Row(one[0], tuple(map(tuple, json.loads(one[1]))), *one[2:]))
            elif own:
                self._drop(key, one[0], str(spec), str(part))
        return rows

    def _select(self, query: str, key: str) -> tuple[list[Any], bool]:
        """What this ledger has of a key, or else the known one; and whether it is this one's."""
        if self.path is None:
            return [], True
        found: list[Any] = []
        if self._known_path is None or self._open is not None or self.path.exists():
            with self._database() as database:
                found = database.execute(query, (key,)).fetchall()
        if found or self._known_path is None:
            return found, True
        if self._known is None:
            self._known = _open_unchanging(self._known_path)
        with suppress(sqlite3.OperationalError):  # of an earlier version, which lacks the table
            found = self._known.execute(query, (key,)).fetchall()
        return found, False

    def _holds(self, crc: Any, *values: Any) -> bool:
        """Whether a row is as it was kept. Those of a ledger that an earlier version began have no checksum."""
        return self._unchecked if crc is None else bool(crc == _crc(*values))

    def _drop(self, key: str, sample: Any, spec: str, part: str) -> None:
        """Take a reply out that is not the one that was kept: it is asked for again, and that is counted."""
        with self._database() as database:
            database.execute("DELETE FROM calls WHERE key = ? AND sample IS ?", (key, sample))
        self.lost(key, DAMAGED, spec, part)

    def paid(self, key: str, row: Row, spec: str, part: str = "") -> None:
        """Keep a reply; it is in the file when this returns."""
        spent = self._of(spec)  # read before the row is added
        if self.path is not None:
            with self._database() as database:
                choices = json.dumps(row.choices, ensure_ascii=not _plain(row.choices))
                database.execute(
                    "INSERT OR IGNORE INTO calls VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                    (
                        key,
                        row.sample,
                        spec,
                        part,
                        choices,
                        row.prompt_tokens,
                        row.completion_tokens,
                        row.tries,
                        row.began,
                        row.seconds,
                        _crc(key, row.sample, choices, row.prompt_tokens, row.completion_tokens),
                    ),
                )
        self._add(spent, spec, 1, row.prompt_tokens, row.completion_tokens)
        if not _is_paid(spec):
            self.fresh += row.completion_tokens

    def rule(self, key: str) -> Response | None:
        """What rules said to a request, where a shard has kept it."""
        query = "SELECT crc, choices, prompt_tokens, completion_tokens FROM rules WHERE key = ?"
        for crc, choices, *tokens in self._select(query, key)[0]:
            if crc == _crc(key, choices, *tokens):
                return Response(tuple(Completion(*one) for one in json.loads(choices)), Usage(*tokens))
        return None

    def keep_rules(self, said: Iterable[tuple[str, Response]]) -> None:
        """Keep what rules said to requests, all in one transaction."""
        rows = []
        for key, reply in said:
            choices = json.dumps([(one.text, one.finish_reason, one.thought) for one in reply.completions])
            row = key, choices, reply.usage.prompt_tokens, reply.usage.completion_tokens
            rows.append((*row, _crc(*row)))
        if rows:
            with self._database() as database, _transaction(database):
                database.executemany("INSERT OR IGNORE INTO rules VALUES (?, ?, ?, ?, ?)", rows)

    def settle(self, key: str, error: str) -> None:
        """Note that a call has failed for good: others are built on that from now on."""
        with self._database() as database:
            said = error.encode("utf-8", "replace").decode()
            database.execute("INSERT OR REPLACE INTO settled VALUES (?, ?)", (key, said))

    def settled(self, key: str) -> str:
        """Why a call has failed for good, or an empty text."""
        found, _ = self._select("SELECT error FROM settled WHERE key = ?", key)
        return str(found[0][0]) if found else ""

    def take(self, other: Path, name: str) -> None:
        """Copy the replies of another ledger's file into this one, and the failures that are not here yet.

        It may be done again at any time. `name` is what the other one is called.
        """
        with self._database() as database:
            database.execute("ATTACH DATABASE ? AS other", (str(other),))
            try:
                known = {row[1] for row in database.execute("SELECT * FROM other.sqlite_master")}
                with _transaction(database):
                    database.execute(
                        f"INSERT INTO calls ({_COLUMNS}) SELECT {_COLUMNS} FROM other.calls WHERE true "
                        "ON CONFLICT DO NOTHING"
                    )
                    if "rules" in known:
                        database.execute("INSERT OR IGNORE INTO rules SELECT * FROM other.rules")
                    row = database.execute("SELECT failures FROM taken WHERE shard = ?", (name,)).fetchone()
                    [last] = database.execute("SELECT COALESCE(MAX(rowid), 0) FROM other.failures").fetchone()
                    columns = "key, part, reason, time, prompt_tokens, completion_tokens, spec, calls"
                    database.execute(
                        f"INSERT INTO failures ({columns}) SELECT {columns} FROM other.failures WHERE rowid > ?",
                        (row[0] if row else 0,),
                    )
                    database.execute("INSERT OR REPLACE INTO taken VALUES (?, ?)", (name, last))
            finally:
                database.execute("DETACH DATABASE other")
        self._spent, self._own = None, Spent()

    def glance(self) -> dict[str, Any]:
        """Numbers of this process for whoever looks from another thread: the file is not asked."""
        spent, own = self._spent or Spent(), self._own
        found: dict[str, Any] = {"calls": spent.calls + own.calls + self.free.calls, "tokens": spent.tokens}
        found |= {"cost": round(spent.cost, 6)} if spent.cost else {}
        return found | {"asked": self.done, "expected": self.expected}

    def kept(self) -> tuple[int, int]:
        """How many replies of models, and how many of rules, are in the file."""
        if self.path is None or not self.path.is_file():
            return 0, 0
        with self._database() as database:
            rules = int(database.execute("SELECT COUNT(*) FROM rules").fetchone()[0])
            return int(database.execute("SELECT COUNT(*) FROM calls").fetchone()[0]), rules

    def lost(
        self,
        key: str,
        reason: str,
        spec: str,
        part: str = "",
        tokens: tuple[int, int] = (0, 0),
        calls: int = 0,
    ) -> None:
        """Keep why a try came to nothing, and the tokens it cost; with `calls` 1 it may have been done and charged."""
        spent = self._of(spec)
        if self.path is not None:
            said = reason.encode("utf-8", "replace").decode()
            with self._database() as database:
                database.execute(
                    "INSERT INTO failures (key, part, reason, time, prompt_tokens, completion_tokens, spec, calls) "
                    "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                    (key, part, said, time.time(), *tokens, spec, calls),
                )
        self._add(spent, spec, calls, *tokens, unanswered=calls)

    def totals(self, by: str = "spec") -> dict[str, Total]:
        """Replies and their tokens by `spec` or by `part`; tokens of replies that were of no use count too."""
        if by not in ("spec", "part"):
            raise ValueError(f"totals are by spec or by part, not by {by}")
        if self.path is None or (self._open is None and not self.path.exists()):
            return {}
        with self._database() as database:
            found = database.execute(
                f"SELECT {by}, SUM(good), SUM(p), SUM(c), SUM(lost) FROM ("
                f"SELECT {by}, 1 AS good, prompt_tokens AS p, completion_tokens AS c, 0 AS lost FROM calls "
                f"UNION ALL SELECT {by}, 0, prompt_tokens, completion_tokens, calls FROM failures) "
                f"GROUP BY {by} ORDER BY {by}"
            ).fetchall()
        # A damaged row may hold nothing where a number is meant
        return {str(name): Total(*(int(one or 0) for one in sums)) for name, *sums in found if any(sums)}

    def reasons(self) -> dict[str, int]:
        """How many tries failed, by reason."""
        with self._database() as database:
            return dict(
                database.execute("SELECT reason, COUNT(*) FROM failures GROUP BY reason ORDER BY reason")
            )

    def thoughts(self) -> tuple[int, int]:
        """Replies in the file that have thoughts, and those that are nothing but a thought that never ends."""
        if self.path is None or (self._open is None and not self.path.exists()):
            return 0, 0
        some = lost = 0
        with self._database() as database:
            for key, crc, *one in database.execute(
                "SELECT key, crc, sample, choices, prompt_tokens, completion_tokens FROM calls"
            ):
                for choice in json.loads(one[1]) if self._holds(crc, key, *one) else ():
                    said = said_in(Completion(*choice))
                    some += said.thought
                    lost += said.only_thought
        return some, lost

    def __len__(self) -> int:
        """Replies that are kept."""
        with self._database() as database:
            return int(database.execute("SELECT COUNT(*) FROM calls").fetchone()[0])

    # -- the budget

    @property
    def spent(self) -> Spent:
        """What servers' replies cost in all runs of this step, as the file has it."""
        if self._spent is None:
            self._spent = Spent()
            for spec, total in self.totals().items():
                spent = self._spent if _is_paid(spec) else self._own
                calls = total.calls + total.unanswered
                tokens = total.prompt_tokens, total.completion_tokens
                self._add(spent, spec, calls, *tokens, unanswered=total.unanswered)
        return self._spent

    @property
    def own(self) -> Spent:
        """What models in this process answered, in all runs of this step."""
        _ = self.spent
        return self._own

    def expects(self, spec: str, prompt: int, completion: int) -> Spent:
        """What a call of so many tokens will count as."""
        found = Spent()
        self._add(found, spec, 1, prompt, completion)
        return found

    def refuses(self, coming: Spent) -> str:
        """Why the coming call may not begin now, or an empty string."""
        return self.budget.exceeded(self.spent, self.in_flight, coming)

    def listen(self, changed: Callable[[], None]) -> None:
        """Call a function whenever a call has ended: its budget's share may be free."""
        self._listeners.append(changed)

    def changed(self) -> None:
        """Tell the listeners that a call has ended."""
        for one in self._listeners:
            one()

    def stop(self, error: LcxError) -> None:
        """No further call begins, in any client. The first reason stays."""
        if self.stopped is None:
            self.stopped = error
        self.changed()

    # -- the counts

    def note(self, response: Response, *, known: bool = False, reason: str = "") -> None:
        """A request is answered, from the ledger (`known`) or anew."""
        self.done += 1
        self.known += known
        if response.error:
            self.failed[reason or response.error] += 1
            self._hear(reason, response.error)

    def _hear(self, reason: str, error: str) -> None:
        said = error.removeprefix(reason).removeprefix(": ").strip() if reason else ""
        held = self.sentences.setdefault(reason, {}) if said else {}
        alike = _NUMBERS.sub("0", said)[:200]
        if said and (alike in held or len(held) < MOST_SENTENCES):
            held.setdefault(alike, [0, said])[0] += 1

    def said(self) -> list[str]:
        """For each reason of which servers said more, how often it came and the most frequent sentence."""
        return [
            f"calls failed: {reason} ({self.failed[reason]:,}): the server says: {most[1]}"
            for reason, held in sorted(self.sentences.items())
            if (most := max(held.values(), key=lambda one: one[0]))
        ]

    def note_free(self, response: Response) -> None:
        """A request is answered by rules, whose replies are not kept."""
        asked = (1, response.usage.prompt_tokens, response.usage.completion_tokens)
        self.free.add(Spent(*asked))
        if (mine := _ASKED_FOR.get()) is not None:
            mine.update(dict(zip(FREE, asked, strict=True)))
        self.note(response)

    def note_done(self, counted: Mapping[str, int]) -> None:
        """Rules were asked by an earlier process for what is done, as it counted."""
        self.free.add(Spent(*(counted.get(name, 0) for name in FREE)))

    def counts(self) -> dict[str, int | float]:
        """Calls, tokens and cost over all runs of the step; what this process retried, found and failed at."""
        spent, all_of = self.spent, (self.spent, self.own, self.free)
        found: dict[str, int | float] = {
            "calls": sum(one.answered for one in all_of),
            "prompt_tokens": sum(one.prompt_tokens for one in all_of),
            "completion_tokens": sum(one.completion_tokens for one in all_of),
        }
        if spent.cost:
            found["cost"] = round(spent.cost, 6)
        if spent.unanswered:
            found["calls without a reply"] = spent.unanswered
        if self.retries:
            found["retries"] = self.retries
        if self.known:
            found["calls from the journal"] = self.known
        found |= {name: number for name, number in zip(THOUGHTS, self.thoughts(), strict=True) if number}
        return found | {f"calls failed: {reason}": n for reason, n in sorted(self.failed.items())}

    def close(self) -> None:
        """Close the file; what its log holds is moved into it. The next use opens it again."""
        _ = self.spent
        if self._open is not None:
            self._open.close()
            self._open = None
        if self._known is not None:
            self._known.close()
            self._known = None

    # -- the file

    def _of(self, spec: str) -> Spent:
        return self.spent if _is_paid(spec) else self.own

    def _add(
        self, spent: Spent, spec: str, calls: int, prompt: int, completion: int, unanswered: int = 0
    ) -> None:
        cost = cost_of(spec.partition(":")[2], prompt, completion, self.prices)
        spent.add(Spent(calls, prompt, completion, cost, unanswered))

    @contextmanager
    def _database(self) -> Iterator[sqlite3.Connection]:
        """The open file; what sqlite raises becomes an error with a way on."""
        if self.path is None:
            raise ValueError("a ledger without a folder keeps no rows")
        try:
            if self._open is None:
                self._open, self._unchecked = _open(self.path)
            yield self._open
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


@contextmanager
def _transaction(database: sqlite3.Connection) -> Iterator[None]:
    database.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        database.execute("ROLLBACK")
        raise
    database.execute("COMMIT")


def _open_unchanging(path: Path) -> sqlite3.Connection:
    """A file that nobody writes to while it is open: it needs no lock, so any number of machines may read it."""
    database = sqlite3.connect(f"{path.absolute().as_uri()}?immutable=1", uri=True, check_same_thread=False)
    database.text_factory = _text
    return database


def _text(data: bytes) -> str:
    """A text of the file. One that is no UTF-8 any more is a damaged row, not the end of the step."""
    return data.decode("utf-8", "surrogateescape")


def _open(path: Path) -> tuple[sqlite3.Connection, bool]:
    """The database, and whether some of its rows may have no checksum."""
    make_folder(path.parent)
    # Autocommit: each statement is a transaction, and is in the file when it returns.
    database = sqlite3.connect(path, timeout=30, isolation_level=None, check_same_thread=False)
    database.execute("PRAGMA journal_mode=WAL")
    # The system holds what a killed process wrote; a sync at each checkpoint guards against its own crash.
    database.execute("PRAGMA synchronous=NORMAL")
    database.text_factory = _text
    database.executescript(_SCHEMA)
    told = {row[1]: bool(row[3]) for row in database.execute("PRAGMA table_info(calls)")}
    if "crc" not in told:
        database.execute("ALTER TABLE calls ADD COLUMN crc INTEGER")
    columns = [row[1] for row in database.execute("PRAGMA table_info(failures)")]
    if "calls" not in columns:  # a ledger of an earlier version
        database.execute("ALTER TABLE failures ADD COLUMN calls INTEGER NOT NULL DEFAULT 0")
    return database, not told.get("crc")


def _crc(*values: Any) -> int:
    """The checksum of a row: sqlite has none, and a flipped bit would pass for another reply."""
    return zlib.crc32(repr(values).encode("utf-8", "surrogateescape"))


def _is_paid(spec: str) -> bool:
    return spec.partition(":")[0] == PAID_BACKEND


def _plain(choices: Iterable[tuple[str, ...]]) -> bool:
    """Whether UTF-8 can carry the texts."""
    encode: Callable[[str], bytes] = str.encode
    try:
        for choice in choices:
            encode("".join(choice))
    except UnicodeEncodeError:
        return False
    return True


# -- what calls cost

_SHAPE = "MODEL: [2.5, 10], the cost of a million prompt and of a million completion tokens"


def load_prices(given: Mapping[str, tuple[float, float]] | str) -> Prices:
    """The table of prices, or the one in a YAML file. Raises UsageError for another shape, MissingError for no file."""
    if not isinstance(given, str):
        return _checked(given, "prices")
    from lcx.yamls import read_yaml_file

    path = Path(given).expanduser()
    if not path.is_file():
        raise MissingError(f"no file of prices at '{given}'", hint=f"a YAML file of lines {_SHAPE}")
    held = read_yaml_file(path).value
    if not isinstance(held, Mapping):
        raise UsageError(f"{path} is no table of prices", hint=f"lines {_SHAPE}")
    return _checked(held, str(path))


def _checked(table: Mapping[Any, Any], where: str) -> dict[str, tuple[float, float]]:
    found = {}
    for model, pair in table.items():
        good = isinstance(pair, list | tuple) and len(pair) == 2
        if not good or not all(isinstance(one, int | float) and one >= 0 for one in pair):
            raise UsageError(f"{where}: '{model}' has no price of two numbers, but {pair!r}", hint=_SHAPE)
        found[str(model)] = (float(pair[0]), float(pair[1]))
    return found


def costs(
    settings: Calling, parts: Mapping[str, tuple[str, float, float]]
) -> dict[str, dict[str, float | str]]:
    """{"cost": {part: cost}} for a dry run where prices are given, else nothing.

    A part is its spec, prompt tokens and reply tokens. Only `openai:` models cost anything; one without a price says
    so. Raises as `load_prices`.
    """
    prices = load_prices(settings.prices)
    found: dict[str, float | str] = {}
    for part, (spec, prompt, reply) in parts.items():
        backend, _, model = spec.partition(":")
        if backend != PAID_BACKEND or not (prompt or reply):
            continue
        priced = model in prices
        found[part] = round(cost_of(model, round(prompt), round(reply), prices), 4) if priced else "no price"
    return {"cost": found} if prices and found else {}


_NUMBERS = re.compile(r"[0-9]+")
MOST_SENTENCES = 50
"""Kinds of sentences that are kept for a reason."""


def paid(counts: Mapping[str, int | float]) -> tuple[dict[str, int], dict[str, float]]:
    """Of a ledger's counts, those beside calls and tokens: for a step's counts, and its metrics."""
    others = ("retries", "calls from the journal", "calls without a reply", *THOUGHTS)
    return (
        {name: int(counts[name]) for name in others if counts.get(name)},
        {"cost": float(counts["cost"])} if counts.get("cost") else {},
    )
