"""Settings that explain themselves: a step's keys in words, a JSON Schema for editors, and docs/settings.md.

python -m lcx.cli.reference      writes docs/settings.md again
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lcx.errors import UsageError, suggestion
from lcx.recipe import NAME, STEP_KEYS

if TYPE_CHECKING:
    from lcx.plugins import Plugins
    from lcx.recipe import Step
    from lcx.settings import Settings

__all__ = ["Key", "describe_keys", "keys_of", "recipe_schema", "reference"]

DRAFT = "https://json-schema.org/draft/2020-12/schema"
BOUNDS = {
    "minimum": "at least {}",
    "exclusiveMinimum": "above {}",
    "maximum": "at most {}",
    "exclusiveMaximum": "below {}",
}
TYPES = {
    "integer": "whole number",
    "number": "number",
    "string": "text",
    "boolean": "true or false",
    "null": "null",
}
SEVERAL = {
    "integer": "whole numbers",
    "number": "numbers",
    "string": "texts",
    "array": "lists",
    "object": "mappings",
}
HEAD = {
    "name": "the recipe's name; the file's name without it",
    "method": "the method of every step that names none: in2, logo, longreward, or a plugin's",
    "summary": "one line for `lcx recipes list`",
    "paper": "where the method is from",
    "extends": "a recipe by name, or a file beside this one, whose steps these are laid over by their ids",
}


@dataclass(frozen=True)
class Key:
    """A setting: what it takes in words, the values where they can be listed, its default, and what it is."""

    name: str
    takes: str
    values: tuple[str, ...]
    default: Any
    about: str


def keys_of(schema: type[Settings]) -> dict[str, Key]:
    """The settings of a stage by name, in their order."""
    shape = schema.model_json_schema()
    found = {}
    for name, info in schema.model_fields.items():
        one = shape["properties"][name]
        default = info.get_default(call_default_factory=True)
        if hasattr(default, "model_dump"):
            default = default.model_dump(mode="json")
        values = tuple(_yaml(value) for value in _listed(one))
        found[name] = Key(name, _takes(one, shape), values, default, str(one.get("description", "")))
    return found


def _listed(one: Mapping[str, Any]) -> list[Any]:
    """Every value that a property can have, where they can be listed."""
    if "enum" in one:
        return list(one["enum"])
    if "const" in one:
        return [one["const"]]
    if one.get("type") == "boolean":
        return [True, False]
    parts = [_listed(part) for part in one.get("anyOf", ()) if part.get("type") != "null"]
    return [value for part in parts for value in part] if parts and all(parts) else []


def _takes(one: Mapping[str, Any], shape: Mapping[str, Any]) -> str:
    """A property's type in words."""
    if "$ref" in one:
        return _takes(shape["$defs"][one["$ref"].rpartition("/")[2]], shape)
    if "allOf" in one and len(one["allOf"]) == 1:
        return _takes(one["allOf"][0], shape)
    if "anyOf" in one:
        return ", or ".join(dict.fromkeys(_takes(part, shape) for part in one["anyOf"]))
    if (listed := one.get("enum") or ([one["const"]] if "const" in one else [])) and one.get(
        "type"
    ) != "boolean":
        return " | ".join(map(str, listed))
    kind = str(one.get("type", "any value"))
    if kind == "array":
        items = one.get("prefixItems")
        if items:
            return f"[{', '.join(_takes(part, shape) for part in items)}]"
        inside = one.get("items") or {}
        return f"list of {SEVERAL.get(str(inside.get('type')), 'values')}"
    if kind == "object":
        if "properties" in one:
            return f"mapping of {', '.join(one['properties'])}"
        return "mapping"
    limits = [words.format(_number(one[bound])) for bound, words in BOUNDS.items() if bound in one]
    return " ".join([TYPES.get(kind, kind), *(["(" + ", ".join(limits) + ")"] if limits else [])])


def _number(value: Any) -> str:
    return f"{int(value):,}" if float(value).is_integer() else f"{value:g}"


def _yaml(value: Any) -> str:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


# ---- on the command line


def describe_keys(
    steps: Iterable[Step], wanted: Iterable[str], plugins: Plugins
) -> Iterator[tuple[Step, Key, Any]]:
    """The settings of steps with their values, or those that `STEP`, `KEY` or `STEP.KEY` name, and a task's options by
    `STEP.options.TASK` or `STEP.options.TASK.KEY`. Raises UsageError for one there is not.
    """
    steps, names = list(steps), list(wanted)
    unknown = set(names)
    for step in steps:
        values = step.values()
        for key in keys_of(type(step.settings)).values():
            said = {step.id, key.name, f"{step.id}.{key.name}"}.intersection(names)
            unknown -= said
            if said or not names:
                yield step, key, values[key.name]
        for name in names:
            for key, value in _task_keys(step, name, plugins):
                unknown.discard(name)
                yield step, key, value
    for name in sorted(unknown):
        known = [
            known
            for step in steps
            for known in (step.id, *(f"{step.id}.{key}" for key in keys_of(type(step.settings))))
        ]
        near = suggestion(name, known) or suggestion(f"{steps[-1].id}.{name}", known)
        raise UsageError(
            f"no setting '{name}'. {near}".rstrip(),
            why=f"steps: {', '.join(step.id for step in steps)}",
            hint="Name a STEP, a KEY or a STEP.KEY; without one every setting is listed.",
        )


def _task_keys(step: Step, name: str, plugins: Plugins) -> Iterator[tuple[Key, Any]]:
    """The options of a task that `STEP.options.TASK` or `STEP.options.TASK.KEY` names, with their values in a step."""
    from lcx.evaluation.planning import find_task

    values, before = step.values(), f"{step.id}.options."
    if not name.startswith(before) or "tasks" not in values:
        return
    task, only = name.removeprefix(before), ""
    if task not in plugins.probes and "." in task:
        task, _, only = task.rpartition(".")
    keys = keys_of(find_task(task, plugins).options)
    if not keys:
        raise UsageError(
            f"the task '{task}' has no options", hint="What a step asks of it are its other keys."
        )
    if only and only not in keys:
        raise UsageError(
            f"the task '{task}' has no option '{only}'. {suggestion(only, keys)}".rstrip(),
            hint=f"`lcx recipes show probe --describe eval.options.{task}` says what it has.",
        )
    own = values["options"].get(task, {})
    for key in [keys[only]] if only else keys.values():
        shared = (
            values[key.name] if key.name in getattr(step.settings, "model_fields_set", ()) else key.default
        )
        yield replace(key, name=f"options.{task}.{key.name}"), own.get(key.name, shared)


# ---- for editors


def recipe_schema(plugins: Plugins, method: str = "") -> dict[str, Any]:
    """A JSON Schema of recipe files with the settings of every plugin. `method` is that of a file that names none."""
    definitions: dict[str, Any] = {}
    rules = []
    stages: dict[str, list[str]] = {}
    for name in plugins.methods.names():
        for stage in plugins.method(name).stages:
            place = f"{name}.{stage}"
            definitions |= _definition(place, plugins.method(name).stage(stage).settings)
            stages.setdefault(stage, []).append(place)
            rules.append(_rule({"stage": stage, "method": name}, {"$ref": f"#/$defs/{place}"}))
    for stage, places in stages.items():  # a step that leaves its method to the head of the file
        own = [place for place in places if place == f"{method}.{stage}"]
        refs = [{"$ref": f"#/$defs/{place}"} for place in own or places]
        rules.append(
            _rule({"stage": stage}, refs[0] if len(refs) == 1 else {"anyOf": refs}, lacking="method")
        )
    step: dict[str, Any] = {
        "type": "object",
        "properties": {
            "stage": {"enum": list(stages), "description": "which of the four commands runs it"},
            "id": {"type": "string", "pattern": f"^{NAME.pattern}$", "description": "its folder in a run"},
            "method": {"enum": plugins.methods.names(), "description": "where not the recipe's"},
        },
        "anyOf": [{"required": ["stage"]}, {"required": ["id"]}],
        "allOf": rules,
    }
    head = {key: {"type": "string", "description": about} for key, about in HEAD.items()}
    return {
        "$schema": DRAFT,
        "title": "A recipe of lcx",
        "type": "object",
        "properties": {**head, "steps": {"type": "array", "items": step, "description": "run in this order"}},
        "additionalProperties": False,
        "anyOf": [{"required": ["method", "steps"]}, {"required": ["extends"]}],
        "$defs": definitions,
    }


def _definition(place: str, settings: type[Settings]) -> dict[str, Any]:
    """A stage's settings with the keys that every step has; what they refer to lies beside them."""
    shape = settings.model_json_schema(ref_template=f"#/$defs/{place}.{{model}}")
    inner = shape.pop("$defs", {})
    own = {key: True for key in STEP_KEYS}
    whole = {
        **shape,
        "title": place,
        "properties": {**own, **shape.get("properties", {})},
        "additionalProperties": False,
    }
    return {place: whole, **{f"{place}.{name}": one for name, one in inner.items()}}


def _rule(given: Mapping[str, str], then: Mapping[str, Any], lacking: str = "") -> dict[str, Any]:
    test: dict[str, Any] = {
        "properties": {key: {"const": value} for key, value in given.items()},
        "required": list(given),
    }
    if lacking:
        test["not"] = {"required": [lacking]}
    return {"if": test, "then": dict(then)}


# ---- docs/settings.md

INTRO = """# Settings

<!-- written by python -m lcx.cli.reference -->

Every setting of every step; `lcx recipes show RECIPE --describe` says the same with a recipe's own values.
`--set STEP.KEY=VALUE` changes one for a run, `lcx.toml` for a folder, a recipe of your own for good. Keys that several
stages share with one meaning and default come first; a stage's table has the others.
"""


def reference(plugins: Plugins) -> str:
    """docs/settings.md: the settings of all methods that lcx brings, those in common once."""
    stages: dict[tuple[str, type[Settings]], list[str]] = {}
    for name in plugins.methods.names():
        for stage in plugins.method(name).stages:
            settings = plugins.method(name).stage(stage).settings
            stages.setdefault((stage, settings), []).append(name)
    tables = {place: keys_of(place[1]) for place in stages}
    shared = _shared(tables.values())
    parts = [INTRO, "## In common", "", *_table(shared.values()), ""]
    for (stage, settings), methods in stages.items():
        own = [key for name, key in tables[stage, settings].items() if shared.get(name) != key]
        names = ", ".join(
            sorted(name for name in tables[stage, settings] if name in shared and shared[name] not in own)
        )
        parts += [f"## `{stage}` of {' and '.join(methods)}", ""]
        parts += [*_table(own), ""] if own else []
        parts += [f"And in common: {names}.", ""] if names else []
    return "\n".join(parts)


def _shared(tables: Iterable[Mapping[str, Key]]) -> dict[str, Key]:
    """Keys that at least two stages have with one meaning: that of the most."""
    seen: dict[str, list[tuple[int, Key]]] = {}
    for table in tables:
        for name, key in table.items():
            ways = seen.setdefault(name, [])
            at = next((n for n, (_, other) in enumerate(ways) if other == key), None)
            if at is None:
                ways.append((1, key))
            else:
                ways[at] = (ways[at][0] + 1, key)
    best = {name: max(ways, key=lambda way: way[0]) for name, ways in seen.items()}
    return {name: key for name, (times, key) in sorted(best.items()) if times > 1}


def _table(keys: Iterable[Key]) -> list[str]:
    rows = ["| key | takes | default | what it is |", "|---|---|---|---|"]
    for key in keys:
        default = json.dumps(key.default, ensure_ascii=False, default=str)
        cells = (f"`{key.name}`", key.takes, f"`{default}`", key.about)
        rows.append("| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |")
    return rows


if __name__ == "__main__":
    from lcx.plugins import load

    place = Path(__file__).parents[2] / "docs/settings.md"
    place.write_text(reference(load()), encoding="utf-8")
    print(f"wrote {place}")
