"""Engine `trl`: TRL's SFTTrainer on the same answers, one row a branch, where no prefix can be shared."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from trl import SFTConfig, SFTTrainer

from lcx.context import Context
from lcx.errors import UsageError
from lcx.records import EncodedBundle
from lcx.training.arguments import training_arguments
from lcx.training.collate import step_shape
from lcx.training.length import Fitted
from lcx.training.settings import TrainSettings

TOKENS_WEIGH_ALIKE = (
    "engine trl weighs every answer token alike (loss_weighting: token); long answers count for more"
)


class RowTrainer(SFTTrainer):
    """TRL's trainer, which also keeps what the progress line shows: tokens seen, and the running step's loss."""

    tokens_seen = 0
    _step_loss: torch.Tensor | None = None

    @property
    def latest_loss(self) -> float | None:
        """Loss of the last optimizer step on this process; reading it waits for the device."""
        return None if self._step_loss is None else float(self._step_loss)

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: Any) -> tuple[list[Any], Any]:
        """The forward passes of one optimizer step, and the answer tokens in it."""
        batches, items = super().get_batch_samples(epoch_iterator, num_batches, device)
        self.tokens_seen += (
            sum(int(batch["attention_mask"].sum()) for batch in batches) * self.args.world_size
        )
        self._step_loss = None
        return batches, items

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> torch.Tensor:
        """One forward and backward pass; its loss is this pass's share of the step's."""
        loss = super().training_step(model, inputs, num_items_in_batch)
        self._step_loss = loss if self._step_loss is None else self._step_loss + loss
        return loss


def row(bundle: EncodedBundle, branch: int) -> dict[str, list[int]]:
    """One branch as a row of its own: input_ids, and labels that are -100 but for the answer.

    Raises UsageError for synthetic positions, which TRL has no place for.
    """
    if bundle.positions is not None:
        raise UsageError(
            "engine trl cannot train with synthetic positions",
            why=f"Bundle {bundle.id} has them.",
            hint="--set train.engine=shared-prefix",
        )
    own = bundle.branches[branch]
    prefix = np.asarray(bundle.prefix).tolist()
    unlearnt = len(prefix) + own.answer_start
    return {
        "input_ids": prefix + list(own.ids),
        "labels": [-100] * unlearnt + list(own.ids[own.answer_start :]),
    }


def trl_trainer(
    settings: TrainSettings,
    model: Any,
    tokenizer: Any,
    bundles: Fitted,
    out: Path,
    ctx: Context,
) -> tuple[RowTrainer, list[str]]:
    """A RowTrainer ready to run, and what a user should know about it.

    Rows are made when they are asked for. Nothing is truncated: the length policy has been applied.
    """
    notes = []
    if settings.loss_weighting == "branch" and len(bundles.answer_lengths) > 1:
        notes.append(TOKENS_WEIGH_ALIKE)
        ctx.log(TOKENS_WEIGH_ALIKE)
    # A step counts branches, and here a row is a branch: contexts packed together make no difference.
    shape = step_shape(settings.batch, 1, ctx.world_size, 1.0)
    places = [(bundle, branch) for bundle, count in enumerate(bundles.branches) for branch in range(count)]

    def make(batch: dict[str, list[int]]) -> dict[str, list[list[int]]]:
        made = [row(bundles[i], j) for i, j in zip(batch["bundle"], batch["branch"], strict=True)]
        return {key: [one[key] for one in made] for key in ("input_ids", "labels")}

    index = {"bundle": [i for i, _ in places], "branch": [j for _, j in places]}
    data = Dataset.from_dict(index).with_transform(make)
    args = SFTConfig(
        **training_arguments(settings, shape, out, ctx),
        max_length=None,
        packing=False,
        loss_type="nll",
        dataset_kwargs={"skip_prepare_dataset": True},
        shuffle_dataset=False,
    )
    if tokenizer is not None and tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return RowTrainer(model=model, args=args, train_dataset=data, processing_class=tokenizer), notes
