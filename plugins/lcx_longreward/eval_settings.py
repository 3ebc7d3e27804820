"""Settings of LongReward's eval step. Torch-free."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal

from pydantic import field_validator, model_validator

from lcx.data.rows import FIELDS_HELP, RowFields
from lcx.errors import suggestion
from lcx.llm.settings import Calling
from lcx.settings import FILE, VOLATILE, setting
from lcx_longreward.settings import OWN_FILE

__all__ = ["TASKS", "LongRewardEval"]

TASKS = ("reward", "chat", "qa", "summary", "versus", "support", "short")
"""Every task, in the order in which they run."""
JUDGING = (
    *("attempts", "temperature", "retry_temperature", "reply_tokens", "no_statements"),
    *("chunk_tokens", "top_chunks", "extract_tokens"),
)
"""Settings of the score step that `judging` may change."""


def core_names() -> list[str]:
    """Tasks that the core's eval step runs: probes, suites and their groups."""
    from lcx.evaluation.benchmarks.groups import groups
    from lcx.plugins import loaded

    return [*loaded().probes.names(), *groups()]


class LongRewardEval(Calling):
    """Which tasks, on whose answers, by which judge. A task whose data is not given is left out by name."""

    tasks: tuple[str, ...] = setting(
        TASKS,
        description=f"what to measure: {', '.join(TASKS)}, or tasks of the core such as csqa, gsm8k, needle",
    )
    data: dict[str, str] = setting(
        {}, description="where the rows of the core's suites are: {csqa: FILE.jsonl}", json_schema_extra=FILE
    )
    probing: dict[str, Any] = setting(
        {}, description="further settings of the core's eval step for its tasks, such as {sets: 2}"
    )
    model: str | None = setting(
        None,
        description="the model under evaluation: step:ID, a path, a hub id, tiny, or a backend such as openai:MODEL",
    )
    model_options: dict[str, Any] = setting({}, description="options of its backend, such as {batch: 8}")
    answers: str | None = setting(
        None,
        description="saved answers in place of the model's: JSONL rows with id (or question) and answer",
        json_schema_extra=FILE,
    )
    against: str | None = setting(
        None,
        description="the other side of versus: a model, or a file of saved answers",
        json_schema_extra=FILE,
    )
    against_options: dict[str, Any] = setting({}, description="options of its backend")
    template: str = setting(
        "in2",
        description="text around context and question, as in training: in2, plain, tiny or a file",
        json_schema_extra=FILE,
    )
    window: int | None = setting(None, ge=16, description="tokens the model can read; by its configuration")
    too_long: Literal["error", "drop", "truncate-middle"] = setting(
        "truncate-middle", description="what to do with a context that is longer than the window; counted"
    )
    answer_tokens: int = setting(1024, ge=1, description="most tokens of an answer")

    corpus: str = setting(
        "stdlib", description="documents that reward asks about: stdlib, a file, a folder, hf:NAME"
    )
    fields: RowFields = setting({}, description=FIELDS_HELP)
    documents: int | None = setting(None, ge=1, description="read at most so many documents of it")
    questions: int = setting(64, ge=1, description="questions of reward")
    samples: int = setting(4, ge=1, description="answers to each of them")
    temperature: float = setting(1.0, ge=0, description="of these answers; all other tasks decode greedily")
    top_p: float = setting(1.0, gt=0, le=1, description="nucleus that they are drawn from")
    writer: str | None = setting(
        None, description="writes reward's questions; the judge, where none is given", json_schema_extra=FILE
    )
    writer_options: dict[str, Any] = setting({}, description="options of that backend")
    asking: dict[str, Any] = setting(
        {}, description="further settings of the synth step for reward's questions, such as context_tokens"
    )

    reward: str | None = setting(
        None,
        description="questions for reward in place of new ones: a folder of bundles, or rows with context and query",
        json_schema_extra=FILE,
    )
    chat: str | None = setting(
        None, description="rows with context, query and answer, as LongBench-Chat has", json_schema_extra=FILE
    )
    longbench: list[str] = setting(
        [],
        description="LongBench's JSONL files or their folder: qa and summary take the sets that are theirs",
        json_schema_extra=FILE,
    )
    qa: list[str] = setting(
        [],
        description="more files for qa, of any name: rows with input, context, answers",
        json_schema_extra=FILE,
    )
    summary: list[str] = setting([], description="more files for summary", json_schema_extra=FILE)
    versus: str | None = setting(
        None,
        description="rows with context and query for versus; those of chat where none are given",
        json_schema_extra=FILE,
    )
    support: str | None = setting(
        None,
        description="rows with context and query for support; those of chat where none are given",
        json_schema_extra=FILE,
    )
    short: list[str] = setting(
        [],
        description="METRIC:FILE of saved rows with pred and answer: exact, contains, or a plugin's metric",
        json_schema_extra=FILE,
    )
    limit: int | None = setting(None, ge=1, description="rows of a file at most, spread evenly over it")

    judge: str = setting(
        "builtin",
        description="rates answers: openai:MODEL, local:PATH_OR_ID, or builtin (overlap of words)",
        json_schema_extra=FILE,
    )
    judge_options: dict[str, Any] = setting({}, description="options of that backend")
    prompts: str | None = setting(
        None,
        description="a folder whose files replace the judge's prompts: chat.en.txt, qa, summary, versus and those "
        "of the score step",
        json_schema_extra=FILE,
    )
    language: Literal["auto", "en", "zh"] = setting("auto", description="of the judge's prompts")
    attempts: int = setting(5, ge=1, description="replies asked for until one can be read")
    tokenizer: str = setting(
        "simple",
        description="counts tokens for the judge: `simple` (no download) or a model's path or id",
        json_schema_extra=FILE,
    )
    retriever: str = setting(
        "bm25", description="finds passages for the judge, as in the score step", json_schema_extra=FILE
    )
    retriever_options: dict[str, Any] = setting({}, description="options of that retriever")
    judging: dict[str, Any] = setting(
        {}, description=f"further settings of the score step's judge: {', '.join(JUDGING[1:])}"
    )
    compat: Literal["longreward"] | None = setting(
        None, description="longreward: an unreadable rating of qa or summary counts 0.5, as published"
    )
    level: float = setting(0.95, gt=0, lt=1, description="share of the intervals that hold the true mean")
    seed: int = setting(0, description="draws questions and samples")
    batch: int = setting(64, ge=1, description="questions answered at a time", json_schema_extra=VOLATILE)

    @field_validator("tasks", "longbench", "qa", "summary", "short", mode="before")
    @classmethod
    def _listed(cls, value: Any) -> Any:
        """`--set eval.tasks=chat,qa` gives a list too."""
        return (
            [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value
        )

    @field_validator("tasks")
    @classmethod
    def _known(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not value:
            raise ValueError(f"name at least one of {', '.join(TASKS)}")
        core = core_names()
        for name in value:
            if name not in TASKS and name not in core and not name.startswith("lm-eval:"):
                near = suggestion(name, [*TASKS, *core])
                raise ValueError(
                    f"there is no task '{name}'. {near} Tasks: {', '.join(TASKS)}, and the core's"
                )
        others = [name for name in dict.fromkeys(value) if name not in TASKS]
        return (*(name for name in TASKS if name in value), *others)

    @classmethod
    def users_own(cls) -> Mapping[str, str]:
        from lcx.evaluation.settings import EvalSettings

        own = EvalSettings.users_own()
        files = {f"{place}retriever_options.cache": OWN_FILE for place in ("", "judging.")}
        return (
            files
            | {"data.lm-eval": own["data.lm-eval"]}
            | {f"probing.{name}": why for name, why in own.items()}
        )

    def paths(self) -> Iterator[tuple[str, str]]:
        """Files that `probing` names: their contents change results as those of other settings do."""
        from lcx.evaluation.settings import EvalSettings

        for key in sorted(EvalSettings.files() & self.probing.keys()):
            given = self.probing[key]
            for name in given.values() if isinstance(given, Mapping) else [given]:
                if isinstance(name, str):
                    yield f"probing.{key} {name}", name

    @field_validator("judging")
    @classmethod
    def _judging(cls, value: dict[str, Any]) -> dict[str, Any]:
        for name in value:
            if name not in JUDGING:
                raise ValueError(
                    f"no setting '{name}'. {suggestion(name, JUDGING)} Known: {', '.join(JUDGING)}"
                )
        return value

    @model_validator(mode="after")
    def _shorts(self) -> LongRewardEval:
        for one in self.short:
            if not all(one.partition(":")[::2]):
                raise ValueError(f"short: METRIC:FILE, not '{one}'")
        return self
