"""How much of a question a chunk holds: the question's entities and content words, counted in the chunk.

Only the question is looked at, never its answer: the answer's words would tell the evaluator what it is to find out.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, Protocol

from lcx.data.words import Word, clean, scan, tells, without_function_words, words
from lcx.errors import MissingError, UsageError
from lcx_logo.settings import pipeline_of

Item = tuple[str, ...]
"""One entity or content word of a question: the words that a chunk must all hold to hold it."""
Class = Literal["critical", "irrelevant", "undefined"]

PAPER_THRESHOLD = 6.0
"""delta of the paper, for entities found by spaCy."""
COMMON_SHARE, COMMON_LEAST = 0.1, 3
"""A word in more chunks of a sample than this share, and than this number, tells one from another badly."""
LONGEST_NAME = 5
"""Words a capitalised name may have; a longer run is a heading."""
HELD = 8192
"""Chunks whose words are kept in memory."""
_LINKS = frozenset({"of", "de", "del", "der", "des", "di", "du", "la", "le", "the", "van", "von", "y"})


class Extractor(Protocol):
    """Finds a question's items, and what a chunk holds of such items. `threshold` is its own delta."""

    name: str

    def question(self, text: str) -> tuple[Item, ...]:
        """The distinct items of a question; empty where it has none."""
        ...

    def chunk(self, text: str) -> Collection[str]:
        """All words that items of a question may be made of."""
        ...

    def threshold(self, items: Sequence[Item]) -> float:
        """delta for a question with these items, where no number is set."""
        ...


def score(items: Iterable[Item], found: Collection[str]) -> int:
    """s_i of a chunk: how many distinct items of the question it holds."""
    return sum(all(word in found for word in item) for item in set(items))


def classify(value: float, threshold: float) -> Class:
    """`critical` above the threshold, `irrelevant` below it, `undefined` at it: such a chunk is used for neither."""
    if value == threshold:
        return "undefined"
    return "critical" if value > threshold else "irrelevant"


class Builtin:
    """Names, numbers, identifiers and content words, by rules without data files. `common` are words to leave out.

    Its own delta is half of the question's items: a chunk that holds more than half of them is critical.
    """

    name = "builtin"

    def __init__(self, common: Collection[str] = ()) -> None:
        self.common = common
        self.chunk = lru_cache(maxsize=HELD)(_interned)

    def question(self, text: str) -> tuple[Item, ...]:
        found = question_items(text)
        if not found and len(text.split()) == 1:  # a bare key is looked for, whatever word it is
            found = [tuple(words(text))]
        telling = [item for item in found if len(item) > 1 or item[0] not in self.common]
        return tuple(telling or found)

    def threshold(self, items: Sequence[Item]) -> float:
        return len(items) / 2


class Spacy:
    """Named entities of a spaCy pipeline loaded from a path; delta is the paper's 6."""

    def __init__(self, path: str) -> None:
        try:
            import spacy
        except ImportError:
            raise MissingError(
                "the spaCy library is not installed",
                hint='pip install "spacy>=3.7", or --set synth.importance=builtin, which needs nothing',
            ) from None
        folder = Path(path).expanduser()
        if not (folder / "config.cfg").is_file():
            raise MissingError(
                f"no spaCy pipeline in '{path}'",
                why="It holds no config.cfg.",
                hint="Download a pipeline's archive from the releases of github.com/explosion/spacy-models, unpack "
                "it, and give the folder that holds config.cfg: synth.importance=spacy:FOLDER",
            )
        try:
            self._pipeline: Any = spacy.load(folder)
        except (OSError, ValueError, ImportError) as bad:
            raise UsageError(
                f"spaCy cannot load {folder}",
                why=next((line for line in str(bad).splitlines() if line.strip()), type(bad).__name__),
                hint="Take the pipeline's release that fits the installed spaCy.",
            ) from None
        self.name = f"spacy:{path}"
        self.chunk = lru_cache(maxsize=HELD)(self._entities)

    def question(self, text: str) -> tuple[Item, ...]:
        return tuple((entity,) for entity in sorted(self._entities(text)))

    def threshold(self, items: Sequence[Item]) -> float:
        return PAPER_THRESHOLD

    def _entities(self, text: str) -> frozenset[str]:
        found = (" ".join(words(entity.text)) for entity in self._pipeline(text).ents)
        return frozenset(entity for entity in found if entity)


def open_extractor(spec: str, sample: Iterable[str] = ()) -> Extractor:
    """`builtin`, which leaves out words that are common in a sample of chunks, or `spacy:PATH`.

    Raises MissingError where spaCy or its pipeline is not there, UsageError for another spec.
    """
    path = pipeline_of(spec)
    return Spacy(path) if path else Builtin(common_words(sample))


def common_words(texts: Iterable[str]) -> frozenset[str]:
    """The words in more than a tenth of the texts (and in more than 3)."""
    seen: Counter[str] = Counter()
    number = 0
    for text in texts:
        number += 1
        seen.update(_interned(text))
    least = max(COMMON_SHARE * number, COMMON_LEAST)
    return frozenset(word for word, count in seen.items() if count > least)


def question_items(question: str) -> list[Item]:
    """Names of several words, dotted identifiers, and every other word that tells, in order, each once."""
    text = without_function_words(clean(question))
    found = list(scan(text))
    items: list[Item] = []
    place = 0
    while place < len(found):
        group = _identifier(text, found, place) or _proper_name(text, found, place) or [found[place]]
        words_of = tuple(word.text for word in group if len(group) > 1 or tells(word.text))
        if len(group) > 1:
            words_of = tuple(dict.fromkeys(word.text for word in group if word.text not in _LINKS))
        if words_of:
            items.append(words_of)
        place += len(group)
    return list(dict.fromkeys(items))


def _identifier(text: str, found: Sequence[Word], place: int) -> list[Word]:
    """Words joined by single dots, as in `os.path.join`; empty for anything else."""
    end = place + 1
    while end < len(found) and text[found[end - 1].end : found[end].start] == ".":
        end += 1
    return list(found[place:end]) if end - place > 1 else []


def _proper_name(text: str, found: Sequence[Word], place: int) -> list[Word]:
    """Neighbouring capitalised words, links such as `of` between them and numbers after them; else empty."""
    if not _opens(found[place]) or text.isupper():
        return []
    end = place + 1
    last = end
    while end < len(found) and text[found[end - 1].end : found[end].start] in (" ", "-"):
        word = found[end]
        end += 1
        if _opens(word) or word.text[0].isdigit():
            last = end
        elif word.text not in _LINKS:
            break
    return list(found[place:last]) if 1 < last - place <= LONGEST_NAME else []


def _opens(word: Word) -> bool:
    return word.capital and not word.wide and tells(word.text)


def _interned(text: str) -> frozenset[str]:
    return frozenset(sys.intern(word) for word in words(text))
