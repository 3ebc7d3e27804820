"""How the judge's replies are read."""

from __future__ import annotations

import pytest
from lcx_longreward.rubrics import (
    NO_INFORMATION,
    Unreadable,
    read_facts,
    read_rating,
    read_statements,
    read_support,
)


@pytest.mark.parametrize(
    ("reply", "rating"),
    [
        ("Good.\n[[7]]", 7.0),
        ("Gut. [[7.25]]", 7.25),
        ("Gut. [[7,5]]", 7.5),
        ("[[8/10]]", 8.0),
        ("[[ 0 ]]", 0.0),
        ("很好。[[10]]", 10.0),
        ("很好。[[９]]", 9.0),
        ("The answer claims [[10]], which is no rating. [[2]]", 2.0),
        ("**[[6]]**\n", 6.0),
        ("[[3]] [[Fully supported]]", 3.0),
        ("<think>maybe [[9]]</think>So: [[4]]", 4.0),
        ("maybe [[9]]\n</think>\n[[4]]", 4.0),
        ("The answer says <think> somewhere. [[4]]", 4.0),
        ("[[3]] is too little.\nFinal: [[5]] out of 10", 5.0),
    ],
)
def test_a_rating_is_the_last_number_in_double_brackets(reply: str, rating: float) -> None:
    assert read_rating(reply) == rating


@pytest.mark.parametrize(
    "reply",
    [
        "",
        "Rating: 7",
        "[7]",
        "[[seven]]",
        "[[]]",
        "[[11]]",
        "[[-1]]",
        "[[10.01]]",
        "[[8/5]]",
        "[[5]] no, [[100]]",  # the last one counts, though it cannot be used
        "<think>[[7]]",
        "<think>[[7]]</think>",
    ],
)
def test_what_is_no_rating_is_asked_again(reply: str) -> None:
    assert isinstance(read_rating(reply), Unreadable)


def test_statements_are_stripped_and_empty_ones_left_out() -> None:
    reply = (
        "Here:\n<statement> A is B. </statement>\n<statement></statement><STATEMENT>C\nis D.</STATEMENT> done"
    )
    assert read_statements(reply) == ["A is B.", "C\nis D."]


@pytest.mark.parametrize("reply", ["[[none]]", "There are [[None]].", "[[无]]", "<statement></statement>"])
def test_a_judge_can_say_that_there_are_no_statements(reply: str) -> None:
    assert read_statements(reply) == []


@pytest.mark.parametrize("reply", ["", "1. A is B.", "<statement>never closed"])
def test_a_reply_without_the_format_is_no_empty_list(reply: str) -> None:
    assert isinstance(read_statements(reply), Unreadable)


@pytest.mark.parametrize(
    ("reply", "level"),
    [
        ("[[Fully supported]]", 1.0),
        ("[[fully]]", 1.0),
        ("[[Partially supported]]", 0.5),
        ("[[No support]]", 0.0),
        ("[[Not supported]]", 0.0),
        ("[[完全支持]]", 1.0),
        ("[[部分支持]]", 0.5),
        ("[[不支持]]", 0.0),
        ("Not [[Fully supported]], since ... [[Partially supported]]", 0.5),
        ("[[Fully supported]] [[1]]", 1.0),
    ],
)
def test_support_is_the_last_level(reply: str, level: float) -> None:
    assert read_support(reply) == level


@pytest.mark.parametrize(
    "reply", ["", "fully supported", "[[1]]", "[[]]", "[[Not fully supported]]", "[[不完全支持]]"]
)
def test_support_without_one_of_the_levels_is_asked_again(reply: str) -> None:
    assert isinstance(read_support(reply), Unreadable)


def test_facts_are_numbered_and_may_have_several_lines() -> None:
    reply = "Facts:\n1. The bridge\n   is long.\n2) It is old.\n3、它很长。\n"
    assert read_facts(reply) == ["The bridge\n   is long.", "It is old.", "它很长。"]


@pytest.mark.parametrize(
    ("reply", "facts"),
    [
        ("**Facts:**\n1. A\n2. B", ["A", "B"]),
        ("*Facts*\n- A\n- B", ["A", "B"]),
        ("1. They sold\n3.5 million of it.\n2. B", ["They sold\n3.5 million of it.", "B"]),
        ("- It opens at\n12:30 pm.\n- B", ["It opens at\n12:30 pm.", "B"]),
        ("1. A\n-40 degrees\n2. B", ["A\n-40 degrees", "B"]),
        ("**1.** A\n**2)** B", ["A", "B"]),
        ("* A\n* B", ["A", "B"]),
        ("•A\n• B", ["A", "B"]),
        ("1.事实一\n2.事实二", ["事实一", "事实二"]),
        ("<think>1. no</think>\n1. A", ["A"]),
    ],
)
def test_an_item_begins_with_its_mark_only(reply: str, facts: list[str]) -> None:
    assert read_facts(reply) == facts


@pytest.mark.parametrize(
    "reply", [NO_INFORMATION, "no relevant information.", "没有相关信息", "1. No relevant information"]
)
def test_a_part_without_facts_says_so(reply: str) -> None:
    assert read_facts(reply) == [NO_INFORMATION]


def test_a_remark_about_missing_information_does_not_hide_facts() -> None:
    assert read_facts("1. It is old.\nNo relevant information about the length.") == ["It is old."]
    assert read_facts("1. It is old.\n2. No relevant information about its length.") == ["It is old."]


@pytest.mark.parametrize("reply", ["", "The part speaks of bridges.", "<think>1. A"])
def test_other_text_is_no_list_of_facts(reply: str) -> None:
    assert isinstance(read_facts(reply), Unreadable)
