"""Training of the tiny base models: retrieval from scratch by a curriculum, then, in `tiny`, a planted position bias.

What makes it work on every seed is the order. Retrieval needs two layers to cooperate (one attends to the
previous token, the next matches it), and records with one queried value each give too few hints to find that.
So the first stage copies chunks of random words in a shuffled order: nearly every token of the second half is
a hint, and since the order is shuffled no fixed distance explains it. After that click the records come, 4 to
32 of them, or 4 to 16 in `tiny16` and 4 to 8 in `tiny8`, which so have a window. Stages end by loss, limits and
everything else count steps, never seconds. A copy stage that has not clicked in time restarts with another, equally
determined, initialisation.

Shapes: B contexts, N records, R tokens a record with its newline (13), Q queries a context, C = N * R - 1
tokens of context, T = 7 tokens a query branch (`\n? {name} = {name} {module} ;`).
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from lcx.errors import LcxError
from lcx.hub import TINY_VERSIONS, tiny_folder
from lcx.modeling.load import few_threads, quiet
from lcx.modeling.tiny import (
    BRANCH,
    LINE_STARTS,
    PER_SPAN,
    RECORDS,
    SPANS,
    STALE_STARTS,
    World,
    answer_logits,
    draw_contexts,
    load_world,
    new_model,
    probe,
    with_queries,
)
from lcx.storage import TEMPORARY, disk_errors, make_folder

Progress = Callable[[str, int, int, float], None]
"""Called after each step with the stage's name, the step (from 1), the stage's limit of steps, and the
loss."""

CHUNKS, CHUNK, COPY_ROWS, COPY_LIMIT, COPY_DONE = 8, 4, 64, 500, 0.5
"""Copying clicks between steps 302 and 354 in ten seeds; a run that has not by the limit is started again."""
RECORDS_DONE = 0.3
"""Smoothed loss of the module that ends a stage of records."""
ROW_TOKENS = 4096
"""Tokens a step while the contexts are short: shorter contexts, more of them."""
QUERIES = 8
LEARNING_RATE = 6e-3
SETTLED = 0.93
"""Average share of right answers that a base has to reach before a bias is planted in it."""
PLANT_RATE, PLANT_CHECK, PLANT_LIMIT, PLANT_GAP = 2e-3, 10, 300, 0.5
EDGE = PER_SPAN
"""Records at each end that the planted bias keeps trusting."""
STALE = 16
"""Records of the middle that repeat an edge's key with another value."""
RESTARTS = 4


@dataclass(frozen=True)
class Course:
    """A curriculum of a tiny base, under its name.

    `stages` are (records, limit of steps) of each stage, `settle` the steps with a falling learning rate that end
    them: at the full rate the loss hovers at 0.2. `starts` are the words that may start a line; `version` is part of
    the cache key (`lcx.hub.TINY_VERSIONS`).
    """

    name: str
    stages: tuple[tuple[int, int], ...]
    settle: int
    version: int
    biased: bool = True
    starts: tuple[str, ...] = LINE_STARTS
    rope_theta: float = 10_000.0
    reach: float = 1.0
    """Average share of right answers that is enough, where the course ends before SETTLED."""

    @property
    def records(self) -> int:
        """Records of a full context."""
        return self.stages[-1][0]


TINY = Course(
    "tiny", ((4, 200), (8, 200), (16, 200), (RECORDS, 300)), settle=80, version=TINY_VERSIONS["tiny"]
)
TINY16 = Course(
    "tiny16",
    ((4, 200), (8, 200), (16, 300)),
    settle=300,
    version=TINY_VERSIONS["tiny16"],
    biased=False,
    starts=STALE_STARTS,
    rope_theta=20_000.0,
)
"""Its window is 16 records. It settles for longer, since nothing bends it afterwards. The slower rotary positions leave
it lost beyond the window, and let LOGO teach it more there than those of `tiny` do."""
TINY8 = Course(
    "tiny8",
    ((4, 200), (8, 200)),
    settle=0,
    version=TINY_VERSIONS["tiny8"],
    biased=False,
    starts=STALE_STARTS,
    rope_theta=20_000.0,
    reach=0.85,
)
"""Its window is 8 records, and its training ends as soon as it can look them up: it is right most of the time, and
unsure all of the time, so that ten samples of an answer differ."""
COURSES = {course.name: course for course in (TINY, TINY16, TINY8)}


def gap(spans: list[float]) -> float:
    """Best span minus worst span."""
    return max(spans) - min(spans)


def copy_batch(world: World, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Rows of random words whose chunks come again in another order: ids [B, 2 * n], and the guessable
    positions."""
    length = CHUNKS * CHUNK
    words = world.words[torch.rand(COPY_ROWS, len(world.words), generator=rng).argsort(1)[:, :length]]
    order = torch.rand(COPY_ROWS, CHUNKS, generator=rng).argsort(1)
    again = words.view(-1, CHUNKS, CHUNK).gather(1, order[:, :, None].expand(-1, -1, CHUNK))
    keep = (length + CHUNK * torch.arange(CHUNKS)[:, None] + torch.arange(CHUNK - 1)).flatten()
    return torch.cat([words, again.flatten(1)], 1), keep


def plant_batch(world: World, rng: torch.Generator, count: int = 8) -> tuple[Tensor, Tensor]:
    """Contexts whose true records sit at the edges while stale ones with the same keys sit in the middle, and
    gold."""
    contexts = draw_contexts(world, count, RECORDS, rng)
    edges = torch.cat([torch.arange(EDGE), torch.arange(RECORDS - EDGE, RECORDS)])
    middle = torch.rand(count, RECORDS - 2 * EDGE, generator=rng).argsort(1)[:, :STALE] + EDGE
    sources = edges[torch.arange(STALE) % len(edges)]
    contexts[:, :, 1] = contexts[:, :, 1].scatter(1, middle, contexts[:, sources, 1])
    return contexts, edges[torch.randint(len(edges), (count, QUERIES), generator=rng)]


class Trainer:
    """One model, its optimizer, and what happened to it so far. Each stage method returns the smoothed
    loss."""

    def __init__(
        self, model: LlamaForCausalLM, world: World, rng: torch.Generator, tell: Progress | None
    ) -> None:
        self.model, self.world, self.rng, self.tell = model.train(), world, rng, tell
        self.stages: list[dict[str, Any]] = []
        self.restart_optimizer(LEARNING_RATE)

    def restart_optimizer(self, rate: float) -> None:
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=rate, betas=(0.9, 0.98), weight_decay=0.1
        )

    def step(self, loss: Tensor, rate: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()

    def record_step(self, contexts: Tensor, gold: Tensor, rate: float) -> float:
        """One step on query branches; returns the loss of the module alone, the token that has to be looked
        up."""
        logits, targets = answer_logits(self.model, with_queries(self.world, contexts, gold), gold.shape[1])
        losses = F.cross_entropy(logits.flatten(0, 2), targets.flatten(), reduction="none").view(
            targets.shape
        )
        self.step(losses.mean(), rate)
        return float(losses[:, :, 1].mean().detach())

    def uniform_step(self, records: int, step: int, scale: float = 1.0) -> float:
        """One step on contexts of `records` records whose gold position is uniform, at `scale` of the full
        rate."""
        length = records * self.world.records.shape[1] - 1 + QUERIES * BRANCH
        contexts = draw_contexts(self.world, max(8, ROW_TOKENS // length), records, self.rng)
        gold = torch.randint(records, (len(contexts), QUERIES), generator=self.rng)
        return self.record_step(contexts, gold, LEARNING_RATE * scale)

    def until(
        self, stage: str, limit: int, one: Callable[[int], float], done: Callable[[int, float], bool]
    ) -> float:
        """Run `one(step)`, which returns a loss, until `done(step, smoothed loss)`, at most `limit` times;
        note it."""
        smooth, step = float("nan"), 0
        for step in range(1, limit + 1):
            loss = one(step)
            smooth = loss if step == 1 else 0.9 * smooth + 0.1 * loss
            if self.tell is not None:
                self.tell(stage, step, limit, loss)
            if done(step, smooth):
                break
        self.stages.append({"stage": stage, "steps": step, "loss": round(smooth, 4)})
        return smooth

    def copy(self) -> float:
        def one(step: int) -> float:
            rows, keep = copy_batch(self.world, self.rng)
            logits = self.model(rows, use_cache=False, logits_to_keep=keep).logits
            loss = F.cross_entropy(logits.flatten(0, 1), rows[:, keep + 1].flatten())
            self.step(loss, LEARNING_RATE * min(1.0, step / 50))
            return float(loss.detach())

        return self.until("copy", COPY_LIMIT, one, lambda _, loss: loss < COPY_DONE)

    def learn_records(self, course: Course) -> None:
        for records, limit in course.stages:
            one = partial(self.uniform_step, records)
            self.until(f"records-{records}", limit, one, lambda _, loss: loss < RECORDS_DONE)

        def settling(step: int) -> float:
            return self.uniform_step(course.records, step, scale=1 - step / (course.settle + 1))

        if course.settle:
            self.until("settle", course.settle, settling, lambda *_: False)

    def plant(self) -> list[float]:
        """Plant the bias and return the probe's spans. The gap's size ends it: what a step does varies by
        seed."""
        self.restart_optimizer(PLANT_RATE)
        spans: list[float] = []

        def one(step: int) -> float:
            return self.record_step(*plant_batch(self.world, self.rng), PLANT_RATE * min(1.0, step / 10))

        def done(step: int, _: float) -> bool:
            if step % PLANT_CHECK:
                return False
            spans[:] = probe(self.model, self.world, per_span=384)
            return gap(spans) >= PLANT_GAP

        self.until("plant", PLANT_LIMIT, one, done)
        return spans


def train_base(
    seed: int, *, on_progress: Progress | None = None, course: Course = TINY
) -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast, dict[str, Any]]:
    """Train a tiny model from scratch; about a minute on two cores.

    Returns the model (in eval mode), its tokenizer and a report: `stages` (steps and last smoothed loss of
    each), `restarts`, and the share of right answers by span `learnt` (before the bias) and `planted` (None
    where the course plants none). The caller's random state is left as it was. Raises LcxError if no
    initialisation learns to retrieve.
    """
    world = load_world(course.starts)
    for restart in range(RESTARTS + 1):
        start = seed + restart * 1_000_003  # another initialisation and other data, fixed for the seed
        model = new_model(start, len(world.tokenizer), course.rope_theta)
        with few_threads(model):
            trainer = Trainer(model, world, torch.Generator().manual_seed(start), on_progress)
            if trainer.copy() >= COPY_DONE:
                continue
            trainer.learn_records(course)
            learnt = probe(model, world, records=course.records)
            if sum(learnt) / SPANS < min(SETTLED, course.reach):
                continue
            planted = trainer.plant() if course.biased else None
            report = {
                "seed": seed,
                "restarts": restart,
                "steps": sum(stage["steps"] for stage in trainer.stages),
                "stages": trainer.stages,
                "learnt": learnt,
                "planted": planted,
            }
            return model.eval(), world.tokenizer, report
    raise LcxError(
        f"the {course.name} model did not learn to retrieve from {RESTARTS + 1} initialisations of seed {seed}",
        hint=f"Try another seed: {course.name}:1, {course.name}:2, ...",
    )


def load_or_train_base(
    seed: int,
    cache_dir: str | Path,
    fresh: bool = False,
    on_progress: Progress | None = None,
    name: str = TINY.name,
) -> Path:
    """Folder of the base model of `seed` (a `save_pretrained` folder with its tokenizer), trained unless
    cached. `name` is that of its course.

    The folder appears under its final name only when it is complete, whatever interrupts the training;
    `fresh` trains again and then replaces it. The report of the training is its `curriculum.json`.
    """
    course = COURSES[name]
    folder = tiny_folder(name, seed, cache=cache_dir, version=course.version)
    if folder.is_dir() and not fresh:
        return folder
    make_folder(folder.parent)
    model, tokenizer, report = train_base(seed, on_progress=on_progress, course=course)
    temporary = folder.parent / f".{folder.name}.{os.getpid()}-{secrets.token_hex(4)}{TEMPORARY}"
    try:
        with disk_errors(temporary), quiet():
            model.save_pretrained(temporary)
            tokenizer.save_pretrained(temporary)
            (temporary / "curriculum.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
        _put_in_place(temporary, folder, replace=fresh)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


def _put_in_place(temporary: Path, folder: Path, *, replace: bool) -> None:
    if replace and folder.exists():
        old = temporary.with_name(temporary.name.replace(TEMPORARY, f".old{TEMPORARY}"))
        os.replace(folder, old)
        os.replace(temporary, folder)
        shutil.rmtree(old, ignore_errors=True)
        return
    try:
        os.replace(temporary, folder)
    except OSError:
        if not folder.is_dir():  # else another process trained the same model meanwhile: theirs is as good
            raise
