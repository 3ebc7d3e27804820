"""VaL Probing at the published number of questions, on the tiny model: three probes of 800, one context each."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.val_tiny import run


@pytest.mark.nightly  # the slow tier's demo has the three probes at 32 questions a context
def test_three_times_800_questions(tmp_path: Path, tiny_model: Callable[..., Path]) -> None:
    tiny_model()
    found = run(tmp_path / "run", None)
    # A few items have a key or a name that another item has, and are left out by name.
    assert all(700 <= count <= 800 for count in found["queries"].values()), found["queries"]
    assert all(tokens > 10_000 for tokens in found["context_tokens"].values())
    how = found["answering"]
    assert how["reuse"] is True
    assert (how["check"]["checked"], how["check"]["different"]) == (12, [])
    print(f"3 x 800 queries: {found['seconds']} s")
