"""Which tasks an eval step has: groups spelt out, sized probes read, unknown names refused. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lcx.errors import LcxError, UsageError, suggestion
from lcx.evaluation.probes import Measure, Probe, Suite
from lcx.evaluation.probing.knobs import knob_values
from lcx.evaluation.settings import DEFAULT_SIZES, EvalSettings, sized_file
from lcx.evaluation.suites.groups import expand, groups

if TYPE_CHECKING:
    from lcx.plugins import Plugins
    from lcx.recipe import Step

__all__ = ["BRIDGE", "Planned", "find_task", "left_out", "plan_tasks", "was_named"]

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
    from lcx.evaluation.probing.sizing import named, read_sizing

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
