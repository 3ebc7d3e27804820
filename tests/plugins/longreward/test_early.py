"""Early stopping leaves the pairs as they are, whatever the rewards, failures and texts."""

from __future__ import annotations

import asyncio
import random
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from lcx_longreward.early import Standing, needed
from lcx_longreward.judge import Case, Judge, Judged
from lcx_longreward.pairs import Pair, Rules, pick
from lcx_longreward.rubrics import Rubrics, load_prompts

from lcx.data.tokens import BUILTIN
from lcx.llm.protocol import Completion, Request, Response
from lcx.retrieval import BM25

PROMPTS = load_prompts(None)
RATING = st.sampled_from([*range(11), "broken"])
LEVELS = st.one_of(
    *[st.lists(st.sampled_from(["Fully", "Partially", "No"]), max_size=3)] * 5, st.just("broken")
)
ANSWERS = st.lists(
    st.fixed_dictionaries(
        {"h": RATING, "l": RATING, "c": RATING, "levels": LEVELS, "name": st.sampled_from("uvw")}
    ),
    min_size=1,
    max_size=12,
)


class Scripted:
    """A judge whose replies are planned by answer: replies arrive in any order."""

    def __init__(self, plans: list[dict[str, Any]], jumble: Any = None) -> None:
        self.plans, self.calls, self.jumble = plans, 0, jumble

    async def ask(self, request: Request, *, attempt: int = 0, part: str = "") -> Response:
        self.calls += 1
        if self.jumble is not None:
            for _ in range(self.jumble.randint(0, 5)):
                await asyncio.sleep(0)
        return Response((Completion(self.text(part, request.fields)),))

    def text(self, part: str, fields: Any) -> str:
        if part == "extract":
            return "1. fact"
        if part == "support":
            return f"[[{fields['statement'].split()[-1]} supported]]"
        plan = self.plans[fields["answer"].count(" ")]
        if part == "statements":
            if plan["levels"] == "broken":
                return "?"
            said = [f"<statement>{i} {level}</statement>" for i, level in enumerate(plan["levels"])]
            return "".join(said) or "[[none]]"
        value = plan[part[0]]
        return "?" if value == "broken" else f"[[{value}]]"


def judged(plans: list[dict[str, Any]], rules: Rules | None, jumble: Any = None) -> tuple[Judged, int, Case]:
    # Blanks at the end tell which plan is meant; to the rule of pairs, answers of one name are the same text.
    texts = tuple(plan["name"] + " " * i for i, plan in enumerate(plans))
    case = Case("One. Two. Three.", "What?", texts)
    exchange = Scripted(plans, jumble)
    judge = Judge(exchange, Rubrics(PROMPTS, tries=1), BM25(), BUILTIN["simple"], early=rules)
    return asyncio.run(judge.judge(case)), exchange.calls, case


@settings(max_examples=60, deadline=None)
@given(ANSWERS, st.integers(2, 4), st.sampled_from([0.0, 0.5, 2.5]), st.integers(1, 3), st.randoms())
def test_the_pairs_are_those_of_the_full_computation(plans, least, margin, rejected, rng) -> None:
    rules = Rules(least, margin, rejected)
    whole, calls, case = judged(plans, None)
    short, fewer, _ = judged(plans, rules, rng)
    expected = pick([v.reward for v in whole.verdicts], case.answers, rules)
    found = pick([v.reward for v in short.verdicts], case.answers, rules)
    assert found == expected or (isinstance(found, str) and isinstance(expected, str))
    assert fewer <= calls
    for one, other in zip(short.verdicts, whole.verdicts, strict=True):
        assert one.skipped or one.reward == other.reward
        for name, value in one.scores.items():
            assert value is None or value == other.scores[name]


def some_standings(rng: random.Random) -> tuple[list[Standing], list[str], Rules]:
    """A few answers with rewards of few steps and few texts, so that ties and equal texts are common."""
    standings, texts = [], []
    for _ in range(rng.randint(3, 7)):
        low, done, failed = float(rng.randint(0, 4)), rng.random() < 0.7, rng.random() < 0.05
        high = low if done else low + rng.randint(0, 3)
        standings.append(Standing(low, high, done and not failed, failed))
        texts.append(rng.choice("abcdef"))
    return standings, texts, Rules(rng.randint(2, 4), rng.choice([0.0, 0.0, 2.0]), rng.randint(1, 3))


def test_what_is_not_needed_changes_nothing_whatever_it_turns_out_to_be() -> None:
    rng = random.Random(0)
    left = 0
    for _ in range(6000):
        standings, texts, rules = some_standings(rng)
        wanted = needed(standings, texts, rules)
        left += sum(not one.done and not one.failed for one in standings) - len(wanted)
        for _ in range(12):
            final = [
                None
                if one.failed or (not one.done and rng.random() < 0.15)
                else rng.randint(one.low, one.high)
                for one in [Standing(int(o.low), int(o.high), o.done, o.failed) for o in standings]
            ]
            short = [
                value if one.done or place in wanted else None
                for place, (value, one) in enumerate(zip(final, standings, strict=True))
            ]
            full, found = pick(final, texts, rules), pick(short, texts, rules)
            assert full == found or (isinstance(full, str) and isinstance(found, str)), (
                standings,
                texts,
                rules,
                final,
            )
    assert left > 1000


def test_what_is_needed_can_change_the_pair() -> None:
    """The rule does not keep much that it could leave out: of what it keeps, most matters for some outcome."""
    rng = random.Random(1)
    kept = mattered = 0
    for _ in range(400):
        standings, texts, rules = some_standings(rng)
        for place in needed(standings, texts, rules):
            kept += 1
            for _ in range(40):
                final = [
                    None if one.failed else float(rng.randint(int(one.low), int(one.high)))
                    for one in standings
                ]
                without = [*final[:place], None, *final[place + 1 :]]
                if pick(final, texts, rules) != pick(without, texts, rules):
                    mattered += 1
                    break
    assert mattered > 0.6 * kept


def test_most_statements_are_left_out_where_ratings_settle_the_pair() -> None:
    plans = [
        {"h": r, "l": r, "c": r, "levels": ["Fully", "No"], "name": name}
        for name, r in zip("abcdefghij", (9, 1, 5, 5, 5, 5, 5, 5, 5, 5), strict=True)
    ]
    rules = Rules(5)
    _, calls, _ = judged(plans, None)
    short, fewer, case = judged(plans, rules)
    assert pick([v.reward for v in short.verdicts], case.answers, rules) == Pair(0, (1,))
    assert [v.skipped for v in short.verdicts].count(True) == 5
    assert (calls, fewer) == (1 + 10 * 6, 1 + 10 * 3 + 5 * 3)


def test_a_question_that_cannot_give_a_pair_is_left_at_once() -> None:
    plans = [{"h": "broken", "l": 5, "c": 5, "levels": ["No"], "name": name} for name in "abcdef"]
    plans += [{"h": 5, "l": 5, "c": 5, "levels": ["No"], "name": name} for name in "ghij"]
    short, calls, _ = judged(plans, Rules(5))
    assert calls == 1 + 2 * 10
    assert [v.skipped for v in short.verdicts] == [False] * 6 + [True] * 4
