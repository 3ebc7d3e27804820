"""Shards: same rows, same bytes; a missing one is noticed; rows are reached at random."""

from __future__ import annotations

import pickle
from pathlib import Path

import pyarrow as pa
import pytest

from lcx import storage as shards
from lcx.errors import LcxError, MissingError

SCHEMA = pa.schema([("n", pa.int32()), ("text", pa.string())])


def rows(low: int, high: int) -> list[dict]:
    return [{"n": n, "text": f"row {n} é"} for n in range(low, high)]


@pytest.mark.parametrize("kind", ["parquet", "jsonl"])
def test_same_rows_same_bytes(tmp_path: Path, kind: str) -> None:
    written = []
    for folder in ("a", "b"):
        if kind == "parquet":
            path = shards.write_parquet(tmp_path / folder, "x", rows(0, 3000), SCHEMA)
        else:
            path = shards.write_jsonl(tmp_path / folder, "x", iter(rows(0, 3000)))
        assert path.name == f"x-00000-of-00001.{kind}"
        written.append(path.read_bytes())
        assert list(shards.read_rows(tmp_path / folder, "x")) == rows(0, 3000)
        assert shards.count_rows(tmp_path / folder, "x") == 3000
    assert written[0] == written[1]


def test_missing_shards_are_named(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match="no 'x' shards"):
        shards.list_shards(tmp_path, "x")
    for index in (0, 2):
        shards.write_jsonl(tmp_path, "x", rows(0, 2), index=index, count=4)
    with pytest.raises(MissingError, match="2 of 4") as caught:
        list(shards.read_rows(tmp_path, "x"))
    assert "x-00001-of-00004.jsonl, x-00003-of-00004.jsonl" in caught.value.why


def test_two_sets_are_refused_and_other_names_ignored(tmp_path: Path) -> None:
    shards.write_jsonl(tmp_path, "x", rows(0, 2))
    shards.write_jsonl(tmp_path, "x-y", rows(0, 5))
    (tmp_path / ".x-00000-of-00002.jsonl.1.lcx-tmp").write_text("half")
    assert shards.count_rows(tmp_path, "x") == 2
    shards.write_jsonl(tmp_path, "x", rows(0, 2), index=0, count=2)
    with pytest.raises(LcxError, match="two sets"):
        shards.list_shards(tmp_path, "x")


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
    import pyarrow.parquet as pq

    path = shards.write_parquet(tmp_path, "x", rows(0, 100), SCHEMA, weigh=lambda row: 10, group_weight=100)
    assert pq.read_metadata(path).num_row_groups == 10


def test_a_broken_line_is_named(tmp_path: Path) -> None:
    path = shards.write_jsonl(tmp_path, "x", rows(0, 2))
    path.write_bytes(path.read_bytes() + b"{")
    with pytest.raises(LcxError, match="line 3"):
        list(shards.read_rows(tmp_path, "x"))


def test_no_rows_is_a_shard_too(tmp_path: Path) -> None:
    shards.write_parquet(tmp_path, "x", [], SCHEMA)
    assert shards.count_rows(tmp_path, "x") == 0
    assert len(shards.ShardReader(tmp_path, "x")) == 0
