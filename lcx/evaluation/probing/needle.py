"""Needle retrieval over a grid: facts hidden at several depths of contexts of several lengths, each asked for.

In style `natural` the context is text of the corpus and the needles are sentences with a number in them; all
depths of a length share one context, which is paid for once and asked once a needle. In style `bare` the
context is a list of records and every record is a needle: see `needle_records`.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from lcx.errors import UsageError
from lcx.evaluation.probes import Probe, ProbeOptions
from lcx.evaluation.probing.haystack import Asked, Fact, Scene, build_haystacks
from lcx.evaluation.probing.names import Taken, draw_keys, draw_numbers
from lcx.evaluation.probing.needle_records import build_records
from lcx.evaluation.probing.views import grid_view
from lcx.evaluation.statistics.grids import depth_points
from lcx.evaluation.text_metrics import contains
from lcx.records import Bundle, Document

__all__ = ["NEEDLE", "Needle", "build_needles", "draw_needles"]

FACT = "The storage code of the {key} is {value}."
QUESTION = "What is the storage code of the {key}? Answer with the code alone."


@dataclass(frozen=True)
class Needle:
    """One fact: what it is called, its number and its depth."""

    key: str
    value: str
    depth: float

    @property
    def fact(self) -> Fact:
        return Fact(FACT.format(key=self.key, value=self.value), self.depth)

    def asked(self, fact: int) -> Asked:
        """The question for it; `fact` is the number of its fact in the context."""
        meta = {"query": self.key, "value": self.value, "depth": self.depth}
        return Asked(QUESTION.format(key=self.key), self.value, (fact,), meta)


def build_needles(documents: Iterable[Document], options: ProbeOptions, seed: int) -> list[Bundle]:
    """One bundle a length and set, with a question a depth; one a depth too where `one_needle` is set.

    The same documents, options and seed give the same bundles. Raises UsageError where the corpus is too small,
    or a length too short for the needles.
    """
    if options.style == "bare":
        return build_records(documents, options, seed)

    def draw(taken: Taken, seed: str, length: int) -> list[Scene]:
        needles = draw_needles(taken, options.depths, seed)
        if options.one_needle:
            return [Scene((needle.fact,), (needle.asked(0),)) for needle in needles]
        facts = tuple(needle.fact for needle in needles)
        return [Scene(facts, tuple(needle.asked(number) for number, needle in enumerate(needles)))]

    return build_haystacks(
        "needle",
        documents,
        options,
        seed,
        draw,
        holds=f"{options.depths} needles",
        mend="depths lower, needle_contexts to single",
    )


def draw_needles(text: str | Taken, depths: int, seed: str) -> list[Needle]:
    """A needle a depth; no key and no number stands in the text, and no two are alike. Raises UsageError."""
    taken = Taken(text) if isinstance(text, str) else text
    rng = random.Random(f"lcx.needle.facts:{seed}")
    points = depth_points(depths)
    keys = draw_keys(taken, len(points), rng)
    if len(keys) < len(points):
        raise UsageError(
            f"needle has {len(keys)} names for {len(points)} needles",
            why="The corpus has the others in it.",
            hint="Set depths lower.",
        )
    return [Needle(*parts) for parts in zip(keys, draw_numbers(taken, rng), points, strict=False)]


def _found(row: Mapping[str, Any]) -> float:
    """1.0 where the value occurs in the prediction as a whole word; case counts."""
    return float(contains(row["pred"], row["value"], whole_words=True))


NEEDLE = Probe(
    name="needle",
    summary="a fact hidden at every depth of contexts of several lengths -> its value",
    build=build_needles,
    score=_found,
    row_fields=("query", "value"),
    number_fields=("length", "depth"),
    summarize=grid_view,
    view="grid",
    questions=lambda options: 1 if options.one_needle else options.depths,
)
