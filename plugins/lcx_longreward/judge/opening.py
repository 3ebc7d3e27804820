"""From settings to a judge: its prompts, rules and retriever."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lcx.context import Context
from lcx.data.tokens import SpanTokenizer
from lcx.retrieval import Retriever
from lcx_longreward.judge.attempts import Asks
from lcx_longreward.judge.judging import Judge
from lcx_longreward.judge.pairs import Rules
from lcx_longreward.judge.prompting import Prompter, load_prompts
from lcx_longreward.settings import LongRewardScore

NO_STATEMENTS = {"10": 10.0, "0": 0.0, "skip": None}
CALLS_AN_ANSWER = 12
"""About how many calls an answer takes; what it took takes the guess's place."""


def make_judge(
    settings: LongRewardScore,
    exchange: Asks,
    prompter: Prompter,
    retriever: Retriever,
    tokenizer: SpanTokenizer,
) -> Judge:
    """The judge that settings describe, on an exchange. The retriever is the caller's to close."""
    rules = Rules(settings.least_scored, settings.margin, settings.rejected)
    return Judge(
        exchange,
        prompter,
        retriever,
        tokenizer,
        attempts=settings.attempts,
        chunk_tokens=settings.chunk_tokens,
        top_chunks=settings.top_chunks,
        extract_tokens=settings.extract_tokens,
        no_statements=NO_STATEMENTS[settings.no_statements],
        early=rules if settings.early_stop else None,
    )


def open_prompter(settings: LongRewardScore) -> Prompter:
    """Who makes the judge's requests. Raises UsageError for a prompt of the user's that lacks a place."""
    return Prompter(
        load_prompts(settings.prompts),
        settings.language,
        settings.temperature,
        settings.retry_temperature,
        settings.reply_tokens,
        settings.seed,
    )


def retriever_options(settings: LongRewardScore, folder: Path, ctx: Context) -> dict[str, Any]:
    """The retriever's options; a server's vectors are kept in the step's folder, beside the calls."""
    name = settings.retriever.partition(":")[0]
    given = settings.retriever_options
    if name == "openai":
        same = {"api_key_env": settings.api_key_env, "api_key_file": settings.api_key_file}
        return {"base_url": settings.base_url, **same, "cache": str(folder / "embeddings.sqlite"), **given}
    return {"device": ctx.device, **given} if name == "sentence-transformers" else given
