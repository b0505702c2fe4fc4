# SPDX-License-Identifier: Apache-2.0
"""`agentctl stop NAME`: drain a container's worker and stop it; the next connection starts it again.

--json: {container, state}; `state` is the container's, once that is done.
"""

import argparse

from agentd.ctl.start import ordered


def run(options: argparse.Namespace) -> int:
    return ordered(options, "StopContainer", "Stopping")
