"""What IN2's synth and score steps will cost, from their settings and what is there to count."""

from __future__ import annotations

from typing import Any

from lcx.llm.ledger import costs
from lcx.recipe import Step
from lcx.run import Run
from lcx_in2.contexts import shares
from lcx_in2.settings import In2Score, In2Synth

PROMPT_TOKENS = 300
"""About what our prompts spend besides the passage."""
ANSWER_TOKENS = 120
CHECKS, VERDICT_TOKENS = 3, 80
"""Calls to check a question, at most, and about what a verdict with its reason takes."""


def forecast_synth(step: Step) -> dict[str, Any]:
    """Calls, writer tokens, contexts and their tokens. Assumes that every reply is usable and questions enough."""
    settings = step.settings
    assert isinstance(settings, In2Synth)
    mix = {k: v for k, v in settings.mix.items() if v > 0 and (k != "general" or settings.general)}
    wanted = shares(mix, settings.examples)
    single = wanted.get("fine", 0) + wanted.get("short", 0)
    joint = wanted.get("integration", 0)
    pieces = (2 + settings.integration_segments) / 2
    contexts = -(-(wanted.get("fine", 0) + joint) // settings.questions_per_context)
    mean = sum(settings.context_tokens) / 2
    prompt = round(
        single * (PROMPT_TOKENS + settings.segment_tokens)
        + joint * (PROMPT_TOKENS + pieces * settings.segment_tokens)
    )
    reply = (single + joint) * ANSWER_TOKENS
    return {
        "questions": wanted,
        "writer": settings.llm,
        "calls": single + joint,
        "writer_prompt_tokens": prompt,
        "writer_answer_tokens": reply,
        **costs(settings, {"writer": (settings.llm, prompt, reply)}),
        "long_contexts": contexts,
        "context_tokens": round(contexts * mean),
        "assumes": "every reply is usable; the corpus has a segment for every question",
    }


def forecast_score(step: Step, run: Run) -> dict[str, Any]:
    """The judge's calls and tokens, where the data is there to count. Assumes that every question passes."""
    settings = step.settings
    assert isinstance(settings, In2Score)
    found: dict[str, Any] = {"judge": settings.judge or "none: every question passes", "data": settings.input}
    if settings.judge is None or not str(settings.input).startswith("step:"):
        return found
    name = str(settings.input).removeprefix("step:")
    if run.state(name) != "done":
        return {**found, "note": f"the data of {settings.input} is not there yet"}
    made = run.manifest["steps"][name]
    questions = sum(int(n) for kind, n in made.get("counts", {}).items() if kind == "questions")
    asked = (made.get("fingerprint") or {}).get("settings", {})
    evidence = int(asked.get("segment_tokens", 128))
    length = (made.get("metrics", {}).get("context_tokens") or {}).get("mean", 0.0)
    rest = length if settings.see == "context" else 0.0
    calls = CHECKS * questions
    prompt = round(questions * (CHECKS * (PROMPT_TOKENS + evidence + ANSWER_TOKENS) + 2 * rest))
    reply = calls * VERDICT_TOKENS
    return {
        **found,
        "questions": questions,
        "calls": calls,
        "judge_prompt_tokens": prompt,
        "judge_answer_tokens": reply,
        **costs(settings, {"judge": (settings.judge, prompt, reply)}),
        "assumes": f"every question passes; one that fails a check is spared the others ({CHECKS} in all)",
    }
