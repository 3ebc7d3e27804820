"""Where a step's values come from: flags > --set > project lcx.toml > recipe > method defaults."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from lcx.errors import UsageError, suggestion
from lcx.recipe import RawStep, Recipe, Step
from lcx.settings import Settings, validate

if TYPE_CHECKING:
    from lcx.plugins import Plugins

PROJECT_FILE = "lcx.toml"
FLAGS = {"tasks": "--task", "reuse": "--no-prefix-reuse"}
"""Flags that are not named after their setting."""
PRODUCERS = {"input": ("synth", "score"), "model": ("train",)}


def parse_set(text: str, step_ids: Sequence[str], default: str | None) -> tuple[str, str, Any]:
    """`[step.]key=value` as (step id, dotted key, value). The value is read as YAML."""
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise UsageError(f"--set {text!r} is not of the form step.key=value", hint="--set train.batch=64")
    head, dot, rest = key.strip().partition(".")
    if dot and head in step_ids:
        step_id, name = head, rest
    elif dot and suggestion(head, step_ids):  # a mistyped step, not a nested setting of the default step
        raise UsageError(
            f"--set {text!r}: there is no step '{head}'. {suggestion(head, step_ids)}",
            why=f"steps: {', '.join(step_ids)}",
        )
    elif default is not None:
        step_id, name = default, key.strip()
    else:
        raise UsageError(
            f"--set {text!r}: say which step. {suggestion(head, step_ids)}".rstrip(),
            why=f"steps: {', '.join(step_ids)}",
            hint=f"--set {step_ids[0]}.{key.strip()}={value}",
        )
    try:
        return step_id, name, yaml.safe_load(value) if value.strip() else value
    except yaml.YAMLError:
        return step_id, name, value


def project_values(
    recipe: str, folder: Path | None = None, step_ids: Sequence[str] = ()
) -> dict[str, dict[str, Any]]:
    """Settings by step id from `lcx.toml`: `[steps.ID]` for every recipe, `[recipes.NAME.ID]` for one.

    Raises UsageError for a bad file, and for a step of this recipe that is not among `step_ids`, where they
    are given.
    """
    path = (folder or Path.cwd()) / PROJECT_FILE
    if not path.is_file():
        return {}
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as bad:
        raise UsageError(f"{path} is not valid TOML", why=str(bad)) from None
    for key in data:
        if key not in ("steps", "recipes"):
            raise UsageError(
                f"{path}: unknown table '{key}'. {suggestion(key, ('steps', 'recipes'))}".rstrip(),
                hint="Use [steps.train] for every recipe or [recipes.in2.train] for one.",
            )
    merged = {
        step: dict(_table(v, f"steps.{step}", path)) for step, v in _table(data, "steps", path, inner=True)
    }
    every = dict(_table(data, "recipes", path, inner=True))
    for step, values in _table(every.get(recipe, {}), f"recipes.{recipe}", path):
        if step_ids and step not in step_ids:
            raise UsageError(
                f"{path}: recipe '{recipe}' has no step '{step}'. {suggestion(step, step_ids)}".rstrip(),
                why=f"its steps: {', '.join(step_ids)}",
            )
        merged.setdefault(step, {}).update(_table(values, f"recipes.{recipe}.{step}", path))
    return merged


def _table(data: Any, name: str, path: Path, *, inner: bool = False) -> Iterable[tuple[str, Any]]:
    """The items of a TOML table (`inner`: of the table of that name inside it). Raises UsageError for
    other things.
    """
    value = data.get(name, {}) if inner else data
    if not isinstance(value, Mapping):
        raise UsageError(f"{path}: '{name}' is a table of settings, not {value!r}", hint="[steps.train]")
    return value.items()


def _put(values: dict[str, Any], dotted: str, value: Any) -> str:
    """Set `a.b` inside a nested mapping; returns the top key."""
    top, *rest = dotted.split(".")
    if not rest:
        values[top] = value
        return top
    inner = dict(values.get(top) or {}) if isinstance(values.get(top) or {}, Mapping) else {}
    node = inner
    for part in rest[:-1]:
        node[part] = dict(node.get(part) or {})
        node = node[part]
    node[rest[-1]] = value
    values[top] = inner
    return top


def resolve(
    recipe: Recipe,
    plugins: Plugins,
    *,
    flags: Mapping[str, Mapping[str, Any]] | None = None,
    sets: Sequence[tuple[str, str, Any]] = (),
    project: Mapping[str, Mapping[str, Any]] | None = None,
) -> list[Step]:
    """Every step of a recipe with its values layered, checked, and their origins recorded.

    `flags` are values by step id from command-line flags. Raises UsageError for unknown keys and bad
    values, and PluginError where a step's method is not provided.
    """
    if project is None:
        project = project_values(recipe.name, step_ids=[step.id for step in recipe.steps])
    flags = flags or {}
    for step_id in {s for s, _, _ in sets}:
        recipe.step(step_id)
    steps = []
    for position, raw in enumerate(recipe.steps):
        schema = _schema(raw, recipe, plugins)
        values, origins = dict(raw.settings), dict(raw.origins)
        for key, value in (project.get(raw.id) or {}).items():
            values[key], origins[key] = value, PROJECT_FILE
        for step_id, dotted, value in sets:
            if step_id == raw.id:
                origins[_top_of_default(schema, values, dotted)] = "--set"
                _put(values, dotted, value)
        for key, value in (flags.get(raw.id) or {}).items():
            values[key], origins[key] = value, flag_of(key)
        _wire(recipe, position, schema, values, origins)
        where = f"recipe '{recipe.name}', step '{raw.id}'"
        settings = validate(schema, values, where=where)
        for key in schema.model_fields:
            origins.setdefault(key, f"method {raw.method}")
        steps.append(Step(raw.id, raw.stage, raw.method, recipe.name, settings, origins))
    return steps


def flag_of(key: str) -> str:
    """The command line's flag for a setting."""
    return FLAGS.get(key, f"--{key.replace('_', '-')}")


def _top_of_default(schema: type[Settings], values: dict[str, Any], dotted: str) -> str:
    """For `--set eval.sizes.document=9`, start from the method's default of `sizes`, not from nothing."""
    top, dot, _ = dotted.partition(".")
    if dot and top not in values and top in schema.model_fields:
        default = schema.model_fields[top].get_default(call_default_factory=True)
        if isinstance(default, Mapping):
            values[top] = dict(default)
    return top


def _schema(raw: RawStep, recipe: Recipe, plugins: Plugins) -> type[Settings]:
    method = plugins.method(raw.method)
    if raw.stage not in method.stages:
        raise UsageError(
            f"recipe '{recipe.name}', step '{raw.id}': method '{raw.method}' has no stage '{raw.stage}'",
            why=f"its stages: {', '.join(method.stages)}",
        )
    return method.stage(raw.stage).settings


def _wire(
    recipe: Recipe, position: int, schema: type[Settings], values: dict[str, Any], origins: dict[str, str]
) -> None:
    """Where `input` or `model` is left open, take the nearest earlier step that makes it."""
    earlier = recipe.steps[:position]
    for key, stages in PRODUCERS.items():
        if key not in schema.model_fields:
            continue
        if values.get(key) is None:
            makers = [s for s in earlier if s.stage in stages]
            if makers and not (key == "model" and recipe.steps[position].stage != "eval"):
                values[key], origins[key] = f"step:{makers[-1].id}", "the step before"
        value = values.get(key)
        if isinstance(value, str) and value.startswith("step:"):
            wanted = value.removeprefix("step:")
            if wanted not in [s.id for s in earlier]:
                raise UsageError(
                    f"recipe '{recipe.name}', step '{recipe.steps[position].id}': {key} names the step "
                    f"'{wanted}', which does not come before it",
                    why=f"earlier steps: {', '.join(s.id for s in earlier) or 'none'}",
                )
