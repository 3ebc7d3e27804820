"""One context with many questions: shared-prefix training against separate rows of the same model and loss.

    python benchmarks/shared_prefix_sft.py --json benchmarks/results/shared_prefix_sft-cpu2.json
    python benchmarks/shared_prefix_sft.py --device cuda --context 32768
    python benchmarks/shared_prefix_sft.py --model smollm2 --context 1024 --variants shared,micro --repeats 1 \
        --no-memory --json benchmarks/results/shared_prefix_sft-smollm2-cpu2.json

Rows are what a competent user would run: no padding, SDPA's causal kernels, logits of the answers only; all
rows as one batch, and one after another with accumulated gradients. Loss and gradients are asserted equal
in fp32 before anything is timed. Repeats are interleaved, so that other load on the machine falls on all
alike; each variant's peak memory is measured in a process of its own, above what it holds after imports and
the model's construction.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import machine
from rich.console import Console
from rich.table import Table
from transformers import LlamaConfig, LlamaForCausalLM

from lcx.modeling.load import load_model
from lcx.modeling.shared_prefix import restore, use_shared_prefix
from lcx.records import EncodedBranch, EncodedBundle
from lcx.training.collate import Item, collate
from lcx.training.losses import sft_loss, token_logprobs

VARIANTS = {
    "shared": "shared prefix",
    "batch": "separate rows, one batch",
    "micro": "separate rows, one at a time",
}


def build(options: argparse.Namespace) -> Any:
    """A random Llama with grouped heads, the same for every call; or real weights in fp32."""
    if options.model:
        model = load_model(options.model, dtype="fp32", device=options.device)
        options.vocab = model.config.vocab_size
        return model.train()
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=options.vocab,
        hidden_size=options.width,
        intermediate_size=options.width * 43 // 16,
        num_hidden_layers=options.layers,
        num_attention_heads=8,
        num_key_value_heads=2,
        max_position_embeddings=options.context + 4096,
        attn_implementation="sdpa",
    )
    return LlamaForCausalLM(config).to(options.device).train()


def data(options: argparse.Namespace) -> EncodedBundle:
    """One context with its questions and answers, as random token ids."""
    random = np.random.default_rng(0)
    branches = (
        random.integers(3, options.vocab, options.question + options.answer) for _ in range(options.questions)
    )
    return EncodedBundle(
        "benchmark",
        random.integers(3, options.vocab, options.context),
        tuple(EncodedBranch(ids.tolist(), options.question) for ids in branches),
    )


def steps(model: Any, bundle: EncodedBundle) -> dict[str, Callable[[], float]]:
    """Forward and backward of each variant; each returns the loss and leaves its gradients in the model."""
    device = model.device
    packed = {
        key: value.to(device) if torch.is_tensor(value) else value
        for key, value in collate([Item(bundle, 1.0)]).items()
    }
    table = [[*bundle.prefix.tolist(), *branch.ids] for branch in bundle.branches]
    rows = torch.tensor(table, device=device)
    answer = len(bundle.branches[0].ids) - bundle.branches[0].answer_start

    def shared() -> float:
        use_shared_prefix(model)
        names = ("input_ids", "position_ids", "segments", "logits_to_keep")
        out = model(**{name: packed[name] for name in names}, use_cache=False)
        logp = token_logprobs(out.logits[0], packed["targets"])
        loss = sft_loss(logp, packed["branch"], len(bundle.branches))
        loss.backward()
        return loss.item()

    def separate(part: torch.Tensor) -> float:
        logits = model(part, logits_to_keep=answer + 1, use_cache=False).logits[:, :-1]
        logp = token_logprobs(logits.flatten(0, 1), part[:, -answer:].flatten())
        loss = -logp.view(len(part), answer).mean(1).sum() / len(rows)
        loss.backward()
        return loss.item()

    def batch() -> float:
        restore(model)
        return separate(rows)

    def micro() -> float:
        restore(model)
        return sum(separate(row[None]) for row in rows)

    return {"shared": shared, "batch": batch, "micro": micro}


def synchronised(step: Callable[[], float], model: Any) -> tuple[float, float]:
    """Seconds of one step from cleared gradients, and its loss."""
    model.zero_grad()
    if model.device.type == "cuda":
        torch.cuda.synchronize()
    began = time.perf_counter()
    loss = step()
    if model.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began, loss


def agreement(model: Any, bundle: EncodedBundle, names: Sequence[str], most: float) -> dict[str, float]:
    """Largest relative differences of loss and of any gradient from the separate rows'; asserted < `most`."""
    found = {}
    for name, step in steps(model, bundle).items():
        if name not in names:
            continue
        _, loss = synchronised(step, model)
        found[name] = loss, [p.grad.clone() for p in model.parameters() if p.grad is not None]
    loss, gradients = found["batch" if "batch" in found else "micro"]
    worst = {"loss": 0.0, "gradients": 0.0}
    for name in found:
        worst["loss"] = max(worst["loss"], abs(found[name][0] - loss) / abs(loss))
        for mine, theirs in zip(found[name][1], gradients, strict=True):
            worst["gradients"] = max(worst["gradients"], float((mine - theirs).norm() / theirs.norm()))
    assert max(worst.values()) < most, f"the variants do not compute the same thing: {worst}"
    return worst


def measure_peak(options: argparse.Namespace) -> int:
    """Peak memory in bytes of a variant's step, above what its fresh process held before."""
    model = build(options)
    step = steps(model, data(options))[options.measure]
    if model.device.type == "cuda":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        synchronised(step, model)
        return torch.cuda.max_memory_allocated() - before
    before = resident("VmRSS")
    synchronised(step, model)
    return resident("VmHWM") - before


def resident(field: str) -> int:
    """This process's memory in bytes: VmRSS now, VmHWM at its highest (getrusage counts the parent's too)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def peaks(options: argparse.Namespace) -> dict[str, int]:
    """Peak memory of every variant, each from its own process."""
    found = {}
    for name in VARIANTS:
        sizes = (
            "device",
            "context",
            "questions",
            "question",
            "answer",
            "layers",
            "width",
            "vocab",
            "threads",
            "model",
        )
        flags = [word for size in sizes for word in (f"--{size}", str(getattr(options, size)))]
        done = subprocess.run(
            [sys.executable, __file__, *flags, "--measure", name], capture_output=True, text=True, check=True
        )
        found[name] = int(done.stdout.split()[-1])
    return found


def run(options: argparse.Namespace) -> dict[str, Any]:
    """All measurements as one dictionary."""
    about = machine("torch", "transformers") | {"threads": torch.get_num_threads()}
    if options.device.startswith("cuda"):
        about["gpu"] = torch.cuda.get_device_name()
    names = options.variants.split(",")
    others = [name for name in names if name != "shared"]
    model = build(options)
    bundle = data(options)
    # Through 30 layers rounding adds up: gradients of real weights differ by a few parts in 10,000.
    worst = agreement(model, bundle, names, 1e-3 if options.model else 1e-5)  # also the warm-up
    if options.dtype == "bf16":
        model = model.bfloat16()
    variants = {name: step for name, step in steps(model, bundle).items() if name in names}
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(options.repeats):
        for name, step in variants.items():
            seconds[name].append(synchronised(step, model)[0])
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    least = {name: min(times) for name, times in seconds.items()}  # the least disturbed by other load
    about["load_after"] = round(os.getloadavg()[0], 2)
    memory = {} if options.no_memory else peaks(options)
    return {
        "benchmark": "shared_prefix_sft",
        "machine": about,
        "sizes": {key: value for key, value in vars(options).items() if key not in ("json", "measure")},
        "relative_difference": worst,
        "seconds": seconds,
        "median_seconds": medians,
        "least_seconds": least,
        "peak_bytes": memory,
        "faster_than": {name: medians[name] / medians["shared"] for name in others},
        "faster_than_by_least": {name: least[name] / least["shared"] for name in others},
        "memory_of": {name: memory["shared"] / memory[name] for name in others if memory},
    }


def show(found: dict[str, Any], console: Console) -> None:
    """The result as a table."""
    sizes = found["sizes"]
    title = (
        f"one context of {sizes['context']:,} tokens, {sizes['questions']} questions of "
        f"{sizes['question']} + {sizes['answer']} tokens, {sizes['dtype']}, {sizes['device']}"
    )
    table = Table(title=title)
    for column in ("", "seconds a step", "time", "peak MB", "memory"):
        table.add_column(column, justify="left" if not column else "right")
    for name, label in VARIANTS.items():
        if name not in found["median_seconds"]:
            continue
        spent, held = found["median_seconds"][name], found["peak_bytes"].get(name)
        table.add_row(
            label,
            f"{spent:.3f}",
            f"{spent / found['median_seconds']['shared']:.2f}x",
            f"{held / 1e6:,.0f}" if held else "",
            f"{held / found['peak_bytes']['shared']:.2f}x" if held else "",
        )
    console.print(table)
    least = found["faster_than_by_least"]
    console.print("by each variant's fastest step: " + " and ".join(f"{one:.2f}x" for one in least.values()))
    worst = found["relative_difference"]
    console.print(
        f"same loss to {worst['loss']:.1e}, same gradients to {worst['gradients']:.1e} (relative, fp32)"
    )


def main(argv: list[str] | None = None) -> dict[str, Any] | None:
    """Parse flags, measure, print, and write JSON where asked."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=["fp32", "bf16"], default="fp32", help="of the timed steps")
    for name, size in (
        ("context", 4096),
        ("questions", 8),
        ("question", 32),
        ("answer", 32),
        ("layers", 4),
        ("width", 256),
        ("vocab", 8192),
        ("repeats", 5),
        ("threads", os.cpu_count() or 1),
    ):
        parser.add_argument(f"--{name}", type=int, default=size)
    parser.add_argument("--model", default="", help="real weights in place of the random ones")
    parser.add_argument(
        "--variants", default=",".join(VARIANTS), help="which are measured, shared among them"
    )
    parser.add_argument("--no-memory", action="store_true")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--measure", choices=list(VARIANTS), help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    torch.set_num_threads(options.threads)
    if options.measure:
        print(measure_peak(options))
        return None
    found = run(options)
    show(found, Console())
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(found, indent=1, default=str) + "\n", encoding="utf-8")
    return found


if __name__ == "__main__":
    main()
