"""Names and their owners."""

from __future__ import annotations

import json

import pytest

from lcx.errors import PluginError, UsageError
from lcx.plugins import Registry


@pytest.fixture
def words() -> Registry:
    registry = Registry("word")
    registry.add("plain", 1, "a")
    registry.add("lazy", "json:dumps", "a")
    registry.add("twice", 2, "a")
    registry.add("twice", 3, "b")
    return registry


def test_names_values_and_owners(words: Registry) -> None:
    assert words.names() == ["lazy", "plain", "twice"]
    assert words.get("plain") == 1
    assert words.owner("plain") == "a"
    assert words.owned_by("b") == ["twice"]
    assert words.load("lazy") is json.dumps
    assert words.load("plain") == 1
    assert "plain" in words


def test_unknown_name_suggests(words: Registry) -> None:
    with pytest.raises(UsageError, match=r"unknown word 'plian'. Did you mean 'plain'") as bad:
        words.get("plian")
    assert "lazy, plain, twice" in bad.value.why


def test_a_clash_names_both_and_hurts_only_who_needs_it(words: Registry) -> None:
    assert words.clashes() == {"twice": ["a", "b"]}
    with pytest.raises(PluginError, match="two plugins claim the word 'twice': 'a' and 'b'"):
        words.get("twice")
    assert words.get("plain") == 1


def test_dropping_an_owner_mends_a_clash(words: Registry) -> None:
    words.drop_owner("a")
    assert words.names() == ["twice"]
    assert words.get("twice") == 3
