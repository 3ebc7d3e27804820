"""Which tasks an eval step has, and what it will do: groups spelt out, sized probes read, unknown names refused.

A probe may have a size of its own, from a YAML file: `probe` names it, the other keys say how large it is.

probe: needle
name: needle-64k
lengths: [65536]
depths: 20
sets: 2

Torch-free.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from lcx.errors import LcxError, MissingError, UsageError, suggestion
from lcx.evaluation.benchmarks.groups import expand, groups
from lcx.evaluation.samples import limited
from lcx.evaluation.settings import DEFAULT_SIZES, EvalSettings, sized_file
from lcx.evaluation.task import Measure, Probe, ProbeOptions, Reading, Suite, SuiteOptions, knob_values
from lcx.plugins import Plugins
from lcx.recipe import Step
from lcx.records import Bundle

__all__ = [
    "BRIDGE",
    "Planned",
    "Sized",
    "eval_forecast",
    "find_task",
    "forecast_tasks",
    "left_out",
    "named",
    "plan_tasks",
    "read_sizing",
    "was_named",
]

# ---- sized probes

SETTINGS = (
    "sets",
    "lengths",
    "records",
    "depths",
    "needle_contexts",
    "buckets",
    "context_tokens",
    "style",
    "span",
    "limit",
    "max_new_tokens",
    "too_long",
    "corpus",
    "seed",
)
"""Settings of an eval step that a file may give for its probe alone."""
KEYS = ("probe", "name", "size", *SETTINGS, "knobs")


@dataclass(frozen=True)
class Sized:
    """What a sizing file says: the name that results go by, the probe, and what it sets in place of the step.

    `overrides` has settings of an eval step by name, `size` (items a context) and `knobs` (by name).
    """

    name: str
    probe: str
    overrides: Mapping[str, Any] = field(default_factory=dict)


def read_sizing(path: str | Path) -> Sized:
    """The sized probe of a YAML file; its name is the file's where it gives none.

    Raises UsageError where the file is not there or no YAML (naming the line), for an unknown key (with a
    suggestion), and for a value of the wrong kind.
    """
    file = Path(path).expanduser()
    lines, data = _read(file)
    for key in data:
        if key not in KEYS:
            raise UsageError(
                f"{path}, line {lines[key]}: unknown key '{key}'. {suggestion(str(key), KEYS)}".rstrip(),
                hint=f"Keys: {', '.join(KEYS)}. A probe's own settings go under knobs.",
            )
    if not isinstance(data.get("probe"), str):
        raise UsageError(
            f"{path}: 'probe' names the probe that is sized", hint="For instance `probe: needle`."
        )
    name = data.get("name", file.stem)
    if not isinstance(name, str) or not name.strip():
        raise UsageError(f"{path}, line {lines.get('name', 1)}: 'name' is a text, not {name!r}")
    knobs = data.get("knobs", {})
    if not isinstance(knobs, dict):
        raise UsageError(
            f"{path}, line {lines['knobs']}: 'knobs' is a mapping, such as {{keys: 8}}, not {knobs!r}"
        )
    _check_values(path, {key: data[key] for key in SETTINGS if key in data})
    size = data.get("size", 1)
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
        raise UsageError(f"{path}, line {lines['size']}: 'size' is a number of items from 1, not {size!r}")
    overrides = {key: value for key, value in data.items() if key not in ("probe", "name")}
    return Sized(name.strip(), data["probe"], overrides)


def _read(path: Path) -> tuple[dict[str, int], dict[str, Any]]:
    """Lines of the keys of a YAML mapping, and the mapping. Raises UsageError."""
    try:
        text = path.read_text(encoding="utf-8")
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        data = yaml.safe_load(text)
    except (OSError, UnicodeDecodeError) as bad:
        why = bad.strerror if isinstance(bad, OSError) else str(bad)
        raise UsageError(f"cannot read the probe's file {path}", why=why or "") from None
    except yaml.YAMLError as bad:
        mark = getattr(bad, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark is not None else ""
        raise UsageError(f"{path}{where}: not valid YAML", why=" ".join(str(bad).split())) from None
    if not isinstance(node, yaml.MappingNode) or not isinstance(data, dict):
        raise UsageError(f"{path}: a sized probe is a YAML mapping", hint="For instance `probe: needle`.")
    lines: dict[str, int] = {}
    for key, _ in node.value:
        line = key.start_mark.line + 1
        if key.value in lines:
            raise UsageError(
                f"{path}, line {line}: '{key.value}' is given again", why=f"First in line {lines[key.value]}."
            )
        lines[key.value] = line
    return lines, {str(key): value for key, value in data.items()}


def _check_values(path: str | Path, values: dict[str, Any]) -> None:
    """Check the values as those of an eval step are. Raises UsageError naming the file."""
    from lcx.evaluation.settings import EvalSettings
    from lcx.settings import validate

    validate(EvalSettings, values, where=str(path))


def named(probe: Probe | Measure, name: str) -> Probe | Measure:
    """The probe under another name: its bundles and texts are named so too, and no two sizes of it are mixed up."""
    if isinstance(probe, Measure):

        def read(documents: Any, options: ProbeOptions, seed: int) -> list[Reading]:
            return [
                replace(one, id=_renamed(one.id, probe.name, name))
                for one in whole.build(documents, options, seed)
            ]

        whole = probe
        return replace(probe, name=name, build=read)
    asks = probe

    def build(documents: Any, options: ProbeOptions, seed: int) -> list[Bundle]:
        bundles = asks.build(documents, options, seed)
        return [replace(one, id=_renamed(one.id, asks.name, name), kind=name) for one in bundles]

    return replace(probe, name=name, build=build)


def _renamed(id: str, old: str, new: str) -> str:
    return f"{new}:{id.removeprefix(old).lstrip(':')}"


# ---- tasks

BRIDGE = "lm-eval:"
"""What comes before the name of a task of lm-eval."""


@dataclass(frozen=True)
class Planned:
    """A task with what it is (None: a task of lm-eval) and its settings.

    `named` says that its name was given, not a group's; `group` is the entry of `tasks` that it comes from, and
    `base` the probe that a sized one is.
    """

    task: str
    what: Probe | Suite | Measure | None
    settings: EvalSettings
    named: bool
    group: str
    base: str = ""


def was_named(step: Step) -> bool:
    """Whether a command line names the tasks of an eval step, and not its recipe."""
    return step.origins.get("tasks", "").startswith("--")


def plan_tasks(settings: EvalSettings, plugins: Plugins) -> list[Planned]:
    """The tasks of an eval step, each once, in the order given. Raises UsageError for an unknown one."""
    found: dict[str, Planned] = {}
    for entry in settings.tasks:
        if sized_file(entry):
            one = _sized(entry, settings, plugins)
            found.setdefault(one.task, one)
            continue
        for task in [entry] if entry.startswith(BRIDGE) else expand([entry]):
            what = None if task.startswith(BRIDGE) else find_task(task, plugins)
            found.setdefault(task, Planned(task, what, settings, task == entry, entry))
    known = {name for one in found.values() for name in (one.task, one.base) if name}
    for name in settings.options:
        if name not in known:
            near = suggestion(name, known)
            raise UsageError(
                f"options: no task here is named '{name}'. {near}".rstrip(), why=f"tasks: {', '.join(found)}"
            )
    _check_families(settings, list(found.values()), plugins)
    for one in found.values():
        # What is wrong with a knob is said before anything is built.
        knob_values(one.task, getattr(one.what, "knobs", {}), one.settings.options.get(one.task, {}))
    return list(found.values())


def _check_families(settings: EvalSettings, planned: Sequence[Planned], plugins: Plugins) -> None:
    """Raises UsageError where `data` or `prompts` seems to misspell a family: its suite would miss them."""
    known = {name.partition(":")[0] for name in plugins.probes.names()} | {BRIDGE.rstrip(":")}
    known |= {one.what.family for one in planned if isinstance(one.what, Suite)}
    for setting, values in (("data", settings.data), ("prompts", settings.prompts)):
        for name in values:
            if name not in known and (near := suggestion(name, known)):
                raise UsageError(
                    f"{setting}: no task is of the family '{name}'. {near}",
                    hint=f"--set eval.{setting}.FAMILY=PATH; the family of longbench:qasper is longbench",
                )


def find_task(name: str, plugins: Plugins) -> Probe | Suite | Measure:
    """The probe, suite or measure of a name. Raises UsageError for an unknown one, with what is near it."""
    probes = plugins.probes
    if name in probes:
        found: Probe | Suite | Measure = probes.load(name)
        return found
    known = list(dict.fromkeys([*groups(), *probes.names()]))
    raise UsageError(
        f"there is no task '{name}'. {suggestion(name, known)}".rstrip(),
        hint=f"Tasks: {', '.join(_short(known))}; lm-eval:TASK; or a probe's YAML file.",
    )


def _short(names: list[str]) -> list[str]:
    """The names without the members of families that are named themselves."""
    families = {name for name in groups() if ":" not in name}
    return [name for name in names if ":" not in name or name.partition(":")[0] not in families]


def left_out(planned: Sequence[Planned], lacks: Mapping[str, LcxError]) -> dict[str, str]:
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
            if one.task in tasks:
                members = [other.task for other in planned if other.group == one.group]
                names[one.group if all(member in tasks for member in members) else one.task] = None
        first = lacks[tasks[0]]
        more = f" and {len(tasks) - 1} more" if len(tasks) > 1 else ""
        line = "; ".join(first.hint.split("\n"))
        found[", ".join(names)] = f"{first.what}{more}{f' ({line})' if line else ''}"
    return found


def _sized(path: str, settings: EvalSettings, plugins: Plugins) -> Planned:
    """A probe whose size is in a YAML file: the file's values in place of the step's."""
    sized = read_sizing(path)
    what = find_task(sized.probe, plugins)
    if isinstance(what, Suite):
        raise UsageError(
            f"{path}: {what.name} has published questions, and no size", hint="--limit N asks fewer"
        )
    values: dict[str, Any] = dict(sized.overrides)
    if "size" in values:
        values["sizes"] = {sized.name: values.pop("size")}
    elif sized.probe in settings.sizes or sized.probe in DEFAULT_SIZES:
        values["sizes"] = {sized.name: settings.size(sized.probe)}
    knobs = {**settings.options.get(sized.probe, {}), **values.pop("knobs", {})}
    values |= {"tasks": (sized.name,), "options": {sized.name: knobs}}
    return Planned(sized.name, named(what, sized.name), updated(settings, values), True, path, sized.probe)


def updated(settings: EvalSettings, values: Mapping[str, Any]) -> EvalSettings:
    """The settings with other values, checked. Raises UsageError as `validate` does."""
    from lcx.settings import validate

    given = {name: getattr(settings, name) for name in settings.model_fields_set}
    checked = validate(EvalSettings, {**given, **values}, where="eval")
    assert isinstance(checked, EvalSettings)
    return checked


# ---- forecast


def eval_forecast(step: Step, plugins: Plugins) -> dict[str, Any]:
    """Contexts and questions by task, and the tasks that would be left out with the line that gets their data."""
    settings = step.settings
    assert isinstance(settings, EvalSettings)
    asked = forecast_tasks(settings, plugins)
    found: dict[str, Any] = {"model": settings.model}
    if asked["contexts"] or not asked["unknown"]:
        found |= {"contexts": asked["contexts"], "queries": asked["queries"]}
    if settings.served and "queries" in found:
        found["calls"] = sum(asked["queries"].values())
    if asked["left out"]:
        found["left out"] = asked["left out"]
    if asked["unknown"]:
        found["note"] = f"not counted before the model's window is known: {', '.join(asked['unknown'])}"
    return found


def forecast_tasks(settings: EvalSettings, plugins: Plugins) -> dict[str, Any]:
    """`contexts` in all, `queries` by task, `left out` with the reason, and the tasks that are `unknown`."""
    found: dict[str, Any] = {"contexts": 0, "queries": {}, "left out": {}, "unknown": []}
    planned = plan_tasks(settings, plugins)
    lacks: dict[str, MissingError] = {}
    for one in planned:
        try:
            counted = _counts(one)
        except MissingError as lack:
            lacks[one.task] = lack
            continue
        if counted is None:
            found["unknown"].append(one.task)
            continue
        found["contexts"] += counted[0]
        if counted[1]:
            found["queries"][one.task] = counted[1]
    found["left out"] = left_out(planned, lacks)
    return found


def _counts(one: Planned) -> tuple[int, int] | None:
    """Contexts and questions of a task; None where only the model's window tells."""
    settings = one.settings
    if one.what is None:
        from lcx.evaluation.bridge import require_lm_eval

        require_lm_eval(one.task)
        return None
    if isinstance(one.what, Suite):
        options = SuiteOptions(
            settings.data.get(one.what.family),
            settings.prompts.get(one.what.family),
            settings.limit,
            settings.sample_seed,
        )
        bundles = limited(one.what.load(options).bundles, settings.limit)
        return len(bundles), sum(len(bundle.branches) for bundle in bundles)
    contexts, questions = settings.questions(one.base or one.task)
    if contexts is not None and questions is not None:
        return contexts, questions
    if not isinstance(one.what, Probe) or one.what.questions is None or not settings.lengths:
        return None
    size = ProbeOptions(
        settings.size(one.task),
        sets=settings.sets,
        lengths=settings.lengths,
        depths=settings.depths,
        knobs=settings.options.get(one.task, {}),
    )
    contexts = settings.sets * len(settings.lengths)
    questions = contexts * one.what.questions(size)
    if settings.limit is not None:
        return min(contexts, settings.limit), min(questions, settings.limit)
    return contexts, questions
