"""Plugins: what they register (methods with their stages, names with their owners), and how they are found.

They are found by the entry-point group `lcx` and loaded one at a time, so that a broken one breaks nothing else.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.metadata
import os
import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
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
}


STAGES = ("synth", "score", "train", "eval")


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

    def stage(self, name: str) -> Stage:
        """The stage of that name. Raises KeyError where the method has none."""
        found = self.stages[name]
        return found if isinstance(found, Stage) else Stage(found)


def load_function(target: str) -> Any:
    """What a lazy "module:attribute" names, imported now."""
    module, _, attribute = target.partition(":")
    return getattr(importlib.import_module(module), attribute)


class Registry:
    """Values by name, with their owner. `kind` is the word that errors use ("method", "text generator")."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._claims: dict[str, list[tuple[str, Any]]] = {}

    def add(self, name: str, value: Any, owner: str) -> None:
        self._claims.setdefault(name, []).append((owner, value))

    def drop_owner(self, owner: str) -> None:
        """Forget what a plugin claimed, after it failed to load."""
        for name in list(self._claims):
            kept = [claim for claim in self._claims[name] if claim[0] != owner]
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
        """Names claimed more than once, with their owners."""
        return {name: [o for o, _ in claims] for name, claims in self._claims.items() if len(claims) > 1}

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
        if len(claims) > 1:
            owners = " and ".join(f"'{o}'" for o, _ in claims)
            raise PluginError(
                f"two plugins claim the {self.kind} '{name}': {owners}",
                hint="Uninstall one, or leave one out: LCX_PLUGINS=a,b lists the plugins to load.",
            )
        return claims[0][1]

    def load(self, name: str) -> Any:
        """As `get`, importing a lazy `module:attribute`. Raises PluginError where a plugin's cannot be imported."""
        value = self.get(name)
        if not isinstance(value, str):
            return value
        try:
            return load_function(value)
        except (ImportError, AttributeError) as failure:
            if (owner := self.owner(name)) == CORE:
                raise
            raise PluginError(
                f"the {self.kind} '{name}' of '{owner}' cannot be imported", why=str(failure)
            ) from failure


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

    def _register_names(self, plugin: Any, owner: str) -> None:
        """Call one plugin's registration hooks, so that every name is tied to its owner."""
        for hook, kind in _REGISTRIES.items():
            implementation = getattr(plugin, hook, None)
            if implementation is None:
                continue
            registry: Registry = getattr(self, kind)
            implementation(register=_registrar(kind, registry, owner))

    def _forget(self, owner: str) -> None:
        for kind in _REGISTRIES.values():
            getattr(self, kind).drop_owner(owner)


def _registrar(kind: str, registry: Registry, owner: str) -> Callable[..., None]:
    if kind == "methods":
        return lambda method: registry.add(method.name, method, owner)
    if kind == "recipes":
        return lambda folder: registry.add(str(folder), Path(str(folder)), owner)
    return lambda name, value: registry.add(name, value, owner)


def _wanted() -> set[str] | None:
    """Names that LCX_PLUGINS allows; None where it is unset (all)."""
    text = os.environ.get("LCX_PLUGINS")
    return None if text is None else {name.strip() for name in text.split(",") if name.strip()}


def _hooks_of(plugin: Any) -> list[str]:
    return sorted(name for name in dir(plugin) if name.startswith("lcx_") and callable(getattr(plugin, name)))


def _adopt(plugins: Plugins, plugin: Any, name: str) -> None:
    """Register a plugin with pluggy and its names with the registries; undo both where any part fails."""
    manager = plugins.manager
    manager.register(plugin, name=name)
    try:
        unknown = [
            hook for hook in _hooks_of(plugin) if hook not in vars(hookspecs) and _is_impl(plugin, hook)
        ]
        if unknown:
            raise PluginError(
                f"unknown hook {', '.join(unknown)} (misspelt, or made for another version of lcx)"
            )
        plugins._register_names(plugin, name)
    except BaseException:
        manager.unregister(plugin)
        plugins._forget(name)
        raise


def _is_impl(plugin: Any, hook: str) -> bool:
    return hasattr(getattr(plugin, hook), "lcx_impl")


def load(extra: dict[str, Any] | None = None) -> Plugins:
    """Load the core's own methods, every wanted entry point, and `extra` plugins (name -> object, for
    tests).
    """
    manager = pluggy.PluginManager("lcx")
    manager.add_hookspecs(hookspecs)
    plugins = Plugins(manager, [])
    _adopt(plugins, importlib.import_module(BUILTIN), CORE)
    wanted = _wanted()
    points = sorted(importlib.metadata.entry_points(group=GROUP), key=lambda p: (p.name, p.value))
    for point in points:
        package = point.dist.name if point.dist else "?"
        version = point.dist.version if point.dist else "?"
        entry = Entry(point.name, point.value, package, version)
        if any(e.name == entry.name and e.value == entry.value for e in plugins.entries):
            continue  # the same distribution seen twice on sys.path
        plugins.entries.append(entry)
        if wanted is not None and point.name not in wanted:
            entry.state = "off"
            continue
        try:
            with contextlib.redirect_stdout(sys.stderr):  # stdout carries results only
                plugin = point.load()
            entry.hooks = _hooks_of(plugin)
            if not entry.hooks:
                raise PluginError(f"{point.value} implements none of lcx's hooks")
            _adopt(plugins, plugin, point.name)
        except (Exception, SystemExit) as failure:  # a stranger's code may raise anything
            entry.state = "failed"
            entry.error = f"{type(failure).__name__}: {failure}"
            entry.trace = traceback.format_exc()
    for name, plugin in (extra or {}).items():
        _adopt(plugins, plugin, name)
    if os.environ.get("LCX_TRACE_HOOKS"):
        manager.trace.root.setwriter(lambda text: sys.stderr.write(text))
        manager.enable_tracing()
    return plugins


def loaded() -> Plugins:
    """The process's plugins, loaded once for each value that LCX_PLUGINS takes."""
    return _loaded(os.environ.get("LCX_PLUGINS"))


@functools.lru_cache(maxsize=2)
def _loaded(wanted: str | None) -> Plugins:
    return load()
