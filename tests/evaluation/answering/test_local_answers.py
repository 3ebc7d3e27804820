"""Answers of a model in this process: ways, finish reasons, batches, and a self-check that finds what is broken."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from lcx.context import Context
from lcx.data.assembly import Assembler
from lcx.data.templates import Template
from lcx.errors import UsageError
from lcx.evaluation import local_model as module
from lcx.evaluation.local_model import open_local, verdict
from lcx.evaluation.model import Answer, self_check
from lcx.evaluation.samples import ContextPrompts, encode, fit
from lcx.evaluation.settings import EvalSettings
from lcx.evaluation.task import Sampling
from lcx.modeling import decode_kv
from lcx.modeling.decode import Traced
from lcx.records import Branch, Bundle
from tests.data.tokenizers_for_tests import PROSE, as_transformers, byte_level
from tests.modeling.families import OTHERS, build, recomputed

TEMPLATE = Template("t", head="Read.\n", between="\nQ: ", after="?", cue="\nA:")
NEW = 8


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return as_transformers(byte_level(), bos_token="<s>", eos_token="</s>", padding_side="right")


@pytest.fixture(scope="module")
def model(tokenizer: Any) -> Any:
    return build("Llama", vocab_size=len(tokenizer), seed=4)


@pytest.fixture(scope="module")
def jobs(tokenizer: Any) -> list[ContextPrompts]:
    assembler = Assembler(tokenizer, TEMPLATE)
    made = []
    for number, (context, questions) in enumerate(
        [
            (PROSE[0] * 2, ["what ran", "who counted the sacks of grain", "when"]),
            (PROSE[2], ["a single one"]),
            ("", ["nothing to read"]),
            (PROSE[1], ["which loop", "x"]),
            (PROSE[4], ["another single one, rather longer than the others"]),
        ]
    ):
        branches = tuple(Branch(question, "", "query") for question in questions)
        bundle = Bundle(f"b{number}", branches, context=context)
        made.append(ContextPrompts(bundle, encode(assembler, bundle)))
    made.insert(2, ContextPrompts(made[0].bundle, None))  # one that was dropped
    return made


def expected(
    model: Any, jobs: list[ContextPrompts], new: int = NEW, stops: tuple[int, ...] = ()
) -> list[list[Answer]]:
    """Answers by full recomputation, without their texts."""
    found = []
    for job in jobs:
        row = []
        for place in range(len(job.bundle.branches)) if job.encoded else ():
            tokens, _ = recomputed(model, module.prompt_ids(job, place), new)
            end = next((at for at, token in enumerate(tokens) if token in stops), new)
            row.append(Answer("", "stop" if end < new else "length", end, tuple(tokens[:end])))
        found.append(row)
    return found


def bare(found: list[list[Answer]]) -> list[list[Answer]]:
    return [[replace(one, text="") for one in row] for row in found]


@pytest.mark.parametrize("short", [0, 1024], ids=["each context alone", "short ones together"])
@pytest.mark.parametrize("reuse", [True, False])
def test_answers_and_finish_reasons(
    model: Any,
    tokenizer: Any,
    jobs: list[ContextPrompts],
    reuse: bool,
    short: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "SHORT", short)
    free = expected(model, jobs)
    stops = (free[0][0].ids[3], free[3][0].ids[0])
    wanted = expected(model, jobs, stops=stops)
    assert Counter(one.finish for row in wanted for one in row).keys() == {"stop", "length"}
    answerer = open_local(model, tokenizer, stops=stops, batch=3, reuse=reuse)
    assert answerer.reuse is reuse
    assert answerer.reason == answerer.describe()["reason"]
    told: dict[tuple[int, int], Answer] = {}
    found = answerer.answer(
        jobs, max_new_tokens=NEW, on_answer=lambda job, place, one: told.update({(job, place): one})
    )
    assert bare(found) == wanted
    assert [[told[at, place] for place in range(len(row))] for at, row in enumerate(found)] == found
    assert len(told) == 8
    assert found[0][1].text == tokenizer.decode(list(found[0][1].ids), skip_special_tokens=True)
    check = self_check(answerer, jobs, 50, 0, max_new_tokens=NEW, previous=found)
    assert (check["checked"], check["equal"] + check["ties"], check["different"]) == (8, 8, [])
    assert "warning" not in check


@pytest.mark.parametrize("batch", [1, 2, 64])
def test_greedy_answers_do_not_depend_on_the_batch(
    model: Any, tokenizer: Any, jobs: list[ContextPrompts], batch: int
) -> None:
    answerer = open_local(model, tokenizer, stops=(), batch=batch)
    assert bare(answerer.answer(jobs, max_new_tokens=NEW)) == expected(model, jobs)


def test_copied_caches_and_encoder_decoders(tokenizer: Any, jobs: list[ContextPrompts]) -> None:
    family, changes, _ = OTHERS["bamba"]
    hybrid = build(family, vocab_size=len(tokenizer), **changes)
    answerer = open_local(hybrid, tokenizer, stops=())
    assert (answerer.name, answerer.reuse) == ("copied", True)
    assert answerer.reason.startswith("cache copied per query")
    found = answerer.answer(jobs, max_new_tokens=NEW)
    assert bare(found) == expected(hybrid, jobs)
    assert self_check(answerer, jobs, 3, 1, max_new_tokens=NEW, previous=found)["equal"] == 3
    hybrid.config.is_encoder_decoder = True
    with pytest.raises(UsageError, match="encoder-decoder"):
        open_local(hybrid, tokenizer, stops=())


def broken_join(first: Any, second: Any) -> torch.Tensor:
    """Forgets that the two parts of the softmax have weights."""
    return 0.5 * (first[0] + second[0])


def test_a_broken_decoder_is_found(
    model: Any, tokenizer: Any, jobs: list[ContextPrompts], monkeypatch: pytest.MonkeyPatch
) -> None:
    answerer = open_local(model, tokenizer, stops=())
    good = answerer.answer(jobs, max_new_tokens=NEW)
    monkeypatch.setattr(decode_kv, "_join", broken_join)
    found = answerer.answer(jobs, max_new_tokens=NEW)
    assert found != good
    check = self_check(answerer, jobs, 4, 0, max_new_tokens=NEW, previous=found)
    assert check["checked"] == 4
    assert check["different"]
    assert check["equal"] + check["ties"] + len(check["different"]) == 4
    assert all(name in check["warning"] for name in check["different"])
    # Answers that were given before, whose tokens nobody kept, are made again: and found wrong.
    texts = [[replace(one, ids=()) for one in row] for row in good]
    assert self_check(answerer, jobs, 8, 0, max_new_tokens=NEW, previous=texts)["different"]


def test_one_position_off_is_found(
    model: Any, tokenizer: Any, jobs: list[ContextPrompts], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = decode_kv.BranchDecoder.prefill

    def shifted(self: Any, prefix: Any, positions: Any = None) -> None:
        real(self, prefix, positions)
        self._next += 1

    monkeypatch.setattr(decode_kv.BranchDecoder, "prefill", shifted)
    answerer = open_local(model, tokenizer, stops=())
    assert self_check(answerer, [jobs[0]], 3, 0, max_new_tokens=NEW)["different"]


def test_what_is_checked_is_drawn_by_seed_and_from_many_contexts(
    model: Any, tokenizer: Any, jobs: list[ContextPrompts], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows: list[tuple[int, ...]] = []

    def spied(_: Any, row: list[int], **given: Any) -> Traced:
        rows.append(tuple(row))
        return Traced([], [])

    monkeypatch.setattr("lcx.modeling.decode.trace", spied)
    answerer = open_local(model, tokenizer, stops=())
    none = [[Answer("", "length", 0)] * len(job.bundle.branches) for job in jobs]
    for seed in (0, 0, 1):
        self_check(answerer, jobs, 5, seed, max_new_tokens=NEW, previous=none)
    one, again, other = rows[:5], rows[5:10], rows[10:]
    assert one == again != other
    of = {tuple(module.prompt_ids(job, p)): n for n, job in enumerate(jobs) if job.encoded for p in range(len(job.bundle.branches))}  # fmt: skip  # noqa: E501
    assert len({of[row] for row in one}) == 5
    assert self_check(answerer, jobs, 0, 0, max_new_tokens=NEW) == {}


def traced(*steps: tuple[int, dict[int, float]]) -> Traced:
    logits = []
    for _, given in steps:
        row = torch.full((10,), -5.0)
        for token, value in given.items():
            row[token] = value
        logits.append(row)
    return Traced([token for token, _ in steps], logits)


@pytest.mark.parametrize(
    ("ids", "end", "outcome"),
    [
        ((3, 4), 0, "equal"),
        ((3, 5), 0, "ties"),  # 4 and 5 are within 1% of 5.0
        ((3, 6), 0, "different"),
        ((7, 4), 0, "different"),
        ((3,), 9, "different"),  # ours ended where the full computation went on, and not by a hair
        ((3,), 5, "ties"),  # ended by a token that was nearly as likely
        ((3, 4), 4, "different"),  # ours took an end token for text
        ((3,), 4, "equal"),  # both ended
        ((3, 4, 1), 0, "different"),  # longer than it may be
    ],
)
def test_verdicts(ids: tuple[int, ...], end: int, outcome: str) -> None:
    reference = traced((3, {3: 2.0}), (4, {4: 5.0, 5: 4.96, 6: 4.9}))
    assert verdict(ids, reference, [end], 2, 0.01) == outcome


def test_prompts_that_are_too_long_lose_their_middle(model: Any, tokenizer: Any) -> None:
    assembler = Assembler(tokenizer, TEMPLATE)
    context = " ".join(f"{number}" for number in range(400))
    for questions in (["first one"], ["first one", "a second, longer one", "third"]):
        bundle = Bundle("b", tuple(Branch(q, "", "query") for q in questions), context=context)
        whole = encode(assembler, bundle)
        rows = [module.prompt_ids(ContextPrompts(bundle, whole), place) for place in range(len(questions))]
        job = fit(bundle, whole, 200, NEW, "truncate-middle")
        assert job.cut > 0
        short = [module.prompt_ids(job, place) for place in range(len(questions))]
        assert max(map(len, short)) == 200 - NEW
        for row, cut in zip(rows, short, strict=True):
            keep = next(n for n in range(len(cut)) if row[n] != cut[n])
            assert cut == row[:keep] + row[len(row) - (len(cut) - keep) :]
            assert abs(keep - 100) < 12, "the middle goes, and the question stays"
        answers = open_local(model, tokenizer, stops=()).answer([job], max_new_tokens=NEW)
        assert bare(answers) == expected(model, [job])
    assert isinstance(job.encoded.prefix, np.ndarray)


def test_marks_of_thoughts_stay_in_the_text_special_tokens_or_opened_by_the_prompt(model: Any) -> None:
    """Without them, nobody could tell a thought from an answer."""
    own = as_transformers(byte_level(), bos_token="<s>", eos_token="</s>", padding_side="right")
    own.add_special_tokens({"additional_special_tokens": ["[THINK]", "[/THINK]", "<pad2>"]})
    answerer = open_local(model, own, stops=[own.eos_token_id])
    assert isinstance(answerer, module.LocalAnswerer)
    ids = own("[THINK]so[/THINK]7<pad2>", add_special_tokens=False)["input_ids"]
    assert answerer._answer(ids, 99).text == "[THINK]so[/THINK]7"
    own.chat_template = "{{ messages[0]['content'] }}<think>"
    assembler = Assembler(own, TEMPLATE)
    bundle = Bundle("b", (Branch("why", "", "query"),), context="A text.")
    prompts = ContextPrompts(bundle, encode(assembler, bundle))
    assert answerer._opened(prompts, 0) == "<think>"
    [[answer]] = answerer.answer([prompts], max_new_tokens=3)
    assert str(answer.text).startswith("<think>")


def test_samples_are_drawn_in_the_steps_precision_and_with_its_rope(
    model: Any, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[dict[str, Any]] = []
    monkeypatch.setattr(module, "ServedModel", lambda *_, options: given.append(options))
    rope = {"rope_theta": 5e6}
    for settings in (EvalSettings(precision="bf16", rope=rope, model_options={"batch": 3}), EvalSettings()):
        tested = module.LocalModel.of(model, tokenizer, settings, Context())
        tested._service = lambda: None  # type: ignore[assignment, return-value]
        tested.drawing(Sampling(4, 1.0, 1.0))
    assert given == [{"batch": 3, "precision": "bf16", "rope": rope}, {"batch": 64}]
