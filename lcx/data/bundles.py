"""Bundles in Parquet shards: a plan is a list of int32, so a context of 32K tokens takes about half a kilobyte."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lcx.records import Branch, Bundle
from lcx.storage import ShardReader, json_text, write_parquet

BUNDLES_A_GROUP = 256
GROUP_CHARACTERS = 4 << 20
"""A row group ends sooner where bundles carry long context texts, since a reader loads groups whole."""


def bundle_row(bundle: Bundle) -> dict[str, Any]:
    """A bundle as a flat row; `meta` values are JSON."""
    return {
        "id": bundle.id,
        "kind": bundle.kind,
        "plan": None if bundle.plan is None else list(bundle.plan),
        "context": bundle.context,
        "branches": [
            {
                "question": branch.question,
                "answer": branch.answer,
                "role": branch.role,
                "gold": list(branch.gold),
                "meta": _dump(branch.meta),
            }
            for branch in bundle.branches
        ],
        "meta": _dump(bundle.meta),
    }


def row_bundle(row: Mapping[str, Any]) -> Bundle:
    """The bundle that `bundle_row` made a row of."""
    branches = tuple(
        Branch(b["question"], b["answer"], b["role"], tuple(b["gold"]), json.loads(b["meta"]))
        for b in row["branches"]
    )
    plan = None if row["plan"] is None else tuple(row["plan"])
    return Bundle(row["id"], branches, plan, row["context"], row["kind"], json.loads(row["meta"]))


def write_bundles(
    folder: str | Path, bundles: Iterable[Bundle], *, name: str = "bundles", index: int = 0, count: int = 1
) -> Path:
    """Write one shard of bundles atomically; the same bundles give the same bytes.

    Raises LcxError for a full or read-only disk.
    """
    rows = (bundle_row(bundle) for bundle in bundles)
    return write_parquet(
        folder,
        name,
        rows,
        _schema(),
        index=index,
        count=count,
        group_rows=BUNDLES_A_GROUP,
        weigh=lambda row: len(row["context"] or ""),
        group_weight=GROUP_CHARACTERS,
        scattered=("plan.list.element",),
    )


def holds_bundles(folder: Path) -> bool:
    """True if a folder is one of bundles that a step wrote."""
    return folder.is_dir() and (any(folder.glob("bundles-*.parquet")) or (folder / "table.json").is_file())


class BundleReader(Sequence[Bundle]):
    """Bundles by number over all shards, loaded when asked for; copies of it work in data-loader workers."""

    def __init__(self, folder: str | Path, name: str = "bundles", *, cache_bytes: int = 256 << 20) -> None:
        self._rows = ShardReader(folder, name, cache_bytes=cache_bytes)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [row_bundle(row) for row in self._rows[index]]
        return row_bundle(self._rows[index])

    def __iter__(self) -> Iterator[Bundle]:
        return (row_bundle(row) for row in self._rows)


def read_bundles(folder: str | Path, name: str = "bundles", *, cache_bytes: int = 256 << 20) -> BundleReader:
    """Open all shards of bundles in a folder. Raises MissingError where shards are missing."""
    return BundleReader(folder, name, cache_bytes=cache_bytes)


def _dump(meta: Mapping[str, Any]) -> str:
    return json_text(dict(meta))


def _schema() -> Any:
    import pyarrow as pa

    branch = pa.struct(
        [
            ("question", pa.string()),
            ("answer", pa.string()),
            ("role", pa.string()),
            ("gold", pa.list_(pa.int32())),
            ("meta", pa.string()),
        ]
    )
    return pa.schema(
        [
            ("id", pa.string()),
            ("kind", pa.string()),
            ("plan", pa.list_(pa.int32())),
            ("context", pa.string()),
            ("branches", pa.list_(branch)),
            ("meta", pa.string()),
        ]
    )
