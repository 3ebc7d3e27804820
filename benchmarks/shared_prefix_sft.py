"""One context with many questions: shared-prefix training against separate rows of the same model and loss.

    python benchmarks/shared_prefix_sft.py --json benchmarks/results/shared_prefix_sft-cpu2.json
    python benchmarks/shared_prefix_sft.py --device cuda --context 32768
    python benchmarks/shared_prefix_sft.py --model smollm2 --tuning lora --contexts 4 --context 2048 \
        --variants shared,trl --repeats 0 --no-memory --threads 1 \
        --json benchmarks/results/shared_prefix_sft-smollm2-cpu2.json

Rows are what a competent user would run: no padding, SDPA's causal kernels, logits of the answers only; all
rows as one batch, and one after another with accumulated gradients; and TRL's SFTTrainer as it comes, one row
at a time. Loss and gradients are asserted equal in fp32 before anything is timed. With adapters, the step's
arithmetic is also held against matrix products on the same cores. Repeats are interleaved, so that other load
on the machine falls on all alike; each variant's peak memory is measured in a process of its own, above what it
holds after imports and the model's construction.
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

from lcx.modeling.load import DTYPES, add_lora, load_model
from lcx.modeling.shared_prefix import restore, use_shared_prefix
from lcx.modeling.tiny import build_tokenizer
from lcx.records import EncodedBranch, EncodedBundle
from lcx.training.collate import Item, collate
from lcx.training.losses import sft_loss, token_logprobs

VARIANTS = {
    "shared": "shared prefix",
    "batch": "separate rows, one batch",
    "micro": "separate rows, one at a time",
    "trl": "TRL's SFTTrainer, one row at a time",
}
MEASURED = "shared,batch,micro"
"""Unless `--variants` says otherwise."""


def build(options: argparse.Namespace) -> Any:
    """A random Llama with grouped heads, the same for every call; or real weights in fp32. `lora` adds adapters.

    The adapters' second matrices are no zeros, as those of a fresh one: half of the gradients would be.
    """
    if options.model:
        model = load_model(options.model, dtype="fp32", device=options.device)
        options.vocab = model.config.vocab_size
    else:
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
        model = LlamaForCausalLM(config).to(options.device)
    if options.tuning == "lora":
        torch.manual_seed(1)
        model = add_lora(model, 8, 16)
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(weight, std=0.02)
    return model.train()


def data(options: argparse.Namespace) -> list[EncodedBundle]:
    """Contexts with their questions and answers, as random token ids."""
    random = np.random.default_rng(0)
    found = []
    for number in range(options.contexts):
        prefix = random.integers(3, options.vocab, options.context)
        branches = (
            random.integers(3, options.vocab, options.question + options.answer)
            for _ in range(options.questions)
        )
        each = tuple(EncodedBranch(ids.tolist(), options.question) for ids in branches)
        found.append(EncodedBundle(f"benchmark {number}", prefix, each))
    return found


Step = Callable[[], float]
Way = tuple[Any, Step]
"""A model, and a step that leaves its gradients there and returns its loss."""


def ways(options: argparse.Namespace, names: Sequence[str]) -> dict[str, Way]:
    """Forward and backward of each variant."""
    model = build(options)
    bundles = data(options)
    device = model.device
    packed = [
        {
            key: value.to(device) if torch.is_tensor(value) else value
            for key, value in collate([Item(bundle, 1.0)]).items()
        }
        for bundle in bundles
    ]
    table = [[*bundle.prefix.tolist(), *branch.ids] for bundle in bundles for branch in bundle.branches]
    rows = torch.tensor(table, device=device)
    answer = options.answer

    def shared() -> float:
        use_shared_prefix(model)
        keys = ("input_ids", "position_ids", "segments", "logits_to_keep")
        total = 0.0
        for one in packed:  # a context at a time, as `lcx train` takes them
            out = model(**{key: one[key] for key in keys}, use_cache=False)
            logp = token_logprobs(out.logits[0], one["targets"])
            loss = sft_loss(logp, one["branch"], len(rows))
            loss.backward()
            total += loss.item()
        return total

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

    found: dict[str, Way] = {"shared": (model, shared), "batch": (model, batch), "micro": (model, micro)}
    found = {name: way for name, way in found.items() if name in names}
    if "trl" in names:
        found["trl"] = trl_way(options, table)
    return found


def trl_way(options: argparse.Namespace, table: Sequence[Sequence[int]]) -> Way:
    """TRL's SFTTrainer on a model of its own, a row at a time: the loss of all answers' tokens together."""
    from datasets import Dataset
    from preference_ways import arguments
    from trl import SFTConfig, SFTTrainer

    class Rows(SFTTrainer):
        def _prepare_dataset(self, dataset: Any, *args: Any, **kwargs: Any) -> Any:
            return dataset

    head = options.context + options.question
    rows = [{"input_ids": list(row), "labels": [-100] * head + list(row)[head:]} for row in table]
    about = {**arguments(), "use_cpu": options.device == "cpu"}
    model = build(options)
    trainer = Rows(
        model=model,
        args=SFTConfig(**about, gradient_accumulation_steps=len(rows), max_length=None),
        train_dataset=Dataset.from_list(rows),
        processing_class=build_tokenizer(["word"]),
    )
    trainer.current_gradient_accumulation_steps = len(rows)  # its training loop would say so
    batches = [trainer.data_collator([row]) for row in rows]
    counted = torch.tensor(len(rows) * options.answer)

    def step() -> float:
        told = [trainer.training_step(model, dict(batch), num_items_in_batch=counted) for batch in batches]
        return float(sum(told))

    return model, step


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


def agreement(found: dict[str, Way], most: float) -> tuple[dict[str, float], dict[str, float]]:
    """Largest relative differences of loss and of any gradient from the separate rows'; asserted < `most`.

    Besides, each variant's seconds, of its first step.
    """
    made, seconds = {}, {}
    for name, (model, step) in found.items():
        seconds[name], loss = synchronised(step, model)
        made[name] = loss, [p.grad.clone() for p in model.parameters() if p.grad is not None]
    loss, gradients = made["batch" if "batch" in made else "micro" if "micro" in made else "trl"]
    worst = {"loss": 0.0, "gradients": 0.0}
    for mine, own in made.values():
        worst["loss"] = max(worst["loss"], abs(mine - loss) / abs(loss))
        for one, other in zip(own, gradients, strict=True):
            worst["gradients"] = max(worst["gradients"], float((one - other).norm() / other.norm()))
    assert max(worst.values()) < most, f"the variants do not compute the same thing: {worst}"
    return worst, seconds


def measure_peak(options: argparse.Namespace) -> int:
    """Peak memory in bytes of a variant's step, above what its fresh process held before."""
    model, step = ways(options, [options.measure])[options.measure]
    if model.device.type == "cuda":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        synchronised(step, model)
        return torch.cuda.max_memory_allocated() - before
    before = resident("VmRSS")
    synchronised(step, model)
    return resident("VmHWM") - before


def work(options: argparse.Namespace, model: Any) -> float:
    """Floating-point operations of the arithmetic that a step with adapters on shared prefixes cannot do without.

    Twice the weights a token forward, and as much for the gradient of what comes in; those of frozen weights are
    not made. The output head counts for answers' tokens only. Attention: two products forward, five backward, as
    the kernels recompute the scores; causal halves.
    """
    config = model.config
    tail = options.questions * (options.question + options.answer)
    inner = sum(
        weight.numel()
        for name, weight in model.named_parameters()
        if "lora" not in name and "embed" not in name and "lm_head" not in name
    )
    adapters = sum(weight.numel() for name, weight in model.named_parameters() if "lora" in name)
    head = config.vocab_size * config.hidden_size
    width = config.num_attention_heads * (
        getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    )
    own = options.questions * (options.question + options.answer) ** 2 / 2
    pairs = options.context**2 / 2 + tail * options.context + own
    attention = config.num_hidden_layers * width * 2 * pairs * 7
    each = (4 * inner + 6 * adapters) * (
        options.context + tail
    ) + 4 * head * options.questions * options.answer
    return float(options.contexts * (each + attention))


def matmul_rate(dtype: torch.dtype, device: Any) -> float:
    """Operations a second of square matrix products, the best of five."""
    a = torch.randn(2048, 2048, dtype=dtype, device=device)
    spent = []
    for _ in range(5):
        began = time.perf_counter()
        for _ in range(4):
            out = a @ a
        out[0, 0].item()
        spent.append(time.perf_counter() - began)
    return 4 * 2 * 2048**3 / min(spent)


def resident(field: str) -> int:
    """This process's memory in bytes: VmRSS now, VmHWM at its highest (getrusage counts the parent's too)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def peaks(options: argparse.Namespace) -> dict[str, int]:
    """Peak memory of every variant, each from its own process."""
    found = {}
    for name in options.variants.split(","):
        sizes = (
            "device",
            "tuning",
            "contexts",
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
    found = ways(options, names)
    # Through 30 layers rounding adds up: gradients of real weights differ by a few parts in 10,000.
    worst, first = agreement(found, 1e-3 if options.model else 1e-5)  # also the warm-up
    if options.dtype == "bf16":
        for model, _ in found.values():
            model.bfloat16()
    seconds: dict[str, list[float]] = {name: [] for name in names}
    rates = []
    for _ in range(options.repeats):
        for name, (model, step) in found.items():
            seconds[name].append(synchronised(step, model)[0])
            if options.tuning == "lora" and name == "shared":
                rates.append(matmul_rate(DTYPES[options.dtype], model.device))
    if not options.repeats:
        seconds = {name: [spent] for name, spent in first.items()}
        rates = [matmul_rate(DTYPES["fp32"], options.device) for _ in range(options.tuning == "lora")]
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    least = {name: min(times) for name, times in seconds.items()}  # the least disturbed by other load
    about["load_after"] = round(os.getloadavg()[0], 2)
    memory = {} if options.no_memory else peaks(options)
    efficiency = {}
    if rates:
        reached = work(options, found["shared"][0]) / min(seconds["shared"])
        efficiency = {"step": reached, "matmul": max(rates), "share": reached / max(rates)}
    return {
        "benchmark": "shared_prefix_sft",
        "machine": about,
        "sizes": {key: value for key, value in vars(options).items() if key not in ("json", "measure")},
        "relative_difference": worst,
        "seconds": seconds,
        "efficiency": efficiency,
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
        f"contexts: {sizes['contexts']}, of {sizes['context']:,} tokens, {sizes['questions']} questions of "
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
    if one := found["efficiency"]:
        console.print(
            f"shared prefix: {one['step'] / 1e9:,.0f} GFLOP/s, a matrix product {one['matmul'] / 1e9:,.0f}: "
            f"{one['share']:.2f} of it"
        )
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
        ("contexts", 1),
        ("context", 4096),
        ("questions", 8),
        ("question", 32),
        ("answer", 32),
        ("layers", 4),
        ("width", 256),
        ("vocab", 8192),
        ("repeats", 5),  # 0: the steps that are compared are those that are timed, as they are
        ("threads", os.cpu_count() or 1),
    ):
        parser.add_argument(f"--{name}", type=int, default=size)
    parser.add_argument("--model", default="", help="real weights in place of the random ones")
    parser.add_argument("--tuning", choices=["full", "lora"], default="full")
    parser.add_argument("--variants", default=MEASURED, help="which are measured, shared among them")
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
