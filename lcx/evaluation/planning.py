"""Which tasks an eval step has, and what it will do: groups spelt out, sized probes read, unknown names refused.

A probe may have a size of its own, from a YAML file: `probe` names it, the other keys are its options, or settings of
the step that hold for it alone.

probe: needle
name: needle-64k
lengths: [65536]
depths: 20
sets: 2

Torch-free.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, SupportsFloat

from lcx.data.tokens import open_span_tokenizer
from lcx.errors import LcxError, MissingError, PluginError, UsageError, suggestion
from lcx.evaluation.benchmarks.groups import expand, groups
from lcx.evaluation.bridge import BRIDGE, require_lm_eval
from lcx.evaluation.settings import EvalSettings, sized_file
from lcx.evaluation.task import Expected, Task, TaskOptions, options_of
from lcx.plugins import Plugins
from lcx.recipe import Step
from lcx.settings import validate
from lcx.storage import sha256_json
from lcx.yamls import read_yaml_file

if TYPE_CHECKING:
    from lcx.steps import StepWork

__all__ = [
    "BRIDGE",
    "PlannedTask",
    "SizedProbe",
    "check_windows",
    "eval_forecast",
    "find_task",
    "forecast_tasks",
    "lacking",
    "left_out",
    "makes_questions",
    "plan_tasks",
    "read_sized",
    "was_named",
]


@dataclass(frozen=True)
class PlannedTask:
    """A task of a step, under the name that its results go by; `task` is None for one of lm-eval.

    `named` says that the name was given, not a group's; `group` is the entry of the setting `tasks` that it comes from.
    """

    name: str
    task: Task | None
    settings: EvalSettings
    options: TaskOptions
    named: bool
    group: str


def was_named(step: Step) -> bool:
    """Whether a command line names the tasks of an eval step, and not its recipe."""
    return step.origins.get("tasks", "").startswith("--")


def plan_tasks(settings: EvalSettings, plugins: Plugins) -> list[PlannedTask]:
    """The tasks of an eval step, each once, in the order given. Raises UsageError for an unknown one, and for an
    option that its task does not have: what is wrong is said before anything is built.
    """
    found: dict[str, PlannedTask] = {}
    for entry in settings.tasks:
        if sized_file(entry):
            one = _sized(entry, settings, plugins)
            found.setdefault(one.name, one)
            continue
        for name in [entry] if entry.startswith(BRIDGE) else expand([entry]):
            task = None if name.startswith(BRIDGE) else find_task(name, plugins)
            options = _options(task, settings, settings.options.get(name, {}))
            found.setdefault(name, PlannedTask(name, task, settings, options, name == entry, entry))
    for one in found.values():
        try:
            one.options.check_names(plugins)
        except UsageError as bad:
            raise UsageError(f"{one.name}: {bad.what}", why=bad.why, hint=bad.hint) from None
    _check_options(settings, list(found.values()), plugins)
    _check_judging(settings, list(found.values()))
    _check_families(settings, list(found.values()), plugins)
    return list(found.values())


def check_windows(planned: Sequence[PlannedTask]) -> None:
    """Raises UsageError where a task asks for more tokens than the window that is set, before any model is there."""
    for one in planned:
        _check_window(one)


def _check_window(one: PlannedTask) -> None:
    """Raises UsageError for a length beyond the window that is set: no context of it could be read whole."""
    window, options = one.settings.window, one.options
    if (
        window is None
        or one.settings.too_long not in (None, "error")
        or one.task is None
        or one.task.published
    ):
        return
    name = next((name for name in ("lengths", "context_tokens") if getattr(options, name, None)), None)
    if name is None or getattr(options, "style", "") == "bare":
        return
    value = getattr(options, name)
    longest = value if isinstance(value, int) else max(value)
    if longest > window:
        raise UsageError(
            f"{one.name}: {name} asks for {longest:,} tokens, and the window is {window:,}",
            hint=f"Set {name} lower, window to what the model can really read, or too_long to drop.",
        )


def _options(task: Task | None, settings: EvalSettings, values: Mapping[str, Any]) -> TaskOptions:
    if task is None:
        return TaskOptions()
    judging = settings.judging if task.judged else {}
    found: TaskOptions = options_of(task, values, {**settings.shared(), **judging})
    return found


def makes_questions(one: PlannedTask) -> bool:
    """Whether a model is to write a task's questions, as nothing gives them."""
    return (
        one.task is not None and one.task.writes and not one.settings.places(one.task.family, *one.task.also)
    )


def lacking(one: PlannedTask) -> MissingError | None:
    """What keeps a task from running as far as the settings tell, with the line that gives it."""
    task, settings = one.task, one.settings
    if settings.answers and (task is None or not (task.judged or task.answered)):
        return MissingError(
            f"saved answers are not to {one.name}'s questions",
            hint=f"lcx eval --task {one.name} --predictions FILE scores them",
        )
    if task is None or not task.judged:
        return None
    if not settings.judge:
        return MissingError(f"no judge is named for {one.name}", hint="--judge openai:MODEL")
    if task.against and not settings.against:
        return MissingError(
            "nothing to compare with is given", hint="--set eval.against=MODEL, or a file of saved answers"
        )
    if settings.answers and makes_questions(one):
        return MissingError(
            "saved answers need the questions that they answer", hint=f"--set eval.data.{task.family}=FILE"
        )
    return None


def _check_options(settings: EvalSettings, planned: Sequence[PlannedTask], plugins: Plugins) -> None:
    """Raises UsageError for options of a task that there is not; a recipe may have some for tasks not run now."""
    known = {name for one in planned for name in (one.name, one.task.name if one.task else "") if name}
    for name in settings.options:
        if name not in known and name not in plugins.probes:
            near = suggestion(name, known)
            raise UsageError(
                f"options: no task here is named '{name}'. {near}".rstrip(),
                why=f"tasks: {', '.join(one.name for one in planned)}",
            )


def _check_judging(settings: EvalSettings, planned: Sequence[PlannedTask]) -> None:
    """Raises UsageError for what no judged task has as an option."""
    known = {
        name for one in planned if one.task and one.task.judged for name in one.task.options.model_fields
    }
    for name in settings.judging:
        if known and name not in known:
            raise UsageError(
                f"judging: no judged task has the option '{name}'. {suggestion(name, known)}".rstrip(),
                hint=f"Options: {', '.join(sorted(known))}.",
            )


def _check_families(settings: EvalSettings, planned: Sequence[PlannedTask], plugins: Plugins) -> None:
    """Raises UsageError where `data` or `prompts` seems to misspell a family: its benchmark would miss them."""
    known = {name.partition(":")[0] for name in plugins.probes.names()} | {BRIDGE.rstrip(":")}
    known |= {
        family
        for one in planned
        if one.task is not None and one.task.published
        for family in (one.task.family, *one.task.also)
    }
    for setting, values in (("data", settings.data), ("prompts", settings.prompts)):
        for name in values:
            if name not in known and (near := suggestion(name, known)):
                raise UsageError(
                    f"{setting}: no task is of the family '{name}'. {near}",
                    hint=f"--set eval.{setting}.FAMILY=PATH; the family of longbench:qasper is longbench",
                )


def find_task(name: str, plugins: Plugins) -> Task:
    """The task of a name. Raises UsageError for an unknown one, with what is near it."""
    probes = plugins.probes
    if name in probes:
        found: Task = probes.load(name)
        if not isinstance(found, Task):
            raise PluginError(
                f"the task '{name}' of '{probes.owner(name)}' is a {type(found).__name__}, not a Task",
                hint='Register "module:TASK" of a `Task` of lcx.evaluation.task.',
            )
        if isinstance(found.score, str):  # a metric by its name, as `lcx_register_metrics` gave it
            metric, called = plugins.metrics.load(found.score), found.score

            def score(row: Mapping[str, Any]) -> Any:
                return metric(str(row["pred"]), row)

            return replace(
                found, score=_within(score, f"the metric '{called}'{plugins.whose(metric)}", found)
            )
        if found.score is not None and not plugins.bundled(probes.owner(name)):
            said = f"the score of the task '{name}'{plugins.whose(found.score)}"
            return replace(found, score=_within(found.score, said, found))
        return found
    known = list(dict.fromkeys([*groups(), *probes.names()]))
    raise UsageError(
        f"there is no task '{name}'. {suggestion(name, known)}".rstrip(),
        hint=f"Tasks: {', '.join(_families(known))}; lm-eval:TASK; or a probe's YAML file.",
    )


def _within(score: Callable[[Mapping[str, Any]], Any], what: str, task: Task) -> Callable[..., Any]:
    """A plugin's score, which raises PluginError for what is no number on the task's scale, or None."""
    low, high = task.scale

    def checked(row: Mapping[str, Any]) -> Any:
        value = score(row)
        if value is None:
            return None
        if isinstance(value, str) or not isinstance(value, SupportsFloat):
            shown = f"a {type(value).__name__}"
        elif low <= float(value) <= high:
            return value
        else:
            shown = f"{float(value):g}"
        raise PluginError(
            f"{what} returns {shown}",
            hint=f"It gives a number from {low:g} to {high:g}, or None where a row cannot be scored.",
        )

    return checked


def _families(names: list[str]) -> list[str]:
    """The names without the members of families that are named themselves."""
    families = {name for name in groups() if ":" not in name}
    return [name for name in names if ":" not in name or name.partition(":")[0] not in families]


def left_out(planned: Sequence[PlannedTask], lacks: Mapping[str, LcxError]) -> dict[str, str]:
    """What is left out and why, one entry for all that lack the same; groups by their names where all of one lack it.

    The reason ends with the line that mends it.
    """
    by_line: dict[str, list[str]] = {}
    for task, lack in lacks.items():
        by_line.setdefault(lack.hint or lack.what, []).append(task)
    found = {}
    for tasks in by_line.values():
        names: dict[str, None] = {}
        for one in planned:
            if one.name in tasks:
                members = [other.name for other in planned if other.group == one.group]
                names[one.group if all(member in tasks for member in members) else one.name] = None
        first = lacks[tasks[0]]
        more = f" and {len(tasks) - 1} more" if len(tasks) > 1 else ""
        line = "; ".join(first.hint.split("\n"))
        found[", ".join(names)] = f"{first.what}{more}{f' ({line})' if line else ''}"
    return found


# ---- sized probes

SETTINGS = ("span", "limit", "max_new_tokens", "too_long", "corpus", "documents", "seed")
"""Settings of an eval step that a file may give for its probe alone."""
OLD = {"needle_contexts": "contexts"}
"""What options were called in files for earlier versions."""


@dataclass(frozen=True)
class SizedProbe:
    """What the file of a sized probe says: the name that results go by, the probe, and its keys with their lines."""

    name: str
    probe: str
    values: Mapping[str, Any] = field(default_factory=dict)
    lines: Mapping[str, int] = field(default_factory=dict)


def read_sized(path: str | Path) -> SizedProbe:
    """The sized probe of a YAML file; its name is the file's where it gives none.

    Raises UsageError where the file is not there or no YAML (naming the line), and where it names no probe.
    """
    file = Path(path).expanduser()
    lines, data = _read_yaml(file)
    if not isinstance(data.get("probe"), str):
        raise UsageError(
            f"{path}: 'probe' names the probe that is sized", hint="For instance `probe: needle`."
        )
    name = data.get("name", file.stem)
    if not isinstance(name, str) or not name.strip():
        raise UsageError(f"{path}, line {lines.get('name', 1)}: 'name' is a text, not {name!r}")
    knobs = data.pop("knobs", {})  # what options that no other probe has were under, once
    if not isinstance(knobs, dict):
        raise UsageError(
            f"{path}, line {lines['knobs']}: 'knobs' is a mapping, such as {{keys: 8}}, not {knobs!r}"
        )
    values = {OLD.get(key, key): value for key, value in {**data, **knobs}.items()}
    lines |= {OLD[key]: line for key, line in lines.items() if key in OLD}
    kept = {key: value for key, value in values.items() if key not in ("probe", "name")}
    return SizedProbe(name.strip(), data["probe"], kept, lines)


def _sized(path: str, settings: EvalSettings, plugins: Plugins) -> PlannedTask:
    """A probe whose size is in a YAML file: the file's values in place of the step's."""
    sized = read_sized(path)
    task = find_task(sized.probe, plugins)
    if task.published:
        raise UsageError(
            f"{path}: {task.name} has published questions, and no size", hint="--limit N asks fewer"
        )
    known = (*SETTINGS, *task.options.model_fields)
    for key in sized.values:
        if key not in known:
            line = f", line {sized.lines[key]}" if key in sized.lines else ""
            raise UsageError(
                f"{path}{line}: unknown key '{key}'. {suggestion(str(key), known)}".rstrip(),
                hint=f"Keys: probe, name, {', '.join(known)}.",
            )
    own = {key: value for key, value in sized.values.items() if key not in SETTINGS}
    step = {key: value for key, value in sized.values.items() if key in SETTINGS}
    given = {name: getattr(settings, name) for name in settings.model_fields_set}
    validate(EvalSettings, step, where=path)  # so that an error names the file
    checked = validate(EvalSettings, {**given, **step}, where="eval")
    assert isinstance(checked, EvalSettings)
    validate(task.options, own, where=path)
    asked = {**settings.options.get(sized.probe, {}), **settings.options.get(sized.name, {}), **own}
    return PlannedTask(sized.name, task, checked, _options(task, settings, asked), True, path)


def _read_yaml(path: Path) -> tuple[dict[str, int], dict[str, Any]]:
    """Lines of the keys of a YAML mapping, and the mapping. Raises UsageError."""
    try:
        data, lines = read_yaml_file(path)
    except OSError as bad:
        raise UsageError(f"cannot read the probe's file {path}", why=bad.strerror or str(bad)) from None
    if not isinstance(data, dict):
        raise UsageError(f"{path}: a sized probe is a YAML mapping", hint="For instance `probe: needle`.")
    return {str(key): line for key, line in lines.items()}, {str(key): value for key, value in data.items()}


# ---- forecast


def eval_forecast(work: StepWork[EvalSettings]) -> dict[str, Any]:
    """Contexts and questions by task, calls where judges are asked, and what would be left out and why."""
    settings = work.settings
    asked = forecast_tasks(settings, work.plugins)
    found: dict[str, Any] = {"model": settings.answers or settings.model}
    if asked["contexts"] or not (asked["unknown"] or asked["expected"]):
        found |= {"contexts": asked["contexts"], "queries": asked["queries"]}
    if asked["expected"]:
        found |= _costs(settings, asked["expected"])
    elif settings.served and "queries" in found:
        found["calls"] = sum(asked["queries"].values())
    if asked["left out"]:
        found["left out"] = asked["left out"]
    notes = [f"not counted before {what}: {', '.join(names)}" for what, names in asked["unknown"].items()]
    if notes:
        found["note"] = "; ".join(notes)
    return found


def _costs(settings: EvalSettings, expected: Mapping[str, Sequence[Expected]]) -> dict[str, Any]:
    """Calls of judged tasks by task and by who is called, tokens, and cost where prices are known."""
    from lcx.llm.ledger import load_prices

    calls: dict[str, Any] = {}
    sent: Counter[str] = Counter()
    made: Counter[str] = Counter()
    for task, these in expected.items():
        by: Counter[str] = Counter()
        for one in these:
            by[one.who] += one.calls
            sent[one.who] += round(one.calls * one.sent)
            made[one.who] += round(one.calls * one.made)
        calls[task] = {who: number for who, number in by.items() if number}
    calls["all"] = sum(sum(by.values()) for by in calls.values())
    models = {
        "writer": str(getattr(settings, "writer", None) or settings.judge),
        "model": str(settings.model),
        "other": str(settings.against),
        "judge": str(settings.judge),
    }
    prices = load_prices(settings.prices)
    cost = {
        who: round((sent[who] * prices[name][0] + made[who] * prices[name][1]) / 1e6, 4)
        for who in sent
        if (name := models[who].partition(":")[2]) in prices
    }
    found = {
        "judge": settings.judge,
        "calls": calls,
        "prompt_tokens": dict(+sent),
        "reply_tokens": dict(+made),
    }
    found |= {"cost": cost} if cost else {}
    return found | {"assumes": "answers of at most 300 tokens, and that the judge's first reply can be read"}


def forecast_tasks(settings: EvalSettings, plugins: Plugins) -> dict[str, Any]:
    """`contexts` in all, `queries` by task, calls `expected` by judged task, `left out` with the reason, and the tasks
    that are `unknown` by what would have to be known.
    """
    found: dict[str, Any] = {"contexts": 0, "queries": {}, "expected": {}, "left out": {}, "unknown": {}}
    planned = plan_tasks(settings, plugins)
    check_windows(planned)
    lacks: dict[str, MissingError] = {}
    asks: set[str] = set()
    for one in planned:
        try:
            counted = _counts(one)
        except MissingError as lack:
            lacks[one.name] = lack
            continue
        if counted is not None:
            found["contexts"] += counted.contexts
            if counted.questions:
                found["queries"][one.name] = counted.questions
        if one.task is not None and one.task.expect is not None:
            size = (None, None) if counted is None else (counted.questions, counted.tokens)
            calls = list(one.task.expect(one.options, settings, *size))
            if counted is not None and counted.digest in asks:  # another task's answers serve
                calls = [call for call in calls if call.who != "model"]
            asks |= {counted.digest} if counted is not None else set()
            found["expected"][one.name] = calls
        elif counted is None:
            by_texts = getattr(one.options, "context_tokens", None) is not None
            what = "it is known how much of the texts fits" if by_texts else "the model's window is known"
            found["unknown"].setdefault(what, []).append(one.name)
    found["left out"] = left_out(planned, lacks)
    return found


@dataclass(frozen=True)
class _Size:
    """How much a task asks: contexts, questions, and of judged tasks the mean context in tokens, and a digest."""

    contexts: int
    questions: int
    tokens: float = 0.0
    digest: str = ""


MEASURED = 24
"""Contexts whose tokens are counted."""


def _counts(one: PlannedTask) -> _Size | None:
    """How much a task asks; None where only the model's window, or who writes its questions, tells."""
    if one.task is None:
        require_lm_eval(one.name)
        return None
    if lack := lacking(one):
        raise lack
    if makes_questions(one):
        return None
    if one.task.published:
        from lcx.evaluation.samples import load_benchmark

        bundles = load_benchmark(one.name, one.task, one.settings, one.options).bundles
        asked = [(bundle.context, [branch.question for branch in bundle.branches]) for bundle in bundles]
        count = sum(len(questions) for _, questions in asked)
        if not one.task.judged:
            return _Size(len(bundles), count)
        texts = [text or "" for text, _ in asked[:: max(1, len(asked) // MEASURED)]]
        tokens = [len(found) for found in open_span_tokenizer("simple").starts(texts)]
        return _Size(len(bundles), count, sum(tokens) / len(tokens), sha256_json(asked))
    counted = one.task.count(_with_lengths(one)) if one.task.count is not None else None
    limit = one.settings.limit
    if counted is None:
        return None
    contexts, questions = counted
    return _Size(contexts, questions) if limit is None else _Size(min(contexts, limit), min(questions, limit))


def _with_lengths(one: PlannedTask) -> TaskOptions:
    """A task's options with the lengths that it takes by default, where the model's window is known already."""
    settings, options = one.settings, one.options
    if getattr(options, "lengths", None) != () or getattr(options, "style", "") == "bare":
        return options
    from lcx.evaluation.statistics.grids import default_lengths
    from lcx.forecast.model import known_window

    window = settings.window or known_window(str(settings.model or ""), settings.rope)
    return options if window is None else options.model_copy(update={"lengths": default_lengths(window)})
