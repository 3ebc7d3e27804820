"""What the tests of probes share: a corpus, a real tokenizer, options, and answerers that read the context."""

from __future__ import annotations

import datetime
import random
import re
from collections import Counter
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

from lcx.records import Bundle, Document
from tests.data.tokenizers_for_tests import as_transformers, byte_level
from tests.evaluation.tasks import build as built
from tests.evaluation.tasks import task

ANSWER = 24
"""Tokens that an answer may have."""
LENGTHS = (4000, 6000)
SCATTERED = (
    "needle",
    "ruler:multikey",
    "ruler:multivalue",
    "ruler:multiquery",
    "ruler:variables",
    "multihop",
    "stale",
)
"""Probes that hide facts in text."""
WORDS = ("ruler:common", "ruler:frequent")
SMALL: dict[str, dict[str, Any]] = {
    "ruler:multikey": {"keys": 16},
    "ruler:multivalue": {"questions": 4, "values": 3},
    "ruler:multiquery": {"questions": 4, "keys": 3},
    "ruler:variables": {"chains": 3, "hops": 3},
    "ruler:common": {"top": 4, "times": 12, "rare": 3},
    "multihop": {"chains": 5},
}
"""Small enough for contexts of a few thousand tokens of a tokenizer that knows few words."""


@lru_cache(maxsize=1)
def tokenizer() -> Any:
    return as_transformers(byte_level(), eos_token="</s>", bos_token="<s>")


@lru_cache(maxsize=1)
def encode() -> Callable[[Bundle], Any]:
    from lcx.data.assembly import Assembler

    return Assembler(tokenizer(), "in2").encode


def prompt_tokens(bundle: Bundle) -> int:
    encoded = encode()(bundle)
    return len(encoded.prefix) + max(branch.answer_start for branch in encoded.branches) + ANSWER


def count_tokens(text: str) -> int:
    return len(tokenizer()(text, add_special_tokens=False, verbose=False)["input_ids"])


def options(name: str = "", **more: Any) -> dict[str, Any]:
    """What `tasks.build` is given: small sizes, as far as the probe has these options, and what counts tokens."""
    known = task(name).options.model_fields if name else {"lengths", "depths", "sets"}
    sizes = {
        key: value for key, value in {"lengths": LENGTHS, "depths": 5, "sets": 2}.items() if key in known
    }
    counts = {"count": count_tokens, "prompt_tokens": prompt_tokens}
    return {**counts, **sizes, **SMALL.get(name, {}), **more}


@lru_cache(maxsize=1)
def documents() -> tuple[Document, ...]:
    """Paragraphs of sentences of made-up prose; no sentence occurs twice. Two headings without a full stop each."""
    rng = random.Random(5)
    words = ("river", "mill", "grain", "evening", "harbour", "signal", "letter", "winter", "garden", "copper")
    made = []
    for number in range(16):
        paragraphs = [f"Chapter {number}"]
        for part in range(5):
            sentences = [
                " ".join(rng.choices(words, k=rng.randint(3, 13))).capitalize() + f" {number}-{part}-{k}."
                for k in range(6)
            ]
            paragraphs.append(" ".join(sentences))
        made.append(Document(f"d{number}", "\n\n".join([*paragraphs, "The end"]), {"kind": "text"}))
    return tuple(made)


@lru_cache(maxsize=64)
def _built(name: str, seed: int, more: tuple[tuple[str, Any], ...]) -> tuple[Bundle, ...]:
    return tuple(built(name, iter(documents()), seed, **options(name, **dict(more))))


def build(name: str, seed: int = 0, **more: Any) -> tuple[Bundle, ...]:
    """The bundles of a probe with small options; built once."""
    return _built(name, seed, tuple(sorted(more.items())))


def rows_of(bundles: tuple[Bundle, ...], answer: Callable[[Bundle, Any], str | None]) -> list[dict[str, Any]]:
    """Rows of predictions as a run writes them: `answer(bundle, branch)` is what the model said."""
    from tests.evaluation.tasks import row_of

    return [
        {**row_of(branch, answer(bundle, branch)), "context": bundle.id, "item": f"{bundle.id}#{place}"}
        for bundle in bundles
        for place, branch in enumerate(bundle.branches)
    ]


# ---- answerers that know a context and a question as texts, and nothing of how they were made

NAME = r"([a-z]+ [a-z]+(?: [a-z]+)?|item [0-9a-f-]{36})"
VALUE = r"(\d{7}|[0-9a-f-]{36})"


def _one(pattern: str, text: str) -> str:
    found = re.findall(pattern, text)
    assert len(found) == 1, (pattern, found)
    return found[0] if isinstance(found[0], str) else found[0][0]


def look_up(context: str, question: str) -> str:
    key = _one(rf"code of the {NAME}\?", question)
    return _one(rf"code of the {key} is {VALUE}\.", context)


def look_up_several(context: str, question: str) -> str:
    key = _one(rf"^The {NAME} has more", question)
    return ", ".join(re.findall(rf"codes of the {key} is {VALUE}\.", context))


def look_up_each(context: str, question: str) -> str:
    keys = re.findall(rf"the {NAME}(?:,|\?| and)", question.replace(" and the", ", the"))
    return ", ".join(_one(rf"code of the {key} is {VALUE}\.", context) for key in keys)


def trace(context: str, question: str) -> str:
    value = _one(r"have the value (\d+)", question)
    known = {_one(rf"variable (\w+) have the value {value}\.", context)}
    copies = re.findall(r"variable (\w+) have the value of the variable (\w+)\.", context)
    assert len({name for name, _ in copies}) == len(copies)
    for name, other in copies:  # one pass will do: a copy stands after what it copies
        if other in known:
            known.add(name)
    return " ".join(sorted(known)).lower()


def count_most(context: str, question: str) -> str:
    wanted = int(_one(r"Which (\d+)", question))
    words = re.findall(r"[a-z]+", context)
    ranked = Counter(words).most_common(wanted + 1)
    assert ranked[wanted - 1][1] > ranked[wanted][1] + 1, "the last one asked for stands out"
    return ", ".join(word for word, _ in ranked[:wanted])


def follow(context: str, question: str) -> str:
    thing = _one(rf"looks after the {NAME}(?:[?;,]| and)", question.replace("?", " ?").replace(" ?", "?"))
    person = _one(rf"The {thing} is looked after by (\w+ \w+)\.", context)
    found = _one(rf"{person} was born in the town of (\w+)\.", context)
    if "river" in question:
        found = _one(rf"The town of {found} lies on the river (\w+)\.", context)
    if "mountain" in question:
        found = _one(rf"The river {found} rises on Mount (\w+)\.", context)
    return found


def versions(context: str, question: str) -> list[tuple[Any, str]]:
    """(stamp, value) of every version of what is asked for, in the order of the text."""
    key = _one(rf"code of the {NAME} (?:according|as of)", question)
    numbered = re.findall(
        rf"revision (\d+) of the register, the storage code of the {key} is {VALUE}\.", context
    )
    if numbered:
        return [(int(stamp), value) for stamp, value in numbered]
    dated = re.findall(rf"As of (\d+ \w+ \d+), the storage code of the {key} is {VALUE}\.", context)
    return [(datetime.datetime.strptime(stamp, "%d %B %Y"), value) for stamp, value in dated]


def newest(context: str, question: str) -> str:
    found = versions(context, question)
    assert len({stamp for stamp, _ in found}) == len(found) > 1
    return max(found)[1]


ORACLES: Mapping[str, Callable[[str, str], str]] = {
    "needle": look_up,
    "ruler:multikey": look_up,
    "ruler:multivalue": look_up_several,
    "ruler:multiquery": look_up_each,
    "ruler:variables": trace,
    "ruler:common": count_most,
    "ruler:frequent": count_most,
    "multihop": follow,
    "stale": newest,
}
