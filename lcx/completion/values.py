"""Candidates for the value of an option or argument, by its kind: recipes, steps, tasks, specs, choices,
files.
"""

from __future__ import annotations

import os

from lcx.completion import names

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
    known = {name: row["summary"] for name, row in names.read()["recipes"].items()}
    return _starting(known, current) + files(current, endings=(".yaml", ".yml"))


def _steps(current: str, used: Used) -> list[Candidate]:
    return _starting([step["id"] for step in _recipe_steps(used)], current)


def _sets(current: str, used: Used) -> list[Candidate]:
    """`step.` first, then `step.key=`."""
    steps = {step["id"]: step["keys"] for step in _recipe_steps(used)}
    head, dot, _ = current.partition(".")
    if dot and head in steps:
        return _starting([f"{head}.{key}=" for key in steps[head]], current)
    return [Candidate(f"{step}.", open=True) for step in steps if step.startswith(current)]


def _recipe_steps(used: Used) -> list[dict[str, Any]]:
    # Only eval has tasks, and without a recipe it takes this one.
    named = (used.get("--recipe") or ["probe" if "--task" in used else ""])[-1]
    return list(names.read()["recipes"].get(named, {}).get("steps", []))


def _references(fixed: Iterable[str], stages: tuple[str, ...]) -> Callable[[str, Used], list[Candidate]]:
    """Fixed words, earlier steps as `step:ID`, and files."""

    def make(current: str, used: Used) -> list[Candidate]:
        makers = [f"step:{step['id']}" for step in _recipe_steps(used) if step["stage"] in stages]
        return _starting([*fixed, *makers], current) + files(current)

    return make


def _llms(current: str, used: Used) -> list[Candidate]:
    known = [name if name == "builtin" else f"{name}:" for name in names.read()["llms"]]
    if current.startswith("local:"):
        return [Candidate(f"local:{c.text}", open=c.open) for c in files(current.removeprefix("local:"))]
    return _starting(known, current)


def _presets() -> list[str]:
    """Names of the accelerate configs that ship with lcx."""
    folder = os.path.join(os.path.dirname(os.path.dirname(__file__)), "training", "presets")
    return sorted(name.removesuffix(".yaml") for name in os.listdir(folder) if name.endswith(".yaml"))


def _tasks(current: str, used: Used) -> list[Candidate]:
    """The last of tasks with commas between them; what stands before it is kept."""
    before, comma, last = current.rpartition(",")
    known = [name for name in [*names.read()["tasks"], "lm-eval:"] if name not in before.split(",")]
    found = _starting(known, last)
    if "/" in last:
        found += files(last, endings=(".yaml", ".yml"))
    return [Candidate(before + comma + one.text, one.help, one.open, one.path and not comma) for one in found]


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


KINDS: dict[str, Callable[[str, Used], list[Candidate]]] = {
    "RECIPE": _recipes,
    "STEP": _steps,
    "KEY=VALUE": _sets,
    "DIR": _folders,
    "FILE": lambda current, used: files(current),
    "MODEL": _references(["tiny", "tiny16", "tiny8"], ("train",)),
    "INPUT": _references([], ("synth", "score")),
    "CORPUS": _references(["stdlib", "stdlib:records", "stdlib:stale", "hf:"], ()),
    "TOKENIZER": _references(["simple", "words"], ()),
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
    "PLUGIN": lambda current, used: _starting(names.read()["plugins"], current),
}
