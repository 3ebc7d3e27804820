"""Synth, score and pairs through a real server: `transformers serve` on loopback, with a tiny local model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lcx.data.bundles import read_bundles
from tests.llm.models import tiny_llama
from tests.plugins.longreward.served_model import served_model


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A model that judges, and one with random weights."""
    from transformers import AutoTokenizer

    judge = served_model(tmp_path_factory.mktemp("judge"))
    noise = tiny_llama(tmp_path_factory.mktemp("noise"))
    tokenizer = AutoTokenizer.from_pretrained(noise)
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}\n{% endfor %}"
    tokenizer.save_pretrained(noise)
    return judge, noise


@pytest.fixture(scope="module")
def server(transformers_server: str) -> str:
    return transformers_server


@pytest.mark.slow
def test_synth_score_and_pairs(cli: Any, tmp_path: Path, server: str, models: tuple[Path, Path]) -> None:
    judge, noise = models
    texts = tmp_path / "texts"
    texts.mkdir()
    for number in range(2):
        rows = [f"In {1800 + k} port {number} sent {k + 30} ships with tea." for k in range(30)]
        (texts / f"{number}.txt").write_text("\n".join(rows))
    run = ("--base-url", server, "--run", str(tmp_path / "run"), "-q")
    small = ("examples=2", "candidates=5", "answer_tokens=8", "context_tokens=[64, 2000]")
    sets = [word for one in small for word in ("--set", f"synth.{one}")]
    made = cli("synth", "-r", "longreward", "--corpus", str(texts), "--llm", f"openai:{judge}", *run, *sets)
    assert made.code == 0, made.err
    [first, *_] = read_bundles(tmp_path / "run/synth/data")
    assert len(first.branches) == 5

    small = ("temperature=1.0", "margin=0", "least_scored=4")
    sets = [word for one in small for word in ("--set", f"score.{one}")]
    scored = cli("score", "-r", "longreward", "--judge", f"openai:{judge}", *run, *sets)
    assert scored.code == 0, scored.err
    folder = tmp_path / "run/score"
    found = [json.loads(line) for line in (folder / "scores.jsonl").read_text().splitlines()]
    assert len(found) == 10
    for row in found:
        assert row["failed"] == {}
        assert row["faithfulness"] == 5.0
        assert row["helpfulness"] == int(row["helpfulness"])
    pairs = list(read_bundles(folder / "data"))
    assert pairs
    for pair in pairs:
        rewards = [row["reward"] for row in found if row["id"] == pair.id]
        assert [branch.meta["reward"] for branch in pair.branches] == [max(rewards), min(rewards)]

    # A model that cannot judge leaves reasons, and is no success.
    sets = [
        "--set",
        "score.attempts=2",
        "--set",
        "score.reply_tokens={helpfulness: 6, logicality: 6, statements: 6}",
    ]
    sets += ["--set", "score.extract_tokens=100000", "--set", f"score.input={tmp_path}/run/synth/data"]
    given = ("--base-url", server, "--run", str(tmp_path / "other"), "-q")
    noisy = cli("score", "-r", "longreward", "--judge", f"openai:{noise}", *given, *sets)
    assert noisy.code == 1
    assert f"none of the {len(found)} answers a reward" in noisy.err
    rows_found = [
        json.loads(line) for line in (tmp_path / "other/score/scores.jsonl").read_text().splitlines()
    ]
    assert all(row["reward"] is None and row["failed"] for row in rows_found)
    assert not read_bundles(tmp_path / "other/score/data")
