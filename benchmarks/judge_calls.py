"""What LongReward's judge asks: how many calls, how many are saved by early stopping, and what their order saves."""

from __future__ import annotations

import asyncio
import random
from typing import Any

from judge_sim import exchange as simulated
from lcx_longreward.judge import Case, Judge, Judged
from lcx_longreward.pairs import DIMENSIONS, Rules, pick
from lcx_longreward.rubrics import Rubrics, load_prompts

from lcx.data.tokens import open_span_tokenizer
from lcx.llm.judge import Asks
from lcx.llm.protocol import Completion, Request, Response
from lcx.retrieval import open_retriever

ANSWERS = 10
RULES = Rules(least_scored=5, margin=0.5, rejected=1)
WORDS = ["station", "record", "valley", "engine", "winter", "signal", "keeper", "harbour", "letter", "bridge"]


def document(number: int, tokens: int) -> str:
    """Text of its own with so many tokens, as the judge's tokenizer counts them."""
    rng = random.Random(f"document {number}")
    lines = (
        f"{rng.choice(WORDS)} {rng.randrange(1000)} {rng.choice(WORDS)} was {rng.choice(WORDS)}."
        for _ in range(tokens)
    )
    text = " ".join(lines)
    starts = open_span_tokenizer("simple").starts([text])[0]
    return text[: starts[tokens]].rstrip()


def case(number: int, tokens: int) -> Case:
    """A document with answers of two to nine statements."""
    rng = random.Random(f"case {number}")
    answers = []
    for answer in range(ANSWERS):
        lines = [
            f"The {rng.choice(WORDS)} {rng.randrange(1000)} was in state {rng.randrange(99)}."
            for _ in range(rng.randint(2, 9))
        ]
        answers.append(f"Answer {answer} of {number}. " + " ".join(lines))
    return Case(
        document(number, tokens), f"What happened to the {WORDS[number % 10]} {number}?", tuple(answers)
    )


def rating_of(request: Request) -> Response:
    """A judge without a model: ratings that follow from the answer's text, spread as a judge's are."""
    fields, task = request.fields, request.task
    text = str(fields.get("answer", ""))
    if task == "judge_statements":
        lines = [line for line in text.split(". ") if line]
        said = "".join(f"<statement>{line}</statement>\n" for line in lines[1:])
    elif task == "judge_support":
        level = ["Fully supported", "Partially supported", "No support"]
        said = f"[[{level[len(str(fields.get('statement', ''))) % 7 // 3]}]]"
    elif task == "judge_extract":
        said = "- The station was in the valley."
    else:
        rng = random.Random(f"{text}")  # an answer that is good in one way is so in others
        quality = rng.gauss(6.5, 1.8)
        said = f"It is so.\n[[{min(10, max(0, round(quality + random.Random(task + text).gauss(0, 0.8))))}]]"
    return Response((Completion(said),))


def judge(exchange: Asks, *, early: bool) -> Judge:
    """The judge with the paper's settings."""
    return Judge(
        exchange,
        Rubrics(load_prompts(None)),
        open_retriever("bm25", {}),
        open_span_tokenizer("simple"),
        early=RULES if early else None,
    )


def judged(exchange: Asks, cases: list[Case], *, early: bool) -> list[Judged]:
    async def main() -> list[Judged]:
        one = judge(exchange, early=early)
        return list(await asyncio.gather(*map(one.judge, cases)))

    return asyncio.run(main())


def count_calls(cases: int, tokens: int) -> dict[str, Any]:
    """Calls of each case against the bound, and the share that early stopping leaves out, with the same pairs."""
    made = [case(number, tokens) for number in range(cases)]
    runs = {}
    for early in (False, True):
        posting, server = simulated(1, 64, sorted_by_text=True, answer=rating_of)
        runs[early] = judged(posting, made, early=early), server.calls
    rows = []
    for one, short in zip(*(runs[early][0] for early in (False, True)), strict=True):
        statements = [len(verdict.statements or ()) for verdict in one.verdicts]
        assert one.tokens == tokens
        parts = -(-tokens // 4096)  # 8 for a document of 32K
        assert all(verdict.reward is not None for verdict in one.verdicts)
        texts = made[len(rows)].answers
        pairs = [pick([v.reward for v in found.verdicts], texts, RULES) for found in (one, short)]
        assert pairs[0] == pairs[1], "early stopping changed a pair"
        rows.append(
            {
                "calls": one.calls.total(),
                "bound": parts + sum(4 + n for n in statements),
                "calls_early": short.calls.total(),
            }
        )
    total, early_total = (sum(row[key] for row in rows) for key in ("calls", "calls_early"))
    return {
        "document_tokens": tokens,
        "answers": ANSWERS,
        "dimensions": list(DIMENSIONS),
        "cases": rows,
        "calls": total,
        "sent": runs[False][1],
        "calls_early": early_total,
        "early_saves": 1 - early_total / total,
        "met": all(row["calls"] <= row["bound"] for row in rows),
    }


def prefixes(cases: int, tokens: int, flight: int, cache_tokens: int) -> dict[str, Any]:
    """Prefilled tokens of the judge's calls, and of questions about documents, in our order and in that of arrival."""
    return {
        "cache_tokens": cache_tokens,
        "in_flight": flight,
        "judge": _compare(
            lambda posting: judged(posting, [case(n, tokens) for n in range(cases)], early=False),
            flight,
            cache_tokens,
        ),
        "documents": _compare(lambda posting: _ask(posting, cases * 4, tokens), flight, cache_tokens),
    }


def _ask(posting: Any, documents: int, tokens: int) -> None:
    """Ten calls about each of many documents, the document first, in an order that knows nothing of documents."""
    texts = [document(number, tokens) for number in range(documents)]
    requests = [
        Request(({"role": "user", "content": f"{text}\n\nQuestion {number}?"},), temperature=1.0, seed=number)
        for number in range(ANSWERS)
        for text in texts
    ]
    random.Random(0).shuffle(requests)
    assert len(posting.generate(requests)) == len(requests)


def _compare(use: Any, flight: int, cache_tokens: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, ordered in (("arrival", False), ("ours", True)):
        posting, server = simulated(cache_tokens // 16, flight, sorted_by_text=ordered, answer=rating_of)
        use(posting)
        found[name] = {
            "prompt_tokens": server.blocks * 16,
            "prefilled": server.computed * 16,
            "calls": server.calls,
        }
    found["saved"] = 1 - found["ours"]["prefilled"] / found["arrival"]["prefilled"]
    return found
