"""Everything that needs a GPU, in one run of eight minutes: the tests marked `gpu`, and lcx beside TRL at 8K to 64K.

    python benchmarks/gpu_check.py --json gpu_check.json          # one CUDA device, no network, no weights
    python benchmarks/gpu_check.py --device cpu --toy             # the same pieces in small, to try the script

Models have Llama-3.1-8B's shape and random weights, made on the device. The first piece holds lcx's losses against
TRL's; where they differ nothing is timed. Each piece is a process of its own with a share of the time that is left:
one that does not fit is left out, one that overruns is ended, and both are said. Run again with the same `--json`,
the script keeps what is done and goes on with the rest, so that several short loans of a machine make one result.
A library that a piece needs and that is not there (TRL, bitsandbytes) costs what needs it only.

Progress goes to standard error; standard output is one JSON, the same as the file's.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from machine import machine

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
LENGTHS, TOY_LENGTHS = "8192,16384,32768,65536", "64,128"
SMALL = "layers=4,hidden=1024,heads=8,kv_heads=2,intermediate=2816,vocab=8192"
"""A model of which lcx and TRL are held against each other first: seconds on any card."""
GRACE = 10.0
"""Seconds of a piece's time that are kept for its end: a trainer's last step, writing its result."""
NOTHING_LEFT = 5
"""pytest's exit code where it ran no test: an earlier run had them all."""
KEPT = ("done", "failed")
"""States that a later run with the same file does not try again; `failed` is tried with `--again`."""


@dataclass(frozen=True)
class Piece:
    """A part of the check: its share of the time, the least seconds that it is begun with, and its command.

    `command` is given the seconds, the file for the result, and what an earlier run found.
    """

    name: str
    what: str
    share: float
    least: float
    command: Callable[[float, Path, dict[str, Any]], list[str]]
    needs: tuple[str, ...] = ()
    timed: bool = True


def pieces(device: str, toy: bool, trl: bool = True) -> list[Piece]:
    """The pieces in their order. Without TRL lcx is measured alone."""
    trainers = "lcx,trl" if trl else "lcx"
    shape, lengths, answer = ("toy", TOY_LENGTHS, 8) if toy else ("llama3-8b", LENGTHS, 512)

    def program(name: str, out: Path, *words: object) -> list[str]:
        flags = [sys.executable, str(HERE / f"{name}.py"), "--device", device, "--json", str(out)]
        return flags + [str(word) for word in words]

    def preference(of: str, at: str, tokens: int, precision: str) -> Callable[..., list[str]]:
        longest = at.rpartition(",")[2]

        def made(seconds: float, out: Path, before: dict[str, Any]) -> list[str]:
            words = ["--shape", of, "--lengths", at, "--limit", longest, "--answer", tokens, "--repeats", 3]
            words += ["--precision", precision, "--trainers", trainers, "--grace", GRACE]
            return program("preference_step", out, *words, "--minutes", max(1.0, seconds - GRACE) / 60)

        return made

    def rows(seconds: float, out: Path, before: dict[str, Any]) -> list[str]:
        sizes = (
            ["--context", 96, "--layers", 1, "--width", 32, "--vocab", 64, "--questions", 2]
            if toy
            else ["--context", 8192, "--width", 1024, "--dtype", "bf16"]
        )
        return program("shared_prefix_sft", out, *sizes, "--repeats", 1 if toy else 5)

    def questions(seconds: float, out: Path, before: dict[str, Any]) -> list[str]:
        small = ["--context", 64, "--queries", 4, "--question", 4, "--new", 2, "--layers", 1, "--width", 32]
        small += ["--heads", 2, "--intermediate", 32, "--vocab", 64, "--counts", "4"]
        large = ["--shape", shape, "--context", 8192, "--queries", 50, "--batch", 50, "--counts", "50"]
        words = ["--rounds", 1, "--baseline-queries", 4, "--lm-eval-queries", 0, "--no-memory"]
        return program("prefix_reuse", out, *(small if toy else large), *words)

    equal = (("toy", "64,96", 8) if toy else (SMALL, "1024,2048", 64)) + ("bf16",)
    unit = 4.0 if toy else 1.0  # the least seconds: imports take their time even where the model is small
    found = [
        Piece("tests", "the tests that need a GPU", 110, 30 / unit, marked_tests, ("pytest",), timed=False),
        Piece(
            "bf16",
            f"a DPO step with LoRA on {shape} in bf16",
            140,
            80 / unit,
            preference(shape, lengths, answer, "bf16"),
        ),
        Piece(
            "4bit",
            f"a DPO step with LoRA on {shape} in 4 bits",
            120,
            80 / unit,
            preference(shape, lengths, answer, "4bit"),
            ("bitsandbytes",),
        ),
        Piece("rows", "an SFT step of 8 questions against separate rows", 30, 20 / unit, rows),
        Piece("questions", "questions on one context against generate", 40, 30 / unit, questions),
    ]
    if trl:
        what = "losses of lcx and TRL on the same data"
        found.insert(0, Piece("equal", what, 100, 25 / unit, preference(*equal), timed=False))
    return found


def marked_tests(seconds: float, out: Path, before: dict[str, Any]) -> list[str]:
    """pytest on the files that name the marker: only they are imported. What had an outcome is left out."""
    files = sorted(
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "tests").rglob("test_*.py")
        if "pytest.mark.gpu" in path.read_text(encoding="utf-8")
    )
    words = ["-v", "-o", "addopts=", "-m", "gpu", "-p", "no:cacheprovider", "-p", "no:randomly"]
    known = [f"--deselect={name}" for name in before.get("outcomes", {})]
    return [sys.executable, "-m", "pytest", *words, *known, *files]


OUTCOME = re.compile(r"^(tests/\S+::.+?) (PASSED|FAILED|SKIPPED|ERROR|XFAIL|XPASS)(?: \((.*)\))?", re.M)


def outcomes(said: str, before: dict[str, Any]) -> dict[str, Any]:
    """What pytest's lines say of each test, with those of an earlier run; counted by outcome."""
    found = dict(before.get("outcomes", {}))
    for name, outcome, why in OUTCOME.findall(said):
        # An error at the end of a test that passed is an error.
        found[name] = outcome.lower() + (f": {why}" if why else "")
    counts: dict[str, int] = {}
    for outcome in found.values():
        word = outcome.partition(":")[0]
        counts[word] = counts.get(word, 0) + 1
    return {"counts": counts, "outcomes": found}


def run_piece(piece: Piece, seconds: float, before: dict[str, Any]) -> dict[str, Any]:
    """Run a piece for at most so many seconds: its state, what it found, and the end of what it said."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="gpu-check-") as folder:
        out, log = Path(folder) / "out.json", Path(folder) / "log"
        code: int | None = None
        with log.open("wb") as said:
            child = subprocess.Popen(
                piece.command(seconds, out, before),
                stdout=said,
                stderr=subprocess.STDOUT,
                cwd=ROOT,
                env=environment(),
                start_new_session=True,
            )
            try:
                code = child.wait(timeout=seconds)
            except subprocess.TimeoutExpired:
                pass
            finally:
                if child.poll() is None:  # with its group: a trainer's worker may hold the card
                    os.killpg(child.pid, signal.SIGKILL)
                    child.wait()
        text = log.read_text(encoding="utf-8", errors="replace")
        found: dict[str, Any] = {}
        with suppress(OSError, ValueError):
            found = json.loads(out.read_text(encoding="utf-8"))
    if piece.name == "tests":
        found = outcomes(text, before)
        if code == NOTHING_LEFT and found["outcomes"]:
            code = 0
    state, why = verdict(code, found, text)
    if piece.name == "equal" and state == "done" and found.get("agreement") is None:
        state, why = "failed", "no length was measured by both trainers"
    if state == "cut" and not why:
        why = f"ended after its {seconds:.0f} s"
    result = {"what": piece.what, "state": state, "seconds": round(time.monotonic() - began, 1)}
    if why:
        result["why"] = why
    return result | {"found": found or before}


def verdict(code: int | None, found: dict[str, Any], said: str) -> tuple[str, str]:
    """State of a piece that ended with `code` (None: it was ended), and why it is not whole."""
    if code:
        return "failed", f"exit {code}: {said[-1500:]}"
    if wrong := [
        name for name, one in found.get("outcomes", {}).items() if one.startswith(("failed", "error"))
    ]:
        return "failed", "; ".join(wrong)
    ends = {
        f"{row['trainer']}, {row.get('tokens', 0):,} tokens": row.get("error", "")
        for row in found.get("results", ())
    }
    late = [name for name, error in ends.items() if error == "no time left"]
    bad = [
        f"{name}: {error}"
        for name, error in ends.items()
        if error not in ("", "no time left", "out of memory")
    ]
    if bad:
        return "failed", "; ".join(bad)
    if late:
        return "cut", f"no time left for {'; '.join(late)}"
    return ("cut", "") if code is None else ("done", "")


def environment() -> dict[str, str]:
    """A piece's environment: lcx from this checkout, nothing fetched, an allocator that does not fragment."""
    path = [str(ROOT), str(ROOT / "plugins"), os.environ.get("PYTHONPATH", "")]
    own = {"PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True", "HF_HUB_OFFLINE": "1"}
    own["COLUMNS"] = "500"  # pytest cuts a skipped test's reason to the line
    return {**own, **os.environ, "PYTHONPATH": os.pathsep.join(filter(None, path))}


def check(
    todo: Sequence[Piece],
    result: dict[str, Any],
    seconds: float,
    keep: Callable[[], None],
    *,
    run: Callable[[Piece, float, dict[str, Any]], dict[str, Any]] = run_piece,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Run the pieces that are not done, each with its share of what is left; `keep` is called after each."""
    done: dict[str, Any] = result["pieces"]
    end = clock() + seconds
    rest = [piece for piece in todo if done.get(piece.name, {}).get("state") not in KEPT]
    for place, piece in enumerate(rest):
        before = done.get(piece.name, {}).get("found", {})
        left = max(0.0, end - clock())
        mine = left * piece.share / sum(one.share for one in rest[place:])
        mine = min(left, max(mine, piece.least))
        missing = [name for name in piece.needs if find_spec(name) is None]
        unequal = piece.timed and done.get("equal", {"state": "done"})["state"] != "done"
        why = ""
        if missing:
            why = f"not installed here: {', '.join(missing)}"
        elif unequal:
            why = "it is not shown that lcx and TRL compute the same loss (piece `equal`): nothing is timed"
        elif mine < piece.least:
            why = f"{left:.0f} s are left, it needs {piece.least:.0f}"
        if why:
            say(f"{piece.name}: left out: {why}")
            done[piece.name] = {"what": piece.what, "state": "left out", "why": why, "found": before}
        else:
            say(f"{piece.name}: {piece.what}: {mine:.0f} s at most")
            done[piece.name] = run(piece, mine, before)
            about = done[piece.name]
            said = about.get("why", "").partition("\n")[0]
            say(f"  {about['state']}{f': {said}' if said else ''}")
        keep()


def say(line: str) -> None:
    """Progress, apart from the JSON."""
    print(line, file=sys.stderr, flush=True)


def earlier(path: Path | None, here: dict[str, Any]) -> dict[str, Any]:
    """Pieces of an earlier run with the same libraries, device and size; of another none, and that is said."""
    if path is None or not path.is_file():
        return {}
    before = json.loads(path.read_text(encoding="utf-8"))
    differs = [key for key, value in here.items() if before.get("here", {}).get(key) != value]
    if differs:
        say(f"{path} was measured with another {', '.join(differs)}: begun anew")
        return {}
    kept: dict[str, Any] = before["pieces"]
    return kept


def main(argv: list[str] | None = None) -> dict[str, Any]:
    """Parse flags, run the pieces, print one JSON; the exit code is 1 where one failed."""
    made = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    made.add_argument("--device", default="cuda")
    made.add_argument("--toy", action="store_true", help="small models and short contexts, to try the script")
    made.add_argument("--minutes", type=float, default=8.0, help="for everything")
    made.add_argument("--pieces", default="", help="names, split by commas (default: all)")
    made.add_argument(
        "--again", default="", help="names of pieces to run again although they are done or failed"
    )
    made.add_argument("--json", type=Path, help="the result's file; pieces that it has are kept")
    options = made.parse_args(argv)
    began = time.monotonic()
    trl = all(find_spec(name) is not None for name in ("trl", "datasets"))
    todo = pieces(options.device, options.toy, trl)
    names = [piece.name for piece in todo]
    asked = [name for name in f"{options.pieces},{options.again}".split(",") if name]
    if unknown := set(asked) - set(names):
        made.error(f"no such piece: {', '.join(sorted(unknown))}; there are {', '.join(names)}")
    import torch

    about = machine("torch", "transformers", "trl", "peft", "bitsandbytes")
    if options.device != "cpu" and not torch.cuda.is_available():
        made.error("this PyTorch sees no GPU; --device cpu --toy tries the script without one")
    here = {key: about[key] for key in ("torch", "transformers", "trl", "bitsandbytes")}
    here |= {"device": options.device, "toy": options.toy}
    known = earlier(options.json, here)
    for name in options.again.split(","):
        known.pop(name, None)
    result = {"benchmark": "gpu_check", "machine": about, "here": here, "trl": trl, "pieces": known}
    if not trl:
        say("TRL is not installed here: lcx is measured alone, and no losses are compared")

    def keep() -> None:
        if options.json:
            options.json.parent.mkdir(parents=True, exist_ok=True)
            temporary = options.json.with_name(options.json.name + ".part")
            temporary.write_text(json.dumps(result, indent=1, default=str) + "\n", encoding="utf-8")
            temporary.replace(options.json)

    chosen = [piece for piece in todo if not options.pieces or piece.name in options.pieces.split(",")]
    check(chosen, result, 60 * options.minutes - (time.monotonic() - began), keep)
    result["seconds"] = round(time.monotonic() - began, 1)
    keep()
    print(json.dumps(result, indent=1, default=str))
    return result


if __name__ == "__main__":
    ended = main()["pieces"].values()
    sys.exit(any(piece["state"] == "failed" for piece in ended))
