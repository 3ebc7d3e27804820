"""Data for other programs, and from them: bundles and rows written in their formats, and any rows as lcx's own.

Reading is `lcx.data.rows`; this is the way back. A context stands in the first user's words, as a chat template puts
it there, since other programs know no context beside a conversation; LongBench has a field for it.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lcx.data.bundles import holds_bundles, read_bundles, write_bundles
from lcx.data.files import Rejects
from lcx.data.rows import Example, Tally, bundle_of, name_of
from lcx.data.templates import Template, load_template
from lcx.data.tokens import SEPARATOR
from lcx.errors import LcxError, MissingError, UsageError, suggestion
from lcx.records import TURNS, Bundle
from lcx.storage import atomic_path, json_line, read_json


@dataclass(frozen=True)
class Exchange:
    """A question about a context, with its right answer (for preference data the chosen one) and rejected ones."""

    id: str
    context: str
    turns: tuple[tuple[str, str], ...]
    question: str
    answer: str
    rejected: tuple[str, ...] = ()

    def prompt(self, template: Template) -> list[tuple[str, str]]:
        """Roles and texts of the turns before the answer; the context stands in the first user's words."""
        turns = [*self.turns, ("user", self.question)]
        first = next(number for number, (role, _) in enumerate(turns) if role == "user")
        head, between = (template.head, template.between) if self.context else (template.bare_head, "")
        turns[first] = ("user", head + self.context + between + turns[first][1])
        turns[-1] = ("user", turns[-1][1] + template.after)
        return turns


# ---- writers: an exchange as rows; ValueError with the reason where a format has no place for one

Writer = Callable[[Exchange, Template], list[dict[str, Any]]]


def _said(turns: Iterable[tuple[str, str]]) -> list[dict[str, str]]:
    return [{"role": role, "content": text} for role, text in turns]


def _answered(one: Exchange) -> str:
    if not one.answer.strip():
        raise ValueError("no answer")
    return one.answer


def _trl_sft(one: Exchange, template: Template) -> list[dict[str, Any]]:
    return [{"prompt": _said(one.prompt(template)), "completion": _said([("assistant", _answered(one))])}]


def _trl_preference(one: Exchange, template: Template) -> list[dict[str, Any]]:
    if not one.rejected:
        raise ValueError("no rejected answer")
    prompt, chosen = _said(one.prompt(template)), _said([("assistant", _answered(one))])
    return [
        {"prompt": prompt, "chosen": chosen, "rejected": _said([("assistant", text)])}
        for text in one.rejected
    ]


def _trl_prompt(one: Exchange, template: Template) -> list[dict[str, Any]]:
    return [{"prompt": _said(one.prompt(template)), "answer": one.answer}]


def _messages(one: Exchange, template: Template) -> list[dict[str, Any]]:
    return [{"id": one.id, "messages": _said([*one.prompt(template), ("assistant", _answered(one))])}]


def _sharegpt(one: Exchange, template: Template) -> list[dict[str, Any]]:
    names = {"user": "human", "assistant": "gpt", "system": "system"}
    turns = [*one.prompt(template), ("assistant", _answered(one))]
    said = [{"from": names[role], "value": text} for role, text in turns]
    return [{"id": one.id, "conversations": said}]


def _longbench(one: Exchange, template: Template) -> list[dict[str, Any]]:
    if one.turns:
        raise ValueError("earlier turns, which LongBench has no place for")
    return [
        {
            "input": one.question,
            "context": one.context,
            "answers": [_answered(one)],
            "length": len(one.context.split()),
            "dataset": "lcx",
            "language": None,
            "all_classes": None,
            "_id": one.id,
        }
    ]


FORMATS: dict[str, tuple[Writer, str]] = {
    "trl-sft": (_trl_sft, "TRL's SFTTrainer: prompt and completion, as messages"),
    "trl-preference": (
        _trl_preference,
        "TRL's DPOTrainer and others: prompt, chosen, rejected; a row a pair",
    ),
    "trl-prompt": (_trl_prompt, "TRL's GRPOTrainer and others: prompt; the answer stands beside it"),
    "sharegpt": (_sharegpt, "conversations of human and gpt"),
    "messages": (_messages, "messages, as OpenAI's fine-tuning takes them"),
    "longbench": (_longbench, "context, input and answers, as `lcx eval --task longbench` reads them"),
}
"""Formats by name, with what reads them."""


# ---- where exchanges come from


def exchanges_of(bundle: Bundle, context: str) -> Iterator[Exchange]:
    """A bundle's branches: each with an answer of its own, or a chosen one with all rejected ones of its question."""
    turns = tuple((str(role), str(text)) for role, text in bundle.meta.get(TURNS) or ())
    rejected: dict[str, list[str]] = {}
    for branch in bundle.branches:
        if branch.role == "rejected":
            rejected.setdefault(branch.question, []).append(branch.answer)
    right = [branch for branch in bundle.branches if branch.role != "rejected"]
    for number, branch in enumerate(right):
        name = bundle.id if len(right) == 1 else f"{bundle.id}#{number}"
        others = tuple(rejected.pop(branch.question, ())) if branch.role == "chosen" else ()
        yield Exchange(name, context, turns, branch.question, branch.answer, others)
    for question, answers in rejected.items():
        yield Exchange(bundle.id, context, turns, question, "", tuple(answers))


def exchange_of(found: Example, name: str) -> Exchange:
    """A row's exchange. Raises ValueError where it asks nothing."""
    if not found.question.strip():
        raise ValueError("no question")
    right = found.chosen if found.chosen is not None else next(iter(found.answers), "")
    return Exchange(found.id or name, found.context, found.turns, found.question, right, found.rejected)


def data_folder(source: Path) -> Path:
    """The folder of bundles behind a step's folder or its data; any other path as it is.

    Raises LcxError for a step that is not done.
    """
    place = (
        source / "data"
        if source.is_dir() and not holds_bundles(source) and holds_bundles(source / "data")
        else source
    )
    step = place.parent
    manifest = step.parent / "manifest.json"
    if place.name == "data" and manifest.is_file():
        steps = read_json(manifest).get("steps", {})
        if (state := steps.get(step.name, {}).get("state", "done")) != "done":
            raise LcxError(
                f"the step '{step.name}' in {step.parent} is {state}, and its data may not be whole",
                hint=f"lcx run goes on with it; or give the folder {place} a copy elsewhere.",
            )
    return place


def read_exchanges(
    source: str, rejects: Rejects, fields: Mapping[str, str] | None = None
) -> tuple[Iterator[Exchange], Tally | None]:
    """The exchanges of a step's folder, a folder of bundles, or rows in any known format.

    Rows that cannot be used are set aside; the tally of rows tells what was noticed, once they are read. Raises
    MissingError where there is nothing, LcxError for damaged data.
    """
    if not source.startswith("hf:"):
        path = Path(source).expanduser()
        if not path.exists():
            raise MissingError(
                f"no data at '{source}'",
                hint="Give a step's folder (runs/RUN/STEP), a folder of bundles, or a file of rows.",
            )
        place = data_folder(path)
        if holds_bundles(place):
            return _of_bundles(place), None
    tally = Tally(rejects, fields)

    def rows() -> Iterator[Exchange]:
        for raw, example in tally.examples_in(source):
            try:
                yield exchange_of(example, f"{name_of(raw.source)}-{raw.padded}")
            except ValueError as bad:
                rejects.add(raw.source, str(bad), where=raw.where)
        tally.check(source)

    return rows(), tally


def _of_bundles(folder: Path) -> Iterator[Exchange]:
    table: Any = None
    for bundle in read_bundles(folder):
        if bundle.plan is None:
            context = bundle.context or ""
        else:
            if table is None:
                from lcx.data.table import load_table

                table = load_table(folder)
            context = SEPARATOR.join(table.texts(bundle.plan))
        yield from exchanges_of(bundle, context)


# ---- export


@dataclass
class Written:
    """What an export or import wrote."""

    path: Path
    rows: int
    counts: Counter[str]
    notes: list[str]


def export_rows(
    source: str,
    target: str | Path,
    form: str,
    *,
    template: str = "plain",
    fields: Mapping[str, str] | None = None,
) -> Written:
    """Write data in another program's format into a .jsonl or .json file, whole or not at all.

    What a format has no place for is left out and counted. Raises UsageError for an unknown format or ending, and
    where nothing is left.
    """
    if form not in FORMATS:
        raise UsageError(
            f"there is no format '{form}'. {suggestion(form, FORMATS)}".rstrip(),
            hint=f"--format with one of {', '.join(FORMATS)}",
        )
    path = Path(target).expanduser()
    if path.suffix not in (".jsonl", ".json"):
        raise UsageError(
            f"'{target}' ends neither in .jsonl nor in .json", hint=f"--to {path.name or 'rows'}.jsonl"
        )
    write, around = FORMATS[form][0], load_template(template)
    rejects = Rejects()
    found, tally = read_exchanges(source, rejects, fields)
    counts: Counter[str] = Counter()

    def rows() -> Iterator[dict[str, Any]]:
        for one in found:
            try:
                made = write(one, around)
            except ValueError as bad:
                counts[f"left out: {bad}"] += 1
                continue
            counts["exchanges"] += 1
            if one.rejected and form != "trl-preference":
                counts["rejected answers left out, which this format has no place for"] += len(one.rejected)
            yield from made

    number = _write_rows(path, rows(), source, rejects, counts)
    return Written(path, number, _with_rejects(counts, rejects), tally.notes() if tally else [])


def _write_rows(
    path: Path, rows: Iterable[Mapping[str, Any]], source: str, rejects: Rejects, counts: Mapping[str, int]
) -> int:
    """Write rows one a line, or as a list into .json; how many. Raises UsageError, and writes nothing, for none."""
    number = 0
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        whole = path.suffix == ".json"
        for row in rows:
            if whole:
                file.write(b"," if number else b"[\n")
            file.write(json_line(row))
            number += 1
        if not number:
            reasons = {key: count for key, count in counts.items() if key.startswith("left out")}
            told = [f"{key.removeprefix('left out: ')} ({count:,})" for key, count in reasons.items()]
            if len(rejects):
                told.append(rejects.summary())
            raise UsageError(
                f"nothing of '{source}' can be written to {path.name}",
                why="; ".join(told) or "It is empty.",
                hint="Another --format; `lcx train --input FILE --preview 3` shows what lcx reads in rows.",
            )
        if whole:
            file.write(b"]\n")
    return number


def _with_rejects(counts: Counter[str], rejects: Rejects) -> Counter[str]:
    counts.update({f"set aside: {reason}": number for reason, number in rejects.counts.items()})
    return counts


# ---- import


def row_of(found: Example, name: str) -> dict[str, Any]:
    """An example as a row of lcx: context, question, and an answer or a chosen one with rejected ones.

    Earlier turns stand in `messages` with the question. Raises ValueError where it asks nothing.
    """
    one = exchange_of(found, name)
    row: dict[str, Any] = {"id": one.id}
    if one.context:
        row["context"] = one.context
    if one.turns:
        row["messages"] = _said([*one.turns, ("user", one.question)])
    else:
        row["question"] = one.question
    if found.chosen is not None:
        row |= {"chosen": one.answer, "rejected": list(one.rejected)}
    elif len(found.answers) > 1:
        row["answers"] = list(found.answers)
    elif one.answer:
        row["answer"] = one.answer
    if found.predictions:
        row["prediction"] = list(found.predictions)
    return row


def import_rows(source: str, target: str | Path, *, fields: Mapping[str, str] | None = None) -> Written:
    """Write rows of any known format as rows of lcx into a .jsonl or .json file, or as bundles into a folder.

    In a folder, questions about one context become one bundle, whose context training and evaluation pay for once.
    Raises UsageError where no row can be used.
    """
    if not source.startswith("hf:") and not Path(source).expanduser().exists():
        raise MissingError(f"no rows at '{source}'", hint="Give a file or folder of rows, or hf:NAME.")
    path = Path(target).expanduser()
    rejects, counts = Rejects(), Counter[str]()
    tally = Tally(rejects, fields)

    def examples() -> Iterator[tuple[Example, str]]:
        for raw, example in tally.examples_in(source):
            name = f"{name_of(raw.source)}-{raw.padded}"
            try:
                exchange_of(example, name)
            except ValueError as bad:
                rejects.add(raw.source, str(bad), where=raw.where)
                continue
            yield example, name
        tally.check(source)

    if path.suffix in (".jsonl", ".json"):
        number = _write_rows(path, (row_of(*one) for one in examples()), source, rejects, counts)
    elif path.suffix:
        raise UsageError(
            f"'{target}' ends neither in .jsonl nor in .json",
            hint=f"--to {path.stem}.jsonl for rows, or a name without an ending for a folder of bundles",
        )
    else:
        bundles = _grouped(examples(), rejects, counts)
        if not bundles:
            raise tally.nothing_usable(source, "A row needs a question and an answer.")
        write_bundles(path, bundles)
        number = len(bundles)
    if len(rejects):
        rejects.write(path / "rejected.jsonl" if not path.suffix else path.with_suffix(".rejected.jsonl"))
    return Written(path, number, _with_rejects(counts, rejects), tally.notes())


def _grouped(examples: Iterable[tuple[Example, str]], rejects: Rejects, counts: Counter[str]) -> list[Bundle]:
    """Bundles of examples; answers about one context behind the same turns share theirs."""
    found: dict[Any, Bundle] = {}
    for example, name in examples:
        try:
            bundle = bundle_of(example, name)
        except ValueError as bad:
            rejects.add(name, str(bad))
            continue
        counts["questions"] += 1
        shared = bool(bundle.context) and example.chosen is None
        key = (bundle.context, json.dumps(bundle.meta, sort_keys=True)) if shared else len(found)
        if key in found:
            bundle = replace(found[key], branches=(*found[key].branches, *bundle.branches))
        found[key] = bundle
    return list(found.values())
