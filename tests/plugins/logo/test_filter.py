"""The filter: ratings read safely, and what the chosen answer has to beat."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lcx_logo import filter as sieve
from lcx_logo.answers import Answer
from lcx_logo.filter import normal, parse_rating, sift

from lcx.data.templates import TEMPLATES
from lcx.llm.prompts import by_prompt, by_template, fill


@pytest.mark.parametrize(
    ("reply", "rating"),
    [
        ("It agrees. [[7]]", 0.7),
        ("[[3]] no, on second thought [[ 8.5 ]]", 0.85),
        ("[[8,5]]", 0.85),
        ("[[7/10]]", 0.7),
        ("[[10分]]", 1.0),
        ("[[11]]", 1.0),
        ("[[-3]]", 0.0),
        ("[[99999999999999999999]]", 1.0),
        ("[7]", None),
        ("[[seven]]", None),
        ("[[]]", None),
        ("", None),
        ("[[nan]]", None),
    ],
)
def test_ratings(reply: str, rating: float | None) -> None:
    assert parse_rating(reply) == rating


@given(st.text())
def test_any_reply_gives_a_rating_in_range_or_none(reply: str) -> None:
    for text in (reply, f"[[{reply}]]"):
        found = parse_rating(text)
        assert found is None or (0 <= found <= 1 and not math.isnan(found))


def answers(chosen: float | None, *rejected: float | None) -> list[Answer]:
    first = Answer("the right one", "critical", (1,), rating=chosen)
    return [first, *(Answer(f"wrong {i}", "irrelevant", (2,), rating=r) for i, r in enumerate(rejected))]


@pytest.mark.parametrize(
    ("chosen", "rejected", "margin", "reasons", "whole"),
    [
        (0.9, (0.1, 0.2), 0.1, ("", ""), ""),
        (0.9, (0.1, 0.85), 0.1, ("", sieve.CLOSE), ""),
        (0.9, (0.8,), 0.1, ("",), ""),  # exactly the margin, float error or not
        (0.9, (0.9,), 0.0, (sieve.TIE,), sieve.NONE_LEFT),
        (0.9, (0.91, 0.9), 0.1, (sieve.BETTER, sieve.TIE), sieve.NONE_LEFT),
        (0.9, (0.89,), 0.0, ("",), ""),
        (0.0, (0.0,), 0.1, (sieve.TIE,), sieve.NONE_LEFT),
        (0.9, (None, 0.1), 0.1, (sieve.UNRATED, ""), ""),
        (None, (0.1,), 0.1, ("",), f"chosen answer: {sieve.UNRATED}"),
    ],
)
def test_the_chosen_answer_beats_every_rejected_one_that_stays(
    chosen: float | None,
    rejected: tuple[float | None, ...],
    margin: float,
    reasons: tuple[str, ...],
    whole: str,
) -> None:
    verdict = sift(answers(chosen, *rejected), judged=True, margin=margin)
    assert (verdict.rejected, verdict.reason) == (reasons, whole)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=4), st.floats(0, 1), st.floats(0, 1))
def test_no_tie_ever_stays(rejected: list[float], chosen: float, margin: float) -> None:
    verdict = sift(answers(chosen, *rejected), judged=True, margin=margin)
    for number in verdict.kept:
        assert chosen - rejected[number] >= margin - 1e-8
        assert chosen > rejected[number]
    assert bool(verdict.reason) == (not verdict.kept)


def plain(text: str, what: str = "irrelevant", **changes: object) -> Answer:
    return Answer(text, what, (1,), **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize("judged", [False, True])
def test_empty_failed_and_doubled_answers_go(judged: bool) -> None:
    rating = {"rating": 0.0} if judged else {}
    found = [
        plain("Ada Morgan.", "critical", rating=1.0),
        plain(" ada  morgan", **rating),
        plain("", **rating),
        plain("Bob", **rating),
        plain("“Bob”!", **rating),
        plain("", error="the server hung up"),
    ]
    verdict = sift(found, judged=judged, margin=0.1)
    assert verdict.rejected == (sieve.SAME, sieve.EMPTY, "", sieve.DOUBLE, sieve.FAILED)
    assert verdict.kept == (2,)
    assert verdict.reason == ""


@pytest.mark.parametrize(
    ("chosen", "reason"),
    [
        (plain("", "critical"), sieve.EMPTY),
        (plain("", "corpus"), sieve.NOT_GIVEN),
        (plain("", "critical", error="x"), sieve.FAILED),
        (plain("endless", "critical", cut=True, rating=1.0), sieve.CUT),
    ],
)
def test_an_unsound_chosen_answer_drops_the_example(chosen: Answer, reason: str) -> None:
    verdict = sift([chosen, plain("wrong", rating=0.0, cut=True)], judged=True, margin=0.1)
    assert verdict.reason == f"chosen answer: {reason}"


def test_a_cut_rejected_answer_stays_and_a_poor_chosen_one_goes() -> None:
    pair = [plain("right", "critical", rating=0.3), plain("and and and", rating=0.0, cut=True)]
    assert sift(pair, judged=True, margin=0.1).kept == (0,)
    assert sift(pair, judged=True, margin=0.1, least=0.4).reason == f"chosen answer: {sieve.POOR}"


def test_answers_are_compared_without_case_and_marks() -> None:
    assert normal("  It is `f`.\n") == normal("it is  `F`") == "it is `f"
    assert normal("...") == "..."
    assert normal("一。") == normal("一")


def test_prompts_are_filled_in_one_pass() -> None:
    assert fill("{a} {b} {c}", {"a": "{b}", "b": "x"}) == "{b} x {c}"
    render = by_prompt("C {context} Q {question}")
    assert render("code {question} {x: 1}", "why {context}?") == "C code {question} {x: 1} Q why {context}?"


def test_a_template_renders_as_training_does() -> None:
    tiny = by_template(TEMPLATES["tiny"], chat=False)
    assert tiny("* a b\n* c d", "c") == "* a b\n* c d\n? c ="
    in2 = TEMPLATES["in2"]
    assert by_template(in2, chat=True)("C", "Q") == f"{in2.head}C{in2.between}Q"
    assert by_template(in2, chat=False)("C", "Q") == f"{in2.head}C{in2.between}Q{in2.cue}"
