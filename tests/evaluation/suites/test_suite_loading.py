"""Suites: published rows from folders, files, archives and `datasets`."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest

from lcx.errors import MissingError, UsageError
from lcx.evaluation.samples import TaskData, load_benchmark
from lcx.evaluation.settings import EvalSettings
from lcx.evaluation.task import TaskOptions
from tests.evaluation.suites.suite_rows import load, published, suite, write

# ---- where rows come from


@pytest.mark.parametrize("place", ["folder", "data", "file", "zip", "zip in a folder", "parquet"])
def test_rows_come_from_any_of_the_published_forms(tmp_path: Path, place: str) -> None:
    rows = [published(1), published(2), published(3, "Grass is green.")]
    data = tmp_path
    if place == "folder":
        write(tmp_path / "qasper.jsonl", rows)
    elif place == "data":
        write(tmp_path / "data" / "qasper.jsonl", rows)
    elif place == "file":
        data = write(tmp_path / "all.jsonl", [published(9, dataset="hotpotqa"), *rows])
    elif place == "parquet":
        pq = pytest.importorskip("pyarrow.parquet")
        import pyarrow

        pq.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "qasper.parquet")
    else:
        file = write(tmp_path / "raw" / "qasper.jsonl", rows)
        archive = tmp_path / "data.zip"
        with zipfile.ZipFile(archive, "w") as out:
            out.write(file, "data/qasper.jsonl")
        data = archive if place == "zip" else tmp_path
    found = load("longbench:qasper", data)
    # Two contexts, and the questions of one share it.
    assert [len(bundle.branches) for bundle in found.bundles] == [2, 1]
    branch = found.bundles[0].branches[0]
    assert branch.role == "query"
    assert branch.answer == "blue"
    assert branch.meta == {"id": "id1", "answers": ["blue"], "length": 4, "language": "en"}
    assert len(found.data_hash) == 16


def test_the_datasets_library_reads_a_folder_of_configs(tmp_path: Path) -> None:
    write(tmp_path / "hub" / "qasper" / "test.jsonl", [published(1)])
    write(tmp_path / "hub" / "qasper_e" / "test.jsonl", [published(2, length=9000)])
    (tmp_path / "hub" / "README.md").write_text(
        "---\nconfigs:\n"
        + "".join(
            f"- config_name: {name}\n  data_files:\n  - split: test\n    path: {name}/test.jsonl\n"
            for name in ("qasper", "qasper_e")
        )
        + "---\n"
    )
    found = load("longbench:qasper", f"hf:{tmp_path / 'hub'}")
    assert [branch.meta["id"] for bundle in found.bundles for branch in bundle.branches] == ["id1"]
    e = load("longbench_e:qasper", f"hf:{tmp_path / 'hub'}")
    assert e.bundles[0].branches[0].meta["length"] == 9000
    with pytest.raises(MissingError) as error:
        load("longbench:trec", f"hf:{tmp_path / 'hub'}")
    assert "eval.data.longbench=" in error.value.hint


def test_a_dataset_that_is_an_archive_is_read_from_it(tmp_path: Path) -> None:
    """As LongBench is published: `datasets` no longer runs the script beside its archive."""
    file = write(tmp_path / "raw" / "qasper.jsonl", [published(1)])
    (tmp_path / "hub").mkdir()
    with zipfile.ZipFile(tmp_path / "hub" / "data.zip", "w") as out:
        out.write(file, "data/qasper.jsonl")
    found = load("longbench:qasper", f"hf:{tmp_path / 'hub'}")
    assert found.bundles[0].branches[0].meta["id"] == "id1"
    with pytest.raises(MissingError):
        load("longbench:trec", f"hf:{tmp_path / 'hub'}")


@pytest.mark.parametrize(
    ("task", "words"),
    [
        ("longbench:qasper", ("hf download zai-org/LongBench", "--set eval.data.longbench=longbench/data")),
        ("longbench_e:qasper", ("--set eval.data.longbench_e=longbench/data",)),
        ("longbench_v2", ("hf download zai-org/LongBench-v2", "--set eval.data.longbench_v2=")),
        ("csqa", ("--set eval.data.csqa=hf:tau/commonsense_qa",)),
        ("gsm8k", ("--set eval.data.gsm8k=hf:openai/gsm8k",)),
    ],
)
def test_what_is_not_there_says_how_to_get_it(tmp_path: Path, task: str, words: tuple[str, ...]) -> None:
    for data in (None, tmp_path, tmp_path / "none"):
        with pytest.raises(MissingError) as error:
            load(task, data)
        assert error.value.exit_code == 4
        assert task in error.value.what
        for word in words:
            assert word in error.value.hint


def test_rows_that_cannot_be_asked(tmp_path: Path) -> None:
    rows = [published(1), published(2, answers=[]), published(1, input="again?")]
    found = load("longbench:qasper", write(tmp_path / "qasper.jsonl", rows))
    assert found.counts == {"no answer": 1, "a second row of one id": 1}
    with pytest.raises(UsageError, match=r"row 0 .* needs the texts context and input"):
        load("longbench:qasper", write(tmp_path / "qasper.jsonl", [{"input": "?", "answers": ["a"]}]))
    with pytest.raises(UsageError, match="all_classes"):
        load("longbench:trec", write(tmp_path / "trec.jsonl", [published(1, dataset="trec")]))
    (tmp_path / "qasper.jsonl").write_text(json.dumps(published(1)) + "\n{", encoding="utf-8")
    with pytest.raises(UsageError, match="line 2"):
        load("longbench:qasper", tmp_path)
    with pytest.raises(MissingError, match="no row of"):
        load("longbench:trec", write(tmp_path / "mixed.jsonl", [published(1)]))


def test_a_limit_spreads_or_draws(tmp_path: Path) -> None:
    data = write(tmp_path / "qasper.jsonl", [published(n, f"context {n}") for n in range(20)])

    def asked(**more: Any) -> TaskData:
        settings = EvalSettings(data={"longbench": str(data)}, **more)
        return load_benchmark("longbench:qasper", suite("longbench:qasper"), settings, TaskOptions())

    def ids(**more: Any) -> list[str]:
        return [branch.meta["id"] for bundle in asked(**more).bundles for branch in bundle.branches]

    assert len(ids()) == 20
    assert len(ids(limit=5)) == 5
    assert ids(limit=5, sample_seed=1) == ids(limit=5, sample_seed=1)
    assert ids(limit=5, sample_seed=1) != ids(limit=5, sample_seed=2)
    assert asked().samples_hash == asked(limit=5).samples_hash
    names = {branch.meta["id"]: branch.meta["item"] for one in asked().bundles for branch in one.branches}
    for bundle in asked(limit=5).bundles:
        for branch in bundle.branches:
            assert branch.meta["item"] == names[branch.meta["id"]], "a question has one name at every limit"
