"""The rule-based writer: what it asks, that it repeats itself exactly, and what it refuses."""

from __future__ import annotations

import ast

import pytest

from lcx.llm import open_llm
from lcx.llm.builtin import sentences
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


def test_a_stop_inside_a_word_ends_no_sentence() -> None:
    text = "Retry on `httpx2.TimeoutException` and on version 3.5 of os.path errors. Then stop!"
    assert sentences(text) == [
        "Retry on `httpx2.TimeoutException` and on version 3.5 of os.path errors.",
        "Then stop!",
    ]
    assert sentences('He said "no." Then (it was late.) he left…and 「好。」 。') == [
        'He said "no.',
        '" Then (it was late.',
        ") he left…and 「好。",
        "」 。",
    ]


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


CONTEXT = (
    "Keeper: Ada Morgan\nThe lighthouse stands on Cape Grim.\n",
    "* iterdump sqlite3 returns\n* glob fnmatch a",
)


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("iterdump", "iterdump sqlite3"),
        ("What is given for “Keeper”?", "Keeper: Ada Morgan"),
        ("Which word fills the gap in “The ____ stands on Cape Grim.”?", "The word is “lighthouse”."),
        ("Which word fills the gap in “The lighthouse stands on Cape ____”?", "The word is “Grim”."),
        ("Where does the lighthouse stand?", "The lighthouse stands on Cape Grim."),
        (
            "Answer both parts. (1) What is given for “Keeper”? (2) glob",
            "(1) Keeper: Ada Morgan (2) glob fnmatch",
        ),
    ],
)
def test_questions_are_answered_from_the_context(question: str, answer: str) -> None:
    assert ask("answer_question", question=question, context=CONTEXT) == [answer]


@pytest.mark.parametrize("seed", range(10))
def test_the_writers_own_questions_are_answered_as_it_answers_them(seed: int) -> None:
    prose = "Seventeen gulls nested there. Breakfast was at seven, and porridge was served to everybody."
    for segment in (CODE, prose, CONTEXT[0], "* iterdump sqlite3 returns an iterator"):
        question, answer = ask("write_question", seed=seed, segment=segment)[0].split("\nAnswer: ")
        question = question.removeprefix("Question: ")
        others = ("def other(a):\n    return a\nColour: red\nSomething else happened.\n* dump json writes",)
        assert ask("answer_question", question=question, context=(*others, segment)) == [answer]
        assert ask("answer_question", question=question, context=others) != [answer]


def test_stale_records_are_believed_only_where_there_is_no_other() -> None:
    assert ask("write_question", segment="~ glob fnmatch returns a list of all the files") == [""]
    both = ("~ glob stale a", "* glob fnmatch a", "* dump json a")
    assert ask("answer_question", question="glob", context=both) == ["glob fnmatch"]
    assert ask("answer_question", question="glob", context=(both[0], both[2])) == ["glob stale"]


def test_a_context_without_the_answer_still_gives_one_of_its_kind() -> None:
    [text] = ask("answer_question", question="heapify", context=CONTEXT)
    assert text in {"heapify sqlite3", "heapify fnmatch"}
    assert ask("answer_question", question="Who?", context=()) == [""]
    assert ask("answer_question", question="Quo vadis?", context=CONTEXT)[0] in CONTEXT[0] + CONTEXT[1]


@pytest.mark.parametrize(
    ("answer", "reference", "rating"),
    [
        ("the herring gulls of Cape Grim", "Herring gulls at Cape Grim", "[[10.00]]"),
        ("gulls", "gulls and terns", "[[6.67]]"),  # one of one word, one of two: F1 2/3
        (
            "gulls gulls gulls",
            "gulls",
            "[[5.00]]",
        ),  # a word repeated counts once where the reference has it once
        ("terns", "gulls", "[[0.00]]"),
        ("", "gulls", "[[0.00]]"),
        ("No.", "no", "[[10.00]]"),  # nothing but stop words: they count then
        ("看守人是小红", "小明是看守人", "[[6.67]]"),  # pairs 看守, 守人 and a name: 2 of 3 in common
    ],
)
def test_the_overlap_judge_against_a_reference(answer: str, reference: str, rating: str) -> None:
    assert ask("judge_overlap", answer=answer, reference=reference) == [rating]


def test_the_overlap_judge_without_a_reference_asks_what_the_evidence_has() -> None:
    evidence = ("Herring gulls nest on Cape Grim.",)
    assert ask("judge_overlap", answer="Gulls nest in trees", evidence=evidence) == ["[[6.67]]"]
    assert ask("judge_overlap", answer="", evidence=evidence) == ["[[0.00]]"]
