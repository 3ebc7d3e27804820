"""What an evaluation is: a probe asks about contexts, a benchmark has published questions, a measure reads texts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from lcx.errors import UsageError, suggestion
from lcx.records import Branch, Bundle, Document

if TYPE_CHECKING:
    from lcx.data.templates import Template

__all__ = [
    "Knob",
    "Loaded",
    "Measure",
    "Probe",
    "ProbeOptions",
    "Reading",
    "Scored",
    "Style",
    "Suite",
    "SuiteOptions",
    "builtin_probes",
    "get_probe",
    "knob_values",
    "row_of",
]


@dataclass(frozen=True)
class Knob:
    """One setting of a probe: its default (whose type it keeps), what it does, and its limits.

    `least` and `most` are for numbers, both included; `choices` for texts.
    """

    default: bool | int | float | str
    summary: str
    least: float | None = None
    most: float | None = None
    choices: tuple[str, ...] = ()


def knob_values(name: str, knobs: Mapping[str, Knob], given: Mapping[str, Any]) -> dict[str, Any]:
    """The value of every knob of probe `name`: as given, else its default. Raises UsageError naming a bad one."""
    for key in given:
        if key not in knobs:
            has = f"Its knobs: {', '.join(knobs)}." if knobs else "It has no knobs."
            raise UsageError(f"{name} has no knob '{key}'. {suggestion(str(key), knobs)}".rstrip(), hint=has)
    return {key: _checked(name, key, knob, given.get(key, knob.default)) for key, knob in knobs.items()}


def _checked(name: str, key: str, knob: Knob, value: Any) -> Any:
    """`value` as the knob's type. A command line gives texts, so a text that reads as the type will do."""
    try:
        value = _as(type(knob.default), value)
    except ValueError:
        kind = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}
        raise UsageError(
            f"{name}: the knob '{key}' is {kind[type(knob.default)]}, not {value!r}", hint=f"{knob.summary}."
        ) from None
    if knob.choices and value not in knob.choices:
        near = suggestion(str(value), knob.choices)
        raise UsageError(
            f"{name}: the knob '{key}' cannot be '{value}'. {near}".rstrip(),
            hint=f"Choose one of {', '.join(knob.choices)}.",
        )
    if (knob.least is not None and value < knob.least) or (knob.most is not None and value > knob.most):
        ends = [
            f"{word} {end:g}"
            for word, end in (("at least", knob.least), ("at most", knob.most))
            if end is not None
        ]
        raise UsageError(f"{name}: the knob '{key}' is {' and '.join(ends)}, not {value}")
    return value


def _as(kind: type, value: Any) -> Any:
    """`value` as a bool, int, float or str. Raises ValueError where it is none."""
    if kind is bool:
        if isinstance(value, bool):
            return value
        if str(value).lower() in ("true", "false"):
            return str(value).lower() == "true"
        raise ValueError(value)
    if kind is str:
        if not isinstance(value, str):
            raise ValueError(value)
        return value
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError(value)
    number = float(value)
    if number != number or abs(number) == float("inf") or (kind is int and number != int(number)):
        raise ValueError(value)
    return kind(number)


Style = Literal["natural", "bare"]
"""`natural` asks in a sentence, as a chat model expects; `bare` gives only the key, for the tiny model."""

Scored = tuple[Mapping[str, Any], float | None]
"""A row of predictions and its score between 0 and 1; None where the row does not count."""


@dataclass(frozen=True)
class ProbeOptions:
    """How large an evaluation is. `size` is the number of items a context, unless `context_tokens` sets its length.

    `lengths` and `records` are the lengths of a grid's contexts in tokens and in record lines, `depths` its
    places in a context; empty `lengths` follow the model's `window`. `tokenize` gives a text's token ids,
    `opening` are the tokens that come before any text, and `prompt_tokens` says how many tokens a bundle's
    longest row takes with its answer. `count_tokens` is needed where `context_tokens` is given, the last
    three where `lengths` count. `knobs` are a probe's own settings: see `Probe.knobs`.
    """

    size: int
    sets: int = 4
    style: Style = "natural"
    context_tokens: int | None = None
    count_tokens: Callable[[str], int] | None = None
    lengths: tuple[int, ...] = ()
    records: tuple[int, ...] = ()
    depths: int = 10
    one_needle: bool = False
    buckets: int = 32
    window: int | None = None
    tokenize: Callable[[str], Sequence[int]] | None = None
    opening: tuple[int, ...] = ()
    prompt_tokens: Callable[[Bundle], int] | None = None
    knobs: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Probe:
    """An evaluation that asks: `build` makes its bundles from a corpus and `score` scores one row of predictions.

    `build(documents, options, seed)` gives one bundle a context, with a `query` branch for each question. A
    branch's `meta` has `set`, `position`, `query` and the fields of `row_fields` (text), `number_fields` and
    `list_fields` (lists of texts), which its prediction row carries too. It should have `gold`: the
    `[start, end]` character offsets in the context of what answers the question. It may have `decoy`: a text,
    or several, that a model misled by the context would name; their share is reported. `score(row)` is between
    0 and 1; it is called for rows whose `pred` is a string, and None leaves the row out. `compat(row)`, where
    given, is the published scoring. Two rows of one set with the same `key_field` are ambiguous and left out.
    `summarize(scored)`, where given, makes the result of all rows in place of a curve by position; `view`
    says how it is drawn. It has at least `average` and `gap`. `knobs` are the probe's own settings by name, with
    their defaults; `build` reads them with `knob_values`. `questions(options)`, where given, is how many a
    context has.
    """

    name: str
    summary: str
    build: Callable[[Iterable[Document], ProbeOptions, int], list[Bundle]]
    score: Callable[[Mapping[str, Any]], float | None]
    row_fields: tuple[str, ...]
    aliases: Mapping[str, str] | None = None
    key_field: str | None = None
    compat: Callable[[Mapping[str, Any]], float | None] | None = None
    number_fields: tuple[str, ...] = ()
    summarize: Callable[[Sequence[Scored]], dict[str, Any]] | None = None
    view: str = "curve"
    list_fields: tuple[str, ...] = ()
    knobs: Mapping[str, Knob] = field(default_factory=dict)
    questions: Callable[[ProbeOptions], int] | None = None


@dataclass(frozen=True)
class Reading:
    """One text that a measure reads: its token ids, and whatever else its result follows from in `meta`."""

    id: str
    ids: tuple[int, ...]
    meta: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Measure:
    """An evaluation that asks nothing: it reads texts, one after the other, and sums up what it found.

    `build(documents, options, seed)` gives the texts, `measure(model, reading, on_done)` the JSON-able result
    of one (`on_done` is told how many tokens were read each time some were), and `summarize(readings,
    results)` the whole: `n` and whatever its `view` draws.
    """

    name: str
    summary: str
    build: Callable[[Iterable[Document], ProbeOptions, int], list[Reading]]
    measure: Callable[[Any, Reading, Callable[[int], None]], dict[str, Any]]
    summarize: Callable[[Sequence[Reading], Sequence[Mapping[str, Any]]], dict[str, Any]]
    view: str = "perplexity"


@dataclass(frozen=True)
class SuiteOptions:
    """Where a suite's rows and prompts are, and how many of them to ask.

    `data` is a folder, a file or hf:NAME, `prompts` a JSON file of prompts by set; None takes what is bundled,
    where there is anything. `limit` is the most rows of a task, drawn by `sample_seed` (None: spread evenly).
    """

    data: str | None = None
    prompts: str | None = None
    limit: int | None = None
    sample_seed: int | None = None


@dataclass(frozen=True)
class Loaded:
    """A suite's rows as bundles, one a context; `template` stands around them.

    A branch's meta has `id` and the fields that its prediction row is scored by (answers, length, ...).
    `counts` are the rows set aside, by reason; `data_hash` is the digest of everything that was loaded.
    """

    bundles: list[Bundle]
    template: Template
    counts: Counter[str]
    data_hash: str


@dataclass(frozen=True)
class Suite:
    """Published questions with contexts of their own; `family` is its key in the settings `data` and `prompts`.

    `load` raises MissingError with the line that gets the data where it is not there. `score(row)` is between 0
    and 1, and None leaves the row out; it is called for rows whose `pred` is text, and `compat[mode](row)` is
    the published scoring; its score in percent is then rounded to `digits` decimals. Results are broken down by the
    row fields in `groups` (length, difficulty, domain). `fields(row)` gives the row fields that a published row, or
    a saved one, has under other names. `shots`: the context is only examples, the same for all questions, so that it
    says nothing of how alike their answers are. `info` is recorded with the scores: the metric, and what else there is.
    """

    name: str
    summary: str
    family: str
    load: Callable[[SuiteOptions], Loaded]
    score: Callable[[Mapping[str, Any]], float | None]
    row_fields: tuple[str, ...]
    compat: Mapping[str, Callable[[Mapping[str, Any]], float | None]] = field(default_factory=dict)
    groups: tuple[str, ...] = ()
    max_new_tokens: int = 64
    view: str = "table"
    fields: Callable[[Mapping[str, Any]], Mapping[str, Any]] | None = None
    digits: int | None = None
    shots: bool = False
    info: Mapping[str, Any] = field(default_factory=dict)


def builtin_probes() -> dict[str, Probe | Measure]:
    """The evaluations that lcx itself brings, by name; plugins add theirs through `lcx_register_probes`."""
    from lcx.plugins import CORE, loaded

    probes = loaded().probes
    found = {name: probes.load(name) for name in probes.names() if probes.owner(name) == CORE}
    return {name: probe for name, probe in found.items() if not isinstance(probe, Suite)}


def get_probe(name: str, probes: Mapping[str, Probe | Measure] | None = None) -> Probe | Measure:
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
