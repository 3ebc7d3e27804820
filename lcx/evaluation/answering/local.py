"""A model in this process answers: many questions against one copy of their context, where it can."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from lcx.errors import UsageError
from lcx.evaluation.answering.answers import Answer, Answerer, Given, Told, untold
from lcx.evaluation.jobs import Job

if TYPE_CHECKING:
    from lcx.modeling.decode import DecodeStrategy

SHORT = 1024
"""Contexts with one question and at most so many tokens share padded batches: there is nothing else to share."""


def open_local(
    model: Any, tokenizer: Any, *, stops: Sequence[int], batch: int = 64, reuse: bool = True
) -> Answerer:
    """An answerer for a loaded model. `stops` are the tokens that end an answer, `batch` the rows at a time.

    `reuse=False` runs every prompt whole. The answerer's `reason` says which way was taken and why. Raises
    UsageError for an encoder-decoder.
    """
    from lcx.modeling.decode import pick_strategy

    if getattr(model.config, "is_encoder_decoder", False):
        raise UsageError(
            f"'{model.config.model_type}' is an encoder-decoder, not a causal language model",
            hint="--model takes a model that continues a text, such as Llama, Qwen or Mistral.",
        )
    return Local(model, tokenizer, sorted(set(stops)), batch, pick_strategy(model, reuse=reuse))


class Local:
    """Greedy answers of one model."""

    def __init__(
        self, model: Any, tokenizer: Any, stops: Sequence[int], batch: int, way: DecodeStrategy
    ) -> None:
        from lcx.modeling.decode import SHARED, WHOLE

        self.model, self.tokenizer = model, tokenizer
        self.stops, self.batch, self.way = list(stops), batch, way
        self.name, self.reason, self.reuse = way.name, way.reason, way.name != WHOLE
        self._padded = way.name in (SHARED, WHOLE)

    def answer(
        self, jobs: Sequence[Job], *, max_new_tokens: int, on_answer: Told = untold
    ) -> list[list[Answer]]:
        """The answers of each job in the order of its branches; none for a job whose `encoded` is None."""
        found: list[dict[int, Answer]] = [{} for _ in jobs]

        def note(job: int, place: int, ids: list[int]) -> None:
            found[job][place] = self._answer(ids, max_new_tokens)
            on_answer(job, place, found[job][place])

        alone = [number for number, job in enumerate(jobs) if self._goes_whole(job)]
        if alone:
            self._whole(jobs, [(number, 0) for number in alone], max_new_tokens, note)
        for number, job in enumerate(jobs):
            if job.encoded is not None and not found[number]:
                self._context(number, job, max_new_tokens, note)
        return [[answers[place] for place in sorted(answers)] for answers in found]

    def describe(self) -> Mapping[str, Any]:
        return {"way": self.name, "reuse": self.reuse, "reason": self.reason}

    def check(
        self, jobs: Sequence[Job], k: int, seed: int, *, max_new_tokens: int, given: Given = None
    ) -> dict[str, Any]:
        from lcx.evaluation.answering.checking import check_local

        return check_local(self, jobs, k, seed, max_new_tokens, given)

    def close(self) -> None:
        """The model stays with whoever loaded it."""

    def _goes_whole(self, job: Job) -> bool:
        encoded = job.encoded
        if encoded is None or encoded.positions is not None or len(encoded.branches) > 1:
            return False
        return self._padded and len(encoded.prefix) + encoded.branches[0].answer_start <= SHORT

    def _whole(self, jobs: Sequence[Job], items: Sequence[tuple[int, int]], limit: int, note: Any) -> None:
        """Items of any contexts in batches of whole prompts."""
        from lcx.modeling.decode import generate_rows

        generate_rows(
            self.model,
            [row_of_item(jobs[number], place) for number, place in items],
            max_new_tokens=limit,
            eos_ids=self.stops,
            batch=self.batch,
            on_answer=lambda at, ids: note(*items[at], ids),
        )

    def _context(self, number: int, job: Job, limit: int, note: Any) -> None:
        """All items of one context."""
        from lcx.modeling.decode import decode_branches

        encoded = job.encoded
        assert encoded is not None
        decode_branches(
            self.way,
            self.model,
            encoded.prefix,
            [branch.ids[: branch.answer_start] for branch in encoded.branches],
            max_new_tokens=limit,
            eos_ids=self.stops,
            batch=self.batch,
            positions=encoded.positions,
            on_answer=lambda place, ids: note(number, place, ids),
        )

    def _answer(self, ids: Sequence[int], limit: int) -> Answer:
        text = self.tokenizer.decode(list(ids), skip_special_tokens=True)
        return Answer(text, "stop" if len(ids) < limit else "length", len(ids), tuple(ids))


def row_of_item(job: Job, place: int) -> list[int]:
    """The whole prompt of one item in tokens."""
    assert job.encoded is not None
    branch = job.encoded.branches[place]
    return [*np.asarray(job.encoded.prefix, dtype=np.int64).tolist(), *branch.ids[: branch.answer_start]]
