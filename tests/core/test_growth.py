"""No reader of replies or files takes more than linear time, whatever a stranger wrote into them.

Time is measured as a ratio within one run: a text four times as long may take eight times as long (a quadratic reader
takes sixteen). A reader that is done with 1,600 characters within three milliseconds is not measured further.
"""

from __future__ import annotations

import importlib
import io
import random
import re
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from lcx_in2 import checks
from lcx_logo import filter as sifting
from lcx_longreward import judged, pairs, rubrics, tasks

from lcx.data import decontaminate, documents, files, rows, table, tokens, words
from lcx.evaluation import metrics, text_metrics
from lcx.evaluation.probes import haystack, val
from lcx.llm import builtin, judge, limits, openai, prompts, questions
from lcx.records import Document

SHORT, LONG = 400, 1_600
QUICK = 0.003
MOST = 8.0
ROOT = Path(__file__).parents[2]

# fmt: off
SHAPES = [
    "\n", " ", "\n ", "\t", "a", "0", "A ", ".", ". ", "*", "* ", "_", "(", "[", "[[", "]]", "{", "<", '"', "\\",
    "。", "【【", "中", "カ", "\u0300", "é", "1. ", "\n1. ", "1,", "1/2 ", "1+", "-1", "```\n", "#", "> ", "- ",
    "Question:\n", "Question: ", "Answer: ", "\nQ 1", "answer", "the answer is ", "####", "\\boxed{", 'rating":',
    "<think>", "</think>", "<|channel|>", "<statement>", "<task>", "<answer>", "<reference>", "[[none", "[[8", "选",
    "<|im_start|>user\n", "\n\nHuman: ", "### Human: ", "def f(\n", "class a", "name: x\n", "* a b\n", "fn a(",
    "\\[", "<b ", "<b '\">", "<!--", "</", "<script>", "&#9", "&amp",
]
# fmt: on
"""What is repeated."""
HEADS = ["Question: ", "answer", '{"rating": ', "### Human: ", "* ", "<b", "0"]
"""What stands before the repeated text."""


def _rows(text: str) -> None:
    list(files.stream_rows("a.jsonl", io.BytesIO(text.encode("utf-8", "surrogatepass")), files.Rejects()))


def _table_of(text: str) -> None:
    cutter = tokens.open_span_tokenizer("simple")
    table.segment_spans(text, cutter.starts([text])[0], 16)


def _markup(text: str) -> None:
    for begins, _ in rows.MARKUP.values():
        with suppress(ValueError):
            rows.markup_turns(begins + text)


def _row(text: str) -> None:
    with suppress(ValueError):
        rows.example_of({"prompt": text, "response": text})


def _rules(text: str) -> None:
    given = {
        "segment": text,
        "document": text,
        "question": text[:80],
        "answer": text,
        "chunk": text,
        "chunks": [text],
    }
    for rule in (builtin.write_question, builtin.write_task, builtin.judge_statements, builtin.judge_extract):
        rule(given, random.Random(0))


def _server(text: str) -> None:
    server = openai.ChatServer("m", openai.Endpoint("http://localhost/v1", "none"), {})
    for read in (server._read, openai._message):
        with suppress(openai.Failed):
            read(text.encode("utf-8", "surrogatepass"))


READERS: dict[str, Callable[[str], object]] = {
    "a writer's reply": questions.parse_reply,
    "thoughts": prompts.visible,
    "tags": lambda text: prompts.tagged(text, "task"),
    "fences": rubrics.fenced,
    "marks": judge.marked,
    "a rating": judge.read_rating,
    "a judge's reason": judge.before_mark,
    "a verdict": checks.read_verdict,
    "a side": judged.read_side,
    "LOGO's rating": sifting.parse_rating,
    "LOGO's answers": sifting.normal,
    "statements": rubrics.read_statements,
    "support": rubrics.read_support,
    "facts": rubrics.read_facts,
    "a task": tasks.read_task,
    "LongReward's answers": pairs.normal,
    "short answers": judged._plain,
    "a chosen candidate": lambda text: metrics.chosen(text, ["one", "two", "three"]),
    "a letter": metrics.letter_of_four,
    "a gold number": metrics.gold_number,
    "a final number": metrics.final_number,
    "FILM's number": metrics.final_number_as_film,
    "numbers": lambda text: metrics.numbers_right(text, "1"),
    "a class": lambda text: metrics.class_named(text, ["a"], ["a", "b"]),
    "a line of code": lambda text: metrics.line_similarity(text, ["def f(a): return 0"]),
    "F1": lambda text: text_metrics.english_f1(text, ["one two"]),
    "a refusal": text_metrics.refuses,
    "a name": lambda text: text_metrics.contains(text, "a.b", whole_words=True),
    "words": words.content_words,
    "words of items": decontaminate.words,
    "chat formats": _markup,
    "a row": _row,
    "a row with control tokens": lambda text: rows.example_of(
        {"context": text, "question": "q", "answer": text}
    ),
    "JSON": _rows,
    "a cell": files._cell,
    "HTML": documents.html_text,
    "segments": _table_of,
    "sentences": lambda text: haystack.cut(Document("d", text, {})),
    "sentences of VaL": lambda text: list(val.sentences(Document("d", text, {}), random.Random(0))),
    "functions": lambda text: list(val.functions(Document("d", text, {"kind": "code"}), random.Random(0))),
    "rules": _rules,
    "a server's reply": _server,
    "a server's key": openai.redact,
    "a pause": lambda text: limits.retry_after({"retry-after": text}),
}
"""Everything that reads what a model, a server or a stranger's file says."""


def took(read: Callable[[str], object], text: str, times: int) -> float:
    best = float("inf")
    for _ in range(times):
        start = time.process_time()
        read(text)
        best = min(best, time.process_time() - start)
    return best


def grows(read: Callable[[str], object], head: str, part: str) -> bool:
    """Whether a text four times as long takes far more than four times as long."""

    def text(length: int) -> str:
        return head + part * (length // len(part))

    long = took(read, text(LONG), 1) if took(read, text(LONG // 20), 1) < QUICK else 1.0
    if long < QUICK:
        return False
    return long > MOST * took(read, text(SHORT), 2) and all(
        took(read, text(LONG), 2) > MOST * took(read, text(SHORT), 5) for _ in range(3)
    )


@pytest.mark.parametrize("name", READERS)
def test_a_reader_takes_linear_time(name: str) -> None:
    shapes = [("", part) for part in SHAPES] + [(head, part) for head in HEADS for part in "\n 0"]
    assert not [shape for shape in shapes if grows(READERS[name], *shape)]


ANCHORED = {"_NAME", "_ALONE", "_V2_LETTER", "_BEGIN", "_OPENING", "_TAG", "_BARE", "_AROUND"}
"""Patterns that are matched at one place of a text only."""


def patterns() -> dict[str, re.Pattern[str]]:
    """Every compiled pattern at the top of a module of lcx and its plugins."""
    found = {}
    for base in (ROOT, ROOT / "plugins"):
        for file in sorted(base.glob("lcx*/**/*.py")):
            if "re.compile(" in file.read_text(encoding="utf-8"):
                name = ".".join(file.relative_to(base).with_suffix("").parts).removesuffix(".__init__")
                for key, value in vars(importlib.import_module(name)).items():
                    if isinstance(value, re.Pattern) and isinstance(value.pattern, str):
                        found[f"{name}.{key}"] = value
    return found


def test_no_pattern_takes_more_than_linear_time() -> None:
    """A new pattern is found by itself; one that only ever looks at a beginning is named above."""
    slow = []
    known = patterns()
    assert len(known) > 60
    for name, pattern in known.items():
        read = pattern.match if name.rpartition(".")[2] in ANCHORED else pattern.findall
        slow += [(name, part) for part in SHAPES if grows(read, "", part)]
    assert not slow
