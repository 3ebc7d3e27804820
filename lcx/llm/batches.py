"""Requests to a model of our own as padded batches: which rows run together, and what their tokens say.

A batch is composed from the requests alone, wherever it runs, so one process and several give the same replies.
Torch-free.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lcx.llm.protocol import Completion, Request, Response, Usage

SHARE = 512
"""Prompt tokens from which several samples are drawn behind one prefill; shorter prompts are repeated."""


@dataclass(frozen=True)
class Sampler:
    """What the rows of a batch have in common."""

    temperature: float
    top_p: float
    max_tokens: int
    stop: tuple[str, ...]


@dataclass(frozen=True)
class Batch:
    """Rows that run together: prompts, and for each the seed and number of its sample.

    A `shared` batch has one prompt, which all of its samples follow.
    """

    prompts: tuple[tuple[int, ...], ...]
    seeds: tuple[tuple[int, int], ...]
    sampler: Sampler
    shared: bool = False


class Composer:
    """Turns requests into batches, longest prompts first, and the new tokens of their rows into responses."""

    def __init__(self, tokenizer: Any, window: int, rows: int, *, chat: bool, share: bool) -> None:
        """`rows` is how many run at a time; `share` says that the model can decode behind one prefill."""
        self.tokenizer, self.window, self.rows = tokenizer, window, rows
        self.chat, self.share = chat, share
        if tokenizer.pad_token_id is None:
            tokenizer.pad_token = tokenizer.eos_token

    def encode(self, request: Request) -> list[int]:
        """A request's prompt in tokens."""
        if self.chat:
            ids = self.tokenizer.apply_chat_template(
                [dict(m) for m in request.messages],
                add_generation_prompt=True,
                tokenize=True,
                return_dict=True,
            )["input_ids"]
            return [int(i) for i in ids]
        text = "\n\n".join(m["content"] for m in request.messages)
        return [int(i) for i in self.tokenizer(text)["input_ids"]]

    def refusal(self, prompt: Sequence[int], request: Request) -> str:
        """Why a prompt cannot be answered; empty where it can."""
        if self.window - len(prompt) >= request.max_tokens:
            return ""
        return (
            f"the prompt of {len(prompt)} tokens and {request.max_tokens} new ones do not fit "
            f"the model's window of {self.window}"
        )

    def compose(
        self, prompts: Sequence[Sequence[int]], requests: Sequence[Request]
    ) -> list[tuple[list[tuple[int, int]], Batch]]:
        """Batches, each with the request and sample of every row. Requests that do not fit are left out."""
        groups: dict[Sampler, list[int]] = {}
        for number, request in enumerate(requests):
            if not self.refusal(prompts[number], request):
                sampler = Sampler(request.temperature, request.top_p, request.max_tokens, request.stop)
                groups.setdefault(sampler, []).append(number)
        batches = []
        for sampler, members in groups.items():
            members.sort(key=lambda i: (-len(prompts[i]), i))  # equal lengths side by side: little padding
            rows = []
            for i in members:
                samples = [(i, sample) for sample in range(requests[i].n)]
                if self._shares(requests[i], prompts[i]):
                    batches.append((samples, self._batch(samples, prompts, requests, sampler, shared=True)))
                else:
                    rows += samples
            for start in range(0, len(rows), self.rows):
                part = rows[start : start + self.rows]
                batches.append((part, self._batch(part, prompts, requests, sampler)))
        return batches

    def _shares(self, request: Request, prompt: Sequence[int]) -> bool:
        # Stop strings end a row in `generate` alone
        return self.share and request.n > 1 and len(prompt) >= SHARE and not request.stop

    def _batch(
        self,
        rows: Sequence[tuple[int, int]],
        prompts: Sequence[Sequence[int]],
        requests: Sequence[Request],
        sampler: Sampler,
        shared: bool = False,
    ) -> Batch:
        chosen = rows[:1] if shared else rows
        seeds = tuple((requests[i].seed, sample) for i, sample in rows)
        return Batch(tuple(tuple(prompts[i]) for i, _ in chosen), seeds, sampler, shared)

    def response(
        self, rows: Sequence[Sequence[int]], prompt: Sequence[int], request: Request, ends: frozenset[int]
    ) -> Response:
        """The samples of one request from the new tokens of its rows; `ends` are the model's end tokens."""
        completions, spent = [], 0
        for row in rows:
            stop = next((k for k, token in enumerate(row) if token in ends), None)
            used = row if stop is None else row[:stop]
            spent += len(used)
            text = self.tokenizer.decode(used, skip_special_tokens=True)
            cut = min((at for at in (text.find(s) for s in request.stop) if at >= 0), default=None)
            ended = stop is not None or cut is not None or len(row) < request.max_tokens
            completions.append(Completion(text if cut is None else text[:cut], "stop" if ended else "length"))
        return Response(tuple(completions), Usage(len(prompt), spent))
