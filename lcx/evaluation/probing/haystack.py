"""Contexts of any length in tokens with facts hidden in them, each context asked as many questions as it can answer.

A probe draws a *scene* for each length and set: facts with the depths where they should stand, and questions
that name the facts which answer them. This module finds text to put around the facts, fills the length as far
as whole sentences allow, and records where in the context the evidence of each question stands.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lcx.errors import UsageError
from lcx.evaluation.probes import ProbeOptions
from lcx.evaluation.probing.filler import Piece, fill, gather, hide
from lcx.evaluation.probing.names import Taken
from lcx.evaluation.statistics.grids import default_lengths
from lcx.records import Branch, Bundle, Document

__all__ = ["Asked", "Fact", "Scene", "build_haystacks", "natural_only"]


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


def build_haystacks(
    name: str,
    documents: Iterable[Document],
    options: ProbeOptions,
    seed: int,
    draw: Draw,
    *,
    holds: str,
    mend: str,
    corpus: bool = True,
) -> list[Bundle]:
    """The contexts of every set and length. Everything follows from documents, options and seed.

    A length counts all that the model reads and writes: instructions, context, question and answer. `holds`
    says what a context must hold ("5 needles") and `mend` which settings make that less, for errors. Without
    `corpus` every scene brings its own filler. Raises UsageError where the corpus is too small, or a given
    length too short; default lengths that are too short are left out.
    """
    if options.count_tokens is None or options.prompt_tokens is None:
        raise UsageError(f"{name} counts tokens: it needs a tokenizer")
    lengths = options.lengths or default_lengths(options.window)
    pool = gather(documents, options.sets * max(lengths), options.count_tokens) if corpus else []
    taken = Taken("".join(piece.text for pieces in pool for piece in pieces))
    drawn = {
        (number, length): draw(taken, f"{seed}:{number}:{length}", length)
        for number in range(options.sets)
        for length in lengths
    }
    short = {}
    for length in lengths:
        scenes = [scene for (_, of), found in drawn.items() if of == length for scene in found]
        least = max(_least(name, scene, options) for scene in scenes)
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
                bundles.append(_bundle(name, id, scene, order, options, meta, position, (holds, mend)))
                position += len(scene.asked)
    return bundles


def _least(name: str, scene: Scene, options: ProbeOptions) -> int:
    """Tokens that a context needs for its facts and as much other text, instructions and the answer."""
    assert options.prompt_tokens is not None
    text = " ".join(fact.text for fact in scene.facts)
    return options.prompt_tokens(_plain(name, scene, f"{text} {text}"))


def _plain(name: str, scene: Scene, context: str) -> Bundle:
    branches = [Branch(asked.question, asked.answer, "query") for asked in scene.asked]
    return Bundle(name, tuple(branches), context=context, kind=name)


def _bundle(
    name: str,
    id: str,
    scene: Scene,
    order: Sequence[Sequence[Piece]],
    options: ProbeOptions,
    meta: dict[str, Any],
    position: int,
    words: tuple[str, str],
) -> Bundle:
    """The context of a length with a scene's facts in it, as full as whole sentences allow."""
    assert options.count_tokens is not None
    assert options.prompt_tokens is not None
    length = meta["length"]
    if scene.filler is not None:
        order = [_pieces(scene.filler, length, options.count_tokens)]
    standing = sorted(range(len(scene.facts)), key=lambda n: scene.facts[n].depth)
    facts = [
        Piece(text, options.count_tokens(" " + text)) for text in (scene.facts[n].text for n in standing)
    ]
    held = sum(piece.tokens for pieces in order for piece in pieces)
    empty = options.prompt_tokens(_plain(name, scene, " ".join(fact.text for fact in facts)))
    room, grown = length - empty, False
    if held < room:
        raise UsageError(
            f"{name} needs {length} tokens a context, but the corpus gives {held + empty}",
            hint="Set lengths lower, use a larger corpus, or leave the task out.",
        )
    while True:
        filler = fill(order, room)
        context, found = hide(filler, facts, [scene.facts[n].depth for n in standing])
        spare = length - options.prompt_tokens(_plain(name, scene, context))
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
