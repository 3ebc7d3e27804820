"""The answer to one press of the Tab key. Imports next to nothing: it has to be there before the finger
leaves the key. Three parts: the words of a line, the candidates for what stands there, and the values of options
and arguments by their kind.

The scripts set `_LCX_COMPLETE` to the shell's name and hand over the words: bash its whole line up to the
cursor (`_LCX_LINE`, since it splits words at colons), the others the words before the current one, a
newline between them, and the current one (`_LCX_WORDS`, `_LCX_WORD`).
"""

from __future__ import annotations

import os
import sys

from lcx.cli.names import (
    Silence,
    fresh,
    module_files,
    plugin_commands,
    read_commands,
    save,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from typing import Any


class Candidate:
    """A word that the current one may become. `open` ones expect more (a folder, `local:`); `path` ones
    are files.
    """

    __slots__ = ("help", "open", "path", "text")

    def __init__(self, text: str, help: str = "", open: bool = False, path: bool = False) -> None:
        self.text = text
        self.help = " ".join(help.split())
        self.open = open
        self.path = path


def answer(environment: Mapping[str, str]) -> int:
    """Print the candidates for a shell's environment. Whatever goes wrong, nothing is printed on stderr."""
    shell = environment.get("_LCX_COMPLETE", "")
    try:
        if shell == "bash":
            words = split_line(environment.get("_LCX_LINE", ""))
        else:
            words = [w for w in environment.get("_LCX_WORDS", "").split("\n") if w]
            words.append(environment.get("_LCX_WORD", ""))
        # a name that would steer the terminal is left out: it could not be typed either
        found = [one for one in candidates(words[1:]) if one.text.isprintable() and one.help.isprintable()]
        cut = break_prefix(words[-1], environment.get("_LCX_BREAKS", "")) if shell == "bash" else ""
        sys.stdout.write(render(shell, found, cut))
        sys.stdout.flush()
    except Exception:
        if environment.get("LCX_DEBUG"):
            raise
        return 1
    return 0


def render(shell: str, found: list[Candidate], cut: str = "") -> str:
    """Candidates in a shell's format, one a line."""
    if shell == "bash":
        # the first line says how: `files` quotes and slashes, `nospace` leaves the cursor at the word
        mode = "files" if any(c.path for c in found) and not cut else "words"
        if found and all(c.open for c in found):
            mode = "nospace"
        return "\n".join([mode, *(c.text[len(cut) :] for c in found)]) + "\n"
    if shell == "zsh":
        return "".join(f"{'n' if c.open else 'w'}\t{c.text}\t{c.help}\n" for c in found)
    return "".join(f"{c.text}\t{c.help}\n" if c.help else f"{c.text}\n" for c in found)


def table() -> dict[str, Any]:
    """The generated table of commands and options."""
    import json

    with open(os.path.join(os.path.dirname(__file__), "table.json"), encoding="utf-8") as file:
        return dict(json.load(file))


def candidates(words: list[str]) -> list[Candidate]:
    """What the last of these words (after `lcx`) may become."""
    node = root = table()
    *before, current = words
    used: dict[str, list[str]] = {}
    pending: dict[str, Any] | None = None
    positions = 0
    only_arguments = False
    for word in before:
        if pending is not None:
            used.setdefault(pending["names"][-1], []).append(word)
            pending = None
        elif word == "--":
            only_arguments = True
        elif word.startswith("-") and len(word) > 1 and not only_arguments:
            name, equals, value = word.partition("=")
            option = _option(node, name)
            if option is None:
                continue
            if equals or not option["kind"]:
                used.setdefault(option["names"][-1], []).append(value)
            else:
                pending = option
        elif "commands" in node:
            inner = node["commands"].get(word) or (_plugins_node(word) if node is root else None)
            if inner is None:
                return []
            node = inner
        else:
            positions += 1
            used.setdefault("", []).append(word)
    if pending is not None:
        return of_kind(pending["kind"], current, used)
    if current.startswith("-") and not only_arguments:
        return _options(node, current, used)
    if "commands" in node:
        helps = {name: command["help"] for name, command in node["commands"].items()}
        if node is root:
            helps = {**plugin_commands(), **helps}
        return [Candidate(name, line) for name, line in helps.items() if name.startswith(current)]
    arguments = node.get("arguments", [])
    if arguments and (positions < len(arguments) or arguments[-1]["multiple"]):
        return of_kind(arguments[min(positions, len(arguments) - 1)]["kind"], current, used)
    return [] if current or arguments else _options(node, current, used)


def _option(node: dict[str, Any], name: str) -> dict[str, Any] | None:
    return next((option for option in node["options"] if name in option["names"]), None)


def _options(node: dict[str, Any], current: str, used: dict[str, list[str]]) -> list[Candidate]:
    name, equals, value = current.partition("=")
    option = _option(node, name)
    if equals and option is not None and option["kind"]:
        found = of_kind(option["kind"], value, used)
        return [Candidate(f"{name}={c.text}", c.help, c.open) for c in found]
    return [
        Candidate(option["names"][-1], option["help"])
        for option in node["options"]
        if option["names"][-1].startswith(current) and (option["multiple"] or option["names"][-1] not in used)
    ]


# ---- values by their kind

Used = dict[str, list[str]]


def of_kind(kind: str, current: str, used: Used) -> list[Candidate]:
    """Candidates of a kind that begin with what is typed; for some kinds the other options matter too."""
    if kind.startswith("="):  # the choices themselves, as the table gives them
        return _starting(kind[1:].split("|"), current)
    maker = KINDS.get(kind)
    return maker(current, used) if maker else []


def _starting(words: Iterable[str] | Mapping[str, str], current: str) -> list[Candidate]:
    helps = words if isinstance(words, dict) else {}
    return [
        Candidate(word, helps.get(word, ""), open=word.endswith((":", "=")))
        for word in words
        if word.startswith(current)
    ]


def _recipes(current: str, used: Used) -> list[Candidate]:
    known = {name: row["summary"] for name, row in read_names()["recipes"].items()}
    return _starting(known, current) + files(current, endings=(".yaml", ".yml"))


def _steps(current: str, used: Used) -> list[Candidate]:
    return _starting([step["id"] for step in _recipe_steps(used)], current)


def _sets(current: str, used: Used) -> list[Candidate]:
    """`step.` first, then `step.key=` with what the key is, then its values; so for the options of a task."""
    steps = {step["id"]: _keys(step) for step in _recipe_steps(used)}
    name, equals, value = current.partition("=")
    head, _, key = name.partition(".")
    keys, before = steps.get(head, {}), f"{head}."
    tasks = f"{head}.options." if {"tasks", "options"} <= set(keys) else ""
    if tasks and name.startswith(tasks):
        known = _options_of_tasks()
        task = next((one for one in known if name.startswith(f"{tasks}{one}.")), None)
        if task is None:
            return [
                Candidate(f"{tasks}{one}.", open=True) for one in known if one.startswith(name[len(tasks) :])
            ]
        keys, before = known[task], f"{tasks}{task}."
        keys, key = known[keys] if isinstance(keys, str) else keys, name.removeprefix(before)
    if equals:
        found = _values(key, keys, value, used)
        return [Candidate(f"{name}={one.text}", one.help, one.open, one.path) for one in found]
    if keys and name.startswith(before):
        found = _starting({f"{before}{key}=": about for key, (about, _) in keys.items()}, current)
        more = [Candidate(tasks, open=True)] if tasks.startswith(current) and before == f"{head}." else []
        return found + more
    return [Candidate(f"{step}.", open=True) for step in steps if step.startswith(current)]


def _values(key: str, keys: Mapping[str, Any], current: str, used: Used) -> list[Candidate]:
    """Values of a setting: those that can be listed, those of the flag of its name, or the names that plugins gave."""
    listed = keys.get(key, ("", ()))[1]
    if listed:
        return _starting(list(listed), current)
    if key in LIKE:
        return of_kind(LIKE[key], current, used)
    if key in REGISTERED:
        return _starting(read_names()[REGISTERED[key]], current)
    return _llms(current, used) if f"{key}_options" in keys else []


REGISTERED = {"loss": "losses", "retriever": "retrievers"}
"""Settings whose values are names that are registered."""
LIKE = {
    "model": "MODEL",
    "input": "INPUT",
    "eval_input": "INPUT",
    "corpus": "CORPUS",
    "tokenizer": "TOKENIZER",
    "tasks": "TASK",
    "llm": "LLM",
    "judge": "LLM",
    "writer": "LLM",
}
"""Settings whose values are those of a flag."""


def _shown(current: str, used: Used) -> list[Candidate]:
    """`STEP.KEY` of the recipe that stands before it."""
    named = used.get("", [])
    found: dict[str, str] = {}
    for step in _steps_of(named[0] if named else ""):
        found |= {f"{step['id']}.{key}": about for key, (about, _) in _keys(step).items()}
    return _starting(found, current)


def _keys(step: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a step: what each is, and its values where they can be listed."""
    known = read_names()["settings"]
    found = known.get(f"{step['method']}.{step['stage']}", {})
    return dict(known[found] if isinstance(found, str) else found)


def _recipe_steps(used: Used) -> list[dict[str, Any]]:
    # Only eval has tasks, and without a recipe it takes this one.
    return _steps_of((used.get("--recipe") or ["probe" if "--task" in used else ""])[-1])


def _steps_of(named: str) -> list[dict[str, Any]]:
    """The steps of a recipe by its name, or in its file as it is now."""
    known = read_names()["recipes"]
    if named in known or not named.endswith((".yaml", ".yml")):
        return list(known.get(named, {}).get("steps", []))
    return _file_steps(os.path.expanduser(named), 0)


def _file_steps(path: str, depth: int) -> list[dict[str, Any]]:
    """The steps of a recipe's file, laid over those of the recipe that it extends; none where it cannot be read."""
    from pathlib import Path

    from lcx.yamls import read_yaml_file

    try:
        held = read_yaml_file(Path(path)).value
        method = held.get("method") or ""
        steps = {}
        if (base := held.get("extends")) and depth < 20:
            beside = base.endswith((".yaml", ".yml")) and not os.path.isabs(base)
            base = os.path.join(os.path.dirname(path), base) if beside else base
            inherited = _file_steps(base, depth + 1) if os.path.sep in base or beside else _steps_of(base)
            steps = {step["id"]: dict(step) for step in inherited}
        for step in held.get("steps") or []:
            name = step.get("id") or step["stage"]
            own = {"id": name, "stage": step.get("stage", ""), "method": step.get("method") or method}
            steps[name] = {**own, **steps.get(name, {}), **{k: v for k, v in own.items() if v}}
        return list(steps.values())
    except Exception:  # half a file is no reason for a traceback in a prompt
        return []


def _references(fixed: Iterable[str], stages: tuple[str, ...]) -> Callable[[str, Used], list[Candidate]]:
    """Fixed words, earlier steps as `step:ID`, and files."""

    def make(current: str, used: Used) -> list[Candidate]:
        makers = [f"step:{step['id']}" for step in _recipe_steps(used) if step["stage"] in stages]
        return _starting([*fixed, *makers], current) + files(current)

    return make


def _llms(current: str, used: Used) -> list[Candidate]:
    known = [name if name == "builtin" else f"{name}:" for name in read_names()["llms"]]
    if current.startswith("local:"):
        typed = current.removeprefix("local:")
        found = _starting([*TINY_NAMES, *FETCHED_NAMES], typed) + files(typed)
        return [Candidate(f"local:{c.text}", open=c.open) for c in found]
    return _starting(known, current)


def _presets() -> list[str]:
    """Names of the accelerate configs that ship with lcx."""
    folder = os.path.join(os.path.dirname(os.path.dirname(__file__)), "training", "presets")
    return sorted(name.removesuffix(".yaml") for name in os.listdir(folder) if name.endswith(".yaml"))


def _tasks(current: str, used: Used) -> list[Candidate]:
    """The last of tasks with commas between them; what stands before it is kept."""
    before, comma, last = current.rpartition(",")
    known = [name for name in [*read_names()["tasks"], "lm-eval:"] if name not in before.split(",")]
    found = _starting(known, last)
    if "/" in last:
        found += files(last, endings=(".yaml", ".yml"))
    return [Candidate(before + comma + one.text, one.help, one.open, one.path and not comma) for one in found]


PARTS = ("method", "task", "metric", "loss", "llm", "retriever", "command", "all", "none")
"""What `lcx plugins new --with` takes."""


def _listed(words: Iterable[str], current: str) -> list[Candidate]:
    """The last of words with commas between them; what stands before it is kept."""
    before, comma, last = current.rpartition(",")
    known = [word for word in words if word not in before.split(",")]
    return [Candidate(before + comma + one.text) for one in _starting(known, last)]


def _folders(current: str, used: Used) -> list[Candidate]:
    return files(current, endings=())


def files(current: str, endings: tuple[str, ...] | None = None) -> list[Candidate]:
    """Folders, and files (with one of these endings, where given), that begin with the path typed so far."""
    parent, typed = os.path.split(current)
    place = os.path.expanduser(parent) or "."
    found = []
    try:
        with os.scandir(place) as entries:
            for entry in entries:
                if not entry.name.startswith(typed) or (
                    entry.name.startswith(".") and not typed.startswith(".")
                ):
                    continue
                text = os.path.join(parent, entry.name)
                if entry.is_dir():
                    found.append(Candidate(text + "/", open=True, path=True))
                elif endings is None or entry.name.endswith(endings):
                    found.append(Candidate(text, path=True))
    except OSError:
        return []
    return sorted(found, key=lambda c: c.text)


def _shapes() -> list[str]:
    from lcx.forecast.model import NAMED

    return list(NAMED)


def _cards() -> list[str]:
    from lcx.forecast.cards import CARDS

    return [*CARDS, "cpu"]


TINY_NAMES = ("tiny", "tiny16", "tiny8")
FETCHED_NAMES = ("smollm2",)
"""What `lcx models get` knows (`lcx.gguf.NAMED`)."""

KINDS: dict[str, Callable[[str, Used], list[Candidate]]] = {
    "RECIPE": _recipes,
    "STEP": _steps,
    "KEY=VALUE": _sets,
    "STEP.KEY": _shown,
    "DIR": _folders,
    "FILE": lambda current, used: files(current),
    "MODEL": _references([*TINY_NAMES, *FETCHED_NAMES], ("train",)),
    "NAME": lambda current, used: _starting(FETCHED_NAMES, current),
    "INPUT": _references([], ("synth", "score")),
    "CORPUS": _references(["stdlib", "stdlib:records", "stdlib:stale", "hf:"], ()),
    "TOKENIZER": _references(["simple", "words", *FETCHED_NAMES], ()),
    "LLM": _llms,
    "DEVICE": lambda current, used: _starting(["auto", "cpu", "cuda"], current),
    "STRATEGY": lambda current, used: (
        _starting(["ddp", "fsdp", "zero2", "zero3"], current) + files(current, endings=(".yaml", ".yml"))
    ),
    "PRESET": lambda current, used: _starting(_presets(), current),
    "TASK": _tasks,
    "RUN": _folders,
    "RUN_A": _folders,
    "RUN_B": _folders,
    "KIND": lambda current, used: _starting(["lm-eval", "markdown"], current),
    "SHAPE": lambda current, used: _starting(_shapes(), current),
    "CARD": lambda current, used: _starting(_cards(), current),
    "PART,...": lambda current, used: _listed(PARTS, current),
    "SPEC": _folders,
    "PLUGIN": lambda current, used: _starting(read_names()["plugins"], current),
}


# ---- the words of a bash line

BLANKS = " \t\n"


def split_line(line: str) -> list[str]:
    """The words of a line up to the cursor, unquoted; the last one is the word being typed, empty after a
    blank.

    Assignments before the command (`LCX_RUNS=x lcx ...`) are left out.
    """
    words: list[str] = []
    word: str | None = None
    quote = ""
    position = 0
    while position < len(line):
        letter = line[position]
        position += 1
        if quote:
            if letter == quote:
                quote = ""
            elif letter == "\\" and quote == '"' and line[position : position + 1] in ('"', "\\", "$", "`"):
                word = (word or "") + line[position]
                position += 1
            else:
                word = (word or "") + letter
        elif letter in BLANKS:
            if word is not None:
                words.append(word)
            word = None
        elif letter in "\"'":
            quote, word = letter, word or ""
        elif letter == "\\":
            word = (word or "") + line[position : position + 1]
            position += 1
        else:
            word = (word or "") + letter
    words.append(word or "")
    while len(words) > 1 and _is_assignment(words[0]):
        words.pop(0)
    return words


def _is_assignment(word: str) -> bool:
    name, equals, _ = word.partition("=")
    return bool(equals) and name.isidentifier()


def break_prefix(word: str, breaks: str) -> str:
    """The part of a word that bash regards as already done: up to the last `:` or `=` at which it splits
    words.
    """
    end = max([word.rfind(sign) for sign in ":=" if sign in breaks], default=-1)
    return word[: end + 1]


# ---- names that plugins bring: recipes, tasks, generators, the plugins themselves

_read: dict[str, Any] = {}


def read_names() -> dict[str, Any]:
    """The names: `recipes` (name -> summary and steps), `settings` (METHOD.STAGE -> keys), `plugins`, `tasks`, `llms`,
    `losses`, `retrievers`. Read once a process.
    """
    if not _read:
        _read.update(fresh() or _rebuild())
    return _read


def _rebuild() -> dict[str, Any]:
    """Load the plugins in silence, write the cache where that is possible, and return the names."""
    with Silence():
        found, watched = collect_names()
    save(found, watched)
    return found


def _plugins_node(name: str) -> dict[str, Any] | None:
    """The table of a plugin's command. Its module is imported once, and the table is kept until that file changes."""
    found = read_commands()
    row = found["commands"].get(name)
    if row is None:
        return None
    if "node" not in row:
        with Silence():
            from lcx.cli.app import plugin_command
            from lcx.cli.completion import node_of

            try:
                row["node"] = node_of(plugin_command(name))
            except Exception:  # `lcx plugins check` says what is wrong
                return None
            file = getattr(sys.modules.get(row["module"]), "__file__", None)
        found["watched"] += [file] if file else []
        save(found, found["watched"], "commands")
    return dict(row["node"])


def collect_names() -> tuple[dict[str, Any], list[str]]:
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
    found: dict[str, Any] = {
        "recipes": recipes,
        "settings": _settings(loaded),
        "losses": loaded.losses.names(),
        "retrievers": loaded.retrievers.names(),
        "plugins": [entry.name for entry in loaded.entries],
        "tasks": sorted({*loaded.probes.names(), *groups()}),
        "llms": loaded.llms.names(),
    }
    return found, sorted({*watched, *module_files(loaded)})


def _describe(path: str, loaded: Any) -> dict[str, Any]:
    from lcx import recipe

    try:
        read = recipe.load(path, loaded)
    except Exception:  # a broken recipe keeps its name: `lcx recipes validate` says what is wrong
        return {"summary": "", "steps": []}
    steps = [{"id": step.id, "stage": step.stage, "method": step.method} for step in read.steps]
    return {"summary": read.summary, "steps": steps}


def _settings(loaded: Any) -> dict[str, Any]:
    """The settings of every stage, by `METHOD.STAGE`."""
    import contextlib

    found = _Described()
    for name in loaded.methods.names():
        with contextlib.suppress(Exception):  # two plugins may claim it
            for stage in loaded.method(name).stages:
                found.add(f"{name}.{stage}", loaded.method(name).stage(stage).settings)
    return found.keys


def _options_of_tasks() -> dict[str, Any]:
    """The options of every task by its name, from a cache of their own: all tasks are imported for it."""
    if (cached := fresh("options")) is not None:
        return cached
    import contextlib

    found = _Described()
    with Silence():
        from lcx import plugins

        loaded = plugins.load()
        for name in loaded.probes.names():
            with contextlib.suppress(Exception, SystemExit):  # `lcx plugins check` says what is wrong
                found.add(name, loaded.probes.load(name).options)
        modules = [str(loaded.probes.get(name)).partition(":")[0] for name in found.keys]
    files = [str(getattr(sys.modules.get(name), "__file__", None) or "") for name in modules]
    save(found.keys, [*module_files(loaded), *sorted({file for file in files if file})], "options")
    return found.keys


class _Described:
    """What the keys of classes of settings are, and their values where they can be listed, by a place of each.

    Where it has the same as an earlier place, as most have of the core's, the name of that one.
    """

    def __init__(self) -> None:
        self.keys: dict[str, dict[str, tuple[str, list[str]]] | str] = {}
        self._first: dict[Any, str] = {}

    def add(self, place: str, settings: Any) -> None:
        import contextlib

        from lcx.cli.reference import keys_of

        with contextlib.suppress(Exception):  # a plugin's broken settings cost its own completion only
            if settings in self._first:
                self.keys[place] = self._first[settings]
                return
            keys = {key.name: (key.about, list(key.values)) for key in keys_of(settings).values()}
            if keys:
                self.keys[place], self._first[settings] = keys, place
