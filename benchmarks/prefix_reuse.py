"""Many questions on one context: lcx against `generate`, against copied caches, and against lm-eval's HF backend.

    python benchmarks/prefix_reuse.py --json benchmarks/results/prefix_reuse-cpu2.json \
        --plot benchmarks/results/prefix_reuse-cpu2.png
    python benchmarks/prefix_reuse.py --model smollm2 --context 2048 --queries 100 --new 32 --copy-batch 10 \
        --baseline-queries 3 --agree 1 --rounds 3 --lm-eval-queries 0 --no-memory --counts 100 --threads 1 \
        --json benchmarks/results/prefix_reuse-smollm2-cpu2.json
    python benchmarks/prefix_reuse.py --device cuda --shape llama3-8b --context 32768 --baseline-queries 20 \
        --json prefix_reuse-cuda.json --plot prefix_reuse-cuda.png

The floor is plain forwards of the same tokens: the context once, then all questions and answers as one batch, and
their attention to the context as one call a layer.

All ways answer the same prompts with the same model object, greedily; that their answers are equal is asserted
before anything is timed, and again of all that is timed. In half precision an answer may turn where two tokens
are equally likely up to rounding: those are counted as ties, by the logits of the full computation.

Rounds are interleaved: in each, lcx answers all queries, `generate` a share of them (all of them over all rounds,
unless --baseline-queries says fewer), lm-eval and the copies a few. What is scaled from a part is said in the
output. Peak memory on a CPU is that of a process for each way: the highest resident set less what the process
held after the same at toy size. On a GPU it is what the allocator held at most, weights included.
"""

from __future__ import annotations

import argparse
import gc
import os
import statistics
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import prefix_ways as ways
import torch
from machine import machine
from prefix_ways import LmEval, Material, Sizes, timed
from rich.console import Console
from rich.table import Table

from lcx.evaluation.local_model import TIES, verdict
from lcx.modeling.decode import trace
from lcx.storage import atomic_path, write_json

TOY = Sizes(context=64, queries=4, question=4, new=2, layers=1, width=32, heads=2, intermediate=32, vocab=64)

PEAKS = {"lcx": 0, "lcx, one query": 1, "generate, one query": 1, "copies, one batch": 0}


def run_peak(name: str, sizes: Sizes, device: torch.device) -> Material:
    """What a way does while its memory is measured."""
    material = Material(sizes, device)
    if name.startswith("lcx"):
        ways.lcx(material, range(1 if "one" in name else sizes.queries))
    elif name.startswith("generate"):
        ways.generate(material, [0])
    else:
        few = range(min(sizes.copy_batch, sizes.queries))
        ways.from_copies(material, ways.prefilled(material), few)
    return material


def measure_peak(name: str, sizes: Sizes, device: torch.device) -> int:
    """Peak bytes of a way; on a CPU above what its process held after the same at toy size."""
    run_peak(name, TOY, device)
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        run_peak(name, sizes, device)
        return int(torch.cuda.max_memory_allocated(device))
    before = resident("VmRSS")
    run_peak(name, sizes, device)
    return resident("VmHWM") - before


def resident(field: str) -> int:
    """This process's memory in bytes: VmRSS now, VmHWM at its highest."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def peaks(sizes: Sizes, device: str, threads: int) -> dict[str, int]:
    """Peak memory of every way, each from a process of its own."""
    flags = [word for key, value in asdict(sizes).items() for word in (flag(key), str(value))]
    program = Path(__file__).with_name("prefix_reuse.py")
    found = {}
    for name in PEAKS:
        command = [sys.executable, str(program), *flags, "--threads", str(threads)]
        command += ["--device", device, "--measure", name]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"measuring {name} failed: {done.stderr[-2000:]}")
        found[name] = int(done.stdout.split()[-1])
    return found


CURVES = (
    ("lm_eval", "lm-eval's HF backend", "#D55E00", "^", "--"),
    ("generate", "generate on each whole prompt", "#0072B2", "o", "-"),
    ("copies", "generate from copies of the context's cache", "#009E73", "s", "-."),
    ("lcx", "lcx: one copy of the context's KV", "#222222", "D", "-"),
)
"""Way, label, colour, mark, stroke. Okabe and Ito's palette."""


def plot(path: Path, curve: Sequence[Mapping[str, Any]], title: str) -> Path:
    """Draw the seconds of every way over the number of questions, both axes logarithmic."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 4.6), dpi=150, facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for way, label, colour, mark, stroke in CURVES:
        points = [(row["queries"], row["seconds"][way]) for row in curve if way in row["seconds"]]
        if points:
            axes.plot(
                *zip(*points, strict=True), stroke, color=colour, marker=mark, markersize=5, label=label
            )
    axes.set_xscale("log")
    axes.set_yscale("log")
    counts = [row["queries"] for row in curve]
    axes.set_xticks(counts, [str(count) for count in counts])
    axes.minorticks_off()
    axes.set_xlabel("questions on one context")
    axes.set_ylabel("seconds")
    axes.set_title(title, fontsize=10, color="#444444")
    axes.grid(color="#D9D9D9", linewidth=0.6)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.legend(frameon=False, fontsize=8.5)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        # The creation date and library version would make equal curves give different files.
        figure.savefig(temporary, format="png", metadata={"Software": None})
    return path


TARGETS = {"generate": 35.0, "lm_eval": 20.0}
"""Times that lcx must be faster."""
REAL_TARGETS = {"generate": 15.0}
"""The same for 100 questions on 2K tokens, read by a model of 135M parameters."""
FLOOR = 1.35
"""Most that lcx may take of the floor's time, with real weights."""
MEMORY = 1.5
"""Most that lcx's peak for all queries may be, as a share of that of one query by `generate`."""
LABELS = {
    "lcx": "lcx",
    "generate": "generate on each whole prompt",
    "copies": "generate from copies of the cache",
    "lm_eval": "lm-eval's HF backend",
}


class Agreement:
    """Counts how other ways' answers compare to lcx's. Raises AssertionError where one is really different."""

    def __init__(self, material: Material, answers: Sequence[Sequence[int]]) -> None:
        self.material, self.answers = material, answers
        self.counts: dict[str, Counter[str]] = {}
        self._traced: dict[int, Any] = {}

    def add(self, way: str, numbers: Sequence[int], made: Sequence[Any]) -> None:
        """Answers of a way: token ids, or texts."""
        for number, other in zip(numbers, made, strict=True):
            ours = self.answers[number]
            same = self.material.text(ours) == other.strip() if isinstance(other, str) else other == ours
            outcome = "equal" if same else self._near(number)
            self.counts.setdefault(way, Counter())[outcome] += 1
            assert outcome != "different", f"{way} answers query {number} otherwise: {other}, not {ours}"

    def _near(self, number: int) -> str:
        material = self.material
        if number not in self._traced:
            [row] = material.rows([number])
            self._traced[number] = trace(
                material.model, row, max_new_tokens=material.sizes.new, eos_ids=material.ends
            )
        tolerance = TIES[str(material.model.dtype)]
        return verdict(
            self.answers[number], self._traced[number], material.ends, material.sizes.new, tolerance
        )


def measure(sizes: Sizes, options: argparse.Namespace, console: Console) -> dict[str, Any]:
    """Times of all ways, and how their answers compare."""
    material = Material(sizes, torch.device(options.device))
    everything = range(sizes.queries)
    lm_eval: Any = LmEval(material) if options.lm_eval_queries else None
    ways.lcx(material, range(min(2, sizes.queries)))  # warms up
    agreement = Agreement(material, ways.lcx(material, everything))
    answered = {token for answer in agreement.answers for token in answer}
    assert len(answered) > min(sizes.queries, 20), "a model that says one thing proves nothing"
    some = list(everything[: options.agree])
    agreement.add("generate", some, ways.generate(material, some))
    agreement.add("copies", some, ways.from_copies(material, ways.prefilled(material), some))
    if lm_eval:
        agreement.add("lm_eval", some, lm_eval(some))
    console.print(f"answers to {len(some)} queries are the same in all ways")

    asked = spread(sizes.queries, options.baseline_queries or sizes.queries)
    shares = [asked[turn :: options.rounds] for turn in range(options.rounds)]
    lcx, single, prefills, copied, harness, floors = [], {}, [], [], [], []
    for turn, share in enumerate(shares):
        spent, made = timed(material, lambda: ways.lcx(material, everything))
        assert made == list(agreement.answers), "lcx answers otherwise the second time"
        lcx.append(spent)
        floors.append(timed(material, lambda: ways.floor(material, agreement.answers))[0])
        for number in share:
            spent, made = timed(material, lambda number=number: ways.generate(material, [number]))
            agreement.add("generate", [number], made)
            single[number] = spent
        few = [(turn * sizes.copy_batch + k) % sizes.queries for k in range(sizes.copy_batch)]
        spent, cache = timed(material, lambda: ways.prefilled(material))
        prefills.append(spent)
        spent, made = timed(material, lambda few=few, cache=cache: ways.from_copies(material, cache, few))
        agreement.add("copies", few, made)
        copied.append(spent / len(few))
        del cache
        for number in few[: options.lm_eval_queries if lm_eval else 0]:
            spent, made = timed(material, lambda number=number: lm_eval([number]))
            agreement.add("lm_eval", [number], made)
            harness.append(spent)
        console.print(f"round {turn + 1} of {len(shares)}: lcx {lcx[-1]:.2f} s for {sizes.queries} queries")

    each = {"generate": statistics.median(single.values())}
    if harness:
        each["lm_eval"] = statistics.median(harness)
    whole = len(single) == sizes.queries
    seconds = {
        "lcx": statistics.median(lcx),
        "generate": sum(single.values()) if whole else each["generate"] * sizes.queries,
        "copies": statistics.median(prefills) + statistics.median(copied) * sizes.queries,
    }
    if harness:
        seconds["lm_eval"] = each["lm_eval"] * sizes.queries
    curve = []
    for count in sorted({min(int(one), sizes.queries) for one in options.counts.split(",")}):
        spent = [timed(material, lambda n=count: ways.lcx(material, range(n)))[0] for _ in range(3)]
        curve.append(
            {
                "queries": count,
                "seconds": {
                    "lcx": statistics.median(spent),
                    **{way: each[way] * count for way in each},
                    "copies": statistics.median(prefills) + statistics.median(copied) * count,
                },
            }
        )
    return {
        "seconds": seconds,
        "lcx_rounds": lcx,
        "floor_rounds": floors,
        "over_floor": statistics.median(one / other for one, other in zip(lcx, floors, strict=True)),
        "each": each,
        "copies": {"prefill": prefills, "each": copied, "batch": sizes.copy_batch},
        "generate_each": list(single.values()),
        "lm_eval_each": harness,
        "measured": {"lcx": sizes.queries, "generate": len(single), "lm_eval": len(harness)},
        "scaled": [
            way
            for way in ("generate", "copies", "lm_eval")
            if way in seconds and (way != "generate" or not whole)
        ],
        "agreement": {way: dict(counts) for way, counts in agreement.counts.items()},
        "curve": curve,
    }


def spread(total: int, count: int) -> list[int]:
    """`count` of `total` numbers at even distances."""
    count = min(count, total)
    return [place * total // count for place in range(count)]


def judged(found: dict[str, Any]) -> list[dict[str, Any]]:
    """The targets against what was measured."""
    seconds, held = found["seconds"], found["peak_bytes"]
    targets = REAL_TARGETS if found["sizes"]["weights"] else TARGETS
    rows = [
        {
            "what": f"faster than {LABELS[way]}",
            "target": least,
            "measured": seconds[way] / seconds["lcx"],
            "met": seconds[way] / seconds["lcx"] >= least,
        }
        for way, least in targets.items()
        if way in seconds
    ]
    if found["sizes"]["weights"]:
        over = found["over_floor"]
        rows.append({"what": "the floor's time", "target": FLOOR, "measured": over, "met": over <= FLOOR})
    if held:
        share = held["lcx"] / held["generate, one query"]
        rows.append(
            {"what": "memory of one query", "target": MEMORY, "measured": share, "met": share <= MEMORY}
        )
    return rows


def show(found: dict[str, Any], console: Console) -> None:
    """The result as tables."""
    sizes = found["sizes"]
    table = Table(
        title=f"{sizes['queries']} queries of {sizes['question']} tokens on one context of {sizes['context']:,}, "
        f"{sizes['new']} new tokens, {found['model']}"
    )
    for column in ("", "seconds", "lcx faster", "same answers"):
        table.add_column(column, justify="left" if not column else "right")
    for way, label in LABELS.items():
        if way not in found["seconds"]:
            continue
        spent, counts = found["seconds"][way], found["agreement"].get(way, {})
        scaled = f" ({sum(counts.values())} timed)" if way in found["scaled"] else ""
        same = f"{counts.get('equal', 0)}" + (f" + {counts['ties']} ties" if counts.get("ties") else "")
        faster = "" if way == "lcx" else f"{spent / found['seconds']['lcx']:.1f}x"
        table.add_row(label, f"{spent:,.2f}{scaled}", faster, same if counts else "")
    console.print(table)
    if found["scaled"]:
        names = ", ".join(LABELS[way] for way in found["scaled"])
        console.print(f"scaled from the queries that were timed: {names}")
    console.print(
        f"over the floor of {statistics.median(found['floor_rounds']):,.2f} s (plain forwards of the same tokens, "
        f"attention to the context in one call a layer): {found['over_floor']:.2f}x"
    )
    for row in found["curve"]:
        spent = ", ".join(
            f"{LABELS[way]} {row['seconds'][way]:,.2f}" for way in LABELS if way in row["seconds"]
        )
        console.print(f"{row['queries']} queries, seconds: {spent}")
    for name, held in found["peak_bytes"].items():
        console.print(f"peak memory, {name}: {held / 1e6:,.0f} MB")
    for row in found["targets"]:
        sign = "at least" if row["what"].startswith("faster") else "at most"
        console.print(
            f"{'met' if row['met'] else 'MISSED'}: {row['measured']:.2f}x: {row['what']} ({sign} {row['target']:g}x)"
        )


def flag(name: str) -> str:
    """The flag of a size."""
    return "--model" if name == "weights" else f"--{name.replace('_', '-')}"


def parser() -> argparse.ArgumentParser:
    """The flags."""
    made = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    made.add_argument("--device", default="cpu")
    made.add_argument("--json", type=Path)
    made.add_argument("--plot", type=Path)
    for field in fields(Sizes):
        kind = str if field.name in ("shape", "weights") else int
        made.add_argument(flag(field.name), dest=field.name, type=kind, default=field.default)
    made.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    made.add_argument("--rounds", type=int, default=5)
    made.add_argument(
        "--agree", type=int, default=3, help="queries that all ways answer before the clock runs"
    )
    made.add_argument("--baseline-queries", type=int, default=0, help="queries of `generate`; 0: all of them")
    made.add_argument(
        "--lm-eval-queries", type=int, default=5, help="queries of lm-eval in each round; 0: without it"
    )
    made.add_argument("--counts", default="1,5,20,50,200", help="numbers of queries of the curve")
    made.add_argument("--no-memory", action="store_true")
    made.add_argument("--measure", choices=list(PEAKS), help=argparse.SUPPRESS)
    return made


def main(argv: list[str] | None = None) -> dict[str, Any] | None:
    """Parse flags, measure, print, and write JSON and picture where asked."""
    options = parser().parse_args(argv)
    ways.quiet()
    torch.set_num_threads(options.threads)
    sizes = Sizes(**{field.name: getattr(options, field.name) for field in fields(Sizes)})
    device = torch.device(options.device)
    if options.measure:
        print(measure_peak(options.measure, sizes, device))
        return None
    if sizes.weights and options.lm_eval_queries:
        raise SystemExit("lm-eval cuts a real model's text into other tokens: --lm-eval-queries 0")
    console = Console()
    about = machine("torch", "transformers", "lm_eval") | {"threads": options.threads}
    if device.type == "cuda":
        about["gpu"] = torch.cuda.get_device_name(device)
    kind = f"{sizes.layers}-layer Llama of width {sizes.width}, fp32"
    if sizes.weights or sizes.shape:
        kind = f"{sizes.weights}, fp32" if sizes.weights else f"{sizes.shape}, bf16"
    # Memory first: on a GPU, the measuring processes need the room.
    held = {} if options.no_memory else peaks(sizes, options.device, options.threads)
    found = {
        "benchmark": "prefix_reuse",
        "machine": about,
        "sizes": asdict(sizes) | {"rounds": options.rounds},
        "model": kind,
        **measure(sizes, options, console),
        "peak_bytes": held,
    }
    found["targets"] = judged(found)
    about["load_after"] = round(os.getloadavg()[0], 2)
    show(found, console)
    if options.json:
        write_json(options.json, found)
    if options.plot:
        plot(options.plot, found["curve"], f"context of {sizes.context:,} tokens, {kind}, {options.device}")
    return found


if __name__ == "__main__":
    main()
