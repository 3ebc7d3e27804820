"""The demo as a newcomer runs it, over three seeds: bent before, cured after."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.slow.demos import Demo, demos

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
SEEDS = (0, 1, 2)


@pytest.fixture(scope="module")
def running(lcx_program: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[int, Demo]]:
    with demos(lcx_program, tmp_path_factory.mktemp("in2"), SEEDS) as found:
        yield found


@pytest.mark.parametrize("seed", SEEDS)
def test_the_demo_shows_the_bias_and_the_cure(seed: int, running: dict[int, Demo]) -> None:
    result = running[seed].result()
    before, after = result["before"], result["after"]
    print(
        f"seed {seed}: {result['seconds']} s, gap {before['val:database']['gap']:.3f} -> "
        f"{after['val:database']['gap']:.3f}, average {before['val:database']['average']:.3f} -> "
        f"{after['val:database']['average']:.3f}"
    )
    assert set(before) == set(after) == {"val:document", "val:code", "val:database"}
    main_before, main_after = before["val:database"], after["val:database"]
    assert min(main_before["counts"]) >= 400
    assert min(main_after["counts"]) >= 400
    assert main_before["gap"] >= 0.25
    assert main_after["gap"] <= 0.05
    assert main_after["average"] > main_before["average"]
    picture = Path(result["picture"]).read_bytes()
    assert picture.startswith(b"\x89PNG")
    assert len(picture) > 10_000
