#compdef pyvirtio
# Completes pyvirtio's command lines in zsh. `pyvirtio completion zsh` prints this.

_pyvirtio() {
    local -a lines ended open
    local line="${(j: :)words[1,CURRENT-1]} $PREFIX" found one
    lines=("${(@f)$(print -rn -- $line | ${~words[1]} completion zsh --answer 2>/dev/null)}")
    local paths=$lines[2] before=$lines[3]
    for one in ${lines[4,-1]}; do
        # `_describe` separates a word from what it is by a colon.
        found=${${one%%$'\t'*}//:/\\:}:${one#*$'\t'}
        case ${one%%$'\t'*} in
        *[=:,]) open+=($found) ;;
        *) ended+=($found) ;;
        esac
    done
    local -i status_=1
    (( $#ended )) && _describe -t words pyvirtio ended && status_=0
    (( $#open )) && _describe -t words pyvirtio open -S '' && status_=0
    if [[ -n $paths ]]; then
        compset -p $#before
        case $paths in
        folders) _files -/ && status_=0 ;;
        sockets) _files -g '*(=)' && status_=0 ;;
        *) _files && status_=0 ;;
        esac
    fi
    return status_
}
if [[ $funcstack[1] == _pyvirtio ]]; then
    _pyvirtio "$@"
else
    compdef _pyvirtio pyvirtio
fi
