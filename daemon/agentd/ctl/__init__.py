# SPDX-License-Identifier: Apache-2.0
"""The `agentctl` command: one module a verb, loaded when it is used."""

import sys

from agentd.errors import AgentdError


def main() -> int:
    from agentd.ctl.options import parse

    options = parse(sys.argv[1:])
    try:
        return int(options.run(options))
    except AgentdError as exc:
        print(f"agentctl: {exc.message}", file=sys.stderr)
        return exc.exit_status
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        return 0  # whoever read our output has seen enough
