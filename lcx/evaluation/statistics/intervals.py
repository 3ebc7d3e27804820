"""Intervals of means: exact ones of shares, percentiles of resamples, and bootstrap intervals by context.

A bootstrap of few units is too narrow twice over: the resamples vary by the divisor n where n − 1 would be fair,
and a normal tail stands where Student's belongs. Taking percentiles further out mends both: the share cut off is
Φ(−√(n / (n − strata)) · t), with t of n − strata degrees of freedom; among many units it is the usual one.

Answers about one context are alike, so the unit that `mean_interval` draws again is the context, not the answer:

| contexts | what is drawn again | `unit` |
|---|---|---|
| at least 20, or with few rows each | whole contexts | `contexts` |
| fewer, each with at least 8 rows | rows inside each: it holds for these contexts only | `rows of N contexts` |
| one | its rows, likewise | `rows of 1 context` |
| none given | rows | `rows` |
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "LEAST_CONTEXTS",
    "LEAST_ROWS",
    "Estimate",
    "bootstrap",
    "exact",
    "interval",
    "mean_interval",
    "student_quantile",
]

Floats = NDArray[np.float64]


def student_quantile(share: float, freedom: int) -> float:
    """The value that Student's t with so many degrees of freedom stays below with probability `share`."""
    from scipy.special import stdtrit

    return float(stdtrit(freedom, share))


def exact(ones: int, units: int, level: float) -> tuple[float, float]:
    """Clopper and Pearson's interval of a share: the shares that would give so few, or so many, ones often enough."""
    from scipy.special import betaincinv

    tail = (1 - level) / 2
    low = 0.0 if ones == 0 else float(betaincinv(ones, units - ones + 1, tail))
    high = 1.0 if ones == units else float(betaincinv(ones + 1, units - ones, 1 - tail))
    return low, high


def interval(
    found: NDArray[Any],
    level: float,
    units: int,
    strata: int = 1,
    *,
    at: float | None = None,
    rows: int | None = None,
) -> tuple[float, float] | None:
    """The interval of `level` from resampled values of a mean of `units` drawn inside `strata`; None for too few.

    `at` is the mean of scores that lie between 0 and 1: where it is 0 or 1 all of them are equal, resamples tell
    nothing, and the interval is the exact one of so many `rows` (default: units). That takes rows for independent,
    as nothing shows how alike those of a context are.
    """
    freedom = units - strata
    if freedom < 1:
        return None
    if at is not None and (at <= 0 or at >= 1):
        count = units if rows is None else rows
        return exact(count if at >= 1 else 0, count, level)
    tail = (1 - level) / 2
    wide = math.sqrt(units / freedom) * student_quantile(1 - tail, freedom)
    share = NormalDist().cdf(-wide)
    low, high = np.nanquantile(found, [share, 1 - share])
    return None if math.isnan(low) else (float(low), float(high))


LEAST_CONTEXTS = 20
"""With fewer contexts than these, drawing contexts says little about others: rows are drawn where there are enough."""
LEAST_ROWS = 8
"""Rows that every context must have for its rows to be drawn in place of it: with fewer, they vary too little."""
RESAMPLES = 10_000
BLOCK = 1 << 22
"""Drawn numbers held in memory at a time."""

Method = Literal["bca", "percentile"]


@dataclass(frozen=True)
class Estimate:
    """A mean with its interval. `low` and `high` are None where there is too little to tell; `n` counts rows."""

    mean: float | None
    low: float | None
    high: float | None
    n: int
    contexts: int
    unit: str

    def as_dict(self) -> dict[str, Any]:
        return {
            "mean": self.mean,
            "low": self.low,
            "high": self.high,
            "n": self.n,
            "contexts": self.contexts,
            "drawn": self.unit,
        }


def mean_interval(
    values: Sequence[float | None],
    contexts: Sequence[Hashable] | None = None,
    *,
    weights: Sequence[float] | None = None,
    level: float = 0.95,
    resamples: int = RESAMPLES,
    method: Method = "bca",
    seed: int = 0,
) -> Estimate:
    """The mean of the values that are not None, and the interval that holds it with probability `level`.

    With `weights` it is Σ w·v / Σ w, which is also how a share of counted things is given (v = part / whole,
    w = whole). `contexts` names the context of each value. Where all values are equal the interval is that value:
    the bootstrap knows nothing of what it has not seen.
    """
    if weights is not None and len(weights) != len(values):
        raise ValueError(f"{len(weights)} weights for {len(values)} values")
    if contexts is not None and len(contexts) != len(values):
        raise ValueError(f"{len(contexts)} contexts for {len(values)} values")
    kept = [i for i, value in enumerate(values) if value is not None and (weights is None or weights[i] > 0)]
    mass = np.array([1.0 if weights is None else weights[i] for i in kept], dtype=float)
    parts = mass * np.array([values[i] for i in kept], dtype=float)
    names = (
        {}
        if contexts is None
        else {name: k for k, name in enumerate(dict.fromkeys(contexts[i] for i in kept))}
    )
    groups = (
        np.arange(len(kept)) if contexts is None else np.array([names[contexts[i]] for i in kept], dtype=int)
    )
    count = int(groups.max()) + 1 if len(kept) else 0
    if not kept:
        return Estimate(None, None, None, 0, 0, "rows" if contexts is None else "contexts")
    mean = float(parts.sum() / mass.sum())
    sizes = np.bincount(groups, minlength=count)
    several = contexts is not None and len(kept) > count
    inside = several and (count == 1 or (count < LEAST_CONTEXTS and int(sizes.min()) >= LEAST_ROWS))
    if inside:
        found = _stratified(parts, mass, groups, count, resamples, seed)
        low, high = _percentile(found, level)
        unit = f"rows of {count} context{'s' * (count > 1)}"
        return Estimate(mean, low, high, len(kept), count, unit)
    unit = "rows" if contexts is None else "contexts"
    if count < 2:
        return Estimate(mean, None, None, len(kept), count, unit)
    sums = np.bincount(groups, parts, count).astype(float)
    masses = np.bincount(groups, mass, count).astype(float)
    low, high = bootstrap(sums, masses, level=level, resamples=resamples, method=method, seed=seed)
    return Estimate(mean, low, high, len(kept), count, unit)


def bootstrap(
    sums: Floats,
    masses: Floats,
    *,
    level: float = 0.95,
    resamples: int = RESAMPLES,
    method: Method = "bca",
    seed: int = 0,
) -> tuple[float, float]:
    """The interval of Σ sums / Σ masses when units (at least two) are drawn with replacement."""
    found = np.empty(resamples)
    rng = np.random.default_rng(seed)
    block = max(1, BLOCK // len(sums))
    for start in range(0, resamples, block):
        drawn = rng.integers(len(sums), size=(min(block, resamples - start), len(sums)))
        found[start : start + block] = sums[drawn].sum(1) / masses[drawn].sum(1)
    if method == "percentile":
        return _percentile(found, level)
    return _bca(found, sums, masses, level)


def _percentile(found: Floats, level: float) -> tuple[float, float]:
    tail = (1 - level) / 2
    low, high = np.quantile(found, [tail, 1 - tail])
    return float(low), float(high)


def _bca(found: Floats, sums: Floats, masses: Floats, level: float) -> tuple[float, float]:
    """Efron's bias-corrected and accelerated interval; the acceleration is from the jackknife over units."""
    mean = sums.sum() / masses.sum()
    slack = 1e-12 * max(1.0, float(np.abs(found).max()))  # equal but for rounding
    below = float(np.mean(found < mean - slack) + np.mean(np.abs(found - mean) <= slack) / 2)
    if not 0 < below < 1 or float(np.ptp(found)) <= slack:
        return _percentile(found, level)
    left = (sums.sum() - sums) / (masses.sum() - masses)
    pull = left.mean() - left
    spread = float((pull**2).sum())
    bend = float((pull**3).sum()) / (6 * spread**1.5) if spread > 0 else 0.0
    normal = NormalDist()
    shift = normal.inv_cdf(below)
    ends = []
    for tail in ((1 - level) / 2, (1 + level) / 2):
        z = shift + normal.inv_cdf(tail)
        slope = 1 - bend * z
        # Beyond a bend of 1/z the correction has no meaning: the interval then ends with the sample.
        ends.append(normal.cdf(shift + z / slope) if slope > 0 else float(z > 0))
    low, high = np.quantile(found, ends)
    return float(low), float(high)


def _stratified(
    parts: Floats, mass: Floats, groups: NDArray[Any], count: int, resamples: int, seed: int
) -> Floats:
    """Means of resamples in which every group keeps its number of rows."""
    rng = np.random.default_rng(seed)
    sums, masses = np.zeros(resamples), np.zeros(resamples)
    for group in range(count):
        rows = np.flatnonzero(groups == group)
        block = max(1, BLOCK // len(rows))
        for start in range(0, resamples, block):
            drawn = rows[rng.integers(len(rows), size=(min(block, resamples - start), len(rows)))]
            sums[start : start + block] += parts[drawn].sum(1)
            masses[start : start + block] += mass[drawn].sum(1)
    return sums / masses
