"""The rows that pass between steps: documents, segments, and bundles of one context with its branches.

A bundle is the shape of every stage: one long context, paid for once, and the short branches read from it
(questions with answers, one good and several bad answers, probe queries). The context is either plain text or a
*plan*: indices into the segment table that lies beside the bundles, so that 32K tokens cost about half a kilobyte.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

TURNS = "turns"
"""Key of `Bundle.meta`: the turns before the question, [[role, text], ...], a system turn first where there is one."""


@dataclass(frozen=True)
class Document:
    """A source text. `meta` may hold `kind` (text or code) and `keys`: the lookup key of every line, if it has any."""

    id: str
    text: str
    meta: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Segment:
    """A slice `[start, end)` of a document's characters; `document` is the document's index in its table.

    `tokens` is its length by the tokenizer that cut it. `key` names what the segment is the record of, where the
    corpus says so: a context never holds two segments of one key, since a question by that key would be ambiguous.
    """

    document: int
    start: int
    end: int
    tokens: int
    key: str | None = None


@dataclass(frozen=True)
class Branch:
    """One question and answer read from a bundle's context.

    `gold` are the places in the bundle's plan (0-based) of the segments that hold the evidence. `role` is `answer`
    for supervised data, `chosen` or `rejected` for preference data, and `query` for a probe (the answer is then the
    reference).
    """

    question: str
    answer: str
    role: str = "answer"
    gold: tuple[int, ...] = ()
    meta: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Bundle:
    """One context and the branches that read it. Exactly one of `plan` and `context` is given.

    `plan` are indices into the step's segment table, in the order in which the segments stand in the context.
    An empty `context` is allowed: general instruction data has none.
    """

    id: str
    branches: tuple[Branch, ...]
    plan: tuple[int, ...] | None = None
    context: str | None = None
    kind: str = ""
    meta: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if (self.plan is None) == (self.context is None):
            raise ValueError(f"bundle {self.id}: give either a plan or a context text")
        if not self.branches:
            raise ValueError(f"bundle {self.id}: a bundle needs at least one branch")


@dataclass(frozen=True)
class EncodedBranch:
    """A branch as token ids: what follows the shared prefix. `ids[answer_start:]` are the answer (loss) tokens."""

    ids: list[int]
    answer_start: int
    role: str = "answer"


@dataclass(frozen=True)
class EncodedBundle:
    """A bundle as token ids: the prefix that all branches share (at least one token), then each branch.

    `positions`, where given, are the prefix's position ids (synthetic positions); branches then start at
    `positions[-1] + 1`. Without it the prefix stands at `0..len(prefix)-1`. The prefix begins with `head`
    tokens of instructions, then come the context's pieces of `chunks` tokens each (one for each segment of
    a plan, one for a plain text), then whatever the branches share after the context.
    """

    id: str
    prefix: Any  # 1-D integer numpy array
    branches: tuple[EncodedBranch, ...]
    positions: Any = None  # 1-D integer numpy array or None
    head: int = 0
    chunks: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.prefix) + sum(len(b.ids) for b in self.branches)

    @property
    def longest_row(self) -> int:
        """Tokens that the longest single branch sees: prefix and branch."""
        return len(self.prefix) + max(len(b.ids) for b in self.branches)
