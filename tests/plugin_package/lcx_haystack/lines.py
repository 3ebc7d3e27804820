"""A probe: the context is a list of numbered lines, and every line's last word is asked for."""

import random
import re

from lcx.errors import UsageError
from lcx.evaluation.task import ProbeOptions, Task
from lcx.evaluation.text_metrics import contains
from lcx.records import Branch, Bundle
from lcx.settings import setting


class Options(ProbeOptions):
    """Options of the probe, beside `sets` and `style`, which every probe has."""

    words: int = setting(6, ge=2, description="words of a line")
    size: int = setting(800, ge=1, description="lines of a context")


def samples(source, options):
    """`options.sets` contexts of `options.size` lines each, made of the corpus's words."""
    words = []
    for document in source.documents:
        words += re.findall(r"[a-z]{3,}", document.text)
        if len(words) > 10_000:
            break
    if not words:
        raise UsageError("haystack:lines needs a corpus with words in it")
    return [context(words, options, source.seed, number) for number in range(options.sets)]


def context(words, options, seed, number):
    """One context and its questions: they share it, so that it is read once."""
    rng = random.Random(f"haystack:lines:{seed}:{number}")
    lines, branches, start = [], [], 0
    for position in range(options.size):
        line = f"Line {position + 1}: {' '.join(rng.choices(words, k=options.words))}"
        answer = line.split()[-1]
        question = f"What is the last word of line {position + 1}? Answer with this word alone."
        meta = {
            "set": number,
            "position": position,
            "query": str(position + 1),
            "value": answer,
            "gold": [[start, start + len(line)]],
        }
        branches.append(Branch(question, answer, "query", meta=meta))
        lines.append(line)
        start += len(line) + 1
    name = f"haystack:lines:{seed}:{number}"
    return Bundle(name, tuple(branches), context="\n".join(lines), meta={"items": options.size})


def score(row):
    """1.0 where the word is in the prediction."""
    return float(contains(row["pred"].lower(), row["value"], whole_words=True))


LINES = Task(
    name="haystack:lines",
    summary="the number of a line -> its last word",
    samples=samples,
    options=Options,
    score=score,
    row_fields=("query", "value"),
    count=lambda options: (options.sets, options.sets * options.size),
)
