"""Everything that is shown of one small run, as text: what each renderer says of each kind of view.

`python -m tests.evaluation.golden.golden_views` writes the files beside this module anew. They are the test of
equality for changes that mean to change nothing; a change that is meant is committed together with its files.
The run has two models, predictions with scores that need no model, and a task of every kind: a curve by position, a
grid of length by depth, accuracy by length, tables with groups and without, and perplexity with its journal.
"""

from __future__ import annotations

import contextlib
import html.parser
import io
import itertools
import json
import os
import random
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib.figure
import numpy as np

HERE = Path(__file__).parent
MODELS = {"base": "base/model", "train": "step:train"}
MADE = 1_700_000_000
WORDS = ("river", "lantern", "gravel", "orchard", "signal", "copper", "velvet", "harbour")
Row = dict[str, Any]


def predictions(trained: bool) -> dict[str, list[Row]]:
    """The predictions of one model by task, without scores."""
    rng = random.Random(f"golden {trained}")
    curve, grid, lengths, hotpot, trec, choice = [], [], [], [], [], []
    for number, place in itertools.product(range(3), range(20)):
        right = rng.random() < (0.95 if trained else 0.25 + 0.7 * (place / 9.5 - 1) ** 2)
        entry = {
            "id": f"r{number}-{place}",
            "label": f"label {number * 20 + place}",
            "description": "nowhere",
        }
        name = {"item": f"val:database:{number}#{place}", "context": f"val:{number}"}
        curve.append(
            {**name, "set_id": number, "position_id": place, **entry}
            | {"question": f"What is the label of {entry['id']}?", "at": round(place / 19, 4)}
            | {"pred": entry["label"] if right else ("" if place % 7 else None), "finish": "stop"}
            | {"excerpt": f"… before «{entry['label']}» after …"}
        )
    for number, length, depth in itertools.product(range(3), (1024, 4096, 6000), (0.0, 0.5, 1.0)):
        lost = (0.1 if trained else 0.5) * (length > 1024) * (1.2 - abs(2 * depth - 1))
        value = str(1000 + len(grid))
        pred = value if rng.random() > lost else "77" if depth else "none that I see"
        grid.append(
            {"item": f"needle:{number}:{length}:{depth}", "context": f"needle:{number}:{length}"}
            | {"set_id": number, "position_id": round(depth * 2), "length": length, "depth": depth}
            | {"query": "kiln", "value": value, "question": "Which code?", "pred": pred, "decoy": "77"}
            | {"unit": "tokens", "finish": "stop"}
        )
    for number in range(24):
        length, word = (1024, 2048, 8192)[number % 3], WORDS[number % 8]
        right = rng.random() > (0.05 if trained else 0.25) * (number % 3)
        lengths.append(
            {"item": f"multihop:{number}", "context": f"m{number}", "set_id": number, "position_id": 0}
            | {"length": length, "value": word, "question": f"Which word {number}?", "unit": "tokens"}
            | {"hops": 2, "query": f"q{number}", "pred": word if right else "no idea", "finish": "stop"}
        )
        gold = f"{word} {WORDS[(number + 3) % 8]}"
        hotpot.append(
            {"id": f"h{number}", "answers": [gold], "length": 1500 + 700 * number, "question": f"Q {number}?"}
            | {
                "pred": gold if right else word if number % 2 else "I'm sorry, I cannot say.",
                "finish": "stop",
            }
        )
        trec.append(
            {"id": f"t{number}", "answers": ["Number"], "all_classes": ["Number", "Place"], "length": 100}
            | {"pred": "Number" if rng.random() < 0.6 else "Place\nNumber", "finish": "length"}
        )
        choice.append(
            {"id": f"c{number}", "answer": "A", "length": ("short", "long")[number % 2]}
            | {"difficulty": "easy" if number % 3 else "hard", "domain": "Code", "question": "A or B?"}
            | {"pred": f"The correct answer is ({'A' if right else 'B'})"}
        )
    tasks = {"val:database": curve, "needle": grid, "multihop": lengths}
    return {**tasks, "longbench:hotpotqa": hotpot, "longbench:trec": trec, "longbench_v2": choice}


def reading(trained: bool) -> tuple[list[Row], Row]:
    """The journal's lines and the scores of perplexity: four texts of 256 tokens."""
    from lcx.evaluation.probes.perplexity import PERPLEXITY, bucket_edges
    from lcx.evaluation.task import TextSample

    edges = bucket_edges([64, 256], 8)
    meta = {"edges": list(edges), "lengths": [64, 256], "buckets": 8, "documents": 1}
    texts = [TextSample(f"perplexity:0:{n}", tuple(range(n, n + 256)), meta) for n in range(4)]
    rng = random.Random("reading")
    found = []
    for _ in texts:
        counts = [end - max(start, 1) for start, end in itertools.pairwise(edges)]
        gains = [rng.uniform(0.02, 0.2) if trained else rng.random() * 0 for _ in counts]
        sums = [n * (rng.uniform(2, 3) - gain) for n, gain in zip(counts, gains, strict=True)]
        found.append({"sums": sums, "counts": counts})
    lines = [
        {"unit": f"perplexity {text.id}", "fingerprint": "f", "result": one}
        for text, one in zip(texts, found, strict=True)
    ]
    return lines, {"task": "perplexity", "view": "perplexity", **PERPLEXITY.summarize_texts(texts, found)}


def write_run(folder: Path) -> Path:
    """Write the run's files as eval steps do."""
    from lcx.paths import slug
    from lcx.storage import write_json, write_lines, write_text
    from tests.evaluation.tasks import score_rows

    steps: Row = {"train": {"state": "done", "stage": "train"}}
    for number, (model, spec) in enumerate(MODELS.items()):
        place, trained = folder / "eval" / model, model == "train"
        steps[f"eval/{model}"] = {"state": "done", "stage": "eval"}
        tasks: Row = {}
        for task, rows in predictions(trained).items():
            scores, values = score_rows(task, rows, span=5)
            scored = [{**row, "score": value} for row, value in zip(rows, values, strict=True)]
            write_lines(place / f"predictions-{slug(task)}.jsonl", scored)
            tasks[task] = {**scores, "contexts": len({row.get("context") for row in rows})}
        lines, tasks["perplexity"] = reading(trained)
        write_lines(place / "journal.jsonl", lines)
        head = {
            "lcx": "0.1.0",
            "model": model,
            "asked": spec,
            "corpus": "books",
            "seed": 0,
            "style": "natural",
        }
        head |= {"weights": f"{model}-weights", "template": "in2", "template_hash": "abc", "limit": None}
        head |= {"versions": {"transformers": "5.0"}, "skipped": {"longbench:lcc": "its data are not here"}}
        write_json(place / "scores.json", {**head, "tasks": tasks, "families": {}})
        write_text(place / "settings.yaml", f"model: {{value: '{spec}', from: recipe}}\n")
        os.utime(place / "scores.json", (MADE + number, MADE + number))
    write_json(folder / "manifest.json", {"recipe": "mine", "steps": steps})
    return folder


class Structure(html.parser.HTMLParser):
    """The elements and texts of a page, a line each, indented; styles and scripts as their names alone."""

    void = ("meta", "link", "input", "br", "wbr")

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        kept = [f'{name}="{value}"' for name, value in sorted(attrs) if name != "content"]
        self.lines.append("  " * len(self.open) + " ".join([f"<{tag}", *kept]) + ">")
        if tag not in self.void:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in self.void:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        self.open.pop()

    def handle_data(self, data: str) -> None:
        text = re.sub(r"\s+", " ", data).strip()
        if text and self.open[-1] not in ("style", "script"):
            self.lines.append("  " * len(self.open) + text)


def structure(page: str) -> str:
    reader = Structure()
    reader.feed(page)
    reader.close()
    return "\n".join(reader.lines)


@contextlib.contextmanager
def figures() -> Iterator[list[Any]]:
    """Collects what is drawn in every figure that is saved as PNG."""
    found: list[Any] = []
    save = matplotlib.figure.Figure.savefig

    def saved(self: Any, fname: Any, **options: Any) -> None:
        if options.get("format") == "png":
            found.append([drawn(axes) for axes in self.axes])
        save(self, fname, **options)

    matplotlib.figure.Figure.savefig = saved  # type: ignore[method-assign]
    try:
        yield found
    finally:
        matplotlib.figure.Figure.savefig = save  # type: ignore[method-assign]


def drawn(axes: Any) -> Row:
    """The numbers and words of one panel."""

    def numbers(values: Any) -> Any:
        array = np.ma.filled(np.ma.asarray(values, dtype=float), np.nan)
        return [[plain(x) for x in row] for row in np.atleast_2d(array).tolist()]

    def plain(value: float) -> float | None:
        return None if value != value else round(value, 9)

    return {
        "title": axes.get_title(loc="left"),
        "below": axes.get_xlabel(),
        "beside": axes.get_ylabel(),
        "scale": [axes.get_xscale(), axes.get_yscale()],
        "limits": [[plain(float(end)) for end in ends] for ends in (axes.get_xlim(), axes.get_ylim())],
        "ticks": [[label.get_text() for label in axes.get_xticklabels()]],
        "rows": [label.get_text() for label in axes.get_yticklabels()],
        "lines": [
            {"label": line.get_label(), "x": numbers(line.get_xdata()), "y": numbers(line.get_ydata())}
            for line in axes.lines
        ],
        "bands": [[numbers(path.vertices) for path in one.get_paths()] for one in axes.collections],
        "images": [numbers(image.get_array()) for image in axes.images],
        "texts": [text.get_text() for text in axes.texts],
    }


def terminal(tasks: Row) -> str:
    """All terminal texts of a step's results, in the widths and signs that terminals have."""
    from lcx.evaluation.show.terminal import task_text, tasks_text

    parts = []
    for width, unicode, colour in ((80, True, False), (60, False, False), (40, True, True)):
        options = {"width": width, "unicode": unicode, "colour": colour}
        parts.append(f"===== {width} columns{', colour' * colour}{', unicode' * unicode}")
        parts += [f"{text}\n" for text in tasks_text(tasks, **options)]
        first = {task: dict(list(models.items())[:1]) for task, models in tasks.items()}
        parts += [f"{task_text(task, models, **options)}\n" for task, models in first.items()]
    return "\n".join(line.rstrip() for line in "\n".join(parts).split("\n")) + "\n"


def pictures(run: Path) -> list[Any]:
    """What is drawn: each task of one model, then all of both."""
    from lcx.evaluation.result import result_of
    from lcx.evaluation.show.png import draw_task, run_picture

    scores = json.loads((run / "eval" / "base" / "scores.json").read_text())["tasks"]
    with figures() as found:
        for task, one in scores.items():
            draw_task(run / "pictures", task, {"base": result_of(task, one)})
        run_picture(run / "eval")
    return found


def embedded(page: str) -> Any:
    return json.loads(page[page.index('id="data">') + 10 : page.index("</script>")])


def golden() -> dict[str, str]:
    """Every golden file's text by its name."""
    from lcx.evaluation.compare import Options, compare
    from lcx.evaluation.export import export
    from lcx.evaluation.scores import find_sides, overlay
    from lcx.evaluation.show.comparison import comparison_text
    from lcx.evaluation.show.page import write_comparison, write_report

    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        run = write_run(Path("mine"))
        found: dict[str, Any] = {
            f"scores-{model}.json": json.loads((run / "eval" / model / "scores.json").read_text())
            for model in MODELS
        }
        found["terminal.txt"] = terminal(overlay(run / "eval")[0])
        found["pictures.json"] = pictures(run)
        comparison = compare(*find_sides(["mine"]), Options(trials=999))
        found["comparison.txt"] = comparison_text(comparison) + "\n"
        found["comparison.json"] = comparison.as_dict()
        for model in MODELS:
            export(run / "eval" / model, ["markdown", "lm-eval"])
            found[f"card-{model}.md"] = (run / "eval" / model / "model-card.md").read_text()
        made = run / "eval" / "train" / "export-lm-eval" / "train"
        [results] = made.glob("results_*.json")
        found["lm-eval.json"] = json.loads(results.read_text())
        for key in ("date", "git_hash"):
            found["lm-eval.json"].pop(key)
        samples = sorted(made.glob("samples_*.jsonl"))
        found["lm-eval-samples.json"] = [json.loads(one.read_text().split("\n")[3]) for one in samples]
        pages = {
            "report": write_report(run),
            "one-model": write_report(run / "eval" / "base"),
            "against": write_comparison("against.html", comparison.a, comparison.b, comparison.verdicts),
        }
        for name, path in pages.items():
            page = path.read_text(encoding="utf-8")
            found[f"page-{name}.json"] = embedded(page)
            found[f"page-{name}.txt"] = structure(page) + "\n"
    return {name: value if isinstance(value, str) else as_json(value) + "\n" for name, value in found.items()}


def as_json(value: Any) -> str:
    """JSON with a line a key, but lists of numbers on one line."""
    text = json.dumps(value, indent=1, ensure_ascii=False, sort_keys=True)
    return re.sub(r"\[\s+([^\[\]{}\"]*?)\s+\]", lambda one: "[" + " ".join(one[1].split()) + "]", text)


def write() -> None:
    """Write all golden files beside this module."""
    with contextlib.redirect_stdout(io.StringIO()):
        made = golden()
    for name, text in made.items():
        (HERE / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    write()
