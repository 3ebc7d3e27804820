"""Settings of LongReward's synth, score and train steps. Torch-free; defaults are the paper's where it gives any."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from pydantic import field_validator, model_validator

from lcx.data.rows import FIELDS_HELP, RowFields
from lcx.data.settings import CorpusSettings
from lcx.data.templates import load_template
from lcx.evaluation.settings import EvalSettings
from lcx.llm.settings import THOUGHTS, Calling
from lcx.settings import FILE, KEEPS, VOLATILE, Settings, setting
from lcx.training.settings import PreferenceSettings

if TYPE_CHECKING:
    from lcx.plugins import Plugins

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


class LongRewardSynth(Calling, CorpusSettings):
    """From what documents, which tasks, by which models, and how many answers a task."""

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
    thoughts: Literal["strip", "keep"] = setting("strip", description=THOUGHTS)
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
    batch: int = setting(256, ge=1, description="prompts whose requests are sent at a time")

    @model_validator(mode="before")
    @classmethod
    def _given(cls, data: Any) -> Any:
        """Where answers come from a file no model is asked, so none has to be there."""
        if isinstance(data, dict) and data.get("candidates_file"):
            return {**data, "llm": "builtin", "writer": None}
        return data

    def check_names(self, plugins: Plugins) -> None:
        """The template, too."""
        super().check_names(plugins)
        if self.template:
            load_template(self.template)

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


OWN_FILE = "It names a file that is written, wherever that lies."


class Judging(Settings):
    """How a judge is asked, and what it sees of a document."""

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

    def check_names(self, plugins: Plugins) -> None:
        """The retriever's backend, also where these are options of judged tasks."""
        super().check_names(plugins)
        plugins.retrievers.get(self.retriever.partition(":")[0])

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


class LongRewardScore(Judging, Calling):
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
    thoughts: Literal["strip", "keep"] = setting("strip", description=THOUGHTS)
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

    @classmethod
    def users_own(cls) -> Mapping[str, str]:
        return {"retriever_options.cache": OWN_FILE}


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


TASKS = ("reward", "chat", "qa", "summary", "versus", "support", "short")
"""The method's own tasks."""
MADE = ("questions", "asking", "writer", "writer_options")
_DATA = "it is data of a task now: --set eval.data.{}=FILE"
_JUDGING = "it is an option of all judged tasks now: --set eval.judging.{}=VALUE"
MOVED = {
    **{name: _DATA.format(name) for name in (*TASKS, "longbench")},
    **{name: _JUDGING.format(name) for name in ("language", "attempts", "retriever", "retriever_options")},
    "prompts": _JUDGING.format("prompts"),
    "answer_tokens": "it is called max_new_tokens now",
    "probing": "its settings are the step's own now: --set eval.NAME=VALUE",
    "level": "intervals are of 95%",
    "resamples": "intervals are computed now, nothing is drawn again",
}
"""What settings of earlier versions are called now."""


class LongRewardEval(EvalSettings):
    """The core's eval step with LongReward's tasks. One whose data is not given is left out by name."""

    tasks: tuple[str, ...] = setting(
        TASKS,
        description=f"{', '.join(TASKS)}, and any of the core such as csqa, gsm8k, needle",
        json_schema_extra=KEEPS,
    )
    judge: str | None = setting(
        "builtin",
        description="rates answers: openai:MODEL, local:PATH_OR_ID, or builtin (overlap of words)",
        json_schema_extra=FILE,
    )
    questions: int = setting(64, ge=1, description="questions of reward, where none are given")
    asking: dict[str, Any] = setting(
        {}, description="further settings of the synth step for reward's questions, such as context_tokens"
    )
    writer: str | None = setting(
        None, description="writes reward's questions; the judge, where none is given", json_schema_extra=FILE
    )
    writer_options: dict[str, Any] = setting({}, description="options of that backend")

    def shared(self) -> dict[str, Any]:
        return super().shared() | {
            name: getattr(self, name) for name in MADE if name in self.model_fields_set
        }

    @classmethod
    def names_elsewhere(cls) -> Mapping[str, str]:
        return {**super().names_elsewhere(), **MOVED}

    @classmethod
    def users_own(cls) -> Mapping[str, str]:
        places = ("judging", *(f"options.{name}" for name in TASKS))
        return {**super().users_own()} | {f"{place}.retriever_options.cache": OWN_FILE for place in places}

    @model_validator(mode="before")
    @classmethod
    def _moved(cls, data: Any) -> Any:
        """Two settings of earlier versions have the names of others now."""
        if isinstance(data, Mapping):
            for name, mine in (("chat", ("auto", "always", "never")), ("prompts", ())):
                if isinstance(given := data.get(name), str) and given not in mine:
                    raise ValueError(f"{name}: {MOVED[name]}")
        return data
