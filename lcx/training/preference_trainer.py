"""The trainer of preference losses: any number of rejected answers, one forward pass over their context."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any

import torch

from lcx.training.losses import branch_sums
from lcx.training.preference_losses import Answers, Loss, metric_means, preference_metrics
from lcx.training.trainer import SharedPrefixTrainer


class PreferenceTrainer(SharedPrefixTrainer):
    """Trains by a preference loss; a bundle's answers share its context, and a batch counts bundles.

    Reference log-probabilities, where the loss needs them, come from the batch (computed beforehand), from
    `frozen`, or else from the model without its adapter. `check` is called with the model before the first
    step, as it then is: wrapped, sharded, in its precision.
    """

    def __init__(
        self,
        *args: Any,
        loss: Loss,
        options: Mapping[str, Any],
        frozen: Any = None,
        check: Callable[[Any], None] | None = None,
        **rest: Any,
    ) -> None:
        self.loss, self.options, self.frozen, self.check = loss, dict(options), frozen, check
        self._sums: dict[str, torch.Tensor] = {}
        super().__init__(*args, **rest)
        if frozen is not None:
            self.frozen = frozen.to(self.args.device) if not _quantized(frozen) else frozen

    def batch_weight(self, batch: dict[str, Any]) -> float:
        """What a forward pass adds to the divisor of its step: its bundles."""
        return float(batch["bundles"])

    def batch_loss(self, logprobs: torch.Tensor, batch: dict[str, Any]) -> torch.Tensor:
        """Summed loss of a forward pass from the answers' log-probabilities [t]; notes what is to be logged."""
        weights = batch["bundle_weights"]
        answers = answers_of(logprobs, batch)
        judged = self.loss.compute(answers, **self.options)
        for name, row in preference_metrics(answers, judged, weights).items():
            self._sums[name] = self._sums[name] + row if name in self._sums else row
        return (judged.losses * weights).sum()

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """This forward pass's share of the step's loss."""
        if self.check is not None:
            self.check(model)
            self.check = None
        if self.loss.reference and "reference" not in inputs:
            inputs["reference"] = self.reference_sums(model, inputs)
        return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)

    @torch.no_grad()
    def reference_sums(self, model: Any, batch: dict[str, Any]) -> torch.Tensor:
        """log π_ref of each answer [b]: by the frozen model, or by `model` with its adapter switched off."""
        if self.frozen is not None:
            with self.accelerator.autocast():
                logprobs = self.logprobs(self.frozen, batch)
        else:
            own = self.accelerator.unwrap_model(model)
            with own.disable_adapter() if hasattr(own, "peft_config") else nullcontext():
                logprobs = self.logprobs(model, batch)
        return branch_sums(logprobs, batch["branch"], len(batch["weights"]))

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log with the loss's own metrics: means over all answers, processes and steps since the last log."""
        if self._sums and "loss" in logs:
            sums = self._sums
            if self.args.world_size > 1:
                table = self.accelerator.reduce(torch.stack(list(sums.values())), "sum")
                sums = dict(zip(sums, table, strict=True))
            logs |= {name: round(value, 6) for name, value in metric_means(sums).items()}
            self._sums = {}
        super().log(logs, start_time)


def answers_of(logprobs: torch.Tensor, batch: dict[str, Any]) -> Answers:
    """What a loss is given: token log-probabilities [t] summed up by answer."""
    count = len(batch["weights"])
    return Answers(
        sums=branch_sums(logprobs, batch["branch"], count),
        lengths=torch.bincount(batch["branch"], minlength=count).to(logprobs.dtype),
        bundle=batch["bundle"],
        chosen=batch["chosen"],
        prompts=len(batch["bundle_weights"]),
        reference=batch.get("reference"),
    )


def _quantized(model: Any) -> bool:
    return bool(getattr(model, "is_loaded_in_4bit", False))
