"""Tasks of lm-eval through `lcx eval`: its numbers, our rows; its absence and unknown tasks are named."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Ran
from tests.llm.models import tiny_llama

YAML = """\
task: {name}
dataset_path: json
dataset_kwargs:
  data_files:
    test: {rows}
test_split: test
output_type: {kind}
doc_to_text: "The colour of {{{{thing}}}} is"
doc_to_target: "{target}"
{more}
"""
CHOICE = """\
doc_to_choice: "{{choices}}"
metric_list:
  - metric: acc
    aggregation: mean
    higher_is_better: true
metadata:
  version: 1.0
"""
SAY = """\
generation_kwargs:
  until: ["\\n"]
  max_gen_toks: 4
metric_list:
  - metric: exact_match
    aggregation: mean
    higher_is_better: true
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    pytest.importorskip("lm_eval")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LCX_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "datasets"))
    tiny_llama(tmp_path / "model")
    folder = tmp_path / "tasks"
    folder.mkdir()
    rows = [{"thing": f"thing {n}", "choices": ["red", "green", "blue"], "label": n % 3} for n in range(12)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    file = folder / "rows.jsonl"
    pick = YAML.format(name="colour_pick", rows=file, kind="multiple_choice", target="{{label}}", more=CHOICE)
    say = YAML.format(
        name="colour_say", rows=file, kind="generate_until", target="{{choices[label]}}", more=SAY
    )
    (folder / "pick.yaml").write_text(pick)
    (folder / "say.yaml").write_text(say)
    return tmp_path


LINE = "eval --model model --set data.lm-eval=tasks --json --task"


@pytest.mark.slow
def test_its_numbers_and_our_rows(cli: Callable[..., Ran], place: Path) -> None:
    import lm_eval
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager
    from transformers import AutoModelForCausalLM, AutoTokenizer

    report = cli(*LINE.split(), "lm-eval:colour_pick,lm-eval:colour_say", "--limit", "9").json
    folder = Path(report["folder"])
    tasks = json.loads((folder / "scores.json").read_text())["tasks"]
    assert list(tasks) == ["lm-eval:colour_pick", "lm-eval:colour_say"]
    loaded: Any = AutoModelForCausalLM.from_pretrained("model")
    theirs = lm_eval.simple_evaluate(
        model=HFLM(pretrained=loaded, tokenizer=AutoTokenizer.from_pretrained("model")),
        tasks=["colour_pick"],
        limit=9,
        bootstrap_iters=0,
        task_manager=TaskManager(include_path="tasks", include_defaults=False),
    )
    assert theirs
    pick = tasks["lm-eval:colour_pick"]
    assert pick["average"] == pytest.approx(theirs["results"]["colour_pick"]["acc,none"])
    assert (pick["n"], pick["metric"], pick["version"], pick["view"]) == (9, "acc", "1.0", "table")
    assert pick["estimate"]["low"] <= pick["average"] <= pick["estimate"]["high"]
    rows = [
        json.loads(line)
        for line in (folder / "predictions-lm-eval-colour_pick.jsonl").read_text().splitlines()
    ]
    assert [row["score"] for row in rows] == [one["acc"] for one in theirs["samples"]["colour_pick"]]
    assert len({row["item"] for row in rows}) == 9
    assert {row["pred"] for row in rows} <= {"red", "green", "blue"}


def test_what_is_done_is_not_done_again(
    cli: Callable[..., Ran], place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lcx.evaluation import bridge

    first = cli(*LINE.split(), "lm-eval:colour_say").json["metrics"]["tasks"]

    def never(*args: Any) -> Any:
        raise AssertionError("asked again")

    monkeypatch.setattr(bridge, "_evaluate", never)
    again = cli(*LINE.split(), "lm-eval:colour_say", "--span", "3").json["metrics"]["tasks"]
    assert again == first


@pytest.mark.slow  # lm-eval reads the files of its thousands of tasks
def test_an_unknown_task_is_named(cli: Callable[..., Ran], place: Path) -> None:
    ran = cli(*LINE.split(), "lm-eval:colour_pik")
    assert ran.code == 2
    assert "Did you mean 'colour_pick'?" in ran.err


def test_without_lm_eval_the_line_that_installs_it_is_given(
    cli: Callable[..., Ran], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    tiny_llama(tmp_path / "model")
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *more: None if name == "lm_eval" else real(name, *more)
    )
    ran = cli("eval", "--model", "model", "--task", "lm-eval:hellaswag")
    assert ran.code == 4
    assert "pip install 'lcx[lm-eval]'" in ran.err
