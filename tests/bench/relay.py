# SPDX-License-Identifier: Apache-2.0
"""`make bench`, first table: round trips and updates through agentd, beside the limits of the machine.

The same client and the same agent in every row, one after the other in one run; each figure is the median
of several rounds taken in turns, so that a machine whose speed drifts treats all rows alike. Exits with 1
where a goal is missed.
"""

import contextlib
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from support.embedded import Embedded, eventually

HERE = Path(__file__).parent
AGENT = [sys.executable, str(HERE.parent / "agents" / "fast.py")]
ROUNDS = 7
TRIPS = 400
UPDATE_BYTES = 250
ROUND_TRIP_GOAL, RATE_GOAL = 1.25, 0.30


class Wire:
    """A connected client, by whatever way: sends lines and counts those that come."""

    def __init__(self, read: Callable[[int], bytes], write: Callable[[bytes], object]) -> None:
        self._read = read
        self._write = write
        self._number = 0

    def call(self, method: str, params: dict[str, object]) -> bytes:
        """Send a request and return its answer's line, which must be the next."""
        self._number += 1
        self._write(self._request(method, params))
        data = self._read(1 << 18)
        while not data.endswith(b"\n"):
            data += self._read(1 << 18)
        return data

    def open(self, *, attach: bool) -> None:
        if attach:
            assert b'"result"' in self.call("_agentd/attach", {"container": "here"})
        self.call("initialize", {"protocolVersion": 1, "clientCapabilities": {}})
        self.call("session/new", {"cwd": "/", "mcpServers": []})

    def round_trips(self, count: int) -> list[float]:
        """Seconds of each of some turns that end at once."""
        taken = []
        for _ in range(count):
            began = time.perf_counter()
            self.call("session/prompt", prompt(""))
            taken.append(time.perf_counter() - began)
        return taken

    def rate(self, count: int) -> float:
        """Updates a second, over one turn that streams `count` of them."""
        self._number += 1
        began = time.perf_counter()
        self._write(self._request("session/prompt", prompt(f"{count} {UPDATE_BYTES}")))
        lines = 0
        while lines <= count:
            data = self._read(1 << 18)
            assert data, "the connection ended"
            lines += data.count(b"\n")
        return count / (time.perf_counter() - began)

    def _request(self, method: str, params: dict[str, object]) -> bytes:
        frame = {"jsonrpc": "2.0", "id": self._number, "method": method, "params": params}
        return json.dumps(frame).encode() + b"\n"


def prompt(text: str) -> dict[str, object]:
    return {"sessionId": "s", "prompt": [{"type": "text", "text": text}]}


# The ways


@contextlib.contextmanager
def over_pipes(command: list[str], **environment: str) -> Iterator[Wire]:
    """A child's stdin and stdout."""
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={**os.environ, **environment}
    ) as child:
        assert child.stdin is not None and child.stdout is not None
        read, write = child.stdout.fileno(), child.stdin.fileno()
        yield Wire(lambda size: os.read(read, size), lambda data: os.write(write, data))
        child.stdin.close()


@contextlib.contextmanager
def over_socket(path: Path) -> Iterator[Wire]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.connect(str(path))
        yield Wire(sock.recv, sock.sendall)


@contextlib.contextmanager
def through(program: str, folder: Path) -> Iterator[Wire]:
    """One of the proxies beside this file."""
    path = folder / program
    proxy = subprocess.Popen([sys.executable, "-W", "ignore", str(HERE / program), str(path), *AGENT])
    try:
        eventually(path.exists, f"{program} listens")
        with over_socket(path) as wire:
            yield wire
    finally:
        proxy.kill()
        proxy.wait()


@contextlib.contextmanager
def agentd(folder: Path) -> Iterator[Embedded]:
    command = ", ".join(f"'{word}'" for word in AGENT)
    text = f'default_agent = "fast"\nruntimes = []\n[agents.fast]\ncommand = [{command}]\n'
    daemon = Embedded(folder, text + f'[containers.here]\nruntime = "host"\ndirectory = "{folder}"\n')
    daemon.start()
    try:
        yield daemon
    finally:
        daemon.clean_up()


# The table


def measure(ways: dict[str, Wire], heavy: dict[str, int]) -> dict[str, tuple[float, float]]:
    """Median seconds of a round trip and updates a second, for every way."""
    trips: dict[str, list[float]] = {name: [] for name in ways}
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(ROUNDS):
        for name, wire in ways.items():
            trips[name] += wire.round_trips(TRIPS)
            rates[name].append(wire.rate(heavy[name]))
    return {name: (statistics.median(trips[name]), statistics.median(rates[name])) for name in ways}


def show(figures: dict[str, tuple[float, float]], limit: str) -> None:
    trip_of_limit, rate_of_limit = figures[limit]
    print(f"{'':38}{'round trip':>12}{'':8}{'updates of ' + str(UPDATE_BYTES) + ' B':>22}")
    for name, (trip, rate) in figures.items():
        times, share = trip / trip_of_limit, 100 * rate / rate_of_limit
        print(f"{name:38}{trip * 1e6:9.1f} µs{times:7.2f}x{rate:18,.0f}/s{share:7.1f} %")


def main() -> int:
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        daemon = stack.enter_context(agentd(folder))
        door = ["--runtime-dir", str(daemon.runtime_dir), "attach", "here"]
        connector = [sys.executable, "-m", "agentd.ctl", *door]
        ways = {
            "direct, over a pipe": stack.enter_context(over_pipes(AGENT)),
            "raw byte pump": stack.enter_context(through("pump.py", folder)),
            "agentd": stack.enter_context(over_socket(daemon.runtime_dir / "agentd.sock")),
            "agentd, through agentctl attach": stack.enter_context(over_pipes(connector)),
            "parse and re-serialise (json)": stack.enter_context(through("reserialise.py", folder)),
            "the Python SDK's typed connection": stack.enter_context(through("typed.py", folder)),
        }
        for name, wire in ways.items():
            wire.open(attach=name == "agentd")
        quick, slow = 400_000, 4_000
        heavy = {name: slow if "SDK" in name else quick // 8 if "json" in name else quick for name in ways}
        figures = measure(ways, heavy)
    show(figures, "raw byte pump")
    (trip, rate), (trip_of_pump, rate_of_pump) = figures["agentd"], figures["raw byte pump"]
    met = trip <= ROUND_TRIP_GOAL * trip_of_pump and rate >= RATE_GOAL * rate_of_pump
    print(
        f"goals: round trip at most {ROUND_TRIP_GOAL}x, rate at least {RATE_GOAL:.0%}: "
        + ("met" if met else "MISSED")
    )
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
