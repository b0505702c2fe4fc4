# SPDX-License-Identifier: Apache-2.0
"""The `agentctl` command: a module or a package a verb, loaded when it is used.

With --json, too, an error is a sentence on stderr and an exit status, and stdout has no half of an answer.
"""

import sys

from agentd.errors import AgentdError


def main() -> int:
    from agentd.ctl.options import parse

    options = parse(sys.argv[1:])
    try:
        if options.host is not None:
            from agentd.ctl import remote

            remote.run(options.host, sys.argv[1:])
        return int(options.run(options))
    except AgentdError as exc:
        from agentd.ctl.text import complaint

        print(complaint(exc.message), file=sys.stderr)
        return exc.exit_status
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        return 0  # whoever read our output has seen enough
