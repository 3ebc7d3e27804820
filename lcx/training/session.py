"""What every training step does around its trainer: checks, length policy, model, resume, saving, numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from transformers import set_seed

from lcx.context import Context, StepResult
from lcx.errors import UsageError
from lcx.modeling.load import load_config, set_rope, window
from lcx.modeling.shared_prefix import restore
from lcx.modeling.support import brings_code, why_not_packed
from lcx.records import EncodedBundle
from lcx.training.arguments import MODEL, build_model, check_checkpoints, check_names, start_over
from lcx.training.collate import StepShape, step_shape
from lcx.training.length import Fitted, fit_all
from lcx.training.picture import training_png
from lcx.training.progress import ProgressCallback
from lcx.training.quiet import quiet
from lcx.training.runner import curve, describe, run_trainer, save
from lcx.training.settings import TrainSettings
from lcx.work.files import write_json

CURVE = "curve.json"
PICTURE = "curve.png"
ADAPTER_ROPE = (
    "the adapter belongs to its base with {rope}; lcx reads that from its lcx.json, "
    "other programs have to be told"
)

Make = Callable[[Any, Fitted, StepShape], tuple[Any, list[str]]]
"""Makes the trainer of a model, the fitted bundles and the shape of a step; returns it with notes."""


def train_bundles(
    settings: TrainSettings,
    dataset: Sequence[EncodedBundle],
    tokenizer: Any,
    out: Path,
    ctx: Context,
    make: Make,
    *,
    branches_count: bool = True,
    check: Callable[[EncodedBundle], None] | None = None,
) -> StepResult:
    """Train on bundles and save the model in `out/model`; the same call resumes from `out/checkpoints`.

    A batch counts branches, or bundles without `branches_count`; `check` may refuse a bundle. Raises
    UsageError for a model that the engine refuses, LcxError for rows beyond the window or a NaN,
    MissingError for what is not installed, and KeyboardInterrupt once a checkpoint is saved.
    """
    check_names(settings)
    config = load_config(settings.model or "")
    set_rope(config, settings.rope_theta, settings.rope)
    refuse_engine(settings, config)
    data = fit_all(
        dataset,
        window=window(config),
        max_tokens=settings.max_tokens,
        policy=settings.too_long,
        check=check,
    )
    mean = sum(data.branches) / len(data) if branches_count else 1.0
    shape = step_shape(settings.batch, settings.micro_batch, ctx.world_size, mean)
    longest = max(data.lengths)
    ctx.log(
        describe(
            len(data),
            sum(data.branches),
            sum(data.lengths),
            longest,
            shape.bundles,
            settings.batch,
            mean,
            config,
        )
    )
    if ctx.force:
        start_over(out, ctx)
    set_seed(settings.seed)
    with quiet():
        model = build_model(settings, ctx)
        check_checkpoints(model, out, ctx)
        trainer, notes = make(model, data, shape)
        progress = ProgressCallback(ctx.console, lambda: trainer.tokens_seen, lambda: trainer.latest_loss)
        if (settings.rope_theta or settings.rope) and settings.tuning != "full":
            rope = {**settings.rope, **({"rope_theta": settings.rope_theta} if settings.rope_theta else {})}
            notes.append(ADAPTER_ROPE.format(rope=", ".join(f"{key}={value}" for key, value in rope.items())))
        metrics = run_trainer(trainer, progress, out, ctx)
        if hasattr(trainer, "release"):
            trainer.release()
        restore(model)
        save(trainer, tokenizer, out)
    points = curve(trainer)
    if trainer.is_world_process_zero():
        write_json(out / CURVE, points)
        if points:
            training_png(out / PICTURE, points)
    return StepResult(
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
        files={"model": MODEL, "curve": CURVE, **({"picture": PICTURE} if points else {})},
        notes=notes,
        extra={"engine": settings.engine, "processes": ctx.world_size},
    )


def refuse_engine(settings: TrainSettings, config: Any) -> None:
    """Raise UsageError where the engine cannot train a model of this config."""
    reason = why_not_packed(config)
    if settings.engine == "shared-prefix" and reason:
        # transformers' own class may not be the model that the weights were made for
        hint = "Take a copy of the model without auto_map in its config, if transformers has a class for it."
        raise UsageError(
            f"engine shared-prefix cannot train '{settings.model}'",
            why=reason,
            hint=hint if brings_code(config) else "--set train.engine=trl",
        )
