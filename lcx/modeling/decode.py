"""Branch decoding: answer many short prompts about one context, which is computed and kept once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from lcx.modeling.decode_attention import NAME, State
from lcx.modeling.support import why_refused
from lcx.modeling.threads import few_threads
from lcx.records import EncodedBundle

__all__ = ["BranchDecoder", "Sampling", "decode_bundle", "why_not"]

PREFILL_CHUNK = 8192
"""Prefix tokens run through the model at a time; also the most padded prompt tokens of one batch."""


@dataclass(frozen=True)
class Sampling:
    """Draw tokens instead of taking the likeliest. Branch i of a call draws the same in any batch."""

    temperature: float = 1.0
    top_p: float = 1.0
    seed: int = 0


@contextmanager
def _attention(model: Any) -> Iterator[None]:
    """Give the model this attention for the time of the block, in evaluation mode."""
    config, training = model.config, model.training
    before = config._attn_implementation
    config._attn_implementation = NAME
    model.eval()
    try:
        with few_threads(model):
            yield
    finally:
        config._attn_implementation = before
        model.train(training)


class BranchDecoder:
    """Decodes branches of one prefix at a time: `prefill` it, then call `answer` as often as needed.

    Raises ValueError where `why_refused(model.config)` gives a reason.
    """

    def __init__(self, model: Any, *, chunk: int = PREFILL_CHUNK) -> None:
        reason = why_not(model.config)
        if reason:
            raise ValueError(f"branches cannot share their context: {reason}")
        self.model = model
        self.chunk = chunk
        self.state = State()
        self._held: list[int] = []
        self._next = 0

    @torch.inference_mode()
    def prefill(
        self, prefix: Sequence[int] | np.ndarray, positions: Sequence[int] | np.ndarray | None = None
    ) -> None:
        """Run the prefix [P] through the model, `chunk` tokens at a time, and keep its keys and values.

        `positions` [P] are its position ids, 0 to P-1 by default; branches follow the last one.
        """
        device = self.model.device
        ids = torch.as_tensor(np.asarray(prefix, dtype=np.int64), device=device)
        if positions is None:
            places = torch.arange(len(ids), device=device)
        else:
            places = torch.as_tensor(np.asarray(positions, dtype=np.int64), device=device)
        if not len(ids) or len(places) != len(ids):
            raise ValueError(
                f"a prefix has at least one token and as many positions, not {len(ids)}, {len(places)}"
            )
        # The last token is held back and put in front of every branch: its logits predict a branch's first
        # token, which an empty prompt needs, and no logits have to be kept from here.
        self._held = [int(ids[-1])]
        self._next = int(places[-1])
        self.state = State(total=len(ids) - 1)
        with _attention(self.model):
            for start in range(0, self.state.total, self.chunk):
                end = min(start + self.chunk, self.state.total)
                self._forward(ids[None, start:end], places[None, start:end])
                self.state.length = end

    @torch.inference_mode()
    def answer(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        max_new_tokens: int,
        eos_ids: Sequence[int] = (),
        batch: int = 64,
        sampling: Sampling | None = None,
        on_done: Callable[[int], None] | None = None,
    ) -> list[list[int]]:
        """Continue each prompt after the prefix; the new tokens, without the end token.

        An answer shorter than `max_new_tokens` ended by itself. `on_done` is told how many branches have
        finished each time some do.
        """
        if not self._held:
            raise ValueError("prefill a prefix first")
        answers: list[list[int]] = [[] for _ in prompts]
        draws = [generator(sampling, number) for number in range(len(prompts))] if sampling else []
        rows = [[*self._held, *prompt] for prompt in prompts]
        with _attention(self.model):
            for group in self._batches(rows, batch):
                self._decode(
                    rows, group, answers, max_new_tokens, frozenset(eos_ids), sampling, draws, on_done
                )
        return answers

    def _batches(self, rows: Sequence[Sequence[int]], batch: int) -> Iterator[list[int]]:
        """Branches in groups of similar length: at most `batch`, and at most `chunk` padded tokens."""
        group: list[int] = []
        for number in sorted(range(len(rows)), key=lambda number: (len(rows[number]), number)):
            if group and (len(group) >= batch or len(rows[number]) * (len(group) + 1) > self.chunk):
                yield group
                group = []
            group.append(number)
        if group:
            yield group

    def _decode(
        self,
        rows: Sequence[Sequence[int]],
        group: list[int],
        answers: list[list[int]],
        max_new_tokens: int,
        eos: frozenset[int],
        sampling: Sampling | None,
        draws: Sequence[torch.Generator],
        on_done: Callable[[int], None] | None,
    ) -> None:
        device = self.model.device
        longest = max(len(rows[number]) for number in group)
        pads = [longest - len(rows[number]) for number in group]
        ids = torch.tensor(
            [[self._held[0]] * pad + list(rows[n]) for n, pad in zip(group, pads, strict=True)]
        )
        shift = torch.tensor(pads)
        # A padded column sees nothing and is seen by nothing; its position only has to be a valid one.
        places = (torch.arange(longest) - shift[:, None]).clamp_min(0) + self._next
        ids, places = ids.to(device), places.to(device)
        self.state.start(shift.to(device))
        alive = list(group)
        for step in range(max_new_tokens):
            logits = self._forward(ids, places)[:, -1]
            self.state.filled += ids.shape[1]
            tokens = pick(logits, sampling, [draws[number] for number in alive] if sampling else [])
            kept = []
            for row, (number, token) in enumerate(zip(alive, tokens.tolist(), strict=True)):
                if token not in eos:
                    answers[number].append(token)
                    if step + 1 < max_new_tokens:
                        kept.append(row)
            if len(kept) < len(alive):
                if on_done:
                    on_done(len(alive) - len(kept))
                if not kept:
                    return
                left = torch.tensor(kept, device=device)
                self.state.keep(left)
                tokens, places = tokens[left], places[left]
                alive = [alive[row] for row in kept]
            ids, places = tokens[:, None], places[:, -1:] + 1

    def _forward(self, ids: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        """Logits [B,1,V] of the last column."""
        return self.model(
            input_ids=ids, position_ids=places, use_cache=False, logits_to_keep=1, lcx_decode=self.state
        ).logits


def generator(sampling: Sampling, branch: int) -> torch.Generator:
    # One generator a branch: what it draws depends on the seed and its number, never on its batch or device.
    mixed = np.random.SeedSequence([sampling.seed & 0xFFFFFFFF, branch]).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(mixed) & 0x7FFFFFFFFFFFFFFF)


def pick(logits: torch.Tensor, sampling: Sampling | None, draws: Sequence[torch.Generator]) -> torch.Tensor:
    """The next token of each row of logits [B,V]: the likeliest, or one drawn from the likeliest `top_p`."""
    if sampling is None or sampling.temperature <= 0:
        return logits.argmax(-1)
    chances = torch.softmax(logits.float() / sampling.temperature, -1)
    chances, order = chances.sort(stable=True, dim=-1, descending=True)
    total = chances.cumsum(-1)
    # The tokens before the one that reaches top_p, and that one, stay.
    total = (chances * (total - chances < sampling.top_p)).cumsum(-1)
    points = torch.stack([torch.rand((), generator=draw, dtype=torch.float64) for draw in draws])
    aim = points.to(total.device, torch.float32) * total[:, -1]
    place = torch.searchsorted(total, aim[:, None], right=True).clamp_max(total.shape[-1] - 1)
    return order.gather(-1, place)[:, 0]


def why_not(config: Any) -> str | None:
    """Why a model of this config cannot decode branches over one stored context, or None where it can."""
    reason = why_refused(config)
    rope = (getattr(config, "rope_parameters", None) or {}).get("rope_type", "default")
    if reason is None and rope in ("dynamic", "longrope"):
        reason = f"its rotary positions ('{rope}') change with the length of the text"
    return reason


def decode_bundle(
    model: Any,
    encoded: EncodedBundle,
    *,
    max_new_tokens: int,
    eos_ids: Sequence[int],
    batch: int = 64,
    sampling: Sampling | None = None,
    chunk: int = PREFILL_CHUNK,
    on_done: Callable[[int], None] | None = None,
    on_refused: Callable[[str], None] | None = None,
) -> list[list[int]]:
    """Answer every branch of a bundle: the new token ids, without the end token, in the branches' order.

    A branch's prompt is the prefix and `ids[:answer_start]`. A model that cannot share its context answers
    one row after the other with `generate`, and `on_refused` is told why; greedy answers are the same. An
    answer shorter than `max_new_tokens` ended by itself.
    """
    prompts = [branch.ids[: branch.answer_start] for branch in encoded.branches]
    reason = why_not(model.config)
    if reason is None:
        decoder = BranchDecoder(model, chunk=chunk)
        decoder.prefill(encoded.prefix, encoded.positions)
        return decoder.answer(
            prompts,
            max_new_tokens=max_new_tokens,
            eos_ids=eos_ids,
            batch=batch,
            sampling=sampling,
            on_done=on_done,
        )
    if on_refused:
        on_refused(reason)
    if encoded.positions is not None:
        raise ValueError(f"bundle {encoded.id}: synthetic positions need a shared context, but {reason}")
    return _one_by_one(model, encoded.prefix, prompts, max_new_tokens, eos_ids, sampling, on_done)


def _one_by_one(
    model: Any,
    prefix: Sequence[int] | np.ndarray,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    eos_ids: Sequence[int],
    sampling: Sampling | None,
    on_done: Callable[[int], None] | None,
) -> list[list[int]]:
    """The same answers by `generate`, each with the whole context computed anew."""
    from transformers import GenerationConfig

    start = np.asarray(prefix, dtype=np.int64).tolist()
    end = list(eos_ids)
    drawn = sampling is not None and sampling.temperature > 0
    options: dict[str, Any] = {
        "max_new_tokens": max_new_tokens,
        "do_sample": drawn,
        "pad_token_id": end[0] if end else 0,
    }
    if end:
        options["eos_token_id"] = end
    if drawn and sampling is not None:
        options |= {"temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": 0}
    config = GenerationConfig(**options)
    answers, training = [], model.training
    model.eval()
    try:
        for number, prompt in enumerate(prompts):
            ids = torch.tensor([start + list(prompt)], device=model.device)
            devices = [model.device] if model.device.type == "cuda" else []
            with torch.random.fork_rng(devices=devices, enabled=drawn):
                if drawn and sampling is not None:
                    torch.manual_seed(generator(sampling, number).initial_seed())
                made = model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=config)
            tokens = made[0, ids.shape[1] :].tolist()
            stop = next((place for place, token in enumerate(tokens) if token in end), len(tokens))
            answers.append(tokens[:stop])
            if on_done:
                on_done(1)
    finally:
        model.train(training)
    return answers
