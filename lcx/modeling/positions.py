"""Synthetic positions: a short context whose position ids act as those of a long one (LOGO, arXiv 2410.18533).

Where the context begins after `head` tokens and question and answer take `tail`, the room between them is cut
into N slots of equal width, one for each piece of the context:

    S = (target - head - tail) // N,    slot j = [head + j*S, head + (j+1)*S)
    continuous: piece j stands at head + j*S + u_j + 0, 1, ...   with u_j ~ U{0, ..., S - |C_j|}
    sparse:     its tokens stand at a sorted sample, without replacement, of slot j
    the tail stands at head + N*S, and after

The paper's equation 4 takes `i mod |C_i|` for the number of token i's chunk, where `i // |C_i|` is meant, and
draws one bias a chunk from the whole range, so that chunks may overlap or change places. In slots, positions
increase strictly, every chunk can stand at every place of its slot, and no position reaches `target`,
whatever is drawn. The authors' notebook has slots too, but with the last slot missing where the width divides
the range, one position used twice, and a question that may reach `target` itself.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np

from lcx.errors import LcxError, UsageError
from lcx.records import EncodedBundle

__all__ = [
    "Mode",
    "bundle_rng",
    "check_room",
    "draw_mode",
    "place",
    "slot_positions",
    "split_chunks",
]

Mode = Literal["continuous", "sparse"]


def bundle_rng(seed: int, bundle_id: str, epoch: int) -> np.random.Generator:
    """The random numbers of one bundle in one epoch: the same in every process, others in every epoch."""
    named = f"{seed}:{epoch}:{bundle_id}".encode("utf-8", "surrogatepass")
    return np.random.default_rng(int.from_bytes(hashlib.blake2b(named, digest_size=16).digest(), "big"))


def draw_mode(rng: np.random.Generator, sparse_share: float) -> Mode:
    """`sparse` with probability `sparse_share` (0.1 in the paper), else `continuous`."""
    return "sparse" if rng.random() < sparse_share else "continuous"


def split_chunks(chunks: Sequence[int], slot_tokens: int | None = None) -> list[int]:
    """Lengths of the pieces that get a slot each: chunks of more than `slot_tokens` tokens in equal parts.

    Parts differ by at most one token, so that no slot holds a remainder of a few. Empty chunks get no slot.
    """
    pieces: list[int] = []
    for length in chunks:
        parts = -(-length // slot_tokens) if slot_tokens else min(length, 1)
        pieces += [(length + part) // parts for part in range(parts)]
    return pieces


def slot_positions(
    head: int,
    chunks: Sequence[int],
    tail: int,
    target: int,
    rng: np.random.Generator,
    mode: Mode = "continuous",
    slot_tokens: int | None = None,
    *,
    flush: bool = False,
) -> np.ndarray:
    """Position ids (int64) of `head` instruction tokens and of chunks of so many tokens, each in its slot.

    The `tail` tokens of question and longest answer stand after the last slot, at `head + N*S` and on; they
    are below `target`, and not in the result. Chunks of more than `slot_tokens` tokens take several slots.
    `flush` lets the last piece end where its slot does, for tails that follow its last token directly.
    Raises UsageError where a piece is longer than its slot, naming the target length that would do.
    """
    _require(head, chunks, tail, target, slot_tokens)
    pieces = split_chunks(chunks, slot_tokens)
    width = _width(head, len(pieces), tail, target)
    parts = [np.arange(head)]
    for number, length in enumerate(pieces):
        start = head + number * width
        last = flush and number == len(pieces) - 1
        if mode == "sparse":
            drawn = np.sort(rng.choice(width - last, length - last, replace=False, shuffle=False))
            parts.append(start + drawn)
            if last:
                parts.append(np.array([start + width - 1]))
        else:
            bias = width - length if last else int(rng.integers(0, width - length + 1))
            parts.append(start + bias + np.arange(length))
    return np.concatenate(parts).astype(np.int64)


def place(
    encoded: EncodedBundle,
    target: int,
    rng: np.random.Generator,
    *,
    mode: Mode = "continuous",
    slot_tokens: int | None = None,
) -> EncodedBundle:
    """The bundle at synthetic positions, all of them below `target`, its context spread over the whole of it.

    The tail is what the prefix has after its chunks (the question, where all branches share it) and the
    longest branch. Where the prefix ends with its chunks, branches follow its last token directly, which then
    ends the last slot. A bundle without chunks has no context and keeps plain positions. Raises UsageError
    where `target` is too short, LcxError where the result would break what this promises.
    """
    head, context, shared, tail = _parts(encoded)
    check_room(encoded, target, slot_tokens)
    pieces = len(split_chunks(context, slot_tokens))
    start = slot_positions(head, context, tail, target, rng, mode, slot_tokens, flush=not shared)
    after = head + pieces * _width(head, pieces, tail, target)
    positions = np.concatenate([start, after + np.arange(shared)])
    placed = replace(encoded, positions=positions)
    _check(placed, target)
    return placed


def check_room(encoded: EncodedBundle, target: int, slot_tokens: int | None = None) -> None:
    """Raise UsageError where `place` cannot spread the bundle over `target` positions, with what would do."""
    head, context, _, tail = _parts(encoded)
    _require(head, context, tail, target, slot_tokens, f"bundle {encoded.id}: ")


def _parts(encoded: EncodedBundle) -> tuple[int, tuple[int, ...], int, int]:
    """Tokens of: what comes before the context, its chunks, the prefix after them, and that with the longest branch."""
    context = encoded.chunks if sum(encoded.chunks) else ()
    head = encoded.head if context else len(encoded.prefix)
    shared = len(encoded.prefix) - head - sum(context)
    if shared < 0:
        raise LcxError(
            f"bundle {encoded.id}: head and chunks have {head + sum(context):,} tokens, "
            f"its prefix {len(encoded.prefix):,}"
        )
    return head, context, shared, shared + max(len(branch.ids) for branch in encoded.branches)


def _needed(head: int, chunks: Sequence[int], tail: int, slot_tokens: int | None) -> int:
    pieces = split_chunks(chunks, slot_tokens)
    return head + len(pieces) * max(pieces, default=0) + tail


def _width(head: int, pieces: int, tail: int, target: int) -> int:
    """Positions of one slot; 0 where there is nothing to put into slots."""
    return (target - head - tail) // pieces if pieces else 0


def _require(
    head: int, chunks: Sequence[int], tail: int, target: int, slot_tokens: int | None, name: str = ""
) -> None:
    """Raise UsageError where `target` is too short, with one that would do, or with shorter pieces that would."""
    needed = _needed(head, chunks, tail, slot_tokens)
    if needed <= target:
        return
    pieces = split_chunks(chunks, slot_tokens)
    longest = max(pieces, default=0)
    hint = f"--set train.target_length={needed}"
    shorter = longest - 1
    while shorter > 1 and _needed(head, chunks, tail, shorter) > target:
        shorter //= 2
    if shorter >= 1 and _needed(head, chunks, tail, shorter) <= target:
        hint += f", or shorter pieces: --set train.slot_tokens={shorter}"
    slots = f"{len(pieces):,} slots for pieces of up to {longest:,} tokens, and " if pieces else ""
    raise UsageError(
        f"{name}a target length of {target:,} has no room for its synthetic positions",
        why=f"{slots}{head + tail:,} tokens of instructions, question and longest answer, "
        f"need {needed:,} positions; {head + sum(chunks) + tail:,} of them are real tokens.",
        hint=hint,
    )


def _check(placed: EncodedBundle, target: int) -> None:
    """Raise LcxError unless positions increase strictly and every branch stays below `target`."""
    positions = placed.positions
    longest = max(len(branch.ids) for branch in placed.branches)
    if len(positions) != len(placed.prefix) or (np.diff(positions, prepend=-1) <= 0).any():
        raise LcxError(
            f"bundle {placed.id}: its synthetic positions do not increase strictly; this is a defect"
        )
    highest = (int(positions[-1]) if len(positions) else -1) + longest
    if highest >= target:
        raise LcxError(
            f"bundle {placed.id}: its highest position {highest:,} is not below {target:,}; this is a defect"
        )
