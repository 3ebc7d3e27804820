"""General instruction data for IN2's fourth share: rows of a file or a hub dataset, without a context of their own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from lcx.data.files import Rejects
from lcx.data.rows import Example, Tally, bundle_of
from lcx.errors import UsageError
from lcx.records import Bundle


def general_bundles(
    source: str,
    needed: int,
    skipped: Counter[str],
    fields: Mapping[str, str] | None = None,
    notes: list[str] | None = None,
) -> Iterator[Bundle]:
    """Up to `needed` bundles with an empty context; rows that cannot be used are counted in `skipped`.

    What a row has as its context stands behind its instruction, as in Alpaca's prompt. Raises UsageError where there
    is no such data, and where rows lose a long field that nobody reads and have no other context.
    """
    if not source.startswith("hf:") and not Path(source).expanduser().exists():
        raise UsageError(f"no file of instruction data at '{source}'", hint="--set synth.general=FILE.jsonl")
    rejects = Rejects()
    tally = Tally(rejects, fields)
    made = 0
    for raw, example in tally.examples_in(source):
        if made >= needed:
            break
        try:
            bundle = bundle_of(_without_context(example), f"general-{made:07d}")
        except ValueError as bad:
            rejects.add(raw.source, str(bad), where=raw.where)
            continue
        yield replace(bundle, id=f"general-{made:07d}", kind="general", branches=bundle.branches[:1])
        made += 1
    skipped.update({f"general row skipped: {reason}": count for reason, count in rejects.counts.items()})
    tally.check(source)
    if notes is not None:
        notes += tally.notes()


def _without_context(example: Example) -> Example:
    """The example with its context behind its question, and a chosen answer as the answer."""
    answers = (example.chosen,) if example.chosen is not None else example.answers
    question = "\n\n".join(filter(None, (example.question, example.context)))
    return replace(example, context="", question=question, answers=answers, chosen=None, rejected=())
