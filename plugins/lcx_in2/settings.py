"""Settings of IN2's synth step. Torch-free: it is imported to list and check recipes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import field_validator, model_validator

from lcx.data.rows import RowFields
from lcx.data.settings import FIXED, CorpusSettings
from lcx.llm.settings import Calling
from lcx.settings import FILE, setting

JOINT_SEGMENTS = 5
"""Most neighbouring segments that a joint question is written from."""
KINDS = ("fine", "integration", "short", "general")


class In2Synth(Calling, CorpusSettings):
    """How many examples of which kind are made, from what text, by which writer, at which lengths."""

    segment_tokens: int = setting(128, ge=4, description="least tokens of a segment (paper: 128)")
    segment_by: Literal["length", "lines"] = setting(
        "length", description="`lines`: each line is one segment"
    )
    examples: int = setting(17_500, ge=1, description="questions in all (paper: 1.75M; this is its 1%)")
    mix: dict[str, float] = setting(
        {"fine": 0.63, "integration": 0.17, "short": 0.09, "general": 0.11},
        description="shares of the kinds: fine, integration, short, general",
    )
    general: str | None = setting(
        None, description="instruction data for the general share: a file or hf:NAME", json_schema_extra=FILE
    )
    general_fields: RowFields = setting({}, description="as fields, for the instruction data")
    context_tokens: tuple[int, int] = setting(
        (4096, 32768),
        description="range of the uniform length of a long context; counts the context, not the question",
    )
    questions_per_context: int = setting(1, ge=1, description="questions that share one context (paper: 1)")
    short_tokens: int = setting(600, ge=1, description="about how long a short context is, in tokens")
    llm: str = setting(
        "builtin",
        description="writes the questions: builtin, openai:MODEL, local:PATH_OR_ID",
        json_schema_extra=FILE,
    )
    llm_options: dict[str, Any] = setting({}, description="options of that backend, such as batch")
    temperature: float = setting(0.7, ge=0, description="sampling temperature of the writer")
    answer_tokens: int = setting(
        512, ge=16, description="most tokens that the writer may use for one question"
    )
    prompts: str | None = setting(
        None,
        description="a folder whose fine.txt or integration.txt replace the bundled ones",
        json_schema_extra=FILE,
    )
    batch: int = setting(64, ge=1, description="questions asked of the writer at a time")

    @classmethod
    def names_elsewhere(cls) -> Mapping[str, str]:
        """Settings of earlier versions that are constants now."""
        return {
            **super().names_elsewhere(),
            "integration_segments": FIXED.format(f"{JOINT_SEGMENTS} segments"),
        }

    @field_validator("mix")
    @classmethod
    def _known_shares(cls, mix: dict[str, float]) -> dict[str, float]:
        unknown = [kind for kind in mix if kind not in KINDS]
        if unknown:
            raise ValueError(f"unknown kind {unknown[0]!r}; the kinds are {', '.join(KINDS)}")
        if any(share < 0 for share in mix.values()) or not sum(mix.values()) > 0:
            raise ValueError("shares are zero or more, and not all zero")
        return mix

    @field_validator("context_tokens")
    @classmethod
    def _range(cls, value: tuple[int, int]) -> tuple[int, int]:
        if not 0 < value[0] <= value[1]:
            raise ValueError("give the range as [least, most], both positive")
        return value

    @model_validator(mode="after")
    def _fits(self) -> In2Synth:
        if self.segment_by == "length" and self.segment_tokens > self.context_tokens[0]:
            raise ValueError("segment_tokens is larger than the shortest context")
        return self


class In2Score(Calling):
    """Who checks the questions, and what the judge sees. The paper checks none, and so does no `judge`."""

    input: str | None = setting(None, description="the data: step:ID or a folder of bundles")
    judge: str | None = setting(
        None,
        description="checks every question: openai:MODEL, local:PATH_OR_ID, builtin; none: all pass, unchecked",
        json_schema_extra=FILE,
    )
    judge_options: dict[str, Any] = setting({}, description="options of that backend")
    see: Literal["evidence", "context"] = setting(
        "evidence",
        description="what the judge sees besides the question: its evidence alone, or the rest of the context too, "
        "which finds second places that answer and costs a context a question",
    )
    unclear: Literal["drop", "keep"] = setting(
        "drop", description="questions of which the judge cannot tell whether they hold"
    )
    attempts: int = setting(3, ge=1, description="replies asked for until one can be read")
    reply_tokens: int = setting(
        512, ge=1, description="most tokens of a reply; a judge that thinks aloud needs more"
    )
    prompts: str | None = setting(
        None,
        description="a folder whose answered.txt, needed.txt or unambiguous.txt replace the bundled ones",
        json_schema_extra=FILE,
    )
    shards: int = setting(1, ge=1, description="files that the bundles are cut into")
    seed: int = setting(0, description="everything random follows from it")
