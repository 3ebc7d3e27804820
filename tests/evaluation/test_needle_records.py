"""The grid over records: what is asked, what a stale double makes of a question, and how decoys are counted."""

from __future__ import annotations

import random
from collections import defaultdict
from typing import Any

import pytest

from lcx.data.stdlib import catalogue_documents
from lcx.errors import UsageError
from lcx.evaluation.probes import val as items
from lcx.evaluation.probes.needle import NEEDLE
from lcx.evaluation.statistics.grids import band
from lcx.records import Document
from tests.evaluation.tasks import build, row_of, score_predictions, task


def stale_document(number: int, facts: int = 12, decoys: int = 4) -> Document:
    """Facts with keys of their own, and stale doubles of the first `decoys` of them in between."""
    rng = random.Random(number)
    values = [f"v{rng.randrange(40)}" for _ in range(facts)]
    rows = [(f"k{number}x{n}", value, False) for n, value in enumerate(values)]
    for key, value, _ in rows[:decoys]:
        rows.insert(
            rng.randrange(len(rows)), (key, f"old{rng.randrange(9)}" if rng.random() < 0.8 else value, True)
        )
    lines = [f"* {key} {value} some words here" for key, value, _ in rows]
    meta = {
        "kind": "catalogue",
        "keys": [key for key, _, _ in rows],
        "values": [value for _, value, _ in rows],
        "stale": [place for place, (_, _, old) in enumerate(rows) if old],
    }
    return Document(f"s{number}", "\n".join(lines), meta)


def options(**more: Any) -> dict[str, Any]:
    return {"style": "bare", "records": (8, 16), "depths": 4, "sets": 3, **more}


def test_stale_lines_are_never_asked_and_are_decoys_of_their_doubles() -> None:
    documents = [stale_document(n) for n in range(8)]
    by_text = {line: (d, n) for d in documents for n, line in enumerate(d.text.split("\n"))}
    bundles = build(NEEDLE, documents, 0, **options())
    assert [bundle.meta["length"] for bundle in bundles] == [8] * 3 + [16] * 3
    decoys = asked = 0
    for bundle in bundles:
        lines = (bundle.context or "").split("\n")
        document = by_text[lines[0]][0]
        assert lines == document.text.split("\n")[: len(lines)], "a document from its start, in its order"
        stale = set(document.meta["stale"])
        for branch in bundle.branches:
            meta = branch.meta
            place = meta["position"]
            key, value = document.meta["keys"][place], document.meta["values"][place]
            assert place not in stale
            assert (branch.question, branch.answer) == (key, f"{key} {value}")
            assert (meta["query"], meta["value"], meta["length"]) == (key, value, len(lines))
            assert meta["depth"] == (place * 4 // len(lines) + 0.5) / 4
            old = {
                document.meta["values"][n]
                for n in stale
                if n < len(lines) and document.meta["keys"][n] == key and document.meta["values"][n] != value
            }
            assert {meta["decoy"]} == old if old else "decoy" not in meta
            decoys += bool(old)
            asked += 1
        facts = [n for n in range(len(lines)) if n not in stale]
        assert [branch.meta["position"] for branch in bundle.branches] == facts
        assert bundle.meta["skipped"] == 0
    assert asked > 50
    assert decoys > 6


def test_sets_share_no_document_and_short_ones_are_joined() -> None:
    documents = [Document(**row) for row in catalogue_documents(12, 3, records=20)]
    bundles = build(NEEDLE, documents, 0, **options(records=(8, 48), sets=3))
    for length in (8, 48):
        lines: list[str] = []
        for bundle in (one for one in bundles if one.meta["length"] == length):
            own = (bundle.context or "").split("\n")
            keys = [line.split()[1] for line in own]
            assert len(own) == len(set(keys)) == len(bundle.branches) == length
            lines += own
        assert len(set(lines)) == 3 * length
    with pytest.raises(
        UsageError, match=r"needs 9 contexts of 48 records, but the corpus gives [34]"
    ) as error:
        build(NEEDLE, documents, 0, **options(records=(8, 48), sets=9))
    assert "stdlib:records:COUNT" in error.value.hint
    again = build(NEEDLE, documents, 1, **options(records=(8, 48), sets=3))
    assert again != bundles
    assert build(NEEDLE, documents, 0, **options(records=(8, 48), sets=3)) == bundles


def test_a_key_that_stands_elsewhere_is_not_asked() -> None:
    document = Document("d", "* run os a b\n* re email run c\n* get io d e", {"keys": ["run", "re", "get"]})
    (bundle,) = build(NEEDLE, [document], 0, **options(records=(3,), sets=1, depths=3))
    assert [branch.question for branch in bundle.branches] == ["re", "get"]
    assert bundle.meta["skipped"] == 1
    assert [band(n, 3, 3) for n in range(3)] == [0.1667, 0.5, 0.8333]


def test_ordinary_text_has_no_records() -> None:
    with pytest.raises(UsageError, match="corpus of records"):
        build(NEEDLE, [Document("t", "Just some text.", {"kind": "text"})], 0, **options())


def test_the_other_probes_pass_stale_lines_over() -> None:
    document = stale_document(1)
    facts = {key for n, key in enumerate(document.meta["keys"]) if n not in document.meta["stale"]}
    for source in (items.entities, items.functions, items.sentences):
        found = list(source(document, random.Random(0)))
        assert len(found) == 12
        assert {item.key for item in found} == facts
        assert not any("old" in item.text for item in found)


def test_decoys_are_counted_beside_the_score() -> None:
    documents = [stale_document(n) for n in range(30)]
    bundles = build(NEEDLE, documents, 0, **options(sets=20, records=(16,)))
    rng = random.Random(2)
    rows, named, carrying = [], 0, 0
    cells: dict[float, list[float]] = defaultdict(list)
    for bundle in bundles:
        for branch in bundle.branches:
            decoy = branch.meta.get("decoy")
            pred = rng.choice([branch.answer, f"{branch.question} {decoy}", f"it is {decoy}0x", None, ""])
            rows.append(row_of(branch, pred))
            carrying += decoy is not None
            named += decoy is not None and pred == f"{branch.question} {decoy}"
            cells[branch.meta["depth"]].append(float(pred == branch.answer))
    result = score_predictions("needle", rows)
    assert carrying > 40
    assert (result["decoy_rows"], result["decoys"]) == (carrying, pytest.approx(named / carrying))
    assert result["unit"] == "records"
    for j, depth in enumerate(result["depths"]):
        assert result["cells"][0][j] == pytest.approx(sum(cells[depth]) / len(cells[depth]))
    # Any probe's rows may carry decoys, one or several; what is left out does not count.
    row = {"set_id": 0, "query": "q", "name": "f", "pred": "g or h"}
    rows = [
        {**row, "position_id": 0, "decoy": "g", "query": "a"},
        {**row, "position_id": 1, "decoy": ["x", "h"], "query": "b"},
        {**row, "position_id": 2, "decoy": "x", "query": "c"},
        {**row, "position_id": 3, "decoy": "g", "query": "d", "skip": True},
        {**row, "position_id": 4, "query": "e"},
    ]
    scores = score_predictions("val:code", rows)
    assert (scores["decoys"], scores["decoy_rows"], scores["n"]) == (pytest.approx(2 / 3), 3, 4)
    assert "decoys" not in score_predictions("val:code", rows[-1:])
    with pytest.raises(UsageError, match="'decoy' is a text or a list"):
        score_predictions("val:code", [{**row, "position_id": 0, "decoy": 3}])
    assert task("needle").name == "needle"
