"""Documents as contexts: whole where they fit, else cut between lines into pieces that do."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from lcx.data.table import SegmentTable


@dataclass(frozen=True)
class Window:
    """A stretch of a document: its segments `[first, last]` of the table and how many tokens they have."""

    document: int
    first: int
    last: int
    tokens: int
    whole: bool = True
    """Whether it is all of its document."""


def windows(table: SegmentTable, least: int, most: int, counts: Counter[str]) -> list[Window]:
    """Every document's windows of at most `most` tokens, in order, also those of fewer than `least`.

    Segments fill a window until the next one would not fit. A segment of more than `most` tokens is left out, and
    counted; so is what is too short, which only tasks of the corpus' own use.
    """
    found: list[Window] = []
    for document in range(table.document_count):
        segments = table.segments_of(document)
        mine: list[Window] = []
        first, tokens = segments.start, 0
        for segment in segments:
            size = int(table.tokens[segment])
            if tokens and tokens + size > most:
                mine.append(Window(document, first, segment - 1, tokens, False))
                first, tokens = segment, 0
            if size > most:
                counts["pieces left out: a line is longer than a context"] += 1
                first, tokens = segment + 1, 0
                continue
            tokens += size
        if tokens:
            mine.append(Window(document, first, segments.stop - 1, tokens, first == segments.start))
        counts["documents too short, left out"] += sum(w.tokens for w in mine) < least
        counts["ends of documents too short, left out"] += (
            len(mine) > 1 and mine[-1].tokens < least <= mine[0].tokens
        )
        found += mine
    return found


def text_of(table: SegmentTable, window: Window) -> str:
    """The window's characters, as they stand in the document."""
    text = table.document(window.document).text
    return text[int(table.starts[window.first]) : int(table.ends[window.last])]
