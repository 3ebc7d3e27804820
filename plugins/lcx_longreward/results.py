"""What a score step makes of the verdicts: every answer with its scores, pairs to train on, rows to read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from lcx.records import Branch, Bundle
from lcx_longreward.data import by_question
from lcx_longreward.pairs import DIMENSIONS, Pair, Rules, pick

SETTLED = "no pair was possible any more (early_stop)"
ROW = ("row", "sample")
"""What a branch may know of where it came from."""
CHOSEN, REJECTED = "chosen", "rejected"


@dataclass(frozen=True)
class QuestionResult:
    """One question of a bundle: the places of its branches, what the judge found, and the pair or why there is none."""

    number: int
    question: str
    places: tuple[int, ...]
    row: Mapping[str, Any]
    outcome: Pair | str

    def role(self, place: int) -> str:
        """What an answer became: chosen, rejected, or nothing. `place` counts the question's answers."""
        if isinstance(self.outcome, str):
            return ""
        return CHOSEN if place == self.outcome.chosen else REJECTED if place in self.outcome.rejected else ""


def outcomes(bundle: Bundle, entry: Mapping[str, Any], rules: Rules) -> list[QuestionResult]:
    """The questions of a bundle with the pairs that the rule makes of their rewards."""
    found = []
    for number, ((question, places), row) in enumerate(zip(by_question(bundle), entry["cases"], strict=True)):
        rewards = [answer["reward"] for answer in row["answers"]]
        outcome = pick(rewards, [bundle.branches[place].answer for place in places], rules)
        if isinstance(outcome, str) and any(answer["skipped"] for answer in row["answers"]):
            outcome = SETTLED
        found.append(QuestionResult(number, question, places, row, outcome))
    return found


def candidate(bundle: Bundle, asked: Sequence[QuestionResult], judge: Mapping[str, Any]) -> Bundle:
    """The bundle with all its answers and their scores."""
    branches = list(bundle.branches)
    for one in asked:
        for place, answer in zip(one.places, one.row["answers"], strict=True):
            branches[place] = _branch(branches[place], answer, branches[place].role)
    meta = {**_fresh(bundle.meta), "tokens": asked[0].row["tokens"], **judge}
    why = {one.question: one.outcome for one in asked if isinstance(one.outcome, str)}
    if why:
        meta["no_pair"] = next(iter(why.values())) if len(asked) == 1 else why
    return replace(bundle, branches=tuple(branches), meta=meta)


def pairs(bundle: Bundle, asked: Sequence[QuestionResult], judge: Mapping[str, Any]) -> Iterator[Bundle]:
    """The bundles to train on, one for each question that has a pair: the chosen answer, then the rejected ones."""
    for one in asked:
        if isinstance(one.outcome, str):
            continue
        chosen, *rejected = [
            _branch(bundle.branches[one.places[place]], one.row["answers"][place], one.role(place))
            for place in (one.outcome.chosen, *one.outcome.rejected)
        ]
        lead = chosen.meta["reward"] - rejected[0].meta["reward"]
        meta = {**_fresh(bundle.meta), "tokens": one.row["tokens"], "lead": lead, **judge}
        name = bundle.id if len(asked) == 1 else f"{bundle.id}-{one.number + 1}"
        yield replace(bundle, id=name, branches=(chosen, *rejected), meta=meta)


def score_rows(bundle: Bundle, asked: Sequence[QuestionResult]) -> Iterator[dict[str, Any]]:
    """A row for each answer: its scores, the judge's analyses, and why what is missing is missing."""
    for one in asked:
        for place, answer in enumerate(one.row["answers"]):
            branch = bundle.branches[one.places[place]]
            known: dict[str, Any] = {name: branch.meta[name] for name in ROW if name in branch.meta}
            yield {
                "id": bundle.id,
                "answer_id": branch.meta.get("id", f"{bundle.id}-{one.places[place]}"),
                **known,
                "question": one.question,
                "answer": branch.answer,
                **({"raw": branch.meta["raw"]} if "raw" in branch.meta else {}),
                "reward": answer["reward"],
                **{name: answer[name] for name in DIMENSIONS},
                "pair": one.role(place),
                "failed": answer["failed"],
                "skipped": answer["skipped"],
                "analyses": answer["analyses"],
                "statements": answer["statements"],
            }


def fact_rows(bundle: Bundle, asked: Sequence[QuestionResult]) -> Iterator[dict[str, Any]]:
    """A row for each question: what its document has to say, by place."""
    for one in asked:
        why = one.outcome if isinstance(one.outcome, str) else ""
        yield {"id": bundle.id, "question": one.question, "no_pair": why, "facts": one.row["facts"]}


def _scores(answer: Mapping[str, Any]) -> dict[str, Any]:
    scores = {name: answer[name] for name in (*DIMENSIONS, "reward", "failed")}
    return scores | ({"skipped": True} if answer["skipped"] else {})


def _branch(branch: Branch, answer: Mapping[str, Any], role: str) -> Branch:
    return replace(branch, role=role, meta=_fresh(branch.meta) | _scores(answer))


def _fresh(meta: Mapping[str, Any]) -> dict[str, Any]:
    """What is known of a bundle or branch, without what an earlier scoring made of it."""
    return {name: value for name, value in meta.items() if name not in ("no_pair", "lead", "skipped")}
