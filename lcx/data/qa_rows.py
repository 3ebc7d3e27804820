"""A corpus's own questions: rows that hold a context, a question and mostly an answer, under their usual names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from lcx.data.readers import Rejects, row_document, usable
from lcx.records import Document

CONTEXTS = ("context", "document", "text", "content", "article", "passage")
QUESTIONS = ("question", "query", "instruction", "prompt")
ANSWERS = ("answer", "answers", "output", "outputs", "response", "completion")
OTHER = "input"
"""Beside a question it is the context (as in Alpaca's rows), beside a context the question (as in LongBench's)."""


def qa_document(
    row: Any, name: str, where: str, rejects: Rejects, *, fallback_id: str | None = None
) -> Document | None:
    """The document in a row; `meta["qa"]` is [[question, answer or None]] where the row asks one.

    A row without a question is read as any method reads it. None, with the reason set aside, where there is no
    text.
    """
    if not isinstance(row, Mapping):
        return row_document(row, name, where, rejects, fallback_id=fallback_id)
    context, question = _first(row, CONTEXTS), _first(row, QUESTIONS)
    if context is None and question is not None:
        context = _first(row, (OTHER,))
    elif context is not None and question is None:
        question = _first(row, (OTHER,))
    if context is None:
        return row_document(row, name, where, rejects, fallback_id=fallback_id)
    meta = dict(row["meta"]) if isinstance(row.get("meta"), Mapping) else {}
    meta.pop("qa", None)
    meta.setdefault("kind", row["kind"] if isinstance(row.get("kind"), str) else "text")
    if question is not None:
        meta["qa"] = [[question, _answer(row)]]
    given = row.get("id")
    own = str(given) if isinstance(given, str | int) and str(given) else fallback_id
    text = context.replace("\r\n", "\n").replace("\r", "\n")
    return usable(Document(own or f"{name}:{where.split()[-1]}", text, meta), name, where, rejects)


def merged(documents: Iterator[Document]) -> Iterator[Document]:
    """The documents with neighbours of one text as one: such rows ask several questions about it."""
    held: Document | None = None
    for document in documents:
        if held is not None and document.text == held.text and "qa" in document.meta:
            asked = [*held.meta.get("qa", []), *document.meta["qa"]]
            held = replace(held, meta={**held.meta, "qa": asked})
            continue
        if held is not None:
            yield held
        held = document
    if held is not None:
        yield held


def _first(row: Mapping[str, Any], names: tuple[str, ...]) -> str | None:
    """The first field of these that holds words."""
    for name in names:
        value = row.get(name)
        if isinstance(value, str) and value.strip():
            return value.strip("\n") if name in CONTEXTS else value.strip()
    return None


def _answer(row: Mapping[str, Any]) -> str | None:
    """The row's answer; the first of several. `{"text": [...]}`, as SQuAD has it, counts too."""
    for name in ANSWERS:
        value = row.get(name)
        if isinstance(value, Mapping):
            value = value.get("text")
        if isinstance(value, list | tuple):
            value = next((one for one in value if isinstance(one, str) and one.strip()), None)
        if isinstance(value, str) and value.strip():
            return value.strip()
    return None
