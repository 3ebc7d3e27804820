"""Plugins: what they register (methods with their stages, names with their owners), and how they are found.

They are found by the entry-point group `lcx` and loaded one at a time, so that a broken one breaks nothing else.
"""

from __future__ import annotations

import contextlib
import difflib
import functools
import importlib
import importlib.metadata
import inspect
import os
import sys
import time
import traceback
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import pluggy

from lcx import hookspecs
from lcx.errors import PluginError, UsageError, suggestion
from lcx.settings import Settings

GROUP = "lcx"
CORE = "lcx-core"
BUILTIN = "lcx.builtin"
"""The module with what lcx itself brings: named like an entry point, since it stands above all that it names."""
_REGISTRIES = {
    "lcx_register_methods": "methods",
    "lcx_register_recipes": "recipes",
    "lcx_register_llms": "llms",
    "lcx_register_retrievers": "retrievers",
    "lcx_register_losses": "losses",
    "lcx_register_probes": "probes",
    "lcx_register_metrics": "metrics",
    "lcx_register_commands": "commands",
}
KINDS = tuple(_REGISTRIES.values())
"""Kinds of names, each an attribute of `Plugins`."""
TRACE = "LCX_TRACE_HOOKS"
_ALSO = {
    "tasks": "probes",
    "benchmarks": "probes",
    "backends": "llms",
    "models": "llms",
    "judges": "llms",
    "subcommands": "commands",
    "folders": "recipes",
}
"""What hooks are taken to be called, and what they are called."""
_STEM = "lcx_register_"
_LEFT_OUT = "LCX_PLUGINS=-{name} before a command leaves it out"


STAGES = ("synth", "score", "train", "eval")
HEAVY = ("torch", "transformers", "datasets", "scipy", "matplotlib", "pandas", "openai", "bm25s")
"""Libraries that a plugin's own module should not import, since listing recipes imports that module."""
SLOW = 1.0
"""Seconds of an import from which on it is told."""


@dataclass(frozen=True)
class Stage:
    """A stage of a method: the class of its settings, and where the functions that run and forecast it are.

    `run` is "module:function" of a function, asynchronous or not, that takes a `lcx.steps.StepWork` and returns a
    StepResult; without one, a hook of the plugin (`lcx_synth`, `lcx_score`, `lcx_train`, `lcx_eval`) runs the stage.
    `forecast` takes the same and returns what --dry-run prints; it must import no torch.
    """

    settings: type[Settings]
    run: str = ""
    forecast: str = ""


@dataclass(frozen=True)
class Method:
    """What a plugin registers so that recipes can name it. `stages` maps a stage's name to its `Stage`.

    A class of settings in place of a Stage stands for a stage that a hook runs. Raises ValueError for an unknown stage.
    """

    name: str
    summary: str
    stages: Mapping[str, Stage | type[Settings]]
    paper: str = ""

    def __post_init__(self) -> None:
        wrong = set(self.stages) - set(STAGES)
        if wrong:
            raise ValueError(f"method {self.name}: no such stage: {', '.join(sorted(wrong))}")
        for name, stage in self.stages.items():
            settings = stage.settings if isinstance(stage, Stage) else stage
            if not (isinstance(settings, type) and issubclass(settings, Settings)):
                raise TypeError(
                    f"method {self.name}, stage {name}: {_shown(settings)} is no class of lcx.settings.Settings"
                )

    def stage(self, name: str) -> Stage:
        """The stage of that name. Raises KeyError where the method has none."""
        found = self.stages[name]
        return found if isinstance(found, Stage) else Stage(found)


def load_function(target: str) -> Any:
    """What a lazy "module:attribute" names, imported now."""
    module, _, attribute = target.partition(":")
    return getattr(importlib.import_module(module), attribute)


@dataclass(frozen=True)
class Command:
    """A subcommand that a plugin brings: where it is, and its line in `lcx --help`."""

    target: str
    help: str


class Registry:
    """Values by name, with their owner. `kind` is the word that errors use ("method", "text generator").

    A name that lcx itself or a plugin that comes with it claims stays theirs, whoever else claims it.
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._claims: dict[str, list[tuple[str, Any]]] = {}
        self._bundled: dict[str, int] = {}

    def add(self, name: str, value: Any, owner: str, bundled: bool = False) -> None:
        """Note a claim. Those of lcx go first, in the order in which they came."""
        claims = self._claims.setdefault(name, [])
        if bundled:
            claims.insert(self._bundled.setdefault(name, 0), (owner, value))
            self._bundled[name] += 1
        else:
            claims.append((owner, value))

    def drop_owner(self, owner: str) -> None:
        """Forget what a plugin claimed, after it failed to load."""
        for name in list(self._claims):
            kept = [claim for claim in self._claims[name] if claim[0] != owner]
            if name in self._bundled:
                first = self._claims[name][: self._bundled[name]]
                self._bundled[name] = sum(claim[0] != owner for claim in first)
            if kept:
                self._claims[name] = kept
            else:
                del self._claims[name]

    def names(self) -> list[str]:
        return sorted(self._claims)

    def owner(self, name: str) -> str:
        return self._claims[name][0][0]

    def owned_by(self, owner: str) -> list[str]:
        return sorted(name for name, claims in self._claims.items() if any(o == owner for o, _ in claims))

    def clashes(self) -> dict[str, list[str]]:
        """Names claimed more than once, with their owners; the first is the one who has it where it is lcx's own."""
        return {name: [o for o, _ in claims] for name, claims in self._claims.items() if len(claims) > 1}

    def value_of(self, name: str, owner: str) -> Any:
        """What this owner registered by that name."""
        return next(value for claimed, value in self._claims[name] if claimed == owner)

    def __contains__(self, name: str) -> bool:
        return name in self._claims

    def get(self, name: str) -> Any:
        """The value of a name. Raises UsageError where unknown, PluginError where two plugins claim it."""
        if name not in self._claims:
            known = ", ".join(self.names()) or "none"
            raise UsageError(
                f"unknown {self.kind} '{name}'. {suggestion(name, self._claims)}".rstrip(),
                why=f"known: {known}",
                hint="`lcx plugins list` shows what is installed.",
            )
        claims = self._claims[name]
        if len(claims) > 1 and not self._bundled.get(name):
            owners = " and ".join(f"'{o}'" for o, _ in claims)
            raise PluginError(
                f"two plugins claim the {self.kind} '{name}': {owners}",
                hint=f"Uninstall one (lcx plugins uninstall {claims[-1][0]}), or leave one out: "
                f"LCX_PLUGINS=-{claims[-1][0]}",
            )
        return claims[0][1]

    def load(self, name: str) -> Any:
        """As `get`, importing a lazy `module:attribute`. Raises PluginError where a plugin's cannot be imported."""
        value = self.get(name)
        if not isinstance(value, str):
            return value
        try:
            return load_function(value)
        except Exception as failure:  # a stranger's module may raise anything
            if (owner := self.owner(name)) == CORE:
                raise
            raise unloadable(f"the {self.kind} '{name}'", owner, value, failure) from failure


def unloadable(what: str, owner: str, target: str, failure: BaseException) -> PluginError:
    """The error where the target of a plugin's registration cannot be imported."""
    return PluginError(
        f"{what} of '{owner}' cannot be imported: {target}",
        why=f"{type(failure).__name__}: {failure}{_at(last_place(failure))}",
        hint=f"`lcx plugins check {owner}` says what mends it.",
    )


def check_made(what: str, made: Any, needs: tuple[str, ...], whose: str = "") -> None:
    """Raises PluginError where the factory of a registered name made something that lacks methods."""
    lacks = [name for name in needs if not callable(getattr(made, name, None))]
    if lacks:
        raise PluginError(
            f"{what}{whose}: its factory returns {_shown(made)}, which has no {', no '.join(lacks)}",
            hint=f"Return an object with the methods {', '.join(needs)}.",
        )


@dataclass(frozen=True)
class Problem:
    """Something wrong with a plugin: its kind, what it is, where (`FILE:LINE`), in which hook, and what mends it.

    A warning is no reason to do without the plugin.
    """

    kind: str
    what: str
    mend: str
    file: str = ""
    hook: str = ""
    warning: bool = False


class Refused(PluginError):
    """A plugin that is not taken in, with the problem."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.what, why=problem.file, hint=problem.mend)
        self.problem = problem


@dataclass
class Entry:
    """One entry point of the group: where it comes from, and how loading it went."""

    name: str
    value: str
    package: str
    version: str
    state: str = "loaded"  # loaded, failed or off (left out by LCX_PLUGINS)
    error: str = ""
    trace: str = ""
    hooks: list[str] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)

    @property
    def bundled(self) -> bool:
        return self.package == "lcx"


@dataclass
class Plugins:
    """The loaded plugins: pluggy's manager, one registry a kind of name, and a row for every entry point."""

    manager: pluggy.PluginManager
    entries: list[Entry]
    methods: Registry = field(default_factory=lambda: Registry("method"))
    recipes: Registry = field(default_factory=lambda: Registry("recipe folder"))
    llms: Registry = field(default_factory=lambda: Registry("text generator"))
    retrievers: Registry = field(default_factory=lambda: Registry("retriever"))
    losses: Registry = field(default_factory=lambda: Registry("loss"))
    probes: Registry = field(default_factory=lambda: Registry("probe"))
    metrics: Registry = field(default_factory=lambda: Registry("metric"))
    commands: Registry = field(default_factory=lambda: Registry("command"))
    places: dict[str, tuple[str, bool]] = field(default_factory=dict)
    """By plugin: its package's folder or its module's file, and whether it comes with lcx."""
    unknown: list[str] = field(default_factory=list)
    """Names in LCX_PLUGINS of which no plugin is installed."""

    def failed(self) -> list[Entry]:
        return [entry for entry in self.entries if entry.state == "failed"]

    def method(self, name: str) -> Any:
        """The method of that name. Where it is unknown and a plugin failed to load, the error says so."""
        if name not in self.methods:
            failed, off = self.failed(), [e for e in self.entries if e.state == "off"]
            if failed:
                raise PluginError(
                    f"no plugin provides the method '{name}'",
                    why="; ".join(
                        f"plugin '{e.name}' ({e.package}) failed to load: {e.error}" for e in failed
                    ),
                    hint="`lcx plugins check` shows the full error.",
                )
            if off:
                raise PluginError(
                    f"no loaded plugin provides the method '{name}'",
                    why=f"LCX_PLUGINS leaves out: {', '.join(e.name for e in off)}",
                    hint="Unset LCX_PLUGINS, or add the plugin's name to it.",
                )
        return self.methods.get(name)

    def bundled(self, owner: str) -> bool:
        """True for lcx itself and the plugins that come with it."""
        return owner == CORE or self.places.get(owner, ("", False))[1]

    def owner_of(self, file: str) -> str:
        """The plugin that a source file belongs to, or an empty text where it is lcx's, a library's or nobody's."""
        for owner, (place, bundled) in self.places.items():
            if place and not bundled and (file == place or file.startswith(place + os.sep)):
                return owner
        return ""

    def whose(self, thing: Any) -> str:
        """ " of plugin 'NAME' (FILE)" for what a plugin made: an object, a class or a function; else an empty text."""
        made = thing if inspect.isroutine(thing) or isinstance(thing, type) else type(thing)
        file = getattr(sys.modules.get(str(getattr(made, "__module__", ""))), "__file__", None) or ""
        owner = self.owner_of(file)
        return f" of plugin '{owner}' ({file})" if owner else ""

    def blamed(self, failure: BaseException) -> str:
        """Which plugin, which of its hooks and which line an unexpected error came from; empty where it was none's."""
        own = Path(__file__).parent
        inner = False  # something of lcx that the plugin called
        walk = list(reversed(list(traceback.walk_tb(failure.__traceback__))))
        for depth, (frame, line) in enumerate(walk):
            file, name = frame.f_code.co_filename, frame.f_code.co_name
            if owner := self.owner_of(file):
                if inner and name in vars(hookspecs) and frame.f_code.co_flags & inspect.CO_GENERATOR:
                    continue  # it goes around the stage that failed
                callers = [one for one, _ in walk[depth:] if self.owner_of(one.f_code.co_filename) == owner]
                hook = next(filter(None, (self._hook_behind(owner, one) for one in callers)), "")
                where = f"{hook + ', ' if hook else ''}{file}, line {line}"
                if inner:
                    return f"this is a bug in lcx, or in plugin '{owner}', which called it ({where})"
                return f"this is a bug in plugin '{owner}' ({where})"
            inner = inner or (own in Path(file).parents and file != __file__)
        return ""

    def _hook_behind(self, owner: str, frame: FrameType) -> str:
        """The hook that a plugin's function is, or by which it was registered."""
        name = frame.f_code.co_name
        if name in vars(hookspecs):
            return name
        module = str(frame.f_globals.get("__name__", ""))
        called = frame.f_code.co_qualname.partition(".")[0]
        exact, near = [], []
        for hook, kind in _REGISTRIES.items():
            registry: Registry = getattr(self, kind)
            for one in registry.owned_by(owner):
                for target in targets_of(registry.value_of(one, owner)):
                    if target == f"{module}:{called}":
                        exact.append(hook)
                    elif target.partition(":")[0] == module:
                        near.append(hook)
        return " or ".join(dict.fromkeys(exact or near))

    def _register_names(self, plugin: Any, owner: str, bundled: bool) -> None:
        """Call one plugin's registration hooks, so that every name is tied to its owner."""
        for hook, kind in _REGISTRIES.items():
            implementation = getattr(plugin, hook, None)
            if implementation is None:
                continue
            registry: Registry = getattr(self, kind)
            given = len(registry.owned_by(owner))
            began = time.perf_counter()
            try:
                answer = implementation(register=_registrar(kind, registry, owner, bundled))
                if answer is not None:
                    raise TypeError(f"it returns {_shown(answer)}; what is registered is given to `register`")
            except Exception as failure:
                raise _refused_registration(hook, implementation, failure) from failure
            if os.environ.get(TRACE):
                _trace(hook, owner, f"registered {len(registry.owned_by(owner)) - given}", began)

    def _forget(self, owner: str) -> None:
        for kind in KINDS:
            getattr(self, kind).drop_owner(owner)


def targets_of(value: Any) -> list[str]:
    """The "module:attribute" texts of what was registered: one, those of a method's stages, or none."""
    if isinstance(value, Method):
        stages = [value.stage(name) for name in value.stages]
        return [target for stage in stages for target in (stage.run, stage.forecast) if target]
    if isinstance(value, Command):
        return [value.target]
    return [value] if isinstance(value, str) else []


def _registrar(kind: str, registry: Registry, owner: str, bundled: bool) -> Callable[..., None]:
    """The `register` of one hook, for one plugin. What it raises names the argument that is wrong."""

    def add(name: Any, value: Any) -> None:
        if not isinstance(name, str) or not name.strip():
            raise TypeError(f"the name of a {registry.kind} is a text, not {_shown(name)}")
        if ":" in name and kind != "probes":
            raise ValueError(f"the {registry.kind} '{name}': a name holds no colon")
        if name in registry.owned_by(owner):
            raise ValueError(f"the {registry.kind} '{name}' is registered twice")
        registry.add(name, value, owner, bundled)

    def a_method(method: Any) -> None:
        if not isinstance(method, Method):
            raise TypeError(f"register takes a Method of lcx.steps, not {_shown(method)}")
        add(method.name, method)

    def a_folder(folder: Any) -> None:
        if isinstance(folder, str | os.PathLike) or hasattr(folder, "joinpath"):
            registry.add(str(folder), Path(str(folder)), owner, bundled)
        else:
            raise TypeError(f"register takes the path of a folder, not {_shown(folder)}")

    def a_command(name: Any, target: Any, help: str = "") -> None:
        if not isinstance(target, str):
            raise TypeError(
                f'the command {name!r} is registered by its "module:attribute", not {_shown(target)}'
            )
        if not isinstance(name, str) or not name.replace("-", "").isalnum() or name.startswith("-"):
            raise ValueError(f"{name!r} is no name of a command: letters, digits and '-'")
        add(name, Command(target, " ".join(str(help).split())))

    def a_name(name: Any, value: Any) -> None:
        if value is None or isinstance(value, bool | int | float | bytes):
            raise TypeError(f'the {registry.kind} {name!r} is "module:attribute", not {_shown(value)}')
        add(name, value)

    known: dict[str, Callable[..., None]] = {"methods": a_method, "recipes": a_folder, "commands": a_command}
    return known.get(kind, a_name)


def _shown(value: Any) -> str:
    """A value in few words, for an error."""
    if isinstance(value, type):
        return f"the class {value.__name__}"
    if isinstance(value, str | int | float | type(None)):
        return repr(value)[:80]
    return f"a {type(value).__name__}"


def left_out(names: set[str]) -> set[str]:
    """Those of the installed plugins' names that LCX_PLUGINS leaves out.

    `a,b` takes only these, `-a` all but this one, and an empty value none.
    """
    text = os.environ.get("LCX_PLUGINS")
    if text is None:
        return set()
    only = {word for word in _words(text) if not word.startswith("-")}
    without = {word[1:].strip() for word in _words(text) if word.startswith("-")}
    return (names - only if only or not without else set()) | (names & without)


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def hooks_of(plugin: Any) -> list[str]:
    """Names of what a plugin's module or object has that looks like a hook."""
    return sorted(name for name in dir(plugin) if name.startswith("lcx_") and callable(getattr(plugin, name)))


def like_hook(name: str) -> str:
    """The hook that an unknown name seems to mean; an empty text where it is like none, as a later lcx's would be."""
    hooks = [hook for hook in vars(hookspecs) if hook.startswith("lcx_")]
    rest = name.removeprefix(_STEM).removeprefix("lcx_")
    kinds = {hook.removeprefix(_STEM): hook for hook in hooks if hook.startswith(_STEM)}
    if (also := _ALSO.get(rest) or _ALSO.get(rest + "s")) and name.startswith(_STEM):
        return kinds[also]
    known = kinds if name.startswith(_STEM) else kinds | {hook.removeprefix("lcx_"): hook for hook in hooks}
    near = difflib.get_close_matches(rest, list(known), n=1, cutoff=0.75)
    return known[near[0]] if near else ""


def _adopt(plugins: Plugins, plugin: Any, name: str, bundled: bool = False) -> list[Problem]:
    """Register a plugin with pluggy and its names with the registries; undo both where any part fails.

    Returns what is to be warned of. Raises Refused for what is wrong with its hooks, and whatever the plugin raises.
    """
    if name in plugins.places or plugins.manager.has_plugin(name):
        raise Refused(
            Problem("clash", f"another plugin is called '{name}' already", "name the entry point otherwise")
        )
    warnings = _checked_hooks(plugin)
    tracing = bool(os.environ.get(TRACE))
    manager = plugins.manager
    try:
        manager.register(plugin, name=name)
        if tracing or not bundled:
            _watch(manager, plugin, name)
        plugins.places[name] = (_place_of(plugin), bundled)
        plugins._register_names(plugin, name, bundled)
    except BaseException:
        if manager.has_plugin(name):
            manager.unregister(name=name)
        plugins.places.pop(name, None)
        plugins._forget(name)
        raise
    return warnings


def _checked_hooks(plugin: Any) -> list[Problem]:
    """What is to be warned of among a plugin's hooks. Raises Refused for one that is misspelt, unmarked or takes what
    no hook is given.
    """
    warnings = []
    wanted = getattr(plugin, "HOOK_API", hookspecs.HOOK_API)
    if not isinstance(wanted, int) or isinstance(wanted, bool):
        raise Refused(
            Problem("api", f"HOOK_API is a number, not {_shown(wanted)}", f"HOOK_API = {hookspecs.HOOK_API}")
        )
    newer = wanted > hookspecs.HOOK_API
    if newer:
        what = f"it is made for version {wanted} of lcx's hooks; this lcx has version {hookspecs.HOOK_API}"
        mend = f"pip install -U lcx; or write HOOK_API = {hookspecs.HOOK_API}, if it needs no more"
        warnings.append(Problem("api", what, mend, warning=True))
    for hook in hooks_of(plugin):
        function = getattr(plugin, hook)
        marked, place = hasattr(function, "lcx_impl"), place_of_function(function)
        if hook in vars(hookspecs):
            if not marked:
                what = f"{hook} has no @hookimpl, so nobody would call it"
                mend = f"write `@hookimpl` above `def {hook}` (from lcx import hookimpl)"
                raise Refused(Problem("unmarked hook", what, mend, place, hook))
            _check_signature(hook, function, place)
        elif (meant := like_hook(hook)) and (marked or inspect.isroutine(function)) and not newer:
            what = f"unknown hook {hook}. Did you mean '{meant}'?"
            raise Refused(Problem("misspelt hook", what, f"def {_signature(meant)}:", place, hook))
        elif marked:
            what = f"unknown hook {hook}: lcx {hookspecs.HOOK_API} never calls it"
            mend = "pip install -U lcx, if a later one has it; else take it out"
            warnings.append(Problem("unknown hook", what, mend, place, hook, warning=True))
    return warnings


def _signature(hook: str) -> str:
    return f"{hook}({', '.join(inspect.signature(getattr(hookspecs, hook)).parameters)})"


def _check_signature(hook: str, function: Any, place: str) -> None:
    """Raises Refused where a hook asks for what it is not given, or a wrapper is none."""
    given = list(inspect.signature(getattr(hookspecs, hook)).parameters)
    try:
        asked = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return
    names = [one.name for one in asked if one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD)]
    spread = any(one.kind is one.VAR_POSITIONAL or one.kind is one.POSITIONAL_ONLY for one in asked)
    registers = hook in _REGISTRIES
    wrong = [name for name in names if name not in given] or (registers and "register" not in names)
    if wrong or spread:
        what = f"{hook} takes ({', '.join(map(str, asked))}); it is given ({', '.join(given)})"
        raise Refused(Problem("signature", what, f"def {_signature(hook)}:", place, hook))
    options = getattr(function, "lcx_impl", {})
    wrapper = bool(options.get("wrapper") or options.get("hookwrapper"))
    if wrapper and registers:
        what, mend = f"{hook} is a wrapper; what registers is called by itself", "write @hookimpl alone"
    elif wrapper and not inspect.isgeneratorfunction(inspect.unwrap(function)):
        what = f"{hook} is marked wrapper=True and has no `yield`, where what it wraps would run"
        mend = "result = yield; return result"
    elif not wrapper and inspect.isgeneratorfunction(inspect.unwrap(function)):
        what, mend = f"{hook} has a `yield` and is not marked as a wrapper", "@hookimpl(wrapper=True)"
    elif inspect.iscoroutinefunction(inspect.unwrap(function)):
        what, mend = f"{hook} is `async`; hooks are plain functions", f"def {_signature(hook)}:"
    else:
        return
    raise Refused(Problem("signature", what, mend, place, hook))


def place_of_function(function: Any) -> str:
    """`FILE:LINE` of a function, or an empty text."""
    code = getattr(inspect.unwrap(function), "__code__", None)
    return f"{code.co_filename}:{code.co_firstlineno}" if code else ""


def _place_of(plugin: Any) -> str:
    """The folder of the outermost package that a plugin's module or object lies in, or its module's file."""
    module = plugin if inspect.ismodule(plugin) else sys.modules.get(getattr(type(plugin), "__module__", ""))
    parts = getattr(module, "__name__", "").split(".")
    for end in range(1, len(parts) + 1):
        file = getattr(sys.modules.get(".".join(parts[:end])), "__file__", None)
        if file:
            return os.path.dirname(file) if os.path.basename(file).startswith("__init__.") else file
    return ""


def last_place(failure: BaseException) -> str:
    """`FILE:LINE` of the last line of anybody's but Python's import machinery that an error came through."""
    if isinstance(failure, SyntaxError) and failure.filename:
        return f"{failure.filename}:{failure.lineno or 0}"
    frames = [
        f"{frame.filename}:{frame.lineno}"
        for frame in traceback.extract_tb(failure.__traceback__)
        if frame.filename not in (__file__, importlib.__file__, importlib.metadata.__file__)
        and not frame.filename.startswith("<")
    ]
    return frames[-1] if frames else ""


def _at(place: str) -> str:
    return f" ({place})" if place else ""


def _refused_registration(hook: str, function: Any, failure: Exception) -> Refused:
    """What a registration hook raised, with its line in the plugin."""
    file = place_of_function(function).rpartition(":")[0]
    lines = [
        f"{frame.filename}:{frame.lineno}"
        for frame in traceback.extract_tb(failure.__traceback__)
        if frame.filename == file
    ]
    said = f"{type(failure).__name__}: {failure}"
    place = lines[-1] if lines else place_of_function(function)
    doc = (getattr(hookspecs, hook).__doc__ or "").split("`")
    mend = f"{doc[1]}" if len(doc) > 1 else f"def {_signature(hook)}:"
    return Refused(Problem("registering", f"{hook} fails: {said}", mend, place, hook))


# ---- what hooks return, and who ran


def _watch(manager: pluggy.PluginManager, plugin: Any, owner: str) -> None:
    """Have pluggy call a plugin's stage hooks so that what they return is checked, and traced where that is wanted."""
    for caller in manager.get_hookcallers(plugin) or ():
        if caller.name in _REGISTRIES or caller.name not in vars(hookspecs):
            continue
        for one in caller.get_hookimpls():
            if one.plugin is plugin and not one.hookwrapper:
                make = _watched_wrapper if one.wrapper else _watched_hook
                object.__setattr__(one, "function", make(one.function, caller.name, owner))


def _trace(hook: str, owner: str, what: str, began: float) -> None:
    if os.environ.get(TRACE):
        print(
            f"hook {hook}: {owner} {what}, {time.perf_counter() - began:.3f} s", file=sys.stderr, flush=True
        )


def _checked_result(value: Any, hook: str, owner: str, function: Any) -> Any:
    """What a hook returned. Raises PluginError where that is no result of such a hook."""
    fits = isinstance(value, Mapping) if hook == "lcx_forecast" else hasattr(value, "metrics")
    if value is None or (fits and hasattr(value, "counts")) or (fits and hook == "lcx_forecast"):
        return value
    wants = "a mapping of what is printed" if hook == "lcx_forecast" else "a StepResult of lcx.steps"
    raise PluginError(
        f"plugin '{owner}': its hook {hook} returns {_shown(value)}, not {wants}",
        why=place_of_function(function),
        hint="Return None where `step.method` is not its own. " + _LEFT_OUT.format(name=owner) + ".",
    )


def _watched_hook(function: Callable[..., Any], hook: str, owner: str) -> Callable[..., Any]:
    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        began = time.perf_counter()
        try:
            found = _checked_result(function(*args, **kwargs), hook, owner, function)
        except BaseException as failure:
            _trace(hook, owner, f"raised {type(failure).__name__}", began)
            raise
        _trace(hook, owner, "left it to others" if found is None else "answered", began)
        return found

    return call


def _watched_wrapper(function: Callable[..., Any], hook: str, owner: str) -> Callable[..., Any]:
    def wrong(what: str) -> PluginError:
        return PluginError(
            f"plugin '{owner}': its wrapper {hook} {what}",
            why=place_of_function(function),
            hint="A wrapper is: result = yield; ...; return result. " + _LEFT_OUT.format(name=owner) + ".",
        )

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Generator[None, Any, Any]:
        began = time.perf_counter()
        inner, result = function(*args, **kwargs), None
        try:
            next(inner)
        except StopIteration:
            raise wrong("ends before its `yield`") from None
        try:
            try:
                result = yield
            except BaseException as failure:
                inner.throw(failure)
            else:
                inner.send(result)
        except StopIteration as end:
            _trace(hook, owner, "went around it", began)
            if end.value is None and result is not None:
                raise wrong("returns nothing, and what it wraps returned a result") from None
            return _checked_result(end.value, hook, owner, function)
        except BaseException as failure:
            _trace(hook, owner, f"went around it and raised {type(failure).__name__}", began)
            raise
        inner.close()
        raise wrong("has a second `yield`")

    return call


# ---- loading


def load(extra: dict[str, Any] | None = None) -> Plugins:
    """Load the core's own methods, every wanted entry point, and `extra` plugins (name -> object, for
    tests).
    """
    manager = pluggy.PluginManager("lcx")
    manager.add_hookspecs(hookspecs)
    plugins = Plugins(manager, [])
    _adopt(plugins, importlib.import_module(BUILTIN), CORE, bundled=True)
    found = _found()
    plugins.entries += [entry for entry, _ in found]
    off = left_out({entry.name for entry in plugins.entries})
    asked = {word.removeprefix("-").strip() for word in _words(os.environ.get("LCX_PLUGINS") or "")}
    plugins.unknown = sorted(asked - {entry.name for entry in plugins.entries} - {""})
    # lcx's own come first: whoever else has the name of one of them does not push it out
    for entry, point in sorted(found, key=lambda one: not one[0].bundled):
        if entry.name in off:
            entry.state = "off"
            continue
        try:
            with _imported(entry):
                plugin = point.load()
            with contextlib.redirect_stdout(sys.stderr):  # stdout carries results only
                entry.hooks = hooks_of(plugin)
                if not entry.hooks:
                    raise Refused(_no_hooks(entry, plugin))
                entry.problems += _adopt(plugins, plugin, entry.name, entry.bundled)
        except KeyboardInterrupt:
            raise
        except (
            BaseException
        ) as failure:  # a stranger's code may raise anything: pytest.skip() is no Exception
            entry.state = "failed"
            entry.problems = [
                failure.problem if isinstance(failure, Refused) else _import_problem(entry, failure)
            ]
            entry.error = (
                failure.what if isinstance(failure, Refused) else f"{type(failure).__name__}: {failure}"
            )
            entry.trace = traceback.format_exc()
    for name, plugin in (extra or {}).items():
        _adopt(plugins, plugin, name)
    return plugins


@contextlib.contextmanager
def _imported(entry: Entry) -> Generator[None, None, None]:
    """Have a plugin's module imported. What it prints goes to stderr, and the working folder stays what it was; that,
    and what makes every command wait, are warnings.
    """
    out, folder, said = _Heard(), _working_folder(), []
    before, began = set(sys.modules), time.perf_counter()
    try:
        with contextlib.redirect_stdout(out):  # stdout carries results only
            yield
    finally:
        seconds = time.perf_counter() - began
        if folder and _working_folder() != folder:
            os.chdir(folder)
            said.append(("import", f"importing it goes to another working folder; {folder} is taken again"))
    if entry.bundled:
        return
    if out.first:
        said.append(("import", f"importing it prints {out.first.strip()[:60]!r}"))
    heavy = [name for name in HEAVY if name in sys.modules and name not in before]
    if heavy or seconds > SLOW:
        what = f"importing it takes {seconds:.1f} s{(heavy and ' for ' + ', '.join(heavy)) or ''}"
        said.append(("slow import", f"{what}, and lists of recipes wait for that"))
    place = getattr(sys.modules.get(entry.value.partition(":")[0].strip()), "__file__", None) or ""
    mend = (
        'do that inside the function that needs it, or in a module that is registered as "module:attribute"'
    )
    entry.problems += [Problem(kind, what, mend, place, warning=True) for kind, what in said]


def _working_folder() -> str:
    """The working folder; an empty text where it was removed."""
    try:
        return os.getcwd()
    except OSError:
        return ""


class _Heard:
    """Stderr in place of stdout; `first` is the first thing that was printed."""

    first = ""

    def write(self, text: str) -> int:
        self.first = self.first or (text if text.strip() else "")
        return sys.stderr.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(sys.stderr, name)


def installed() -> list[Entry]:
    """The entry points of the group, each once, with none of them loaded."""
    return [entry for entry, _ in _found()]


def _found() -> list[tuple[Entry, importlib.metadata.EntryPoint]]:
    found: dict[tuple[str, str], tuple[Entry, importlib.metadata.EntryPoint]] = {}
    points = importlib.metadata.entry_points(group=GROUP)
    for point in sorted(points, key=lambda one: (one.name, one.value)):
        package, version = _distribution(point)
        # a distribution may be seen twice on sys.path
        found.setdefault((point.name, point.value), (Entry(point.name, point.value, package, version), point))
    return list(found.values())


def _distribution(point: importlib.metadata.EntryPoint) -> tuple[str, str]:
    """Name and version of an entry point's distribution; `?` where its metadata is lost."""
    try:
        return (point.dist.name or "?", point.dist.version or "?") if point.dist else ("?", "?")
    except (AttributeError, KeyError, OSError, TypeError, ValueError):
        return "?", "?"


def _no_hooks(entry: Entry, plugin: Any) -> Problem:
    what = f"{entry.value} implements none of lcx's hooks"
    mend = f'the entry point names the module with the hooks: {entry.name} = "PACKAGE.MODULE"'
    return Problem("no hooks", what, mend, getattr(plugin, "__file__", None) or "")


def _import_problem(entry: Entry, failure: BaseException) -> Problem:
    """Why an entry point cannot be loaded, in words."""
    said, place = f"{type(failure).__name__}: {failure}", last_place(failure)
    module = entry.value.partition(":")[0].strip()
    if not all(part.isidentifier() for part in module.split(".")):
        what = f"its entry point '{entry.value}' names no module"
        mend = f'{entry.name} = "PACKAGE.MODULE" in pyproject.toml; then install it again'
        return Problem("target", what, mend)
    if isinstance(failure, SyntaxError):
        text = (failure.text or "").strip()
        mend = f"mend this line: {text}" if text else f"save {place.rpartition(':')[0] or module} as UTF-8"
        return Problem("syntax", f"it is no valid Python: {failure.msg}", mend, place)
    if isinstance(failure, ModuleNotFoundError) and failure.name:
        missing = failure.name.partition(".")[0]
        if missing == module.partition(".")[0]:
            what = f"its entry point names the module '{module}', and there is no '{failure.name}'"
            mend = f"name a module that is there in pyproject.toml, then: pip install --force-reinstall {entry.package}"
            return Problem("import", what, mend, place)
        mend = f"pip install {missing}" if missing != "lcx" else "pip install -U lcx"
        return Problem("import", said, mend, place)
    if isinstance(failure, ImportError):
        return Problem("import", said, f"pip install -U {entry.package} lcx, so that both fit", place)
    if isinstance(failure, AttributeError) and ":" in entry.value and not place:
        return Problem("target", said, f'{entry.name} = "{module}" names the module itself', place)
    return Problem("import", f"importing it raises {said}", f"mend {place or module}", place)


def loaded() -> Plugins:
    """The process's plugins, loaded once for each value that LCX_PLUGINS takes."""
    return _loaded(os.environ.get("LCX_PLUGINS"))


@functools.lru_cache(maxsize=2)
def _loaded(wanted: str | None) -> Plugins:
    plugins = load()
    if plugins.unknown and "RANK" not in os.environ:
        known = [entry.name for entry in plugins.entries]
        for name in plugins.unknown:
            said = f"LCX_PLUGINS names '{name}', and no plugin of that name is installed. {suggestion(name, known)}"
            print(f"note: {said.rstrip()}", file=sys.stderr)
    return plugins
