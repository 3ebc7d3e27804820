"""Segments of a corpus and their table: how texts are cut, where the pieces lie, and a synth step's own table."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import unicodedata
import zlib
from collections import Counter, deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import cached_property, lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from lcx.data.decontaminate import Decontaminator
from lcx.data.documents import ACCEPTED, Rejects, read_corpus
from lcx.data.tokens import BUILTIN, SpanTokenizer, open_span_tokenizer
from lcx.errors import LcxError, UsageError
from lcx.process import Workers, cores
from lcx.records import Document, Segment
from lcx.storage import (
    SEAL,
    Journal,
    is_broken,
    json_text,
    link_file,
    make_folder,
    read_json,
    sealed,
    sha256_text,
    shard_path,
    write_json,
    write_lines,
)

Span = tuple[int, int, int]
"""(start, end, tokens): a segment's characters `[start, end)` and how many tokens start in them."""

LONG = 2
"""A line of more than LONG x min_tokens tokens is cut at sentence ends, or at tokens where it has none."""

_SENTENCE_END = re.compile(r"(?<![.!?…])[.!?…]+[\"'”’»)\]]*\s+|[。！？；]+[”’」』）]*")
_SOLID = re.compile(r"\S")
_JOINERS = "\u200d"


def segment_spans(
    text: str,
    token_spans: Sequence[tuple[int, int]] | np.ndarray,
    min_tokens: int = 128,
    *,
    keep_short: bool = True,
) -> list[Span]:
    """Cut a text into segments of at least `min_tokens` tokens, as (start, end, tokens).

    `token_spans` are [n, 2] character spans, or only the [n] starts. Segments lie in order; between two of
    them is one newline, or nothing where a very long line was cut. A text of fewer tokens gives one segment
    that is too short, or none with `keep_short=False`; a blank text gives none.
    """
    if min_tokens < 1:
        raise ValueError(f"min_tokens must be at least 1, not {min_tokens}")
    starts = _starts(token_spans)
    if not text or text.isspace():
        return []
    segments: list[Span] = []
    begin = 0
    pieces = _pieces(text, starts, min_tokens)
    ends = np.searchsorted(starts, [end for end, _ in pieces]) if pieces else np.empty(0, np.int64)
    before = 0  # tokens that start before `begin`
    solid = _solid(text, 0)
    for (end, following), count in zip(pieces, ends.tolist(), strict=True):
        if solid < begin:
            solid = _solid(text, begin)
        if count - before >= min_tokens and solid < end:
            segments.append((begin, end, count - before))
            begin = following
            before = int(np.searchsorted(starts, begin))
    if begin < len(text) or (segments and segments[-1][1] < len(text)):
        if segments:  # the tail, were it only the newline that ends the file
            first = segments.pop()[0]
            segments.append((first, len(text), _count(starts, first, len(text))))
        elif keep_short:
            segments.append((0, len(text), len(starts)))
    return segments


def _solid(text: str, place: int) -> int:
    """The first character from `place` on that is no white space."""
    found = _SOLID.search(text, place)
    return found.start() if found else len(text)


def line_spans(text: str, token_spans: Sequence[tuple[int, int]] | np.ndarray) -> list[Span]:
    """Every line that is not blank as one segment: for record corpora. Arguments as in `segment_spans`."""
    starts = _starts(token_spans)
    found = []
    begin = 0
    for line in text.split("\n"):
        end = begin + len(line)
        if line and not line.isspace():
            found.append((begin, end, _count(starts, begin, end)))
        begin = end + 1
    return found


def safe_cut(text: str, place: int) -> int:
    """The first place from `place` on where a cut parts no character from its marks, nor an emoji."""
    while 0 < place < len(text) and _clings(text[place - 1], text[place]):
        place += 1
    return place


def _clings(left: str, right: str) -> bool:
    if right < "\u0300":
        # Plain letters start a character of their own, unless a joiner holds them; "\r\n" is one break.
        return left in _JOINERS or (left == "\r" and right == "\n")
    return (
        unicodedata.category(right)[0] == "M"  # accents, vowel signs, variation selectors, keycaps
        or right in _JOINERS
        or left in _JOINERS
        or "\U0001f3fb" <= right <= "\U0001f3ff"  # skin tones
        or "\U000e0020" <= right <= "\U000e007f"  # tags of regional flags
        or ("\U0001f1e6" <= right <= "\U0001f1ff" and "\U0001f1e6" <= left <= "\U0001f1ff")  # flags
        or "\u1160" <= right <= "\u11ff"  # Hangul written in parts
    )


def _starts(token_spans: Sequence[tuple[int, int]] | np.ndarray) -> np.ndarray:
    spans = np.asarray(token_spans, dtype=np.int64)
    starts = spans[:, 0] if spans.ndim == 2 else spans
    if len(starts) > 1 and (np.diff(starts) < 0).any():
        starts = np.maximum.accumulate(starts)  # some normalisers report a token a little before the last one
    return starts


def _count(starts: np.ndarray, begin: int, end: int) -> int:
    low, high = np.searchsorted(starts, [begin, end])
    return int(high - low)


def _pieces(text: str, starts: np.ndarray, min_tokens: int) -> list[tuple[int, int]]:
    """Places where a segment may end, as (end, start of what follows)."""
    lines = []
    begin = 0
    while (newline := text.find("\n", begin)) >= 0:
        lines.append((begin, newline))
        begin = newline + 1
    lines.append((begin, len(text)))
    low = np.searchsorted(starts, [line[0] for line in lines])
    high = np.searchsorted(starts, [line[1] for line in lines])
    long = (high - low) > LONG * min_tokens
    pieces: list[tuple[int, int]] = []
    for (begin, end), too_long in zip(lines, long.tolist(), strict=True):
        if too_long:
            pieces.extend((cut, cut) for cut in _cuts(text, begin, end, starts, min_tokens))
        pieces.append((end, end + 1))
    return pieces


def _cuts(text: str, begin: int, end: int, starts: np.ndarray, min_tokens: int) -> list[int]:
    """Places inside a long line: its sentence ends, and tokens inside too long sentences."""
    reached = begin  # no place before it is asked about twice: thousands of marks may cling to one character

    def safe(place: int) -> int:
        nonlocal reached
        reached = safe_cut(text, max(place, reached))
        return reached

    ends = [place for m in _SENTENCE_END.finditer(text, begin, end) if (place := safe(m.end())) < end]
    cuts: list[int] = []
    last = reached = begin
    for place in [*ends, end]:
        low, high = np.searchsorted(starts, [last, place]).tolist()
        if high - low > LONG * min_tokens:
            # The first pieces hold min_tokens each; the rest, below twice that, stays whole.
            for token in range(low + min_tokens, high - min_tokens + 1, min_tokens):
                cut = safe(_at_word(text, int(starts[token]), int(starts[min(token + 8, high - 1)])))
                if cut < place and (not cuts or cut > cuts[-1]):
                    cuts.append(cut)
        if place < end:
            cuts.append(place)
        last = place
    return cuts


def _at_word(text: str, place: int, latest: int) -> int:
    """The next place up to `latest` where a word starts (before its space), or `place` itself."""
    for near in range(place, latest + 1):
        if near < len(text) and text[near].isspace():
            return near
    return place


MODES = ("length", "lines")
TABLE_FILES = ("documents-*", "segments-*", "table.json")
DOCUMENTS_A_BATCH = 256
BYTES_A_GROUP = 1 << 19
"""Characters of documents in a row group: what is unpacked to read one text, and writers ask in random order."""
SEGMENTS_A_GROUP = 1 << 16
CHARACTERS_A_BATCH = 2 << 20
"""Characters that are cut at a time: a fast tokenizer holds about a hundred bytes for each token of them."""
PART_CHARACTERS = 32 << 20
"""Characters of documents in a shard of a table: what is lost when a build is killed, and what is in memory at most
three times.
"""
PARTS_AHEAD = 1
"""Parts that are read while an earlier one is being cut."""
MOST_WORKERS = 16
"""Processes that cut, at most: one that reads feeds no more. Each has about 130 MB."""
APART = 4 << 20
"""Characters of a part from which on it is cut in worker processes, which take a third of a second to start."""
HELD_CHARACTERS = 16 << 20
"""Characters of document texts that a table keeps taken out of Arrow; where more are asked for, it begins anew."""
UNKNOWN = 99_999
"""The number of shards that the parts of an unfinished table name: how many there will be is not known yet."""


NUMBERS = ("document", "start", "end", "tokens", "print")
"""Columns of a table's segments on disk, beside their keys."""


class SegmentTable:
    """Documents, and segments known by number: `text(i)`, `tokens[i]`, `key(i)`, `document_of(i)`.

    The segments' places are numpy arrays. Texts come from memory (a table just built) or from Parquet row
    groups that are loaded when needed (a table from disk).
    """

    def __init__(
        self,
        documents: Sequence[Any],
        columns: dict[str, np.ndarray],
        keys: Sequence[str],
        fingerprint: str,
        info: dict[str, Any],
    ) -> None:
        self._documents = documents
        self.documents: np.ndarray = columns["document"]
        """int32 [n]: each segment's document."""
        self.starts: np.ndarray = columns["start"]
        self.ends: np.ndarray = columns["end"]
        self.tokens: np.ndarray = columns["tokens"]
        """int32 [n]: each segment's length by the tokenizer that cut it."""
        self.key_ids: np.ndarray = columns["key"]
        """int32 [n]: equal for segments of one key, -1 where a segment has none."""
        self.prints: np.ndarray | None = columns.get("print")
        """int32 [n]: checksums of the texts without blanks around them; None in a table of an earlier version."""
        self._keys = keys
        self.fingerprint = fingerprint
        """Hex digest of the documents and the cuts."""
        self.info = info
        """What cut it: tokenizer, its fingerprint, min_tokens, mode."""
        self._firsts = np.searchsorted(self.documents, np.arange(len(documents) + 1))
        self._held: dict[int, str] = {}
        self._held_characters = 0

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def document_count(self) -> int:
        """Number of documents, those without a segment included."""
        return len(self._documents)

    def text(self, index: int) -> str:
        """The characters of one segment."""
        return self._document_text(int(self.documents[index]))[self.starts[index] : self.ends[index]]

    def texts(self, indices: Iterable[int]) -> list[str]:
        """The characters of several segments, in the order asked for."""
        return [self.text(index) for index in indices]

    @cached_property
    def mean_tokens(self) -> float:
        """The mean length of a segment."""
        return float(self.tokens.mean()) if len(self) else 0.0

    @property
    def keyed(self) -> bool:
        """Whether any segment has a key."""
        return bool(self._keys)

    def said(self, index: int) -> Hashable:
        """What stands for a segment's text without blanks around it: equal for equal ones. It reads no text."""
        return int(self.prints[index]) if self.prints is not None else self.text(index).strip()

    def key(self, index: int) -> str | None:
        """The lookup key of a segment, where its corpus gives one."""
        number = int(self.key_ids[index])
        return self._keys[number] if number >= 0 else None

    def key_number(self, key: str) -> int:
        """The number that stands for a key in `key_ids`, or -1 where no segment has it."""
        if not hasattr(self, "_numbers"):
            self._numbers = {name: number for number, name in enumerate(self._keys)}
        return self._numbers.get(key, -1)

    def document_of(self, index: int) -> int:
        """Number of the document that a segment comes from."""
        return int(self.documents[index])

    def segments_of(self, document: int) -> range:
        """Numbers of a document's segments, in the document's order."""
        return range(int(self._firsts[document]), int(self._firsts[document + 1]))

    def segment(self, index: int) -> Segment:
        """One segment as a record."""
        return Segment(
            self.document_of(index),
            int(self.starts[index]),
            int(self.ends[index]),
            int(self.tokens[index]),
            self.key(index),
        )

    def document(self, number: int) -> Document:
        """One document with its id, whole text and meta."""
        entry = self._documents[number]
        if isinstance(entry, Document):
            return entry
        return Document(entry["id"], entry["text"], json.loads(entry["meta"]))

    def save(self, folder: str | Path, *, shards: int = 1) -> Path:
        """Write documents, segments and `table.json`; the same table gives the same bytes.

        Raises LcxError for a full or read-only disk.
        """
        place = make_folder(folder)
        bounds = np.linspace(0, self.document_count, shards + 1).astype(int).tolist()
        for shard, (low, high) in enumerate(pairwise(bounds)):
            self.write_shard(place, shard, shards, low=low, high=high)
        # Written last: a folder without it is a table that was never finished.
        write_json(
            place / "table.json",
            sealed(
                {
                    "fingerprint": self.fingerprint,
                    "documents": self.document_count,
                    "segments": len(self),
                    **self.info,
                }
            ),
        )
        return place

    def write_shard(
        self, folder: Path, index: int, count: int, *, low: int = 0, high: int | None = None, first: int = 0
    ) -> None:
        """Write documents `[low, high)` and their segments as one shard; `first` is added to the documents' numbers."""
        import pyarrow as pa

        from lcx.storage import write_parquet, write_tables

        high = self.document_count if high is None else high
        schema = pa.schema([("id", pa.string()), ("text", pa.string()), ("meta", pa.string())])
        write_parquet(
            folder,
            "documents",
            (self._row(number) for number in range(low, high)),
            schema,
            index=index,
            count=count,
            weigh=lambda row: len(row["text"]),
            group_weight=BYTES_A_GROUP,
        )
        tables = self._arrow(int(self._firsts[low]), int(self._firsts[high]), first)
        write_tables(folder, "segments", tables, _segment_schema(), index=index, count=count)

    def _row(self, number: int) -> dict[str, str]:
        document = self.document(number)
        return {
            "id": document.id,
            "text": document.text,
            "meta": json_text(document.meta, default=str),
        }

    def _arrow(self, begin: int, last: int, first: int) -> Iterator[Any]:
        import pyarrow as pa

        for low in range(begin, last, SEGMENTS_A_GROUP):
            part = slice(low, min(low + SEGMENTS_A_GROUP, last))
            keys = [self._keys[number] if number >= 0 else None for number in self.key_ids[part].tolist()]
            numbers = [
                self.documents[part] + np.int32(first),
                self.starts[part],
                self.ends[part],
                self.tokens[part],
                _prints(self.texts(range(low, part.stop))) if self.prints is None else self.prints[part],
            ]
            columns = [*(pa.array(column, pa.int32()) for column in numbers), pa.array(keys, pa.string())]
            yield pa.Table.from_arrays(columns, schema=_segment_schema())

    def _document_text(self, number: int) -> str:
        # Taking a text out of Arrow costs some 25 us and a copy of it, and a context takes a segment here and there.
        text = self._held.get(number)
        if text is None:
            entry = self._documents[number]
            text = entry.text if isinstance(entry, Document) else entry["text"]
            if self._held_characters + len(text) > HELD_CHARACTERS:
                self._held, self._held_characters = {}, 0
            self._held[number] = text
            self._held_characters += len(text)
        return text

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_held": {}, "_held_characters": 0}


def build_table(
    documents: Iterable[Document],
    tokenizer: SpanTokenizer,
    *,
    min_tokens: int = 128,
    mode: str = "length",
    keep_short: bool = True,
) -> SegmentTable:
    """Cut documents into segments, by the length rule or a segment a line (`mode="lines"`), all in memory.

    `meta["keys"]`, one for each line that is not blank, become the segments' keys in mode `lines`; the lines in
    `meta["stale"]` get none, since a decoy is not what its key stands for. `write_table` makes the same table on disk.
    Raises UsageError for an unknown mode, or where no segment comes out.
    """
    rule = _Rule(min_tokens, mode, keep_short)
    prints = []
    kept: list[Document] = []
    spans: list[np.ndarray] = []
    for held in _parts(iter(documents)):
        found = [one for batch in _batches(held) for one in _cut(tokenizer, rule, batch)]
        prints.append(_fingerprint(tokenizer, rule, held, found, len(kept)))
        kept += held
        spans += found
    _check_any(sum(map(len, spans)), len(kept), tokenizer, rule)
    return _table(kept, spans, rule, _joined_fingerprint(prints), _info(tokenizer, rule))


@dataclass(frozen=True)
class _Rule:
    """How documents are cut. Raises UsageError for an unknown mode."""

    min_tokens: int
    mode: str
    keep_short: bool

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise UsageError(f"unknown segment mode '{self.mode}'", hint=f"Choose one of {', '.join(MODES)}.")

    def spans(self, text: str, starts: np.ndarray) -> list[Span]:
        """The segments of one document."""
        if self.mode == "lines":
            return line_spans(text, starts)
        return segment_spans(text, starts, self.min_tokens, keep_short=self.keep_short)


def _parts(documents: Iterator[Document]) -> Iterator[list[Document]]:
    """The documents in runs of about PART_CHARACTERS. Where a run ends follows from the documents alone."""
    held: list[Document] = []
    size = 0
    for document in documents:
        held.append(document)
        size += len(document.text)
        if size >= PART_CHARACTERS:
            yield held
            held, size = [], 0
    if held:
        yield held


def _batches(documents: Sequence[Document]) -> Iterator[list[str]]:
    """The texts of documents, so many at a time that the offsets of their tokens stay small."""
    batch: list[str] = []
    size = 0
    for document in documents:
        batch.append(document.text)
        size += len(document.text)
        if len(batch) == DOCUMENTS_A_BATCH or size >= CHARACTERS_A_BATCH:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _cut(tokenizer: SpanTokenizer, rule: _Rule, texts: Sequence[str]) -> list[np.ndarray]:
    """The segments of texts, each as int32 [n, 4]: their spans and checksums."""
    found = []
    for text, starts in zip(texts, tokenizer.starts(texts), strict=True):
        spans = rule.spans(text, starts)
        prints = _prints([text[begin:end] for begin, end, _ in spans])
        found.append(np.column_stack([np.array(spans, np.int32).reshape(-1, 3), prints]))
    return found


def _prints(texts: Sequence[str]) -> np.ndarray:
    """int32: the checksum of each text without the blanks around it, by which equal ones are found without reading."""
    sums = [zlib.crc32(text.strip().encode()) for text in texts]
    return np.array(sums, np.uint32).view(np.int32)


def _cut_apart(spec: str, fingerprint: str, rule: _Rule, texts: Sequence[str]) -> list[np.ndarray]:
    """As `_cut`, in a worker process that opens the tokenizer by itself."""
    tokenizer = _opened(spec)
    if tokenizer.fingerprint != fingerprint:
        raise LcxError(
            f"the tokenizer '{spec}' has changed while a corpus was cut", hint="Run the step again."
        )
    return _cut(tokenizer, rule, texts)


_opened = lru_cache(maxsize=1)(open_span_tokenizer)


def _fingerprint(
    tokenizer: SpanTokenizer,
    rule: _Rule,
    documents: Sequence[Document],
    spans: Sequence[np.ndarray],
    first: int,
) -> str:
    """Hex digest of one part of a table, its first document having the number `first`."""
    head = f"{tokenizer.fingerprint} {rule.min_tokens} {rule.mode} {rule.keep_short}\n"
    digest = hashlib.sha256(head.encode())
    for number, (document, found) in enumerate(zip(documents, spans, strict=True), first):
        digest.update(json.dumps([document.id, document.meta], sort_keys=True, default=str).encode())
        digest.update(b"\0" + document.text.encode() + b"\0")
        rows = np.insert(found[:, :3], 0, number, axis=1)
        digest.update(rows.astype("<i4").tobytes())
    return digest.hexdigest()


def _joined_fingerprint(prints: Sequence[str]) -> str:
    """The fingerprint of a table from those of its parts; that of the part where there is but one."""
    return prints[0] if len(prints) == 1 else hashlib.sha256("\n".join(prints).encode()).hexdigest()


def _info(tokenizer: SpanTokenizer, rule: _Rule) -> dict[str, Any]:
    return {
        "tokenizer": tokenizer.name,
        "tokenizer_fingerprint": tokenizer.fingerprint,
        "min_tokens": rule.min_tokens,
        "mode": rule.mode,
    }


def _check_any(segments: int, documents: int, tokenizer: SpanTokenizer, rule: _Rule) -> None:
    if not segments:
        raise UsageError(
            "no segment came out of the corpus",
            why=f"{documents} documents, none with {rule.min_tokens} tokens by '{tokenizer.name}'.",
            hint="Give more text, or ask for shorter segments.",
        )


def _table(
    documents: Sequence[Document],
    spans: Sequence[np.ndarray],
    rule: _Rule,
    fingerprint: str,
    info: dict[str, Any],
) -> SegmentTable:
    """A table in memory, of documents with their segments. Raises LcxError where keys do not match the lines."""
    numbers: dict[str, int] = {}
    keys: list[int] = []
    for document, found in zip(documents, spans, strict=True):
        named = document.meta.get("keys") if rule.mode == "lines" else None
        if named is not None and len(named) != len(found):
            raise LcxError(f"document {document.id} has {len(named)} keys for {len(found)} lines")
        stale = frozenset(document.meta.get("stale") or ())
        keys += (
            [
                -1 if place in stale else numbers.setdefault(str(key), len(numbers))
                for place, key in enumerate(named)
            ]
            if named
            else [-1] * len(found)
        )
    rows = np.concatenate([*spans, np.empty((0, 4), np.int32)])
    columns = {name: rows[:, place].copy() for place, name in enumerate(("start", "end", "tokens", "print"))}
    columns["document"] = np.repeat(np.arange(len(documents), dtype=np.int32), [len(one) for one in spans])
    columns["key"] = np.array(keys, np.int32)
    return SegmentTable(documents, columns, list(numbers), fingerprint, info)


def write_table(
    folder: str | Path,
    documents: Iterable[Document],
    spec: str,
    *,
    min_tokens: int = 128,
    mode: str = "length",
    keep_short: bool = True,
    workers: int | None = None,
    told: Callable[[int, int], None] = lambda documents, characters: None,
    before_end: Callable[[], None] = lambda: None,
) -> Path:
    """The table of `build_table`, written while documents are read: only a few parts of it are ever in memory.

    `spec` names the tokenizer. A large corpus is cut in `workers` processes (by default one for each core, 16 at
    most), a part of PART_CHARACTERS after the other, each of which becomes a shard of its own. Parts that an earlier,
    killed call left in `folder.parts` are taken over where they hold the same documents, so the work goes on where it
    was; the documents are read again, not cut. The bytes are the same whatever the workers and the kills. `told` is
    called with the documents and characters so far; `before_end` just before the table counts as finished. Raises
    UsageError where no segment comes out, LcxError for a full disk.
    """
    target = Path(folder)
    building = target.with_name(f"{target.name}.parts")
    rule = _Rule(min_tokens, mode, keep_short)
    tokenizer = open_span_tokenizer(spec)
    head = f"{tokenizer.fingerprint} {rule} {PART_CHARACTERS}"
    counts = [0, 0]  # documents and segments of the parts so far
    characters = 0
    prints: list[str] = []
    make_folder(building)
    with ExitStack() as stack:
        journal = stack.enter_context(Journal(building / "parts.jsonl", of=sha256_text(head)))
        cutters = stack.enter_context(Workers(min(MOST_WORKERS, cores()) if workers is None else workers))

        def begin(part: list[Document]) -> Callable[[], list[np.ndarray]]:
            size = sum(len(document.text) for document in part)
            if cutters.count < 2 or size < APART:
                return lambda: [one for batch in _batches(part) for one in _cut(tokenizer, rule, batch)]
            begun = [
                cutters.submit(_cut_apart, spec, tokenizer.fingerprint, rule, batch)
                for batch in _batches(part)
            ]
            return lambda: [one for batch in begun for one in batch.result()]

        waiting: deque[tuple[list[Document], dict[str, Any], Callable[[], list[np.ndarray]] | None]] = deque()

        def end(
            part: list[Document], entry: dict[str, Any], cut: Callable[[], list[np.ndarray]] | None
        ) -> None:
            nonlocal characters
            if cut is not None:
                found = cut()
                made = _table(part, found, rule, "", {})
                made.write_shard(building, len(prints), UNKNOWN, first=counts[0])
                entry["fingerprint"] = _fingerprint(tokenizer, rule, part, found, counts[0])
                entry["segments"] = len(made)
                journal.append(entry)
            prints.append(entry["fingerprint"])
            counts[0] += entry["documents"]
            counts[1] += entry["segments"]
            characters += entry["characters"]
            told(counts[0], characters)

        for number, part in enumerate(_parts(iter(documents))):
            entry = {"unit": str(number), **_described(part)}
            known = journal.get(str(number))
            there = all(
                shard_path(building, name, number, UNKNOWN).is_file() for name in ("documents", "segments")
            )
            if known and there and all(known[name] == entry[name] for name in entry):
                waiting.append(([], known, None))
            else:
                waiting.append((part, entry, begin(part)))
            del part
            while len(waiting) > PARTS_AHEAD:
                end(*waiting.popleft())
        while waiting:
            end(*waiting.popleft())
        _check_any(counts[1], counts[0], tokenizer, rule)
    before_end()
    _finish(building, target, prints, counts, _info(tokenizer, rule))
    return target


def _described(part: Sequence[Document]) -> dict[str, Any]:
    """What a part is known by when a killed build goes on: the digest of its documents, and how much they are."""
    digest = hashlib.blake2b(digest_size=16)
    for document in part:
        digest.update(json.dumps([document.id, document.meta], sort_keys=True, default=str).encode())
        digest.update(b"\0" + document.text.encode() + b"\0")
    size = sum(len(document.text) for document in part)
    return {"documents": len(part), "characters": size, "digest": digest.hexdigest()}


def _finish(
    building: Path, target: Path, prints: Sequence[str], counts: Sequence[int], info: Mapping[str, Any]
) -> None:
    """Name the parts as the shards that they are, and say that the table is whole."""
    make_folder(target)
    for name in ("documents", "segments"):
        names = {shard_path(target, name, number, len(prints)) for number in range(len(prints))}
        for old in {*target.glob(f"{name}-*-of-*")} - names:
            old.unlink()
        for number, path in enumerate(sorted(names)):
            path.unlink(missing_ok=True)  # of an earlier table, were it the same number of shards
            link_file(shard_path(building, name, number, UNKNOWN), path)
    # Written last: a folder without it is a table that was never finished.
    known = {"fingerprint": _joined_fingerprint(prints), "documents": counts[0], "segments": counts[1]}
    write_json(target / "table.json", sealed({**known, **info}))
    shutil.rmtree(building, ignore_errors=True)


def load_table(folder: str | Path, *, cache_bytes: int = 256 << 20) -> SegmentTable:
    """Open a saved table; document texts stay on disk, up to `cache_bytes` of them are held at a time.

    Raises MissingError for missing shards, LcxError for a table that was never finished or is damaged.
    """
    import pyarrow as pa

    from lcx.storage import ShardReader, group_sizes, list_shards, read_group

    place = Path(folder)
    if not (place / "table.json").is_file():
        raise LcxError(f"{place} holds no finished segment table", hint="Run the synth step again.")
    known = read_json(place / "table.json")
    if not isinstance(known, dict) or is_broken(known):
        raise LcxError(
            f"{place / 'table.json'} is damaged",
            why="It is not as it was written.",
            hint="Start the step that wrote it over: the same command with --force (paid replies are kept).",
        )
    documents = ShardReader(place, "documents", cache_bytes=cache_bytes)
    columns: dict[str, list[np.ndarray]] = {name: [] for name in (*NUMBERS, "key")}
    numbers: dict[str, int] = {}
    for path in list_shards(place, "segments"):
        groups = [read_group(path, number) for number in range(len(group_sizes(path)))]
        table = pa.concat_tables(groups) if groups else _segment_schema().empty_table()
        for name in NUMBERS:
            if name not in table.column_names:  # of an earlier version
                columns.pop(name, None)
                continue
            columns[name].append(table[name].to_numpy().astype(np.int32, copy=False))
        if table["key"].null_count == len(table):
            columns["key"].append(np.full(len(table), -1, np.int32))
        else:
            found = [
                -1 if key is None else numbers.setdefault(key, len(numbers))
                for key in table["key"].to_pylist()
            ]
            columns["key"].append(np.array(found, np.int32))
    whole = {name: np.concatenate(parts) for name, parts in columns.items()}
    counts = (len(documents), len(whole["tokens"]))
    if counts != (known["documents"], known["segments"]):
        raise LcxError(
            f"{place} holds {counts[0]} documents and {counts[1]} segments, but table.json says otherwise",
            why=f"table.json: {known['documents']} and {known['segments']}.",
            hint="Remove the folder and run the synth step again.",
        )
    info = {k: v for k, v in known.items() if k not in {"fingerprint", "documents", "segments", SEAL}}
    return SegmentTable(documents, whole, list(numbers), known["fingerprint"], info)


def link_table(source: Path, target: Path) -> None:
    """Put a table beside other bundles that refer to it: links where the disk can, else copies."""
    for pattern in TABLE_FILES:  # table.json last: with it the table counts as whole
        for path in sorted(source.glob(pattern)):
            link_file(path, target / path.name)


def _segment_schema() -> Any:
    import pyarrow as pa

    numbers = [(name, pa.int32()) for name in NUMBERS]
    return pa.schema([*numbers, ("key", pa.string())])


SMALL = 1 << 20
"""Bytes of a corpus that a forecast reads: of a larger one it takes for granted that there is enough."""


def small_table(settings: Any, *, min_tokens: int, mode: str, questions: bool = False) -> SegmentTable | None:
    """The table of a step's corpus for its forecast; None for a large one, one of the hub, and one that is not there.

    `settings` are a synth step's; nothing is written, and no model is loaded.
    """
    corpus, tokenizer = str(settings.corpus), str(settings.tokenizer)
    if corpus.startswith("hf:") or not (tokenizer in BUILTIN or Path(tokenizer).expanduser().exists()):
        return None
    # The standard library is large, and its sources take ten seconds to parse; records are made at once
    if corpus == "stdlib" and settings.documents is None:
        return None
    if not corpus.startswith("stdlib") and _bytes_of(Path(corpus).expanduser()) > SMALL:
        return None
    held: list[Document] = []
    size = 0
    try:
        stream = read_corpus(
            corpus,
            limit=settings.documents,
            questions=questions,
            fields=getattr(settings, "fields", None),
            encoding=getattr(settings, "encoding", "utf-8"),
        )
        for document in once_each(stream, Counter()):
            size += len(document.text)
            if size > SMALL:
                return None
            held.append(document)
        return build_table(held, open_span_tokenizer(tokenizer), min_tokens=min_tokens, mode=mode)
    except (LcxError, OSError):
        return None


def _bytes_of(place: Path) -> int:
    """The bytes of a file or of all files of a folder, as far as `SMALL` goes."""
    total = 0
    for file in [place] if place.is_file() else place.rglob("*"):
        if file.is_file():
            total += file.stat().st_size
        if total > SMALL:
            break
    return total


DOUBLE = "dropped: same text as an earlier document"


def step_table(
    folder: Path,
    corpus: str,
    *,
    documents: int | None,
    tokenizer: str,
    min_tokens: int,
    mode: str,
    decontaminate: Sequence[str],
    counts: Counter[str],
    log: Callable[[str], None],
    questions: bool = False,
    fields: Mapping[str, str] | None = None,
    encoding: str = "utf-8",
    pulse: Callable[[str], None] = lambda text: None,
) -> SegmentTable:
    """The table in `folder/data`: loaded where an earlier process finished it, else built from the corpus.

    What could not be read goes to `rejected.jsonl`, what shares text with an evaluation item to `contaminated.jsonl`,
    the numbers into `counts`. `questions`, `fields` and `encoding` are those of `read_corpus`. A text that an earlier
    document has is dropped and counted: twice in one context, it would be evidence twice. Raises
    UsageError where nothing is left.
    """
    data = folder / "data"
    if (data / "table.json").is_file():
        shutil.rmtree(folder / "data.parts", ignore_errors=True)  # of a build that was killed as it ended
    else:
        log(f"reading {corpus}")
        rejects = Rejects()
        notes: list[str] = []
        doubles: Counter[str] = Counter()
        stream = read_corpus(
            corpus,
            limit=documents,
            rejects=rejects,
            questions=questions,
            fields=fields,
            encoding=encoding,
            notes=notes,
        )
        stream = once_each(stream, doubles)
        sieves = [Decontaminator(path) for path in decontaminate]
        for sieve in sieves:
            stream = sieve.filter(stream)

        def end() -> None:  # what is said before the table counts as finished is said once and for all
            _set_aside(folder, sieves, rejects, doubles)
            for note in notes:
                log(f"    {note}")
            if len(rejects):
                place = folder / "rejected.jsonl"
                log(f"    set aside ({place}): {rejects.summary()}; accepted: {ACCEPTED}")

        def told(count: int, characters: int) -> None:
            pulse(f"    cut {count:,} documents, {characters:,} characters")

        try:
            write_table(data, stream, tokenizer, min_tokens=min_tokens, mode=mode, told=told, before_end=end)
        except UsageError:
            _set_aside(folder, sieves, rejects, doubles)
            if any(sieve.dropped for sieve in sieves) and not any(sieve.kept for sieve in sieves[-1:]):
                raise UsageError(
                    "every document shares text with an evaluation item, so none is left",
                    why=f"the list is in {folder / 'contaminated.jsonl'}",
                    hint="Check the files of synth.decontaminate.",
                ) from None
            raise
    table = load_table(data)
    if (folder / "corpus.json").is_file():
        counts.update(read_json(folder / "corpus.json"))
    counts["documents"], counts["segments"] = table.document_count, len(table)
    log(f"{len(table):,} segments from {table.document_count:,} documents")
    return table


def once_each(documents: Iterator[Document], counts: Counter[str]) -> Iterator[Document]:
    """The documents without those whose text and questions an earlier one has; they are counted."""
    seen = _Seen()
    for document in documents:
        said = f"{document.text}\0{document.meta.get('qa')}".encode()
        if seen.add(hashlib.blake2b(said, digest_size=SEEN).digest()):
            yield document
        else:
            counts[DOUBLE] += 1


SEEN = 16
"""Bytes of the digest by which a text is known again."""


class _Seen:
    """Digests that came before, at about 30 bytes each: a Python set takes a hundred, a gigabyte for ten million."""

    def __init__(self) -> None:
        self._count = 0
        self._places = 1 << 10
        self._table = bytearray(SEEN * self._places)

    def add(self, digest: bytes) -> bool:
        """Whether a digest is new; from now on it is not."""
        place = self._place(digest)
        if self._table[place : place + SEEN] == digest:
            return False
        self._table[place : place + SEEN] = digest
        self._count += 1
        if 3 * self._count > 2 * self._places:
            old, self._places = self._table, 2 * self._places
            self._table = bytearray(SEEN * self._places)
            for start in range(0, len(old), SEEN):
                one = bytes(old[start : start + SEEN])
                if any(one):
                    place = self._place(one)
                    self._table[place : place + SEEN] = one
        return True

    def _place(self, digest: bytes) -> int:
        """Where a digest is, or the free place where it would be."""
        number = int.from_bytes(digest[:8], "little") % self._places
        free = bytes(SEEN)
        while self._table[SEEN * number : SEEN * (number + 1)] not in (digest, free):
            number = (number + 1) % self._places
        return SEEN * number


def _set_aside(
    folder: Path, sieves: Sequence[Decontaminator], rejects: Rejects, doubles: Counter[str]
) -> None:
    """Write down what the corpus lost and why: counts, contaminated documents, rows that could not be read."""
    found = {f"set aside: {reason}": n for reason, n in rejects.counts.items()} | dict(doubles)
    dropped = [drop for sieve in sieves for drop in sieve.dropped]
    if dropped:
        found["dropped: shares text with an evaluation item"] = len(dropped)
        write_lines(folder / "contaminated.jsonl", (asdict(drop) for drop in dropped))
    if len(rejects):
        rejects.write(folder / "rejected.jsonl")
    write_json(folder / "corpus.json", dict(sorted(found.items())))
