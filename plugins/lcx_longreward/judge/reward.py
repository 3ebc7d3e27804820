"""The reward of an answer and what bounds it. Pure functions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

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
