"""Rows of predictions as a run writes them: what was asked and answered, where the evidence lies, and the score."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from lcx.evaluation.answer import Answer
from lcx.evaluation.encode import ContextPrompts
from lcx.evaluation.offline import hear, score_benchmark, score_judged, score_probe
from lcx.evaluation.samples import ITEM, TaskData
from lcx.records import Branch

__all__ = ["CLOSE", "CUT", "OPEN", "excerpt", "make_row", "score_rows"]

OWN = ("set", "position", "gold", ITEM)
"""Fields of a branch's meta that a row has under another name, or in another form."""


def make_row(one: TaskData, prompts: ContextPrompts, branch: Branch, answer: Answer | None) -> dict[str, Any]:
    """The row of one item. A context that was dropped is marked `skip`: what was never asked is no wrong answer."""
    meta = branch.meta
    gold = [tuple(span) for span in meta.get("gold") or ()]
    context = prompts.bundle.context or ""
    row: dict[str, Any] = {"item": meta[ITEM], "context": prompts.bundle.id}
    if "set" in meta:
        row |= {"set_id": meta["set"], "position_id": meta["position"]}
    row |= {key: value for key, value in meta.items() if key not in OWN}
    row |= {
        "pred": answer.text if answer is not None else None,
        "score": None,
        "finish": answer.finish if answer is not None else None,
        "question": branch.question,
    }
    if gold and context and "at" not in row:
        row["at"] = round(gold[0][0] / max(1, len(context)), 4)
    if context:
        row["excerpt"] = excerpt(context, gold)
    if answer is not None and answer.thought:
        row["reasoning"] = answer.thought
    if answer is not None and answer.error:
        row["error"] = answer.error
    if prompts.encoded is None:
        row["skip"] = True
    if prompts.cut and one.task.judged:
        row["truncated"] = True
    return row


def score_rows(
    one: TaskData, contexts: Sequence[ContextPrompts], rows: list[dict[str, Any]]
) -> dict[str, Any]:
    """The scores of a task; each row is given its own score, and what its reply says apart from a thought."""
    task, settings = one.task, one.settings
    rows[:] = hear(rows)
    positions = max((prompts.bundle.meta.get("items", 0) for prompts in contexts), default=0)
    if task.judged:
        scored, values = score_judged(task, rows, "row", _compat(one))
        for row in rows:
            row |= {} if task.weight is None else {"weight": task.weight(row)}
    elif task.published:
        scored, values = score_benchmark(task, rows, "row", _compat(one))
    else:
        scored, values = score_probe(task, rows, "row", _compat(one), span=settings.span, positions=positions)
    for row, value in zip(rows, values, strict=True):
        row["score"] = value
    prefixes = [len(prompts.encoded.prefix) for prompts in contexts if prompts.encoded is not None]
    places = {} if task.published else {"positions": positions}
    aside = {reason: count for reason, count in one.counts.items() if count}
    return {
        "data": one.samples_hash,
        **scored,
        "material": one.samples_hash,
        "task": one.name,
        **places,
        "ambiguous": sum(prompts.bundle.meta.get("skipped", 0) for prompts in contexts),
        "contexts": len(contexts),
        "dropped": sum(prompts.encoded is None for prompts in contexts),
        "truncated": sum(prompts.cut > 0 for prompts in contexts),
        "unfinished": sum(row["finish"] == "length" for row in rows),
        "errors": sum(row["finish"] == "error" for row in rows),
        "context_tokens": round(sum(prefixes) / len(prefixes)) if prefixes else None,
        **({"set aside": aside} if aside else {}),
    }


def _compat(one: TaskData) -> Any:
    """The published arithmetic that was asked for, where this task has one."""
    mode = one.settings.compat
    if one.task.published:
        return mode if mode in one.task.compat else None
    return mode if mode == "film" and one.task.view == "curve" else None


# ---- the part of a context around its evidence

OPEN, CLOSE, CUT = "«", "»", "…"
LEAST = 48
"""Characters that a piece of evidence and its surroundings get at the least: with less, fewer pieces are shown."""


def excerpt(context: str, gold: Iterable[Sequence[int]], width: int = 320) -> str:
    """At most `width` characters of a context: what is around its evidence, the evidence between « and ».

    `gold` are `[start, end)` offsets of the evidence in characters. Pieces that are far apart are joined by an
    ellipsis; where there are more than there is room for, the first ones are shown. Without evidence it is the
    context's beginning and end.
    """
    spans = _merged((max(0, int(one[0])), min(len(context), int(one[1]))) for one in gold)
    if not spans:
        return _both_ends(context, width)
    spans = spans[: max(1, width // LEAST)]
    room = width // len(spans) - 2 * len(CUT) - 4  # marks, ellipses and the blanks beside them
    windows: list[tuple[int, int, list[tuple[int, int]]]] = []
    for start, end in spans:
        pad = max(0, room - (end - start)) // 2
        left, right = _word_start(context, start - pad, start), _word_end(context, end + pad, end)
        if windows and left <= windows[-1][1] + len(CUT):
            windows[-1] = (windows[-1][0], max(right, windows[-1][1]), [*windows[-1][2], (start, end)])
        else:
            windows.append((left, right, [(start, end)]))
    text = f" {CUT} ".join(_marked(context, left, right, inside, room) for left, right, inside in windows)
    before = f"{CUT} " if windows[0][0] > 0 else ""
    after = f" {CUT}" if windows[-1][1] < len(context) else ""
    return before + text + after


def _merged(spans: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """The spans in order, without empty ones; those that touch become one."""
    found: list[tuple[int, int]] = []
    for start, end in sorted(span for span in spans if span[0] < span[1]):
        if found and start <= found[-1][1]:
            found[-1] = (found[-1][0], max(end, found[-1][1]))
        else:
            found.append((start, end))
    return found


def _marked(context: str, left: int, right: int, spans: Sequence[tuple[int, int]], room: int) -> str:
    """The window with its evidence marked; evidence longer than its room loses its middle."""
    parts = []
    for start, end in spans:
        evidence = context[start:end]
        if len(evidence) > room:
            evidence = _both_ends(evidence, room)
        parts.append(f"{context[left:start]}{OPEN}{evidence}{CLOSE}")
        left = end
    return "".join(parts) + context[left:right]


def _both_ends(text: str, width: int) -> str:
    if len(text) <= width:
        return text
    kept = max(0, width - len(CUT) - 2)
    return f"{text[: kept - kept // 2].rstrip()} {CUT} {text[len(text) - kept // 2 :].lstrip()}"


def _word_start(text: str, place: int, stop: int) -> int:
    """The first start of a word or line at `place` or after, before `stop`; `place` where there is none."""
    place = max(0, place)
    if place == 0 or text[place - 1].isspace():
        return place
    return next((n + 1 for n in range(place, stop) if text[n].isspace()), place)


def _word_end(text: str, place: int, stop: int) -> int:
    """The last end of a word at `place` or before, after `stop`; `place` where there is none."""
    place = min(len(text), place)
    if place == len(text) or text[place].isspace():
        return place
    return next((n for n in range(place - 1, stop - 1, -1) if text[n].isspace()), place)
