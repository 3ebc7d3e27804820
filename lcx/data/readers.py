"""Documents from text, Markdown, JSONL, Parquet and code files; what cannot be used is set aside."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from lcx.data.files import Rejects
from lcx.records import Document

TEXT_FIELDS = ("text", "content", "document")
"""Fields of a row that may hold its text; the first one present counts."""
PLAIN = frozenset({".txt", ".text", ".md", ".markdown", ".rst"})
ROWS = frozenset({".jsonl", ".ndjson"})
_CODE_NAMES = """
    py pyi ipy js mjs jsx ts tsx java kt scala groovy c h cc cpp cxx hpp hh cs go rs swift rb
    php pl pm lua r jl hs ml mli fs clj ex exs erl el lisp scm sh bash zsh fish ps1 sql css scss
    vue zig nim d dart m mm f90 f v sv vhd proto cmake tex
"""
CODE = frozenset(f".{name}" for name in _CODE_NAMES.split())


class RowReader(Protocol):
    """What makes a document of a row of JSONL, Parquet or a dataset: `row_document`, or a method's own."""

    def __call__(
        self, row: Any, name: str, where: str, rejects: Rejects, *, fallback_id: str | None = None
    ) -> Document | None: ...


def read_file(
    name: str, path: Path, rejects: Rejects, *, named: bool = False, rows: RowReader | None = None
) -> Iterator[Document]:
    """Documents of one file, `name` being what ids and rejects call it.

    `named` says that the user named this very file: then an unknown extension is read as plain text. `rows`
    reads the rows of JSONL and Parquet in place of `row_document`, and sees all of a row's fields.
    """
    ending = path.suffix.lower()
    packed = ending == ".gz"
    if packed:
        ending = Path(path.stem).suffix.lower()
    try:
        if ending in ROWS:
            yield from _json_rows(name, path, packed, rejects, rows or row_document)
        elif ending == ".parquet" and not packed:
            yield from _parquet_rows(name, path, rejects, rows)
        elif packed:
            rejects.add(name, "unknown file type", detail=path.name.partition(".")[2])
        elif ending in PLAIN or ending in CODE or named:
            yield from _whole_file(name, path, "code" if ending in CODE else "text", rejects)
        else:
            with path.open("rb") as file:
                binary = b"\0" in file.read(8192)
            reason = "binary file" if binary else "unknown file type"
            rejects.add(name, reason, detail=ending or "no extension")
    except OSError as bad:
        rejects.add(name, "unreadable file", detail=bad.strerror or str(bad))


def row_document(
    row: Any, name: str, where: str, rejects: Rejects, *, fallback_id: str | None = None
) -> Document | None:
    """The document in a row, or None with the reason set aside. `where` is the row's place, e.g. `line 7`."""
    if not isinstance(row, Mapping):
        rejects.add(name, "not an object", where=where, detail=type(row).__name__)
        return None
    column = next((key for key in TEXT_FIELDS if key in row), None)
    if column is None:
        have = ", ".join(str(key) for key in list(row)[:8])
        rejects.add(name, "no text field", where=where, detail=f"has {have}" if have else "no fields")
        return None
    text = row[column]
    if not isinstance(text, str):
        rejects.add(name, "text is not a string", where=where, detail=type(text).__name__)
        return None
    given = row.get("id")
    known = row.get("meta")
    meta = dict(known) if isinstance(known, Mapping) else {}
    kind = row.get("kind")
    meta.setdefault("kind", kind if isinstance(kind, str) else "text")
    number = where.split()[-1]
    own = str(given) if isinstance(given, str | int) and str(given) else fallback_id or f"{name}:{number}"
    return usable(Document(own, text, meta), name, where, rejects)


def usable(document: Document, name: str, where: str, rejects: Rejects) -> Document | None:
    """The document, or None (set aside) where it is empty or holds what UTF-8 cannot carry."""
    if not document.text or document.text.isspace():
        rejects.add(name, "empty document", where=where)
        return None
    try:
        document.text.encode()
    except UnicodeEncodeError as bad:
        rejects.add(name, "lone surrogate", where=where, detail=f"character {bad.start}")
        return None
    keys = document.meta.get("keys")
    if keys is not None:
        lines = sum(1 for line in document.text.split("\n") if line.strip())
        if not isinstance(keys, list | tuple) or len(keys) != lines:
            count = len(keys) if isinstance(keys, list | tuple) else "no list of"
            rejects.add(
                name, "keys do not match the lines", where=where, detail=f"{count} keys, {lines} lines"
            )
            return None
    return document


def _whole_file(name: str, path: Path, kind: str, rejects: Rejects) -> Iterator[Document]:
    data = path.read_bytes()
    zero = data.find(b"\0")
    if zero >= 0:
        rejects.add(name, "binary file", detail=f"zero byte at {zero}")
        return
    text = _decode(data, name, "", rejects)
    if text is None:
        return
    # One newline everywhere: segments are joined by it, and a carriage return would differ at the joins.
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    document = usable(Document(name, text, {"kind": kind, "source": name}), name, "", rejects)
    if document is not None:
        yield document


def _decode(data: bytes, name: str, where: str, rejects: Rejects) -> str | None:
    mark = 3 if data.startswith(b"\xef\xbb\xbf") else 0
    try:
        return data[mark:].decode()
    except UnicodeDecodeError as bad:
        rejects.add(name, "invalid UTF-8", where=where, detail=f"byte {bad.start + mark}")
        return None


def _json_rows(name: str, path: Path, packed: bool, rejects: Rejects, rows: RowReader) -> Iterator[Document]:
    number = 0
    try:
        with gzip.open(path, "rb") if packed else path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if not line.strip():
                    continue
                where = f"line {number}"
                text = _decode(line, name, where, rejects)
                if text is None:
                    continue
                try:
                    row = json.loads(text)
                except (ValueError, RecursionError) as bad:
                    rejects.add(name, "broken JSON", where=where, detail=str(bad))
                    continue
                document = rows(row, name, where, rejects)
                if document is not None:
                    yield document
    except (gzip.BadGzipFile, EOFError, zlib.error) as bad:
        rejects.add(name, "broken gzip", where=f"after line {number}", detail=str(bad))
        return
    if number == 0:
        rejects.add(name, "empty document")


def _parquet_rows(
    name: str, path: Path, rejects: Rejects, rows: RowReader | None = None
) -> Iterator[Document]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        with pq.ParquetFile(path) as file:
            have = file.schema_arrow.names
            column = next((field for field in TEXT_FIELDS if field in have), None)
            if column is None and rows is None:
                rejects.add(name, "no text field", detail=f"has {', '.join(have[:8])}")
                return
            wanted = have if rows else [key for key in ("id", column, "kind", "meta") if key in have]
            for batch in file.iter_batches(batch_size=256, columns=wanted):
                for place in range(batch.num_rows):
                    where = f"row {number}"
                    number += 1
                    try:
                        row = batch.slice(place, 1).to_pylist()[0]
                    except UnicodeDecodeError as bad:
                        rejects.add(name, "invalid UTF-8", where=where, detail=f"byte {bad.start}")
                        continue
                    document = (rows or row_document)(row, name, where, rejects)
                    if document is not None:
                        yield document
    except pa.ArrowException as bad:
        rejects.add(name, "broken Parquet", where=f"after row {number}", detail=str(bad).splitlines()[0])
        return
    if number == 0:
        rejects.add(name, "empty document")
