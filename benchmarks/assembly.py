"""Contexts from plans and a token store, against joining strings and tokenising them again.

Both ways end with the token ids of the same contexts, and the store's ids are first asserted to decode to the
joined text. The other way is given a fast (Rust) tokenizer, texts already in memory, and one batched call
that may use all cores. Disk: bundles with plans, and the whole segment table beside them, against the token
ids of every context.

    python benchmarks/assembly.py [--contexts 10000] [--timed 40] [--tokens 32768] [--repeats 7] [--json]
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from machine import machine

from lcx.data.bundles import write_bundles
from lcx.data.documents import read_corpus
from lcx.data.plans import fill_plan, plan_rng
from lcx.data.table import SegmentTable, build_table, load_table
from lcx.data.tokens import SEPARATOR, FastTokenizer, load_backend, open_token_store
from lcx.records import Branch, Bundle


def train_tokenizer(folder: Path, vocabulary: int, documents: int | None) -> Path:
    """A byte-level BPE tokenizer of the standard library's text, trained once and kept in `folder`."""
    path = folder / f"bpe-{vocabulary}-{documents or 'all'}.json"
    if not path.exists():
        from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

        core = Tokenizer(models.BPE())
        core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        core.decoder = decoders.ByteLevel()
        texts = (document.text for document in read_corpus("stdlib", limit=documents))
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(vocab_size=vocabulary, initial_alphabet=alphabet, show_progress=False)
        core.train_from_iterator(texts, trainer)
        core.save(str(path))
    return path


def interleaved(ways: dict[str, Callable[[], Any]], repeats: int) -> dict[str, list[float]]:
    """Seconds of each way, measured by turns so that a busy machine slows both."""
    for way in ways.values():
        way()
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def measure_time(
    core: Any, table: SegmentTable, store: Any, plans: list[Any], repeats: int
) -> dict[str, Any]:
    """Time a context both ways, after checking that they mean the same text."""
    texts = table.texts(range(len(table)))
    for plan in plans:
        joined = SEPARATOR.join(texts[index] for index in plan.indices)
        assert core.decode(store.join(plan.indices).tolist(), skip_special_tokens=False) == joined

    def from_store() -> None:
        for plan in plans:
            store.join(plan.indices)

    def again() -> None:
        whole = [SEPARATOR.join([texts[index] for index in plan.indices]) for plan in plans]
        for encoding in core.encode_batch_fast(whole, add_special_tokens=False):
            np.array(encoding.ids, store.dtype)

    seconds = interleaved({"store": from_store, "retokenise": again}, repeats)
    middle = {name: statistics.median(values) / len(plans) for name, values in seconds.items()}
    return {
        "contexts_timed": len(plans),
        "ms_a_context_store": middle["store"] * 1e3,
        "ms_a_context_retokenise": middle["retokenise"] * 1e3,
        "speedup": middle["retokenise"] / middle["store"],
        "speedup_worst_repeat": min(seconds["retokenise"]) / max(seconds["store"]),
    }


def measure_disk(table: SegmentTable, store: Any, plans: list[Any], folder: Path) -> dict[str, Any]:
    """Bytes of bundles and segment table, against tokens in the narrowest type that holds the vocabulary."""
    bundles = (
        Bundle(f"context-{number:06d}", (Branch("", "", gold=plan.gold_places),), plan=plan.indices)
        for number, plan in enumerate(plans)
    )
    plan_bytes = write_bundles(folder / "bundles", bundles).stat().st_size
    table.save(folder / "table")
    table_bytes = sum(path.stat().st_size for path in (folder / "table").iterdir())
    tokens = sum(len(store.join(plan.indices)) for plan in plans)
    token_bytes = tokens * store.dtype.itemsize
    return {
        "contexts": len(plans),
        "tokens": tokens,
        "bytes_of_a_token": store.dtype.itemsize,
        "token_bytes": token_bytes,
        "plan_bytes": plan_bytes,
        "table_bytes": table_bytes,
        "smaller": token_bytes / (plan_bytes + table_bytes),
        "smaller_plans_alone": token_bytes / plan_bytes,
    }


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Everything the command line asks for, as one JSON-ready value."""
    cache = Path(options.cache or Path(tempfile.gettempdir()) / "lcx-benchmark-assembly")
    cache.mkdir(parents=True, exist_ok=True)
    core = load_backend(train_tokenizer(cache, options.vocabulary, options.documents))
    built = time.perf_counter()
    table = build_table(read_corpus("stdlib", limit=options.documents), FastTokenizer(core, "bpe"))
    built = time.perf_counter() - built
    with tempfile.TemporaryDirectory(dir=cache) as scratch:
        table.save(Path(scratch) / "table")
        table = load_table(Path(scratch) / "table")
        cold = time.perf_counter()
        store = open_token_store(core, table, scratch)
        cold = time.perf_counter() - cold
        separator = len(store.separator)
        plans = [
            fill_plan(
                plan_rng(0, number), table, [number % len(table)], options.tokens, separator_tokens=separator
            )
            for number in range(options.contexts)
        ]
        timed = measure_time(core, table, store, plans[: options.timed], options.repeats)
        disk = measure_disk(table, store, plans, Path(scratch) / "disk")
    return {
        "benchmark": "assembly",
        "machine": machine("numpy", "tokenizers", "pyarrow"),
        "settings": {
            "context_tokens": options.tokens,
            "vocabulary": core.get_vocab_size(),
            "segments": len(table),
            "segments_a_context": statistics.mean(len(plan.indices) for plan in plans),
            "repeats": options.repeats,
        },
        "once": {"table_build_s": built, "store_build_s": cold},
        "time": timed,
        "disk": disk,
    }


def show(result: dict[str, Any]) -> None:
    """Print the result as tables on stdout."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    for part in ("machine", "settings", "once", "time", "disk"):
        table = Table("", part, show_header=True)
        for name, value in result[part].items():
            table.add_row(name, f"{value:,.3f}" if isinstance(value, float) else str(value))
        console.print(table)


def main(arguments: list[str] | None = None) -> None:
    """Parse the command line, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--contexts", type=int, default=10_000, help="contexts on disk")
    parser.add_argument("--timed", type=int, default=40, help="contexts that are timed")
    parser.add_argument("--tokens", type=int, default=32_768, help="tokens of a context")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--vocabulary", type=int, default=32_000)
    parser.add_argument("--documents", type=int, default=None, help="documents of the stdlib corpus (all)")
    parser.add_argument("--cache", default=None, help="where the trained tokenizer is kept")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    options = parser.parse_args(arguments)
    result = run(options)
    print(json.dumps(result, indent=2)) if options.json else show(result)


if __name__ == "__main__":
    main()
