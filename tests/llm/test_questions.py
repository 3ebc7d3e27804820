"""Questions that a writer is asked for: how replies are read, whose prompts they are, and what is never asked twice."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from lcx.errors import LcxError, MissingError, UsageError
from lcx.llm import check_llm
from lcx.llm.asking import Asker
from lcx.llm.protocol import Completion, Request, Response, Usage
from lcx.llm.questions import load_prompt, parse_reply, writer_prompts
from lcx.work.journal import Journal


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


class Echo:
    """Answers with the prompt; counts its batches."""

    opened = 0

    def __init__(self) -> None:
        Echo.opened += 1
        self.batches = 0

    def generate(self, requests: Sequence[Request]) -> list[Response]:
        self.batches += 1
        return [
            Response((Completion(str(r.messages[0]["content"]), "length"),), Usage(2, 3)) for r in requests
        ]

    def describe(self) -> dict[str, Any]:
        return {"backend": "echo"}

    def close(self) -> None: ...


def requests(*texts: str) -> list[Request]:
    return [Request(({"role": "user", "content": text},)) for text in texts]


def test_a_batch_in_the_journal_is_not_asked_again(tmp_path: Path) -> None:
    Echo.opened = 0
    row = {"text": "a", "error": "", "cut": True}
    with Journal(tmp_path / "journal.jsonl") as journal:
        asker = Asker(Echo, journal)
        assert asker.ask("one", 2, lambda: requests("a", "b")) == [row, {**row, "text": "b"}]
        assert asker.describe() == {"backend": "echo"}
    with Journal(tmp_path / "journal.jsonl") as journal:
        asker = Asker(Echo, journal)
        assert asker.ask("one", 2, lambda: pytest.fail("asked again"))[0] == row
        assert (asker.calls, asker.prompt_tokens, asker.completion_tokens) == (2, 4, 6)
        assert (Echo.opened, asker.describe()) == (1, {})
        with pytest.raises(LcxError, match="another size"):
            asker.ask("one", 3, lambda: [])


def test_a_model_is_looked_for_without_loading_it(tmp_path: Path) -> None:
    check_llm("builtin")
    (tmp_path / "config.json").write_text("not even JSON")
    check_llm(f"local:{tmp_path}")
    with pytest.raises(MissingError, match="no model at '/no/such/place'") as caught:
        check_llm("local:/no/such/place")
    assert "builtin" in caught.value.hint
    with pytest.raises(UsageError, match="Did you mean 'local'"):
        check_llm("locl:x")
