"""The answer to one press of the Tab key. Imports next to nothing: it has to be there before the finger
leaves the key.

The scripts set `_LCX_COMPLETE` to the shell's name and hand over the words: bash its whole line up to the
cursor (`_LCX_LINE`, since it splits words at colons), the others the words before the current one, a
newline between them, and the current one (`_LCX_WORDS`, `_LCX_WORD`).
"""

from __future__ import annotations

import os
import sys

from lcx.completion import values
from lcx.completion.values import Candidate
from lcx.completion.words import break_prefix, split_line

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any


def answer(environment: Mapping[str, str]) -> int:
    """Print the candidates for a shell's environment. Whatever goes wrong, nothing is printed on stderr."""
    shell = environment.get("_LCX_COMPLETE", "")
    try:
        if shell == "bash":
            words = split_line(environment.get("_LCX_LINE", ""))
        else:
            words = [w for w in environment.get("_LCX_WORDS", "").split("\n") if w]
            words.append(environment.get("_LCX_WORD", ""))
        found = candidates(words[1:])
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
    node = table()
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
            if word not in node["commands"]:
                return []
            node = node["commands"][word]
        else:
            positions += 1
    if pending is not None:
        return values.of_kind(pending["kind"], current, used)
    if current.startswith("-") and not only_arguments:
        return _options(node, current, used)
    if "commands" in node:
        return [
            Candidate(name, command["help"])
            for name, command in node["commands"].items()
            if name.startswith(current)
        ]
    arguments = node.get("arguments", [])
    if arguments and (positions < len(arguments) or arguments[-1]["multiple"]):
        return values.of_kind(arguments[min(positions, len(arguments) - 1)]["kind"], current, used)
    return [] if current or arguments else _options(node, current, used)


def _option(node: dict[str, Any], name: str) -> dict[str, Any] | None:
    return next((option for option in node["options"] if name in option["names"]), None)


def _options(node: dict[str, Any], current: str, used: dict[str, list[str]]) -> list[Candidate]:
    name, equals, value = current.partition("=")
    option = _option(node, name)
    if equals and option is not None and option["kind"]:
        found = values.of_kind(option["kind"], value, used)
        return [Candidate(f"{name}={c.text}", c.help, c.open) for c in found]
    return [
        Candidate(option["names"][-1], option["help"])
        for option in node["options"]
        if option["names"][-1].startswith(current) and (option["multiple"] or option["names"][-1] not in used)
    ]
