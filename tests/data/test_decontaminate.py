"""Runs of words shared with evaluation data."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from lcx.data.decontaminate import Decontaminator, decontaminate, ngram_hashes, words
from lcx.errors import UsageError
from lcx.records import Document

ITEM = "the quick brown fox jumps over the lazy dog near the old river bank"


def test_ten_shared_words_drop_a_document_and_nine_do_not() -> None:
    ten = "Before: The QUICK brown fox -- jumps over the lazy, dog near! After."
    nine = "Before: the quick brown fox jumps over the lazy dog far after."
    kept, dropped = decontaminate(
        [Document("ten", ten), Document("nine", nine), Document("short", "fox")], ["other words " * 6, ITEM]
    )
    assert [document.id for document in kept] == ["nine", "short"]
    assert [(d.document, d.item) for d in dropped] == [("ten", 1)]
    assert dropped[0].shared == "the quick brown fox jumps over the lazy dog near"
    assert decontaminate([Document("nine", nine)], [ITEM], n=9)[0] == []


def test_characters_count_as_words_in_chinese() -> None:
    assert words("我们Test一下 Été") == ["我", "们", "test", "一", "下", "été"]
    kept, dropped = decontaminate([Document("a", "他说今天天气很好我们去公园")], ["今天天气很好我们去公"])
    assert not kept
    assert dropped[0].item == 0


def test_hashes_agree_with_the_runs_themselves() -> None:
    rng = np.random.default_rng(0)
    text = " ".join(f"w{n}" for n in rng.integers(0, 4, 500))
    found = words(text)
    runs = [tuple(found[i : i + 3]) for i in range(len(found) - 2)]
    hashes = ngram_hashes(text, 3).tolist()
    assert len(hashes) == len(runs)
    assert len({*zip(runs, hashes, strict=True)}) == len(set(runs)) == len(set(hashes))
    assert len(ngram_hashes("one two", 3)) == 0


def test_items_from_files(tmp_path: Path) -> None:
    rows = [{"question": "what?", "context": [ITEM, {"x": "deep " * 12}]}, {"question": "short"}]
    (tmp_path / "e.jsonl").write_text("\n".join(map(json.dumps, rows)))
    sieve = Decontaminator(tmp_path / "e.jsonl")
    assert (sieve.item_count, sieve.short_items) == (2, 1)
    assert [
        d.id for d in sieve.filter([Document("a", "deep " * 10), Document("b", "x"), Document("c", ITEM)])
    ] == ["b"]
    assert (sieve.kept, [d.document for d in sieve.dropped]) == (1, ["a", "c"])
    (tmp_path / "e.txt").write_text(f"first part\nof it\n\n{ITEM}\n")
    assert Decontaminator(str(tmp_path / "e.txt")).match(ITEM) == (1, " ".join(ITEM.split()[:10]))


def test_runs_do_not_cross_from_one_string_to_the_next(tmp_path: Path) -> None:
    first, second = " ".join(ITEM.split()[:7]), " ".join(ITEM.split()[7:])
    (tmp_path / "e.jsonl").write_text(
        json.dumps([first, second, "and ten more words of something else to have a run"])
    )
    assert Decontaminator(tmp_path / "e.jsonl").match(ITEM) is None


def test_useless_items_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no evaluation item has 10 words"):
        Decontaminator(["too short"])
    with pytest.raises(UsageError, match="cannot be read"):
        Decontaminator(tmp_path / "nowhere.jsonl")
    (tmp_path / "bad.jsonl").write_text("{")
    with pytest.raises(UsageError, match="line 1"):
        Decontaminator(tmp_path / "bad.jsonl")
