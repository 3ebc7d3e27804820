"""Paired differences of two models on the same items: their mean, its interval, and a sign-flip test.

If neither model is better, an item's two scores could as well have been the other way round: the sign of each
difference is a coin toss. Answers about one context are alike, so it is the summed difference of a whole context whose
sign is tossed, unless there are few contexts with several items each, where items stand for themselves, and the finding
is about these contexts only. `intervals` has the rule, and the interval comes from the same units (`drawn`).
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from lcx.evaluation.statistics.intervals import LEAST_UNITS, Ends, Floats, Table, share_interval
from lcx.evaluation.statistics.permutation import SLACK

__all__ = ["PairedDifference", "holm", "paired_difference", "sign_flips"]

BLOCK = 1 << 22
"""Signs held in memory at a time."""


@dataclass(frozen=True)
class PairedDifference:
    """The weighted mean of paired differences. `low`, `high` are None where there is too little to tell.

    `p` is two-sided; `n` counts items, `moved` those whose scores differ; `lacking` says what there was where it was
    too little.
    """

    mean: float
    low: float | None
    high: float | None
    p: float
    n: int
    moved: int
    contexts: int
    drawn: str
    lacking: str = ""

    @property
    def conditional(self) -> bool:
        """Whether the finding is about these contexts only."""
        return self.drawn != "contexts"


def paired_difference(
    differences: Sequence[float],
    contexts: Sequence[Hashable],
    weights: Sequence[float] | None = None,
    *,
    level: float = 0.95,
    trials: int = 9999,
    seed: int = 0,
    most: float | None = 1.0,
    inside: bool | None = None,
) -> PairedDifference:
    """Test and interval of Σ w·d / Σ w over items, of which `contexts` names the contexts.

    `most` is how far a score can move, if that is known: where all items moved alike, or none did, the interval then
    reaches as far as so many equal items allow, and what one item could have done widens it: of graded scores by the
    share of items that did not move. `inside` is as in `Table.of`. Raises ValueError without items.
    """
    if not len(differences):
        raise ValueError("there is no pair to compare")
    table = Table.of(contexts, [0] * len(differences), differences, 1, weights, inside)
    moves, mass = table.scores, table.weights
    pulls = mass * moves / mass.sum()
    tossed = pulls if table.inside else np.bincount(table.units, pulls, table.contexts).astype(float)
    mean = float(pulls.sum())
    p = _p_two_sided(mean, tossed, trials, np.random.default_rng([seed, 2]))
    alike = np.ptp(moves) == 0
    # Scores of 0 or 1 move wholly or not at all. Of graded ones that all moved a little, none would move by `most`.
    graded = bool(np.any((moves != 0) & (np.abs(moves) != most)))
    still = float(mass[moves == 0].sum() / mass.sum()) if graded else 1.0
    ends = table.interval(np.ones(1), level, share=False, room=still * (most or 0.0) ** 2)
    if alike and most and len(tossed) >= LEAST_UNITS:
        ends = Ends(*_of_equals(float(moves[0]), most, len(moves), level))
    return PairedDifference(
        mean,
        ends.low,
        ends.high,
        p,
        len(moves),
        int(np.sum(moves != 0)),
        table.contexts,
        table.drawn,
        ends.lacking,
    )


def _of_equals(move: float, most: float, count: int, level: float) -> tuple[float, float]:
    """The interval where every item moved alike: these do not vary, but the items not seen may do anything.

    Against the move they go as far as those seen went with it: 40 answers that each gained half a point of ten are no
    sign that others lose all ten.
    """
    seen = share_interval(1.0, count, NormalDist().inv_cdf((1 + level) / 2))[0]
    down, up = (abs(move) if move > 0 else most), (abs(move) if move < 0 else most)
    return max(-most, seen * move - (1 - seen) * down), min(most, seen * move + (1 - seen) * up)


def _p_two_sided(mean: float, values: Floats, trials: int, rng: np.random.Generator) -> float:
    """How often random signs bring the sum as far from 0; exact where all patterns of signs are tried."""
    sums, every = sign_flips(values, trials, rng)
    far = int(np.sum(np.abs(sums) >= abs(mean) - SLACK))
    return far / len(sums) if every else (1 + far) / (1 + len(sums))


def sign_flips(values: Floats, trials: int, rng: np.random.Generator) -> tuple[Floats, bool]:
    """Sums of `values` with random signs, and whether these are the sums of all patterns, once each.

    Zeros have no sign and take no part. All patterns are tried where there are no more than `trials`.
    """
    held = values[values != 0]
    size = len(held)
    if 2 ** min(size, 62) <= trials:
        patterns = (np.arange(2**size)[:, None] >> np.arange(size)) & 1
        return (2.0 * patterns - 1) @ held, True
    sums = np.empty(trials)
    bytes_each, step = -(-size // 8), max(1, BLOCK // size)
    for start in range(0, trials, step):
        count = min(step, trials - start)
        drawn = np.frombuffer(rng.bytes(count * bytes_each), dtype=np.uint8).reshape(count, bytes_each)
        signs = np.unpackbits(drawn, axis=1, count=size)
        sums[start : start + count] = 2.0 * (signs @ held) - held.sum()
    return sums, False


def holm(ps: Sequence[float]) -> list[float]:
    """Holm's corrected p of each of a family: the chance of one false finding among all stays below the level."""
    order = sorted(range(len(ps)), key=lambda k: ps[k])
    corrected, highest = [0.0] * len(ps), 0.0
    for rank, place in enumerate(order):
        highest = max(highest, min(1.0, (len(ps) - rank) * ps[place]))
        corrected[place] = highest
    return corrected
