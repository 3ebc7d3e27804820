"""What a probe is, and how to find one by name."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from lcx.errors import UsageError, suggestion
from lcx.records import Branch, Bundle, Document

__all__ = ["Probe", "ProbeOptions", "Style", "builtin_probes", "get_probe", "row_of"]

Style = Literal["natural", "bare"]
"""`natural` asks in a sentence, as a chat model expects; `bare` gives only the key, for the tiny model."""


@dataclass(frozen=True)
class ProbeOptions:
    """How large a probe is. `size` is the number of items a context, unless `context_tokens` sets its length.

    `count_tokens` (text -> number of tokens) is needed where `context_tokens` is given.
    """

    size: int
    sets: int = 4
    style: Style = "natural"
    context_tokens: int | None = None
    count_tokens: Callable[[str], int] | None = None


@dataclass(frozen=True)
class Probe:
    """A named evaluation: `build` makes its bundles from a corpus and `score` scores one row of predictions.

    `build(documents, options, seed)` gives one bundle a context, with a `query` branch for each question. A
    branch's `meta` has `set`, `position`, `query` and the `row_fields`, which its prediction row carries too.
    `score(row)` is between 0 and 1; it is called for rows whose `pred` is a string, and None leaves the row
    out. `compat(row)`, where given, is the published scoring. Two rows of one set with the same `key_field`
    are ambiguous and left out.
    """

    name: str
    summary: str
    build: Callable[[Iterable[Document], ProbeOptions, int], list[Bundle]]
    score: Callable[[Mapping[str, Any]], float | None]
    row_fields: tuple[str, ...]
    aliases: Mapping[str, str] | None = None
    key_field: str | None = None
    compat: Callable[[Mapping[str, Any]], float | None] | None = None


def builtin_probes() -> dict[str, Probe]:
    """The probes that lcx itself brings, by name; plugins add theirs through `lcx_register_probes`."""
    # Imported here: val needs this module.
    from lcx.evaluation.val import CODE, DATABASE, DOCUMENT

    return {probe.name: probe for probe in (DOCUMENT, CODE, DATABASE)}


def get_probe(name: str, probes: Mapping[str, Probe] | None = None) -> Probe:
    """The probe of that name among `probes` (default: the built-in ones). Raises UsageError."""
    known = builtin_probes() if probes is None else probes
    if name not in known:
        raise UsageError(
            f"there is no probe named '{name}'. {suggestion(name, known)}".rstrip(),
            hint=f"Known probes: {', '.join(sorted(known))}.",
        )
    return known[name]


def row_of(branch: Branch, pred: str | None) -> dict[str, Any]:
    """The row of predictions for a query branch: its place, question, reference and prediction."""
    meta = dict(branch.meta)
    return {"set_id": meta.pop("set"), "position_id": meta.pop("position"), **meta, "pred": pred}
