# bash completion for lcx; made by `lcx completion show bash`
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
