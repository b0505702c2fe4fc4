#compdef agentctl
# SPDX-License-Identifier: Apache-2.0
# Completions of agentctl for zsh. It knows them itself: asked by these variables, it writes them to descriptor 8,
# each with what it is after a tab. Like fish, zsh quotes for itself.

local value about line="${(j: :)words[1,CURRENT-1]} $PREFIX"
local -a whole partial
while IFS=$'\t' read -r value about; do
    [[ -n $value ]] || continue
    value=${value//:/\\:}${about:+:$about}
    if [[ $value == */ ]]; then partial+=("$value"); else whole+=("$value"); fi
done < <(
    export COMP_LINE=$line COMP_POINT=${#line} _ARGCOMPLETE=1 _ARGCOMPLETE_IFS=$'\n' _ARGCOMPLETE_DFS=$'\t'
    export _ARGCOMPLETE_SHELL=fish _ARGCOMPLETE_SUPPRESS_SPACE=1
    ${(Q)words[1]} 8>&1 9>/dev/null >/dev/null 2>&1 </dev/null
    print
)
_describe -t agentctl agentctl whole -- partial -S ''
