"""What is remembered of plugins' names: caches that notice installs, and the commands that plugins bring.

Help and the Tab key read these before anything of a plugin is imported. A cache is keyed by the modification times of
the folders on `sys.path` and of the files that it follows from, and by LCX_PLUGINS. A stale one is made again: the
plugins are loaded once, and everything that they print is thrown away.
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

FORMAT = f"{__version__}-4"
"""Of the cache: what an lcx of another version wrote is made again."""


def cache_file(kind: str = "completion") -> str:
    """One file for each environment and each choice of plugins, so that they do not push each other out."""
    import zlib

    place = f"{sys.prefix}\n{os.environ.get('PYTHONPATH', '')}\n{os.environ.get('LCX_PLUGINS', '*')}"
    return os.path.join(cache_directory(), f"{kind}-{zlib.crc32(place.encode()):08x}.json")


def fresh(kind: str = "completion") -> dict[str, Any] | None:
    """What a cache holds, or None where it is not there or stale."""
    import json

    try:
        with open(cache_file(kind), encoding="utf-8") as file:
            cached = json.load(file)
        if cached["version"] == FORMAT and cached["key"] == stamps([path for path, _ in cached["key"]]):
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
        os.path.dirname(os.path.abspath(sys.argv[0])) if sys.argv else "",
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


def save(found: dict[str, Any], watched: Iterable[str], kind: str = "completion") -> None:
    """Write the cache where that is possible."""
    import json

    folders = _path_folders()
    key = stamps([*folders, *watched])
    target = cache_file(kind)
    temporary = f"{target}.{os.getpid()}"
    try:
        os.makedirs(os.path.dirname(target), exist_ok=True)
        with open(temporary, "w", encoding="utf-8") as file:
            json.dump({"version": FORMAT, "path": folders, "key": key, "names": found}, file)
        os.replace(temporary, target)
    except OSError:
        pass


_commands: dict[str, Any] = {}


def read_commands() -> dict[str, Any]:
    """Commands that plugins bring: `commands` (name -> help, module, and `node` once its options were asked for), and
    `watched`, the files that they follow from. Read once a process, from a cache of their own, which is small.
    """
    if not _commands:
        _commands.update(fresh("commands") or _find_commands())
    return _commands


def _find_commands() -> dict[str, Any]:
    from importlib.metadata import entry_points

    found: dict[str, Any] = {"commands": {}, "watched": []}
    if any(point.dist is None or point.dist.name != "lcx" for point in entry_points(group="lcx")):
        with Silence():
            from lcx import plugins

            loaded = plugins.load()
        known, found["watched"] = loaded.commands, module_files(loaded)
        for name in known.names():
            module = known.value_of(name, known.owner(name)).target.partition(":")[0]
            found["commands"][name] = {"help": _help_of(name, loaded), "module": module}
    save(found, found["watched"], "commands")
    return found


def plugin_commands() -> dict[str, str]:
    """Commands that plugins bring, with their lines in the help."""
    return {name: row["help"] for name, row in read_commands()["commands"].items()}


def _help_of(name: str, loaded: Any) -> str:
    clash = loaded.commands.clashes().get(name, [])
    if clash:
        return f"(claimed by {' and '.join(clash)})"
    line = str(loaded.commands.get(name).help)
    return line or f"(of the plugin {loaded.commands.owner(name)})"


def module_files(loaded: Any) -> list[str]:
    """The files of the plugins' own modules: one that is changed may register other names."""
    modules = [sys.modules.get(entry.value.partition(":")[0].strip()) for entry in loaded.entries]
    return [str(file) for module in modules if (file := getattr(module, "__file__", None))]


class Silence:
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
