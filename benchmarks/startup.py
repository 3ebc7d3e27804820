"""How long lcx takes to answer: help, one press of Tab, lists and a dry run, as multiples of `python -c pass`.

    python benchmarks/startup.py
    python benchmarks/startup.py --against ../other-checkout --json

Every round starts each command once, bare Python first, and the next round follows at once: what slows the machine
for a while slows all of them. A ratio is one median over another. Wall time is what a user waits for; processor time
(user and system) beside it says the same on a machine that is busy with other things. With `--against` another checkout
of lcx (a folder of `git worktree add`) is started in turns with this one, by the same Python, and answers to Tab have
to be equal.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from machine import machine

ROOT = Path(__file__).resolve().parents[1]
COMMANDS = {
    "help": "--help",
    "version": "--version",
    "recipes list": "recipes list",
    "train dry run": "train --recipe in2-tiny --dry-run",
}
TAB = {
    "option by Tab": ("lcx train --rec", "--recipe"),
    "recipe by Tab": ("lcx train --recipe in2-t", "in2-tiny"),
    "task by Tab": ("lcx eval --task val:", "document"),
}
"""Lines up to the cursor as bash hands them over, and what has to be among the answers."""
BARE = "python -c pass"
OURS, OTHER = "here", "against"


@dataclass(frozen=True)
class Checkout:
    """One checkout of lcx, importable without being installed: `paths` come before what is installed."""

    root: Path
    paths: tuple[str, ...]
    cache: str

    def environment(self, line: str | None) -> dict[str, str]:
        """The environment of one start; `line` is what stands before the cursor where Tab was pressed."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("LCX_", "_LCX_", "PYTHON"))}
        pressed = {} if line is None else {"_LCX_COMPLETE": "bash", "_LCX_LINE": line, "_LCX_BREAKS": " :="}
        return {**kept, "PYTHONPATH": os.pathsep.join(self.paths), "LCX_CACHE": self.cache, **pressed}


def checkout(root: Path, place: Path) -> Checkout:
    """A checkout's own modules, plugins and recipes; what it caches is kept in `place`. Exits where it is none."""
    root = root.expanduser().resolve()
    if not (root / "lcx" / "__main__.py").is_file():
        sys.exit(f"{root} is no checkout of lcx: git worktree add FOLDER COMMIT makes one")
    place.mkdir()
    (place / "lcx_recipes").symlink_to(root / "recipes")
    return Checkout(root, (str(root), str(root / "plugins"), str(place)), str(place / "cache"))


@dataclass(frozen=True)
class Start:
    """What one started process took, in seconds, and what it printed."""

    wall: float
    cpu: float
    out: str


def start(words: list[str], environment: dict[str, str], folder: str) -> Start:
    """Start Python with these words and wait for its end. Raises RuntimeError where it fails."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, *words], env=environment, cwd=folder, capture_output=True, text=True, check=False
    )
    wall = time.perf_counter() - began
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise RuntimeError(f"{shlex.join(words)} ended with {done.returncode}: {done.stderr[-2000:]}")
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Start(wall, cpu, done.stdout)


def cases() -> dict[str, tuple[list[str], str | None]]:
    """The words after `python` and the line before the cursor, by the names of what is measured."""
    module = ["-m", "lcx"]
    found: dict[str, tuple[list[str], str | None]] = {
        name: ([*module, *shlex.split(words)], None) for name, words in COMMANDS.items()
    }
    return found | {name: (module, line) for name, (line, _) in TAB.items()}


def check(answers: dict[str, dict[str, str]]) -> list[str]:
    """What differs between checkouts where it may. Raises AssertionError for answers that must hold and do not."""
    for who, given in answers.items():
        for name, (line, wanted) in TAB.items():
            assert wanted in given[name].split(), f"{who}: '{line}' and Tab give {given[name]!r}"
        assert "in2-tiny" in given["recipes list"], who
        assert "learning_rate" in given["train dry run"], who
    differ = []
    if OTHER in answers:
        for name in answers[OURS]:
            if answers[OURS][name] != answers[OTHER][name]:
                assert name not in TAB, f"{name}: {answers[OURS][name]!r}, not {answers[OTHER][name]!r}"
                differ.append(name)
    return differ


def measure(checkouts: dict[str, Checkout], rounds: int, folder: str) -> dict[str, Any]:
    """The ratios of every command of every checkout to bare Python, and of the checkouts to one another."""
    todo = cases()
    # The first start of each writes byte code and what completion remembers.
    answers = {
        who: {name: start(words, one.environment(line), folder).out for name, (words, line) in todo.items()}
        for who, one in checkouts.items()
    }
    differ = check(answers)
    starts: dict[tuple[str, str], list[Start]] = {}
    bare: list[Start] = []
    ours = checkouts[OURS]
    for _ in range(rounds):
        bare.append(start(["-c", "pass"], ours.environment(None), folder))
        for name, (words, line) in todo.items():
            for who, one in checkouts.items():
                starts.setdefault((who, name), []).append(start(words, one.environment(line), folder))
    found: dict[str, Any] = {
        "bare_ms": {kind: 1000 * median(bare, kind) for kind in ("wall", "cpu")},
        "commands": {name: {who: ratios(starts[who, name], bare) for who in checkouts} for name in todo},
    }
    if OTHER in checkouts:
        for name in todo:
            found["commands"][name]["here / against"] = ratios(starts[OURS, name], starts[OTHER, name])
        found["other_output"] = differ
    return found


def median(starts: list[Start], kind: str) -> float:
    """The median of wall or processor time, in seconds."""
    return statistics.median(getattr(one, kind) for one in starts)


def ratios(starts: list[Start], to: list[Start]) -> dict[str, float]:
    """One median over another, of wall and of processor time."""
    return {kind: median(starts, kind) / median(to, kind) for kind in ("wall", "cpu")}


def commit(root: Path) -> str:
    """The commit of a checkout, with a word where files differ from it; empty where git does not know it."""
    told = []
    for words in (["rev-parse", "--short", "HEAD"], ["status", "--porcelain", "--untracked-files=no"]):
        done = subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True, check=False)
        if done.returncode:
            return ""
        told.append(done.stdout.strip())
    return f"{told[0]} and changes" if told[1] else told[0]


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Everything the command line asks for, as one JSON-ready value."""
    about = machine("pydantic", "pyyaml", "rich", "typer")
    with tempfile.TemporaryDirectory() as place:
        checkouts = {OURS: checkout(ROOT, Path(place) / OURS)}
        if options.against:
            checkouts[OTHER] = checkout(Path(options.against), Path(place) / OTHER)
        (Path(place) / "empty").mkdir()
        found = measure(checkouts, options.rounds, str(Path(place) / "empty"))
    commits = {who: commit(one.root) for who, one in checkouts.items()}
    return {
        "benchmark": "startup",
        "machine": about,
        "settings": {
            "rounds": options.rounds,
            "commands": COMMANDS,
            "lines": {name: line for name, (line, _) in TAB.items()},
        },
        "commits": commits,
        **found,
    }


def show(result: dict[str, Any]) -> None:
    """Print the ratios as a table."""
    from rich.console import Console
    from rich.table import Table

    columns = list(next(iter(result["commands"].values())))
    table = Table("", *(f"{column}: {kind}" for column in columns for kind in ("wall", "cpu")))
    for name, row in result["commands"].items():
        table.add_row(name, *(f"{row[column][kind]:.2f}" for column in columns for kind in ("wall", "cpu")))
    console = Console()
    console.print(table)
    bare = result["bare_ms"]
    console.print(f"times {BARE}, which took {bare['wall']:.0f} ms ({bare['cpu']:.0f} ms of processor time)")
    if result.get("other_output"):
        console.print(f"printed something else by the other checkout: {', '.join(result['other_output'])}")


def main(arguments: list[str] | None = None) -> None:
    """Parse the command line, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=15, help="starts of each command")
    parser.add_argument("--against", default=None, metavar="FOLDER", help="another checkout of lcx")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    options = parser.parse_args(arguments)
    if options.rounds < 1:
        parser.error("--rounds is at least 1")
    result = run(options)
    print(json.dumps(result, indent=2)) if options.json else show(result)


if __name__ == "__main__":
    main()
