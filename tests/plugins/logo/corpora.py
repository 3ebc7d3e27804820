"""Texts and a step for LOGO's tests."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from lcx.context import Context, StepResult
from lcx.llm.protocol import Completion, Request, Response, Usage
from lcx.plugins import load as load_plugins
from lcx.recipe import load, resolve
from lcx.run import Run
from lcx.steps import execute

PLUGINS = load_plugins()
SMALL = {"examples": 40, "segment_tokens": 40, "chunks": 6, "batch": 8, "joint": 0.25}
ISLANDS = ("Skua", "Tern", "Fulmar", "Gannet", "Puffin", "Razorbill", "Petrel", "Dunlin")


def write_corpus(folder: Path, files: int = 8, lines: int = 40, seed: int = 0) -> Path:
    """Logbooks of lighthouses: every line has a place, a keeper, a thing and a number of its own."""
    rng = random.Random(seed)
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(files):
        island = ISLANDS[number % len(ISLANDS)]
        rows = [
            f"On day {day} the keeper {rng.choice(ISLANDS)}son{number}x{day} of {island} Island {number} repaired the "
            f"{rng.choice(['lamp', 'stair', 'boat', 'fence'])} and counted {rng.randrange(1000, 9999)} gulls."
            for day in range(lines)
        ]
        (folder / f"log{number}.md").write_text("\n".join(rows), encoding="utf-8")
    return folder


def write_rows(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def synth(run_dir: Path, force: bool = False, **settings: Any) -> StepResult:
    step = resolve(load("logo", PLUGINS), PLUGINS, flags={"synth": {**SMALL, **settings}}, project={})[0]
    return execute(step, Run(run_dir, "logo"), Context(force=force), PLUGINS)


def score(run_dir: Path, force: bool = False, **settings: Any) -> StepResult:
    step = resolve(load("logo", PLUGINS), PLUGINS, flags={"score": settings}, project={})[1]
    return execute(step, Run(run_dir, "logo"), Context(force=force), PLUGINS)


def digests(folder: Path) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.iterdir())}


class Scripted:
    """A text generator that answers by a function of the request."""

    def __init__(self, reply: Callable[[Request], str | Response]) -> None:
        self.reply = reply
        self.seen: list[Request] = []

    def generate(self, requests: Sequence[Request]) -> list[Response]:
        self.seen += requests
        return [self._one(request) for request in requests]

    def _one(self, request: Request) -> Response:
        found = self.reply(request)
        return found if isinstance(found, Response) else Response((Completion(found),), Usage(10, 5))

    def describe(self) -> dict[str, Any]:
        return {"backend": "scripted"}

    def close(self) -> None: ...
