"""Files that are whole or not there: atomic writes, fingerprints, and disk errors a user can act on."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from lcx.errors import LcxError

TEMPORARY = ".lcx-tmp"
"""Suffix of a file being written; `remove_leftovers` clears what a killed process left."""

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_READ_ONLY = {errno.EACCES, errno.EROFS, errno.EPERM}


@contextmanager
def disk_errors(path: str | Path) -> Iterator[None]:
    """Turn a full or read-only disk into an LcxError that names the path and the way out."""
    try:
        yield
    except OSError as bad:
        if not _concerns(bad, Path(path)):
            raise  # the caller was reading something else meanwhile
        if bad.errno in _FULL:
            raise LcxError(
                f"no space left for {path}",
                why=bad.strerror or str(bad),
                hint="Free some space or choose another folder, then run the same command: it resumes.",
            ) from bad
        if bad.errno in _READ_ONLY:
            raise LcxError(
                f"cannot write {path}",
                why=bad.strerror or str(bad),
                hint="Choose a folder you may write to (`--run DIR`, or LCX_RUNS and LCX_CACHE).",
            ) from bad
        if bad.errno == errno.ENOENT:  # in /proc and the like
            raise LcxError(
                f"cannot make {path}", why=bad.strerror or str(bad), hint="Choose another folder: --run DIR"
            ) from bad
        if bad.errno in {errno.ENOTDIR, errno.EEXIST, errno.EISDIR}:
            raise LcxError(
                f"cannot write {path}",
                why=bad.strerror or str(bad),
                hint="A file stands where a folder is needed (or a folder where a file is): move it away.",
            ) from bad
        raise


def make_folder(path: str | Path) -> Path:
    """Create a folder and its parents. Raises LcxError for a full or read-only disk."""
    folder = Path(path)
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    return folder


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; a clean exit syncs it and renames it, an error removes it.

    Raises LcxError for a full disk or a read-only folder; `path` is then as it was before.
    """
    target = Path(path)
    make_folder(target.parent)
    temporary = target.parent / f".{target.name[:150]}.{os.getpid()}-{secrets.token_hex(4)}{TEMPORARY}"
    try:
        with disk_errors(target):
            yield temporary
            _sync(temporary)
            os.replace(temporary, target)
            _sync(target.parent)
    except BaseException:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


def write_bytes(path: str | Path, data: bytes) -> Path:
    """Write a whole file atomically. Raises LcxError for a full or read-only disk."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)
    return Path(path)


def link_file(source: Path, target: Path) -> None:
    """Put a file at another place too: a link where the disk can, else a copy. One that is there stays."""
    if target.exists():
        return
    with disk_errors(target):
        try:
            os.link(source, target)
        except OSError:
            with atomic_path(target) as place:
                shutil.copyfile(source, place)


def write_text(path: str | Path, text: str) -> Path:
    """Write UTF-8 text atomically, newlines as given. Raises LcxError for a full or read-only disk."""
    return write_bytes(path, text.encode())


def write_json(path: str | Path, value: Any) -> Path:
    """Write indented JSON with a final newline atomically. Raises LcxError for a full or read-only disk."""
    return write_text(path, json.dumps(value, ensure_ascii=False, indent=2) + "\n")


def write_lines(path: str | Path, rows: Iterable[Any]) -> Path:
    """Write one JSON value a line atomically. Raises LcxError for a full or read-only disk."""
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        for row in rows:
            file.write(json_line(row))
    return Path(path)


def json_line(row: Any) -> bytes:
    """One JSON value as a line of UTF-8; keys keep their order, so the same row gives the same bytes."""
    try:
        return json.dumps(row, ensure_ascii=False).encode() + b"\n"
    except UnicodeEncodeError:  # a lone surrogate, as a model's reply may hold: only an escape can carry it
        return json.dumps(row).encode() + b"\n"


def read_json(path: str | Path) -> Any:
    """Parse a JSON file. Raises LcxError for one that is damaged; a missing file raises FileNotFoundError."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as bad:
        raise LcxError(
            f"{path} is not valid JSON", why=str(bad), hint="Remove it and run the step again."
        ) from bad


def remove_leftovers(folder: str | Path) -> int:
    """Remove half-written files that killed processes left anywhere under `folder`; return how many.

    Call it only while no other process writes there.
    """
    found = [path for path in Path(folder).rglob(f".*{TEMPORARY}") if path.is_file()]
    for path in found:
        path.unlink(missing_ok=True)
    return len(found)


def sha256_file(path: str | Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    with Path(path).open("rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def sha256_text(text: str) -> str:
    """Hex SHA-256 of a text's UTF-8 bytes."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def sha256_json(value: Any) -> str:
    """Hex SHA-256 of a value's JSON with sorted keys: the order of keys does not matter."""
    return sha256_text(json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":")))


def _concerns(error: OSError, path: Path) -> bool:
    if not isinstance(error.filename, str | bytes):
        return True  # a failed write names no file
    named = Path(os.fsdecode(error.filename))
    return named.parent == path.parent or named == path or named in path.absolute().parents


def _sync(path: Path) -> None:
    try:
        handle = os.open(path, os.O_RDONLY)
    except OSError as bad:
        if bad.errno == errno.EACCES and path.is_dir():
            return  # a folder one may write to but not read; the rename has happened
        raise
    try:
        os.fsync(handle)
    except OSError as bad:
        # Some file systems cannot sync a folder; that weakens durability, not atomicity.
        if bad.errno not in {errno.EINVAL, errno.ENOTSUP}:
            raise
    finally:
        os.close(handle)
