"""A benchmark's published rows, its prompts, and the bundles that are made of both.

| `data` | what is read |
|---|---|
| a folder | SET.jsonl, SET.json or SET.parquet in it, or in its subfolder `data`, or in a `data.zip` |
| a `.jsonl`, `.json` or `.parquet` file | its rows; of those with a `dataset` field, the set's own |
| a `.zip` file | SET.jsonl in it, wherever |
| `hf:NAME[:CONFIG][@SPLIT]` | through the `datasets` library; CONFIG is the set unless given, SPLIT `test` |

Prompts are ours, or a JSON file of the user's, such as the one that LongBench publishes: it maps a set's name to its
prompt, a text with {context} and, where the set has questions, {input}.
"""

from __future__ import annotations

import hashlib
import importlib.resources
import json
import zipfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lcx.data.files import strict_bytes, strict_rows
from lcx.data.templates import Template
from lcx.errors import LcxError, MissingError, UsageError, suggestion
from lcx.evaluation.task import Samples
from lcx.records import Branch, Bundle
from lcx.storage import sha256_json

__all__ = [
    "Item",
    "Prompt",
    "Published",
    "load_items",
    "load_prompts",
    "prompt_of",
    "read_published",
    "read_source",
    "split_prompt",
]

# ---- rows

ENDINGS = (".jsonl", ".json", ".parquet")
Row = dict[str, Any]


@dataclass(frozen=True)
class Published:
    """What is read for one task.

    `names` are what its file may be called, in order of preference; `dataset` is what its rows' field of that name
    says; `config` and `split` go to `datasets`; `gets` is the command that gets the data (empty where `datasets` gets
    it by itself), and `place` what is then named.
    """

    task: str
    family: str
    names: tuple[str, ...]
    gets: str
    place: str
    dataset: tuple[str, ...] = ()
    config: str | None = None
    split: str = "test"

    def missing(self, what: str, why: str = "") -> MissingError:
        line = f"--set eval.data.{self.family}={self.place}"
        return MissingError(what, why=why, hint=f"{self.gets}\nthen: {line}" if self.gets else line)


def read_source(source: Published, data: str | None) -> list[Row]:
    """The rows of a task. Raises MissingError where they are not there, UsageError naming a broken line."""
    if data is None:
        raise source.missing(f"no data for {source.task}", "It is published elsewhere, and nothing names it.")
    if data.startswith("hf:"):
        return _hub(source, data)
    place = Path(data).expanduser()
    if place.is_dir():
        return _own(source, _folder(source, place))
    if not place.is_file():
        raise source.missing(f"no data for {source.task} at '{data}'")
    rows = _archive(source, place) if place.suffix.lower() == ".zip" else read_published(place)
    if not rows:
        raise UsageError(f"{data} has no row", hint=f"{source.task} reads one question a row.")
    own = _own(source, rows)
    if not own:
        raise source.missing(f"no row of {data} is of {source.task}", f"Its rows are of {_datasets(rows)}.")
    return own


def read_published(path: Path) -> list[Row]:
    """The rows of a JSONL, JSON or Parquet file. Raises UsageError naming a broken line."""
    return strict_rows(path)


def _folder(source: Published, folder: Path) -> list[Row]:
    for inside in (folder, folder / "data"):
        for name in source.names:
            for ending in ENDINGS:
                if (inside / f"{name}{ending}").is_file():
                    return read_published(inside / f"{name}{ending}")
    for archive in (folder / "data.zip", folder / "LongBench.zip"):
        if archive.is_file():
            return _archive(source, archive)
    there = sorted(path.name for path in folder.iterdir() if path.suffix in ENDINGS)
    shown = ", ".join(there[:6]) + (", ..." if len(there) > 6 else "")
    raise source.missing(
        f"no {source.names[0]}.jsonl in {folder} for {source.task}",
        f"It has {shown}." if there else "It has no JSONL, JSON or Parquet file.",
    )


def _archive(source: Published, path: Path) -> list[Row]:
    try:
        with zipfile.ZipFile(path) as archive:
            inside = {Path(name).name: name for name in archive.namelist() if "__MACOSX" not in name}
            for name in source.names:
                for ending in ENDINGS[:2]:
                    if f"{name}{ending}" in inside:
                        return strict_bytes(archive.read(inside[f"{name}{ending}"]), f"{path}/{name}{ending}")
    except (OSError, zipfile.BadZipFile) as bad:
        raise UsageError(f"cannot read {path}", why=str(bad)) from None
    raise source.missing(f"no {source.names[0]}.jsonl in {path} for {source.task}")


def _hub(source: Published, data: str) -> list[Row]:
    """Rows through `datasets`; a dataset that is only a script and an archive is read from the archive."""
    from lcx.data.files import hub_name, hub_rows

    name, config, split = hub_name(data)
    try:
        return list(hub_rows(name, config or source.config, split or source.split))
    except LcxError as bad:
        rows = _zipped(name, source.names) if config is None else None
        if rows is None:
            raise source.missing(f"no data for {source.task} at '{data}'", bad.why or bad.what) from bad
        return rows


def _zipped(name: str, sets: Sequence[str]) -> list[Row] | None:
    """Rows out of a dataset's `data.zip`, as LongBench publishes them; None where there is none to be had."""
    from lcx.hub import out_of_reach

    local = Path(name).is_dir()
    if not local and out_of_reach():
        return None
    import datasets

    archive = f"{name}/data.zip" if local else f"hf://datasets/{name}/data.zip"
    for one in sets:
        inside = f"zip://data/{one}.jsonl::{archive}"
        try:
            return list(datasets.load_dataset("json", data_files=inside, split="train", streaming=True))
        except Exception:  # nosec B112  # whatever its readers raise: the first failure is the one to report
            continue
    return None


def _own(source: Published, rows: Sequence[Row]) -> list[Row]:
    """The rows of the set, where they say what set they are of."""
    if not source.dataset:
        return list(rows)
    return [row for row in rows if row.get("dataset") in (None, "", *source.dataset)]


def _datasets(rows: Sequence[Mapping[str, Any]]) -> str:
    return ", ".join(sorted({str(row.get("dataset")) for row in rows})[:8])


# ---- prompts


@dataclass(frozen=True)
class Prompt:
    """A prompt as a template, and how its questions are written.

    `inside` is set where the question stands before the context: then the whole of what comes before the context's
    end is context, and no two questions share it.
    """

    template: Template
    question: str = "{input}"
    inside: str | None = None

    def ask(self, context: str, values: Mapping[str, str]) -> tuple[str, str]:
        """The text of the context and of the question, where `values` go into the question's places."""
        question = _fill(self.question, values)
        if self.inside is None:
            return context, question
        head, _, tail = self.inside.partition("{context}")
        return _fill(head, values) + context + tail, question


def load_prompts(family: str, path: str | None) -> dict[str, Any]:
    """Prompts by set: the bundled file of a family, or the user's. Raises MissingError, UsageError for a bad file."""
    if path is None:
        text = (
            importlib.resources.files("lcx.evaluation.benchmarks") / "prompts" / f"{family}.json"
        ).read_text(encoding="utf-8")
        found: dict[str, Any] = json.loads(text)
        return found
    place = Path(path).expanduser()
    if not place.is_file():
        raise MissingError(
            f"no prompts at '{path}' for {family}",
            hint=f"--set eval.prompts.{family}=FILE.json (set -> prompt); without it lcx uses its own wording.",
        )
    try:
        text = place.read_text(encoding="utf-8-sig")
        if place.suffix.lower() == ".txt":
            return {family: text}
        found = json.loads(text)
    except (OSError, ValueError, RecursionError) as bad:
        raise UsageError(f"cannot read the prompts in {path}", why=str(bad)) from None
    if not isinstance(found, dict):
        raise UsageError(f"the prompts in {path} are no JSON object of set and prompt")
    return found


def prompt_of(prompts: Mapping[str, Any], name: str, family: str, path: str | None, *, chat: bool) -> Prompt:
    """The prompt of a set, split where its context and its question stand. Raises UsageError where it lacks one."""
    text = prompts.get(name)
    if not isinstance(text, str):
        raise UsageError(
            f"{path or 'the bundled prompts'} have no prompt for '{name}'. {suggestion(name, prompts)}".rstrip(),
            hint='A line such as "' + name + '": "... {context} ... {input} ..." gives it one.',
        )
    return split_prompt(text, f"{family}:{name}", chat=chat)


def split_prompt(text: str, name: str, *, chat: bool = True, places: str = "{input}") -> Prompt:
    """A prompt's text as a template. `places` is what the question is made of, where it is more than {input}."""
    if text.count("{context}") != 1:
        raise UsageError(
            f"the prompt of {name} needs {{context}} once, and has it {text.count('{context}')} times"
        )
    head, _, rest = text.partition("{context}")
    if text.count("{input}") > 1:
        raise UsageError(f"the prompt of {name} has {{input}} more than once")
    if "{input}" in head:
        return Prompt(
            Template(name, between="", after=rest, chat=chat), question="", inside=head + "{context}"
        )
    if "{input}" not in rest:
        # All that follows the context is asked of every row alike.
        return Prompt(Template(name, head=head, between=rest, chat=chat), question="")
    between, _, after = rest.partition("{input}")
    return Prompt(Template(name, head=head, between=between, after=after, chat=chat), question=places)


def _fill(text: str, values: Mapping[str, str]) -> str:
    """The text with its places filled in one pass, so that braces in a value stay as they are."""
    from lcx.llm.prompts import fill

    return fill(text, values)


# ---- bundles


@dataclass(frozen=True)
class Item:
    """One published question: its context, what its prompt's places are filled with, and what its row carries."""

    id: str
    context: str
    values: Mapping[str, str]
    fields: Mapping[str, Any] = field(default_factory=dict)


def load_items(task: str, items: Sequence[Item], prompt: Prompt, counts: Counter[str]) -> Samples:
    """The questions as bundles, one a context. Raises UsageError where there is none.

    Of several items with one id the first counts, and `counts` says how many were left out.
    """
    seen: set[str] = set()
    asked: dict[str, list[Branch]] = {}
    marks = []
    for item in items:
        if item.id in seen:
            counts["a second row of one id"] += 1
            continue
        seen.add(item.id)
        context, question = prompt.ask(item.context, item.values)
        answers = item.fields.get("answers") or [item.fields.get("answer", "")]
        branch = Branch(question, str(answers[0]), "query", meta={"id": item.id, **item.fields})
        asked.setdefault(context, []).append(branch)
        marks.append([item.id, _digest(item.context), dict(item.values), dict(item.fields)])
    if not marks:
        aside = ", ".join(f"{count} with {reason}" for reason, count in counts.items())
        raise UsageError(f"{task} has no usable row", why=f"Set aside: {aside}." if aside else "")
    bundles = [
        Bundle(f"{task}:{_digest(context)}", tuple(branches), context=context, kind=task)
        for context, branches in asked.items()
    ]
    return Samples(bundles, prompt.template, counts, sha256_json(marks)[:16])


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]
