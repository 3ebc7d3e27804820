"""Text generators: `open_llm("builtin")`, `open_llm("local:PATH")`, and what plugins register."""

from __future__ import annotations

from collections.abc import Callable, Mapping
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


def check_llm(spec: str, plugins: Plugins | None = None) -> None:
    """Whether `open_llm` can find what a spec names, without loading a model. Raises as it does, within seconds."""
    from lcx.plugins import loaded

    name, _, model = spec.partition(":")
    (plugins or loaded()).llms.load(name)
    if (
        name == "local" and model and not model.startswith("tiny")
    ):  # a tiny model is trained where it is opened
        from lcx.hub import locate

        locate(
            model,
            hint="give local:PATH of a folder with config.json and weights, or builtin, which needs no model",
        )


class Opener:
    """Opens each text generator once, for steps in which one model may play several parts."""

    def __init__(self, device: str = "auto") -> None:
        self.device = device
        self._held: dict[str, LLM] = {}

    def opener(self, spec: str, options: Mapping[str, Any]) -> Callable[[], LLM]:
        """A function that opens a backend, or hands out the one that is open already."""

        def get() -> LLM:
            key = self._key(spec, options)
            if key not in self._held:
                self._held[key] = open_llm(spec, {"device": self.device, **options})
            return self._held[key]

        return get

    def close(self, *keep: tuple[str, Mapping[str, Any]]) -> None:
        """Close what is open, but for the given (spec, options), which are needed later."""
        stay = {self._key(*one) for one in keep}
        for key in [key for key in self._held if key not in stay]:
            self._held.pop(key).close()

    def _key(self, spec: str, options: Mapping[str, Any]) -> str:
        from lcx.work.files import sha256_json

        return sha256_json([spec, dict(options)])
