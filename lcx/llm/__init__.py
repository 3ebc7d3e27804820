"""Text generators: `open_llm("builtin")`, `open_llm("local:PATH")`, and what plugins register."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lcx.llm.protocol import LLM
    from lcx.plugins import Plugins


def open_llm(spec: str, options: Mapping[str, Any] | None = None, plugins: Plugins | None = None) -> LLM:
    """Open the backend named before the colon of `spec`; the rest is its model.

    Raises UsageError for an unknown backend and MissingError where its model or library is not there.
    """
    from lcx.plugins import loaded

    name, _, model = spec.partition(":")
    factory = (plugins or loaded()).llms.load(name)
    llm: LLM = factory(model, dict(options or {}))
    return llm
