# SPDX-License-Identifier: Apache-2.0
"""Who sits at a terminal may be asked for a password there, as by systemctl: polkit's own agent asks."""

import asyncio
import contextlib
import os
import select
import subprocess
import sys
from collections.abc import AsyncIterator

AGENT = "pkttyagent"
READY_SEC, END_SEC = 5.0, 2.0
"""For the agent to be known to polkit, and to end."""


@contextlib.asynccontextmanager
async def terminal() -> AsyncIterator[None]:
    """Have polkit ask on this terminal, where there is one; a desktop's own agent goes first."""
    agent = await asyncio.to_thread(_start) if sys.stdin.isatty() and sys.stderr.isatty() else None
    try:
        yield
    finally:
        if agent is not None:
            await asyncio.to_thread(_end, agent)


def _start() -> "subprocess.Popen[bytes] | None":
    """Returns when polkit knows of it; None where there is no such program."""
    reading, writing = os.pipe()
    try:
        command = [AGENT, "--notify-fd", str(writing), "--fallback"]
        agent = subprocess.Popen(command, pass_fds=(writing,), stderr=subprocess.DEVNULL)
    except OSError:  # not installed: polkit says that nobody could be asked
        os.close(reading)
        return None
    finally:
        os.close(writing)
    select.select((reading,), (), (), READY_SEC)  # it closes its end then, as it does when it ends
    os.close(reading)
    return agent


def _end(agent: "subprocess.Popen[bytes]") -> None:
    agent.terminate()
    try:
        agent.wait(END_SEC)
    except subprocess.TimeoutExpired:
        agent.kill()
        agent.wait()
