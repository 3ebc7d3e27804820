"""What an eval step will cost, from its settings and the files that they name. Imports no torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from lcx.data.tokenizing import open_span_tokenizer
from lcx.errors import LcxError
from lcx.evaluation.planning import forecast_tasks
from lcx.llm.ledger import load_prices
from lcx.run import Run
from lcx.steps import StepWork
from lcx_longreward.eval_settings import TASKS, LongRewardEval
from lcx_longreward.evaluation.core_tasks import core_settings, core_tasks, why_no_model
from lcx_longreward.evaluation.data import Item, read_items, read_longbench, thinned
from lcx_longreward.evaluation.evaluate import lacking
from lcx_longreward.evaluation.ratings import CRITERIA
from lcx_longreward.evaluation.reward import asking, scoring
from lcx_longreward.score.forecast import REPLY, STATEMENT
from lcx_longreward.synth.forecast import TASK_PROMPT, TASK_REPLY

PROMPT, RATING, ANSWER, QUESTION = 900, 130, 300, 50
"""About how many tokens a judge's prompt of ours, a reply with a rating, an answer and a question have."""
SAMPLE = 24
"""Contexts whose tokens are counted."""


@dataclass(frozen=True)
class Size:
    """How many questions a task has, and about how many tokens a context."""

    questions: int
    context: float


def forecast_eval(work: StepWork[LongRewardEval]) -> dict[str, Any]:
    """Calls, tokens and cost by task and by who is called; what is left out, and why."""
    step, run, plugins, settings = work.step, work.run, work.plugins, work.settings
    found: dict[str, Any] = {"model": settings.answers or settings.model, "judge": settings.judge}
    left_out = {task: lack for task in settings.tasks if (lack := lacking(task, settings, step.id))}
    missing: dict[str, str] = {}
    calls: dict[str, dict[str, int]] = {}
    sent: Counter[str] = Counter()
    made: Counter[str] = Counter()
    for task in settings.tasks:
        if task in left_out or task == "short" or task not in TASKS:
            continue
        size = _size(settings, task, run)
        if size is None:
            found.setdefault("not counted", []).append(task)
            continue
        calls[task] = {}
        shared = task in ("versus", "support") and getattr(settings, task) is None and "chat" in calls
        for who, count, asked, said in _calls(settings, task, size):
            if who == "model" and shared:
                continue  # chat's answers serve
            if count:
                calls[task][who] = calls[task].get(who, 0) + count
                sent[who] += round(count * asked)
                made[who] += round(count * said)
    if core_tasks(settings) and not why_no_model(settings):
        core = forecast_tasks(core_settings(settings, step), plugins)
        found |= {"queries": core["queries"]} if core["queries"] else {}
        found["not counted"] = [*found.get("not counted", []), *core["unknown"]]
        missing |= core["left out"]
    if not found.get("not counted"):
        found.pop("not counted", None)
    found["calls"] = {**calls, "all": sum(sum(by.values()) for by in calls.values())}
    found["prompt_tokens"], found["reply_tokens"] = dict(sent), dict(made)
    models = {
        "writer": settings.writer or settings.judge,
        "model": settings.model or "",
        "other": settings.against or "",
        "judge": settings.judge,
    }
    prices = load_prices(settings.prices)
    cost = {
        who: round((sent[who] * prices[name][0] + made[who] * prices[name][1]) / 1e6, 4)
        for who in sent
        if (name := models[who].partition(":")[2]) in prices
    }
    if cost:
        found["cost"] = cost
    missing |= {task: f"{lack.why} ({lack.hint})" for task, lack in left_out.items()}
    if missing:
        found["left out"] = missing
    found["assumes"] = (
        f"{ANSWER} tokens an answer, a statement for every {STATEMENT} of them, the first attempt read"
    )
    return found


def _calls(settings: LongRewardEval, task: str, size: Size) -> list[tuple[str, int, float, float]]:
    """Who is called how often, with how many tokens sent and made a call."""
    questions, answer = size.questions, min(ANSWER, settings.answer_tokens)
    asked = size.context + QUESTION
    samples = settings.samples if task == "reward" and not settings.answers else 1
    found = [("model", 0 if settings.answers else questions, asked, float(samples * answer))]
    both = PROMPT + QUESTION + answer
    known = scoring(settings)
    statements = max(1, round(answer / STATEMENT))
    passages = min(size.context, known.top_chunks * known.chunk_tokens)
    support = [
        ("judge", questions * samples, both, 1.3 * answer),
        ("judge", questions * samples * statements, PROMPT + STATEMENT + passages, REPLY["support"]),
    ]
    if task == "reward":
        if settings.reward is None:
            found.append(("writer", questions, TASK_PROMPT + size.context, TASK_REPLY))
        parts = max(1, -(-round(size.context) // known.extract_tokens))
        found += [("judge", 3 * questions * samples, both, RATING), *support]
        found.append(("judge", questions * parts, PROMPT + size.context / parts, REPLY["extract"]))
    elif task == "versus":
        if settings.against and not Path(settings.against).expanduser().is_file():
            found.append(("other", questions, asked, answer))
        found.append(("judge", 2 * len(CRITERIA) * questions, both + answer + 2 * passages, RATING))
    elif task == "support":
        found += support
    else:
        found.append(("judge", questions, both + answer, RATING))
    return found


def _size(settings: LongRewardEval, task: str, run: Run) -> Size | None:
    """The questions of a task; None where its data is not there yet or cannot be read without being made."""
    try:
        if task in ("qa", "summary"):
            items = read_longbench(task, settings.longbench, getattr(settings, task))
        else:
            own = getattr(settings, task) or (settings.chat if task in ("versus", "support") else None)
            if own is None:
                return Size(settings.questions, sum(asking(settings).context_tokens) / 2)
            if not Path(own).expanduser().is_file():
                return None  # bundles of a step or folder
            items = read_items(own, needs_reference=task == "chat", task=task, fields=settings.fields)
    except LcxError as bad:
        if bad.exit_code == 4:
            return None
        raise
    return _measured(settings, thinned(items, settings.limit))


def _measured(settings: LongRewardEval, items: Sequence[Item]) -> Size:
    texts = [item.context for item in thinned(items, SAMPLE)]
    starts = open_span_tokenizer(settings.tokenizer).starts(texts)
    return Size(len(items), fmean([len(found) for found in starts] or [0]))
