"""Rows of judged tasks: what is read from them, which files of LongBench are whose, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from lcx_longreward.judged import CHAT_TASK, QA_TASK, SUMMARY_TASK, JudgedOptions, read_questions

from lcx.errors import MissingError, UsageError
from lcx.evaluation.model import read_answers
from lcx.evaluation.task import Source, Task


def asked(task: Task, **places: str) -> list[tuple[str, str, str]]:
    """Ids, questions and sets of a task's samples."""
    found = task.samples(Source(places={name: (place,) for name, place in places.items()}), JudgedOptions())
    branches = [branch for bundle in found.bundles for branch in bundle.branches]  # type: ignore[union-attr]
    return [(branch.meta["id"], branch.question, branch.meta["dataset"]) for branch in branches]


def write(path: Path, *rows: Any) -> str:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def longbench(dataset: str, number: int, **fields: Any) -> dict[str, Any]:
    row = {
        "input": f"Q{number}", "context": f"text {number}", "answers": [f"a{number}", "b"], "length": 2,
        "dataset": dataset, "language": "en", "all_classes": None, "_id": f"{dataset}{number}",
    }  # fmt: skip
    return {**row, **fields}


def test_longbench_rows(tmp_path: Path) -> None:
    write(tmp_path / "qasper.jsonl", longbench("qasper", 1), longbench("qasper", 2))
    write(tmp_path / "hotpotqa_e.jsonl", longbench("hotpotqa", 3))
    write(tmp_path / "gov_report.jsonl", longbench("gov_report", 4, input=""))
    write(tmp_path / "vcsum.jsonl", longbench("vcsum", 5, input="", language="zh"))
    write(tmp_path / "trec.jsonl", longbench("trec", 6))
    (tmp_path / "notes.txt").write_text("not data")
    folder = str(tmp_path)
    qa = [("hotpotqa3", "Q3", "hotpotqa"), ("qasper1", "Q1", "qasper"), ("qasper2", "Q2", "qasper")]
    assert asked(QA_TASK, longbench=folder) == qa
    [item, _] = read_questions(tmp_path / "qasper.jsonl", "qa", needs_reference=True)
    assert (item.context, item.fields["answers"]) == ("text 1", ["a1", "b"])
    summaries = asked(SUMMARY_TASK, longbench=folder)
    assert [dataset for _, _, dataset in summaries] == ["gov_report", "vcsum"]
    assert summaries[0][1].startswith("Write a summary")
    assert summaries[1][1].startswith("请")
    own = write(tmp_path / "mine.jsonl", {"context": "c", "question": "q", "answer": "a"})
    mine = ("mine-00001", "q", "mine")
    assert asked(QA_TASK, qa=own) == [mine]
    assert asked(QA_TASK, qa=own, longbench=folder) == [mine, *qa]  # both are asked
    assert asked(CHAT_TASK, chat=own) == [mine]
    with pytest.raises(MissingError, match="none of its sets"):
        asked(QA_TASK, longbench=str(tmp_path / "trec.jsonl"))


def test_what_a_row_must_have(tmp_path: Path) -> None:
    file = write(
        tmp_path / "rows.jsonl", {"context": "c", "query": "q", "answer": "a"}, {"context": "c", "query": "q"}
    )
    with pytest.raises(UsageError, match=r"rows.jsonl, row 2: chat needs answer"):
        read_questions(file, "chat", needs_reference=True)
    assert len(read_questions(file, "support", needs_reference=False)) == 2
    with pytest.raises(UsageError, match="needs context and query"):
        read_questions(write(tmp_path / "empty.jsonl", {"answer": "a"}), "chat", needs_reference=True)
    with pytest.raises(MissingError, match="no file"):
        read_questions(tmp_path / "none.jsonl", "chat", needs_reference=True)
    (tmp_path / "broken.jsonl").write_text('{"context": "c"\n')
    with pytest.raises(UsageError, match="line 1: not JSON"):
        read_questions(tmp_path / "broken.jsonl", "chat", needs_reference=True)
    twice = {"id": "x", "context": "c", "query": "q", "answer": "a"}
    assert len(asked(CHAT_TASK, chat=write(tmp_path / "twice.jsonl", twice, twice))) == 1  # and it is counted
    (tmp_path / "nothing.jsonl").write_text("\n")
    with pytest.raises(UsageError, match="no row"):
        read_questions(tmp_path / "nothing.jsonl", "chat", needs_reference=True)
    with pytest.raises(MissingError, match="LongBench"):
        asked(QA_TASK, longbench=str(tmp_path / "nowhere"))


def test_json_lists_and_parquet(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [{"context": "c", "query": "q", "answers": ["a", "b"]}]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    for name in ("rows.json", "rows.parquet"):
        [item] = read_questions(tmp_path / name, "chat", needs_reference=True)
        assert (item.context, item.fields["answers"]) == ("c", ["a", "b"])


def test_saved_answers_by_id_and_question(tmp_path: Path) -> None:
    file = write(
        tmp_path / "saved.jsonl",
        {"id": 7, "question": "Q7", "answer": "seven", "sample": 0},
        {"id": 7, "question": "Q7", "answer": "other", "sample": 1},
        {"query": "Q8", "pred": None},
    )
    assert read_answers(file) == {"7": "seven", "question:Q7": "seven", "question:Q8": ""}
    with pytest.raises(UsageError, match="row 1: a saved answer needs"):
        read_answers(write(tmp_path / "bad.jsonl", {"id": 1}))
