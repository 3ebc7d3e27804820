"""Steps that several processes share, for tests: small recipes, and a server that replies by the prompts alone."""

from __future__ import annotations

import hashlib
import random
import re
from pathlib import Path
from typing import Any

from lcx.context import Context, StepResult
from lcx.plugins import load as load_plugins
from lcx.recipe import Step, load, resolve
from lcx.run import Run
from lcx.shards import Shards
from lcx.steps import execute
from tests.llm.stub_server import Reply, prompt_of
from tests.plugins.logo.corpora import write_corpus

PLUGINS = load_plugins()
COUNT = 5
SMALL: dict[str, dict[str, dict[str, Any]]] = {
    "in2": {
        "synth": {"examples": 24, "segment_tokens": 40, "context_tokens": [300, 600], "batch": 8,
                  "mix": {"fine": 0.7, "integration": 0.3}},
        "score": {},
    },
    "logo": {
        "synth": {"examples": 12, "segment_tokens": 40, "chunks": 6, "batch": 4, "joint": 0.25},
        "score": {},
    },
    "longreward": {
        "synth": {"examples": 10, "candidates": 3, "context_tokens": [100, 400], "segment_tokens": 40,
                  "batch": 4, "qa": "written"},
        "score": {},
    },
}  # fmt: skip
MORE = {"logo": {"judge": "openai:some"}, "longreward": {"writer": "openai:some"}}
RATED = re.compile(r"double\s+square\s+brackets")


def script(body: dict[str, Any]) -> str:
    """A reply that follows from the prompt and the seed. Some of what a writer is asked for cannot be used."""
    text = prompt_of(body)
    drawn = random.Random(hashlib.sha256(f"{text} {body.get('seed')}".encode()).hexdigest())
    number = drawn.randrange(10**6)
    if "[[unclear]]" in text:
        return f"So it is. [[{drawn.choice(['yes', 'yes', 'yes', 'no'])}]]"
    if "[[Fully supported]]" in text:
        return drawn.choice(["[[Fully supported]]", "[[Partially supported]]", "[[No support]]"])
    if text.endswith("Facts:\n"):
        return f"1. It is {number}."
    if "[[none]]" in text:
        return f"<statement>It is {number}.</statement>"
    if RATED.search(text):
        return f"So it is. [[{drawn.randrange(11)}]]"
    if "<task>" in text or "Question:" in text:
        if drawn.random() < 0.3:
            return "NOTHING"
        return f"Question: What is {number} of?\nAnswer: It is {number}.\n<task>Tell of {number}.</task>"
    return f"It is {number}, as far as one can tell."


def answer(body: dict[str, Any]) -> Reply:
    return Reply(
        [script({**body, "seed": f"{body.get('seed')}:{n}"}) for n in range(int(body.get("n") or 1))]
    )


def steps(recipe: str, folder: Path, url: str = "", **more: Any) -> list[Step]:
    """The synth and score step of a recipe, small; asking a server where `url` is given, else rules."""
    corpus = folder / "corpus"
    if not corpus.is_dir():
        write_corpus(corpus, files=6)
    settings = {stage: {**given, **more} for stage, given in SMALL[recipe].items()}
    settings["synth"] |= {"corpus": str(corpus)}
    loaded = load(recipe, PLUGINS)
    if url:
        settings["synth"] |= {"llm": "openai:some"} | MORE.get(recipe, {})
        settings["score"] |= {"judge": "openai:some"}
        for one in settings.values():
            one |= {"base_url": url, "api_key_env": "", "concurrency": 4}
    elif recipe == "in2":
        settings["score"] |= {"judge": "builtin"}
    elif recipe == "longreward":
        settings["synth"] |= {"llm": "builtin", "writer": "builtin"}
    made = resolve(loaded, PLUGINS, flags=settings, project={})
    return [step for step in made if step.stage in SMALL[recipe]]


def whole(step: Step, run: Run) -> StepResult:
    return execute(step, run, Context(), PLUGINS)


def shared(step: Step, run: Run, count: int = COUNT) -> tuple[StepResult, int]:
    """The step by shards, one after the other, and how many passes it took."""
    shards = Shards(step, run, Context(), PLUGINS, count)
    result, passes = shards.prepare(), 0
    while result is None:
        for shard in reversed(shards.todo()):
            shards.work(shard.index)
        result, passes = shards.gather(), passes + 1
    return result, passes


OWN = ("settings.yaml", ".record.json", "journal.jsonl", ".lock")


def outputs(folder: Path) -> dict[str, str]:
    """Digests of all that a step made, but for what tells of its own course."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        own = path.name in OWN or "sqlite" in path.name or name.startswith("shards/") or path.suffix == ".png"
        if path.is_file() and not own:
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found
