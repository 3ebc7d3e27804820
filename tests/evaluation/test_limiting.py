"""Fewer items of a task: evenly over contexts and positions, or drawn by a seed."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lcx.evaluation.samples import limited, limited_texts, spread
from lcx.evaluation.task import TextSample
from lcx.records import Branch, Bundle


def bundles(*sizes: int) -> list[Bundle]:
    return [
        Bundle(
            f"b{number}",
            tuple(Branch(str(place), "", "query", meta={"place": place}) for place in range(size)),
            context="x",
        )
        for number, size in enumerate(sizes)
    ]


def places(found: list[Bundle]) -> dict[str, list[int]]:
    return {bundle.id: [branch.meta["place"] for branch in bundle.branches] for bundle in found}


def test_all_where_there_are_no_more() -> None:
    given = bundles(3, 4)
    assert limited(given, None) == given
    assert limited(given, 7) == given


def test_evenly_over_contexts_and_places() -> None:
    found = places(limited(bundles(100, 100, 100, 100), 20))
    assert {name: len(of) for name, of in found.items()} == dict.fromkeys(("b0", "b1", "b2", "b3"), 5)
    for of in found.values():
        assert all(after - before == 20 for before, after in pairwise(of))
    assert len({of[0] for of in found.values()}) == 4, "contexts are asked about different places"
    # Fewer items than contexts: some contexts, evenly, and not all about the same place.
    found = places(limited(bundles(*[10] * 40), 8))
    assert len(found) == 8
    assert len({of[0] for of in found.values()}) >= 5
    assert [int(name[1:]) for name in found] == [2, 7, 12, 17, 22, 27, 32, 37]


def test_small_contexts_give_what_they_have() -> None:
    assert [len(of) for of in spread([2, 100, 100], 30)] == [2, 14, 14]
    assert [len(of) for of in spread([1, 1, 1], 3)] == [1, 1, 1]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 30), min_size=1, max_size=12), st.integers(1, 200))
def test_as_many_as_asked_for_and_none_twice(sizes: list[int], limit: int) -> None:
    found = spread(sizes, limit)
    assert sum(map(len, found)) == min(limit, sum(sizes))
    for size, of in zip(sizes, found, strict=True):
        assert of == sorted(set(of))
        assert all(0 <= place < size for place in of)


def test_drawn_by_a_seed() -> None:
    given = bundles(50, 50)
    one, again, other = (limited(given, 10, seed, "needle") for seed in (1, 1, 2))
    assert places(one) == places(again) != places(other)
    assert places(one) != places(limited(given, 10, 1, "val:code")), "every task draws for itself"
    assert sum(map(len, places(one).values())) == 10
    # Every place is as likely as any other.
    counts: Counter[tuple[str, int]] = Counter()
    for seed in range(2000):
        for name, of in places(limited(bundles(5, 5), 2, seed)).items():
            counts.update((name, place) for place in of)
    assert sum(counts.values()) == 4000
    assert min(counts.values()) > 320
    assert max(counts.values()) < 480


@pytest.mark.parametrize("seed", [None, 3])
def test_texts_are_limited_too(seed: int | None) -> None:
    texts = [TextSample(str(number), (1, 2)) for number in range(9)]
    found = limited_texts(texts, 3, seed)
    assert len({one.id for one in found}) == 3
    assert found == sorted(found, key=lambda one: int(one.id))
