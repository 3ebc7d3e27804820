"""Settings of LongReward's synth step. Torch-free; the defaults are the paper's where it gives any."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import field_validator, model_validator

from lcx.data.rows import FIELDS_HELP, RowFields
from lcx.llm.settings import Calling
from lcx.settings import FILE, setting

KINDS = (
    "summary",
    "multi-hop",
    "comparison",
    "extraction",
    "reasoning",
    "timeline",
    "explanation",
    "list",
    "evaluation",
    "rewriting",
)
"""Kinds of tasks that are asked for; each is described in `tasks.py`."""


class LongRewardSynth(Calling):
    """From what documents, which tasks, by which models, and how many answers a task."""

    corpus: str = setting(
        "stdlib",
        description="your long texts, or rows with context and question: a file, a folder, hf:NAME, stdlib",
    )
    fields: RowFields = setting({}, description=FIELDS_HELP)
    encoding: Literal["utf-8", "auto"] = setting(
        "utf-8",
        description="of the corpus' text files; auto takes what is no UTF-8 for Windows' Western encoding",
    )
    documents: int | None = setting(None, ge=1, description="read at most so many documents (or rows)")
    tokenizer: str = setting(
        "simple",
        description="counts tokens: `simple` (no download) or a model's path or id",
        json_schema_extra=FILE,
    )
    segment_tokens: int = setting(
        128, ge=4, description="a long document is cut between pieces of about so many"
    )
    segment_by: Literal["length", "lines"] = setting(
        "length", description="`lines`: cut between any two lines"
    )
    context_tokens: tuple[int, int] = setting(
        (8192, 65_536),
        description="least and most tokens of a context (paper: 8K to 64K); longer documents give several, "
        "shorter ones are left out",
    )
    examples: int = setting(10_000, ge=1, description="prompts, each a context with a task (paper: 10,000)")
    tasks_per_context: int = setting(1, ge=1, description="tasks written about one context")
    kinds: list[str] = setting(list(KINDS), description=f"kinds of tasks, taken by turns: {', '.join(KINDS)}")
    qa: Literal["auto", "corpus", "written"] = setting(
        "auto",
        description="tasks of the corpus' own rows, or written; auto: its own, then written about documents "
        "that have none",
    )
    candidates_file: str | None = setting(
        None,
        description="your own answers in place of a model's: a file of rows with context, query and answers",
        json_schema_extra=FILE,
    )
    llm: str = setting(
        "builtin",
        description="the model to be trained, which answers: local:step:sft, local:PATH_OR_ID, openai:MODEL, …",
        json_schema_extra=FILE,
    )
    llm_options: dict[str, Any] = setting({}, description="options of that backend, such as batch")
    writer: str | None = setting(
        None,
        description="writes the tasks; the model that answers, where none is given",
        json_schema_extra=FILE,
    )
    writer_options: dict[str, Any] = setting({}, description="options of that backend")
    candidates: int = setting(10, ge=1, description="answers a task (paper: 10)")
    temperature: float = setting(1.0, ge=0, description="sampling temperature of the answers (paper: 1)")
    top_p: float = setting(1.0, gt=0, le=1, description="nucleus that the answers are sampled from")
    answer_tokens: int = setting(
        1024, ge=1, description="most tokens of an answer; longer ones are cut and marked"
    )
    writer_temperature: float = setting(0.7, ge=0, description="sampling temperature of the tasks")
    task_tokens: int = setting(512, ge=16, description="most tokens that the writer may use for one task")
    template: str | None = setting(
        None,
        description="ask for answers by this training template (a name or file) in place of answer.txt",
        json_schema_extra=FILE,
    )
    prompts: str | None = setting(
        None,
        description="a folder whose task.en.txt, task.zh.txt or answer.txt replace the bundled ones",
        json_schema_extra=FILE,
    )
    decontaminate: list[str] = setting(
        [],
        description="files of evaluation items; documents that share text are dropped",
        json_schema_extra=FILE,
    )
    ngram: int = setting(10, ge=2, description="words in a row that count as shared text")
    shards: int = setting(1, ge=1, description="files that the bundles are cut into")
    seed: int = setting(0, description="everything random follows from it")
    batch: int = setting(256, ge=1, description="prompts whose requests are sent at a time")

    @model_validator(mode="before")
    @classmethod
    def _given(cls, data: Any) -> Any:
        """Where answers come from a file no model is asked, so none has to be there."""
        if isinstance(data, dict) and data.get("candidates_file"):
            return {**data, "llm": "builtin", "writer": None}
        return data

    @field_validator("context_tokens")
    @classmethod
    def _range(cls, value: tuple[int, int]) -> tuple[int, int]:
        if not 0 < value[0] <= value[1]:
            raise ValueError("give the range as [least, most], both positive")
        return value

    @field_validator("kinds")
    @classmethod
    def _known_kinds(cls, value: list[str]) -> list[str]:
        unknown = [kind for kind in value if kind not in KINDS]
        if unknown or not value:
            raise ValueError(
                f"{f'unknown kind {unknown[0]!r}' if unknown else 'name one'}; they are {', '.join(KINDS)}"
            )
        return value
