"""Several answers to each question, and pairs by the verifiable reward of answer and evidence."""

import random
import re
from dataclasses import replace
from statistics import fmean
from types import SimpleNamespace
from typing import Any

from lcx_longreward.sampling import Policy, Prompt, Window, candidate_bundle
from lcx_longreward.synth import renderer

from lcx.data.table import load_table
from lcx.data.templates import load_template
from lcx.data.words import words
from lcx.errors import LcxError, UsageError
from lcx.records import Bundle
from lcx.steps import StepResult, StepWork


def synth(work: StepWork[Any]) -> StepResult:
    """Write the candidates of each question that has evidence; the others are counted with their reason."""
    settings = work.settings
    asked: list[Any] = []
    if not (work.source / "table.json").is_file():
        raise UsageError(f"{work.source} has no chunks", hint="input: step:ID of IN2's synth has them")
    table = load_table(work.source)
    for bundle in work.bundles():
        for branch in bundle.branches:
            if not (bundle.plan and branch.gold and branch.answer.strip()):
                work.rejects.add(work.step.id, "no evidence or no answer is known", where=bundle.id)
                continue
            window = Window(len(asked), 0, 0, sum(int(table.tokens[one]) for one in bundle.plan))
            asked.append((bundle, branch, Prompt(window, branch.question, bundle.kind, branch.answer)))

    def text(prompt: Prompt) -> str:
        chunks = table.texts(asked[prompt.window.document][0].plan or ())
        numbered = "\n\n".join(f"[{number}] {chunk}" for number, chunk in enumerate(chunks, 1))
        return numbered if settings.cites == "numbers" else "\n".join(chunks)

    template = load_template(settings.template)
    spec, options = work.spec("llm")
    client = work.llm(spec=(spec, options if template.chat else {"chat": "never", **options}))
    asking: Any = SimpleNamespace(template=settings.template)
    render = renderer(asking)
    how = (settings.candidates, settings.temperature, 1.0, settings.answer_tokens, template.end.strip())
    policy = Policy(client, text, lambda: render(client), *how, seed=settings.seed)
    work.service.begin(len(asked))
    made = []
    for (bundle, branch, prompt), (samples, error) in zip(
        asked, policy.answer([one[2] for one in asked]), strict=True
    ):
        firsts = [next(iter(words(chunk)), "") for chunk in table.texts(bundle.plan or ())]
        meta = {"evidence": [one + 1 for one in branch.gold], "cites": settings.cites, "chunks": firsts}
        found = candidate_bundle(f"{prompt.window.document:07d}", prompt, text(prompt), samples, meta)
        if found is None:
            work.rejects.add(work.step.id, error or "every answer is empty", where=bundle.id)
        else:
            made.append(found)
    if not made:
        raise LcxError("no question has an answer", why=f"{dict(work.rejects.counts)}")
    for shard in work.shards(len(made), fresh=True):
        shard.write(made[place] for place in shard.places)
    return work.done({"questions": len(made)}, extra={"policy": client.about})


def read(answer: str, meta: dict[str, Any]) -> tuple[str, set[int]]:
    """What an answer says, and the chunks that it cites, counted from 1; numbers of no chunk are wrong ones."""
    if meta["cites"] == "words":
        have = set(words(answer))
        return answer, {number for number, first in enumerate(meta["chunks"], 1) if first in have}
    cited, _, said = answer.rpartition("Answer:")
    return said, {int(one) for one in re.findall(r"\[(\d{1,9})\]", cited)}


def reward(answer: str, meta: dict[str, Any], settings: Any) -> dict[str, float]:
    """1 for the reference's words, and up to 1 for the F of the cited chunks, most of it for right answers alone."""
    said, cited = read(answer, meta)
    right = float(f" {' '.join(words(meta['reference']))} " in f" {' '.join(words(said))} ")
    weight, hits = settings.beta**2, len(cited & set(meta["evidence"]))
    ground = (1 + weight) * hits / (weight * len(set(meta["evidence"])) + len(cited)) if hits else 0.0
    whole = right + ground * (settings.alone + (1 - settings.alone) * right)
    return {"right": right, "grounding": ground, "reward": whole}


def score(work: StepWork[Any]) -> StepResult:
    """Write the best answer to each question, and one that is worse by the margin; the others are counted."""
    settings = work.settings
    pairs: list[Bundle] = []
    rows: list[dict[str, Any]] = []
    for bundle in work.bundles():
        whole = [one for one in bundle.branches if not one.meta.get("cut")]
        found = [reward(one.answer, bundle.meta, settings) for one in whole]
        rows.append({"id": bundle.id, "answers": [one.answer for one in whole], "rewards": found})
        gained = [one["reward"] for one in found]
        worse = [place for place, one in enumerate(gained) if one <= max(gained) - settings.margin]
        if not worse:
            work.rejects.add(work.step.id, "no answer is worse by the margin", where=bundle.id)
            continue
        rng, best = random.Random(f"{settings.seed}:{bundle.id}"), gained.index(max(gained))
        pair = [
            replace(whole[place], role=role, meta={**whole[place].meta, **found[place]})
            for place, role in ((best, "chosen"), (rng.choice(worse), "rejected"))
        ]
        pairs.append(
            Bundle(bundle.id, tuple(pair), context=bundle.context, kind=bundle.kind, meta=bundle.meta)
        )
    work.write("scores", rows)
    if not pairs:
        raise LcxError("no question has a pair", why=f"{dict(work.rejects.counts)}", hint="score.margin=0.1")
    for shard in work.shards(len(pairs), fresh=True):
        shard.write(pairs[place] for place in shard.places)
    work.counts["pairs"] = len(pairs)
    means = ("right", "grounding", "reward")
    return work.done({name: fmean(one[name] for row in rows for one in row["rewards"]) for name in means})
