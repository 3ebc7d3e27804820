"""IN2's segments: lines are joined until there are enough tokens; the tail joins the last one."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

import numpy as np

Span = tuple[int, int, int]
"""(start, end, tokens): a segment's characters `[start, end)` and how many tokens start in them."""

LONG = 2
"""A line of more than LONG x min_tokens tokens is cut at sentence ends, or at tokens where it has none."""

_SENTENCE_END = re.compile(r"[.!?…]+[\"'”’»)\]]*\s+|[。！？；]+[”’」』）]*")
_JOINERS = "\u200d"


def segment_spans(
    text: str,
    token_spans: Sequence[tuple[int, int]] | np.ndarray,
    min_tokens: int = 128,
    *,
    keep_short: bool = True,
) -> list[Span]:
    """Cut a text into segments of at least `min_tokens` tokens, as (start, end, tokens).

    `token_spans` are [n, 2] character spans, or only the [n] starts. Segments lie in order; between two of
    them is one newline, or nothing where a very long line was cut. A text of fewer tokens gives one segment
    that is too short, or none with `keep_short=False`; a blank text gives none.
    """
    if min_tokens < 1:
        raise ValueError(f"min_tokens must be at least 1, not {min_tokens}")
    starts = _starts(token_spans)
    if not text or text.isspace():
        return []
    segments: list[Span] = []
    begin = 0
    pieces = _pieces(text, starts, min_tokens)
    ends = np.searchsorted(starts, [end for end, _ in pieces]) if pieces else np.empty(0, np.int64)
    before = 0  # tokens that start before `begin`
    for (end, following), count in zip(pieces, ends.tolist(), strict=True):
        if count - before >= min_tokens and not text[begin:end].isspace():
            segments.append((begin, end, count - before))
            begin = following
            before = int(np.searchsorted(starts, begin))
    if begin < len(text) or (segments and segments[-1][1] < len(text)):
        if segments:  # the tail, were it only the newline that ends the file
            first = segments.pop()[0]
            segments.append((first, len(text), _count(starts, first, len(text))))
        elif keep_short:
            segments.append((0, len(text), len(starts)))
    return segments


def line_spans(text: str, token_spans: Sequence[tuple[int, int]] | np.ndarray) -> list[Span]:
    """Every line that is not blank as one segment: for record corpora. Arguments as in `segment_spans`."""
    starts = _starts(token_spans)
    found = []
    begin = 0
    for line in text.split("\n"):
        end = begin + len(line)
        if line and not line.isspace():
            found.append((begin, end, _count(starts, begin, end)))
        begin = end + 1
    return found


def safe_cut(text: str, place: int) -> int:
    """The first place from `place` on where a cut parts no character from its marks, nor an emoji."""
    while 0 < place < len(text) and _clings(text[place - 1], text[place]):
        place += 1
    return place


def _clings(left: str, right: str) -> bool:
    if right < "\u0300":
        # Plain letters start a character of their own, unless a joiner holds them; "\r\n" is one break.
        return left in _JOINERS or (left == "\r" and right == "\n")
    return (
        unicodedata.category(right)[0] == "M"  # accents, vowel signs, variation selectors, keycaps
        or right in _JOINERS
        or left in _JOINERS
        or "\U0001f3fb" <= right <= "\U0001f3ff"  # skin tones
        or "\U000e0020" <= right <= "\U000e007f"  # tags of regional flags
        or ("\U0001f1e6" <= right <= "\U0001f1ff" and "\U0001f1e6" <= left <= "\U0001f1ff")  # flags
        or "\u1160" <= right <= "\u11ff"  # Hangul written in parts
    )


def _starts(token_spans: Sequence[tuple[int, int]] | np.ndarray) -> np.ndarray:
    spans = np.asarray(token_spans, dtype=np.int64)
    starts = spans[:, 0] if spans.ndim == 2 else spans
    if len(starts) > 1 and (np.diff(starts) < 0).any():
        starts = np.maximum.accumulate(starts)  # some normalisers report a token a little before the last one
    return starts


def _count(starts: np.ndarray, begin: int, end: int) -> int:
    low, high = np.searchsorted(starts, [begin, end])
    return int(high - low)


def _pieces(text: str, starts: np.ndarray, min_tokens: int) -> list[tuple[int, int]]:
    """Places where a segment may end, as (end, start of what follows)."""
    lines = []
    begin = 0
    while (newline := text.find("\n", begin)) >= 0:
        lines.append((begin, newline))
        begin = newline + 1
    lines.append((begin, len(text)))
    low = np.searchsorted(starts, [line[0] for line in lines])
    high = np.searchsorted(starts, [line[1] for line in lines])
    long = (high - low) > LONG * min_tokens
    pieces: list[tuple[int, int]] = []
    for (begin, end), too_long in zip(lines, long.tolist(), strict=True):
        if too_long:
            pieces.extend((cut, cut) for cut in _cuts(text, begin, end, starts, min_tokens))
        pieces.append((end, end + 1))
    return pieces


def _cuts(text: str, begin: int, end: int, starts: np.ndarray, min_tokens: int) -> list[int]:
    """Places inside a long line: its sentence ends, and tokens inside too long sentences."""
    ends = [
        place for m in _SENTENCE_END.finditer(text, begin, end) if (place := safe_cut(text, m.end())) < end
    ]
    cuts: list[int] = []
    last = begin
    for place in [*ends, end]:
        low, high = np.searchsorted(starts, [last, place]).tolist()
        if high - low > LONG * min_tokens:
            # The first pieces hold min_tokens each; the rest, below twice that, stays whole.
            for token in range(low + min_tokens, high - min_tokens + 1, min_tokens):
                cut = safe_cut(
                    text, _at_word(text, int(starts[token]), int(starts[min(token + 8, high - 1)]))
                )
                if cut < place and (not cuts or cut > cuts[-1]):
                    cuts.append(cut)
        if place < end:
            cuts.append(place)
        last = place
    return cuts


def _at_word(text: str, place: int, latest: int) -> int:
    """The next place up to `latest` where a word starts (before its space), or `place` itself."""
    for near in range(place, latest + 1):
        if near < len(text) and text[near].isspace():
            return near
    return place
