"""From our settings to transformers' training arguments, and the model that is to be trained."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR
from transformers.integrations import get_available_reporting_integrations
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK
from transformers.training_args import OptimizerNames

from lcx.context import Context
from lcx.errors import MissingError, UsageError, suggestion
from lcx.hub import adapter_base, locate
from lcx.modeling.load import adapts_tied, add_lora, load_model, pick_device
from lcx.training import sharding
from lcx.training.cpu import bf16_note, cpu_flags
from lcx.training.saving import CHECKPOINTS
from lcx.training.settings import StepShape, TrainSettings, rate_factor, warmup_steps

TRACKER_PACKAGES = {"azure_ml": "azureml-core", "comet_ml": "comet-ml"}
"""Packages of trackers whose package has another name than the tracker."""


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
    Frozen ones are in the precision of the computation, or 4-bit. From a LoRA folder, lora and qlora train
    its adapter on, and full merges it first. Raises UsageError for an adapter of another shape.
    """
    if not settings.model:
        raise MissingError("training needs a model", hint="--model PATH_OR_HUB_ID, or --model tiny")
    device = pick_device(ctx.device)
    full = settings.tuning == "full"
    precision = compute_precision(settings, device)
    if full and sharding.strategy() == "zero3" and adapter_base(locate(settings.model)):
        raise UsageError(
            "ZeRO-3 cannot merge an adapter: no process has its whole base",
            hint="--strategy fsdp or zero2; or --set train.tuning=lora, which trains the adapter on",
        )
    with sharding.loading(precision, at_once=full or (settings.tuning == "lora" and not settings.lora_whole)):
        model: Any = load_model(
            settings.model,
            dtype="fp32" if full else precision,
            quantize="nf4" if settings.tuning == "qlora" else None,
            # Bytes of 4-bit weights are only cut up where they pass for numbers of the computation
            storage=precision if sharding.cuts_weights() else None,
            rope_theta=settings.rope_theta,
            rope=settings.rope,
            # 4-bit weights are made on their device; the trainer places the others
            device=ctx.device if settings.tuning == "qlora" else "cpu",
            trainable=not full,
            told=ctx.log,
        )
    if not hasattr(model, "peft_config"):
        if not full:
            model = add_lora(
                model,
                settings.lora_r,
                settings.lora_alpha,
                settings.lora_dropout,
                settings.lora_targets,
                save=settings.lora_whole,
            )
    elif full:
        if name := adapts_tied(model):
            raise UsageError(
                f"the adapter in '{settings.model}' cannot be merged: it is on {name}, whose weights are tied",
                why="Merging would change embedding and output head, where the adapter changes one of them.",
                hint="--set train.tuning=lora trains the adapter on",
            )
        model = model.merge_and_unload().requires_grad_(True)
    else:  # a second adapter could not be saved: a LoRA folder is one adapter on one whole base
        check_adapter(model, settings)
    if settings.gradient_checkpointing and not full:
        model.enable_input_require_grads()
    parameters = sum(weight.numel() for weight in model.parameters())
    if ctx.rank == 0 and (note := bf16_note(settings, device, parameters, cpu_flags())):
        ctx.log(note)
    return model


def check_adapter(model: Any, settings: TrainSettings) -> None:
    """Raise UsageError where a loaded adapter is not the one that the settings describe."""
    found = model.active_peft_config
    if str(getattr(found.peft_type, "value", found.peft_type)) != "LORA":
        raise UsageError(
            f"tuning {settings.tuning} cannot go on from a {found.peft_type} adapter",
            hint="--set train.tuning=full merges it and trains all weights",
        )
    held, others = _modules(model)
    pairs = [
        (f"{key}={getattr(settings, key)}", f"{key}={getattr(found, name)}")
        for key, name in (("lora_r", "r"), ("lora_alpha", "lora_alpha"), ("lora_dropout", "lora_dropout"))
        if getattr(settings, key) != getattr(found, name)
    ]
    if set(found.modules_to_save or ()) != set(settings.lora_whole):
        pairs.append(
            (
                f"lora_whole={','.join(settings.lora_whole)}",
                f"lora_whole={','.join(sorted(found.modules_to_save or ()))}",
            )
        )
    if _named(held | others, settings.lora_targets, _head(model)) != held:
        ends = ",".join(sorted({name.rsplit(".", 1)[-1] for name in held}))
        pairs.append((f"lora_targets={','.join(settings.lora_targets)}", f"lora_targets={ends}"))
    if pairs:
        raise UsageError(
            f"the adapter in '{settings.model}' has another shape than the settings ask for",
            why=f"It has {', '.join(has for _, has in pairs)}; asked for: {', '.join(asks for asks, _ in pairs)}.",
            hint=" ".join(f"--set train.{has}" for _, has in pairs)
            + " trains it on; --set train.tuning=full merges it and trains all weights",
        )


def _modules(model: Any) -> tuple[set[str], set[str]]:
    """Names of the linear modules that the adapter wraps, and of those that it leaves alone."""
    from peft.tuners.lora import LoraLayer

    base = model.get_base_model()
    held = {name for name, module in base.named_modules() if isinstance(module, LoraLayer)}
    return held, {
        name
        for name, module in base.named_modules()
        if isinstance(module, nn.Linear)
        and name not in held
        and not any(name.startswith(f"{one}.") for one in held)
    }


def _head(model: Any) -> str:
    base = model.get_base_model()
    head = base.get_output_embeddings()
    return next((name for name, module in base.named_modules() if module is head), "")


def _named(modules: set[str], targets: tuple[str, ...], head: str) -> set[str]:
    """The modules that PEFT would wrap for these targets: by whole name, by its end, or all but the head."""
    if targets == ("all-linear",):
        return modules - {head}
    return {name for name in modules if any(name == one or name.endswith(f".{one}") for one in targets)}


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
        "logging_steps": settings.logging_steps,
        "logging_first_step": True,
        "logging_nan_inf_filter": False,  # a NaN must be seen, not averaged away
        "report_to": list(settings.report_to) or "none",
        "dataloader_num_workers": settings.dataloader_workers,
        "dataloader_pin_memory": device.type == "cuda",
        "disable_tqdm": True,
        "log_level": "error",
        "ddp_find_unused_parameters": False,
        "remove_unused_columns": False,
    }


class RateSchedule:
    """Mixin of trainers: their rate follows `rate_factor`, so that the first step has one and a warm-up ends."""

    args: Any
    optimizer: Any
    lr_scheduler: Any

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """The schedule of a training of so many steps, made once."""
        if self.lr_scheduler is None:
            factor = partial(
                rate_factor,
                steps=num_training_steps,
                warmup=warmup_steps(self.args.warmup_steps, num_training_steps),
                schedule=str(getattr(self.args.lr_scheduler_type, "value", self.args.lr_scheduler_type)),
            )
            self.lr_scheduler = LambdaLR(self.optimizer if optimizer is None else optimizer, factor)
            self._created_lr_scheduler = True
        return self.lr_scheduler


def check_names(settings: TrainSettings) -> None:
    """Check optimizer and trackers before anything is loaded.

    Raises UsageError for a name that transformers does not know, MissingError for what is not installed.
    """
    optimizers = [name.value for name in OptimizerNames]
    if settings.optimizer not in optimizers:
        near = f"{settings.optimizer}_torch"  # adamw, whose nearest neighbour by letters is grokadamw
        near = f"Did you mean '{near}'?" if near in optimizers else suggestion(settings.optimizer, optimizers)
        raise UsageError(
            f"unknown optimizer '{settings.optimizer}'. {near}".rstrip(),
            why=f"transformers has {', '.join(optimizers)}.",
        )
    trackers = set(INTEGRATION_TO_CALLBACK)
    for name in set(settings.report_to) - {"all"}:
        if name not in trackers:
            raise UsageError(
                f"report_to: unknown tracker '{name}'. {suggestion(name, trackers)}".rstrip(),
                why=f"transformers has {', '.join(sorted(trackers))}.",
            )
        # flyte has no check of its own there
        if name != "flyte" and name not in get_available_reporting_integrations():
            raise MissingError(
                f"report_to: the tracker '{name}' is not installed",
                hint=f"pip install {TRACKER_PACKAGES.get(name, name)}",
            )
