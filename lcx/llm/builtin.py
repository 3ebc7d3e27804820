"""The `builtin` text generator: deterministic rules in place of a model, for offline work, demos and tests.

It writes questions of fixed shapes about a passage, answers by looking sentences up, and judges by overlap of words.
It reads a request's `task` and `fields`, not its prompt, and answers in the format that the prompt asks a model for. It
is no substitute for a real model, and every manifest that it touches says so.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lcx.llm.builtin_answers import answer_question, judge_overlap
from lcx.llm.builtin_checks import judge_qa_check
from lcx.llm.builtin_judge import (
    judge_completeness,
    judge_extract,
    judge_helpfulness,
    judge_logicality,
    judge_qa,
    judge_reference,
    judge_statements,
    judge_summary,
    judge_support,
    judge_versus,
)
from lcx.llm.builtin_questions import write_joint_question, write_question, write_task
from lcx.llm.protocol import Completion, Request, Response, Usage


class Builtin:
    """Rule-based writer. One instance keeps no state, so equal requests give equal answers."""

    def generate(self, requests: Sequence[Request]) -> list[Response]:
        return [self._answer(request) for request in requests]

    def describe(self) -> dict[str, Any]:
        return {"backend": "builtin", "model": "rules", "note": "deterministic rules, not a language model"}

    def close(self) -> None:
        return None

    def _answer(self, request: Request) -> Response:
        rule = RULES.get(request.task)
        if rule is None:
            known = ", ".join(sorted(RULES))
            return Response((), error=f"builtin has no rule for the task '{request.task}' (it has: {known})")
        texts = []
        for sample in range(request.n):
            rng = random.Random(f"builtin:{request.seed}:{sample}")
            texts.append(rule(request.fields, rng))
        prompt = sum(len(m["content"].split()) for m in request.messages)
        usage = Usage(prompt, sum(len(t.split()) for t in texts))
        return Response(tuple(Completion(t) for t in texts), usage)


def open_builtin(model: str, options: Mapping[str, Any]) -> Builtin:
    """Factory for the spec `builtin`; it takes no model and no options."""
    return Builtin()


RULES: dict[str, Callable[[Mapping[str, Any], random.Random], str]] = {
    "write_question": write_question,
    "write_joint_question": write_joint_question,
    "answer_question": answer_question,
    "judge_overlap": judge_overlap,
    "judge_qa_check": judge_qa_check,
    "write_task": write_task,
    "judge_helpfulness": judge_helpfulness,
    "judge_logicality": judge_logicality,
    "judge_statements": judge_statements,
    "judge_support": judge_support,
    "judge_extract": judge_extract,
    "judge_completeness": judge_completeness,
    "judge_reference": judge_reference,
    "judge_qa": judge_qa,
    "judge_summary": judge_summary,
    "judge_versus": judge_versus,
}
