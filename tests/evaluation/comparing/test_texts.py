"""Perplexity of two models on the same texts, from journals as an eval step leaves them."""

from __future__ import annotations

import itertools
import json
import math
import random
from pathlib import Path
from typing import Any

import pytest

from lcx.evaluation.compare import NotComparable, Options, compare, pair_texts, text_groups
from lcx.evaluation.probes.perplexity import PERPLEXITY, bucket_edges
from lcx.evaluation.scores import EvalResult, find_sides, load_result
from lcx.evaluation.task import TextSample

LENGTHS = [64, 256]


def read_texts(
    folder: Path, better: float, texts: int = 3, prefix: str = "perplexity ", seed: int = 0
) -> EvalResult:
    """A result in which −log p of every token is lower by `better` than in another one, but for noise."""
    edges = bucket_edges(LENGTHS, 8)
    meta = {"edges": list(edges), "lengths": LENGTHS, "buckets": 8, "documents": 1}
    readings = [TextSample(f"perplexity:0:{n}", tuple(range(n, n + 256)), meta) for n in range(texts)]
    results: list[dict[str, Any]] = []
    for reading in readings:
        hard, noise = random.Random(reading.id), random.Random(f"{folder} {seed}")
        counts = [end - max(start, 1) for start, end in itertools.pairwise(edges)]
        sums = [n * (hard.uniform(1, 3) - better + noise.gauss(0, 0.02)) for n in counts]
        results.append({"sums": sums, "counts": counts})
    summary = {"task": "perplexity", "view": "perplexity", **PERPLEXITY.summarize_texts(readings, results)}
    folder.mkdir(parents=True)
    (folder / "scores.json").write_text(json.dumps({"model": folder.name, "tasks": {"perplexity": summary}}))
    entries = [
        {"unit": f"{prefix}{one.id}", "fingerprint": "f", "result": found}
        for one, found in zip(readings, results, strict=True)
    ]
    lines = [json.dumps(entry) for entry in [{"unit": "other thing", "text": "x"}, *entries]]
    (folder / "journal.jsonl").write_text("\n".join(lines) + '\n{"unit": "torn')
    return load_result(folder)


def test_lower_perplexity_is_better(tmp_path: Path) -> None:
    a, b = read_texts(tmp_path / "a", 0.0), read_texts(tmp_path / "b", 0.2)
    found = compare(*find_sides([str(tmp_path / "a"), str(tmp_path / "b")]), Options())
    whole, first, every = found.verdicts
    scores = [one.scores["tasks"]["perplexity"] for one in (a, b)]
    assert (whole.a, whole.b) == pytest.approx([one["perplexity"] for one in scores])
    assert whole.difference == pytest.approx(100 * (scores[1]["perplexity"] / scores[0]["perplexity"] - 1))
    assert whole.difference == pytest.approx(100 * (math.exp(-0.2) - 1), abs=2)
    assert whole.low < whole.difference < whole.high < 0  # type: ignore[operator]
    assert whole.verdict == "better"
    assert (first.group, every.group) == ("first 64", "first 256")
    assert first.a == pytest.approx(scores[0]["at_length"][0])
    back = compare(*find_sides([str(tmp_path / "b"), str(tmp_path / "a")]), Options())
    assert back.verdicts[0].verdict == "worse"
    assert back.verdicts[0].regression


def test_journals_of_old_name_no_task(tmp_path: Path) -> None:
    a, b = read_texts(tmp_path / "a", 0.0, prefix=""), read_texts(tmp_path / "b", 0.1)
    found = pair_texts(a, b, "perplexity")
    assert len({pair.context for pair in found.pairs}) == 3
    groups = text_groups("perplexity", a.scores["tasks"]["perplexity"], found.pairs)
    assert sum(groups[0].weights) == 3 * 255


def test_other_texts_are_not_compared(tmp_path: Path) -> None:
    a, b = read_texts(tmp_path / "a", 0.0), read_texts(tmp_path / "b", 0.1, texts=2)
    with pytest.raises(NotComparable, match="other texts"):
        pair_texts(a, b, "perplexity")
    (tmp_path / "c").mkdir()
    twin = read_texts(tmp_path / "c" / "twin", 0.1)
    (twin.folder / "journal.jsonl").write_text("")
    with pytest.raises(NotComparable, match="does not have the texts"):
        pair_texts(a, twin, "perplexity")
    (twin.folder / "journal.jsonl").unlink()
    with pytest.raises(NotComparable, match=r"no journal\.jsonl"):
        pair_texts(a, twin, "perplexity")
