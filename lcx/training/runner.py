"""A training from settings and encoded bundles to a saved model: the trainer of packed rows, and what surrounds it.

`prepare` checks, fits rows to the window and builds the model; whoever called it makes a trainer of that; `train` runs
it (resume, interruption, progress, a NaN seen at once), saves the model and says what came of it.
"""

from __future__ import annotations

import math
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments, set_seed

from lcx.context import Context, StepResult, Stopped
from lcx.data.assembly import check_bundle
from lcx.errors import LcxError, MissingError, UsageError
from lcx.forecast.report import memory_bytes
from lcx.formatting import several
from lcx.modeling.load import (
    few_threads,
    load_config,
    pick_device,
    quiet,
    set_rope,
    window,
    without_dropout,
)
from lcx.modeling.logprobs import AnswerHead, has_plain_head, token_logprobs
from lcx.modeling.shared_prefix import restore, use_shared_prefix
from lcx.modeling.support import brings_code, why_not_packed
from lcx.progress import Progress, short_count
from lcx.records import EncodedBundle
from lcx.storage import atomic_path, write_json
from lcx.training import sharding
from lcx.training.arguments import RateSchedule, build_model, check_names, training_arguments
from lcx.training.collate import Draw, EpochOrder, Items, collate
from lcx.training.cpu import available_bytes, spare_memory
from lcx.training.data import Fitted, fit_all
from lcx.training.losses import summed_sft_loss
from lcx.training.saving import (
    CHECKPOINTS,
    MODEL,
    Checkpoints,
    check_checkpoints,
    last_checkpoint,
    mean_loss,
    save,
    start_over,
)
from lcx.training.settings import StepShape, TrainSettings, step_shape, warmup_steps

CURVE = "curve.json"
PICTURE = "curve.png"
ADAPTER_ROPE = (
    "the adapter belongs to its base with {rope}; lcx reads that from its lcx.json, "
    "other programs have to be told"
)

WARMUP_CUT = "warmup: {wanted:,} steps cut to {left:,}, since the training has {steps:,} in all"


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
        held: Sequence[EncodedBundle] = (),
        first: Sequence[int] = (),
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
        # Every process takes equally many, at the end a filler of no weight
        self.held = Items(held, 0, -(-len(held) // args.world_size) * args.world_size, draw)
        self.first = first
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
        return EpochOrder(
            self.count, self.padded, self.args.seed, lambda: self.state.global_step // steps, self.first
        )

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

    def summed_loss(self, model: Any, batch: dict[str, Any]) -> torch.Tensor:
        """Summed loss of a forward pass."""
        return self.batch_loss(self.logprobs(model, batch), batch)

    @torch.no_grad()
    def held_out_loss(self) -> float:
        """Mean loss on the held-out bundles as the model is now, each weighing as in a training step."""
        sums = torch.zeros(2, device=self.args.device)
        with without_dropout(self.model_wrapped), self.accelerator.autocast():
            for number in range(self.args.process_index, len(self.held), self.args.world_size):
                batch = self._prepare_inputs(collate([self.held[number]]))
                weight = self.batch_weight(batch)
                loss = self.summed_loss(self.model_wrapped, batch)
                sums += torch.stack([loss.float(), loss.new_tensor(weight, dtype=torch.float32)])
        if self.args.world_size > 1:
            sums = self.accelerator.reduce(sums, "sum")
        return float(sums[0] / sums[1])

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
        summed = self.summed_loss(model, inputs)
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


@dataclass(frozen=True)
class Prepared:
    """The parts of a trainer: the model ready to be trained, the fitted bundles, and the shape of a step."""

    settings: TrainSettings
    model: Any
    data: Fitted
    shape: StepShape
    held: Fitted | None = None
    """What is not trained on: its loss is looked at on the way."""

    def first(self, processes: int) -> list[int]:
        """The bundles that training begins with: the longest ones, a forward pass full, where they are asked for."""
        return self.data.longest(self.shape.micro * processes) if self.settings.longest_first else []


def train_sft(
    settings: TrainSettings,
    dataset: Sequence[EncodedBundle],
    tokenizer: Any,
    out: Path,
    ctx: Context,
    held: Sequence[EncodedBundle] | None = None,
) -> StepResult:
    """Train on the answers of all branches and save the model in `out/model`. Errors as `prepare` and `train`.

    The loss of the bundles `held` is looked at on the way; they are not trained on.
    """
    prepared = prepare(settings, dataset, out, ctx, held=held)
    notes: list[str] = []
    trainer: Any
    with quiet():
        if settings.engine == "trl":
            from lcx.training.trl import row_trainer

            trainer, notes = row_trainer(settings, prepared.model, tokenizer, prepared.data, out, ctx)
        else:
            trainer = shared_prefix_trainer(prepared, out, ctx)
    return train(prepared, trainer, tokenizer, out, ctx, notes)


def shared_prefix_trainer(prepared: Prepared, out: Path, ctx: Context) -> SharedPrefixTrainer:
    """The trainer of the engine `shared-prefix` for supervised fine-tuning, ready to run."""
    settings = prepared.settings
    return SharedPrefixTrainer(
        use_shared_prefix(prepared.model, settings.attn),
        TrainingArguments(**training_arguments(settings, prepared.shape, out, ctx)),
        prepared.data,
        shortest=prepared.data.shortest,
        weighting=settings.loss_weighting,
        held=prepared.held or (),
        first=prepared.first(ctx.world_size),
    )


def prepare(
    settings: TrainSettings,
    dataset: Sequence[EncodedBundle],
    out: Path,
    ctx: Context,
    *,
    branches_count: bool = True,
    check: Callable[[EncodedBundle], None] | None = None,
    held: Sequence[EncodedBundle] | None = None,
) -> Prepared:
    """Check the settings, bring every row within the window, and build the model.

    A batch counts branches, or bundles without `branches_count`; `check` may refuse a bundle. Raises UsageError for a
    model that the engine refuses, LcxError for rows beyond the window or checkpoints of another model, MissingError
    for what is not installed.
    """
    check_names(settings)
    config = load_config(settings.model or "")
    set_rope(config, settings.rope_theta, settings.rope)
    refuse_engine(settings, config)

    def checked(bundle: EncodedBundle) -> None:
        check_bundle(bundle, config, settings.model or "")
        if check is not None:
            check(bundle)

    fitting = partial(
        fit_all,
        window=window(config),
        max_tokens=settings.max_tokens,
        policy=settings.too_long,
        check=checked,
    )
    data = fitting(dataset)
    apart: Fitted | None = None
    if held is not None:
        apart = fitting(held)
    elif settings.eval_share:
        data, apart = data.apart(settings.eval_share, settings.seed)
    mean = sum(data.branches) / len(data) if branches_count else 1.0
    shape = step_shape(settings.batch, settings.micro_batch, ctx.world_size, mean)
    if unused := settings.unused_lora():
        ctx.log(unused)
    ctx.log(describe(data, shape, settings.batch, mean, window(config)))
    if apart is not None:
        ctx.log(f"{len(apart):,} contexts, {sum(apart.branches):,} answers held out")
    if ctx.force:
        start_over(out, ctx)
    set_seed(settings.seed)
    if pick_device(ctx.device).type == "cpu":
        # The longest row as one context: what its questions and answers add is small against the factor.
        needed = memory_bytes(settings.model_dump(), "cpu", tokens=max(data.lengths), questions=1, answer=64)
        if note := spare_memory(needed * ctx.world_size, available_bytes()):
            ctx.log(note)
    with quiet():
        model = build_model(settings, ctx)
    check_checkpoints(model, out, ctx)
    return Prepared(settings, model, data, shape, apart)


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


def describe(data: Fitted, shape: StepShape, batch: int, mean: float, limit: int) -> str:
    """One line on what is going to be trained on. `mean` is what a context counts in a batch of `batch`."""
    bundles, branches = len(data), sum(data.branches)
    per_step = min(shape.bundles, bundles)
    text = (
        f"{several(bundles, 'context')}, {several(branches, 'answer')}, {short_count(sum(data.lengths))} tokens; "
        f"longest row {max(data.lengths):,} of {limit:,}; a step has {several(per_step, 'context')}, about "
        f"{several(round(branches / bundles * per_step), 'answer')}"
    )
    return text + (f" (batch: {batch})" if abs(mean * per_step - batch) > 0.05 * batch else "")


def train(
    prepared: Prepared, trainer: Any, tokenizer: Any, out: Path, ctx: Context, notes: Sequence[str] = ()
) -> StepResult:
    """Run a trainer and save the model in `out/model`; the same call goes on from `out/checkpoints`.

    `notes` are what the trainer's maker says to the user. Raises LcxError on a NaN or too little memory, and
    KeyboardInterrupt once a checkpoint is saved.
    """
    settings, data = prepared.settings, prepared.data
    said = [*notes, *filter(None, [settings.unused_lora()])]
    if (settings.rope_theta or settings.rope) and settings.tuning != "full":
        rope = {**settings.rope, **({"rope_theta": settings.rope_theta} if settings.rope_theta else {})}
        said.append(ADAPTER_ROPE.format(rope=", ".join(f"{key}={value}" for key, value in rope.items())))
    tell_trackers(trainer, out, ctx)
    with quiet():
        trainer.add_callback(Checkpoints(trainer, tokenizer, settings, out))
        if prepared.held is not None:
            trainer.add_callback(HeldOut(trainer, settings.eval_steps, ctx))
        metrics, resumed = run_trainer(trainer, out, ctx)
        if hasattr(trainer, "release"):
            trainer.release()
        restore(prepared.model)
        _, saved = save(trainer, tokenizer, settings, out)
    said += [*resumed, *saved]
    steps = trainer.state.max_steps
    if settings.schedule != "constant" and settings.warmup >= 1 and settings.warmup > steps - 1:
        said.append(WARMUP_CUT.format(wanted=int(settings.warmup), left=steps - 1, steps=steps))
    points = curve(trainer)
    held = [round(point["eval_loss"], 6) for point in points if "eval_loss" in point]
    # The trainer's own mean leaves out the steps before a resumption
    loss = metrics["train_loss"] if (mean := mean_loss(points)) is None else mean
    if trainer.is_world_process_zero():
        write_json(out / CURVE, points)
        if points:
            training_png(out / PICTURE, points)
    seen = trained_numbers(trainer, len(data))
    if left := len(data) - len(seen):
        said.append(
            f"{len(seen):,} of {several(len(data), 'bundle')} trained: {several(steps, 'step')} of "
            f"{several(prepared.shape.bundles, 'bundle')} end before all were seen (max_steps, epochs)"
        )
    return StepResult(
        counts={
            "bundles": len(seen),
            **({"bundles not trained": left} if left else {}),
            "branches": sum(data.branches[number] for number in seen),
            "tokens": sum(data.lengths[number] for number in seen),
            "steps": trainer.state.global_step,
            **({"bundles held out": len(prepared.held)} if prepared.held is not None else {}),
            **data.counts,
        },
        metrics={
            "loss": round(loss, 6),
            "last_loss": next((point["loss"] for point in points[::-1] if "loss" in point), None),
            **({"held_out_loss": held[-1], "held_out_loss_before": held[0]} if held else {}),
            "seconds": round(metrics["train_runtime"], 2),
            "bundles_per_step": min(prepared.shape.bundles, len(data)),
            "longest_bundle": max(data.lengths),
        },
        files={"model": MODEL, "curve": CURVE, **({"picture": PICTURE} if points else {})},
        notes=said,
        extra={"engine": settings.engine, "processes": ctx.world_size},
        spent=() if settings.keep_checkpoints else (CHECKPOINTS,),
    )


class Told(TrainerCallback):
    """Says to trackers what lcx knows of a training, beside transformers' arguments; it stands before them.

    They take those by `args.to_dict` when the training begins. Only then does it give more: the arguments that are
    saved with a model stay transformers' own.
    """

    def __init__(self, told: Mapping[str, str]) -> None:
        self.told = told

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Add to what `args.to_dict` gives."""
        args.to_dict = lambda: {**type(args).to_dict(args), **self.told}


class ToldAll(TrainerCallback):
    """Takes back what `Told` added; it stands behind the trackers."""

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Give `args` its own method again."""
        vars(args).pop("to_dict", None)


TENSORBOARD = "tensorboard"
"""Folder of TensorBoard's events in the step's."""


def tell_trackers(trainer: Any, out: Path, ctx: Context) -> None:
    """Let trackers keep recipe and fingerprints, and TensorBoard's events outlive the checkpoints beside them."""
    callbacks = trainer.callback_handler.callbacks
    for callback in callbacks:
        if getattr(callback, "logging_dir", "") is None:  # it would take a folder among the checkpoints
            callback.logging_dir = str(out / TENSORBOARD)
    callbacks.insert(0, Told(ctx.identity))
    trainer.add_callback(ToldAll())


def trained_numbers(trainer: Any, count: int) -> Sequence[int]:
    """Numbers of the `count` bundles that a training saw, each once: all, unless it ended within the first epoch.

    Engine trl has rows of its own in an order of its own: there only how many they are is right, and that nearly.
    """
    args = trainer.args
    rows = args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size
    seen = trainer.state.global_step * rows
    if isinstance(trainer, SharedPrefixTrainer):
        order = EpochOrder(trainer.count, trainer.padded, args.seed, lambda: 0, trainer.first)
        return sorted(number for number in list(order)[:seen] if number < count)
    return range(max(1, round(min(1.0, seen / len(trainer.train_dataset)) * count)))


def run_trainer(trainer: Any, out: Path, ctx: Context) -> tuple[dict[str, Any], list[str]]:
    """Train, from the last whole checkpoint where there is one; transformers' metrics, and what was said of others.

    Raises KeyboardInterrupt after a checkpoint where the user asked for it, LcxError on a NaN or too little
    memory, MissingError for an optimizer that cannot be made.
    """
    check_optimizer(trainer)
    trainer.remove_callback(PrinterCallback)
    interrupt, shown = Interrupt(ctx), ShowProgress(ctx, trainer)
    for callback in (interrupt, Watch(), shown):
        trainer.add_callback(callback)
    checkpoint, notes = last_checkpoint(out, ctx, processes=trainer.args.world_size)
    if checkpoint is not None:
        sharding.check_resume(checkpoint, trainer.args.world_size)
    sharding.prepare(trainer)
    end_at_last_step(trainer)
    try:
        with interrupt.listening(), few_threads(trainer.model):
            began = time.monotonic()  # transformers takes the time of day, which may be set in between
            done = trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        shown.close()
    except torch.OutOfMemoryError as full:
        raise LcxError(
            "the GPU's memory is full",
            why=str(full).splitlines()[0],
            hint="Try gradient_checkpointing: true, micro_batch: 1, tuning: qlora, or fewer max_tokens"
            + ("; --strategy fsdp shares the weights." if sharding.strategy() == "ddp" else "."),
        ) from full
    finally:
        shown.close(said=False)
    if interrupt.obeyed and trainer.state.global_step < trainer.state.max_steps:
        ctx.log(f"checkpoint saved at step {trainer.state.global_step} of {trainer.state.max_steps}")
        raise Stopped
    check_finite(done.training_loss, None, trainer.state.global_step)
    return {**done.metrics, "train_runtime": time.monotonic() - began}, notes


def end_at_last_step(trainer: Any) -> None:
    """Let a training that goes on from its last step take none more.

    transformers asks whether all steps are done only after a step: a training whose `max_steps` end within an epoch,
    and that is killed between its last checkpoint and its end, would take one more each time it is resumed, and end
    with other weights.
    """
    collect = trainer.get_batch_samples

    def collected(epoch_iterator: Any, num_batches: int, device: Any) -> tuple[list[Any], Any]:
        if trainer.state.global_step >= trainer.state.max_steps:
            return [], None
        batches: tuple[list[Any], Any] = collect(epoch_iterator, num_batches, device)
        return batches

    trainer.get_batch_samples = collected


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


def check_finite(loss: float | None, norm: float | None, step: int) -> None:
    """Raise LcxError where loss or gradient norm is NaN or infinite."""
    for name, value in (("loss", loss), ("gradient norm", norm)):
        if value is not None and not math.isfinite(value):
            raise LcxError(
                f"the {name} became {value} by step {step}",
                why="Usually a learning rate that is too high, or fp16 that overflows.",
                hint="Lower learning_rate, raise warmup, or set precision to bf16; then run with --force.",
            )


class Watch(TrainerCallback):
    """Raises LcxError as soon as a logged loss or gradient norm is not a number."""

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Look at the latest point of the curve."""
        check_finite((logs or {}).get("loss"), (logs or {}).get("grad_norm"), state.global_step)


class HeldOut(TrainerCallback):
    """Looks at the loss of the held-out bundles before the first step, every few steps and after the last."""

    def __init__(self, trainer: Any, every: int, ctx: Context) -> None:
        self.trainer, self.every, self.ctx = trainer, every, ctx

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Look before anything is trained; a resumed training has done so."""
        if not state.global_step:
            self._look(state)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Look, and let the step's own loss be logged beside it."""
        if state.global_step % self.every == 0 or state.global_step >= state.max_steps:
            self._look(state)
            control.should_log = True

    def _look(self, state: Any) -> None:
        loss = self.trainer.held_out_loss()
        self.trainer.log({"eval_loss": round(loss, 6)})
        self.ctx.log(f"held-out loss {loss:.4f} at step {state.global_step:,}")


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
            self.obeyed = control.should_training_stop = True
            control.should_save = control.should_log = True

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


class ShowProgress(TrainerCallback):
    """Shows step, loss, tokens a second and the time left of a trainer that has `tokens_seen` and `latest_loss`."""

    def __init__(self, ctx: Context, trainer: Any) -> None:
        self.ctx, self.trainer = ctx, trainer
        self.shown: Progress | None = None
        self.first_tokens = 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Say how many steps there are; start the clock, and the bar where there is a terminal."""
        if not state.is_world_process_zero:
            return
        warm = warmup_steps(args.warmup_steps, state.max_steps) if args.lr_scheduler_type != "constant" else 0
        self.ctx.log(
            f"{state.max_steps:,} step{'s' if state.max_steps != 1 else ''} in all"
            + (f", {warm:,} of them warm-up" if warm else "")
        )
        if state.global_step:
            self.ctx.log(f"resumed at step {state.global_step} of {state.max_steps}")
        self.shown = self.ctx.progress("training", state.max_steps, "steps", done=state.global_step)
        self.shown.__enter__()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Move the bar, or print a line where the last one is some seconds old."""
        if self.shown is None:
            return
        loss, seconds = self.trainer.latest_loss, self.shown.seconds
        parts = [f"loss {loss:.4f}"] if loss is not None else []
        if self.trainer.tokens_seen:
            parts.append(f"{short_count(self.trainer.tokens_seen / max(seconds, 1e-9))} tokens/s")
        self.shown.update(state.global_step, ", ".join(parts))

    def close(self, *, said: bool = True) -> None:
        """Take the bar away; `said` lets the closing line be printed."""
        if self.shown is not None:
            self.shown.close(said=said)
            self.shown = None


def curve(trainer: Any) -> list[dict[str, float]]:
    """Step, loss, eval_loss, grad_norm, learning_rate and a loss's metrics at every logged step, over resumes too."""
    keys = ("step", "loss", "eval_loss", "grad_norm", "learning_rate", "nll_loss")
    points: dict[float, dict[str, float]] = {}
    for entry in trainer.state.log_history:
        if "loss" in entry or "eval_loss" in entry:
            shown = {key: value for key, value in entry.items() if key in keys or "/" in key}
            points[entry["step"]] = {**points.get(entry["step"], {}), **shown}
    return list(points.values())


PANELS = (
    ("Loss", {"loss": "loss", "eval_loss": "held out", "nll_loss": "cross-entropy of the chosen"}),
    ("Rewards", {"rewards/chosen": "chosen", "rewards/rejected": "rejected", "rewards/margins": "margin"}),
    ("Chosen beats rejected", {"rewards/accuracies": "share of pairs"}),
)
"""Title of a panel of the picture, and its curves: key in `curve.json` and label."""
COLOURS = ("#0072B2", "#D55E00", "#009E73")
MARKED = 40
"""Up to so many points, each is marked; one alone would not show otherwise."""


def training_png(path: Path, points: Sequence[Mapping[str, float]]) -> Path:
    """Draw the curves that the points of a training have, by optimizer step. Written atomically."""
    # The object interface needs no pyplot: no display, no global state, nothing left open.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    panels = [(title, curves) for title, curves in PANELS if any(key in p for p in points for key in curves)]
    figure = Figure(figsize=(4.8 * max(1, len(panels)), 3.6), dpi=120, facecolor="white")
    FigureCanvasAgg(figure)
    for number, (title, curves) in enumerate(panels):
        axes = figure.add_subplot(1, len(panels), number + 1)
        _draw(axes, points, curves)
        axes.set_title(title, fontsize=11)
        axes.set_xlabel("optimizer step")
    if any(key == "rewards/accuracies" for _, curves in panels for key in curves):
        figure.axes[-1].set_ylim(-0.03, 1.03)
    figure.tight_layout()
    with atomic_path(path) as temporary:
        # The creation date and library version would make equal curves give different files.
        figure.savefig(temporary, format="png", metadata={"Software": None})
    return path


def _draw(axes: Any, points: Sequence[Mapping[str, float]], curves: Mapping[str, str]) -> None:
    shown = [(key, label) for key, label in curves.items() if any(key in point for point in points)]
    for colour, (key, label) in zip(COLOURS, shown, strict=False):
        held = [(point["step"], point[key]) for point in points if key in point]
        marker = "o" if len(held) <= MARKED else None
        axes.plot(
            *zip(*held, strict=True), color=colour, marker=marker, markersize=3, linewidth=1.5, label=label
        )
    axes.grid(color="#D9D9D9", linewidth=0.6)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    if len(shown) > 1:
        axes.legend(frameon=False, fontsize=8)
