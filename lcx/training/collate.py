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
    """A bundle and how much it counts: 1, or 0 where it only fills up a process's last batch.

    `reference`, where given, are log-probabilities of its answers under a reference model, one a branch.
    """

    bundle: EncodedBundle
    weight: float
    reference: np.ndarray | None = None


def collate(items: Sequence[Item]) -> dict[str, Any]:
    """One packed row: what the model is given, and what the loss needs.

    Model: input_ids and position_ids [1,n], segments, logits_to_keep [t]. Loss: targets and branch [t],
    weights, bundle, chosen and (where the items have it) reference [b], roles, bundle_weights [bundles].
    Raises LcxError where a branch has no answer to learn.
    """
    row = pack([item.bundle for item in items])
    answers = np.bincount(row.branch_of_target, minlength=len(row.roles))
    if not answers.all():
        empty = items[int(row.bundle_of_branch[int(np.argmin(answers))])].bundle.id
        raise LcxError(f"bundle {empty}: a branch has no answer tokens to learn from")
    bundle_weights = np.array([item.weight for item in items], dtype=np.float32)
    weights = bundle_weights[row.bundle_of_branch]
    batch = {
        "input_ids": torch.from_numpy(row.input_ids)[None],
        "position_ids": torch.from_numpy(row.position_ids)[None],
        "segments": row.segments,
        "logits_to_keep": torch.from_numpy(row.logit_index),
        "targets": torch.from_numpy(row.targets),
        "branch": torch.from_numpy(row.branch_of_target),
        "weights": torch.from_numpy(weights),
        "bundle": torch.from_numpy(row.bundle_of_branch),
        "roles": list(row.roles),
        "chosen": torch.tensor([role == "chosen" for role in row.roles]),
        "bundle_weights": torch.from_numpy(bundle_weights),
        "branches": float(weights.sum()),
        "bundles": float(bundle_weights.sum()),
        "answer_tokens": float((answers * weights).sum()),
        "rows": len(row.input_ids),
    }
    known = [item.reference for item in items if item.reference is not None]
    if known:
        batch["reference"] = torch.from_numpy(np.concatenate(known).astype(np.float32))
    return batch


Draw = Callable[[EncodedBundle, int], EncodedBundle]
"""Gives a bundle what is drawn anew in every epoch, as synthetic positions are."""


class Items(Dataset[Item]):
    """Bundles as a torch dataset of so many numbers an epoch; what comes after the bundles is a filler.

    A filler is the shortest bundle at weight 0. Number `epoch * length + place` is the bundle as it is drawn
    in that epoch. `reference[place]` are its answers' log-probabilities under a reference model.
    """

    def __init__(
        self,
        bundles: Sequence[EncodedBundle],
        shortest: int,
        length: int,
        draw: Draw | None = None,
        reference: Sequence[np.ndarray] | None = None,
    ) -> None:
        self.bundles, self.shortest, self.length = bundles, shortest, length
        self.draw, self.reference = draw, reference

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, number: int) -> Item:
        epoch, place = divmod(number, self.length)
        real = place < len(self.bundles)
        index = place if real else self.shortest
        bundle = self.bundles[index]
        if self.draw is not None:
            bundle = self.draw(bundle, epoch)
        return Item(bundle, float(real), None if self.reference is None else self.reference[index])


class EpochOrder(Sampler[int]):
    """A permutation of `count` bundles drawn from (seed, epoch), then the fillers up to `length`.

    `first` are the bundles that the first epoch begins with. Numbers are those of `Items`: the epoch is in them, so
    that a bundle can be drawn anew in each.

    The order depends on neither the number of processes nor the size of a forward pass, so that one process
    and many see the same bundles in the same steps.
    """

    def __init__(
        self, count: int, length: int, seed: int, epoch: Callable[[], int], first: Sequence[int] = ()
    ) -> None:
        self.count, self.length, self.seed, self.epoch, self.first = count, length, seed, epoch, first

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[int]:
        epoch = self.epoch()
        order = np.random.default_rng([self.seed, epoch]).permutation(self.count).tolist()
        if epoch == 0 and self.first:
            order = [*self.first, *(place for place in order if place not in set(self.first))]
        for place in (*order, *range(self.count, self.length)):
            yield epoch * self.length + place
