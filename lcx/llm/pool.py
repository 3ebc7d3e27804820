"""`local:` over several GPUs: the same batches as in one process, run by a process a GPU."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from types import SimpleNamespace
from typing import Any

from lcx.errors import LcxError, MissingError, UsageError
from lcx.llm.batches import Batch
from lcx.llm.local import Local, Model, ends_of

GRACE = 5.0
"""Seconds that a process has to end by itself."""


class Worker:
    """A process with the model on a device of its own. It ends with this process, and is not told of Ctrl-C."""

    def __init__(self, number: int, spec: str, device: str, threads: int | None) -> None:
        self.number = number
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(
            target=_work,
            args=(theirs, spec, device, threads, os.getpid()),
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
    def start(cls, spec: str, processes: int, *, device: str, batch: int, chat: str) -> Pool:
        """Start the processes and wait until each has its model. Raises the error of one that has none."""
        from lcx.hub import locate
        from lcx.modeling.load import load_config, load_tokenizer, window

        places = devices(device, processes)
        tokenizer = load_tokenizer(spec)
        found = locate(spec)  # a tiny model is trained here, once
        config = load_config(found)
        cores = os.cpu_count() or 1
        threads = max(1, cores // processes) if places[0] == "cpu" else None
        workers: list[Worker] = []
        try:
            for number, place in enumerate(places):
                workers.append(Worker(number, found, place, threads))
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

    def _run(self, batches: Sequence[Batch]) -> list[list[list[int]]]:
        """The rows of every batch; each process takes the next one when it is free."""
        if not self.workers:
            raise LcxError("the model's processes have ended")
        made: dict[int, list[list[int]]] = {}
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
                    made[number] = worker.receive()
                    idle.append(worker)
        except BaseException:  # what the others are at belongs to nobody any more
            self.close()
            raise
        return [made[number] for number in range(len(batches))]


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


def _work(pipe: Connection, spec: str, device: str, threads: int | None, parent: int) -> None:
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
            model = Model(load_model(spec, device=device).eval(), tokenizer)
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
