"""The `local:PATH_OR_ID` text generator: a transformers model on this machine, answering in padded batches.

A batch is composed from the requests alone, wherever it runs, so one process and several (`gpus`, a process a GPU) give
the same replies. A sample follows from its request's seed and its number alone, up to rounding: not from what else is
in its batch. Torch is imported where a model is opened.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from lcx.errors import LcxError, MissingError, UsageError
from lcx.llm.prompts import is_thought_mark, opening_thought
from lcx.llm.protocol import Completion, Made, Request, Response, Usage

CLOSED = "the model was closed while it answered"
_BLOCKS, _BLOCK = 16, 4096
"""Places of a file that its fingerprint looks at, and bytes that it reads at each."""
SHARE = 512
"""Prompt tokens from which several samples are drawn behind one prefill; shorter prompts are repeated."""
_TAIL = 32
"""Tokens at the end of a prompt among which a mark is that opens a thought."""
GRACE = 5.0
"""Seconds that a process has to end by itself."""


# -- batches


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
        added = getattr(tokenizer, "added_tokens_decoder", {})
        self.special = frozenset(i for i, token in added.items() if token.special)
        self.marks = frozenset(i for i in self.special if is_thought_mark(str(added[i])))
        """Special tokens that tell thoughts from what is said: they stay in the text."""

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
        self,
        prompts: Sequence[Sequence[int]],
        requests: Sequence[Request],
        lacking: Sequence[Sequence[int]] | None = None,
    ) -> list[tuple[list[tuple[int, int]], Batch]]:
        """Batches, each with the request and sample of every row. Requests that do not fit are left out.

        `lacking` are the numbers of the samples that are wanted of each request, all where none is given. Batches are
        full but for the last of each kind: those that are left after a kill are those that it kept from being made.
        """
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
                samples = [(i, sample) for sample in (lacking[i] if lacking else range(requests[i].n))]
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

    def opened(self, prompt: Sequence[int]) -> str:
        """The mark of a thought that the template opens at the end of a prompt: the reply goes on in it."""
        return opening_thought(self.tokenizer.decode(prompt[-_TAIL:])) if self.chat else ""

    def completion(
        self, row: Sequence[int], request: Request, ends: frozenset[int], before: str = ""
    ) -> tuple[Completion, int]:
        """One sample from the new tokens of its row, and how many there are.

        `ends` are the model's end tokens; `before` is the thought's mark that its prompt ends with, if any.
        """
        stop = next((k for k, token in enumerate(row) if token in ends), None)
        used = row if stop is None else row[:stop]
        text = before + self._decode(used)
        cut = min((at for at in (text.find(s) for s in request.stop) if at >= 0), default=None)
        ended = stop is not None or cut is not None or len(row) < request.max_tokens
        return Completion(text if cut is None else text[:cut], "stop" if ended else "length"), len(used)

    def _decode(self, ids: Sequence[int]) -> str:
        if not self.marks.intersection(ids):
            return str(self.tokenizer.decode(ids, skip_special_tokens=True))
        hidden = self.special - self.marks
        return str(self.tokenizer.decode([i for i in ids if i not in hidden]))


# -- one process


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
        made: list[list[Made]] = [[] for _ in requests]
        for one in self.stream(requests):
            made[one.number].append(one)
        return [
            Response(
                tuple(
                    choice
                    for part in sorted(parts, key=lambda part: part.sample)
                    for choice in part.completions
                ),
                sum((part.usage for part in parts), Usage()),
                next((part.error for part in parts if part.error), ""),
            )
            for parts in made
        ]

    def stream(
        self, requests: Sequence[Request], lacking: Sequence[Sequence[int]] | None = None
    ) -> Iterator[Made]:
        """What each padded batch makes, as soon as it is decoded; the prompt's tokens count with its first sample."""
        from lcx.data.assembly import check_embedding

        prompts = [self._encode(request) for request in requests]
        config = self._open_model().config
        for ids in prompts:
            check_embedding(ids, config, self.name)
        for number, request in enumerate(requests):
            if error := self.composer.refusal(prompts[number], request):
                yield Made(number, error=error)
        before = [self.composer.opened(prompt) for prompt in prompts]
        batches = self.composer.compose(prompts, requests, lacking)
        for place, rows in self._run([batch for _, batch in batches]):
            found: dict[int, list[tuple[int, Sequence[int]]]] = {}
            for (number, sample), row in zip(batches[place][0], rows, strict=True):
                found.setdefault(number, []).append((sample, row))
            runs = [(number, run) for number, samples in found.items() for run in _runs(samples)]
            for made, (number, run) in enumerate(runs, 1):
                read = [
                    self.composer.completion(row, requests[number], self.ends, before[number])
                    for _, row in run
                ]
                first = run[0][0]
                prompt = len(prompts[number]) if first == 0 else 0
                usage = Usage(prompt, sum(count for _, count in read))
                yield Made(number, first, tuple(choice for choice, _ in read), usage, ends=made == len(runs))

    def _encode(self, request: Request) -> list[int]:
        return self.composer.encode(request)

    def _open_model(self) -> Any:
        """The model; :meth:`close` may let it go in another thread at any time."""
        model = self.model
        if model is None:
            raise LcxError(CLOSED)
        return model

    def _run(self, batches: Sequence[Batch]) -> Iterator[tuple[int, list[list[int]]]]:
        """The place and the rows of every batch, as they are made."""
        model = Model(self._open_model(), self.tokenizer)
        model.stopped = self.stop
        for place, batch in enumerate(batches):
            rows = model.run(batch, self.batch)
            if self.stop.is_set():  # the rows may have ended too early
                raise LcxError(CLOSED)
            yield place, rows


def _runs(samples: Sequence[tuple[int, Sequence[int]]]) -> list[list[tuple[int, Sequence[int]]]]:
    """Samples with consecutive numbers together."""
    runs: list[list[tuple[int, Sequence[int]]]] = []
    for one in samples:
        if runs and runs[-1][-1][0] + 1 == one[0]:
            runs[-1].append(one)
        else:
            runs.append([one])
    return runs


# -- several processes


class Worker:
    """A process with the model on a device of its own. It ends with this process, and is not told of Ctrl-C."""

    def __init__(
        self, number: int, spec: str, device: str, threads: int | None, how: Mapping[str, Any]
    ) -> None:
        self.number = number
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(
            target=_work,
            args=(theirs, spec, device, threads, os.getpid(), dict(how)),
            name=f"lcx-local-{number}",
            daemon=True,
        )
        with _without_interrupts():
            self.process.start()
        theirs.close()  # so that its end shows here

    def receive(self) -> Any:
        """What the process sent. Raises its error, or LcxError where it has died."""
        try:
            kind, value = self.pipe.recv()
        except (EOFError, OSError):
            self.process.join(GRACE)
            raise self._death() from None
        if kind == "error":
            raise value
        return value

    def send(self, what: Any) -> None:
        """Hand the process its next batch. Raises LcxError where it has died."""
        try:
            self.pipe.send(what)
        except OSError:
            self.process.join(GRACE)
            raise self._death() from None

    def end(self) -> None:
        """End the process at once."""
        self.process.terminate()
        self.process.join(GRACE)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()

    def _death(self) -> LcxError:
        code = self.process.exitcode
        if code == -signal.SIGKILL:
            return MissingError(
                f"process {self.number} of the model was killed",
                why="Usually this machine's memory is full: every process holds the model.",
                hint="Fewer --gpus; the same command goes on with what was answered.",
            )
        how = f"with exit code {code}" if code is None or code >= 0 else f"by {signal.Signals(-code).name}"
        return LcxError(
            f"process {self.number} of the model ended {how}",
            hint="The same command goes on with what was answered.",
        )


class Pool(Local):
    """Generates with the same model in several processes. Batches are composed here, so replies do not depend on
    how many there are.
    """

    def __init__(self, workers: Sequence[Worker], head: Any, **options: Any) -> None:
        """`head` has what `Local` asks of a model: its configs."""
        super().__init__(head, **options)
        self.workers = list(workers)

    @classmethod
    def start(
        cls, spec: str, processes: int, *, device: str, batch: int, chat: str, how: Mapping[str, Any]
    ) -> Pool:
        """Start the processes and wait until each has its model, loaded with `how`'s dtype and rope.

        Raises the error of one that has none.
        """
        from lcx.hub import locate
        from lcx.modeling.load import load_config, load_tokenizer, set_rope, window

        places = devices(device, processes)
        tokenizer = load_tokenizer(spec)
        found = locate(spec)  # a tiny model is trained here, once
        config = load_config(found)
        set_rope(config, None, how["rope"])
        cores = os.cpu_count() or 1
        threads = max(1, cores // processes) if places[0] == "cpu" else None
        workers: list[Worker] = []
        try:
            for number, place in enumerate(places):
                workers.append(Worker(number, found, place, threads, how))
            ends = [worker.receive() for worker in workers]
            head = SimpleNamespace(
                config=config, generation_config=SimpleNamespace(eos_token_id=sorted(ends[0]))
            )
            return cls(
                workers,
                head,
                tokenizer=tokenizer,
                name=spec,
                window=window(config),
                batch=batch,
                chat=chat,
            )
        except BaseException:
            _end(workers)
            raise

    def close(self) -> None:
        """End the processes; a thread that waits for one of them is told that it died."""
        workers, self.workers = self.workers, []
        _end(workers)
        super().close()

    def _open_model(self) -> Any:
        if not self.workers:
            raise LcxError("the model's processes have ended")
        return super()._open_model()

    def _run(self, batches: Sequence[Batch]) -> Iterator[tuple[int, list[list[int]]]]:
        """The place and the rows of every batch, as they are made; each process takes the next one when it is free."""
        self._open_model()
        left = deque(enumerate(batches))
        busy: dict[Connection, tuple[Worker, int]] = {}
        idle = list(self.workers)
        try:
            while left or busy:
                while left and idle:
                    worker = idle.pop(0)
                    number, batch = left.popleft()
                    worker.send((batch, self.batch))
                    busy[worker.pipe] = (worker, number)
                for pipe in wait(list(busy)):
                    assert isinstance(pipe, Connection)
                    worker, number = busy.pop(pipe)
                    rows = worker.receive()
                    idle.append(worker)
                    yield number, rows
        except BaseException:  # what the others are at belongs to nobody any more
            self.close()
            raise


def devices(device: str, processes: int) -> list[str]:
    """A device for each process. Raises UsageError and MissingError where there are not so many."""
    import torch

    from lcx.modeling.load import pick_device

    if device.startswith("cuda:"):
        raise UsageError(
            f"--device {device} is one GPU, and --gpus {processes} are several", hint="Leave --device out."
        )
    if pick_device(device).type == "cpu":
        return ["cpu"] * processes
    there = torch.cuda.device_count()
    if there < processes:
        raise MissingError(
            f"--gpus {processes}: this machine shows {there}",
            hint=f"--gpus {there}, or --device cpu to try it",
        )
    return [f"cuda:{number}" for number in range(processes)]


def _end(workers: Sequence[Worker]) -> None:
    for worker in workers:
        worker.process.terminate()  # all first, so that they end side by side
    for worker in workers:
        worker.end()


@contextmanager
def _without_interrupts() -> Iterator[None]:
    """Processes that start in the block never see Ctrl-C, which the terminal sends to all; this one ends them."""
    resource_tracker.ensure_running()  # it would let the signal through again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _work(
    pipe: Connection, spec: str, device: str, threads: int | None, parent: int, how: Mapping[str, Any]
) -> None:
    """A worker's life: load, say so, and answer batches until the pipe ends."""
    from lcx.process import die_with

    die_with(parent)
    with suppress(EOFError, BrokenPipeError, ConnectionResetError):
        try:
            import torch

            from lcx.modeling.load import load_model, load_tokenizer

            if threads is not None:
                torch.set_num_threads(threads)
            tokenizer = load_tokenizer(spec)
            if tokenizer.pad_token_id is None:
                tokenizer.pad_token = tokenizer.eos_token
            model = Model(load_model(spec, device=device, **how).eval(), tokenizer)
            pipe.send(("ready", ends_of(model.model)))
            while True:
                batch, rows = pipe.recv()
                pipe.send(("rows", model.run(batch, rows)))
        except (EOFError, BrokenPipeError, ConnectionResetError):
            raise
        except Exception as bad:
            pipe.send(("error", _portable(bad)))


def _portable(bad: Exception) -> LcxError:
    """An error that survives the way to the other process, as one in our own words."""
    import traceback

    if isinstance(bad, LcxError):
        return bad
    if os.environ.get("LCX_DEBUG"):
        traceback.print_exception(bad)
    return LcxError(f"a process of the model failed: {type(bad).__name__}: {bad}")


def weights_fingerprint(model: str) -> str:
    """A digest of the files that a local model is loaded from: their names, sizes and some of their bytes.

    Training changes nearly every byte of a weights file, so a few blocks of each are enough. Empty for a model that
    is not there yet, such as `tiny`, which follows from its name.
    """
    from lcx import gguf
    from lcx.hub import locate, tiny_spec

    if not model or tiny_spec(model) is not None:
        return ""
    if gguf.is_gguf(model):
        return gguf.digest_of(model)[:16]
    try:
        place = Path(locate(model))
    except LcxError:
        return ""
    digest = hashlib.sha256()
    for path in sorted(place.iterdir()) if place.is_dir() else [place]:
        if path.suffix in (".safetensors", ".bin", ".gguf", ".json", ".jinja", ".model") and path.is_file():
            size = path.stat().st_size
            digest.update(f"{path.name}:{size}".encode())
            with path.open("rb") as file:
                for block in range(_BLOCKS):
                    file.seek(size * block // _BLOCKS)
                    digest.update(file.read(_BLOCK))
    return digest.hexdigest()[:16]


def open_local(model: str, options: Mapping[str, Any]) -> Local:
    """Factory for `local:PATH_OR_ID`.

    Options: `batch` (rows at a time), `chat` (auto, always, never), `device`, `gpus` (processes, a GPU each),
    `precision` (auto, bf16, fp16, fp32) and `rope` (rotary settings, merged into the model's).
    """
    if not model:
        raise UsageError("`local:` needs a model", hint="--llm local:PATH_OR_HUB_ID")
    unknown = sorted(set(options) - {"batch", "chat", "device", "gpus", "precision", "rope"})
    batch, gpus = options.get("batch", 8), options.get("gpus", 1)
    precision, rope = options.get("precision", "auto"), options.get("rope") or {}
    wrong = f"unknown option {unknown[0]!r}" if unknown else ""
    for name, value in (("batch", batch), ("gpus", gpus)):
        if not wrong and (not isinstance(value, int) or value < 1):
            wrong = f"{name} is a number from 1, not {value!r}"
    if not wrong and precision not in ("auto", "bf16", "fp16", "fp32"):
        wrong = f"precision is auto, bf16, fp16 or fp32, not {precision!r}"
    if not wrong and not isinstance(rope, Mapping):
        wrong = f"rope is a mapping of rotary settings, not {rope!r}"
    if not wrong:
        from lcx.modeling.rope import check_rope

        try:
            rope = check_rope(rope)
        except ValueError as bad:
            wrong = f"rope: {bad}"
    if wrong:
        raise UsageError(
            f"local: {wrong}",
            why="options: batch, chat (auto, always, never), gpus, precision (auto, bf16, fp16, fp32), rope",
        )
    chat, device = str(options.get("chat", "auto")), str(options.get("device", "auto"))
    how = {"dtype": precision, "rope": rope}
    if gpus > 1:
        return Pool.start(model, gpus, device=device, batch=batch, chat=chat, how=how)
    from lcx.modeling.load import load_model, load_tokenizer, window

    tokenizer = load_tokenizer(model)
    loaded = load_model(model, device=device, **how)
    loaded.eval()
    return Local(loaded, tokenizer, model, window=window(loaded.config), batch=batch, chat=chat)
