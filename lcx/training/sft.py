"""Supervised fine-tuning on bundles: each context is computed once for all of its answers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import TrainingArguments

from lcx.context import Context, StepResult
from lcx.modeling.shared_prefix import use_shared_prefix
from lcx.records import EncodedBundle
from lcx.training.arguments import training_arguments
from lcx.training.collate import StepShape
from lcx.training.length import EncodedDataset, Fitted
from lcx.training.session import train_bundles
from lcx.training.settings import TrainSettings
from lcx.training.trainer import SharedPrefixTrainer

__all__ = ["EncodedDataset", "SharedPrefixTrainer", "train_sft"]


def train_sft(
    settings: TrainSettings, dataset: Sequence[EncodedBundle], tokenizer: Any, out: Path, ctx: Context
) -> StepResult:
    """Train on the answers of all branches and save the model in `out/model`. Errors as `train_bundles`."""

    def make(model: Any, data: Fitted, shape: StepShape) -> tuple[Any, list[str]]:
        if settings.engine == "trl":
            from lcx.training.trl_engine import trl_trainer

            return trl_trainer(settings, model, tokenizer, data, out, ctx)
        return shared_prefix_trainer(settings, model, data, shape, out, ctx), []

    return train_bundles(settings, dataset, tokenizer, out, ctx, make)


def shared_prefix_trainer(
    settings: TrainSettings, model: Any, data: Fitted, shape: StepShape, out: Path, ctx: Context
) -> SharedPrefixTrainer:
    """The trainer of the engine `shared-prefix`, ready to run."""
    args = TrainingArguments(**training_arguments(settings, shape, out, ctx))
    return SharedPrefixTrainer(
        use_shared_prefix(model, settings.attn),
        args,
        data,
        shortest=data.shortest,
        weighting=settings.loss_weighting,
    )
