"""A document as the judge sees it: passages for retrieval, parts for extraction, both cut at tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from lcx.data.table import safe_cut
from lcx.data.tokens import SpanTokenizer
from lcx_longreward.judge.prompting import range_labels


@dataclass(frozen=True)
class Pieces:
    """Consecutive pieces of a text: piece i is `text[edges[i]:edges[i + 1]]`; together they are the text."""

    text: str
    edges: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.edges) - 1

    @property
    def texts(self) -> list[str]:
        return [self.text[begin:end] for begin, end in pairwise(self.edges)]

    @property
    def labels(self) -> list[str]:
        """Where each piece lies in the text, in percent."""
        return range_labels(self.edges)


@dataclass(frozen=True)
class Document:
    """One text, cut both ways; `tokens` by the tokenizer that cut it."""

    passages: Pieces
    parts: Pieces
    tokens: int


def cut(text: str, tokenizer: SpanTokenizer, chunk_tokens: int, extract_tokens: int) -> Document:
    """Passages of `chunk_tokens` and parts of `extract_tokens`, without overlap; the last ones may be shorter."""
    [found] = tokenizer.starts([text])
    starts = found.tolist()
    return Document(pieces(text, starts, chunk_tokens), pieces(text, starts, extract_tokens), len(starts))


def pieces(text: str, starts: Sequence[int], size: int) -> Pieces:
    """Cut before every `size`-th token; no cut parts a character from its marks, whatever bytes the tokens hold."""
    edges = [0]
    for token in range(size, len(starts), size):
        place = safe_cut(text, int(starts[token]))
        if edges[-1] < place < len(text):
            edges.append(place)
    return Pieces(text, (*edges, len(text)))
