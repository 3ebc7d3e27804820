"""The `local:PATH_OR_ID` text generator: a transformers model on this machine, answering in padded batches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lcx.errors import UsageError
from lcx.llm.protocol import Completion, Request, Response, Usage


class Local:
    """Generates with one model. Requests of one call that share sampling settings form batches, longest first."""

    def __init__(self, model: Any, tokenizer: Any, name: str, window: int, batch: int, chat: str) -> None:
        self.model, self.tokenizer, self.name = model, tokenizer, name
        self.window, self.batch = window, batch
        self.chat = bool(tokenizer.chat_template) if chat == "auto" else chat == "always"
        if tokenizer.pad_token_id is None:
            tokenizer.pad_token = tokenizer.eos_token
        tokenizer.padding_side = "left"  # generation continues from the last column

    def describe(self) -> dict[str, Any]:
        return {"backend": "local", "model": self.name, "chat_template": self.chat, "batch": self.batch}

    def close(self) -> None:
        self.model = None

    def generate(self, requests: Sequence[Request]) -> list[Response]:
        responses: list[Response | None] = [None] * len(requests)
        prompts = [self._encode(request) for request in requests]
        groups: dict[tuple[Any, ...], list[int]] = {}
        for number, request in enumerate(requests):
            room = self.window - len(prompts[number])
            if room < request.max_tokens:
                responses[number] = Response(
                    (),
                    error=f"the prompt of {len(prompts[number])} tokens and {request.max_tokens} new ones do not fit "
                    f"the model's window of {self.window}",
                )
                continue
            key = (request.n, request.temperature, request.top_p, request.max_tokens, request.stop)
            groups.setdefault(key, []).append(number)
        for members in groups.values():
            members.sort(key=lambda i: (-len(prompts[i]), i))  # equal lengths side by side: little padding
            for start in range(0, len(members), self.batch):
                part = members[start : start + self.batch]
                answers = self._run([prompts[i] for i in part], requests[part[0]])
                for i, response in zip(part, answers, strict=True):
                    responses[i] = response
        return [response for response in responses if response is not None]

    def _encode(self, request: Request) -> list[int]:
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

    def _run(self, prompts: list[list[int]], request: Request) -> list[Response]:
        import torch

        from lcx.modeling.threads import few_threads

        width = max(map(len, prompts))
        pad = self.tokenizer.pad_token_id
        ids = torch.tensor([[pad] * (width - len(p)) + p for p in prompts], device=self.model.device)
        mask = torch.tensor(
            [[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=self.model.device
        )
        sampling: dict[str, Any] = {"do_sample": False}
        if request.temperature > 0:
            sampling = {
                "do_sample": True,
                "temperature": request.temperature,
                "top_p": request.top_p,
                "top_k": 0,
            }
        if request.stop:
            sampling["stopping_criteria"] = [self._stopping(request.stop, width)]
        devices = [self.model.device] if self.model.device.type == "cuda" else []
        # Seeding inside a fork keeps the caller's random state, and makes a batch's samples repeatable.
        with few_threads(self.model), torch.random.fork_rng(devices=devices), torch.inference_mode():
            torch.manual_seed(request.seed)
            out = self.model.generate(
                input_ids=ids,
                attention_mask=mask,
                max_new_tokens=request.max_tokens,
                num_return_sequences=request.n,
                pad_token_id=pad,
                **sampling,
            )[:, width:]
        rows = out.tolist()
        return [
            self._response(rows[i * request.n : (i + 1) * request.n], len(prompt), request)
            for i, prompt in enumerate(prompts)
        ]

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

    def _response(self, rows: list[list[int]], prompt_tokens: int, request: Request) -> Response:
        ends = self.model.generation_config.eos_token_id
        ends = set(ends) if isinstance(ends, list) else {ends}
        completions, spent = [], 0
        for row in rows:
            stop = next((k for k, token in enumerate(row) if token in ends), None)
            used = row if stop is None else row[:stop]
            spent += len(used)
            text = self.tokenizer.decode(used, skip_special_tokens=True)
            cut = min((at for at in (text.find(s) for s in request.stop) if at >= 0), default=None)
            ended = stop is not None or cut is not None
            completions.append(Completion(text if cut is None else text[:cut], "stop" if ended else "length"))
        return Response(tuple(completions), Usage(prompt_tokens, spent))


def open_local(model: str, options: Mapping[str, Any]) -> Local:
    """Factory for `local:PATH_OR_ID`. Options: `batch` (rows at a time), `chat` (auto, always, never), `device`."""
    if not model:
        raise UsageError("`local:` needs a model", hint="--llm local:PATH_OR_HUB_ID")
    unknown = sorted(set(options) - {"batch", "chat", "device"})
    batch = options.get("batch", 8)
    if unknown or not isinstance(batch, int) or batch < 1:
        raise UsageError(
            f"local: {f'unknown option {unknown[0]!r}' if unknown else f'batch is a number from 1, not {batch!r}'}",
            why="options: batch, chat (auto, always, never)",
        )
    from lcx.modeling.load import load_model, load_tokenizer, window

    device = str(options.get("device", "auto"))
    tokenizer = load_tokenizer(model)
    loaded = load_model(model, device=device)
    loaded.eval()
    return Local(
        loaded,
        tokenizer,
        model,
        window=window(loaded.config),
        batch=batch,
        chat=str(options.get("chat", "auto")),
    )
