"""Which results a command line means, and what it says where that is not clear."""

from __future__ import annotations

from pathlib import Path

import pytest

from lcx.errors import MissingError, UsageError
from lcx.evaluation.scores import find_sides
from tests.compared import suite, two_models, write_result


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return two_models(tmp_path / "runs" / "mine")


def names(places: list[object], models: list[str] | None = None) -> tuple[str, str]:
    a, b = find_sides([str(place) for place in places], models or [])
    return a.name, b.name


def test_every_way_to_name_two_results(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base, train = run / "eval" / "base", run / "eval" / "train"
    for places in (
        [run],
        [run / "eval"],
        [base, train],
        [base / "scores.json", train / "scores.json"],
        [f"{run}:base", f"{run}:train"],
        [base, f"{run / 'eval'}:train"],
    ):
        assert names(places) == ("base", "train")
    assert names([run], ["train", "base"]) == ("train", "base")
    monkeypatch.chdir(run.parent.parent)
    assert names(["mine:base", "runs/mine:train"]) == ("base", "train")


def test_a_model_has_the_tasks_of_all_its_eval_steps(run: Path) -> None:
    write_result(run / "judge" / "train", {"longbench:qasper": suite(0.5, 3), "more": suite(0.5, 4)})
    _, b = find_sides([f"{run}:base", f"{run}:train"])
    assert set(b.tasks) == {"val:database", "longbench:qasper", "csqa", "gsm8k", "reward", "more"}
    assert b.tasks["longbench:qasper"].folder.parent.name == "judge", "the newest"
    assert b.place == str(run)


def test_the_same_model_of_two_runs_is_called_after_them(run: Path, tmp_path: Path) -> None:
    other = two_models(tmp_path / "runs" / "other")
    assert names([f"{run}:train", f"{other}:train"]) == ("mine:train", "other:train")


@pytest.mark.parametrize(
    ("places", "models", "kind", "words"),
    [
        (["{run}", "{run}"], [], UsageError, ["2 models: say which one", "base, train", "{run}:train"]),
        (["{run}"], ["base", "trian"], UsageError, ["no results of a model 'trian'. Did you mean 'train'?"]),
        (["{run}:bse", "{run}:train"], [], UsageError, ["Did you mean 'base'"]),
        (["{run}:base", "{run}/eval/base"], [], UsageError, ["both sides are the same result"]),
        (["{run}/eval/base"], [], UsageError, ["of one model only, 'base'"]),
        (["{run}"], ["base"], UsageError, ["takes two names"]),
        (["{run}/nothing", "{run}:base"], [], MissingError, ["no run or result '{run}/nothing'", "lcx eval"]),
        (["{empty}", "{run}:base"], [], MissingError, ["no results in '{empty}'", "--recipe in2-tiny --run {empty}"]),
    ],
)  # fmt: skip
def test_what_is_not_clear_is_said_with_the_way_out(
    run: Path, tmp_path: Path, places: list[str], models: list[str], kind: type, words: list[str]
) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / "manifest.json").write_text('{"recipe": "in2-tiny", "steps": {}}')
    known = {"run": str(run), "empty": str(empty)}
    with pytest.raises(kind) as bad:
        find_sides([place.format(**known) for place in places], models)
    said = f"{bad.value.what}\n{bad.value.why}\n{bad.value.hint}"
    assert all(word.format(**known) in said for word in words), said
    assert bad.value.hint


def test_three_models_of_a_run(run: Path) -> None:
    write_result(run / "eval" / "other", {"csqa": suite(0.5, 3)})
    with pytest.raises(UsageError) as bad:
        find_sides([str(run)])
    assert "3 models: say which two" in bad.value.what
    assert f"lcx compare {run} --models" in bad.value.hint
