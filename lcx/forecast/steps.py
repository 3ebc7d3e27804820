"""From a recipe's train step to a plan: what its settings mean for rows, passes, precision and references."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lcx.errors import UsageError
from lcx.forecast.cards import Card
from lcx.forecast.model import Plan, Row, Shape, packed_row, separate_rows

CONTEXT_TOKENS = 8192
ANSWER_TOKENS = 256
QUESTION_TOKENS = 64
REJECTED = 1
NO_REFERENCE = {"logo", "simpo", "orpo"}
"""Losses of the core that look at no reference model."""


@dataclass(frozen=True)
class Launch:
    """Choices of a command line beside the recipe; None where it leaves a choice to the recipe or the default."""

    gpus: int = 1
    strategy: str | None = None
    offload: bool = False
    tokens: int | None = None
    answer: int | None = None
    question: int | None = None
    questions: int | None = None
    rejected: int | None = None
    attn: str | None = None


def passes_a_step(batch: float, micro: int, processes: int) -> tuple[int, int]:
    """Contexts a forward pass and passes a process, as training cuts a batch of so many contexts."""
    wanted = max(1, round(batch))
    micro = max(1, min(micro, wanted // processes))
    return micro, max(1, round(wanted / (micro * processes)))


def branches_of(values: Mapping[str, Any], launch: Launch, synth: Mapping[str, Any]) -> int:
    """Answers of a context: one chosen and the rejected ones, or as many as it has questions."""
    if "loss" in values:
        given = launch.rejected if launch.rejected is not None else synth.get("rejected")
        return 1 + int(given or REJECTED)
    given = launch.questions if launch.questions is not None else synth.get("questions_per_context")
    return int(given or 1)


def context_tokens(
    values: Mapping[str, Any], launch: Launch, synth: Mapping[str, Any], window: int, branch: int
) -> tuple[int, str]:
    """Context tokens of the longest row, and where the number is from."""
    if launch.tokens is not None:
        return launch.tokens, "--tokens"
    for key in ("real_length", "max_tokens"):
        if values.get(key):
            return max(2, int(values[key]) - branch), f"{key} less an answer"
    planned = synth.get("context_tokens")
    if planned:
        longest = planned[-1] if isinstance(planned, list | tuple) else planned
        return int(longest), "context_tokens of the synth step"
    if window > branch + 2:
        return window - branch, "the model's window less an answer"
    return CONTEXT_TOKENS, "nothing says: --tokens does"


def pick_precision(wanted: str, card: Card | None) -> str:
    """`auto` as training takes it: bf16 on a GPU that has it, else fp32."""
    if wanted != "auto":
        return wanted
    return "bf16" if card is None or (card.name != "cpu" and card.bf16) else "fp32"


def pick_reference(values: Mapping[str, Any], adapter_given: bool) -> str:
    """The source of reference log-probs: "" for losses that need none, adapter, model or cached."""
    if values.get("loss", "") in ("", *NO_REFERENCE):
        return ""
    if values["reference"] != "auto":
        return str(values["reference"])
    return "adapter" if values["tuning"] != "full" and not adapter_given else "cached"


def plan_step(
    values: Mapping[str, Any],
    shape: Shape,
    launch: Launch,
    *,
    card: Card | None = None,
    synth: Mapping[str, Any] | None = None,
    adapter_given: bool = False,
    context: int | None = None,
) -> tuple[Plan, dict[str, Any]]:
    """The plan of a train step with these setting values, and the numbers that it rests on.

    `synth` are the values of the step that makes its data. `context` overrides the context's tokens. Raises
    UsageError for strategies and targets that do not exist.
    """
    synth = synth or {}
    device = "cpu" if card is not None and card.name == "cpu" else "cuda"
    branches = branches_of(values, launch, synth)
    answer = launch.answer or min(int(synth.get("answer_tokens") or ANSWER_TOKENS), 4096)
    preference = "loss" in values
    question = launch.question if launch.question is not None else QUESTION_TOKENS
    own = 0 if preference else question  # a preference's one question is part of the shared prefix
    source = "--tokens"
    if context is None:
        context, source = context_tokens(values, launch, synth, shape.window, own + answer)
    if context < 2:
        raise UsageError(f"a context of {context} tokens is too short", hint="--tokens 8192")
    micro, passes, row = _rows(values, launch.gpus, preference, branches, (context, own, answer))
    strategy = launch.strategy or ("ddp" if launch.gpus > 1 else "single")
    plan = Plan(
        shape=shape,
        row=row,
        tuning=values["tuning"],
        precision=pick_precision(values["precision"], card),
        lora_r=values["lora_r"],
        lora_targets=tuple(values["lora_targets"]),
        checkpointing=values["gradient_checkpointing"],
        optimizer=values["optimizer"],
        passes=passes,
        gpus=launch.gpus,
        strategy=strategy,
        offload=launch.offload,
        reference=pick_reference(values, adapter_given),
        engine=values["engine"],
        kernels="flash" if (launch.attn or values.get("attn")) == "flash" else "sdpa",
        device=device,
    ).checked
    about = {
        "context": context,
        "context_from": source,
        "question": own,
        "answer": answer,
        "branches": branches,
        "micro_batch": micro,
        "target_length": values.get("target_length"),
        "steps": _steps(values, synth),
    }
    return plan, about


def _steps(values: Mapping[str, Any], synth: Mapping[str, Any]) -> int | None:
    """Optimizer steps of the whole training, where the settings tell: of all examples, none of which is dropped."""
    if values.get("max_steps", -1) > 0:
        return int(values["max_steps"])
    examples = synth.get("examples")
    return math.ceil(values["epochs"] * examples / values["batch"]) if isinstance(examples, int) else None


def _rows(
    values: Mapping[str, Any], gpus: int, preference: bool, branches: int, lengths: tuple[int, int, int]
) -> tuple[int, int, Row]:
    """Contexts (or rows) a forward pass, passes a step, and the row of one pass."""
    batch, micro = values["batch"], values["micro_batch"]
    if values["engine"] == "trl":  # a row for each answer; pairs of rows where answers are compared
        micro, passes = passes_a_step(batch, micro if preference else 1, gpus)
        return micro, passes, separate_rows(*lengths, rows=micro * (2 if preference else 1))
    micro, passes = passes_a_step(batch if preference else batch / branches, micro, gpus)
    return micro, passes, packed_row(*lengths, branches=branches, micro=micro)
