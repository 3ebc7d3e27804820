"""Files of a step: whole or not there, in a journal that survives a kill, or in numbered shards.

Three parts: atomic writes with disk errors that a user can act on; `Journal`, one JSON line a finished unit of work;
and shards `NAME-00000-of-00004.parquet`, whole files whose bytes follow the rows, with checksums.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import platform
import re
import secrets
import shutil
import struct
import zlib
from bisect import bisect_right
from collections import Counter, OrderedDict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import accumulate
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any, NoReturn

from lcx.errors import LcxError, MissingError, UsageError
from lcx.paths import check_regular

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

# ---- whole files

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
    return write_bytes(path, json_line(value, indent=2))


def write_lines(path: str | Path, rows: Iterable[Any]) -> Path:
    """Write one JSON value a line atomically. Raises LcxError for a full or read-only disk."""
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        for row in rows:
            file.write(json_line(row))
    return Path(path)


def json_line(row: Any, **options: Any) -> bytes:
    """One JSON value as a line of UTF-8; keys keep their order, so the same row gives the same bytes."""
    try:
        return json_text(row, **options).encode() + b"\n"
    except UnicodeEncodeError:  # a lone surrogate, as a model's reply may hold: only an escape can carry it
        return json_text(row, ensure_ascii=True, **options).encode() + b"\n"


def json_text(value: Any, *, ensure_ascii: bool = False, **options: Any) -> str:
    """A value as JSON that every reader takes: a float that is no number (NaN, an infinity) becomes null."""
    try:
        return json.dumps(value, ensure_ascii=ensure_ascii, allow_nan=False, **options)
    except ValueError:
        return json.dumps(_finite(value), ensure_ascii=ensure_ascii, allow_nan=False, **options)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(inner) for key, inner in value.items()}
    return [_finite(inner) for inner in value] if isinstance(value, list | tuple) else value


def read_json(path: str | Path) -> Any:
    """Parse a JSON file. Raises LcxError for one that is damaged; a missing file raises FileNotFoundError."""

    def refuse(name: str) -> NoReturn:
        raise ValueError(f"it holds {name}, which is no JSON value")

    check_own(path)
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"), parse_constant=refuse)
    except (ValueError, RecursionError) as bad:
        raise LcxError(
            f"{path} is not valid JSON", why=str(bad), hint="Remove it and run the step again."
        ) from bad


SEAL = "seal"
"""The key of a JSON object's checksum of itself, in files where a flipped bit would pass for another value."""


def sealed(value: Mapping[str, Any]) -> dict[str, Any]:
    """A JSON object with a checksum of itself, which `is_broken` looks at."""
    plain = json.loads(json_text(dict(value)))
    return {**plain, SEAL: sha256_json(plain)[:32]}


def is_broken(value: Mapping[str, Any]) -> bool:
    """Whether a JSON object is not the one that was sealed; one of an earlier version has no seal."""
    return SEAL in value and value[SEAL] != sha256_json({k: v for k, v in value.items() if k != SEAL})[:32]


def check_own(path: str | Path) -> None:
    """Raise LcxError for a file of a run that is none, and may hang whoever reads it."""
    try:
        check_regular(path)
    except OSError as bad:
        if bad.errno != errno.EINVAL:
            raise
        raise LcxError(f"{path} is {bad.strerror}", hint="Remove it, or take another folder.") from None


def is_inside(path: str | Path, folder: str | Path) -> bool:
    """Whether a path lies below a folder once all links are followed. The folder itself may be a link."""
    root = os.path.realpath(folder)
    place = os.path.realpath(path)
    return place != root and os.path.commonpath([place, root]) == root


def links_away(folder: Path, root: Path) -> list[Path]:
    """Links below a folder that lead out of `root`."""
    found = []
    for place, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = Path(place, name)
            if path.is_symlink() and not is_inside(path, root):
                found.append(path)
    return sorted(found)


def open_own(path: Path, flags: int) -> int:
    """A handle of a file of ours that is made where it lacks, and never cut. Raises UsageError where it is a link."""
    try:
        return os.open(path, flags | os.O_CREAT | os.O_CLOEXEC | getattr(os, "O_NOFOLLOW", 0), 0o666)
    except OSError as bad:
        if bad.errno not in (errno.ELOOP, errno.EMLINK):
            raise
        raise UsageError(
            f"{path} is a link to {os.path.realpath(path)}",
            why="lcx would write there.",
            hint="Remove the link, or take another --run DIR.",
        ) from None


BUSY = (errno.EWOULDBLOCK, errno.EAGAIN)


class Held(LcxError):
    """Another process writes to a folder."""

    def __init__(self, what: str, *, why: str = "", hint: str = "", folder: Path | None = None) -> None:
        super().__init__(what, why=why, hint=hint)
        self.folder = folder


@contextmanager
def only_writer(folder: Path, say: Callable[[str], None] = lambda text: None) -> Iterator[None]:
    """Keep other lcx processes out of a folder while this one writes there. Raises Held where one is there.

    A lock of the file system, which ends with its process. Where there is none (some network file systems), a file
    that names machine and process; `say` is told of it.
    """
    busy = Held(
        f"another lcx process is writing to {folder}",
        hint="Wait for it, or take another --run DIR.",
        folder=folder,
    )
    with disk_errors(folder / ".lock"):
        handle = open_own(folder / ".lock", os.O_RDWR)
    try:
        try:
            import fcntl

            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (ImportError, OSError) as bad:
            if isinstance(bad, OSError) and bad.errno in BUSY:
                raise busy from None
            with _named_writer(folder, busy, say, bad):
                yield
            return
        yield
    finally:
        os.close(handle)


@contextmanager
def _named_writer(
    folder: Path, busy: LcxError, say: Callable[[str], None], lack: BaseException
) -> Iterator[None]:
    """A lock by a file that says which process of which machine writes."""
    file = folder / ".writer"
    mine = {"host": platform.node(), "pid": os.getpid()}
    while True:
        try:
            with disk_errors(file):
                handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
            break
        except FileExistsError:
            pass
        except LcxError as bad:
            if not isinstance(bad.__cause__, FileExistsError):
                raise
        held: Any = None
        with suppress(LcxError, OSError):
            held = read_json(file)
        known = isinstance(held, Mapping) and isinstance(held.get("pid"), int)
        if known and held["host"] == mine["host"] and not process_runs(held["pid"]):
            file.unlink(missing_ok=True)  # left by a killed process
            continue
        who = (
            f"process {held['pid']} on {held.get('host')}" if known else "a process that did not say its name"
        )
        raise Held(
            busy.what,
            why=f"{file} names {who}.",
            hint=f"{busy.hint} If that process is gone, remove {file}.",
            folder=folder,
        )
    try:
        os.write(handle, json.dumps(mine).encode())
        os.close(handle)
        say(f"{folder} is on a file system without locks ({lack}); {file.name} says who writes there")
        yield
    finally:
        file.unlink(missing_ok=True)


def process_runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True


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


# ---- a journal: one JSON line a finished unit of work, safe against a kill at any moment


COUNTED = "counted with it"
"""Field of an entry: numbers by name that the entries of a journal sum up to (`Journal.counted`)."""
_OF = "journal of"
_CRC = re.compile(rb', "crc": "([0-9a-f]{8})"\}\n')
"""How a line ends: with a checksum of what stands before it."""


def _checked_line(entry: Mapping[str, Any]) -> bytes:
    """An entry as a line with its checksum: a flipped bit would else pass for another reply."""
    body = json_line(dict(entry))[:-2]
    return body + b', "crc": "%08x"}\n' % zlib.crc32(body)


def _entry(line: bytes) -> tuple[dict[str, Any], bool]:
    """The entry of a line, and whether it has a checksum. Raises ValueError where that is another's."""
    found = _CRC.search(line, max(0, len(line) - 24))
    if found is None:
        return json.loads(line), False
    body = line[: found.start()]
    if zlib.crc32(body) != int(found[1], 16):
        raise ValueError("its checksum is that of another text")
    return json.loads(body + b"}"), True


class Journal:
    """Units finished so far, on disk. `unit in journal` and `journal[unit]` look one up; the last entry wins.

    Opening it cuts off a last line that a kill tore, so the next append starts on a clean line. Only the
    place of each entry is kept in memory. Raises LcxError for a damaged line elsewhere, and for a full or
    read-only disk.
    """

    def __init__(
        self, path: str | Path, *, read_only: bool = False, of: str = "", known: Journal | None = None
    ) -> None:
        """`of` names what the entries follow from. A journal of something else is begun anew.

        `known` is another journal whose entries count as here, too: what is appended goes into this one.
        """
        self.path = Path(path)
        self._known = known
        self.torn = 0
        """Bytes of a torn last line that opening dropped."""
        self._offsets: dict[str, int] = {}
        self._counted: dict[str, dict[str, int]] = {}
        self._of, self._head = "", b""
        """What the file says its entries follow from, and the line that is to say so once there are any."""
        self._end = self._scan() if self.path.exists() else 0
        self._file = None
        if read_only and of and self._of and self._of != of:
            self._offsets, self._counted = {}, {}
        if not read_only:
            make_folder(self.path.parent)
            other = bool(of and self._of and self._of != of)
            if other:
                self._offsets, self._counted, self._end = {}, {}, 0
            with disk_errors(self.path):
                self._file = os.fdopen(open_own(self.path, os.O_WRONLY | os.O_APPEND), "ab", buffering=0)
                if self.torn or other:
                    self._file.truncate(self._end)
            if of and (other or not self._end):
                self._head = _checked_line({"unit": "", _OF: of})

    def append(self, *entries: Mapping[str, Any]) -> None:
        """Add entries (each needs `unit`) in one write that is on disk when this returns."""
        self.extend(entries)

    def extend(self, entries: Iterable[Mapping[str, Any]]) -> None:
        """Add many entries with a single sync."""
        if self._file is None:
            raise ValueError(f"{self.path} is open for reading only")
        units, lines = [], []
        for entry in entries:
            units.append(str(entry["unit"]))
            lines.append(_checked_line(entry))
        if not lines:
            return
        place = self._end + len(self._head)
        self._write([self._head, *lines])
        self._head = b""
        for unit, line in zip(units, lines, strict=True):
            self._offsets[unit] = place
            place += len(line)

    def _write(self, lines: list[bytes]) -> None:
        assert self._file is not None
        data = memoryview(b"".join(lines))
        with disk_errors(self.path):
            try:
                done = 0
                while done < len(
                    data
                ):  # an unbuffered write may take only a part, e.g. on a disk that fills up
                    done += self._file.write(data[done:])
                os.fsync(self._file.fileno())
            except OSError:
                self._file.truncate(self._end)  # a batch is in the journal whole or not at all
                raise
        self._end += len(data)

    def __contains__(self, unit: object) -> bool:
        return str(unit) in self._offsets or (self._known is not None and unit in self._known)

    def __len__(self) -> int:
        return len(self._offsets) if self._known is None else len(self.done)

    def __getitem__(self, unit: str) -> dict[str, Any]:
        if self._known is not None and str(unit) not in self._offsets:
            return self._known[unit]
        with self.path.open("rb") as file:
            file.seek(self._offsets[str(unit)])
            entry = _entry(file.readline())[0]
        entry.pop(COUNTED, None)  # it is the file's, and no part of what was made of the unit
        return entry

    def get(self, unit: str) -> dict[str, Any] | None:
        """The last entry of a unit, or None where it has none."""
        try:
            return self[unit]
        except KeyError:
            return None

    @property
    def of(self) -> str:
        """What the file says its entries follow from."""
        return self._of

    @property
    def own(self) -> int:
        """How many units have their entry in this file."""
        return len(self._offsets)

    @property
    def counted(self) -> Counter[str]:
        """Sums of what the last entries of the units count, as they were when the file was opened."""
        found = Counter[str]()
        for counted in self._counted.values():
            found.update(counted)
        return found

    @property
    def done(self) -> frozenset[str]:
        """Names of all units that have an entry."""
        known = self._known.done if self._known is not None else ()
        return frozenset(self._offsets).union(known)

    def entries(self) -> Iterator[dict[str, Any]]:
        """The last entry of every unit of this file, in the order of their places in it; read lazily."""
        if not self._offsets:
            return
        with self.path.open("rb") as file:
            for offset in sorted(self._offsets.values()):
                file.seek(offset)
                yield _entry(file.readline())[0]

    def close(self) -> None:
        """Close the file; appending afterwards is an error."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _scan(self) -> int:
        """Index every entry; return the end of the last whole line."""
        check_own(self.path)
        end, checked = 0, False
        with self.path.open("rb") as file:
            for number, line in enumerate(file, 1):
                # Only the last line can lack a newline: that is the mark of an append that a kill cut short.
                if not line.endswith(b"\n"):
                    self.torn = len(line)
                    break
                try:
                    entry, has = _entry(line)
                    if checked and not has:  # lines of an earlier version stand before all others
                        raise ValueError("it has no checksum")
                    checked = has
                    if number == 1 and _OF in entry:
                        self._of = str(entry[_OF])
                        end += len(line)
                        continue
                    unit = str(entry["unit"])
                    if (counted := entry.get(COUNTED)) or unit in self._counted:
                        self._counted[unit] = {name: int(number) for name, number in (counted or {}).items()}
                except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as bad:
                    rest = file.read(1)
                    if not rest:  # pages of a last line may reach the disk out of order in a power cut
                        self.torn = len(line)
                        break
                    raise LcxError(
                        f"{self.path}: line {number} is damaged",
                        why=str(bad),
                        hint="Remove that line (its unit is then done again), or start over with --force.",
                    ) from bad
                self._offsets[unit] = end
                end += len(line)
        return end


# ---- numbered shards

ROWS_PER_GROUP = 1024
"""Rows a Parquet row group; the unit in which `ShardReader` loads and forgets."""

_NAME = re.compile(r"(?P<name>.+)-(?P<index>\d{5})-of-(?P<count>\d{5})\.parquet")


def shard_path(folder: str | Path, name: str, index: int = 0, count: int = 1) -> Path:
    """Where shard `index` of `count` lies."""
    if not 0 <= index < count <= 99_999:
        raise ValueError(f"shard {index} of {count}: the index must be in 0..count-1")
    return Path(folder) / f"{name}-{index:05d}-of-{count:05d}.parquet"


def list_shards(folder: str | Path, name: str) -> list[Path]:
    """All shards of `name`, in order. Raises MissingError where there are none, or naming those that lack."""
    found: dict[int, dict[int, Path]] = {}
    for path in sorted(Path(folder).glob(f"{name}-*-of-*")):
        match = _NAME.fullmatch(path.name)
        if match and match["name"] == name:
            found.setdefault(int(match["count"]), {})[int(match["index"])] = path
    if not found:
        raise MissingError(
            f"no '{name}' shards in {folder}", hint="Run the step that makes them, or check the folder."
        )
    if len(found) > 1:
        kinds = ", ".join(f"{len(paths)} of {count}" for count, paths in found.items())
        raise LcxError(
            f"{folder} holds two sets of '{name}' shards",
            why=kinds,
            hint="Remove the set you do not want.",
        )
    count, paths = found.popitem()
    lacking = [index for index in range(count) if index not in paths]
    if lacking:
        names = ", ".join(shard_path("", name, index, count).name for index in lacking[:5])
        raise MissingError(
            f"{len(lacking)} of {count} '{name}' shards are missing in {folder}",
            why=names + (" ..." if len(lacking) > 5 else ""),
            hint="Run the step again: it writes the shards that are missing.",
        )
    return [paths[index] for index in range(count)]


def write_parquet(
    folder: str | Path,
    name: str,
    rows: Iterable[Mapping[str, Any]],
    schema: pa.Schema,
    *,
    index: int = 0,
    count: int = 1,
    group_rows: int = ROWS_PER_GROUP,
    weigh: Callable[[Mapping[str, Any]], int] | None = None,
    group_weight: int = 8 << 20,
    scattered: Collection[str] = (),
) -> Path:
    """Write one Parquet shard (zstd) atomically, a row group at a time.

    A group ends after `group_rows` rows, or sooner where the sum of `weigh(row)` reaches `group_weight`. `scattered`
    names columns of numbers that repeat little. Raises LcxError for a full or read-only disk.
    """
    import pyarrow as pa

    def batches() -> Iterator[pa.Table]:
        held: list[Mapping[str, Any]] = []
        weight = 0
        for row in rows:
            held.append(row)
            weight += weigh(row) if weigh else 0
            if len(held) >= group_rows or weight >= group_weight:
                yield pa.Table.from_pylist(held, schema=schema)
                held, weight = [], 0
        if held:
            yield pa.Table.from_pylist(held, schema=schema)

    return write_tables(folder, name, batches(), schema, index=index, count=count, scattered=scattered)


def write_tables(
    folder: str | Path,
    name: str,
    tables: Iterable[pa.Table],
    schema: pa.Schema,
    *,
    index: int = 0,
    count: int = 1,
    scattered: Collection[str] = (),
) -> Path:
    """Write one Parquet shard atomically, a row group for each Arrow table.

    Of numbers in the columns `scattered` all first bytes are laid together, then all second ones, and so on: those that
    say least are squeezed out, where a dictionary would be as long as the numbers.
    """
    import pyarrow.parquet as pq

    path = shard_path(folder, name, index, count)
    # A Python file object, so that a full disk is an OSError with its errno. Nothing time-dependent is
    # written.
    with atomic_path(path) as temporary, temporary.open("w+b") as file:
        with pq.ParquetWriter(
            file,
            schema,
            compression="zstd",
            version="2.6",
            write_page_checksum=True,
            use_dictionary=[leaf for one in schema for leaf in _leaves(one) if leaf not in scattered],
            column_encoding=dict.fromkeys(scattered, "BYTE_STREAM_SPLIT") or None,
        ) as writer:
            for table in tables:
                writer.write_table(table, row_group_size=max(1, table.num_rows))
        _seal(file)
    return path


def _leaves(field: pa.Field, prefix: str = "") -> Iterator[str]:
    """The paths of a column's values, as Parquet names them."""
    import pyarrow.types as kinds

    path, kind = prefix + field.name, field.type
    if kinds.is_list(kind):
        yield from _leaves(kind.value_field.with_name("element"), f"{path}.list.")
    elif kinds.is_struct(kind):
        for inner in kind:
            yield from _leaves(inner, f"{path}.")
    else:
        yield path


_SEAL = b"lcx:crc32"
"""What stands, with the checksum of the footer, between a shard's pages and its footer: pages have checksums of their
own, and readers of Parquet look at neither.
"""
_TAIL = struct.Struct("<I4s")
"""How a Parquet file ends: its footer's length, and PAR1."""


def _seal(file: IO[bytes]) -> None:
    """Put the checksum of a Parquet file's footer before it."""
    footer = _footer(file)
    file.seek(-len(footer), os.SEEK_END)
    file.write(_SEAL + zlib.crc32(footer).to_bytes(4, "little") + footer)


def _footer(file: IO[bytes]) -> bytes:
    """The end of a Parquet file from its footer on; empty where the file is too short to have one."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - _TAIL.size))
    end = file.read()
    length = _TAIL.unpack(end)[0] + _TAIL.size if len(end) == _TAIL.size else size + 1
    if length > size:
        return b""
    file.seek(size - length)
    return file.read()


def _sealed(file: IO[bytes]) -> bool:
    """Whether a Parquet file's footer is the one that was written; one of an earlier version has no checksum."""
    footer = _footer(file)
    place = file.tell() - len(footer) - len(_SEAL) - 4
    if not footer or place < 0:
        return bool(footer)
    file.seek(place)
    mark = file.read(len(_SEAL) + 4)
    return mark[:-4] != _SEAL or mark[-4:] == zlib.crc32(footer).to_bytes(4, "little")


@contextmanager
def _parquet(path: Path) -> Iterator[pq.ParquetFile]:
    """A shard that is open for reading, its checksums verified. Raises LcxError for one that is damaged."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with path.open("rb") as file:
            if not _sealed(file):
                raise OSError(None, "the footer is not the one that was written")
        with pq.ParquetFile(path, page_checksum_verification=True) as table:
            yield table
    except (pa.ArrowException, OSError, UnicodeDecodeError) as bad:
        if isinstance(bad, OSError) and bad.errno is not None:
            raise  # not of what the file holds: it is not there, or may not be read
        raise LcxError(
            f"{path} is damaged",
            why=(str(bad).splitlines() or [type(bad).__name__])[0],
            hint="Start the step that wrote it over: the same command with --force (paid replies are kept).",
        ) from bad


def read_group(path: Path, group: int, columns: Sequence[str] | None = None) -> pa.Table:
    """One row group of a shard. Raises LcxError for a shard that is damaged."""
    with _parquet(path) as table:
        return table.read_row_group(group, columns=list(columns) if columns is not None else None)


def group_sizes(path: Path) -> list[int]:
    """The number of rows in each row group of a shard. Raises LcxError for a shard that is damaged."""
    with _parquet(path) as table:
        return [table.metadata.row_group(group).num_rows for group in range(table.num_row_groups)]


def read_jsonl(path: str | Path) -> Iterator[dict[str, Any]]:
    """Rows of one JSONL file, lazily. Raises LcxError naming a line that is not JSON."""
    with disk_errors(path), Path(path).open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                yield json.loads(line)
            except (ValueError, RecursionError) as bad:
                raise LcxError(
                    f"{path}: line {number} is not JSON", why=str(bad), hint="Remove the shard; run again."
                ) from bad


class ShardReader(Sequence[dict[str, Any]]):
    """Random access to rows of Parquet shards; row groups are loaded when needed, the oldest forgotten.

    It holds paths and no open files, so data-loader workers can copy it. `columns` restricts what is read.
    """

    def __init__(
        self,
        folder: str | Path,
        name: str,
        *,
        columns: Sequence[str] | None = None,
        cache_bytes: int = 256 << 20,
    ) -> None:
        self._columns = list(columns) if columns is not None else None
        self._limit = cache_bytes
        self._groups: list[tuple[Path, int]] = []
        sizes: list[int] = []
        for path in list_shards(folder, name):
            for group, rows in enumerate(group_sizes(path)):
                self._groups.append((path, group))
                sizes.append(rows)
        self._starts = [0, *accumulate(sizes)]
        self._held: OrderedDict[int, pa.Table] = OrderedDict()
        self._bytes = 0

    def __len__(self) -> int:
        return self._starts[-1]

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        place = index + len(self) if index < 0 else index
        if not 0 <= place < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        group = bisect_right(self._starts, place) - 1
        return self._group(group).slice(place - self._starts[group], 1).to_pylist()[0]

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for group in range(len(self._groups)):
            yield from self._group(group).to_pylist()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_held": OrderedDict(), "_bytes": 0}

    def _group(self, group: int) -> pa.Table:
        if group in self._held:
            self._held.move_to_end(group)
            return self._held[group]
        table = read_group(*self._groups[group], self._columns)
        self._held[group] = table
        self._bytes += table.nbytes
        while self._bytes > self._limit and len(self._held) > 1:
            self._bytes -= self._held.popitem(last=False)[1].nbytes
        return table
