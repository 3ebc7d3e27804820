"""LongReward's eval step: a model's answers rated by a judge, alone, against references, or against another model's."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from lcx.context import StepResult
from lcx.errors import MissingError
from lcx.evaluation.scores import check_notes
from lcx.evaluation.step import Prepared
from lcx.llm.client import Service
from lcx.plugins import Plugins
from lcx.recipe import Step
from lcx.run import Run
from lcx.steps import StepWork
from lcx.work.files import write_lines
from lcx.work.journal import Journal
from lcx_longreward.eval_settings import TASKS, LongRewardEval
from lcx_longreward.evaluation import judged as eval_judged
from lcx_longreward.evaluation import ratings as eval_ratings
from lcx_longreward.evaluation import reward as eval_reward
from lcx_longreward.evaluation import short as eval_short
from lcx_longreward.evaluation import support as eval_support
from lcx_longreward.evaluation import versus as eval_versus
from lcx_longreward.evaluation.answers import Answer, Answerer, Sampling, Subject, open_subjects
from lcx_longreward.evaluation.core_tasks import (
    answer_core,
    core_results,
    core_tasks,
    prepare_core,
    why_no_model,
)
from lcx_longreward.evaluation.data import Item, read_items, read_longbench, thinned
from lcx_longreward.evaluation.desk import Desk
from lcx_longreward.evaluation.output import finish
from lcx_longreward.evaluation.results import Result, question_row

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
        desk = Desk(settings, folder, service, journal, ctx, answerer, mine, other)
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


def _described(desk: Desk) -> dict[str, Any]:
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
        if why := eval_short.lacking(settings):
            return Lack(why, f"{put}short=[exact:FILE.jsonl]")
    return None


def given_items(settings: LongRewardEval, tasks: Sequence[str]) -> dict[str, list[Item]]:
    """The questions that files give, by task. Raises MissingError for no file, UsageError for a bad row."""
    found: dict[str, list[Item]] = {}
    for task in tasks:
        if task in ("qa", "summary"):
            found[task] = read_longbench(task, settings.longbench, getattr(settings, task))
        elif task == "reward" and settings.reward:
            found[task] = eval_reward.given_items(settings.reward)
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
    eval_reward.scoring(settings)
    eval_ratings.load_prompts(settings.prompts)
    service.check(settings.judge, settings.judge_options)
    for subject in subjects:
        subject.check(service)
    if "reward" in ready and settings.reward is None:
        known = eval_reward.asking(settings)
        service.check(known.writer or known.llm, known.writer_options)


class Work:
    """Questions, then answers, then verdicts of all tasks: each model is loaded once and let go."""

    def __init__(self, desk: Desk, tasks: Sequence[str], items: Mapping[str, list[Item]]) -> None:
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
            self.items["reward"] = eval_reward.written_items(self.desk)
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
            how = eval_reward.sampling(desk.settings) if task == "reward" and not desk.mine.saved else GREEDY
            self.answers[task] = desk.answerer.answers(desk.mine, self.items[task], how, task)
        if "versus" in mine and desk.other is not None:
            desk.service.close((desk.other.spec, desk.other.options))
            self.others = desk.answerer.answers(desk.other, self.items["versus"], GREEDY, "versus")

    def one(self, task: str) -> list[Answer]:
        """The only answer to each question."""
        return [found[0] for found in self.answers[task]]


def _reward(work: Work) -> list[Result]:
    desk, items, answers = work.desk, work.items["reward"], work.answers["reward"]
    judged = eval_reward.judge_all(desk, items, answers)
    return [eval_reward.reward_result(desk, items, answers, judged)]


def _rated(task: str) -> Callable[[Work], list[Result]]:
    def verdicts(work: Work) -> list[Result]:
        items, answers = work.items[task], work.one(task)
        rated = eval_judged.rate_all(work.desk, task, items, answers)
        return [eval_judged.judged_result(work.desk, task, items, answers, rated)]

    return verdicts


def _versus(work: Work) -> list[Result]:
    desk, items, mine = work.desk, work.items["versus"], work.one("versus")
    others = [found[0] for found in work.others]
    verdicts = eval_versus.compare_all(desk, items, mine, others)
    return [eval_versus.versus_result(desk, items, mine, others, verdicts)]


def _support(work: Work) -> list[Result]:
    desk, items, answers = work.desk, work.items["support"], work.one("support")
    verdicts = eval_support.support_all(desk, items, answers)
    return [eval_support.support_result(desk, items, answers, verdicts)]


def _short(work: Work) -> list[Result]:
    return eval_short.short_results(work.desk)


VERDICTS: dict[str, Callable[[Work], list[Result]]] = {
    "reward": _reward,
    "chat": _rated("chat"),
    "qa": _rated("qa"),
    "summary": _rated("summary"),
    "versus": _versus,
    "support": _support,
    "short": _short,
}
