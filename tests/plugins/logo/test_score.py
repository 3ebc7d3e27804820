"""LOGO's score step: over a run's candidates with another judge, and over folders from elsewhere."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lcx.data.bundles import read_bundles, write_bundles
from lcx.data.table import load_table
from lcx.errors import UsageError
from lcx.records import Branch, Bundle
from tests.plugins.logo.corpora import Scripted, digests, score, synth, write_corpus


@pytest.fixture
def run(tmp_path: Path) -> Path:
    synth(tmp_path / "run", corpus=str(write_corpus(tmp_path / "corpus")))
    return tmp_path / "run"


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_the_same_judge_keeps_what_synth_kept(run: Path) -> None:
    result = score(run)
    ours, theirs = (list(read_bundles(run / step / "data")) for step in ("score", "synth"))
    assert ours == theirs
    assert result.metrics["contexts"] == len(ours)
    assert load_table(run / "score" / "data").fingerprint == load_table(run / "synth" / "data").fingerprint
    assert len(read_bundles(run / "score" / "data", "candidates")) == 40
    found = rows(run / "score" / "scores.jsonl")
    by_id = {bundle.id: bundle for bundle in ours}
    assert sum(row["kept"] for row in found) == len(ours)
    for row in found:
        assert row["kept"] == (row["id"] in by_id)
        for chunk in row["chunks"]:
            above = chunk["score"] > row["threshold"]
            assert (chunk["class"] == "critical") >= above
            assert (chunk["class"] == "irrelevant") <= (chunk["score"] < row["threshold"])
    report = (run / "score" / "report.md").read_text()
    assert report.count("█") > 20
    assert "Counts" in report


def test_another_judge_decides_otherwise(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that likes long answers, and gives no rating now and then."""
    judge = Scripted(lambda r: "hm" if "2" in r.fields["answer"] else f"[[{len(r.fields['answer']) / 10}]]")
    monkeypatch.setattr("lcx.llm.open_llm", lambda *_: judge)
    result = score(run, margin=0.0)
    kept = {bundle.id: bundle for bundle in read_bundles(run / "score" / "data")}
    assert judge.seen
    assert all(request.task == "judge_overlap" for request in judge.seen)
    for bundle in read_bundles(run / "synth" / "data", "candidates"):
        lengths = [None if "2" in b.answer else len(b.answer) for b in bundle.branches]
        worse = [
            n for n in lengths[1:] if n is not None and lengths[0] is not None and n < min(lengths[0], 100)
        ]
        assert (bundle.id in kept) == bool(worse)
    assert 0 < len(kept) < 40
    assert result.counts["rejected answer dropped: the judge gave no rating"] > 0
    assert (run / "score" / "dropped.jsonl").read_text().count('"kept": false') == 40 - len(kept)


def test_the_same_scores_twice_and_after_a_kill(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import lcx.data.bundles as module

    score(run, shards=2)
    first = digests(run / "score" / "data")
    files = {
        name: (run / "score" / name).read_bytes() for name in ("scores.jsonl", "dropped.jsonl", "report.md")
    }
    score(run, shards=2, force=True)
    assert digests(run / "score" / "data") == first
    real = module.write_bundles
    calls = [0]

    def stops(*args: Any, **options: Any) -> Any:
        calls[0] += 1
        if calls[0] == 3:
            raise KeyboardInterrupt
        return real(*args, **options)

    monkeypatch.setattr(module, "write_bundles", stops)
    with pytest.raises(KeyboardInterrupt):
        score(run, shards=2, force=True)
    score(run, shards=2)
    assert digests(run / "score" / "data") == first
    assert all((run / "score" / name).read_bytes() == data for name, data in files.items())


def preference(number: int, chosen: str, *rejected: str) -> Bundle:
    text = "\n".join(f"Line {k} of report {number}: nothing happened at station {k}." for k in range(60))
    question = f"Who was the keeper of Skua Lighthouse {number}?"
    branches = [Branch(question, answer, "rejected") for answer in rejected]
    branches.insert(1, Branch(question, chosen, "chosen"))
    text += f"\nThe keeper of Skua Lighthouse {number} was Ada Morgan."
    return Bundle(f"b{number}", tuple(branches), context=text, kind="mine")


def test_bundles_from_elsewhere_are_cut_and_judged_by_their_evidence(tmp_path: Path) -> None:
    bundles = [
        preference(n, "The keeper was Ada Morgan.", "Somebody else entirely", "Napoleon") for n in range(5)
    ]
    bundles += [preference(5, "Napoleon", "The keeper was Ada Morgan.")]
    bundles += [Bundle("plain", (Branch("q", "a"),), context="no preference data")]
    write_bundles(tmp_path / "mine", bundles)
    result = score(tmp_path / "run", input=str(tmp_path / "mine"), segment_tokens=60)
    kept = list(read_bundles(tmp_path / "run" / "score" / "data"))
    assert [bundle.id for bundle in kept] == [f"b{n}" for n in range(5)]
    assert result.counts["not a preference example"] == 1
    assert result.counts["rejected answer dropped: rated above the chosen answer"] == 1
    for bundle in kept:
        assert [b.role for b in bundle.branches] == ["chosen", "rejected", "rejected"]
        assert bundle.context is not None
        assert bundle.branches[0].gold == (len(bundle.meta["scores"]) - 1,)
        assert bundle.meta["items"] == ["keeper", "skua lighthouse " + bundle.id[1:]]


def test_data_that_cannot_be_scored_is_refused(tmp_path: Path) -> None:
    write_bundles(tmp_path / "plain", [Bundle("x", (Branch("q", "a"),), context="text")])
    with pytest.raises(UsageError, match="no preference data"):
        score(tmp_path / "a", input=str(tmp_path / "plain"))
    pair = (Branch("q", "a", "chosen"), Branch("q", "b", "rejected"))
    write_bundles(tmp_path / "planned", [Bundle("x", pair, plan=(0, 1))])
    with pytest.raises(UsageError, match="no segment table"):
        score(tmp_path / "b", input=str(tmp_path / "planned"))


def test_a_file_of_rows_is_refused_with_the_line_that_makes_bundles(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"context": "c", "prompt": "q", "chosen": "a", "rejected": "b"}\n')
    with pytest.raises(UsageError, match="no folder of bundles") as wrong:
        score(tmp_path / "run", input=str(tmp_path / "rows.jsonl"))
    assert f"lcx import {tmp_path / 'rows.jsonl'} --to" in wrong.value.hint


def test_thoughts_in_answers_from_elsewhere_are_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever made them; those that synth was told to keep stay, and no judge sees any."""

    def branch(role: str, answer: str, **meta: str) -> Branch:
        return Branch("Which code?", answer, role, meta=meta)

    final = "<|channel|>final<|message|>"
    told = [
        [branch("chosen", "<think>hm</think>The code is 7."), branch("rejected", "hm</think>It is 8.")],
        [branch("chosen", "The code is 7."), branch("rejected", "<think>The code is")],
        [branch("chosen", "<think>a</think>Code 7.", thoughts="kept"), branch("rejected", f"{final}None.")],
    ]
    write_bundles(
        tmp_path / "data",
        [Bundle(f"b{n}", tuple(rows), context="The code is 7.") for n, rows in enumerate(told)],
    )
    judge = Scripted(lambda r: f"[[{9 if '7' in r.fields['answer'] else 1}]]")
    monkeypatch.setattr("lcx.llm.open_llm", lambda *_: judge)
    result = score(tmp_path / "run", input=str(tmp_path / "data"))
    assert not any("think>" in request.fields["answer"] for request in judge.seen)
    assert result.counts["answers with thoughts"] == 4
    assert result.counts["answers of an unfinished thought only"] == 1
    found = {
        b.id: [one.answer for one in b.branches] for b in read_bundles(tmp_path / "run" / "score" / "data")
    }
    assert found == {"b0": ["The code is 7.", "It is 8."], "b2": ["<think>a</think>Code 7.", "None."]}
    assert "hm</think>It is 8." in (tmp_path / "run" / "score" / "data").joinpath(
        "../dropped.jsonl"
    ).read_text() or any(
        one.meta.get("raw") for b in read_bundles(tmp_path / "run" / "score" / "data") for one in b.branches
    )
