"""Settings of an eval step. Torch-free."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, field_validator, model_validator

from lcx.data.rows import FIELDS_HELP, RowFields
from lcx.data.templates import load_template
from lcx.errors import UsageError
from lcx.llm.settings import Calling
from lcx.modeling.rope import check_rope
from lcx.settings import FILE, KEEPS, VOLATILE, setting

if TYPE_CHECKING:
    from lcx.plugins import Plugins

__all__ = ["DEFAULT_TASKS", "ENDPOINT", "EvalSettings", "Numbers", "Style", "asked_as_llm", "sized_file"]

COUNTING = ("simple", "words")
"""Tokenizers of `lcx.data.tokens` that have no ids."""
MOVED = {
    "probes": "Probes are tasks now: --set eval.tasks=[NAME, ...]",
    "probe": "It is one of the tasks: --task NAME",
    "device": "It is a flag: --device cpu",
}
"""What settings of earlier versions are called now."""
DEFAULT_TASKS = ("val:document", "val:code", "val:database")
"""What is asked where nothing is named: the published probes, about 32K tokens a context."""
SHARED = ("sets", "style", "lengths", "records", "depths", "context_tokens")
"""Settings that hold for every task that has an option of that name, where the task's own options do not give it."""
ANSWER_TOKENS = 128
"""Tokens an answer to a probe may have, where nothing else is said."""
ENDPOINT = "openai:"
"""What comes before the name of a model behind a server."""


Style = Literal["natural", "bare"]
"""`natural` asks in a sentence, as a chat model expects; `bare` gives only the key, for the tiny model."""


def _numbers(value: Any) -> Any:
    """One number, or numbers with commas between, will do for a list of them."""
    if isinstance(value, str):
        return [part.strip() for part in value.split(",") if part.strip()]
    return [value] if isinstance(value, int) else value


def _ascending(value: tuple[int, ...]) -> tuple[int, ...]:
    if any(number < 2 for number in value):
        raise ValueError(f"lengths are at least 2, not {min(value)}")
    return tuple(sorted(set(value)))


Numbers = Annotated[tuple[int, ...], BeforeValidator(_numbers), AfterValidator(_ascending)]
"""Lengths in ascending order, each once."""


def asked_as_llm(model: str | None) -> bool:
    """Whether a model is asked as a text generator and is no local one: `openai:MODEL`, `builtin`, a plugin's."""
    from lcx.plugins import loaded

    name, colon, _ = str(model or "").partition(":")
    return str(model).startswith(ENDPOINT) or (
        name not in ("", "local") and bool(colon or name == "builtin") and name in loaded().llms
    )


def sized_file(task: str) -> bool:
    """Whether a task is the YAML file of a probe with a size of its own."""
    return task.endswith((".yaml", ".yml"))


class EvalSettings(Calling):
    """What to evaluate, on which corpus, and how much of it."""

    model: str | None = setting(
        None,
        description="the model to evaluate: tiny, a path, a hub id, step:ID, or openai:MODEL at a server",
    )
    model_options: dict[str, Any] = setting(
        {}, description="options of its backend, where a server answers or samples are drawn"
    )
    answers: str | None = setting(
        None,
        description="saved answers in place of the model's, for judged tasks: rows with id (or question) and answer",
        json_schema_extra=FILE,
    )
    judge: str | None = setting(
        None,
        description="rates the answers of judged tasks: openai:MODEL, local:PATH_OR_ID, or builtin (overlap of words)",
        json_schema_extra=FILE,
    )
    judge_options: dict[str, Any] = setting({}, description="options of that backend")
    judging: dict[str, Any] = setting(
        {},
        description="options of all judged tasks, such as {attempts: 3, language: zh}",
        json_schema_extra=FILE,
    )
    against: str | None = setting(
        None,
        description="the other side of tasks that compare two models: a model, or a file of saved answers",
        json_schema_extra=FILE,
    )
    against_options: dict[str, Any] = setting({}, description="options of its backend")
    samples: int = setting(4, ge=1, description="answers to each question, in tasks that draw several")
    temperature: float = setting(1.0, ge=0, description="of these answers; all other tasks decode greedily")
    top_p: float = setting(1.0, gt=0, le=1, description="nucleus that they are drawn from")
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
        DEFAULT_TASKS,
        description="probes, benchmarks, perplexity, groups of them (longbench), lm-eval:TASK, or a probe's YAML file",
        json_schema_extra=KEEPS,
    )
    data: dict[str, str | tuple[str, ...]] = setting(
        {},
        description="where a benchmark's rows are, by its family: {longbench: FOLDER, FILE or hf:NAME}",
        json_schema_extra={**FILE, **KEEPS},
    )
    lm_eval_code: bool = setting(
        False,
        description="run the code that lm-eval's task files in data.lm-eval name (!function)",
        json_schema_extra=VOLATILE,
    )
    prompts: dict[str, str] = setting(
        {},
        description="a benchmark's prompts, by its family: {longbench: FILE.json}",
        json_schema_extra={**FILE, **KEEPS},
    )
    options: dict[str, dict[str, Any]] = setting(
        {},
        description='options of tasks, by their names: {"ruler:multikey": {keys: 8}, "val:code": {size: 200}}',
        json_schema_extra=FILE,
    )
    sets: int = setting(
        4, ge=1, description="contexts a task, or of each of its lengths; texts of perplexity"
    )
    context_tokens: int | None = setting(
        None, ge=64, description="length of val's contexts in tokens, in place of the option size"
    )
    lengths: Numbers = setting(
        (),
        description="tokens of prompts, answer included, and of perplexity's texts; by default four powers of two "
        "up to the window",
    )
    records: Numbers = setting((16, 32, 64), description="lengths of contexts in records, in style bare")
    depths: int = setting(10, ge=1, le=100, description="depths of a grid")
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
        None, ge=1, description=f"tokens an answer may have; {ANSWER_TOKENS}, a benchmark as published"
    )
    window: int | None = setting(None, ge=1, description="tokens the model can read; by its configuration")
    too_long: Literal["error", "drop", "truncate-middle"] | None = setting(
        None,
        description="what to do with a context longer than the window: by default error for probes, "
        "truncate-middle for benchmarks, as published",
    )
    seed: int = setting(0, description="draws the contexts")
    reuse: bool = setting(True, description="compute a context once for all of its questions")
    check: int = setting(
        4, ge=0, description="answers a task that a full computation checks", json_schema_extra=KEEPS
    )
    compat: Literal["film", "longbench", "longreward"] | None = setting(
        None,
        description="film, longbench, longreward: published arithmetic, where it differs",
        json_schema_extra=KEEPS,
    )
    batch: int = setting(64, ge=1, description="answers decoded at a time", json_schema_extra=VOLATILE)

    def check_names(self, plugins: Plugins) -> None:
        """The template, too, and a tokenizer that only counts."""
        super().check_names(plugins)
        load_template(self.template)
        if self.tokenizer in COUNTING:
            raise UsageError(
                f"tokenizer: '{self.tokenizer}' only counts, and contexts are encoded for the model",
                hint=f"What judges are shown is counted by another: --set eval.judging.tokenizer={self.tokenizer}",
            )

    @classmethod
    def names_elsewhere(cls) -> Mapping[str, str]:
        return MOVED

    @field_validator("tasks", mode="before")
    @classmethod
    def _listed(cls, value: Any) -> Any:
        """`--set eval.tasks=val:code,val:document` gives a list too."""
        return (
            [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value
        )

    @field_validator("rope")
    @classmethod
    def _known_rope(cls, value: dict[str, Any]) -> dict[str, Any]:
        return check_rope(value)

    @model_validator(mode="before")
    @classmethod
    def _old_names(cls, data: Any) -> Any:
        """Settings of earlier versions that are options of their tasks now: sizes, needle_contexts, buckets."""
        if not isinstance(data, Mapping) or not data.keys() & {"sizes", "needle_contexts", "buckets"}:
            return data
        values = dict(data)
        moved: dict[str, dict[str, Any]] = {}
        sizes = values.pop("sizes", None) or {}
        if not isinstance(sizes, Mapping):
            raise ValueError(f"sizes: items by probe, such as {{code: 200}}, not {sizes!r}")
        asked = values.get("tasks") or ()
        asked = [part.strip() for part in asked.split(",")] if isinstance(asked, str) else asked
        tasks = [*DEFAULT_TASKS, *(task for task in asked if isinstance(task, str))]
        for name, size in sizes.items():
            whole = [name] if ":" in str(name) else []  # a task by its whole name, run now or not
            meant = [
                task for task in dict.fromkeys([*tasks, *whole]) if name in (task, task.split(":", 1)[-1])
            ]
            if not meant:
                raise ValueError(f"sizes: no probe here is named '{name}'; known: {', '.join(tasks)}")
            for task in meant:
                moved.setdefault(task, {})["size"] = size
        if "needle_contexts" in values:
            moved.setdefault("needle", {})["contexts"] = values.pop("needle_contexts")
        if "buckets" in values:
            moved.setdefault("perplexity", {})["buckets"] = values.pop("buckets")
        given = values.get("options") or {}
        values["options"] = {**given, **{task: {**own, **given.get(task, {})} for task, own in moved.items()}}
        return values

    @model_validator(mode="after")
    def _some_task(self) -> EvalSettings:
        if not self.tasks:
            raise ValueError("tasks: name at least one")
        return self

    def shared(self) -> dict[str, Any]:
        """What is set for every task that has an option of that name."""
        return {name: getattr(self, name) for name in SHARED if name in self.model_fields_set}

    @classmethod
    def users_own(cls) -> Mapping[str, str]:
        return {
            "data.lm-eval": "Task files of lm-eval steer what it loads and, by !function, can name code.",
            "lm_eval_code": "It lets task files run code.",
        }

    def places(self, *families: str) -> dict[str, tuple[str, ...]]:
        """What `data` names for some families, a tuple each."""
        found = {family: self.data[family] for family in families if self.data.get(family)}
        return {family: (one,) if isinstance(one, str) else tuple(one) for family, one in found.items()}

    def paths(self) -> Iterator[tuple[str, str]]:
        """Files of sized probes: their contents change results."""
        for task in self.tasks:
            if sized_file(task):
                yield f"tasks {task}", task

    @property
    def served(self) -> bool:
        """Whether something else than a model in this process answers: a server, rules, a plugin's backend, a file."""
        return bool(self.answers) or asked_as_llm(self.model)

    def answer_tokens(self, published: int | None = None) -> int:
        """Tokens an answer may have: as set, as published, or the default."""
        return self.max_new_tokens or published or ANSWER_TOKENS
