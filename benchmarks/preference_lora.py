"""LoRA and QLoRA steps of lcx and TRL side by side on models of named shapes: speed, memory, longest context.

Every model, precision and trainer has a process of its own (`preference_worker.py`), which measures growing
lengths until one does not fit, and then looks for the longest that does. A process that dies or overruns its
share of the time costs its own rows only.
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from machine import machine
from random_models import peak_flops, shape_of
from rich.console import Console
from rich.table import Table

TRAINERS = {"lcx": "DPO + CE, lcx", "trl": "DPO + CE, TRL", "lcx-logo": "LOGO (M = 2), lcx"}
AGREE = 0.02
"""Relative difference that the losses of lcx and TRL may have in bf16."""
FORMULA = (
    "forward 2n(W + A) + 4Lpq + 2tVh; backward as much again for frozen matrices and head, twice that of adapters "
    "and attention; a reference costs a forward; recomputation is not counted. n tokens and p causal pairs that "
    "the trainer itself computes (a trainer of separate rows computes the prompt for each)"
)


def environment(device: str) -> dict[str, str]:
    """A worker's environment: one visible GPU, nothing fetched, an allocator that does not fragment."""
    cards = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    number = int(device.partition(":")[2] or 0)
    one = cards.split(",")[number] if cards else str(number)
    own = {"PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True", "HF_HUB_OFFLINE": "1"}
    return {**own, **os.environ, **({"CUDA_VISIBLE_DEVICES": one} if device != "cpu" else {})}


def answers(command: list[str], device: str, until: float, grace: float) -> Iterator[dict[str, Any]]:
    """Results of a worker as they come; one with `error` at the end if it dies or overruns `until` by `grace`."""
    env = environment(device)
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env
    ) as worker:
        lines: queue.Queue[str | None] = queue.Queue()

        def read() -> None:
            assert worker.stdout is not None
            for line in worker.stdout:
                lines.put(line)
            lines.put(None)

        threading.Thread(target=read, daemon=True).start()
        said: list[str] = []
        while True:
            try:
                line = lines.get(timeout=max(0.1, until + grace - time.time()))
            except queue.Empty:
                worker.kill()
                yield {"error": "no time left"}
                return
            if line is None:
                break
            if line.startswith("RESULT "):
                yield json.loads(line.removeprefix("RESULT "))
            else:
                said = [*said[-30:], line]
        if worker.wait():
            yield {"error": f"exit {worker.returncode}: {''.join(said)[-1500:]}"}


def run(options: argparse.Namespace, console: Console) -> dict[str, Any]:
    """All measurements as one dictionary; what is known so far is written after every worker."""
    about = machine("torch", "transformers", "trl", "peft", "bitsandbytes")
    on_gpu = options.device != "cpu"
    if on_gpu and not torch.cuda.is_available():
        raise SystemExit(f"{options.device}: this PyTorch ({torch.__version__}) sees no GPU")
    if on_gpu:
        about |= {
            "gpu": torch.cuda.get_device_name(options.device),
            "gpu_bytes": torch.cuda.get_device_properties(options.device).total_memory,
            "cuda": torch.version.cuda,
        }
    peak = 1e12 * options.peak_tflops if options.peak_tflops else peak_flops(about.get("gpu", ""))
    sizes = {key: value for key, value in vars(options).items() if key not in ("json", "plot", "measure")}
    found: dict[str, Any] = {
        "benchmark": "preference_step, LoRA",
        "machine": about,
        "sizes": sizes,
        "peak_flops_per_second": peak,
        "flops": FORMULA,
        "results": [],
        "longest": [],
    }
    jobs = [
        (shape, precision, trainer)
        for shape in options.shape.split(";")
        for precision in options.precision.split(",")
        for trainer in options.trainers.split(",")
    ]
    end = time.time() + 60 * options.minutes
    for number, (shape, precision, trainer) in enumerate(jobs):
        shape_of(shape)  # an unknown name stops here
        share = (end - time.time()) / (len(jobs) - number)
        until = time.time() + share - options.grace / 2
        one = {"shape": shape, "precision": precision, "trainer": trainer}
        console.print(f"{shape}, {precision}, {TRAINERS[trainer]}: {share / 60:.1f} minutes at most")
        job = {
            **one,
            "lengths": [int(length) for length in options.lengths.split(",")],
            "answer": options.answer,
            "repeats": options.repeats,
            "until": until,
            "device": "cuda:0" if on_gpu else "cpu",
            "attn": options.attn,
            "limit": options.limit,
            "card_gb": options.card_gb,
            "refuse_above": options.refuse_above,
        }
        worker = str(Path(__file__).with_name("preference_worker.py"))
        command = [sys.executable, worker, json.dumps(job)]
        for result in answers(command, options.device, until, options.grace):
            _note(found, one, result, peak)
            console.print(f"  {_said(result)}")
        write(found, options.json)
    found["agreement"] = agreement(found["results"])
    write(found, options.json)
    return found


def _note(found: dict[str, Any], one: dict[str, str], result: dict[str, Any], peak: float | None) -> None:
    if "longest" in result:
        found["longest"].append({**one, **result})
        return
    if peak and "flops_per_second" in result:
        result["mfu"] = result["flops_per_second"] / peak
    if "tokens" in result or "error" in result:
        found["results"].append({**one, **result})


def _said(result: dict[str, Any]) -> str:
    if "built_seconds" in result:
        held = f", {result['model_bytes'] / 1e9:.1f} GB" if result["model_bytes"] else ""
        return f"model made in {result['built_seconds']:.0f} s{held}"
    if "longest" in result:
        return f"longest {result['longest']:,} tokens, bounded by {result['bounded_by']}"
    if "error" in result:
        return f"{result.get('tokens', 0):,} tokens: {result['error']}"
    return (
        f"{result['tokens']:,} tokens: {result['median_seconds']:.2f} s, {result['peak_bytes'] / 1e9:.1f} GB"
    )


def agreement(results: list[dict[str, Any]]) -> float | None:
    """Largest relative difference of lcx's and TRL's first losses on the same data; asserted small."""
    losses: dict[tuple[Any, ...], dict[str, float]] = {}
    for row in results:
        if "loss" in row:
            losses.setdefault((row["shape"], row["precision"], row["tokens"]), {})[row["trainer"]] = row[
                "loss"
            ]
    both = [pair for pair in losses.values() if {"lcx", "trl"} <= set(pair)]
    worst = max((abs(pair["lcx"] - pair["trl"]) / abs(pair["trl"]) for pair in both), default=None)
    assert worst is None or worst < AGREE, f"lcx and TRL do not compute the same loss: {losses}"
    return worst


def write(found: dict[str, Any], path: Path | None) -> None:
    """The result as JSON, if asked for."""
    if path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(found, indent=1, default=str) + "\n", encoding="utf-8")


def show(found: dict[str, Any], console: Console) -> None:
    """A table for every shape and precision: a row a trainer, a column a length."""
    longest = {(row["shape"], row["precision"], row["trainer"]): row for row in found["longest"]}
    rows = found["results"]
    lengths = sorted({row["tokens"] for row in rows if "tokens" in row})
    for shape, precision in dict.fromkeys((row["shape"], row["precision"]) for row in rows):
        table = Table(title=f"{shape}, {precision}: tokens/s, peak GB, MFU")
        table.add_column("")
        for length in lengths:
            table.add_column(f"{length:,}", justify="right")
        table.add_column("longest", justify="right")
        for trainer, label in TRAINERS.items():
            mine = {
                row.get("tokens"): row
                for row in rows
                if (row["shape"], row["precision"], row["trainer"]) == (shape, precision, trainer)
            }
            if mine:
                last = longest.get((shape, precision, trainer))
                end = f"{last['longest']:,} ({last['bounded_by']})" if last else "?"
                table.add_row(label, *(_cell(mine.get(length)) for length in lengths), end)
        console.print(table)
    if found.get("agreement") is not None:
        console.print(f"same loss as TRL to {found['agreement']:.1e} (relative, bf16)")


def _cell(row: dict[str, Any] | None) -> str:
    if row is None:
        return ""
    if "error" in row:
        return row["error"][:20]
    mfu = f", {row['mfu']:.0%}" if "mfu" in row else ""
    return f"{row['tokens_per_second']:,.0f}, {row['peak_bytes'] / 1e9:.1f}{mfu}"
