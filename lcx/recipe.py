"""Recipes: one YAML file with an ordered list of steps; where it is found, inherited from and checked.

A step's values come from flags, then --set, the project's lcx.toml, the recipe and the method's defaults, in this
order; each remembers where it came from.

A recipe file can never run code: it is plain YAML whose keys are checked against the method's schemas.
"""

from __future__ import annotations

import os
import re
import shlex
import tomllib
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lcx.errors import PluginError, UsageError, suggestion
from lcx.formatting import Written, cut_middle, shown
from lcx.paths import named_file
from lcx.plugins import STAGES
from lcx.settings import DEFAULT_SOURCE, Settings, validate, wrong_key_source
from lcx.yamls import MOST_BYTES, NotYaml, read_yaml, read_yaml_file

if TYPE_CHECKING:
    from lcx.plugins import Plugins

HEAD_KEYS = ("name", "method", "summary", "paper", "extends", "steps")
STEP_KEYS = ("id", "stage", "method")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
"""What ids of steps and names of recipes are like: they become folders."""
RESERVED = frozenset({"manifest.json", "report.html", "demo.png", "settings.yaml"})
"""Names that other things have in a run's folder."""
MOST_STEPS = 100
MOST_EXTENDS = 20
"""How many recipes may extend one another in a row."""
PROJECT_FILE = "lcx.toml"
FLAGS = {"tasks": "--task", "reuse": "--no-prefix-reuse"}
"""Flags that are not named after their setting."""
PRODUCERS = {"input": ("synth", "score"), "model": ("train",)}


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
    notes: tuple[str, ...] = ()
    """What was withheld from a server that only a file names."""

    def values(self) -> dict[str, Any]:
        """The settings; those that a step's settings list last (how models are called) stand behind all others."""
        values, last = self.settings.model_dump(mode="json"), type(self.settings).last()
        return {key: values[key] for key in sorted(values, key=lambda key: key in last)}


def recipe_files(plugins: Plugins) -> dict[str, list[tuple[Path, str]]]:
    """Every recipe by name with its file and owner. Names are file stems; folders are searched in depth.

    Those of lcx and of the plugins that come with it stand first.
    """
    found: dict[str, list[tuple[Path, str]]] = {}
    folders = plugins.recipes.names()
    for folder in sorted(folders, key=lambda one: not plugins.bundled(plugins.recipes.owner(one))):
        owner = plugins.recipes.owner(folder)
        for path in sorted(Path(folder).rglob("*.yaml")):
            found.setdefault(path.stem, []).append((path, owner))
    return dict(sorted(found.items()))


def find(name: str, plugins: Plugins) -> Path:
    """The file of a recipe: a path if it looks like one, else a name among the registered folders."""
    if name.endswith((".yaml", ".yml")) or "/" in name:
        found = named_file(name)
        if found is None:
            raise UsageError(f"no recipe file '{name}'", hint="`lcx recipes list` shows the recipes by name.")
        return found
    files = recipe_files(plugins)
    if name not in files:
        local = named_file(f"{name}.yaml")
        if local is not None:
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
    if len(places) > 1 and not plugins.bundled(places[0][1]):
        owners = " and ".join(f"'{owner}' ({path})" for path, owner in places)
        raise PluginError(
            f"two plugins claim the recipe '{name}': {owners}",
            hint=f"Give the file's path instead, or leave one plugin out: LCX_PLUGINS=-{places[-1][1]}",
        )
    return places[0][0]


def load(name: str, plugins: Plugins, _seen: tuple[Path, ...] = ()) -> Recipe:
    """Read a recipe by name or path, with what it extends. Raises UsageError for a bad file."""
    path = find(name, plugins)
    if path.resolve() in _seen:
        raise UsageError(f"{path}: recipes extend each other in a circle")
    if len(_seen) > MOST_EXTENDS:
        raise UsageError(f"{path}: more than {MOST_EXTENDS} recipes extend one another in a row")
    data = _read(path)
    label = f"recipe {path.name}"
    steps = [_raw_step(item, data, path, label) for item in data.get("steps") or []]
    _refuse_doubles(steps, path)  # before merging, which would lay one over the other
    base: Recipe | None = None
    if data.get("extends"):
        base = load(_beside(data["extends"], path), plugins, (*_seen, path.resolve()))
        steps = _merge(list(base.steps), steps)
        _refuse_doubles(steps, path)
    method = data.get("method") or (base.method if base else "")
    if not method:
        raise UsageError(f"{path}: a recipe needs a 'method' (or 'extends')")
    if not steps:
        raise UsageError(f"{path}: a recipe needs 'steps': a list of stages", hint="`lcx recipes show in2`")
    steps = [step if step.method else _with(step, method=method) for step in steps]
    steps = [step if step.stage else _bad_stage(path, step) for step in steps]
    return Recipe(
        name=checked_name(data["name"], f"{path}: the recipe's name") if data.get("name") else _named(path),
        method=method,
        summary=data.get("summary") or (base.summary if base else ""),
        paper=data.get("paper") or (base.paper if base else ""),
        steps=tuple(steps),
        path=path,
    )


def checked_name(name: str, what: str) -> str:
    """The name, which becomes a folder's. Raises UsageError for one that could lead elsewhere or be another thing's."""
    if NAME.fullmatch(name) and name.lower() not in RESERVED:
        return name
    why = "Another thing has this name in a run's folder."
    if name.lower() not in RESERVED:
        why = (
            "It becomes a folder: letters, digits, '.', '_' and '-', at most 64, the first a letter or digit."
        )
    raise UsageError(f"{what} cannot be {cut_middle(ascii(name), 60)}", why=why, hint="Give it another one.")


def _named(path: Path) -> str:
    """A recipe's name by its file, where it says none: other signs than a name may have become dashes."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", path.stem)[:64].lstrip("._-")
    return name if NAME.fullmatch(name) and name.lower() not in RESERVED else "recipe"


def _refuse_doubles(steps: Sequence[RawStep], path: Path) -> None:
    doubles = [name for name, times in Counter(step.id.lower() for step in steps).items() if times > 1]
    if doubles:  # also those that some file systems hold for one folder
        same = [step.id for step in steps if step.id.lower() == doubles[0]]
        both = f"two steps have the id '{same[0]}'" if same[0] == same[1] else f"'{same[0]}' and '{same[1]}'"
        why = "" if same[0] == same[1] else "Ids that differ in capitals only are one folder on some disks."
        raise UsageError(f"{path}: {both}", why=why, hint="Give each its own `id:`.")


def _beside(name: str, path: Path) -> str:
    """`extends: other.yaml` is looked for beside the file that says so; a bare name among all recipes."""
    if name.endswith((".yaml", ".yml")) and not Path(name).is_absolute():
        return str(path.parent / name)
    return name


def _read(path: Path) -> dict[str, Any]:
    try:
        data = read_yaml_file(path).value
    except OSError as bad:
        raise UsageError(f"cannot read the recipe {path}", why=bad.strerror or str(bad)) from None
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
    if len(data.get("steps") or []) > MOST_STEPS:
        raise UsageError(f"{path}: {len(data['steps']):,} steps", why=f"A recipe has at most {MOST_STEPS}.")
    for key in HEAD_KEYS[:-1]:
        data[key] = _word(data.get(key), key, path)
    return data


def _word(value: Any, key: str, path: Path) -> str:
    """A value that is a word or a sentence. Raises UsageError for lists, mappings and the like."""
    if value is None or isinstance(value, bool | dict | list):
        if value is None:
            return ""
        raise UsageError(f"{path}: '{key}' is a text, not {cut_middle(repr(value), 60)}")
    return str(value)


def _raw_step(item: Any, head: Mapping[str, Any], path: Path, label: str) -> RawStep:
    if not isinstance(item, dict) or not ("stage" in item or "id" in item):
        raise UsageError(f"{path}: each step is a mapping with a 'stage' ({', '.join(STAGES)})")
    stage, step_id, method = (_word(item.get(key), key, path) for key in ("stage", "id", "method"))
    if stage and stage not in STAGES:
        raise UsageError(
            f"{path}: unknown stage '{stage}'. {suggestion(stage, STAGES)}".rstrip(),
            why=f"stages: {', '.join(STAGES)}",
        )
    settings = {str(k): v for k, v in item.items() if k not in STEP_KEYS}
    return RawStep(
        id=checked_name(step_id, f"{path}: a step's id") if "id" in item else stage,
        stage=stage,
        method=method or str(head.get("method") or ""),
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


# Where a step's values come from: flags > --set > project lcx.toml > recipe > method defaults


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
        return step_id, name, read_yaml(value, f"--set {key.strip()}").value if value.strip() else value
    except NotYaml:
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
        if path.stat().st_size > MOST_BYTES:
            raise UsageError(f"{path} is larger than {MOST_BYTES >> 20} MiB, which no file of settings is")
        data = tomllib.loads(path.read_text(encoding="utf-8"), parse_float=Written)
    except (ValueError, RecursionError) as bad:  # also what is not UTF-8, and numbers of 5,000 digits
        raise UsageError(f"{path} is not valid TOML", why=str(bad)) from None
    except OSError as bad:
        raise UsageError(f"cannot read {path}", why=bad.strerror or str(bad)) from None
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
        schema = schema_of(raw, recipe, plugins)
        values, origins = dict(raw.settings), dict(raw.origins)
        for key, value in (project.get(raw.id) or {}).items():
            values[key], origins[key] = value, PROJECT_FILE
        by_user = set(flags.get(raw.id) or {})
        for step_id, dotted, value in sets:
            if step_id == raw.id:
                origins[_top_of_default(schema, values, dotted)] = "--set"
                _put(values, dotted, value)
                by_user.add(dotted)
        for key, value in (flags.get(raw.id) or {}).items():
            values[key], origins[key] = value, flag_of(key)
        _wire(recipe, position, schema, values, origins)
        where = f"recipe '{recipe.name}', step '{raw.id}'"
        refuse_users_own(schema, values, by_user, raw.id, where)
        values, notes = without_strange_keys(
            values, by_user, raw.id, where, known=SOURCE in schema.model_fields
        )
        settings = validate(schema, values, where=where)
        if notes and values.get(SOURCE) == "":
            origins[SOURCE] = "withheld from what a file names"
        for key in schema.model_fields:
            origins.setdefault(key, f"method {raw.method}")
        steps.append(Step(raw.id, raw.stage, raw.method, recipe.name, settings, origins, notes))
    return steps


def check_names(step: Step, plugins: Plugins) -> None:
    """Raise the error of a setting that names what there is not, or is given and switched off. Imports no torch."""
    try:
        step.settings.check_names(plugins)
    except UsageError as bad:
        raise UsageError(f"step '{step.id}': {bad.what}", why=bad.why, hint=bad.hint) from None
    for key, (why, use) in step.settings.unused().items():
        if step.origins.get(key, "").startswith("--"):
            raise UsageError(
                f"step '{step.id}': '{key}' would not be used", why=why, hint=f"--set {step.id}.{use}"
            )


def refuse_users_own(
    schema: type[Settings], values: Mapping[str, Any], by_user: Collection[str], step_id: str, where: str
) -> None:
    """Raise UsageError where a file gives a setting that counts only from the command line."""
    for dotted, why in schema.users_own().items():
        parts, node = dotted.split("."), dict(values)
        if any(".".join(parts[:n]) in by_user for n in range(1, len(parts) + 1)):
            continue
        found: Any = node
        for part in parts:
            found = found.get(part) if isinstance(found, Mapping) else None
        if found:
            raise UsageError(
                f"{where}: '{dotted}' counts only from the command line, not from a recipe or {PROJECT_FILE}",
                why=why,
                hint=f"Take it out there; if you trust it: --set {step_id}.{dotted}={shlex.quote(shown(str(found)))}",
            )


# Keys of servers: whoever writes a recipe or an lcx.toml says neither which key is sent nor where to

URL, SOURCE, SOURCE_FILE = "base_url", "api_key_env", "api_key_file"


def without_strange_keys(
    values: Mapping[str, Any], by_user: Collection[str], step_id: str, where: str, *, known: bool
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The values so that no key goes where only a file says, and sentences about what was withheld.

    `by_user` are the settings, dotted, that flags and --set gave. Servers that a file names get an empty
    `api_key_env`, which sends none; so do sources of keys that a file names. Options inside settings count like the
    settings themselves. Raises UsageError where the user names a key for a server that a file names.
    """
    notes: dict[str, None] = {}
    variable = os.environ.get("OPENAI_BASE_URL", "").strip().rstrip("/")

    def mine(path: tuple[str, ...]) -> bool:
        return any(".".join(path[:n]) in by_user for n in range(1, len(path) + 1))

    def cleaned(given: Mapping[Any, Any], path: tuple[str, ...], strange: str) -> dict[Any, Any]:
        found, outer = dict(given), strange
        url = str(given.get(URL) or "").strip()
        if url:
            strange = "" if mine((*path, URL)) or url.rstrip("/") == variable else url
        sources = [key for key in (SOURCE, SOURCE_FILE) if given.get(key)]
        for key in sources:
            full = ".".join((*path, key))
            if wrong := wrong_key_source(key, given[key]):
                raise UsageError(
                    f"{where}: '{full}' {wrong}", hint=f"--set {step_id}.{full}=NAME, not the key"
                )
            if mine((*path, key)) and strange:
                raise UsageError(
                    f"{where}: the server {shown(strange)} is named by a file, and gets no key of yours",
                    why="A recipe or an lcx.toml does not say where keys are sent.",
                    hint=f"Name it yourself, if you trust it: --base-url {shlex.quote(shown(strange))}, or --set "
                    f"{step_id}.{'.'.join((*path, URL))}=URL, or OPENAI_BASE_URL",
                )
            if not mine((*path, key)) and (key, given[key]) != (SOURCE, DEFAULT_SOURCE):
                del found[key]
                notes[
                    f"{full} is named by a file, and is not read; if it is right: "
                    f"--set {step_id}.{full}={shlex.quote(shown(str(given[key])))}"
                ] = None
                if not mine((*path, SOURCE)):
                    found[SOURCE] = ""
        if strange and (url or sources) and (path or known):
            found.pop(SOURCE_FILE, None)
            found[SOURCE] = ""
            notes[
                f"the server {shown(strange)} is named by a file, and gets no key; if it needs one: "
                f"--base-url {shlex.quote(shown(strange))}"
            ] = None
        elif (
            url and outer and not sources
        ):  # the user names this server, and its key is not that of the outer one
            found[SOURCE] = DEFAULT_SOURCE
        for key, value in given.items():
            if isinstance(value, Mapping):
                found[key] = cleaned(value, (*path, str(key)), strange)
            elif isinstance(value, list):
                found[key] = [
                    cleaned(one, (*path, str(key)), strange) if isinstance(one, Mapping) else one
                    for one in value
                ]
        return found

    return cleaned(values, (), ""), tuple(notes)


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


def schema_of(raw: RawStep, recipe: Recipe, plugins: Plugins) -> type[Settings]:
    """The class of a step's settings. Raises PluginError or UsageError where its method or stage is not there."""
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
