"""The stage `synth`: an empty user turn behind each document, the question that the model puts there, its answer."""

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from lcx_longreward.sampling import Policy, Prompt, Sample, text_of, windows

from lcx.data.table import link_table
from lcx.data.templates import chat_turn, load_template
from lcx.errors import LcxError, UsageError
from lcx.hub import load_tokenizer
from lcx.llm.prompts import by_template
from lcx.records import Branch, Bundle
from lcx.steps import StepResult, StepWork

How = tuple[int, float, float, int]
"""Samples, temperature, top_p, new tokens."""


def opening(settings: Any, spec: str) -> str:
    """The text that stands before a user's words: of the training template, or of the model's chat template."""
    if settings.template:
        # A space is part of the word that follows
        return load_template(settings.template).between.rstrip(" ")
    tokenizer = load_tokenizer(spec.partition(":")[2])
    turn = chat_turn(tokenizer)
    if turn is None:
        raise UsageError(f"'{spec}' has no chat template", hint="Take an instruct model, or synth.template.")
    return "\n\n" + turn.before.removeprefix(
        tokenizer.bos_token or ""
    )  # encoding puts the first token there itself


def usable(sample: Sample, seen: set[str]) -> str:
    """Why a question cannot be used; empty where it can."""
    if not sample.text:
        return f"the question is {sample.why}"
    if sample.cut:
        return "the question is cut at question_tokens"
    return "the question repeats another" if sample.text.casefold() in seen else ""


def synth(work: StepWork[Any]) -> StepResult:
    """Write a bundle for each context that has a question with an answer; what is left out is counted."""
    settings = work.settings
    spec, options = work.spec("llm")
    if not spec.startswith("local:"):
        raise UsageError(
            f"'{spec}' cannot write questions",
            why="a server's chat interface ends the user's turn before the model begins",
            hint="--llm local:PATH_OR_ID",
        )
    template = load_template(settings.template or "plain")
    table = work.table(min_tokens=settings.segment_tokens, mode=settings.segment_by)
    least, most = settings.context_tokens
    found = [one for one in windows(table, least, most, work.counts) if one.tokens >= least]
    random.Random(f"longmagpie:{settings.seed}").shuffle(found)
    blank = [Prompt(window, "", "self") for window in found[: settings.examples]]
    begun = opening(settings, spec)

    def ask(prompts: Sequence[Prompt], how: How, asked: bool) -> list[tuple[list[Sample], str]]:
        """Answers, or questions where nothing is asked: the text then goes on where a user's words would begin."""
        chat = asked and template.chat
        client = work.llm(spec=(spec, options if chat else {**options, "chat": "never"}))
        work.service.begin(len(prompts))
        render = by_template(template, chat) if asked else lambda context, _: context + begun
        end = (template.end if asked else template.after).strip()
        policy = Policy(
            client, lambda one: text_of(table, one.window), lambda: render, *how, end=end, seed=settings.seed
        )
        made = policy.answer(prompts)
        work.service.close((spec, options if chat else {**options, "chat": "never"}))
        return made

    about = (settings.questions, settings.question_temperature, settings.top_p, settings.question_tokens)
    asked: list[Prompt] = []
    for prompt, (samples, error) in zip(blank, ask(blank, about, False), strict=True):
        seen: set[str] = set()
        for sample in samples:
            if why := error or usable(sample, seen):
                work.rejects.add(work.step.id, why, where=f"window {prompt.window.first}")
                continue
            seen.add(sample.text.casefold())
            asked.append(Prompt(prompt.window, sample.text, "self"))
    answers = ask(asked, (1, settings.temperature, settings.top_p, settings.answer_tokens), True)
    branches: dict[int, list[Branch]] = {}
    for prompt, (samples, error) in zip(asked, answers, strict=True):
        if not samples or not samples[0].text or samples[0].cut:
            why = error or ("the answer is cut" if samples and samples[0].cut else "the answer is empty")
            work.rejects.add(work.step.id, why, where=f"window {prompt.window.first}")
            continue
        branches.setdefault(prompt.window.first, []).append(Branch(prompt.question, samples[0].text))
    bundles = [
        Bundle(f"{first:07d}", tuple(branches[first]), context=text_of(table, one.window), kind="self")
        for one in blank
        if (first := one.window.first) in branches
    ]
    if not bundles:
        raise LcxError("no document has a question with an answer", why=f"{dict(work.rejects.counts)}")
    for shard in work.shards(len(bundles), fresh=True):
        shard.write(bundles[place] for place in shard.places)
    work.counts.update({"contexts": len(bundles), "questions": sum(len(one.branches) for one in bundles)})
    return work.done({"questions": work.counts["questions"]}, extra={"policy": spec})


def turns(work: StepWork[Any]) -> StepResult:
    """Write every question as the answer to an empty one: so a model learns to write what a user would say."""
    bundles = work.bundles()
    link_table(work.source, work.data)
    for shard in work.shards(len(bundles), fresh=True):
        shard.write(
            replace(one, branches=tuple(Branch("", branch.question) for branch in one.branches))
            for one in (bundles[place] for place in shard.places)
        )
    return work.done({"contexts": len(bundles)})
