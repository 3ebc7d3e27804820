"""Tasks of the core in LongReward's eval step: asked by the core, in one scores.json with the judged ones."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import lcx_longreward
import pytest
from lcx_longreward.eval_settings import LongRewardEval
from lcx_longreward.evaluation.evaluate import core_settings

from lcx import plugins
from lcx.modeling import decode_kv
from lcx.recipe import Step
from tests.conftest import Ran
from tests.llm.models import tiny_llama
from tests.plugins.longreward.eval_scripts import recipe

Lcx = Callable[..., Ran]
STEP = """\
stage: eval
model: model
judge: builtin
tasks: [gsm8k, chat, csqa, needle]
chat: chat.jsonl
answer_tokens: 8
window: 4000
data: {gsm8k: gsm8k.jsonl}
corpus: texts
probing: {lengths: [600], depths: 3, sets: 2, max_new_tokens: 4}
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
    assert planned["queries"] == {"gsm8k": 5, "needle": 6}
    assert "csqa" in planned["left out"]
    ran = lcx(f"eval --recipe {path} --run out --json")
    assert ran.code == 0, ran.err
    report = ran.json
    assert any("csqa was left out" in note and "eval.data.csqa=" in note for note in report["notes"])
    folder = Path(report["folder"])
    tasks = json.loads((folder / "scores.json").read_text())["tasks"]
    assert list(tasks) == ["chat", "gsm8k", "needle"]
    gsm8k = tasks["gsm8k"]
    assert (gsm8k["n"], gsm8k["view"]) == (5, "table")
    assert gsm8k["mean"] == pytest.approx(gsm8k["average"])
    assert tasks["needle"]["cells"]
    rows = [json.loads(line) for line in (folder / "predictions-gsm8k.jsonl").read_text().splitlines()]
    assert len({row["item"] for row in rows}) == 5
    assert report["metrics"]["gsm8k"]["n"] == 5


def test_the_core_needs_a_model_that_it_can_ask(lcx: Lcx, tmp_path: Path) -> None:
    path = recipe(tmp_path, STEP.replace("model: model\n", "model: builtin\n"))
    ran = lcx(f"eval --recipe {path} --run out --json")
    assert ran.code == 0, ran.err
    assert any(note.startswith("gsm8k was left out: 'builtin' is no model") for note in ran.json["notes"])


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


def test_files_that_probing_names_are_watched(lcx: Lcx, tmp_path: Path) -> None:
    """A step that is done is handed back as it is: not where the prompts it asked with are others now."""
    prompts = tmp_path / "prompts.json"
    prompts.write_text('{"gsm8k": {"question": "{input} Think. The answer is"}}')
    text = STEP.replace("[gsm8k, chat, csqa, needle]", "[gsm8k]")
    text = text.replace(
        "probing: {lengths: [600], depths: 3, sets: 2,", "probing: {prompts: {gsm8k: prompts.json},"
    )
    path = recipe(tmp_path, text)
    ran = lcx(f"eval --recipe {path} --run out --json")
    assert ran.code == 0, ran.err
    assert lcx(f"eval --recipe {path} --run out --json").code == 0
    prompts.write_text('{"gsm8k": {"question": "{input} The answer is"}}')
    ran = lcx(f"eval --recipe {path} --run out --json")
    assert ran.code == 2
    assert "prompts.json" in ran.err


def test_options_of_a_server_go_with_the_model() -> None:
    step = Step("eval", "eval", "longreward", "r", LongRewardEval())
    options = {"temperature": 0.5}
    served = LongRewardEval(tasks=("needle",), model="openai:m", model_options=options)
    assert core_settings(served, step).model_options == options
    local = LongRewardEval(tasks=("needle",), model="local:m", model_options={"batch": 8})
    assert core_settings(local, step).model_options == {}
