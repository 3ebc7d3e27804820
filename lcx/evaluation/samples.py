"""The questions and texts of an eval step: built from a corpus or loaded, limited in number, each item named."""

from __future__ import annotations

import hashlib
import json
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from lcx.data.documents import read_corpus
from lcx.data.files import Rejects
from lcx.data.templates import Template, load_template
from lcx.errors import UsageError
from lcx.evaluation.settings import EvalSettings
from lcx.evaluation.task import GREEDY, Samples, Sampling, Source, Task, TextSample
from lcx.records import Bundle, EncodedBundle

if TYPE_CHECKING:
    from lcx.steps import StepWork

__all__ = [
    "ITEM",
    "TaskData",
    "TokenCounter",
    "hash_of_bundles",
    "limited",
    "limited_texts",
    "load_benchmark",
    "make_samples",
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


def limited_texts(
    texts: Sequence[TextSample], limit: int | None, sample_seed: int | None = None, task: str = ""
) -> list[TextSample]:
    """At most `limit` of the texts, chosen in the same way."""
    if limit is None or limit >= len(texts):
        return list(texts)
    ones = [1] * len(texts)
    kept = spread(ones, limit) if sample_seed is None else _drawn(ones, limit, sample_seed, task)
    return [text for text, places in zip(texts, kept, strict=True) if places]


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


# ---- questions and texts of a task

ITEM = "item"
"""Field of a branch's meta: the name of its item, whatever else of its context is asked."""


@dataclass(frozen=True)
class TaskData:
    """One task with what it asks (bundles) or reads (texts), and how.

    `samples_hash` names the questions that results are about; `counts` are the rows set aside, by reason.
    """

    name: str
    task: Task
    settings: EvalSettings
    template: Template
    max_new_tokens: int
    truncation: str
    bundles: list[Bundle] = field(default_factory=list)
    texts: list[TextSample] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    samples_hash: str = ""
    options: Any = None
    sampling: Sampling = GREEDY


@dataclass(frozen=True)
class TokenCounter:
    """How the model under evaluation counts: a text's tokens, the tokens before any text, whole prompts, its window."""

    tokenize: Callable[[str], Sequence[int]]
    opening: tuple[int, ...]
    encode: Callable[[Bundle], EncodedBundle]
    window: int | None


def load_benchmark(
    name: str, task: Task, settings: EvalSettings, options: Any, work: StepWork[Any] | None = None
) -> TaskData:
    """A benchmark's published questions. Raises MissingError with the line that gets them where they are not there.

    `work` is the step, where a task may ask a model for its questions.
    """
    places = settings.places(task.family, *task.also)
    if work is not None:
        places = {
            family: tuple(
                str(work.run.resolve(one, "data")) if one.startswith("step:") else one for one in of
            )
            for family, of in places.items()
        }
    own = places.get(task.family, ())
    if not (task.judged or task.answered) and len(own) > 1:
        raise UsageError(
            f"data.{task.family} names {len(own)} places, and {name} reads one", hint="A folder may hold all."
        )
    source = Source(
        seed=settings.seed,
        data=own[0] if own else None,
        prompts=settings.prompts.get(task.family),
        places=places,
        fields=settings.fields,
        work=work,
    )
    loaded = task.samples(source, options)
    assert isinstance(loaded, Samples)
    drawn = Sampling(settings.samples, settings.temperature, settings.top_p)
    return TaskData(
        name,
        task,
        settings,
        loaded.template or load_template(settings.template),
        settings.answer_tokens(task.max_new_tokens),
        settings.too_long or "truncate-middle",  # as published
        bundles=limited(with_items(loaded.bundles), settings.limit, settings.sample_seed, task.name),
        counts=loaded.counts,
        samples_hash=loaded.data_hash,
        options=options,
        sampling=drawn if task.drawn and not settings.answers else GREEDY,
    )


def make_samples(
    name: str, task: Task, settings: EvalSettings, options: Any, template: Template, counter: TokenCounter
) -> tuple[TaskData, Rejects]:
    """A probe's questions, or the texts of a task that reads, from the corpus; and what of the corpus was set aside.

    `name` is what its results go by: bundles and texts of a sized probe are named so, too. Raises UsageError where
    the corpus is too small for it.
    """
    answer = settings.answer_tokens(task.max_new_tokens)

    def prompt_tokens(bundle: Bundle) -> int:
        encoded = counter.encode(bundle)
        asked = max(branch.answer_start for branch in encoded.branches)
        return len(encoded.prefix) + asked + answer

    # Read anew for each probe, which stops as soon as it has enough: a corpus may be larger than memory.
    rejects = Rejects()
    source = Source(
        documents=read_corpus(
            settings.corpus,
            limit=settings.documents,
            rejects=rejects,
            fields=settings.fields,
            encoding=settings.encoding,
        ),
        seed=settings.seed,
        tokenize=counter.tokenize,
        opening=counter.opening,
        prompt_tokens=prompt_tokens,
        window=counter.window,
    )
    made = task.samples(source, options)
    built: list[Any] = list(made.bundles if isinstance(made, Samples) else made)
    few = (settings.limit, settings.sample_seed, name)
    data = TaskData(name, task, settings, template, answer, settings.too_long or "error")
    if task.reads:
        texts = limited_texts([replace(one, id=_renamed(one.id, task.name, name)) for one in built], *few)
        return replace(data, texts=texts, samples_hash=_hash_of_texts(texts)), rejects
    if name != task.name:
        built = [replace(one, id=_renamed(one.id, task.name, name), kind=name) for one in built]
    bundles = limited(with_items(built), *few)
    return replace(data, bundles=bundles, samples_hash=hash_of_bundles(bundles)), rejects


def _renamed(id: str, old: str, new: str) -> str:
    """The id of a bundle or text under a sized probe's name: no two sizes of one probe are mixed up."""
    return id if old == new else f"{new}:{id.removeprefix(old).lstrip(':')}"


def with_items(bundles: Iterable[Bundle]) -> list[Bundle]:
    """The bundles with every branch's item named: BUNDLE_ID#place."""
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


def hash_of_bundles(bundles: Iterable[Bundle]) -> str:
    """A hash of contexts, questions and references."""
    digest = hashlib.sha256()
    for bundle in bundles:
        rows = [(branch.question, branch.answer, branch.meta) for branch in bundle.branches]
        digest.update(json.dumps([bundle.id, bundle.context, rows], sort_keys=True, default=str).encode())
    return digest.hexdigest()[:16]


def _hash_of_texts(texts: Iterable[TextSample]) -> str:
    digest = hashlib.sha256()
    for text in texts:
        digest.update(json.dumps([text.id, list(map(int, text.ids))]).encode())
    return digest.hexdigest()[:16]
