"""Shards: same rows, same bytes; a missing one is noticed; rows are reached at random."""

from __future__ import annotations

import pickle
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lcx import storage as shards
from lcx.errors import LcxError, MissingError
from tests.conftest import Fault

SCHEMA = pa.schema([("n", pa.int32()), ("text", pa.string())])


def rows(low: int, high: int) -> list[dict]:
    return [{"n": n, "text": f"row {n} é"} for n in range(low, high)]


def test_same_rows_same_bytes(tmp_path: Path) -> None:
    written = [shards.write_parquet(tmp_path / folder, "x", rows(0, 3000), SCHEMA) for folder in "ab"]
    assert {path.name for path in written} == {"x-00000-of-00001.parquet"}
    assert len({path.read_bytes() for path in written}) == 1
    assert list(shards.ShardReader(tmp_path / "a", "x")) == rows(0, 3000)


def test_missing_shards_are_named(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match="no 'x' shards"):
        shards.list_shards(tmp_path, "x")
    for index in (0, 2):
        shards.write_parquet(tmp_path, "x", rows(0, 2), SCHEMA, index=index, count=4)
    with pytest.raises(MissingError, match="2 of 4") as caught:
        shards.ShardReader(tmp_path, "x")
    assert "x-00001-of-00004.parquet, x-00003-of-00004.parquet" in caught.value.why


def test_two_sets_are_refused_and_other_names_ignored(tmp_path: Path) -> None:
    shards.write_parquet(tmp_path, "x", rows(0, 2), SCHEMA)
    shards.write_parquet(tmp_path, "x-y", rows(0, 5), SCHEMA)
    (tmp_path / ".x-00000-of-00002.parquet.1.lcx-tmp").write_text("half")
    assert len(shards.ShardReader(tmp_path, "x")) == 2
    shards.write_parquet(tmp_path, "x", rows(0, 2), SCHEMA, index=0, count=2)
    with pytest.raises(LcxError, match="two sets"):
        shards.list_shards(tmp_path, "x")


def test_a_flipped_bit_is_never_read_as_other_rows(tmp_path: Path, fault: Fault) -> None:
    """Every 23rd byte with one bit turned over: the rows are as written, or the shard is called damaged."""
    path = shards.write_parquet(tmp_path, "x", rows(0, 40), SCHEMA)
    whole, damaged = path.read_bytes(), 0
    places, other = range(0, len(whole), 23), 0
    for place in places:
        flipped = bytearray(whole)
        flipped[place] ^= 1 << place % 8
        path.write_bytes(flipped)
        try:
            other += list(shards.ShardReader(tmp_path, "x")) != rows(0, 40)
        except LcxError as bad:
            damaged += "x-00000-of-00001.parquet is damaged" in bad.what
    fault("bits flipped in shards: read as other rows", len(places), other)
    assert damaged > len(whole) / 23 * 0.7


def test_shards_of_earlier_versions_are_read_and_cut_ones_are_damaged(tmp_path: Path) -> None:
    path = shards.shard_path(tmp_path, "x")
    pq.write_table(pa.Table.from_pylist(rows(0, 9), schema=SCHEMA), path)
    assert list(shards.ShardReader(tmp_path, "x")) == rows(0, 9)
    whole = path.read_bytes()
    for keep in (0, 3, 10, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:keep])
        with pytest.raises(LcxError, match="is damaged"):
            list(shards.ShardReader(tmp_path, "x"))


def test_reader_reaches_rows_over_shards_within_its_memory(tmp_path: Path) -> None:
    for index, (low, high) in enumerate(((0, 700), (700, 700), (700, 1000))):
        shards.write_parquet(tmp_path, "x", rows(low, high), SCHEMA, index=index, count=3, group_rows=64)
    reader = shards.ShardReader(tmp_path, "x", cache_bytes=4000)
    assert len(reader) == 1000
    for place in (0, 63, 64, 699, 700, 999, 5):
        assert reader[place] == rows(place, place + 1)[0]
    assert reader[-1]["n"] == 999
    assert [row["n"] for row in reader[698:702]] == [698, 699, 700, 701]
    assert list(reader) == rows(0, 1000)
    assert len(reader._held) < 6
    assert pickle.loads(pickle.dumps(reader))[321]["n"] == 321
    with pytest.raises(IndexError):
        reader[1000]
    assert shards.ShardReader(tmp_path, "x", columns=["n"])[3] == {"n": 3}


def test_heavy_rows_end_a_group_early(tmp_path: Path) -> None:
    path = shards.write_parquet(tmp_path, "x", rows(0, 100), SCHEMA, weigh=lambda row: 10, group_weight=100)
    assert pq.read_metadata(path).num_row_groups == 10


def test_a_broken_line_is_named(tmp_path: Path) -> None:
    path = shards.write_lines(tmp_path / "x.jsonl", rows(0, 2))
    path.write_bytes(path.read_bytes() + b"{")
    with pytest.raises(LcxError, match="line 3"):
        list(shards.read_jsonl(path))


def test_no_rows_is_a_shard_too(tmp_path: Path) -> None:
    shards.write_parquet(tmp_path, "x", [], SCHEMA)
    assert len(shards.ShardReader(tmp_path, "x")) == 0
