"""Answers to many questions on one context: three decoding strategies, and the choice among them.

`shared`: all questions of a batch read one copy of the context's keys and values (`lcx.modeling.decode_kv`).
`copied`: the context runs once, into the cache that transformers makes for the model (states of linear attention,
sliding windows and all), and each question of a batch goes on from a copy of it. That costs memory, and each copy's
keys are read anew. Whether a model goes on from a filled cache as if it had read everything at once is not taken on
trust: it is proved on the model itself. `whole`: each question reads its context anew, by `generate`, which the other
two are checked against. Greedy answers are the same, up to rounding.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import DynamicCache, GenerationConfig

from lcx.modeling.decode_kv import BranchDecoder
from lcx.modeling.load import few_threads
from lcx.modeling.sampling import Sampling, generator
from lcx.modeling.support import LENGTH_ROPE, brings_code, rope_types, why_not_decoded

SHARED, COPIED, WHOLE = "shared", "copied", "whole"


@dataclass(frozen=True)
class DecodeStrategy:
    """The strategy by which questions on one context are answered, and the sentence that says why this one."""

    name: str
    reason: str


def pick_strategy(model: Any, *, reuse: bool = True) -> DecodeStrategy:
    """The best way for a model. Proving that its cache can be copied runs a few hundred random tokens."""
    if not reuse:
        return DecodeStrategy(WHOLE, "every question reads its context anew, as asked")
    reason = why_not_decoded(model.config)
    if reason is None:
        return DecodeStrategy(SHARED, "all questions read one copy of their context's keys and values")
    copies = why_not_copied(model)
    if copies is None:
        return DecodeStrategy(COPIED, f"cache copied per query, because {reason}")
    return DecodeStrategy(WHOLE, f"every question reads its context anew, because {reason}; and {copies}")


def decode_branches(
    way: DecodeStrategy,
    model: Any,
    prefix: Sequence[int] | np.ndarray,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    eos_ids: Sequence[int] = (),
    batch: int = 64,
    positions: Any = None,
    sampling: Sampling | None = None,
    chunk: int | None = None,
    on_answer: OnAnswer | None = None,
) -> list[list[int]]:
    """Continue each prompt after the prefix; the new tokens, without the end token, in the prompts' order.

    Raises ValueError for synthetic positions where the context is not shared.
    """
    if way.name == SHARED:
        shared = BranchDecoder(model, **({"chunk": chunk} if chunk else {}))
        shared.prefill(prefix, positions)
        return shared.answer(
            prompts,
            max_new_tokens=max_new_tokens,
            eos_ids=eos_ids,
            batch=batch,
            sampling=sampling,
            on_answer=on_answer,
        )
    if positions is not None:
        raise ValueError(f"synthetic positions need a shared context, but {way.reason}")
    if way.name == COPIED and (sampling is None or sampling.temperature <= 0):
        copied = CopyDecoder(model)
        copied.prefill(prefix)
        return copied.answer(
            prompts, max_new_tokens=max_new_tokens, eos_ids=eos_ids, batch=batch, on_answer=on_answer
        )
    start = np.asarray(prefix, dtype=np.int64).tolist()
    return generate_rows(
        model,
        [[*start, *prompt] for prompt in prompts],
        max_new_tokens=max_new_tokens,
        eos_ids=eos_ids,
        batch=batch,
        sampling=sampling,
        on_answer=on_answer,
    )


COPIED_TOKENS = 65536
"""Most context tokens held in copies at a time; a longer context is copied for one question after the other."""
PROBED = 150
"""Tokens of the random context that the proof runs: more than a chunk of the usual linear attention."""
CLOSE = {torch.float32: 1e-3, torch.float64: 1e-6}
"""Most that the logits may differ in the proof, as a share of their spread; half precisions: 0.1."""


class CopyDecoder:
    """Decodes questions on one context at a time, greedily: `prefill` it, then call `answer` as often as needed."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self._prefix: list[int] = []
        self._cache: Any = None

    def prefill(self, prefix: Sequence[int] | np.ndarray) -> None:
        """Run all but the last token of the prefix [P]; that one goes before every question."""
        self._prefix = np.asarray(prefix, dtype=np.int64).tolist()
        self._cache = None
        if len(self._prefix) < 2:
            return
        ids = torch.tensor([self._prefix[:-1]], device=self.model.device)
        with plain_generation(self.model):
            made = self.model(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                past_key_values=DynamicCache(config=self.model.config),
                use_cache=True,
                logits_to_keep=1,
            )
        self._cache = made.past_key_values

    def answer(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        max_new_tokens: int,
        eos_ids: Sequence[int] = (),
        batch: int = 64,
        on_answer: OnAnswer | None = None,
    ) -> list[list[int]]:
        """Continue each prompt after the prefix; the new tokens, without the end token."""
        answers: list[list[int]] = [[] for _ in prompts]
        rows = max(1, min(batch, COPIED_TOKENS // max(1, len(self._prefix))))
        for group in groups_of(prompts, rows, COPIED_TOKENS, even=True):
            made = self._generate([prompts[number] for number in group], max_new_tokens, eos_ids)
            for number, tokens in zip(group, made.sequences.tolist(), strict=True):
                answers[number] = until(tokens[len(self._prefix) + len(prompts[number]) :], eos_ids)
                if on_answer:
                    on_answer(number, answers[number])
        return answers

    def _generate(
        self,
        prompts: Sequence[Sequence[int]],
        max_new_tokens: int,
        eos_ids: Sequence[int],
        logits: bool = False,
    ) -> Any:
        """Prompts of one length (no padding: a state would take it in) from copies of the cache."""
        ids = torch.tensor([[*self._prefix, *prompt] for prompt in prompts], device=self.model.device)
        start = {} if self._cache is None else {"past_key_values": self._copies(len(prompts))}
        with plain_generation(self.model):
            return self.model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                generation_config=options_of(
                    max_new_tokens, eos_ids, return_dict_in_generate=True, output_logits=logits
                ),
                **start,
            )

    def _copies(self, rows: int) -> Any:
        made = copy.deepcopy(self._cache)
        if rows > 1:  # the one operation on rows that every kind of layer has
            made.reorder_cache(torch.zeros(rows, dtype=torch.long, device=self.model.device))
        return made


def why_not_copied(model: Any) -> str | None:
    """Why questions cannot be answered from copies of the model's cache, or None where it was proved that they can.

    Random tokens are answered both ways, and the logits compared.
    """
    config = model.config
    if brings_code(config):
        return "it brings its own code"
    if getattr(config, "is_encoder_decoder", False):
        return "it is an encoder-decoder"
    if rope_types(config) & LENGTH_ROPE:
        return "keys that were computed for a shorter text would be wrong in a longer one"
    try:
        difference = _difference(model)
    except Exception as bad:  # whatever a model's own code does with a cache that it does not know
        said = (str(bad).splitlines() or [""])[0][:120]
        return f"its cache cannot be copied ({type(bad).__name__}: {said})"
    if not difference <= CLOSE.get(model.dtype, 0.1):
        return f"it does not go on from a filled cache as from its text (logits differ by {difference:.2g})"
    return None


def _difference(model: Any) -> float:
    """The distance of the logits of answers from copies from those of whole prompts, as a share of their spread."""
    text = model.config.get_text_config(decoder=True)
    rng = np.random.default_rng(0)
    window = getattr(text, "max_position_embeddings", None) or PROBED * 2
    prefix = rng.integers(0, text.vocab_size, max(2, min(PROBED, window // 2))).tolist()
    decoder, plain = CopyDecoder(model), CopyDecoder(model)
    decoder.prefill(prefix)
    worst = 0.0
    for length in (5, 1):
        prompts = rng.integers(0, text.vocab_size, (2, length)).tolist()
        made = decoder._generate(prompts, 3, (), logits=True)
        for row, prompt in enumerate(prompts):
            whole = plain._generate([prefix + prompt], 3, (), logits=True)
            for step, (ours, theirs) in enumerate(zip(made.logits, whole.logits, strict=True)):
                one, other = ours[row].double(), theirs[0].double()
                worst = max(worst, float((one - other).norm() / (other - other.mean()).norm()))
                at = len(prefix) + length + step
                if not worst < float("inf") or made.sequences[row, at] != whole.sequences[0, at]:
                    break
    return worst


# It reminds of the window at the very token that fills it; prompts are made to fit before.
logging.getLogger("transformers.generation.stopping_criteria").setLevel(logging.ERROR)

BATCH_TOKENS = 8192
"""Most padded prompt tokens of one batch; a longer prompt goes alone."""

OnAnswer = Callable[[int, list[int]], None]


@contextmanager
def plain_generation(model: Any) -> Iterator[None]:
    """No generation settings of the model's own inside the block, and evaluation mode.

    `generate` fills whatever a call leaves open from them, and a repetition penalty or a list of forbidden
    tokens would make it another decoding than the likeliest token at each step.
    """
    owners = [model] + ([model.get_base_model()] if hasattr(model, "get_base_model") else [])
    before = [vars(owner).get("generation_config") for owner in owners]
    training = model.training
    model.eval()
    try:
        for owner in owners:
            owner.generation_config = GenerationConfig()
        with torch.inference_mode(), few_threads(model):
            yield
    finally:
        for owner, held in zip(owners, before, strict=True):
            if held is None:
                vars(owner).pop("generation_config", None)
            else:
                owner.generation_config = held
        model.train(training)


def options_of(
    max_new_tokens: int, eos_ids: Sequence[int], sampling: Sampling | None = None, **more: Any
) -> GenerationConfig:
    """Greedy decoding, or plain sampling, as the library takes it."""
    ends = [int(token) for token in eos_ids]
    found: dict[str, Any] = {
        "max_new_tokens": max_new_tokens,
        "do_sample": False,
        "pad_token_id": ends[0] if ends else 0,
        **more,
    }
    if ends:
        found["eos_token_id"] = ends
    if sampling is not None and sampling.temperature > 0:
        found |= {
            "do_sample": True,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "top_k": 0,
        }
    return GenerationConfig(**found)


def generate_rows(
    model: Any,
    rows: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    eos_ids: Sequence[int] = (),
    batch: int = 1,
    sampling: Sampling | None = None,
    on_answer: OnAnswer | None = None,
) -> list[list[int]]:
    """Continue each whole prompt; the new tokens, without the end token.

    Prompts of similar length make a batch, padded on the left whatever side the tokenizer is set to. Models
    whose layers may mix padding into their state get batches of one length only. Samples are drawn one prompt
    at a time, since the library draws a batch from one state.
    """
    drawn = sampling is not None and sampling.temperature > 0
    config = options_of(max_new_tokens, eos_ids, sampling)
    answers: list[list[int]] = [[] for _ in rows]
    even = why_not_decoded(model.config) is not None
    with plain_generation(model):
        for group in groups_of(rows, 1 if drawn else batch, BATCH_TOKENS, even=even):
            width = max(len(rows[number]) for number in group)
            pads = [width - len(rows[number]) for number in group]
            ids = [[config.pad_token_id] * pad + list(rows[n]) for n, pad in zip(group, pads, strict=True)]
            mask = [[0] * pad + [1] * (width - pad) for pad in pads]
            devices = [model.device] if model.device.type == "cuda" else []
            with torch.random.fork_rng(devices=devices, enabled=drawn):
                if drawn and sampling is not None:
                    torch.manual_seed(generator(sampling, group[0]).initial_seed())
                made = model.generate(
                    torch.tensor(ids, device=model.device),
                    attention_mask=torch.tensor(mask, device=model.device),
                    generation_config=config,
                )
            for number, tokens in zip(group, made[:, width:].tolist(), strict=True):
                answers[number] = until(tokens, eos_ids)
                if on_answer:
                    on_answer(number, answers[number])
    return answers


def groups_of(
    rows: Sequence[Sequence[int]], batch: int, tokens: int, *, even: bool = False
) -> Iterator[list[int]]:
    """Rows in groups of similar length (`even`: of one length), at most `batch` and so many padded tokens each."""
    group: list[int] = []
    for number in sorted(range(len(rows)), key=lambda number: (len(rows[number]), number)):
        length = len(rows[number])
        full = len(group) >= batch or length * (len(group) + 1) > tokens
        if group and (full or (even and length != len(rows[group[0]]))):
            yield group
            group = []
        group.append(number)
    if group:
        yield group


def until(tokens: Sequence[int], eos_ids: Sequence[int]) -> list[int]:
    """Tokens before the first end token."""
    ends = frozenset(eos_ids)
    stop = next((place for place, token in enumerate(tokens) if token in ends), len(tokens))
    return list(tokens[:stop])


@dataclass(frozen=True)
class Traced:
    """An answer by full computation: its tokens, end token included, and the logits [V] (fp32) they were taken from."""

    ids: list[int]
    logits: list[torch.Tensor]


def trace(model: Any, row: Sequence[int], *, max_new_tokens: int, eos_ids: Sequence[int] = ()) -> Traced:
    """Answer one whole prompt by `generate` with the model's ordinary attention, and keep the logits."""
    ids = torch.tensor([list(row)], device=model.device)
    with plain_generation(model):
        made = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            generation_config=options_of(
                max_new_tokens, eos_ids, return_dict_in_generate=True, output_logits=True
            ),
        )
    return Traced(made.sequences[0, ids.shape[1] :].tolist(), [step[0].float().cpu() for step in made.logits])
