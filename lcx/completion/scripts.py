"""The completion scripts of the shells. Each asks `lcx` itself, so they need no update when commands
change.
"""

from __future__ import annotations

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
