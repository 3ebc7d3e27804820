"""Settings of an eval step. Torch-free."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

from pydantic import field_validator, model_validator

from lcx.data.rows import FIELDS_HELP, RowFields
from lcx.evaluation.task import Style
from lcx.llm.calling import Serving
from lcx.modeling.rope import check_rope
from lcx.settings import FILE, KEEPS, VOLATILE, setting

__all__ = ["DEFAULT_SIZES", "ENDPOINT", "EvalSettings", "sized_file"]

DEFAULT_SIZES = {"val:document": 800, "val:code": 800, "val:database": 750}
"""Items a context in the published probes, about 32K tokens each."""
OTHER_SIZE = 800
"""Items a context for a plugin's probe that gives none."""


UNSIZED = {
    "needle": "set lengths (tokens), or records in style bare",
    "perplexity": "set lengths (tokens)",
}
"""Evaluations that no size applies to, and what does."""


ANSWER_TOKENS = 128
"""Tokens an answer to a probe may have, where nothing else is said."""
ENDPOINT = "openai:"
"""What comes before the name of a model behind a server."""


def sized_file(task: str) -> bool:
    """Whether a task is the YAML file of a probe with a size of its own."""
    return task.endswith((".yaml", ".yml"))


class EvalSettings(Serving):
    """What to evaluate, on which corpus, and how much of it."""

    model: str | None = setting(
        None,
        description="the model to evaluate: tiny, a path, a hub id, step:ID, or openai:MODEL at a server",
    )
    model_options: dict[str, Any] = setting({}, description="options of the server's backend")
    tokenizer: str | None = setting(
        None, description="the tokenizer, where it is not the model's own", json_schema_extra=FILE
    )
    corpus: str = setting(
        "stdlib", description="where the contexts come from: stdlib, a file, a folder, hf:NAME"
    )
    fields: RowFields = setting({}, description=FIELDS_HELP)
    encoding: Literal["utf-8", "auto"] = setting(
        "utf-8",
        description="of the corpus' text files; auto takes what is no UTF-8 for Windows' Western encoding",
    )
    documents: int | None = setting(None, ge=1, description="read at most so many documents of it")
    tasks: tuple[str, ...] = setting(
        tuple(DEFAULT_SIZES),
        description="probes, measures, suites, groups of them (longbench), lm-eval:TASK, or a probe's YAML file",
        json_schema_extra=KEEPS,
    )
    data: dict[str, str] = setting(
        {},
        description="where a suite's rows are, by its family: {longbench: FOLDER, FILE or hf:NAME}",
        json_schema_extra={**FILE, **KEEPS},
    )
    prompts: dict[str, str] = setting(
        {},
        description="a suite's prompts, by its family: {longbench: FILE.json}",
        json_schema_extra={**FILE, **KEEPS},
    )
    options: dict[str, dict[str, Any]] = setting(
        {}, description='knobs of a probe, by its name: {"ruler:multikey": {keys: 8}}'
    )
    sizes: dict[str, int] = setting(
        {}, description="items a context, by probe (val:database or database); 800, 800 and 750 as published"
    )
    sets: int = setting(4, ge=1, description="contexts a probe, or a length of needle; texts of perplexity")
    context_tokens: int | None = setting(
        None, ge=64, description="length of a context in tokens, in place of sizes"
    )
    lengths: tuple[int, ...] = setting(
        (),
        description="tokens of needle's prompts, answer included, and of perplexity's texts; by default four "
        "powers of two up to the window",
    )
    records: tuple[int, ...] = setting(
        (16, 32, 64), description="lengths of needle's contexts in records, in style bare"
    )
    depths: int = setting(10, ge=1, le=100, description="depths of needle's grid")
    needle_contexts: Literal["shared", "single"] = setting(
        "shared", description="shared: one context holds the needles of all depths; single: one a needle"
    )
    buckets: int = setting(32, ge=1, description="points of the curve of perplexity")
    span: int = setting(
        50,
        ge=1,
        description="neighbouring positions that make one point of the curve",
        json_schema_extra=KEEPS,
    )
    limit: int | None = setting(
        None, ge=1, description="items a task at most, spread evenly over contexts and positions"
    )
    sample_seed: int | None = setting(
        None, description="draw the items that limit leaves by this seed, in place of spreading them"
    )
    style: Style = setting("natural", description="natural: questions in words; bare: only the key (tiny)")
    template: str = setting(
        "in2",
        description="text around context and question: in2, plain, tiny or a file",
        json_schema_extra=FILE,
    )
    chat: Literal["auto", "always", "never"] = setting(
        "auto", description="use the tokenizer's chat template; auto where it has one"
    )
    precision: Literal["auto", "bf16", "fp32", "fp16"] = setting(
        "auto", description="of the computation; auto is bf16 where the device has it, else fp32"
    )
    rope: dict[str, Any] = setting(
        {},
        description="rotary settings, merged into the model's: {rope_theta: 5000000.0, "
        "max_position_embeddings: 65536}, {rope_type: yarn, factor: 8}",
    )
    max_new_tokens: int | None = setting(
        None, ge=1, description=f"tokens an answer may have; {ANSWER_TOKENS}, a suite as published"
    )
    window: int | None = setting(None, ge=1, description="tokens the model can read; by its configuration")
    too_long: Literal["error", "drop", "truncate-middle"] | None = setting(
        None,
        description="what to do with a context longer than the window: by default error for probes, "
        "truncate-middle for suites, as published",
    )
    seed: int = setting(0, description="draws the contexts")
    reuse: bool = setting(True, description="compute a context once for all of its questions")
    check: int = setting(
        4, ge=0, description="answers a task that a full computation checks", json_schema_extra=KEEPS
    )
    compat: Literal["film", "longbench"] | None = setting(
        None, description="film, longbench: published arithmetic, where it differs", json_schema_extra=KEEPS
    )
    batch: int = setting(64, ge=1, description="answers decoded at a time", json_schema_extra=VOLATILE)

    @field_validator("tasks", mode="before")
    @classmethod
    def _listed(cls, value: Any) -> Any:
        """`--set eval.tasks=val:code,val:document` gives a list too."""
        return (
            [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value
        )

    @field_validator("lengths", "records", mode="before")
    @classmethod
    def _numbers(cls, value: Any) -> Any:
        """One number, or numbers with commas between, will do."""
        if isinstance(value, str):
            return [part.strip() for part in value.split(",") if part.strip()]
        return [value] if isinstance(value, int) else value

    @field_validator("lengths", "records")
    @classmethod
    def _ascending(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if any(number < 2 for number in value):
            raise ValueError(f"lengths are at least 2, not {min(value)}")
        return tuple(sorted(set(value)))

    @field_validator("rope")
    @classmethod
    def _known_rope(cls, value: dict[str, Any]) -> dict[str, Any]:
        return check_rope(value)

    @model_validator(mode="after")
    def _known_sizes(self) -> EvalSettings:
        if not self.tasks:
            raise ValueError("tasks: name at least one")
        names = {*self.tasks, *DEFAULT_SIZES}
        names |= {name.split(":", 1)[-1] for name in names}
        for name, size in self.sizes.items():
            if name in UNSIZED:
                raise ValueError(f"sizes: {name} has none; {UNSIZED[name]}")
            if name not in names:
                raise ValueError(f"sizes: no probe here is named '{name}'; known: {', '.join(sorted(names))}")
            if size < 1:
                raise ValueError(f"sizes: '{name}' is at least 1, not {size}")
        return self

    def paths(self) -> Iterator[tuple[str, str]]:
        """Files of sized probes: their contents change results."""
        for task in self.tasks:
            if sized_file(task):
                yield f"tasks {task}", task

    @property
    def served(self) -> bool:
        """Whether a server answers."""
        return bool(self.model) and str(self.model).startswith(ENDPOINT)

    def answer_tokens(self, published: int | None = None) -> int:
        """Tokens an answer may have: as set, as published, or the default."""
        return self.max_new_tokens or published or ANSWER_TOKENS

    def questions(self, probe: str) -> tuple[int | None, int | None]:
        """Contexts and questions of a probe, as far as they are known before the model and the corpus are."""
        contexts, questions = self._whole(probe)
        if self.limit is None or contexts is None or questions is None:
            return contexts, questions
        return min(contexts, self.limit), min(questions, self.limit)

    def _whole(self, probe: str) -> tuple[int | None, int | None]:
        if probe == "perplexity":
            return self.sets, 0
        if probe in DEFAULT_SIZES:
            return self.sets, self.sets * self.size(probe)
        if probe != "needle":
            return None, None
        if self.style == "bare":
            return self.sets * len(self.records), self.sets * sum(self.records)
        if not self.lengths:
            return None, None
        single = self.needle_contexts == "single"
        contexts = self.sets * len(self.lengths) * (self.depths if single else 1)
        return contexts, contexts * (1 if single else self.depths)

    def size(self, probe: str) -> int:
        """Items a context for a probe: as `sizes` says, by its whole name or what follows the colon."""
        for name in (probe, probe.split(":", 1)[-1]):
            if name in self.sizes:
                return self.sizes[name]
        return DEFAULT_SIZES.get(probe, OTHER_SIZE)
