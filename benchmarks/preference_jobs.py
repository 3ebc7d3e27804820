"""What a worker measures: lcx's and TRL's trainers of adapters on the same random model and data."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from datasets import Dataset
from preference_ways import OPTIONS, Pairs, pair_of
from random_models import adapter_weights, model_flops, separate_rows, shape_of, shared_rows
from transformers import TrainingArguments
from trl import DPOConfig

from lcx.modeling.load import add_lora
from lcx.modeling.shared_prefix import use_shared_prefix
from lcx.modeling.tiny import build_tokenizer
from lcx.records import EncodedBranch, EncodedBundle
from lcx.training.losses import DPO, LOGO
from lcx.training.preference import PreferenceTrainer

RANK, ALPHA = 32, 16
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj")
"""LOGO's adapters."""

Feed = Callable[[EncodedBundle], None]
"""Gives a trainer other data."""


@dataclass
class Job:
    """What a worker measures. `until` is a time of the system's clock; `refuse_above` plays a small card."""

    shape: str
    precision: str
    trainer: str
    lengths: list[int]
    answer: int
    repeats: int
    until: float
    device: str
    attn: str = "sdpa"
    limit: int = 1 << 20
    card_gb: float | None = None
    refuse_above: int | None = None

    @property
    def branches(self) -> int:
        """Answers of a prompt: DPO's pair, or LOGO's with two rejected ones."""
        return 3 if self.trainer == "lcx-logo" else 2

    def bundle(self, tokens: int) -> EncodedBundle:
        """A prompt and answers of `tokens` together, each counted once, as random ids."""
        random = np.random.default_rng(tokens)
        vocab = shape_of(self.shape).vocab
        prompt = tokens - self.branches * self.answer
        if prompt < 2:
            raise SystemExit(
                f"{tokens} tokens leave no prompt beside {self.branches} answers of {self.answer}"
            )
        roles = ["chosen"] + ["rejected"] * (self.branches - 1)
        made = (EncodedBranch(random.integers(3, vocab, self.answer).tolist(), 0, role) for role in roles)
        return EncodedBundle(f"{tokens}", random.integers(3, vocab, prompt), tuple(made))

    def flops(self, tokens: int) -> float:
        """FLOPs that this trainer's step needs at so many tokens: rows of its own kind, reference included."""
        shape, prompt = shape_of(self.shape), tokens - self.branches * self.answer
        rows = separate_rows if self.trainer == "trl" else shared_rows
        passes = [rows(prompt, self.answer, self.branches, True)]
        if self.trainer != "lcx-logo":
            passes.append(rows(prompt, self.answer, self.branches, False))
        return model_flops(shape, passes, adapter_weights(shape, RANK, TARGETS))


def arguments(job: Job) -> dict[str, Any]:
    """What both trainers are told: bf16, checkpointing, AdamW on the adapters."""
    return {
        "output_dir": tempfile.mkdtemp(prefix="preference-"),
        "per_device_train_batch_size": 1,
        "gradient_checkpointing": True,
        "gradient_checkpointing_kwargs": {"use_reentrant": False},
        "bf16": True,
        "use_cpu": job.device == "cpu",
        "optim": "adamw_torch",
        "learning_rate": 1e-6,
        "lr_scheduler_type": "constant",
        "logging_steps": 1,
        "report_to": "none",
        "save_strategy": "no",
        "disable_tqdm": True,
        "remove_unused_columns": False,
        "dataloader_pin_memory": job.device != "cpu",
    }


def lcx_trainer(job: Job, model: Any) -> tuple[Any, Feed]:
    """lcx's trainer with a new adapter, and what gives it other data."""
    wrapped = add_lora(model, RANK, ALPHA, 0.0, TARGETS)
    wrapped.enable_input_require_grads()
    loss = LOGO if job.trainer == "lcx-logo" else DPO
    trainer = PreferenceTrainer(
        use_shared_prefix(wrapped, job.attn),
        TrainingArguments(**arguments(job)),
        [job.bundle(job.lengths[0])],
        loss=loss,
        options=OPTIONS[loss.name],
    )

    def feed(bundle: EncodedBundle) -> None:
        trainer.items.bundles = [bundle]

    return trainer, feed


def trl_trainer(job: Job, model: Any) -> tuple[Any, Feed]:
    """TRL's DPOTrainer with the same adapter, and what gives it other data."""
    from peft import LoraConfig

    def table(bundle: EncodedBundle) -> Dataset:
        return Dataset.from_list([pair_of(bundle)])

    trainer = Pairs(
        model=model,
        args=DPOConfig(
            **arguments(job),
            loss_type=["sigmoid", "sft"],
            loss_weights=[1.0, OPTIONS["dpo"]["sft_weight"]],
            beta=OPTIONS["dpo"]["beta"],
            max_length=None,
        ),
        train_dataset=table(job.bundle(job.lengths[0])),
        processing_class=build_tokenizer(["word"]),
        peft_config=LoraConfig(
            r=RANK, lora_alpha=ALPHA, lora_dropout=0.0, target_modules=list(TARGETS), task_type="CAUSAL_LM"
        ),
    )

    def feed(bundle: EncodedBundle) -> None:
        trainer.train_dataset = table(bundle)

    return trainer, feed
