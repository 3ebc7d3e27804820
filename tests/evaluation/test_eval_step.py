"""`lcx eval` with needle and perplexity, from the command line to the pictures, on a small random model."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib.image
import pytest

from lcx.errors import UsageError
from lcx.evaluation.planning import forecast_tasks
from lcx.evaluation.settings import EvalSettings
from lcx.plugins import loaded
from lcx.settings import validate
from tests.conftest import Ran
from tests.llm.models import tiny_llama

RECIPE = """\
name: look
method: preference
summary: how far a model sees
steps:
  - stage: eval
    corpus: texts
    tasks: [needle, perplexity]
    lengths: [600, 900]
    depths: 3
    sets: 2
    buckets: 8
    window: 900
    max_new_tokens: 4
"""
LINE = "Keeper {} of the lighthouse counted {} herring gulls on the {}th day of the long winter storm. "


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("eval")
    tiny_llama(folder / "model")
    (folder / "texts").mkdir()
    for number in range(3):
        text = "".join(LINE.format(f"{number}-{k}", k * 7, k) for k in range(30))
        (folder / "texts" / f"{number}.txt").write_text(text)
    (folder / "look.yaml").write_text(RECIPE)
    return folder


@pytest.fixture
def lcx(cli: Callable[..., Ran], place: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Ran]:
    monkeypatch.chdir(place)
    return lambda line, *more: cli(*line.split(), *more)


@pytest.mark.pictures
def test_from_the_command_line_to_the_pictures(lcx: Callable[..., Ran], place: Path) -> None:
    line = "eval --recipe ./look.yaml --model model --run out"
    planned = lcx(line + " --dry-run --json").json["steps"][0]["forecast"]
    assert (planned["contexts"], planned["queries"]) == (2 * 2 + 2, {"needle": 12})
    report = lcx(line + " --json").json
    assert report["state"] == "done"
    folder = place / "out" / "eval" / "model"
    assert {path.name for path in folder.iterdir()} == {
        "predictions-needle.jsonl", "heatmap-needle.png", "heatmap-needle.svg", "curve-perplexity.png",
        "curve-perplexity.svg", "scores.json", "journal.jsonl",
        "settings.yaml", ".record.json",
    }  # fmt: skip
    scores = json.loads((folder / "scores.json").read_text())
    needle, read = scores["tasks"]["needle"], scores["tasks"]["perplexity"]
    assert report["metrics"]["tasks"] == scores["tasks"]
    assert (needle["lengths"], needle["depths"]) == ([600, 900], [0.0, 0.5, 1.0])
    assert needle["counts"] == [[2, 2, 2], [2, 2, 2]]
    assert (needle["contexts"], needle["n"], needle["truncated"], needle["dropped"]) == (4, 12, 0, 0)
    assert read["lengths"] == [600, 900]
    assert (read["texts"], read["n"], read["documents"], read["joined"]) == (2, 2 * 899, 2, 0)
    assert report["metrics"]["perplexity"] == read["perplexity"] > 1
    assert report["metrics"]["needle worst cell"] == needle["worst"]
    assert report["counts"]["needle queries"] == 12
    assert report["counts"]["perplexity tokens"] == 2 * 899
    assert matplotlib.image.imread(place / "out" / "eval" / "curves.png").shape[:2] == (2 * 660, 960)
    # The predictions are scored again without the model.
    again = lcx("eval --task needle --json --predictions", str(folder / "predictions-needle.jsonl")).json
    assert {key: again[key] for key in ("cells", "counts", "average", "worst")} == {
        key: needle[key] for key in ("cells", "counts", "average", "worst")
    }
    text = lcx("eval --task needle --predictions", str(folder / "predictions-needle.jsonl")).out
    assert " 100%" in text
    assert "worst cell" in text
    assert "spans" not in text
    # The second time there is nothing to do, and the result is shown as it was.
    ran = lcx(line)
    assert "done before" in ran.out
    assert "  50%" in ran.out
    assert "perplexity (the lower the better)" in ran.out


@pytest.mark.pictures
def test_another_model_is_drawn_beside_it(lcx: Callable[..., Ran], place: Path) -> None:
    sets = [
        part for value in ("tasks=needle", "sets=1", "lengths=600") for part in ("--set", f"eval.{value}")
    ]
    tiny_llama(place / "second")
    assert lcx("eval --recipe ./look.yaml --model model --run two", *sets).code == 0
    ran = lcx("eval --recipe ./look.yaml --model second --run two", *sets)
    names = ran.out.split("depth")[0].splitlines()[-1].split()
    assert names == ["model", "second"], "both names over their maps"
    assert matplotlib.image.imread(place / "two" / "eval" / "curves.png").shape[:2] == (660, 1380)


@pytest.mark.parametrize(
    ("more", "code", "words"),
    [
        ("--model none", 4, ["no model at 'none'", "--model PATH"]),
        ("", 4, ["needs a model", "lcx eval --recipe ./look.yaml", "--model PATH_OR_HUB_ID"]),
        ("--model model --corpus nowhere", 2, ["no corpus 'nowhere'", "stdlib"]),
        ("--model model --corpus hf:some/set", 4, ["some/set", "hf download some/set"]),
        (
            "--model model --set eval.lengths=20000 --set eval.window=20000",
            2,
            ["20000 tokens a context", "Set lengths lower"],
        ),
        ("--model model --set eval.window=700", 2, ["needle:0:0:900", "window is 700", "Set lengths lower"]),
        ("--model model --set eval.style=bare", 2, ["corpus of records", "stdlib:records"]),
        ("--model model --task neddle", 2, ["there is no task 'neddle'. Did you mean 'needle'?"]),
        ("--model model --set eval.depths=0", 2, ["depths"]),
        ("--model model --set eval.depth=3", 2, ["Did you mean 'depths'?"]),
    ],
)
def test_what_is_missing_or_wrong_is_named_with_the_way_out(
    lcx: Callable[..., Ran], tmp_path: Path, more: str, code: int, words: list[str]
) -> None:
    ran = lcx(f"eval --recipe ./look.yaml --run {tmp_path / 'run'} {more}")
    assert ran.code == code, ran.err
    assert "Traceback" not in ran.err
    for word in words:
        assert word in ran.err, word


def test_a_window_that_is_too_small_may_drop_or_cut(lcx: Callable[..., Ran], place: Path) -> None:
    line = "eval --recipe ./look.yaml --model model --json --set eval.window=700 --run"
    ran = lcx(line, "drop", "--set", "eval.too_long=drop").json
    needle, read = (ran["metrics"]["tasks"][task] for task in ("needle", "perplexity"))
    assert needle["counts"] == [[2, 2, 2], [0, 0, 0]]
    assert needle["cells"][1] == [None] * 3
    assert (ran["counts"]["needle dropped"], ran["counts"]["perplexity dropped"]) == (2, 2)
    assert read["perplexity"] is None
    ran = lcx(line, "cut", "--set", "eval.too_long=truncate-middle").json
    assert ran["counts"]["needle truncated"] == ran["counts"]["perplexity truncated"] == 2
    assert ran["metrics"]["tasks"]["needle"]["counts"] == [[2, 2, 2], [2, 2, 2]]
    assert [note.split(":")[0] for note in ran["notes"]] == ["needle", "perplexity"]
    assert ran["metrics"]["tasks"]["perplexity"]["at_length"][1] is None


def test_predictions_of_perplexity_cannot_be_scored(lcx: Callable[..., Ran], tmp_path: Path) -> None:
    (tmp_path / "p.jsonl").write_text("{}\n")
    ran = lcx("eval --task perplexity --predictions", str(tmp_path / "p.jsonl"))
    assert ran.code == 2
    assert "no predictions to score" in ran.err


def test_settings() -> None:
    made: Any = validate(
        EvalSettings, {"lengths": "4096, 1024,4096", "records": 8, "tasks": "needle"}, where="e"
    )
    assert (made.lengths, made.records) == ((1024, 4096), (8,))

    def asked(task: str, **more: Any) -> Any:
        given = {name: getattr(made, name) for name in ("lengths", "records")} | more
        found = forecast_tasks(EvalSettings(tasks=(task,), **given), loaded())
        return (found["contexts"], found["queries"].get(task, 0)) if not found["unknown"] else None

    assert asked("needle") == (8, 80)
    assert asked("needle", options={"needle": {"contexts": "single"}}) == (80, 80)
    assert asked("needle", limit=3) == (3, 3)
    assert asked("needle", style="bare", limit=5) == (4, 5)
    assert asked("needle", lengths=()) is None
    assert asked("val:code", sets=2) == (2, 1600)
    assert asked("val:code", context_tokens=4096) is None
    assert asked("perplexity", sets=3) == (3, 0)
    for bad, words in (
        ({"lengths": [0]}, "at least 2"),
        ({"records": "x"}, "records"),
        ({"depths": 101}, "depths"),
        ({"sizes": {"needle": 3}, "tasks": ["needle"]}, "unknown key 'size'"),
        ({"lengths": [4096], "window": 2048, "tasks": ["needle"]}, "4,096 tokens, and the window is 2,048"),
        ({"context_tokens": 4096, "window": 2048, "tasks": ["val:code"]}, "the window is 2,048"),
        ({"needle_contexts": "some", "tasks": ["needle"]}, "shared"),
    ):
        with pytest.raises(UsageError, match=words):
            forecast_tasks(validate(EvalSettings, bad, where="eval"), loaded())  # type: ignore[arg-type]
