"""Preference pairs from two sources in one training: long contexts, and short exchanges that keep a model's manners.

They are laid end to end; the order of training is one permutation of all of them, drawn from the seed and the epoch
(`lcx.training.collate.EpochOrder`), so a resumed training goes on with the same mixture.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import overload

from lcx.data.files import Rejects
from lcx.data.rows import read_bundles_of_rows
from lcx.errors import MissingError
from lcx.records import Bundle

__all__ = ["Joined", "with_short"]


class Joined(Sequence[Bundle]):
    """Two sequences of bundles as one; bundles are read when they are asked for."""

    def __init__(self, first: Sequence[Bundle], second: Sequence[Bundle]) -> None:
        self.first, self.second = first, second

    def __len__(self) -> int:
        return len(self.first) + len(self.second)

    @overload
    def __getitem__(self, index: int) -> Bundle: ...
    @overload
    def __getitem__(self, index: slice) -> list[Bundle]: ...
    def __getitem__(self, index: int | slice) -> Bundle | list[Bundle]:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        place = range(len(self))[index]
        return self.first[place] if place < len(self.first) else self.second[place - len(self.first)]


def with_short(
    long: Sequence[Bundle], short: str, rejects: Rejects, fields: Mapping[str, str] | None = None
) -> tuple[Joined, Counter[str]]:
    """The bundles with the pairs of a file of rows behind them, and how many there are of each.

    Rows that are no pair go into `rejects` with the reason. Raises MissingError where there is no file, UsageError
    where no row is usable.
    """
    path = Path(short).expanduser()
    if not short.startswith("hf:") and not path.exists():
        raise MissingError(
            f"no file of short pairs at '{short}'",
            hint='--set STEP.short=FILE.jsonl; a row: {"prompt": "...", "chosen": "...", "rejected": "..."}',
        )
    found, _ = read_bundles_of_rows(short, rejects, fields, pairs=True)
    counts = Counter({"long bundles": len(long), "short bundles mixed in": len(found)})
    counts.update({f"short rows set aside: {reason}": n for reason, n in rejects.counts.items()})
    return Joined(long, found), counts
