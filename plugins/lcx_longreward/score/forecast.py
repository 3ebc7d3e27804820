"""What a score step will cost, from its settings and a sample of the data. Imports no torch."""

from __future__ import annotations

from pathlib import Path
from statistics import fmean
from typing import Any

from lcx.data.files import Rejects
from lcx.data.tokens import SpanTokenizer, open_span_tokenizer
from lcx.llm.ledger import load_prices
from lcx.run import Run
from lcx.steps import StepWork
from lcx_longreward.judge.prompting import (
    COMPLETENESS,
    EXTRACT,
    HELPFULNESS,
    LOGICALITY,
    PARTS,
    STATEMENTS,
    SUPPORT,
    language_of,
    load_prompts,
)
from lcx_longreward.score.material import Material
from lcx_longreward.settings import LongRewardScore

SAMPLE = 24
"""Contexts that are looked into."""
STATEMENT = 30
"""About how many of an answer's tokens one statement stands for, and how many it has."""
FACTS = 60
"""About how many tokens the facts of one part have."""
REPLY = {HELPFULNESS: 120, LOGICALITY: 120, SUPPORT: 70, EXTRACT: 120, COMPLETENESS: 150}
"""About how many tokens a reply has; statements have a little more than the answer."""


def forecast_score(work: StepWork[LongRewardScore]) -> dict[str, Any]:
    """Calls, tokens and cost by part. Where the data is not there yet, only who judges."""
    run, settings = work.run, work.settings
    found: dict[str, Any] = {"judge": settings.judge, "retriever": settings.retriever, "data": settings.input}
    source = _source(settings.input, run)
    if source is None:
        return {**found, "note": f"the data ({settings.input}) is not there yet"}
    rejects = Rejects()
    tokenizer = open_span_tokenizer(settings.tokenizer)
    calls, sent = _by_part(settings, Material(source, rejects, settings.fields), tokenizer, found)
    made = {
        part: calls[part] * REPLY.get(part, round(1.3 * found["answer_tokens"]) + STATEMENT) for part in PARTS
    }
    found["calls"] = {**calls, "all": sum(calls.values())}
    found["prompt_tokens"] = {**sent, "all": sum(sent.values())}
    found["reply_tokens"] = {**made, "all": sum(made.values())}
    price = load_prices(settings.prices).get(settings.judge.partition(":")[2])
    if price is not None:
        cost = {part: (sent[part] * price[0] + made[part] * price[1]) / 1e6 for part in PARTS}
        found["cost"] = {part: round(value, 4) for part, value in {**cost, "all": sum(cost.values())}.items()}
    found["assumes"] = (
        f"a statement for every {STATEMENT} tokens of an answer, the first attempt read"
        f"{', nothing left out by early_stop' if settings.early_stop else ''}; lengths of {SAMPLE} contexts at most"
    )
    return found


def _source(reference: str | None, run: Run) -> Path | None:
    if not reference:
        return None
    if reference.startswith("step:") and run.state(reference.removeprefix("step:")) != "done":
        return None
    place = run.resolve(reference, "data")
    return place if place.exists() else None


def _by_part(
    settings: LongRewardScore, material: Material, tokenizer: SpanTokenizer, found: dict[str, Any]
) -> tuple[dict[str, int], dict[str, int]]:
    """Calls and prompt tokens by part; lengths go into `found`."""
    step = max(1, len(material) // SAMPLE)
    cases = [case for number in range(0, len(material), step) for case in material.cases(material[number])]

    def tokens(texts: list[str]) -> float:
        return fmean([len(starts) for starts in tokenizer.starts(texts)] or [0])

    context = tokens([case.context for case in cases])
    question = tokens([case.question for case in cases])
    answer = tokens([answer for case in cases for answer in case.answers])
    answers = material.answers
    questions = round(len(material) * len(cases) / len(range(0, len(material), step)))
    parts = max(1, -(-round(context) // settings.extract_tokens))
    statements = max(1, round(answer / STATEMENT))
    found |= {
        "questions": questions,
        "answers": answers,
        "context_tokens": round(context),
        "answer_tokens": round(answer),
    }
    calls = {
        HELPFULNESS: answers,
        LOGICALITY: answers,
        STATEMENTS: answers,
        SUPPORT: answers * statements,
        EXTRACT: questions * parts,
        COMPLETENESS: answers,
    }
    language = language_of(cases[0].question, cases[0].answers[0], settings.language)
    prompts = load_prompts(settings.prompts)
    own = {part: len(tokenizer.starts([prompts[part, language]])[0]) for part in PARTS}
    both = question + answer
    shown = {
        HELPFULNESS: both,
        LOGICALITY: both,
        STATEMENTS: both,
        SUPPORT: STATEMENT + min(context, settings.top_chunks * settings.chunk_tokens),
        EXTRACT: question + context / parts,
        COMPLETENESS: both + FACTS * parts,
    }
    return calls, {part: round(calls[part] * (own[part] + shown[part])) for part in PARTS}
