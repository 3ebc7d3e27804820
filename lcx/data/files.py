"""Files of rows as people have them: JSONL, JSON, Parquet, CSV and TSV, compressed or not, in the usual encodings.

A row that cannot be read is set aside with its place and the reason (`Rejects`); nothing here knows what rows mean.
"""

from __future__ import annotations

import io
import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any, NoReturn

from lcx.errors import MissingError, UsageError
from lcx.formatting import Written
from lcx.hub import out_of_reach
from lcx.paths import check_regular

# What cannot be used


@dataclass(frozen=True)
class Reject:
    """One thing set aside: which source, where in it (line, row or byte; empty for all of it), and why."""

    source: str
    where: str
    reason: str
    detail: str = ""


MOST_HELD = 10_000
"""Things set aside that are kept in memory; further ones wait in a temporary file."""


@dataclass
class Rejects:
    """Everything a reader set aside, with counts per reason. `items` are the first MOST_HELD of them."""

    items: list[Reject] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    _further: IO[bytes] | None = field(default=None, repr=False, compare=False)

    def add(self, source: str, reason: str, *, where: str = "", detail: str = "") -> None:
        """Set one thing aside. `reason` is a category; what differs from case to case goes into `detail`."""
        from lcx.storage import json_line

        self.counts[reason] += 1
        item = Reject(source, where, reason, detail)
        if len(self.items) < MOST_HELD:
            self.items.append(item)
            return
        if self._further is None:
            import tempfile

            self._further = tempfile.TemporaryFile()  # noqa: SIM115 - it ends with the process
        self._further.write(json_line(asdict(item)))

    def __len__(self) -> int:
        return self.counts.total()

    def summary(self, most: int = 3) -> str:
        """For each reason its count and a few examples, on one line."""
        parts = []
        for reason, count in self.counts.most_common():
            named = [item for item in self.items if item.reason == reason][:most]
            shown = ", ".join(
                " ".join(filter(None, (item.source, item.where, item.detail))) for item in named
            )
            examples = f" ({shown}{', ...' if count > len(named) else ''})" if named else ""
            parts.append(f"{count} x {reason}{examples}")
        return "; ".join(parts)

    def write(self, path: str | Path) -> Path:
        """Write all of them as JSONL (`rejected.jsonl`), atomically."""
        from lcx.storage import write_lines

        return write_lines(path, self._rows())

    def _rows(self) -> Iterator[dict[str, str]]:
        for item in self.items:
            yield asdict(item)
        if self._further is not None:
            self._further.seek(0)
            yield from map(json.loads, self._further)
            self._further.seek(0, os.SEEK_END)


EMPTY = "empty file"


class Strict(Rejects):
    """Rejects that raise UsageError at once: for files in which every row counts, such as predictions."""

    def add(self, source: str, reason: str, *, where: str = "", detail: str = "") -> None:
        if reason == EMPTY:
            return
        raise UsageError(
            f"{source}{', ' if where else ''}{where}: {reason}", why=detail, hint=HINTS.get(reason, "")
        )


HINTS = {
    "not UTF-8": "Save the whole file in one encoding, UTF-8.",
    **dict.fromkeys(
        ("NaN is no JSON value", "Infinity is no JSON value", "-Infinity is no JSON value"),
        "Write null for what is missing (some tools write NaN for it).",
    ),
}


# Files

ROW_ENDINGS = (".jsonl", ".ndjson", ".json", ".parquet", ".csv", ".tsv")
PACKED = {".gz": "gzip", ".zst": "zstd", ".bz2": "bz2"}
"""Endings of compressed files, and what pyarrow calls them."""
_MARKS = (
    (b"\xef\xbb\xbf", "utf-8"),
    (b"\xff\xfe\0\0", "utf-32-le"),
    (b"\0\0\xfe\xff", "utf-32-be"),
    (b"\xff\xfe", "utf-16-le"),
    (b"\xfe\xff", "utf-16-be"),
)
"""Byte order marks, the longer ones before those that they begin with."""
LIST_KEYS = ("data", "rows", "examples", "items", "instances", "records", "samples")
"""Keys of a JSON object under which a list of rows may lie; of others, the only list of objects counts."""
ROW_SIGNS = (
    *("context", "document", "passage", "story", "text", "question", "prompt", "messages", "conversations"),
    *("conversation", "paragraphs", "qas", "chosen", "completion", "pred"),
)
"""Keys of an object that is a row itself, whatever lists it holds."""


def ending(path: Path) -> str:
    """The ending that tells a file's kind, lower-cased, that of a compressed file's inside."""
    name = path.name.lower()
    suffix = Path(name).suffix
    return Path(name.removesuffix(suffix)).suffix if suffix in PACKED else suffix


def is_row_file(path: Path) -> bool:
    """Whether a file holds rows by its name: JSONL, JSON, Parquet, CSV or TSV, compressed or not."""
    return ending(path) in ROW_ENDINGS


def list_files(root: Path) -> list[tuple[str, Path]]:
    """Files under a folder as (relative name, path), sorted by name; hidden files and folders are skipped.

    A name that is no UTF-8 is written with escapes (`caf\\xe9.txt`), since ids and reports must be.
    """
    found = []
    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if not name.startswith(".")]
        inside = os.path.relpath(folder, root)
        prefix = "" if inside == "." else shown_name(Path(inside).as_posix()) + "/"
        here = Path(folder)
        found += [(prefix + shown_name(name), here / name) for name in names if not name.startswith(".")]
    return sorted(found)


def shown_name(name: str) -> str:
    """A file's name as UTF-8 can carry it."""
    return name if name.isascii() else os.fsencode(name).decode("utf-8", "backslashreplace")


@dataclass(frozen=True)
class Raw:
    """A row as it lies in its file: `source` and `where` (line 7, row 3) are what messages call its place."""

    source: str
    where: str
    row: Any

    @property
    def number(self) -> str:
        """The row's number in its file, from 1; `3.2` is the second question in row 3."""
        return self.where.split()[-1]

    @property
    def padded(self) -> str:
        """The number for ids, which sort as the rows lie: `0000003.2`."""
        whole, dot, part = self.number.partition(".")
        return f"{int(whole):07d}{dot}{part}"


def raw_rows(source: str | Path, rejects: Rejects) -> Iterator[Raw]:
    """All rows of a file, of the files of rows in a folder, or of `hf:NAME[:CONFIG][@SPLIT]`, lazily.

    What cannot be read goes into `rejects` with its place: a line that is broken, a file that is. Raises UsageError
    for a folder without a file of rows, MissingError for a path that is not there.
    """
    text = str(source)
    if text.startswith("hf:"):
        yield from hub_rows_of(text)
        return
    path = Path(text).expanduser()
    if path.is_dir():
        inside = [(name, file) for name, file in list_files(path) if is_row_file(file)]
        if not inside:
            raise UsageError(
                f"{path} has no file of rows",
                why=f"Files of rows end with {', '.join(ROW_ENDINGS)}, and maybe .gz or .zst.",
            )
        for name, file in inside:
            yield from file_rows(name, file, rejects)
    elif path.exists():
        yield from file_rows(shown_name(path.name), path, rejects)
    else:
        raise MissingError(f"no file of rows at '{path}'", hint="Give a file, a folder of files, or hf:NAME.")


def file_rows(name: str, path: Path, rejects: Rejects) -> Iterator[Raw]:
    """The rows of one file, `name` being what messages call it."""
    kind = ending(path)
    try:
        with opened(path) as file:
            if kind == ".parquet":
                yield from _parquet(name, file, rejects)
            elif kind in (".csv", ".tsv"):
                yield from _table(name, file, "\t" if kind == ".tsv" else ",", rejects)
            else:
                yield from stream_rows(name, file, rejects, lines=kind in (".jsonl", ".ndjson"))
    except OSError as bad:
        broken = (
            f"broken {PACKED[path.suffix.lower()]}" if path.suffix.lower() in PACKED else "unreadable file"
        )
        rejects.add(name, broken, detail=bad.strerror or str(bad).splitlines()[0])


@contextmanager
def opened(path: Path) -> Iterator[IO[bytes]]:
    """A file's bytes, unpacked where it is compressed."""
    check_regular(path)
    packing = PACKED.get(path.suffix.lower())
    if packing is None:
        with path.open("rb") as file:
            yield file
    elif packing == "gzip":
        import gzip
        import zlib

        try:
            with gzip.open(path, "rb") as file:
                yield file  # type: ignore[misc]
        except (EOFError, zlib.error) as bad:
            raise OSError(None, str(bad)) from bad
    else:
        with io.BufferedReader(_Unpacking(path, packing), 1 << 16) as file:
            yield file


class _Unpacking(io.RawIOBase):
    """The bytes inside a file of zstd or bz2, a little at a time: Arrow's own stream has no lines and goes one way.

    Going back begins at the front again, as gzip's does. Raises OSError for what is broken, once it is reached.
    """

    def __init__(self, path: Path, packing: str) -> None:
        self._path, self._packing = path, packing
        self._begin()

    def _begin(self) -> None:
        import pyarrow as pa

        self._raw = pa.OSFile(str(self._path))
        self._stream = pa.CompressedInputStream(self._raw, self._packing)
        self._place = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._stream.read(len(buffer))
        buffer[: len(data)] = data
        self._place += len(data)
        return len(data)

    def tell(self) -> int:
        return self._place

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        target = offset + (self._place if whence == io.SEEK_CUR else 0)
        if whence == io.SEEK_END:
            while data := self._stream.read(1 << 20):
                self._place += len(data)
            target = offset + self._place
        if target < self._place:
            self._release()
            self._begin()
        while self._place < target and (data := self._stream.read(min(1 << 20, target - self._place))):
            self._place += len(data)
        return self._place

    def _release(self) -> None:
        self._stream.close()
        self._raw.close()

    def close(self) -> None:
        if not self.closed:
            self._release()
        super().close()


def unpacked(data: bytes) -> bytes:
    """What gzip has packed, whatever the file is called. Raises OSError for what is broken."""
    import gzip
    import zlib

    try:
        return gzip.decompress(data)
    except (EOFError, zlib.error) as bad:
        raise OSError(None, str(bad)) from bad


def encoding_of(data: bytes) -> tuple[str, int]:
    """The encoding that a text's first bytes tell, and how many of them are its mark."""
    for mark, encoding in _MARKS:
        if data.startswith(mark):
            return encoding, len(mark)
    if data[:1] == b"\0" != data[1:2]:
        return "utf-16-be", 0
    if data[:1] != b"\0" and data[1:2] == b"\0":
        return "utf-16-le", 0
    return "utf-8", 0


def decoded(data: bytes, name: str, where: str, rejects: Rejects) -> str | None:
    """A text's characters; None, with the reason set aside, where its bytes are of no encoding that they tell."""
    encoding, skip = encoding_of(data)
    try:
        return data[skip:].decode(encoding)
    except UnicodeDecodeError as bad:
        what = "not UTF-8" if encoding == "utf-8" else f"broken {encoding}"
        rejects.add(
            name, what, where=where, detail=f"byte {bad.start + skip} is 0x{data[bad.start + skip]:02x}"
        )
        return None


def stream_rows(name: str, file: IO[bytes], rejects: Rejects, *, lines: bool = False) -> Iterator[Raw]:
    """Rows of JSON: one object a line, one list, one object that holds a list, or objects laid end to end.

    `lines` says that the name promises one a line. Lines are read lazily; everything else is read whole.
    """
    start = file.read(1 << 16)
    encoding, skip = encoding_of(start)
    if encoding == "utf-8":
        file.seek(skip)
    else:
        text = decoded(start + file.read(), name, "", rejects)
        if text is None:
            return
        file, skip = io.BytesIO(text.encode("utf-8", "surrogatepass")), 0
        start = file.getvalue()[: 1 << 16]
    begins = start[skip:].lstrip()
    if not begins and not file.read().strip():
        rejects.add(name, EMPTY)
    elif begins.startswith(b"[") or not (lines or _one_a_line(begins)):
        text = decoded(file.read(), name, "", rejects)
        if text is not None:
            yield from _document(name, text, rejects)
    else:
        # Cut at newlines only: str.splitlines would also cut at signs that JSON allows inside a string
        for number, line in enumerate(file, 1):
            if line.strip():
                yield from _line(name, f"line {number}", line, rejects)


def _line(name: str, where: str, line: bytes, rejects: Rejects) -> Iterator[Raw]:
    try:
        yield Raw(name, where, parse_json(line.decode()))
    except UnicodeDecodeError as bad:
        rejects.add(name, "not UTF-8", where=where, detail=f"byte {bad.start} is 0x{line[bad.start]:02x}")
    except (ValueError, RecursionError) as bad:
        _broken(name, where, bad, rejects)


class NotANumber(ValueError):
    """NaN or Infinity, which Python's JSON reads and the standard does not have."""


def parse_json(text: str) -> Any:
    """A JSON value. Raises ValueError, NotANumber for NaN, RecursionError for a value nested too deeply."""
    return _shallow(json.loads(text, parse_constant=_refuse_constant, parse_float=Written))


MOST_NESTED = 100
"""Lists and objects within each other that a row may have; a thousand end Python's patience with whoever walks it."""


def _shallow(value: Any) -> Any:
    """The value. Raises RecursionError for one that is nested too deeply."""
    level = [value]
    for _ in range(MOST_NESTED):
        level = [
            one
            for outer in level
            if isinstance(outer, list | dict)
            for one in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(one, list | dict)
        ]
        if not level:
            return value
    raise RecursionError


def _refuse_constant(name: str) -> NoReturn:
    raise NotANumber(f"{name} is no JSON value")


def _broken(name: str, where: str, bad: Exception, rejects: Rejects) -> None:
    if isinstance(bad, RecursionError):
        rejects.add(name, "nested too deeply", where=where)
    elif isinstance(bad, NotANumber):
        rejects.add(name, str(bad), where=where)
    else:
        rejects.add(name, "not JSON", where=where, detail=str(bad))


def _one_a_line(start: bytes) -> bool:
    """Whether a file that is not named .jsonl is one all the same: its first line is a whole JSON value of many."""
    first, newline, rest = start.lstrip().partition(b"\n")
    if not newline or not rest.strip():
        return False
    with suppress(ValueError, RecursionError):
        json.loads(first)
        return True
    return False


def _document(name: str, text: str, rejects: Rejects) -> Iterator[Raw]:
    """The rows of one JSON value, or of several laid end to end."""
    place, count, decoder = 0, 0, json.JSONDecoder(parse_constant=_refuse_constant, parse_float=Written)
    text = text.strip().removesuffix("\0")
    while place < len(text):
        try:
            value, place = decoder.raw_decode(text, place)
            _shallow(value)
        except (ValueError, RecursionError) as bad:
            return _broken(name, f"after row {count}" if count else "", bad, rejects)
        while place < len(text) and text[place] in " \t\r\n,":
            place += 1
        listed = _listed(value)
        if not listed:
            rejects.add(name, "an empty list", where=f"after row {count}" if count else "")
        for row in listed:
            count += 1
            yield Raw(name, f"row {count}", row)


def _listed(value: Any) -> Sequence[Any]:
    """The rows in a JSON value: a list's members, the members of the list that an object holds, or the object."""
    if isinstance(value, list):
        return value
    if not isinstance(value, Mapping):
        return [value]
    columns = [one for one in value.values() if isinstance(one, list) and not is_list_of_objects(one)]
    if len(columns) == len(value) > 1 and len({len(one) for one in columns}) == 1 < len(columns[0]):
        return [
            dict(zip(value, row, strict=True)) for row in zip(*columns, strict=True)
        ]  # as pandas writes columns
    lists = {key: inner for key, inner in value.items() if is_list_of_objects(inner)}
    known = [key for key in lists if key in LIST_KEYS] or list(lists)
    if len(known) != 1 or any(key in value for key in ROW_SIGNS):
        return [value]
    rows = lists[known[0]]
    return [one["row"] if isinstance(one.get("row"), Mapping) and "row_idx" in one else one for one in rows]


def is_list_of_objects(value: Any) -> bool:
    """Whether a value is a list that holds objects, and nothing else."""
    return isinstance(value, list) and bool(value) and all(isinstance(one, Mapping) for one in value)


def _parquet(name: str, file: IO[bytes], rejects: Rejects) -> Iterator[Raw]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        with pq.ParquetFile(file, buffer_size=1 << 20) as table:
            for batch in table.iter_batches(batch_size=256):
                for place in range(batch.num_rows):
                    number += 1
                    try:
                        row = batch.slice(place, 1).to_pylist()[0]
                    except UnicodeDecodeError as bad:
                        rejects.add(name, "not UTF-8", where=f"row {number}", detail=f"byte {bad.start}")
                        continue
                    yield Raw(name, f"row {number}", row)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as bad:
        if (
            isinstance(bad, OSError) and bad.errno
        ):  # the disk's own; pyarrow's of a damaged file have no number
            raise
        # The names of columns are decoded as the file is opened, too
        rejects.add(name, "broken Parquet", where=f"after row {number}", detail=str(bad).splitlines()[0])
        return
    if number == 0:
        rejects.add(name, EMPTY)


def _table(name: str, file: IO[bytes], comma: str, rejects: Rejects) -> Iterator[Raw]:
    """Rows of CSV or TSV by its header; a table with semicolons is told by its header too."""
    import csv

    text = decoded(file.read(), name, "", rejects)
    if text is None:
        return
    header = text.lstrip().partition("\n")[0]
    if comma == "," and header.count(";") > header.count(","):
        comma = ";"
    csv.field_size_limit(1 << 30)  # a context is longer than the usual 128 KB
    number = 0
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=comma, strict=True)
    while True:
        try:
            row = next(reader, None)
        except csv.Error as bad:
            rejects.add(name, "broken CSV", where=f"line {reader.line_num}", detail=str(bad))
            continue
        if row is None:
            break
        number += 1
        if None in row or None in row.values():
            rejects.add(name, "not the header's number of fields", where=f"line {reader.line_num}")
            continue
        yield Raw(name, f"row {number}", {key: _cell(value) for key, value in row.items()})
    if number == 0:
        rejects.add(name, EMPTY)


def _cell(value: Any) -> Any:
    """A cell of a table: a list or object that was written into it as JSON is one, everything else stays a text."""
    if isinstance(value, str) and value[:1] in "[{" and value[-1:] in "]}":
        with suppress(ValueError, RecursionError):
            found = parse_json(value)
            if isinstance(found, Mapping) or (isinstance(found, list) and found):
                return found
    return value


def strict_rows(path: str | Path) -> list[dict[str, Any]]:
    """All rows of a file in which every row counts. Raises UsageError naming the first that is broken or no object."""
    file = Path(path).expanduser()
    if file.is_dir():
        raise UsageError(f"cannot read the rows in {path}: it is a folder", hint="Name one file of it.")
    if not file.is_file():
        raise UsageError(f"cannot read the rows in {path}", why="There is no such file.")
    return _objects_only(file_rows(str(path), file, Strict()))


def strict_bytes(data: bytes, name: str) -> list[dict[str, Any]]:
    """As `strict_rows`, of bytes that were a file of an archive."""
    return _objects_only(stream_rows(name, io.BytesIO(data), Strict(), lines=not name.endswith(".json")))


def _objects_only(rows: Iterable[Raw]) -> list[dict[str, Any]]:
    found = []
    for raw in rows:
        if not isinstance(raw.row, dict):
            raise UsageError(
                f"{raw.source}, {raw.where}: a row is a JSON object, not {type(raw.row).__name__}"
            )
        found.append(raw.row)
    return found


# Datasets of the Hugging Face hub

_HF = re.compile(r"hf:(?P<name>[^:@]+)(:(?P<config>[^@]+))?(@(?P<split>.+))?")


def hub_name(spec: str) -> tuple[str, str | None, str | None]:
    """Name, config and split of an `hf:` spec. Raises UsageError where it is none."""
    match = _HF.fullmatch(spec)
    if match is None:
        raise UsageError(f"'{spec}' is not a dataset spec", hint="Write hf:NAME[:CONFIG][@SPLIT].")
    return match["name"], match["config"], match["split"]


def hub_rows_of(spec: str) -> Iterator[Raw]:
    """The rows of `hf:NAME[:CONFIG][@SPLIT]` with their numbers. Raises as `hub_rows`."""
    return (Raw(spec, f"row {number}", row) for number, row in enumerate(hub_rows(*hub_name(spec)), 1))


def hub_rows(name: str, config: str | None, split: str | None) -> Iterator[dict[str, Any]]:
    """Rows of a dataset's split (`train` by default), streamed where the hub is reachable, else from the local cache.

    Raises MissingError where it cannot be reached, UsageError for a wrong name, config or split.
    """
    return _stream(name, _load(name, config, split or "train"))


def dataset_revision(name: str) -> str:
    """The dataset's commit on the hub, or `unknown` where the hub does not answer."""
    if out_of_reach():
        return "unknown"
    try:
        from huggingface_hub import HfApi

        return str(HfApi().dataset_info(name, timeout=5).sha)
    except Exception:  # offline, unknown or private: the name alone has to do
        return "unknown"


def _stream(name: str, data: Any) -> Iterator[dict[str, Any]]:
    rows = iter(data)
    while True:
        try:
            row = next(rows)
        except StopIteration:
            return
        except Exception as bad:
            raise _unreachable(name, bad) from bad
        yield row


def _load(name: str, config: str | None, split: str) -> Any:
    try:
        import datasets
    except ImportError as bad:
        raise MissingError(
            "the `datasets` library is not installed", hint="Run `pip install datasets`."
        ) from bad
    try:
        if not out_of_reach():
            return datasets.load_dataset(name, config, split=split, streaming=True)
        with _offline():
            return datasets.load_dataset(name, config, split=split)
    except ValueError as bad:
        raise UsageError(
            f"the dataset '{name}' cannot be opened as asked",
            why=str(bad).splitlines()[0],
            hint="Write hf:NAME[:CONFIG][@SPLIT] with a config and a split that it has.",
        ) from bad
    except Exception as bad:
        raise _unreachable(name, bad) from bad


@contextmanager
def _offline() -> Iterator[None]:
    """Make the libraries look into their caches only: they read the environment once, when imported."""
    import datasets
    import huggingface_hub.constants

    places = [datasets.config, huggingface_hub.constants]
    before = [place.HF_HUB_OFFLINE for place in places]
    for place in places:
        place.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        for place, value in zip(places, before, strict=True):
            place.HF_HUB_OFFLINE = value


def _unreachable(name: str, bad: Exception) -> MissingError:
    return MissingError(
        f"the dataset '{name}' cannot be reached",
        why=f"{type(bad).__name__}: {(str(bad).splitlines() or [''])[0]}",
        hint=f"With a network run `hf download {name} --repo-type dataset --local-dir DIR`, then"
        " `--corpus DIR`; check the name and HF_TOKEN; `--corpus stdlib` needs no network.",
    )
