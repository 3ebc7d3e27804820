"""A self-check that fails reaches whoever reads: console, scores.json, page, comparison; and it is not forgotten."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lcx.evaluation.compare import compare
from lcx.evaluation.scores import Side, load_result, merge_answering
from lcx.evaluation.show.page import page_of
from lcx.modeling import decode_kv
from tests.conftest import Ran
from tests.llm.models import tiny_llama

LINE = "Keeper {} of the lighthouse counted {} herring gulls on the {}th day of the long winter storm. "
FLAGS = (
    "eval --model model --corpus texts --set window=4000 --set lengths=1500 --set depths=4 --set sets=1 "
    "--set max_new_tokens=6 --json --run out"
)
DISTRUST = "do not trust these results"


@pytest.fixture
def lcx(cli: Callable[..., Ran], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Ran]:
    monkeypatch.chdir(tmp_path)
    tiny_llama(tmp_path / "model")
    (tmp_path / "texts").mkdir()
    for number in range(3):
        text = "".join(LINE.format(f"{number}-{k}", k * 7, k) for k in range(30))
        (tmp_path / "texts" / f"{number}.txt").write_text(text)
    sums = [{"question": f"What is {n} and {n}?", "answer": f"#### {2 * n}"} for n in range(5)]
    (tmp_path / "gsm8k.jsonl").write_text("".join(json.dumps(row) + "\n" for row in sums))
    return lambda line, *more: cli(*line.split(), *more)


@pytest.fixture
def broken() -> Iterator[pytest.MonkeyPatch]:
    """Attention that counts the shared context for less than it is; `undo` mends it."""
    real = decode_kv._join

    def join(first: Any, second: Any) -> Any:
        return real((first[0] * 0.3, first[1] - 1.0), second)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decode_kv, "_join", join)
        yield patch


def scores() -> Any:
    return json.loads(Path("out/eval/model/scores.json").read_text())


def test_a_failed_check_is_told_everywhere(lcx: Callable[..., Ran], broken: pytest.MonkeyPatch) -> None:
    ran = lcx(f"{FLAGS} --task needle")
    assert "warning: needle: 4 of 4 answers" in ran.err
    assert DISTRUST in ran.err
    assert [DISTRUST in note for note in ran.json["notes"]] == [True]
    check = scores()["answering"]["check"]
    assert (check["checked"], len(check["different"])) == (4, 4)
    assert DISTRUST in check["warning"]
    assert DISTRUST in Path("out/eval/report.html").read_text().replace("Do not", "do not")

    broken.undo()  # another task, which is answered rightly, does not make the first one's answers right
    again = lcx(f"{FLAGS} --task gsm8k --set data.gsm8k=gsm8k.jsonl")
    assert any(DISTRUST in note for note in again.json["notes"])
    found = scores()
    assert set(found["tasks"]) == {"needle", "gsm8k"}
    assert found["tasks"]["gsm8k"]["answering"]["check"]["different"] == []
    assert len(found["tasks"]["needle"]["answering"]["check"]["different"]) == 4
    assert len(found["answering"]["check"]["different"]) == 4

    result = load_result(Path("out/eval/model"))
    assert DISTRUST in page_of([result], "t").replace("Do not", "do not")
    assert any(DISTRUST in note for note in compare(Side("a", (result,)), Side("b", (result,))).notes)


def test_answers_of_an_earlier_start_are_checked_themselves(
    lcx: Callable[..., Ran], broken: pytest.MonkeyPatch
) -> None:
    """What the journal holds is what is scored: to answer the same again and check that would prove nothing."""
    assert DISTRUST not in lcx(f"{FLAGS} --task needle --set check=0").err
    broken.undo()
    ran = lcx(f"{FLAGS} --task needle --set check=4")
    assert DISTRUST in ran.err
    assert len(scores()["answering"]["check"]["different"]) == 4


def test_several_tasks_in_one() -> None:
    one = {"way": "endpoint", "reuse": True, "failed": {"timeout": 1}, "check": {}}
    two = {"way": "endpoint", "reuse": True, "failed": {"timeout": 2, "empty": 1}, "check": {}}
    assert merge_answering({"a": {"answering": one}, "b": {"answering": two}, "c": {}}) == {
        "way": "endpoint",
        "reuse": True,
        "failed": {"empty": 1, "timeout": 3},
    }
    assert merge_answering({"perplexity": {}}) == {}
