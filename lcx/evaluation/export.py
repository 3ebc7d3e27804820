"""Results in forms that other tools read: lm-eval 0.4's files, and a Markdown block for a model card. Torch-free."""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import json
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lcx.errors import LcxError, MissingError, UsageError, suggestion
from lcx.evaluation.result import Curve, Grid, Histogram, Mean, Result, Table, result_of
from lcx.evaluation.scores import read_scores
from lcx.formatting import bar_lines, level_bars
from lcx.paths import slug
from lcx.storage import is_inside, make_folder, read_json, read_jsonl, write_json, write_lines, write_text

__all__ = [
    "KINDS",
    "blocks_of_run",
    "export",
    "lm_eval_results",
    "lm_eval_sample",
    "markdown_block",
    "write_lm_eval",
    "write_markdown",
]


KINDS = ("lm-eval", "markdown")


def export(folder: Path, kinds: Sequence[str]) -> dict[str, Path]:
    """Export the results in a model's folder of an eval step; where each kind was written.

    Raises UsageError for an unknown kind, MissingError where the folder has no results.
    """

    for kind in kinds:
        if kind not in KINDS:
            raise UsageError(
                f"--export knows no '{kind}'. {suggestion(kind, KINDS)}".rstrip(), hint=" or ".join(KINDS)
            )
    if not (folder / "scores.json").is_file():
        raise MissingError(f"no results in {folder}", hint="lcx eval makes them.")
    made = {}
    for kind in dict.fromkeys(kinds):
        made[kind] = write_lm_eval(folder) if kind == "lm-eval" else write_markdown(folder)
    return made


METRIC = "score"
FOLDER = "export-lm-eval"


def write_lm_eval(folder: Path) -> Path:
    """Write the files into `folder`/export-lm-eval; the same results give the same names. Returns that folder."""
    scores = read_scores(folder)
    made = (folder / "scores.json").stat().st_mtime
    time = datetime.datetime.fromtimestamp(made).isoformat(timespec="microseconds").replace(":", "-")
    target = folder / FOLDER / re.sub(r"[\"<>:/|\\?*\[\]]+", "__", str(scores["model"]))
    if not is_inside(target, folder):  # by a link, or a name such as `..`
        raise UsageError(
            f"{target} leads out of {folder}", hint="Remove the link, or take another --run DIR."
        )
    make_folder(target)
    for old in target.glob("*_*.json*"):
        old.unlink()
    hashes = {}
    for task, found in scores["tasks"].items():
        file = folder / f"predictions-{slug(task)}.jsonl"
        if not file.is_file():
            continue
        samples = [lm_eval_sample(number, row, found) for number, row in enumerate(read_jsonl(file))]
        keys = ("doc_hash", "prompt_hash", "target_hash")
        hashes[_name(task)] = _hash("".join(sample[key] for sample in samples for key in keys))
        write_lines(target / f"samples_{_name(task)}_{time}.jsonl", samples)
    write_json(target / f"results_{time}.json", lm_eval_results(scores, made) | {"task_hashes": hashes})
    return folder / FOLDER


def lm_eval_results(scores: Mapping[str, Any], made: float) -> dict[str, Any]:
    """The object of `results_TIME.json`; `made` is when the results were, in seconds."""
    results: dict[str, Any] = {}
    tasks = {_name(task): found for task, found in scores["tasks"].items()}
    for name, found in tasks.items():
        value = found.get("average")
        values = {f"{METRIC},none": value, f"{METRIC}_stderr,none": _stderr(found)}
        if value is None:
            values = {}
        if found.get("perplexity") is not None:
            values |= {"perplexity,none": found["perplexity"], "perplexity_stderr,none": "N/A"}
        values |= _cut(name, found)
        results[name] = {"name": name, "alias": name, "sample_len": found.get("n", 0), **values}
    return {
        "results": results,
        "group_subtasks": {},
        "configs": {name: _config(name, found) for name, found in tasks.items()},
        "versions": {name: found.get("version") or found.get("data") or "" for name, found in tasks.items()},
        "n-shot": {name: found.get("shots") or 0 for name, found in tasks.items()},
        "higher_is_better": {
            name: {METRIC: True} | ({"perplexity": False} if "perplexity" in found else {})
            for name, found in tasks.items()
        },
        "n-samples": {
            name: {
                "original": found.get("n", 0) + (found.get("errors") or 0),
                "effective": found.get("n", 0),
            }
            for name, found in tasks.items()
        },
        "config": {
            "model": "lcx",
            "model_args": f"pretrained={scores.get('asked') or scores['model']}",
            "model_sha": scores.get("weights") or "",
            "batch_size": None,
            "device": None,
            "limit": scores.get("limit"),
            "bootstrap_iters": 0,
            "gen_kwargs": None,
            "random_seed": scores.get("seed"),
            "numpy_seed": scores.get("seed"),
            "torch_seed": scores.get("seed"),
            "fewshot_seed": scores.get("seed"),
        },
        "git_hash": None,
        "date": made,
        "lcx_version": scores.get("lcx"),
        "transformers_version": (scores.get("versions") or {}).get("transformers"),
        "model_source": "lcx",
        "model_name": scores["model"],
        "model_name_sanitized": re.sub(r"[\"<>:/|\\?*\[\]]+", "__", str(scores["model"])),
        "system_instruction": None,
        "system_instruction_sha": None,
        "fewshot_as_multiturn": False,
        "chat_template": None,
        "chat_template_sha": (scores.get("chat_template") or {}).get("hash"),
    }


def _stderr(found: Mapping[str, Any]) -> float | str:
    """Half of the interval over 1.96, where there is one: the closest to the one number that lm-eval has for it."""
    estimate = found.get("estimate") or {}
    low, high = estimate.get("low"), estimate.get("high")
    return "N/A" if low is None or high is None else (high - low) / 3.92


def _cut(name: str, found: Mapping[str, Any]) -> dict[str, Any]:
    """The part of the answers that are cut, as a metric of its own, where it is more than a few of them."""
    share = (found.get("unfinished") or 0) / max(1, found.get("n") or 0)
    return {"cut,none": min(1.0, share), "cut_stderr,none": "N/A"} if result_of(name, found).cut else {}


def _config(name: str, found: Mapping[str, Any]) -> dict[str, Any]:
    prompt = found.get("prompt") or {}
    return {
        "task": name,
        "dataset_path": "lcx",
        "output_type": "generate_until",
        "generation_kwargs": {"do_sample": False, "max_gen_toks": prompt.get("max_new_tokens")},
        "metric_list": [{"metric": METRIC, "aggregation": "mean", "higher_is_better": True}],
        "metadata": {
            "lcx_task": found.get("task", name),
            "compat": found.get("compat"),
            "data": found.get("data"),
            **{key: found[key] for key in ("errors", "thoughts", "unfinished_thoughts") if found.get(key)},
            **prompt,
        },
    }


def lm_eval_sample(number: int, row: Mapping[str, Any], found: Mapping[str, Any]) -> dict[str, Any]:
    """A row of predictions as a line of `samples_TASK_TIME.jsonl`."""
    target = row.get("answers") or row.get("answer") or row.get("value") or row.get("description") or ""
    target = target if isinstance(target, str) else str(next(iter(target), ""))
    question, said = str(row.get("question") or ""), row.get("pred")
    left_out = ("pred", "raw", "score", "finish", "question")
    doc = {key: value for key, value in row.items() if key not in left_out}
    doc |= {"finish": row["finish"]} if row.get("finish") == "error" else {}
    tokens = (found.get("prompt") or {}).get("max_new_tokens")
    return {
        "doc_id": number,
        "doc": doc,
        "target": target,
        "arguments": {
            "gen_args_0": {"arg_0": question, "arg_1": {"max_gen_toks": tokens, "do_sample": False}}
        },
        "resps": [[row.get("raw") or said or ""]],
        "filtered_resps": [said or ""],
        "filter": "none",
        "metrics": [METRIC],
        "doc_hash": _hash(json.dumps(doc, sort_keys=True, ensure_ascii=False)),
        "prompt_hash": _hash(question),
        "target_hash": _hash(target),
        METRIC: row.get("score"),
    }


def _name(task: str) -> str:
    """A task's name without the colons and slashes that files may not have."""
    return re.sub(r"[^\w.+-]+", "_", task)


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


CARD = "model-card.md"
HEAD = ("task", "score", "95% interval", "items", "by place or length")


def write_markdown(folder: Path) -> Path:
    """Write `model-card.md` beside the scores in `folder`."""
    scores = read_scores(folder)
    settings = folder / "settings.yaml"
    recipe = next(
        (read_json(place / "manifest.json").get("recipe") for place in folder.parents[:2] if _is_run(place)),
        None,
    )
    write_text(folder / CARD, markdown_block(scores, recipe, _values(settings)))
    return folder / CARD


def blocks_of_run(run: Path, model: str) -> list[str]:
    """Blocks of all models that a run evaluated: first those of `model`, then those that it is to be held against."""
    manifest = read_json(run / "manifest.json")
    blocks = []
    for key, record in (manifest.get("steps") or {}).items():
        file = run / key / "scores.json"
        if record.get("stage") == "eval" and record.get("state") == "done" and file.is_file():
            asked = ((record.get("fingerprint") or {}).get("settings") or {}).get("model")
            scores = read_json(file)
            if isinstance(chat := scores.get("chat_template"), Mapping):  # mostly a folder of this machine
                scores["chat_template"] = {**chat, "name": slug(str(chat.get("name") or "its own"))}
            block = markdown_block(scores, manifest.get("recipe"), _values(run / key / "settings.yaml"))
            blocks.append((asked != model, block))
    return [block for _, block in sorted(blocks, key=lambda one: one[0])]


def _is_run(place: Path) -> bool:
    return (place / "manifest.json").is_file()


def _values(file: Path) -> dict[str, Any]:
    """The step's settings that did not come from the method or the recipe."""
    from lcx.yamls import read_yaml_file

    if not file.is_file():
        return {}
    found = read_yaml_file(file).value or {}
    return {
        key: one["value"]
        for key, one in found.items()
        if isinstance(one, Mapping) and str(one.get("from", "")).startswith("--")
    }


def markdown_block(
    scores: Mapping[str, Any], recipe: str | None = None, given: Mapping[str, Any] | None = None
) -> str:
    """The block. `given` are the settings that the command line gave."""
    lines = [f"## Long-context evaluation of {scores['model']}", ""]
    lines += [_row(HEAD), "|---|---:|---|---:|---|"]
    results = {task: result_of(task, found) for task, found in scores["tasks"].items()}
    for task, one in results.items():
        lines.append(
            _row(
                (f"`{task}`", _score(one), _interval(one.estimate, one.own_scale), f"{one.n:,}", _shape(one))
            )
        )
    for family, found in (scores.get("families") or {}).items():
        some = f"{found['sets']} of {found['of']} sets"
        lines.append(_row((f"**{family}**", _percent(found["average"]), "", some, "")))
    lines.append("")
    for one in results.values():
        lines += _parts(one) if one.scale else []
    lines += [f"- {note}" for note in _notes(scores)]
    command = _command(scores, recipe, given or {})
    lines += ["", "Again:", "", "```bash", command, "```", ""]
    return "\n".join(lines)


def _row(cells: tuple[str, ...]) -> str:
    return f"| {' | '.join(cells)} |"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def _score(one: Result) -> str:
    if one.view == "perplexity" and one.estimate.mean is not None:
        return f"perplexity {one.estimate.mean:.3f}"
    shown = _own(one.estimate.mean) if one.own_scale else _percent(one.percent)
    return shown + (f" ({'; '.join(one.beside)})" if one.beside else "")


def _interval(one: Mean, own_scale: bool = False) -> str:
    if one.ends is None:
        return one.no_interval or "-"
    if own_scale:
        return f"{one.ends[0]:.3f} to {one.ends[1]:.3f}"
    return f"{100 * one.ends[0]:.1f} to {100 * one.ends[1]:.1f}"


def _own(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _parts(one: Result) -> list[str]:
    """A judged task's groups, shares and other means on their own scales, and how its scores are distributed."""
    rows = [
        (f"{panel.by} {name}", mean)
        for panel in one.bars
        for name, mean in zip(panel.names, panel.means, strict=True)
    ]
    for panel in one.panels:
        if isinstance(panel, Table):
            rows += [
                (f"{name}: {column}", mean)
                for name, means in panel.rows
                for column, mean in zip(panel.columns, means, strict=True)
            ]
    rows += one.measures.items()
    low, high = one.scale or (0.0, 1.0)
    lines = [f"### {one.task}", "", f"Scores go from {low:g} to {high:g}.", ""]
    if rows:
        lines += [_row(("part", "mean", "95% interval", "n")), "|---|---:|---|---:|"]
        lines += [
            _row((name, _own(mean.mean), _interval(mean, True), f"{mean.n or 0:,}")) for name, mean in rows
        ]
        lines.append("")
    for panel in one.panels:
        if isinstance(panel, Histogram):
            names = [f"{edge:.2f}" for edge in panel.edges[:-1]]
            lines += ["```text", *bar_lines(names, panel.counts), "```", ""]
    return lines


def _shape(one: Result) -> str:
    """The main curve as a row of bars, with its gap; a grid by length, with its worst cell."""
    curve = next((panel for panel in one.panels if isinstance(panel, Curve)), None)
    if curve is None or curve.by == "tokens":
        return ""
    end = ""
    if curve.by == "position" and one.gap is not None:
        end = f", gap {one.gap:.2f}"
    elif isinstance(one.panels[0], Grid) and one.panels[0].worst:
        end = f", worst {one.panels[0].worst['score']:.2f}"
    return f"{level_bars(curve.values)}{end}"


def _notes(scores: Mapping[str, Any]) -> list[str]:
    prompt = f"template {scores.get('template')} ({scores.get('template_hash')})"
    chat = scores.get("chat_template")
    prompt += (
        f", chat template {chat.get('name')} ({chat.get('hash', 'unknown')})" if chat else ", no chat turn"
    )
    notes = [
        f"Made with lcx {scores.get('lcx')}, transformers {(scores.get('versions') or {}).get('transformers')}; "
        f"greedy decoding; {prompt}.",
        f"Contexts of the probes: {scores.get('corpus')}, seed {scores.get('seed')}"
        + (f"; at most {scores['limit']} items a task" if scores.get("limit") else "")
        + f". Weights {str(scores.get('weights'))[:16]}.",
    ]
    drawn = {str((found.get("estimate") or {}).get("drawn")) for found in scores["tasks"].values()}
    drawn -= {"None"}
    if drawn:
        notes.append(f"Intervals of 95% from {'; '.join(sorted(drawn))}.")
    for task, found in scores["tasks"].items():
        if cut := result_of(task, found).cut:
            notes.append(f"{task}: {cut}.")
    counts = {
        what: sum(int(found.get(what) or 0) for found in scores["tasks"].values())
        for what in ("nulls", "refused", "truncated", "duplicates", "dropped", "unfinished", "errors")
    }
    if thoughts := sum(int(found.get("thoughts") or 0) for found in scores["tasks"].values()):
        counts["with thoughts"] = thoughts
    notes.append("Counts: " + ", ".join(f"{number} {what}" for what, number in counts.items()) + ".")
    compat = {task: found["compat"] for task, found in scores["tasks"].items() if found.get("compat")}
    if compat:
        notes.append(
            "Published arithmetic: " + ", ".join(f"{task} {mode}" for task, mode in compat.items()) + "."
        )
    for task, why in (scores.get("skipped") or {}).items():
        notes.append(f"Left out: {task}: {why}")
    return notes


def _command(scores: Mapping[str, Any], recipe: str | None, given: Mapping[str, Any]) -> str:
    from lcx.yamls import yaml_text

    words = ["lcx", "eval"]
    words += ["--recipe", recipe] if recipe else []
    words += ["--model", str(scores.get("asked") or scores["model"])]
    words += ["--task", ",".join(_task_names(scores["tasks"], given.get("tasks") or ()))]
    for key, value in given.items():
        if key not in ("model", "tasks") and value is not None:
            words += ["--set", f"{key}={yaml_text(value, line=True)}"]
    return shlex.join(words)


def _task_names(tasks: Iterable[str], given: Iterable[str]) -> list[str]:
    """The tasks as a command line names them: a sized probe by its file."""
    from lcx.evaluation.planning import read_sized
    from lcx.evaluation.settings import sized_file

    files = {}
    for entry in given:
        if sized_file(entry):
            with contextlib.suppress(LcxError):  # the file is no longer there
                files[read_sized(entry).name] = entry
    return [files.get(task, task) for task in tasks]
