"""The error boundary: every failure ends as what, why and a hint on stderr, and as an exit code; never a
raw traceback.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shlex
import sys
import traceback
from collections.abc import Sequence
from typing import NamedTuple, TextIO, cast

from lcx.errors import LcxError, MissingError, UsageError, suggestion
from lcx.formatting import Shown, shown
from lcx.process import ended_gently

INTERRUPTED = 130
ISSUES = "please report it, with the command that you ran"
_FULL = {errno.ENOSPC, errno.EDQUOT}
_REFUSED = {errno.EACCES, errno.EPERM, errno.EROFS}


class Ended(NamedTuple):
    """How a command line ended: its exit code, the error in words, and what was raised."""

    code: int
    error: LcxError | None = None
    cause: BaseException | None = None


def run(argv: Sequence[str]) -> int:
    """Run one command line, print the error that it may end with, and return its exit code."""
    with ended_gently():
        ended = attempt(argv)
    return ended.code if ended.error is None else _report(ended.error, "--json" in _options(argv))


def attempt(argv: Sequence[str]) -> Ended:
    """Run one command line without printing its error."""
    try:
        code = _invoke(list(argv))
        sys.stdout.flush()
        return Ended(code)
    except BrokenPipeError:  # `lcx ... | head`: the reader left, there is nobody to tell
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return Ended(1)
    except KeyboardInterrupt as stop:
        return Ended(INTERRUPTED, _interrupted(argv), stop)
    except Exception as bad:
        error = bad if isinstance(bad, LcxError) else _explained(bad)
        return Ended(error.exit_code, error, bad)


def _invoke(argv: list[str]) -> int:
    from typer import Abort, Exit
    from typer.exceptions import TyperException

    from lcx.cli.app import app
    from lcx.cli.options import STATE

    STATE.reset()
    try:
        with (
            contextlib.redirect_stdout(cast(TextIO, Shown(sys.stdout))),
            app().make_context("lcx", argv) as ctx,
        ):
            ctx.command.invoke(ctx)
    except Exit as done:
        return done.exit_code
    except Abort:
        return 1
    except TyperException as bad:
        raise _usage(bad) from None
    return 0


def _usage(bad: Exception) -> LcxError:
    """A usage error of the option parser in lcx's own words."""
    what = str(bad.format_message()).rstrip(".").replace("Value error, ", "")  # type: ignore[attr-defined]
    ctx = getattr(bad, "ctx", None)
    option = getattr(bad, "option_name", "")
    if ctx is not None and "no such option" in what.lower():
        known = [name for parameter in ctx.command.params for name in parameter.opts]
        what = f"no such option '{option}'. {suggestion(option, known)}".rstrip()
    error = LcxError(
        what[:1].lower() + what[1:],
        hint=f"`{ctx.command_path if ctx else 'lcx'} --help` lists what it takes.",
    )
    error.exit_code = int(getattr(bad, "exit_code", 2))
    return error


def _options(argv: Sequence[str]) -> list[str]:
    return list(argv[: argv.index("--")] if "--" in argv else argv)


def _interrupted(argv: Sequence[str]) -> LcxError:
    # --force would start over what the same command without it resumes
    again = shlex.join(["lcx", *(word for word in argv if word != "--force")])
    error = LcxError("interrupted", hint=f"resume with: {again}")
    error.exit_code = INTERRUPTED
    return error


def _explained(bad: Exception) -> LcxError:
    """An exception that nobody turned into words yet."""
    if (isinstance(bad, OSError) and bad.errno in _FULL) or _says_full(bad):
        return LcxError(
            f"no space left{_on(bad)}",
            why=getattr(bad, "strerror", None) or str(bad),
            hint="Free some space or choose another folder, then run the same command: it resumes.",
        )
    if isinstance(bad, OSError) and bad.errno in _REFUSED:
        return LcxError(
            f"no permission{_on(bad)}",
            why=bad.strerror or str(bad),
            hint="Choose a folder you may write to (`--run DIR`, or LCX_RUNS and LCX_CACHE).",
        )
    if isinstance(bad, OSError) and bad.errno in (errno.EMFILE, errno.ENFILE):
        return LcxError(
            f"too many files are open{_on(bad)}",
            why=bad.strerror or str(bad),
            hint="Allow more with `ulimit -n 4096`, then run the same command: it resumes.",
        )
    if isinstance(bad, OSError) and bad.errno is not None and bad.strerror:
        return LcxError(
            f"the system does not allow what is to be done{_on(bad)}",
            why=f"{type(bad).__name__}: {bad.strerror}",
            hint="See to that place, then run the same command: it resumes.",
        )
    if isinstance(bad, RuntimeError) and "home directory" in str(bad):  # of Path.expanduser
        return UsageError(
            "a path begins with `~` and the name of a user that there is not",
            why=str(bad),
            hint="Write the whole path.",
        )
    if kind := _UNREADABLE.get(f"{type(bad).__module__.partition('.')[0]}.{type(bad).__name__}"):
        return LcxError(
            f"{kind} cannot be read",
            why=f"{type(bad).__name__}: {(str(bad).splitlines() or [''])[0]}",
            hint="It may be cut or damaged: get it anew, or start the step that wrote it over with --force. "
            "LCX_DEBUG=1 before the command shows where.",
        )
    if isinstance(bad, ModuleNotFoundError) and (bad.name or "lcx").split(".")[0] not in (
        "lcx",
        "lcx_recipes",
    ):
        library = str(bad.name).split(".")[0]
        return MissingError(f"the library '{library}' is not installed", hint=f"pip install {library}")
    if isinstance(bad, MemoryError):
        return MissingError(
            "this machine's memory is not enough", hint="Take smaller batches or a shorter context."
        )
    from lcx.cli.options import STATE

    if STATE.verbose or os.environ.get("LCX_DEBUG"):
        traceback.print_exception(bad, file=sys.stderr)
    if "lcx.plugins" in sys.modules and (whose := sys.modules["lcx.plugins"].loaded().blamed(bad)):
        shows = "" if STATE.verbose else "LCX_DEBUG=1 before the command shows the traceback; "
        return LcxError(
            f"unexpected {type(bad).__name__}: {bad}",
            why=whose,
            hint=f"{shows}please report it to the plugin's authors, with the command that you ran",
        )
    if STATE.verbose or os.environ.get("LCX_DEBUG"):
        return LcxError(
            f"unexpected {type(bad).__name__}: {bad}", why="this is a bug in lcx or in a plugin", hint=ISSUES
        )
    last = traceback.extract_tb(bad.__traceback__)[-1:]
    where = "".join(f" ({frame.filename}, line {frame.lineno})" for frame in last)
    return LcxError(
        f"unexpected {type(bad).__name__}: {bad}",
        why=f"this is a bug in lcx or in a plugin{where}",
        hint=f"LCX_DEBUG=1 before the command shows the traceback; {ISSUES}",
    )


_UNREADABLE = {
    **dict.fromkeys(
        ("safetensors.SafetensorError", "safetensors_rust.SafetensorError", "_pickle.UnpicklingError"),
        "a file of weights",
    ),
    **dict.fromkeys(("pyarrow.ArrowInvalid", "pyarrow.ArrowException"), "a Parquet file"),
    **dict.fromkeys(("sqlite3.DatabaseError", "sqlite3.OperationalError"), "a file of calls (calls.sqlite)"),
    **dict.fromkeys(("zipfile.BadZipFile", "zlib.error", "gzip.BadGzipFile"), "a packed file"),
    "json.JSONDecodeError": "a JSON file",
}
"""What libraries raise for files that are not whole, and what such a file is."""
_SAY_FULL = ("no space left on device", "os error 28", "disk is full", "pytorchstreamwriter failed writing")


def _says_full(bad: BaseException | None) -> bool:
    """Whether an error, or what it came of, tells of a full disk in words: writers of weights give no number."""
    while bad is not None:
        if any(said in str(bad).lower() for said in _SAY_FULL):
            return True
        bad = bad.__cause__
    return False


def _on(bad: BaseException) -> str:
    return f": {bad.filename}" if isinstance(bad, OSError) and bad.filename else ""


def _report(error: LcxError, as_json: bool) -> int:
    """Print an error for people on stderr, and for machines on stdout where --json asks for it."""
    try:
        print(render(error, coloured=_coloured()), file=sys.stderr, flush=True)
        if as_json:
            print(shown(json.dumps(error.as_dict(), ensure_ascii=False)), flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return error.exit_code


def render(error: LcxError, *, coloured: bool = False) -> str:
    """`error: what`, `why: ...` and `hint: ...`, one line each; empty ones are left out."""
    red, dim, green, plain = ("\x1b[1;31m", "\x1b[2m", "\x1b[32m", "\x1b[0m") if coloured else ("",) * 4
    lines = [f"{red}error:{plain} {shown(error.what)}"]
    lines += [f"{dim}why:{plain} {shown(error.why)}"] if error.why else []
    lines += [f"{green}hint:{plain} {shown(error.hint)}"] if error.hint else []
    return "\n".join(lines)


def _coloured() -> bool:
    return sys.stderr.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
