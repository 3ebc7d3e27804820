"""Corpus specs: a file or folder, `hf:NAME`, `stdlib`, `stdlib:records` and `stdlib:stale`, all read as documents."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path

from lcx.data.files import Reject, Rejects, list_files
from lcx.data.readers import RowReader, read_file, row_document, usable
from lcx.errors import MissingError, UsageError, suggestion
from lcx.records import Document

__all__ = ["Reject", "Rejects", "RowReader", "corpus_fingerprint", "read_corpus"]

RECORD_DOCUMENTS = 64
"""Documents that `stdlib:records` and `stdlib:stale` yield where nothing else is asked for."""
HASHED_WHOLE = 64 << 20
"""Files up to this many bytes enter a fingerprint whole; of larger ones the size and three samples do."""

_HF = re.compile(r"hf:(?P<name>[^:@]+)(:(?P<config>[^@]+))?(@(?P<split>.+))?")
_RECORDS = re.compile(r"stdlib:(?P<kind>records|stale)(:(?P<count>\d+))?(@(?P<seed>\d+))?")
_SPECS = (
    "a file or a folder, `hf:NAME[:CONFIG][@SPLIT]`, `stdlib`, or `stdlib:records[:COUNT][@SEED]` or "
    "`stdlib:stale[:COUNT][@SEED]`"
)


def read_corpus(
    spec: str | Path,
    *,
    limit: int | None = None,
    rejects: Rejects | None = None,
    rows: RowReader | None = None,
) -> Iterator[Document]:
    """Documents of a corpus, lazily, at most `limit`; what cannot be used goes into `rejects`.

    `rows` makes documents of the rows of JSONL, Parquet and datasets, in place of `row_document`.
    Raises UsageError at once for an unknown spec, and after the last document for a corpus that had no usable
    one; MissingError where a dataset cannot be reached.
    """
    if limit is not None and limit < 1:
        raise UsageError(f"a corpus limit must be at least 1, not {limit}")
    aside = rejects if rejects is not None else Rejects()
    return _guarded(str(spec), _open(str(spec), limit, aside, rows), limit, aside)


def corpus_fingerprint(spec: str | Path) -> str:
    """Hex digest that changes when the corpus does.

    Files: names, sizes and contents (samples of contents above 64 MB). stdlib: the interpreter's version. hf:
    the dataset's revision where the hub answers, else its name. Raises UsageError for an unknown spec.
    """
    text = str(spec)
    digest = hashlib.sha256(b"lcx corpus 1\0")
    if text == "stdlib" or _RECORDS.fullmatch(text):
        from lcx.data.stdlib import stdlib_fingerprint

        digest.update(f"{text}\0{stdlib_fingerprint()}".encode())
    elif text.startswith("hf:"):
        from lcx.data.hub import dataset_revision

        digest.update(f"{text}\0{dataset_revision(hub_name(text)[0])}".encode())
    else:
        for name, path in _files(text):
            size = _hash_content(digest, path)
            digest.update(f"\0{name}\0{size}\0".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _open(spec: str, limit: int | None, rejects: Rejects, rows: RowReader | None) -> Iterator[Document]:
    if spec == "stdlib":
        from lcx.data.stdlib import stdlib_documents

        return stdlib_documents()
    if records := _RECORDS.fullmatch(spec):
        count = int(records["count"] or RECORD_DOCUMENTS)
        count = count if limit is None else min(count, limit)
        return _records(records["kind"], count, int(records["seed"] or 0), rejects)
    if spec.startswith("hf:"):
        from lcx.data.hub import hub_rows

        found = hub_rows(*hub_name(spec)) if rows is None else hub_rows(*hub_name(spec), columns=None)
        return _hub_documents(spec, found, rejects, rows or row_document)
    files = _files(spec)
    named = Path(spec).expanduser().is_file()
    return (doc for name, path in files for doc in read_file(name, path, rejects, named=named, rows=rows))


def _guarded(
    spec: str, documents: Iterator[Document], limit: int | None, rejects: Rejects
) -> Iterator[Document]:
    count = 0
    for document in documents:
        count += 1
        yield document
        if count == limit:
            return
    if not count:
        looked = _looked_at(spec)
        raise UsageError(
            f"the corpus '{spec}' has no usable document",
            why=f"{looked}. {rejects.summary() or 'Nothing was found there.'}",
            hint=f"Give {_SPECS}; rows need one of the fields text, content, document.",
        )


def _looked_at(spec: str) -> str:
    if spec.startswith(("hf:", "stdlib")):
        return f"Looked at {spec}"
    path = Path(spec).expanduser()
    return (
        f"Looked at the file {path}"
        if path.is_file()
        else f"Looked at {len(list_files(path))} files in {path}"
    )


def _files(spec: str) -> list[tuple[str, Path]]:
    path = Path(spec).expanduser()
    if path.is_dir():
        try:
            next(path.iterdir(), None)
        except PermissionError as bad:
            raise UsageError(
                f"the folder {path} cannot be read",
                why=str(bad.strerror),
                hint="Check who may read it: `ls -ld`.",
            ) from bad
        return list_files(path)
    if path.is_file():
        return [(path.name, path)]
    near = suggestion(spec, ["stdlib", "stdlib:records", "stdlib:stale"])
    if not near and path.parent.is_dir():
        near = suggestion(path.name, [entry.name for entry in path.parent.iterdir()])
    raise UsageError(
        f"there is no corpus '{spec}'",
        why="It is no file or folder, and no known spec.",
        hint=f"{near} Give {_SPECS}.".strip(),
    )


def hub_name(spec: str) -> tuple[str, str | None, str | None]:
    """Name, config and split of an `hf:` spec. Raises UsageError where it is none."""
    match = _HF.fullmatch(spec)
    if match is None:
        raise UsageError(f"'{spec}' is not a dataset spec", hint="Write hf:NAME[:CONFIG][@SPLIT].")
    return match["name"], match["config"], match["split"]


def _hub_documents(spec: str, found: Iterator[dict], rejects: Rejects, rows: RowReader) -> Iterator[Document]:
    for number, row in enumerate(found):
        document = rows(row, spec, f"row {number}", rejects, fallback_id=f"{spec}#{number}")
        if document is not None:
            yield document


def _records(kind: str, count: int, seed: int, rejects: Rejects) -> Iterator[Document]:
    from lcx.data.catalogue import catalogue_documents, stale_documents

    make = stale_documents if kind == "stale" else catalogue_documents
    try:
        for row in make(count, seed):
            document = usable(
                Document(row["id"], row["text"], dict(row["meta"])), f"stdlib:{kind}", row["id"], rejects
            )
            if document is not None:
                yield document
    except RuntimeError as bad:
        raise MissingError(
            "this interpreter ships no standard library sources",
            why=str(bad),
            hint="Use a Python whose .py files are installed, or another --corpus.",
        ) from bad


def _hash_content(digest: hashlib._Hash, path: Path) -> int:
    """Feed a file's contents to the digest; return its size, or -1 where it cannot be read."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            if size <= HASHED_WHOLE:
                while block := file.read(1 << 20):
                    digest.update(block)
            else:
                for place in (0, size // 2, size - (1 << 20)):
                    file.seek(place)
                    digest.update(file.read(1 << 20))
    except OSError:
        return -1
    return size
