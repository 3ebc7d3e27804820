"""Questions whose evidence is scattered: IN2's second kind (2404.16811), for any corpus and any number of hops.

A chain leads from a thing to the person who looks after it, the town where that person was born, the river on
which the town lies and the mountain where the river rises. Each link is a sentence at a place of its own, in
no order; other chains of the same form are around it. The question names the thing and asks for the end of the
chain, so every link has to be found. The names on the way are decoys: an answer that gives one of them, and not
the end, stopped half-way.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Mapping, Sequence
from typing import Any

from lcx.evaluation.probes.haystack import (
    Asked,
    Fact,
    Scene,
    Taken,
    build_haystacks,
    count_by_length,
    draw_words,
    lengths_view,
    misled,
    natural_only,
    scattered,
    some_keys,
)
from lcx.evaluation.task import LengthOptions, Scored, Source, Task
from lcx.evaluation.text_metrics import contains
from lcx.records import Bundle
from lcx.settings import setting

__all__ = ["MULTIHOP"]

FIRST_NAMES = (
    "Agnes",
    "Boris",
    "Clara",
    "Daniel",
    "Edith",
    "Felix",
    "Greta",
    "Hugo",
    "Irene",
    "Jonas",
    "Karin",
    "Leon",
)
LINKS = (
    "The {0} is looked after by {1}.",
    "{0} was born in the town of {1}.",
    "The town of {0} lies on the river {1}.",
    "The river {0} rises on Mount {1}.",
)
QUESTIONS = {
    2: "In which town was the person born who looks after the {thing}? Answer with the name of the town alone.",
    3: "Somebody looks after the {thing}, and that person was born in a town. On which river does this town lie? "
    "Answer with the name of the river alone.",
    4: "Somebody looks after the {thing}; that person was born in a town, and the town lies on a river. On which "
    "mountain does this river rise? Answer with the name of the mountain alone.",
}


class MultihopOptions(LengthOptions):
    """Options of `multihop`."""

    hops: int = setting(
        2, ge=2, le=len(LINKS), description="links from the thing that is asked about to the answer"
    )
    chains: int = setting(8, ge=1, description="chains in a context, each asked for")


def _samples(source: Source, options: MultihopOptions) -> list[Bundle]:
    name = "multihop"
    natural_only(name, options)
    hops, chains = options.hops, options.chains

    def draw(taken: Taken, seed: str, length: int) -> list[Scene]:
        rng = random.Random(f"lcx.{name}:{seed}")
        things = some_keys(name, taken, chains, rng, "the option chains lower")
        words = draw_words(taken, rng)
        depths = iter(scattered(chains * hops, rng))
        facts: list[Fact] = []
        asked: list[Asked] = []
        for thing in things:
            made = [word.capitalize() for word in itertools.islice(words, hops)]
            # A person goes by a first name too: the made-up surname is what tells them apart.
            chain = [thing, f"{rng.choice(FIRST_NAMES)} {made[0]}", *made[1:]]
            gold = tuple(range(len(facts), len(facts) + hops))
            for link, pair in zip(LINKS, itertools.pairwise(chain), strict=False):
                facts.append(Fact(link.format(*pair), next(depths)))
            meta = {"query": thing, "value": chain[-1], "hops": hops, "decoy": made[:-1]}
            asked.append(Asked(QUESTIONS[hops].format(thing=thing), chain[-1], gold, meta))
        return [Scene(tuple(facts), tuple(asked))]

    return build_haystacks(
        name,
        source,
        options,
        draw,
        holds=f"{hops * chains} facts",
        mend="the options hops or chains lower",
    )


def _found(row: Mapping[str, Any]) -> float:
    """1.0 where the end of the chain is in the prediction as a whole word; case does not count."""
    return float(contains(row["pred"], row["value"], whole_words=True, fold=True))


def _summary(scored: Sequence[Scored]) -> dict[str, Any]:
    """Accuracy by length, and `stopped`: the share that names a link on the way and not the end."""
    return {**lengths_view(scored), "stopped": misled(scored)}


MULTIHOP = Task(
    name="multihop",
    summary="a chain of facts at several places -> what it leads to",
    samples=_samples,
    options=MultihopOptions,
    score=_found,
    row_fields=("query", "value"),
    number_fields=("length",),
    summarize=_summary,
    view="lengths",
    count=lambda options: count_by_length(options, options.chains),
)
