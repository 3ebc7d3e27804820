"""Results in other tools' forms: lm-eval's own functions read them, and the Markdown block says what was measured."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lcx.errors import MissingError, UsageError
from lcx.evaluation.export import export, lm_eval_results, markdown_block
from tests.conftest import Ran
from tests.llm.models import tiny_llama

LINE = "Keeper {} of the lighthouse counted {} herring gulls on the {}th day of the long winter storm. "
COMMAND = (
    "eval --model model --corpus texts --task needle,perplexity --set lengths=600 --set depths=4 --set sets=2 "
    "--set window=3000 --set max_new_tokens=3"
)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("export")
    tiny_llama(folder / "model")
    (folder / "texts").mkdir()
    for number in range(3):
        text = "".join(LINE.format(f"{number}-{k}", k * 7, k) for k in range(30))
        (folder / "texts" / f"{number}.txt").write_text(text)
    return folder


@pytest.fixture
def folder(cli: Callable[..., Ran], place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A finished evaluation."""
    monkeypatch.chdir(place)
    monkeypatch.setenv("LCX_RUNS", str(place / "runs"))
    found = Path(cli(*COMMAND.split(), "--json").json["folder"])
    return found if found.is_absolute() else place / found


def test_lm_eval_reads_its_files(folder: Path) -> None:
    utils = pytest.importorskip("lm_eval.utils")
    made = export(folder, ["lm-eval"])["lm-eval"]
    files = [str(path) for path in made.rglob("*") if path.is_file()]
    assert len(files) == 2, files  # perplexity has no predictions
    [results] = utils.get_results_filenames(files)
    [samples] = utils.get_sample_results_filenames(files)
    assert utils.get_file_task_name(Path(samples).name) == "needle"
    assert utils.get_file_datetime(Path(samples).name) == Path(results).stem.removeprefix("results_")
    found = json.loads(Path(results).read_text())
    scores = json.loads((folder / "scores.json").read_text())["tasks"]
    table = utils.make_table(found)
    assert f"{scores['needle']['average']:.4f}" in table
    assert f"{scores['perplexity']['perplexity']:.4f}" in table
    lines = [json.loads(line) for line in Path(samples).read_text().splitlines()]
    assert len(lines) == scores["needle"]["n"] == found["n-samples"]["needle"]["effective"]
    import datasets

    loaded = datasets.load_dataset("json", data_files=samples, split="train", cache_dir=str(folder / "cache"))
    assert loaded.num_rows == len(lines)
    assert {"doc_id", "doc", "target", "arguments", "resps", "filtered_resps", "doc_hash"} <= set(
        loaded.column_names
    )


def test_it_has_the_keys_that_lm_eval_writes() -> None:
    evaluator = pytest.importorskip("lm_eval.evaluator")
    found = lm_eval_results({"model": "m", "tasks": {}}, 0.0)
    # As `simple_evaluate` of lm-eval 0.4.13 fills them for a generation task.
    assert {
        "results", "group_subtasks", "configs", "versions", "n-shot", "higher_is_better", "n-samples", "config",
        "git_hash", "date", "model_source", "model_name", "model_name_sanitized", "chat_template_sha",
    } <= found.keys()  # fmt: skip
    assert evaluator


def test_a_finished_step_is_exported_without_evaluating_again(
    cli: Callable[..., Ran], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = cli(*COMMAND.split(), "--json", "--export", "markdown", "--export", "lm-eval").json
    assert report["reused"] is True
    assert Path(report["files"]["markdown"]).name == "model-card.md"
    text = Path(report["files"]["markdown"]).read_text()
    assert "| `needle` |" in text
    assert "lcx eval --recipe probe --model model" in text
    assert "--task needle,perplexity" in text
    first = {path.name: path.read_bytes() for path in (folder / "export-lm-eval").rglob("*.json*")}
    export(folder, ["lm-eval"])
    again = {path.name: path.read_bytes() for path in (folder / "export-lm-eval").rglob("*.json*")}
    assert first == again, "the same results, the same files"


def test_a_step_that_goes_on_is_not_called_reused(cli: Callable[..., Ran], folder: Path) -> None:
    more = [*COMMAND.split(), "--set", "check=1", "--json"]
    assert cli(*more).json["reused"] is False, "it scored again"
    assert cli(*more).json["reused"] is True


def test_a_sized_probe_is_named_by_its_file(tmp_path: Path) -> None:
    file = tmp_path / "long.yaml"
    file.write_text("probe: needle\nname: needle-64k\nlengths: [65536]\n")
    scores = {"model": "m", "tasks": {"needle-64k": {"score": 1.0, "n": 4}, "stale": {"score": 1.0, "n": 4}}}
    text = markdown_block(scores, "probe", {"tasks": [str(file), "gone.yaml"]})
    assert f"--task {file},stale" in text


def test_the_block_tells_numbers_intervals_and_settings() -> None:
    curve: dict[str, Any] = {
        "score": 71.25, "average": 0.7125, "n": 800, "spans": [1.0, 0.4, None, 0.9], "gap": 0.6, "compat": "film",
        "estimate": {"low": 0.69, "high": 0.7344, "drawn": "contexts"}, "nulls": 2,
    }  # fmt: skip
    text = markdown_block(
        {
            "model": "m", "asked": "org/m", "lcx": "9", "template": "in2", "template_hash": "abc", "seed": 3,
            "corpus": "stdlib", "weights": "w", "limit": 5, "tasks": {"val:code": curve},
            "skipped": {"longbench": "no data"},
        },
        "in2",
        {"sets": 2, "sizes": {"code": 200}},
    )  # fmt: skip
    assert "| `val:code` | 71.2 | 69.0 to 73.4 | 800 | █▄·█, gap 0.60 |" in text
    assert "2 nulls" in text
    assert "val:code film" in text
    assert "at most 5 items" in text
    assert "Left out: longbench: no data" in text
    assert (
        "lcx eval --recipe in2 --model org/m --task val:code --set sets=2 --set 'sizes={code: 200}'" in text
    )


def test_what_is_wrong_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="Did you mean 'markdown'"):
        export(tmp_path, ["markdwn"])
    with pytest.raises(MissingError, match="no results"):
        export(tmp_path, ["markdown"])
