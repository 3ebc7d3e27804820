"""RULER's tasks (2404.06654): needles among many, variables to trace, words to count.

Facts, questions and code are ours; what is asked for and the score (the share of the references that the prediction
has, case ignored) are RULER's, but for whole words in place of substrings. One context is asked several questions
here, where the published task asks one; where the whole context is the evidence (`ruler:common`, `ruler:frequent`),
there is one question a context and no depth. Variables of other chains and values of other keys are decoys: a model
that lists everything names them.
"""

from __future__ import annotations

import itertools
import random
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence

from lcx.errors import UsageError
from lcx.evaluation.probes.haystack import (
    Asked,
    Fact,
    Scene,
    Taken,
    build_haystacks,
    count_by_length,
    draw_numbers,
    draw_uuids,
    draw_words,
    found_share,
    grid_view,
    lengths_view,
    long_keys,
    natural_only,
    scattered,
    some_keys,
)
from lcx.evaluation.probes.needle import FACT, NEEDLE, QUESTION, build_records, count_grid
from lcx.evaluation.statistics.grids import default_lengths, depth_points
from lcx.evaluation.task import GridOptions, LengthOptions, Source, Task
from lcx.records import Branch, Bundle, Document
from lcx.settings import setting

__all__ = [
    "COMMON",
    "FREQUENT",
    "MULTIKEY",
    "MULTIQUERY",
    "MULTIVALUE",
    "VARIABLES",
    "some_keys",
    "zeta_counts",
]

# ---- needles

SEVERAL_FACT = "One of the storage codes of the {key} is {value}."
SEVERAL_QUESTION = (
    "The {key} has more than one storage code, and the context gives each in a place of its own. What are they? "
    "Answer with all of these codes, separated by commas."
)
TOGETHER_QUESTION = (
    "What are the storage codes of {keys}? Answer with these codes in this order, separated by commas."
)


# ---- one key among many


class MultikeyOptions(GridOptions):
    """Options of `ruler:multikey`."""

    keys: int = setting(
        40, ge=2, description="facts of the same form in a context, those asked for among them"
    )
    fill: bool = setting(
        False, description="the whole context is facts of the same form, in place of the corpus"
    )
    uuids: bool = setting(
        False, description="keys and values are random identifiers, as in RULER's hardest form"
    )


def _multikey_samples(source: Source, options: MultikeyOptions) -> list[Bundle]:
    name = "ruler:multikey"
    if options.style == "bare":
        return build_records(source, options, name=name)
    points = depth_points(options.depths)
    count = len(points) if options.fill else max(options.keys, len(points))

    def draw(taken: Taken, seed: str, length: int) -> list[Scene]:
        rng = random.Random(f"lcx.{name}:{seed}")
        pairs = _pairs(name, taken, count, rng, options)
        asked = list(itertools.islice(pairs, len(points)))
        facts = [
            Fact(FACT.format(key=k, value=v), depth) for (k, v), depth in zip(asked, points, strict=True)
        ]
        questions = [
            Asked(QUESTION.format(key=key), value, (n,), {"query": key, "value": value, "depth": points[n]})
            for n, (key, value) in enumerate(asked)
        ]
        rest = (FACT.format(key=key, value=value) for key, value in pairs)
        if options.fill:
            return [Scene(tuple(facts), tuple(questions), filler=rest)]
        depths = scattered(count - len(points), rng)
        facts += [
            Fact(text, depth) for text, depth in zip(itertools.islice(rest, len(depths)), depths, strict=True)
        ]
        return [Scene(tuple(facts), tuple(questions))]

    return build_haystacks(
        name,
        source,
        options,
        draw,
        holds=f"{count} facts",
        mend="the option keys or depths lower",
        corpus=not options.fill,
    )


def _pairs(
    name: str, taken: Taken, count: int, rng: random.Random, options: MultikeyOptions
) -> Iterator[tuple[str, str]]:
    """Keys with their values, all different: as many as are needed, or endless where facts fill the context."""
    if options.uuids:
        return zip((f"item {key}" for key in draw_uuids(rng)), draw_uuids(rng), strict=False)
    if not options.fill:
        return zip(
            some_keys(name, taken, count, rng, "the option keys lower"),
            draw_numbers(taken, rng),
            strict=False,
        )
    return zip(_until_none(name, long_keys(rng)), draw_numbers(taken, rng), strict=False)


def _until_none(name: str, keys: Iterator[str]) -> Iterator[str]:
    yield from keys
    raise UsageError(
        f"{name} has no more names to fill the context with", hint="Set the option uuids to true."
    )


MULTIKEY = Task(
    name="ruler:multikey",
    summary="a fact among many of the same form, at every depth -> its value",
    samples=_multikey_samples,
    options=MultikeyOptions,
    score=NEEDLE.score,
    row_fields=("query", "value"),
    number_fields=("length", "depth"),
    summarize=grid_view,
    view="grid",
    count=count_grid,
)


# ---- several values of one key


class MultivalueOptions(LengthOptions):
    """Options of `ruler:multivalue`."""

    values: int = setting(4, ge=2, le=64, description="values of each key, every one in a fact of its own")
    questions: int = setting(5, ge=1, description="keys with that many values in a context, each asked for")


def _multivalue_samples(source: Source, options: MultivalueOptions) -> list[Bundle]:
    name = "ruler:multivalue"
    natural_only(name, options)

    def draw(taken: Taken, seed: str, length: int) -> list[Scene]:
        rng = random.Random(f"lcx.{name}:{seed}")
        keys = some_keys(name, taken, options.questions, rng, "the option questions lower")
        numbers = draw_numbers(taken, rng)
        values = [list(itertools.islice(numbers, options.values)) for _ in keys]
        depths = iter(scattered(options.questions * options.values, rng))
        facts: list[Fact] = []
        asked: list[Asked] = []
        for number, (key, own) in enumerate(zip(keys, values, strict=True)):
            gold = range(len(facts), len(facts) + len(own))
            facts += [Fact(SEVERAL_FACT.format(key=key, value=value), next(depths)) for value in own]
            others = [value for n, of in enumerate(values) if n != number for value in of]
            meta = {"query": key, "answers": own, "decoy": others}
            asked.append(Asked(SEVERAL_QUESTION.format(key=key), ", ".join(own), tuple(gold), meta))
        return [Scene(tuple(facts), tuple(asked))]

    return build_haystacks(
        name,
        source,
        options,
        draw,
        holds=f"{options.questions * options.values} facts",
        mend="the options values or questions lower",
    )


MULTIVALUE = Task(
    name="ruler:multivalue",
    summary="a key with several values scattered over the context -> all of them (share found)",
    samples=_multivalue_samples,
    options=MultivalueOptions,
    score=found_share,
    row_fields=("query",),
    number_fields=("length",),
    list_fields=("answers",),
    summarize=lengths_view,
    view="lengths",
    count=lambda options: count_by_length(options, options.questions),
)


# ---- several keys in one question


class MultiqueryOptions(LengthOptions):
    """Options of `ruler:multiquery`."""

    keys: int = setting(4, ge=2, le=64, description="keys that one question asks for together")
    questions: int = setting(5, ge=1, description="such questions a context, each with keys of its own")


def _multiquery_samples(source: Source, options: MultiqueryOptions) -> list[Bundle]:
    name = "ruler:multiquery"
    natural_only(name, options)
    count = options.questions * options.keys

    def draw(taken: Taken, seed: str, length: int) -> list[Scene]:
        rng = random.Random(f"lcx.{name}:{seed}")
        keys = some_keys(name, taken, count, rng, "the options keys or questions lower")
        values = list(itertools.islice(draw_numbers(taken, rng), count))
        facts = [
            Fact(FACT.format(key=key, value=value), depth)
            for key, value, depth in zip(keys, values, scattered(count, rng), strict=True)
        ]
        asked = []
        for start in range(0, count, options.keys):
            gold = tuple(range(start, start + options.keys))
            own = [keys[n] for n in gold]
            answers = [values[n] for n in gold]
            meta = {"query": ", ".join(own), "answers": answers}
            asked.append(Asked(TOGETHER_QUESTION.format(keys=_listed(own)), ", ".join(answers), gold, meta))
        return [Scene(tuple(facts), tuple(asked))]

    return build_haystacks(
        name,
        source,
        options,
        draw,
        holds=f"{count} facts",
        mend="the options keys or questions lower",
    )


def _listed(keys: list[str]) -> str:
    """`the a, the b and the c`."""
    named = [f"the {key}" for key in keys]
    return f"{', '.join(named[:-1])} and {named[-1]}"


MULTIQUERY = Task(
    name="ruler:multiquery",
    summary="several keys asked for at once -> all of their values (share found)",
    samples=_multiquery_samples,
    options=MultiqueryOptions,
    score=found_share,
    row_fields=("query",),
    number_fields=("length",),
    list_fields=("answers",),
    summarize=lengths_view,
    view="lengths",
    count=lambda options: count_by_length(options, options.questions),
)


# ---- variables

GIVEN = "Let the variable {name} have the value {value}."
COPIED = "Let the variable {name} have the value of the variable {other}."
VARIABLES_QUESTION = (
    "Which variables have the value {value}, be it given to them directly or copied from another variable? "
    "Answer with the names of all of them, separated by commas."
)
LETTERS = "BCDFGHJKLMNPQRSTVWXZ"
NAME_LETTERS = 5


class VariablesOptions(LengthOptions):
    """Options of `ruler:variables`."""

    chains: int = setting(4, ge=1, description="chains in a context, each asked for; RULER has one")
    hops: int = setting(4, ge=1, le=64, description="copies in a chain, so that it has one variable more")


def _variables_samples(source: Source, options: VariablesOptions) -> list[Bundle]:
    name = "ruler:variables"
    natural_only(name, options)
    links = options.hops + 1

    def draw(taken: Taken, seed: str, length: int) -> list[Scene]:
        rng = random.Random(f"lcx.{name}:{seed}")
        names = _variable_names(taken, rng)
        chains = [list(itertools.islice(names, links)) for _ in range(options.chains)]
        places = iter(scattered(options.chains * links, rng))
        facts: list[Fact] = []
        asked: list[Asked] = []
        for chain, value in zip(chains, draw_numbers(taken, rng), strict=False):
            # A copy stands after what it copies: read from front to back, every line makes sense.
            depths = sorted(itertools.islice(places, links))
            gold = range(len(facts), len(facts) + links)
            facts.append(Fact(GIVEN.format(name=chain[0], value=value), depths[0]))
            for (other, variable), depth in zip(itertools.pairwise(chain), depths[1:], strict=True):
                facts.append(Fact(COPIED.format(name=variable, other=other), depth))
            decoys = [variable for other in chains if other is not chain for variable in other]
            meta = {"query": value, "answers": chain, **({"decoy": decoys} if decoys else {})}
            asked.append(Asked(VARIABLES_QUESTION.format(value=value), ", ".join(chain), tuple(gold), meta))
        return [Scene(tuple(facts), tuple(asked))]

    return build_haystacks(
        name,
        source,
        options,
        draw,
        holds=f"{options.chains * links} assignments",
        mend="the options chains or hops lower",
    )


def _variable_names(taken: Taken, rng: random.Random) -> Iterator[str]:
    """Endless names of five capital consonants, each new and none in the text."""
    used: set[str] = set()
    while True:
        name = "".join(rng.choices(LETTERS, k=NAME_LETTERS))
        if name not in used and name.casefold() not in taken.words:
            used.add(name)
            yield name


VARIABLES = Task(
    name="ruler:variables",
    summary="chains of assignments scattered over the context -> all variables with a value (share found)",
    samples=_variables_samples,
    options=VariablesOptions,
    score=found_share,
    row_fields=("query",),
    number_fields=("length",),
    list_fields=("answers",),
    summarize=lengths_view,
    view="lengths",
    count=lambda options: count_by_length(options, options.chains),
)


# ---- words to count

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


class CommonOptions(LengthOptions):
    """Options of `ruler:common`."""

    top: int = setting(10, ge=1, le=100, description="frequent words in a list, all asked for")
    times: int = setting(30, ge=2, description="places that each of them has in the list")
    rare: int = setting(3, ge=1, description="places that each other word has")


class FrequentOptions(LengthOptions):
    """Options of `ruler:frequent`."""

    top: int = setting(3, ge=1, le=20, description="words asked for")
    alpha: float = setting(
        2.0,
        ge=1.05,
        le=6,
        description="exponent of the Zeta distribution: the nearer to 1, the flatter and harder",
    )


Make = Callable[[int], tuple[list[str], list[str]] | None]
"""The context's words in order and those wanted, for so many words in all; None where these are too few."""


def _common_samples(source: Source, options: CommonOptions) -> list[Bundle]:
    name = "ruler:common"
    natural_only(name, options)
    if options.rare >= options.times:
        raise UsageError(f"{name}: the option rare is below times ({options.times}), not {options.rare}")
    known = _words_of(source.documents)

    def draw(rng: random.Random) -> Make:
        first, later = known[:KNOWN_WORDS], known[KNOWN_WORDS:]
        pool = rng.sample(first, len(first)) + rng.sample(later, len(later))
        extra = draw_words(Taken(" ".join(known)), rng)
        frequent = [*pool[: options.top], *itertools.islice(extra, max(0, options.top - len(pool)))]
        others = pool[options.top :]
        order = str(rng.random())

        def make(size: int) -> tuple[list[str], list[str]] | None:
            count = (size - options.top * options.times) // options.rare
            if count < options.top:
                return None
            while len(others) < count:
                others.append(next(extra))
            listed = frequent * options.times + others[:count] * options.rare
            random.Random(order).shuffle(listed)
            return listed, frequent

        return make

    return _build_lists(
        name,
        source,
        options,
        draw,
        _numbered,
        COMMON_QUESTION.format(top=options.top),
        "the options times or top lower",
    )


def _frequent_samples(source: Source, options: FrequentOptions) -> list[Bundle]:
    name = "ruler:frequent"
    natural_only(name, options)

    def draw(rng: random.Random) -> Make:
        words: list[str] = []
        extra = draw_words(Taken(""), rng)
        order = str(rng.random())

        def make(size: int) -> tuple[list[str], list[str]] | None:
            counts = zeta_counts(size, options.alpha)
            # The last word asked for has to be told from the next one.
            if len(counts) <= options.top or counts[options.top - 1] <= counts[options.top] + 1:
                return None
            while len(words) < len(counts):
                words.append(next(extra))
            text = [word for word, count in zip(words, counts, strict=False) for _ in range(count)]
            random.Random(order).shuffle(text)
            return text, words[: options.top]

        return make

    question = FREQUENT_QUESTION.format(top=options.top)
    return _build_lists(name, source, options, draw, " ".join, question, "the options top or alpha lower")


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
    source: Source,
    options: LengthOptions,
    draw: Callable[[random.Random], Make],
    write: Callable[[Sequence[str]], str],
    question: str,
    mend: str,
) -> list[Bundle]:
    """One bundle a set and length. Raises UsageError where a given length is too short for what is to be counted."""
    prompt_tokens, seed = source.prompt_tokens, source.seed
    if prompt_tokens is None:
        raise UsageError(f"{name} counts tokens: it needs a tokenizer")
    lengths = options.lengths or default_lengths(source.window)
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


def _summed(
    name: str, summary: str, samples: Callable[..., list[Bundle]], options: type[LengthOptions]
) -> Task:
    return Task(
        name=name,
        summary=summary,
        samples=samples,
        score=found_share,
        row_fields=(),
        number_fields=("length",),
        list_fields=("answers",),
        summarize=lengths_view,
        view="lengths",
        options=options,
        count=lambda options: count_by_length(options, 1),
    )


COMMON = _summed(
    "ruler:common",
    "a list of words -> those that stand in it most often (share found)",
    _common_samples,
    CommonOptions,
)
FREQUENT = _summed(
    "ruler:frequent",
    "a text of made-up words -> its most frequent ones (share found)",
    _frequent_samples,
    FrequentOptions,
)
