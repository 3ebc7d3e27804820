"""Prompts: the assembled tokens decode to the joined text, whatever tokenizer, template and chat turn."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
import tokenizers_for_tests as kinds

from lcx.data.assembly import Assembler, fit, share_question
from lcx.data.table import SegmentTable, build_table
from lcx.data.templates import TEMPLATES, chat_turn, load_template
from lcx.data.tokens import BUILTIN, TokenStore, open_token_store
from lcx.errors import LcxError, UsageError
from lcx.records import Branch, Bundle, Document, EncodedBranch, EncodedBundle

MISTRAL = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}"
    "{{ ' [INST] ' + m['content'] + ' [/INST]' }}"
    "{% else %}{{ ' ' + m['content'] + eos_token }}{% endif %}{% endfor %}"
)
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


@pytest.fixture
def table() -> SegmentTable:
    documents = [Document(f"d{i}", text) for i, text in enumerate(kinds.TRICKY)]
    return build_table(documents, BUILTIN["simple"], min_tokens=4)


def assembler(core: Any, template: str, table: SegmentTable, cache: Path, **special: Any) -> Assembler:
    tokenizer = kinds.as_transformers(core, **special)
    store: TokenStore = open_token_store(tokenizer, table, cache)
    return Assembler(tokenizer, template, table, store)


@pytest.mark.parametrize("template", ["in2", "plain"])
@pytest.mark.parametrize("kind", kinds.KINDS)
@pytest.mark.parametrize("context", ["plan", "text", "none"])
def test_prompt_decodes_to_its_text(
    kind: str, template: str, context: str, table: SegmentTable, tmp_path: Path
) -> None:
    made = assembler(
        kinds.KINDS[kind](), template, table, tmp_path, **({"eos_token": "</s>"} if "level" in kind else {})
    )
    branch = Branch("What did  the miller count? 漢字", "Sacks of grain — café 👍🏽.")
    other = Branch("Where?", "Past the mill.", role="rejected")
    where = {
        "plan": {"plan": (5, 0, 3, 9)},
        "text": {"context": " Text given\nas it is "},
        "none": {"context": ""},
    }
    bundle = Bundle("b", (branch, other), **where[context])
    encoded = made.encode(bundle)
    assert encoded is not None
    assert len(encoded.prefix) >= 1
    for given, row in zip(bundle.branches, encoded.branches, strict=True):
        ids = [*encoded.prefix.tolist(), *row.ids[: row.answer_start]]
        prompt = made.pieces.decode(ids)
        # Without head and context a start token stands where two questions have nothing in common.
        assert prompt in (
            kinds.prompt_text(made, bundle, given),
            f"{made.pieces.decode([made._start])}{kinds.prompt_text(made, bundle, given)}",
        )
        answer = row.ids[row.answer_start :]
        whole = made.pieces.decode([*ids, *answer])
        assert whole == prompt + given.answer + ("</s>" if "level" in kind else "")
    chunks = {"plan": 4, "text": 1, "none": 0}[context]
    assert len(encoded.chunks) == chunks
    if chunks:  # borrowed prefixes have no context
        assert encoded.head + sum(encoded.chunks) == len(encoded.prefix)
    for number, index in enumerate(bundle.plan or ()):
        start = encoded.head + sum(encoded.chunks[:number])
        piece = made.pieces.decode(encoded.prefix[: start + encoded.chunks[number]].tolist())
        before = made.pieces.decode(encoded.prefix[:start].tolist()) if start else ""
        assert piece[len(before) :].strip("\n ") == table.text(index).strip("\n ")


def test_mistral_chat_turn_wraps_head_and_tail(table: SegmentTable, tmp_path: Path) -> None:
    tokenizer = kinds.as_transformers(kinds.llama_legacy(), bos_token="<s>", eos_token="</s>")
    tokenizer.chat_template = MISTRAL
    turn = chat_turn(tokenizer)
    assert turn is not None
    assert (turn.before, turn.after, turn.lead, turn.close) == ("<s> [INST] ", " [/INST]", " ", "</s>")
    made = Assembler(tokenizer, "in2", table, open_token_store(tokenizer, table, tmp_path))
    bundle = Bundle("b", (Branch("Why </s> now?", "Because."),), plan=(1, 4, 2))
    encoded = made.encode(bundle)
    assert encoded is not None
    row = encoded.branches[0]
    ids = [*encoded.prefix.tolist(), *row.ids]
    head = turn.before + TEMPLATES["in2"].head
    assert (
        encoded.prefix.tolist()[: len(tokenizer(head, add_special_tokens=False)["input_ids"])]
        == (tokenizer(head, add_special_tokens=False)["input_ids"])
    )
    # Tokenizers of this kind put their space after the opening token too; transformers does the same.
    text = made.pieces.decode(ids).replace("<s>  [", "<s> [")
    assert text == kinds.prompt_text(made, bundle, bundle.branches[0]) + " Because.</s>"
    assert text.startswith("<s> [INST] You are given a long context")
    # One opening token, one end token; the question's own </s> stayed plain text.
    assert Counter(ids)[tokenizer.bos_token_id] == 1
    assert Counter(ids)[tokenizer.eos_token_id] == 1
    assert made.pieces.decode(row.ids[row.answer_start :]).strip() == "Because.</s>"
    assert "### Response" not in text


def test_chatml_ends_the_answer_with_its_end_token(table: SegmentTable, tmp_path: Path) -> None:
    from tokenizers import Tokenizer

    core = Tokenizer.from_str(kinds.byte_level().to_str())
    core.add_special_tokens(["<|im_start|>", "<|im_end|>"])
    tokenizer = kinds.as_transformers(core, eos_token="<|im_end|>")
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>"]})
    tokenizer.chat_template = CHATML
    made = Assembler(tokenizer, "plain", table, open_token_store(tokenizer, table, tmp_path))
    encoded = made.encode(Bundle("b", (Branch("q", "answer"),), plan=(0, 1)))
    assert encoded is not None
    row = encoded.branches[0]
    assert made.pieces.decode(row.ids[row.answer_start :]) == "answer<|im_end|>"
    assert (
        tokenizer.convert_ids_to_tokens(row.ids[: row.answer_start]).count("<|im_end|>") == 1
    )  # the user's turn ends as one token


def test_one_end_is_learnt_and_another_than_the_tokenizers_is_said(
    table: SegmentTable, tmp_path: Path
) -> None:
    from tokenizers import AddedToken, Tokenizer

    bundle = Bundle("b", (Branch("q", "answer"),), plan=(0, 1))

    def made(eos: str | None, chat: str | None, *, special: bool = True) -> tuple[str, str]:
        core = Tokenizer.from_str(kinds.byte_level().to_str())
        core.add_special_tokens([AddedToken("<|im_start|>"), AddedToken("</s>")])
        end = AddedToken("<|im_end|>", special=special)
        (core.add_special_tokens if special else core.add_tokens)([end])
        tokenizer = kinds.as_transformers(core, **({"eos_token": eos} if eos else {}))
        tokenizer.chat_template = chat
        one = Assembler(tokenizer, "plain", table, open_token_store(tokenizer, table, tmp_path))
        encoded = one.encode(bundle)
        assert encoded is not None
        row = encoded.branches[0]
        return one.pieces.decode(row.ids[row.answer_start :]).strip(), one.end_note

    assert made("<|im_end|>", CHATML) == ("answer<|im_end|>", "")
    for special in (True, False):
        text, note = made("</s>", CHATML, special=special)
        assert text == "answer<|im_end|>"
        assert "answers end with <|im_end|>" in note
        assert "own end token is </s>" in note
    assert made("</s>", None) == ("answer</s>", "")
    text, note = made(None, None)
    assert text == "answer"
    assert "will not learn to stop" in note


def test_a_template_that_opens_a_thought_is_said() -> None:
    from lcx.training.train import said_of_answers

    tokenizer = kinds.as_transformers(kinds.byte_level())
    tokenizer.chat_template = CHATML
    assert not any("thought" in note for note in said_of_answers(Assembler(tokenizer, "plain")))
    tokenizer.chat_template = CHATML.replace("<|im_start|>assistant\n", "<|im_start|>assistant\n<think>\n")
    assert tokenizer.chat_template != CHATML
    assert any("opens a thought (<think>)" in note for note in said_of_answers(Assembler(tokenizer, "plain")))


def test_tiny_template_follows_the_catalogues_lines(tmp_path: Path) -> None:
    from lcx.data.stdlib import load_entities, record_text, vocabulary

    entities = load_entities()[:20]
    lines = [record_text(entity, entity.module) for entity in entities]
    tiny = pytest.importorskip("lcx.modeling.tiny")
    tokenizer = tiny.build_tokenizer(vocabulary(entities))
    keys = [entity.name for entity in entities]
    table = build_table([Document("d", "\n".join(lines), {"keys": keys})], BUILTIN["simple"], mode="lines")
    made = Assembler(tokenizer, "tiny", table, open_token_store(tokenizer, table, tmp_path))
    entity = entities[7]
    bundle = Bundle("b", (Branch(entity.name, f"{entity.name} {entity.module}", gold=(1,)),), plan=(3, 7, 5))
    encoded = made.encode(bundle)
    assert encoded is not None
    ids = [*encoded.prefix.tolist(), *encoded.branches[0].ids]
    context = "\n".join(lines[i] for i in (3, 7, 5))
    whole = f"{context}\n? {entity.name} = {entity.name} {entity.module} ;"
    assert tokenizer.decode(ids) == whole
    assert ids == tokenizer(whole)["input_ids"]
    assert tokenizer.unk_token_id not in ids
    assert (
        encoded.branches[0].ids[encoded.branches[0].answer_start :]
        == tokenizer(f" {entity.name} {entity.module} ;")["input_ids"]
    )


def test_query_branches_have_no_answer(table: SegmentTable, tmp_path: Path) -> None:
    made = assembler(kinds.byte_level(), "plain", table, tmp_path, eos_token="</s>")
    encoded = made.encode(Bundle("b", (Branch("q", "reference", role="query"),), plan=(0,)))
    assert encoded is not None
    assert encoded.branches[0].answer_start == len(encoded.branches[0].ids)


def test_instruction_data_has_no_context_block(table: SegmentTable, tmp_path: Path) -> None:
    made = assembler(kinds.byte_level(), "in2", table, tmp_path, eos_token="</s>")
    bundle = Bundle("b", (Branch("Say hello.", "Hello."),), context="")
    encoded = made.encode(bundle)
    assert encoded is not None
    text = made.pieces.decode([*encoded.prefix.tolist(), *encoded.branches[0].ids])
    assert text == "Say hello.\n\n### Response:\nHello.</s>"
    row = encoded.branches[0]
    assert made.pieces.decode(row.ids[row.answer_start :]) == "Hello.</s>"


def test_a_template_can_come_from_a_file(tmp_path: Path) -> None:
    good = tmp_path / "mine.txt"
    good.write_text("Read:\n{context}\nQ: {question}\nA:\n")
    template = load_template(good)
    assert (template.name, template.head, template.between, template.after) == (
        "mine",
        "Read:\n",
        "\nQ: ",
        "\nA:",
    )
    for text in ("{context} only", "{question} then {context}", "{context}{context}{question}"):
        bad = tmp_path / "bad.txt"
        bad.write_text(text)
        with pytest.raises(UsageError):
            load_template(bad)
    with pytest.raises(UsageError) as caught:
        load_template("plian")
    assert "plain" in caught.value.hint
    assert len({template.hash for template in TEMPLATES.values()}) == len(TEMPLATES)


def test_a_plan_without_table_is_a_usage_error() -> None:
    made = Assembler(kinds.as_transformers(kinds.byte_level()), "plain")
    with pytest.raises(UsageError, match="segment table"):
        made.encode(Bundle("b", (Branch("q", "a"),), plan=(0,)))


def rows(prefix: int, *branches: int, positions: bool = False) -> EncodedBundle:
    made = tuple(EncodedBranch(list(range(n)), 1) for n in branches)
    return EncodedBundle("b", np.arange(prefix), made, np.arange(prefix) * 2 if positions else None)


def test_fit_counts_the_longest_row() -> None:
    bundle = rows(10, 3, 5)
    assert fit(bundle, 15) is bundle
    with pytest.raises(LcxError, match="bundle b has 15 tokens, more than max_tokens 14"):
        fit(bundle, 14)


def test_fit_drops_and_counts() -> None:
    counts: Counter[str] = Counter()
    assert fit(rows(10, 5), 14, "drop", counts) is None
    assert counts == {"dropped_too_long": 1}


@pytest.mark.parametrize("limit", [6, 7, 11, 14])
def test_fit_cuts_the_middle_of_the_prefix(limit: int) -> None:
    counts: Counter[str] = Counter()
    cut = fit(rows(10, 2, 5, positions=True), limit, "truncate-middle", counts)
    assert cut is not None
    assert cut.longest_row == limit
    kept = cut.prefix.tolist()
    assert kept == sorted(set(kept))
    assert kept[0] == 0
    assert len(kept) < 2 or kept[-1] == 9
    assert (cut.positions == cut.prefix * 2).all()
    assert counts == {"truncated_bundles": 1, "truncated_tokens": 15 - limit}


@pytest.mark.parametrize(
    ("limit", "kept"),
    [
        (26, [*range(13), *range(18, 30)]),  # the prefix's middle, which lies in the context
        (15, [*range(7), *range(23, 30)]),  # the half that comes last is the question's: no token of it goes
        (13, [*range(5), *range(23, 30)]),
        (12, [*range(4), *range(23, 30)]),  # no context is left
        (10, [*range(5), *range(26, 30)]),  # and here that is not enough
    ],
)
def test_a_cut_takes_from_the_context_first(limit: int, kept: list[int]) -> None:
    """One question's prefix ends with the question: what the model is asked must not be cut out."""
    one = EncodedBundle("b", np.arange(30), (EncodedBranch([90], 1, "query"),), head=4, chunks=(10, 9))
    cut = fit(one, limit, "truncate-middle")
    assert cut is not None
    assert cut.prefix.tolist() == kept
    assert cut.head == min(4, kept.index(max(n for n in kept if n < 23)) + 1)
    assert sum(cut.chunks) == sum(4 <= n < 23 for n in kept)
    long_head = EncodedBundle("b", np.arange(30), (EncodedBranch([90], 1, "query"),), head=20, chunks=(10,))
    assert fit(long_head, 26, "truncate-middle").prefix.tolist() == [*range(20), *range(25, 30)]  # type: ignore[union-attr]


def test_fit_refuses_what_cannot_fit() -> None:
    with pytest.raises(LcxError, match="max_tokens 5"):
        fit(rows(10, 5), 5, "truncate-middle")
    with pytest.raises(UsageError):
        fit(rows(10, 5), 5, "middle")


def test_cutting_and_sharing_keep_head_and_chunks() -> None:
    """A cut in the middle shortens the chunks that it goes through; a shared question follows the context."""
    encoded = EncodedBundle(
        "a",
        np.arange(30),
        tuple(
            EncodedBranch([90, 91, 92, answer], 3, role) for answer, role in ((7, "chosen"), (8, "rejected"))
        ),
        head=4,
        chunks=(10, 6, 10),
    )
    shared = share_question(encoded)
    assert shared.prefix.tolist() == [*range(30), 90, 91, 92]
    assert [(branch.ids, branch.answer_start) for branch in shared.branches] == [([7], 0), ([8], 0)]
    assert (shared.head, shared.chunks) == (4, (10, 6, 10))
    cut = fit(shared, 24, "truncate-middle")
    assert cut is not None
    assert cut.prefix.tolist() == [*range(12), *range(22, 30), 90, 91, 92]
    assert (cut.head, cut.chunks) == (4, (8, 8))
    other = EncodedBundle("b", np.arange(9), (EncodedBranch([1, 2, 3], 2), EncodedBranch([1, 4, 3], 2)))
    assert share_question(other) is other
