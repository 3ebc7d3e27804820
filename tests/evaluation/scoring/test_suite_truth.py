"""Saved predictions of real models against the scores that the official code gives them."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

from tests.evaluation.tasks import score_rows

_spec = importlib.util.spec_from_file_location("lcx_truth", Path(__file__).parents[2] / "truth.py")
assert _spec
assert _spec.loader
truth = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(truth)

LLAMA2 = (
    "dureader",
    "gov_report",
    "lcc",
    "lsht",
    "passage_count",
    "passage_retrieval_en",
    "qasper",
    "samsum",
    "trec",
    "vcsum",
)


@pytest.mark.parametrize("compat", [None, "longbench"])
@pytest.mark.parametrize("name", LLAMA2)
def test_every_row_of_llama_2(name: str, compat: str | None) -> None:
    folder = truth.truth_folder("longbench_llama2")
    known = json.loads((folder / "truth.json").read_text())["datasets"][name]
    scores, rows = score_rows(f"longbench:{name}", folder / f"{name}.jsonl", compat)
    assert scores["n"] == known["n"] == len(rows)
    assert rows == pytest.approx(known["per_example"], abs=1e-4)
    assert scores["score"] == pytest.approx(known["score"], abs=0.01)
    if compat:
        assert scores["score"] == known["score"]


@pytest.mark.parametrize(
    ("compat", "key"),
    [
        (None, "score_longbench_official"),
        ("longbench", "score_longbench_official"),
        ("film", "score_film_variant"),
    ],
)
@pytest.mark.parametrize("name", ["narrativeqa", "qasper", "hotpotqa"])
def test_film_7b_in_both_modes(name: str, compat: str | None, key: str) -> None:
    folder = truth.truth_folder("longbench_film")
    known = json.loads((folder / "truth.json").read_text())["FILM-7B"][name]
    scores, _ = score_rows(f"longbench:{name}", folder / "FILM-7B" / f"{name}.jsonl", compat)
    assert scores["score"] == pytest.approx(known[key], abs=0.01)
    assert scores["score"] == pytest.approx(known["published"], abs=0.06)
    low, high = scores["estimate"]["low"], scores["estimate"]["high"]
    assert low < scores["average"] < high
    assert sum(one["n"] for one in scores["by"]["length"].values()) == scores["n"]


def test_the_modes_differ_where_they_should() -> None:
    rows: list[dict[str, Any]] = [
        {"pred": "red\n\nblue", "answers": ["red"]},
        {"pred": None, "answers": ["red"]},
        {"pred": "\n\nred", "answers": ["red"]},
    ]
    plain, values = score_rows("longbench:qasper", rows)
    assert values == [pytest.approx(2 / 3), 0.0, 1.0]
    assert (plain["n"], plain["nulls"]) == (3, 1)
    film, values = score_rows("longbench:qasper", rows, "film")
    assert values == [1.0, None, 0.0]  # what stands before the first blank line; nulls are dropped
    assert (film["n"], film["nulls"], film["score"]) == (2, 1, 50.0)
    published, values = score_rows("longbench:qasper", rows, "longbench")
    assert values == [pytest.approx(2 / 3), 0.0, 1.0]
    assert published["score"] == 55.56
