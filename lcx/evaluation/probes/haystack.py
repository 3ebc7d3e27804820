"""Contexts with facts hidden in them: what needle, ruler, multihop and stale are built from.

A probe draws scenes (facts with their depths, and the questions that they answer). This module cuts a corpus at
sentence ends to have text around the facts, fills a length as far as whole sentences allow, hides the facts, and
records where in the context the evidence of each question stands. Names, numbers and made-up words of facts are
drawn at random, and none of them stands in the text around. At the end stand the summaries that these probes share:
a grid of length by depth, or accuracy by length, each with intervals.
"""

from __future__ import annotations

import itertools
import random
import re
import uuid
from bisect import bisect_left
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lcx.errors import UsageError
from lcx.evaluation.statistics.grids import default_lengths, grid, grid_evidence, lengths_evidence
from lcx.evaluation.statistics.intervals import group_evidence
from lcx.evaluation.task import LengthOptions, ProbeOptions, Scored, Source
from lcx.evaluation.text_metrics import contains
from lcx.records import Branch, Bundle, Document

__all__ = [
    "FIRST",
    "SECOND",
    "Asked",
    "Fact",
    "Hidden",
    "Piece",
    "Scene",
    "Taken",
    "build_haystacks",
    "context_of",
    "count_by_length",
    "cut",
    "draw_keys",
    "draw_numbers",
    "draw_uuids",
    "draw_words",
    "fill",
    "found_share",
    "gather",
    "grid_view",
    "hide",
    "lengths_view",
    "long_keys",
    "misled",
    "natural_only",
    "scattered",
    "some_keys",
]

# ---- filler: text of a corpus, cut into sentences

_END = re.compile(r"(?<![.!?…])[.!?…]+[\"'”’»)\]]*(?=\s)|[。！？；]+[”’」』）]*|(?=\n[^\S\n]*\n)")
_ENDED = re.compile(r"[.!?…。！？；:,;][\"'”’»」』）)\]]*\s*$")
_SPACE = re.compile(r"\s*")
MOST_CHARACTERS = 640
UNSPACED = 80
"""A part without any sentence end is cut, since it would fit no short context: at white space, or, where a script
has none, after so many characters."""
MIN_TEXT = 10
"""Where the code alone would do, text is waited for if there was at least one part of it in so many."""


@dataclass(frozen=True)
class Piece:
    """A sentence or a line with the white space before it, and its length in tokens."""

    text: str
    tokens: int


@dataclass(frozen=True)
class Hidden:
    """Where a needle stands: the depth that it really has, and its `[start, end)` characters in the text."""

    depth: float
    start: int
    end: int


def cut(document: Document) -> list[str]:
    """The sentences of a text, or the lines of code and of records, each with the white space before it.

    What is too long for one is cut at white space. Joined they are the document's text after an empty line,
    without white space at its ends.
    """
    text = document.text.strip()
    if document.meta.get("kind") == "code" or document.meta.get("keys"):
        places = [match.start() for match in re.finditer("\n(?=[^\n])", text)]
    else:
        places = _sentence_ends(text)
    edges = _no_longer(
        [0, *dict.fromkeys(place for place in places if 0 < place < len(text)), len(text)], text
    )
    parts = [text[start:end] for start, end in itertools.pairwise(edges)]
    return ["\n\n" + parts[0], *parts[1:]] if text else []


def _no_longer(edges: list[int], text: str) -> list[int]:
    """The edges with more between those that are too far apart: at line ends, else spaces, else anywhere."""
    found = edges[:1]
    for edge in edges[1:]:
        while edge - found[-1] > MOST_CHARACTERS:
            start, end = found[-1] + MOST_CHARACTERS // 2, found[-1] + MOST_CHARACTERS
            place = max(text.rfind("\n", start, end), 0) or max(text.rfind(" ", start, end), 0)
            found.append(place or found[-1] + UNSPACED)
        found.append(edge)
    return found


def _sentence_ends(text: str) -> list[int]:
    """Where a new sentence begins: an abbreviation's full stop has a small letter after it, and is no end."""
    places = []
    beyond = 0  # the end of the white space that was looked at last: a run of it may hold many places
    for match in _END.finditer(text):
        place = match.end()
        if place >= beyond and (space := _SPACE.match(text, place)):
            beyond = space.end()
        if not text[beyond : beyond + 1].islower():
            places.append(place)
    return places


def gather(documents: Iterable[Document], tokens: int, count: Callable[[str], int]) -> list[list[Piece]]:
    """The pieces of documents, one list each, until there are so many `tokens`; of a long one only the start.

    Code serves only where there is too little other text.
    """
    found: dict[bool, list[list[Piece]]] = {False: [], True: []}
    held = {False: 0, True: 0}
    for document in documents:
        code = document.meta.get("kind") == "code"
        if held[code] >= tokens:
            continue
        pieces: list[Piece] = []
        for text in cut(document):
            pieces.append(Piece(text, count(text)))
            held[code] += pieces[-1].tokens
            if held[code] >= tokens:
                break
        found[code].append(pieces)
        # Among a lot of code there may be no text to wait for.
        if held[False] >= tokens or (held[True] >= tokens and held[False] < tokens // MIN_TEXT):
            break
    return found[False] if held[False] >= tokens or not found[True] else found[False] + found[True]


def fill(documents: Iterable[Sequence[Piece]], tokens: int) -> list[Piece]:
    """The first pieces of the documents, in order, that together have at most `tokens`."""
    chosen: list[Piece] = []
    for pieces in documents:
        for piece in pieces:
            tokens -= piece.tokens
            if tokens < 0:
                return chosen
            chosen.append(piece)
    return chosen


def hide(
    filler: Sequence[Piece], needles: Sequence[Piece], depths: Sequence[float]
) -> tuple[str, list[Hidden]]:
    """The filler's text with each needle at the place between two pieces that is nearest to its depth.

    A needle's depth is the share of the other tokens that stand before it: 0 opens the text and 1 ends it.
    `depths` ascend. Returns the text and where each needle stands.
    """
    before = [0]
    for piece in filler:
        before.append(before[-1] + piece.tokens)
    total = before[-1] + sum(needle.tokens for needle in needles)
    at: list[list[int]] = [[] for _ in before]
    real = []
    passed = place = 0
    for number, (needle, depth) in enumerate(zip(needles, depths, strict=True)):
        rest = max(1, total - needle.tokens)
        # Never before the needle before it, however near to each other their depths are.
        place = max(place, _nearest(before, depth * rest - passed))
        at[place].append(number)
        real.append((before[place] + passed) / rest)
        passed += needle.tokens
    parts: list[str] = []
    spans: dict[int, tuple[int, int]] = {}
    length = 0
    for place, hidden in enumerate(at):
        joint = _joint(filler, place)
        for number in hidden:
            text = needles[number].text.strip()
            spans[number] = (length + len(joint), length + len(joint) + len(text))
            parts += [joint, text]
            length = spans[number][1]
        if place < len(filler):
            parts.append(filler[place].text)
            length += len(filler[place].text)
    whole = "".join(parts)
    cut_off = len(whole) - len(whole.lstrip())
    found = [Hidden(depth, *(edge - cut_off for edge in spans[n])) for n, depth in enumerate(real)]
    return whole.lstrip(), found


def _nearest(before: Sequence[int], tokens: float) -> int:
    place = bisect_left(before, tokens)
    if place and (place == len(before) or tokens - before[place - 1] <= before[place] - tokens):
        place -= 1
    return place


def _joint(filler: Sequence[Piece], place: int) -> str:
    """What stands before a needle: a newline among lines, an empty line after a heading, else a space."""
    near = filler[min(place, len(filler) - 1)].text if filler else ""
    if near.startswith("\n") and not near.startswith("\n\n"):
        return "\n"
    ended = place == 0 or not filler or _ENDED.search(filler[place - 1].text)
    return " " if ended else "\n\n"


# ---- names, numbers and made-up words

# fmt: off
FIRST = ("amber", "brass", "copper", "crimson", "dusty", "eastern", "frozen", "gilded", "hollow", "ivory",
         "jagged", "knotted", "leaden", "mossy", "narrow", "oaken", "painted", "quilted", "rusty", "silver",
         "tilted", "upper", "velvet", "woven", "yellow", "tidal")
SECOND = ("anchor", "beacon", "cabinet", "drawbridge", "easel", "ferry", "gazebo", "hammock", "inkwell",
          "jukebox", "kiln", "lantern", "mailbox", "notebook", "orchard", "pulley", "quarry", "rowboat",
          "sundial", "teapot", "umbrella", "vineyard", "windmill", "xylophone", "yurt", "zeppelin")
MIDDLE = ("antique", "broken", "carved", "double", "empty", "folding", "garden", "harbour", "inner", "jade",
          "kitchen", "little", "marble", "northern", "outer", "paper", "quiet", "royal", "spare", "timber",
          "unlit", "village", "winter", "wooden", "woollen", "zinc")
# fmt: on
_PAIR = re.compile(rf"(?=((?:{'|'.join(FIRST)}) (?:{'|'.join(SECOND + MIDDLE)})))")
_NUMBER = re.compile(r"(?=(\d{7}))")
_STARTS = (
    "b",
    "br",
    "d",
    "dr",
    "f",
    "g",
    "gr",
    "h",
    "j",
    "k",
    "kl",
    "l",
    "m",
    "n",
    "p",
    "r",
    "s",
    "st",
    "t",
    "tr",
    "v",
)
_VOWELS = "aeiou"
_CLOSE = ("l", "m", "n", "r", "s", "sk", "nd", "rt")


class Taken:
    """What stands in a text already: pairs of our words, numbers of seven digits, and its words in small letters."""

    def __init__(self, text: str) -> None:
        folded = text.casefold()
        self.pairs = frozenset(_PAIR.findall(folded))
        self.numbers = frozenset(_NUMBER.findall(text))
        self.words = frozenset(re.findall(r"\w+", folded))


def draw_keys(taken: Taken, count: int, rng: random.Random) -> list[str]:
    """Names of two words; no two share a word as long as there are words. Fewer where the text has the others."""
    first, second = rng.sample(FIRST, len(FIRST)), rng.sample(SECOND, len(SECOND))
    pairs = [
        f"{a} {second[(n + turn) % len(second)]}" for turn in range(len(second)) for n, a in enumerate(first)
    ]
    return [key for key in pairs if key not in taken.pairs][:count]


def some_keys(name: str, taken: Taken, count: int, rng: random.Random, mend: str) -> list[str]:
    """So many names that the text does not have; of three words where those of two are too few. Raises UsageError."""
    keys = draw_keys(taken, count, rng)
    if len(keys) < count:
        keys = list(itertools.islice(long_keys(rng, taken.pairs), count))
    if len(keys) < count:
        raise UsageError(f"{name} has {len(keys)} names, and {count} are needed", hint=f"Set {mend}.")
    return keys


def long_keys(rng: random.Random, but: frozenset[str] = frozenset()) -> Iterator[str]:
    """All names of three words in random order: 17,576, many of which differ in one word only."""
    keys = [" ".join(parts) for parts in itertools.product(FIRST, MIDDLE, SECOND)]
    rng.shuffle(keys)
    return (key for key in keys if key not in but and key.rsplit(" ", 1)[0] not in but)


def draw_numbers(taken: Taken, rng: random.Random, but: set[str] | None = None) -> Iterator[str]:
    """Endless numbers of seven digits, each new; what is drawn is added to `but`."""
    used = set() if but is None else but
    while True:
        number = str(rng.randrange(1_000_000, 10_000_000))
        if number not in used and number not in taken.numbers:
            used.add(number)
            yield number


def draw_uuids(rng: random.Random) -> Iterator[str]:
    """Endless random identifiers of 32 hexadecimal digits in five groups."""
    while True:
        yield str(uuid.UUID(int=rng.getrandbits(128), version=4))


def draw_words(
    taken: Taken, rng: random.Random, syllables: tuple[int, int] = (2, 3), endings: tuple[str, ...] = _CLOSE
) -> Iterator[str]:
    """Endless made-up words in small letters, each new and none in the text. Raises UsageError where none is left."""
    used: set[str] = set()
    failed = 0
    while failed < 10_000:
        parts = (rng.choice(_STARTS) + rng.choice(_VOWELS) for _ in range(rng.randint(*syllables)))
        word = "".join(parts) + rng.choice(endings)
        if word in used or word in taken.words:
            failed += 1
            continue
        failed = 0
        used.add(word)
        yield word
    raise UsageError("there are no more made-up words", hint="Set lengths lower.")


def scattered(count: int, rng: random.Random) -> list[float]:
    """So many depths between 0 and 1 in random order, one in each of as many equal bands: no two are neighbours."""
    bands = rng.sample(range(count), count)
    return [(band + rng.random()) / count for band in bands]


# ---- contexts


@dataclass(frozen=True)
class Fact:
    """A sentence to hide and the depth where it should stand: 0 opens the context, 1 ends it."""

    text: str
    depth: float


@dataclass(frozen=True)
class Asked:
    """A question, its reference answer, the numbers of the facts that answer it, and what scoring needs."""

    question: str
    answer: str
    gold: tuple[int, ...]
    meta: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Scene:
    """What one context hides and is asked. `filler`, where given, are the sentences around in place of the corpus."""

    facts: tuple[Fact, ...]
    asked: tuple[Asked, ...]
    filler: Iterable[str] | None = None


Draw = Callable[[Taken, str, int], Sequence[Scene]]
"""The scenes of one length and set, one a context: `draw(taken, seed, length)`; nothing in them may be `taken`."""


def natural_only(name: str, options: ProbeOptions) -> None:
    """Raises UsageError where style is bare and the probe asks in sentences only."""
    if options.style == "bare":
        raise UsageError(
            f"{name} asks in sentences, and style is bare",
            why="The tiny model's world has records only: needle, ruler:multikey and stale ask about those.",
            hint="Set style to natural and use another model, or leave the task out.",
        )


def count_by_length(options: LengthOptions, questions: int) -> tuple[int, int] | None:
    """Contexts and questions of a probe with so many questions a context; None where only the window tells lengths."""
    contexts = options.sets * len(options.lengths)
    return (contexts, contexts * questions) if contexts else None


def build_haystacks(
    name: str,
    source: Source,
    options: LengthOptions,
    draw: Draw,
    *,
    holds: str,
    mend: str,
    corpus: bool = True,
) -> list[Bundle]:
    """The contexts of every set and length. Everything follows from source and options.

    A length counts all that the model reads and writes: instructions, context, question and answer. `holds`
    says what a context must hold ("5 needles") and `mend` which settings make that less, for errors. Without
    `corpus` every scene brings its own filler. Raises UsageError where the corpus is too small, or a given
    length too short; default lengths that are too short are left out.
    """
    if source.tokenize is None or source.prompt_tokens is None:
        raise UsageError(f"{name} counts tokens: it needs a tokenizer")
    seed = source.seed
    lengths = options.lengths or default_lengths(source.window)
    needed = options.sets * max(lengths)
    pool = gather(source.documents, needed, source.count_tokens) if corpus else []
    taken = Taken("".join(piece.text for pieces in pool for piece in pieces))
    drawn = {
        (number, length): draw(taken, f"{seed}:{number}:{length}", length)
        for number in range(options.sets)
        for length in lengths
    }
    short = {}
    for length in lengths:
        scenes = [scene for (_, of), found in drawn.items() if of == length for scene in found]
        least = max(_least(name, scene, source) for scene in scenes)
        if least > length:
            short[length] = _too_short(name, length, least, holds, mend)
    if short and (options.lengths or len(short) == len(lengths)):
        raise short[max(short)]
    bundles = []
    for number in range(options.sets):
        order = random.Random(f"lcx.{name}.set:{seed}:{number}").sample(pool, len(pool))
        for length in lengths:
            if length in short:
                continue
            several = drawn[number, length]
            position = 0
            for place, scene in enumerate(several):
                id = f"{name}:{seed}:{number}:{length}" + (f":{place}" if len(several) > 1 else "")
                meta = {"set": number, "length": length, "setting": "lengths"}
                bundles.append(_bundle(name, id, scene, order, source, meta, position, (holds, mend)))
                position += len(scene.asked)
    return bundles


def _least(name: str, scene: Scene, source: Source) -> int:
    """Tokens that a context needs for its facts and as much other text, instructions and the answer."""
    assert source.prompt_tokens is not None
    text = " ".join(fact.text for fact in scene.facts)
    return source.prompt_tokens(_plain(name, scene, f"{text} {text}"))


def _plain(name: str, scene: Scene, context: str) -> Bundle:
    branches = [Branch(asked.question, asked.answer, "query") for asked in scene.asked]
    return Bundle(name, tuple(branches), context=context, kind=name)


def _bundle(
    name: str,
    id: str,
    scene: Scene,
    order: Sequence[Sequence[Piece]],
    source: Source,
    meta: dict[str, Any],
    position: int,
    words: tuple[str, str],
) -> Bundle:
    """The context of a length with a scene's facts in it, as full as whole sentences allow."""
    assert source.prompt_tokens is not None
    length = meta["length"]
    if scene.filler is not None:
        order = [_pieces(scene.filler, length, source.count_tokens)]
    standing = sorted(range(len(scene.facts)), key=lambda n: scene.facts[n].depth)
    facts = [Piece(text, source.count_tokens(" " + text)) for text in (scene.facts[n].text for n in standing)]
    held = sum(piece.tokens for pieces in order for piece in pieces)
    empty = source.prompt_tokens(_plain(name, scene, " ".join(fact.text for fact in facts)))
    room, grown = length - empty, False
    if held < room:
        none = "" if held else "It has no text outside of code: the filler is made of sentences."
        raise UsageError(
            f"{name} needs {length} tokens a context, but the corpus gives {held + empty}",
            why=none,
            hint="Set lengths lower, use a larger corpus, or leave the task out.",
        )
    while True:
        filler = fill(order, room)
        context, found = hide(filler, facts, [scene.facts[n].depth for n in standing])
        spare = length - source.prompt_tokens(_plain(name, scene, context))
        if spare < 0 and filler:  # pieces counted one by one may have fewer tokens than the whole
            room -= max(-spare, 1)
        elif not grown and spare > length // 50:  # or more
            room, grown = min(room + spare, held), True
        else:
            break
    if spare < 0:
        raise _too_short(name, length, length - spare, *words)
    places = dict(zip(standing, found, strict=True))
    branches = []
    for n, asked in enumerate(scene.asked):
        gold = [places[fact] for fact in asked.gold]
        own = {
            "set": meta["set"],
            "position": position + n,
            **asked.meta,
            "length": length,
            "unit": "tokens",
            "at": round(min(one.depth for one in gold), 4),
            "gold": [[one.start, one.end] for one in gold],
        }
        branches.append(Branch(asked.question, asked.answer, "query", meta=own))
    return Bundle(id, tuple(branches), context=context, kind=name, meta=meta)


def _pieces(texts: Iterable[str], tokens: int, count: Callable[[str], int]) -> list[Piece]:
    """The first texts that together have at least so many tokens."""
    found: list[Piece] = []
    for text in texts:
        found.append(Piece(" " + text, count(" " + text)))
        tokens -= found[-1].tokens
        if tokens <= 0:
            break
    return found


def _too_short(name: str, length: int, least: int, holds: str, mend: str) -> UsageError:
    return UsageError(
        f"{name}: {length} tokens are too few for {holds}: it takes {least}",
        why="Instructions, question and answer count too, and half of the context is other text.",
        hint=f"Set lengths higher, {mend}, or max_new_tokens lower.",
    )


# ---- summaries


def context_of(row: Mapping[str, Any]) -> Hashable:
    """What names the context of a row: its bundle, else set and length (files of others)."""
    return row.get("context") or (row.get("set_id"), row.get("length"))


def grid_view(scored: Sequence[Scored]) -> dict[str, Any]:
    """Cells by length and depth with intervals, and the gap against noise."""
    rows = [(row["length"], row["depth"], score) for row, score in scored]
    known = [(row["length"], row["depth"], context_of(row), score) for row, score in scored]
    found = grid(rows)
    return {"unit": _unit(scored), **found, **grid_evidence(known, found["lengths"], found["depths"])}


def lengths_view(scored: Sequence[Scored]) -> dict[str, Any]:
    """Accuracy by length with intervals; each length weighs the same in `average`, `gap` is best minus worst."""
    known = [(row["length"], context_of(row), score) for row, score in scored]
    groups = group_evidence(known)
    lengths = sorted(groups)
    estimates = [groups[length] for length in lengths]
    values = [estimate["mean"] for estimate in estimates]
    filled = [value for value in values if value is not None]
    return {
        "unit": _unit(scored),
        "lengths": lengths,
        "values": values,
        "counts": [estimate["n"] for estimate in estimates],
        "average": sum(filled) / len(filled) if filled else None,
        "gap": max(filled) - min(filled) if filled else None,
        **lengths_evidence(known),
    }


def found_share(row: Mapping[str, Any]) -> float:
    """Share of the row's `answers` that its prediction has as whole words; case does not count."""
    found = [contains(row["pred"], answer, whole_words=True, fold=True) for answer in row["answers"]]
    return sum(found) / len(found) if found else 0.0


def misled(scored: Sequence[Scored]) -> float | None:
    """Share of rows with a decoy whose prediction names one and not the answer; None where no row has one."""
    rows = [(row, score) for row, score in scored if row.get("decoy") and score is not None]
    wrong = 0
    for row, score in rows:
        decoys = [row["decoy"]] if isinstance(row["decoy"], str) else row["decoy"]
        pred = row["pred"] or ""
        wrong += score < 1 and any(contains(pred, decoy, whole_words=True, fold=True) for decoy in decoys)
    return wrong / len(rows) if rows else None


def _unit(scored: Sequence[Scored]) -> str:
    return min((str(row.get("unit", "tokens")) for row, _ in scored), default="tokens")
