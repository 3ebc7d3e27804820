"""From encoded bundles to the tensors of one forward pass, and the order in which bundles are drawn."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import Dataset, Sampler

from lcx.errors import LcxError
from lcx.modeling.shared_prefix import pack
from lcx.records import EncodedBundle


class Item(NamedTuple):
    """A bundle and how much it counts: 1, or 0 where it only fills up a process's last batch."""

    bundle: EncodedBundle
    weight: float


def collate(items: Sequence[Item]) -> dict[str, Any]:
    """One packed row: what the model is given, and what the loss needs.

    Model: input_ids and position_ids [1,n], segments, logits_to_keep [t]. Loss: targets and branch [t],
    weights and bundle [b], roles. Raises LcxError where a branch has no answer to learn.
    """
    row = pack([item.bundle for item in items])
    answers = np.bincount(row.branch_of_target, minlength=len(row.roles))
    if not answers.all():
        empty = items[int(row.bundle_of_branch[int(np.argmin(answers))])].bundle.id
        raise LcxError(f"bundle {empty}: a branch has no answer tokens to learn from")
    weights = np.array([item.weight for item in items], dtype=np.float32)[row.bundle_of_branch]
    return {
        "input_ids": torch.from_numpy(row.input_ids)[None],
        "position_ids": torch.from_numpy(row.position_ids)[None],
        "segments": row.segments,
        "logits_to_keep": torch.from_numpy(row.logit_index),
        "targets": torch.from_numpy(row.targets),
        "branch": torch.from_numpy(row.branch_of_target),
        "weights": torch.from_numpy(weights),
        "bundle": torch.from_numpy(row.bundle_of_branch),
        "roles": list(row.roles),
        "branches": float(weights.sum()),
        "answer_tokens": float((answers * weights).sum()),
        "rows": len(row.input_ids),
    }


class Items(Dataset[Item]):
    """Bundles as a torch dataset. Numbers past the end are the shortest bundle at weight 0."""

    def __init__(self, bundles: Sequence[EncodedBundle], shortest: int, length: int) -> None:
        self.bundles, self.shortest, self.length = bundles, shortest, length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Item:
        real = index < len(self.bundles)
        return Item(self.bundles[index if real else self.shortest], float(real))


class EpochOrder(Sampler[int]):
    """A permutation of `count` bundles drawn from (seed, epoch), then the fillers up to `length`.

    The order depends on neither the number of processes nor the size of a forward pass, so that one process
    and many see the same bundles in the same steps.
    """

    def __init__(self, count: int, length: int, seed: int, epoch: Callable[[], int]) -> None:
        self.count, self.length, self.seed, self.epoch = count, length, seed, epoch

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[int]:
        order = np.random.default_rng([self.seed, self.epoch()]).permutation(self.count)
        yield from order.tolist()
        yield from range(self.count, self.length)


class StepShape(NamedTuple):
    """How an optimizer step is made up: bundles a forward pass, passes a process, bundles a step over all."""

    micro: int
    passes: int
    bundles: int


def step_shape(batch: int, micro: int, processes: int, mean_branches: float) -> StepShape:
    """Bundles a step so that a step has about `batch` branches: the nearest number to batch / mean branches.

    The number of bundles is the same in every step, so where branch counts differ a step's branches vary
    around `batch`; the loss divides by what a step really has. At least one bundle a process is taken, and
    the number is rounded to full passes of `micro` bundles on every process (`micro` is cut where a step
    has fewer).
    """
    wanted = max(1, round(batch / mean_branches))
    micro = max(1, min(micro, wanted // processes))
    passes = max(1, round(wanted / (micro * processes)))
    return StepShape(micro, passes, micro * passes * processes)
