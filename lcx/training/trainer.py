"""The trainer of packed rows: each context is computed once for all of its answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from transformers import Trainer, TrainingArguments

from lcx.modeling.logprobs import AnswerHead, has_plain_head, token_logprobs
from lcx.records import EncodedBundle
from lcx.training.arguments import RateSchedule
from lcx.training.collate import Draw, EpochOrder, Items, collate
from lcx.training.losses import summed_sft_loss

MODEL_KEYS = ("input_ids", "position_ids", "segments", "logits_to_keep")
"""Keys of a batch that are arguments of the model itself."""


class SharedPrefixTrainer(RateSchedule, Trainer):
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
        draw: Draw | None = None,
        reference: Sequence[np.ndarray] | None = None,
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
        self._step_loss: torch.Tensor | None = None
        self._step_weight = 0.0
        self.answer_head = AnswerHead(model) if has_plain_head(model.config) else None
        self.items = Items(bundles, shortest, self.padded, draw, reference)
        super().__init__(model=model, args=args, train_dataset=self.items, data_collator=collate, **options)
        self.model_accepts_loss_kwargs = True

    @property
    def latest_loss(self) -> float | None:
        """Loss of the running or last optimizer step on this process; reading it waits for the device."""
        return None if self._step_loss is None else float(self._step_loss) / max(self._step_weight, 1.0)

    def release(self) -> None:
        """Give the model its own output head back."""
        if self.answer_head is not None:
            self.answer_head.remove()

    def _get_train_sampler(self, train_dataset: Any = None) -> EpochOrder:
        passes = -(-self.padded // (self.args.per_device_train_batch_size * self.args.world_size))
        steps = max(1, -(-passes // self.args.gradient_accumulation_steps))
        # Read when an epoch begins, so that a resumed one is drawn as it was
        return EpochOrder(self.count, self.padded, self.args.seed, lambda: self.state.global_step // steps)

    def batch_weight(self, batch: dict[str, Any]) -> float:
        """The branches (or answer tokens) of a forward pass, which it adds to the divisor of its step's loss."""
        return float(batch["branches"] if self.weighting == "branch" else batch["answer_tokens"])

    def batch_loss(self, logprobs: torch.Tensor, batch: dict[str, Any]) -> torch.Tensor:
        """Summed loss of a forward pass from the answers' log-probabilities [t]."""
        return summed_sft_loss(logprobs, batch["branch"], batch["weights"], self.weighting)[0]

    def logprobs(self, model: Any, batch: dict[str, Any]) -> torch.Tensor:
        """Log-probabilities [t] of a batch's answer tokens under a model, in fp32.

        Only the trained model's head gives them tile by tile; another model's come from its logits.
        """
        inputs = {**{key: batch[key] for key in MODEL_KEYS}, "answers_only": True}
        targets = batch["targets"]
        if self.answer_head is not None and _same_model(model, self.model):
            with self.answer_head.asked(targets):
                return model(**inputs, use_cache=False).logits[0]
        return token_logprobs(model(**inputs, use_cache=False).logits[0], targets)

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: Any) -> tuple[list[Any], Any]:
        """The forward passes of one optimizer step, and the divisor of its loss over all processes."""
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        divisor = sum(self.batch_weight(batch) for batch in batches)
        self.tokens_seen += sum(batch["rows"] for batch in batches) * self.args.world_size
        self._step_loss, self._step_weight = None, divisor
        if self.args.world_size > 1:
            divisor = self.accelerator.reduce(torch.tensor(divisor, device=device), "sum").item()
        return batches, divisor

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """This forward pass's share of the step's loss."""
        summed = self.batch_loss(self.logprobs(model, inputs), inputs)
        detached = summed.detach()
        self._step_loss = detached if self._step_loss is None else self._step_loss + detached
        divisor = num_items_in_batch or self.batch_weight(inputs)
        # DDP averages gradients over processes; their sum is wanted
        loss = summed * (self.args.world_size / divisor)
        return (loss, {}) if return_outputs else loss


def _same_model(model: Any, own: Any) -> bool:
    """True if a model is the trainer's own, wrapped for several processes or not."""
    while hasattr(model, "module"):
        model = model.module
    return model is own
