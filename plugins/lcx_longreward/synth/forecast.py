"""What LongReward's synth step will cost, from its settings alone."""

from __future__ import annotations

from typing import Any

from lcx.llm.ledger import costs
from lcx.steps import StepWork
from lcx_longreward.synth_settings import LongRewardSynth

TASK_PROMPT, TASK_REPLY, TASK, ANSWER = 260, 60, 50, 300
"""About how many tokens the task prompt, a reply with a task, a task and an answer have."""


def forecast_synth(work: StepWork[LongRewardSynth]) -> dict[str, Any]:
    """Calls and tokens by part. Assumes a written task for every example, and contexts halfway between the limits."""
    settings = work.settings
    if settings.candidates_file:
        return {"candidates": settings.candidates_file, "calls": {"writer": 0, "policy": 0}}
    examples = settings.examples
    context = sum(settings.context_tokens) / 2
    written = 0 if settings.qa == "corpus" else examples
    answer = min(ANSWER, settings.answer_tokens)
    writer = settings.writer or settings.llm
    parts = {
        "writer": (writer, written, written * (TASK_PROMPT + context), written * TASK_REPLY),
        "policy": (
            settings.llm,
            examples,
            examples * (context + TASK),
            examples * settings.candidates * answer,
        ),
    }
    found: dict[str, Any] = {
        "examples": examples,
        "candidates": examples * settings.candidates,
        "calls": {name: calls for name, (_, calls, _, _) in parts.items()},
        "prompt_tokens": {name: round(tokens) for name, (_, _, tokens, _) in parts.items()},
        "answer_tokens": {name: round(tokens) for name, (_, _, _, tokens) in parts.items()},
        "models": {name: model for name, (model, *_) in parts.items()},
        "context_tokens": round(examples * context),
        "assumes": f"a {'given' if not written else 'written'} task for every example, {context:,.0f} tokens a "
        f"context, {answer:,} tokens an answer; {settings.candidates} answers come with one call where the "
        f"server knows n (one without needs {settings.candidates} calls)",
    }
    spent = {name: (model, sent, made) for name, (model, _, sent, made) in parts.items()}
    return found | costs(settings, spent)
