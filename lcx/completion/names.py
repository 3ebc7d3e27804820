"""Names that plugins bring (recipes, tasks, generators, the plugins themselves), from a cache that notices
installs.

The cache is keyed by the modification times of the folders on `sys.path` and of the recipe files, and by
LCX_PLUGINS. A stale one is rebuilt by loading the plugins once, with everything they print thrown away.
"""

from __future__ import annotations

import os
import sys

from lcx import __version__
from lcx.paths import cache_directory

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

_read: dict[str, Any] = {}


def read() -> dict[str, Any]:
    """The names: `recipes` (name -> summary and steps), `plugins`, `tasks`, `llms`. Read once a process."""
    if not _read:
        _read.update(_fresh() or _rebuild())
    return _read


def cache_file() -> str:
    """One file for each environment and each choice of plugins, so that they do not push each other out."""
    import zlib

    place = f"{sys.prefix}\n{os.environ.get('PYTHONPATH', '')}\n{os.environ.get('LCX_PLUGINS', '*')}"
    return os.path.join(cache_directory(), f"completion-{zlib.crc32(place.encode()):08x}.json")


def _fresh() -> dict[str, Any] | None:
    import json

    try:
        with open(cache_file(), encoding="utf-8") as file:
            cached = json.load(file)
        if cached["version"] == __version__ and cached["key"] == stamps([path for path, _ in cached["key"]]):
            same_path = [path for path, _ in cached["key"]][: len(cached["path"])] == _path_folders()
            return dict(cached["names"]) if same_path else None
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return None


def _path_folders() -> list[str]:
    """Folders of `sys.path` where distributions may lie; the standard library and the script's own are
    left out.
    """
    own = {
        os.path.dirname(os.__file__),
        os.path.join(os.path.dirname(os.__file__), "lib-dynload"),
        sys.path[0],
    }
    return [place for place in sys.path if place and place not in own and os.path.isdir(place)]


def stamps(places: Iterable[str]) -> list[list[Any]]:
    """Paths with their modification times; 0 for one that is not there."""
    found = []
    for place in places:
        try:
            found.append([place, os.stat(place).st_mtime_ns])
        except OSError:
            found.append([place, 0])
    return found


def _rebuild() -> dict[str, Any]:
    """Load the plugins in silence, write the cache where that is possible, and return the names."""
    import json

    folders = _path_folders()
    with _Silence():
        found, watched = collect()
    key = stamps([*folders, *watched])
    target = cache_file()
    temporary = f"{target}.{os.getpid()}"
    try:
        os.makedirs(os.path.dirname(target), exist_ok=True)
        with open(temporary, "w", encoding="utf-8") as file:
            json.dump({"version": __version__, "path": folders, "key": key, "names": found}, file)
        os.replace(temporary, target)
    except OSError:
        pass
    return found


def collect() -> tuple[dict[str, Any], list[str]]:
    """The names from the plugins themselves, and the files and folders whose change makes them stale."""
    from lcx import plugins, recipe
    from lcx.evaluation.benchmarks.groups import groups

    loaded = plugins.load()
    watched = set(loaded.recipes.names())
    recipes: dict[str, Any] = {}
    for name, places in recipe.recipe_files(loaded).items():
        for path, _ in places:
            watched.update((str(path), str(path.parent)))
        recipes[name] = _describe(str(places[0][0]), loaded)
    found = {
        "recipes": recipes,
        "plugins": [entry.name for entry in loaded.entries],
        "tasks": sorted({*loaded.probes.names(), *groups()}),
        "llms": loaded.llms.names(),
    }
    return found, sorted(watched)


def _describe(path: str, loaded: Any) -> dict[str, Any]:
    from lcx import recipe

    try:
        read = recipe.load(path, loaded)
    except Exception:  # a broken recipe keeps its name: `lcx recipes validate` says what is wrong
        return {"summary": "", "steps": []}
    steps = []
    for step in read.steps:
        try:
            keys = list(loaded.method(step.method).stage(step.stage).settings.model_fields)
        except Exception:
            keys = list(step.settings)
        steps.append({"id": step.id, "stage": step.stage, "keys": keys})
    return {"summary": read.summary, "steps": steps}


class _Silence:
    """Send the process's stdout and stderr to nowhere, whatever level they are written at."""

    def __enter__(self) -> None:
        sys.stdout.flush()
        self._kept = [os.dup(1), os.dup(2)]
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        os.dup2(nowhere, 2)
        os.close(nowhere)

    def __exit__(self, *details: object) -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        for number, kept in zip((1, 2), self._kept, strict=True):
            os.dup2(kept, number)
            os.close(kept)
