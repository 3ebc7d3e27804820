"""Which chunks go into which context: invariants over random documents, questions and limits."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lcx_logo.contexts import NO_CRITICAL, NO_IRRELEVANT, NO_ITEM, Asked, Case, Rules, build_case
from lcx_logo.importance import Builtin, score

from lcx.data.table import SegmentTable, build_table
from lcx.data.tokens import BUILTIN
from lcx.records import Document

WORDS = ("heron", "anchor", "beacon", "copper", "dune", "ember")


def make_table(holds: list[list[set[str]]]) -> SegmentTable:
    """A document a list, a chunk a set of words; every chunk is one line of 12 words and more."""

    def line(document: int, chunk: int, words: set[str]) -> str:
        return " ".join([*sorted(words), *(f"w{document}x{chunk}y{k}" for k in range(12))])

    docs = [
        Document(f"d{d}", "\n".join(line(d, c, words) for c, words in enumerate(chunks)))
        for d, chunks in enumerate(holds)
    ]
    return build_table(docs, BUILTIN["words"], mode="lines")


def rules(**changes: Any) -> Rules:
    plain: dict[str, Any] = {
        "chunks": 6, "rejected": 2, "threshold": "auto", "fill": True, "context_tokens": None, "read_tokens": None,
        "seed": 0,
    }  # fmt: skip
    return Rules(**{**plain, **changes})


def built(case: Case | str) -> Case:
    assert isinstance(case, Case)
    return case


HELD = st.lists(
    st.lists(st.sets(st.sampled_from(WORDS), max_size=6), min_size=1, max_size=12), min_size=2, max_size=6
)


@settings(max_examples=150, deadline=None)
@given(HELD, st.sampled_from([1, 2, 4]), st.integers(2, 8), st.booleans(), st.integers(0, 99), st.data())
def test_no_context_holds_what_it_must_not(
    holds: list[list[set[str]]], rejected: int, chunks: int, written: bool, seed: int, data: st.DataObject
) -> None:
    table = make_table(holds)
    document = data.draw(st.integers(0, len(holds) - 1))
    own = table.segments_of(document)
    source = (data.draw(st.sampled_from(list(own))),) if written else ()
    asked = Asked("Where are heron, anchor, beacon and copper?", None, document, source)
    case = build_case(3, asked, table, Builtin(), rules(chunks=chunks, rejected=rejected, seed=seed))
    flat = [words for chunks_of in holds for words in chunks_of]
    value = [len(words & set(WORDS[:4])) for words in flat]
    above = {c for c in own if value[c] > 2} | set(source)
    below = {c for c in range(len(table)) if value[c] < 2} - set(source)
    if isinstance(case, str):
        assert (case == NO_CRITICAL and not above) or (case == NO_IRRELEVANT and len(below) < chunks)
        return
    assert case.threshold == 2
    assert set(case.critical) <= above
    assert len(case.critical) == min(len(above), chunks)
    assert set(source) <= set(case.critical)
    assert case.left_out == len(above) - len(case.critical)
    chosen, *others = case.readings
    assert (chosen.what, set(chosen.chunks)) == ("critical", set(case.critical))
    assert len(others) == rejected
    for turn, reading in enumerate(others):
        held = set(reading.chunks) & set(case.critical)
        assert set(reading.chunks) - held <= below - above
        assert reading.what == ("mixture" if held else "irrelevant")
        assert len(held) == (len(case.critical) // 2 if turn % 2 else 0)  # a mixture lacks at least half
        assert not (source and held & set(source) and len(case.critical) < 2)
    assert set(case.critical) <= set(case.plan)
    assert set(case.plan) - set(case.critical) <= set(
        others[0].chunks
    )  # its wrong answer stands in the context
    for found in (case.plan, *(reading.chunks for reading in case.readings)):
        assert 0 < len(found) <= chunks
        assert len(set(found)) == len(found)
        documents = [table.document_of(c) for c in found]
        runs = [d for i, d in enumerate(documents) if i == 0 or documents[i - 1] != d]
        assert len(runs) == len(set(runs))  # chunks of one document stand together
        assert all(a < b for a, b in pairwise(found) if table.document_of(a) == table.document_of(b))
        assert all(case.scores[c] == value[c] for c in found)


def test_the_documents_own_irrelevant_chunks_come_first() -> None:
    table = make_table([[{"heron"}] + [set()] * 9, [set()] * 20])
    case = built(build_case(0, Asked("heron?", None, 0), table, Builtin(), rules()))
    assert {table.document_of(c) for c in case.plan} == {0}
    assert len(case.plan) == 6
    small = make_table([[{"heron"}, set()], [set()] * 20])
    case = built(build_case(0, Asked("heron?", None, 0), small, Builtin(), rules()))
    assert sorted(small.document_of(c) for c in case.plan) == [0, 0, 1, 1, 1, 1]
    case = built(build_case(0, Asked("heron?", None, 0), small, Builtin(), rules(fill=False)))
    assert case.plan == (0, 1)


def test_a_mixture_lacks_the_source_as_far_as_it_can() -> None:
    table = make_table([[{"heron"}] * 5 + [set()] * 9])
    joint = make_table([[{"heron"}, set(), set()] + [set()] * 9])
    for seed in range(20):
        case = built(build_case(0, Asked("heron?", None, 0, (2,)), table, Builtin(), rules(seed=seed)))
        mixture = case.readings[2]
        assert mixture.what == "mixture"
        assert len(set(mixture.chunks) & {0, 1, 2, 3, 4}) == 2
        assert 2 not in mixture.chunks
        asked = Asked("heron?", None, 0, (1, 2))
        both = built(build_case(0, asked, joint, Builtin(), rules(seed=seed)))
        assert len(set(both.readings[2].chunks) & set(both.critical)) == 1


def test_more_rejected_answers_draw_other_chunks() -> None:
    table = make_table([[{"heron"}] + [set()] * 60])
    case = built(build_case(0, Asked("heron?", None, 0), table, Builtin(), rules(rejected=4)))
    drawn = [frozenset(r.chunks) for r in case.readings[1:]]
    assert len(set(drawn)) == 4
    assert [r.what for r in case.readings[1:]] == ["irrelevant"] * 4  # one critical chunk cannot be halved


def test_token_limits_leave_irrelevant_chunks_out() -> None:
    table = make_table([[{"heron"}] * 2 + [set()] * 20])
    most = 60
    case = built(
        build_case(0, Asked("heron?", None, 0), table, Builtin(), rules(context_tokens=most, read_tokens=30))
    )

    def tokens(chunks: tuple[int, ...]) -> int:
        return sum(int(table.tokens[c]) for c in chunks) + len(chunks) - 1

    assert tokens(case.plan) <= most < tokens(case.plan) + 16
    assert set(case.critical) == {0, 1} <= set(case.plan)
    assert all(tokens(reading.chunks) <= 30 for reading in case.readings)


def test_no_chunk_of_another_document_brings_a_key_again() -> None:
    docs = [
        Document(
            f"d{d}",
            "\n".join(f"* key{k} value{d}x{k} word word" for k in range(20)),
            {"keys": [f"key{k}" for k in range(20)]},
        )
        for d in range(3)
    ]
    docs.append(
        Document(
            "more", "\n".join(f"* other{k} v w" for k in range(9)), {"keys": [f"other{k}" for k in range(9)]}
        )
    )
    table = build_table(docs, BUILTIN["words"], mode="lines")
    for seed in range(20):
        case = built(
            build_case(0, Asked("key3", None, 0, (3,)), table, Builtin(), rules(chunks=24, seed=seed))
        )
        assert case.critical == (3,)
        for found in (case.plan, *(r.chunks for r in case.readings)):
            keys = [table.key(c) for c in found]
            assert len(set(keys)) == len(keys)
        assert len(case.plan) == 24


def test_a_decoy_in_the_document_is_critical_and_makes_the_mixture() -> None:
    lines = ["* key0 right word", *(f"* key{k} value{k} word" for k in range(1, 9)), "~ key0 stale word"]
    keys = [line.split()[1] for line in lines]
    table = build_table([Document("d", "\n".join(lines), {"keys": keys})], BUILTIN["words"], mode="lines")
    case = built(build_case(0, Asked("key0", "key0 right", 0, (0,)), table, Builtin(), rules()))
    assert case.critical == (0, 9)
    assert {0, 9} <= set(case.plan)
    assert 9 in case.readings[2].chunks
    assert 0 not in case.readings[2].chunks


def test_questions_that_cannot_be_used_have_a_reason() -> None:
    table = make_table([[{"heron"}, set()], [set()] * 5])
    assert build_case(0, Asked("What is it?", None, 0), table, Builtin(), rules()) == NO_ITEM
    assert build_case(0, Asked("unicorn?", None, 0), table, Builtin(), rules()) == NO_CRITICAL
    full = make_table([[{"heron"}], [{"heron"}]])
    assert build_case(0, Asked("heron?", None, 0), full, Builtin(), rules()) == NO_IRRELEVANT


def test_the_answer_is_never_looked_at() -> None:
    table = make_table([[{"heron"}, {"ember"}, set(), set()], [set()] * 9])
    plain = build_case(0, Asked("heron?", None, 0), table, Builtin(), rules())
    for reference in ("ember", "heron ember dune", ""):
        asked = Asked("heron?", reference, 0)
        case = built(build_case(0, asked, table, Builtin(), rules()))
        assert (case.critical, case.plan, case.readings, case.scores) == (
            built(plain).critical, built(plain).plan, built(plain).readings, built(plain).scores,
        )  # fmt: skip


@pytest.mark.parametrize("threshold", [0.0, 1.0, 3.0])
def test_a_number_sets_the_threshold(threshold: float) -> None:
    table = make_table(
        [[{"heron"}, {"heron", "anchor"}, {"heron", "anchor", "beacon", "copper"}, set()], [set()] * 9]
    )
    asked = Asked("Where are heron, anchor, beacon and copper?", None, 0)
    case = build_case(0, asked, table, Builtin(), rules(threshold=threshold))
    found = Builtin()
    values = [score(found.question(asked.question), found.chunk(table.text(c))) for c in range(4)]
    if threshold == 0:
        assert case == NO_IRRELEVANT  # nothing lies below zero
    else:
        assert built(case).critical == tuple(c for c in range(4) if values[c] > threshold)
