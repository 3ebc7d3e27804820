"""Questions that a writer is asked for: how replies are read, whose prompts they are, and what is never asked twice."""

from __future__ import annotations

import time
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


@pytest.mark.parametrize(
    "shape", ["Question: ", "Question:\n", "\n", "* ", "#\n", "Question: x\nAnswer", "answer :", " "]
)
def test_reading_a_reply_takes_time_in_proportion_to_its_bytes(shape: str) -> None:
    """A reply of `Question:` and 3,000 blank lines once hung a step, and every run that resumed it."""

    def seconds(size: int) -> float:
        text, best = "Question:" + shape * (size // len(shape)), 1e9
        for _ in range(3):
            began = time.process_time()
            parse_reply(text)
            best = min(best, time.process_time() - began)
        return best

    small, large = seconds(25_000), seconds(200_000)
    assert large < 24 * max(small, 2e-3)


def test_prompts_are_ours_or_the_users(tmp_path: Path) -> None:
    ours = writer_prompts(None)
    assert "{segment}" in ours["fine"]
    assert "{segments}" in ours["integration"]
    (tmp_path / "fine.txt").write_text("Mine: {segment}")
    assert writer_prompts(str(tmp_path)) == {**ours, "fine": "Mine: {segment}"}
    (tmp_path / "fine.txt").write_text("Mine")
    with pytest.raises(UsageError, match="never see the text"):
        writer_prompts(str(tmp_path))
    (tmp_path / "fine.txt").write_bytes(b"\xff{segment}")
    with pytest.raises(UsageError, match="cannot read the prompt"):
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
