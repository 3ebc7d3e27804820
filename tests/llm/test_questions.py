"""Questions that a writer is asked for: how replies are read, whose prompts they are, and what is never asked twice."""

from __future__ import annotations

from pathlib import Path

import pytest

from lcx.errors import MissingError, UsageError
from lcx.llm import check_llm
from lcx.llm.questions import load_prompt, parse_reply, writer_prompts


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ("Question: Who?\nAnswer: (1) Ada; (2) Bob", ("Who?", "(1) Ada; (2) Bob")),
        ("Sure!\n\n**Question:** Who?\n\n**Answer:** Ada\nand Bob", ("Who?", "Ada\nand Bob")),
        ("question：谁？\nanswer：小明", ("谁？", "小明")),
        ("Question: Who?\nAnswer:\nAda", ("Who?", "Ada")),
        ("", "the writer found nothing to ask"),
        ("NOTHING", "the writer found nothing to ask"),
        ("Question: Who? Answer: Ada", "no question and answer in the reply"),
        ("Question: What does the passage above say?\nAnswer: x", "the question points at its passage"),
        (f"Question: {'x' * 1500}\nAnswer: y", "the question is too long"),
    ],
)
def test_replies_are_read_or_refused_with_a_reason(reply: str, expected: object) -> None:
    assert parse_reply(reply) == expected


def test_prompts_are_ours_or_the_users(tmp_path: Path) -> None:
    ours = writer_prompts(None)
    assert "{segment}" in ours["fine"]
    assert "{segments}" in ours["integration"]
    (tmp_path / "fine.txt").write_text("Mine: {segment}")
    assert writer_prompts(str(tmp_path)) == {**ours, "fine": "Mine: {segment}"}
    (tmp_path / "fine.txt").write_text("Mine")
    with pytest.raises(UsageError, match="never see the text"):
        writer_prompts(str(tmp_path))
    with pytest.raises(UsageError, match="no folder of prompts"):
        load_prompt("fine", str(tmp_path / "none"))


def test_a_model_is_looked_for_without_loading_it(tmp_path: Path) -> None:
    check_llm("builtin")
    (tmp_path / "config.json").write_text("not even JSON")
    check_llm(f"local:{tmp_path}")
    with pytest.raises(MissingError, match="no model at '/no/such/place'") as caught:
        check_llm("local:/no/such/place")
    assert "builtin" in caught.value.hint
    with pytest.raises(UsageError, match="Did you mean 'local'"):
        check_llm("locl:x")
