"""Contexts cut from documents, and the bundles that candidates become."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from lcx_longreward.sampling import ROLE, Prompt, Sample, Window, candidate_bundle, text_of, windows

from lcx.data.table import SegmentTable, build_table
from lcx.data.tokens import open_span_tokenizer
from lcx.records import Document


def table_of(*texts: str) -> SegmentTable:
    documents = [Document(f"d{number}", text) for number, text in enumerate(texts)]
    return build_table(iter(documents), open_span_tokenizer("words"), min_tokens=1, mode="lines")


def lines(count: int, words: int = 3, name: str = "w") -> str:
    return "\n".join(" ".join(f"{name}{row}x{k}" for k in range(words)) for row in range(count))


@pytest.mark.parametrize("seed", range(5))
def test_windows_hold_every_line_once_and_none_is_too_long(seed: int) -> None:
    rng = random.Random(seed)
    texts = [lines(rng.randint(1, 30), rng.randint(1, 6), f"d{n}") for n in range(8)]
    table, counts = table_of(*texts), Counter[str]()
    found = windows(table, 5, 20, counts)
    for number, text in enumerate(texts):
        mine = [window for window in found if window.document == number]
        assert "\n".join(text_of(table, window) for window in mine) == text
        for window, following in zip(mine, [*mine[1:], None], strict=True):
            assert window.tokens == len(text_of(table, window).split()) <= 20
            if following is not None:  # it is as long as it can be
                first = text_of(table, following).split("\n")[0]
                assert window.tokens + len(first.split()) > 20
        assert all(window.whole == (len(mine) == 1) for window in mine)
    short = sum(len(text.split()) < 5 for text in texts)
    assert counts["documents too short, left out"] == short


def test_a_line_that_no_context_holds_is_left_out_and_counted() -> None:
    table, counts = table_of("a b c\n" + " ".join("long" for _ in range(30)) + "\nd e f"), Counter[str]()
    found = windows(table, 1, 10, counts)
    assert [text_of(table, window) for window in found] == ["a b c", "d e f"]
    assert not any(window.whole for window in found)
    assert counts["pieces left out: a line is longer than a context"] == 1


def test_a_bundle_keeps_the_samples_numbers_and_what_was_cut() -> None:
    prompt = Prompt(Window(0, 0, 0, 7), "写一份摘要，说明会议的决定。", "summary", "ref")
    samples = [Sample("one"), Sample(""), Sample("two", cut=True)]
    found = candidate_bundle("n", prompt, "the context", samples, {"document": "d"})
    assert found is not None
    assert [(b.answer, b.role, b.meta) for b in found.branches] == [
        ("one", ROLE, {"sample": 0, "finish": "stop"}),
        ("two", ROLE, {"sample": 2, "finish": "length", "cut": True}),
    ]
    assert found.meta == {"tokens": 7, "language": "zh", "document": "d", "reference": "ref"}
    assert (found.context, found.kind) == ("the context", "summary")
    assert candidate_bundle("n", prompt, "c", [Sample(""), Sample("")], {}) is None
