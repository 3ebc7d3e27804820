"""BM25 over the words of a document's passages: no model, no network, and Chinese without a dictionary.

Words are those of `lcx.data.words`: folded, numbers whole, pairs of characters where a script has no spaces (the
library's own tokenizer would take each Chinese clause for one word).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lcx.data.words import words
from lcx.retrieval import best_places, only_options

K1, B = 1.5, 0.75
METHOD = "lucene"


class BM25:
    """Lucene's BM25 by bm25s; how rare a word is counts within the one document."""

    waits = False

    def __init__(self, k1: float = K1, b: float = B) -> None:
        self.k1, self.b = k1, b

    def index(self, passages: Sequence[str]) -> WordIndex:
        return WordIndex([words(text) for text in passages], self.k1, self.b)

    def describe(self) -> dict[str, Any]:
        return {"retriever": "bm25", "method": METHOD, "k1": self.k1, "b": self.b}

    def close(self) -> None:
        return None


class WordIndex:
    """The words of each passage, weighed."""

    def __init__(self, passages: Sequence[Sequence[str]], k1: float, b: float) -> None:
        self._count = len(passages)
        self._known = {word for passage in passages for word in passage}
        self._index: Any = None
        if self._known:
            import bm25s

            self._index = bm25s.BM25(k1=k1, b=b, method=METHOD)
            self._index.index([list(passage) for passage in passages], show_progress=False)

    def top(self, queries: Sequence[str], count: int) -> list[list[int]]:
        return [best_places(self._scores(query), count) for query in queries]

    def _scores(self, query: str) -> list[float]:
        asked = [word for word in words(query) if word in self._known]
        if not asked:
            return [0.0] * self._count
        found: list[float] = self._index.get_scores(asked).tolist()
        return found


def open_bm25(model: str, options: Mapping[str, Any]) -> BM25:
    """Factory for the spec `bm25`; options: k1, b."""
    only_options("bm25", options, ("k1", "b"))
    return BM25(**{name: float(value) for name, value in options.items()})
