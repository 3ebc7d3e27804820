"""General instruction data for IN2's fourth share: rows of a file or a hub dataset, without a context."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lcx.errors import UsageError
from lcx.records import Branch, Bundle

QUESTIONS = ("instruction", "question", "prompt", "query")
ANSWERS = ("response", "output", "answer", "completion")


def pair_of(row: Mapping[str, Any]) -> tuple[str, str] | None:
    """Instruction and response of a row in one of the usual layouts, or None. Of a chat, its first exchange."""
    messages = row.get("messages") or row.get("conversations")
    if isinstance(messages, list):
        turns = [(m.get("role") or m.get("from"), m.get("content") or m.get("value")) for m in messages]
        asked = [text for role, text in turns if role in ("user", "human")]
        said = [text for role, text in turns if role in ("assistant", "gpt")]
        return (str(asked[0]), str(said[0])) if asked and said and asked[0] and said[0] else None
    question = next((row[key] for key in QUESTIONS if row.get(key)), None)
    answer = next((row[key] for key in ANSWERS if row.get(key)), None)
    if not question or not answer:
        return None
    system = row.get("system_prompt") or row.get("system")
    extra = row.get("input")
    parts = [str(part).strip() for part in (system, question, extra) if part]
    return "\n\n".join(parts), str(answer).strip()


def general_bundles(source: str, needed: int, skipped: Counter[str]) -> Iterator[Bundle]:
    """Up to `needed` bundles with an empty context. Rows without a question and answer are counted in `skipped`."""
    made = 0
    for row in _rows(source, skipped):
        if made >= needed:
            return
        pair = pair_of(row)
        if pair is None:
            skipped["general row skipped: no question and answer in it"] += 1
            continue
        yield Bundle(f"general-{made:07d}", (Branch(*pair),), context="", kind="general")
        made += 1


def _rows(source: str, skipped: Counter[str]) -> Iterator[Mapping[str, Any]]:
    if source.startswith("hf:"):
        from lcx.data.documents import hub_name
        from lcx.data.hub import hub_rows

        yield from hub_rows(*hub_name(source), columns=None)
        return
    path = Path(source).expanduser()
    if not path.is_file():
        raise UsageError(f"no file of instruction data at '{source}'", hint="--set synth.general=FILE.jsonl")
    if path.suffix == ".parquet":
        import pyarrow.parquet as pq

        try:
            for batch in pq.ParquetFile(path).iter_batches():
                yield from batch.to_pylist()
        except (OSError, ValueError) as bad:  # pyarrow's own errors are ValueErrors
            raise UsageError(f"{path} is no readable Parquet file", why=str(bad).splitlines()[0]) from None
        return
    with path.open("rb") as lines:
        for line in lines:
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError:
                row = None
            if isinstance(row, dict):
                yield row
            else:
                skipped["general row skipped: not a JSON object"] += 1
