"""The reward of an answer, what bounds it, and which answers to a question make a pair. Pure functions."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lcx.data.words import nfkc

HELPFULNESS, LOGICALITY, FAITHFULNESS, COMPLETENESS = DIMENSIONS = (
    "helpfulness",
    "logicality",
    "faithfulness",
    "completeness",
)
HIGHEST = 10.0


def reward(scores: Mapping[str, float | None]) -> float | None:
    """The mean of the four dimensions (LongReward, section 3.1); None where one has no score.

    The published code keeps the sum, 0 to 40, which ranks alike.
    """
    found = [scores.get(name) for name in DIMENSIONS]
    known = [value for value in found if value is not None]
    return sum(known) / len(DIMENSIONS) if len(known) == len(DIMENSIONS) else None


def faithfulness(levels: Sequence[float]) -> float:
    """10 times the mean level of support of the answer's statements (section 3.1, faithfulness); at least one."""
    return HIGHEST * sum(levels) / len(levels)


def bounds(scores: Mapping[str, float | None]) -> tuple[float, float]:
    """The least and the highest reward that an answer can still get; what has no score yet may be 0 or 10.

    Sums run in `reward`'s order, and rounded addition never turns an order round: the bounds hold to the last bit.
    """
    low = [0.0 if scores.get(name) is None else float(scores[name] or 0.0) for name in DIMENSIONS]
    high = [HIGHEST if scores.get(name) is None else float(scores[name] or 0.0) for name in DIMENSIONS]
    return sum(low) / len(DIMENSIONS), sum(high) / len(DIMENSIONS)


# -- pairs

FEW = "fewer answers scored than least_scored"
TIE = "all rewards are equal"
CLOSE = "no rejected answer is below the chosen one by the margin"
SAME = "no other answer differs from the chosen one"

_BLANKS = re.compile(r"\s+")


@dataclass(frozen=True)
class Rules:
    """`least_scored` answers must have a reward; the best one leads each of up to `rejected` others by `margin`."""

    least_scored: int = 5
    margin: float = 0.0
    rejected: int = 1


@dataclass(frozen=True)
class Pair:
    """Places of the chosen answer and of the rejected ones, the lowest reward first."""

    chosen: int
    rejected: tuple[int, ...]


def pick(rewards: Sequence[float | None], texts: Sequence[str], rules: Rules) -> Pair | str:
    """The pair among the answers to one question, or the reason why there is none.

    Chosen is the highest reward, rejected are the lowest ones that lead apart from it by more than nothing and by at
    least the margin. Of equal rewards the earlier answer counts as the better and as the worse. An answer of the same
    text as the chosen or an already rejected one is passed over. Answers without a reward take no part.
    """
    scored = [(reward, place) for place, reward in enumerate(rewards) if reward is not None]
    if len(scored) < max(2, rules.least_scored):
        return FEW
    best, chosen = max(scored, key=lambda one: (one[0], -one[1]))
    if best == min(scored)[0]:
        return TIE
    seen = {normal(texts[chosen])}
    rejected: list[int] = []
    others = False
    for reward, place in sorted(scored):
        if normal(texts[place]) in seen:
            continue
        others = True
        if len(rejected) == rules.rejected or not leads(best, reward, rules.margin):
            break
        seen.add(normal(texts[place]))
        rejected.append(place)
    if rejected:
        return Pair(chosen, tuple(rejected))
    return CLOSE if others else SAME


def leads(best: float, other: float, margin: float) -> bool:
    """Whether a reward is above another by more than nothing and by at least the margin (to rounding)."""
    return best > other and best - other >= margin - 1e-9


def normal(text: str) -> str:
    """What two answers are compared by: case, kinds of blanks and kinds of characters do not count."""
    return _BLANKS.sub(" ", nfkc(text).casefold()).strip()
