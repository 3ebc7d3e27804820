"""LongReward's eval step: a model's answers rated by a judge, alone, against references, or against another model's.

Tasks of the core (csqa, gsm8k, probes, benchmarks) are run by the core and shown with the rest.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from lcx.context import Context, StepResult
from lcx.data.tokens import open_span_tokenizer
from lcx.errors import LcxError, MissingError
from lcx.evaluation.planning import forecast_tasks, was_named
from lcx.evaluation.scores import check_notes
from lcx.evaluation.settings import ENDPOINT, EvalSettings
from lcx.evaluation.step import Findings, Prepared, answer_eval, prepare_eval
from lcx.llm.client import Service
from lcx.llm.ledger import load_prices
from lcx.paths import slug
from lcx.plugins import Plugins, loaded
from lcx.recipe import Step
from lcx.run import Run
from lcx.settings import validate
from lcx.steps import StepWork
from lcx.storage import Journal, read_jsonl, write_lines
from lcx_longreward.eval_settings import TASKS, LongRewardEval
from lcx_longreward.evaluation.answers import (
    Answer,
    Answerer,
    Item,
    Sampling,
    Subject,
    open_subjects,
    read_items,
    read_longbench,
    thinned,
)
from lcx_longreward.evaluation.judged import (
    CRITERIA,
    EvalContext,
    Result,
    compare_all,
    judged_result,
    load_prompts,
    question_row,
    rate_all,
    scoring,
    short_lacking,
    short_results,
    versus_result,
)
from lcx_longreward.evaluation.output import finish
from lcx_longreward.evaluation.reward import (
    asking,
    given_questions,
    judge_all,
    reward_result,
    sampling,
    support_all,
    support_result,
    written_items,
)
from lcx_longreward.score import REPLY, STATEMENT
from lcx_longreward.synth import TASK_PROMPT, TASK_REPLY

__all__ = ["answer_core", "core_results", "core_settings", "core_tasks", "prepare_core", "why_no_model"]

# ---- tasks of the core

SHARED = (
    *("template", "window", "corpus", "documents", "limit", "seed", "batch", "data"),
    *("base_url", "api_key_env", "api_key_file", "concurrency", "requests_per_minute", "tokens_per_minute"),
    *("tries", "timeout", "max_calls", "max_tokens", "max_cost", "prices"),
)
"""Settings that mean the same in both eval steps."""


def core_tasks(settings: LongRewardEval) -> list[str]:
    """The tasks that are the core's, in their order."""
    return [task for task in settings.tasks if task not in TASKS]


def why_no_model(settings: LongRewardEval) -> str:
    """Why the core cannot ask this model, in a clause; empty where it can."""
    if settings.answers:
        return "saved answers are to other questions"
    backend = str(settings.model or "").partition(":")[0]
    asks = backend not in loaded().llms or backend in ("local", "openai")
    return "" if asks else f"'{backend}' is no model that they can be asked of"


def core_settings(settings: LongRewardEval, step: Step) -> EvalSettings:
    """The core's settings, from those that both steps share and `probing`. Raises UsageError for a wrong one."""
    given: dict[str, Any] = {
        name: getattr(settings, name) for name in SHARED if name in settings.model_fields_set
    }
    model = settings.model
    if model and model.startswith(ENDPOINT):  # a local model's backend has other options than the core
        given["model_options"] = settings.model_options
    given |= {"model": model.removeprefix("local:") if model else None, "tasks": core_tasks(settings)}
    where = f"step '{step.id}', probing"
    checked = validate(EvalSettings, {**given, **settings.probing}, where=where)
    assert isinstance(checked, EvalSettings)
    return checked


def prepare_core(settings: LongRewardEval, step: Step, plugins: Plugins) -> Prepared:
    """Load what the core's suites ask. Raises MissingError for what a task lacks that the command line names."""
    return prepare_eval(core_settings(settings, step), plugins, named=was_named(step))


def answer_core(prepared: Prepared, spec: str, folder: Path, ctx: Context) -> Findings:
    """Ask the model the core's tasks."""
    return answer_eval(prepared, spec, folder, ctx)


def core_results(found: Findings, folder: Path) -> list[Result]:
    """The core's scores as results of this step: mean and interval under its names, a row for each question."""
    results = []
    for task, scores in found.scores.items():
        estimate = scores.get("estimate") or {}
        numbers = {name: estimate.get(name) for name in ("mean", "low", "high", "contexts", "drawn")}
        failed = {"no answer": scores["errors"]} if scores.get("errors") else {}
        file = folder / f"predictions-{slug(task)}.jsonl"
        rows = [row | _ids(row) for row in read_jsonl(file)] if file.is_file() else []
        total = {**scores, **numbers, "n": scores["n"], "failed": failed}
        results.append(Result(task, total, rows))
    return results


def _ids(row: dict[str, Any]) -> dict[str, Any]:
    return {"id": row["item"], "context_id": row["context"]}


# ---- the step

GREEDY = Sampling()
ASKING = ("reward", "chat", "qa", "summary", "versus", "support")
"""Tasks that ask a model, or take its saved answers."""
DESCRIBED = "described"


def evaluate(work: StepWork[LongRewardEval]) -> StepResult:
    """Ask the models, then the judge, and write scores, predictions, pictures and a report.

    Raises MissingError where no task has what it needs.
    """
    step, run, ctx, settings = work.step, work.run, work.ctx, work.settings
    settings = _resolved(settings, run)
    core = _prepared(settings, step, ctx.plugins)
    mine_too = [task for task in settings.tasks if task in TASKS]
    lacks = {task: lack for task in settings.tasks if (lack := lacking(task, settings, step.id))}
    items = given_items(settings, [task for task in mine_too if task not in lacks])
    for task in [task for task, found in items.items() if not found]:
        lacks[task] = Lack("the files given hold none of its sets", f"--set {step.id}.{task}=[FILE]")
    if core:
        lacks |= {names: Lack(why, "") for names, why in core.found.left_out.items()}
    ready = [task for task in mine_too if task not in lacks]
    if not ready and not (core and core.left):
        raise MissingError(
            f"step '{step.id}' has no task that can run",
            why="; ".join(f"{task}: {lack.why}" for task, lack in lacks.items()),
            hint=next(iter(lacks.values())).hint,
        )
    for task, lack in lacks.items():
        ctx.log(f"{task}: left out, {lack}")
    mine, other = Subject(), None
    spec = run.model(step, (settings.model or "").removeprefix("local:")) if core and core.left else ""
    if any(task in ASKING for task in ready):
        if not settings.answers:
            run.model(step, settings.model or "")
        mine, other = open_subjects(settings, run, settings.model or "")
    folder = run.folder(step)
    with ExitStack() as stack:
        service = stack.enter_context(Service(folder, settings, ctx))
        _check(settings, service, ready, [mine, *([other] if other and "versus" in ready else [])])
        journal = stack.enter_context(Journal(folder / "journal.jsonl"))
        answerer = Answerer(settings, service, journal, ctx)
        desk = EvalContext(settings, folder, service, journal, ctx, answerer, mine, other)
        found = Work(desk, ready, items).run()
        described: dict[str, Any] = {"judge": _described(desk) if found.answers else {"spec": settings.judge}}
        desk.counts.update({name: n for name, n in service.counts().items() if isinstance(n, int)})
        spent = service.counts()
    results, checked = found.results, []
    if core and core.left:
        answered = answer_core(core, spec, folder, ctx)
        results = [*results, *core_results(answered, folder)]
        described["answering"] = answered.answering
        checked = check_notes(answered.answering)
    notes = [*checked, *(f"{task} was left out: {lack}" for task, lack in lacks.items())]
    if "reward" in found.items and not settings.reward:
        notes += seen_before(run, step)
    return finish(desk, step, run, results, [*notes, *desk.notes], {**described, "spent": spent})


def _prepared(settings: LongRewardEval, step: Step, plugins: Plugins) -> Prepared | None:
    """The core's tasks among those of the step; None where there are none that a model could be asked."""
    if not core_tasks(settings) or why_no_model(settings):
        return None
    return prepare_core(settings, step, plugins)


def _described(desk: EvalContext) -> dict[str, Any]:
    """What the judge is; a step that goes on after its last verdict does not open it again to say so."""
    if DESCRIBED not in desk.journal:
        desk.journal.append({"unit": DESCRIBED, "judge": desk.judge.describe()})
    found: dict[str, Any] = desk.journal[DESCRIBED]["judge"]
    return found


def seen_before(run: Run, step: Step) -> list[str]:
    """A note for each synth step of this run that read the same documents as the questions are about."""

    def corpus_of(key: str) -> Any:
        return run.manifest["steps"].get(key, {}).get("fingerprint", {}).get("inputs", {}).get("corpus")

    same = [
        key
        for key, record in run.manifest["steps"].items()
        if record.get("stage") == "synth" and corpus_of(key) and corpus_of(key) == corpus_of(run.key(step))
    ]
    return [f"reward asks about the documents of step '{key}': --corpus takes others" for key in same]


@dataclass(frozen=True)
class Lack:
    """What a task needs that is not given, and the line that gives it."""

    why: str
    hint: str

    def __str__(self) -> str:
        return f"{self.why} ({self.hint})" if self.hint else self.why


def lacking(task: str, settings: LongRewardEval, step: str = "eval") -> Lack | None:
    """What keeps a task from running, as far as the settings tell."""
    put = f"--set {step}."
    if task not in TASKS and (why := why_no_model(settings)):
        return Lack(why, f"lcx eval --task {task} --predictions FILE scores saved answers")
    rows = "FILE of rows with context, query and answer"
    if task == "reward" and settings.answers and not settings.reward:
        return Lack("saved answers need the questions they answer", f"{put}reward=questions-reward.jsonl")
    if task == "chat" and not settings.chat:
        return Lack("no questions with reference answers are given", f"{put}chat={rows}")
    if task in ("qa", "summary") and not (settings.longbench or getattr(settings, task)):
        line = f"{put}longbench=[FOLDER of LongBench's JSONL files], or {put}{task}=[FILE]"
        return Lack("LongBench's data is not given", line)
    if task == "versus" and not settings.against:
        return Lack("nothing to compare with is given", f"{put}against=MODEL, or a file of saved answers")
    if task == "support" and not (settings.support or settings.chat):
        return Lack("no questions are given", f"{put}support=FILE of rows with context and query")
    if task == "short":
        if not settings.short:
            line = f"{put}short=[METRIC:FILE] with rows of pred and answer"
            return Lack("no saved predictions of short tasks are given", line)
        if why := short_lacking(settings):
            return Lack(why, f"{put}short=[exact:FILE.jsonl]")
    return None


def given_items(settings: LongRewardEval, tasks: Sequence[str]) -> dict[str, list[Item]]:
    """The questions that files give, by task. Raises MissingError for no file, UsageError for a bad row."""
    found: dict[str, list[Item]] = {}
    for task in tasks:
        if task in ("qa", "summary"):
            found[task] = read_longbench(task, settings.longbench, getattr(settings, task))
        elif task == "reward" and settings.reward:
            found[task] = given_questions(settings.reward)
        elif task in ("chat", "versus", "support") and (own := getattr(settings, task) or settings.chat):
            found[task] = read_items(own, needs_reference=task == "chat", task=task, fields=settings.fields)
    return {task: thinned(items, settings.limit) for task, items in found.items()}


def _resolved(settings: LongRewardEval, run: Run) -> LongRewardEval:
    """The settings with folders in place of `step:ID`, where models and data of earlier steps are named."""
    named: dict[str, Any] = {"judge": run.llm(settings.judge)}
    if settings.writer:
        named["writer"] = run.llm(settings.writer)
    if settings.reward:
        named["reward"] = str(run.resolve(settings.reward, "data"))
    return settings.model_copy(update=named)


def _check(
    settings: LongRewardEval, service: Service, ready: Sequence[str], subjects: Sequence[Subject]
) -> None:
    """Say what is missing (a model, a key, a file, a wrong setting) before anything is done or written."""
    if not any(task in ASKING for task in ready):
        return
    scoring(settings)
    load_prompts(settings.prompts)
    service.check(settings.judge, settings.judge_options)
    for subject in subjects:
        subject.check(service)
    if "reward" in ready and settings.reward is None:
        known = asking(settings)
        service.check(known.writer or known.llm, known.writer_options)


class Work:
    """Questions, then answers, then verdicts of all tasks: each model is loaded once and let go."""

    def __init__(self, desk: EvalContext, tasks: Sequence[str], items: Mapping[str, list[Item]]) -> None:
        """`items` are the questions that files gave, by task."""
        self.desk, self.tasks, self.items = desk, tasks, dict(items)
        self.answers: dict[str, list[list[Answer]]] = {}
        self.others: list[list[Answer]] = []
        self.results: list[Result] = []

    def run(self) -> Work:
        self._ask_questions()
        self._answer()
        judge = (self.desk.settings.judge, self.desk.settings.judge_options)
        self.desk.service.close(judge)
        if self.answers:
            _described(self.desk)
        for task in self.tasks:
            self.desk.ctx.log(f"judging {task}" if task in ASKING else task)
            self.results += VERDICTS[task](self)
        return self

    def _ask_questions(self) -> None:
        """The questions that are made here, and those that tasks share."""
        makes = "reward" in self.tasks or ("versus" in self.tasks and "versus" not in self.items)
        if makes and "reward" not in self.items:
            self.items["reward"] = written_items(self.desk)
        if "versus" in self.tasks:
            self.items.setdefault("versus", self.items.get("reward", []))
        if "reward" in self.items:  # so that anything else can be asked the same questions
            rows = (question_row(item) for item in self.items["reward"])
            write_lines(self.desk.folder / "questions-reward.jsonl", rows)

    def _answer(self) -> None:
        desk = self.desk
        mine = [task for task in ASKING if task in self.tasks]
        if not mine:
            return
        desk.service.close((desk.mine.spec, desk.mine.options))
        for task in mine:
            how = sampling(desk.settings) if task == "reward" and not desk.mine.saved else GREEDY
            self.answers[task] = desk.answerer.answers(desk.mine, self.items[task], how, task)
        if "versus" in mine and desk.other is not None:
            desk.service.close((desk.other.spec, desk.other.options))
            self.others = desk.answerer.answers(desk.other, self.items["versus"], GREEDY, "versus")

    def one(self, task: str) -> list[Answer]:
        """The only answer to each question."""
        return [found[0] for found in self.answers[task]]


def _reward(work: Work) -> list[Result]:
    desk, items, answers = work.desk, work.items["reward"], work.answers["reward"]
    judged = judge_all(desk, items, answers)
    return [reward_result(desk, items, answers, judged)]


def _rated(task: str) -> Callable[[Work], list[Result]]:
    def verdicts(work: Work) -> list[Result]:
        items, answers = work.items[task], work.one(task)
        rated = rate_all(work.desk, task, items, answers)
        return [judged_result(work.desk, task, items, answers, rated)]

    return verdicts


def _versus(work: Work) -> list[Result]:
    desk, items, mine = work.desk, work.items["versus"], work.one("versus")
    others = [found[0] for found in work.others]
    verdicts = compare_all(desk, items, mine, others)
    return [versus_result(desk, items, mine, others, verdicts)]


def _support(work: Work) -> list[Result]:
    desk, items, answers = work.desk, work.items["support"], work.one("support")
    verdicts = support_all(desk, items, answers)
    return [support_result(desk, items, answers, verdicts)]


def _short(work: Work) -> list[Result]:
    return short_results(work.desk)


VERDICTS: dict[str, Callable[[Work], list[Result]]] = {
    "reward": _reward,
    "chat": _rated("chat"),
    "qa": _rated("qa"),
    "summary": _rated("summary"),
    "versus": _versus,
    "support": _support,
    "short": _short,
}


# ---- forecast

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
            items = read_items(own, needs_reference=task == "chat", task=task)
    except LcxError as bad:
        if bad.exit_code == 4:
            return None
        raise
    return _measured(settings, thinned(items, settings.limit))


def _measured(settings: LongRewardEval, items: Sequence[Item]) -> Size:
    texts = [item.context for item in thinned(items, SAMPLE)]
    starts = open_span_tokenizer(settings.tokenizer).starts(texts)
    return Size(len(items), fmean([len(found) for found in starts] or [0]))
