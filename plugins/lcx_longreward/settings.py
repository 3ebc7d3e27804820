"""Settings of LongReward's score and train steps. Torch-free; the defaults are the paper's where it gives any."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import field_validator

from lcx.data.rows import FIELDS_HELP, RowFields
from lcx.llm.settings import Calling
from lcx.settings import FILE, VOLATILE, setting
from lcx.training.settings import PreferenceSettings

PROMPTS = (
    "a folder whose files replace the bundled prompts: helpfulness.en.txt, helpfulness.zh.txt, logicality, "
    "statements, support, extract and completeness likewise"
)
REPLY_TOKENS = {
    "helpfulness": 512,
    "logicality": 512,
    "statements": 2048,
    "support": 512,
    "extract": 1024,
    "completeness": 512,
}
"""Most tokens of a reply by part (the paper's)."""


class LongRewardScore(Calling):
    """Who judges by which prompts and rules, what the judge sees of a document, and which answers become pairs."""

    input: str | None = setting(
        None,
        description="what is scored: step:ID, a folder of bundles, or a file of rows with context, query and "
        "answer or answers",
    )
    fields: RowFields = setting({}, description=FIELDS_HELP)
    judge: str = setting(
        "builtin",
        description="rates answers: openai:MODEL, local:PATH_OR_ID, or builtin (overlap of words)",
        json_schema_extra=FILE,
    )
    judge_options: dict[str, Any] = setting({}, description="options of that backend")
    prompts: str | None = setting(None, description=PROMPTS, json_schema_extra=FILE)
    language: Literal["auto", "en", "zh"] = setting(
        "auto",
        description="of the prompts; auto is en where Latin letters are over 4x the Chinese characters",
    )
    attempts: int = setting(5, ge=1, description="replies asked for until one can be read (paper: 5)")
    temperature: float = setting(0.01, ge=0, description="of a part's first attempt (paper: 0.01)")
    retry_temperature: float = setting(0.95, ge=0, description="of its further attempts (paper: 0.95)")
    reply_tokens: dict[str, int] = setting(
        {},
        description="most tokens of a reply by part, where not the paper's (512; statements 2048, extract 1024); a "
        "judge that thinks aloud needs more",
    )
    no_statements: Literal["10", "0", "skip"] = setting(
        "10",
        description="faithfulness of an answer that states nothing, as a refusal: 10, 0, or skip (no reward)",
    )
    tokenizer: str = setting(
        "simple",
        description="counts tokens: `simple` (no download) or a model's path or id",
        json_schema_extra=FILE,
    )
    retriever: str = setting(
        "bm25",
        description="finds the passages for a statement: bm25, openai:MODEL (/v1/embeddings) or "
        "sentence-transformers:PATH",
        json_schema_extra=FILE,
    )
    retriever_options: dict[str, Any] = setting(
        {}, description="options of that retriever; base_url and api_key_env of an embedding server"
    )
    chunk_tokens: int = setting(128, ge=4, description="tokens of a passage that is retrieved (paper: 128)")
    top_chunks: int = setting(5, ge=1, description="passages shown for a statement (paper: 5)")
    extract_tokens: int = setting(
        4096, ge=16, description="tokens of a part that facts are extracted from (paper: 4096)"
    )
    least_scored: int = setting(
        5, ge=2, description="answers to a question that must have a reward for a pair (paper: 5)"
    )
    margin: float = setting(
        0.5,
        ge=0,
        le=10,
        description="least lead of the chosen reward over a rejected one, of 10 (paper: none)",
    )
    rejected: int = setting(1, ge=1, description="rejected answers of a pair: the lowest ones (paper: 1)")
    early_stop: bool = setting(
        False, description="leave out calls of answers that can be neither chosen nor rejected; equal pairs"
    )
    shards: int = setting(1, ge=1, description="files that the bundles are cut into")
    seed: int = setting(0, description="of the judge's sampling")
    open_answers: int | None = setting(
        None,
        ge=1,
        description="answers in work at a time; where none is given, twice `concurrency`, or four batches of a local "
        "judge",
        json_schema_extra=VOLATILE,
    )

    @field_validator("no_statements", mode="before")
    @classmethod
    def _text(cls, value: Any) -> Any:
        return str(value) if isinstance(value, int) else value

    @field_validator("reply_tokens")
    @classmethod
    def _parts(cls, value: dict[str, int]) -> dict[str, int]:
        for part, tokens in value.items():
            if part not in REPLY_TOKENS:
                raise ValueError(f"no such part: {part}; there are {', '.join(REPLY_TOKENS)}")
            if tokens < 1:
                raise ValueError(f"{part}: a reply needs at least one token")
        return value


class LongRewardTrain(PreferenceSettings):
    """The paper's training: DPO with a tenth of the chosen answer's cross-entropy."""

    batch: int = setting(
        16,
        ge=1,
        description="contexts, each with its answers, an optimizer step, over all processes (paper: 16)",
    )
    loss: str = setting("dpo", description="a registered loss: logo, simpo, dpo, orpo, or a plugin's")
    beta: float | None = setting(0.15, gt=0, description="sharpness of the preference (paper: 0.15)")
    sft_weight: float | None = setting(
        0.1, ge=0, description="lambda: weight of the chosen answer's cross-entropy (paper: 0.1)"
    )
    learning_rate: float = setting(1e-6, gt=0, description="peak learning rate (paper: 1e-6)")
