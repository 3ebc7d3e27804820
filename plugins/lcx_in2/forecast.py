"""What IN2's synth step will cost, from its settings alone."""

from __future__ import annotations

from typing import Any

from lcx.recipe import Step
from lcx_in2.contexts import shares
from lcx_in2.settings import In2Synth

PROMPT_TOKENS = 300
"""About what our prompts spend besides the passage."""
ANSWER_TOKENS = 120


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
    return {
        "questions": wanted,
        "writer": settings.llm,
        "calls": single + joint,
        "writer_prompt_tokens": round(
            single * (PROMPT_TOKENS + settings.segment_tokens)
            + joint * (PROMPT_TOKENS + pieces * settings.segment_tokens)
        ),
        "writer_answer_tokens": (single + joint) * ANSWER_TOKENS,
        "long_contexts": contexts,
        "context_tokens": round(contexts * mean),
        "assumes": "every reply is usable; the corpus has a segment for every question",
    }
