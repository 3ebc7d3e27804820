"""Settings of LOGO's steps. Torch-free; the defaults are the paper's where it gives any."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from pydantic import field_validator, model_validator

from lcx.data.settings import FIXED, CorpusSettings
from lcx.data.templates import load_template
from lcx.errors import UsageError, suggestion
from lcx.llm.settings import THOUGHTS, Calling
from lcx.settings import FILE, setting
from lcx.training.settings import PreferenceSettings

if TYPE_CHECKING:
    from lcx.plugins import Plugins

JOINT_CHUNKS = 3
"""Most neighbouring chunks that a joint question is written from."""
PROMPTS = "a folder whose answer.txt, judge.txt, fine.txt or integration.txt replace the bundled ones"


def pipeline_of(importance: str) -> str:
    """The path of the spaCy pipeline that the setting names; empty for `builtin`. Raises UsageError for others."""
    kind, _, path = importance.partition(":")
    if importance != "builtin" and (kind != "spacy" or not path):
        raise UsageError(
            f"unknown importance '{importance}'. {suggestion(kind, ('builtin', 'spacy'))}".rstrip(),
            hint="Choose builtin or spacy:PATH.",
        )
    return path


class Filtering(Calling):
    """What synth and score share: how chunks are told apart, and which answers pass the filter."""

    importance: str = setting(
        "builtin",
        description="finds a question's entities and content words: builtin, or spacy:PATH of a pipeline",
        json_schema_extra=FILE,
    )
    threshold: float | Literal["auto"] = setting(
        "auto",
        description="delta: chunks with more of the question's items are critical, with fewer irrelevant; auto is "
        "6 for spacy (the paper's), half of the question's items for builtin",
    )
    judge: str = setting(
        "builtin",
        description="rates answers: builtin (overlap), openai:MODEL, local:PATH_OR_ID",
        json_schema_extra=FILE,
    )
    judge_options: dict[str, Any] = setting({}, description="options of that backend")
    margin: float = setting(
        0.1, ge=0, le=1, description="by how much the chosen answer must be rated above a rejected one, of 1"
    )
    least: float = setting(0.0, ge=0, le=1, description="least rating of a chosen answer, of 1")
    prompts: str | None = setting(None, description=PROMPTS, json_schema_extra=FILE)
    thoughts: Literal["strip", "keep"] = setting("strip", description=THOUGHTS)
    shards: int = setting(1, ge=1, description="files that the bundles are cut into")
    seed: int = setting(0, description="everything random follows from it")
    batch: int = setting(64, ge=1, description="examples whose requests are sent at a time")

    @field_validator("threshold", mode="before")
    @classmethod
    def _number(cls, value: Any) -> Any:
        if isinstance(value, str) and value != "auto":
            try:
                return float(value)
            except ValueError:
                raise ValueError("a number, or auto") from None
        return value

    def check_names(self, plugins: Plugins) -> None:
        """What tells chunks apart, too."""
        super().check_names(plugins)
        pipeline_of(self.importance)


class LogoSynth(Filtering, CorpusSettings):
    """From what text and questions, in which chunks, by which model, and how many answers a question."""

    segment_tokens: int = setting(512, ge=4, description="least tokens of a chunk (paper: 512)")
    segment_by: Literal["length", "lines"] = setting("length", description="`lines`: each line is one chunk")
    chunks: int = setting(16, ge=2, description="most chunks of a context (paper: 16)")
    context_tokens: int | None = setting(
        None, ge=16, description="most tokens of a training context; irrelevant chunks beyond are left out"
    )
    read_tokens: int | None = setting(
        None, ge=16, description="most context tokens that an answer is generated from: the policy's window"
    )
    fill: Literal["corpus", "none"] = setting(
        "corpus", description="where a document has too few irrelevant chunks: take other documents' or none"
    )
    examples: int = setting(
        12_000, ge=1, description="questions answered (paper: 12,000); the filter keeps fewer"
    )
    repeats: int = setting(
        2, ge=1, description="most examples of one question, each with other irrelevant chunks"
    )
    qa: Literal["auto", "corpus", "written"] = setting(
        "auto",
        description="questions of the corpus' own rows, or written from its chunks; auto: its own, then written "
        "from documents that have none",
    )
    joint: float = setting(
        0.25, ge=0, le=1, description="share of written questions that need several chunks"
    )
    llm: str = setting(
        "builtin",
        description="the policy, the model to be trained; it answers: builtin, local:PATH_OR_ID, openai:MODEL",
        json_schema_extra=FILE,
    )
    llm_options: dict[str, Any] = setting({}, description="options of that backend, such as batch")
    writer: str | None = setting(
        None, description="writes questions; the policy, where none is given", json_schema_extra=FILE
    )
    writer_options: dict[str, Any] = setting({}, description="options of that backend")
    template: str | None = setting(
        None,
        description="ask the policy by this training template (a name or file) in place of answer.txt",
        json_schema_extra=FILE,
    )
    answers: Literal["own", "corpus"] = setting(
        "own",
        description="the chosen answer: the policy's own from all critical chunks (paper), or the corpus'",
    )
    rejected: int = setting(
        2,
        ge=1,
        description="rejected answers a question (paper: 2): from irrelevant chunks, a mixture, by turns",
    )
    temperature: float = setting(0.7, ge=0, description="sampling temperature of writer and policy")
    top_p: float = setting(0.95, gt=0, le=1, description="nucleus that the policy samples from")
    answer_tokens: int = setting(
        512, ge=1, description="most tokens of an answer; a longer chosen one is dropped"
    )
    question_tokens: int = setting(
        512, ge=16, description="most tokens that the writer may use for one question"
    )
    filter: bool = setting(
        True, description="judge the answers and keep what passes; off: only sound examples"
    )

    def check_names(self, plugins: Plugins) -> None:
        """The template, too."""
        super().check_names(plugins)
        if self.template:
            load_template(self.template)

    @classmethod
    def names_elsewhere(cls) -> Mapping[str, str]:
        """Settings of earlier versions that are constants now."""
        return {**super().names_elsewhere(), "joint_chunks": FIXED.format(f"{JOINT_CHUNKS} chunks")}

    @model_validator(mode="after")
    def _fits(self) -> LogoSynth:
        if self.segment_by == "length":
            for name in ("context_tokens", "read_tokens"):
                limit = getattr(self, name)
                if limit is not None and limit < self.segment_tokens:
                    raise ValueError(f"{name} is smaller than a chunk (segment_tokens)")
        return self


class LogoScore(Filtering):
    """Importance scores and the filter on their own, over synth's candidates or any folder of bundles."""

    input: str | None = setting(None, description="the data: step:ID or a folder of bundles")
    segment_tokens: int = setting(
        512, ge=4, description="least tokens of a chunk, where bundles hold plain text"
    )


class LogoTrain(PreferenceSettings):
    """The paper's training: LOGO's loss, LoRA on the attention, positions spread from 8K real tokens over 64K."""

    loss: str = setting("logo", description="a registered loss: logo, simpo, dpo, orpo, or a plugin's")
    sft_weight: float | None = setting(
        0.1, ge=0, description="lambda: weight of the chosen answer's cross-entropy (paper: 0.1)"
    )
    real_length: int | None = setting(
        10_000, ge=2, description="tokens a row may really have: 16 chunks of 512, question and answer"
    )
    target_length: int | None = setting(
        65_536, ge=2, description="length that synthetic positions make the context act as (paper: 64K)"
    )
    learning_rate: float = setting(5e-7, gt=0, description="peak learning rate")
    schedule: Literal["cosine", "linear", "constant", "constant_with_warmup"] = setting(
        "cosine", description="learning-rate schedule"
    )
    warmup: float = setting(0.1, ge=0, description="share of the steps; from 1 on, a number of steps")
    weight_decay: float = setting(0.05, ge=0, description="weight decay")
    tuning: Literal["full", "lora", "qlora"] = setting("lora", description="which weights are trained")
    lora_r: int = setting(32, ge=1, description="rank of LoRA")
    lora_alpha: int = setting(16, ge=1, description="scale of LoRA: alpha / r")
    lora_targets: tuple[str, ...] = setting(
        ("q_proj", "k_proj", "v_proj", "o_proj"),
        description="modules that get adapters, by name; add embed_tokens for the token embeddings",
    )
