"""Which tasks `lcx eval` runs, what it leaves out by name, and what a changed command keeps of an earlier one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lcx.errors import PluginError
from lcx.evaluation.local_model import LocalAnswerer
from lcx.records import Branch, Bundle
from tests.conftest import Ran
from tests.llm.models import tiny_llama

RECIPE = """\
name: look
method: sft
summary: probes and a suite
steps:
  - stage: eval
    corpus: texts
    tasks: [needle, longbench, gsm8k]
    lengths: [600]
    depths: 4
    sets: 2
    window: 4000
    max_new_tokens: 4
"""
LINE = "Keeper {} of the lighthouse counted {} herring gulls on the {}th day of the long winter storm. "
QUESTIONS = [
    {
        "question": f"A keeper has {n} lamps and buys {n + 1} more. How many are there?",
        "answer": f"#### {2 * n + 1}",
    }
    for n in range(3, 15)
]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tasks")
    tiny_llama(folder / "model")
    (folder / "texts").mkdir()
    for number in range(3):
        text = "".join(LINE.format(f"{number}-{k}", k * 7, k) for k in range(30))
        (folder / "texts" / f"{number}.txt").write_text(text)
    (folder / "look.yaml").write_text(RECIPE)
    (folder / "gsm8k.jsonl").write_text("".join(json.dumps(row) + "\n" for row in QUESTIONS))
    (folder / "small.yaml").write_text("probe: needle\nname: small\nlengths: [500]\ndepths: 3\nsets: 1\n")
    return folder


@pytest.fixture
def lcx(cli: Callable[..., Ran], place: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Ran]:
    monkeypatch.chdir(place)
    return lambda line, *more: cli(*line.split(), *more)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many questions each call to the model had; calls of the self-check count too."""
    found: list[int] = []
    real = LocalAnswerer.answer

    def answer(self: Any, jobs: Any, **more: Any) -> Any:
        found.append(sum(len(job.bundle.branches) for job in jobs))
        return real(self, jobs, **more)

    monkeypatch.setattr(LocalAnswerer, "answer", answer)
    return found


BASE = "eval --recipe ./look.yaml --model model"


def scores_of(folder: Path) -> Any:
    return json.loads((folder / "eval" / "model" / "scores.json").read_text())


def test_a_suite_without_data_is_left_out_by_name_with_the_line_that_gets_it(
    lcx: Callable[..., Ran], tmp_path: Path
) -> None:
    planned = lcx(f"{BASE} --run {tmp_path / 'a'} --dry-run --json").json["steps"][0]["forecast"]
    assert planned["queries"] == {"needle": 8}
    assert set(planned["left out"]) == {"longbench", "gsm8k"}
    ran = lcx(f"{BASE} --run {tmp_path / 'a'} --json")
    report = ran.json
    assert report["state"] == "done"
    assert report["counts"]["tasks left out"] == 22
    [books, short] = [note for note in report["notes"] if "left out" in note]
    assert "longbench" in books
    assert "eval.data.longbench=" in books
    assert "narrativeqa and 20 more" in books
    assert "eval.data.gsm8k=" in short
    assert "warning: left out: gsm8k" in ran.err
    scores = scores_of(tmp_path / "a")
    assert list(scores["tasks"]) == ["needle"]
    assert set(scores["skipped"]) == {"longbench", "gsm8k"}
    manifest = json.loads((tmp_path / "a" / "manifest.json").read_text())
    assert set(manifest["steps"]["eval/model"]["extra"]["skipped"]) == {"longbench", "gsm8k"}


def test_what_the_command_line_names_has_to_be_there(lcx: Callable[..., Ran], tmp_path: Path) -> None:
    for task in ("longbench", "longbench:qasper", "gsm8k,needle"):
        ran = lcx(f"{BASE} --run {tmp_path / 'a'} --task {task}")
        assert ran.code == 4, task
        assert "eval.data." in ran.err


def test_a_recipe_of_which_nothing_can_run_says_why(
    lcx: Callable[..., Ran], place: Path, tmp_path: Path
) -> None:
    (place / "none.yaml").write_text(RECIPE.replace("needle, ", ""))
    ran = lcx(f"eval --recipe ./none.yaml --model model --run {tmp_path / 'a'}")
    assert ran.code == 4
    assert "no task that can run" in ran.err


def test_data_that_comes_later_and_other_counting_keep_the_answers(
    lcx: Callable[..., Ran], tmp_path: Path, asked: list[int]
) -> None:
    run = f"{BASE} --run {tmp_path / 'a'} --set check=0"
    assert lcx(run).code == 0
    assert asked == [8]
    before = (tmp_path / "a/eval/model/predictions-needle.jsonl").read_bytes()
    report = lcx(f"{run} --json --set data.gsm8k=gsm8k.jsonl").json
    assert asked == [8, 12], "needle's answers are in the journal"
    assert report["counts"]["gsm8k queries"] == 12
    assert set(scores_of(tmp_path / "a")["tasks"]) == {"needle", "gsm8k"}
    lcx(f"{run} --set data.gsm8k=gsm8k.jsonl --span 7 --compat film")
    assert asked == [8, 12]
    assert scores_of(tmp_path / "a")["tasks"]["gsm8k"]["compat"] == "film"
    # One task alone: the others' results stay.
    lcx(f"{run} --task small.yaml")
    assert asked == [8, 12, 3]
    tasks = scores_of(tmp_path / "a")["tasks"]
    assert set(tasks) == {"needle", "gsm8k", "small"}
    assert (tasks["small"]["lengths"], tasks["small"]["n"]) == ([500], 3)
    assert (tmp_path / "a/eval/model/predictions-needle.jsonl").read_bytes() == before
    # What changes the questions is refused as ever.
    ran = lcx(f"{run} --set sets=3")
    assert ran.code == 2
    assert "sets: was 2, now 3" in ran.err


def test_the_same_command_gives_the_same_bytes(lcx: Callable[..., Ran], tmp_path: Path) -> None:
    line = "--task needle,perplexity,val:document --set sizes.document=12 --limit 9 --sample-seed 4"
    for name in ("a", "b"):
        assert lcx(f"{BASE} --run {tmp_path / name} {line}").code == 0
    for file in ("predictions-needle.jsonl", "predictions-val-document.jsonl", "scores.json"):
        one, two = ((tmp_path / name / "eval/model" / file).read_bytes() for name in ("a", "b"))
        assert one == two, file
    scores = scores_of(tmp_path / "a")
    assert (scores["limit"], scores["sample_seed"]) == (9, 4)
    assert (scores["tasks"]["needle"]["n"], scores["tasks"]["val:document"]["n"]) == (8, 9)
    assert scores["answering"]["check"]["checked"] == 8
    assert scores["answering"]["check"]["different"] == []
    assert {"versions", "weights", "template_hash", "chat_template", "lcx"} <= scores.keys()


def test_without_a_recipe(
    lcx: Callable[..., Ran], place: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("LCX_RUNS", str(tmp_path))
    line = "eval --model model --corpus texts --set window=3000 --set lengths=500 --set depths=4 --set max_new_tokens=3"
    assert lcx(f"{line} --task needle --limit 4 --no-prefix-reuse").code == 0
    scores = scores_of(tmp_path / "probe")
    assert scores["tasks"]["needle"]["n"] == 4
    assert scores["answering"]["reuse"] is False
    ran = lcx("eval --model model")
    assert ran.code == 2
    assert "--task" in ran.err


def test_the_next_command_compares_two_models(lcx: Callable[..., Ran], place: Path, tmp_path: Path) -> None:
    if not (place / "other").exists():
        tiny_llama(place / "other")
    line = f"eval --recipe ./look.yaml --run {tmp_path / 'a'} --task needle --json --model"
    assert lcx(f"{line} model").json["next"] == ""
    after = lcx(f"{line} other").json["next"]
    assert after.startswith("lcx compare ")
    assert after.endswith("eval/other")


def test_a_failing_picture_costs_no_results(
    lcx: Callable[..., Ran], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lcx.evaluation.show import png

    def fails(folder: Path) -> Path:
        raise ZeroDivisionError("a bad drawing")

    monkeypatch.setattr(png, "run_picture", fails)
    report = lcx(f"{BASE} --run {tmp_path / 'a'} --task needle --json").json
    assert report["state"] == "done"
    assert any("a bad drawing" in note for note in report["notes"])
    assert "picture" not in report["files"]
    assert scores_of(tmp_path / "a")["tasks"]["needle"]["n"] == 8


@pytest.mark.parametrize(
    ("line", "code", "words"),
    [
        ("--task longbench:qaspr", 2, "Did you mean"),
        ("--task needle --set options.neddle.x=3", 2, "options: no task here is named 'neddle'"),
        ("--task nowhere.yaml", 2, "nowhere.yaml"),
        ("--task needle --export lm-evla", 2, "Did you mean 'lm-eval'"),
        ("--task needle --rows", 2, "--predictions"),
        ("--task needle --set eval.lenths=3", 2, "Did you mean 'lengths'"),
    ],
)
def test_wrong_words_are_named(
    lcx: Callable[..., Ran], tmp_path: Path, line: str, code: int, words: str
) -> None:
    ran = lcx(f"{BASE} --run {tmp_path / 'a'} {line}")
    assert ran.code == code
    assert words in ran.err
    assert "Traceback" not in ran.err


def test_a_tasks_score_may_be_a_registered_metric(toy_plugins: Any) -> None:
    from lcx.evaluation.planning import find_task
    from lcx.evaluation.task import Task

    def last_word(pred: str, row: Any) -> float:
        return float(pred.split()[-1] == row["value"])

    toy_plugins.metrics.add("last_word", last_word, "toy")
    toy_plugins.probes.add("toy:words", Task("toy:words", "", lambda source, options: [], "last_word"), "toy")
    score = find_task("toy:words", toy_plugins).score
    assert callable(score)
    assert [score({"pred": pred, "value": "mill"}) for pred in ("the mill", "mill pond")] == [1.0, 0.0]


@pytest.mark.parametrize("value", ["yes", 7.0, -0.1, float("nan"), [1]])
def test_a_plugins_score_is_a_number_on_its_scale(value: Any, toy_plugins: Any) -> None:
    from lcx.evaluation.planning import find_task
    from lcx.evaluation.task import Task

    toy_plugins.metrics.add("odd", lambda pred, row: value, "toy")
    for name, score in (("toy:named", "odd"), ("toy:own", lambda row: value)):
        toy_plugins.probes.add(name, Task(name, "", lambda source, options: [], score), "toy")
        task = find_task(name, toy_plugins)
        assert callable(task.score)
        with pytest.raises(PluginError, match=r"returns (7|-0\.1|nan|a str|a list)$") as bad:
            task.score({"pred": "x"})
        assert "from 0 to 1, or None" in bad.value.hint
    wide = Task("toy:wide", "", lambda source, options: [], lambda row: None, scale=(-1.0, 9.0))
    toy_plugins.probes.add("toy:wide", wide, "toy")
    assert find_task("toy:wide", toy_plugins).score({"pred": "x"}) is None  # type: ignore[misc, operator]


META = {"set": 0, "position": 0, "value": "v"}


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (None, "returns NoneType"),
        ("text", "returns str"),
        (["text"], "gives a str"),
        ([], "gives nothing to ask"),
        ([Bundle("b", (Branch("q", "a", "query", meta={"set": 0}),), context="c")], "without 'position'"),
        ([Bundle("b", (Branch("q", "a", "query", meta={**META, "value": 1}),), context="c")], ""),
        ([Bundle("b", (Branch("q", "a", meta=META),), context="c")], "without a branch of the role query"),
    ],
)
def test_what_a_task_asks_is_checked(made: Any, said: str) -> None:
    from lcx.evaluation.samples import _checked_samples
    from lcx.evaluation.task import Task

    task = Task("toy:words", "", lambda source, options: made, lambda row: 1.0, row_fields=("value",))
    if not said:
        assert _checked_samples(task, made) == made
        return
    with pytest.raises(PluginError, match=said) as bad:
        _checked_samples(task, made)
    assert __file__ in bad.value.why
    assert "row_fields" in bad.value.hint
