"""Short tasks, for what training on long contexts may cost: CommonsenseQA and GSM8K, with examples of our own.

The examples of the prompt are the context that all questions share, so they are computed once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lcx.data.templates import Template
from lcx.errors import UsageError
from lcx.evaluation import metrics
from lcx.evaluation.benchmarks.loading import Item, Prompt, Published, load_items, load_prompts, read_source
from lcx.evaluation.metrics import LETTERS
from lcx.evaluation.task import Samples, Source, Task, TaskOptions

__all__ = ["CSQA", "GSM8K"]

Row = Mapping[str, Any]

CSQA_ROWS = Published(
    "csqa",
    "csqa",
    ("csqa", "dev_rand_split", "validation", "dev", "test"),
    "",
    "hf:tau/commonsense_qa",
    split="validation",
)
GSM8K_ROWS = Published(
    "gsm8k",
    "gsm8k",
    ("gsm8k", "test"),
    "",
    "hf:openai/gsm8k",
    config="main",
)


def _csqa_fields(row: Row) -> dict[str, Any]:
    """Candidates and right answer, from the published form or the simple one."""
    inner = row["question"] if isinstance(row.get("question"), Mapping) else row
    labels, texts = _choices(row.get("choices", inner.get("choices")))
    found: dict[str, Any] = {"candidates": texts} if texts else {}
    candidates = row.get("candidates", texts)
    key = row.get("answer", row.get("answerKey"))
    if isinstance(key, list) and len(key) == 1:
        key = key[0]
    if isinstance(key, str) and isinstance(candidates, list) and key not in candidates:
        names = labels or list(LETTERS[: len(candidates)])
        if key.strip() in names:
            key = candidates[names.index(key.strip())]
    return found if key is None else {**found, "answer": key}


def _choices(value: Any) -> tuple[list[str], list[str]]:
    """Labels and texts of the two published forms: one object of two lists, or a list of objects."""
    if isinstance(value, Mapping) and value.get("text") is not None:
        texts = list(value["text"])
        return [str(one) for one in value.get("label") or LETTERS[: len(texts)]], texts
    if isinstance(value, Sequence) and not isinstance(value, str):
        if all(isinstance(one, Mapping) for one in value):
            return [str(one.get("label")) for one in value], [one.get("text") for one in value]
        return list(LETTERS[: len(value)]), list(value)
    return [], []


def _csqa_item(row: Row) -> tuple[str, dict[str, Any]] | None:
    inner = row["question"] if isinstance(row.get("question"), Mapping) else row
    question = inner.get("stem", inner.get("question"))
    fields = {"candidates": row.get("candidates"), **_csqa_fields(row)}
    options = fields["candidates"]
    if not isinstance(question, str) or not options or fields.get("answer") not in options:
        return None
    listed = "\n".join(f"({letter}) {text}" for letter, text in zip(LETTERS, options, strict=False))
    return f"{question}\n{listed}", fields


def _gsm8k_fields(row: Row) -> dict[str, Any]:
    """The number of the answer as text, whether it stands alone or after "####"; other texts stay as they are."""
    value = row.get("answer", row.get("answers"))
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if isinstance(value, int | float) and not isinstance(value, bool):
        value = str(value)
    if isinstance(value, str) and (gold := metrics.gold_number(value)) is not None:
        value = f"{gold:f}"
    return {} if value is None else {"answer": value}


def _gsm8k_item(row: Row) -> tuple[str, dict[str, Any]] | None:
    fields = _gsm8k_fields(row)
    answer = fields.get("answer")
    if not isinstance(row.get("question"), str) or not isinstance(answer, str):
        return None
    return None if metrics.gold_number(answer) is None else (row["question"], fields)


def _prompt(family: str, path: str | None) -> tuple[Prompt, str]:
    """The prompt of a short task, and the examples that are its context (none: it is asked without any)."""
    spec = load_prompts(family, path).get(family)
    if not isinstance(spec, Mapping) or "{input}" not in str(spec.get("question", "")):
        raise UsageError(
            f"the prompts of {family} need an object '{family}' with a `question` that has {{input}} in it",
            hint='{"' + family + '": {"head": "...", "shots": ["..."], "question": "Q: {input}\\nA:"}}',
        )
    shots = [str(one) for one in spec.get("shots") or ()]
    before, _, after = str(spec["question"]).partition("{input}")
    head = str(spec.get("head", ""))
    between = f"\n\n{before}"
    template = Template(family, head=f"{head}\n\n", between=between, after=after, bare_head=head + between)
    return Prompt(template), "\n\n".join(shots)


def _loader(
    published: Published, item: Callable[[Row], tuple[str, dict[str, Any]] | None], form: str
) -> Callable[[Source, TaskOptions], Samples]:
    def load(source: Source, options: TaskOptions) -> Samples:
        """The questions. Raises MissingError with the line that gets them where they are not there."""
        rows = read_source(published, source.data)
        prompt, shots = _prompt(published.family, source.prompts)
        counts: Counter[str] = Counter()
        items = []
        for number, row in enumerate(rows):
            if (row.get("answerKey") == "" and "choices" in row) or row.get("answer") == "":
                counts["no answer"] += 1  # test splits are published without
                continue
            made = item(row)
            if made is None:
                raise UsageError(
                    f"{source.data}, row {number} (counted from 0) is no row of {published.task}",
                    why=f"It has {', '.join(row)}.",
                    hint=f"Rows are {form}.",
                )
            question, fields = made
            items.append(Item(str(row.get("id", row.get("_id", number))), shots, {"input": question}, fields))
        return load_items(published.task, items, prompt, counts)

    return load


CSQA = Task(
    name="csqa",
    summary="CommonsenseQA, with examples: short questions with five choices",
    family="csqa",
    options=TaskOptions,
    view="table",
    samples=_loader(
        CSQA_ROWS,
        _csqa_item,
        "{question, choices: {label, text}, answerKey} or {question, candidates, answer}",
    ),
    score=lambda row: metrics.csqa(row["pred"], row),
    row_fields=("answer", "candidates"),
    compat={"film": lambda row: metrics.csqa_as_film(row["pred"], row)},
    max_new_tokens=16,
    fields=_csqa_fields,
    shots=True,
    info={"metric": "csqa"},
)
GSM8K = Task(
    name="gsm8k",
    summary="GSM8K, with worked examples: the number that a solution ends with",
    family="gsm8k",
    options=TaskOptions,
    view="table",
    samples=_loader(GSM8K_ROWS, _gsm8k_item, '{question, answer} with "#### N" or a number in answer'),
    score=lambda row: metrics.gsm8k(row["pred"], row),
    row_fields=("answer",),
    compat={"film": lambda row: metrics.gsm8k_as_film(row["pred"], row)},
    max_new_tokens=384,
    fields=_gsm8k_fields,
    shots=True,
    info={"metric": "gsm8k"},
)
