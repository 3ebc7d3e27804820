"""What the three papers do to a real language model: SmolLM2-135M-Instruct, on one machine, from texts to numbers.

    lcx models get smollm2
    python benchmarks/real_weights.py --work W --only in2 --seeds 0,1,2 --json in2.json --plot .
    python benchmarks/real_weights.py --work W --only longreward --seeds 0 --json longreward.json --plot .
    python benchmarks/real_weights.py --work W --only logo --seeds 0 --json logo.json --plot .

Every stage is a plain `lcx` command on a recipe that this script writes into `--work`, one after the other; what is
done is not done again, and a killed stage goes on. Changes are those of `lcx compare`: item by item, with its
intervals.

Training texts are documentation and functions of libraries that lcx or PyTorch bring along (`PACKAGES`). The probes'
texts are Python's own library (`stdlib`), which is no part of them: documents that share ten words in a row with it
are left out by lcx's own sieve. A tenth of the documents is held out for short questions and for fresh answers.

- **in2**: VaL's three probes and needle at three lengths, short questions and perplexity, before and after LoRA on
  contexts whose questions rules wrote, for each seed.
- **longreward**: ten answers of the model to each task, rated by rules with retrieval; reward, support and length of
  fresh answers before and after DPO with a tenth of the chosen answers' likelihood.
- **logo**: needle and perplexity in the model's window and at twice it: as it is, with YaRN, and after LOGO with
  synthetic positions; and how often outdated facts mislead it.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import os
import random
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from typing import Any

from machine import machine
from rich.console import Console
from rich.table import Table

from lcx.data.stdlib import stdlib_documents
from lcx.evaluation.show.png import COLOURS, Draw, dress, line, rows_png
from lcx.formatting import several
from lcx.storage import sha256_json, write_json
from lcx.yamls import yaml_text

PACKAGES = ("numpy", "networkx", "huggingface_hub", "pydantic", "rich", "jinja2", "fsspec")
"""Libraries whose documentation and functions are the training texts: lcx, PyTorch and transformers need them."""
HELD_OUT = 10
"""One document in so many is held out."""
PROBES = ("val:document", "val:code", "val:database")
CHOICES = 5
CHECK = 1
"""Answers a task that are computed again from their whole prompts: on a CPU four cost as much as all others."""


@dataclass(frozen=True)
class Size:
    """How much of everything: chosen so that all of it fits into the time, before anything was looked at."""

    text: int = 3_000_000
    """Characters of prose, and half as many of code."""
    # IN2
    lengths: tuple[int, ...] = (1000, 2000, 4000)
    train_tokens: tuple[int, int] = (400, 2000)
    questions: int = 480
    sets: int = 2
    limit: int = 80
    depths: int = 5
    short: int = 200
    answer: int = 40
    texts: int = 4
    # LongReward
    tasks: int = 96
    candidates: int = 10
    fresh: int = 48
    reward_tokens: tuple[int, int] = (300, 900)
    # LOGO
    examples: int = 32
    chunks: int = 14
    chunk_tokens: int = 256
    window: int = 8192
    wide_lengths: tuple[int, ...] = (4000, 8000, 16000)
    wide_sets: int = 2
    wide_depths: int = 8
    stale_tokens: int = 2000
    policy: str = ""
    """Who answers in place of the model."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Further settings of every training, such as {precision: bf16}."""


SIZES = {
    "evening": Size(),
    "toy": Size(
        text=60_000,
        lengths=(200, 300),
        train_tokens=(100, 200),
        questions=16,
        sets=1,
        limit=6,
        depths=2,
        short=12,
        answer=4,
        texts=1,
        tasks=6,
        candidates=3,
        fresh=4,
        reward_tokens=(60, 300),
        examples=4,
        chunks=4,
        chunk_tokens=16,
        window=256,
        wide_lengths=(256, 512),
        wide_sets=1,
        wide_depths=2,
        stale_tokens=400,
        policy="builtin",  # a model that never ends an answer has none that can be taken
    ),
}


@dataclass
class Bench:
    """Where the work lies, at which size, for which model; `seconds` are those of every command that ran."""

    work: Path
    size: Size
    model: str
    precision: str
    console: Console
    log: Path
    seconds: dict[str, float] = field(default_factory=dict)

    def lcx(self, name: str, *words: object) -> str:
        """Run `lcx` with these words, its messages in a file of that name; returns what it printed on standard output.

        Raises SystemExit with the end of its messages where it fails.
        """
        command = [sys.executable, "-m", "lcx", *map(str, words)]
        began = time.monotonic()
        place = self.log / f"{name}.txt"
        with place.open("a", encoding="utf-8") as told:
            told.write(f"$ lcx {' '.join(map(str, words))}\n")
            told.flush()
            done = subprocess.run(
                command, stdout=subprocess.PIPE, stderr=told, text=True, cwd=self.work, check=False
            )
            told.write(done.stdout)
        took = time.monotonic() - began
        # A step that was done before takes a second to say so: the longest of its runs counts.
        self.seconds[name] = round(max(took, self.seconds.get(name, 0.0)), 1)
        self.console.print(f"{name}: {took:,.0f} s")
        if done.returncode:
            last = place.read_text(encoding="utf-8")[-2000:]
            raise SystemExit(f"lcx {words[0]} ended with {done.returncode} ({place}):\n{last}")
        return done.stdout

    def step(self, run: str, stage: str, step: str, recipe: Path, *words: object) -> Path:
        """Run one step of a recipe into a run's folder; the step's folder."""
        place = self.work / "runs" / run
        name = run if run.endswith(f".{step}") else f"{run}.{step}"
        self.lcx(name, stage, "--recipe", recipe, "--step", step, "--run", place, "-q", *words)
        return place / step

    def merged(self, run: str) -> Path:
        """A run's model with its adapter merged: it answers faster, and is what others would be given."""
        place = self.work / "models" / run
        if not place.is_dir():
            self.lcx(f"{run}.export", "export", "model", self.work / "runs" / run, "--to", place, "-q")
        return place

    def recipe(self, name: str, extends: str, steps: Sequence[Mapping[str, Any]]) -> Path:
        """Write a recipe; its file."""
        path = self.work / f"{name}.yaml"
        path.write_text(
            yaml_text({"name": name, "extends": extends, "steps": [dict(step) for step in steps]}),
            encoding="utf-8",
        )
        return path

    def compare(self, name: str, a: Path, b: Path) -> list[dict[str, Any]]:
        """The verdicts of `lcx compare` on two results."""
        found = json.loads(self.lcx(name, "compare", a, b, "--json"))
        if found["not_compared"]:
            raise SystemExit(f"{name}: not compared: {found['not_compared']}")
        verdicts: list[dict[str, Any]] = found["verdicts"]
        return verdicts


def scores(step: Path) -> Path:
    """The one result in an eval step's folder."""
    [found] = step.glob("*/scores.json")
    return found


def tasks_of(path: Path) -> dict[str, Any]:
    """A result's tasks."""
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))["tasks"]
    return found


# -- texts


def documents() -> Iterator[tuple[str, str, str]]:
    """(name, kind, text) of every document of the packages, by turns, in an order that no seed changes."""
    streams = []
    for package in PACKAGES:
        spec = importlib.util.find_spec(package)
        if spec is None or not spec.origin:
            raise SystemExit(f"{package} is not installed here, and its documentation is part of the texts")
        streams.append((package, stdlib_documents(Path(spec.origin).parent)))
    while streams:
        for stream in list(streams):
            document = next(stream[1], None)
            if document is None:
                streams.remove(stream)
            else:
                kind = document.meta["kind"]
                yield f"{stream[0]}.{document.id.removeprefix('stdlib/')}", kind, document.text


def make_texts(bench: Bench) -> dict[str, Any]:
    """Write training texts, held-out texts, the probes' texts for the sieve and the short questions; what they are."""
    place = bench.work / "about-texts.json"
    if place.is_file():
        known: dict[str, Any] = json.loads(place.read_text(encoding="utf-8"))
        return known
    room = {"text": bench.size.text, "code": bench.size.text // 2}
    kept: dict[str, list[tuple[str, str]]] = {"texts": [], "held": []}
    for number, (name, kind, text) in enumerate(documents()):
        if room[kind] < len(text):
            continue
        room[kind] -= len(text)
        kept["held" if number % HELD_OUT == HELD_OUT - 1 else "texts"].append((f"{name}.{kind}", text))
    for folder, found in kept.items():
        (bench.work / folder).mkdir(exist_ok=True)
        for name, text in found:
            clean = re.sub(r"[^\w.-]", "_", name)
            ending = "py" if name.endswith("code") else "txt"
            (bench.work / folder / f"{clean}.{ending}").write_text(text, encoding="utf-8")
    with (bench.work / "probes-texts.jsonl").open("w", encoding="utf-8") as file:
        for document in stdlib_documents():
            file.write(json.dumps({"text": document.text}) + "\n")
    rows = short_questions([text for name, text in kept["held"] if name.endswith("text")], bench.size.short)
    with (bench.work / "csqa.jsonl").open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    from importlib.metadata import packages_distributions, version

    names = packages_distributions()
    about = {
        "packages": {package: version(names[package][0]) for package in PACKAGES},
        "python": sys.version.split()[0],
        "documents": {folder: len(found) for folder, found in kept.items()},
        "characters": {folder: sum(len(text) for _, text in found) for folder, found in kept.items()},
        "short questions": len(rows),
        "sha256": sha256_json(kept)[:16],
    }
    write_json(place, about)
    return about


WORD = re.compile(r"\b[a-z]{5,12}\b")


def short_questions(texts: Sequence[str], count: int) -> list[dict[str, Any]]:
    """Questions of one sentence with a gap and five words to choose from, as rows of `csqa`.

    The four others are words of other sentences of the same texts, of the same length give or take two letters.
    """
    rng = random.Random("real_weights: short questions")
    found = []
    for text in texts:
        for paragraph in re.split(r"\n\s*\n", text):
            for one in re.split(r"(?<=[.!?])\s+", " ".join(paragraph.split())):
                words = one.split()
                if 10 <= len(words) <= 30 and one[-1:] == "." and one[0].isupper() and "`" not in one:
                    found.append(one)
    found = sorted(set(found))
    rng.shuffle(found)
    every = sorted({word for one in found for word in WORD.findall(one)})
    rows = []
    for one in found:
        mine = [word for word in WORD.findall(one) if len(re.findall(rf"\b{word}\b", one)) == 1]
        if not mine:
            continue
        word = rng.choice(mine)
        near = [other for other in every if abs(len(other) - len(word)) <= 2 and other not in one]
        if len(near) < CHOICES - 1:
            continue
        candidates = [word, *rng.sample(near, CHOICES - 1)]
        rng.shuffle(candidates)
        question = "Which word fills the gap? " + re.sub(rf"\b{word}\b", "____", one)
        rows.append(
            {"id": f"gap-{len(rows)}", "question": question, "candidates": candidates, "answer": word}
        )
        if len(rows) == count:
            break
    return rows


# -- IN2


def in2(bench: Bench, seeds: Sequence[int]) -> dict[str, Any]:
    """Probes before and after, for each seed."""
    size = bench.size
    common = {
        "stage": "eval",
        "corpus": "stdlib",
        "seed": 0,
        "sets": size.sets,
        "max_new_tokens": size.answer,
        "check": CHECK,
        "precision": bench.precision,
    }
    evals: list[dict[str, Any]] = [
        {
            **common,
            "id": f"at-{length}",
            "tasks": [*PROBES, "needle"],
            "context_tokens": length,
            "lengths": [length],
            "depths": size.depths,
            "limit": size.limit,
            "span": max(1, length // 250),
        }
        for length in size.lengths
    ]
    cost = {
        **common,
        "id": "cost",
        "tasks": ["csqa", "perplexity"],
        "data": {"csqa": str(bench.work / "csqa.jsonl")},
        "lengths": [size.lengths[0]],
        "sets": size.texts,
        "max_new_tokens": 16,
    }
    names = [one["id"] for one in evals] + ["cost"]
    before = bench.recipe("in2-before", "probe", [*evals, cost])
    base = {
        name: scores(bench.step("in2-before", "eval", name, before, "--model", bench.model)) for name in names
    }
    rows, curves = [], {}
    trained = {}
    for seed in seeds:
        name = f"in2-{seed}"
        recipe = bench.recipe(
            name,
            "in2-laptop",
            [
                {
                    "id": "synth",
                    "corpus": str(bench.work / "texts"),
                    "decontaminate": [str(bench.work / "probes-texts.jsonl")],
                    "tokenizer": bench.model,
                    "examples": size.questions,
                    "context_tokens": list(size.train_tokens),
                    "seed": seed,
                },
                {"id": "train", "input": "step:synth", "model": bench.model, "seed": seed, **size.settings},
                *evals,
                cost,
            ],
        )
        data = bench.step(name, "synth", "synth", recipe)
        model = bench.step(name, "train", "train", recipe)
        trained[seed] = {"synth": manifest(data), "train": manifest(model)}
        whole = bench.merged(name)
        for step in names:
            # In a run of its own, so that several can be made at a time.
            after = scores(bench.step(f"{name}.{step}", "eval", step, recipe, "--model", whole))
            rows += changes(bench, f"{name}.{step}", base[step], after, seed=seed, at=step)
            curves[f"{step} {seed}"] = tasks_of(after)
    for step in names:
        curves[f"{step} before"] = tasks_of(base[step])
    picture = draw_in2(rows, curves, size, seeds)
    return {
        "rows": rows,
        "training": trained,
        "verdict": in2_verdict(rows),
        "tasks": {key: {task: brief(one) for task, one in of.items()} for key, of in curves.items()},
        "picture": picture,
    }


def manifest(step: Path) -> dict[str, Any]:
    """Counts, measures and notes of a finished step, of its run's manifest."""
    of = json.loads((step.parent / "manifest.json").read_text(encoding="utf-8"))["steps"][step.name]
    return {key: of[key] for key in ("started", "finished", "counts", "metrics", "notes") if key in of}


def brief(task: Mapping[str, Any]) -> dict[str, Any]:
    """What is kept of a task's result: no curves of accuracy, no tables."""
    kept = (
        "average",
        "gap",
        "gap_test",
        "estimate",
        "n",
        "mean",
        "decoys",
        "perplexity",
        "by_length",
        "at_length",
        "lengths",
        "edges",
    )
    judged = ("dimensions", "supported", "statements", "words", "scale")
    return {
        key: task[key]
        for key in (*kept, *judged, "unfinished", "nulls", "cells", "spans", "misled")
        if key in task
    }


def changes(bench: Bench, name: str, a: Path, b: Path, **about: Any) -> list[dict[str, Any]]:
    """A row for each task that both results have: before, after, change and interval by `lcx compare`, and the gaps."""
    before, after = tasks_of(a), tasks_of(b)
    found = []
    for one in bench.compare(f"{name}.compare", a, b):
        if one["kind"] != "task":
            continue
        row = {
            **about,
            "task": one["task"],
            "n": one["n"],
            "contexts": one["contexts"],
            "unit": one["unit"],
            **{
                key: one[key] for key in ("a", "b", "difference", "low", "high", "p_holm", "verdict", "drawn")
            },
        }
        for key, of in (("gap_before", before), ("gap_after", after)):
            gap = of.get(one["task"], {}).get("gap")
            if gap is not None:
                row[key] = 100 * gap
        found.append(row)
    return found


def in2_verdict(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What was hoped for, held against what came out."""
    probes: dict[str, Any] = {}
    for task in (*PROBES, "needle"):
        mine = [row for row in rows if row["task"] == task]
        gaps = [
            (row["gap_before"], row["gap_after"])
            for row in mine
            if "gap_before" in row and "gap_after" in row
        ]
        probes[task] = {
            "before": fmean(row["a"] for row in mine),
            "after": fmean(row["b"] for row in mine),
            "change": fmean(row["difference"] for row in mine),
            "comparisons": len(mine),
            "better": sum(row["low"] is not None and row["low"] > 0 for row in mine),
            "worse": sum(row["high"] is not None and row["high"] < 0 for row in mine),
            "gap_before": fmean(a for a, _ in gaps) if gaps else None,
            "gap_after": fmean(b for _, b in gaps) if gaps else None,
        }
    short = [row["difference"] for row in rows if row["task"] == "csqa"]
    return {"probes": probes, "short_change": fmean(short) if short else None}


def draw_in2(
    rows: Sequence[Mapping[str, Any]], curves: Mapping[str, Any], size: Size, seeds: Sequence[int]
) -> list[list[Draw]]:
    """Accuracy by length, a panel for each probe, before and after for every seed; below, by place in the context."""

    def lengths(axes: Any, task: str, first: bool) -> None:
        xs = list(range(len(size.lengths)))
        for number, seed in enumerate([None, *seeds]):
            of = []
            for length in size.lengths:
                mine = [
                    row
                    for row in rows
                    if row["task"] == task and row["at"] == f"at-{length}" and seed in (None, row["seed"])
                ]
                of.append(mine[0]["a" if seed is None else "b"] / 100)
            label = "before" if seed is None else f"after, seed {seed}"
            line(axes, xs, of, label, number, alone=False)
        axes.set_xticks(
            xs, [f"{length // 1000}K" if length >= 1000 else str(length) for length in size.lengths]
        )
        axes.set_ylim(0, 1)
        dress(axes, task, "tokens of the context", "accuracy" if first else "")

    def places(axes: Any, task: str, first: bool) -> None:
        length = size.lengths[len(size.lengths) // 2]
        for number, who in enumerate(["before", *seeds]):
            spans = curves[f"at-{length} {who}"][task].get("spans") or []
            xs = [100 * (place + 0.5) / len(spans) for place in range(len(spans))]
            line(axes, xs, spans, "before" if who == "before" else f"after, seed {who}", number, alone=False)
        axes.set_xlim(0, 100)
        axes.set_ylim(0, 1)
        dress(axes, f"{task}, {length:,} tokens", "place in the context, %", "accuracy" if first else "")

    top: list[Draw] = [
        partial(lengths, task=task, first=place == 0) for place, task in enumerate((*PROBES, "needle"))
    ]
    below: list[Draw] = [partial(places, task=task, first=place == 0) for place, task in enumerate(PROBES)]
    return [top, below]


# -- LongReward


def mean_of(*path: str) -> Callable[[Mapping[str, Any]], float]:
    """The mean under these keys of a task's result."""

    def found(task: Mapping[str, Any]) -> float:
        for key in path:
            task = task[key]
        return float(task["mean"])

    return found


REWARD_PARTS = {
    **{
        name: mean_of("dimensions", name)
        for name in ("helpfulness", "logicality", "faithfulness", "completeness")
    },
    "supported statements": mean_of("supported"),
    "words an answer": mean_of("words"),
    "answers cut": lambda task: float(task["unfinished"]),
}
"""What a reward is made of, and how long answers are."""


def longreward(bench: Bench, seeds: Sequence[int]) -> dict[str, Any]:
    """Rewards, support and length of fresh answers, before and after."""
    size = bench.size
    fresh = {
        "stage": "eval",
        "corpus": str(bench.work / "held"),
        "tasks": ["reward"],
        "questions": size.fresh,
        "samples": 4,
        "max_new_tokens": size.answer,
        "asking": {
            "segment_tokens": 64,
            "context_tokens": list(size.reward_tokens),
            "tokenizer": bench.model,
        },
        "precision": bench.precision,
        "seed": 0,
    }
    rows, told, panels = [], {}, {}
    for seed in seeds:
        name = f"longreward-{seed}"
        options = {"batch": size.candidates, "precision": bench.precision}
        recipe = bench.recipe(
            name,
            "longreward-laptop",
            [
                {
                    "id": "synth",
                    "corpus": str(bench.work / "texts"),
                    "tokenizer": bench.model,
                    "context_tokens": list(size.reward_tokens),
                    "examples": size.tasks,
                    "llm": f"local:{bench.model}",
                    "candidates": size.candidates,
                    "answer_tokens": size.answer,
                    "llm_options": options,
                    "seed": seed,
                },
                {"id": "score", "least_scored": max(2, size.candidates // 2)},
                {"id": "dpo", "model": bench.model, "seed": seed, **size.settings},
                {**fresh, "id": "before", "model": bench.model},
                {**fresh, "id": "eval"},
            ],
        )
        before = scores(bench.step(name, "eval", "before", recipe))
        made = {
            "synth": bench.step(name, "synth", "synth", recipe),
            "score": bench.step(name, "score", "score", recipe),
            "dpo": bench.step(name, "train", "dpo", recipe),
        }
        after = scores(bench.step(name, "eval", "eval", recipe))
        parts = {
            key: [of(tasks_of(one)["reward"]) for one in (before, after)] for key, of in REWARD_PARTS.items()
        }
        rows += [
            row | {"parts": parts}
            for row in changes(bench, name, before, after, seed=seed, at="fresh answers")
        ]
        told[seed] = {key: manifest(step) for key, step in made.items()}
        panels[f"before, seed {seed}"], panels[f"after, seed {seed}"] = tasks_of(before), tasks_of(after)

    def draw(axes: Any) -> None:
        for number, (label, of) in enumerate(panels.items()):
            counts = of["reward"]["histogram"]
            low, high = of["reward"]["scale"]
            edges = [low + (high - low) * place / len(counts) for place in range(len(counts) + 1)]
            shares = [count / (sum(counts) or 1) for count in counts]
            text = f"{label}: mean {of['reward']['mean']:.2f}"
            axes.stairs(shares, edges, color=COLOURS[number % len(COLOURS)], linewidth=2, label=text)
        dress(axes, "Rewards of fresh answers, 0 to 10", "reward", "share of answers")

    return {
        "rows": rows,
        "training": told,
        "tasks": {key: brief_all(of) for key, of in panels.items()},
        "picture": [[draw]],
    }


def brief_all(tasks: Mapping[str, Any]) -> dict[str, Any]:
    """What is kept of all tasks of a result."""
    return {task: brief(one) for task, one in tasks.items()}


# -- LOGO


def logo(bench: Bench, seeds: Sequence[int]) -> dict[str, Any]:
    """Needle, perplexity and outdated facts: as it is, with YaRN alone, after LOGO."""
    size = bench.size
    wide = 2 * size.window
    yarn = {
        "rope_type": "yarn",
        "factor": 2.0,
        "original_max_position_embeddings": size.window,
        "max_position_embeddings": wide,
    }
    common = {
        "stage": "eval",
        "corpus": "stdlib",
        "max_new_tokens": min(32, size.answer),
        "check": CHECK,
        "precision": bench.precision,
        "seed": 0,
    }

    def evals(who: str, model: str, rope: Mapping[str, Any]) -> list[dict[str, Any]]:
        shared = {**common, "model": model, "rope": dict(rope)}
        return [
            {
                **shared,
                "id": f"{who}-wide",
                "tasks": ["needle", "perplexity"],
                "lengths": list(size.wide_lengths),
                "sets": size.wide_sets,
                "depths": size.wide_depths,
            },
            {
                **shared,
                "id": f"{who}-stale",
                "tasks": ["stale"],
                "lengths": [size.stale_tokens],
                "sets": 4 * size.wide_sets,
                "depths": size.wide_depths,
            },
        ]

    real = size.chunks * size.chunk_tokens
    before = bench.recipe(
        "logo-before",
        "probe",
        [*evals("plain", bench.model, {"max_position_embeddings": wide}), *evals("yarn", bench.model, yarn)],
    )
    parts = ("wide", "stale")
    found: dict[str, dict[str, Path]] = {
        who: {part: scores(bench.step("logo-before", "eval", f"{who}-{part}", before)) for part in parts}
        for who in ("plain", "yarn")
    }
    rows, told = [], {}
    for part in parts:
        rows += changes(
            bench, f"yarn-{part}", found["plain"][part], found["yarn"][part], seed=None, at="plain to yarn"
        )
    for seed in seeds:
        name, who = f"logo-{seed}", f"logo {seed}"
        recipe = bench.recipe(
            name,
            "logo-laptop",
            [
                {
                    "id": "synth",
                    "corpus": str(bench.work / "texts"),
                    "decontaminate": [str(bench.work / "probes-texts.jsonl")],
                    "tokenizer": bench.model,
                    "llm": size.policy or f"local:{bench.model}",
                    "llm_options": {} if size.policy else {"batch": 4, "precision": bench.precision},
                    "examples": size.examples,
                    "segment_tokens": size.chunk_tokens,
                    "chunks": size.chunks,
                    "context_tokens": real,
                    "answer_tokens": size.answer,
                    "seed": seed,
                },
                {
                    "id": "train",
                    "model": bench.model,
                    "real_length": 2 * real,
                    "target_length": wide,
                    "slot_tokens": size.chunk_tokens,
                    "rope": yarn,
                    "seed": seed,
                    **size.settings,
                },
                *evals("logo", "step:train", {}),
            ],
        )
        made = {
            "synth": bench.step(name, "synth", "synth", recipe),
            "train": bench.step(name, "train", "train", recipe),
        }
        told[seed] = {key: manifest(step) for key, step in made.items()}
        found[who] = {part: scores(bench.step(name, "eval", f"logo-{part}", recipe)) for part in parts}
        for first in ("plain", "yarn"):
            for part in parts:
                a, b = found[first][part], found[who][part]
                rows += changes(bench, f"{name}.{first}-{part}", a, b, seed=seed, at=f"{first} to logo")
    tasks = {
        who: {task: one for path in of.values() for task, one in tasks_of(path).items()}
        for who, of in found.items()
    }

    def needles(axes: Any) -> None:
        xs = list(range(len(size.wide_lengths)))
        for number, (who, of) in enumerate(tasks.items()):
            line(axes, xs, of["needle"]["by_length"], who, number, alone=False)
        axes.set_xticks(xs, [f"{length:,}" for length in size.wide_lengths])
        axes.set_ylim(0, 1)
        dress(axes, "needle", "tokens of the context", "share found")

    def read(axes: Any) -> None:
        for number, (who, of) in enumerate(tasks.items()):
            edges, nll = of["perplexity"]["edges"], of["perplexity"]["curve"]
            middles = [(low + high) / 2 for low, high in pairwise(edges)]
            values = [math.exp(one) for one in nll]
            line(axes, middles, values, who, number, alone=False)
        axes.set_xlim(0, wide)
        axes.set_xticks([place * wide // 4 for place in range(5)])
        axes.set_yscale("log")
        dress(axes, "perplexity", "place in the text, tokens", "perplexity")

    return {
        "rows": rows,
        "training": told,
        "tasks": {key: brief_all(of) for key, of in tasks.items()},
        "picture": [[needles, read]],
    }


# -- all of it

METHODS: dict[str, Callable[[Bench, Sequence[int]], dict[str, Any]]] = {
    "in2": in2,
    "longreward": longreward,
    "logo": logo,
}


def show(name: str, rows: Sequence[Mapping[str, Any]], console: Console) -> None:
    """The changes as a table."""
    table = Table(title=f"{name}: before, after, and the change with its 95% interval")
    for column in (
        "",
        "seed",
        "task",
        "unit",
        "n",
        "before",
        "after",
        "change",
        "interval",
        "verdict",
        "gap",
    ):
        table.add_column(column)
    for row in rows:
        places = 2 if row["unit"] == "score" else 1
        between = "none" if row["low"] is None else f"{row['low']:+.{places}f} to {row['high']:+.{places}f}"
        gap = (
            f"{row['gap_before']:.0f} → {row['gap_after']:.0f}"
            if "gap_after" in row and "gap_before" in row
            else ""
        )
        cells = [
            f"{row['a']:.{places}f}",
            f"{row['b']:.{places}f}",
            f"{row['difference']:+.{places}f}",
            between,
            row["verdict"],
            gap,
        ]
        seed = "" if row["seed"] is None else str(row["seed"])
        table.add_row(row["at"], seed, row["task"], row["unit"], str(row["n"]), *cells)
    console.print(table)
    for row in rows:
        for part, (a, b) in row.get("parts", {}).items():
            console.print(f"seed {row['seed']}, {part}: {a:.2f} to {b:.2f}")


def main(argv: list[str] | None = None) -> dict[str, Any]:
    """Parse flags, do what is not yet done, print a table a method, write JSON and pictures where asked."""
    made = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    made.add_argument(
        "--work", type=Path, required=True, help="texts, recipes and runs; the same folder goes on"
    )
    made.add_argument("--only", choices=sorted(METHODS), help="one of the three (default: all)")
    made.add_argument("--seeds", default="0,1,2", help="seeds of data and training, split by commas")
    made.add_argument("--size", choices=sorted(SIZES), default="evening")
    made.add_argument("--model", default="smollm2")
    made.add_argument("--precision", default="bf16", help="of training, answers and evaluation")
    made.add_argument(
        "--set", action="append", default=[], metavar="KEY=JSON", help="another size, as questions=800"
    )
    made.add_argument("--train", action="append", default=[], metavar="KEY=JSON", help="of all training")
    made.add_argument("--json", type=Path)
    made.add_argument("--note", default="", help="what is to be known of this run, such as other load")
    made.add_argument("--plot", type=Path, help="a folder for the pictures")
    options = made.parse_args(argv)
    own = {key: json.loads(value) for key, value in (pair.split("=", 1) for pair in options.set)}
    own = {key: tuple(value) if isinstance(value, list) else value for key, value in own.items()}
    training = {"precision": options.precision}
    training |= {key: json.loads(value) for key, value in (pair.split("=", 1) for pair in options.train)}
    size = Size(**{**asdict(SIZES[options.size]), **own, "settings": training})
    work = options.work.resolve()
    (work / "log").mkdir(parents=True, exist_ok=True)
    console = Console(width=160)
    bench = Bench(work, size, options.model, options.precision, console, work / "log")
    known = work / "seconds.json"
    if known.is_file():
        bench.seconds = json.loads(known.read_text(encoding="utf-8"))
    seeds = [int(seed) for seed in options.seeds.split(",")]
    about = machine("torch", "transformers", "peft") | {"threads": os.environ.get("OMP_NUM_THREADS", "all")}
    found: dict[str, Any] = {
        "benchmark": "real_weights",
        "machine": about,
        "model": options.model,
        "precision": options.precision,
        "note": options.note,
        "size": {"name": options.size, **asdict(size)},
        "seeds": seeds,
        "texts": make_texts(bench),
    }
    for name in [options.only] if options.only else METHODS:
        try:
            result = METHODS[name](bench, seeds)
        finally:
            write_json(known, bench.seconds)
        picture = result.pop("picture")
        if options.plot:
            note = (
                f"{options.model}, {options.precision}, {several(about['cores'], 'core')} of {about['cpu']}"
            )
            rows_png(options.plot / f"real_{name}.png", picture, note=note, shared=False)
        show(name, result["rows"], console)
        found[name] = result
    about["load_after"] = round(os.getloadavg()[0], 2)
    found["seconds"] = bench.seconds
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        write_json(options.json, found)
    return found


if __name__ == "__main__":
    main()
