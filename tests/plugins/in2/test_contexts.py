"""Shares, groups and contexts: the arithmetic of IN2's data."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st
from lcx_in2.contexts import group, kind_of, long_bundle, repeat, shares, short_bundle

from lcx.data.table import SegmentTable, build_table
from lcx.data.tokens import BUILTIN
from lcx.llm.questions import QA
from lcx.records import Document


def make_table(documents: int = 30, lines: int = 8) -> SegmentTable:
    docs = [
        Document(f"d{d}", "\n".join(f"document {d} line {k} " + "filler " * 6 for k in range(lines)))
        for d in range(documents)
    ]
    return build_table(docs, BUILTIN["words"], min_tokens=10)


@given(
    st.dictionaries(
        st.sampled_from(["fine", "integration", "short", "general"]), st.floats(0.01, 10), min_size=1
    ),
    st.integers(1, 10_000),
)
def test_shares_add_up_and_lie_within_one_of_the_exact_share(mix: dict[str, float], examples: int) -> None:
    counts = shares(mix, examples)
    assert sum(counts.values()) == examples
    total = sum(mix.values())
    assert all(abs(counts[kind] - examples * share / total) < 1 for kind, share in mix.items())


def test_the_papers_shares() -> None:
    paper = {"fine": 0.63, "integration": 0.17, "short": 0.09, "general": 0.11}
    assert shares(paper, 10_000) == {"fine": 6300, "integration": 1700, "short": 900, "general": 1100}


@given(st.lists(st.tuples(st.integers(0, 12), st.integers(0, 5)), max_size=60), st.integers(1, 8))
def test_groups_lose_no_pair_and_never_hold_a_segment_or_key_twice(
    places: list[tuple[int, int]], size: int
) -> None:
    key_of = {segment: f"key{segment % 4}" for segment in range(13)}
    pairs = [QA(f"q{i}", "a", (segment,)) for i, (segment, _) in enumerate(places)]
    groups, tight = group(pairs, size, lambda segment: [key_of[segment]])
    assert not tight
    assert Counter(p.question for g in groups for p in g) == Counter(p.question for p in pairs)
    for members in groups:
        assert 1 <= len(members) <= size
        keys = [key_of[s] for p in members for s in p.segments]
        assert len(set(keys)) == len(keys)


@given(st.lists(st.integers(1, 9), max_size=40), st.integers(1, 8), st.integers(8, 30))
def test_the_evidence_of_a_group_fits_into_its_context(sizes: list[int], size: int, room: int) -> None:
    pairs = [QA(f"q{i}", "a", (i,)) for i in range(len(sizes))]
    groups, tight = group(
        pairs, size, lambda _: (), tokens=sizes.__getitem__, room=lambda number: room + number
    )
    assert sorted(p.segments for g in groups for p in g) == [p.segments for p in pairs]
    for number, members in enumerate(groups):
        total = sum(sizes[p.segments[0]] for p in members) + len(members) - 1
        assert total <= room + number or len(members) == 1
    assert tight <= sum(len(members) < size for members in groups)
    if len(sizes) >= size and size > 1 and min(sizes, default=0) * 2 + 1 > room + len(groups):
        assert tight >= len(groups) - 1


def test_repeat_uses_every_pair_before_any_pair_again() -> None:
    pairs = [QA(str(i), "a", (i,)) for i in range(7)]
    taken = repeat(pairs, 17, "s")
    assert sorted(Counter(p.question for p in taken).values()) == [2, 2, 2, 2, 3, 3, 3]
    assert {p.question for p in taken[:7]} == {p.question for p in taken[7:14]} == set("0123456")
    assert [p.question for p in taken[:7]] != [p.question for p in taken[7:14]]
    assert repeat([], 5, "s") == []


def test_a_long_context_holds_the_evidence_where_it_says() -> None:
    table = make_table()
    pairs = [QA("q1", "a1", (3,)), QA("q2", "a2", (20, 22))]
    for number in range(50):
        bundle = long_bundle(number, pairs, table, length=(100, 300), seed=1)
        assert bundle.plan is not None
        assert [tuple(bundle.plan[g] for g in b.gold) for b in bundle.branches] == [(3,), (20, 22)]
        assert len(set(bundle.plan)) == len(bundle.plan)
        tokens = sum(int(table.tokens[i]) for i in bundle.plan) + len(bundle.plan) - 1
        assert tokens == bundle.meta["tokens"] <= bundle.meta["target"] <= 300
        assert bundle.meta["target"] - tokens < 40
    assert bundle.kind == "mixed"
    assert kind_of(pairs[:1]) == "fine"
    assert kind_of(pairs[1:]) == "integration"


def test_the_target_length_is_uniform_over_its_range() -> None:
    table = make_table()
    targets = [
        long_bundle(i, [QA("q", "a", (0,))], table, length=(100, 199), seed=7).meta["target"]
        for i in range(2000)
    ]
    counts = Counter((t - 100) // 10 for t in targets)
    chi = sum((counts[k] - 200) ** 2 / 200 for k in range(10))
    assert chi < 27.9  # 9 degrees of freedom, p = 0.001


def test_a_short_context_is_the_segments_own_surroundings_in_order() -> None:
    table = make_table()
    for segment in range(len(table)):
        bundle = short_bundle(segment, QA("q", "a", (segment,)), table, most_tokens=60, seed=0)
        assert bundle.plan is not None
        assert list(bundle.plan) == list(range(bundle.plan[0], bundle.plan[-1] + 1))
        assert bundle.plan[bundle.branches[0].gold[0]] == segment
        assert {table.document_of(i) for i in bundle.plan} == {table.document_of(segment)}
