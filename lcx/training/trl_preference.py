"""Engine `trl` for preferences: TRL's DPOTrainer on pairs of rows, where no prefix can be shared."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset
from trl import DPOConfig, DPOTrainer

from lcx.context import Context
from lcx.errors import UsageError
from lcx.training.arguments import training_arguments
from lcx.training.collate import step_shape
from lcx.training.length import Fitted
from lcx.training.preference_losses import Loss
from lcx.training.preference_settings import PreferenceSettings

PAIRS_ONLY = (
    "engine trl compares pairs: the first rejected answer of {count} bundles is used, the others are not"
)
TOKENS_WEIGH_ALIKE = (
    "engine trl's cross-entropy weighs every chosen token of a batch alike; long answers count for more"
)


class PairTrainer(DPOTrainer):
    """TRL's trainer, which also keeps what the progress line shows."""

    tokens_seen = 0
    latest_loss: float | None = None

    def _prepare_dataset(self, dataset: Any, *args: Any, **kwargs: Any) -> Any:
        """The rows as they are: they hold token ids already, and are made when they are asked for."""
        return dataset

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: Any) -> tuple[list[Any], Any]:
        """The forward passes of one optimizer step, and their number of items."""
        batches, items = super().get_batch_samples(epoch_iterator, num_batches, device)
        seen = sum(int(batch["attention_mask"].sum()) for batch in batches)
        self.tokens_seen += seen * self.args.world_size
        return batches, items

    def training_step(self, *args: Any, **kwargs: Any) -> Any:
        """One forward and backward pass."""
        loss = super().training_step(*args, **kwargs)
        self.latest_loss = float(loss.detach()) * self.args.gradient_accumulation_steps
        return loss


def trl_trainer(
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
        notes.append(TOKENS_WEIGH_ALIKE)
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
