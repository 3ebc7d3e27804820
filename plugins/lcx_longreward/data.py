"""What a score step judges: bundles of a folder, or rows of somebody's answers, with the text of their contexts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lcx.data.bundles import read_bundles
from lcx.data.pair_rows import CONTEXTS, QUESTIONS, raw_rows
from lcx.data.readers import Rejects
from lcx.data.table import SegmentTable, load_table
from lcx.data.tokens import SEPARATOR
from lcx.errors import UsageError
from lcx.records import Branch, Bundle
from lcx_longreward.judge import Case

ANSWERS = ("answers", "answer", "candidates", "completion", "response", "output", "prediction")
HINT = 'A row: {"context": "...", "query": "...", "answer": "..."}, or "answers": ["...", "..."]'


def read_answer_rows(path: Path, rejects: Rejects) -> list[Bundle]:
    """A bundle for each context and question, with the answers of all rows that have both, in the order of the rows.

    Rows that cannot be used go into `rejects` with the reason. Raises UsageError where none can.
    """
    found: dict[tuple[str, str], list[Branch]] = {}
    ids: dict[tuple[str, str], tuple[str, Any]] = {}
    names: set[str] = set()
    for number, row in enumerate(raw_rows(path), 1):
        where = f"row {number}"
        try:
            context, question, answers = _parts(row)
        except ValueError as bad:
            rejects.add(path.name, str(bad), where=where)
            continue
        key = (context, question)
        if key not in found:
            given = row.get("id")
            name = str(given) if isinstance(given, str | int) and str(given) else f"{path.stem}-{number:07d}"
            if name in names:  # an id for each answer of a question is fine, one for several questions is not
                name = f"{name}-{number}"
            names.add(name)
            ids[key] = (name, row.get("reference"))
            found[key] = []
        for role, answer in answers:
            meta: dict[str, Any] = {"row": number, "sample": len(found[key])}
            if len(answers) == 1 and isinstance(row.get("id"), str | int):
                meta["id"] = row["id"]
            found[key].append(Branch(question, answer, role, meta=meta))
    if not found:
        reasons = "; ".join(f"{reason} ({count})" for reason, count in rejects.counts.items())
        raise UsageError(f"{path} has no usable row", why=reasons or "It is empty.", hint=HINT)
    return [_bundle(key, branches, *ids[key]) for key, branches in found.items()]


def _bundle(key: tuple[str, str], branches: Sequence[Branch], name: str, reference: Any) -> Bundle:
    meta = {"reference": reference} if isinstance(reference, str) and reference else {}
    return Bundle(name, tuple(branches), context=key[0], kind="rows", meta=meta)


def _parts(row: Any) -> tuple[str, str, list[tuple[str, str]]]:
    """Context, question and the answers with their roles. Raises ValueError with the reason where one lacks."""
    if not isinstance(row, Mapping):
        raise ValueError("no JSON object")
    context, question = _text(row, CONTEXTS), _text(row, QUESTIONS)
    if not context:
        raise ValueError("no context")
    if not question:
        raise ValueError("no question")
    answers = _answers(row)
    if not any(text for _, text in answers):
        raise ValueError("no answer")
    try:
        "".join([context, question, *(text for _, text in answers)]).encode()
    except UnicodeEncodeError:
        raise ValueError("a lone surrogate, which no text can hold") from None
    return context, question, answers


def _answers(row: Mapping[str, Any]) -> list[tuple[str, str]]:
    if isinstance(row.get("chosen"), str):  # preference data may be judged again
        given = row.get("rejected")
        rejected = [given] if isinstance(given, str) else given if isinstance(given, list | tuple) else []
        return [("chosen", row["chosen"].strip()), *(("rejected", _answer(text)) for text in rejected)]
    for name in ANSWERS:
        value = row.get(name)
        if isinstance(value, str) and value.strip():
            return [("candidate", value.strip())]
        if isinstance(value, list | tuple) and value:
            return [("candidate", _answer(text)) for text in value]
    return []


def _answer(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("an answer is not a text")
    return value.strip()


def _text(row: Mapping[str, Any], names: Sequence[str]) -> str:
    return next(
        (row[name].strip() for name in names if isinstance(row.get(name), str) and row[name].strip()), ""
    )


CANDIDATES = "candidates"


class Material:
    """The usable bundles in order; what cannot be used goes into `rejects`. Raises UsageError where none can."""

    def __init__(self, source: Path, rejects: Rejects) -> None:
        self.source = source
        self.table: SegmentTable | None = None
        if source.is_dir():
            name = CANDIDATES if any(source.glob(f"{CANDIDATES}-*-of-*")) else "bundles"
            self._bundles: Sequence[Bundle] = read_bundles(source, name)
            if (source / "table.json").is_file():
                self.table = load_table(source)
        else:
            self._bundles = read_answer_rows(source, rejects)
        self._usable: list[int] = []
        self.answers = 0
        """Answers in all usable bundles."""
        for number, bundle in enumerate(self._bundles):
            if self._good(bundle, rejects):
                self._usable.append(number)
                self.answers += len(bundle.branches)
        if not self._usable:
            raise UsageError(
                f"{source} has nothing to judge", why=rejects.summary() or "It holds no bundles.", hint=HINT
            )

    def __len__(self) -> int:
        return len(self._usable)

    def __getitem__(self, number: int) -> Bundle:
        found: Bundle = self._bundles[self._usable[number]]
        return found

    def cases(self, bundle: Bundle) -> list[Case]:
        """What is judged of a bundle: a case for each of its questions."""
        text = self.text(bundle)
        return [
            Case(text, question, tuple(bundle.branches[place].answer for place in places))
            for question, places in by_question(bundle)
        ]

    def text(self, bundle: Bundle) -> str:
        """A bundle's context as text."""
        if bundle.plan is None:
            return bundle.context or ""
        assert self.table is not None  # else the bundle was not usable
        return SEPARATOR.join(self.table.texts(bundle.plan))

    def _good(self, bundle: Bundle, rejects: Rejects) -> bool:
        why = ""
        if bundle.plan is not None and self.table is None:
            why = "a plan, but no segment table beside it"
        elif bundle.plan is None and not (bundle.context or "").strip():
            why = "no context"
        elif not any(branch.answer.strip() for branch in bundle.branches):
            why = "no answer"
        if why:
            rejects.add(self.source.name, why, where=bundle.id)
        return not why


def by_question(bundle: Bundle) -> list[tuple[str, tuple[int, ...]]]:
    """The questions of a bundle with the places of their branches, both in order."""
    found: dict[str, list[int]] = {}
    for place, branch in enumerate(bundle.branches):
        found.setdefault(branch.question, []).append(place)
    return [(question, tuple(places)) for question, places in found.items()]
