"""Corpora as documents: a file or folder, `hf:NAME`, `stdlib`, `stdlib:records` and `stdlib:stale`.

A folder is anybody's: text, Markdown, code and HTML files whole, PDF with the extra `pdf`, and files of rows, of which
the context is the document's text. What cannot be used is set aside with the reason.
"""

from __future__ import annotations

import hashlib
import html
import io
import json
import os
import re
import stat
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from lcx.data.files import (
    PACKED,
    Raw,
    Reject,
    Rejects,
    decoded,
    ending,
    file_rows,
    hub_rows_of,
    is_row_file,
    list_files,
    opened,
    shown_name,
    stream_rows,
    unpacked,
)
from lcx.data.rows import Tally, document_text
from lcx.data.words import stacked
from lcx.errors import MissingError, UsageError, suggestion
from lcx.formatting import Written
from lcx.records import Document

__all__ = ["Reject", "Rejects", "corpus_fingerprint", "read_corpus"]

RECORD_DOCUMENTS = 64
"""Documents that `stdlib:records` and `stdlib:stale` yield where nothing else is asked for."""
NEAR = 0.8
"""How alike a file's name has to be to one that is not there: short names have letters in common by chance."""
HASHED_WHOLE = 64 << 20
"""Files up to this many bytes enter a fingerprint whole; of larger ones the size and three samples do."""
MOST_MARKS = 1000
"""Combining marks upon one character of a document: no script has so many, and no cut may part them."""
HTML = frozenset({".html", ".htm", ".xhtml"})
CODE = frozenset(
    f".{name}"
    for name in """
    py pyi ipy js mjs jsx ts tsx java kt scala groovy c h cc cpp cxx hpp hh cs go rs swift rb
    php pl pm lua r jl hs ml mli fs clj ex exs erl el lisp scm sh bash zsh fish ps1 sql css scss
    vue zig nim d dart m mm f90 f v sv vhd proto cmake tex
    """.split()  # noqa: SIM905
)
PLAIN = frozenset({".txt", ".text", ".md", ".markdown", ".rst"})
"""Endings that promise text. What a file of any other ending holds is told by its first bytes."""
UNREAD = {
    b"{\\rtf": ("RTF, which is not read", "save it as text"),
    b"PK\x03\x04": (
        "a zip archive, which is not read",
        "unpack it; save documents of Word and the like, and EPUB, as text",
    ),
    b"\xd0\xcf\x11\xe0": ("a document of an old Office, which is not read", "save it as text"),
}
"""How files begin that are not read, with the reason and what helps."""
_PAGE = re.compile(rb"\s*<(?:!doctype\s+html|html)\b", re.I)
ACCEPTED = (
    "text, Markdown, HTML and code files, PDF (with the extra pdf), JSONL, JSON, Parquet and CSV, "
    "and .gz and .zst of them"
)

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
    questions: bool = False,
    fields: Mapping[str, str] | None = None,
    encoding: str = "utf-8",
    notes: list[str] | None = None,
) -> Iterator[Document]:
    """Documents of a corpus, lazily, at most `limit`; what cannot be used goes into `rejects`.

    `questions` keeps the questions of rows as `meta["qa"]`, [[question, answer or None], ...], and makes neighbours of
    one text one document. `fields` names fields of rows by part, and `notes` gets what is worth saying about them.
    Raises UsageError at once for an unknown spec, and after the last document for a corpus that had no usable one;
    MissingError where a dataset cannot be reached.
    """
    if limit is not None and limit < 1:
        raise UsageError(f"a corpus limit must be at least 1, not {limit}")
    aside = rejects if rejects is not None else Rejects()
    tally = Tally(aside, fields)
    documents = _open(str(spec), limit, tally, questions, encoding)
    return _guarded(str(spec), _merged(documents) if questions else documents, limit, tally, notes)


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
        from lcx.data.files import dataset_revision, hub_name

        digest.update(f"{text}\0{dataset_revision(hub_name(text)[0])}".encode())
    else:
        for name, path in _files(text):
            size = _hash_content(digest, path)
            digest.update(f"\0{name}\0{size}\0".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _open(spec: str, limit: int | None, tally: Tally, questions: bool, encoding: str) -> Iterator[Document]:
    if spec == "stdlib":
        from lcx.data.stdlib import stdlib_documents

        return stdlib_documents()
    if records := _RECORDS.fullmatch(spec):
        count = int(records["count"] or RECORD_DOCUMENTS)
        count = count if limit is None else min(count, limit)
        return _records(records["kind"], count, int(records["seed"] or 0), tally.rejects)
    if spec.startswith("hf:"):
        return _of_rows(hub_rows_of(spec), tally, questions)
    files = _files(spec)
    named = Path(spec).expanduser().is_file()
    return (
        document
        for name, path in files
        for document in _of_file(name, path, tally, questions, encoding, named=named)
    )


def _guarded(
    spec: str, documents: Iterator[Document], limit: int | None, tally: Tally, notes: list[str] | None
) -> Iterator[Document]:
    count = 0
    for document in documents:
        count += 1
        yield document
        if count == limit:
            break
    if notes is not None:
        notes += tally.notes()
    if not count:
        raise UsageError(
            f"the corpus '{spec}' has no usable document",
            why=f"{_looked_at(spec)}. {tally.rejects.summary() or 'Nothing was found there.'}",
            hint=f"Give {_SPECS}; files: {ACCEPTED}. Rows need a field text, context, document or the like: "
            "--fields context=FIELD names another.",
        )


def _of_file(
    name: str, path: Path, tally: Tally, questions: bool, encoding: str, *, named: bool
) -> Iterator[Document]:
    """Documents of one file; `named` says that the user named this very file."""
    if is_row_file(path):
        yield from _of_rows(file_rows(name, path, tally.rejects), tally, questions)
        return
    kind = ending(path)
    try:
        with opened(path) as file:
            data = file.read()
        if data.startswith(b"\x1f\x8b"):
            data = unpacked(data)
        kind = _kind(kind, data)
        if kind == ".jsonl":
            yield from _of_rows(stream_rows(name, io.BytesIO(data), tally.rejects), tally, questions)
            return
        if kind == ".pdf":
            text = _pdf(name, data, tally.rejects, named=named)
        elif unread := next((why for mark, why in UNREAD.items() if data.startswith(mark)), None):
            tally.rejects.add(name, unread[0], detail=unread[1])
            return
        else:
            text = _text(name, data, tally.rejects, encoding, kind if not named else "")
    except OSError as bad:
        what = "broken archive" if path.suffix.lower() in PACKED else "unreadable file"
        tally.rejects.add(name, what, detail=bad.strerror or str(bad))
        return
    if text is None:
        return
    text = html_text(text) if kind in HTML else text
    # One newline everywhere: segments are joined by it, and a carriage return would differ at the joins.
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    meta = {"kind": "code" if kind in CODE else "text"}
    document = usable(Document(name, text, meta), name, "", tally.rejects)
    if document is not None:
        yield document


def _kind(kind: str, data: bytes) -> str:
    """A file's kind by its ending, and by its first bytes where this promises nothing: rows, a page, a PDF."""
    if kind == ".pdf" or data.startswith(b"%PDF-"):
        return ".pdf"
    if kind in PLAIN | CODE | HTML:
        return kind
    if _PAGE.match(data, 0, 1 << 12):
        return ".html"
    first = data.removeprefix(b"\xef\xbb\xbf").lstrip().partition(b"\n")[0].strip()
    if first.startswith(b"{"):
        with suppress(ValueError, RecursionError):
            if isinstance(json.loads(first), dict):
                return ".jsonl"
    return kind


def _text(name: str, data: bytes, rejects: Rejects, encoding: str, kind: str) -> str | None:
    """The text of a file's bytes; None, with the reason set aside, for what is none."""
    wide = data.startswith((b"\xff\xfe", b"\xfe\xff"))
    zero = -1 if wide else data.find(b"\0")
    if zero >= 0:
        rejects.add(
            name, "binary file", detail=f"zero byte at {zero}" if not kind else f"{kind}, zero byte at {zero}"
        )
        return None
    if encoding == "auto":
        aside = Rejects()
        text = decoded(data, name, "", aside)
        return text if text is not None else data.decode("cp1252", "replace")
    return decoded(data, name, "", rejects)


def _pdf(name: str, data: bytes, rejects: Rejects, *, named: bool) -> str | None:
    try:
        import pypdf
    except ImportError:
        if named:
            raise MissingError(
                f"{name} is a PDF, and nothing to read it is installed", hint="pip install 'lcx[pdf]'"
            ) from None
        rejects.add(name, "PDF, which needs the extra pdf", detail="pip install 'lcx[pdf]'")
        return None
    try:
        return "\n\n".join(page.extract_text() for page in pypdf.PdfReader(io.BytesIO(data)).pages)
    except Exception as bad:  # whatever its parser raises for a broken file
        rejects.add(name, "broken PDF", detail=(str(bad).splitlines() or [type(bad).__name__])[0])
        return None


_BLOCKS = frozenset("p div br li tr h1 h2 h3 h4 h5 h6 section article table ul ol pre".split())  # noqa: SIM905
_TAG = re.compile(r"<(/?)([A-Za-z][^\s/>]*)(?:[^>\"']|\"[^\"]*\"|'[^']*')*+>")
_RAW = {name: re.compile(rf"</{name}\b", re.I) for name in ("script", "style")}
"""What ends the elements in which nothing is markup."""
_HIDDEN = frozenset({"template", "noscript"})


def html_text(text: str) -> str:
    """The words of an HTML page: no tags, scripts, styles or comments; blocks on lines of their own.

    Each character is looked at a fixed number of times: the standard library's parser takes hours for a few megabytes
    of tags or comments that are never closed.
    """
    parts: list[str] = []
    hidden = place = 0
    while place < len(text):
        begin = text.find("<", place)
        begin = len(text) if begin < 0 else begin
        if not hidden:
            parts.append(_unescaped(text[place:begin]))
        if text.startswith("<!--", begin):
            end = text.find("-->", begin + 2)
            place = end + 3 if end >= 0 else len(text)
            continue
        opening = text[begin + 1 : begin + 3].removeprefix("/")[:1]
        is_tag = opening.isascii() and opening.isalpha()
        end = text.find(">", begin) if is_tag or opening in ("!", "?") else begin
        if end < 0:  # no tag ends after this
            parts.append(_unescaped(text[begin:]) if not hidden else "")
            break
        if end == begin:
            parts.append("<" if begin < len(text) and not hidden else "")
            place = begin + 1
            continue
        tag = _TAG.match(text, begin) if is_tag else None
        place = tag.end() if tag else end + 1
        name = tag[2].lower() if tag else ""
        if name in _HIDDEN and tag:
            hidden = max(0, hidden + (-1 if tag[1] else 1))
        if name in _BLOCKS:
            parts.append("\n")
        if name in _RAW and tag and not tag[1]:
            close = _RAW[name].search(text, place)
            place = close.start() if close else len(text)
    lines = [" ".join(line.split()) for line in "".join(parts).split("\n")]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip()


def _unescaped(text: str) -> str:
    """A text with its character references resolved; as it stands where one is a number that is no character's."""
    try:
        return html.unescape(text)
    except (ValueError, OverflowError):
        return text


def _of_rows(rows: Iterable[Raw], tally: Tally, questions: bool) -> Iterator[Document]:
    for raw in rows:
        document = document_of(raw, tally, questions)
        if document is not None:
            yield document


def document_of(raw: Raw, tally: Tally, questions: bool = False) -> Document | None:
    """The document in a row, or None with the reason set aside."""
    rejects = tally.rejects
    if not isinstance(raw.row, Mapping):
        rejects.add(raw.source, "not an object", where=raw.where, detail=type(raw.row).__name__)
        return None
    try:
        text, asked = document_text(raw.row, tally, questions)
    except ValueError as bad:
        rejects.add(raw.source, str(bad), where=raw.where)
        return None
    if text is None:
        have = ", ".join(str(key) for key in list(raw.row)[:8])
        rejects.add(
            raw.source, "no text field", where=raw.where, detail=f"has {have}" if have else "no fields"
        )
        return None
    known = raw.row.get("meta")
    meta = dict(known) if isinstance(known, Mapping) else {}
    kind = raw.row.get("kind")
    meta.setdefault("kind", kind if isinstance(kind, str) else "text")
    if questions:
        meta.pop("qa", None)
        if asked:
            meta["qa"] = asked
    given = raw.row.get("id", raw.row.get("_id"))
    own = (
        str(given) if isinstance(given, str | int | Written) and str(given) else f"{raw.source}:{raw.number}"
    )
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    return usable(
        Document(own, text.strip("\n") if questions else text, meta), raw.source, raw.where, rejects
    )


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
    try:
        json.dumps([document.id, document.meta], ensure_ascii=False, default=str).encode()
    except UnicodeEncodeError:
        rejects.add(name, "lone surrogate", where=where, detail="in its id or meta")
        return None
    if (marks := stacked(document.text)) > MOST_MARKS:
        rejects.add(name, "a stack of marks on one character", where=where, detail=f"{marks:,} of them")
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


def _merged(documents: Iterator[Document]) -> Iterator[Document]:
    """The documents with neighbours of one text as one: such rows ask several questions about it."""
    held: Document | None = None
    for document in documents:
        if held is not None and document.text == held.text and "qa" in document.meta:
            asked = [*held.meta.get("qa", []), *document.meta["qa"]]
            held = replace(held, meta={**held.meta, "qa": asked})
            continue
        if held is not None:
            yield held
        held = document
    if held is not None:
        yield held


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
        return [(shown_name(path.name), path)]
    near = "" if "/" in spec else suggestion(spec, ["stdlib", "stdlib:records", "stdlib:stale"])
    if not near and path.parent.is_dir():
        beside = {shown_name(entry.name): shown_name(str(entry)) for entry in path.parent.iterdir()}
        near = suggestion(path.name, beside, NEAR)
        near = next(
            (near.replace(f"'{name}'", f"'{at}'") for name, at in beside.items() if f"'{name}'" in near), ""
        )
    raise UsageError(
        f"there is no corpus '{spec}'",
        why="It is no file or folder, and no known spec.",
        hint=f"{near} Give {_SPECS}.".strip(),
    )


def _records(kind: str, count: int, seed: int, rejects: Rejects) -> Iterator[Document]:
    from lcx.data.stdlib import catalogue_documents, stale_documents

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
        # By its handle: looking each of 200,000 small files up three times takes longer than reading it
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))  # a pipe is not waited for
    except OSError:
        return -1
    try:
        kind = os.fstat(handle)
        if not stat.S_ISREG(kind.st_mode):
            return -1
        size = kind.st_size
        if size <= HASHED_WHOLE:
            left = size
            while left > 0 and (block := os.read(handle, min(left, 1 << 20))):
                digest.update(block)
                left -= len(block)
        else:
            for place in (0, size // 2, size - (1 << 20)):
                os.lseek(handle, place, os.SEEK_SET)
                digest.update(os.read(handle, 1 << 20))
    except OSError:
        return -1
    finally:
        os.close(handle)
    return size
