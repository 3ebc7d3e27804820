"""What LOGO's steps leave on disk: every example as a candidate, what is kept as bundles, and the files for people."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lcx.context import StepResult
from lcx.data.bundles import read_bundles, write_bundles
from lcx.data.table import SegmentTable
from lcx.errors import LcxError
from lcx.records import Bundle
from lcx.storage import shard_path, write_lines, write_text
from lcx_logo.bundles import dropped_row, kept
from lcx_logo.preview import preview, summary
from lcx_logo.settings import LogoSynth

CANDIDATES = "candidates"
"""Name of the shards that hold every example, dropped or not, beside the bundles that are trained on."""


def write_candidates(shards: int, data: Path, number: int, make: Callable[[int], Bundle]) -> None:
    """Write the shards that are not there yet: every example into `candidates`, what is kept into `bundles`.

    A shard is a contiguous block of examples; its bundles come last, so one that is there is whole.
    """
    count = min(shards, max(1, number))
    for index in range(count):
        if shard_path(data, "bundles", index, count).is_file():
            continue
        block = [make(i) for i in range(index * number // count, (index + 1) * number // count)]
        write_bundles(data, block, name=CANDIDATES, index=index, count=count)
        good = (bundle for bundle in map(kept, block) if bundle is not None)
        write_bundles(data, good, index=index, count=count)


def finish(
    settings: LogoSynth, folder: Path, table: SegmentTable, counts: Counter[str], described: dict[str, Any]
) -> StepResult:
    """Counts, notes and the files for people, once the data is written."""
    bundles, candidates = read_bundles(folder / "data"), read_bundles(folder / "data", CANDIDATES)
    rows = (row for row in map(dropped_row, candidates) if row is not None)
    write_lines(folder / "dropped.jsonl", rows)
    metrics = summary(bundles, candidates)
    counts.update(metrics.pop("counts"))
    write_text(folder / "preview.md", preview(bundles, table))
    if not len(bundles):
        raise LcxError(
            f"the filter dropped all {len(candidates):,} examples",
            why="; ".join(f"{k} ({n})" for k, n in counts.most_common() if k.startswith("example dropped")),
            hint=f"{folder / 'dropped.jsonl'} has them with their ratings; lower synth.margin, or see whether the "
            "policy answers at all.",
        )
    return StepResult(
        counts=dict(sorted(counts.items())),
        metrics=metrics,
        files={"data": "data", "preview": "preview.md", "dropped": "dropped.jsonl"},
        notes=_notes(settings, counts, len(bundles), len(candidates)),
        extra=described,
    )


def _notes(settings: LogoSynth, counts: Counter[str], bundles: int, candidates: int) -> list[str]:
    notes = []
    distinct = counts["questions of the corpus"] + counts["questions written"]
    if distinct < settings.examples:
        served = min(settings.examples, distinct * settings.repeats)
        notes.append(
            f"{distinct:,} different questions serve {served:,} examples of the {settings.examples:,} wanted "
            f"(synth.repeats: {settings.repeats})"
        )
    if bundles < candidates:
        notes.append(
            f"the filter kept {bundles:,} of {candidates:,} examples; dropped.jsonl says why the others went"
        )
    if settings.llm == "builtin":
        notes.append(
            "builtin rules answered; LOGO trains a model on its own answers: --llm local:PATH_OR_ID of that model"
        )
    return notes
