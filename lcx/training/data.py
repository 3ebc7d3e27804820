"""The data of a training step: bundles of an earlier step, or rows of anybody's; and which answers are learnt."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from lcx.context import Context
from lcx.data.files import Rejects
from lcx.errors import LcxError
from lcx.recipe import Step
from lcx.records import Bundle
from lcx.run import Run

LEARNT = ("answer", "chosen")
"""Roles of branches that supervised training learns."""


@dataclass
class TrainingData:
    """Bundles, what was counted while they were read, and what is worth saying about them."""

    bundles: Sequence[Bundle]
    counts: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)
    rejects: Rejects = field(default_factory=Rejects)


def read_training_data(
    data: Path, fields: Mapping[str, str] | None = None, *, supervised: bool = False
) -> TrainingData:
    """The bundles of a folder of them, or of rows: a file, a folder of files, or `hf:NAME` as a path.

    `supervised` leaves out answers that are not to be learnt from by imitation, rejected ones above all. Raises
    UsageError for rows that cannot be used, LcxError where nothing is left to learn.
    """
    found = TrainingData([])
    if holds_bundles(data):
        from lcx.data.bundles import read_bundles

        found.bundles = read_bundles(data)
    else:
        from lcx.data.rows import read_bundles_of_rows

        found.bundles, found.notes = read_bundles_of_rows(str(data), found.rejects, fields)
        found.counts.update({f"rows set aside: {why}": n for why, n in found.rejects.counts.items()})
    if supervised:
        found.bundles, left = learnt_only(found.bundles)
        found.counts.update({f"answers not learnt: {role}": count for role, count in left.items()})
        if left:
            named = ", ".join(f"{count:,} {role}" for role, count in sorted(left.items()))
            found.notes.append(f"sft learns right and chosen answers only; left out: {named}")
        if not len(found.bundles):
            raise LcxError(
                "there is no answer to learn", why=f"The answers of {data} are: {', '.join(sorted(left))}."
            )
    return found


def holds_bundles(data: Path) -> bool:
    """Whether a folder is one of bundles that a step wrote."""
    return data.is_dir() and (any(data.glob("bundles-*.parquet")) or (data / "table.json").is_file())


def training_bundles(
    data: Path, step: Step, run: Run, ctx: Context, *, supervised: bool = False, keep_rejects: bool = True
) -> TrainingData:
    """The data of a train step; what is worth saying is logged, and rows set aside go to `rejected.jsonl`."""
    found = read_training_data(data, getattr(step.settings, "fields", None), supervised=supervised)
    if len(found.rejects) and ctx.rank == 0 and keep_rejects:
        found.rejects.write(run.folder(step) / "rejected.jsonl")
    ctx.log(f"{len(found.bundles):,} bundles from {data}")
    if len(found.rejects):
        ctx.log(f"    set aside: {found.rejects.summary()}")
    for note in found.notes:
        ctx.log(f"    {note}")
    return found


class Learnt(Sequence[Bundle]):
    """Bundles of which only the answers to be learnt are left; read when they are asked for."""

    def __init__(self, bundles: Sequence[Bundle], kept: Sequence[int]) -> None:
        self.bundles, self.kept = bundles, kept

    def __len__(self) -> int:
        return len(self.kept)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        bundle = self.bundles[self.kept[index]]
        return replace(bundle, branches=tuple(one for one in bundle.branches if one.role in LEARNT))


def learnt_only(bundles: Sequence[Bundle]) -> tuple[Sequence[Bundle], Counter[str]]:
    """The bundles without answers of other roles than LEARNT, and how many there were of each role."""
    left: Counter[str] = Counter()
    kept = []
    for number, bundle in enumerate(bundles):
        roles = [branch.role for branch in bundle.branches]
        left.update(role for role in roles if role not in LEARNT)
        if any(role in LEARNT for role in roles):
            kept.append(number)
    return (Learnt(bundles, kept) if left else bundles), left
