# fish completion for lcx; made by `lcx completion show fish`
function __lcx_complete
    set -l words (commandline -opc)
    set -l program (string replace -r '^~' $HOME -- $words[1])
    set -lx _LCX_COMPLETE fish
    set -lx _LCX_WORDS (string join \n -- $words | string collect)
    set -lx _LCX_WORD (commandline -ct)
    $program 2>/dev/null
end
complete -c lcx -f -a '(__lcx_complete)'
