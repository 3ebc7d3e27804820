"""A made-up run with two models and every kind of task, as files that eval steps write."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lcx.evaluation.runner import excerpt
from lcx.evaluation.statistics.curves import curve_evidence, span_curve
from lcx.evaluation.statistics.grids import grid, grid_evidence
from lcx.evaluation.statistics.intervals import group_evidence
from lcx.paths import slug
from lcx.storage import write_json, write_lines, write_text

MODELS = {"base-7b": "base/model-7b", "train": "step:train"}
SETS, ITEMS, SPAN = 12, 80, 10
LENGTHS, DEPTHS = (4096, 8192, 16384, 32768), tuple(n / 8 for n in range(9))
BENCHMARKS = {
    "qasper": 0.30,
    "hotpotqa": 0.41,
    "gov_report": 0.27,
    "trec": 0.62,
    "passage_count": 0.08,
    "lcc": 0.55,
}
WORDS = "river lantern gravel orchard signal copper velvet harbour engine meadow thirty ledger".split()  # noqa: SIM905

Row = dict[str, Any]


def make_run(folder: Path, *, trials: int = 200, models: tuple[str, ...] = tuple(MODELS)) -> Path:
    """Write the run: an untrained model that loses the middle, and one that the run trained."""
    steps = {"train": {"state": "done", "stage": "train"}}
    for model in models:
        steps[f"eval/{model}"] = {"state": "done", "stage": "eval"}
        place = folder / "eval" / model
        tasks: dict[str, Any] = {}
        for name, rows, scores in _tasks(model == "train", trials):
            write_lines(place / f"predictions-{slug(name)}.jsonl", rows)
            tasks[name] = {"task": name, "nulls": 0, "skipped": 0, "n": len(rows), **scores}
        tasks["perplexity"] = _perplexity(model == "train")
        head = {"lcx": "0.1.0", "model": model, "corpus": "books", "seed": 0, "style": "natural"}
        write_json(place / "scores.json", {**head, "tasks": tasks, "average": 0.5, "gap": 0.2})
        write_text(place / "settings.yaml", f"model:\n  value: {MODELS[model]}\n  from: recipe\n")
    write_json(folder / "manifest.json", {"recipe": "mine", "steps": steps})
    return folder


def _tasks(trained: bool, trials: int) -> list[tuple[str, list[Row], Row]]:
    made = [_curve("val:database", trained, trials), _grid(trained, trials), _lengths(trained)]
    return [*made, *(_suite(f"longbench:{name}", score, trained) for name, score in BENCHMARKS.items())]


def _answer(rng: random.Random, right: float, gold: str) -> tuple[str, float]:
    found = rng.random() < right
    return (gold if found else f"{rng.choice(WORDS)} {rng.randrange(100)}"), float(found)


def _context(rng: random.Random, evidence: str, at: float) -> tuple[str, list[list[int]]]:
    before = " ".join(rng.choices(WORDS, k=round(80 * at))) + " " * (at > 0)
    text = f"{before}{evidence} {' '.join(rng.choices(WORDS, k=80 - round(80 * at)))}"
    return text, [[len(before), len(before) + len(evidence)]]


def _curve(name: str, trained: bool, trials: int) -> tuple[str, list[Row], Row]:
    rng = random.Random(f"{name}{trained}")
    rows: list[Row] = []
    for number in range(SETS):
        for place in range(ITEMS):
            at = place / (ITEMS - 1)
            right = 0.96 if trained else 0.42 + 0.55 * (2 * at - 1) ** 2
            asked = random.Random(f"{number}:{place}")
            key, gold = f"record-{asked.randrange(10**6)}", f"{asked.choice(WORDS)} {asked.randrange(1000)}"
            pred, score = _answer(rng, right, gold)
            text, evidence = _context(asked, f"{key}: {gold}", at)
            rows.append(
                {
                    **{"item": f"{name}:{number}#{place}", "context": f"{name}:{number}", "set_id": number},
                    **{
                        "position_id": place,
                        "query": key,
                        "id": key,
                        "label": gold,
                        "description": "a record",
                    },
                    **{"question": f"What is the label of the entry {key}?", "at": at, "pred": pred},
                    **{"score": score, "finish": "stop", "excerpt": excerpt(text, evidence)},
                }
            )
    places = [(row["set_id"], row["position_id"], row["score"]) for row in rows]
    names = [row["context"] for row in rows]
    evidence_of = curve_evidence(places, width=SPAN, positions=ITEMS, contexts=names, trials=trials)
    curve = span_curve(places, width=SPAN, positions=ITEMS).as_dict()
    return name, rows, {"view": "curve", "positions": ITEMS, "contexts": SETS, **curve, **evidence_of}


def _grid(trained: bool, trials: int) -> tuple[str, list[Row], Row]:
    rng = random.Random(f"grid{trained}")
    rows: list[Row] = []
    for number in range(6):
        for long, length in enumerate(LENGTHS):
            for place, depth in enumerate(DEPTHS):
                lost = 0.26 * long * (1 - (2 * depth - 1) ** 2) + 0.05 * long
                asked = random.Random(f"{number}:{length}:{depth}")
                gold = str(asked.randrange(10**6, 10**7))
                pred, score = _answer(rng, 1 - lost * (0.25 if trained else 1), gold)
                text, evidence = _context(asked, f"The storage code of the amber kiln is {gold}.", depth)
                rows.append(
                    {
                        **{
                            "item": f"needle:{number}:{length}#{place}",
                            "context": f"needle:{number}:{length}",
                        },
                        **{"set_id": number, "position_id": place, "length": length, "depth": depth},
                        **{"unit": "tokens", "query": "amber kiln", "value": gold, "pred": pred, "at": depth},
                        **{"question": "What is the storage code of the amber kiln?", "score": score},
                        **{"finish": "stop", "excerpt": excerpt(text, evidence)},
                    }
                )
    cells = grid((row["length"], row["depth"], row["score"]) for row in rows)
    known = [(row["length"], row["depth"], row["context"], row["score"]) for row in rows]
    evidence_of = grid_evidence(known, LENGTHS, DEPTHS, trials=trials)
    return "needle", rows, {"view": "grid", "unit": "tokens", "contexts": 24, **cells, **evidence_of}


def _rows(
    name: str, count: int, right: Callable[[int], float], trained: bool, more: Callable[[int], Row]
) -> list[Row]:
    rng = random.Random(f"{name}{trained}")
    rows = []
    for number in range(count):
        asked = random.Random(f"{name}:{number}")
        gold = asked.choice(WORDS)
        pred, score = _answer(rng, right(number), gold)
        row = {
            "item": f"{name}:{number}#0",
            "context": f"{name}:{number}",
            "id": str(number),
            "answers": [gold],
        }
        row |= {"question": f"Which word was meant in {name} {number}?", "pred": pred, "score": score}
        rows.append({**row, "finish": "stop", "excerpt": f"{gold} stood in it", **more(number)})
    return rows


def _lengths(trained: bool) -> tuple[str, list[Row], Row]:
    def right(number: int) -> float:
        return 0.95 - (0.05 if trained else 0.22) * (number % len(LENGTHS))

    rows = _rows("multihop", 160, right, trained, lambda number: {"length": LENGTHS[number % len(LENGTHS)]})
    groups = group_evidence([(row["length"], row["context"], row["score"]) for row in rows])
    of = [groups[length] for length in LENGTHS]
    means = [one["mean"] for one in of]
    scores = {"view": "lengths", "unit": "tokens", "lengths": list(LENGTHS), "values": means}
    scores |= {"counts": [one["n"] for one in of], "intervals": [[one["low"], one["high"]] for one in of]}
    whole = group_evidence([("all", row["context"], row["score"]) for row in rows])["all"]
    return (
        "multihop",
        rows,
        {**scores, "average": sum(means) / 4, "gap": max(means) - min(means), "estimate": whole},
    )


def _suite(name: str, score: float, trained: bool) -> tuple[str, list[Row], Row]:
    gain = {"longbench:trec": -0.15, "longbench:passage_count": 0.0}.get(name, 0.12)
    bands = ("0-4k", "4-8k", "8k+")

    def right(number: int) -> float:
        return score + gain * trained - 0.06 * (number % 3)

    rows = _rows(name, 150, right, trained, lambda number: {"length": (2000, 6000, 9000)[number % 3]})
    by = group_evidence([(bands[n % 3], row["context"], row["score"]) for n, row in enumerate(rows)])
    whole = group_evidence([("all", row["context"], row["score"]) for row in rows])["all"]
    found = {"view": "table", "score": 100 * whole["mean"], "average": whole["mean"], "estimate": whole}
    return name, rows, {**found, "gap": None, "nulls": 2 * (not trained), "by": {"length": by}}


def _perplexity(trained: bool) -> Row:
    curve = [2.9 - 0.35 * (n / 15) ** 0.5 - 0.08 * trained * n / 15 for n in range(16)]
    whole = sum(curve) / 16
    edges = [2048 * n for n in range(17)]
    read = {"n": 131068, "texts": 4, "documents": 9, "joined": 4, "content": "abc", "nll": whole}
    read |= {"perplexity": 2.718281828**whole, "lengths": [8192, 32768], "at_length": [16.1, 13.9]}
    return {
        "task": "perplexity",
        "view": "perplexity",
        **read,
        "edges": edges,
        "curve": curve,
        "counts": [8191] * 16,
    }
