"""What LOGO's synth and score steps will cost, from their settings alone."""

from __future__ import annotations

from typing import Any

from lcx.llm.ledger import costs
from lcx.steps import StepWork
from lcx_logo.settings import LogoScore, LogoSynth

PROMPT_TOKENS = 150
"""About what a prompt of ours spends besides texts, question and answer."""
QUESTION_TOKENS, ANSWER_TOKENS, RATING_TOKENS = 120, 150, 120
"""About what a written question, an answer and a rating take."""
CRITICAL_CHUNKS = 2
"""About how many chunks are critical to a question."""
CHUNK = 1.1
"""A chunk's tokens, of the least that it may have: lines are not cut."""


def forecast_synth(work: StepWork[LogoSynth]) -> dict[str, Any]:
    """Calls and tokens by part, and the contexts. Assumes a question for every example, all of them written."""
    settings = work.settings
    size = CHUNK * settings.segment_tokens
    context = min(settings.chunks * size, settings.context_tokens or float("inf"))
    read = min(settings.chunks * size, settings.read_tokens or float("inf"))
    examples, own = settings.examples, settings.answers == "own"
    written = 0 if settings.qa == "corpus" else examples
    judged = examples * (1 + settings.rejected) if settings.filter else 0
    models = {"writer": settings.writer or settings.llm, "policy": settings.llm, "judge": settings.judge}
    found: dict[str, Any] = {
        "examples": examples,
        "calls": {
            "writer": written,
            "policy": examples * (settings.rejected + own),
            "judge": judged,
        },
        "prompt_tokens": {
            "writer": round(written * (PROMPT_TOKENS + size)),
            "policy": round(
                examples
                * (
                    settings.rejected * (PROMPT_TOKENS + read)
                    + own * (PROMPT_TOKENS + CRITICAL_CHUNKS * size)
                )
            ),
            "judge": round(judged * (2 * PROMPT_TOKENS + ANSWER_TOKENS + CRITICAL_CHUNKS * size)),
        },
        "answer_tokens": {
            "writer": written * QUESTION_TOKENS,
            "policy": examples * (settings.rejected + own) * min(ANSWER_TOKENS, settings.answer_tokens),
            "judge": judged * RATING_TOKENS,
        },
        "models": models,
        "context_tokens": round(examples * context),
        "assumes": f"a question for every example{'' if written == 0 else ', all written'}; {CRITICAL_CHUNKS} critical "
        f"chunks each, {ANSWER_TOKENS} tokens an answer; the filter keeps all",
    }
    parts = {
        part: (spec, found["prompt_tokens"][part], found["answer_tokens"][part])
        for part, spec in models.items()
    }
    return found | costs(settings, parts)


def forecast_score(work: StepWork[LogoScore]) -> dict[str, Any]:
    """The judge's calls, where the data is there to count."""
    run, settings = work.run, work.settings
    found: dict[str, Any] = {"judge": settings.judge, "data": settings.input}
    reference = str(settings.input or "")
    if not reference.startswith("step:"):
        return found
    name = reference.removeprefix("step:")
    if run.state(name) != "done":
        return {**found, "note": f"the data of {reference} is not there yet"}
    counts = run.manifest["steps"][name].get("counts", {})
    calls = counts.get("judge calls") or counts.get("policy calls")
    if not calls:
        return found
    size = CRITICAL_CHUNKS * CHUNK * settings.segment_tokens
    prompt = round(calls * (2 * PROMPT_TOKENS + ANSWER_TOKENS + size))
    reply = calls * RATING_TOKENS
    tokens = {"calls": calls, "prompt_tokens": prompt, "answer_tokens": reply}
    return found | tokens | costs(settings, {"judge": (settings.judge, prompt, reply)})
