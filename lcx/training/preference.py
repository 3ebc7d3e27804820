"""Preference optimisation on bundles: each context is computed once for its chosen and all rejected answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from transformers import TrainingArguments

from lcx.context import Context, StepResult
from lcx.errors import LcxError, UsageError
from lcx.hub import adapter_base, locate
from lcx.modeling.load import load_config, load_model, pick_device, set_rope, switch_off_dropout, window
from lcx.modeling.positions import check_room
from lcx.modeling.shared_prefix import use_shared_prefix
from lcx.paths import cache_folder
from lcx.records import Bundle, EncodedBundle
from lcx.training.arguments import compute_precision, training_arguments
from lcx.training.collate import Draw, StepShape
from lcx.training.launch import sharding
from lcx.training.length import Encoder, Fitted
from lcx.training.pairs import PairDataset, Spread, screen
from lcx.training.preference_losses import Loss
from lcx.training.preference_settings import PreferenceSettings
from lcx.training.preference_trainer import PreferenceTrainer
from lcx.training.reference import cached_reference
from lcx.training.session import train_bundles
from lcx.work.files import write_lines

__all__ = ["PreferenceTrainer", "train_preference"]

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
) -> StepResult:
    """Train on chosen and rejected answers and save the model in `out/model`. Errors as `train_bundles`.

    `options` are the loss's, checked. Bundles without a chosen or a different rejected answer are counted
    and listed in `out/skipped.jsonl`. Raises LcxError where none is left, UsageError for a reference that the
    settings rule out, or positions that do not fit the model's window.
    """
    if settings.real_length:
        settings = settings.model_copy(update={"max_tokens": settings.real_length})
    source = reference_source(settings, loss)
    draw = spread(settings, source)
    found = screen(bundles)
    if found.aside and ctx.rank == 0:
        write_lines(out / ASIDE, found.aside)
    if not found.kept:
        raise LcxError(
            "there is no pair to learn from",
            why="; ".join(f"{reason} ({count})" for reason, count in found.counts.most_common(3))
            or "The data is empty.",
            hint="Each bundle needs one branch of role chosen, and others of role rejected.",
        )

    def make(model: Any, data: Fitted, shape: StepShape) -> tuple[Any, list[str]]:
        if settings.engine == "trl":
            from lcx.training.trl_preference import trl_trainer

            return trl_trainer(settings, loss, options, model, tokenizer, data, out, ctx)
        return preference_trainer(settings, loss, options, source, draw, model, data, shape, out, ctx), []

    dataset = PairDataset(bundles, encoder, found.kept)
    result = train_bundles(
        settings, dataset, tokenizer, out, ctx, make, branches_count=False, check=room(settings)
    )
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
    """Where reference log-probs come from: adapter, model, cached, or "" for a loss that needs none.

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
    """What draws synthetic positions, or None without a target length. Raises UsageError beyond the window."""
    if settings.target_length is None:
        return None
    config = load_config(settings.model or "")
    set_rope(config, settings.rope_theta, settings.rope)
    if settings.target_length > window(config):
        raise UsageError(
            f"the target length {settings.target_length:,} lies beyond the model's window of {window(config):,}",
            why="Synthetic positions go up to the target length, and the rotary settings end at the window.",
            hint=f"--set train.rope='{{max_position_embeddings: {settings.target_length}}}' (with a larger "
            "rope_theta, or rope_type yarn), or a lower target_length",
        )
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
    settings: PreferenceSettings,
    loss: Loss,
    options: dict[str, Any],
    source: str,
    draw: Draw | None,
    model: Any,
    data: Fitted,
    shape: StepShape,
    out: Path,
    ctx: Context,
) -> PreferenceTrainer:
    """The trainer of the engine `shared-prefix`, ready to run, its reference at hand."""
    args = TrainingArguments(**training_arguments(settings, shape, out, ctx))
    frozen = frozen_model(settings, ctx) if source == "model" else None
    trainer = PreferenceTrainer(
        use_shared_prefix(model, settings.attn),
        args,
        data,
        shortest=data.shortest,
        draw=draw,
        loss=loss,
        options=options,
        frozen=frozen,
        check=partial(check_connected, bundle=draw(data[0], 0)) if draw else None,
    )
    if source == "cached":
        precision = f"{compute_precision(settings, pick_device(ctx.device))} {settings.tuning}"
        sums: list[np.ndarray] = cached_reference(trainer, data, draw, precision, cache_folder(), ctx)
        trainer.items.reference = sums
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
