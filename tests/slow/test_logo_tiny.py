"""LOGO's demo as a newcomer runs it: a window widened fourfold, and decoys refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.slow.demos import demo, seeds

pytestmark = pytest.mark.timeout(3600)


@pytest.mark.parametrize("seed", seeds(0, 1, 2))
def test_both_effects_of_logo(
    seed: int, lcx_program: str, tmp_path: Path, tiny_model: Callable[..., Path]
) -> None:
    tiny_model("tiny16", seed)
    result = demo(lcx_program, tmp_path, seed, "--recipe", "logo")
    before, after = result["effects"]["before"], result["effects"]["after"]
    told = ", ".join(f"{name} {before[name]:.3f} -> {after[name]:.3f}" for name in before)
    print(f"seed {seed}: {result['seconds']} s, {told}")
    lengths = result["after"]["lengths"]
    assert lengths[-1] == 4 * lengths[0] == 64
    assert min(result["after"]["counts"][-1]) >= 150
    assert result["stale"]["after"]["decoy_rows"] >= 300
    assert before["beyond"] <= 0.65
    assert before["earliest"] <= 0.3
    assert after["beyond"] >= 0.9
    assert after["earliest"] >= 0.8
    assert after["window"] >= before["window"] - 0.03
    assert after["decoys"] <= before["decoys"] / 2
    assert Path(result["picture"]).read_bytes().startswith(b"\x89PNG")
