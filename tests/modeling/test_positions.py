"""Synthetic positions hold what they promise for any bundle: order, range, slots, room for the tail."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lcx.errors import LcxError, UsageError
from lcx.modeling import positions as module
from lcx.modeling.positions import (
    _needed,
    _parts,
    bundle_rng,
    check_room,
    draw_mode,
    place,
    slot_positions,
    split_chunks,
)
from lcx.modeling.shared_prefix import pack
from lcx.records import EncodedBranch, EncodedBundle

MODES = st.sampled_from(["continuous", "sparse"])


def bundle(
    head: int, chunks: tuple[int, ...], shared: int, branches: tuple[int, ...] = (5, 3), name: str = "b"
) -> EncodedBundle:
    prefix = np.arange(head + sum(chunks) + shared)
    return EncodedBundle(
        name, prefix, tuple(EncodedBranch([1] * n, 0) for n in branches), None, head, tuple(chunks)
    )


@st.composite
def bundles(draw: Any) -> EncodedBundle:
    chunks = draw(st.lists(st.integers(0, 40), min_size=1, max_size=12))
    chunks[draw(st.integers(0, len(chunks) - 1))] += 1  # some context there is
    branches = draw(st.lists(st.integers(1, 30), min_size=1, max_size=4))
    head, shared = draw(st.integers(0, 20)), draw(st.integers(0, 20))
    return bundle(head, tuple(chunks), shared, tuple(branches))


def places(encoded: EncodedBundle) -> list[list[int]]:
    """Position ids of every branch's whole row, as the model is given them."""
    row = pack([encoded])
    prefix, *branches = row.segments[0]
    found, at = [], prefix
    for rows in branches:
        found.append([*row.position_ids[:prefix].tolist(), *row.position_ids[at : at + rows].tolist()])
        at += rows
    return found


def needed_target(encoded: EncodedBundle, slot_tokens: int | None = None) -> int:
    """The smallest target at which a bundle can be spread: every slot as wide as its longest piece."""
    head, context, _, tail = _parts(encoded)
    return _needed(head, context, tail, slot_tokens)


@given(bundles(), st.one_of(st.none(), st.integers(1, 50)), st.integers(0, 500), MODES, st.integers(0, 99))
def test_any_bundle_increases_below_the_target_with_its_tail_after_the_last_slot(
    encoded: EncodedBundle, slot_tokens: int | None, spare: int, mode: Any, seed: int
) -> None:
    target = needed_target(encoded, slot_tokens) + spare  # spare 0: every longest piece fills its slot
    placed = place(encoded, target, np.random.default_rng(seed), mode=mode, slot_tokens=slot_tokens)
    for row in places(placed):
        assert row[0] >= 0
        assert all(a < b for a, b in pairwise(row))
        assert row[-1] < target
    head, context = encoded.head, sum(encoded.chunks)
    at = placed.positions
    assert at[:head].tolist() == list(range(head))
    pieces = split_chunks(encoded.chunks, slot_tokens)
    shared = len(encoded.prefix) - head - context
    tail = shared + max(len(branch.ids) for branch in encoded.branches)
    width = (target - head - tail) // len(pieces)
    start = head
    for number, length in enumerate(pieces):
        piece = at[start : start + length]
        assert head + number * width <= piece[0]
        assert piece[-1] < head + (number + 1) * width
        if mode == "continuous":
            assert (np.diff(piece) == 1).all()
        start += length
    # Question and answers stand after the last slot, in one run, and the longest of them has room
    follows = int(at[head + context - 1]) + 1 if not shared else int(at[head + context])
    assert follows == head + len(pieces) * width
    assert (np.diff(at[head + context :]) == 1).all()
    assert follows + tail <= target


@given(bundles(), st.one_of(st.none(), st.integers(1, 50)), MODES)
def test_one_position_too_few_is_an_error_that_names_what_would_do(
    encoded: EncodedBundle, slot_tokens: int | None, mode: Any
) -> None:
    needed = needed_target(encoded, slot_tokens)
    check_room(encoded, needed, slot_tokens)
    with pytest.raises(UsageError, match="bundle b: a target length of") as bad:
        place(encoded, needed - 1, np.random.default_rng(0), mode=mode, slot_tokens=slot_tokens)
    assert f"--set train.target_length={needed}" in bad.value.hint
    if "slot_tokens=" in bad.value.hint:
        shorter = int(bad.value.hint.rsplit("=", 1)[1])
        check_room(encoded, needed - 1, shorter)
    else:  # then even single tokens have no room
        with pytest.raises(UsageError):
            check_room(encoded, needed - 1, 1)


@given(st.lists(st.integers(0, 300), max_size=10), st.one_of(st.none(), st.integers(1, 64)))
def test_pieces_are_all_tokens_in_parts_alike(chunks: list[int], slot_tokens: int | None) -> None:
    pieces = split_chunks(chunks, slot_tokens)
    assert sum(pieces) == sum(chunks)
    assert all(pieces)
    if slot_tokens is None:
        assert pieces == [length for length in chunks if length]
        return
    assert len(pieces) == sum(math.ceil(length / slot_tokens) for length in chunks)
    assert all(length <= slot_tokens for length in pieces)
    for length in chunks:  # each chunk's own parts are the next ones, and differ by one token at most
        own, pieces = pieces[: math.ceil(length / slot_tokens)], pieces[math.ceil(length / slot_tokens) :]
        assert sum(own) == length
        assert not own or max(own) - min(own) <= 1


@given(bundles(), MODES, st.integers(0, 2**40), st.text(max_size=8), st.integers(0, 50))
def test_seed_id_and_epoch_give_the_positions(
    encoded: EncodedBundle, mode: Any, seed: int, name: str, epoch: int
) -> None:
    target = needed_target(encoded) + 4000
    assert (
        place(encoded, target, bundle_rng(seed, name, epoch), mode=mode).positions.tolist()
        == place(encoded, target, bundle_rng(seed, name, epoch), mode=mode).positions.tolist()
    )


@pytest.mark.parametrize("mode", ["continuous", "sparse"])
def test_epochs_ids_and_seeds_differ(mode: Any) -> None:
    encoded = bundle(3, (8,) * 16, 4)
    drawn = {
        tuple(place(encoded, 4096, bundle_rng(seed, name, epoch), mode=mode).positions.tolist())
        for seed in range(3)
        for name in ("a", "b", "1")
        for epoch in range(4)
    }
    assert len(drawn) == 3 * 3 * 4
    assert bundle_rng(1, "1:2", 0).random() != bundle_rng(1, "2", 1).random()


def test_random_numbers_do_not_depend_on_the_process() -> None:
    """Python's own hash of a string does: each process salts it anew."""
    code = "from lcx.modeling.positions import bundle_rng; print(bundle_rng(7, 'café', 3).integers(1 << 40))"
    salted = {**os.environ, "PYTHONHASHSEED": "12345"}
    there = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=salted, check=True
    )
    assert int(there.stdout) == bundle_rng(7, "café", 3).integers(1 << 40)


def chi_square(counts: np.ndarray) -> float:
    """The statistic against equal chances, in standard deviations above its mean."""
    expected = counts.sum() / len(counts)
    degrees = len(counts) - 1
    return float((((counts - expected) ** 2 / expected).sum() - degrees) / math.sqrt(2 * degrees))


def test_continuous_biases_are_uniform_over_the_slot() -> None:
    head, length, width = 5, 4, 20
    rng = np.random.default_rng(0)
    drawn = np.array([slot_positions(head, (length,) * 3, 7, head + 3 * width + 7, rng) for _ in range(6000)])
    for number in range(3):
        bias = drawn[:, head + number * length] - head - number * width
        counts = np.bincount(bias, minlength=width - length + 1)
        assert len(counts) == width - length + 1  # the first and the last place are taken, and none beyond
        assert counts.all()
        assert chi_square(counts) < 4
    first, second = drawn[:, head], drawn[:, head + length]
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.05  # chunks draw for themselves


def test_sparse_samples_are_uniform_over_the_slot() -> None:
    head, length, width = 2, 4, 20
    rng = np.random.default_rng(0)
    drawn = np.array(
        [slot_positions(head, (length,) * 2, 3, head + 2 * width + 3, rng, "sparse") for _ in range(6000)]
    )
    for number in range(2):
        own = drawn[:, head + number * length : head + (number + 1) * length] - head - number * width
        counts = np.bincount(own.ravel(), minlength=width)
        assert len(counts) == width
        assert chi_square(counts) < 4
    assert (np.diff(drawn[:, head : head + length]) > 1).any()


def test_modes_come_in_their_shares() -> None:
    rng = np.random.default_rng(0)
    modes = [draw_mode(rng, 0.1) for _ in range(4000)]
    assert set(modes) == {"continuous", "sparse"}
    assert 0.08 < modes.count("sparse") / 4000 < 0.12
    assert {draw_mode(rng, 0.0) for _ in range(50)} == {"continuous"}
    assert {draw_mode(rng, 1.0) for _ in range(50)} == {"sparse"}


def test_the_papers_layout() -> None:
    """16 chunks of 512 tokens act as 64K: the slots of the authors' notebook, less its errors."""
    encoded = bundle(32, (512,) * 16, 40, (472, 300))
    highest, starts = set(), []
    for epoch in range(40):
        placed = place(encoded, 65536, bundle_rng(0, "b", epoch), slot_tokens=512)
        highest.add(max(row[-1] for row in places(placed)))
        starts.append(placed.positions[32 : 32 + 16 * 512 : 512])
    width = (65536 - 32 - 512) // 16
    assert highest == {32 + 16 * width + 512 - 1} == {65535}
    assert (np.diff(np.array(starts), axis=1) > 512).all()


def test_bundles_without_a_context_keep_plain_positions() -> None:
    encoded = bundle(4, (), 6)
    assert place(encoded, 64, np.random.default_rng(0)).positions.tolist() == list(range(10))
    with pytest.raises(UsageError, match="target length of 14") as bad:
        place(encoded, 14, np.random.default_rng(0))
    assert bad.value.hint == "--set train.target_length=15"


def test_a_text_is_one_chunk_that_takes_several_slots() -> None:
    placed = place(bundle(2, (100,), 4), 1009 + 2, bundle_rng(0, "b", 0), slot_tokens=25)
    jumps = np.flatnonzero(np.diff(placed.positions[2:102]) > 1)
    assert set(jumps) <= {24, 49, 74}  # the pieces stay whole
    assert len(jumps) > 0
    assert placed.positions[102] == 2 + 4 * 250
    assert placed.chunks == (100,)  # what the context is made of does not change


def test_positions_that_a_bundle_has_are_replaced() -> None:
    encoded = bundle(2, (5, 5), 3)
    first = place(encoded, 500, bundle_rng(0, "b", 0))
    assert encoded.positions is None
    again = place(first, 500, bundle_rng(0, "b", 1))
    assert again.positions.tolist() == place(encoded, 500, bundle_rng(0, "b", 1)).positions.tolist()


def test_a_broken_record_is_no_silent_success(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(LcxError, match="head and chunks have 13 tokens, its prefix 12"):
        place(replace(bundle(3, (5, 4), 0), chunks=(5, 5)), 100, np.random.default_rng(0))
    encoded = bundle(3, (5, 5), 0)
    for wrong, message in (
        (np.zeros(13, np.int64), "do not increase strictly"),
        (np.arange(12), "do not increase strictly"),  # one is missing
        (np.arange(13) * 8, r"highest position 101 is not below 100"),
    ):
        monkeypatch.setattr(module, "slot_positions", lambda *a, wrong=wrong, **k: wrong)
        with pytest.raises(LcxError, match=message):
            place(encoded, 100, np.random.default_rng(0))
