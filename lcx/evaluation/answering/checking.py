"""The self-check: some answers again, each by a full computation of its whole prompt.

Sums in another order round otherwise. Where two tokens are almost equally likely, that alone may turn the
choice, and the rest of the answer with it: such a pair is counted as a tie, by the logits of the full
computation at the first token that differs. Anything else is a difference, and a difference is a fault.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from lcx.evaluation.answering.answers import Answer, Answerer, Given
from lcx.evaluation.jobs import Job, subset

if TYPE_CHECKING:
    from lcx.evaluation.answering.local import Local
    from lcx.modeling.decode import Traced

__all__ = ["TIES", "check_local", "self_check", "verdict"]

TIES = {
    "torch.float64": 1e-9,
    "torch.float32": 3e-5,
    "torch.float16": 2.0**-8,
    "torch.bfloat16": 2.0**-5,
}
"""How near two logits are a tie, as a share of the largest of their step: some three times (fp32: ten times) what any
logit of a random Llama of 16 layers changed by when it was computed in another order. Deeper models round more.
"""


def self_check(
    answerer: Answerer, jobs: Sequence[Job], k: int, seed: int, *, max_new_tokens: int, given: Given = None
) -> dict[str, Any]:
    """Compare `k` answers with `model.generate` on their whole prompts, plain attention and no reuse.

    Returns {"checked", "equal", "ties", "different": [names], "tolerance", "warning"}: a tie is an answer whose
    first differing token was within `tolerance` of the other in the full computation's logits; `warning` says
    what a difference means and is absent where there is none. Empty where there is nothing to check against (`k`
    0, an endpoint, synthetic positions).
    """
    return answerer.check(jobs, k, seed, max_new_tokens=max_new_tokens, given=given) if k > 0 else {}


def check_local(
    answerer: Local, jobs: Sequence[Job], k: int, seed: int, max_new_tokens: int, given: Given
) -> dict[str, Any]:
    """`self_check` for a model in this process. Answers without their tokens are made again first."""
    from lcx.modeling.decode import trace

    items = _drawn(jobs, k, seed, given)
    if not items:
        return {}
    ours = _known(answerer, jobs, items, max_new_tokens, given)
    dtype = str(answerer.model.dtype)
    tolerance = TIES.get(dtype, TIES["torch.bfloat16"])
    counts = {"equal": 0, "ties": 0}
    different = []
    for number, place in items:
        from lcx.evaluation.answering.local import row_of_item

        traced = trace(
            answerer.model,
            row_of_item(jobs[number], place),
            max_new_tokens=max_new_tokens,
            eos_ids=answerer.stops,
        )
        found = verdict(ours[number, place].ids, traced, answerer.stops, max_new_tokens, tolerance)
        if found == "different":
            different.append(f"{jobs[number].bundle.id}#{place}")
        else:
            counts[found] += 1
    result: dict[str, Any] = {
        "checked": len(items),
        **counts,
        "different": different,
        "tolerance": tolerance,
        "dtype": dtype.removeprefix("torch."),
    }
    if different:
        result["warning"] = (
            f"{len(different)} of {len(items)} answers are not what the model gives when it computes the whole "
            f"prompt ({', '.join(different)}): do not trust these results. --no-prefix-reuse answers without the "
            "shared context; please report the model and its versions."
        )
    return result


def verdict(
    ids: Sequence[int], traced: Traced, stops: Sequence[int], max_new_tokens: int, tolerance: float
) -> str:
    """`equal`, `ties` or `different`: an answer's tokens against those of the full computation.

    `ids` have no end token; an answer shorter than `max_new_tokens` took one there.
    """
    ends = frozenset(stops)
    for step, (token, logits) in enumerate(zip(traced.ids, traced.logits, strict=False)):
        if step < len(ids):
            if ids[step] in ends:  # it was to end the answer
                return "different"
            other = logits[ids[step]]
            same = ids[step] == token
        else:  # ours ended here
            if not ends or step >= max_new_tokens:
                return "different"
            other = max(logits[end] for end in ends)
            same = token in ends
        if not same:
            gap = float(logits[token] - other)
            return "ties" if gap <= tolerance * float(logits.abs().max()) else "different"
        if token in ends:
            return "equal"
    return "equal" if len(ids) == len(traced.ids) else "different"


def _drawn(jobs: Sequence[Job], k: int, seed: int, given: Given) -> list[tuple[int, int]]:
    """Items to check: (job, place), at most `k`, from as many contexts as there are."""
    rng = random.Random(seed)
    known = [
        [
            (number, place)
            for place in range(len(job.encoded.branches))
            if given is None or place < len(given[number])
        ]
        for number, job in enumerate(jobs)
        if job.encoded is not None and job.encoded.positions is None
    ]
    for places in known:
        rng.shuffle(places)
    rng.shuffle(known)
    rounds = (places[turn] for turn in range(k) for places in known if turn < len(places))
    return sorted(item for _, item in zip(range(k), rounds, strict=False))


def _known(
    answerer: Local, jobs: Sequence[Job], items: Sequence[tuple[int, int]], limit: int, given: Given
) -> dict[tuple[int, int], Answer]:
    """The answers to the items, from those given where they have their tokens, else made again together."""
    found: dict[tuple[int, int], Answer] = {}
    for number, place in items:
        one = given[number][place] if given is not None else None
        if one is not None and (one.ids or not one.tokens):
            found[number, place] = one
    missing: dict[int, list[int]] = {}
    for number, place in items:
        if (number, place) not in found:
            missing.setdefault(number, []).append(place)
    again = [subset(jobs[number], places) for number, places in missing.items()]
    made = answerer.answer(again, max_new_tokens=limit)
    for (number, places), answers in zip(missing.items(), made, strict=True):
        for place, answer in zip(places, answers, strict=True):
            found[number, place] = answer
    return found
