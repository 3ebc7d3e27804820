"""Models and judges of the eval tests: replies looked up in a table, and every request remembered."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import lcx_longreward

from lcx import hookimpl, plugins
from lcx.llm.protocol import Completion, Request, Response, Usage
from lcx.plugins import Plugins

Reply = Callable[[Request], Sequence[str] | str | None]


class Scripted:
    """A text generator whose replies a function gives: a text for all samples, one a sample, or None for a failure."""

    def __init__(self, reply: Reply) -> None:
        self.reply = reply
        self.requests: list[Request] = []

    def generate(self, requests: Sequence[Request]) -> list[Response]:
        return [self._answer(request) for request in requests]

    def _answer(self, request: Request) -> Response:
        self.requests.append(request)
        found = self.reply(request)
        if found is None:
            return Response((), error="the server said 500")
        texts = [found] * request.n if isinstance(found, str) else list(found)
        return Response(tuple(Completion(text) for text in texts), Usage(10, len(texts)))

    def describe(self) -> dict[str, Any]:
        return {"backend": "scripted", "model": "table"}

    def close(self) -> None:
        return None


class Backends:
    """A plugin that serves `model:`, `other:` and `judge:`."""

    def __init__(self, **served: Scripted) -> None:
        self.served = served

    @hookimpl
    def lcx_register_llms(self, register: Callable[..., None]) -> None:
        for name, llm in self.served.items():
            register(name, lambda model, options, llm=llm: llm)

    @hookimpl
    def lcx_register_metrics(self, register: Callable[..., None]) -> None:
        def first_letter(prediction: str, row: Mapping[str, Any]) -> float | None:
            return None if not prediction else float(prediction[0] == row["answer"][0])

        register("first-letter", first_letter)


def load_with(monkeypatch: Any, **served: Scripted) -> Plugins:
    """The plugins of this process: the core, LongReward and the scripted backends."""
    monkeypatch.setenv("LCX_PLUGINS", "")
    found = plugins.load(extra={"longreward": lcx_longreward, "scripts": Backends(**served)})
    monkeypatch.setattr(plugins, "loaded", lambda: found)
    return found


def recipe(folder: Path, *steps: str) -> Path:
    """A recipe of eval steps; each is YAML indented by four blanks."""
    path = folder / "judged.yaml"
    lines = ["name: judged", "method: longreward", "summary: judged answers", "steps:"]
    for step in steps:
        head, *rest = [line for line in step.strip().splitlines()]
        lines += [f"  - {head.strip()}", *(f"    {line.strip()}" for line in rest)]
    path.write_text("\n".join(lines) + "\n")
    return path
