"""A Markdown block for a model card: a table of the tasks with intervals, and how to get the numbers again."""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from lcx.formatting import level_bars
from lcx.work.files import read_json, write_text

__all__ = ["markdown_block", "write_markdown"]

FILE = "model-card.md"
HEAD = ("task", "score", "95% interval", "items", "by place or length")


def write_markdown(folder: Path) -> Path:
    """Write `model-card.md` beside the scores in `folder`."""
    scores = read_json(folder / "scores.json")
    settings = folder / "settings.yaml"
    recipe = next(
        (read_json(place / "manifest.json").get("recipe") for place in folder.parents[:2] if _is_run(place)),
        None,
    )
    write_text(folder / FILE, markdown_block(scores, recipe, _values(settings)))
    return folder / FILE


def _is_run(place: Path) -> bool:
    return (place / "manifest.json").is_file()


def _values(file: Path) -> dict[str, Any]:
    """The step's settings that did not come from the method or the recipe."""
    import yaml

    if not file.is_file():
        return {}
    found = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
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
    for task, found in scores["tasks"].items():
        lines.append(
            _row((f"`{task}`", _score(found), _interval(found), f"{found.get('n', 0):,}", _shape(found)))
        )
    for family, found in (scores.get("families") or {}).items():
        some = f"{found['sets']} of {found['of']} sets"
        lines.append(_row((f"**{family}**", _percent(found["average"]), "", some, "")))
    lines.append("")
    lines += [f"- {note}" for note in _notes(scores)]
    command = _command(scores, recipe, given or {})
    lines += ["", "Again:", "", "```bash", command, "```", ""]
    return "\n".join(lines)


def _row(cells: tuple[str, ...]) -> str:
    return f"| {' | '.join(cells)} |"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def _score(found: Mapping[str, Any]) -> str:
    if found.get("perplexity") is not None:
        return f"perplexity {found['perplexity']:.3f}"
    return _percent(found.get("score"))


def _interval(found: Mapping[str, Any]) -> str:
    estimate = found.get("estimate") or {}
    if estimate.get("low") is None or estimate.get("high") is None:
        return "-"
    return f"{100 * estimate['low']:.1f} to {100 * estimate['high']:.1f}"


def _shape(found: Mapping[str, Any]) -> str:
    """The curve as a row of bars, with its gap; a grid by its worst cell."""
    if found.get("spans"):
        gap = "" if found.get("gap") is None else f", gap {found['gap']:.2f}"
        return f"{level_bars(found['spans'])}{gap}"
    if found.get("by_length"):
        values = found["by_length"]
        numbers = list(values.values()) if isinstance(values, Mapping) else list(values)
        worst = found.get("worst") or {}
        least = f", worst {worst['score']:.2f}" if isinstance(worst, Mapping) and "score" in worst else ""
        return f"{level_bars(numbers)}{least}"
    if found.get("values") and isinstance(found["values"], list):
        return level_bars(found["values"])
    return ""


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
        notes.append(f"Intervals: bootstrap over {'; '.join(sorted(drawn))}.")
    counts = {
        what: sum(int(found.get(what) or 0) for found in scores["tasks"].values())
        for what in ("nulls", "refused", "truncated", "duplicates", "dropped")
    }
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
    words = ["lcx", "eval"]
    words += ["--recipe", recipe] if recipe else []
    words += ["--model", str(scores.get("asked") or scores["model"])]
    words += ["--task", ",".join(_task_names(scores["tasks"], given.get("tasks") or ()))]
    for key, value in given.items():
        if key not in ("model", "tasks") and value is not None:
            words += ["--set", f"{key}={_text(value)}"]
    return shlex.join(words)


def _task_names(tasks: Iterable[str], given: Iterable[str]) -> list[str]:
    """The tasks as a command line names them: a sized probe by its file."""
    from lcx.errors import LcxError
    from lcx.evaluation.planning import read_sized
    from lcx.evaluation.settings import sized_file

    files = {}
    for entry in given:
        if sized_file(entry):
            with contextlib.suppress(LcxError):  # the file is no longer there
                files[read_sized(entry).name] = entry
    return [files.get(task, task) for task in tasks]


def _text(value: Any) -> str:
    """A setting's value as `--set` takes it."""
    import yaml

    text = yaml.safe_dump(value, default_flow_style=True, width=10**6, allow_unicode=True)
    return text.removesuffix("\n").removesuffix("...").rstrip("\n")
