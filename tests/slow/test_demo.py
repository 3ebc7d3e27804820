"""The demo as a newcomer runs it: bent before, cured after."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.slow.demos import demo, seeds

pytestmark = pytest.mark.timeout(1800)


@pytest.mark.parametrize("seed", seeds(0, 1, 2))
def test_the_demo_shows_the_bias_and_the_cure(
    seed: int, lcx_program: str, tmp_path: Path, tiny_model: Callable[..., Path]
) -> None:
    tiny_model("tiny", seed)
    result = demo(lcx_program, tmp_path, seed)
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
