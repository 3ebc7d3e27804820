"""LongReward's demo as a newcomer runs it: fresh samples name the right value more often, and earn more."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.slow.demos import demo, seeds

pytestmark = pytest.mark.timeout(3600)


# Seed 2 has the base that knows most, and so the least to gain.
@pytest.mark.parametrize("seed", seeds(2, 0))
def test_fresh_samples_are_right_more_often(
    seed: int, lcx_program: str, tmp_path: Path, tiny_model: Callable[..., Path]
) -> None:
    tiny_model("tiny8", seed)
    result = demo(lcx_program, tmp_path, seed, "--recipe", "longreward")
    before, after = result["effects"]["before"], result["effects"]["after"]
    told = ", ".join(f"{name} {before[name]:.3f} -> {after[name]:.3f}" for name in before)
    print(f"seed {seed}: {result['seconds']} s, {result['pairs']} pairs, {told}")
    assert result["before"]["n"] == result["after"]["n"] >= 1500
    assert result["before"]["data"] == result["after"]["data"]  # the same fresh questions
    assert 0.4 <= before["right"] <= 0.85  # under-trained, beyond its window
    assert after["right"] >= before["right"] + 0.08
    assert after["reward"] > before["reward"]
    assert result["after"]["low"] > result["before"]["high"] or after["reward"] >= before["reward"] + 0.2
    assert sum(result["before"]["histogram"]) == result["before"]["n"]
    assert Path(result["picture"]).read_bytes().startswith(b"\x89PNG")
