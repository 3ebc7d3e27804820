"""The questions of judged tasks: rows of JSONL or Parquet, as LongBench and LongBench-Chat publish theirs."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lcx.data.files import strict_rows
from lcx.data.rows import example_of, split_fields
from lcx.errors import MissingError, UsageError
from lcx.work.files import sha256_json, sha256_text

QUESTIONS = ("query", "question", "input", "instruction")
FILES = (".jsonl", ".json", ".parquet")

QA_SETS = {
    **dict.fromkeys(("narrativeqa", "qasper", "multifieldqa_en", "multifieldqa_zh"), "single-document"),
    **dict.fromkeys(("hotpotqa", "2wikimqa", "musique", "dureader"), "multi-document"),
}
"""LongBench's question-answering sets, and the column of the paper's table that each belongs to."""
SUMMARY_SETS = dict.fromkeys(("gov_report", "qmsum", "multi_news", "vcsum"), "summary")
SETS = {"qa": QA_SETS, "summary": SUMMARY_SETS}
SUMMARIZE = {
    "en": "Write a summary of the text above: all of its main points, and nothing that it does not say.",
    "zh": "请为以上文本写一份摘要，涵盖其全部要点，不要写文中没有的内容。",
}
"""What is asked where a row of a summary set has no question."""


@dataclass(frozen=True)
class Item:
    """One question about one context, with its right answers where they are known."""

    id: str
    context: str
    question: str
    references: tuple[str, ...] = ()
    dataset: str = ""
    meta: Mapping[str, Any] = field(default_factory=dict)

    @property
    def group(self) -> str:
        """What stands for the context: answers about one context are alike."""
        return hashlib.sha256(self.context.encode("utf-8", "surrogatepass")).hexdigest()[:16]

    @property
    def key(self) -> str:
        """What stands for context and question."""
        return sha256_text(f"{self.group}\0{self.question}")[:24]


def digest_of(items: Iterable[Item]) -> str:
    """What two results must share to be compared: the same questions about the same contexts."""
    return sha256_json([(item.id, item.key, item.references) for item in items])[:16]


def thinned(items: Sequence[Item], limit: int | None) -> list[Item]:
    """At most `limit` items, spread evenly."""
    count = len(items)
    if limit is None or limit >= count:
        return list(items)
    return [items[(2 * number + 1) * count // (2 * limit)] for number in range(limit)]


def read_items(
    path: str | Path, *, needs_reference: bool, task: str, fields: Mapping[str, str] | None = None
) -> list[Item]:
    """The items of a file of rows. Raises MissingError for no file, UsageError naming a row that lacks something."""
    file = _file(path, task)
    items = [
        item_of(
            row,
            f"{file}, row {number}",
            number,
            file.stem,
            needs_reference=needs_reference,
            task=task,
            fields=fields,
        )
        for number, row in enumerate(strict_rows(file), 1)
    ]
    if not items:
        raise UsageError(f"{file} has no row", hint=f"Give {task} rows with context, query and answer.")
    return _unique(items, str(file))


def read_longbench(task: str, folders: Sequence[str], files: Sequence[str]) -> list[Item]:
    """The items of a task's LongBench sets: those in `folders` that are its own by name, and all of `files`.

    Raises MissingError for a path that is not there, UsageError for a row that lacks something.
    """
    found: list[Item] = []
    for path in folders:
        place = Path(path).expanduser()
        if not place.exists():
            raise MissingError(
                f"no LongBench data at '{path}'", hint="--set eval.longbench=[FOLDER of its JSONL files]"
            )
        inside = (
            sorted(p for p in place.iterdir() if p.suffix in FILES and not p.name.startswith("."))
            if place.is_dir()
            else [place]
        )
        for file in inside:
            if _set_name(file) in SETS[task]:
                found += read_items(file, needs_reference=True, task=task)
    for path in files:
        found += read_items(path, needs_reference=True, task=task)
    return _unique(found, task)


def item_of(
    row: Any,
    where: str,
    number: int,
    name: str,
    *,
    needs_reference: bool,
    task: str,
    fields: Mapping[str, str] | None = None,
) -> Item:
    """The item in a row. Raises UsageError naming what is missing."""
    if not isinstance(row, Mapping):
        raise UsageError(f"{where}: a row is a JSON object, not {type(row).__name__}")
    try:
        example = example_of(row, split_fields(fields))
    except ValueError as bad:
        raise UsageError(f"{where}: {bad}", why=f"The row has {', '.join(map(str, row))}.") from None
    # LongBench's rows call the question `input`; it is empty where the whole set asks for one thing.
    context, question = example.context.strip(), example.plain_question.strip()
    if not question and task == "summary":
        question = SUMMARIZE["zh" if row.get("language") == "zh" else "en"]
    references = tuple(text.strip() for text in example.answers or example.references if text.strip())
    lacks = [
        what
        for what, there in (
            ("context", context),
            ("query", question),
            ("answer", references or not needs_reference),
        )
        if not there
    ]
    if lacks:
        raise UsageError(
            f"{where}: {task} needs {' and '.join(lacks)}",
            why=f"The row has {', '.join(map(str, row))}.",
            hint="--fields context=FIELD,question=FIELD,answer=FIELD names fields that go by other names.",
        )
    given = row.get("_id", row.get("id"))
    meta = {key: row[key] for key in ("language", "length") if row.get(key) is not None}
    dataset = str(row.get("dataset") or _set_name(Path(name)))
    return Item(
        str(given) if given is not None else f"{name}-{number:05d}",
        context,
        question,
        references,
        dataset,
        meta,
    )


def saved_answers(path: str | Path) -> dict[str, str]:
    """Saved answers by id and by question (the first of a question counts). Raises as `read_items`.

    An answer that is null or not there is an empty one. Rows of our own predictions with `sample` above 0 are
    further answers to a question: the first one counts.
    """
    file = _file(path, "answers")
    found: dict[str, str] = {}
    for number, row in enumerate(strict_rows(file), 1):
        if not isinstance(row, Mapping):
            raise UsageError(f"{file}, row {number}: a row is a JSON object, not {type(row).__name__}")
        names = [str(row[key]) for key in ("_id", "id") if row.get(key) is not None]
        question = next((row[key].strip() for key in QUESTIONS if isinstance(row.get(key), str)), "")
        names += [f"question:{question}"] if question else []
        fields = [key for key in ("answer", "pred", "prediction", "response") if key in row]
        if not names or not fields:
            raise UsageError(
                f"{file}, row {number}: a saved answer needs id (or question) and answer",
                why=f"The row has {', '.join(map(str, row))}.",
            )
        for name in names:
            found.setdefault(name, str(row[fields[0]] or ""))
    return found


def _file(path: str | Path, task: str) -> Path:
    file = Path(path).expanduser()
    if not file.is_file():
        raise MissingError(f"no file '{path}' for {task}", hint=f"--set eval.{task}=FILE.jsonl")
    return file


def _set_name(path: Path) -> str:
    """The set that a file of LongBench holds: LongBench-E's files end in `_e`."""
    return path.name.split(".")[0].removesuffix("_e")


def _unique(items: Sequence[Item], where: str) -> list[Item]:
    """The items, where no two have one id. Raises UsageError naming one that occurs twice."""
    seen: dict[str, Item] = {}
    for item in items:
        if item.id in seen:
            raise UsageError(f"{where}: two rows have the id '{item.id}'", hint="Give each row its own `id`.")
        seen[item.id] = item
    return list(seen.values())
