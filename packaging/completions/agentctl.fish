# SPDX-License-Identifier: Apache-2.0
# Completions of agentctl for fish. It knows them itself: asked by these variables, it writes them to descriptor 8,
# each with what it is after a tab.

function __agentctl_complete
    set -l words (commandline -opc)
    set -lx COMP_LINE (commandline -cp)
    set -lx COMP_POINT (string length -- "$COMP_LINE")
    set -lx _ARGCOMPLETE 1
    set -lx _ARGCOMPLETE_IFS \n
    set -lx _ARGCOMPLETE_DFS \t
    set -lx _ARGCOMPLETE_SHELL fish
    set -lx _ARGCOMPLETE_SUPPRESS_SPACE 1
    command $words[1] 8>&1 9>/dev/null >/dev/null 2>&1 </dev/null
end

complete -c agentctl -f -a '(__agentctl_complete)'
