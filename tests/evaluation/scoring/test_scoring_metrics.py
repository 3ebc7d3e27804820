"""Metrics on text, against cases worked by hand."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from lcx.evaluation import metrics
from lcx.evaluation.metrics import (
    chosen,
    class_named,
    class_named_as_published,
    final_number,
    final_number_as_film,
    gold_number,
    letter_of_four,
    line_similarity,
    numbers_right,
    paragraph_named,
    picks_as_film,
    same_number,
)
from lcx.evaluation.probes.val import CODE, DATABASE
from lcx.evaluation.text_metrics import (
    bag_f1,
    chinese_f1,
    common_subsequence,
    contains,
    english_f1,
    english_tokens,
    first_line,
    first_paragraph,
    label_or_description,
    refuses,
    rouge_l,
    sentences,
)


def test_english_tokens_drop_case_punctuation_and_articles() -> None:
    assert english_tokens("The  cat's  hat, an ART; a-b") == ["cats", "hat", "art", "ab"]
    assert english_tokens("Theatre anthem") == ["theatre", "anthem"]


def test_f1_is_over_bags_and_takes_the_best_answer() -> None:
    # found 3 words, wanted 2, 2 shared (one "b" of two): 2*2/(3+2).
    assert bag_f1(["a", "b", "b"], ["b", "a"]) == pytest.approx(0.8)
    assert english_f1("the red house", ["blue", "house"]) == pytest.approx(2 / 3)
    assert english_f1("", [""]) == 0.0
    assert english_f1("x", []) == 0.0


def test_chinese_f1_counts_words_without_punctuation() -> None:
    # 我 / 来到 / 北京 against 来到 / 北京: 2 shared of 3 and 2.
    assert chinese_f1("我来到北京。", ["来到“北京”！"]) == pytest.approx(0.8)
    # The published list of punctuation has 》 and not 《: that one stays a word.
    assert chinese_f1("我来到北京。", ["来到《北京》！"]) == pytest.approx(2 / 3)
    assert chinese_f1("ＡＢ", ["。，"]) == 0.0


def test_a_longest_common_subsequence_prefers_the_references_words() -> None:
    # Both "a" and "b" are longest; from the ends, the word of the found text is given up first if nothing is lost.
    assert common_subsequence(["a", "b"], ["b", "a"]) == ["b"]
    assert common_subsequence(["w1", "w2", "w3", "w4", "w5"], ["w1", "w3", "w8", "w9", "w5"]) == [
        "w1",
        "w3",
        "w5",
    ]
    assert common_subsequence([], ["x"]) == []


def test_rouge_l_unites_the_sentences_words() -> None:
    # Lin's example: the LCSs with the two sentences are {w1 w2} and {w1 w3 w5}: 4 of 5 reference words, of 9 distinct.
    pred, reference = "w1 w2 w6 w7 w8. w1 w3 w8 w9 w5", "w1 w2 w3 w4 w5"
    assert rouge_l(pred, [reference]) == pytest.approx(2 * (4 / 5) * (4 / 8) / (4 / 5 + 4 / 8), abs=1e-7)
    assert rouge_l("same words", ["other", "same words"]) == pytest.approx(1.0, abs=1e-7)
    assert rouge_l("", ["x"]) == rouge_l("...", ["x"]) == 0.0
    assert sentences("a  b. c.\n") == [["a", "b"], ["c"], [""]]


def test_rouge_l_is_that_of_another_implementation_where_they_must_agree() -> None:
    """On one sentence of distinct words the package's rule is the plain one, which `rouge_score` has too."""
    scorer = pytest.importorskip("rouge_score.rouge_scorer").RougeScorer(["rougeL"])
    import random

    rng = random.Random(4)
    words = [f"w{n}" for n in range(40)]
    for _ in range(50):
        one, two = rng.sample(words, rng.randrange(1, 30)), rng.sample(words, rng.randrange(1, 30))
        wanted = scorer.score(" ".join(two), " ".join(one))["rougeL"].fmeasure
        assert rouge_l(" ".join(one), [" ".join(two)]) == pytest.approx(wanted, abs=1e-7)


def test_classes_share_the_point_and_parts_of_the_right_one_do_not_count() -> None:
    classes = ["Food", "Date", "Date of birth", "Number", "Number of dates"]
    assert class_named("Food", ["Food"], classes) == 1.0
    assert class_named("Food or Number", ["Food"], classes) == 0.5
    assert class_named("Date of birth", ["Date of birth"], classes) == 1.0
    assert class_named("Date of birth", ["Date"], classes) == 0.5
    assert class_named("none", ["Food"], classes) == 0.0


def test_published_classes_pass_over_the_one_after_a_part() -> None:
    # "a" is part of "abc" and goes; "ab", the next, is then not looked at and stays: 1/2 instead of 1.
    classes = ["a", "ab", "abc"]
    assert class_named("abc", ["abc"], classes) == 1.0
    assert class_named_as_published("abc", ["abc"], classes) == 0.5
    assert class_named_as_published("abc", ["abc"], ["a", "abc"]) == 1.0


def test_numbers_named_share_the_point() -> None:
    assert numbers_right("4, no: 5 of 5", "5") == pytest.approx(2 / 3)
    assert numbers_right("none", "5") == 0.0
    assert numbers_right("15", "5") == 0.0
    assert paragraph_named("Paragraph 3 or 4", "Paragraph 4", "Paragraph") == 0.5
    assert paragraph_named("段落12", "段落12", "段落") == 1.0
    assert paragraph_named("12", "no number", "段落") == 0.0
    for name, pred, answer in (
        ("count", "７", "7"),
        ("retrieval_zh", "段落１２", "段落12"),
        ("retrieval", "Paragraph ３", "Paragraph 3"),
    ):
        metric = getattr(metrics, name)
        assert metric(pred, {"answers": [answer]}) == 1.0
        assert metrics.PUBLISHED[metric](pred, {"answers": [answer]}) == 0.0


def test_code_similarity_is_of_the_first_line_that_is_code() -> None:
    assert line_similarity("\n```python\n# add\nx = 1\ny", ["x = 1"]) == 1.0
    # "abcd" and "bcde" share the block "bcd": 2*3/8 = 75%.
    assert line_similarity("abcd", ["bcde"]) == 0.75
    # 2*2/(2+5) = 57.14%: whole percent.
    assert line_similarity("ab", ["ab---"]) == 0.57
    assert line_similarity("```", ["x"]) == 0.0


@pytest.mark.parametrize(
    ("reply", "place"),
    [
        ("B", 1),
        ("(b)", 1),
        ("C. river", 2),
        ("The answer is D, not A.", 3),
        ("the answer is a tree", None),
        ("A man would go to the shop", 4),
        ("I think it is the river", 2),
        ("**E**", 4),
        ("bank or river", None),
        ("A or B", None),
        ("Neither A nor B", None),
        ("Neither B nor A", None),
        ("B, C", None),
        ("A、B", None),
        ("(A) or (B)", None),
        ("A\n\nB is wrong", 0),
        ("B or a friend", 1),
        ("C\n\nQuestion: next\nAnswer: A", 2),
        ("", None),
    ],
)
def test_the_choice_of_a_reply(reply: str, place: int | None) -> None:
    assert chosen(reply, ["park", "bank", "river", "hall", "shop"]) == place


def test_film_takes_the_first_capital_from_a_to_f() -> None:
    candidates = ["p", "q", "r", "s", "t"]
    assert picks_as_film("The answer is B", "q", candidates) == 1.0
    assert picks_as_film("Definitely b", "s", candidates) == 1.0  # the D of "Definitely"
    assert picks_as_film("no capital: b", "p", candidates) == 1.0  # none is A
    assert picks_as_film("F", "t", candidates) == 0.0  # beyond the candidates


@pytest.mark.parametrize(
    ("reply", "place"),
    [
        *(
            ("选B", 1),
            ("B选项正确", 1),
            ("A选项错误，B选项正确", 1),
            ("选项B正确，选项A错误", 1),
            ("选项A", 0),
        ),
        *(
            ("答案：（C）", 2),
            ("应选D，因为……", 3),
            ("不选A，选B", 1),
            ("Ｂ", 1),
            ("A。因为", 0),
            ("the answer是B", 1),
        ),
        *(("正解はBです", 1), ("答えはC。", 2), ("정답은 B입니다", 1), ("A man", None), ("Bélier", None)),
    ],
)
def test_letters_stand_by_themselves_beside_chinese_japanese_and_korean(
    reply: str, place: int | None
) -> None:
    assert chosen(reply, ["pp", "qq", "rr", "ss"]) == place


@pytest.mark.parametrize(
    ("text", "part", "found"),
    [
        ("代码是4819263。", "4819263", True),
        ("コードは4819263です", "4819263", True),
        ("4819263입니다", "4819263", True),
        ("コードは４８１９２６３です", "4819263", True),
        ("４８１９２６３４", "4819263", False),
        ("_4819263_", "4819263", True),
        ("code_4819263", "4819263", True),
        ("4819263.The", "4819263", True),
        ("14819263", "4819263", False),
        ("4819263.5", "4819263", False),
        ("标签是北京大学。", "北京大学", True),
        ("函数foo返回", "foo", True),
        ("_foo_", "foo", True),
        ("foo_bar", "foo", False),
        ("foo2", "foo", False),
        ("éfoo", "foo", False),
        ("threading", "re", False),
        ("email.utils", "email", False),
        ("use email.Then", "email", True),
        *(
            (f"It is {one}.", "4819263", True)
            for one in ("4,819,263", "4.819.263", "4 819 263", "4\u202f819\u202f263")
        ),
        *(
            (f"It is {one}.", "4819263", True)
            for one in ("4'819'263", "4_819_263", "48,19,263", "4，819，263")
        ),
        ("**4,819,263** crowns", "4819263", True),
        ("代码是4,819,263。", "4819263", True),
        ("4819263", "4,819,263", True),
        ("4,819", "4819", True),
        ("4.819", "4819", False),
        ("3141", "3.141", False),
        ("14,819,263", "4819263", False),
        ("4,819,263,500", "4819263", False),
        ("12,4,819,263", "4819263", False),
        ("4,819,263.5", "4819263", False),
        ("4,819.263", "4819263", False),
        ("48,192,63", "4819263", False),
        ("foo 1,234 foo", "234x", False),
    ],
)
def test_an_edge_is_refused_by_a_neighbour_of_its_kind(text: str, part: str, found: bool) -> None:
    assert contains(text, part, whole_words=True) == found


def test_full_stops_of_a_label_do_not_count() -> None:
    said = "It is a case of nsclc, treated."
    assert label_or_description("A case of NSCLC.", "x.", said) == 1.0
    assert label_or_description("A case of NSCLC.", "x.", said, whole_words=True) == 1.0
    row = {"label": "A case of NSCLC.", "description": "x.", "pred": said}
    assert DATABASE.compat["film"](row) == 1.0
    assert DATABASE.compat["film"]({**row, "pred": "none", "description": ""}) == 1.0  # as published
    assert CODE.compat["film"]({"name": ".run", "pred": "rerun()"}) == 1.0


@pytest.mark.parametrize(
    ("reply", "letter", "strict"),
    [
        ("So: The correct answer is (B).", "B", "B"),
        ("The correct answer is **C**", "C", "C"),
        ("The correct answer is A, not (The correct answer is (D))", "D", "D"),
        ("d", "D", None),
        ("D", "D", None),
        ("I choose (B) here", "B", None),
        ("the answer is a mess", None, None),
    ],
)
def test_the_letter_of_longbench_v2(reply: str, letter: str | None, strict: str | None) -> None:
    assert letter_of_four(reply) == letter
    assert letter_of_four(reply, strict=True) == strict


@pytest.mark.parametrize(
    ("reply", "number", "film"),
    [
        ("6 * 3 = 18. The answer is $18.", 18, 18),
        ("The answer is 1,200 dollars.", 1200, 1200),
        ("The answer is 5.\n\nQuestion: next\nThe answer is 9.", 5, 5),
        ("The answer is 5. No: the answer is 7.", 7, 7),
        ("it comes to 42", 42, None),
        ("#### 1,000", 1000, None),
        ("The answer is 5+3=8.", 8, 8),
        ("The answer is: £7,000.", 7000, 7000),
        ("The answer is 50%.", 50, 50),
        ("The answer is -3", -3, -3),
        ("The answer is unknown", None, None),
        ("The answer is 7. No, the answer is", 7, 7),  # FILM splits at a blank behind the phrase
        ("so the answer is 7.", 7, None),  # it wants a capital T somewhere
        ("The answer is 7, no: the answer is 8.", 8, 8),
        ("The answer is  7", 7, None),
        ("The answer is:7", 7, None),
        ("The answer is 18\n\n2 more", 18, None),  # the word ends at a blank only
        ("The answer is 5, and the answer isn't 6.", 5, 5),
        ("The answer is +5.", 5, 5),
        ("The answer is (3+4)*2", 3, 14),
        ("The answer is 2**5", 2, 32),
        ("The answer is --5", -5, 5),
        ("The answer is 07", 7, 7),
        ("The answer is 07+1", 7, None),  # no arithmetic of Python's
        ("The answer is 9**9**9", 9, None),
        ("The answer is 1/0", None, None),
        ("The answer is [18-2]", 18, None),
        ("", None, None),
    ],
)
def test_the_number_of_a_solution(reply: str, number: int | None, film: int | None) -> None:
    assert final_number(reply) == number
    assert final_number_as_film(reply) == film


def test_numbers_compare_as_numbers() -> None:
    assert gold_number("2 + 2 = 4\n#### 4") == 4
    assert gold_number("18.00") == 18
    assert gold_number("The answer is 7.") == 7
    assert gold_number("none") is None
    assert same_number(Decimal("18.0"), Decimal(18)) == 1.0
    assert same_number(None, Decimal(0)) == 0.0


@pytest.mark.parametrize(
    ("metric", "pred", "row", "score"),
    [
        (metrics.f1, "red", {"answer": "red"}, 1.0),
        (metrics.f1, "red", {}, None),
        (metrics.rouge_l, "a b", {"answers": []}, None),
        (metrics.csqa, "B", {"answer": "q", "candidates": ["p", "q"]}, 1.0),
        (metrics.csqa, "B", {"answer": "B", "candidates": ["p", "q"]}, 1.0),
        (metrics.csqa, "B", {"answer": "z", "candidates": ["p", "q"]}, None),
        (metrics.gsm8k, "The answer is 3.", {"answer": "#### 3"}, 1.0),
        (metrics.gsm8k, "3", {"answer": "three"}, None),
        (metrics.multiple_choice, "(C)", {"answer": "C"}, 1.0),
        (metrics.multiple_choice, "q it is", {"answer": "q", "candidates": ["p", "q"]}, 1.0),
        (metrics.retrieval, "Paragraph 2", {"answers": ["Paragraph 2"]}, 1.0),
        (metrics.count, "7", {"answers": [7]}, 1.0),
    ],
)
def test_metrics_by_name(metric: Any, pred: str, row: dict[str, Any], score: float | None) -> None:
    assert metric(pred, row) == score


def test_every_registered_metric_loads_and_serves_the_short_task(tmp_path: Path) -> None:
    from lcx_longreward.judged import SHORT_TASK

    from lcx.builtin import METRICS
    from lcx.evaluation.task import Source, TaskOptions
    from lcx.plugins import loaded

    known = loaded().metrics
    for name in METRICS:
        assert known.load(name) is getattr(metrics, name)
    file = tmp_path / "rows.jsonl"
    file.write_text('{"pred": "B", "answer": "q", "candidates": ["p", "q"]}\n')
    source = Source(places={"short": (f"csqa:{file}", f"gsm8k:{file}")})
    made = SHORT_TASK.samples(source, TaskOptions())
    rows = [branch.meta for bundle in made.bundles for branch in bundle.branches]  # type: ignore[union-attr]
    assert callable(SHORT_TASK.score)
    assert SHORT_TASK.score(rows[0]) == 1.0
    assert [row["metric"] for row in rows] == ["csqa", "gsm8k"]


def test_lines_paragraphs_and_refusals() -> None:
    assert first_line("\n\n one\ntwo") == " one"
    assert first_paragraph("one\ntwo\n\nthree") == "one\ntwo"
    assert first_paragraph("\n\nthree") == ""
    for text in ("I'm sorry, but", " I cannot help", "As an AI model, I", "抱歉，我", '"Sorry, no'):
        assert refuses(text), text
    for text in ("Unanswerable", "Sorrel", "I can do it", "The man says: I'm sorry", "", "unable to tell"):
        assert not refuses(text), text
