"""Drop documents that share a run of words with evaluation data (IN2 uses runs of ten)."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from lcx.errors import UsageError
from lcx.records import Document

_CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff\U00020000-\U0003ffff"
_WORD = re.compile(rf"[{_CJK}]|(?:(?![{_CJK}])\w)+")
_FACTOR = 0x9E3779B97F4A7C15
"""Odd, so that multiplying by it modulo 2**64 loses nothing."""


def words(text: str) -> list[str]:
    """Lower-cased words of a text; each Chinese, Japanese or Korean character counts as one."""
    return _WORD.findall(text.lower())


def ngram_hashes(text: str, n: int) -> np.ndarray:
    """uint64 hash of every run of `n` words, in order; empty for a text of fewer than `n` words."""
    found = words(text)
    if len(found) < n:
        return np.empty(0, np.uint64)
    each = np.fromiter((_word_hash(word) for word in found), np.uint64, len(found))
    runs = np.zeros(len(found) - n + 1, np.uint64)
    for place in range(n):  # numpy's unsigned integers wrap around, as wanted
        runs = runs * np.uint64(_FACTOR) + each[place : place + len(runs)]
    return runs


@dataclass(frozen=True)
class Dropped:
    """A document that was dropped: which evaluation item it overlaps, and the first words they share."""

    document: str
    item: int
    shared: str


@dataclass
class Decontaminator:
    """Looks for runs of `n` words that a text shares with evaluation items.

    `items` are texts, or the path of a file: of a JSONL file each row is an item, with all strings in it
    (runs do not go from one string to the next); of any other each paragraph. An item or document of fewer
    than `n` words has no run and so never matches: `short_items` counts such items. Raises UsageError where
    no item has a run.
    """

    items: Iterable[str] | str | Path
    n: int = 10
    short_items: int = 0
    item_count: int = 0
    kept: int = 0
    dropped: list[Dropped] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.n < 1:
            raise UsageError(f"n-grams need n of at least 1, not {self.n}")
        runs: list[np.ndarray] = []
        owners: list[np.ndarray] = []
        for number, texts in enumerate(_items(self.items)):
            self.item_count += 1
            own = [found for text in texts if len(found := ngram_hashes(text, self.n))]
            if not own:
                self.short_items += 1
            for found in own:
                runs.append(found)
                owners.append(np.full(len(found), number, np.int32))
        if not runs:
            raise UsageError(
                f"no evaluation item has {self.n} words",
                why=f"{self.item_count} items were read.",
                hint="Check the file of evaluation items, or lower n.",
            )
        # The first item that has a run owns it: unique() returns first occurrences.
        self._runs, first = np.unique(np.concatenate(runs), return_index=True)
        self._owners = np.concatenate(owners)[first]

    def match(self, text: str) -> tuple[int, str] | None:
        """The evaluation item whose words the text holds first, and these words; None without one."""
        runs = ngram_hashes(text, self.n)
        if not len(runs):
            return None
        near = np.minimum(np.searchsorted(self._runs, runs), len(self._runs) - 1)
        hits = np.flatnonzero(self._runs[near] == runs)
        if not len(hits):
            return None
        place = int(hits[0])
        return int(self._owners[near[place]]), " ".join(words(text)[place : place + self.n])

    def filter(self, documents: Iterable[Document]) -> Iterator[Document]:
        """Documents without overlap, lazily; `kept` and `dropped` grow as they pass."""
        for document in documents:
            found = self.match(document.text)
            if found is None:
                self.kept += 1
                yield document
            else:
                self.dropped.append(Dropped(document.id, *found))


def decontaminate(
    documents: Iterable[Document], items: Iterable[str] | str | Path, *, n: int = 10
) -> tuple[list[Document], list[Dropped]]:
    """Documents that share no run of `n` words with an evaluation item, and those dropped."""
    sieve = Decontaminator(items, n)
    return list(sieve.filter(documents)), sieve.dropped


def _items(source: Iterable[str] | str | Path) -> Iterator[list[str]]:
    if not isinstance(source, str | Path):
        yield from ([text] for text in source)
        return
    path = Path(source).expanduser()
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as bad:
        raise UsageError(
            f"the evaluation items in {path} cannot be read",
            why=str(bad),
            hint="Give a JSONL or text file in UTF-8.",
        ) from bad
    if path.suffix.lower() not in {".jsonl", ".ndjson"}:
        yield from ([part] for part in re.split(r"\n[^\S\n]*\n", text) if part.strip())
        return
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                yield list(_strings(json.loads(line)))
            except (ValueError, RecursionError) as bad:
                raise UsageError(f"{path}: line {number} is not JSON", why=str(bad)) from bad


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for part in value.values():
            yield from _strings(part)
    elif isinstance(value, list):
        for part in value:
            yield from _strings(part)


@lru_cache(maxsize=1 << 18)
def _word_hash(word: str) -> int:
    data = word.encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")
