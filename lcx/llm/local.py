"""The `local:PATH_OR_ID` text generator: a transformers model on this machine, answering in padded batches.

A sample follows from its request's seed and its number alone, up to rounding: not from what else is in its batch.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any

from lcx.errors import LcxError, MissingError, UsageError
from lcx.llm.batches import Batch, Composer
from lcx.llm.protocol import Request, Response

CLOSED = "the model was closed while it answered"


class Model:
    """Runs batches: a model on its device. Another thread may ask it to stop."""

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self.model, self.tokenizer = model, tokenizer
        self.stopped = threading.Event()

    def run(self, batch: Batch, rows: int) -> list[list[int]]:
        """The new tokens of every row of a batch; a shared one goes `rows` at a time.

        Raises MissingError where the GPU's memory does not hold it.
        """
        import torch

        from lcx.modeling.load import few_threads

        if self.stopped.is_set():
            raise LcxError(CLOSED)
        try:
            with torch.inference_mode(), few_threads(self.model):
                return self._shared(batch, rows) if batch.shared else self._padded(batch)
        except torch.OutOfMemoryError as full:
            raise MissingError(
                f"the GPU's memory is not enough for {len(batch.seeds)} rows of {len(batch.prompts[0]):,} tokens",
                why=str(full).splitlines()[0],
                hint=f"Fewer rows at a time, such as --set STEP.llm_options={{batch: {max(1, rows // 2)}}}",
            ) from None

    def _padded(self, batch: Batch) -> list[list[int]]:
        import torch

        device, sampler = self.model.device, batch.sampler
        width = max(map(len, batch.prompts))
        pad = self.tokenizer.pad_token_id
        # On the left, since generation continues from the last column
        ids = torch.tensor([[pad] * (width - len(p)) + list(p) for p in batch.prompts], device=device)
        mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in batch.prompts], device=device)
        options: dict[str, Any] = {"stopping_criteria": [self._asked_to_stop()]}
        if sampler.temperature > 0:
            options["logits_processor"] = [_drawing(batch)]
            options |= self._prefilled(ids, mask, batch.prompts)
        if sampler.stop:
            options["stopping_criteria"].append(self._stopping(sampler.stop, width))
        out = self.model.generate(
            input_ids=ids,
            attention_mask=mask,
            max_new_tokens=sampler.max_tokens,
            pad_token_id=pad,
            do_sample=False,
            **options,
        )
        return [[int(token) for token in row] for row in out[:, width:].tolist()]

    def _prefilled(self, ids: Any, mask: Any, prompts: Sequence[tuple[int, ...]]) -> dict[str, Any]:
        """Keys and values of all but the last column, computed once for rows of one prompt; nothing where no prompt
        comes twice, or the model keeps more than these.
        """
        import torch
        from transformers import DynamicCache

        from lcx.modeling.support import why_not_packed

        places = {prompt: number for number, prompt in enumerate(dict.fromkeys(prompts))}
        if len(places) == len(prompts) or ids.shape[1] < 2 or why_not_packed(self.model.config):
            return {}
        rows_of = {prompt: row for row, prompt in enumerate(prompts)}
        first = torch.tensor([rows_of[prompt] for prompt in places], device=ids.device)
        held = mask[first, :-1]
        made = self.model(
            input_ids=ids[first, :-1],
            attention_mask=held,
            position_ids=(held.cumsum(-1) - 1).clamp_min(0),
            past_key_values=DynamicCache(config=self.model.config),
            use_cache=True,
            logits_to_keep=1,
        )
        rows = torch.tensor([places[prompt] for prompt in prompts], device=ids.device)
        made.past_key_values.batch_select_indices(rows)
        return {"past_key_values": made.past_key_values}

    def _shared(self, batch: Batch, rows: int) -> list[list[int]]:
        """Samples of one prompt behind one prefill."""
        from lcx.modeling.decode_kv import BranchDecoder
        from lcx.modeling.sampling import Sampling

        sampler = batch.sampler
        decoder = BranchDecoder(self.model)
        decoder.prefill(batch.prompts[0])
        return decoder.answer(
            [() for _ in batch.seeds],
            max_new_tokens=sampler.max_tokens,
            eos_ids=sorted(ends_of(self.model)),
            batch=rows,
            sampling=Sampling(sampler.temperature, sampler.top_p, batch.seeds[0][0]),
        )

    def _asked_to_stop(self) -> Any:
        """Ends a batch whose rows nobody waits for any more."""
        import torch
        from transformers import StoppingCriteria

        class Asked(StoppingCriteria):
            def __call__(criterion, input_ids: Any, scores: Any, **kwargs: Any) -> Any:
                return torch.full((len(input_ids),), self.stopped.is_set(), device=input_ids.device)

        return Asked()

    def _stopping(self, stop: Sequence[str], width: int) -> Any:
        """Ends a row whose new text holds a stop string. The library's own criterion fails on word-level tokenizers."""
        import torch
        from transformers import StoppingCriteria

        reach = (
            max(len(text) for text in stop) + 1
        )  # tokens that can hold it: each has a character, mostly more

        class Stops(StoppingCriteria):
            def __call__(criterion, input_ids: Any, scores: Any, **kwargs: Any) -> Any:
                rows = input_ids[:, max(width, input_ids.shape[1] - reach) :].tolist()
                texts = self.tokenizer.batch_decode(rows, skip_special_tokens=True)
                ended = [any(text in row for text in stop) for row in texts]
                return torch.tensor(ended, device=input_ids.device)

        return Stops()


def _drawing(batch: Batch) -> Any:
    """Leaves each row one token to take: the one that the row's own random numbers draw.

    The library draws all rows of a batch from one state, so that a sample would depend on its neighbours.
    """
    import torch
    from transformers import LogitsProcessor

    from lcx.modeling.sampling import Sampling, generator, pick

    sampler = batch.sampler
    sampling = Sampling(sampler.temperature, sampler.top_p)
    draws = [generator(Sampling(seed=seed), sample) for seed, sample in batch.seeds]

    class Draws(LogitsProcessor):
        def __call__(processor, input_ids: Any, scores: Any) -> Any:
            tokens = pick(scores, sampling, draws)
            return torch.full_like(scores, -torch.inf).scatter_(1, tokens[:, None], 0.0)

    return Draws()


def ends_of(model: Any) -> frozenset[int]:
    """The tokens that end a model's answer."""
    ends = model.generation_config.eos_token_id
    found = ends if isinstance(ends, list) else [ends]
    return frozenset(end for end in found if end is not None)


class Local:
    """Generates with one model in this process."""

    def __init__(self, model: Any, tokenizer: Any, name: str, window: int, batch: int, chat: str) -> None:
        from lcx.modeling.support import why_not_decoded

        self.model, self.tokenizer, self.name = model, tokenizer, name
        self.batch, self.ends = batch, ends_of(model)
        self.stop = threading.Event()
        self.chat = bool(tokenizer.chat_template) if chat == "auto" else chat == "always"
        self.composer = Composer(
            tokenizer, window, batch, chat=self.chat, share=why_not_decoded(model.config) is None
        )

    def describe(self) -> dict[str, Any]:
        """The model, and how it is asked."""
        return {"backend": "local", "model": self.name, "chat_template": self.chat, "batch": self.batch}

    def close(self) -> None:
        """Let the model go; a thread that still generates ends at its next token."""
        self.stop.set()
        self.model = None

    def generate(self, requests: Sequence[Request]) -> list[Response]:
        """Replies in order; requests that share sampling settings form batches."""
        prompts = [self._encode(request) for request in requests]
        batches = self.composer.compose(prompts, requests)
        rows: dict[tuple[int, int], list[int]] = {}
        for (names, _), made in zip(batches, self._run([batch for _, batch in batches]), strict=True):
            rows.update(zip(names, made, strict=True))
        return [
            Response((), error=error)
            if (error := self.composer.refusal(prompts[i], request))
            else self.composer.response(
                [rows[i, sample] for sample in range(request.n)], prompts[i], request, self.ends
            )
            for i, request in enumerate(requests)
        ]

    def _encode(self, request: Request) -> list[int]:
        return self.composer.encode(request)

    def _run(self, batches: Sequence[Batch]) -> list[list[list[int]]]:
        """The rows of every batch."""
        model = Model(self.model, self.tokenizer)
        model.stopped = self.stop
        made = [model.run(batch, self.batch) for batch in batches]
        if self.stop.is_set():  # the last rows may have ended too early
            raise LcxError(CLOSED)
        return made


def open_local(model: str, options: Mapping[str, Any]) -> Local:
    """Factory for `local:PATH_OR_ID`.

    Options: `batch` (rows at a time), `chat` (auto, always, never), `device`, and `gpus` (processes, a GPU each).
    """
    if not model:
        raise UsageError("`local:` needs a model", hint="--llm local:PATH_OR_HUB_ID")
    unknown = sorted(set(options) - {"batch", "chat", "device", "gpus"})
    batch, gpus = options.get("batch", 8), options.get("gpus", 1)
    wrong = f"unknown option {unknown[0]!r}" if unknown else ""
    for name, value in (("batch", batch), ("gpus", gpus)):
        if not wrong and (not isinstance(value, int) or value < 1):
            wrong = f"{name} is a number from 1, not {value!r}"
    if wrong:
        raise UsageError(f"local: {wrong}", why="options: batch, chat (auto, always, never), gpus")
    chat, device = str(options.get("chat", "auto")), str(options.get("device", "auto"))
    if gpus > 1:
        from lcx.llm.pool import Pool

        return Pool.start(model, gpus, device=device, batch=batch, chat=chat)
    from lcx.modeling.load import load_model, load_tokenizer, window

    tokenizer = load_tokenizer(model)
    loaded = load_model(model, device=device)
    loaded.eval()
    return Local(loaded, tokenizer, model, window=window(loaded.config), batch=batch, chat=chat)
