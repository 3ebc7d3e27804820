"""The questions and texts of an eval step: built from a corpus or loaded, limited in number, each item named; and
the prompts in tokens that become of them.

A prompt's tokens are those that the tokenizer gives for its full text: chat turn, template, context and question.
Pieces that are tokenised apart and joined may differ from these where they meet. What all prompts of a bundle
have in common at their beginning is the prefix, which is computed once.

Tokenising 800 prompts of 32K tokens takes minutes, and all but their ends are equal. So one is tokenised whole,
and of the others only a tail, which begins well before the question. The first prompt's tail has to end as its
whole does, and the others' tails have to begin as that one does, over a long stretch: what comes after it then
depends on nothing that a tail lacks. One more prompt is tokenised whole, to see that. Where any of this fails,
all are tokenised whole.

The assembler's own way, which joins pieces, stays for

  - plans of segments, whose contexts are never a text;
  - branches with an answer behind the question;
  - bundles whose context or questions name a special token, such as `</s>`: there it is text and no command, and
    a tokenizer that reads the full prompt could not tell it from the chat template's;
  - bundles of several questions that have no first token in common, or a prompt of a single token.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from lcx.data.assembly import Assembler
from lcx.data.assembly import fit as fit_row
from lcx.data.documents import read_corpus
from lcx.data.files import Rejects
from lcx.data.templates import Template, load_template
from lcx.errors import PluginError, UsageError
from lcx.evaluation.settings import EvalSettings
from lcx.evaluation.task import GREEDY, Samples, Sampling, Source, Task, TextSample
from lcx.plugins import place_of_function
from lcx.records import Bundle, EncodedBranch, EncodedBundle

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from lcx.steps import StepWork

__all__ = [
    "ITEM",
    "ContextPrompts",
    "TaskData",
    "TokenCounter",
    "encode",
    "fit",
    "fit_text",
    "hash_of_bundles",
    "limited",
    "limited_texts",
    "load_benchmark",
    "make_samples",
    "prompt_fingerprints",
    "spread",
    "stop_ids",
    "subset",
    "text_fingerprint",
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
        sampling=_sampling(task, settings),
    )


def _sampling(task: Task, settings: EvalSettings) -> Sampling:
    """How a task's answers are drawn: saved ones are not."""
    if not task.drawn or settings.answers:
        return GREEDY
    return Sampling(settings.samples, settings.temperature, settings.top_p)


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
    built = _checked_samples(task, task.samples(source, options))
    few = (settings.limit, settings.sample_seed, name)
    data = TaskData(
        name,
        task,
        settings,
        template,
        answer,
        settings.too_long or "error",
        options=options,
        sampling=_sampling(task, settings),
    )
    if task.reads:
        texts = limited_texts([replace(one, id=_renamed(one.id, task.name, name)) for one in built], *few)
        return replace(data, texts=texts, samples_hash=_hash_of_texts(texts)), rejects
    if name != task.name:
        built = [replace(one, id=_renamed(one.id, task.name, name), kind=name) for one in built]
    bundles = limited(with_items(built), *few)
    return replace(data, bundles=bundles, samples_hash=hash_of_bundles(bundles)), rejects


def _checked_samples(task: Task, made: Any) -> list[Any]:
    """What a task made its questions, checked, as it may be anybody's. Raises PluginError for what is none."""
    wants = TextSample if task.reads else Bundle
    listed = made.bundles if isinstance(made, Samples) else made
    built = list(listed) if isinstance(listed, Iterable) and not isinstance(listed, str) else None
    wrong = f"returns {type(listed).__name__}" if built is None else ""
    for one in built or ():
        asked = one.branches if isinstance(one, Bundle) else ()
        if not isinstance(one, wants):
            wrong = f"gives a {type(one).__name__}"
        elif not task.reads and not any(branch.role == "query" for branch in asked):
            wrong = f"gives the bundle '{one.id}' without a branch of the role query"
        elif lacking := [
            key for branch in asked for key in ("set", "position", *task.row_fields) if key not in branch.meta
        ]:
            wrong = f"gives a question of '{one.id}' without '{lacking[0]}' in its meta"
        if wrong:
            break
    if not built and not wrong:
        wrong = "gives nothing to ask: the corpus may lack what it looks for"
    if wrong:
        raise PluginError(
            f"the task '{task.name}': its samples(source, options) {wrong}",
            why=place_of_function(task.samples),
            hint=f"It gives {wants.__name__}s; a branch's meta has set, position and the task's row_fields."
            if not task.reads
            else f"It gives {wants.__name__}s.",
        )
    return built or []


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


# ---- prompts in tokens


# ---- prompts

TAIL = 2048
"""Characters before the questions at which tails begin."""
AGREED = 64
"""Tokens over which tails have to agree before they part."""
AT_ONCE = 8
"""Long prompts tokenised at a time, where tails do not do: their tables of places are large."""


def encode(assembler: Assembler, bundle: Bundle) -> EncodedBundle:
    """A bundle's prompts as the tokenizer gives them for the full texts; the prefix is what all have in common.

    At least one token of every prompt stays outside the prefix. Uses the assembler's own encoding in the cases
    that the module names.
    """
    found = None if _needs_pieces(assembler, bundle) else _encode_whole(assembler, bundle)
    if found is None:
        joined = assembler.encode(bundle)
        assert joined is not None  # only a limit of tokens drops bundles
        return joined
    assembler.counts["bundles"] += 1
    assembler.counts["branches"] += len(found.branches)
    assembler.counts["tokens"] += len(found)
    return found


def _needs_pieces(assembler: Assembler, bundle: Bundle) -> bool:
    if bundle.plan is not None or any(branch.role != "query" for branch in bundle.branches):
        return True
    texts = [bundle.context or "", *(branch.question for branch in bundle.branches)]
    return any(name in text for name in assembler.special_names for text in texts)


class _Rows(NamedTuple):
    """Prompts in tokens: what all begin with, how each goes on, and the first one's places in its text."""

    start: list[int]
    ends: Sequence[Sequence[int] | np.ndarray]
    offsets: np.ndarray


def _encode_whole(assembler: Assembler, bundle: Bundle) -> EncodedBundle | None:
    """The bundle by its whole prompts; None where no first token is common to all, or nothing would be left."""
    before, between, after = assembler.around(bundle)
    context = bundle.context or ""
    start = before + context + between
    ends = [branch.question + after for branch in bundle.branches]
    rows = _by_tails(assembler, start, ends) or _all_whole(assembler, start, ends)
    cut = min(_common(rows.ends), min(map(len, rows.ends)) - 1)
    opening = assembler.opening(start)
    prefix = np.array([*opening, *rows.start, *rows.ends[0][: max(cut, 0)]], np.int64)
    if cut < 0 or not len(prefix):
        return None
    most = len(prefix) - len(opening)
    head = min(int((rows.offsets[:, 1] <= len(before)).sum()), most)
    inside = min(int((rows.offsets[:, 0] < len(before) + len(context)).sum()), most)
    return EncodedBundle(
        bundle.id,
        prefix,
        tuple(EncodedBranch(list(map(int, end[cut:])), len(end) - cut, "query") for end in rows.ends),
        head=len(opening) + head,
        chunks=(inside - head,) if inside > head else (),
    )


def _all_whole(assembler: Assembler, start: str, ends: Sequence[str]) -> _Rows:
    """Every prompt tokenised whole."""
    reader = assembler.pieces.reader("whole")
    ids: list[np.ndarray] = []
    offsets = None
    for at in range(0, len(ends), AT_ONCE):
        texts = [start + end for end in ends[at : at + AT_ONCE]]
        found = reader.encode_batch(texts, add_special_tokens=False)
        offsets = _places(found[0]) if offsets is None else offsets
        ids += [np.array(one.ids, np.int32) for one in found]  # a list of numbers is nine times as large
    assert offsets is not None
    return _Rows([], ids, offsets)


def _by_tails(assembler: Assembler, start: str, ends: Sequence[str]) -> _Rows | None:
    """One prompt tokenised whole, the others by their tails; None where that gains nothing or does not agree."""
    begin = len(start) - TAIL
    if len(ends) < 3 or begin < TAIL:
        return None
    reader = assembler.pieces.reader("whole")
    whole = reader.encode(start + ends[0], add_special_tokens=False)
    texts = [start[begin:] + end for end in ends]
    tails = [
        one.ids for one in assembler.pieces.reader("later").encode_batch(texts, add_special_tokens=False)
    ]
    # A tail's first tokens may differ from the whole's, as its text begins anywhere; from then on they are equal.
    same = _common([whole.ids[::-1], tails[0][::-1]])
    skipped = len(tails[0]) - same
    if any(_common([tails[0], tail]) < skipped + AGREED for tail in tails):
        return None
    kept = whole.ids[: len(whole.ids) - same]
    rows = _Rows(kept, [tail[skipped:] for tail in tails], _places(whole))
    witness = max(range(1, len(ends)), key=lambda number: len(ends[number]))
    seen = reader.encode(start + ends[witness], add_special_tokens=False).ids
    return rows if seen == kept + tails[witness][skipped:] else None


def _places(encoding: Any) -> np.ndarray:
    """`[start, end)` of every token in its text, as [tokens, 2]."""
    return np.array(encoding.offsets, np.int64).reshape(-1, 2)


def _common(rows: Sequence[Sequence[int] | np.ndarray]) -> int:
    """How many first tokens all rows have in common."""
    arrays = [np.asarray(row, np.int64) for row in rows]
    shared = min(map(len, arrays))
    for array in arrays[1:]:
        different = np.flatnonzero(array[:shared] != arrays[0][:shared])
        shared = int(different[0]) if len(different) else shared
    return shared


# ---- the window


@dataclass(frozen=True)
class ContextPrompts:
    """The prompts of one context. `encoded` is None where it was dropped; `cut` tokens were taken out to fit."""

    bundle: Bundle
    encoded: EncodedBundle | None
    cut: int = 0


def fit(
    bundle: Bundle, encoded: EncodedBundle, window: int | None, max_new_tokens: int, too_long: str
) -> ContextPrompts:
    """Prompts that fit a window of so many tokens (None: no limit).

    Raises UsageError naming the tokens needed, the window and the settings where `too_long` is `error`, or
    where not even the questions fit.
    """
    longest = max(branch.answer_start for branch in encoded.branches)
    needed = len(encoded.prefix) + longest + max_new_tokens
    if window is None or needed <= window:
        return ContextPrompts(bundle, encoded)
    # What the prefix has besides the context: instructions, and what all questions begin with.
    around = len(encoded.prefix) - sum(encoded.chunks) if encoded.chunks else 0
    if too_long == "error" or (too_long != "drop" and window - longest - max_new_tokens - around < 2):
        items = bundle.meta.get("items")
        setting = bundle.meta.get("setting") or f"options.{bundle.kind}.size or context_tokens"
        raise UsageError(
            f"{bundle.id} needs {needed} tokens, but the model's window is {window}",
            why=f"Context {len(encoded.prefix)}{f' ({items} items)' if items else ''}, question up to {longest}, "
            f"answer up to {max_new_tokens} tokens.",
            hint=f"Set {setting} lower, too_long to drop or truncate-middle, or window to what the model can "
            "really read.",
        )
    short = fit_row(encoded, window - max_new_tokens, too_long)
    return ContextPrompts(bundle, short, 0 if short is None else len(encoded.prefix) - len(short.prefix))


def fit_text(text: TextSample, window: int | None, too_long: str) -> TextSample | None:
    """A text that fits the window: whole, cut at its end under `truncate-middle`, or None under `drop`.

    Raises UsageError naming tokens, window and settings under `error`.
    """
    if window is None or len(text.ids) <= window:
        return text
    if too_long == "error":
        raise UsageError(
            f"{text.id} has {len(text.ids)} tokens, but the model's window is {window}",
            hint="Set lengths lower, too_long to drop or truncate-middle, or window to what the model can really "
            "read.",
        )
    return None if too_long == "drop" else replace(text, ids=text.ids[:window])


def stop_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, end: str = "") -> set[int]:
    """Tokens that end an answer: the model's (generation settings), the tokenizer's, a template's `end`.

    An `end` counts where it is a single token, as the tiny model's is.
    """
    config = getattr(model, "generation_config", None)
    given = [getattr(config, "eos_token_id", None), getattr(tokenizer, "eos_token_id", None)]
    found: set[int] = set()
    for one in given:
        found.update(one if isinstance(one, (list, tuple)) else [] if one is None else [one])
    closing = tokenizer.encode(end, add_special_tokens=False) if end else []
    if len(closing) == 1:
        found.update(closing)
    return {int(token) for token in found}


def subset(prompts: ContextPrompts, places: Sequence[int]) -> ContextPrompts:
    """The prompts with only the branches at these places."""
    assert prompts.encoded is not None
    if len(places) == len(prompts.bundle.branches):
        return prompts
    branches = tuple(prompts.bundle.branches[place] for place in places)
    encoded = tuple(prompts.encoded.branches[place] for place in places)
    return replace(
        prompts,
        bundle=replace(prompts.bundle, branches=branches),
        encoded=replace(prompts.encoded, branches=encoded),
    )


def prompt_fingerprints(encoded: EncodedBundle, answer_key: Any) -> list[str]:
    """What the answer to each branch follows from: its whole prompt, and `answer_key` (weights, stops, limits)."""
    whole = hashlib.sha256(json.dumps(answer_key, sort_keys=True).encode())
    if encoded.positions is not None:
        whole.update(np.asarray(encoded.positions, dtype=np.int64).tobytes())
    whole.update(np.asarray(encoded.prefix, dtype=np.int64).tobytes())
    marks = []
    for branch in encoded.branches:
        digest = whole.copy()
        digest.update(np.asarray(branch.ids[: branch.answer_start], dtype=np.int64).tobytes())
        marks.append(digest.hexdigest()[:32])
    return marks


def text_fingerprint(text: TextSample, weights: str) -> str:
    """What the result of reading a text follows from."""
    digest = hashlib.sha256(np.asarray(text.ids, dtype=np.int64).tobytes())
    digest.update(json.dumps([text.meta, weights], sort_keys=True).encode())
    return digest.hexdigest()[:32]
