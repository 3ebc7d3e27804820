"""Where each shell looks for completion scripts, and what to do so that it does."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from lcx.completion.scripts import SCRIPTS
from lcx.errors import UsageError
from lcx.storage import write_text


def detect() -> str:
    """The shell that called us: the parent process's name, else $SHELL. Raises UsageError for another
    kind.
    """
    names = [_parent(), os.path.basename(os.environ.get("SHELL", ""))]
    for name in names:
        if name in SCRIPTS:
            return name
    raise UsageError(
        "cannot tell which shell you use",
        why=f"it looks like {' or '.join(repr(name) for name in names if name) or 'none'}",
        hint="Name it: lcx completion install bash (or zsh, fish).",
    )


def _parent() -> str:
    try:
        asked = ["ps", "-o", "comm=", "-p", str(os.getppid())]
        found = subprocess.run(asked, capture_output=True, text=True, timeout=5, check=False).stdout
    except (OSError, subprocess.SubprocessError):
        return ""
    return os.path.basename(found.strip()).lstrip("-")


def place(shell: str) -> Path:
    """The file that a shell reads for `lcx`."""
    home = Path.home()
    if shell == "fish":
        return (
            Path(os.environ.get("XDG_CONFIG_HOME") or home / ".config") / "fish" / "completions" / "lcx.fish"
        )
    if shell == "zsh":
        return home / ".zfunc" / "_lcx"
    data = Path(os.environ.get("XDG_DATA_HOME") or home / ".local" / "share")
    folder = Path(os.environ.get("BASH_COMPLETION_USER_DIR", "").split(":")[0] or data / "bash-completion")
    return folder / "completions" / "lcx"


def install_script(shell: str) -> list[str]:
    """Write the script unless it is there already; returns lines that say what was done and how to use it."""
    target, text = place(shell), SCRIPTS[shell]
    there = target.is_file() and target.read_text(encoding="utf-8", errors="replace") == text
    if not there:
        write_text(target, text)
    return [f"{target} is up to date" if there else f"wrote {target}", *activation(shell, target)]


def activation(shell: str, target: Path) -> list[str]:
    """What is left for the user to do."""
    if shell == "fish":
        return ["fish reads it by itself; it works now."]
    if shell == "zsh":
        rc = Path(os.environ.get("ZDOTDIR") or Path.home()) / ".zshrc"
        if rc.is_file() and ".zfunc" in rc.read_text(encoding="utf-8", errors="replace"):
            return [f"{rc} names ~/.zfunc; it works in new shells (now: exec zsh)."]
        return [
            f"add these lines to {rc}, then start a new shell:",
            "  fpath=(~/.zfunc $fpath)",
            "  autoload -Uz compinit && compinit",
        ]
    return [
        "new shells read it where the package bash-completion is loaded; now, or without that package:",
        f"  source {target}",
        "  (put this line into ~/.bashrc to keep it)",
    ]
