"""Text generation behind one protocol: text in, text out, usage, finish reason, n samples, batches.

A request carries the rendered messages, which a model reads, and also the task's name with its raw fields, which the
`builtin` rules read. Both answer in the same text format, so one parser serves every backend.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol


@dataclass(frozen=True)
class Request:
    """One generation. `messages` are {"role", "content"} dicts; `task` and `fields` say what they were made from.

    `usable` tells whether a sample is of use: progress counts such replies, and nothing else depends on it.
    """

    messages: tuple[Mapping[str, str], ...]
    task: str = ""
    fields: Mapping[str, Any] = field(default_factory=dict)
    n: int = 1
    temperature: float = 0.0
    top_p: float = 1.0
    max_tokens: int = 512
    stop: tuple[str, ...] = ()
    seed: int = 0
    usable: Callable[[Completion], bool] | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True)
class Usage:
    """Tokens that one request cost, as the backend counts them."""

    prompt_tokens: int = 0
    completion_tokens: int = 0

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.prompt_tokens + other.prompt_tokens, self.completion_tokens + other.completion_tokens
        )


@dataclass(frozen=True)
class Completion:
    """One sample. `finish_reason` is `stop`, `length`, or `error` (then `text` is empty).

    `thought` is what a server hands out apart as the model's reasoning.
    """

    text: str
    finish_reason: str = "stop"
    thought: str = ""


@dataclass(frozen=True)
class Response:
    """The samples of one request. `error` says why there are none, if the backend gave up on this request.

    `final` says that asking again cannot help: the prompt is too long, or refused.
    """

    completions: tuple[Completion, ...]
    usage: Usage = Usage()
    error: str = ""
    final: bool = False

    @property
    def text(self) -> str:
        """The first sample's text, empty where there is none."""
        return self.completions[0].text if self.completions else ""


@dataclass(frozen=True)
class Made:
    """What a backend has made of request `number` of a batch: its samples from number `sample` on, or an `error`.

    `ends` says that it is the last of what was made at the same time.
    """

    number: int
    sample: int = 0
    completions: tuple[Completion, ...] = ()
    usage: Usage = Usage()
    error: str = ""
    final: bool = False
    ends: bool = False


class LLM(Protocol):
    """A text generator. `generate` answers every request, in order; a request that fails has an `error`.

    A backend of this process that works for minutes on a batch may also have `stream(requests, samples)`, which yields
    a `Made` as soon as it has it: `samples` are the numbers of the samples that each request lacks. What was yielded
    is kept when the rest is lost.
    """

    def generate(self, requests: Sequence[Request]) -> list[Response]:
        """Answer every request, in their order: `n` completions each, or an error in place of them."""
        ...

    def describe(self) -> dict[str, Any]:
        """What the manifest records: the backend, the model, and anything that changes its answers."""
        ...

    def close(self) -> None:
        """Free what was opened: a model's memory, a connection."""
        ...
