"""Needles as RULER (2404.06654) varies them: one among many of its form, several values of a key, several keys at once.

Facts, questions and code are ours; what is asked for and the score (the share of the references that the
prediction has, case ignored) are RULER's, but for whole words in place of substrings. One context is asked
several questions here, where the published task asks one.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable, Iterator
from typing import Any

from lcx.errors import UsageError
from lcx.evaluation.probes import Knob, Probe, ProbeOptions
from lcx.evaluation.probing.haystack import Asked, Fact, Scene, build_haystacks, natural_only
from lcx.evaluation.probing.knobs import knob_values
from lcx.evaluation.probing.names import Taken, draw_keys, draw_numbers, draw_uuids, long_keys, scattered
from lcx.evaluation.probing.needle import FACT, NEEDLE, QUESTION
from lcx.evaluation.probing.needle_records import build_records
from lcx.evaluation.probing.views import found_share, grid_view, lengths_view
from lcx.evaluation.statistics.grids import depth_points
from lcx.records import Bundle, Document

__all__ = ["MULTIKEY", "MULTIQUERY", "MULTIVALUE", "some_keys"]

SEVERAL_FACT = "One of the storage codes of the {key} is {value}."
SEVERAL_QUESTION = (
    "The {key} has more than one storage code, and the context gives each in a place of its own. What are they? "
    "Answer with all of these codes, separated by commas."
)
TOGETHER_QUESTION = (
    "What are the storage codes of {keys}? Answer with these codes in this order, separated by commas."
)


def some_keys(name: str, taken: Taken, count: int, rng: random.Random, mend: str) -> list[str]:
    """So many names that the text does not have; of three words where those of two are too few. Raises UsageError."""
    keys = draw_keys(taken, count, rng)
    if len(keys) < count:
        keys = list(itertools.islice(long_keys(rng, taken.pairs), count))
    if len(keys) < count:
        raise UsageError(f"{name} has {len(keys)} names, and {count} are needed", hint=f"Set {mend}.")
    return keys


# ---- one key among many

MULTIKEY_KNOBS = {
    "keys": Knob(40, "facts of the same form in a context, those asked for among them", least=2),
    "fill": Knob(False, "the whole context is facts of the same form, in place of the corpus"),
    "uuids": Knob(False, "keys and values are random identifiers, as in RULER's hardest form"),
}


def _build_multikey(documents: Iterable[Document], options: ProbeOptions, seed: int) -> list[Bundle]:
    name = "ruler:multikey"
    knobs = knob_values(name, MULTIKEY_KNOBS, options.knobs)
    if options.style == "bare":
        return build_records(documents, options, seed, name=name)
    points = depth_points(options.depths)
    count = len(points) if knobs["fill"] else max(knobs["keys"], len(points))

    def draw(taken: Taken, seed: str, length: int) -> list[Scene]:
        rng = random.Random(f"lcx.{name}:{seed}")
        pairs = _pairs(name, taken, count, rng, knobs)
        asked = list(itertools.islice(pairs, len(points)))
        facts = [
            Fact(FACT.format(key=k, value=v), depth) for (k, v), depth in zip(asked, points, strict=True)
        ]
        questions = [
            Asked(QUESTION.format(key=key), value, (n,), {"query": key, "value": value, "depth": points[n]})
            for n, (key, value) in enumerate(asked)
        ]
        rest = (FACT.format(key=key, value=value) for key, value in pairs)
        if knobs["fill"]:
            return [Scene(tuple(facts), tuple(questions), filler=rest)]
        depths = scattered(count - len(points), rng)
        facts += [
            Fact(text, depth) for text, depth in zip(itertools.islice(rest, len(depths)), depths, strict=True)
        ]
        return [Scene(tuple(facts), tuple(questions))]

    return build_haystacks(
        name,
        documents,
        options,
        seed,
        draw,
        holds=f"{count} facts",
        mend="the knob keys or depths lower",
        corpus=not knobs["fill"],
    )


def _pairs(
    name: str, taken: Taken, count: int, rng: random.Random, knobs: dict[str, Any]
) -> Iterator[tuple[str, str]]:
    """Keys with their values, all different: as many as are needed, or endless where facts fill the context."""
    if knobs["uuids"]:
        return zip((f"item {key}" for key in draw_uuids(rng)), draw_uuids(rng), strict=False)
    if not knobs["fill"]:
        return zip(
            some_keys(name, taken, count, rng, "the knob keys lower"), draw_numbers(taken, rng), strict=False
        )
    return zip(_until_none(name, long_keys(rng)), draw_numbers(taken, rng), strict=False)


def _until_none(name: str, keys: Iterator[str]) -> Iterator[str]:
    yield from keys
    raise UsageError(f"{name} has no more names to fill the context with", hint="Set the knob uuids to true.")


MULTIKEY = Probe(
    name="ruler:multikey",
    summary="a fact among many of the same form, at every depth -> its value",
    build=_build_multikey,
    score=NEEDLE.score,
    row_fields=("query", "value"),
    number_fields=("length", "depth"),
    summarize=grid_view,
    view="grid",
    knobs=MULTIKEY_KNOBS,
    questions=lambda options: options.depths,
)


# ---- several values of one key

MULTIVALUE_KNOBS = {
    "values": Knob(4, "values of each key, every one in a fact of its own", least=2, most=64),
    "questions": Knob(5, "keys with that many values in a context, each asked for", least=1),
}


def _build_multivalue(documents: Iterable[Document], options: ProbeOptions, seed: int) -> list[Bundle]:
    name = "ruler:multivalue"
    knobs = knob_values(name, MULTIVALUE_KNOBS, options.knobs)
    natural_only(name, options)

    def draw(taken: Taken, seed: str, length: int) -> list[Scene]:
        rng = random.Random(f"lcx.{name}:{seed}")
        keys = some_keys(name, taken, knobs["questions"], rng, "the knob questions lower")
        numbers = draw_numbers(taken, rng)
        values = [list(itertools.islice(numbers, knobs["values"])) for _ in keys]
        depths = iter(scattered(knobs["questions"] * knobs["values"], rng))
        facts: list[Fact] = []
        asked: list[Asked] = []
        for number, (key, own) in enumerate(zip(keys, values, strict=True)):
            gold = range(len(facts), len(facts) + len(own))
            facts += [Fact(SEVERAL_FACT.format(key=key, value=value), next(depths)) for value in own]
            others = [value for n, of in enumerate(values) if n != number for value in of]
            meta = {"query": key, "answers": own, "decoy": others}
            asked.append(Asked(SEVERAL_QUESTION.format(key=key), ", ".join(own), tuple(gold), meta))
        return [Scene(tuple(facts), tuple(asked))]

    return build_haystacks(
        name,
        documents,
        options,
        seed,
        draw,
        holds=f"{knobs['questions'] * knobs['values']} facts",
        mend="the knobs values or questions lower",
    )


MULTIVALUE = Probe(
    name="ruler:multivalue",
    summary="a key with several values scattered over the context -> all of them (share found)",
    build=_build_multivalue,
    score=found_share,
    row_fields=("query",),
    number_fields=("length",),
    list_fields=("answers",),
    summarize=lengths_view,
    view="lengths",
    knobs=MULTIVALUE_KNOBS,
    questions=lambda options: int(knob_values("", MULTIVALUE_KNOBS, options.knobs)["questions"]),
)


# ---- several keys in one question

MULTIQUERY_KNOBS = {
    "keys": Knob(4, "keys that one question asks for together", least=2, most=64),
    "questions": Knob(5, "such questions a context, each with keys of its own", least=1),
}


def _build_multiquery(documents: Iterable[Document], options: ProbeOptions, seed: int) -> list[Bundle]:
    name = "ruler:multiquery"
    knobs = knob_values(name, MULTIQUERY_KNOBS, options.knobs)
    natural_only(name, options)
    count = knobs["questions"] * knobs["keys"]

    def draw(taken: Taken, seed: str, length: int) -> list[Scene]:
        rng = random.Random(f"lcx.{name}:{seed}")
        keys = some_keys(name, taken, count, rng, "the knobs keys or questions lower")
        values = list(itertools.islice(draw_numbers(taken, rng), count))
        facts = [
            Fact(FACT.format(key=key, value=value), depth)
            for key, value, depth in zip(keys, values, scattered(count, rng), strict=True)
        ]
        asked = []
        for start in range(0, count, knobs["keys"]):
            gold = tuple(range(start, start + knobs["keys"]))
            own = [keys[n] for n in gold]
            answers = [values[n] for n in gold]
            meta = {"query": ", ".join(own), "answers": answers}
            asked.append(Asked(TOGETHER_QUESTION.format(keys=_listed(own)), ", ".join(answers), gold, meta))
        return [Scene(tuple(facts), tuple(asked))]

    return build_haystacks(
        name,
        documents,
        options,
        seed,
        draw,
        holds=f"{count} facts",
        mend="the knobs keys or questions lower",
    )


def _listed(keys: list[str]) -> str:
    """`the a, the b and the c`."""
    named = [f"the {key}" for key in keys]
    return f"{', '.join(named[:-1])} and {named[-1]}"


MULTIQUERY = Probe(
    name="ruler:multiquery",
    summary="several keys asked for at once -> all of their values (share found)",
    build=_build_multiquery,
    score=found_share,
    row_fields=("query",),
    number_fields=("length",),
    list_fields=("answers",),
    summarize=lengths_view,
    view="lengths",
    knobs=MULTIQUERY_KNOBS,
    questions=lambda options: int(knob_values("", MULTIQUERY_KNOBS, options.knobs)["questions"]),
)
