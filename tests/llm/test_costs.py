"""What calls cost before and after, that how they are made is no part of a step, and batches asked together."""

from __future__ import annotations

from pathlib import Path

import pytest

from lcx.errors import MissingError
from lcx.llm.client import batches_at_once
from lcx.llm.ledger import costs, paid
from lcx.llm.settings import Calling
from lcx.plugins import load as load_plugins


def test_a_million_tokens_cost_what_the_table_says(tmp_path: Path) -> None:
    file = tmp_path / "prices.yaml"
    file.write_text("big: [2, 8]\nsmall: [0, 0.5]\n")
    parts = {
        "write": ("openai:big", 3e6, 5e5),
        "judge": ("openai:small", 7.0e6, 2e6),
        "other": ("openai:none", 1.0, 1.0),
        "mine": ("local:big", 1e6, 1e6),
        "rules": ("builtin", 1e6, 1e6),
        "nothing": ("openai:big", 0, 0),
    }
    wanted = {"cost": {"write": 10.0, "judge": 1.0, "other": "no price"}}
    assert costs(Calling(prices=str(file)), parts) == wanted
    assert costs(Calling(prices={"big": (2, 8), "small": (0, 0.5)}), parts) == wanted
    assert costs(Calling(), parts) == {}
    with pytest.raises(MissingError, match="no file of prices"):
        costs(Calling(prices=str(tmp_path / "none.yaml")), parts)


def test_what_was_paid() -> None:
    counts = {"calls": 5, "prompt_tokens": 9, "cost": 0.25, "retries": 2, "calls failed: x": 1}
    assert paid(counts) == ({"retries": 2}, {"cost": 0.25})
    assert paid({"calls": 5}) == ({}, {})


def test_how_calls_are_made_is_no_part_of_any_step() -> None:
    loaded = load_plugins()
    found = [
        schema
        for name in loaded.methods.names()
        for stage in loaded.method(name).stages
        for schema in [loaded.method(name).stage(stage).settings]
        if issubclass(schema, Calling)
    ]
    assert len(found) >= 4
    for schema in found:
        assert set(Calling.model_fields) <= schema.volatile()


def test_how_many_batches_keep_a_server_busy() -> None:
    assert batches_at_once("openai:x", 64, 64) == 2
    assert batches_at_once("openai:x", 64, 1000) == 32
    assert batches_at_once("openai:x", 1000, 64) == 1
    assert batches_at_once("local:x", 8, 64) == batches_at_once("builtin", 8, 64) == 1
