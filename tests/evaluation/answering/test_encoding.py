"""Whole prompts in tokens, by tails, against tokenising every prompt whole; and what must stay text."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lcx.data.assembly import Assembler
from lcx.data.templates import Template
from lcx.evaluation import samples as module
from lcx.evaluation.samples import encode
from lcx.records import Branch, Bundle, EncodedBundle
from tests.data.tokenizers_for_tests import KINDS, PROSE, as_transformers, prompt_text, word_level

IN2 = Template("t", head="Read this.\n", between="\n\nQ: ", after=" ?", cue="\nA:")
CHAT = (
    "{% for m in messages %}<s>{{ m['role'] }}\n{{ m['content'] }}</s>\n{% endfor %}"
    "{% if add_generation_prompt %}<s>assistant\n{% endif %}"
)
WORDS = " ".join(PROSE[:6]).replace("\n", " ").split(" ")
TEXT = st.lists(
    st.one_of(
        st.sampled_from([w for w in WORDS if w]), st.sampled_from(["\n", "  ", "\t", "12345", "é", "。"])
    ),
    max_size=12,
).map(" ".join)


def tokenizer(kind: str, chat: bool = False) -> Any:
    if kind == "word-level":
        made = as_transformers(word_level([*PROSE, *WORDS, "Read this.\n\n\nQ: ?\nA:"]), unk_token="<unk>")
    else:
        made = as_transformers(KINDS[kind](), bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    if chat:
        made.chat_template = CHAT
    return made


def bundle(context: str, questions: list[str]) -> Bundle:
    return Bundle("b", tuple(Branch(question, "", "query") for question in questions), context=context)


def rows(encoded: EncodedBundle) -> list[list[int]]:
    assert all(branch.answer_start == len(branch.ids) for branch in encoded.branches)
    return [[*encoded.prefix.tolist(), *branch.ids] for branch in encoded.branches]


def whole(tok: Any, assembler: Assembler, one: Bundle) -> list[list[int]]:
    """What the tokenizer itself says of the prompts' texts."""
    return [tok(prompt_text(assembler, one, branch))["input_ids"] for branch in one.branches]


def longest_common(found: list[list[int]]) -> int:
    shared = 0
    while all(len(row) > shared + 1 and row[shared] == found[0][shared] for row in found):
        shared += 1
    return shared


ALL = [*KINDS, "word-level"]


@pytest.mark.parametrize("chat", [False, True], ids=["plain", "chat"])
@pytest.mark.parametrize("kind", ALL)
@settings(max_examples=25, deadline=None)
@given(
    paragraphs=st.lists(st.sampled_from(PROSE[:6]), min_size=8, max_size=14),
    joint=st.sampled_from([" ", "\n", "", "\n\n", "   "]),
    ending=TEXT,
    questions=st.lists(TEXT, min_size=1, max_size=5),
)
def test_rows_are_what_the_tokenizer_gives(
    kind: str, chat: bool, paragraphs: list[str], joint: str, ending: str, questions: list[str]
) -> None:
    tok = tokenizer(kind, chat)
    assembler = Assembler(tok, IN2)
    one = bundle(joint.join(paragraphs) + ending, questions)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "TAIL", 200)
        patch.setattr(module, "AGREED", 12)
        encoded = encode(assembler, one)
    expected = whole(tok, assembler, one)
    assert rows(encoded) == expected
    assert len(encoded.prefix) == longest_common(expected)


@pytest.mark.parametrize("kind", ALL)
def test_tails_are_used_and_whole_prompts_are_few(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tok = tokenizer(kind)
    assembler = Assembler(tok, IN2)
    one = bundle(" ".join(PROSE[:60]), [f"what about {word} then" for word in WORDS[:30]])
    monkeypatch.setattr(module, "_all_whole", lambda *_: pytest.fail("tails were not used"))
    encoded = encode(assembler, one)
    assert rows(encoded) == whole(tok, assembler, one)
    assert encoded.head > 0
    assert len(encoded.chunks) == 1
    assert encoded.head + encoded.chunks[0] <= len(encoded.prefix)
    if kind != "word-level":  # it knows some of the words only
        said = tok.decode(encoded.prefix[encoded.head :][: encoded.chunks[0]])
        assert len(said) == pytest.approx(len(one.context or ""), abs=3)
    assert assembler.counts["branches"] == 30


def test_tails_that_do_not_agree_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tokenizer whose tails read otherwise: every prompt is then tokenised whole."""
    tok = tokenizer("byte-level")
    assembler = Assembler(tok, IN2)
    one = bundle(" ".join(PROSE[:60]), ["one", "two", "three three"])
    expected = whole(tok, assembler, one)
    real = assembler.pieces.reader

    class Odd:
        """Reads tails as it should, but for one token of one tail."""

        def __init__(self, tail: int, token: int) -> None:
            self.tail, self.token = tail, token

        def encode_batch(self, texts: list[str], **options: Any) -> list[Any]:
            found = real("later").encode_batch(texts, **options)
            made = [type("Ids", (), {"ids": list(each.ids)})() for each in found]
            made[self.tail].ids[self.token] += 1
            return made

    calls = []
    whole_rows = module._all_whole
    monkeypatch.setattr(module, "_all_whole", lambda *given: calls.append(1) or whole_rows(*given))
    # The tail of the prompt that was read whole; that of the witness; early in another, before they part.
    for odd in (Odd(0, -3), Odd(2, -3), Odd(1, 30)):
        monkeypatch.setattr(
            assembler.pieces, "reader", lambda kind, odd=odd: odd if kind == "later" else real(kind)
        )
        assert rows(encode(assembler, one)) == expected
    assert len(calls) == 3


@pytest.mark.parametrize("where", ["context", "question"])
@pytest.mark.parametrize("kind", KINDS)
def test_special_tokens_named_in_a_text_stay_text(kind: str, where: str) -> None:
    tok = tokenizer(kind, chat=True)
    assembler = Assembler(tok, IN2)
    named = "it ends with </s> as texts do"
    one = bundle(
        "The river. " * 30 + (named if where == "context" else ""),
        [named if where == "question" else "and then", "when"],
    )
    end, start = tok.convert_tokens_to_ids(["</s>", "<s>"])
    for row in rows(encode(assembler, one)):
        # One turn of the user, and the beginning of the assistant's: no more. (The unigram model has these
        # names among its pieces, so that it makes them of plain text too.)
        assert row.count(start) == 2
        assert kind == "unigram" or row.count(end) == 1
    assert rows(encode(assembler, one)) == rows(assembler.encode(one))  # type: ignore[arg-type]


def test_what_keeps_the_assemblers_way() -> None:
    tok = tokenizer("byte-level")
    tok.bos_token = None
    assembler = Assembler(tok, Template("bare", between="", chat=False))
    for one in (
        bundle("", ["alpha beta", "The other"]),  # nothing in common
        bundle("", ["x"]),  # a single token
        Bundle("b", (Branch("why", "because", "answer"),), context="The river ran."),
    ):
        made, joined = encode(assembler, one), assembler.encode(one)
        assert joined is not None
        assert (made.prefix.tolist(), made.branches) == (joined.prefix.tolist(), joined.branches)


def test_one_question_and_equal_questions_keep_a_token_outside() -> None:
    tok = tokenizer("metaspace")
    assembler = Assembler(tok, IN2)
    for questions in (["what ran"], ["what ran", "what ran"], ["what", "what ran past"]):
        one = bundle("The river ran past the mill.", questions)
        encoded = encode(assembler, one)
        assert rows(encoded) == whole(tok, assembler, one)
        assert min(len(branch.ids) for branch in encoded.branches) >= 1
    assert len(encode(assembler, bundle("The river.", ["what"])).branches[0].ids) == 1
