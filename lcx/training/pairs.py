"""Preference data: which bundles can be compared, and each with its question paid for once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, overload

from lcx.data.assembly import share_question
from lcx.modeling.positions import bundle_rng, draw_mode, place
from lcx.records import Bundle, EncodedBundle
from lcx.training.length import Encoder

DUPLICATE = "rejected answers dropped: same text as the chosen one or another"


def comparable(bundle: Bundle) -> tuple[Bundle | None, str, int]:
    """The bundle with distinct answers, chosen first; or None and the reason. Third: answers left out as duplicates."""
    chosen = [branch for branch in bundle.branches if branch.role == "chosen"]
    rejected = [branch for branch in bundle.branches if branch.role == "rejected"]
    if len(chosen) != 1:
        return None, "no chosen answer" if not chosen else f"{len(chosen)} chosen answers", 0
    if not rejected:
        return None, "no rejected answer", 0
    if len({branch.question for branch in (*chosen, *rejected)}) > 1:
        return None, "answers to different questions", 0
    seen = {chosen[0].answer.strip()}
    distinct = []
    for branch in rejected:
        text = branch.answer.strip()
        if text not in seen:
            distinct.append(branch)
            seen.add(text)
    if not distinct:
        return None, "every rejected answer is the chosen one", len(rejected)
    return replace(bundle, branches=(*chosen, *distinct)), "", len(rejected) - len(distinct)


@dataclass
class Screened:
    """What preference training can use: numbers of bundles, and what was left out and why."""

    kept: list[int]
    counts: Counter[str]
    aside: list[dict[str, Any]]


def screen(bundles: Iterable[Bundle]) -> Screened:
    """Look through all bundles once; those that cannot be compared are counted and kept aside with the reason."""
    found = Screened([], Counter(), [])
    for number, bundle in enumerate(bundles):
        usable, reason, doubles = comparable(bundle)
        if usable is None:
            found.counts[f"bundles skipped: {reason}"] += 1
            found.aside.append({"bundle": bundle.id, "reason": reason})
        else:
            found.kept.append(number)
            if doubles:
                found.counts[DUPLICATE] += doubles
    return found


class PairDataset(Sequence[EncodedBundle]):
    """Comparable bundles as token ids, made on access: context and question are the prefix of all answers."""

    def __init__(self, bundles: Sequence[Bundle], encoder: Encoder, kept: Sequence[int]) -> None:
        self.bundles, self.encoder, self.kept = bundles, encoder, kept

    def __len__(self) -> int:
        return len(self.kept)

    @overload
    def __getitem__(self, index: int) -> EncodedBundle: ...
    @overload
    def __getitem__(self, index: slice) -> list[EncodedBundle]: ...
    def __getitem__(self, index: int | slice) -> EncodedBundle | list[EncodedBundle]:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        bundle, reason, _ = comparable(self.bundles[self.kept[index]])
        assert bundle is not None, reason  # it was screened
        encoded = self.encoder.encode(bundle)
        assert encoded is not None  # encoders drop only by a limit, and none is given
        return share_question(encoded)


@dataclass(frozen=True)
class Spread:
    """Draws synthetic positions for a bundle, others in every epoch unless `fixed`. See `lcx.modeling.positions`."""

    seed: int
    target: int
    sparse_share: float
    slot_tokens: int
    fixed: bool = False

    def __call__(self, bundle: EncodedBundle, epoch: int) -> EncodedBundle:
        rng = bundle_rng(self.seed, bundle.id, 0 if self.fixed else epoch)
        mode = draw_mode(rng, self.sparse_share)
        return place(bundle, self.target, rng, mode=mode, slot_tokens=self.slot_tokens)
