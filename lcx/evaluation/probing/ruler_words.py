"""Counting words as in RULER (2404.06654): the most frequent of a word list, and of a text under a Zeta distribution.

The evidence is the whole context, so there is one question a context and no depth. `ruler:common` lists words
of the corpus: a few stand in it `times` times and all others `rare` times. `ruler:frequent` is a text of
made-up words, where the k-th most frequent has a share of k^-alpha / zeta(alpha). The score is the share of the
wanted words that the prediction has, case ignored.
"""

from __future__ import annotations

import itertools
import random
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from lcx.errors import UsageError
from lcx.evaluation.probes import Knob, Probe, ProbeOptions
from lcx.evaluation.probing.haystack import natural_only
from lcx.evaluation.probing.knobs import knob_values
from lcx.evaluation.probing.names import Taken, draw_words
from lcx.evaluation.probing.views import found_share, lengths_view
from lcx.evaluation.statistics.grids import default_lengths
from lcx.records import Branch, Bundle, Document

__all__ = ["COMMON", "FREQUENT", "zeta_counts"]

COMMON_QUESTION = (
    "The context is a numbered list of words. {top} of them stand in the list much more often than all the others. "
    "Which {top} words are these? Answer with these words alone, separated by commas."
)
FREQUENT_QUESTION = (
    "The context is a text of made-up words. Which {top} of them occur in it most often? Answer with these {top} words "
    "alone, separated by commas."
)
_WORD = re.compile(r"(?<![\w'’.-])[a-z]{4,10}(?![\w'’-])")
MOST_WORDS = 20_000
"""Different words of the corpus that are kept to draw from; made-up ones serve where these are too few."""
KNOWN_WORDS = 2_000
"""So many words that most documents have are used up before any rarer one."""
MOST_READ = 4_000_000
"""Characters of the corpus that are read for them."""

COMMON_KNOBS = {
    "top": Knob(10, "frequent words in a list, all asked for", least=1, most=100),
    "times": Knob(30, "places that each of them has in the list", least=2),
    "rare": Knob(3, "places that each other word has", least=1),
}
FREQUENT_KNOBS = {
    "top": Knob(3, "words asked for", least=1, most=20),
    "alpha": Knob(
        2.0, "exponent of the Zeta distribution: the nearer to 1, the flatter and harder", least=1.05, most=6
    ),
}

Make = Callable[[int], tuple[list[str], list[str]] | None]
"""The context's words in order and those wanted, for so many words in all; None where these are too few."""


def _build_common(documents: Iterable[Document], options: ProbeOptions, seed: int) -> list[Bundle]:
    name = "ruler:common"
    knobs = knob_values(name, COMMON_KNOBS, options.knobs)
    natural_only(name, options)
    if knobs["rare"] >= knobs["times"]:
        raise UsageError(f"{name}: the knob rare is below times ({knobs['times']}), not {knobs['rare']}")
    known = _words_of(documents)

    def draw(rng: random.Random) -> Make:
        first, later = known[:KNOWN_WORDS], known[KNOWN_WORDS:]
        pool = rng.sample(first, len(first)) + rng.sample(later, len(later))
        extra = draw_words(Taken(" ".join(known)), rng)
        frequent = [*pool[: knobs["top"]], *itertools.islice(extra, max(0, knobs["top"] - len(pool)))]
        others = pool[knobs["top"] :]
        order = str(rng.random())

        def make(size: int) -> tuple[list[str], list[str]] | None:
            count = (size - knobs["top"] * knobs["times"]) // knobs["rare"]
            if count < knobs["top"]:
                return None
            while len(others) < count:
                others.append(next(extra))
            listed = frequent * knobs["times"] + others[:count] * knobs["rare"]
            random.Random(order).shuffle(listed)
            return listed, frequent

        return make

    return _build_lists(
        name,
        options,
        seed,
        draw,
        _numbered,
        COMMON_QUESTION.format(top=knobs["top"]),
        "the knobs times or top lower",
    )


def _build_frequent(documents: Iterable[Document], options: ProbeOptions, seed: int) -> list[Bundle]:
    name = "ruler:frequent"
    knobs = knob_values(name, FREQUENT_KNOBS, options.knobs)
    natural_only(name, options)

    def draw(rng: random.Random) -> Make:
        words: list[str] = []
        extra = draw_words(Taken(""), rng)
        order = str(rng.random())

        def make(size: int) -> tuple[list[str], list[str]] | None:
            counts = zeta_counts(size, knobs["alpha"])
            # The last word asked for has to be told from the next one.
            if len(counts) <= knobs["top"] or counts[knobs["top"] - 1] <= counts[knobs["top"]] + 1:
                return None
            while len(words) < len(counts):
                words.append(next(extra))
            text = [word for word, count in zip(words, counts, strict=False) for _ in range(count)]
            random.Random(order).shuffle(text)
            return text, words[: knobs["top"]]

        return make

    question = FREQUENT_QUESTION.format(top=knobs["top"])
    return _build_lists(name, options, seed, draw, " ".join, question, "the knobs top or alpha lower")


def zeta_counts(size: int, alpha: float) -> list[int]:
    """How often each rank stands among `size` words: the expected number k^-alpha / zeta(alpha), rounded down.

    What rounding leaves goes to further words that stand once each. zeta is summed up to rank 10,000, and its
    tail by the integral.
    """
    terms = 10_000
    zeta = sum(k**-alpha for k in range(1, terms)) + terms ** (1 - alpha) / (alpha - 1) + terms**-alpha / 2
    counts = []
    for rank in itertools.count(1):
        expected = int(size * rank**-alpha / zeta)
        if expected < 1:
            break
        counts.append(expected)
    return counts + [1] * (size - sum(counts))


def _words_of(documents: Iterable[Document]) -> list[str]:
    """Different words of four to ten small letters; those that most documents have come first."""
    found: Counter[str] = Counter()
    read = 0
    for document in documents:
        if document.meta.get("kind") == "code":
            continue
        read += len(document.text)
        found.update(list(dict.fromkeys(_WORD.findall(document.text))))
        if len(found) >= MOST_WORDS or read >= MOST_READ:
            break
    return [word for word, _ in found.most_common(MOST_WORDS)]


def _numbered(words: Sequence[str]) -> str:
    return "\n".join(f"{number}. {word}" for number, word in enumerate(words, start=1))


# ---- as many words as fit a length


def _build_lists(
    name: str,
    options: ProbeOptions,
    seed: int,
    draw: Callable[[random.Random], Make],
    write: Callable[[Sequence[str]], str],
    question: str,
    mend: str,
) -> list[Bundle]:
    """One bundle a set and length. Raises UsageError where a given length is too short for what is to be counted."""
    prompt_tokens = options.prompt_tokens
    if prompt_tokens is None:
        raise UsageError(f"{name} counts tokens: it needs a tokenizer")
    lengths = options.lengths or default_lengths(options.window)
    bundles: list[Bundle] = []
    short: list[int] = []
    for number in range(options.sets):
        for length in lengths:
            make = draw(random.Random(f"lcx.{name}:{seed}:{number}:{length}"))

            def bundle(
                size: int, make: Make = make, number: int = number, length: int = length
            ) -> Bundle | None:
                made = make(size)
                if made is None:
                    return None
                context, wanted = write(made[0]), made[1]
                meta = {
                    "set": number,
                    "position": 0,
                    "query": "",
                    "answers": wanted,
                    "length": length,
                    "unit": "tokens",
                    "gold": [[0, len(context)]],
                }
                branch = Branch(question, ", ".join(wanted), "query", meta=meta)
                return Bundle(
                    f"{name}:{seed}:{number}:{length}",
                    (branch,),
                    context=context,
                    kind=name,
                    meta={"set": number, "length": length, "setting": "lengths"},
                )

            found = _largest(bundle, length, prompt_tokens)
            if found is not None:
                bundles.append(found)
            elif options.lengths or length == max(lengths):
                raise UsageError(
                    f"{name}: {length} tokens are too few to tell frequent words from rare ones",
                    why="Instructions, question and answer count too.",
                    hint=f"Set lengths higher, or {mend}.",
                )
            else:
                short.append(length)
    # A length that one set could not fill is left out of all.
    return [one for one in bundles if one.meta["length"] not in short]


def _largest(
    bundle: Callable[[int], Bundle | None], length: int, tokens: Callable[[Bundle], int]
) -> Bundle | None:
    """The bundle of the most words whose prompt has at most `length` tokens, to about 1%; None where none fits."""
    low, high = 0, 2 * length + 1  # no tokenizer writes two words in one token
    best: Bundle | None = None
    used = 0
    size = length // 4
    for _ in range(40):
        made = bundle(size)
        count = 0 if made is None else tokens(made)
        if count > length:
            high = size
        else:
            low = size
            if made is not None:
                best, used = made, count
        if high - low <= 1 or (best is not None and length - used <= length // 100):
            break
        # By proportion to a little less than the length; by halves while there is nothing to count.
        size = size * (length - length // 250) // count if count else (low + high) // 2
        size = min(max(size, low + 1), high - 1)
    return best


def _summed(name: str, summary: str, build: Callable[..., list[Bundle]], knobs: dict[str, Knob]) -> Probe:
    return Probe(
        name=name,
        summary=summary,
        build=build,
        score=found_share,
        row_fields=(),
        number_fields=("length",),
        list_fields=("answers",),
        summarize=lengths_view,
        view="lengths",
        knobs=knobs,
        questions=lambda options: 1,
    )


COMMON = _summed(
    "ruler:common",
    "a list of words -> those that stand in it most often (share found)",
    _build_common,
    COMMON_KNOBS,
)
FREQUENT = _summed(
    "ruler:frequent",
    "a text of made-up words -> its most frequent ones (share found)",
    _build_frequent,
    FREQUENT_KNOBS,
)
