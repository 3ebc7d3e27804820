"""Excerpts of contexts: the evidence is in them, marked, and they keep to their width."""

from __future__ import annotations

import random

import pytest

from lcx.evaluation.runner import CLOSE, OPEN, excerpt

TEXT = " ".join(f"word{n}" for n in range(2000))


def test_the_evidence_stands_marked_between_whole_words() -> None:
    start = TEXT.index("word777")
    found = excerpt(TEXT, [[start, start + len("word777")]], width=120)
    assert f"{OPEN}word777{CLOSE}" in found
    assert found.startswith("… word7")
    assert found.endswith(" …")
    assert len(found) <= 120
    inside = found.strip("… ").replace(OPEN, "").replace(CLOSE, "")
    assert inside in TEXT
    assert f" {inside} " in TEXT, "no word is cut"


def test_pieces_far_apart_are_joined_in_order() -> None:
    places = [TEXT.index("word1500"), TEXT.index("word30 ")]
    found = excerpt(TEXT, [[places[0], places[0] + 8], [places[1], places[1] + 6]])
    assert found.index("«word30»") < found.index("«word1500»")
    assert " … " in found
    assert len(found) <= 320


def test_touching_pieces_are_one_and_neighbours_share_a_window() -> None:
    assert excerpt("abcdef", [[0, 2], [2, 4]]) == "«abcd»ef"
    assert excerpt("ab cd ef", [[0, 2], [6, 8]]) == "«ab» cd «ef»"


def test_without_evidence_it_is_both_ends() -> None:
    found = excerpt(TEXT, [], width=60)
    assert found.startswith("word0 ")
    assert found.endswith("word1999")
    assert len(found) <= 60
    assert excerpt("short", []) == "short"
    assert excerpt("", [[0, 4]]) == ""


def test_long_evidence_loses_its_middle() -> None:
    found = excerpt("x" * 5000, [[100, 4900]], width=100)
    assert len(found) <= 100
    assert OPEN in found
    assert CLOSE in found


@pytest.mark.parametrize("seed", range(4))
def test_it_never_exceeds_its_width(seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(500):
        context = "".join(rng.choices("ab \n", k=rng.randrange(2500)))
        gold = [
            (start := rng.randrange(len(context) + 1), start + rng.randrange(400))
            for _ in range(rng.randrange(9))
        ]
        width = rng.randrange(60, 400)
        assert len(excerpt(context, gold, width)) <= width
