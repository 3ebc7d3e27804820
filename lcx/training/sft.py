"""Supervised fine-tuning on bundles: each context is computed once for all of its answers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import Trainer, TrainingArguments, set_seed

from lcx.context import Context, StepResult
from lcx.errors import UsageError
from lcx.modeling.load import load_config, set_rope, window
from lcx.modeling.shared_prefix import restore, use_shared_prefix
from lcx.modeling.support import brings_code, why_refused
from lcx.records import EncodedBundle
from lcx.training.arguments import MODEL, build_model, check_names, start_over, training_arguments
from lcx.training.collate import EpochOrder, Items, StepShape, collate, step_shape
from lcx.training.length import EncodedDataset, Fitted, fit_all
from lcx.training.losses import summed_sft_loss, token_logprobs
from lcx.training.progress import ProgressCallback
from lcx.training.quiet import quiet
from lcx.training.runner import curve, describe, run_trainer, save
from lcx.training.settings import TrainSettings
from lcx.work.files import write_json

__all__ = ["EncodedDataset", "SharedPrefixTrainer", "train_sft"]

CURVE = "curve.json"
ADAPTER_ROPE = (
    "the adapter belongs to its base with rope_theta {theta:g}; lcx reads that from its lcx.json, "
    "other programs have to be told"
)


class SharedPrefixTrainer(Trainer):
    """transformers' Trainer over packed rows of bundles.

    The loss of an optimizer step is a sum over all micro-batches and processes divided by what the whole
    step has (branches, or tokens by `weighting`), so that neither the number of processes nor gradient
    accumulation changes it. A preference loss overrides `batch_weight` and `batch_loss`.
    """

    loss_is_scaled_for_ga = True

    def __init__(
        self,
        model: Any,
        args: TrainingArguments,
        bundles: Sequence[EncodedBundle],
        *,
        shortest: int = 0,
        weighting: str = "branch",
        **options: Any,
    ) -> None:
        args.remove_unused_columns = False
        if args.n_gpu > 1:  # several GPUs in one process would tear a packed row apart; each has its process
            args._n_gpu = 1
        full = args.per_device_train_batch_size * args.world_size
        self.padded = -(-len(bundles) // full) * full if args.world_size > 1 else len(bundles)
        self.weighting = weighting
        self.count = len(bundles)
        self.tokens_seen = 0
        self._latest: torch.Tensor | None = None
        items = Items(bundles, shortest, self.padded)
        super().__init__(model=model, args=args, train_dataset=items, data_collator=collate, **options)
        self.model_accepts_loss_kwargs = True

    @property
    def latest_loss(self) -> float | None:
        """Loss of the last forward passes, smoothed; reading it waits for the device."""
        return None if self._latest is None else float(self._latest)

    def _get_train_sampler(self, train_dataset: Any = None) -> EpochOrder:
        passes = -(-self.padded // (self.args.per_device_train_batch_size * self.args.world_size))
        steps = max(1, -(-passes // self.args.gradient_accumulation_steps))
        # Read when an epoch begins, so that a resumed one is drawn as it was
        return EpochOrder(self.count, self.padded, self.args.seed, lambda: self.state.global_step // steps)

    def batch_weight(self, batch: dict[str, Any]) -> float:
        """What a forward pass adds to the divisor of its step: its branches, or its answer tokens."""
        return float(batch["branches"] if self.weighting == "branch" else batch["answer_tokens"])

    def batch_loss(self, logprobs: torch.Tensor, batch: dict[str, Any]) -> torch.Tensor:
        """Summed loss of a forward pass from the answers' log-probabilities [t]."""
        return summed_sft_loss(logprobs, batch["branch"], batch["weights"], self.weighting)[0]

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: Any) -> tuple[list[Any], Any]:
        """The forward passes of one optimizer step, and the divisor of its loss over all processes."""
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        divisor = sum(self.batch_weight(batch) for batch in batches)
        self.tokens_seen += sum(batch["rows"] for batch in batches) * self.args.world_size
        if self.args.world_size > 1:
            divisor = self.accelerator.reduce(torch.tensor(divisor, device=device), "sum").item()
        return batches, divisor

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """This forward pass's share of the step's loss."""
        outputs = model(
            input_ids=inputs["input_ids"],
            position_ids=inputs["position_ids"],
            segments=inputs["segments"],
            logits_to_keep=inputs["logits_to_keep"],
            use_cache=False,
        )
        summed = self.batch_loss(token_logprobs(outputs.logits[0], inputs["targets"]), inputs)
        mean = summed.detach() / max(self.batch_weight(inputs), 1.0)
        self._latest = mean if self._latest is None else self._latest + 0.1 * (mean - self._latest)
        divisor = num_items_in_batch or self.batch_weight(inputs)
        # DDP averages gradients over processes; their sum is wanted
        loss = summed * (self.args.world_size / divisor)
        return (loss, outputs) if return_outputs else loss


def train_sft(
    settings: TrainSettings, dataset: Sequence[EncodedBundle], tokenizer: Any, out: Path, ctx: Context
) -> StepResult:
    """Train on bundles and save the model in `out/model`; the same call resumes from `out/checkpoints`.

    Raises UsageError for a model that the engine refuses, LcxError for rows beyond the window or a NaN,
    MissingError for what is not installed, and KeyboardInterrupt once a checkpoint is saved.
    """
    check_names(settings)
    config = load_config(settings.model or "")
    set_rope(config, settings.rope_theta)
    reason = why_refused(config)
    if settings.engine == "shared-prefix" and reason:
        # transformers' own class may not be the model that the weights were made for
        hint = "Take a copy of the model without auto_map in its config, if transformers has a class for it."
        raise UsageError(
            f"engine shared-prefix cannot train '{settings.model}'",
            why=reason,
            hint=hint if brings_code(config) else "--set train.engine=trl",
        )
    data = fit_all(dataset, window=window(config), max_tokens=settings.max_tokens, policy=settings.too_long)
    mean = sum(data.branches) / len(data)
    shape = step_shape(settings.batch, settings.micro_batch, ctx.world_size, mean)
    longest = max(data.lengths)
    ctx.log(
        describe(
            len(data), sum(data.branches), sum(data.lengths), longest, shape.bundles, settings.batch, config
        )
    )
    if ctx.force:
        start_over(out, ctx)
    set_seed(settings.seed)
    trainer: Any
    with quiet():
        model = build_model(settings, ctx)
        if settings.engine == "trl":
            from lcx.training.trl_engine import trl_trainer

            trainer, notes = trl_trainer(settings, model, tokenizer, data, out, ctx)
        else:
            trainer = shared_prefix_trainer(settings, model, data, shape, out, ctx)
            notes = []
        progress = ProgressCallback(ctx.console, lambda: trainer.tokens_seen, lambda: trainer.latest_loss)
        if settings.rope_theta and settings.tuning != "full":
            notes.append(ADAPTER_ROPE.format(theta=settings.rope_theta))
        metrics = run_trainer(trainer, progress, out, ctx)
        restore(model)
        save(trainer, tokenizer, out)
    points = curve(trainer)
    if trainer.is_world_process_zero():
        write_json(out / CURVE, points)
    result = StepResult(
        counts={
            "bundles": len(data),
            "branches": sum(data.branches),
            "tokens": sum(data.lengths),
            "steps": trainer.state.global_step,
            **data.counts,
        },
        metrics={
            "loss": round(metrics["train_loss"], 6),
            "last_loss": points[-1]["loss"] if points else None,
            "seconds": round(metrics["train_runtime"], 2),
            "bundles_per_step": shape.bundles,
            "longest_bundle": longest,
        },
        files={"model": MODEL, "curve": CURVE},
        notes=notes,
        extra={"engine": settings.engine, "processes": ctx.world_size},
    )
    return result


def shared_prefix_trainer(
    settings: TrainSettings, model: Any, data: Fitted, shape: StepShape, out: Path, ctx: Context
) -> SharedPrefixTrainer:
    """The trainer of the engine `shared-prefix`, ready to run."""
    args = TrainingArguments(**training_arguments(settings, shape, out, ctx))
    return SharedPrefixTrainer(
        use_shared_prefix(model),
        args,
        data,
        shortest=min(range(len(data)), key=data.lengths.__getitem__),
        weighting=settings.loss_weighting,
    )
