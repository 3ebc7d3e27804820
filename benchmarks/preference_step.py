"""A step of a preference loss: lcx against separate rows of the same model, against TRL, and against the floor.

    python benchmarks/preference_step.py --json benchmarks/results/preference_step-cpu2.json \
        --sweep 1024,2048,4096,8192,16384 --plot benchmarks/results/preference_step-cpu2.png
    python benchmarks/preference_step.py --device cuda --minutes 60 --json preference_step-cuda.json

On a CPU: one prompt, a chosen and one or two rejected answers, all weights of a small Llama trained in fp32.
LOGO's rows are what a competent user would run: no padding, SDPA's causal kernels, logits of the answers only;
and, as published, the logits of all tokens. DPO's reference is a frozen model, asked in every step on both
sides; and, on both sides, computed beforehand. Losses and gradients are asserted equal before anything is
timed; repeats are interleaved, so that other load on the machine falls on all alike.

Peak memory is measured in a process for each way: the highest resident set over two steps at its size, less
what the process held after the same step at toy size (imports, thread pools). Weights, gradients and reference
models count. The C library's allocator has its default settings.

On a GPU (or with `--shape`): LoRA and QLoRA of models of named shapes, see `preference_lora.py`.
"""

from __future__ import annotations

import argparse
import gc
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, NamedTuple

import preference_lora
import torch
from machine import machine
from preference_ways import KINDS, Sizes, Way, quiet
from rich.console import Console
from rich.table import Table

from lcx.storage import atomic_path

CURVES = (
    ("logo", "full", "LOGO, rows with all logits", "#0072B2", "o", "-"),
    ("logo", "rows", "LOGO, rows with the answers' logits", "#56B4E9", "s", "-"),
    ("logo", "micro", "LOGO, rows one at a time", "#999999", "v", ":"),
    ("dpo", "trl-dpo", "DPO + CE, TRL's DPOTrainer", "#D55E00", "^", "--"),
    ("simpo", "trl-simpo", "SimPO, TRL's CPOTrainer", "#009E73", "D", "-."),
    ("logo", "floor", "the floor: causal LM on the same tokens", "#222222", "x", ":"),
)
"""lcx's way, the other, label, colour, mark, stroke. Okabe and Ito's palette."""


def plot(path: Path, lengths: Mapping[str, Any], title: str) -> Path:
    """Draw how many times faster lcx is, and the share of the other's memory that it takes, by prompt length."""
    # The object interface needs no pyplot: no display, no global state, nothing left open.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10.4, 4.4), dpi=150, facecolor="white")
    FigureCanvasAgg(figure)
    panels = (
        ("median_seconds", "Time: the other's / lcx's", lambda mine, other: other / mine),
        ("peak_bytes", "Peak memory: lcx's / the other's", lambda mine, other: mine / other),
    )
    for number, (key, name, ratio) in enumerate(panels):
        axes = figure.add_subplot(1, 2, number + 1)
        for mine, other, label, colour, mark, stroke in CURVES:
            points = [
                (int(length), ratio(found[key][mine], found[key][other]))
                for length, found in lengths.items()
                if mine in found[key] and other in found[key]
            ]
            if points:
                points.sort()
                axes.plot(
                    *zip(*points, strict=True), stroke, color=colour, marker=mark, markersize=5, label=label
                )
        axes.axhline(1, color="#222222", linewidth=0.6)
        axes.set_xscale("log", base=2)
        ticks = sorted(int(length) for length in lengths)
        axes.set_xticks(ticks, [f"{tick / 1024:g}K" for tick in ticks])
        axes.set_ylim(bottom=0)
        axes.set_title(name, fontsize=11)
        axes.set_xlabel("prompt tokens")
        axes.grid(color="#D9D9D9", linewidth=0.6)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower center", ncols=3, frameon=False, fontsize=8.5)
    figure.suptitle(title, fontsize=10, color="#444444")
    figure.tight_layout(rect=(0, 0.1, 1, 1), w_pad=2.5)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        # The creation date and library version would make equal curves give different files.
        figure.savefig(temporary, format="png", metadata={"Software": None})
    return path


SWEPT = "logo,rows,full,floor,dpo,trl-dpo,simpo,trl-simpo"
TOY = Sizes(prompt=64, answer=8, layers=1, width=32, vocab=64)


class Target(NamedTuple):
    """What lcx's way must reach against another: times faster, and share of its peak memory."""

    ours: str
    other: str
    faster: float
    memory: float | None = None


TARGETS = (
    Target("logo", "rows", 2.5, 0.62),
    Target("logo", "full", 3.5, 0.5),
    Target("dpo", "trl-dpo", 3.0, 0.5),
    Target("simpo", "trl-simpo", 2.5),
    Target("logo", "floor", 1 / 1.06),
)


BOUNDS = {"logo": 1e-5, "simpo": 1e-5, "dpo": 2e-4}
"""Most that loss and gradients may differ. DPO subtracts sums of log-probabilities, of 128 answer tokens about
-1,200, which fp32 tells apart to 1e-4; over answers of 8 tokens it meets 1e-5 too (the tests see to that)."""


def timed(way: Way) -> tuple[float, float]:
    """Seconds of one step from cleared gradients, and its loss."""
    way.model.zero_grad()
    began = time.perf_counter()
    loss = way.step()
    return time.perf_counter() - began, loss


def agreement(ways: dict[str, Way]) -> dict[str, dict[str, float]]:
    """Relative differences of loss, gradient norm and any gradient from lcx's; asserted small. Warms up too."""
    found: dict[str, dict[str, float]] = {}
    for kind in dict.fromkeys(KINDS[name].same_as for name in ways):
        names = [name for name in ways if KINDS[name].same_as == kind]
        own: tuple[float, dict[str, torch.Tensor]] | None = None
        for name in names:
            _, loss = timed(ways[name])
            held = {key: p.grad for key, p in ways[name].model.named_parameters() if p.grad is not None}
            ways[name].model.zero_grad()
            if not kind:
                continue
            if own is None:
                own = loss, held
                continue
            assert held.keys() == own[1].keys(), f"{name} has gradients of other weights"
            norms = [
                float(torch.stack([g.norm() for g in grads.values()]).norm()) for grads in (held, own[1])
            ]
            found[name] = {
                "loss": abs(loss - own[0]) / abs(own[0]),
                "norm": abs(norms[0] - norms[1]) / norms[1],
                "gradients": max(float((held[key] - g).norm() / g.norm()) for key, g in own[1].items()),
            }
            assert max(found[name].values()) < BOUNDS[kind], (
                f"{name} does not compute the same: {found[name]}"
            )
    return found


def resident(field: str) -> int:
    """This process's memory in bytes: VmRSS now, VmHWM at its highest (getrusage counts the parent's too)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def measure_peak(name: str, sizes: Sizes) -> int:
    """Peak memory in bytes of a way, above what its process held after the same at toy size."""
    make = KINDS[name].make
    timed(make(TOY))
    gc.collect()
    before = resident("VmRSS")
    way = make(sizes)
    for _ in range(2):
        timed(way)
    return resident("VmHWM") - before


def peaks(names: list[str], sizes: Sizes, threads: int) -> dict[str, int]:
    """Peak memory of every way, each from its own process."""
    flags = [word for key, value in asdict(sizes).items() for word in (f"--{key}", str(value))]
    found = {}
    for name in names:
        command = [sys.executable, __file__, *flags, "--threads", str(threads), "--measure", name]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"measuring {name} failed: {done.stderr[-2000:]}")
        found[name] = int(done.stdout.split()[-1])
    return found


def measure(sizes: Sizes, names: list[str], repeats: int, options: argparse.Namespace) -> dict[str, Any]:
    """All numbers at one prompt length."""
    ways = {name: KINDS[name].make(sizes) for name in names}
    differences = agreement(ways)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(repeats):
        for name, way in ways.items():
            seconds[name].append(timed(way)[0])
            way.model.zero_grad()
    ways.clear()
    gc.collect()
    return {
        "relative_difference": differences,
        "seconds": seconds,
        "median_seconds": {name: statistics.median(times) for name, times in seconds.items()},
        "least_seconds": {name: min(times) for name, times in seconds.items()},
        "peak_bytes": peaks(
            [name for name in chosen(options.peaks) if name in names], sizes, options.threads
        ),
    }


def chosen(names: str) -> list[str]:
    """Ways by name, in the order in which they are shown."""
    return [name for name in KINDS if names == "all" or name in names.split(",")]


def judged(found: dict[str, Any]) -> list[dict[str, Any]]:
    """The targets against what was measured."""
    rows = []
    time_of, memory_of = found["median_seconds"], found["peak_bytes"]
    for target in TARGETS:
        if not {target.ours, target.other} <= time_of.keys():
            continue
        faster = time_of[target.other] / time_of[target.ours]
        share = share_of(memory_of, target.ours, target.other)
        met = faster >= target.faster
        if target.memory is not None:
            met = met and share is not None and share <= target.memory
        rows.append({**target._asdict(), "measured_faster": faster, "measured_memory": share, "met": met})
    return rows


def share_of(held: dict[str, int], ours: str, other: str) -> float | None:
    """Our peak memory as a share of the other's, where both were measured."""
    return held[ours] / held[other] if ours in held and other in held else None


def run(options: argparse.Namespace, console: Console) -> dict[str, Any]:
    """All measurements as one dictionary."""
    about = machine("torch", "transformers", "trl", "accelerate") | {"threads": options.threads}
    sizes = Sizes(**{field.name: getattr(options, field.name) for field in fields(Sizes)})
    found = measure(sizes, chosen(options.ways), options.repeats, options)
    result: dict[str, Any] = {
        "benchmark": "preference_step",
        "machine": about,
        "sizes": {**asdict(sizes), "dtype": "fp32", "repeats": options.repeats},
        **found,
        "targets": judged(found),
        "lengths": {str(sizes.prompt): found},
    }
    show(result, console)
    preference_lora.write(result, options.json)
    for length in [int(one) for one in options.sweep.split(",") if one]:
        if length != sizes.prompt:
            at = Sizes(**{**asdict(sizes), "prompt": length})
            result["lengths"][str(length)] = measure(
                at, chosen(options.sweep_ways), options.sweep_repeats, options
            )
            preference_lora.write(result, options.json)
            console.print(f"{length:,} tokens: done")
    about["load_after"] = round(os.getloadavg()[0], 2)
    preference_lora.write(result, options.json)
    if options.plot:
        title = (
            f"{sizes.layers}-layer Llama of width {sizes.width}, answers of {sizes.answer} tokens, fp32, CPU"
        )
        plot(options.plot, result["lengths"], title)
    return result


def show(found: dict[str, Any], console: Console) -> None:
    """The result as a table: each group of ways against lcx's."""
    sizes = found["sizes"]
    table = Table(
        title=f"prompt of {sizes['prompt']:,} tokens, answers of {sizes['answer']}, {sizes['dtype']}"
    )
    for column in ("", "seconds a step", "lcx faster", "peak MB", "lcx's memory"):
        table.add_column(column, justify="left" if not column else "right")
    spent, held, ours = found["median_seconds"], found["peak_bytes"], ""
    for name in spent:
        label = KINDS[name].label
        ours = ours if label.startswith(" ") else name
        share = share_of(held, ours, name)
        table.add_row(
            label,
            f"{spent[name]:.3f}",
            f"{spent[name] / spent[ours]:.2f}x" if name != ours else "",
            f"{held[name] / 1e6:,.0f}" if name in held else "",
            f"{share:.2f}x" if share and name != ours else "",
        )
    console.print(table)
    worst = {
        key: max(row[key] for row in found["relative_difference"].values())
        for key in ("loss", "norm", "gradients")
    }
    console.print("relative differences at most: " + ", ".join(f"{k} {v:.1e}" for k, v in worst.items()))
    for row in found["targets"]:
        memory, share = "", row["measured_memory"]
        if row["memory"] is not None:
            memory = f", {share:.2f}x" if share else ", not measured"
            memory += f" of the memory (at most {row['memory']})"
        console.print(
            f"{'met' if row['met'] else 'MISSED'}: {row['ours']} against {row['other']}: "
            f"{row['measured_faster']:.2f}x (at least {row['faster']:.2f}){memory}"
        )


def parser() -> argparse.ArgumentParser:
    """The flags: of both halves, of the CPU's, of the GPU's."""
    made = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    made.add_argument("--device", default="cpu")
    made.add_argument("--json", type=Path)
    made.add_argument("--answer", type=int, help="tokens of an answer; 128, with --shape 512")
    made.add_argument("--repeats", type=int, default=5)
    rows = made.add_argument_group("all weights of a small model on the CPU")
    for field in fields(Sizes):
        if field.name != "answer":
            rows.add_argument(f"--{field.name}", type=int, default=field.default)
    rows.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    rows.add_argument("--ways", default="all", help=", ".join(KINDS))
    rows.add_argument("--peaks", default="all", help="ways whose memory is measured")
    rows.add_argument("--sweep", default="", help="further prompt lengths for the plot")
    rows.add_argument("--sweep-ways", default=SWEPT)
    rows.add_argument("--sweep-repeats", type=int, default=3)
    rows.add_argument("--plot", type=Path)
    rows.add_argument("--measure", choices=list(KINDS), help=argparse.SUPPRESS)
    lora = made.add_argument_group("LoRA of named shapes, on a GPU")
    lora.add_argument("--shape", help="names or shapes by hand as `lcx forecast` takes them, split by ;")
    lora.add_argument("--precision", default="4bit,bf16")
    lora.add_argument("--trainers", default="lcx,trl,lcx-logo")
    lora.add_argument("--lengths", default="8192,16384,32768,65536", help="tokens, each counted once")
    lora.add_argument("--limit", type=int, default=1 << 20, help="longest context to try")
    lora.add_argument("--minutes", type=float, default=120, help="for everything, shared out evenly")
    lora.add_argument(
        "--grace",
        type=float,
        default=60.0,
        help="seconds that a trainer may overrun its share by, for a step that took longer than foreseen",
    )
    lora.add_argument("--attn", default="sdpa", help="lcx's kernels: sdpa, flash or auto")
    lora.add_argument("--card-gb", type=float, help="use no more than so many GB of the card")
    lora.add_argument("--peak-tflops", type=float, help="the card's peak for MFU, where it is not known")
    lora.add_argument("--refuse-above", type=int, help=argparse.SUPPRESS)
    return made


def main(argv: list[str] | None = None) -> dict[str, Any] | None:
    """Parse flags, measure, print, and write JSON where asked."""
    options = parser().parse_args(argv)
    quiet()
    console = Console()
    if options.device != "cpu" or options.shape:
        options.shape = options.shape or "llama3-8b;qwen3-8b;mistral-7b"
        options.answer = options.answer or 512
        found = preference_lora.run(options, console)
        preference_lora.show(found, console)
        return found
    options.answer = options.answer or Sizes.answer
    torch.set_num_threads(options.threads)
    if options.measure:
        sizes = Sizes(**{field.name: getattr(options, field.name) for field in fields(Sizes)})
        print(measure_peak(options.measure, sizes))
        return None
    return run(options, console)


if __name__ == "__main__":
    main()
