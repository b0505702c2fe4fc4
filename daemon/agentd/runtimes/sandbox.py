# SPDX-License-Identifier: Apache-2.0
"""The sandbox of a worker's unit, and the way out of it for what is no part of agentd.

What a unit takes away from its processes, system calls, capabilities, setuid programs, it takes from all
that they start. So systemd starts what is to be as if an administrator had started it.
"""

import os
import signal

from agentd.runtimes.start import Start, by_service_manager, preamble

SANDBOXED = bool(os.environ.get("AGENTD_SANDBOX"))
"""agentd@.service says so."""
FIRST = 1
"""The process whose namespaces are the host's."""

TERMINATED = 128 + signal.SIGTERM
"""An agent's status that was ended because nobody needs it: no failure to complain of in the journal."""
OWN_TERMINAL = 'exec setsid --ctty --wait "$@" <&1'
"""Makes the terminal on standard output its controlling one, and is another program there."""


def outside(start: Start, container: str, *, terminal: bool = False) -> Start:
    """The same in a unit of its own, next to the worker's; as it is where there is no sandbox."""
    if not SANDBOXED:
        return start
    own = ("/bin/sh", "-c", OWN_TERMINAL, "sh") if terminal else ()
    options = (
        "--slice=agentd.slice",
        f"--property=SuccessExitStatus={TERMINATED}",
        f"--description={start.argv[0]} for agents of {container}",
    )
    argv = by_service_manager(options, [*own, *start.argv])
    return Start(argv, {"PATH": os.environ.get("PATH", os.defpath)}, preamble(start.env))
