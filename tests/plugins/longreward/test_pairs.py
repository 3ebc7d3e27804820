"""Reward and pair rule against references of a few lines, and the numbers about length."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lcx_longreward.pairs import CLOSE, FEW, SAME, TIE, Pair, Rules, bounds, faithfulness, pick, reward
from lcx_longreward.report import length_bias, pearson, spearman

REWARDS = st.lists(st.one_of(st.none(), st.integers(0, 8).map(lambda n: n * 1.25)), max_size=12)


def naive_pick(rewards, texts, rules):
    """Best against worst, as one would write it down: (chosen, rejected) or None."""
    scored = [i for i, r in enumerate(rewards) if r is not None]
    if len(scored) < rules.least_scored:
        return None
    chosen = next(i for i in scored if all(rewards[j] <= rewards[i] for j in scored))
    rejected = []
    for i in sorted(scored, key=lambda i: rewards[i]):  # stable: the earlier of equals first
        known = {texts[chosen], *(texts[j] for j in rejected)}
        far = rewards[chosen] - rewards[i] >= rules.margin and rewards[chosen] > rewards[i]
        if texts[i] not in known and far and len(rejected) < rules.rejected:
            rejected.append(i)
    return (chosen, tuple(rejected)) if rejected else None


def test_the_reward_is_the_mean_of_four() -> None:
    scores = {"helpfulness": 7.0, "logicality": 8.0, "faithfulness": 10 * 2.5 / 4, "completeness": 9.0}
    assert reward(scores) == (7 + 8 + 6.25 + 9) / 4
    for name in scores:
        assert reward({**scores, name: None}) is None
    assert faithfulness([1.0, 0.5, 0.0, 1.0]) == 6.25


@given(st.lists(st.floats(0, 10), min_size=4, max_size=4), st.sets(st.integers(0, 3)))
def test_bounds_hold_the_reward_to_the_last_bit(values: list[float], hidden: set[int]) -> None:
    names = ("helpfulness", "logicality", "faithfulness", "completeness")
    whole = dict(zip(names, values, strict=True))
    known = {name: None if i in hidden else whole[name] for i, name in enumerate(names)}
    low, high = bounds(known)
    exact = reward(whole)
    assert exact is not None
    assert low <= exact <= high
    assert hidden or low == exact == high


@settings(max_examples=300)
@given(REWARDS, st.integers(2, 6), st.sampled_from([0.0, 1.25, 3.0]), st.integers(1, 3), st.randoms())
def test_the_pair_rule_is_the_naive_one(rewards, least, margin, rejected, rng) -> None:
    texts = [rng.choice("abcdefgh") for _ in rewards]
    rules = Rules(least, margin, rejected)
    found = pick(rewards, texts, rules)
    expected = naive_pick(rewards, texts, rules)
    assert (None if isinstance(found, str) else (found.chosen, found.rejected)) == expected


def test_best_against_worst() -> None:
    texts = list("abcdef")
    assert pick([5, 9, 1, 3, None, 7], texts, Rules(5)) == Pair(1, (2,))
    assert pick([5, 9, 1, 3, None, 7], texts, Rules(5, rejected=3)) == Pair(1, (2, 3, 0))
    assert pick([5, 9, 1, 3, None, 7], texts, Rules(5, margin=5, rejected=3)) == Pair(1, (2, 3))
    assert pick([5, 9, 1, 3, None, None], texts, Rules(5)) == FEW


def test_ties_are_dropped() -> None:
    assert pick([4.0] * 5, list("abcde"), Rules(5)) == TIE
    assert pick([4.0, 4.0, 4.0, 4.0, 4.4], list("abcde"), Rules(5, margin=0.5)) == CLOSE
    # Of equals the earlier one is chosen, and the earlier one is rejected.
    assert pick([9, 1, 9, 1, 5], list("abcde"), Rules(5)) == Pair(0, (1,))


def test_the_chosen_text_is_never_rejected_too() -> None:
    assert pick([9, 1, 2, 3, 4], ["A b", "a  B", "c", "d", "e"], Rules(5)) == Pair(0, (2,))
    assert pick([9, 1, 1, 1, 1], ["a"] * 5, Rules(5)) == SAME
    assert pick([9, 1, 2, 3, 4], ["a", "c", "C", "d", "e"], Rules(5, rejected=2)) == Pair(0, (1, 3))


def test_a_margin_that_is_met_exactly_is_met() -> None:
    assert pick([0.7, 0.6, 0.6, 0.6, 0.6], list("abcde"), Rules(5, margin=0.1)) == Pair(0, (1,))


def test_correlations() -> None:
    assert pearson([1, 2, 3], [2, 4, 6]) == pytest.approx(1)
    assert pearson([1, 2, 3], [5, 5, 5]) is None
    assert spearman([1, 2, 3, 4], [1, 10, 100, 50]) == pytest.approx(0.8)
    assert spearman([3.0, 1.0, 3.0, 2.0], [7.0, 1.0, 7.0, 3.0]) == pytest.approx(
        1.0
    )  # equal ones share a rank
    rng = random.Random(0)
    xs, ys = [rng.random() for _ in range(50)], [rng.random() for _ in range(50)]
    numpy = pytest.importorskip("numpy")
    assert pearson(xs, ys) == pytest.approx(numpy.corrcoef(xs, ys)[0, 1])


def test_length_bias_says_by_how_much_chosen_answers_are_longer() -> None:
    found = length_bias([[1.0, 2.0], [5.0, 4.0]], [[10, 20], [10, 20]], [(20, 10), (10, 20), (30, 10)])
    assert found["spearman_within_questions"] == 0.0
    assert found["chosen_tokens"] == 20.0
    assert found["chosen_longer_by"] == 0.5
    assert found["pairs_with_longer_chosen"] == pytest.approx(0.6667)
    assert length_bias([], [], [])["spearman"] is None
