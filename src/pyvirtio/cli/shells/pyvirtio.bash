# Completes pyvirtio's command lines in bash. `pyvirtio completion bash` prints this.

_pyvirtio() {
    local line=${COMP_LINE:0:COMP_POINT} typed paths before word start offer
    COMPREPLY=()
    # Of the word, bash replaces only what is behind the last of these characters.
    start=
    word=${line##*[[:space:]]}
    case $COMP_WORDBREAKS in *:*) [[ $word == *:* ]] && start=${word%"${word##*:}"} ;; esac
    case $COMP_WORDBREAKS in *=*) [[ $word == *=* && ${word%"${word##*=}"} == "$start"* ]] && start=${word%"${word##*=}"} ;; esac
    {
        IFS= read -r typed
        IFS= read -r paths
        IFS= read -r before
        while IFS=$'\t' read -r offer _; do
            COMPREPLY+=("${offer#"$start"}")
        done
    } < <(printf %s "$line" | "${1/#\~\//$HOME/}" completion bash --answer 2>/dev/null)
    case ${COMPREPLY[*]} in *[=:,]) compopt -o nospace 2>/dev/null ;; esac
    [[ $paths ]] || return 0
    compopt -o filenames 2>/dev/null
    local -a found
    case $paths in
    folders) mapfile -t found < <(compgen -d -- "${typed#"$before"}") ;;
    *) mapfile -t found < <(compgen -f -- "${typed#"$before"}") ;;
    esac
    for offer in "${found[@]}"; do
        local path=${offer/#\~\//$HOME/}
        [[ $paths != sockets || -S $path || -d $path ]] || continue
        offer=$before$offer
        COMPREPLY+=("${offer#"$start"}")
    done
}
complete -F _pyvirtio pyvirtio
