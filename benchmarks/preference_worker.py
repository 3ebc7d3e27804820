"""One model in one process: steps of a trainer's own loop at growing lengths, and the longest that fits.

`preference_lora.py` starts this for every model, precision and trainer, and reads a line of JSON a measurement.
"""

from __future__ import annotations

import gc
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from preference_ways import OPTIONS, pair_of, pairs_trainer, quiet
from random_models import adapter_weights, model_flops, random_model, separate_rows, shape_of, shared_rows
from transformers import PrinterCallback, TrainerCallback, TrainingArguments

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
    from datasets import Dataset
    from peft import LoraConfig
    from trl import DPOConfig

    def table(bundle: EncodedBundle) -> Any:
        return Dataset.from_list([pair_of(bundle)])

    trainer = pairs_trainer()(
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


OOM_WORDS = ("out of memory", "ALLOC_FAILED", "can't allocate memory")


@dataclass
class Clock(TrainerCallback):
    """Seconds of every optimizer step, the device's work included."""

    device: torch.device
    seconds: list[float] = field(default_factory=list)
    began: float = 0.0

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
        self.began = self._now()

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        self.seconds.append(self._now() - self.began)


@dataclass
class Bench:
    """A trainer that is asked for steps at one length after another."""

    job: Job
    trainer: Any
    feed: Feed
    clock: Clock

    def run(self, tokens: int, steps: int) -> dict[str, Any]:
        """Steps at a length by the trainer's own loop, or how they failed."""
        self.feed(self.job.bundle(tokens))
        self.trainer.args.max_steps = steps
        self.clock.seconds.clear()
        reset_peak(self.job.device)
        failed = ""
        try:
            if self.job.refuse_above and tokens > self.job.refuse_above:
                raise torch.OutOfMemoryError("out of memory, as asked")
            self.trainer.train()
        except (RuntimeError, MemoryError) as error:  # what it refers to is let go before the next attempt
            failed = "out of memory" if _is_oom(error) else f"{type(error).__name__}: {error}"[:500]
        if failed:
            self.clean()
            return {"tokens": tokens, "error": failed}
        losses = [point["loss"] for point in self.trainer.state.log_history if "loss" in point]
        found = {"tokens": tokens, "loss": losses[0], "seconds": list(self.clock.seconds)}
        return {**found, **peak(self.job.device)}

    def clean(self) -> None:
        """Let go of what a failed step held."""
        if self.trainer.optimizer is not None:
            self.trainer.optimizer.zero_grad(set_to_none=True)
        self.trainer.model.zero_grad(set_to_none=True)
        gc.collect()
        if self.job.device != "cpu":
            torch.cuda.synchronize()
            torch.cuda.empty_cache()

    def measure(self, tokens: int, last: dict[str, Any] | None) -> dict[str, Any]:
        """A warm-up and as many timed steps as the time allows; what a step costs is guessed from the last."""
        left = self.job.until - time.time()
        guess = _guess(last, tokens)
        if guess > left:
            return {"tokens": tokens, "error": "no time left"}
        steps = 1 + max(1, min(self.job.repeats, int(left / guess / 4) if guess else self.job.repeats))
        found = self.run(tokens, steps)
        if "error" in found:
            return found
        timed = found["seconds"][1:]
        middle = statistics.median(timed)
        flops = self.job.flops(tokens)
        return {
            **found,
            "median_seconds": middle,
            "tokens_per_second": tokens / middle,
            "model_flops": flops,
            "flops_per_second": flops / middle,
        }

    def longest(self, fits: dict[str, Any] | None, bad: int | None) -> dict[str, Any]:
        """The most tokens that one step takes: doubled until it fails, then halved to a sixteenth."""
        job, last, why = self.job, fits, "memory"
        good = fits["tokens"] if fits else 0
        grain = max(1, job.lengths[0] // 8)
        while bad is None or (good and bad - good > max(grain, good // 16)):
            if bad is None and good >= job.limit:
                why = "the limit asked for"
                break
            tokens = min(2 * good, job.limit) if bad is None else (good + bad) // 2 // grain * grain
            if not good or _guess(last, tokens) > job.until - time.time():
                why = "time"
                break
            if tokens in (good, bad):
                break
            found = self.run(tokens, 1)
            if "error" in found:
                if found["error"] != "out of memory":
                    return {"longest": good, "bounded_by": found["error"]}
                bad = tokens
            else:
                good, last = tokens, {**found, "median_seconds": found["seconds"][-1]}
        return {"longest": good, "fails_at": bad, "bounded_by": why}


def _guess(last: dict[str, Any] | None, tokens: int) -> float:
    """Seconds of a step at so many tokens: between linear and quadratic, taken as quadratic."""
    return last["median_seconds"] * (tokens / last["tokens"]) ** 2 if last else 0.0


def _is_oom(error: BaseException) -> bool:
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(
        words in str(error) for words in OOM_WORDS
    )


def reset_peak(device: str) -> None:
    """Peaks count from here on."""
    if device != "cpu":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        return
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak(device: str) -> dict[str, int]:
    """Peak bytes since `reset_peak`: tensors, and what the allocator holds of the card; a process's on a CPU."""
    if device != "cpu":
        return {
            "peak_bytes": torch.cuda.max_memory_allocated(),
            "reserved_bytes": torch.cuda.max_memory_reserved(),
        }
    lines = Path("/proc/self/status").read_text().splitlines()
    return {"peak_bytes": next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))}


def results(job: Job) -> Iterator[dict[str, Any]]:
    """The measurements of a job, one after another."""
    quiet()
    device = torch.device(job.device)
    if device.type == "cuda":
        torch.cuda.init()
        if job.card_gb:
            torch.cuda.set_per_process_memory_fraction(
                min(1.0, job.card_gb * 1e9 / torch.cuda.get_device_properties(device).total_memory)
            )
    began = time.time()
    window = max(job.limit, *job.lengths)
    model = random_model(shape_of(job.shape), window, device, quantize=job.precision == "4bit")
    trainer, feed = (trl_trainer if job.trainer == "trl" else lcx_trainer)(job, model)
    clock = Clock(device)
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(clock)
    held = torch.cuda.memory_allocated() if device.type == "cuda" else None
    yield {"built_seconds": time.time() - began, "model_bytes": held}
    bench, fits, bad = Bench(job, trainer, feed, clock), None, None
    for tokens in job.lengths:
        found = bench.measure(tokens, fits)
        yield found
        if "error" in found:
            if found["error"] not in ("out of memory", "no time left"):
                return
            bad = tokens if found["error"] == "out of memory" else None
            break
        fits = found
    yield bench.longest(fits, bad)


def main() -> None:
    """Measure what the first argument describes as JSON; a line of JSON for each result."""
    for found in results(Job(**json.loads(sys.argv[1]))):
        print("RESULT " + json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
