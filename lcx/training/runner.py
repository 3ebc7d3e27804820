"""Running any of the trainers: resume, interruption, quiet logs, the saved model, and the numbers."""

from __future__ import annotations

import math
import re
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import PrinterCallback, TrainerCallback

from lcx.context import Context, Stopped
from lcx.errors import LcxError, MissingError
from lcx.modeling.load import few_threads, save_rope, window
from lcx.training.arguments import MODEL, last_checkpoint
from lcx.training.launch import sharding
from lcx.training.progress import ProgressCallback, count


class Interrupt(TrainerCallback):
    """Ends training after the running step, with a checkpoint, once a signal came to any of the processes."""

    def __init__(self, ctx: Context) -> None:
        self.ctx, self.asked, self.obeyed = ctx, False, False

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Ask the trainer to save and to stop."""
        asked = self.asked
        if args.world_size > 1:  # all processes must stop at the same step
            flag = torch.tensor(float(asked), device=args.device)
            torch.distributed.all_reduce(flag, torch.distributed.ReduceOp.MAX)
            asked = bool(flag.item())
        if asked:
            self.obeyed = control.should_training_stop = control.should_save = True

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Ctrl-C and SIGTERM ask for a stop; a second Ctrl-C stops at once."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def ask(number: int, frame: Any) -> None:
            if self.asked:
                raise KeyboardInterrupt
            self.asked = True
            self.ctx.log("finishing this step, then saving a checkpoint (again to stop at once)")

        before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


class Watch(TrainerCallback):
    """Raises LcxError as soon as a logged loss or gradient norm is not a number."""

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Look at the latest point of the curve."""
        check_finite((logs or {}).get("loss"), (logs or {}).get("grad_norm"), state.global_step)


def check_finite(loss: float | None, norm: float | None, step: int) -> None:
    """Raise LcxError where loss or gradient norm is NaN or infinite."""
    for name, value in (("loss", loss), ("gradient norm", norm)):
        if value is not None and not math.isfinite(value):
            raise LcxError(
                f"the {name} became {value} by step {step}",
                why="Usually a learning rate that is too high, or fp16 that overflows.",
                hint="Lower learning_rate, raise warmup, or set precision to bf16; then run with --force.",
            )


def check_optimizer(trainer: Any) -> None:
    """Raise MissingError where the optimizer needs a library or settings that are not there."""
    try:
        trainer.get_optimizer_cls_and_kwargs(trainer.args, trainer.model)
    except (ImportError, ValueError) as bad:
        name = getattr(trainer.args.optim, "value", trainer.args.optim)
        install = re.search(r"pip install [^`'\"]+", str(bad))
        raise MissingError(
            f"the optimizer '{name}' cannot be used",
            why=str(bad).splitlines()[0],
            hint=install[0].rstrip(". ") if install else "--set train.optimizer=adamw_torch",
        ) from bad


def run_trainer(trainer: Any, progress: ProgressCallback, out: Path, ctx: Context) -> dict[str, Any]:
    """Train, from the last whole checkpoint where there is one; returns transformers' metrics.

    Raises KeyboardInterrupt after a checkpoint where the user asked for it, LcxError on a NaN or too little
    memory, MissingError for an optimizer that cannot be made.
    """
    check_optimizer(trainer)
    trainer.remove_callback(PrinterCallback)
    interrupt = Interrupt(ctx)
    trainer.add_callback(interrupt)
    trainer.add_callback(Watch())
    trainer.add_callback(progress)
    checkpoint = last_checkpoint(out)
    if checkpoint is not None:
        sharding.check_resume(checkpoint, trainer.args.world_size)
    sharding.prepare(trainer)
    try:
        with interrupt.listening(), few_threads(trainer.model):
            done = trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    except torch.OutOfMemoryError as full:
        raise LcxError(
            "the GPU's memory is full",
            why=str(full).splitlines()[0],
            hint="Try gradient_checkpointing: true, micro_batch: 1, tuning: qlora, or fewer max_tokens"
            + ("; --strategy fsdp shares the weights." if sharding.strategy() == "ddp" else "."),
        ) from full
    finally:
        progress.close()
    if interrupt.obeyed and trainer.state.global_step < trainer.state.max_steps:
        ctx.log(f"checkpoint saved at step {trainer.state.global_step} of {trainer.state.max_steps}")
        raise Stopped
    check_finite(done.training_loss, None, trainer.state.global_step)
    return dict(done.metrics)


def save(trainer: Any, tokenizer: Any, out: Path) -> Path:
    """Save model (or adapter, with its rope settings) and tokenizer in `out/model`, as `load_model` reads them."""
    folder = out / MODEL
    sharding.gather(trainer)
    trainer.save_model(str(folder))  # gathers sharded weights; only one process writes
    if trainer.is_world_process_zero():
        model = trainer.accelerator.unwrap_model(trainer.model)
        if hasattr(model, "peft_config"):  # PEFT saves nothing of the config that it was trained with
            save_rope(model.config, folder)
        if tokenizer is not None:
            tokenizer.save_pretrained(folder)
    return folder


def curve(trainer: Any) -> list[dict[str, float]]:
    """Step, loss, grad_norm, learning_rate and a loss's metrics at every logged step, over resumes too."""
    keys = ("step", "loss", "grad_norm", "learning_rate")
    return [
        {key: value for key, value in entry.items() if key in keys or "/" in key or key == "nll_loss"}
        for entry in trainer.state.log_history
        if "loss" in entry
    ]


def describe(
    bundles: int,
    branches: int,
    tokens: int,
    longest: int,
    per_step: int,
    batch: int,
    mean: float,
    config: Any,
) -> str:
    """One line on what is going to be trained on. `mean` is what a context counts in a batch of `batch`."""
    text = (
        f"{bundles:,} contexts, {branches:,} answers, {count(tokens)} tokens; longest row {longest:,} of "
        f"{window(config):,}; a step has {per_step:,} contexts, about {branches / bundles * per_step:.0f} answers"
    )
    return text + (f" (batch: {batch})" if abs(mean * per_step - batch) > 0.05 * batch else "")
