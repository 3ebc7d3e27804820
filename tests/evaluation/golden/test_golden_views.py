"""What every renderer says of one small run is what it said before: see `golden_views`."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from tests.evaluation.golden.golden_views import HERE, golden

pytestmark = pytest.mark.pictures

FILES = sorted(path.name for path in HERE.iterdir() if path.suffix in (".json", ".txt", ".md"))


@pytest.fixture(scope="module")
def made() -> dict[str, str]:
    return golden()


def same(found: Any, wanted: Any, where: str) -> None:
    """Equal but for the last digits of numbers."""
    if isinstance(wanted, dict):
        assert isinstance(found, dict), where
        assert sorted(found) == sorted(wanted), where
        for key, value in wanted.items():
            same(found[key], value, f"{where}.{key}")
    elif isinstance(wanted, list):
        assert isinstance(found, list), where
        assert len(found) == len(wanted), where
        for number, value in enumerate(wanted):
            same(found[number], value, f"{where}[{number}]")
    elif isinstance(wanted, float):
        assert isinstance(found, int | float), where
        assert math.isclose(found, wanted, rel_tol=1e-9, abs_tol=1e-9), f"{where}: {found} and {wanted}"
    else:
        assert found == wanted, where


def test_no_file_is_missing(made: dict[str, str]) -> None:
    assert sorted(made) == FILES


@pytest.mark.parametrize("name", FILES)
def test_shown_as_before(made: dict[str, str], name: str) -> None:
    wanted = (HERE / name).read_text(encoding="utf-8")
    if name.endswith(".json"):
        same(json.loads(made[name]), json.loads(wanted), name)
    else:
        assert made[name].split("\n") == wanted.split("\n")
