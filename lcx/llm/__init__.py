"""Text generators: `open_llm("builtin")`, `open_llm("local:PATH")`, `open_llm("openai:MODEL")`, and what plugins
register. Steps take theirs from a `Service`, which adds a journal, limits, a budget and progress.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from lcx.plugins import check_made

if TYPE_CHECKING:
    from lcx.llm.protocol import LLM
    from lcx.plugins import Plugins


def open_llm(spec: str, options: Mapping[str, Any] | None = None, plugins: Plugins | None = None) -> LLM:
    """Open the backend named before the colon of `spec`; the rest is its model.

    Raises UsageError for an unknown backend and MissingError where its model or library is not there.
    """
    from lcx.plugins import loaded

    name, _, model = spec.partition(":")
    known = plugins or loaded()
    factory = known.llms.load(name)
    llm: LLM = factory(model, dict(options or {}))
    check_made(f"the text generator '{name}'", llm, ("generate", "describe", "close"), known.whose(factory))
    return llm


def check_llm(spec: str, plugins: Plugins | None = None) -> None:
    """Whether `open_llm` can find what a spec names, without loading a model. Raises as it does, within seconds."""
    from lcx.plugins import loaded

    name, _, model = spec.partition(":")
    (plugins or loaded()).llms.load(name)
    if name == "local" and model:
        from lcx import gguf
        from lcx.hub import locate, tiny_spec

        if tiny_spec(model) is not None:  # trained where it is opened
            return
        if gguf.is_gguf(model):  # converted where it is opened
            gguf.read_header(model)
            return
        locate(
            model,
            hint="give local:PATH of a folder with config.json and weights, or builtin, which needs no model",
        )
