"""Bundles as whole prompts in tokens: what all prompts share at their beginning, and what fits the model's window.

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
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from lcx.data.assembly import Assembler
from lcx.data.assembly import fit as fit_row
from lcx.errors import UsageError
from lcx.evaluation.task import TextSample
from lcx.records import Bundle, EncodedBranch, EncodedBundle

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = [
    "ContextPrompts",
    "encode",
    "fit",
    "fit_text",
    "prompt_fingerprints",
    "stop_ids",
    "subset",
    "text_fingerprint",
]

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
