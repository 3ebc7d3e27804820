"""Train the tiny base from several seeds, and cure its planted bias by a plain loop of its own.

    python benchmarks/tiny_seeds.py --seeds 10 --json benchmarks/results/tiny_seeds-cpu2.json

For each seed: steps of every stage, restarts, seconds, and average and gap over the 8 spans (400 queries each) before
and after the cure. The cure is independent of lcx's trainer: plain AdamW with a cosine rate on contexts assembled from
the segments of 64 catalogue documents, whose deals of modules are fixed, with gold records at uniform positions.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from machine import machine
from transformers import LlamaForCausalLM

from lcx.data.stdlib import catalogue_documents, load_entities
from lcx.modeling.load import few_threads
from lcx.modeling.tiny import RECORDS, SPANS, World, answer_logits, load_world, probe, with_queries
from lcx.training.curriculum import gap, train_base


def catalogue_values(world: World, documents: int = 64) -> torch.Tensor:
    """[documents, E] module ids that each catalogue gives each entity, 0 where it has no record of it."""
    rows = {entity.name: number for number, entity in enumerate(load_entities())}
    values = torch.zeros(documents, len(rows), dtype=torch.long)
    for number, document in enumerate(catalogue_documents(documents, 0)):
        for name, module in zip(document["meta"]["keys"], document["meta"]["values"], strict=True):
            values[number, rows[name]] = world.tokenizer(f" {module}")["input_ids"][0]
    return values


def cure(
    model: LlamaForCausalLM,
    world: World,
    *,
    steps: int = 150,
    rate: float = 2e-3,
    contexts: int = 16,
    queries: int = 8,
    warmup: float = 0.05,
    decay: float = 0.0,
    seed: int = 0,
) -> float:
    """IN2's remedy, in place: uniform gold positions, loss on the answers' tokens only. Returns the last loss."""
    values = catalogue_values(world)
    rng = torch.Generator().manual_seed(seed + 17)
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=decay)
    ramp = max(1, round(warmup * steps))
    model.train()
    value = math.nan
    for step in range(steps):
        fall = 0.5 * (1 + math.cos(math.pi * max(0, step - ramp) / max(1, steps - ramp)))
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1.0, (step + 1) / ramp) * fall
        entities = torch.rand(contexts, len(world.records), generator=rng).argsort(1)[:, :RECORDS]
        rows = world.records[entities]
        # One of the catalogues that hold the entity, at random: filler segments come from anywhere.
        held = (values > 0).T[entities].float() * torch.rand(contexts, RECORDS, len(values), generator=rng)
        rows[:, :, 2] = values[held.argmax(-1), entities]
        gold = torch.randint(RECORDS, (contexts, queries), generator=rng)
        logits, targets = answer_logits(model, with_queries(world, rows, gold), queries)
        loss = F.cross_entropy(logits.flatten(0, 2), targets.flatten())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        value = float(loss.detach())
    model.eval()
    return value


def one_seed(seed: int, **settings: Any) -> dict[str, Any]:
    """Train, probe, cure and probe again; a flat row for a table."""
    began = time.perf_counter()
    model, _, report = train_base(seed)
    trained = time.perf_counter()
    world = load_world()
    with few_threads(model):
        before = probe(model, world, per_span=400, seed=2)
        cure(model, world, seed=seed, **settings)
        after = probe(model, world, per_span=400, seed=2)
    return {
        "seed": seed,
        "restarts": report["restarts"],
        "steps": report["steps"],
        "stages": {stage["stage"]: stage["steps"] for stage in report["stages"]},
        "train_seconds": round(trained - began, 1),
        "cure_seconds": round(time.perf_counter() - trained, 1),
        "learnt": report["learnt"],
        "before": before,
        "before_average": round(sum(before) / SPANS, 3),
        "before_gap": round(gap(before), 3),
        "after": after,
        "after_average": round(sum(after) / SPANS, 3),
        "after_gap": round(gap(after), 3),
        "after_worst": min(after),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=10, help="how many seeds, from --first on")
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--steps", type=int, default=150, help="optimizer steps of the cure")
    parser.add_argument("--rate", type=float, default=2e-3, help="learning rate of the cure")
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    arguments = parser.parse_args()
    about = machine("torch", "transformers")
    rows = []
    for seed in range(arguments.first, arguments.first + arguments.seeds):
        row = one_seed(seed, steps=arguments.steps, rate=arguments.rate)
        rows.append(row)
        print(json.dumps(row), flush=True)
        if arguments.json:
            settings = {"cure_steps": arguments.steps, "cure_rate": arguments.rate, "threads": 1}
            result = {"benchmark": "tiny_seeds", "machine": about, "settings": settings, "rows": rows}
            arguments.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
