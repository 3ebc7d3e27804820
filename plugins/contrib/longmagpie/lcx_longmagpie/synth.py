"""The stage `synth`: what a model writes into an empty user turn behind a document, and how it answers that."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from lcx_longreward.sampling import Policy, Prompt, Sample, Window, text_of, windows

from lcx.data.plans import draw, plan_rng, shuffle
from lcx.data.table import SegmentTable, link_table
from lcx.data.templates import chat_turn, load_template
from lcx.errors import LcxError, UsageError
from lcx.hub import load_tokenizer
from lcx.llm.prompts import by_template
from lcx.records import Branch, Bundle
from lcx.steps import StepResult, StepWork


def opening(settings: Any, spec: str) -> str:
    """What stands before a user's words (a space is part of these): the template's, or the model's chat template's."""
    if settings.template:
        return load_template(settings.template).between.rstrip(" ")
    tokenizer = load_tokenizer(spec.partition(":")[2])
    turn = chat_turn(tokenizer)
    if turn is None:
        raise UsageError(f"'{spec}' has no chat template", hint="Take an instruct model, or synth.template.")
    # Encoding puts the first token there itself
    return "\n\n" + turn.before.removeprefix(tokenizer.bos_token or "")


def unusable(sample: Sample, kept: Sequence[str]) -> str:
    """Why a question or an answer is left out, where it has to be; `kept` are those before it."""
    again = sample.text.casefold() in map(str.casefold, kept)
    return sample.why or ("cut" if sample.cut else "a repetition" if again else "")


def among(table: SegmentTable, own: Window, found: Sequence[Window], settings: Any) -> tuple[str, bool]:
    """A window's text among those of up to `others` documents, and whether these are fewer than were drawn."""

    def marks(one: Window) -> set[object]:
        """Its document and its keys: none comes twice, a question by its key would be ambiguous."""
        return {f"document {one.document}", *table.key_ids[one.first : one.last + 1].tolist()} - {-1}

    rng = plan_rng(settings.seed, own.first)
    wanted, chosen, used = 1 + draw(rng, settings.others + 1), [own], marks(own)
    for _ in range(64 * (wanted - 1)):
        other = found[draw(rng, len(found))]
        if len(chosen) < wanted and used.isdisjoint(marks(other)):
            chosen.append(other)
            used |= marks(other)
    shuffle(rng, chosen)
    return settings.separator.join(text_of(table, one) for one in chosen), len(chosen) < wanted


def synth(work: StepWork[Any]) -> StepResult:
    """Write a bundle for each context that has a question with an answer; what is left out is counted."""
    settings = work.settings
    spec, options = work.spec("llm")
    if not spec.startswith("local:"):
        why = "a server's chat interface ends the user's turn before the model begins"
        raise UsageError(f"'{spec}' cannot write questions", why=why, hint="--llm local:PATH_OR_ID")
    template = load_template(settings.template or "plain")
    table = work.table(min_tokens=settings.segment_tokens, mode=settings.segment_by)
    least, most = settings.context_tokens
    found = [one for one in windows(table, least, most, work.counts) if one.tokens >= least]
    shuffle(plan_rng(settings.seed, "longmagpie"), found)
    begun = opening(settings, spec)

    def ask(prompts: Sequence[Prompt], how: tuple[int, float, float, int], asked: bool) -> list[list[str]]:
        """Usable answers, or questions where nothing is asked: the text goes on where a user's words would begin."""
        backend = (spec, options if asked and template.chat else {**options, "chat": "never"})
        client = work.llm(spec=backend)
        work.service.begin(len(prompts))
        render = by_template(template, template.chat) if asked else lambda context, _: context + begun
        end = (template.end if asked else template.after).strip()
        policy = Policy(client, lambda p: text_of(table, p.window), lambda: render, *how, end, settings.seed)
        kept: list[list[str]] = []
        for prompt, (samples, error) in zip(prompts, policy.answer(prompts), strict=True):
            kept.append([])
            for sample in samples or [Sample("", why="not there")]:
                if why := unusable(sample, kept[-1]):
                    why = f"the {'answer' if asked else 'question'} is {why}"
                    work.rejects.add(work.step.id, why, where=f"window {prompt.window.first}", detail=error)
                else:
                    kept[-1].append(sample.text)
        work.service.close(backend)
        return kept

    blank = [Prompt(window, "", "self") for window in found[: settings.examples]]
    about = (settings.questions, settings.question_temperature, settings.top_p, settings.question_tokens)
    written = zip(blank, ask(blank, about, False), strict=True)
    asked = [Prompt(one.window, text, "self") for one, texts in written for text in texts]
    branches: dict[Window, list[Branch]] = {}
    how = (1, settings.temperature, settings.top_p, settings.answer_tokens)
    for prompt, texts in zip(asked, ask(asked, how, True), strict=True):
        for text in texts:
            branches.setdefault(prompt.window, []).append(Branch(prompt.question, text))
    if not branches:
        raise LcxError("no document has a question with an answer", why=f"{dict(work.rejects.counts)}")
    bundles = []
    for window, pairs in branches.items():
        context, fewer = among(table, window, found, settings)
        work.counts["contexts with fewer other documents than drawn"] += fewer
        bundles.append(Bundle(f"{window.first:07d}", tuple(pairs), context=context, kind="self"))
    for shard in work.shards(len(bundles), fresh=True):
        shard.write(bundles[place] for place in shard.places)
    questions = sum(map(len, branches.values()))
    return work.done({"contexts": len(bundles), "questions": questions}, extra={"policy": spec})


def turns(work: StepWork[Any]) -> StepResult:
    """Write an exchange, question and answer, as what follows an empty question: a model learns to write both."""
    bundles, template = work.bundles(), load_template(work.settings.template)
    cue = template.after + template.cue + template.lead
    link_table(work.source, work.data)
    said = [tuple(Branch("", b.question + cue + b.answer) for b in one.branches) for one in bundles]
    for shard in work.shards(len(bundles), fresh=True):
        shard.write(replace(bundles[place], branches=said[place]) for place in shard.places)
    return work.done({"contexts": len(bundles)})
