"""The token store: every segment's token ids for one tokenizer, memory-mapped; only a cache."""

from __future__ import annotations

import os
import secrets
import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from lcx.data.pieces import PieceTokenizer
from lcx.data.table import SegmentTable
from lcx.errors import LcxError
from lcx.work.files import disk_errors, make_folder, read_json, write_json

SEPARATOR = "\n"
"""What stands between two segments of a context."""
FORMAT = 1
SEGMENTS_A_BATCH = 2048
ABANDONED = 86_400
"""Seconds after which a half-built store counts as left behind."""


class TokenStore:
    """Token ids of segments as they stand after other tokens: `store[i]`, `store.join(indices)`.

    `info` records how many segments are lossy: their tokens do not decode to their text, since the tokenizer
    normalises or does not know some characters.
    """

    def __init__(self, folder: Path, ids: np.ndarray, offsets: np.ndarray, info: dict[str, Any]) -> None:
        self.folder = folder
        self._ids = ids
        self._offsets = offsets
        self.info = info
        self.separator = np.array(info["separator"], ids.dtype)
        """Token ids of the newline between two segments."""
        self.lengths: np.ndarray = np.diff(offsets)
        """int64 [n]: tokens of each segment."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _load, (self.folder,)  # a data-loader worker maps the files again instead of copying them

    @property
    def dtype(self) -> np.dtype:
        """uint16 for vocabularies of up to 65,536 tokens, else uint32."""
        return self._ids.dtype

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, index: int) -> np.ndarray:
        return self._ids[self._offsets[index] : self._offsets[index + 1]]

    def join(self, indices: Sequence[int], *, first: np.ndarray | None = None) -> np.ndarray:
        """Token ids of segments joined by separators, in the store's dtype.

        `first` replaces the first segment's tokens where nothing precedes the context.
        """
        ids, offsets, separator = self._ids, self._offsets, self.separator
        places = np.asarray(indices, np.int64)
        if not len(places):
            return np.empty(0, ids.dtype)
        parts = []
        for low, high in zip(offsets[places].tolist(), offsets[places + 1].tolist(), strict=True):
            parts.append(ids[low:high])
            parts.append(separator)
        parts.pop()
        if first is not None:
            parts[0] = first.astype(ids.dtype, copy=False)
        return np.concatenate(parts)

    def joined_length(self, indices: Sequence[int]) -> int:
        """Tokens of segments joined by separators, without joining them."""
        if not len(indices):
            return 0
        places = np.asarray(indices, np.int64)
        return int(self.lengths[places].sum()) + len(self.separator) * (len(places) - 1)


def open_token_store(
    tokenizer: Any,
    table: SegmentTable,
    cache: str | Path,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> TokenStore:
    """The store of a tokenizer and a table from the folder `cache`, built there first where it is missing.

    `progress(done, total)` is called with segments while building. A store that a kill left half-built is
    never used. Raises LcxError for a slow tokenizer, or a full or read-only disk.
    """
    pieces = tokenizer if isinstance(tokenizer, PieceTokenizer) else PieceTokenizer(tokenizer)
    folder = Path(cache) / "tokens" / f"{pieces.fingerprint[:20]}-{table.fingerprint[:20]}"
    try:
        return _load(folder)
    except (OSError, LcxError, ValueError, KeyError):
        pass  # missing, of an older format, or damaged: it is a cache, so it is built anew
    _sweep(folder)
    building = folder.with_name(f"{folder.name}.building-{os.getpid()}-{secrets.token_hex(4)}")
    make_folder(building)
    try:
        with disk_errors(building):
            _build(pieces, table, building, progress)
        if folder.exists():
            with suppress(OSError, LcxError, ValueError, KeyError):
                return _load(folder)  # another process was faster
            shutil.rmtree(folder)
        with disk_errors(folder):
            try:
                building.rename(folder)
            except OSError:
                if not folder.exists():
                    raise
        return _load(folder)
    finally:
        shutil.rmtree(building, ignore_errors=True)


def _sweep(folder: Path) -> None:
    """Remove what processes killed a day ago or more left half-built; a younger one may still be at work."""
    for old in folder.parent.glob(f"{folder.name}.building-*"):
        with suppress(OSError):
            if time.time() - old.stat().st_mtime > ABANDONED:
                shutil.rmtree(old)


def _build(
    pieces: PieceTokenizer,
    table: SegmentTable,
    folder: Path,
    progress: Callable[[int, int], None] | None,
) -> None:
    dtype = np.dtype("<u2" if pieces.vocabulary <= 1 << 16 else "<u4")
    total = len(table)
    lengths = np.zeros(total, np.int64)
    lossy: list[int] = []
    with (folder / "ids.bin").open("wb") as file:
        for low in range(0, total, SEGMENTS_A_BATCH):
            high = min(low + SEGMENTS_A_BATCH, total)
            ids, bad = pieces.later_batch(table.texts(range(low, high)))
            lossy.extend(low + place for place in bad)
            for place, one in enumerate(ids):
                lengths[low + place] = len(one)
            file.write(np.array([token for one in ids for token in one], dtype).tobytes())
            if progress:
                progress(high, total)
        file.flush()
        os.fsync(file.fileno())
    np.save(folder / "offsets.npy", np.concatenate([[0], np.cumsum(lengths)]).astype("<i8"))
    separator, bad = pieces.later_batch([SEPARATOR])
    write_json(
        folder / "store.json",
        {
            "format": FORMAT,
            "tokenizer": pieces.fingerprint,
            "table": table.fingerprint,
            "dtype": dtype.str,
            "segments": total,
            "tokens": int(lengths.sum()),
            "separator": separator[0],
            "separator_lossy": bool(bad),
            "lossy": len(lossy),
            "lossy_examples": lossy[:20],
            "prefixed": pieces.prefixed,
        },
    )


def _load(folder: Path) -> TokenStore:
    info = read_json(folder / "store.json")
    offsets = np.load(folder / "offsets.npy")
    if info["format"] != FORMAT or len(offsets) != info["segments"] + 1 or offsets[-1] != info["tokens"]:
        raise ValueError("not a store of this format")
    size = (folder / "ids.bin").stat().st_size
    if size != info["tokens"] * np.dtype(info["dtype"]).itemsize:
        raise ValueError("ids.bin has the wrong size")
    if not size:  # an empty file cannot be mapped
        return TokenStore(folder, np.empty(0, info["dtype"]), offsets, info)
    # A plain view: slicing a memmap object itself costs ten times as much as slicing an array.
    ids = np.asarray(np.memmap(folder / "ids.bin", dtype=info["dtype"], mode="r"))
    return TokenStore(folder, ids.view(np.ndarray), offsets, info)
