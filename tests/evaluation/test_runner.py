"""A whole evaluation of a tiny model on a CPU: what is written, what a kill leaves, what is too long."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from transformers import PreTrainedTokenizerFast

from lcx.context import Context
from lcx.corpus.catalogue import catalogue_documents, load_entities, vocabulary
from lcx.errors import UsageError
from lcx.evaluation import runner
from lcx.evaluation.probes import ProbeOptions, get_probe
from lcx.evaluation.progress import Meter, duration
from lcx.evaluation.runner import run_probes, slug, stop_ids, thin
from lcx.evaluation.settings import EvalSettings
from lcx.modeling import decode
from lcx.modeling.tiny import build_tokenizer, new_model
from lcx.records import Bundle, Document, EncodedBranch, EncodedBundle

NAME = "val:database"


def varied(seed: int, vocabulary: int) -> Any:
    """A model with large random weights: its answers differ from question to question."""
    made = new_model(seed, vocabulary)
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in made.parameters():
            if weight.ndim == 2:
                weight.normal_(0, 0.24, generator=draw)
    return made


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return build_tokenizer(vocabulary(load_entities()))


@pytest.fixture(scope="module")
def model(tokenizer: PreTrainedTokenizerFast) -> Any:
    return varied(0, len(tokenizer))


@pytest.fixture(scope="module")
def bundles() -> list[Bundle]:
    documents = [Document(**row) for row in catalogue_documents(20, 1)]
    return get_probe(NAME).build(documents, ProbeOptions(12, sets=3, style="bare"), 0)


class Encode:
    """A stand-in for the assembler."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self.tokenizer = tokenizer

    def __call__(self, bundle: Bundle) -> EncodedBundle:
        prefix = np.array(self.tokenizer.encode(bundle.context or "", add_special_tokens=False))
        branches = []
        for branch in bundle.branches:
            ids = self.tokenizer.encode(f"\n? {branch.question} =", add_special_tokens=False)
            branches.append(EncodedBranch(ids, len(ids), branch.role))
        return EncodedBundle(bundle.id, prefix, tuple(branches))


def context() -> tuple[Context, io.StringIO]:
    said = io.StringIO()
    return Context(console=Console(file=said, width=200)), said


def settings(**more: Any) -> EvalSettings:
    return EvalSettings(**{"probes": (NAME,), "span": 4, "max_new_tokens": 3, "model": "tiny", **more})


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "predictions-val-database.jsonl").read_text().splitlines()]


def test_what_is_written(tmp_path: Path, model: Any, tokenizer: Any, bundles: list[Bundle]) -> None:
    ctx, said = context()
    encode = Encode(tokenizer)
    scores = run_probes({NAME: bundles}, encode, model, tokenizer, settings(), tmp_path / "out", ctx)
    folder = tmp_path / "out"
    assert {path.name for path in folder.iterdir()} == {
        "predictions-val-database.jsonl", "curve-val-database.png", "scores.json", "journal.jsonl",
    }  # fmt: skip
    assert json.loads((folder / "scores.json").read_text()) == scores
    task = scores["tasks"][NAME]
    assert (task["n"], task["nulls"], task["contexts"], len(task["spans"])) == (36, 0, 3, 3)
    assert scores["average"] == task["average"]
    rows = rows_of(folder)
    assert [(row["set_id"], row["position_id"]) for row in rows] == [
        (s, p) for s in range(3) for p in range(12)
    ]
    # Predictions are those of the library's own generation on the whole prompt.
    for number in (0, 17, 35):
        bundle = bundles[number // 12]
        encoded = encode(bundle)
        ids = torch.tensor([[*encoded.prefix.tolist(), *encoded.branches[number % 12].ids]])
        made = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=3, do_sample=False)
        assert rows[number]["pred"] == tokenizer.decode(made[0, ids.shape[1] :], skip_special_tokens=True)
    assert len({row["pred"] for row in rows}) > 5
    assert "3/3 contexts, 36/36 answers" in said.getvalue()
    # The rows carry all that scoring needs.
    from lcx.evaluation.predictions import score_predictions

    again = score_predictions(NAME, folder / "predictions-val-database.jsonl", span=4)
    assert again["average"] == task["average"]


def test_a_killed_run_goes_on(
    tmp_path: Path, model: Any, tokenizer: Any, bundles: list[Bundle], monkeypatch: pytest.MonkeyPatch
) -> None:
    encode, asked = Encode(tokenizer), []
    real = decode.decode_bundle

    def counted(model: Any, encoded: EncodedBundle, **more: Any) -> list[list[int]]:
        asked.append(encoded.id)
        if len(asked) == 3:
            raise KeyboardInterrupt
        return real(model, encoded, **more)

    monkeypatch.setattr(decode, "decode_bundle", counted)
    ctx, _ = context()
    with pytest.raises(KeyboardInterrupt):
        run_probes({NAME: bundles}, encode, model, tokenizer, settings(), tmp_path / "a", ctx)
    assert not (tmp_path / "a" / "scores.json").exists()
    journal = tmp_path / "a" / "journal.jsonl"
    journal.write_bytes(journal.read_bytes() + b'{"unit": "torn')
    run_probes({NAME: bundles}, encode, model, tokenizer, settings(), tmp_path / "a", ctx)
    assert asked[3:] == [bundles[2].id], "two contexts were done; only the third is answered"
    monkeypatch.setattr(decode, "decode_bundle", real)
    run_probes({NAME: bundles}, encode, model, tokenizer, settings(), tmp_path / "b", ctx)
    for name in ("predictions-val-database.jsonl", "scores.json", "curve-val-database.png"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_the_journal_of_another_model_is_not_used(
    tmp_path: Path, model: Any, tokenizer: Any, bundles: list[Bundle]
) -> None:
    ctx, _ = context()
    other = varied(1, len(tokenizer))
    run_probes({NAME: bundles}, Encode(tokenizer), model, tokenizer, settings(), tmp_path / "a", ctx)
    first = rows_of(tmp_path / "a")
    run_probes({NAME: bundles}, Encode(tokenizer), other, tokenizer, settings(), tmp_path / "a", ctx)
    run_probes({NAME: bundles}, Encode(tokenizer), other, tokenizer, settings(), tmp_path / "b", ctx)
    assert rows_of(tmp_path / "a") == rows_of(tmp_path / "b") != first


def test_too_long_contexts(tmp_path: Path, model: Any, tokenizer: Any, bundles: list[Bundle]) -> None:
    encode = Encode(tokenizer)
    longest = {len(encode(bundle).prefix) for bundle in bundles}
    assert longest == {155}, "twelve records of 12 tokens, and newlines"
    ctx, _ = context()
    with pytest.raises(UsageError) as error:
        run_probes({NAME: bundles}, encode, model, tokenizer, settings(window=100), tmp_path / "e", ctx)
    words = error.value.what + error.value.hint
    assert "162" in error.value.what  # 155, a question of 4, an answer of 3
    assert "100" in error.value.what
    assert "sizes.database" in words
    assert not (tmp_path / "e").exists()
    exact = settings(window=162)
    assert (
        run_probes({NAME: bundles}, encode, model, tokenizer, exact, tmp_path / "x", ctx)["tasks"][NAME]["n"]
        == 36
    )

    drop = settings(window=100, too_long="drop")
    task = run_probes({NAME: bundles}, encode, model, tokenizer, drop, tmp_path / "d", ctx)["tasks"][NAME]
    # What was never asked is no wrong answer: dropped contexts leave the score alone.
    assert (task["dropped"], task["skipped"], task["average"], task["truncated"]) == (3, 36, None, 0)
    assert task["nulls"] == 0
    assert {row["pred"] for row in rows_of(tmp_path / "d")} == {None}

    cut = settings(window=100, too_long="truncate-middle")
    task = run_probes({NAME: bundles}, encode, model, tokenizer, cut, tmp_path / "t", ctx)["tasks"][NAME]
    assert (task["dropped"], task["nulls"], task["truncated"], task["context_tokens"]) == (0, 0, 3, 93)
    job = runner.fit(bundles[0], encode(bundles[0]), 100, 3, "truncate-middle")
    assert job.encoded is not None
    whole = encode(bundles[0]).prefix.tolist()
    assert job.encoded.prefix.tolist() == whole[:47] + whole[-46:]
    with pytest.raises(UsageError):
        runner.fit(bundles[0], encode(bundles[0]), 7, 3, "truncate-middle")


def test_the_models_own_window_counts(
    tmp_path: Path, model: Any, tokenizer: Any, bundles: list[Bundle]
) -> None:
    ctx, _ = context()
    before = model.config.max_position_embeddings
    model.config.max_position_embeddings = 128
    try:
        with pytest.raises(UsageError, match="window is 128"):
            run_probes({NAME: bundles}, Encode(tokenizer), model, tokenizer, settings(), tmp_path, ctx)
        run_probes({NAME: bundles}, Encode(tokenizer), model, tokenizer, settings(window=500), tmp_path, ctx)
    finally:
        model.config.max_position_embeddings = before


def test_thinning_spreads_evenly(bundles: list[Bundle]) -> None:
    assert thin(bundles[0], None) is bundles[0]
    assert thin(bundles[0], 12) is bundles[0]
    assert [branch.meta["position"] for branch in thin(bundles[0], 3).branches] == [2, 6, 10]
    assert [branch.meta["position"] for branch in thin(bundles[0], 1).branches] == [6]


def test_end_tokens(model: Any, tokenizer: Any) -> None:
    assert stop_ids(model, tokenizer) == {2}
    assert stop_ids(model, tokenizer, " ;") == {2, tokenizer.convert_tokens_to_ids(" ;")}
    assert stop_ids(model, tokenizer, " ; ;") == {2}
    assert slug("val:database") == "val-database"


def test_progress_off_a_terminal_is_plain_lines_now_and_then() -> None:
    now = [0.0]
    ctx, said = context()
    with Meter(ctx, "val:code", 4, 400, clock=lambda: now[0]) as meter:
        meter.skip(100)
        for _ in range(30):
            now[0] += 1.0
            meter.answers(5)
        meter.context()
        assert meter.text() == "2/4 contexts, 250/400 answers, 5.0/s, 30s left"
    lines = said.getvalue().splitlines()
    assert lines[0] == "val:code: 1/4 contexts, 150/400 answers, 5.0/s, 50s left"
    assert len(lines) == 4
    assert "\x1b" not in said.getvalue()
    assert [duration(s) for s in (0.2, 59.4, 60, 200, 7500)] == ["0s", "59s", "1m00s", "3m20s", "2h05m"]
