"""Numbered shards `NAME-00000-of-00004.parquet|jsonl`: whole files whose bytes follow the rows."""

from __future__ import annotations

import json
import re
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lcx.errors import LcxError, MissingError
from lcx.work.files import atomic_path, disk_errors, json_line

if TYPE_CHECKING:
    import pyarrow as pa

ROWS_PER_GROUP = 1024
"""Rows a Parquet row group; the unit in which `ShardReader` loads and forgets."""

_NAME = re.compile(r"(?P<name>.+)-(?P<index>\d{5})-of-(?P<count>\d{5})\.(?P<suffix>parquet|jsonl)")


def shard_path(
    folder: str | Path, name: str, index: int = 0, count: int = 1, suffix: str = "parquet"
) -> Path:
    """Where shard `index` of `count` lies."""
    if not 0 <= index < count <= 99_999:
        raise ValueError(f"shard {index} of {count}: the index must be in 0..count-1")
    return Path(folder) / f"{name}-{index:05d}-of-{count:05d}.{suffix}"


def list_shards(folder: str | Path, name: str) -> list[Path]:
    """All shards of `name`, in order. Raises MissingError where there are none, or naming those that lack."""
    found: dict[tuple[int, str], dict[int, Path]] = {}
    for path in sorted(Path(folder).glob(f"{name}-*-of-*")):
        match = _NAME.fullmatch(path.name)
        if match and match["name"] == name:
            found.setdefault((int(match["count"]), match["suffix"]), {})[int(match["index"])] = path
    if not found:
        raise MissingError(
            f"no '{name}' shards in {folder}", hint="Run the step that makes them, or check the folder."
        )
    if len(found) > 1:
        kinds = ", ".join(f"{len(paths)} of {count} {suffix}" for (count, suffix), paths in found.items())
        raise LcxError(
            f"{folder} holds two sets of '{name}' shards",
            why=kinds,
            hint="Remove the set you do not want.",
        )
    (count, suffix), paths = found.popitem()
    lacking = [index for index in range(count) if index not in paths]
    if lacking:
        names = ", ".join(shard_path("", name, index, count, suffix).name for index in lacking[:5])
        raise MissingError(
            f"{len(lacking)} of {count} '{name}' shards are missing in {folder}",
            why=names + (" ..." if len(lacking) > 5 else ""),
            hint="Run the step again: it writes the shards that are missing.",
        )
    return [paths[index] for index in range(count)]


def write_jsonl(
    folder: str | Path, name: str, rows: Iterable[Mapping[str, Any]], *, index: int = 0, count: int = 1
) -> Path:
    """Write one JSONL shard atomically. Raises LcxError for a full or read-only disk."""
    path = shard_path(folder, name, index, count, "jsonl")
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        for row in rows:
            file.write(json_line(row))
    return path


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
) -> Path:
    """Write one Parquet shard (zstd) atomically, a row group at a time.

    A group ends after `group_rows` rows, or sooner where the sum of `weigh(row)` reaches `group_weight`.
    Raises LcxError for a full or read-only disk.
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

    return write_tables(folder, name, batches(), schema, index=index, count=count)


def write_tables(
    folder: str | Path,
    name: str,
    tables: Iterable[pa.Table],
    schema: pa.Schema,
    *,
    index: int = 0,
    count: int = 1,
) -> Path:
    """Write one Parquet shard atomically, a row group for each Arrow table."""
    import pyarrow.parquet as pq

    path = shard_path(folder, name, index, count)
    # A Python file object, so that a full disk is an OSError with its errno. Nothing time-dependent is
    # written.
    with (
        atomic_path(path) as temporary,
        temporary.open("wb") as file,
        pq.ParquetWriter(file, schema, compression="zstd", version="2.6") as writer,
    ):
        for table in tables:
            writer.write_table(table, row_group_size=max(1, table.num_rows))
    return path


def read_rows(folder: str | Path, name: str) -> Iterator[dict[str, Any]]:
    """All rows in order, lazily. Raises MissingError for missing shards, LcxError for a bad line."""
    for path in list_shards(folder, name):
        if path.suffix == ".jsonl":
            yield from read_jsonl(path)
        else:
            import pyarrow.parquet as pq

            with pq.ParquetFile(path) as file:
                for group in range(file.num_row_groups):
                    yield from file.read_row_group(group).to_pylist()


def read_jsonl(path: str | Path) -> Iterator[dict[str, Any]]:
    """Rows of one JSONL file, lazily. Raises LcxError naming a line that is not JSON."""
    with disk_errors(path), Path(path).open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                yield json.loads(line)
            except ValueError as bad:
                raise LcxError(
                    f"{path}: line {number} is not JSON", why=str(bad), hint="Remove the shard; run again."
                ) from bad


def count_rows(folder: str | Path, name: str) -> int:
    """Number of rows over all shards, from Parquet footers or by counting lines."""
    total = 0
    for path in list_shards(folder, name):
        if path.suffix == ".jsonl":
            with path.open("rb") as file:
                total += sum(1 for _ in file)
        else:
            import pyarrow.parquet as pq

            total += pq.read_metadata(path).num_rows
    return total


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
        import pyarrow.parquet as pq

        self._columns = list(columns) if columns is not None else None
        self._limit = cache_bytes
        self._groups: list[tuple[Path, int]] = []
        sizes: list[int] = []
        for path in list_shards(folder, name):
            footer = pq.read_metadata(path)
            for group in range(footer.num_row_groups):
                self._groups.append((path, group))
                sizes.append(footer.row_group(group).num_rows)
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
        from bisect import bisect_right

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
        import pyarrow.parquet as pq

        path, number = self._groups[group]
        with pq.ParquetFile(path) as file:
            table = file.read_row_group(number, columns=self._columns)
        self._held[group] = table
        self._bytes += table.nbytes
        while self._bytes > self._limit and len(self._held) > 1:
            self._bytes -= self._held.popitem(last=False)[1].nbytes
        return table
