"""Preference optimisation on bundles: each context is computed once for its chosen and all rejected answers.

`train_preference` is the whole training; then come the trainer, synthetic positions, and the reference model's
log-probabilities, which are computed once and kept on disk where the weights allow it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import TrainingArguments

from lcx.context import Context, StepResult
from lcx.errors import LcxError, PluginError, UsageError
from lcx.hub import adapter_base, locate
from lcx.modeling.load import (
    digest_of_weights,
    load_config,
    load_model,
    pick_device,
    quiet,
    set_rope,
    switch_off_dropout,
    window,
    without_dropout,
)
from lcx.modeling.positions import check_room
from lcx.modeling.shared_prefix import use_shared_prefix
from lcx.paths import cache_folder
from lcx.plugins import loaded
from lcx.records import Bundle, EncodedBundle
from lcx.storage import atomic_path, write_lines
from lcx.training import sharding
from lcx.training.arguments import compute_precision, training_arguments
from lcx.training.collate import Draw, Item, collate
from lcx.training.data import Encoder, PairDataset, Spread, no_pairs, screen
from lcx.training.losses import Answers, Loss, LossOutput, branch_sums, metric_means, preference_metrics
from lcx.training.runner import Prepared, SharedPrefixTrainer, prepare, train
from lcx.training.settings import PreferenceSettings

ASIDE = "skipped.jsonl"
CHECKED_TOKENS = 2048
"""Real tokens of the row on which the model shows that its chunks see each other."""


def train_preference(
    settings: PreferenceSettings,
    loss: Loss,
    options: dict[str, Any],
    bundles: Sequence[Bundle],
    encoder: Encoder,
    tokenizer: Any,
    out: Path,
    ctx: Context,
    held: tuple[Sequence[Bundle], Encoder] | None = None,
) -> StepResult:
    """Train on chosen and rejected answers and save the model in `out/model`. Errors as `prepare` and `train`.

    `options` are the loss's, checked; `held` are bundles whose loss is only looked at, and their encoder. Bundles
    without a chosen or a different rejected answer are counted and listed in `out/skipped.jsonl`. Raises LcxError
    where none is left, UsageError for a reference that the settings rule out, or positions that do not fit the
    model's window.
    """
    if settings.real_length:
        settings = settings.model_copy(update={"max_tokens": settings.real_length})
    source = reference_source(settings, loss)
    draw = spread(settings, source)
    found = screen(bundles)
    if found.aside and ctx.rank == 0:
        write_lines(out / ASIDE, found.aside)
    no_pairs(found)
    dataset = PairDataset(bundles, encoder, found.kept)
    apart = PairDataset(*held, screen(held[0]).kept) if held is not None else None
    if apart is not None and not len(apart):
        raise LcxError(f"there is no pair in the held-out data {settings.eval_input}")
    prepared = prepare(
        settings,
        dataset,
        out,
        ctx,
        branches_count=False,
        check=room(settings),
        held=apart,
    )
    notes: list[str] = []
    trainer: Any
    with quiet():
        if settings.engine == "trl":
            from lcx.training.trl import pair_trainer

            trainer, notes = pair_trainer(
                settings, loss, options, prepared.model, tokenizer, prepared.data, out, ctx
            )
        else:
            trainer = preference_trainer(prepared, settings, loss, options, source, draw, out, ctx)
    result = train(prepared, trainer, tokenizer, out, ctx, notes)
    result.counts.update(found.counts)
    if found.aside:
        result.files["skipped"] = ASIDE
    result.extra = {
        **result.extra,
        "loss": {"name": loss.name, **options},
        **({"reference": source} if source else {}),
    }
    return result


def reference_source(settings: PreferenceSettings, loss: Loss) -> str:
    """The source of reference log-probs: adapter, model, cached, or "" for a loss that needs none.

    Raises UsageError where the model without its adapter is not what training starts from.
    """
    if not loss.reference:
        return ""
    fresh = settings.tuning != "full" and adapter_base(locate(settings.model or "")) is None
    if settings.reference == "auto":
        # What weights give that are cut up cannot be had before training begins
        return "adapter" if fresh else "cached" if sharding.strategy() in ("", "ddp") else "model"
    if settings.reference == "adapter" and not fresh:
        why = (
            "With tuning full there is no adapter to switch off."
            if settings.tuning == "full"
            else "The model is a LoRA folder: without its adapter it is not what this training starts from."
        )
        raise UsageError(
            "the reference cannot be the model without its adapter",
            why=why,
            hint="--set train.reference=cached",
        )
    return settings.reference


def spread(settings: PreferenceSettings, source: str) -> Spread | None:
    """The drawing of synthetic positions, or None without a target length. Raises UsageError beyond the window."""
    if settings.target_length is None:
        return None
    config = load_config(settings.model or "")
    set_rope(config, settings.rope_theta, settings.rope)
    settings.check_target(window(config))
    if settings.engine == "trl":
        raise UsageError(
            "engine trl cannot train with synthetic positions",
            hint="--set train.engine=shared-prefix, or no target_length",
        )
    return Spread(
        settings.seed,
        settings.target_length,
        settings.sparse_share,
        settings.slot_tokens,
        fixed=source == "cached",  # reference log-probs are computed once, at the same positions
    )


def room(settings: PreferenceSettings) -> Callable[[EncodedBundle], None] | None:
    """A check that a bundle's pieces fit their slots; None without synthetic positions."""
    target = settings.target_length
    if target is None:
        return None

    def check(bundle: EncodedBundle) -> None:
        check_room(bundle, target, settings.slot_tokens)

    return check


def preference_trainer(
    prepared: Prepared,
    settings: PreferenceSettings,
    loss: Loss,
    options: dict[str, Any],
    source: str,
    draw: Draw | None,
    out: Path,
    ctx: Context,
) -> PreferenceTrainer:
    """The trainer of the engine `shared-prefix`, ready to run, its reference at hand. `source` is where from."""
    data = prepared.data
    trainer = PreferenceTrainer(
        use_shared_prefix(prepared.model, settings.attn),
        TrainingArguments(**training_arguments(settings, prepared.shape, out, ctx)),
        data,
        shortest=data.shortest,
        draw=draw,
        loss=loss,
        options=options,
        frozen=frozen_model(settings, ctx) if source == "model" else None,
        check=partial(check_connected, bundle=draw(data[0], 0)) if draw else None,
        held=prepared.held or (),
        first=prepared.first(ctx.world_size),
    )
    if source == "cached":
        precision = f"{compute_precision(settings, pick_device(ctx.device))} {settings.tuning}"
        trainer.items.reference = cached_reference(trainer, data, draw, precision, cache_folder(), ctx)
        if prepared.held is not None:
            trainer.held.reference = cached_reference(
                trainer, prepared.held, draw, precision, cache_folder(), ctx
            )
    return trainer


def frozen_model(settings: PreferenceSettings, ctx: Context) -> Any:
    """A copy of the model that training starts from, whose weights stay."""
    precision = compute_precision(settings, pick_device(ctx.device))
    with sharding.whole():
        model: Any = load_model(
            settings.model or "",
            dtype=precision,
            quantize="nf4" if settings.tuning == "qlora" else None,
            rope_theta=settings.rope_theta,
            rope=settings.rope,
            device=ctx.device,
        )
    switch_off_dropout(model)
    return use_shared_prefix(model.requires_grad_(False), settings.attn)


def check_connected(model: Any, bundle: EncodedBundle) -> None:
    """Prove on the model, as it is about to be trained, that chunks at synthetic positions see each other."""
    from lcx.modeling.isolation import check_chunks_connected

    check_chunks_connected(model, bundle, limit=CHECKED_TOKENS)


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
        """The bundles of a forward pass, which it adds to the divisor of its step's loss."""
        return float(batch["bundles"])

    def batch_loss(self, logprobs: torch.Tensor, batch: dict[str, Any]) -> torch.Tensor:
        """Summed loss of a forward pass from the answers' log-probabilities [t]; notes what is to be logged."""
        weights = batch["bundle_weights"]
        answers = answers_of(logprobs, batch)
        judged = self.loss.compute(answers, **self.options)
        if not isinstance(judged, LossOutput):
            raise PluginError(
                f"the loss '{self.loss.name}'{loaded().whose(self.loss.compute)} returns a {type(judged).__name__}",
                hint="Its function returns a LossOutput of lcx.training.losses.",
            )
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
        return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)

    def summed_loss(self, model: Any, batch: dict[str, Any]) -> torch.Tensor:
        """Summed loss of a forward pass; the reference's log-probabilities are computed where the batch has none."""
        if self.loss.reference and "reference" not in batch:
            batch["reference"] = self.reference_sums(model, batch)
        return super().summed_loss(model, batch)

    def held_out_loss(self) -> float:
        """Mean loss on the held-out bundles; training's metrics know nothing of them."""
        kept, self._sums = self._sums, {}
        try:
            return super().held_out_loss()
        finally:
            self._sums = kept

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
    """The argument of a loss: token log-probabilities [t] summed up by answer."""
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
    with ctx.progress("reference log-probs", len(bundles), "contexts", closing=False) as shown:
        for number in range(rank, len(bundles), processes):
            bundle = bundles[number] if draw is None else draw(bundles[number], 0)
            own[number] = _sums(trainer, bundle)
            shown.update(number + 1)
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
