"""Files of predictions as other tools leave them: whose task they are, and their rows in our own form.

| from | files | rows |
|---|---|---|
| lcx | `predictions-TASK.jsonl` | our own |
| LongBench | `pred/MODEL/SET.jsonl` | `pred`, `answers`, `all_classes`, `length` |
| LongBench v2 | `MODEL.jsonl` | `response`, `pred` (the letter read out of it), `answer` |
| RULER | `vt.jsonl`, `niah_multikey_1.jsonl` | `pred`, `outputs`, `length`; one context each |
| lm-eval, and `--export lm-eval` | `samples_TASK_TIME.jsonl` | `doc`, `resps`; of several filters the first counts |
| HELMET | `DATASET_....json` | `data`: `output`, `answer` |
| OpenCompass | `predictions/MODEL/LongBench_SET.json` | by number: `prediction`, `gold` |
| LongReward | `MODEL.json` | `dataset`, `prediction`, `answer`: sets of LongBench in one file |

A folder of such files, or of a folder a model, is read as a whole.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lcx.data.files import ending, is_row_file, list_files, strict_rows
from lcx.errors import UsageError
from lcx.evaluation.benchmarks.groups import FAMILIES
from lcx.evaluation.probes.haystack import found_share, lengths_view
from lcx.evaluation.task import Task
from lcx.paths import slug

__all__ = ["Saved", "collect", "own_rows", "placed", "task_of_name"]

Row = Mapping[str, Any]
Find = Callable[[str], Task]
"""The task of a name."""

# ---- rows

PREDS = (
    *(
        "prediction",
        "output",
        "response",
        "model_output",
        "generated_text",
        "generation",
        "samples",
        "sample",
    ),
    "model_response",
)
"""What other tools call the prediction; of a list it is the first."""
ANSWERS = (
    "outputs",
    "gold",
    "references",
    "ground_truth",
    "ground_truths",
    "reference",
    "gold_answer",
    "target",
)
"""What other tools call the right answers."""


def own_rows(rows: Iterable[Row]) -> list[dict[str, Any]]:
    """The rows of a file of predictions with our names for their fields; rows in our own form stay as they are."""
    found: list[dict[str, Any]] = []
    filters: dict[str, str] = {}
    for row in rows:
        if _by_number(row):
            found += [_renamed(row[number]) for number in sorted(row, key=int)]
        elif isinstance(row.get("doc"), Mapping) and "resps" in row:
            name, filtered = str(row.get("doc_id", len(found))), str(row.get("filter", ""))
            if filters.setdefault(name, filtered) == filtered:
                found.append(_of_lm_eval(row, name))
        else:
            found.append(_renamed(row))
    return found


def _by_number(row: Row) -> bool:
    """Whether an object holds rows by their numbers, as OpenCompass writes them."""
    return bool(row) and all(
        str(key).isdecimal() and isinstance(one, Mapping) and "prediction" in one for key, one in row.items()
    )


def _of_lm_eval(row: Row, name: str) -> dict[str, Any]:
    doc, said = dict(row["doc"]), row["resps"]
    while isinstance(said, list) and said:
        said = said[0]
    if not isinstance(said, str) and said != []:
        raise UsageError(
            f"row {name} of the samples has no text for an answer, but {str(said)[:40]}",
            why="lm-eval asked for likelihoods there, which has no prediction to score.",
        )
    return _renamed({**doc, "pred": said or ""})


def _renamed(row: Row) -> dict[str, Any]:
    found = dict(row)
    if "pred" not in found:
        given = next((name for name in PREDS if name in found and _is_said(found[name])), None)
        if given is not None:
            value = found.pop(given)
            found["pred"] = next(iter(value), None) if isinstance(value, list) else value
    elif found["pred"] is None and isinstance(found.get("response"), str):
        found["pred"] = found["response"]  # no letter could be read out of it
    if found.get("answers") is None and found.get("answer") is None:
        given = next((name for name in ANSWERS if found.get(name) is not None), None)
        if given is not None:
            value = found[given]
            found |= dict(value) if isinstance(value, Mapping) else {"answers": _texts(value)}
    if "finish" not in found and found.get("finish_reason") in ("stop", "length", "error"):
        found["finish"] = found["finish_reason"]
    if isinstance(found.get("thoughts"), str):
        found.setdefault("reasoning", found["thoughts"])
    return found


def _is_said(value: Any) -> bool:
    return value is None or isinstance(value, str) or (isinstance(value, list) and all(map(_is_text, value)))


def _is_text(value: Any) -> bool:
    return value is None or isinstance(value, str)


def _texts(value: Any) -> Any:
    if isinstance(value, list):
        return [
            str(one) if isinstance(one, int | float) and not isinstance(one, bool) else one for one in value
        ]
    return [str(value)] if isinstance(value, str | int | float) and not isinstance(value, bool) else value


def placed(task: Task, rows: Sequence[Row]) -> tuple[Task, list[dict[str, Any]]]:
    """Rows of RULER's kind, of a context each and without a place in it, as rows of a probe; and how they are scored.

    They have `answers`, the share of which counts, and a length. Other rows, and their task, stay as they are.
    """
    found = [dict(row) for row in rows]
    lengths = ("length", "max_length", "input_len")
    if task.published or any(
        "set_id" in row
        or row.get("answers", row.get("answer")) is None
        or not any(name in row for name in lengths)
        for row in found
    ):
        return task, found
    for number, row in enumerate(found):
        row |= {"set_id": number, "position_id": 0, "length": _nominal(row)}
        row["answers"] = _texts(row.get("answers", row.get("answer")))
    return _by_length(task), found


def _by_length(task: Task) -> Task:
    score = task.score if task is QA else found_share
    return replace(
        task,
        score=score,
        row_fields=(),
        number_fields=("length",),
        list_fields=("answers",),
        key_field=None,
        summarize=lengths_view,
        view="lengths",
    )


def is_number(value: Any) -> bool:
    """Whether a value is a number that arithmetic can go on with: no NaN, and none that no float can hold."""
    return (
        not isinstance(value, bool)
        and isinstance(value, int | float)
        and abs(value) <= sys.float_info.max  # an int of 400 digits is compared, but not converted
    )


def _nominal(row: Row) -> Any:
    """The length that a row was made for: prompts are a little shorter than the power of two that was asked for.

    One that is no number at all stays as it is, to be refused.
    """
    length = row.get("max_length", row.get("length", row.get("input_len", 0)))
    if not is_number(length):
        return length if isinstance(length, float | int) else 0
    if length < 1:
        return 0
    power = 1 << (int(length) - 1).bit_length()
    return power if 4 * length > 3 * power else int(length)


QA = Task(
    name="ruler:qa",
    summary="RULER's questions on documents, from files only -> any of the answers",
    samples=lambda source, options: [],
    score=lambda row: float(found_share(row) > 0),
)
"""RULER's questions on SQuAD and HotpotQA, which lcx has files of, and does not ask."""

# ---- tasks

RULER = {
    **{
        "niah_single": "needle",
        "niah_s": "needle",
        "niah_multikey": "ruler:multikey",
        "niah_mk": "ruler:multikey",
    },
    **{
        "niah_multivalue": "ruler:multivalue",
        "niah_mv": "ruler:multivalue",
        "niah_multiquery": "ruler:multiquery",
    },
    **{
        "niah_mq": "ruler:multiquery",
        "vt": "ruler:variables",
        "cwe": "ruler:common",
        "fwe": "ruler:frequent",
    },
    **{"variable_tracking": "ruler:variables", "common_words_extraction": "ruler:common"},
    **{"freq_words_extraction": "ruler:frequent", "qa": "ruler:qa"},
}
"""RULER's and HELMET's names, without their numbers, and our tasks."""
_TIME = re.compile(r"_\d{4}-\d\d-\d\dt[\d.:-]+$")
_SETS = "|".join(map(re.escape, FAMILIES["longbench"]))
_LONGBENCH = re.compile(rf"(?:longbench[-_:]?)?(?P<e>e[-_:])?(?P<set>{_SETS})(?P<after>_e)?(?:_\d+)?")
_PART = re.compile(rf"(?<![a-z0-9])(?:{_SETS})(?![a-z0-9])")
_HELMET = re.compile(r"_in\d+_size")
"""In HELMET's long names, which tell how a dataset was run: its questions on HotpotQA are not LongBench's."""
_RULER = re.compile(
    rf"(?:ruler[-_:]?)?(?P<name>{'|'.join(sorted(RULER, key=len, reverse=True))})(?:_[a-z0-9]+)*?"
)


def task_of_name(name: str, known: Iterable[str]) -> str | None:
    """The task that a file's name, or a row, tells: lcx's own, LongBench's, RULER's, lm-eval's, HELMET's."""
    own = {
        spelling: task for task in known for spelling in (task, slug(task), re.sub(r"[^\w.+-]+", "_", task))
    }
    stem = name.lower()
    for before in ("predictions-", "samples_"):
        stem = stem.removeprefix(before)
    stem = _TIME.sub("", stem)
    if _HELMET.search(stem):
        ruler = stem.startswith("ruler") and _RULER.match(stem)
        return RULER[ruler["name"]] if ruler else None
    if stem in own:
        return own[stem]
    if found := _LONGBENCH.fullmatch(stem):
        e = found["e"] or found["after"]
        if not e or found["set"] in FAMILIES["longbench_e"]:
            return f"longbench{'_e' if e else ''}:{found['set']}"
    for spelling in ("longbench-v2", "longbench2", "longbenchv2"):
        if stem.startswith(spelling):
            return "longbench_v2"
    if (found := _RULER.match(stem)) and (stem.startswith("ruler") or _RULER.fullmatch(stem)):
        return RULER[found["name"]]
    parts = set(_PART.findall(stem))
    if len(parts) == 1:
        return f"longbench:{parts.pop()}"
    return None


def _task_of_row(row: Row) -> str | None:
    """The task that a row's fields tell, where its file's name does not."""
    for key in ("dataset", "task"):
        if isinstance(row.get(key), str) and (found := task_of_name(row[key], ())):
            return found
    if {"id", "label", "description"} <= row.keys():
        return "val:database"
    if {"query", "value", "length", "depth"} <= row.keys():
        return "needle"
    if {"choice_A", "answer"} <= row.keys() or {"difficulty", "domain"} <= row.keys():
        return "longbench_v2"
    return None


# ---- files


@dataclass(frozen=True)
class Saved:
    """The predictions of one task in a file."""

    task: Task
    path: Path
    rows: Sequence[dict[str, Any]]


def collect(
    path: Path, find: Find, known: Sequence[str], only: Sequence[str] = ()
) -> tuple[dict[str, dict[str, Saved]], list[str]]:
    """The predictions in a file or under a folder: by model (the folder they lie in), then by task; and files left out.

    `only` are the tasks that are asked for, all by default. Raises UsageError where nothing tells a task.
    """
    inside = [path] if path.is_file() else [file for _, file in list_files(path) if is_row_file(file)]
    found: dict[str, dict[str, Saved]] = {}
    aside: list[str] = []
    for file in inside:
        model = "." if path.is_file() else str(file.parent.relative_to(path))
        for task, rows in _of_file(file, known, path.is_file()).items():
            if only and task not in only:
                continue
            here = found.setdefault(model, {})
            name = task
            if task in here and _part(file) and _part(file) == _part(here[task].path):
                rows = [*here[task].rows, *rows]  # OpenCompass cuts a set into files by number
            elif task in here and task.startswith(("needle", "ruler:")):
                name = file.stem  # RULER has several files of a kind
                here[here[task].path.stem] = here[task]
            elif task in here:
                aside.append(here[task].path.name)  # an older run of the same
            here[name] = Saved(QA if task == QA.name else find(task), file, rows)
        if not any(one.path == file for of in found.values() for one in of.values()):
            aside.append(file.name)
    for here in found.values():
        for name in [
            name for name, one in here.items() if any(o is one for n, o in here.items() if n != name)
        ]:
            if name == here[name].task.name:
                del here[name]  # it goes by its file's name, as the others of its kind do
    if not found:
        own = ", ".join(f"{task.partition(':')[2] or task}.jsonl" for task in only[:4])
        name = f"--task TASK --predictions {path if path.is_file() else f'{path}/FILE'}"
        raise UsageError(
            f"nothing in {path} tells which task it answers" + (f" of {len(only)}" if only else ""),
            why=f"Neither names nor rows of {', '.join(aside[:4])} do."
            if aside
            else "It has no file of rows.",
            hint=f"Names are {own}, ... Or name it: {name}" if only else f"Name it: {name}",
        )
    return found, aside


def _part(file: Path) -> str:
    """What the numbered parts of one set are called alike; empty for a file that is none."""
    found = re.fullmatch(r"(longbench_.+)_\d+", file.stem.lower())
    return found[1] if found else ""


def _of_file(file: Path, known: Sequence[str], alone: bool) -> dict[str, list[dict[str, Any]]]:
    """The rows of a file by the task that its name, or each row, tells; none where nothing does."""
    stem = file.name[: file.name.lower().rfind(ending(file))] if ending(file) else file.stem
    named = task_of_name(stem, known)
    if (
        named is None
        and not alone
        and not re.search(r"pred|sample|output|result|response", str(file).lower())
    ):
        return {}  # a file of something else
    try:
        rows = own_rows(strict_rows(file))
    except UsageError:
        if named is None and not alone:
            return {}
        raise
    if named is not None:
        return {named: rows}
    found: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        if (task := _task_of_row(row)) is not None and "pred" in row:
            found.setdefault(task, []).append(row)
    return found if sum(map(len, found.values())) == len(rows) else {}
