"""The segmentation rule: nothing lost, nothing too short, no character torn."""

from __future__ import annotations

import sys
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent))
import tokenizers_for_tests as kinds

from lcx.data.table import LONG, line_spans, safe_cut, segment_spans
from lcx.data.tokens import FastTokenizer, backend_of, open_span_tokenizer
from lcx.errors import LcxError, MissingError

SIMPLE = open_span_tokenizer("simple")
TEXTS = st.text(
    st.one_of(
        st.sampled_from("ab .!?\n\n\t é漢。\u0301\u200d👍🏽🇫🇷"), st.characters(exclude_categories=["Cs"])
    ),
    max_size=300,
)
LINES = st.lists(st.text("abc de.!", max_size=40), max_size=40).map("\n".join)


def rebuilt(text: str, spans: list[tuple[int, int, int]]) -> str:
    """The text from its segments: between two is a newline, or nothing where a line was cut."""
    parts = [text[spans[0][0] : spans[0][1]]]
    for (_, end, _), (start, stop, _) in pairwise(spans):
        assert start - end in (0, 1)
        parts += [text[end:start], text[start:stop]]
        assert text[end:start] in ("", "\n")
    return "".join(parts)


@settings(max_examples=300, deadline=None)
@given(st.one_of(TEXTS, LINES), st.integers(1, 20))
def test_segments_cover_the_text_and_none_is_short(text: str, least: int) -> None:
    tokens = SIMPLE.spans(text)
    spans = segment_spans(text, tokens, least)
    if not text.strip():
        assert spans == []
        return
    assert rebuilt(text, spans) == text
    starts = np.array([start for start, _ in tokens])
    for start, end, count in spans:
        assert count == ((starts >= start) & (starts < end)).sum()
        assert safe_cut(text, start) == start
    if len(spans) > 1:
        assert min(count for _, _, count in spans) >= least
    short = segment_spans(text, tokens, least, keep_short=False)
    assert short == spans or ((len(tokens) < least or len(spans) == 1) and short == [])


@settings(max_examples=100, deadline=None)
@given(LINES, st.integers(1, 20))
def test_without_long_lines_newlines_join_segments_to_the_text(text: str, least: int) -> None:
    tokens = SIMPLE.spans(text)
    longest = max((len(SIMPLE.spans(line)) for line in text.split("\n")), default=0)
    spans = segment_spans(text, tokens, least)
    if spans and longest <= LONG * least:
        assert "\n".join(text[start:end] for start, end, _ in spans) == text


def test_the_papers_rule_step_by_step() -> None:
    text = "a b\nc d\ne f\ng h\ni"  # one token a word and a newline
    spans = segment_spans(text, SIMPLE.spans(text), 4)
    assert [text[start:end] for start, end, _ in spans] == ["a b\nc d", "e f\ng h\ni"]
    assert [count for *_, count in spans] == [5, 7]


def test_a_short_text_gives_one_segment_or_none() -> None:
    tokens = SIMPLE.spans("tiny text")
    assert segment_spans("tiny text", tokens, 128) == [(0, 9, 2)]
    assert segment_spans("tiny text", tokens, 128, keep_short=False) == []
    assert segment_spans(" \n\n", SIMPLE.spans(" \n\n"), 1) == []
    assert segment_spans("", [], 1) == []
    with pytest.raises(ValueError):
        segment_spans("x", [(0, 1)], 0)


def test_a_one_line_file_is_cut_at_sentence_ends() -> None:
    text = " ".join(f"Sentence number {i} says one thing." for i in range(200))
    spans = segment_spans(text, SIMPLE.spans(text), 50)
    assert len(spans) > 20
    assert max(count for *_, count in spans) < 100
    assert all(text[start:end].rstrip().endswith("thing.") for start, end, _ in spans)


def test_a_line_without_sentences_is_cut_at_words() -> None:
    text = "word " * 1000
    spans = segment_spans(text, SIMPLE.spans(text), 50)
    assert len(spans) >= 15
    assert all(text[start:end].strip().replace("word", "").replace(" ", "") == "" for start, end, _ in spans)


@pytest.mark.parametrize("piece", ["👨‍👩‍👧‍👦", "e\u0301\u0323", "🇫🇷", "👍🏽", "❤️", "漢", "한"])
@pytest.mark.parametrize("tokenizer", ["simple", "byte-level", "llama-legacy"])
def test_no_character_is_torn(piece: str, tokenizer: str) -> None:
    text = f"{piece}x" * 700
    cutter = SIMPLE if tokenizer == "simple" else FastTokenizer(kinds.KINDS[tokenizer](), tokenizer)
    spans = segment_spans(text, cutter.spans(text), 60)
    assert len(spans) > 3
    assert rebuilt(text, spans) == text
    for start, end, _ in spans:
        assert set(text[start:end].replace(piece, "")) <= {"x"}


def test_lines_mode_takes_every_line_that_is_not_blank() -> None:
    text = "one\n\n two \n \nthree\n"
    assert [text[start:end] for start, end, _ in line_spans(text, SIMPLE.spans(text))] == [
        "one",
        " two ",
        "three",
    ]


def test_simple_tokens_cover_the_text_and_overestimate() -> None:
    for text in kinds.TRICKY:
        spans = SIMPLE.spans(text)
        assert "".join(text[start:end] for start, end in spans) == text
        assert SIMPLE.starts([text])[0].tolist() == [start for start, _ in spans]
    prose = (
        "The quick brown fox jumps over the lazy dog, while internationalisation of 12345 items continues."
    )
    assert 20 <= len(SIMPLE.spans(prose)) <= 32  # about 22 by GPT-4's vocabulary
    assert len(SIMPLE.spans("漢字とかな。")) == 6


def test_fast_tokenizers_give_offsets_without_special_tokens(tmp_path: Path) -> None:
    tokenizer = kinds.as_transformers(kinds.byte_level(), bos_token="<s>", eos_token="</s>")
    tokenizer.save_pretrained(tmp_path)
    opened = open_span_tokenizer(tmp_path)
    text = "The river ran </s> past 漢字 👍🏽"
    assert opened.spans(text) == FastTokenizer(kinds.byte_level(), "x").spans(text)
    assert opened.spans(text)[0][0] == 0
    assert opened.spans(text)[-1][1] == len(text)
    assert opened.starts([text])[0].tolist() == [start for start, _ in opened.spans(text)]
    assert not any(end - start == 4 and text[start:end] == "</s>" for start, end in opened.spans(text))


def test_padding_does_not_change_a_tokenizers_fingerprint() -> None:
    from tokenizers import Tokenizer

    other = Tokenizer.from_str(kinds.byte_level().to_str())
    other.enable_padding()
    other.enable_truncation(4)
    padded, plain = FastTokenizer(other, "a"), FastTokenizer(kinds.byte_level(), "b")
    assert padded.fingerprint == plain.fingerprint != SIMPLE.fingerprint
    assert len(padded.spans("many more than four tokens of text")) > 4


def test_slow_and_missing_tokenizers_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Slow:
        pass

    with pytest.raises(LcxError, match="slow tokenizer"):
        backend_of(Slow())
    with pytest.raises(MissingError) as caught:
        open_span_tokenizer(tmp_path / "nowhere")
    assert "simple" in caught.value.hint
    began = time.monotonic()
    with pytest.raises(MissingError, match="HF_HUB_OFFLINE is set") as caught:
        open_span_tokenizer("some-org/some-tokenizer")
    assert time.monotonic() - began < 8
    assert "hf download some-org/some-tokenizer" in caught.value.hint
    assert "`simple`" in caught.value.hint
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(LcxError, match="not a tokenizer"):
        open_span_tokenizer(tmp_path)
