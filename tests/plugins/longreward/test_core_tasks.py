"""Tasks of the core in LongReward's eval step: asked by the core, in one scores.json with the judged ones."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import lcx_longreward
import pytest

from lcx import plugins
from lcx.modeling import decode_kv
from tests.conftest import Ran
from tests.llm.models import tiny_llama
from tests.plugins.longreward.eval_scripts import recipe

Lcx = Callable[..., Ran]
STEP = """\
stage: eval
model: model
judge: builtin
tasks: [gsm8k, chat, csqa, needle]
data: {gsm8k: gsm8k.jsonl, chat: chat.jsonl}
max_new_tokens: 4
window: 4000
corpus: texts
lengths: [600]
depths: 3
sets: 2
"""


@pytest.fixture
def lcx(cli: Lcx, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lcx:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LCX_PLUGINS", "")
    found = plugins.load(extra={"longreward": lcx_longreward})
    monkeypatch.setattr(plugins, "loaded", lambda: found)
    tiny_llama(tmp_path / "model")
    (tmp_path / "texts").mkdir()
    for number in range(3):
        text = "".join(
            f"Keeper {number} counted {k} gulls on day {k} of the winter storm. " for k in range(60)
        )
        (tmp_path / "texts" / f"{number}.txt").write_text(text)
    questions = [
        {"id": f"q{n}", "context": f"Text {n}.", "query": f"What is {n}?", "answer": "x"} for n in range(2)
    ]
    sums = [{"question": f"What is {n} and {n}?", "answer": f"#### {2 * n}"} for n in range(5)]
    for name, rows in (("chat", questions), ("gsm8k", sums)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return lambda line, *more: cli(*line.split(), *more)


def test_both_kinds_stand_in_one_result(lcx: Lcx, tmp_path: Path) -> None:
    path = recipe(tmp_path, STEP)
    planned = lcx(f"eval --recipe {path} --run out --dry-run --json").json["steps"][0]["forecast"]
    assert planned["queries"] == {"gsm8k": 5, "chat": 2, "needle": 6}
    assert "csqa" in planned["left out"]
    ran = lcx(f"eval --recipe {path} --run out --json")
    assert ran.code == 0, ran.err
    report = ran.json
    assert any("left out: csqa" in note and "eval.data.csqa=" in note for note in report["notes"])
    folder = Path(report["folder"])
    tasks = json.loads((folder / "scores.json").read_text())["tasks"]
    assert list(tasks) == ["gsm8k", "chat", "needle"]
    assert tasks["chat"]["judge"]["backend"] == "builtin"
    gsm8k = tasks["gsm8k"]
    assert (gsm8k["n"], gsm8k["view"]) == (5, "table")
    assert tasks["needle"]["cells"]
    rows = [json.loads(line) for line in (folder / "predictions-gsm8k.jsonl").read_text().splitlines()]
    assert len({row["item"] for row in rows}) == 5
    assert report["metrics"]["tasks"]["gsm8k"]["n"] == 5
    others = [one["average"] for name, one in tasks.items() if name != "chat"]  # chat's goes from 1 to 10
    assert report["metrics"]["average"] == pytest.approx(sum(others) / 2)


def test_rules_may_be_asked_any_question(lcx: Lcx, tmp_path: Path) -> None:
    path = recipe(tmp_path, STEP.replace("model: model\n", "model: builtin\n"))
    ran = lcx(f"eval --recipe {path} --run out --json")
    assert ran.code == 0, ran.err
    assert ran.json["metrics"]["tasks"]["needle"]["n"] == 6


def test_a_named_task_without_data_is_missing(lcx: Lcx, tmp_path: Path) -> None:
    path = recipe(tmp_path, STEP)
    ran = lcx(f"eval --recipe {path} --run out --task chat,csqa")
    assert ran.code == 4
    assert "eval.data.csqa=" in ran.err
    ran = lcx(f"eval --recipe {path} --run out --task gsm9k")
    assert ran.code == 2
    assert "Did you mean 'gsm8k'?" in ran.err


def test_a_failed_self_check_is_told(lcx: Lcx, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = decode_kv._join
    monkeypatch.setattr(
        decode_kv, "_join", lambda first, second: real((first[0] * 0.3, first[1] - 1.0), second)
    )
    text = STEP.replace("[gsm8k, chat, csqa, needle]", "[needle]").replace("[600]", "[1500]")
    ran = lcx(f"eval --recipe {recipe(tmp_path, text)} --run out --json")
    assert ran.code == 0, ran.err
    assert any("do not trust these results" in note for note in ran.json["notes"])
    found = json.loads((Path(ran.json["folder"]) / "scores.json").read_text())
    assert found["answering"]["check"]["different"]


def test_settings_of_earlier_versions_are_told(lcx: Lcx, tmp_path: Path) -> None:
    path = recipe(tmp_path, STEP)
    for given, said in (
        ("eval.probing={sets: 2}", "the step's own now"),
        ("eval.qa=[a.jsonl]", "eval.data.qa=FILE"),
        ("eval.chat=chat.jsonl", "eval.data.chat=FILE"),
        ("eval.attempts=3", "eval.judging.attempts=VALUE"),
        ("eval.answer_tokens=3", "max_new_tokens"),
    ):
        ran = lcx("eval --recipe", str(path), "--set", given)
        assert (ran.code, said in ran.err) == (2, True), (given, ran.err)
