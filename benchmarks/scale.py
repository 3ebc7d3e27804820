"""Corpora, tables, token stores, plans and the loader at growing size: rates, bytes, peak memory, and how they grow.

    python benchmarks/scale.py --json benchmarks/results/scale-cpu2.json

Text is generated (lines of the standard library in random order) and written as jsonl.zst by streamed compression. Each
stage is a process of its own, so that its peak memory is its own. The other way to tokens is what a competent user does
without lcx: batches of the same texts through the fast tokenizer into an np.memmap; equal ids are asserted first.
Growth is the slope of a straight line through the logarithms: 1 for time that grows with the work, 0 for memory that
stays.

What a training step consumes: a model of P parameters spends 6 P operations a token, and in attention 6 x layers x
width x tokens more for each (causal, forward and backward). At 400 TFLOP/s a GPU, an 8B model takes so many seconds for
a context of 32K tokens; the loader, in one process, is held against that.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from assembly import train_tokenizer
from machine import machine

from lcx.data.assembly import Assembler
from lcx.data.bundles import read_bundles, write_bundles
from lcx.data.documents import read_corpus
from lcx.data.plans import fill_plan, plan_rng
from lcx.data.table import load_table, write_table
from lcx.data.tokens import load_backend, open_token_store
from lcx.process import Workers, cores
from lcx.records import Branch, Bundle

PARAMETERS, LAYERS, WIDTH, FLOPS = 8e9, 32, 4096, 400e12
"""Of Llama-3-8B, and what an H100 does of its 989 TFLOP/s in bfloat16."""


def write_corpus(path: Path, megabytes: float, seed: int = 0) -> dict[str, float]:
    """Rows of documents of about 5,000 characters, no two alike, until the text has so many megabytes."""
    import pyarrow as pa

    rng = random.Random(seed)
    text = "\n".join(document.text for document in read_corpus("stdlib", limit=200))
    lines = [line for line in text.split("\n") if len(line) > 30][:20_000]
    count = size = 0
    with pa.CompressedOutputStream(str(path), "zstd") as file:
        while size < megabytes * 1e6:
            body = "\n".join([f"Document {count} of {seed}.", *rng.choices(lines, k=90)])
            row = json.dumps({"id": f"{seed}-{count}", "text": body}).encode() + b"\n"
            file.write(row)
            size += len(row)
            count += 1
    return {"documents": count, "bytes": size, "bytes_on_disk": path.stat().st_size}


# -- stages, each in a process of its own


def generate(place: Path, name: str, megabytes: float, seed: int = 0) -> dict[str, float]:
    return write_corpus(place / f"{name}.jsonl.zst", megabytes, seed)


def read(place: Path, name: str) -> dict[str, float]:
    """Every document once."""
    began = time.perf_counter()
    first = characters = 0.0
    for document in read_corpus(place / f"{name}.jsonl.zst"):
        first = first or time.perf_counter() - began
        characters += len(document.text)
    return {"first_document_s": first, "characters": characters}


def table(place: Path, name: str) -> dict[str, float]:
    """The corpus cut into segments by the built-in tokenizer, on all cores."""
    write_table(place / name, read_corpus(place / f"{name}.jsonl.zst"), "simple")
    began = time.perf_counter()
    made = load_table(place / name)
    opened = time.perf_counter() - began
    return {
        "segments": len(made),
        "documents": made.document_count,
        "open_s": opened,
        "bytes": _bytes(place / name),
    }


def store(place: Path, name: str, tokenizer: str) -> dict[str, float]:
    """The token store of a table; where another table's store has some of its documents, the rest of it."""
    made = open_token_store(load_backend(tokenizer), load_table(place / name), place)
    began = time.perf_counter()
    again = open_token_store(load_backend(tokenizer), load_table(place / name), place)
    opened = time.perf_counter() - began
    assert len(again) == len(made)
    return {
        "segments": len(made),
        "tokens": made.info["tokens"],
        "open_s": opened,
        "bytes": _bytes(made.folder),
    }


def memmap(place: Path, name: str, tokenizer: str) -> dict[str, float]:
    """The same texts without lcx: batches through the fast tokenizer into np.memmap files."""
    core, made = load_backend(tokenizer), load_table(place / name)
    ids = np.memmap(place / "other.bin", np.uint16, "w+", shape=(len(made) * 600,))
    total = 0
    began = time.perf_counter()
    spent = _cpu()
    for low in range(0, len(made), 2048):
        texts = made.texts(range(low, min(low + 2048, len(made))))
        for one in core.encode_batch(texts, add_special_tokens=False):
            ids[total : total + len(one.ids)] = one.ids
            total += len(one.ids)
    ids.flush()
    seconds, spent = time.perf_counter() - began, _cpu() - spent
    kept = open_token_store(core, made, place)
    assert total == kept.info["tokens"]
    assert (np.asarray(ids[:total]) == kept.run(0, len(made))).all(), "other token ids"
    return {"tokens": total, "own_seconds": seconds, "own_cpu": spent}


def plans(place: Path, name: str, contexts: int, tokens: int, processes: int) -> dict[str, float]:
    """So many contexts with their evidence as bundles, a shard for each process."""
    from scale import plan_shard  # by the name that another process knows it by

    folder = place / f"plans-{contexts}"
    count = processes or cores()
    with Workers(count) as workers:
        parts = [
            workers.submit(plan_shard, str(place / name), str(folder), index, count, contexts, tokens)
            for index in range(count)
        ]
        memory = [part.result() for part in parts]
    return {
        "contexts": contexts,
        "processes": count,
        "bytes": _bytes(folder),
        "most_memory_a_process": max(memory),
        "memory_of_all": sum(memory),
    }


def plan_shard(table: str, folder: str, index: int, count: int, contexts: int, tokens: int) -> float:
    """One shard of contexts; its process's peak memory."""
    made = load_table(table)

    def bundles() -> Iterator[Bundle]:
        for number in range(index * contexts // count, (index + 1) * contexts // count):
            gold = [number % len(made)]
            plan = fill_plan(plan_rng(0, number), made, gold, tokens)
            assert [plan.indices[at] for at in plan.gold_places] == gold
            branch = Branch(f"What does part {number} say?", "What it says.", gold=plan.gold_places)
            yield Bundle(f"c{number:07}", (branch,), plan=plan.indices, meta={"tokens": plan.tokens})

    write_bundles(folder, bundles(), index=index, count=count)
    return _peak(resource.RUSAGE_SELF)


def loader(place: Path, name: str, contexts: int, tokenizer: str, timed: int) -> dict[str, float]:
    """Contexts as token ids in the order of a shuffled epoch, then in that of the next; one process."""
    core, made = load_backend(tokenizer), load_table(place / name)
    assembler = Assembler(core, "plain", made, open_token_store(core, made, place))
    began = time.perf_counter()
    held = read_bundles(place / f"plans-{contexts}")
    opened = time.perf_counter() - began
    tokens = 0
    began, spent = time.perf_counter(), _cpu()
    for epoch in range(2):
        order = np.random.default_rng([0, epoch]).permutation(len(held))[: timed // 2]
        for number in order.tolist():
            bundle = held[number]
            encoded = assembler.encode(bundle)
            assert encoded is not None
            gold = made.text(bundle.plan[bundle.branches[0].gold[0]])
            assert len(encoded.chunks) == len(bundle.plan)
            if number == order[0]:  # the evidence is where the bundle says
                start = encoded.head + sum(encoded.chunks[: bundle.branches[0].gold[0]])
                assert core.decode(
                    encoded.prefix[start : start + encoded.chunks[bundle.branches[0].gold[0]]]
                ).strip("\n") == gold.strip("\n")
            tokens += len(encoded.prefix)
    return {
        "open_s": opened,
        "timed": timed,
        "tokens": tokens,
        "own_seconds": time.perf_counter() - began,
        "own_cpu": _cpu() - spent,
    }


STAGES: dict[str, Callable[..., dict[str, float]]] = {
    one.__name__: one for one in (generate, read, table, store, memmap, plans, loader)
}


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _peak(who: int) -> float:
    """Peak resident bytes of this process, or of the largest of its children."""
    return resource.getrusage(who).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def stage(name: str, *words: Any) -> dict[str, Any]:
    """Run a stage in a process of its own: what it tells, its seconds, CPU seconds and peak memory (children's too)."""
    began = time.perf_counter()
    command = [sys.executable, __file__, "--stage", name, json.dumps([*map(str, words[:1]), *words[1:]])]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    print(f"{name} {words[1:]}: {found}", file=sys.stderr)
    return {**found, "seconds": time.perf_counter() - began}


def inside(name: str, words: list[Any]) -> None:
    """What the process of a stage does."""
    found = STAGES[name](Path(words[0]), *words[1:])
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    found["cpu_seconds"] = _cpu() + children.ru_utime + children.ru_stime
    found["peak_memory"] = _peak(resource.RUSAGE_SELF)
    found["peak_memory_of_a_worker"] = _peak(resource.RUSAGE_CHILDREN)
    print(json.dumps(found))


def growth(sizes: list[float], values: list[float]) -> float:
    """The slope of the line through the logarithms."""
    return float(np.polyfit(np.log(sizes), np.log(values), 1)[0]) if len(sizes) > 1 else math.nan


def run(options: argparse.Namespace) -> dict[str, Any]:
    """All stages."""
    cache = Path(options.cache or Path(tempfile.gettempdir()) / "lcx-benchmark-scale")
    cache.mkdir(parents=True, exist_ok=True)
    tokenizer = str(train_tokenizer(cache, options.vocabulary, 300))
    found: dict[str, Any] = {"corpora": [], "tables": []}
    with tempfile.TemporaryDirectory(dir=cache) as scratch:
        place = Path(scratch)
        for megabytes in options.read:
            made = stage("generate", place, "read", megabytes)
            found["corpora"].append({"generated": made, "read": stage("read", place, "read")})
            (place / "read.jsonl.zst").unlink()
        for megabytes in options.megabytes:
            stage("generate", place, f"c{megabytes}", megabytes)
            made = stage("table", place, f"c{megabytes}")
            found["tables"].append({"megabytes": megabytes, **made})
        name = f"c{options.megabytes[-1]}"
        found["plans"] = [
            stage("plans", place, name, contexts, options.tokens, options.processes)
            for contexts in options.contexts
        ]
        small = f"c{options.megabytes[0]}"
        found["store"] = stage("store", place, small, tokenizer)
        found["memmap"] = stage("memmap", place, small, tokenizer)
        found["loader"] = loading(place, small, tokenizer, options)
        found["append"] = appended(place, small, tokenizer, options)
    sizes = [row["contexts"] for row in found["plans"]]
    found["growth"] = {
        "plans_cpu_seconds": growth(sizes, [row["cpu_seconds"] for row in found["plans"]]),
        "plans_memory_a_process": growth(sizes, [row["most_memory_a_process"] for row in found["plans"]]),
        "plans_bytes": growth(sizes, [row["bytes"] for row in found["plans"]]),
        "table_cpu_seconds": growth(options.megabytes, [row["cpu_seconds"] for row in found["tables"]]),
        "table_memory": growth(options.megabytes, [row["peak_memory"] for row in found["tables"]]),
    }
    return found


def loading(place: Path, name: str, tokenizer: str, options: argparse.Namespace) -> dict[str, float]:
    """The loader over plans of its own table, and a training step's appetite."""
    for path in (place / f"plans-{options.contexts[0]}").glob("*"):
        path.unlink()
    stage("plans", place, name, options.contexts[0], options.tokens, options.processes)
    made = stage("loader", place, name, options.contexts[0], tokenizer, options.timed)
    a_context = made["own_cpu"] / made["timed"]
    tokens = made["tokens"] / made["timed"]
    operations = 6 * PARAMETERS * tokens + 6 * LAYERS * WIDTH * tokens * tokens
    step = operations / FLOPS
    return {
        **made,
        "seconds_a_context": a_context,
        "step_seconds_a_context": step,
        "times_faster": step / a_context,
    }


def appended(place: Path, name: str, tokenizer: str, options: argparse.Namespace) -> dict[str, float]:
    """The store of the corpus with a tenth more documents: what is new is tokenised, the rest taken over."""
    write_corpus(place / "more.jsonl.zst", options.megabytes[0] / 10, seed=1)
    whole = place / "grown"
    whole.mkdir()
    for number, part in enumerate((f"{name}.jsonl.zst", "more.jsonl.zst")):
        (place / part).rename(whole / f"{number}.jsonl.zst")
    write_table(place / "grown-table", read_corpus(whole), "simple")
    return stage("store", place, "grown-table", tokenizer)


def show(found: dict[str, Any]) -> None:
    """Print the result as tables on stdout."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    for part in ("machine", "settings", "growth", "store", "memmap", "append", "loader"):
        shown = Table("", part)
        for name, value in found[part].items():
            shown.add_row(name, f"{value:,.3f}" if isinstance(value, float) else str(value))
        console.print(shown)
    for part in ("tables", "plans"):
        shown = Table(*found[part][0], title=part)
        for row in found[part]:
            shown.add_row(*(f"{value:,.1f}" for value in row.values()))
        console.print(shown)
    for row in found["corpora"]:
        console.print(row)


def main(arguments: list[str] | None = None) -> None:
    """Parse the command line, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--contexts", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--tokens", type=int, default=32_768, help="tokens of a context")
    parser.add_argument(
        "--megabytes", type=int, nargs="+", default=[40, 200], help="of the corpora that are cut"
    )
    parser.add_argument(
        "--read", type=int, nargs="*", default=[500, 5000], help="megabytes that are only read"
    )
    parser.add_argument("--processes", type=int, default=0, help="that plan at a time (one for each core)")
    parser.add_argument("--timed", type=int, default=400, help="contexts that the loader assembles")
    parser.add_argument("--vocabulary", type=int, default=32_000)
    parser.add_argument("--cache", default=None, help="folder for corpora, tables and the trained tokenizer")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--stage", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.stage:
        inside(options.stage[0], json.loads(options.stage[1]))
        return
    about = machine("numpy", "tokenizers", "pyarrow")
    settings = {key: getattr(options, key) for key in ("tokens", "megabytes", "read", "vocabulary")}
    found = {"benchmark": "scale", "machine": about, "settings": settings, **run(options)}
    about["load_after"] = round(os.getloadavg()[0], 2)
    show(found)
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
