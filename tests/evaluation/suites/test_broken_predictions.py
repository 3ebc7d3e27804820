"""Files of predictions that are broken, or do not fit their references: refused or counted, with the row named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lcx.data.files import strict_rows
from lcx.errors import UsageError
from lcx.evaluation.saved import own_rows
from tests.evaluation.tasks import score_predictions, score_rows

QA = {"pred": "red", "answers": ["red"], "length": 3000}


def lines(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


# ---- broken files


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "no longbench:qasper predictions"),
        (b"\n \n", "no longbench:qasper predictions"),
        (b'{"pred": "a", "answers": ["a"]}\n{"pred": NaN, "answers": ["a"]}\n', "line 2: NaN"),
        (b'{"pred": "a", "answers": ["a"], "length": Infinity}\n', "line 1: Infinity"),
        (b'{"pred": "a", "answers": ["a"], "length": 1e999}\n', "row 0"),
        (
            b'{"pred": "a", "answers": ["a"]}\n\n{"pred": "\xe9t\xe9", "answers": ["a"]}\n',
            "line 3: not UTF-8",
        ),
        ('{"pred": "a", "answers": ["a"]}\n'.encode("utf-16") + b"\0", "broken utf-16-le"),
        (b'{"pred": "a", "answers": ["a"]}\n{"pred": "a", "answ', "line 2: not JSON"),
        (b'{"pred": "a", "answers": ["a"]}\n["a"]\n', "line 2: a row is a JSON object"),
        (b'{"pred": "a", "answers": ["a"]}\n{"answers": ["a"]}\n', "row 1"),
        (b'{"pred": "a", "answers": ["a"]}\n{"pred": "a"}\n', "row 1"),
        (b'{"pred": {"a": 3}, "answers": ["a"]}\n', "'pred' is text, not {'a': 3}"),
        (b'{"pred": ["a"], "answers": ["a"]}\n', "'pred' is text"),
        (b'{"pred": "a", "answers": [null]}\n', "'answers' is a list of texts"),
        (b'{"pred": "a", "answers": {"text": "a"}}\n', "'answers' is a list of texts"),
        (b'{"pred": "a", "answers": ["a"], "length": true}\n', "'length'"),
    ],
)
def test_a_broken_file_is_refused_with_the_row_named(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "p.jsonl"
    path.write_bytes(content)
    with pytest.raises(UsageError) as error:
        score_predictions("longbench:qasper", path)
    assert words in error.value.what


def test_a_byte_order_mark_and_odd_separators_are_harmless(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    row = json.dumps({**QA, "pred": "red\u2028"}, ensure_ascii=False)
    path.write_bytes(b"\xef\xbb\xbf" + row.encode() + b"\r\n" + row.encode())
    assert score_predictions("longbench:qasper", path)["n"] == 2
    path.write_text(json.dumps([QA, QA]))
    assert score_predictions("longbench:qasper", path)["n"] == 2


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_files_in_wide_encodings_score_as_those_in_utf_8(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text(f"{json.dumps(QA)}\n{json.dumps({**QA, 'pred': 'blue'})}\n", encoding=encoding)
    assert score_rows("longbench:qasper", path)[1] == [1.0, 0.0]


def test_packed_files_tables_and_parquet_are_predictions_too(tmp_path: Path) -> None:
    import gzip

    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [QA, {**QA, "pred": "blue"}]
    packed, table, columns = tmp_path / "p.jsonl.gz", tmp_path / "p.csv", tmp_path / "p.parquet"
    packed.write_bytes(gzip.compress("\n".join(map(json.dumps, rows)).encode()))
    table.write_text('pred,answers\nred,"[""red""]"\nblue,"[""red""]"\n')
    pq.write_table(pa.Table.from_pylist(rows), columns)
    for path in (packed, table, columns):
        assert score_rows("longbench:qasper", path)[1] == [1.0, 0.0]


def test_a_single_row_named_json_is_one_row_whatever_lists_it_has(tmp_path: Path) -> None:
    path = tmp_path / "p.json"
    path.write_text(json.dumps({**QA, "passages": [{"title": "one"}]}))
    assert score_predictions("longbench:qasper", path)["n"] == 1


def test_a_context_or_an_item_that_is_a_list_is_a_name_as_well() -> None:
    """Files of other tools may have the passages of the context there."""
    rows = [
        {**QA, "context": ["first", "second"]},
        {**QA, "context": ["first", "second"]},
        {**QA, "context": {"a": 1}},
    ]
    assert score_predictions("longbench:qasper", rows)["estimate"]["contexts"] == 2
    row = {"set_id": 0, "position_id": 0, "name": "f", "pred": "f", "context": ["first"], "item": ["a", 1]}
    made = score_predictions("val:code", [row, {**row, "position_id": 1, "item": ["b", 1]}, row])
    assert (made["n"], made["duplicates"]) == (2, 1)


def test_numbers_and_empty_cells_are_what_they_are_meant_as(tmp_path: Path) -> None:
    row = {"set_id": 0, "query": "q", "length": 9, "depth": 0.5}
    rows = [
        {**row, "position_id": n, "value": 4711, "pred": pred} for n, pred in enumerate((4711, "4,711", "no"))
    ]
    assert score_predictions("needle", rows)["score"] == pytest.approx(200 / 3)
    table = tmp_path / "p.csv"
    table.write_text('pred,answers,length,all_classes\nyes,"[""yes""]",,\n7.0,7,,\n')
    assert score_predictions("longbench:qasper", own_rows(strict_rows(table)))["n"] == 2
    (tmp_path / "p.jsonl").write_text('{"prediction": ["yes", "no"], "answers": ["no"]}\n')
    with pytest.raises(UsageError, match="2 texts for one question"):
        own_rows(strict_rows(tmp_path / "p.jsonl"))


def test_groups_and_places_that_are_none_are_refused() -> None:
    """A difficulty of 3 is no band of lengths, and a mistyped position no reason to draw a curve of so many spans."""
    good = {"pred": "A", "answers": "A", "difficulty": "easy"}
    wrong: tuple[Any, ...] = (3, ["easy"], {})
    for value in wrong:
        with pytest.raises(UsageError, match=r"row 1 .*'difficulty'"):
            score_predictions("longbench_v2", [good, {**good, "difficulty": value}])
    assert score_predictions("longbench_v2", [good, {**good, "difficulty": None}])["n"] == 2
    row = {"set_id": 0, "position_id": 0, "name": "f", "pred": "f"}
    with pytest.raises(UsageError, match=r"row 1 .*'position_id'"):
        score_predictions("val:code", [row, {**row, "position_id": 10**18}])
    ruler = {"pred": "77", "outputs": ["77"], "length": 100}
    for length in (float("nan"), 10**400):
        with pytest.raises(UsageError, match=r"row 1 .*'length'"):
            score_predictions("ruler:multikey", [ruler, {**ruler, "length": length}])
    assert score_predictions("ruler:multikey", [ruler, {**ruler, "unit": ["words"]}])["n"] == 2


def test_paths_that_are_no_file(cli: Any, tmp_path: Path) -> None:
    for path, words in ((tmp_path, "is a folder"), (tmp_path / "none.jsonl", "no predictions file")):
        ran = cli("eval", "--task", "longbench:qasper", "--predictions", str(path), "--json")
        assert ran.code == 2
        assert words in ran.out + ran.err
    ran = cli("eval", "--task", "longbench", "--predictions", str(tmp_path))
    assert ran.code == 2
    assert "narrativeqa.jsonl" in ran.err
    ran = cli("eval", "--task", "longbench:qaser", "--predictions", str(tmp_path / "x"))
    assert ran.code == 2
    assert "longbench:qasper" in ran.err


def test_a_wrong_mode_is_refused() -> None:
    with pytest.raises(UsageError, match="longbench_v2"):
        score_predictions("longbench_v2", [{"pred": "A", "answer": "A"}], "film")
    with pytest.raises(UsageError, match="val:code"):
        score_predictions(
            "val:code", [{"set_id": 0, "position_id": 0, "name": "f", "pred": "f"}], "longbench"
        )


def test_of_rows_with_one_id_the_first_counts() -> None:
    rows = [{**QA, "_id": "a"}, {**QA, "_id": "a", "pred": "no"}, {**QA, "_id": "b", "pred": "no"}]
    made, values = score_rows("longbench:qasper", rows)
    assert values == [1.0, None, 0.0]
    assert (made["n"], made["duplicates"], made["score"]) == (2, 1, 50.0)


def test_rows_of_a_probe_given_twice_count_once() -> None:
    row = {"set_id": 0, "position_id": 0, "id": "Q1", "label": "tower", "description": "", "pred": "tower"}
    other = {**row, "position_id": 1, "id": "Q2", "pred": "no"}
    made, values = score_rows("val:database", [row, other, row])
    assert values == [1.0, 0.0, None]
    assert (made["n"], made["duplicates"]) == (2, 1)
    ambiguous = score_predictions("val:database", [row, {**other, "id": "Q1"}, {**other, "position_id": 2}])
    assert (ambiguous["n"], ambiguous["duplicates"], ambiguous["skipped"]) == (1, 2, 2)


def test_a_mode_is_advised_only_where_there_is_one(cli: Any, tmp_path: Path) -> None:
    path = lines(tmp_path / "p.jsonl", [{"pred": None, "answers": ["A"]}])
    for task, advised in (("longbench:qasper", True), ("longbench_v2", False)):
        text = cli("eval", "--task", task, "-p", str(path)).out
        assert "score 0" in text
        assert ("--compat film" in text) is advised


def test_the_order_of_a_curves_rows_changes_nothing() -> None:
    rows = [
        {
            "set_id": number,
            "position_id": place,
            "name": "f",
            "pred": "f" if (place * 7) % (number + 3) else "g",
        }
        for number in range(3)
        for place in range(120)
    ]
    made = score_predictions("val:code", rows)
    again = score_predictions("val:code", rows[::-1])
    assert made["gap_test"] == again["gap_test"]
    assert (made["u_shape"], made["intervals"]) == (again["u_shape"], again["intervals"])


def test_a_curve_says_which_places_have_no_row(cli: Any, tmp_path: Path) -> None:
    rows = [
        {"set_id": number, "position_id": position, "name": "f", "pred": "f"}
        for number in range(2)
        for position in range(60)
    ]
    made = score_predictions("val:code", rows)
    assert made["missing"] == 0
    assert "first_missing" not in made
    made = score_predictions("val:code", rows[:-3])
    assert (made["missing"], made["first_missing"]) == (3, "set 1, position 57")
    text = cli("eval", "--task", "val:code", "-p", str(lines(tmp_path / "p.jsonl", rows[:-3]))).out
    assert "set 1, position 57" in text
    assert max(map(len, text.splitlines())) <= 80


# ---- references

KNOWN = [{"_id": f"q{n}", "input": "?", "answers": [f"a{n}"], "length": 100 * n} for n in range(4)]


def test_references_by_id_in_any_order() -> None:
    rows = [{"_id": f"q{n}", "pred": f"a{n}"} for n in (2, 0, 1, 3)]
    made, values = score_rows("longbench:qasper", rows, references=KNOWN)
    assert values == [1.0] * 4
    assert (made["matched"], made["reordered"]) == ("id", 3)
    assert made["by"]["length"]["0-4k"]["n"] == 4


def test_references_by_order(cli: Any, tmp_path: Path) -> None:
    rows = [{"pred": f"a{n}"} for n in range(4)]
    made, values = score_rows("longbench:qasper", rows, references=KNOWN)
    assert values == [1.0] * 4
    assert made["matched"] == "order"
    predictions, known = lines(tmp_path / "p.jsonl", rows), lines(tmp_path / "r.jsonl", KNOWN)
    command = ("eval", "--task", "longbench:qasper", "-p", str(predictions), "--references")
    assert cli(*command, str(known), "--json").json["score"] == 100.0
    assert cli(*command, str(tmp_path / "none.jsonl")).code == 4


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([{"pred": "a"}] * 3, "3 predictions for 4 references: reference 3"),
        ([{"pred": "a"}] * 5, "5 predictions for 4 references: prediction 4"),
        ([{"_id": f"q{n}", "pred": "a"} for n in (0, 1, 3)], "the first is 'q2' (row 2"),
        (
            [{"_id": f"q{n}", "pred": "a"} for n in range(5)],
            "row 4 (counted from 0): no reference has the id",
        ),
        ([{"_id": "q0", "pred": "a"}, {"pred": "b"}], "row 1 (counted from 0) has no id"),
        (
            [{"pred": "a", "answers": [f"a{n}"]} for n in (0, 2, 1, 3)],
            "row 1 (counted from 0): its 'answers'",
        ),
        ([], "no longbench:qasper predictions"),
    ],
)
def test_files_that_do_not_fit_their_references_are_refused(rows: list[dict[str, Any]], words: str) -> None:
    with pytest.raises(UsageError) as error:
        score_rows("longbench:qasper", rows, references=KNOWN)
    assert words in error.value.what


def test_references_of_the_other_suites() -> None:
    csqa = [
        {"id": "1", "question": "?", "choices": {"label": ["A", "B"], "text": ["p", "q"]}, "answerKey": "B"}
    ]
    assert score_rows("csqa", [{"pred": "B"}], references=csqa)[1] == [1.0]
    gsm8k = [{"question": "?", "answer": "1 + 1\n#### 2"}]
    assert score_rows("gsm8k", [{"pred": "2", "answer": "2"}], references=gsm8k)[1] == [1.0]
    v2 = [{"_id": "x", "answer": "C", "length": "long", "difficulty": "hard", "domain": "Law"}]
    made, values = score_rows("longbench_v2", [{"_id": "x", "pred": "C"}], references=v2)
    assert values == [1.0]
    assert made["by"]["difficulty"]["hard"]["n"] == 1
    with pytest.raises(UsageError, match="carry their answers"):
        score_rows("val:code", [], references=KNOWN)


def test_a_file_that_was_appended_to_counts_once() -> None:
    """Rows without ids: the second run of a file asks in the order of the first, whatever it answered."""
    asked = [
        {"answers": [f"answer {n % 150}"], "all_classes": None, "length": 3000 + n // 2} for n in range(200)
    ]
    first = [{**row, "pred": row["answers"][0] if n % 2 else "no"} for n, row in enumerate(asked)]
    second = [{**row, "pred": "other"} for row in asked]
    once = score_predictions("longbench:qasper", first)
    assert (once["n"], once["duplicates"]) == (200, 0), "single rows may be alike"
    for file in ([*first, *first], [*first, *second], [*first, *second, *first], [*first, *first[:30]]):
        found = score_predictions("longbench:qasper", file)
        assert (found["n"], found["duplicates"]) == (200, len(file) - 200)
        assert (found["score"], found["estimate"]) == (once["score"], once["estimate"])
    begun = score_predictions("longbench:qasper", [*first[:40], *first])
    assert (begun["n"], begun["duplicates"], begun["score"]) == (200, 40, once["score"])
    alike = [{"answers": ["yes"], "all_classes": None, "length": 9, "pred": "yes"}] * 40
    assert score_predictions("longbench:qasper", alike)["duplicates"] == 0, "nothing tells these apart"
