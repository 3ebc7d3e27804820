"""Perplexity by position, against log-probabilities from full logits; what is read, and what a kill leaves."""

from __future__ import annotations

import io
import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM

from lcx.context import Context
from lcx.data.templates import load_template
from lcx.errors import UsageError
from lcx.evaluation.local_model import LocalModel
from lcx.evaluation.probes import perplexity
from lcx.evaluation.probes.perplexity import PERPLEXITY, bucket_edges, sums_between
from lcx.evaluation.runner import run_tasks
from lcx.evaluation.samples import TaskData
from lcx.evaluation.settings import EvalSettings
from lcx.evaluation.task import Task, TaskOptions, TextSample
from lcx.modeling.logprobs import text_logprobs
from lcx.records import Document
from tests.evaluation.tasks import build

VOCAB = 90
SIZES = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 300,
    "initializer_range": 0.3,
}


def llama(seed: int = 0) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(LlamaConfig(**SIZES)).eval()


def mistral() -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return MistralForCausalLM(MistralConfig(**SIZES, sliding_window=20)).eval()


def naive(model: Any, ids: Any) -> np.ndarray:
    """log p(x_t | x_<t) from the logits of one plain forward pass, in double precision."""
    with torch.no_grad():
        logits = model(torch.tensor([list(ids)])).logits[0].double()
    table = torch.log_softmax(logits, -1)
    return np.array([float(table[t - 1, ids[t]]) for t in range(1, len(ids))])


def tokenize(text: str) -> list[int]:
    """A token a character."""
    return [ord(letter) % VOCAB for letter in text]


def options(**more: Any) -> dict[str, Any]:
    return {"lengths": (50, 120), "buckets": 4, "sets": 3, "tokenize": tokenize, **more}


@pytest.mark.parametrize("make", [llama, mistral])
@pytest.mark.parametrize("chunk", [7, 64, 1024])
def test_log_probabilities_are_those_of_full_logits(make: Any, chunk: int) -> None:
    model, ids = make(), np.random.default_rng(0).integers(0, VOCAB, 150).tolist()
    rows: list[int] = []
    model.lm_head.register_forward_hook(lambda _, given, __: rows.append(given[0].shape[1]))
    done: list[int] = []
    found = text_logprobs(model, ids, chunk=chunk, on_done=done.append)
    assert max(rows) <= chunk, "logits of a chunk at a time, never of the whole text"
    assert sum(done) == len(found) == 149
    np.testing.assert_allclose(found.numpy(), naive(model, ids), atol=2e-5)


def test_short_texts_have_no_probabilities() -> None:
    assert len(text_logprobs(llama(), [3])) == 0
    assert len(text_logprobs(llama(), [3, 4])) == 1


def test_a_measure_of_texts_equals_the_naive_one() -> None:
    documents = [Document(str(n), chr(33 + n) * 3 + "abc def ghi. " * 30) for n in range(3)]
    readings = build(PERPLEXITY, documents, 0, **options(opening=(1,)))
    assert [len(reading.ids) for reading in readings] == [120] * 3
    assert [reading.ids[0] for reading in readings] == [1] * 3
    assert [list(reading.ids[1:]) for reading in readings] == [tokenize(d.text)[:119] for d in documents]
    model = llama()
    results = [PERPLEXITY.measure(model, reading, lambda _: None) for reading in readings]
    assert json.loads(json.dumps(results)) == results
    scores = PERPLEXITY.summarize_texts(readings, results)
    known = np.array(
        [naive(model, reading.ids) for reading in readings]
    )  # [3, 119]: tokens at places 1 to 119
    assert scores["n"] == 3 * 119
    assert scores["nll"] == pytest.approx(-known.mean(), abs=1e-5)
    assert scores["perplexity"] == pytest.approx(math.exp(-known.mean()), rel=1e-5)
    assert scores["edges"] == [0, 30, 60, 90, 120]
    assert scores["counts"] == [3 * 29, 90, 90, 90]
    for number, (start, end) in enumerate([(0, 29), (29, 59), (59, 89), (89, 119)]):
        assert scores["curve"][number] == pytest.approx(-known[:, start:end].mean(), abs=1e-5)
    assert scores["lengths"] == [50, 120]
    assert scores["at_length"] == pytest.approx(
        [math.exp(-known[:, :49].mean()), math.exp(-known.mean())], rel=1e-5
    )


def test_edges_hold_every_length_and_even_buckets() -> None:
    assert bucket_edges((50, 120), 4) == (0, 30, 50, 60, 90, 120)
    assert bucket_edges((5,), 32) == (0, 1, 2, 3, 4, 5)
    sums, counts = sums_between([-1.0, -2.0, -4.0, -8.0], (0, 1, 3, 9))
    assert (sums, counts) == ([0.0, 3.0, 12.0], [0, 2, 2])


def test_long_documents_are_texts_by_themselves_and_short_ones_are_joined_whole() -> None:
    long = Document("long", "x" * 5000)
    short = [Document(f"s{n}", f"{chr(65 + n)}" * 40) for n in range(12)]
    made = build(PERPLEXITY, [*short[:6], long, *short[6:]], 0, **options(sets=4))
    assert [reading.meta["documents"] for reading in made] == [1, 3, 3, 3]
    assert list(made[0].ids) == tokenize("x" * 120)
    letters = {ord(document.text[0]) % VOCAB: document.id for document in short}
    separator = tokenize("\n\n")
    used: list[str] = []
    for reading in made[1:]:
        ids = list(reading.ids)
        parts = [ids[:40], ids[42:82], ids[84:120]]
        assert ids[40:42] == ids[82:84] == separator
        assert all(len(set(part)) == 1 for part in parts)
        used += [letters[part[0]] for part in parts]
    assert len(set(used)) == 9, "no document twice"
    assert made == build(PERPLEXITY, [*short[:6], long, *short[6:]], 0, **options(sets=4))
    assert made[1:] != build(PERPLEXITY, [*short[:6], long, *short[6:]], 1, **options(sets=4))[1:]
    scores = PERPLEXITY.summarize_texts(made, [{"sums": [1.0] * 5, "counts": [1] * 5} for _ in made])
    assert (scores["texts"], scores["documents"], scores["joined"]) == (4, 10, 3)


def test_the_start_of_a_long_document_is_what_all_of_it_would_begin_with(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    text = "ab " * 4000
    seen: list[int] = []

    def words(part: str) -> list[int]:
        seen.append(len(part))
        return [len(word) for word in part.split()]

    (reading,) = build(PERPLEXITY, [Document("d", text)], 0, **options(sets=1, tokenize=words))
    assert len(reading.ids) == 120
    assert max(seen) < 1200
    # Where tokens are longer than expected, all of the document is tokenised.
    spaced = ("a" + " " * 50) * 300
    (reading,) = build(PERPLEXITY, [Document("d", spaced)], 0, **options(sets=1, tokenize=words))
    assert len(reading.ids) == 120
    assert perplexity.LONG_TOKEN * 120 < 300 * 51


def test_too_small_a_corpus_and_fewer_texts() -> None:
    with pytest.raises(UsageError, match="needs 120 tokens a text, but the corpus gives 15"):
        build(PERPLEXITY, [Document("d", "only a few here")], 0, **options())
    assert len(build(PERPLEXITY, [Document("d", "z" * 200)], 0, **options())) == 1
    assert (
        len(build(PERPLEXITY, [Document("d", "z" * 5000)], 0, **options(lengths=(), window=150))[0].ids)
        == 128
    )
    with pytest.raises(UsageError, match="tokenizer"):
        build(PERPLEXITY, [], 0, **options(tokenize=None))


def texts(count: int = 3) -> list[TextSample]:
    documents = [Document(str(n), chr(40 + n) * 5 + "qwe rty uio. " * 30) for n in range(count)]
    return build(PERPLEXITY, documents, 0, **options(sets=count))


def context() -> Context:
    return Context(console=Console(file=io.StringIO(), width=200))


def run(folder: Path, readings: list[TextSample], measure: Task | None = None, **more: Any) -> dict[str, Any]:
    measure = measure or PERPLEXITY
    settings = EvalSettings(tasks=(measure.name,), model="m", **more)
    one = TaskData(
        measure.name,
        measure,
        settings,
        load_template("plain"),
        1,
        settings.too_long or "error",
        texts=readings,
    )
    scores, answering = run_tasks([one], LocalModel.of(llama(), None, settings, context()), folder, context())
    assert answering == {}
    return scores[measure.name]


def test_a_killed_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    readings, asked = texts(), []
    from dataclasses import replace

    def counted(model: Any, reading: TextSample, on_done: Any) -> dict[str, Any]:
        asked.append(reading.id)
        if len(asked) == 3:
            raise KeyboardInterrupt
        return PERPLEXITY.measure(model, reading, on_done)

    measure = replace(PERPLEXITY, measure=counted)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "a", readings, measure)
    went_on = run(tmp_path / "a", readings, measure)
    assert asked == [readings[0].id, readings[1].id, readings[2].id, readings[2].id]
    assert went_on == run(tmp_path / "b", readings)
    # Other texts under the same names are read anew.
    other = [replace(reading, ids=reading.ids[::-1]) for reading in readings]
    run(tmp_path / "a", other, measure)
    assert len(asked) == 7


def test_texts_longer_than_the_window(tmp_path: Path) -> None:
    readings = texts()
    with pytest.raises(UsageError, match="has 120 tokens, but the model's window is 100"):
        run(tmp_path / "e", readings, window=100)
    assert not (tmp_path / "e").exists()
    none = run(tmp_path / "d", readings, window=100, too_long="drop")
    assert (none["n"], none["texts"], none["dropped"], none["perplexity"]) == (0, 0, 3, None)
    cut = run(tmp_path / "t", readings, window=100, too_long="truncate-middle")
    whole = run(tmp_path / "w", readings, window=120)
    assert (cut["n"], cut["truncated"], cut["counts"][-1]) == (3 * 99, 3, 3 * 10)
    assert cut["curve"][:3] == pytest.approx(whole["curve"][:3])
    assert cut["at_length"] == [pytest.approx(whole["at_length"][0]), None]


def test_a_plugins_own_measure_and_view(tmp_path: Path) -> None:
    from tests.evaluation.from_scores import task_text

    mine = Task(
        name="length",
        summary="how long texts are",
        samples=lambda source, options: [TextSample("one", (1, 2, 3))],
        options=TaskOptions,
        measure=lambda model, reading, on_done: {"tokens": len(reading.ids)},
        summarize_texts=lambda readings, results: {"n": 1, "average": 0.25, "tokens": results[0]["tokens"]},
        view="mine",
    )
    made = run(tmp_path / "o", build(mine, []), mine)
    assert (made["average"], made["tokens"], made["view"]) == (0.25, 3, "mine")
    assert {path.name for path in (tmp_path / "o").iterdir()} == {"journal.jsonl"}
    assert "0.250" in task_text("length", {"m": made})


def test_the_guides_own_measure_runs(tmp_path: Path) -> None:
    guide = (Path(__file__).parents[2] / "docs" / "eval.md").read_text(encoding="utf-8")
    [code] = re.findall(r"^```python\n(.*?)^```$", guide, re.M | re.S)
    module: dict[str, Any] = {}
    exec(compile(code, "eval.md", "exec"), module)
    surprise = module["SURPRISE"]
    readings = build(
        surprise, [Document("a", "qwerty" * 30), Document("b", "uiop" * 200)], sets=2, tokenize=tokenize
    )
    made = run(tmp_path, readings, surprise)
    known = np.concatenate([naive(llama(), reading.ids) for reading in readings])
    assert made["n"] == len(known) == 179 + 255
    assert made["average"] == pytest.approx((known < -10).mean())
    assert made["average"] > 0
