"""The demo as a newcomer runs it, over three seeds: bent before, cured after."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_demo_shows_the_bias_and_the_cure(seed: int, lcx_program: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [lcx_program, "demo", "--json", "--seed", str(seed), "--out", str(tmp_path / "demo")],
        capture_output=True,
        text=True,
        env={**os.environ},
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    result = json.loads(done.stdout)
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
