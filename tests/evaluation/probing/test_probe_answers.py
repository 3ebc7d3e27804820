"""Every question can be answered from its context by rules alone, and by nothing else; wrong answers are counted."""

from __future__ import annotations

import random
import re
from typing import Any

import pytest

from tests.evaluation.probing.toolbox import (
    ORACLES,
    SCATTERED,
    WORDS,
    build,
    documents,
    rows_of,
    versions,
)
from tests.evaluation.tasks import score_predictions, task

TURNED = [
    *((name, {}) for name in ORACLES),
    ("ruler:multikey", {"fill": True}),
    ("ruler:multikey", {"fill": True, "uuids": True}),
    ("ruler:multikey", {"uuids": True}),
    ("ruler:variables", {"hops": 6}),
    ("ruler:frequent", {"alpha": 1.6, "top": 4}),
    ("multihop", {"hops": 3}),
    ("multihop", {"hops": 4, "chains": 4}),
    ("stale", {"stamp": "date"}),
    ("stale", {"versions": 2}),
]


def score(name: str, answer: Any, **given: Any) -> dict[str, Any]:
    return score_predictions(name, rows_of(build(name, **given), answer))


@pytest.mark.parametrize(("name", "given"), TURNED)
def test_reading_the_context_answers_everything(name: str, given: dict[str, Any]) -> None:
    said = score(
        name, lambda bundle, branch: f"It is {ORACLES[name](bundle.context, branch.question)}.", **given
    )
    assert said["average"] == said["estimate"]["mean"] == 1.0
    assert said["gap"] == 0.0
    assert said["n"] == sum(len(bundle.branches) for bundle in build(name, **given))
    assert said["view"] == ("grid" if name in ("needle", "ruler:multikey", "stale") else "lengths")
    assert said["unit"] == "tokens"
    assert len(said["intervals"]) == len(said["lengths"]) == 2
    # The reference answer is right too, and questions of one context are told apart by their words.
    assert score(name, lambda bundle, branch: branch.answer, **given)["average"] == 1.0
    for bundle in build(name, **given):
        assert len({branch.question for branch in bundle.branches}) == len(bundle.branches)


@pytest.mark.parametrize(("name", "given"), TURNED)
def test_without_the_context_nothing_is_right(name: str, given: dict[str, Any]) -> None:
    rng = random.Random(3)

    def guess(bundle: Any, branch: Any) -> str:
        return rng.choice(
            [documents()[0].text[:400], branch.question, str(rng.randrange(10**7)), "I do not know."]
        )

    guessed = score(name, guess, **given)["average"]
    # The words of a list are words of the corpus: some of a text's are among them.
    assert guessed <= (0.35 if name == "ruler:common" else 0.0)


@pytest.mark.parametrize("name", SCATTERED)
def test_one_questions_answer_is_wrong_for_the_next(name: str) -> None:
    def next_one(bundle: Any, branch: Any) -> str:
        branches = bundle.branches
        return branches[(branches.index(branch) + 1) % len(branches)].answer

    assert score(name, next_one)["average"] == 0.0


@pytest.mark.parametrize("name", SCATTERED)
def test_gold_is_the_evidence_and_all_of_it(name: str) -> None:
    for bundle in build(name):
        context = bundle.context or ""
        for branch in bundle.branches:
            meta = branch.meta
            golden = [context[start:end] for start, end in meta["gold"]]
            assert all(re.fullmatch(r"[A-Z][^.]+\.", text) for text in golden)
            assert all(context.count(text) == 1 for text in golden)
            assert 0 <= meta["at"] <= 1
            # The question is answered from these sentences alone, and not from what is left without them.
            told = " ".join(golden) if name != "stale" else golden[0] + " " + _older(context, branch)
            assert _score_of(name, branch, ORACLES[name](told, branch.question)) == 1.0
            left = context
            for text in golden:
                left = left.replace(text, "")
            for answer in meta.get("answers", [meta.get("value")]):
                assert name == "ruler:variables" or answer not in left
            if name == "multihop":
                assert len(golden) == meta["hops"]
                assert branch.answer in golden[-1]
                assert all(
                    name in golden[n] and name in golden[n + 1] for n, name in enumerate(meta["decoy"])
                )
                assert len(meta["decoy"]) == meta["hops"] - 1


def _older(context: str, branch: Any) -> str:
    key = branch.meta["query"]
    return " ".join(
        text
        for text in re.findall(r"According to [^.]+\.", context)
        if key in text and branch.answer not in text
    )


def _score_of(name: str, branch: Any, pred: str) -> float:
    from tests.evaluation.tasks import row_of

    score = task(name).score
    assert score is not None
    found = score(row_of(branch, pred))
    assert found is not None
    return found


@pytest.mark.parametrize("name", WORDS)
def test_the_evidence_of_counted_words_is_the_whole_context(name: str) -> None:
    for bundle in build(name):
        [branch] = bundle.branches
        assert branch.meta["gold"] == [[0, len(bundle.context or "")]]


def test_shares_are_of_the_references_and_case_does_not_count() -> None:
    def first_two(bundle: Any, branch: Any) -> str:
        return " and ".join(branch.meta["answers"][:2]).swapcase()

    assert score("ruler:multivalue", first_two)["average"] == pytest.approx(2 / 3)
    assert score("ruler:variables", first_two)["average"] == pytest.approx(2 / 4)
    assert score("ruler:common", first_two)["average"] == pytest.approx(2 / 4)
    # A part of a word is not the word.
    assert score("ruler:common", lambda b, r: ", ".join(w + "s" for w in r.meta["answers"]))["average"] == 0.0


def test_whoever_lists_everything_is_caught_by_the_decoys() -> None:
    def all_of_it(bundle: Any, branch: Any) -> str:
        return bundle.context

    for name in ("ruler:multivalue", "ruler:variables"):
        listed = score(name, all_of_it)
        assert (listed["average"], listed["decoys"]) == (1.0, 1.0)
        honest = score(name, lambda bundle, branch: branch.answer)
        assert honest["decoys"] == 0.0


def test_stopping_half_way_is_told_from_explaining() -> None:
    def person(bundle: Any, branch: Any) -> str:
        return str(branch.meta["decoy"][0])

    stopped = score("multihop", person, hops=3)
    assert (stopped["average"], stopped["stopped"], stopped["decoys"]) == (0.0, 1.0, 1.0)

    def explained(bundle: Any, branch: Any) -> str:
        return f"{branch.meta['decoy'][0]} comes from {branch.meta['decoy'][1]}, so it is {branch.answer}."

    full = score("multihop", explained, hops=3)
    assert (full["average"], full["stopped"], full["decoys"]) == (1.0, 0.0, 1.0)
    mixed = iter(range(10**6))
    half = score("multihop", lambda b, r: person(b, r) if next(mixed) % 2 else "no idea", hops=3)
    assert half["stopped"] == pytest.approx(0.5, abs=0.05)


def test_neither_the_first_nor_the_last_mention_is_the_newest_by_itself() -> None:
    bundles = build("stale")
    orders = {"first": 0, "between": 0, "last": 0}
    for bundle in bundles:
        for branch in bundle.branches:
            values = [value for _, value in versions(bundle.context or "", branch.question)]
            place = values.index(branch.answer)
            order = "first" if place == 0 else "last" if place == len(values) - 1 else "between"
            assert branch.meta["order"] == order
            assert set(branch.meta["decoy"]) == set(values) - {branch.answer}
            orders[order] += 1
    assert min(orders.values()) > 0
    total = sum(orders.values())

    def last_mention(bundle: Any, branch: Any) -> str:
        return versions(bundle.context, branch.question)[-1][1]

    said = score("stale", last_mention)
    assert said["average"] == pytest.approx(orders["last"] / total)
    assert said["misled"] == said["decoys"] == pytest.approx(1 - orders["last"] / total)
    assert {order: found["mean"] for order, found in said["by_order"].items()} == {
        "first": 0.0,
        "between": 0.0,
        "last": 1.0,
    }
    assert {order: found["n"] for order, found in said["by_order"].items()} == orders
    # At depth 0 nothing stands before it and at depth 1 nothing behind.
    assert said["by_depth"][0] == 0.0
    assert said["by_depth"][-1] == 1.0


def test_lengths_view_equals_a_naive_recount() -> None:
    rng = random.Random(8)
    rows = rows_of(build("multihop"), lambda b, r: rng.choice([r.answer, "no", None]))
    said = score_predictions("multihop", rows)
    for length, value, count in zip(said["lengths"], said["values"], said["counts"], strict=True):
        of = [row for row in rows if row["length"] == length]
        assert count == len(of)
        assert value == pytest.approx(sum(row["pred"] == row["value"] for row in of) / len(of))
    assert said["average"] == pytest.approx(sum(said["values"]) / 2)
    assert said["gap"] == pytest.approx(abs(said["values"][0] - said["values"][1]))
    for interval, value in zip(said["intervals"], said["values"], strict=True):
        assert interval is None or interval[0] <= value <= interval[1]
