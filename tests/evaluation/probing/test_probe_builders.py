"""Contexts of probes: as long as asked for, the same for the same seed, and refused where they do not fit."""

from __future__ import annotations

import json
import math
import os
import random
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lcx.data.stdlib import catalogue_documents, stale_documents
from lcx.errors import UsageError
from lcx.evaluation.probes.haystack import (
    MOST_CHARACTERS,
    Piece,
    Taken,
    cut,
    draw_keys,
    draw_numbers,
    draw_words,
    hide,
    long_keys,
    scattered,
)
from lcx.evaluation.probes.ruler import zeta_counts
from lcx.evaluation.task import options_of
from lcx.records import Document
from tests.evaluation.probing.toolbox import (
    LENGTHS,
    SCATTERED,
    WORDS,
    build,
    count_tokens,
    documents,
    options,
    prompt_tokens,
)
from tests.evaluation.tasks import build as built
from tests.evaluation.tasks import probes
from tests.evaluation.tasks import task as find

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize("name", [*SCATTERED, *WORDS])
def test_contexts_fill_their_lengths_and_no_more(name: str) -> None:
    longest = max(count_tokens(text) for one in documents() for text in cut(one))
    bundles = build(name)
    assert [bundle.meta["length"] for bundle in bundles] == [*LENGTHS, *LENGTHS]
    assert len({bundle.id for bundle in bundles}) == len({bundle.context for bundle in bundles}) == 4
    for bundle in bundles:
        used, length = prompt_tokens(bundle), bundle.meta["length"]
        assert used <= length
        assert used >= length - longest if name in SCATTERED else used >= 0.96 * length
        assert all(branch.meta["length"] == length for branch in bundle.branches)
        assert [branch.meta["position"] for branch in bundle.branches] == list(range(len(bundle.branches)))
    task = find(name)
    known = {key: value for key, value in options(name).items() if key in task.options.model_fields}
    assert task.count is not None
    assert task.count(options_of(task, known)) == (4, sum(len(bundle.branches) for bundle in bundles))


@pytest.mark.parametrize("given", [{"fill": True}, {"fill": True, "uuids": True}])
def test_a_haystack_of_needles_only(given: dict[str, Any]) -> None:
    for bundle in build("ruler:multikey", **given):
        facts = re.findall(r"The storage code of the ([a-z0-9 -]+) is ([0-9a-f-]+)\. ?", bundle.context or "")
        assert "".join(re.split(r"The storage code of the [^.]+\. ?", bundle.context or "")) == ""
        assert len(facts) >= 40
        assert len({key for key, _ in facts}) == len({value for _, value in facts}) == len(facts)
        assert 0.96 * bundle.meta["length"] <= prompt_tokens(bundle) <= bundle.meta["length"]
        for branch in bundle.branches:
            assert abs(branch.meta["at"] - branch.meta["depth"]) < 0.02


@pytest.mark.parametrize("name", [*SCATTERED, *WORDS])
def test_the_seed_decides_and_nothing_else(name: str) -> None:
    again = built(name, list(documents()), 0, **options(name))
    assert again == list(build(name))
    other = build(name, seed=1)
    assert not {bundle.context for bundle in other} & {bundle.context for bundle in again}
    # One length's contexts do not depend on what other sets there are.
    if name in SCATTERED:
        single = built(name, documents(), **options(name, sets=2, lengths=LENGTHS[1:]))
        assert [bundle.id for bundle in single] == [
            bundle.id for bundle in again if bundle.meta["length"] == LENGTHS[1]
        ]


BUILD_ALL = """
import hashlib, json
from lcx.evaluation.task import Source, options_of
from lcx.plugins import loaded
from lcx.records import Document
words = "river mill grain evening harbour signal letter winter garden copper".split()
text = " ".join(f"The {a} and the {b} {n}." for n, a in enumerate(words) for b in words)
documents = [Document(str(n), text.replace("The", f"No. {n}: the"), {}) for n in range(9)]
count = lambda text: len(text.split())
size = lambda bundle: count(bundle.context) + max(count(branch.question) for branch in bundle.branches)
source = Source(documents, 3, tokenize=str.split, prompt_tokens=size)
sizes = {"sets": 2, "lengths": (900,), "depths": 4}
known = loaded().probes
found = {}
for name in known.names():
    task = known.load(name)
    if not task.published and not task.reads and not name.startswith("val:"):
        built = task.samples(source, options_of(task, {}, sizes))
        rows = [[b.id, b.context, [[r.question, r.answer, r.meta] for r in b.branches]] for b in built]
        found[name] = hashlib.sha256(json.dumps(rows).encode()).hexdigest()
print(json.dumps(found))
"""


@pytest.mark.slow
def test_another_process_builds_the_same_bytes() -> None:
    """Sets of texts have another order in each process: nothing may follow from it. Torch is not imported either."""
    said = []
    for hash_seed in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-c", BUILD_ALL + "import sys; assert 'torch' not in sys.modules"],
            cwd=ROOT,
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        said.append(json.loads(done.stdout))
    assert said[0] == said[1]
    assert len(said[0]) >= 9
    assert len(set(said[0].values())) == len(said[0])


@pytest.mark.parametrize("name", ["ruler:multivalue", "ruler:multiquery", "ruler:variables", "multihop"])
def test_evidence_is_scattered_over_the_whole_context(name: str) -> None:
    for bundle in build(name):
        places = sorted({start for branch in bundle.branches for start, _ in branch.meta["gold"]})
        size = len(bundle.context or "")
        bands = {place * 4 // size for place in places}
        assert bands == {0, 1, 2, 3}
        for branch in bundle.branches:
            starts = [start for start, _ in branch.meta["gold"]]
            assert len(set(starts)) == len(starts) > 1
            if name == "ruler:variables":
                assert starts == sorted(starts), "a copy stands after what it copies"
    orders = [
        [start for start, _ in branch.meta["gold"]]
        for bundle in build("multihop")
        for branch in bundle.branches
    ]
    assert any(order != sorted(order) for order in orders), "source order is not kept"


def test_the_list_has_as_many_places_a_word_as_asked_for() -> None:
    for bundle in build("ruler:common", rare=2):
        lines = (bundle.context or "").split("\n")
        assert [line.split(". ")[0] for line in lines] == [str(n) for n in range(1, len(lines) + 1)]
        words = [line.split(". ")[1] for line in lines]
        counts = {word: words.count(word) for word in words}
        answers = bundle.branches[0].meta["answers"]
        assert {counts[word] for word in answers} == {12}
        assert {count for word, count in counts.items() if word not in answers} == {2}


@given(st.integers(1, 200_000), st.floats(1.1, 5))
def test_zeta_counts(size: int, alpha: float) -> None:
    counts = zeta_counts(size, alpha)
    assert sum(counts) == size
    assert counts == sorted(counts, reverse=True)
    assert min(counts) >= 1


def test_zeta_counts_follow_the_distribution() -> None:
    counts = zeta_counts(60_000, 2.0)
    for rank in (1, 2, 3, 10, 50):
        assert counts[rank - 1] == int(60_000 * 6 / math.pi**2 / rank**2)
    fourth = zeta_counts(60_000, 4.0)
    assert fourth[:3] == [int(60_000 * 90 / math.pi**4 / rank**4) for rank in (1, 2, 3)]


texts = st.text("abc .\n", min_size=1, max_size=12).filter(str.strip)


@given(st.lists(st.tuples(texts, st.integers(0, 9)), max_size=8), st.lists(st.floats(0, 1), max_size=6))
def test_hidden_sentences_are_where_it_is_said(parts: list[tuple[str, int]], depths: list[float]) -> None:
    filler = [Piece(text, tokens) for text, tokens in parts]
    depths = sorted(depths)
    needles = [Piece(f" <{number}> ", 3) for number in range(len(depths))]
    context, found = hide(filler, needles, depths)
    assert [context[one.start : one.end] for one in found] == [f"<{number}>" for number in range(len(depths))]
    assert [one.start for one in found] == sorted(one.start for one in found)
    left = re.sub(r"<\d>", "", context)
    assert "".join(left.split()) == "".join("".join(text for text, _ in parts).split())


def test_names_and_numbers_stand_nowhere_in_the_text() -> None:
    rng = random.Random(0)
    key, number = (
        draw_keys(Taken(""), 1, random.Random(0))[0],
        next(draw_numbers(Taken(""), random.Random(0))),
    )
    word = next(draw_words(Taken(""), random.Random(0)))
    taken = Taken(f"x{key.upper()}s and 99{number}, {word.capitalize()}!")
    assert key not in draw_keys(taken, 999, random.Random(0))
    assert len(draw_keys(taken, 999, rng)) == 675
    assert next(draw_numbers(taken, random.Random(0))) != number
    assert next(draw_words(taken, random.Random(0))) != word
    keys = list(long_keys(rng))
    assert len(set(keys)) == 26**3
    with pytest.raises(UsageError, match="no more made-up words"):
        list(draw_words(Taken(""), rng, (1, 1)))


@given(st.integers(1, 40), st.integers(0, 99))
def test_scattered_depths(count: int, seed: int) -> None:
    depths = scattered(count, random.Random(seed))
    assert sorted(int(depth * count) for depth in depths) == list(range(count))


@given(st.text("ab .\n。", max_size=60), st.integers(1, 99))
def test_cutting_loses_nothing(text: str, times: int) -> None:
    parts = cut(Document("d", text * times))
    whole = (text * times).strip()
    assert "".join(parts) == ("\n\n" + whole if whole else "")
    assert all(len(part.strip()) <= MOST_CHARACTERS for part in parts)


@pytest.mark.parametrize("text", ["word " * 9000, "字" * 9000, "a,b;c\n" * 5000])
def test_a_corpus_without_sentences_fills_contexts_too(text: str) -> None:
    bundles = built("needle", [Document("long", text)], **options(sets=1, lengths=(4000,)))
    assert 0.85 * 4000 <= prompt_tokens(bundles[0]) <= 4000
    for branch in bundles[0].branches:
        assert abs(branch.meta["at"] - branch.meta["depth"]) < 0.15


# ---- what is refused


@pytest.mark.parametrize("name", [*SCATTERED, *WORDS])
def test_what_does_not_fit_is_said_and_default_lengths_are_left_out(name: str) -> None:
    with pytest.raises(UsageError, match=rf"^{name}: 300 tokens are too few") as short:
        built(name, documents(), **options(name, lengths=(300, 4000)))
    assert "lengths higher" in short.value.hint
    by_window = built(name, documents(), **options(name, lengths=(), window=9000, sets=1))
    lengths = [bundle.meta["length"] for bundle in by_window]
    assert lengths[-1] == 8192
    assert lengths == [1024, 2048, 4096, 8192][-len(lengths) :]
    with pytest.raises(UsageError, match="it needs a tokenizer"):
        built(name, documents())
    if name in SCATTERED:
        with pytest.raises(UsageError, match=f"{name} needs 90000 tokens a context, but the corpus gives"):
            built(name, documents(), **options(name, lengths=(90_000,)))


@pytest.mark.parametrize(
    "name", ["ruler:multivalue", "ruler:variables", "ruler:common", "ruler:frequent", "multihop"]
)
def test_sentences_only(name: str) -> None:
    with pytest.raises(UsageError, match=f"{name} asks in sentences, and style is bare"):
        built(name, documents(), style="bare")


def test_records_serve_multikey_and_stale() -> None:
    facts = [Document(**row) for row in catalogue_documents(6, 1, records=32)]
    doubled = [Document(**row) for row in stale_documents(6, 1)]
    bare: dict[str, Any] = {"sets": 2, "style": "bare", "records": (16, 48), "depths": 4}
    keyed = built("ruler:multikey", facts, **bare)
    assert [len(bundle.branches) for bundle in keyed] == [16, 16, 48, 48]
    assert keyed[0].id.startswith("ruler:multikey:")
    found = built("stale", doubled, **bare)
    plain = built("needle", doubled, **bare)
    for bundle, whole in zip(found, plain, strict=True):
        assert bundle.context == whole.context
        with_decoy = [branch for branch in whole.branches if "decoy" in branch.meta]
        assert [branch.meta for branch in bundle.branches] == [branch.meta for branch in with_decoy]
        lines = (bundle.context or "").split("\n")
        for branch in bundle.branches:
            [[start, end]] = branch.meta["gold"]
            line = (bundle.context or "")[start:end]
            assert line == lines[branch.meta["position"]]
            assert line.split()[:3] == ["*", branch.meta["query"], branch.meta["value"]]
            assert f"~ {branch.meta['query']} {branch.meta['decoy']}" in (bundle.context or "")
    with pytest.raises(UsageError, match="stale doubles, and this one has none") as none:
        built("stale", facts, **bare)
    assert "stdlib:stale" in none.value.hint
    with pytest.raises(UsageError, match="ruler:multikey in style bare needs a corpus of records"):
        built("ruler:multikey", documents(), **bare)


@pytest.mark.parametrize("name", [name for name in probes() if name.startswith("val:")])
@pytest.mark.parametrize("style", ["natural", "bare"])
def test_val_gold_is_the_line_asked_about(name: str, style: Any) -> None:
    rows = [Document(**row) for row in catalogue_documents(8, 2)]
    for bundle in built(name, rows, size=40, sets=2, style=style):
        lines = (bundle.context or "").split("\n")
        for branch in bundle.branches:
            [[start, end]] = branch.meta["gold"]
            assert (bundle.context or "")[start:end] == lines[branch.meta["position"]]
            assert branch.meta["query"] in (bundle.context or "")[start:end]
