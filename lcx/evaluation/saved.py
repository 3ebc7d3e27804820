"""Files of predictions as other tools leave them: whose task they are, and their rows in our own form.

| from | files | rows |
|---|---|---|
| lcx | `predictions-TASK.jsonl` | our own |
| LongBench | `pred/MODEL/SET.jsonl` | `pred`, `answers`, `all_classes`, `length` |
| LongBench v2 | `MODEL.jsonl` | `response`, `pred` (the letter read out of it), `answer` |
| RULER | `vt.jsonl`, `niah_multikey_1.jsonl`, in parts `vt-0.jsonl` | `pred`, `outputs`, `length`; one context each |
| lm-eval, and `--export lm-eval` | `samples_TASK_TIME.jsonl` | `doc`, `resps`; of several filters the first counts |
| HELMET | `DATASET_..._inN_sizeN_....json` | `data`: `output`, `answer`, and what HELMET gave each row |
| OpenCompass | `predictions/MODEL/LongBench_SET.json`, `ruler_SET_4k.json` | by number: `prediction`, `gold` |
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
            value = (
                found[given] if given == "response" else found.pop(given)
            )  # a reply, not a letter read out of it
            found["pred"] = _only(value, given) if isinstance(value, list) else value
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


def _only(samples: list[Any], name: str) -> Any:
    """The text of a list of one, or of several alike. Raises UsageError for several, of which none is the answer."""
    if len(set(samples)) > 1:
        raise UsageError(
            f"'{name}' has {len(samples)} texts for one question",
            why="Which of them counts is not said, and the first would be taken for all.",
            hint="Write the one that counts as 'pred'.",
        )
    return next(iter(samples), None)


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

HELMET = {
    "json_kv": "substring_exact_match",
    "kilt_nq": "substring_exact_match",
    "kilt_triviaqa": "substring_exact_match",
    "kilt_hotpotqa": "substring_exact_match",
    "kilt_popqa": "substring_exact_match",
    "icl_trec_coarse": "exact_match",
    "icl_trec_fine": "exact_match",
    "icl_banking77": "exact_match",
    "icl_clinic150": "exact_match",
    "icl_nlu": "exact_match",
    "infbench_qa": "rougeL_f1",
    "infbench_choice": "exact_match",
    "msmarco_rerank": "NDCG@10",
    "narrativeqa": "gpt-4-score",
    "infbench_sum": "gpt-4-f1",
    "multi_lexsum": "gpt-4-f1",
}
"""HELMET's sets that are not RULER's, and the metric of each that HELMET reports."""
RATED = "gpt-4-scores"
"""Where HELMET keeps what a judge said of a row."""


def _helmet(name: str) -> Task:
    """A set of HELMET's as a task of files: its rows count what HELMET itself found of them."""
    metric = HELMET[name.partition(":")[2]]
    return Task(
        name=name,
        summary=f"HELMET's rows, from files only, by its own {metric}",
        family="helmet",
        view="table",
        samples=lambda source, options: [],
        score=lambda row: _as_helmet(row, metric),
        info={"metric": metric},
    )


def _as_helmet(row: Row, metric: str) -> float | None:
    """The share of the best that HELMET gave a row; None where it gave nothing."""
    value: Any = row.get(metric)
    if metric.startswith("gpt-4"):
        rated = row.get(RATED)
        rated = rated if isinstance(rated, Mapping) else {}
        parts = ("fluency", "correctness") if metric == "gpt-4-score" else ("f1",)
        if not all(is_number(rated.get(part)) for part in parts):
            return None
        value = rated["f1"] if metric == "gpt-4-f1" else rated["fluency"] * rated["correctness"] / 3
    if isinstance(value, bool):
        return float(value)
    return float(value) if is_number(value) and 0 <= value <= 1 else None


def _check_helmet(task: str, rows: Sequence[Row]) -> None:
    """Raise UsageError where HELMET has not said anything of any row."""
    metric = HELMET[task.partition(":")[2]]
    if all(_as_helmet(row, metric) is None for row in rows):
        judged = metric.startswith("gpt-4")
        raise UsageError(
            f"no row has HELMET's {metric}",
            why="A judge rates this set, and has not rated this file."
            if judged
            else "Its eval.py writes it.",
            hint="Score the file that ends in -gpt4eval_o.json, which HELMET's scripts/eval_gpt4_*.py write."
            if judged
            else "",
        )


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
_SIZE = re.compile(r"_(\d+)([km])(?:_\d+)?$")
"""How OpenCompass says what length RULER's rows were made for."""
_PARTS = re.compile(r"(_\d+[km])_\d+$|-\d+$")
"""A part's number: behind OpenCompass' length, or RULER's own."""
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
        if stem.startswith("ruler") and (ruler := _RULER.match(stem)):
            return RULER[ruler["name"]]
        return next((f"helmet:{name}" for name in HELMET if stem.startswith(f"{name}_")), None)
    stem = _PARTS.sub(r"\1", stem)
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
) -> tuple[dict[str, dict[str, Saved]], dict[str, str]]:
    """The predictions in a file or under a folder: by model (the folder they lie in), then by task; and the files that
    were left out, each with the reason.

    `only` are the tasks that are asked for, all by default. Raises UsageError where nothing tells a task, or where the
    one file that was named cannot be read.
    """
    alone = path.is_file()
    inside = [path] if alone else [file for _, file in list_files(path) if is_row_file(file)]
    found: dict[str, dict[str, Saved]] = {}
    aside: dict[str, str] = {}
    for file in inside:
        model = "." if alone else str(file.parent.relative_to(path))
        name = _name(file, path)
        try:
            tasks = _of_file(file, known, alone)
        except UsageError as bad:
            if alone:
                raise
            aside[name] = bad.what
            continue
        wanted = {task: rows for task, rows in tasks.items() if not only or task in only}
        if not wanted:
            aside[name] = "it answers another task" if tasks else _unknown(file)
        for task, rows in wanted.items():
            if older := _add(found.setdefault(model, {}), task, file, rows, find):
                aside[_name(older, path)] = f"{file.name} answers the same"
    for here in found.values():
        for name in [
            name for name, one in here.items() if any(o is one for n, o in here.items() if n != name)
        ]:
            if name == here[name].task.name:
                del here[name]  # it goes by its file's name, as the others of its kind do
    if not found:
        own = ", ".join(f"{task.partition(':')[2] or task}.jsonl" for task in only[:4])
        named = f"--task TASK --predictions {path if alone else f'{path}/FILE'}"
        reasons = "; ".join(f"{name}: {why}" for name, why in list(aside.items())[:4])
        raise UsageError(
            f"nothing in {path} tells which task it answers" + (f" of {len(only)}" if only else ""),
            why=f"{reasons}." if reasons else "It has no file of rows.",
            hint=f"Names are {own}, ... Or name it: {named}" if only else f"Name it: {named}",
        )
    return found, aside


def _add(
    here: dict[str, Saved], task: str, file: Path, rows: list[dict[str, Any]], find: Find
) -> Path | None:
    """Put a task's rows among a model's; returns the file of the same rows that they take the place of."""
    made = _task(task, find)
    part, name, older = _part(file), task, None
    twin = next((one for one in here.values() if part and _part(one.path) == part), None)
    if twin is not None:  # a set in files by number
        joined = Saved(made, file, [*twin.rows, *rows])
        here |= {name: joined for name, one in here.items() if one is twin}
        return None
    if task in here and task.startswith(("needle", "ruler:", "helmet:")):
        name = _told(file)  # there are several files of a kind, or of a length
        here[_told(here[task].path)] = here[task]
    elif task in here:
        older = here[task].path  # an older run of the same
    here[name] = Saved(made, file, rows)
    return older


def _name(file: Path, path: Path) -> str:
    return file.name if path.is_file() else str(file.relative_to(path))


def _told(file: Path) -> str:
    """What a file of a kind is called among others: its name, without what HELMET says behind the length."""
    long = _HELMET.search(file.stem)
    return file.stem[: long.end() - len("_size")] if long else _part(file) or file.stem


def _task(name: str, find: Find) -> Task:
    if name == QA.name:
        return QA
    return _helmet(name) if name.startswith("helmet:") else find(name)


def _unknown(file: Path) -> str:
    """Why a file has no task."""
    if _HELMET.search(file.stem.lower()):
        return "a set of HELMET's that is scored over its whole file, or not known here"
    return "neither its name nor its rows tell a task"


def _part(file: Path) -> str:
    """What the numbered parts of one set are called alike; empty for a file that is none."""
    stem = file.stem.lower()
    found = re.fullmatch(r"(longbench(?:_.+|v2))_\d+|(.+_\d+[km])_\d+|(.+)-\d+", stem)
    return next(filter(None, found.groups()), "") if found else ""


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
        if named.startswith("helmet:"):
            _check_helmet(named, rows)
        if named in RULER.values() and (size := _SIZE.search(stem.lower())):
            length = int(size[1]) << (10 if size[2] == "k" else 20)
            rows = [{"length": length, **row} for row in rows]
        return {named: rows}
    found: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        if (task := _task_of_row(row)) is not None and "pred" in row:
            found.setdefault(task, []).append(row)
    return found if sum(map(len, found.values())) == len(rows) else {}
