# SPDX-License-Identifier: Apache-2.0
"""`agentctl metrics`: what figures.py tells, as Prometheus reads it, or with --json as a list of
{"name", "labels": {name: value}, "value"}.

With --http one request on standard input is answered, as agentd-metrics.socket has it done for every
connection: GET /metrics and nothing else. A scrape must not start a manager that somebody has stopped.
"""

import argparse
import asyncio
import json
import os
import signal
import socket
import sys
from types import FrameType

import msgspec

from agentd.bus import DISCONNECTED, NO_REPLY, NO_SERVER, Bus
from agentd.ctl.control import ABSENT, MANAGER, NAME, ROOT, Control
from agentd.ctl.control import run as with_manager
from agentd.ctl.meant import place
from agentd.ctl.text import complaint
from agentd.errors import AgentdError, InvalidArgs, NotInstalled
from agentd.interface import BusError
from agentd.paths import Paths
from agentd.printable import LINES, printable

try:
    from prometheus_client import MetricsHandler, generate_latest

    from agentd.ctl.metrics import figures
except ImportError as error:
    raise NotInstalled(
        f"metrics need prometheus_client ({error}): install python3-prometheus-client, or prometheus-client "
        "from PyPI"
    ) from None

REQUEST_SEC = 10.0
"""For a request to come, and to be answered."""
STATUS_SEC = 5.0
GONE = (NO_SERVER, NO_REPLY, DISCONNECTED)


def run(options: argparse.Namespace) -> int:
    if options.http:
        return answer(place(options))

    async def look(control: Control) -> str:
        [text] = await control.manager("Status")
        return str(text)

    status = msgspec.json.decode(with_manager(options, look), type=figures.Status)
    print(as_json(status) if options.json else printable(as_text(status), keep=LINES))
    return 0


def as_text(status: figures.Status) -> str:
    return generate_latest(figures.registry(lambda: status)).decode().rstrip("\n")


def as_json(status: figures.Status) -> str:
    metrics = figures.registry(lambda: status).collect()
    samples = [sample for metric in metrics for sample in metric.samples]
    return json.dumps([{"name": each.name, "labels": each.labels, "value": each.value} for each in samples])


# One request


class Handler(MetricsHandler):
    """The library's own, which says nothing of this program and has but one page. Set `registry`."""

    timeout = REQUEST_SEC
    server_version, sys_version = "agentctl", ""

    def do_GET(self) -> None:
        if self.path.partition("?")[0] != "/metrics":
            self.send_error(404)
            return
        try:
            super().do_GET()
        except AgentdError as error:
            print(complaint(error.message), file=sys.stderr)
            self.send_error(503)


def answer(paths: Paths) -> int:
    """Errors: InvalidArgs where standard input is no connection."""
    handler = Handler.factory(figures.registry(lambda: _status(paths)))
    signal.signal(signal.SIGALRM, _too_late)
    with _connection() as sock:
        signal.setitimer(signal.ITIMER_REAL, REQUEST_SEC)
        try:
            handler(sock, ("", 0), None)
        except (ConnectionError, TimeoutError):
            pass  # whoever asked has gone, or does not read: there is nobody to tell
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
    return 0


def _connection() -> socket.socket:
    try:
        return socket.socket(fileno=os.dup(sys.stdin.fileno()))
    except OSError:
        raise InvalidArgs(
            "standard input is no connection: metrics --http is what agentd-metrics@.service runs; "
            "enable agentd-metrics.socket for it, or leave --http out"
        ) from None


def _too_late(number: int, frame: FrameType | None) -> None:
    """The handler takes it for a timeout of the socket, and hangs up."""
    raise TimeoutError


def _status(paths: Paths) -> figures.Status | None:
    """None where no manager answers. Raises its error."""
    try:
        text = asyncio.run(_ask(paths))
    except BusError as error:
        if error.name.startswith((*ABSENT, *GONE)):
            return None
        raise
    return None if text is None else msgspec.json.decode(text, type=figures.Status)


async def _ask(paths: Paths) -> str | None:
    async with await Bus.connect(paths.bus_address, timeout=STATUS_SEC) as bus:
        if not await bus.has_owner(NAME):
            return None
        [text] = await bus.call(NAME, ROOT, MANAGER, "Status", timeout=STATUS_SEC)
        return str(text)
