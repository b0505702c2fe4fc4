# SPDX-License-Identifier: Apache-2.0
# Completions of agentctl for bash. It knows them itself: asked by these variables, it writes them to descriptor 8.

_agentctl() {
    mapfile -t COMPREPLY < <(
        export COMP_LINE COMP_POINT COMP_TYPE _ARGCOMPLETE=1 _ARGCOMPLETE_IFS=$'\n' _ARGCOMPLETE_SUPPRESS_SPACE=1
        export _ARGCOMPLETE_SHELL=bash _ARGCOMPLETE_COMP_WORDBREAKS=$COMP_WORDBREAKS
        "$1" 8>&1 9>/dev/null >/dev/null 2>&1 </dev/null
    )
    # a directory goes on with what is in it
    [[ ${#COMPREPLY[@]} -ne 1 || ${COMPREPLY[0]} != */ ]] || compopt -o nospace
}

complete -F _agentctl agentctl
