"""The rule-based writer: what it asks, that it repeats itself exactly, and what it refuses."""

from __future__ import annotations

import ast

import pytest

from lcx.llm import open_llm
from lcx.llm.protocol import Request

CODE = '''def area(width, height):
    """Area of a rectangle."""
    return width * height + EXTRA_MARGIN


def edge(width, height):
    return 2 * (width + height) - OVERLAP
'''


def ask(task: str, seed: int = 0, n: int = 1, **fields: object) -> list[str]:
    request = Request(({"role": "user", "content": "…"},), task=task, fields=fields, seed=seed, n=n)
    [response] = open_llm("builtin").generate([request])
    return [c.text for c in response.completions]


def test_a_record_is_asked_for_by_its_key() -> None:
    [text] = ask("write_question", segment="* iterdump sqlite3 returns an iterator")
    assert text == "Question: iterdump\nAnswer: iterdump sqlite3"


@pytest.mark.parametrize("seed", range(20))
def test_a_line_of_code_is_asked_for_under_the_right_definition(seed: int) -> None:
    [text] = ask("write_question", seed=seed, segment=CODE)
    question, answer = text.split("\nAnswer: ")
    line = question.split("`")[1]
    bodies = {node.name: ast.get_source_segment(CODE, node) for node in ast.parse(CODE).body}
    holders = [name for name, body in bodies.items() if line in body]
    assert [f"It is in `{name}`." for name in holders] == [answer]


def test_a_sentence_is_asked_for_by_the_word_it_lacks() -> None:
    sentence = "The lighthouse keeper counted seventeen herring gulls before breakfast."
    [text] = ask("write_question", segment=sentence)
    question, answer = text.removeprefix("Question: ").split("\nAnswer: ")
    gapped, word = question.split("“")[1].split("”")[0], answer.split("“")[1].split("”")[0]
    assert gapped.replace("____", word) == sentence


def test_a_statement_of_code_is_no_key_with_a_value() -> None:
    [text] = ask("write_question", segment="        elif last_charset is None: last_word += word\n" * 2)
    assert "elif" not in text.split("Answer")[0] or "What is given" not in text


def test_joint_questions_need_two_usable_segments() -> None:
    segments = ("* alpha one x", "* beta two y", "* gamma three z")
    [text] = ask("write_joint_question", segments=segments)
    named = [name for name in ("alpha", "beta", "gamma") if name in text.split("\nAnswer: ")[0]]
    assert len(named) == 2
    assert ask("write_joint_question", segments=("* alpha one x", "--")) == [""]


def test_equal_requests_get_equal_answers_and_samples_may_differ() -> None:
    assert ask("write_question", seed=3, segment=CODE) == ask("write_question", seed=3, segment=CODE)
    assert len(set(ask("write_question", seed=3, n=12, segment=CODE))) > 1


def test_nothing_usable_gives_an_empty_text_and_an_unknown_task_an_error() -> None:
    assert ask("write_question", segment="?? !!") == [""]
    [response] = open_llm("builtin").generate([Request((), task="sing")])
    assert not response.completions
    assert "sing" in response.error
