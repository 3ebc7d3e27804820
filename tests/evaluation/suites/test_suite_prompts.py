"""Suites: their prompts, the forms of their rows, and groups of tasks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lcx.errors import MissingError, UsageError
from lcx.evaluation.benchmarks.groups import BENCHMARKS, expand, groups, summarize
from lcx.evaluation.benchmarks.loading import load_prompts, split_prompt
from lcx.evaluation.benchmarks.longbench import E_SETS, SETS
from tests.evaluation.suites.suite_rows import load, prompts_of, published, suite, write

# ---- prompts


def test_every_set_has_a_prompt_and_a_suite() -> None:
    prompts = load_prompts("longbench", None)
    assert set(prompts) == set(SETS)
    assert len(SETS) == 21
    assert len(E_SETS) == 13
    for name in BENCHMARKS:
        assert suite(name).name == name
    asked = {name for name, text in prompts.items() if "{input}" in text}
    assert set(SETS) - asked == {"gov_report", "multi_news", "vcsum", "passage_count", "lcc"}
    for name, one in SETS.items():
        assert split_prompt(prompts[name], name).inside is None
        assert suite(f"longbench:{name}").max_new_tokens == one.tokens
        assert bool(any("一" <= sign <= "鿿" for sign in prompts[name])) == (one.language == "zh"), name


def test_sets_that_are_continued_take_no_chat_template(tmp_path: Path) -> None:
    for name, chat in (("samsum", False), ("lcc", False), ("qasper", True)):
        data = write(tmp_path / f"{name}.jsonl", [published(1, dataset=name)])
        assert load(f"longbench:{name}", data).template.chat is chat


def test_a_file_of_prompts_as_longbench_publishes_it(tmp_path: Path) -> None:
    data = write(tmp_path / "qasper.jsonl", [published(1, "An {input} in the text.")])
    file = tmp_path / "prompts.json"
    file.write_text(json.dumps({"qasper": "Read.\n{context}\nNow {input} ?\nAnswer:"}))
    found = load("longbench:qasper", data, prompts=str(file))
    assert prompts_of(found) == ["Read.\nAn {input} in the text.\nNow Question 1? ?\nAnswer:"]
    assert found.template.hash != load("longbench:qasper", data).template.hash
    file.write_text(json.dumps({"qasper": "Look for {input} here:\n{context}\nDone."}))
    found = load("longbench:qasper", data, prompts=str(file))
    assert prompts_of(found) == ["Look for Question 1? here:\nAn {input} in the text.\nDone."]
    for text, words in (
        ('{"qaspr": "x"}', "no prompt for 'qasper'"),
        ('{"qasper": "no place"}', "{context} once"),
        ("[", "cannot read"),
    ):
        file.write_text(text)
        with pytest.raises(UsageError) as error:
            load("longbench:qasper", data, prompts=str(file))
        assert words in error.value.what
    with pytest.raises(MissingError):
        load("longbench:qasper", data, prompts=str(tmp_path / "none.json"))


# ---- the other suites


def test_longbench_v2_rows_and_prompts(tmp_path: Path) -> None:
    row = {
        "_id": "x",
        "domain": "Law",
        "sub_domain": "Contracts",
        "difficulty": "easy",
        "length": "short",
        "question": "Which?",
        **{f"choice_{one}": f"text {one}" for one in "ABCD"},
        "answer": "C",
        "context": "The contract.",
    }
    (tmp_path / "data.json").write_text(json.dumps([row]))
    found = load("longbench_v2", tmp_path)
    [branch] = found.bundles[0].branches
    assert branch.question == "Which?\n(A) text A\n(B) text B\n(C) text C\n(D) text D"
    assert branch.meta == {
        "id": "x",
        "answers": ["C"],
        "length": "short",
        "difficulty": "easy",
        "domain": "Law",
    }
    theirs = tmp_path / "0shot.txt"
    theirs.write_text(
        "<text>\n$DOC$\n</text>\nAsked: $Q$\n(A) $C_A$\n(B) $C_B$\n(C) $C_C$\n(D) $C_D$\nReply:"
    )
    found = load("longbench_v2", tmp_path / "data.json", prompts=str(theirs))
    [prompt] = prompts_of(found)
    assert prompt.startswith("<text>\nThe contract.\n</text>\nAsked: Which?\n(A) text A\n(B)")
    assert prompt.endswith("(D) text D\nReply:")


@pytest.mark.parametrize(
    "row",
    [
        {
            "question": "Where?",
            "choices": {"label": ["A", "B"], "text": ["park", "bank"]},
            "answerKey": "B",
        },
        {
            "question": {
                "stem": "Where?",
                "choices": [{"label": "A", "text": "park"}, {"label": "B", "text": "bank"}],
            },
            "answerKey": "B",
        },
        {"question": "Where?", "candidates": ["park", "bank"], "answer": "bank"},
        {"question": "Where?", "choices": ["park", "bank"], "answer": "B"},
    ],
)
def test_csqa_in_its_published_forms(tmp_path: Path, row: dict[str, Any]) -> None:
    found = load("csqa", write(tmp_path / "csqa.jsonl", [row, {**row, "id": "two"}]))
    [bundle] = found.bundles  # the examples are a context that is paid for once
    assert "Answer: B" in (bundle.context or "")
    assert [branch.meta["id"] for branch in bundle.branches] == ["0", "two"]
    assert bundle.branches[0].question == "Where?\n(A) park\n(B) bank"
    assert bundle.branches[0].meta["candidates"] == ["park", "bank"]
    assert bundle.branches[0].answer == "bank"
    assert prompts_of(found)[0].endswith("\n\nQuestion: Where?\n(A) park\n(B) bank\nAnswer:")


def test_gsm8k_with_examples_of_our_own_or_none(tmp_path: Path) -> None:
    rows = [{"question": "1 + 1?", "answer": "1 + 1 = 2\n#### 2"}, {"question": "2 + 2?", "answer": "4"}]
    data = write(tmp_path / "gsm8k.jsonl", rows)
    found = load("gsm8k", data)
    assert [branch.answer for branch in found.bundles[0].branches] == ["2", "4"]
    file = tmp_path / "zero.json"
    file.write_text(json.dumps({"gsm8k": {"head": "Solve.", "shots": [], "question": "Q: {input}\nA:"}}))
    zero = load("gsm8k", data, prompts=str(file))
    assert zero.bundles[0].context == ""
    assert zero.template.bare_head + zero.bundles[0].branches[0].question == "Solve.\n\nQ: 1 + 1?"
    with pytest.raises(UsageError, match="row 1"):
        load("gsm8k", write(data, [rows[0], {"question": "?", "answer": "none"}]))


def test_the_examples_of_gsm8k_are_right() -> None:
    """Every worked example says what its own steps come to."""
    import re

    from lcx.evaluation.metrics import final_number

    for shot in load_prompts("gsm8k", None)["gsm8k"]["shots"]:
        steps = re.findall(r"(\d[\d .*/+-]*\d|\d+) = \$?(\d+)", shot)
        assert steps, shot
        for left, right in steps:
            assert eval(left) == pytest.approx(float(right)), shot  # our own digits and signs
        assert final_number(shot) == int(steps[-1][1])


# ---- groups


def test_groups_expand_in_the_order_of_the_tables() -> None:
    assert expand(["longbench:summary"]) == [
        f"longbench:{name}" for name in ("gov_report", "qmsum", "multi_news", "vcsum")
    ]
    assert len(expand(["longbench"])) == 21
    assert len(expand(["longbench_e"])) == 13
    assert expand(["needle", "longbench:code", "longbench:lcc"]) == [
        "needle",
        "longbench:lcc",
        "longbench:repobench-p",
    ]
    assert sum(len(tasks) for name, tasks in groups().items() if name.startswith("longbench:")) == 21
    with pytest.raises(UsageError, match="longbench:qasper"):
        expand(["longbench:qaspr"])


def test_means_of_categories_and_of_sets() -> None:
    scores = {
        "longbench:qasper": {"score": 40.0},
        "longbench:narrativeqa": {"score": 20.0},
        "longbench:lcc": {"score": 60.0},
        "longbench:trec": {"score": None},
        "needle": {"score": 1.0},
    }
    made = summarize(scores)
    assert made["categories"] == {
        "single-doc": {"score": 30.0, "sets": 2, "of": 4},
        "code": {"score": 60.0, "sets": 1, "of": 2},
    }
    assert (made["sets"], made["average"], made["category_average"]) == (3, 40.0, 45.0)
    assert summarize({})["average"] is None
