"""Offline scoring: a file of predictions, of this tool or of another, becomes scores. No model, no torch.

Rows are JSON objects with `pred` (text, or null where the model gave none) and the fields of their task:

| task | fields | beside them |
|---|---|---|
| `val:document` | `answer` (or `sentence`): the whole sentence | `query` |
| `val:code` | `name` (or `function`) | `query` |
| `val:database` | `id`, `label`, `description` | |
| `needle` | `query`, `value`; the numbers `length` and `depth` (0 to 1) | |
| `longbench:SET`, `longbench_e:SET` | `answers`; `all_classes` for trec and lsht | `length` (needed for E) |
| `longbench_v2` | `answers` or `answer`: a letter | `length`, `difficulty`, `domain` |
| `csqa` | `answer`, `candidates` | |
| `gsm8k` | `answer` | |

Rows of probes have `set_id` and `position_id` too (whole numbers from 0). `match: "word"` in a row of `val:code` or
`val:database` asks for whole words instead of a mere substring. Rows of any task may have `finish` ("length" where an
answer was cut off, "error" where none came) and `context` (what names the context they were asked about), rows of
probes `decoy`: a text, or a list of them, that would be named by a model that was misled. Of rows with one `item` (or
one `id`, in a benchmark) the first counts; two rows of a set that share the key of their task (query or id) are
ambiguous, and neither counts. A live run scores its own rows by the same functions (`score_probe`,
`score_benchmark`).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lcx.data.files import strict_rows
from lcx.errors import UsageError
from lcx.evaluation.saved import is_number, own_rows, placed
from lcx.evaluation.statistics.curves import Compat, span_curve
from lcx.evaluation.task import Scored, Task
from lcx.evaluation.text_metrics import contains, refuses
from lcx.formatting import histogram
from lcx.llm.prompts import read_thoughts
from lcx.storage import sha256_json

__all__ = [
    "check_benchmark_row",
    "check_probe_row",
    "count_rows",
    "data_digest",
    "hear",
    "length_bucket",
    "match",
    "no_rows",
    "row_id",
    "score_benchmark",
    "score_judged",
    "score_predictions",
    "score_probe",
    "score_rows",
    "unanswered",
]

Row = Mapping[str, Any]

# ---- fields of rows

COUNTED = "(counted from 0)"
TEXTS = ("answers", "candidates", "all_classes")
"""Fields of benchmarks that are lists of texts."""
NAMES = ("context", "item")
"""Fields that only tell rows apart: a file of others may have a list of passages there, which is as good a name."""
LAST_PLACE = 250_000
"""Far more items than any context has: a curve up to a mistyped position would fill the memory."""


def row_id(row: Mapping[str, Any]) -> str | None:
    """What names a row's question: `item`, `_id` or `id`; None where it has none of them."""
    value = next((row[name] for name in ("item", "_id", "id") if row.get(name) is not None), None)
    return None if value is None else str(value)


def check_probe_row(task: Task, row: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The row with its fields under their own names. Raises UsageError where one is missing or wrong."""
    row = _named(row)
    for other, name in (task.aliases or {}).items():
        if name not in row and other in row:
            row[name] = row[other]
    lists = task.list_fields
    needed = ("set_id", "position_id", "pred", *task.row_fields, *task.number_fields, *lists)
    _has(row, needed, task.name, where)
    for name in ("set_id", "position_id"):
        value = row[name]
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise UsageError(f"{where} {COUNTED}: '{name}' is a whole number from 0, not {_short(value)}")
    if row["position_id"] > LAST_PLACE:
        raise UsageError(
            f"{where} {COUNTED}: 'position_id' is a place in a context, and {_short(row['position_id'])} is none"
        )
    for name in task.number_fields:
        value = row[name]
        if not is_number(value):
            raise UsageError(f"{where} {COUNTED}: '{name}' is a number, not {_short(value)}")
    _texts(row, task.row_fields, where)
    _texts(row, [name for name in ("pred", task.key_field) if name and row.get(name) is not None], where)
    _lists(row, lists, where)
    decoys = row.get("decoy") or ""
    if not isinstance(decoys, str) and not _is_list_of_texts(decoys):
        raise UsageError(f"{where} {COUNTED}: 'decoy' is a text or a list of texts, not {_short(decoys)}")
    return row


def check_benchmark_row(task: Task, row: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The row in the benchmark's own form. Raises UsageError where a field is missing or wrong."""
    row = _named(row)
    if task.fields is not None:
        row |= task.fields(row)
    _has(row, ("pred", *task.row_fields), task.name, where)
    if row["pred"] is not None:
        _texts(row, ("pred",), where)
    for name in ("answers", "all_classes", "length"):
        if row.get(name) == "":  # an empty cell of a table
            row[name] = None
    for name in TEXTS:
        if name in row and (row[name] is not None or name in task.row_fields):
            _lists(row, (name,), where)
    _texts(row, [name for name in task.row_fields if name not in TEXTS and name != "length"], where)
    groups = [name for name in task.groups if name != "length" and row.get(name) is not None]
    _texts(row, groups, where, numbers=False)
    length = row.get("length")
    if length is not None and not _is_length(length):
        raise UsageError(f"{where} {COUNTED}: 'length' is a number or a word, not {_short(length)}")
    if "length" in task.row_fields and length is None:
        raise UsageError(f"{where} {COUNTED}: {task.name} needs the field 'length'", why="It is null.")
    return row


def _named(row: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of the row in which what names it, or its context, can be looked up."""
    lists = {name: row[name] for name in NAMES if isinstance(row.get(name), list | dict)}
    return {**row, **{name: json.dumps(value, sort_keys=True) for name, value in lists.items()}}


def _has(row: Mapping[str, Any], needed: Sequence[str], task: str, where: str) -> None:
    missing = [name for name in needed if name not in row]
    if missing:
        raise UsageError(
            f"{where} {COUNTED}: {task} needs the field '{missing[0]}'",
            why=f"It has {', '.join(sorted(row))}." if row else "It has no field at all.",
            hint=f"Every row has {', '.join(needed)}.",
        )


def _texts(row: dict[str, Any], names: Sequence[str], where: str, *, numbers: bool = True) -> None:
    """Turn `numbers` into the texts that they look like. Raises UsageError for a field that is no text."""
    for name in names:
        value = row[name]
        if numbers and is_number(value):  # a column of whole numbers with gaps comes back from a table as 7.0
            whole = type(value) is float and value.is_integer()
            row[name] = f"{value:.0f}" if whole else str(value)
    wrong = next((name for name in names if not isinstance(row[name], str)), None)
    if wrong is not None:
        raise UsageError(f"{where} {COUNTED}: '{wrong}' is text, not {_short(row[wrong])}")


def _lists(row: Mapping[str, Any], names: Sequence[str], where: str) -> None:
    wrong = next((name for name in names if not _is_list_of_texts(row[name])), None)
    if wrong is not None:
        raise UsageError(f"{where} {COUNTED}: '{wrong}' is a list of texts, not {_short(row[wrong])}")


def _is_list_of_texts(value: Any) -> bool:
    return isinstance(value, list | tuple) and all(isinstance(one, str) for one in value)


def _is_length(value: Any) -> bool:
    return isinstance(value, str) or (is_number(value) and value >= 0)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


# ---- thoughts, and questions without a reply

APART = ("reasoning_content", "reasoning", "thinking", "reasoning_text")
"""Fields in which files have a thought that a server handed out apart from the answer."""
OPENED = 0.5
"""Share of replies with only the end of a thought above which every reply begins in one: the prompt opens it."""


def hear(rows: Iterable[Row]) -> list[dict[str, Any]]:
    """The rows with what their replies say in `pred`; one with a thought has all of its reply in `raw`.

    `thought` is `finished` or `unfinished`: then nothing was said. Where most replies have the end of a thought and
    not its beginning, one without the end never came out of it.
    """
    found = [dict(row) for row in rows]
    headless = replies = 0
    silent = []
    for row in found:
        pred = row.get("pred")
        if row.get("thought") or "raw" in row:
            continue
        if not isinstance(pred, str):
            row |= {"thought": "unfinished"} if _apart(row) and not unanswered(row) else {}
            continue
        said = read_thoughts(pred)
        replies += bool(pred.strip())
        headless += said.opened
        if said.thought:
            kept = said.text.lstrip("\r\n") if said.text.strip() else ""
            row |= {"pred": kept, "raw": pred, "thought": "unfinished" if said.unfinished else "finished"}
        elif said.text != pred:  # the marks of a final channel alone
            row |= {"pred": said.text, "raw": pred}
        elif _apart(row):
            row["thought"] = "finished" if pred.strip() else "unfinished"
        elif pred.strip():
            silent.append(row)
    if headless > OPENED * replies:
        for row in silent:
            row |= {"pred": "", "raw": row["pred"], "thought": "unfinished"}
    return found


def _apart(row: Row) -> bool:
    return any(isinstance(row.get(name), str) and row[name].strip() for name in APART)


def unanswered(row: Row) -> bool:
    """Whether no server answered the row's question: its call failed, which is no wrong answer."""
    return row.get("finish") == "error" or (row.get("pred") is None and bool(row.get("error")))


def _heard(row: Row, compat: str | None) -> Row:
    """What is scored: without thoughts, but as published arithmetic has it with them."""
    return {**row, "pred": row["raw"]} if compat is not None and isinstance(row.get("raw"), str) else row


def _thoughts(rows: Sequence[Row]) -> dict[str, int]:
    """`thoughts`: replies with one; `unfinished_thoughts`: those with nothing else; neither where there are none."""
    counts = Counter(row.get("thought") for row in rows)
    many = {
        "thoughts": counts["finished"] + counts["unfinished"],
        "unfinished_thoughts": counts["unfinished"],
    }
    return {name: count for name, count in many.items() if count}


def _unanswered(counts: Counter[str]) -> dict[str, int]:
    return {name: counts[name] for name in ("errors", "empty") if counts[name]}


# ---- counts


def count_rows(rows: Sequence[Mapping[str, Any]]) -> Counter[str]:
    """`refused`: predictions that begin as a refusal; `truncated`: those that ended at their length limit; `empty`:
    those that say nothing.
    """
    counts: Counter[str] = Counter()
    for row in rows:
        counts["refused"] += row["pred"] is not None and refuses(row["pred"])
        counts["truncated"] += row.get("finish") == "length"
        silent = isinstance(row["pred"], str) and not row["pred"].strip()
        counts["empty"] += silent and not row.get("thought") and not row.get("skip") and not unanswered(row)
    return counts


def data_digest(rows: Sequence[Mapping[str, Any]], fields: Sequence[str]) -> str:
    """What two results must share to be of the same questions: a digest of the rows' references, in any order."""
    return sha256_json(sorted(sha256_json([row.get(name) for name in fields]) for row in rows))[:16]


def no_rows(task: str, where: str) -> UsageError:
    """The error for predictions without any row."""
    file = where.removesuffix("row").removesuffix(", ")
    return UsageError(f"there are no {task} predictions to score", why=f"In {file}." if file else "")


# ---- references


def match(
    task: Task, rows: Sequence[Row], references: Sequence[Row], where: str, name: str
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The prediction rows with the fields of their references, and how they were matched.

    By id, the order does not matter: rows out of place are counted (`reordered`). Raises UsageError naming the row:
    where there are fewer or more predictions than references, where an id is not among them, and where a row's own
    answers are not its reference's.
    """
    if task.fields is None:
        raise UsageError(f"{task.name} has no published rows that --references could be")
    known = [dict(row) | dict(task.fields(row)) for row in references]
    if not known:
        raise UsageError(f"there is no row in the references {name}")
    ids = [row_id(row) for row in rows]
    if any(one is not None for one in ids) and any(row_id(row) is not None for row in known):
        found = _by_id(ids, known, where, name)
    else:
        found = _by_order(len(rows), len(known), where, name)
    merged = []
    for number, place in enumerate(found):
        row, reference = rows[number], known[place]
        own = dict(row) | dict(task.fields(row))
        for field in task.row_fields:
            if field in own and own[field] != reference.get(field):
                raise UsageError(
                    f"{where} {number} {COUNTED}: its '{field}' is not that of row {place} of {name}",
                    why=f"{_short(own[field])} against {_short(reference.get(field))}.",
                    hint="Put the predictions in the order of the references, or give both an `_id`.",
                )
        taken = {key: value for key, value in reference.items() if key in _fields(task)}
        merged.append({**taken, **row, "_reference": place})
    how = "id" if any(one is not None for one in ids) else "order"
    moved = sum(place != number for number, place in enumerate(found))
    return merged, {"matched": how, "references": len(known), "reordered": moved}


def _fields(task: Task) -> set[str]:
    return {*task.row_fields, *task.groups, "all_classes", "candidates"}


def _by_id(ids: Sequence[str | None], known: Sequence[Row], where: str, name: str) -> list[int]:
    nameless = next((number for number, one in enumerate(ids) if one is None), None)
    if nameless is not None:
        raise UsageError(
            f"{where} {nameless} {COUNTED} has no id, and others have",
            hint="Give every row its `_id`, or none.",
        )
    places: dict[str, int] = {}
    for place, row in enumerate(known):
        one = row_id(row)
        if one is None or one in places:
            what = "has no id" if one is None else f"has the id '{one}' a second time"
            raise UsageError(f"{name}, row {place} {COUNTED} {what}")
        places[one] = place
    found = []
    for number, one in enumerate(ids):
        if str(one) not in places:
            raise UsageError(
                f"{where} {number} {COUNTED}: no reference has the id '{one}'", why=f"References: {name}."
            )
        found.append(places[str(one)])
    missing = [one for one in places if one not in set(ids)]
    if missing:
        raise UsageError(
            f"{len(missing)} of {len(places)} references have no prediction, the first is '{missing[0]}'"
            f" (row {places[missing[0]]} {COUNTED})",
            why="A mean over the others would be of another set.",
            hint='Give {"_id": ..., "pred": null} where the model gave nothing.',
        )
    return found


def _by_order(rows: int, known: int, where: str, name: str) -> list[int]:
    if rows == known:
        return list(range(rows))
    kind = "reference" if rows < known else "prediction"
    lacks = "prediction" if rows < known else "reference"
    raise UsageError(
        f"there are {rows} predictions for {known} references: {kind} {min(rows, known)} {COUNTED} has no {lacks}",
        why=f"Without ids, rows belong together by their order. References: {name}.",
        hint="Give both an `_id`, or a row with `pred` null where the model gave nothing.",
    )


# ---- scores of a probe


def score_probe(
    task: Task, rows: Sequence[Row], where: str, compat: str | None, *, span: int, positions: int | None
) -> tuple[dict[str, Any], list[float | None]]:
    """The scores of a probe's rows, and each row's own. Raises UsageError naming a row that lacks a field."""
    if compat not in (None, "film"):
        raise UsageError(
            f"there is no compat mode '{compat}' for {task.name}", hint="Leave it out, or say 'film'."
        )
    mode: Compat | None = "film" if compat == "film" and task.summarize is None else None
    checked = hear(check_probe_row(task, row, f"{where} {number}") for number, row in enumerate(rows))
    if not checked:
        raise no_rows(task.name, where)
    counts = count_rows(checked)
    scored = _scored(task, checked, mode, counts)
    if task.summarize is None:
        found = _curve(scored, span, positions or 0, mode)
    else:
        found = {"n": sum(value is not None for _, value in scored), **task.summarize(scored)}
    if "estimate" not in found:
        found["estimate"] = _estimate(scored)
    scores = {
        "task": task.name,
        "view": task.view,
        "n": found.pop("n"),
        "score": None if found["average"] is None else 100 * found["average"],
        "nulls": counts["nulls"],
        "skipped": counts["skipped"],
        "refused": counts["refused"],
        "truncated": counts["truncated"],
        "duplicates": counts["duplicates"],
        **_unanswered(counts),
        **_thoughts(checked),
        "compat": mode,
        "data": data_digest(checked, ("set_id", "position_id", *task.row_fields, *task.number_fields)),
        **_decoys(counts),
        **(_missing(checked) if task.summarize is None else {}),
        **found,
    }
    return scores, [value for _, value in scored]


def _scored(task: Task, rows: Sequence[Row], compat: Compat | None, counts: Counter[str]) -> list[Scored]:
    """Every row with its score, or None where it does not count; why not goes into `counts`."""
    field = task.key_field or ""
    again = _repeated(task, rows)
    keys = Counter(
        (row["set_id"], row[field])
        for row, repeat in zip(rows, again, strict=True)
        if not repeat and row.get(field)
    )
    score = task.compat.get("film", task.score) if compat == "film" else task.score
    assert callable(score)
    scored: list[Scored] = []
    for row, repeat in zip(rows, again, strict=True):
        pred = row["pred"]
        value: float | None = None
        ambiguous = keys[row["set_id"], row.get(field)] > 1
        if repeat or row.get("skip") or ambiguous:
            counts["skipped"] += 1
            counts["duplicates"] += repeat or ambiguous
        elif unanswered(row):
            counts["errors"] += 1
        elif pred is None:
            counts["nulls"] += 1
            value = 0.0 if compat is None else None
        else:
            value = score(_heard(row, compat))
            counts["skipped"] += value is None
        if value is not None and row.get("decoy"):
            decoys = [row["decoy"]] if isinstance(row["decoy"], str) else row["decoy"]
            counts["decoy_rows"] += 1
            counts["decoys"] += any(contains(pred or "", decoy, whole_words=True) for decoy in decoys)
        scored.append((row, value))
    return scored


def _repeated(task: Task, rows: Sequence[Row]) -> list[bool]:
    """Whether an earlier row answers the same item: its name, or else its place and all that the task needs."""
    fields = (*task.row_fields, *task.number_fields, *task.list_fields, "length", "depth", "query")
    seen: set[Hashable] = set()
    found = []
    for row in rows:
        key: Hashable = row.get("item") or (
            row["set_id"],
            row["position_id"],
            *(repr(row.get(name)) for name in fields),
        )
        found.append(key in seen)
        seen.add(key)
    return found


def _missing(rows: Sequence[Row]) -> dict[str, Any]:
    """Places of a saved file that have no row, up to the last position of any set: a file that was cut has some.

    Files of lcx's own runs are not looked at: they say what was asked by the items they have.
    """
    if any(row.get("item") for row in rows):
        return {}
    places = {(row["set_id"], row["position_id"]) for row in rows}
    sets = sorted({number for number, _ in places})
    size = max(position for _, position in places) + 1
    missing = len(sets) * size - len(places)
    if not missing:
        return {"missing": 0}
    number, position = next(
        (number, position) for number in sets for position in range(size) if (number, position) not in places
    )
    return {"missing": missing, "first_missing": f"set {number}, position {position}"}


def _decoys(counts: Counter[str]) -> dict[str, Any]:
    rows = counts["decoy_rows"]
    return {"decoys": counts["decoys"] / rows, "decoy_rows": rows} if rows else {}


def _curve(scored: Sequence[Scored], span: int, positions: int, compat: Compat | None) -> dict[str, Any]:
    """The curve by position with its evidence; `positions` is the length of the context in items, or more."""
    from lcx.evaluation.statistics.curves import curve_evidence

    length = max(max(row["position_id"] for row, _ in scored) + 1, positions)
    kept = [(row, value) for row, value in scored if value is not None]
    kept.sort(
        key=lambda one: (one[0]["set_id"], one[0]["position_id"])
    )  # what is drawn is the same in any order
    places = [(row["set_id"], row["position_id"], value) for row, value in kept]
    contexts = [row.get("context") or row["set_id"] for row, _ in kept]
    curve = span_curve(places, width=span, positions=length, compat=compat)
    evidence = curve_evidence(places, width=span, positions=length, compat=compat, contexts=contexts)
    return {"n": sum(curve.counts), **curve.as_dict(), **evidence}


def _estimate(scored: Sequence[Scored]) -> dict[str, Any]:
    from lcx.evaluation.statistics.intervals import estimate_mean

    contexts = [row.get("context") or (row["set_id"], row.get("length")) for row, _ in scored]
    return estimate_mean([value for _, value in scored], contexts).as_dict()


# ---- scores of a benchmark


BUCKETS = ((4000, "0-4k"), (8000, "4-8k"))
LONGEST = "8k+"
ORDER = {
    name: place
    for names in (("0-4k", "4-8k", LONGEST), ("short", "medium", "long"), ("easy", "hard"))
    for place, name in enumerate(names)
}


def score_benchmark(
    task: Task, rows: Sequence[Row], where: str, compat: str | None
) -> tuple[dict[str, Any], list[float | None]]:
    """The scores of a benchmark's rows, and each row's own. Raises UsageError naming a row that lacks a field.

    Of several rows with one id the first counts, and of a file that was appended to, its rows once. A null prediction
    scores 0, or is left out with `film`.
    """
    _check_compat(task, compat)
    checked = hear(check_benchmark_row(task, row, f"{where} {number}") for number, row in enumerate(rows))
    if not checked:
        raise no_rows(task.name, where)
    counts = count_rows(checked)
    values = _values(task, checked, compat, counts)
    known = [value for value in values if value is not None]
    average = sum(known) / len(known) if known else None
    score = None if average is None else 100 * average
    if compat is not None and task.digits is not None and known:
        score = round(100 * sum(known) / len(known), task.digits)
    contexts = [_context(task, row, number) for number, row in enumerate(checked)]
    scores = {
        "task": task.name,
        "view": task.view,
        "n": len(known),
        "score": score,
        "average": average,
        "nulls": counts["nulls"],
        "skipped": counts["skipped"],
        "refused": counts["refused"],
        "truncated": counts["truncated"],
        "duplicates": counts["duplicates"],
        **_unanswered(counts),
        **_thoughts(checked),
        "compat": compat,
        **task.info,
        "data": data_digest(checked, task.row_fields),
        **_evidence(task, checked, values, contexts),
    }
    return scores, values


def _check_compat(task: Task, compat: str | None) -> None:
    if compat is not None and compat not in task.compat:
        modes = " or ".join(f"'{mode}'" for mode in task.compat)
        raise UsageError(
            f"there is no compat mode '{compat}' for {task.name}",
            hint=f"Leave it out, or say {modes}." if modes else "Leave it out.",
        )


def _values(task: Task, rows: Sequence[Row], compat: str | None, counts: Counter[str]) -> list[float | None]:
    """The score of every row, None where it does not count; why not goes into `counts`."""
    score = task.compat[compat] if compat is not None else task.score
    assert callable(score)
    seen: set[str] = set()
    fields = (*sorted(_fields(task)), *SAID)
    nameless = all(row_id(row) is None for row in rows)
    again = appended([sha256_json([row.get(name) for name in fields]) for row in rows]) if nameless else set()
    values: list[float | None] = []
    for number, row in enumerate(rows):
        name = row_id(row)
        value: float | None = None
        if name in seen if name is not None else number in again:
            counts["duplicates"] += 1
        elif row.get("skip"):
            counts["skipped"] += 1
        elif unanswered(row):
            counts["errors"] += 1
        elif row["pred"] is None:
            counts["nulls"] += 1
            value = None if compat == "film" else 0.0
        else:
            value = score(_heard(row, compat))
            counts["skipped"] += value is None
        if name is not None:
            seen.add(name)
        values.append(value)
    return values


SAID = ("question", "input", "context")
"""Fields that say what was asked in a row without an id."""
LEAST_AGAIN = 8
"""Rows that follow each other as the first ones of a file do, where a file was appended to and not by chance."""


def appended(asked: Sequence[str]) -> set[int]:
    """Rows that ask what the file has asked before, where these have no ids: it begins anew, as often as it does.

    `asked` says what each row asks. Single rows may be alike, so a beginning is one where the first rows (at least
    8, or all that are left) come again in their order, and most of them are told apart by what they ask.
    """
    left = list(range(len(asked)))
    again: set[int] = set()
    while start := _begins_anew([asked[number] for number in left]):
        size = min(start, len(left) - start)
        again.update(left[start : start + size])
        left = left[:start] + left[start + size :]
    return again


def _begins_anew(asked: Sequence[str]) -> int:
    """The first place from which rows come as from the beginning; 0 where there is none."""
    for start in range(LEAST_AGAIN, len(asked) - LEAST_AGAIN + 1):
        if asked[start] != asked[0]:
            continue
        size = min(start, len(asked) - start)
        first = asked[:size]
        if first == asked[start : start + size] and 2 * len(set(first)) > size:
            return start
    return 0


def _context(task: Task, row: Row, number: int) -> Hashable:
    """What names a row's context. Files of others do not say which rows share one: each then stands for itself."""
    return number if task.shots else row.get("context") or number


def _evidence(
    task: Task, rows: Sequence[Row], values: Sequence[float | None], contexts: Sequence[Hashable]
) -> dict[str, Any]:
    """The mean with its interval, and those of each group."""
    from lcx.evaluation.statistics.intervals import estimate_mean, group_evidence

    by = {}
    for field in task.groups:
        known = [
            (_group(row[field]), context, value)
            for row, context, value in zip(rows, contexts, values, strict=True)
            if row.get(field) is not None
        ]
        if known:
            found = group_evidence(known)
            by[field] = {name: found[name] for name in sorted(found, key=lambda n: (ORDER.get(n, 9), n))}
    return {"estimate": estimate_mean(values, contexts).as_dict(), **({"by": by} if by else {})}


def _group(value: Any) -> str:
    return value if isinstance(value, str) else length_bucket(value)


def length_bucket(length: float) -> str:
    """The band of LongBench-E that a length (words, or Chinese characters) falls into."""
    return next((name for limit, name in BUCKETS if length < limit), LONGEST)


# ---- scores of judged rows

BINS = 20
"""Parts of a scale, where it is no wider than 1; else two for each of its points."""


JUDGED_COUNTS = ("nulls", "skipped", "refused", "truncated", "duplicates", "empty", "unjudged")


def score_judged(
    task: Task, rows: Sequence[Row], where: str, compat: str | None
) -> tuple[dict[str, Any], list[float | None]]:
    """The scores of a judged task's rows, and each row's own. Raises UsageError naming a row that lacks a field.

    `mean`, with `low` and `high`, is on the task's own scale; a row counts its weight, where the task has weights. Rows
    without an answer, or whose judge gave nothing to score, have none: `failed` counts them by reason.
    """
    from lcx.evaluation.statistics.intervals import estimate_mean

    _check_compat(task, compat)
    checked = hear(check_benchmark_row(task, row, f"{where} {number}") for number, row in enumerate(rows))
    if not checked:
        raise no_rows(task.name, where)
    counts = count_rows(checked)
    counts["empty"] = 0  # here thoughts alone are such answers, too
    score = task.compat[compat] if compat is not None else task.score
    assert callable(score)
    seen: set[Hashable] = set()
    values: list[float | None] = []
    for row in checked:
        name = (row_id(row), row.get("sample", 0))
        again = name[0] is not None and name in seen
        seen.add(name)
        answered = row["pred"] is not None and not row.get("error")
        counts["duplicates"] += again
        counts["skipped"] += again or bool(row.get("skip"))
        counts["nulls"] += row["pred"] is None and not (again or row.get("skip"))
        counts["empty"] += answered and not str(row["pred"]).strip()
        values.append(score(row) if answered and not again and not row.get("skip") else None)
        counts["unjudged"] += answered and not again and bool(row.get("failed"))
    weights = None if task.weight is None else [task.weight(row) or 0.0 for row in checked]
    contexts = [_context(task, row, number) for number, row in enumerate(checked)]
    found = estimate_mean(values, contexts, weights=weights, scale=task.scale).as_dict()
    low, high = task.scale
    parts = round(2 * (high - low)) if high - low > 1 else BINS
    known = [value for value in values if value is not None]
    scores = {
        "task": task.name,
        "view": task.view,
        **found,
        "score": None if found["mean"] is None or (low, high) != (0.0, 1.0) else 100 * found["mean"],
        "average": found["mean"],
        "estimate": found,
        **{name: counts[name] for name in JUDGED_COUNTS},
        **_thoughts(checked),
        "failed": _reasons(checked),
        "compat": compat,
        **task.info,
        "data": data_digest(checked, ("context", "question", *task.row_fields)),
        "scale": [low, high],
        **(task.summarize(list(zip(checked, values, strict=True))) if task.summarize is not None else {}),
    }
    if "shares" not in scores:  # which say it already
        scores["histogram"] = histogram(known, parts, low, high)
    return scores, values


def _reasons(rows: Sequence[Row]) -> dict[str, int]:
    """Why rows lack what they lack, and how often, the most frequent first."""
    found: Counter[str] = Counter()
    for row in rows:
        failed = row.get("failed") or {}
        if row.get("error"):
            found[f"answer: {row['error']}"] += 1
        elif isinstance(failed, Mapping):
            found.update(f"{part}: {why}" for part, why in failed.items())
        else:
            found[str(failed)] += 1
    return dict(sorted(found.items(), key=lambda pair: (-pair[1], pair[0])))


# ---- the way in

Rows = Iterable[Mapping[str, Any]] | str | Path


def score_predictions(
    task: Task,
    rows: Rows,
    compat: str | None = None,
    *,
    span: int = 50,
    positions: int | None = None,
) -> dict[str, Any]:
    """Score `rows` (or a JSON Lines file) of a task and return one JSON object: see `score_rows`."""
    return score_rows(task, rows, compat, span=span, positions=positions)[0]


def score_rows(
    task: Task,
    rows: Rows,
    compat: str | None = None,
    *,
    span: int = 50,
    positions: int | None = None,
    references: Rows | None = None,
    references_name: str = "the references",
) -> tuple[dict[str, Any], list[float | None]]:
    """The scores of a task's rows as one JSON object, and the score of each row (None where it does not count).

    `average` is a fraction, `score` is it in percent; `n` rows were scored. `nulls` had no prediction, `skipped` had
    an ambiguous key or could not be scored, `duplicates` share their key with another row, `refused` begin as a
    refusal, `truncated` were cut off at their length. `errors` got no reply and count as nothing. `thoughts` are no
    part of an answer, except for published arithmetic; `unfinished_thoughts` had nothing else. A null prediction
    scores 0; with `compat="film"` it is left out, as is the last position of every span. `estimate` is the mean with
    its interval, and the rest (`spans` of a curve, `cells` of a grid, `by` of a table) is what the task makes of its
    rows. `references` are a benchmark's published rows, for predictions that do not have the answers beside them;
    errors call them `references_name`. Raises UsageError naming a row that is wrong.
    """
    if task.reads:
        raise UsageError(
            f"{task.name} has no predictions to score: it reads texts with a model",
            hint="lcx eval --recipe in2 --model PATH_OR_HUB_ID --task " + task.name,
        )
    given, where = _given(rows)
    given = own_rows(given)
    if not task.published:
        task, given = placed(task, given)
        if references is not None:
            raise UsageError(f"rows of {task.name} carry their answers: leave --references out")
        return score_probe(task, given, where, compat, span=span, positions=positions)
    matched: dict[str, Any] = {}
    if references is not None:
        known, place = _given(references)
        if not given:
            raise UsageError(f"there are no {task.name} predictions to score", why=f"In {rows}.")
        name = references_name if place == "row" else place.removesuffix(", row")
        given, matched = match(task, given, known, where, name)
    score = score_judged if task.judged else score_benchmark
    scores, values = score(task, given, where, compat)
    return {**scores, **matched}, values


def _given(rows: Rows) -> tuple[Sequence[Mapping[str, Any]], str]:
    """The rows, and how errors name one of them."""
    if isinstance(rows, str | Path):
        return strict_rows(rows), f"{rows}, row"
    return list(rows), "row"
