"""What an evaluation has to do: contexts and texts that fit the model's window, and marks of what is done."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from lcx.data.assembly import fit as fit_row
from lcx.errors import UsageError
from lcx.evaluation.probes import Reading
from lcx.records import Bundle, EncodedBundle

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = ["Job", "fit", "fit_reading", "mark_of_reading", "marks_of", "stop_ids", "subset"]


@dataclass(frozen=True)
class Job:
    """One context to answer. `encoded` is None where it was dropped; `cut` tokens were taken out to fit."""

    bundle: Bundle
    encoded: EncodedBundle | None
    cut: int = 0


def fit(
    bundle: Bundle, encoded: EncodedBundle, window: int | None, max_new_tokens: int, too_long: str
) -> Job:
    """A job that fits a window of so many tokens (None: no limit).

    Raises UsageError naming the tokens needed, the window and the settings where `too_long` is `error`, or
    where not even the questions fit.
    """
    longest = max(branch.answer_start for branch in encoded.branches)
    needed = len(encoded.prefix) + longest + max_new_tokens
    if window is None or needed <= window:
        return Job(bundle, encoded)
    # What the prefix has besides the context: instructions, and what all questions begin with.
    around = len(encoded.prefix) - sum(encoded.chunks) if encoded.chunks else 0
    if too_long == "error" or (too_long != "drop" and window - longest - max_new_tokens - around < 2):
        items = bundle.meta.get("items")
        setting = bundle.meta.get("setting") or f"sizes.{bundle.kind.split(':')[-1]} or context_tokens"
        raise UsageError(
            f"{bundle.id} needs {needed} tokens, but the model's window is {window}",
            why=f"Context {len(encoded.prefix)}{f' ({items} items)' if items else ''}, question up to {longest}, "
            f"answer up to {max_new_tokens} tokens.",
            hint=f"Set {setting} lower, too_long to drop or truncate-middle, or window to what the model can "
            "really read.",
        )
    short = fit_row(encoded, window - max_new_tokens, too_long)
    return Job(bundle, short, 0 if short is None else len(encoded.prefix) - len(short.prefix))


def fit_reading(reading: Reading, window: int | None, too_long: str) -> Reading | None:
    """A text that fits the window: whole, cut at its end under `truncate-middle`, or None under `drop`.

    Raises UsageError naming tokens, window and settings under `error`.
    """
    if window is None or len(reading.ids) <= window:
        return reading
    if too_long == "error":
        raise UsageError(
            f"{reading.id} has {len(reading.ids)} tokens, but the model's window is {window}",
            hint="Set lengths lower, too_long to drop or truncate-middle, or window to what the model can really "
            "read.",
        )
    return None if too_long == "drop" else replace(reading, ids=reading.ids[:window])


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


def subset(job: Job, places: Sequence[int]) -> Job:
    """The job with only the branches at these places."""
    assert job.encoded is not None
    if len(places) == len(job.bundle.branches):
        return job
    branches = tuple(job.bundle.branches[place] for place in places)
    encoded = tuple(job.encoded.branches[place] for place in places)
    return replace(
        job, bundle=replace(job.bundle, branches=branches), encoded=replace(job.encoded, branches=encoded)
    )


def marks_of(encoded: EncodedBundle, follows: Any) -> list[str]:
    """What the answer to each branch follows from: its whole prompt, and `follows` (weights, stops, limits)."""
    whole = hashlib.sha256(json.dumps(follows, sort_keys=True).encode())
    if encoded.positions is not None:
        whole.update(np.asarray(encoded.positions, dtype=np.int64).tobytes())
    whole.update(np.asarray(encoded.prefix, dtype=np.int64).tobytes())
    marks = []
    for branch in encoded.branches:
        digest = whole.copy()
        digest.update(np.asarray(branch.ids[: branch.answer_start], dtype=np.int64).tobytes())
        marks.append(digest.hexdigest()[:32])
    return marks


def mark_of_reading(reading: Reading, weights: str) -> str:
    """What the result of reading a text follows from."""
    digest = hashlib.sha256(np.asarray(reading.ids, dtype=np.int64).tobytes())
    digest.update(json.dumps([reading.meta, weights], sort_keys=True).encode())
    return digest.hexdigest()[:32]
