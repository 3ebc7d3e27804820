"""LOGO's demo as a newcomer runs it, over three seeds: a window widened fourfold, and decoys refused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.slow.demos import Demo, demos

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]
SEEDS = (0, 1, 2)


@pytest.fixture(scope="module")
def running(lcx_program: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[int, Demo]]:
    with demos(lcx_program, tmp_path_factory.mktemp("logo"), SEEDS, "--recipe", "logo") as found:
        yield found


@pytest.mark.parametrize("seed", SEEDS)
def test_both_effects_of_logo(seed: int, running: dict[int, Demo]) -> None:
    result = running[seed].result()
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
