"""Training data that somebody else made: rows of JSONL or Parquet with questions, answers and maybe a context."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lcx.data.readers import Rejects
from lcx.errors import UsageError
from lcx.records import Branch, Bundle

CONTEXTS = ("context", "document")
QUESTIONS = ("question", "prompt", "query", "instruction")
ANSWERS = ("answer", "completion", "response", "output")


def bundle_of(row: Mapping[str, Any], name: str) -> Bundle:
    """The bundle in a row: a question, and either `chosen` with `rejected` (one or a list) or an answer.

    Values are texts, or lists of chat messages as TRL has them (one exchange). Raises ValueError with the
    reason for a row that is none of that.
    """
    question = _first(row, QUESTIONS)
    if not question and _is_chat(row.get("chosen")):  # the prompt may be part of both conversations
        question = _text(row["chosen"][:-1], "user")
    if not question:
        raise ValueError("no question")
    context = _first(row, CONTEXTS)
    if row.get("chosen") is not None:
        chosen = _text(row["chosen"], "assistant")
        given = row.get("rejected")
        several = isinstance(given, Sequence) and not isinstance(given, str) and not _is_chat(given)
        rejected = [_text(one, "assistant") for one in (given if several else [given])]  # type: ignore[union-attr]
        if not chosen or not all(rejected) or not rejected:
            raise ValueError("an empty answer" if chosen else "no chosen answer")
        answers = [("chosen", chosen), *(("rejected", text) for text in rejected)]
    else:
        answer = _first(row, ANSWERS)
        if not answer:
            raise ValueError("no answer")
        answers = [("answer", answer)]
    branches = tuple(Branch(question, text, role) for role, text in answers)
    return Bundle(str(row.get("id") or name), branches, context=context, kind="rows")


def read_pair_rows(path: Path, rejects: Rejects) -> list[Bundle]:
    """All usable rows of a file as bundles; the others go into `rejects` with the reason.

    Raises UsageError where none is usable.
    """
    found: list[Bundle] = []
    for number, row in enumerate(raw_rows(path), 1):
        where = f"row {number}"
        if not isinstance(row, Mapping):
            rejects.add(path.name, "no JSON object", where=where)
            continue
        try:
            found.append(bundle_of(row, f"{path.stem}-{number:07d}"))
        except ValueError as bad:
            rejects.add(path.name, str(bad), where=where)
    if not found:
        reasons = "; ".join(f"{reason} ({count})" for reason, count in rejects.counts.items())
        raise UsageError(
            f"{path} has no usable row",
            why=reasons or "It is empty.",
            hint='A row: {"context": "...", "question": "...", "chosen": "...", "rejected": ["...", "..."]}',
        )
    return found


def raw_rows(path: Path) -> Iterator[Any]:
    """Rows of a JSONL or Parquet file, None for a line that is no JSON. Raises UsageError for no Parquet file."""
    if path.suffix == ".parquet":
        import pyarrow.parquet as pq

        try:
            with pq.ParquetFile(path) as file:
                for batch in file.iter_batches(256):
                    yield from batch.to_pylist()
        except (OSError, ValueError) as bad:  # pyarrow's own errors are ValueErrors
            raise UsageError(f"{path} is no readable Parquet file", why=str(bad).splitlines()[0]) from None
        return
    with path.open("rb") as lines:
        for line in lines:
            if line.strip():
                try:
                    yield json.loads(line)
                except ValueError:
                    yield None


def _first(row: Mapping[str, Any], names: Sequence[str]) -> str:
    for name in names:
        text = _text(row.get(name), "user" if name in QUESTIONS else "assistant")
        if text:
            return text
    return ""


def _is_chat(value: Any) -> bool:
    return isinstance(value, Sequence) and bool(len(value)) and isinstance(value[0], Mapping)


def _text(value: Any, role: str) -> str:
    """A text, or what a role says in a conversation that has one exchange; raises ValueError for longer ones."""
    if isinstance(value, str):
        return value.strip()
    if not _is_chat(value):
        return ""
    asked = [str(turn.get("content") or "") for turn in value if turn.get("role") == "user"]
    said = [str(turn.get("content") or "") for turn in value if turn.get("role") == role]
    if len(asked) > 1 or len(said) > 1:
        raise ValueError("a conversation of several turns")
    system = [str(turn.get("content") or "") for turn in value if turn.get("role") == "system"]
    return "\n\n".join((system if role == "user" else []) + said).strip()
