"""LLM calls: throughput against the ideal and against a pool of serial workers, CPU a call, prefixes, numbers of calls.

    python benchmarks/judge_pipeline.py --json benchmarks/results/judge_pipeline-cpu2.json

A server process on loopback answers everything after a fixed latency. The ideal is in flight / latency. The published
design is a pool of 100 processes, each of which makes an answer's calls one after the other with the plain SDK; its
start is not counted. The bare SDK (its asynchronous client, no journal, limits or retries) shows what a call costs at
least. All ways make the same calls, in one run. The server with prefixes is simulated: what it has to compute of a
prompt is what its cache of recent blocks lacks. CPU is that of the calling process, all threads.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from judge_calls import count_calls, prefixes
from judge_ways import bare, ours, peak_bytes, pooled, served
from machine import machine
from rich.console import Console
from rich.table import Table

WAYS = {
    "lcx": "lcx",
    "wire": "  the SDK with lcx's transport",
    "sdk": "  the SDK's asynchronous client",
    "pool": "  published: processes, serial calls",
}


def throughput(options: argparse.Namespace) -> dict[str, Any]:
    """Every way's seconds and CPU for the same calls."""
    prompts = [f"Rate this answer. {'word ' * options.words}{i}" for i in range(options.calls)]
    found: dict[str, Any] = {}
    with served(options.latency) as url, tempfile.TemporaryDirectory() as folder:
        warm = options.in_flight
        found["lcx"] = ours(url, prompts, options.in_flight, Path(folder), warm)
        found["wire"] = bare(url, prompts, options.in_flight, warm, wire=True)
        found["sdk"] = bare(url, prompts, options.in_flight, warm, wire=False)
        found["pool"] = pooled(url, prompts, options.workers)
    ideal = options.in_flight / options.latency
    for row in found.values():
        row["calls_per_second"] = options.calls / row["seconds"]
        row["cpu_ms_per_call"] = 1000 * row["cpu"] / options.calls
    return {"ideal_per_second": ideal, "ways": found}


def targets(found: dict[str, Any]) -> list[dict[str, Any]]:
    """What is demanded against what was measured."""
    ways = found["throughput"]["ways"]
    own = ways["lcx"]["cpu_ms_per_call"] - ways["wire"]["cpu_ms_per_call"]
    share = ways["lcx"]["calls_per_second"] / found["throughput"]["ideal_per_second"]
    faster = ways["pool"]["seconds"] / ways["lcx"]["seconds"]
    saved = {name: found["prefixes"][name]["saved"] for name in ("documents", "judge")}
    rows = [
        ("share of the ideal throughput", share, ">=", 0.9),
        ("times faster than the published design", faster, ">=", 2.0),
        ("CPU a call, ms", ways["lcx"]["cpu_ms_per_call"], "<=", 1.5),
        ("  of which beyond the SDK and its transport, ms", own, "<=", 1.5),
        ("prefilled tokens saved, samples over documents", saved["documents"], ">=", 0.4),
        ("prefilled tokens saved, the judge's calls", saved["judge"], ">=", None),
        (
            "calls of a case over its bound",
            max(r["calls"] / r["bound"] for r in found["calls"]["cases"]),
            "<=",
            1.0,
        ),
        ("calls saved by early stopping", found["calls"]["early_saves"], ">=", None),
    ]
    return [
        {
            "what": what,
            "measured": value,
            "target": None if limit is None else f"{sign} {limit}",
            "met": limit is None or (value >= limit if sign == ">=" else value <= limit),
        }
        for what, value, sign, limit in rows
    ]


def show(found: dict[str, Any], console: Console) -> None:
    about = found["settings"]
    table = Table(title=f"{about['calls']:,} calls of {about['latency']} s, {about['in_flight']} in flight")
    for column in ("", "seconds", "calls a second", "CPU ms a call"):
        table.add_column(column, justify="left" if not column else "right")
    for name, row in found["throughput"]["ways"].items():
        cells = f"{row['seconds']:.2f}", f"{row['calls_per_second']:.1f}", f"{row['cpu_ms_per_call']:.2f}"
        table.add_row(WAYS[name], *cells)
    console.print(table)
    for row in found["targets"]:
        state = ("met" if row["met"] else "MISSED") if row["target"] else "reported"
        console.print(
            f"{state}: {row['what']}: {row['measured']:.3f}"
            + (f" ({row['target']})" if row["target"] else "")
        )


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    made.add_argument("--json", type=Path)
    made.add_argument("--latency", type=float, default=2.0)
    made.add_argument("--in-flight", type=int, default=256)
    made.add_argument("--calls", type=int, default=2560)
    made.add_argument("--words", type=int, default=150, help="words of a prompt")
    made.add_argument("--workers", type=int, default=100, help="processes of the published design")
    made.add_argument("--cases", type=int, default=8, help="documents with ten answers each")
    made.add_argument("--tokens", type=int, default=32768, help="of a document")
    made.add_argument("--cache-tokens", type=int, default=400_000, help="of the simulated server")
    return made


def main(argv: list[str] | None = None) -> dict[str, Any]:
    """Parse flags, measure, print, and write JSON where asked."""
    options = parser().parse_args(argv)
    about = machine("openai", "httpx2", "bm25s")
    settings = {key: value for key, value in vars(options).items() if key != "json"}
    found: dict[str, Any] = {"benchmark": "judge_pipeline", "machine": about, "settings": settings}
    found["throughput"] = throughput(options)
    found["calls"] = count_calls(options.cases, options.tokens)
    found["prefixes"] = prefixes(
        options.cases, options.tokens, min(64, options.in_flight), options.cache_tokens
    )
    found["peak_bytes"] = peak_bytes()
    found["targets"] = targets(found)
    about["load_after"] = round(os.getloadavg()[0], 2)
    show(found, Console())
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(found, indent=2) + "\n")
    return found


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    main()
