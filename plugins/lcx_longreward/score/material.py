"""What a score step judges: bundles of a folder, or rows of a file, by number, with the text of their contexts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from lcx.data.bundles import read_bundles
from lcx.data.files import Rejects
from lcx.data.table import SegmentTable, load_table
from lcx.data.tokens import SEPARATOR
from lcx.errors import UsageError
from lcx.records import Bundle
from lcx_longreward.judge.judging import Case
from lcx_longreward.score.rows import NEEDED, read_answer_rows

CANDIDATES = "candidates"


class Material:
    """The usable bundles in order; what cannot be used goes into `rejects`. Raises UsageError where none can."""

    def __init__(self, source: Path, rejects: Rejects, fields: Mapping[str, str] | None = None) -> None:
        self.source = source
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
        for number, bundle in enumerate(self._bundles):
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
