"""Finding the passages of one document that a query is about: `open_retriever("bm25")`, and what plugins register.

A retriever indexes one document's passages at a time. What it finds is handed out in the order of the document.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from lcx.plugins import Plugins


class Index(Protocol):
    """The passages of one document."""

    def top(self, queries: Sequence[str], count: int) -> list[list[int]]:
        """For each query the places of its `count` best passages (all of them where there are fewer), ascending."""
        ...


class Retriever(Protocol):
    """Makes indexes. `waits` says that it spends its time waiting or in native code: call it in a thread."""

    waits: bool

    def index(self, passages: Sequence[str]) -> Index: ...

    def describe(self) -> dict[str, Any]:
        """What the results record: the retriever, and anything that changes what it finds."""
        ...

    def close(self) -> None: ...


RetrieverFactory = Callable[[str, Mapping[str, Any]], Retriever]
"""Opens a retriever from what follows the colon of a spec (`openai:MODEL` -> `MODEL`) and its options."""


def open_retriever(
    spec: str, options: Mapping[str, Any] | None = None, plugins: Plugins | None = None
) -> Retriever:
    """Open the retriever named before the colon of `spec`.

    Raises UsageError for an unknown one or bad options, MissingError where its model or library is not there.
    """
    from lcx.plugins import loaded

    name, _, model = spec.partition(":")
    factory: RetrieverFactory = (plugins or loaded()).retrievers.load(name)
    return factory(model, dict(options or {}))


def best_places(scores: Sequence[float], count: int) -> list[int]:
    """Places of the `count` highest scores, ascending; of equal scores the earlier place counts as higher."""
    ranked = sorted(range(len(scores)), key=lambda place: (-scores[place], place))
    return sorted(ranked[:count])


def only_options(what: str, options: Mapping[str, Any], known: Sequence[str]) -> None:
    """Raises UsageError where there is an option that a retriever does not know."""
    from lcx.errors import UsageError, suggestion

    for name in options:
        if name not in known:
            raise UsageError(
                f"{what} has no option '{name}'. {suggestion(name, known)}".rstrip(),
                why=f"it has: {', '.join(known) or 'none'}",
            )
