"""The questions and texts of an eval step: built from a corpus or loaded, limited in number, each item named."""

from __future__ import annotations

import hashlib
import json
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

from lcx.data.documents import read_corpus
from lcx.data.files import Rejects
from lcx.data.templates import Template
from lcx.evaluation.settings import EvalSettings
from lcx.evaluation.task import Measure, Probe, ProbeOptions, Reading, Suite, SuiteOptions
from lcx.records import Bundle, EncodedBundle

__all__ = [
    "ITEM",
    "Material",
    "Words",
    "digest_of_bundles",
    "from_corpus",
    "from_suite",
    "limited",
    "limited_readings",
    "spread",
    "with_items",
]

# ---- fewer items


def limited(
    bundles: Sequence[Bundle], limit: int | None, sample_seed: int | None = None, task: str = ""
) -> list[Bundle]:
    """The bundles with at most `limit` branches in all; a bundle that is left with none is left out.

    They are spread evenly over the bundles and over the places in each, or, with `sample_seed`, drawn at random:
    the same for the same seed and task.
    """
    sizes = [len(bundle.branches) for bundle in bundles]
    if limit is None or limit >= sum(sizes):
        return list(bundles)
    kept = spread(sizes, limit) if sample_seed is None else _drawn(sizes, limit, sample_seed, task)
    return [
        bundle if len(places) == size else replace(bundle, branches=tuple(bundle.branches[p] for p in places))
        for bundle, places, size in zip(bundles, kept, sizes, strict=True)
        if places
    ]


def limited_readings(
    readings: Sequence[Reading], limit: int | None, sample_seed: int | None = None, task: str = ""
) -> list[Reading]:
    """At most `limit` of the texts, chosen in the same way."""
    if limit is None or limit >= len(readings):
        return list(readings)
    ones = [1] * len(readings)
    kept = spread(ones, limit) if sample_seed is None else _drawn(ones, limit, sample_seed, task)
    return [reading for reading, places in zip(readings, kept, strict=True) if places]


def spread(sizes: Sequence[int], limit: int) -> list[list[int]]:
    """`limit` places in groups of these sizes: shares that differ by one at most, as far as the sizes allow.

    Inside a group they stand at equal distances. The groups begin at different points, or all would be asked
    about the same places.
    """
    shares = _shares(sizes, limit)
    found = []
    for number, (size, share) in enumerate(zip(sizes, shares, strict=True)):
        start = _offset(number)
        found.append([int((n + start) * size / share) for n in range(share)])
    return found


def _shares(sizes: Sequence[int], limit: int) -> list[int]:
    """How many each group gives: an equal part, and what a small group lacks comes from the larger ones."""
    shares = [0] * len(sizes)
    left = min(limit, sum(sizes))
    while left:
        open_groups = [number for number, size in enumerate(sizes) if shares[number] < size]
        if left < len(open_groups):  # one each of some groups, evenly over them
            for n in range(left):
                shares[open_groups[(2 * n + 1) * len(open_groups) // (2 * left)]] += 1
            return shares
        part = left // len(open_groups)
        for number in open_groups:
            given = min(part, sizes[number] - shares[number])
            shares[number] += given
            left -= given
    return shares


def _offset(number: int) -> float:
    """A point of [0, 1) for a group: 1/2, 1/4, 3/4, 1/8, ... (van der Corput), so that few groups differ much."""
    value, step = 0.0, 0.5
    rest = number + 1
    while rest:
        value += step * (rest & 1)
        rest >>= 1
        step /= 2
    return value


def _drawn(sizes: Sequence[int], limit: int, seed: int, task: str) -> list[list[int]]:
    """`limit` places of all, drawn without replacement, in the order in which they stand."""
    import numpy as np

    draw = np.random.default_rng([seed & 0xFFFFFFFF, zlib.crc32(task.encode())])
    chosen = np.sort(draw.permutation(sum(sizes))[:limit])
    found, start = [], 0
    for size in sizes:
        found.append([int(place - start) for place in chosen if start <= place < start + size])
        start += size
    return found


# ---- material

ITEM = "item"
"""Field of a branch's meta: the name of its item, whatever else of its context is asked."""


@dataclass(frozen=True)
class Material:
    """One task with what it asks (bundles) or reads (readings), and how."""

    task: str
    what: Probe | Suite | Measure
    settings: EvalSettings
    template: Template
    max_new_tokens: int
    too_long: str
    bundles: list[Bundle] = field(default_factory=list)
    readings: list[Reading] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    data_hash: str = ""


@dataclass(frozen=True)
class Words:
    """How the model under evaluation counts: a text's tokens, the tokens before any text, whole prompts, its window."""

    tokenize: Callable[[str], Sequence[int]]
    opening: tuple[int, ...]
    encode: Callable[[Bundle], EncodedBundle]
    window: int | None


def from_suite(task: str, suite: Suite, settings: EvalSettings) -> Material:
    """A suite's published questions. Raises MissingError with the line that gets them where they are not there."""
    options = SuiteOptions(
        data=settings.data.get(suite.family),
        prompts=settings.prompts.get(suite.family),
        limit=settings.limit,
        sample_seed=settings.sample_seed,
    )
    loaded = suite.load(options)
    return Material(
        task,
        suite,
        settings,
        loaded.template,
        settings.answer_tokens(suite.max_new_tokens),
        settings.too_long or "truncate-middle",  # as published
        bundles=with_items(loaded.bundles),
        counts=loaded.counts,
        data_hash=loaded.data_hash,
    )


def from_corpus(
    task: str, probe: Probe | Measure, settings: EvalSettings, template: Template, words: Words
) -> tuple[Material, Rejects]:
    """A probe's questions or a measure's texts, made from the corpus, and what of the corpus was set aside.

    Raises UsageError where the corpus is too small for it.
    """
    answer = settings.answer_tokens()

    def prompt_tokens(bundle: Bundle) -> int:
        encoded = words.encode(bundle)
        asked = max(branch.answer_start for branch in encoded.branches)
        return len(encoded.prefix) + asked + answer

    options = ProbeOptions(
        size=settings.size(task),
        sets=settings.sets,
        style=settings.style,
        context_tokens=settings.context_tokens,
        count_tokens=lambda text: len(words.tokenize(text)),
        lengths=settings.lengths,
        records=settings.records,
        depths=settings.depths,
        one_needle=settings.needle_contexts == "single",
        buckets=settings.buckets,
        window=words.window,
        tokenize=words.tokenize,
        opening=words.opening,
        prompt_tokens=prompt_tokens,
        knobs=settings.options.get(task, {}),
    )
    # Read anew for each probe, which stops as soon as it has enough: a corpus may be larger than memory.
    aside = Rejects()
    documents = read_corpus(
        settings.corpus,
        limit=settings.documents,
        rejects=aside,
        fields=settings.fields,
        encoding=settings.encoding,
    )
    built: Sequence[Bundle | Reading] = probe.build(documents, options, settings.seed)
    made = Material(task, probe, settings, template, answer, settings.too_long or "error")
    few = (settings.limit, settings.sample_seed, task)
    if isinstance(probe, Measure):
        readings = limited_readings([one for one in built if isinstance(one, Reading)], *few)
        return replace(made, readings=readings, data_hash=_digest_of_readings(readings)), aside
    bundles = limited(with_items([one for one in built if isinstance(one, Bundle)]), *few)
    return replace(made, bundles=bundles, data_hash=digest_of_bundles(bundles)), aside


def with_items(bundles: Iterable[Bundle]) -> list[Bundle]:
    """The bundles with every branch's item named: BUNDLE_ID#place, or BUNDLE_ID#id where a suite's row has one."""
    return [
        replace(
            bundle,
            branches=tuple(
                replace(branch, meta={**branch.meta, ITEM: f"{bundle.id}#{place}"})
                for place, branch in enumerate(bundle.branches)
            ),
        )
        for bundle in bundles
    ]


def digest_of_bundles(bundles: Iterable[Bundle]) -> str:
    """A hash of contexts, questions and references."""
    digest = hashlib.sha256()
    for bundle in bundles:
        rows = [(branch.question, branch.answer, branch.meta) for branch in bundle.branches]
        digest.update(json.dumps([bundle.id, bundle.context, rows], sort_keys=True, default=str).encode())
    return digest.hexdigest()[:16]


def _digest_of_readings(readings: Iterable[Reading]) -> str:
    digest = hashlib.sha256()
    for reading in readings:
        digest.update(json.dumps([reading.id, list(map(int, reading.ids))]).encode())
    return digest.hexdigest()[:16]
