"""The order of waiting calls: sorted, onwards from the last, and around."""

from __future__ import annotations

import random
from dataclasses import dataclass

from lcx.llm.scheduler import PrefixQueue


@dataclass(eq=False)
class Item:
    order: tuple[bytes, int]


def texts(queue: PrefixQueue[Item], count: int) -> list[bytes]:
    return [queue.pop().order[0] for _ in range(count)]


def test_it_goes_upwards_and_starts_again_at_the_lowest() -> None:
    queue: PrefixQueue[Item] = PrefixQueue()
    for number, text in enumerate([b"m", b"c", b"x", b"m"]):
        queue.add(Item((text, number)))
    assert texts(queue, 2) == [b"c", b"m"]
    queue.add(Item((b"a", 9)))  # it has missed this round
    queue.add(Item((b"n", 10)))
    assert texts(queue, 4) == [b"m", b"n", b"x", b"a"]
    assert not len(queue)


def test_what_lies_behind_the_sweep_is_taken_when_it_comes_around() -> None:
    queue: PrefixQueue[Item] = PrefixQueue()
    rng = random.Random(3)
    for number in range(50):
        queue.add(Item((bytes([rng.randrange(1, 256)]), number)))
    queue.pop()
    old = Item((b"\x00", -1))
    queue.add(old)
    taken: list[Item] = []
    while (
        old not in taken and len(taken) < 300
    ):  # a busy queue: for each that is taken another comes, anywhere
        taken.append(queue.pop())
        queue.add(Item((bytes([rng.randrange(1, 256)]), 100 + len(taken))))
    assert old in taken
    assert len(taken) > 50
