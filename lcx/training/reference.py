"""Reference log-probabilities computed once: by the model as it is before training, kept on disk."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lcx.context import Context
from lcx.modeling.load import digest_of_weights, without_dropout
from lcx.records import EncodedBundle
from lcx.training.collate import Draw, Item, collate
from lcx.training.preference_trainer import PreferenceTrainer
from lcx.work.files import atomic_path


def digest_of_data(bundles: Sequence[EncodedBundle], draw: Draw | None) -> str:
    """A hash of all token ids, branch borders and positions that reference log-probabilities follow from."""
    digest = hashlib.sha256()
    for bundle in bundles:
        placed = bundle if draw is None else draw(bundle, 0)
        digest.update(np.asarray(placed.prefix, np.int64).tobytes())
        if placed.positions is not None:
            digest.update(np.asarray(placed.positions, np.int64).tobytes())
        for branch in placed.branches:
            digest.update(np.array([branch.answer_start, *branch.ids], np.int64).tobytes() + b"|")
    return digest.hexdigest()


def cached_reference(
    trainer: PreferenceTrainer,
    bundles: Sequence[EncodedBundle],
    draw: Draw | None,
    precision: str,
    cache: Path,
    ctx: Context,
) -> list[np.ndarray]:
    """log π of every bundle's answers under the trainer's model as it is now: one array [branches] a bundle.

    The file in `cache` is named by data, weights and precision; where it is there, nothing is computed. With
    several processes each computes its share.
    """
    weights = digest_of_weights(trainer.accelerator.unwrap_model(trainer.model))
    name = hashlib.sha256(f"{digest_of_data(bundles, draw)}|{weights}|{precision}".encode()).hexdigest()[:24]
    path = cache / "reference" / f"{name}.npz"
    if path.is_file():
        ctx.log(f"reference log-probs: from {path}")
        with np.load(path) as held:
            return np.split(held["sums"], np.cumsum(held["branches"])[:-1])
    rank, processes = trainer.args.process_index, trainer.args.world_size
    own = {}
    for number in range(rank, len(bundles), processes):
        bundle = bundles[number] if draw is None else draw(bundles[number], 0)
        own[number] = _sums(trainer, bundle)
        ctx.pulse(f"    reference log-probs: {number + 1:,} of {len(bundles):,} contexts")
    if processes > 1:
        from accelerate.utils import gather_object

        own = {number: sums for part in gather_object([own]) for number, sums in part.items()}
    sums = [own[number] for number in range(len(bundles))]
    if rank == 0:
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            np.savez(file, sums=np.concatenate(sums), branches=np.array([len(one) for one in sums]))
    return sums


@torch.no_grad()
def _sums(trainer: PreferenceTrainer, bundle: EncodedBundle) -> np.ndarray:
    batch: dict[str, Any] = {
        key: value.to(trainer.args.device) if isinstance(value, torch.Tensor) else value
        for key, value in collate([Item(bundle, 1.0)]).items()
    }
    with without_dropout(trainer.model), trainer.accelerator.autocast():
        logprobs = trainer.logprobs(trainer.model, batch)
    sums = torch.zeros(len(batch["weights"]), device=logprobs.device).index_add(0, batch["branch"], logprobs)
    return sums.cpu().numpy()
