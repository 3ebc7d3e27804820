"""Context plans: which segments stand in a context, in which order, and where among them the evidence is."""

from __future__ import annotations

import random
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from lcx.data.table import SegmentTable
from lcx.errors import LcxError

NEAREST = 64
"""Random candidates among which the one that fills the rest of the budget best is sought."""
BLANKS = 4
"""Most blanks by which equal segments may differ: the end of a file has some."""
PATIENCE = 64
"""Useless draws in a row after which the segments still allowed are listed instead."""

AT_ONCE = 0.8
"""The share of a context that is drawn at once: its segments may be longer than the mean."""
LEAST_AT_ONCE = 32

_Item = TypeVar("_Item")


@dataclass(frozen=True)
class Plan:
    """A context as segment numbers in reading order. `gold_places[k]` is where the k-th gold segment stands.

    `tokens` counts segments and the separators between them. `exhausted` says that the table ran out of
    segments that are allowed, so that the context stayed `shortfall` tokens short for good.
    """

    indices: tuple[int, ...]
    gold_places: tuple[int, ...]
    tokens: int
    target: int
    exhausted: bool = False
    own_document: bool = False
    """Whether fillers had to come from the gold segments' own documents too."""

    @property
    def shortfall(self) -> int:
        """Tokens of the budget that were left unused."""
        return self.target - self.tokens


def plan_rng(seed: int | str, index: int | str) -> random.Random:
    """The random generator of one bundle: it depends on nothing but the seed and the bundle's own number."""
    return random.Random(f"lcx.plan:{seed}:{index}")


def draw(rng: random.Random, count: int) -> int:
    """A uniform number in `range(count)`, by `random()` alone: Python promises never to change it."""
    return int(rng.random() * count)


def shuffle(rng: random.Random, items: list[_Item]) -> None:
    """Put a list into random order, in place (Fisher-Yates by `draw`)."""
    random = rng.random
    for last in range(len(items) - 1, 0, -1):
        other = int(random() * (last + 1))  # as `draw` does
        items[last], items[other] = items[other], items[last]


def neighbour_runs(rng: random.Random, table: SegmentTable, most: int) -> list[tuple[int, ...]]:
    """Runs of 2 to `most` neighbouring segments of one document, in random order; none overlap."""
    runs: list[tuple[int, ...]] = []
    for document in range(table.document_count):
        own = table.segments_of(document)
        start = own.start
        while own.stop - start >= 2:
            stop = min(own.stop, start + 2 + draw(rng, most - 1))
            runs.append(tuple(range(start, stop)))
            start = stop
    shuffle(rng, runs)
    return runs


class Twins:
    """Segments that say the same as given ones, wherever they stand: `number in twins`. Blanks around do not count."""

    def __init__(self, table: SegmentTable, segments: Iterable[int]) -> None:
        self._table, self._tokens = table, table.tokens.data
        self.by_tokens: dict[int, list[int]] = {}
        for one in segments:
            self.by_tokens.setdefault(int(table.tokens[one]), []).append(int(one))

    def __contains__(self, index: int) -> bool:
        alike = self.by_tokens.get(self._tokens[index])
        if alike is None:
            return False
        table = self._table
        return any(
            self._alike(one, index) and table.text(one).strip() == table.text(index).strip() for one in alike
        )

    def _alike(self, one: int, other: int) -> bool:
        """Whether two segments may be equal, as far as that is known without their texts."""
        table = self._table
        if table.prints is not None and table.prints[one] != table.prints[other]:
            return False
        keys = int(table.key_ids[one]), int(table.key_ids[other])
        if min(keys) >= 0 and keys[0] != keys[1]:
            return False
        lengths = [int(table.ends[index]) - int(table.starts[index]) for index in (one, other)]
        return abs(lengths[0] - lengths[1]) <= BLANKS


def fill_plan(
    rng: random.Random,
    table: SegmentTable,
    gold: Sequence[int],
    target_tokens: int,
    *,
    separator_tokens: int = 1,
    forbidden_documents: Collection[int] | None = None,
    forbidden_keys: Collection[str] = (),
) -> Plan:
    """Surround gold segments with random fillers up to a budget, then put all into random order.

    The target counts context tokens only: segments and the separators between them, not the template,
    question or answer. It is never exceeded. Fillers come from the whole table: no segment twice, no two of
    one key, none that says what a gold segment says, none of `forbidden_keys`, and none from
    `forbidden_documents` (default: the gold segments' own documents). Time grows with the context, not with the
    table. Raises LcxError where the gold segments alone exceed the target.
    """
    chosen = [int(index) for index in gold]
    if len(set(chosen)) != len(chosen):
        raise ValueError(f"a gold segment is given twice: {chosen}")
    if forbidden_documents is None:
        barred = {table.document_of(index) for index in chosen}
    else:
        barred = {int(document) for document in forbidden_documents}
    keys = {int(table.key_ids[index]) for index in chosen} | {table.key_number(key) for key in forbidden_keys}
    keys.discard(-1)
    total = sum(int(table.tokens[index]) for index in chosen) + separator_tokens * max(0, len(chosen) - 1)
    if total > target_tokens:
        raise LcxError(
            f"the evidence alone has {total} tokens, more than the context's {target_tokens}",
            hint="Raise the shortest context length, or use fewer gold segments.",
        )

    fillers = _Fillers(rng, table, set(chosen), barred, keys, Twins(table, chosen))
    exhausted = False
    own = False
    while True:
        total, first = fillers.draw_on(chosen, total, target_tokens, separator_tokens)
        room = target_tokens - total - (separator_tokens if chosen else 0)
        if room < 1:
            break
        index = fillers.fitting(room, first)
        if index is None and fillers.empty and forbidden_documents is None and fillers.barred:
            # A corpus of one large document, or a few: the rest of the gold's own is better than a short context.
            own = True
            fillers = _Fillers(rng, table, set(chosen), set(), fillers.keys, fillers.twins)
            continue
        if index is None:
            exhausted = fillers.empty
            break
        total += fillers.tokens[index] + (separator_tokens if chosen else 0)
        chosen.append(index)

    order = list(range(len(chosen)))
    shuffle(rng, order)
    place_of = {item: place for place, item in enumerate(order)}
    return Plan(
        tuple(chosen[item] for item in order),
        tuple(place_of[item] for item in range(len(gold))),
        total,
        target_tokens,
        exhausted,
        own,
    )


class _Fillers:
    """Random segments that may still be used; a taken one bars itself and its key."""

    def __init__(
        self,
        rng: random.Random,
        table: SegmentTable,
        used: set[int],
        barred: set[int],
        keys: set[int],
        twins: Twins,
    ) -> None:
        self.rng, self.table, self.used, self.barred, self.keys = rng, table, used, barred, keys
        self.twins = twins
        self.listed: list[int] | None = None
        self.empty = False
        # Views: a number out of a NumPy array costs five times as much, and a million plans take 250 million
        self.tokens, self.documents, self.key_ids = (
            table.tokens.data,
            table.documents.data,
            table.key_ids.data,
        )

    def draw_on(self, chosen: list[int], total: int, target: int, separator: int) -> tuple[int, int | None]:
        """Take what is drawn while it fits, into `chosen`: the new total, and what was drawn last and does not fit.

        This is what `fitting` does, for nearly all of a context; in one loop it takes a third of the time.
        """
        random, size, patience = self.rng.random, len(self.table), range(PATIENCE)
        tokens, documents, key_ids = self.tokens, self.documents, self.key_ids
        used, barred, keys, twins, like_twins = (
            self.used,
            self.barred,
            self.keys,
            self.twins,
            self.twins.by_tokens,
        )
        total = self._draw_many(chosen, total, target, separator)
        while self.listed is None:
            room = target - total - (separator if chosen else 0)
            if room < 1:
                break
            for _ in patience:
                index = int(random() * size)  # as `draw` does
                if index in used or documents[index] in barred or (key := key_ids[index]) in keys:
                    continue
                if (length := tokens[index]) not in like_twins or index not in twins:
                    break
            else:
                self._list()
                break
            if length > room:
                return total, index
            used.add(index)
            if key >= 0:
                keys.add(key)
            total += length + (separator if chosen else 0)
            chosen.append(index)
        return total, None

    def _draw_many(self, chosen: list[int], total: int, target: int, separator: int) -> int:
        """Take at once what `draw_on` would take one by one, where all of it may be used: as a rule, most of a context
        from a large table. Else nothing is taken, and the random numbers are as they were.
        """
        table, size = self.table, len(self.table)
        count = int(AT_ONCE * (target - total) / (table.mean_tokens + separator))
        if count < LEAST_AT_ONCE or count * count > size or table.keyed or self.listed is not None:
            return total
        random = self.rng.random
        before = self.rng.getstate()
        drawn = [int(random() * size) for _ in range(count)]
        places = np.array(drawn)
        lengths = table.tokens[places]
        grown = total + int(lengths.sum()) + separator * (count - (not chosen))
        taken = set(drawn)
        odd = (
            grown > target
            or len(taken) < count
            or not taken.isdisjoint(self.used)
            or any((table.documents[places] == document).any() for document in self.barred)
            or any(
                drawn[at] in self.twins
                for alike in self.twins.by_tokens
                for at in np.flatnonzero(lengths == alike)
            )
        )
        if odd:
            self.rng.setstate(before)
            return total
        self.used |= taken
        chosen += drawn
        return grown

    def fitting(self, room: int, first: int | None = None) -> int | None:
        """Take a segment of at most `room` tokens: the first drawn, or the largest of NEAREST."""
        first = self._next() if first is None else first
        if first is None:
            self.empty = True
            return None
        tokens = self.tokens
        if tokens[first] <= room:
            return self._take(first)
        best, most = None, -1
        for candidate in self._some(first):
            if most < (size := tokens[candidate]) <= room:
                best, most = candidate, size
        return None if best is None else self._take(best)

    def _take(self, index: int) -> int:
        self.used.add(index)
        key = self.key_ids[index]
        if key >= 0:
            self.keys.add(key)
        return index

    def _allowed(self, index: int) -> bool:
        return not (
            index in self.used
            or self.documents[index] in self.barred
            or self.key_ids[index] in self.keys
            or index in self.twins
        )

    def _next(self) -> int | None:
        if self.listed is None:
            random, size, allowed = self.rng.random, len(self.table), self._allowed
            for _ in range(PATIENCE):
                index = int(random() * size)  # as `draw` does
                if allowed(index):
                    return index
            self._list()
        while self.listed:
            index = self.listed.pop()
            if self._allowed(index):
                return index
        return None

    def _list(self) -> None:
        """List what is left: nearly everything is used or barred, since the table is hardly larger than the context."""
        self.listed = [index for index in range(len(self.table)) if self._allowed(index)]
        shuffle(self.rng, self.listed)

    def _some(self, first: int) -> Iterator[int]:
        """Candidates for the last place. What is not taken goes back into the list."""
        seen = [first]
        random, size, misses = self.rng.random, len(self.table), 0
        tokens, documents, key_ids = self.tokens, self.documents, self.key_ids
        used, barred, keys, twins, like_twins = (
            self.used,
            self.barred,
            self.keys,
            self.twins,
            self.twins.by_tokens,
        )
        while self.listed is None and len(seen) < NEAREST:
            index = int(random() * size)  # as `draw` does
            if (
                index in used
                or documents[index] in barred
                or key_ids[index] in keys
                or (tokens[index] in like_twins and index in twins)
            ):
                misses += 1
                if misses == PATIENCE:
                    self._list()
                continue
            misses = 0
            seen.append(index)
        while len(seen) < NEAREST and (further := self._next()) is not None:
            seen.append(further)
        if self.listed is not None:
            self.listed.extend(dict.fromkeys(seen))
        return iter(seen)
