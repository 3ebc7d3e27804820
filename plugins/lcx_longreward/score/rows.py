"""Answers that somebody wants judged, as rows: a context, a question, one or several answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lcx.data.files import Rejects
from lcx.data.rows import Example, Tally
from lcx.records import Branch, Bundle

NEEDED = 'A row: {"context": "...", "query": "...", "answer": "..."}, or "answers": ["...", "..."].'


def read_answer_rows(
    path: Path, rejects: Rejects, fields: Mapping[str, str] | None = None, notes: list[str] | None = None
) -> list[Bundle]:
    """A bundle for each context and question, with the answers of all rows that have both, in the order of the rows.

    Rows that cannot be used go into `rejects` with the reason, what is worth saying into `notes`. Raises UsageError
    where none can be used.
    """
    found: dict[tuple[str, str], list[Branch]] = {}
    ids: dict[tuple[str, str], tuple[str, tuple[str, ...]]] = {}
    names: set[str] = set()
    tally = Tally(rejects, fields)
    for raw, example in tally.examples_in(path):
        try:
            context, question, answers = _parts(example)
        except ValueError as bad:
            rejects.add(raw.source, str(bad), where=raw.where)
            continue
        key = (context, question)
        if key not in found:
            name = example.id or f"{path.stem}-{raw.padded}"
            if name in names:  # an id for each answer of a question is fine, one for several questions is not
                name = f"{name}-{raw.number}"
            names.add(name)
            ids[key] = (name, example.references if example.predictions else ())
            found[key] = []
        for role, answer in answers:
            meta: dict[str, Any] = {"row": int(raw.number.partition(".")[0]), "sample": len(found[key])}
            if len(answers) == 1 and example.id is not None:
                meta["id"] = raw.row.get("id", example.id)
            found[key].append(Branch(question, answer, role, meta=meta))
    tally.check(path)
    if not found:
        raise tally.nothing_usable(path, NEEDED)
    if notes is not None:
        notes += tally.notes()
    return [_bundle(key, branches, *ids[key]) for key, branches in found.items()]


def _bundle(
    key: tuple[str, str], branches: Sequence[Branch], name: str, references: tuple[str, ...]
) -> Bundle:
    meta = {"reference": references[0]} if references else {}
    return Bundle(name, tuple(branches), context=key[0], kind="rows", meta=meta)


def _parts(example: Example) -> tuple[str, str, list[tuple[str, str]]]:
    """Context, question and the answers with their roles. Raises ValueError with the reason where one lacks."""
    context, question = example.context.strip(), example.plain_question.strip()
    if not context:
        raise ValueError("no context")
    if not question:
        raise ValueError("no question")
    if example.chosen is not None:  # preference data may be judged again
        answers = [
            ("chosen", example.chosen.strip()),
            *(("rejected", text.strip()) for text in example.rejected),
        ]
    else:
        answers = [("candidate", text.strip()) for text in example.predictions or example.answers]
    if not any(text for _, text in answers):
        raise ValueError("no answer")
    return context, question, answers
