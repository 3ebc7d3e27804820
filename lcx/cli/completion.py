"""`lcx completion`: print a shell's completion script, or put it where the shell looks for it.

`python -m lcx.cli.completion` writes the table that `lcx.cli.answer` answers from, and the scripts.
"""

from __future__ import annotations

import json
import os
import subprocess
import typing
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from lcx.cli import options as opt
from lcx.cli.options import APP
from lcx.errors import UsageError

Shell = Literal["bash", "zsh", "fish", "powershell"]

app = typer.Typer(
    **APP, no_args_is_help=True, epilog=opt.examples("lcx completion install", "lcx completion show zsh")
)


@app.callback()
def completion() -> None:
    """Print or install the completion of your shell."""


@app.command(epilog=opt.examples("lcx completion show bash", 'eval "$(lcx completion show bash)"'))
def show(
    shell: Annotated[Shell, typer.Argument(metavar="SHELL", help="bash, zsh, fish or powershell.")],
) -> None:
    """Print a shell's completion script."""
    print(SCRIPTS[shell], end="")


@app.command(epilog=opt.examples("lcx completion install", "lcx completion install fish"))
def install(
    shell: Annotated[
        Shell | None,
        typer.Argument(metavar="SHELL", help="bash, zsh, fish or powershell (default: the one you use)."),
    ] = None,
) -> None:
    """Write the completion script to the place where your shell looks for it."""
    for line in install_script(shell or detect()):
        print(line)


_HELP = {"names": ["-h", "--help"], "help": "Show the command's options.", "kind": "", "multiple": False}


def build() -> dict[str, Any]:
    """The whole command line: commands, options and arguments, each with the kind of its values."""
    from lcx.cli.app import COMMANDS, load_command
    from lcx.cli.app import app as root_app

    root = node_of(root_app())
    root["commands"] = {
        name: {**node_of(load_command(name)), "help": text} for name, text in COMMANDS.items()
    }
    return root


def node_of(command: Any) -> dict[str, Any]:
    """A command as the table has it: its options, arguments and subcommands."""
    node: dict[str, Any] = {"help": _first_line(command.help), "options": [], "arguments": []}
    for parameter in command.params:
        if getattr(parameter, "hidden", False):
            continue
        kind = "" if getattr(parameter, "is_flag", False) else _kind(parameter)
        if parameter.param_type_name == "argument":
            node["arguments"].append({"kind": kind, "multiple": parameter.nargs == -1})
        else:
            node["options"].append(
                {
                    "names": sorted(parameter.opts, key=len),
                    "help": _first_line(parameter.help),
                    "kind": kind,
                    "multiple": bool(parameter.multiple),
                }
            )
    node["options"].append(_HELP)
    subcommands = getattr(command, "commands", None)
    if subcommands:
        node["commands"] = {name: node_of(inner) for name, inner in subcommands.items()}
    return node


def _kind(parameter: Any) -> str:
    """`=a|b` for a choice, else the metavar, which names the kind of value."""
    choices = _choices(parameter.type_descriptor.annotation)
    return f"={'|'.join(choices)}" if choices else str(parameter.metavar or "TEXT")


def _choices(annotation: Any) -> list[str]:
    if typing.get_origin(annotation) is typing.Literal:
        return [str(choice) for choice in typing.get_args(annotation)]
    return [choice for inner in typing.get_args(annotation) for choice in _choices(inner)]


def _first_line(text: str | None) -> str:
    return (text or "").strip().split("\n\n")[0].replace("\n", " ").strip()


def rendered() -> dict[str, str]:
    """Every generated file by its path from the repository's root: `python -m lcx.cli.completion` writes them."""
    files = {f"completions/{FILES[shell]}": text for shell, text in SCRIPTS.items()}
    files["lcx/cli/table.json"] = json.dumps(build(), indent=1, ensure_ascii=False) + "\n"
    return files


def generate() -> None:
    """Write every generated file."""
    root = Path(__file__).resolve().parents[2]
    for name, text in rendered().items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")
        print(f"wrote {name}")


# ---- the shells' scripts: each asks `lcx` itself, so that it needs no update when commands change

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

POWERSHELL = r"""# PowerShell completion for lcx; made by `lcx completion show powershell`
Register-ArgumentCompleter -Native -CommandName lcx -ScriptBlock {
    param($word, $command, $cursor)
    $words = @($command.CommandElements | Where-Object { $_.Extent.EndOffset -lt $cursor } | ForEach-Object {
        if ($_.PSObject.Properties['Value']) { [string]$_.Value } else { $_.Extent.Text }
    })
    if (-not $words) { return }
    $typed = if ($word -match '^["'']') { $word.Substring(1) -replace "''", "'" -replace '["'']$', '' } else { $word }
    $told = @{ _LCX_COMPLETE = 'powershell'; _LCX_WORDS = $words -join "`n"; _LCX_WORD = $typed; PYTHONUTF8 = '1' }
    $before = @{}
    $encoding = [Console]::OutputEncoding
    try {
        foreach ($name in $told.Keys) {
            $before[$name] = [Environment]::GetEnvironmentVariable($name)
            [Environment]::SetEnvironmentVariable($name, $told[$name])
        }
        [Console]::OutputEncoding = [Text.UTF8Encoding]::new($false)
        $found = & ($words[0] -replace '^~(?=[\\/])', $HOME) 2>$null
    } finally {
        [Console]::OutputEncoding = $encoding
        foreach ($name in $told.Keys) { [Environment]::SetEnvironmentVariable($name, $before[$name]) }
    }
    foreach ($line in $found) {
        $text, $help = $line -split "`t", 2
        if (-not $text) { continue }
        $written = if ($text -match '[\s''"`$(){};,@&|<>#]') { "'" + ($text -replace "'", "''") + "'" } else { $text }
        $shown = if ($help) { $help } else { $text }
        [System.Management.Automation.CompletionResult]::new($written, $text, 'ParameterValue', $shown)
    }
}
"""

SCRIPTS = {"bash": BASH, "zsh": ZSH, "fish": FISH, "powershell": POWERSHELL}
FILES = {"bash": "lcx.bash", "zsh": "_lcx", "fish": "lcx.fish", "powershell": "lcx.ps1"}
"""The scripts' names under `completions/`."""


# ---- where each shell looks for its script


def detect() -> str:
    """The shell that called us: the parent process's name, else $SHELL. Raises UsageError for another
    kind.
    """
    names = [_parent(), os.path.basename(os.environ.get("SHELL", ""))]
    if "PSModulePath" in os.environ:  # PowerShell sets it for whom it starts; on Windows there is no SHELL
        names.append("powershell")
    for name in names:
        shell = {"pwsh": "powershell"}.get(name.removesuffix(".exe"), name)
        if shell in SCRIPTS:
            return shell
    raise UsageError(
        "cannot tell which shell you use",
        why=f"it looks like {' or '.join(repr(name) for name in names if name) or 'none'}",
        hint="Name it: lcx completion install bash (or zsh, fish, powershell).",
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
    if shell == "powershell":
        if os.name == "nt":
            return home / "Documents" / "PowerShell" / "lcx.ps1"
        return Path(os.environ.get("XDG_CONFIG_HOME") or home / ".config") / "powershell" / "lcx.ps1"
    data = Path(os.environ.get("XDG_DATA_HOME") or home / ".local" / "share")
    folder = Path(os.environ.get("BASH_COMPLETION_USER_DIR", "").split(":")[0] or data / "bash-completion")
    return folder / "completions" / "lcx"


def install_script(shell: str) -> list[str]:
    """Write the script unless it is there already; returns lines that say what was done and how to use it."""
    target, text = place(shell), SCRIPTS[shell]
    there = target.is_file() and target.read_text(encoding="utf-8", errors="replace") == text
    if not there:
        from lcx.storage import write_text

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
    if shell == "powershell":
        quoted = str(target).replace("'", "''")
        return ["add this line to the file that $PROFILE names; now, in this shell:", f"  . '{quoted}'"]
    return [
        "new shells read it where the package bash-completion is loaded; now, or without that package:",
        f"  source {target}",
        "  (put this line into ~/.bashrc to keep it)",
    ]


if __name__ == "__main__":
    generate()
