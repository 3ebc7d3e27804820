"""What a score step judges: bundles of a folder, or rows of somebody's answers, with the text of their contexts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from lcx.data.bundles import read_bundles
from lcx.data.files import Rejects
from lcx.data.rows import Example, Tally
from lcx.data.table import SegmentTable, load_table
from lcx.data.tokens import SEPARATOR
from lcx.errors import UsageError
from lcx.llm.prompts import KEPT, UNFINISHED, read_thoughts, thought_meta, visible
from lcx.records import Branch, Bundle
from lcx_longreward.judge import Case

NEEDED = 'A row: {"context": "...", "query": "...", "answer": "..."}, or "answers": ["...", "..."].'


def read_answer_rows(
    path: Path, rejects: Rejects, fields: Mapping[str, str] | None = None, notes: list[str] | None = None
) -> list[Bundle]:
    """A bundle for each context and question, with the answers of all rows that have both, in the order of the rows.

    Rows that cannot be used go into `rejects` with the reason, what is worth saying into `notes`. Raises UsageError
    where none can be used.
    """
    found: dict[tuple[str, str], list[Branch]] = {}
    ids: dict[tuple[str, str], tuple[str, tuple[str, ...]]] = {}
    names: set[str] = set()
    tally = Tally(rejects, fields)
    for raw, example in tally.examples_in(path):
        try:
            context, question, answers = _parts(example)
        except ValueError as bad:
            rejects.add(raw.source, str(bad), where=raw.where)
            continue
        key = (context, question)
        if key not in found:
            name = example.id or f"{path.stem}-{raw.padded}"
            if name in names:  # an id for each answer of a question is fine, one for several questions is not
                name = f"{name}-{raw.number}"
            names.add(name)
            judged = example.predictions or example.answers
            ids[key] = (name, example.references if example.references != judged else ())
            found[key] = []
        for role, answer in answers:
            meta: dict[str, Any] = {"row": int(raw.number.partition(".")[0]), "sample": len(found[key])}
            if len(answers) == 1 and example.id is not None:
                meta["id"] = raw.row.get("id", example.id)
            found[key].append(Branch(question, answer, role, meta=meta))
    tally.check(path)
    if not found:
        raise tally.nothing_usable(path, NEEDED)
    if notes is not None:
        notes += tally.notes()
    return [_bundle(key, branches, *ids[key]) for key, branches in found.items()]


def _bundle(
    key: tuple[str, str], branches: Sequence[Branch], name: str, references: tuple[str, ...]
) -> Bundle:
    meta = {"reference": references[0]} if references else {}
    return Bundle(name, tuple(branches), context=key[0], kind="rows", meta=meta)


def _parts(example: Example) -> tuple[str, str, list[tuple[str, str]]]:
    """Context, question and the answers with their roles. Raises ValueError with the reason where one lacks."""
    context, question = example.context.strip(), example.plain_question.strip()
    if not context:
        raise ValueError("no context")
    if not question:
        raise ValueError("no question")
    if example.chosen is not None:  # preference data may be judged again
        answers = [
            ("chosen", example.chosen.strip()),
            *(("rejected", text.strip()) for text in example.rejected),
        ]
    else:
        answers = [("candidate", text.strip()) for text in example.predictions or example.answers]
    if not any(text for _, text in answers):
        raise ValueError("no answer")
    return context, question, answers


def spoken(bundle: Bundle, keep: bool, counts: Counter[str] | None = None) -> Bundle:
    """The bundle with what its answers say; thoughts stay where they are kept, here or by who made the answers.

    An answer that is only an unfinished thought has no text, and says so in its meta. `counts` gets how many.
    """
    branches = list(bundle.branches)
    for place, branch in enumerate(branches):
        said = read_thoughts(branch.answer)
        if said.text == branch.answer:
            continue
        if not said.thought:  # the marks of a final channel alone
            branches[place] = replace(branch, answer=said.text.strip())
            continue
        if counts is not None:
            counts["candidates with thoughts"] += 1
            counts["candidates of an unfinished thought only"] += said.only_thought
        kept = keep or branch.meta.get("thoughts") == KEPT
        text = branch.answer if kept and not said.only_thought else said.text.strip()
        meta = {**branch.meta, **thought_meta(text, branch.answer)}
        branches[place] = replace(branch, answer=text, meta=meta)
    return replace(bundle, branches=tuple(branches))


CANDIDATES = "candidates"


class Material:
    """The usable bundles in order; what cannot be used goes into `rejects`. Raises UsageError where none can.

    Answers are what is said; `keep` leaves thoughts in them, and judges see none in any case.
    """

    def __init__(
        self, source: Path, rejects: Rejects, fields: Mapping[str, str] | None = None, *, keep: bool = False
    ) -> None:
        self.source, self.keep = source, keep
        self.counts: Counter[str] = Counter()
        """Answers with thoughts."""
        self.notes: list[str] = []
        self.table: SegmentTable | None = None
        if source.is_dir() and any(source.glob("*-*-of-*")):
            name = CANDIDATES if any(source.glob(f"{CANDIDATES}-*-of-*")) else "bundles"
            self._bundles: Sequence[Bundle] = read_bundles(source, name)
            if (source / "table.json").is_file():
                self.table = load_table(source)
        else:
            self._bundles = read_answer_rows(source, rejects, fields, self.notes)
        self._usable: list[int] = []
        self.answers = 0
        """Answers in all usable bundles."""
        for number, bundle in enumerate(spoken(one, keep, self.counts) for one in self._bundles):
            if self._good(bundle, rejects):
                self._usable.append(number)
                self.answers += len(bundle.branches)
        if not self._usable:
            raise UsageError(
                f"{source} has nothing to judge", why=rejects.summary() or "It holds no bundles.", hint=NEEDED
            )

    def __len__(self) -> int:
        return len(self._usable)

    def __getitem__(self, number: int) -> Bundle:
        return spoken(self._bundles[self._usable[number]], self.keep)

    def cases(self, bundle: Bundle) -> list[Case]:
        """What is judged of a bundle: a case for each of its questions."""
        text = self.text(bundle)
        return [
            Case(
                text,
                question,
                tuple(visible(bundle.branches[place].answer) for place in places),
                tuple(
                    UNFINISHED
                    if read_thoughts(str(bundle.branches[place].meta.get("raw", ""))).only_thought
                    else ""
                    for place in places
                ),
            )
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
            thoughts = any(branch.meta.get("raw") for branch in bundle.branches)
            why = UNFINISHED if thoughts else "no answer"
        if why:
            rejects.add(self.source.name, why, where=bundle.id)
        return not why


def by_question(bundle: Bundle) -> list[tuple[str, tuple[int, ...]]]:
    """The questions of a bundle with the places of their branches, both in order."""
    found: dict[str, list[int]] = {}
    for place, branch in enumerate(bundle.branches):
        found.setdefault(branch.question, []).append(place)
    return [(question, tuple(places)) for question, places in found.items()]
