"""The ways in which a judge's calls are made: lcx's exchange, the bare SDK, and a process pool of serial workers."""

from __future__ import annotations

import asyncio
import multiprocessing
import resource
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lcx.context import Context, stderr_console
from lcx.llm.client import Service
from lcx.llm.protocol import Request
from lcx.llm.settings import Calling

ROOT = Path(__file__).resolve().parents[1]


@contextmanager
def served(latency: float) -> Iterator[str]:
    """The URL of a server process that answers everything after a fixed time."""
    command = [sys.executable, str(ROOT / "tests/llm/stub_server.py"), "--latency", str(latency)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
    finally:
        process.kill()
        process.wait()


def as_request(prompt: str) -> Request:
    return Request(({"role": "user", "content": prompt},), temperature=0.01, max_tokens=64)


def ours(url: str, prompts: Sequence[str], flight: int, folder: Path, warm: int) -> dict[str, float]:
    """lcx: journal, limits, retries and all. `warm` calls open the connections first."""
    settings = Calling(base_url=url, concurrency=flight)
    with Service(folder, settings, Context(console=stderr_console(quiet=True))) as service:
        exchange = service.client("openai:m", {})
        exchange.generate([as_request(f"warm {i}") for i in range(warm)])
        many = [as_request(prompt) for prompt in prompts]
        began, cpu = time.perf_counter(), time.process_time()
        replies = exchange.generate(many)
        found = {"seconds": time.perf_counter() - began, "cpu": time.process_time() - cpu}
    assert all(reply.text and not reply.error for reply in replies)
    return found


def bare(url: str, prompts: Sequence[str], flight: int, warm: int, *, wire: bool) -> dict[str, float]:
    """The SDK's asynchronous client behind a semaphore; `wire`: with lcx's transport and unparsed replies."""
    import httpx2
    import openai

    from lcx.llm.openai import Endpoint, open_client

    async def main() -> dict[str, float]:
        if wire:
            client = open_client(Endpoint(url, "none"), flight, 60.0)
        else:
            limits = httpx2.Limits(max_connections=flight, max_keepalive_connections=flight)
            http = httpx2.AsyncClient(limits=limits, timeout=60.0)
            client = openai.AsyncOpenAI(api_key="none", base_url=url, max_retries=0, http_client=http)
        room = asyncio.Semaphore(flight)

        async def one(prompt: str) -> None:
            body: dict[str, Any] = {
                "model": "m",
                "messages": [{"role": "user", "content": prompt}],
                "temperature": 0.01,
                "max_tokens": 64,
            }
            async with room:
                if wire:
                    await client.post("/chat/completions", cast_to=httpx2.Response, body=body)
                else:
                    await client.chat.completions.create(**body)

        await asyncio.gather(*(one(f"warm {i}") for i in range(warm)))
        began, cpu = time.perf_counter(), time.process_time()
        await asyncio.gather(*map(one, prompts))
        found = {"seconds": time.perf_counter() - began, "cpu": time.process_time() - cpu}
        await client.close()
        return found

    return asyncio.run(main())


def _serial(job: tuple[str, Sequence[str]]) -> float:
    """One worker of the published design: an answer's calls, one after the other. Its CPU time."""
    import openai

    url, prompts = job
    client = openai.OpenAI(api_key="none", base_url=url)
    began = time.process_time()
    for prompt in prompts:
        reply = client.chat.completions.create(
            model="m", messages=[{"role": "user", "content": prompt}], temperature=0.01, max_tokens=64
        )
        assert reply.choices[0].message.content
    return time.process_time() - began


def pooled(url: str, prompts: Sequence[str], workers: int) -> dict[str, float]:
    """A process pool in which each worker makes its answer's calls serially. Starting the pool is not counted."""
    import openai  # noqa: F401 - before the fork: the workers do not load it again

    jobs = [(url, list(prompts[i::workers])) for i in range(workers)]
    with multiprocessing.get_context("fork").Pool(workers) as pool:
        pool.map(_ready, range(workers), chunksize=1)
        began = time.perf_counter()
        cpu = sum(pool.map(_serial, jobs, chunksize=1))
        return {"seconds": time.perf_counter() - began, "cpu": cpu}


def _ready(_: int) -> None:
    time.sleep(0.05)


def peak_bytes() -> int:
    """This process's highest resident memory."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
