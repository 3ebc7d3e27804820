"""A corpus' own questions: rows in their usual layouts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lcx.data.documents import document_of, read_corpus
from lcx.data.files import Raw, Rejects
from lcx.data.rows import Tally
from tests.plugins.logo.corpora import write_rows


@pytest.mark.parametrize(
    ("row", "qa"),
    [
        ({"context": "C", "question": "Q", "answer": "A"}, ["Q", "A"]),
        ({"document": "C", "query": "Q", "answers": ["A", "B"]}, ["Q", "A"]),
        ({"text": "C", "question": "Q"}, ["Q", None]),
        ({"instruction": "Q", "input": "C", "output": "A"}, ["Q", "A"]),  # Alpaca
        ({"input": "Q", "context": "C", "answers": ["A"], "length": 3}, ["Q", "A"]),  # LongBench
        (
            {"context": "C", "question": "Q", "answers": {"text": ["A"], "answer_start": [3]}},
            ["Q", "A"],
        ),  # SQuAD
        ({"context": "C", "question": "Q", "answers": {"text": []}}, ["Q", None]),
        ({"context": "C", "question": " Q ", "answer": "A\nwith two lines"}, ["Q", "A\nwith two lines"]),
        ({"context": "C", "question": "", "answer": "A"}, None),
        ({"text": "C", "output": "A"}, None),
        ({"text": "C", "meta": {"qa": "of another kind"}}, None),
    ],
)
def test_layouts(row: dict[str, Any], qa: list[str | None] | None) -> None:
    document = document_of(Raw("f", "line 1", row), Tally(Rejects()), questions=True)
    assert document is not None
    assert document.text == "C"
    assert document.meta.get("qa") == ([qa] if qa else None)


@pytest.mark.parametrize(
    "row",
    [{"instruction": "Q", "input": "", "output": "A"}, {"question": "Q", "answer": "A"}, [1], "text", None],
)
def test_rows_without_a_text_are_set_aside(row: Any) -> None:
    rejects = Rejects()
    assert document_of(Raw("f", "line 1", row), Tally(rejects), questions=True) is None
    assert len(rejects) == 1


def rows() -> list[dict[str, Any]]:
    return [
        {"id": "a", "context": "One text.", "question": "Q1", "answer": "A1"},
        {"id": "b", "context": "One text.", "question": "Q2", "answer": "A2"},
        {"id": "c", "context": "Another.", "question": "Q3"},
        {"id": "d", "text": "Asks nothing."},
    ]


def test_neighbouring_rows_of_one_text_become_one_document(tmp_path: Path) -> None:
    write_rows(tmp_path / "rows.jsonl", rows())
    found = list(read_corpus(tmp_path, questions=True))
    assert [(d.id, d.text, d.meta.get("qa")) for d in found] == [
        ("a", "One text.", [["Q1", "A1"], ["Q2", "A2"]]),
        ("c", "Another.", [["Q3", None]]),
        ("d", "Asks nothing.", None),
    ]


def test_parquet_rows_are_read_with_all_their_fields(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.Table.from_pylist(rows()[:3]), tmp_path / "rows.parquet")
    found = list(read_corpus(tmp_path / "rows.parquet", questions=True))
    assert [d.meta["qa"] for d in found] == [[["Q1", "A1"], ["Q2", "A2"]], [["Q3", None]]]
    plain = list(
        read_corpus(tmp_path / "rows.parquet")
    )  # a method that asks its own questions reads the same texts
    assert [d.text for d in plain] == ["One text.", "One text.", "Another."]
