"""The self-check before training at synthetic positions: can the end of a context still see its beginning?

transformers reads a jump in the position ids as the start of another packed document, wherever it makes the
mask itself, and then the chunks of a context do not attend to one another. Nothing says so: the loss falls all
the same. Shared-prefix attention makes no such mask, and this runs the model that is to be trained and proves it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from lcx.errors import LcxError
from lcx.modeling.load import switch_off_dropout
from lcx.modeling.shared_prefix import pack
from lcx.records import EncodedBundle

__all__ = ["check_chunks_connected", "thin"]

TOKENS = 2048
"""Tokens of a bundle that the check runs at most, where head and question leave room."""
ANSWER = 16
"""Tokens that it leaves of an answer."""
SURE = 4.0
"""A difference of more than so many times what two equal runs differ by is an effect."""


def thin(encoded: EncodedBundle, limit: int, answer: int = ANSWER) -> EncodedBundle:
    """The bundle with at most about `limit` prefix tokens and `answer` answer tokens a branch, positions kept.

    Tokens go from the middle of the context, and with them whole chunks; what stays of the first and of the last
    chunk keeps its positions, so that the gap between them stays. Head and question stay whole, and at least
    two tokens of either end, whatever the limit.
    """
    branches = tuple(
        replace(branch, ids=branch.ids[: branch.answer_start + answer]) for branch in encoded.branches
    )
    context = sum(encoded.chunks)
    room = max(limit - (len(encoded.prefix) - context), 4)
    if context <= room:
        return replace(encoded, branches=branches)
    left, right = room - room // 2, context - room // 2
    keep = np.r_[: encoded.head + left, encoded.head + right : len(encoded.prefix)]
    ends = np.cumsum(encoded.chunks)
    starts = ends - encoded.chunks
    kept = np.minimum(ends, left).clip(starts) - starts + (ends - np.maximum(starts, right)).clip(0)
    positions = np.arange(len(encoded.prefix)) if encoded.positions is None else np.asarray(encoded.positions)
    return replace(
        encoded,
        prefix=np.asarray(encoded.prefix)[keep],
        positions=positions[keep],
        branches=branches,
        chunks=tuple(int(length) for length in kept if length),
    )


def check_chunks_connected(
    model: Any, encoded: EncodedBundle, *, limit: int = TOKENS, device: torch.device | None = None
) -> None:
    """Prove on the model itself that the last chunk, and every branch, reads the first chunk of the bundle.

    Runs the packed row as the trainer does, twice, then with other tokens in the first chunk, then in the last.
    The first edit has to change the logits at the last chunk's last token and at the end of every branch; the
    second one must not change those at the first chunk's end, as attention is causal. All runs have one shape,
    so what an edit does not reach stays equal bit by bit, and any difference at all, small as it may be in
    bf16, proves a connection; where two equal runs of a device differ, that much is allowed for.

    `limit` is the number of prefix tokens as `thin` leaves them. A bundle of fewer than two context tokens is
    not checked. Processes that share a sharded model call this together, as every one runs the same four
    passes. Raises LcxError where chunks are isolated, where one sees a later one, or where logits are not
    numbers.
    """
    bundle = thin(encoded, limit)
    context = sum(bundle.chunks)
    if context < 2:
        return
    chunks = bundle.chunks if len(bundle.chunks) > 1 else (context // 2, context - context // 2)
    head, end = bundle.head, bundle.head + context
    first, last = slice(head, head + chunks[0]), slice(end - chunks[-1], end)
    with _still(model):
        run = _Runs(model, bundle, [first.stop - 1, end - 1], device)
        plain = run(bundle.prefix)
        noise = max(_change(plain, run(bundle.prefix)))
        _, reached, *branches = _change(plain, run(_edited(bundle.prefix, first)))
        leak, *_ = _change(plain, run(_edited(bundle.prefix, last)))
    config = getattr(getattr(model, "module", model), "config", None)
    attention = getattr(config, "_attn_implementation", "?")
    if leak > SURE * noise:
        raise LcxError(
            f"with attention '{attention}' the first chunk of a context sees the last one",
            why=f"Other tokens in the last chunk change the first chunk's logits by {leak:.3g}: "
            "this attention is not causal.",
            hint="--set train.attn=sdpa",
        )
    blind = [f"branch {number}" for number, change in enumerate(branches, 1) if change <= SURE * noise]
    if reached <= SURE * noise:
        blind.insert(0, "the last chunk")
    if blind:
        raise LcxError(
            f"with attention '{attention}' the chunks of a context do not see one another",
            why=f"Other tokens in the first chunk change nothing in {', '.join(blind)}. Synthetic positions leave "
            "gaps between chunks, and a gap is taken for the start of another document.",
            hint="--set train.attn=sdpa; where that does not help, train without gaps: "
            "--set train.target_length=null",
        )


class _Runs:
    """Forward passes over one packed row: prefix tokens to logits [2 + branches, V] in fp32.

    The logits are those at two places of the prefix and at the last token of every branch.
    """

    def __init__(
        self, model: Any, bundle: EncodedBundle, places: list[int], device: torch.device | None
    ) -> None:
        self.model, self.bundle = model, bundle
        self.device = device or next(model.parameters()).device
        # The prefix's last token stands at the head of every branch, at its own place in the first.
        ends = np.cumsum(pack([bundle]).segments[0])[1:] - 1
        self.keep = torch.tensor([*places, *ends.tolist()], device=self.device)

    def __call__(self, prefix: np.ndarray) -> torch.Tensor:
        row = pack([replace(self.bundle, prefix=prefix)])
        outputs = self.model(
            input_ids=torch.from_numpy(row.input_ids)[None].to(self.device),
            position_ids=torch.from_numpy(row.position_ids)[None].to(self.device),
            segments=row.segments,
            logits_to_keep=self.keep,
            use_cache=False,
        )
        logits = outputs.logits[0].float()
        if not torch.isfinite(logits).all():
            raise LcxError(
                "the model's logits are not all numbers, before any training",
                hint="Try another precision, and look whether the weights are whole.",
            )
        return logits


def _edited(prefix: Any, where: slice) -> np.ndarray:
    """The prefix with every token of a part replaced by another one of the prefix's own."""
    known = np.unique(prefix)
    if len(known) < 2:
        known = np.unique([0, 1, *known])
    changed = np.array(prefix, dtype=np.int64)
    changed[where] = known[(np.searchsorted(known, changed[where]) + 1) % len(known)]
    return changed


def _change(before: torch.Tensor, after: torch.Tensor) -> list[float]:
    """The largest difference in each row of logits."""
    return (after - before).abs().amax(-1).tolist()


@contextmanager
def _still(model: Any) -> Iterator[None]:
    """No dropout and no gradients inside the block; every module's own mode after it."""
    modes = [(module, module.training) for module in model.modules()]
    switch_off_dropout(model)
    try:
        with torch.no_grad():
            yield
    finally:
        for module, training in modes:
            module.training = training
