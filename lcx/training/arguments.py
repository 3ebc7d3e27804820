"""From our settings to transformers' training arguments, the model to be trained, and resuming."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from lcx.context import Context
from lcx.errors import MissingError, UsageError
from lcx.modeling.load import add_lora, load_model, pick_device
from lcx.training.collate import StepShape
from lcx.training.settings import TrainSettings

CHECKPOINTS = "checkpoints"
MODEL = "model"


def compute_precision(settings: TrainSettings, device: torch.device) -> str:
    """`bf16`, `fp16` or `fp32` for a device. Raises MissingError for fp16 on a CPU."""
    if settings.precision == "auto":
        return "bf16" if device.type == "cuda" and torch.cuda.is_bf16_supported() else "fp32"
    if settings.precision == "fp16" and device.type == "cpu":
        raise MissingError("precision fp16 needs a GPU", hint="--set train.precision=bf16, or auto")
    return settings.precision


def build_model(settings: TrainSettings, ctx: Context) -> Any:
    """The model of the settings with what is to be trained left trainable.

    Trained weights are fp32: at a learning rate of 1e-6 an update is smaller than what bf16 can tell apart.
    Frozen ones are in the precision of the computation, or 4-bit.
    """
    if not settings.model:
        raise MissingError("training needs a model", hint="--model PATH_OR_HUB_ID, or --model tiny")
    device = pick_device(ctx.device)
    full = settings.tuning == "full"
    model: Any = load_model(
        settings.model,
        dtype="fp32" if full else compute_precision(settings, device),
        quantize="nf4" if settings.tuning == "qlora" else None,
        rope_theta=settings.rope_theta,
        # 4-bit weights are made on their device; the trainer places the others
        device=ctx.device if settings.tuning == "qlora" else "cpu",
    )
    if hasattr(model, "peft_config"):
        if settings.tuning == "qlora":
            raise UsageError(
                "qlora cannot start from a LoRA folder", hint="Merge the adapter first (lcx export)."
            )
        model = model.merge_and_unload().requires_grad_(True)
    if not full:
        model = add_lora(
            model, settings.lora_r, settings.lora_alpha, settings.lora_dropout, settings.lora_targets
        )
    if settings.gradient_checkpointing and not full:
        model.enable_input_require_grads()
    return model


def training_arguments(settings: TrainSettings, shape: StepShape, out: Path, ctx: Context) -> dict[str, Any]:
    """Keyword arguments for transformers' TrainingArguments and TRL's SFTConfig alike."""
    device = pick_device(ctx.device)
    if device.type == "cuda" and ctx.device.startswith("cuda:") and ctx.world_size == 1:
        os.environ["ACCELERATE_TORCH_DEVICE"] = ctx.device
    precision = compute_precision(settings, device)
    saves = settings.save_steps > 0
    return {
        "output_dir": str(out / CHECKPOINTS),
        "num_train_epochs": settings.epochs,
        "max_steps": settings.max_steps,
        "per_device_train_batch_size": shape.micro,
        "gradient_accumulation_steps": shape.passes,
        "learning_rate": settings.learning_rate,
        "lr_scheduler_type": settings.schedule,
        "warmup_steps": settings.warmup,
        "weight_decay": settings.weight_decay,
        "optim": settings.optimizer,
        "max_grad_norm": settings.max_grad_norm,
        "gradient_checkpointing": settings.gradient_checkpointing,
        "gradient_checkpointing_kwargs": {"use_reentrant": False},
        "bf16": precision == "bf16",
        "fp16": precision == "fp16",
        "use_cpu": device.type == "cpu",
        "seed": settings.seed,
        "data_seed": settings.seed,
        "save_strategy": "steps" if saves else "no",
        "save_steps": max(1, settings.save_steps),
        "save_total_limit": settings.save_total_limit,
        "logging_steps": settings.logging_steps,
        "logging_nan_inf_filter": False,  # a NaN must be seen, not averaged away
        "report_to": list(settings.report_to) or "none",
        "dataloader_num_workers": settings.dataloader_workers,
        "dataloader_pin_memory": device.type == "cuda",
        "disable_tqdm": True,
        "log_level": "error",
        "ddp_find_unused_parameters": False,
        "remove_unused_columns": False,
    }


def last_checkpoint(out: Path) -> Path | None:
    """The newest checkpoint of a step's folder that was written to its end; others are skipped."""

    def step(path: Path) -> int:
        number = path.name.removeprefix(f"{PREFIX_CHECKPOINT_DIR}-")
        return int(number) if number.isdigit() else -1

    for path in sorted((out / CHECKPOINTS).glob(f"{PREFIX_CHECKPOINT_DIR}-*"), key=step, reverse=True):
        try:  # the trainer writes this file last
            state = json.loads((path / "trainer_state.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if state.get("global_step") == step(path):
            return path
    return None


def start_over(out: Path, ctx: Context) -> None:
    """Remove what an earlier run of the step left behind."""
    if ctx.rank == 0:
        for name in (CHECKPOINTS, MODEL):
            shutil.rmtree(out / name, ignore_errors=True)
