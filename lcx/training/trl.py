"""Engine `trl`: TRL's own trainers on the same answers, one row a branch or a pair of rows, no prefix shared."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

from lcx.context import Context
from lcx.errors import UsageError
from lcx.records import EncodedBundle
from lcx.training.arguments import RateSchedule, training_arguments
from lcx.training.data import Fitted
from lcx.training.losses import Loss
from lcx.training.settings import PreferenceSettings, TrainSettings, step_shape

ROWS_WEIGH_ALIKE = (
    "engine trl weighs every answer token alike (loss_weighting: token); long answers count for more"
)


class StepLoss(RateSchedule):
    """Mixin of TRL's trainers for the progress line: tokens seen, and the loss of the running or last step."""

    args: Any
    tokens_seen = 0
    _step_loss: torch.Tensor | None = None

    @property
    def latest_loss(self) -> float | None:
        """Loss of the last optimizer step on this process; reading it waits for the device."""
        return None if self._step_loss is None else float(self._step_loss)

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: Any) -> tuple[list[Any], Any]:
        """The forward passes of one optimizer step, and their number of items."""
        batches, items = super().get_batch_samples(epoch_iterator, num_batches, device)  # type: ignore[misc]
        self.tokens_seen += (
            sum(int(batch["attention_mask"].sum()) for batch in batches) * self.args.world_size
        )
        self._step_loss = None
        return batches, items

    def training_step(self, *args: Any, **kwargs: Any) -> Any:
        """One forward and backward pass; its loss is this pass's share of the step's."""
        loss = super().training_step(*args, **kwargs)  # type: ignore[misc]
        own = loss.detach()
        self._step_loss = own if self._step_loss is None else self._step_loss + own
        return loss


class RowTrainer(StepLoss, SFTTrainer):
    """TRL's trainer of single rows."""


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


def row_trainer(
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
        notes.append(ROWS_WEIGH_ALIKE)
        ctx.log(ROWS_WEIGH_ALIKE)
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


PAIRS_ONLY = (
    "engine trl compares pairs: the first rejected answer of {count} bundles is used, the others are not"
)
CHOSEN_WEIGH_ALIKE = (
    "engine trl's cross-entropy weighs every chosen token of a batch alike; long answers count for more"
)


class PairTrainer(StepLoss, DPOTrainer):
    """TRL's trainer of pairs."""

    def _prepare_dataset(self, dataset: Any, *args: Any, **kwargs: Any) -> Any:
        """The rows as they are: they hold token ids already, and are made when they are asked for."""
        return dataset


def pair_trainer(
    settings: PreferenceSettings,
    loss: Loss,
    options: dict[str, Any],
    model: Any,
    tokenizer: Any,
    bundles: Fitted,
    out: Path,
    ctx: Context,
) -> tuple[PairTrainer, list[str]]:
    """A PairTrainer ready to run, and what a user should know about it. Raises UsageError for other losses."""
    if loss.name != "dpo":
        raise UsageError(
            f"engine trl trains the loss 'dpo', not '{loss.name}'",
            hint="--set train.loss=dpo, or --set train.engine=shared-prefix",
        )
    if options.get("sft_weight") and options.get("ce") == "sum":
        raise UsageError(
            "engine trl has no summed cross-entropy", hint="--set 'train.loss_options={ce: token}'"
        )
    notes = []
    wide = sum(count > 2 for count in bundles.branches)
    if wide:
        notes.append(PAIRS_ONLY.format(count=wide))
    if options.get("sft_weight"):
        notes.append(CHOSEN_WEIGH_ALIKE)
    for note in notes:
        ctx.log(note)
    shape = step_shape(settings.batch, settings.micro_batch, ctx.world_size, 1.0)

    def make(batch: dict[str, list[int]]) -> dict[str, list[list[int]]]:
        made = [bundles[number] for number in batch["bundle"]]
        return {
            "prompt_ids": [np.asarray(bundle.prefix).tolist() for bundle in made],
            "chosen_ids": [list(bundle.branches[0].ids) for bundle in made],
            "rejected_ids": [list(bundle.branches[1].ids) for bundle in made],
        }

    data = Dataset.from_dict({"bundle": list(range(len(bundles)))}).with_transform(make)
    weighted: dict[str, Any] = {"loss_type": ["sigmoid"]}
    if options.get("sft_weight"):
        weighted = {"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, float(options["sft_weight"])]}
    args = DPOConfig(
        **training_arguments(settings, shape, out, ctx),
        **weighted,
        beta=float(options["beta"]),
        max_length=None,
        dataset_num_proc=None,
    )
    if tokenizer is not None and tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return PairTrainer(model=model, args=args, train_dataset=data, processing_class=tokenizer), notes
