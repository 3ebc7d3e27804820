"""The segment table: a corpus's documents and the segments cut from them, in Parquet."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import numpy as np

from lcx.data.segments import line_spans, segment_spans
from lcx.data.tokenizing import SpanTokenizer
from lcx.errors import LcxError, UsageError
from lcx.records import Document, Segment
from lcx.work.files import link_file, make_folder, read_json, write_json

MODES = ("length", "lines")
TABLE_FILES = ("documents-*", "segments-*", "table.json")
DOCUMENTS_A_BATCH = 256
BYTES_A_BATCH = 8 << 20
SEGMENTS_A_GROUP = 1 << 16


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
        self._keys = keys
        self.fingerprint = fingerprint
        """Hex digest of the documents and the cuts."""
        self.info = info
        """What cut it: tokenizer, its fingerprint, min_tokens, mode."""
        self._firsts = np.searchsorted(self.documents, np.arange(len(documents) + 1))
        self._recent: tuple[int, str] = (-1, "")

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
        import pyarrow as pa

        from lcx.work.shards import write_parquet, write_tables

        place = make_folder(folder)
        schema = pa.schema([("id", pa.string()), ("text", pa.string()), ("meta", pa.string())])
        bounds = np.linspace(0, self.document_count, shards + 1).astype(int).tolist()
        for shard, (low, high) in enumerate(pairwise(bounds)):
            rows = (self._row(number) for number in range(low, high))
            write_parquet(
                place,
                "documents",
                rows,
                schema,
                index=shard,
                count=shards,
                weigh=lambda row: len(row["text"]),
                group_weight=BYTES_A_BATCH,
            )
            first, last = int(self._firsts[low]), int(self._firsts[high])
            write_tables(
                place, "segments", self._arrow(first, last), _segment_schema(), index=shard, count=shards
            )
        # Written last: a folder without it is a table that was never finished.
        write_json(
            place / "table.json",
            {
                "fingerprint": self.fingerprint,
                "documents": self.document_count,
                "segments": len(self),
                **self.info,
            },
        )
        return place

    def _row(self, number: int) -> dict[str, str]:
        document = self.document(number)
        return {
            "id": document.id,
            "text": document.text,
            "meta": json.dumps(document.meta, ensure_ascii=False, default=str),
        }

    def _arrow(self, first: int, last: int) -> Iterator[Any]:
        import pyarrow as pa

        for low in range(first, last, SEGMENTS_A_GROUP):
            part = slice(low, min(low + SEGMENTS_A_GROUP, last))
            keys = [self._keys[number] if number >= 0 else None for number in self.key_ids[part].tolist()]
            numbers = [self.documents[part], self.starts[part], self.ends[part], self.tokens[part]]
            columns = [*(pa.array(column, pa.int32()) for column in numbers), pa.array(keys, pa.string())]
            yield pa.Table.from_arrays(columns, schema=_segment_schema())

    def _document_text(self, number: int) -> str:
        # Segments are mostly read in order, and taking a text out of Arrow costs a copy of it.
        if self._recent[0] != number:
            entry = self._documents[number]
            self._recent = (number, entry.text if isinstance(entry, Document) else entry["text"])
        return self._recent[1]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_recent": (-1, "")}


def build_table(
    documents: Iterable[Document],
    tokenizer: SpanTokenizer,
    *,
    min_tokens: int = 128,
    mode: str = "length",
    keep_short: bool = True,
) -> SegmentTable:
    """Cut documents into segments, by the length rule or a segment a line (`mode="lines"`).

    `meta["keys"]`, one for each line that is not blank, become the segments' keys in mode `lines`; the lines in
    `meta["stale"]` get none, since a decoy is not what its key stands for. Raises
    UsageError for an unknown mode, or where no segment comes out.
    """
    if mode not in MODES:
        raise UsageError(f"unknown segment mode '{mode}'", hint=f"Choose one of {', '.join(MODES)}.")
    kept: list[Document] = []
    parts: list[np.ndarray] = []
    digest = hashlib.sha256(f"{tokenizer.fingerprint} {min_tokens} {mode} {keep_short}\n".encode())
    numbers: dict[str, int] = {}
    key_parts: list[list[int]] = []
    stream = iter(documents)
    while batch := _batch(stream):
        for document, starts in zip(batch, tokenizer.starts([doc.text for doc in batch]), strict=True):
            if mode == "lines":
                spans = line_spans(document.text, starts)
            else:
                spans = segment_spans(document.text, starts, min_tokens, keep_short=keep_short)
            keys = document.meta.get("keys") if mode == "lines" else None
            if keys is not None and len(keys) != len(spans):
                raise LcxError(f"document {document.id} has {len(keys)} keys for {len(spans)} lines")
            digest.update(json.dumps([document.id, document.meta], sort_keys=True, default=str).encode())
            digest.update(b"\0" + document.text.encode() + b"\0")
            rows = np.array([(len(kept), *span) for span in spans], np.int32).reshape(-1, 4)
            digest.update(rows.astype("<i4").tobytes())
            parts.append(rows)
            stale = frozenset(document.meta.get("stale") or ())
            key_parts.append(
                [
                    -1 if place in stale else numbers.setdefault(str(key), len(numbers))
                    for place, key in enumerate(keys)
                ]
                if keys
                else [-1] * len(spans)
            )
            kept.append(document)
    if not any(len(rows) for rows in parts):
        raise UsageError(
            "no segment came out of the corpus",
            why=f"{len(kept)} documents, none with {min_tokens} tokens by '{tokenizer.name}'.",
            hint="Give more text, or ask for shorter segments.",
        )
    rows = np.concatenate(parts)
    columns = {
        name: rows[:, place].copy() for place, name in enumerate(("document", "start", "end", "tokens"))
    }
    columns["key"] = np.fromiter((number for part in key_parts for number in part), np.int32)
    info = {
        "tokenizer": tokenizer.name,
        "tokenizer_fingerprint": tokenizer.fingerprint,
        "min_tokens": min_tokens,
        "mode": mode,
    }
    return SegmentTable(kept, columns, list(numbers), digest.hexdigest(), info)


def load_table(folder: str | Path, *, cache_bytes: int = 256 << 20) -> SegmentTable:
    """Open a saved table; document texts stay on disk, up to `cache_bytes` of them are held at a time.

    Raises MissingError for missing shards, LcxError for a table that was never finished or is damaged.
    """
    import pyarrow.parquet as pq

    from lcx.work.shards import ShardReader, list_shards

    place = Path(folder)
    if not (place / "table.json").is_file():
        raise LcxError(f"{place} holds no finished segment table", hint="Run the synth step again.")
    known = read_json(place / "table.json")
    documents = ShardReader(place, "documents", cache_bytes=cache_bytes)
    columns: dict[str, list[np.ndarray]] = {
        name: [] for name in ("document", "start", "end", "tokens", "key")
    }
    numbers: dict[str, int] = {}
    for path in list_shards(place, "segments"):
        table = pq.read_table(path, memory_map=True)
        for name in ("document", "start", "end", "tokens"):
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
    info = {k: v for k, v in known.items() if k not in {"fingerprint", "documents", "segments"}}
    return SegmentTable(documents, whole, list(numbers), known["fingerprint"], info)


def link_table(source: Path, target: Path) -> None:
    """Put a table beside other bundles that refer to it: links where the disk can, else copies."""
    for pattern in TABLE_FILES:  # table.json last: with it the table counts as whole
        for path in sorted(source.glob(pattern)):
            link_file(path, target / path.name)


def _batch(stream: Iterator[Document]) -> list[Document]:
    """The next documents, up to a number and a size, so that one batch's offsets stay small."""
    batch: list[Document] = []
    size = 0
    for document in islice(stream, DOCUMENTS_A_BATCH):
        batch.append(document)
        size += len(document.text)
        if size >= BYTES_A_BATCH:
            break
    return batch


def _segment_schema() -> Any:
    import pyarrow as pa

    numbers = [(name, pa.int32()) for name in ("document", "start", "end", "tokens")]
    return pa.schema([*numbers, ("key", pa.string())])
