"""Recipes: one YAML file with an ordered list of steps; where it is found, inherited from and checked.

A recipe file can never run code: it is plain YAML whose keys are checked against the method's schemas.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from lcx.errors import PluginError, UsageError, suggestion
from lcx.plugins import STAGES
from lcx.settings import Settings

if TYPE_CHECKING:
    from lcx.plugins import Plugins

HEAD_KEYS = ("name", "method", "summary", "paper", "extends", "steps")
STEP_KEYS = ("id", "stage", "method")


@dataclass(frozen=True)
class RawStep:
    """A step as the file gives it: `settings` are unchecked, `origins` name the file of each key."""

    id: str
    stage: str
    method: str
    settings: dict[str, Any]
    origins: dict[str, str]


@dataclass(frozen=True)
class Recipe:
    """A recipe file read and merged with what it extends; its settings are not yet checked."""

    name: str
    method: str
    summary: str
    paper: str
    steps: tuple[RawStep, ...]
    path: Path

    def step(self, step_id: str) -> RawStep:
        for step in self.steps:
            if step.id == step_id:
                return step
        known = [s.id for s in self.steps]
        raise UsageError(
            f"recipe '{self.name}' has no step '{step_id}'. {suggestion(step_id, known)}".rstrip(),
            why=f"its steps: {', '.join(known)}",
        )


@dataclass(frozen=True)
class Step:
    """A step ready to run: checked settings, and where each value came from."""

    id: str
    stage: str
    method: str
    recipe: str
    settings: Settings
    origins: dict[str, str] = field(default_factory=dict)

    def values(self) -> dict[str, Any]:
        """The settings; those that a step's settings list last (how models are called) stand behind all others."""
        values, last = self.settings.model_dump(mode="json"), type(self.settings).last()
        return {key: values[key] for key in sorted(values, key=lambda key: key in last)}


def recipe_files(plugins: Plugins) -> dict[str, list[tuple[Path, str]]]:
    """Every recipe by name with its file and owner. Names are file stems; folders are searched in depth."""
    found: dict[str, list[tuple[Path, str]]] = {}
    for folder in plugins.recipes.names():
        owner = plugins.recipes.owner(folder)
        for path in sorted(Path(folder).rglob("*.yaml")):
            found.setdefault(path.stem, []).append((path, owner))
    return dict(sorted(found.items()))


def find(name: str, plugins: Plugins) -> Path:
    """The file of a recipe: a path if it looks like one, else a name among the registered folders."""
    if name.endswith((".yaml", ".yml")) or "/" in name:
        path = Path(name).expanduser()
        if not path.is_file():
            raise UsageError(f"no recipe file '{name}'", hint="`lcx recipes list` shows the recipes by name.")
        return path
    files = recipe_files(plugins)
    if name not in files:
        local = Path(f"{name}.yaml")
        if local.is_file():
            return local
        why = f"known recipes: {', '.join(files)}"
        failed = plugins.failed()
        if failed:
            why += "; plugins that failed to load: " + ", ".join(f"{e.name} ({e.error})" for e in failed)
        raise UsageError(
            f"unknown recipe '{name}'. {suggestion(name, files)}".rstrip(),
            why=why,
            hint="`lcx recipes list` shows them; a path to a YAML file works too.",
        )
    places = files[name]
    if len(places) > 1:
        owners = " and ".join(f"'{owner}' ({path})" for path, owner in places)
        raise PluginError(
            f"two plugins claim the recipe '{name}': {owners}",
            hint="Give the file's path instead, or leave one plugin out with LCX_PLUGINS.",
        )
    return places[0][0]


def load(name: str, plugins: Plugins, _seen: tuple[Path, ...] = ()) -> Recipe:
    """Read a recipe by name or path, with what it extends. Raises UsageError for a bad file."""
    path = find(name, plugins)
    if path.resolve() in _seen:
        raise UsageError(f"{path}: recipes extend each other in a circle")
    data = _read(path)
    label = f"recipe {path.name}"
    steps = [_raw_step(item, data, path, label) for item in data.get("steps") or []]
    doubles = {s.id for s in steps if sum(t.id == s.id for t in steps) > 1}
    if doubles:  # before merging, which would lay one over the other
        raise UsageError(
            f"{path}: two steps have the id '{sorted(doubles)[0]}'", hint="Give each its own `id:`."
        )
    base: Recipe | None = None
    if data.get("extends"):
        base = load(_beside(str(data["extends"]), path), plugins, (*_seen, path.resolve()))
        steps = _merge(list(base.steps), steps)
    method = data.get("method") or (base.method if base else "")
    if not method:
        raise UsageError(f"{path}: a recipe needs a 'method' (or 'extends')")
    if not steps:
        raise UsageError(f"{path}: a recipe needs 'steps': a list of stages", hint="`lcx recipes show in2`")
    steps = [step if step.method else _with(step, method=method) for step in steps]
    steps = [step if step.stage else _bad_stage(path, step) for step in steps]
    return Recipe(
        name=str(data.get("name") or path.stem),
        method=method,
        summary=str(data.get("summary") or (base.summary if base else "")),
        paper=str(data.get("paper") or (base.paper if base else "")),
        steps=tuple(steps),
        path=path,
    )


def _beside(name: str, path: Path) -> str:
    """`extends: other.yaml` is looked for beside the file that says so; a bare name among all recipes."""
    if name.endswith((".yaml", ".yml")) and not Path(name).is_absolute():
        return str(path.parent / name)
    return name


def _read(path: Path) -> dict[str, Any]:
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as bad:
        raise UsageError(f"{path} is not valid YAML", why=" ".join(str(bad).split())) from None
    if not isinstance(data, dict):
        raise UsageError(f"{path}: a recipe is a YAML mapping with 'method' and 'steps'")
    for key in data:
        if key not in HEAD_KEYS:
            raise UsageError(
                f"{path}: unknown key '{key}'. {suggestion(str(key), HEAD_KEYS)}".rstrip(),
                why=f"a recipe's keys: {', '.join(HEAD_KEYS)}; settings belong under a step",
            )
    if not isinstance(data.get("steps") or [], list):
        raise UsageError(f"{path}: 'steps' is a list; each item has a 'stage' and its settings")
    return data


def _raw_step(item: Any, head: Mapping[str, Any], path: Path, label: str) -> RawStep:
    if not isinstance(item, dict) or not ("stage" in item or "id" in item):
        raise UsageError(f"{path}: each step is a mapping with a 'stage' ({', '.join(STAGES)})")
    stage = str(item.get("stage") or "")
    if stage and stage not in STAGES:
        raise UsageError(
            f"{path}: unknown stage '{stage}'. {suggestion(stage, STAGES)}".rstrip(),
            why=f"stages: {', '.join(STAGES)}",
        )
    settings = {str(k): v for k, v in item.items() if k not in STEP_KEYS}
    return RawStep(
        id=str(item.get("id") or stage),
        stage=stage,
        method=str(item.get("method") or head.get("method") or ""),
        settings=settings,
        origins={key: label for key in settings},
    )


def _bad_stage(path: Path, step: RawStep) -> RawStep:
    raise UsageError(f"{path}: step '{step.id}' has no 'stage'", why=f"stages: {', '.join(STAGES)}")


def _with(step: RawStep, **changes: Any) -> RawStep:
    return RawStep(**{**vars(step), **changes})


def _merge(base: list[RawStep], own: list[RawStep]) -> list[RawStep]:
    """The base's steps with the extending file's settings laid over them by id; new ids come last."""
    merged = {step.id: step for step in base}
    for step in own:
        if step.id in merged:
            old = merged[step.id]
            merged[step.id] = RawStep(
                id=step.id,
                stage=step.stage or old.stage,
                method=step.method or old.method,
                settings={**old.settings, **step.settings},
                origins={**old.origins, **step.origins},
            )
        else:
            merged[step.id] = step
    return list(merged.values())
