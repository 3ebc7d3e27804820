"""The completion scripts of the shells, and where each shell looks for its own.

A script asks `lcx` itself, so it needs no update when commands change.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from lcx.errors import UsageError
from lcx.storage import write_text

BASH = r"""# bash completion for lcx; made by `lcx completion show bash`
_lcx() {
    local line how="" program=${COMP_WORDS[0]/#\~/$HOME}
    COMPREPLY=()
    while IFS= read -r line; do
        if [[ -z $how ]]; then how=$line; else COMPREPLY+=("$line"); fi
    done < <(_LCX_COMPLETE=bash _LCX_LINE="${COMP_LINE:0:COMP_POINT}" _LCX_BREAKS="$COMP_WORDBREAKS" \
        "$program" 2>/dev/null)
    case $how in
        files) compopt -o filenames 2>/dev/null ;;
        nospace) compopt -o nospace 2>/dev/null ;;
    esac
    return 0
}
complete -F _lcx lcx
"""

ZSH = r"""#compdef lcx
# zsh completion for lcx; made by `lcx completion show zsh`
_lcx() {
    local line program=${${(Q)words[1]}/#\~/$HOME}
    local -a row plain plain_shown open open_shown
    for line in "${(@f)$(_LCX_COMPLETE=zsh _LCX_WORDS="${(pj:\n:)${(@Q)words[1,CURRENT-1]}}" \
            _LCX_WORD="${(Q)PREFIX}" $program 2>/dev/null)}"; do
        row=("${(@ps:\t:)line}")
        (( ${#row} >= 2 )) || continue
        if [[ $row[1] == n ]]; then
            open+=("$row[2]"); open_shown+=("${row[2]}${row[3]:+  -- ${row[3]}}")
        else
            plain+=("$row[2]"); plain_shown+=("${row[2]}${row[3]:+  -- ${row[3]}}")
        fi
    done
    (( ${#plain} )) && compadd -l -d plain_shown -a plain
    (( ${#open} )) && compadd -S '' -l -d open_shown -a open
    (( ${#plain} + ${#open} ))
}
if [[ $funcstack[1] == _lcx ]]; then
    _lcx "$@"
else
    compdef _lcx lcx
fi
"""

FISH = r"""# fish completion for lcx; made by `lcx completion show fish`
function __lcx_complete
    set -l words (commandline -opc)
    set -l program (string replace -r '^~' $HOME -- $words[1])
    set -lx _LCX_COMPLETE fish
    set -lx _LCX_WORDS (string join \n -- $words | string collect)
    set -lx _LCX_WORD (commandline -ct)
    $program 2>/dev/null
end
complete -c lcx -f -a '(__lcx_complete)'
"""

SCRIPTS = {"bash": BASH, "zsh": ZSH, "fish": FISH}
FILES = {"bash": "lcx.bash", "zsh": "_lcx", "fish": "lcx.fish"}
"""The scripts' names under `completions/`."""


# ---- where each shell looks for its script


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
