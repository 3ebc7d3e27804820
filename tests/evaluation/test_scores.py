"""Metrics, spans and prediction files, against hand-worked cases and published outputs."""

from __future__ import annotations

import importlib.util
import json
import random
from pathlib import Path
from typing import Any

import pytest

from lcx.data.files import strict_rows
from lcx.errors import UsageError
from lcx.evaluation.statistics.curves import span_curve
from lcx.evaluation.text_metrics import contains, document_recall, label_or_description, name_found
from tests.evaluation.tasks import score_predictions

_spec = importlib.util.spec_from_file_location("lcx_truth", Path(__file__).parents[1] / "truth.py")
assert _spec
assert _spec.loader
truth = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(truth)


# ---- metrics


def test_document_recall_is_over_sets_of_lower_cased_words() -> None:
    assert document_recall("The cat saw the dog", "the CAT") == 0.5  # {the, cat} of {the, cat, saw, dog}
    assert document_recall("a a a b", "a") == 0.5
    assert document_recall("end.", "end") == 0.0  # split at white space only
    assert document_recall("", "anything") == 0.0


def test_a_name_is_a_substring_and_case_counts() -> None:
    assert name_found("get", "it is get_value()") == 1.0
    assert name_found("get", "it is get_value()", whole_words=True) == 0.0
    assert name_found("get", "it is `get`.", whole_words=True) == 1.0
    assert name_found("Get", "get") == 0.0


def test_label_or_description_ignores_case_and_empty_parts() -> None:
    assert label_or_description("Big BEN", "a clock", "It is big ben.") == 1.0
    assert label_or_description("Big Ben", "a clock", "It is A CLOCK") == 1.0
    assert label_or_description("Big Ben", "", "something else") == 0.0
    assert label_or_description("STRASSE", "", "straße") == 1.0


def test_whole_words_know_dotted_names() -> None:
    assert not contains("threading", "re", whole_words=True)
    assert not contains("email.utils", "email", whole_words=True)
    assert not contains("xml.email", "email", whole_words=True)
    assert contains("the module is email.", "email", whole_words=True)
    assert contains("c++ code", "c++", whole_words=True)


# ---- spans


def test_a_span_is_the_mean_of_its_sets_means() -> None:
    rows = [(0, 0, 1.0), (0, 1, 0.0), (0, 2, 0.0), (1, 0, 1.0), (1, 4, 0.5)]
    curve = span_curve(rows, width=3)
    # Span 0: set 0 has 1/3, set 1 has 1 -> 2/3 (the mean of the four rows would be 1/2). Span 1: one row.
    assert curve.spans == (pytest.approx(2 / 3), 0.5)
    assert curve.counts == (4, 1)
    assert curve.average == pytest.approx((2 / 3 + 0.5) / 2)
    assert curve.gap == pytest.approx(2 / 3 - 0.5)


def test_compat_leaves_out_the_last_position_of_each_span() -> None:
    rows = [(0, position, float(position % 3 == 2)) for position in range(6)]
    assert span_curve(rows, width=3).spans == (pytest.approx(1 / 3), pytest.approx(1 / 3))
    published = span_curve(rows, width=3, compat="film")
    assert published.spans == (0.0, 0.0)
    assert published.counts == (2, 2)


def test_spans_without_rows_are_neither_zero_nor_counted() -> None:
    curve = span_curve([(0, 0, 1.0), (0, 25, 0.5)], width=10, positions=40)
    assert curve.spans == (1.0, None, 0.5, None)
    assert curve.counts == (1, 0, 1, 0)
    assert curve.average == 0.75
    assert curve.gap == 0.5
    empty = span_curve([])
    assert empty.average is None
    assert empty.gap is None
    with pytest.raises(ValueError, match="negative"):
        span_curve([(0, -1, 1.0)])


def test_the_order_of_rows_does_not_matter() -> None:
    rng = random.Random(0)
    rows = [(s, p, rng.random()) for s in range(3) for p in range(40)]
    before = span_curve(rows, width=7)
    rng.shuffle(rows)
    assert span_curve(rows, width=7).spans == pytest.approx(before.spans)


# ---- prediction files


@pytest.mark.parametrize(("compat", "key"), [(None, "corrected"), ("film", "compat_film")])
def test_film_7b_on_the_database_probe(compat: Any, key: str) -> None:
    folder = truth.truth_folder("val_database")
    known = json.loads((folder / "truth.json").read_text())
    made = score_predictions("val:database", folder / "FILM-7B.jsonl", compat)
    wanted = known["FILM-7B"][key]
    assert made["spans"] == pytest.approx(wanted["spans"], abs=1e-6)
    assert made["average"] == pytest.approx(wanted["avg"], abs=1e-6)
    assert made["gap"] == pytest.approx(wanted["gap"], abs=1e-6)
    assert made["score"] == pytest.approx(100 * wanted["avg"], abs=1e-4)
    # The two rows that share a key are found, not told.
    assert made["skipped"] == len(known["skip"]) == 2
    assert sum(made["counts"]) == made["n"] == (2998 if compat is None else 2998 - 60)


def database_row(position: int, pred: str | None, **more: Any) -> dict[str, Any]:
    row = {
        "set_id": 0,
        "position_id": position,
        "id": f"Q{position}",
        "label": "tower",
        "description": "a building",
    }
    return {**row, "pred": pred, **more}


def test_nulls_score_zero_and_are_counted() -> None:
    rows = [database_row(0, "the Tower"), database_row(1, None), database_row(2, ""), database_row(3, "no")]
    made = score_predictions("val:database", rows)
    assert (made["n"], made["nulls"], made["average"]) == (4, 1, 0.25)
    published = score_predictions("val:database", rows, "film")
    assert (published["n"], published["nulls"], published["average"]) == (3, 1, pytest.approx(1 / 3))


def test_rows_with_one_key_in_one_set_are_skipped() -> None:
    rows = [database_row(0, "tower", id="Q7"), database_row(1, "no", id="Q7"), database_row(2, "no")]
    other_set = database_row(0, "tower", id="Q7", set_id=1)
    made = score_predictions("val:database", [*rows, other_set])
    assert (made["skipped"], made["n"], made["average"]) == (2, 2, 0.5)


def test_whole_words_are_asked_for_by_the_row_and_dropped_by_compat() -> None:
    rows = [database_row(0, "threading", label="re", description="", match="word")]
    assert score_predictions("val:database", rows)["average"] == 0.0
    assert score_predictions("val:database", rows, "film")["average"] == 1.0


def test_other_names_of_the_fields() -> None:
    place = {"set_id": 0, "position_id": 0}
    sentence = {**place, "sentence": "one two three four", "pred": "four three"}
    assert score_predictions("val:document", [sentence])["average"] == 0.5
    assert score_predictions("val:code", [{**place, "function": "f_x", "pred": "f_x!"}])["average"] == 1.0


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"label": ...}, "label"),
        ({"pred": ...}, "pred"),
        ({"position_id": "3"}, "position_id"),
        ({"set_id": True}, "set_id"),
        ({"pred": [3]}, "pred"),
        ({"description": None}, "description"),
    ],
)
def test_a_bad_row_is_named(change: dict[str, Any], words: str) -> None:
    bad = {**database_row(1, "x"), **change}
    bad = {key: value for key, value in bad.items() if value is not ...}
    with pytest.raises(UsageError) as error:
        score_predictions("val:database", [database_row(0, "x"), bad])
    assert "row 1" in error.value.what
    assert words in error.value.what


def test_a_broken_line_is_named(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    line = json.dumps(database_row(0, "next line\u2028 paragraph"), ensure_ascii=False)
    path.write_text(f"{line}\n\n{line[:30]}\n", encoding="utf-8")
    with pytest.raises(UsageError, match="line 3"):
        strict_rows(path)
    path.write_text(f"{line}\n", encoding="utf-8")
    assert len(strict_rows(path)) == 1
    path.write_text("", encoding="utf-8")
    with pytest.raises(UsageError, match="no val:database predictions"):
        score_predictions("val:database", path)
    with pytest.raises(UsageError, match="cannot read"):
        strict_rows(tmp_path / "none.jsonl")


def test_an_unknown_task_gets_a_suggestion() -> None:
    with pytest.raises(UsageError, match="val:database"):
        score_predictions("val:databse", [])


def test_scoring_needs_no_torch() -> None:
    import subprocess
    import sys

    code = "import sys; import lcx.evaluation.probes.val, lcx.evaluation.offline, lcx.evaluation.settings;"
    code += (
        "import lcx.evaluation.show.terminal; assert not {'torch', 'scipy', 'matplotlib'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])
