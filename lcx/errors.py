"""Errors that a user can mend: what went wrong, why, and the command that mends it.

The entry point prints them without a traceback and exits with `exit_code`.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class LcxError(Exception):
    """A failure that the user can act on. `what` is one sentence; `why` and `hint` are optional."""

    exit_code = 1

    def __init__(self, what: str, *, why: str = "", hint: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.why = why
        self.hint = hint

    def as_dict(self) -> dict[str, object]:
        """The error as `--json` prints it."""
        return {"error": self.what, "why": self.why, "hint": self.hint, "exit_code": self.exit_code}


class UsageError(LcxError):
    """The command, a recipe or a file of the user's is wrong (exit code 2)."""

    exit_code = 2


class PluginError(LcxError):
    """A plugin cannot be loaded, or two plugins claim one name (exit code 3)."""

    exit_code = 3


class MissingError(LcxError):
    """A library, a device, a model or data that the step needs is not there (exit code 4)."""

    exit_code = 4


def suggestion(word: str, known: Iterable[str], near_enough: float = 0.55) -> str:
    """`Did you mean 'x'?` for the nearest known word, or an empty string where none is near enough (1 is equal)."""
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=near_enough)
    return f"Did you mean '{near[0]}'?" if near else ""
