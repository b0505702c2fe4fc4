# SPDX-License-Identifier: Apache-2.0
"""1, 16 and 64 sessions of one connection and one agent process, all with a turn at the same time: no two
neighbouring updates are of the same session."""

import contextlib
import statistics
import tempfile
import time
from pathlib import Path

from busy import Busy
from ways import Wire, agentd, client, collect, through

COUNTS = (1, 16, 64)
UPDATES, BYTES = 128_000, 250
TRIPS = 256
ROUNDS = 5


def stream(wire: Wire, sessions: list[str]) -> float:
    """Updates a second in all, with a turn in every session."""
    began = time.perf_counter()
    for session in sessions:
        wire.prompt(f"{UPDATES // len(sessions)} {BYTES}", session)
    collect({wire: UPDATES + len(sessions)})
    return UPDATES / (time.perf_counter() - began)


def main() -> list[str]:
    """Print the table; there is no goal in it."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        containers = [f"c{count}" for count in COUNTS]
        daemon = stack.enter_context(agentd(folder, *containers, sessions=max(COUNTS)))
        rows: dict[str, tuple[Wire, list[str]]] = {}
        busy: dict[str, Busy] = {}
        for count in COUNTS:
            (pumped := folder / f"pump{count}").mkdir()
            wires = {"raw byte pump": stack.enter_context(through("pump.py", pumped))}
            wires["raw byte pump"].initialize()
            known = set(daemon.workers())
            wires["agentd"] = stack.enter_context(client(daemon, f"c{count}"))
            (worker,) = set(daemon.workers()) - known
            for name, wire in wires.items():
                row = f"{name}, {count}"
                rows[row] = (wire, [wire.open() for _ in range(count)])
                busy[row] = Busy({"worker": worker} if name == "agentd" else {})
        rates: dict[str, list[float]] = {row: [] for row in rows}
        trips: dict[str, list[float]] = {row: [] for row in rows}
        for _ in range(ROUNDS):
            for row, (wire, sessions) in rows.items():
                trips[row] += wire.round_trips(TRIPS, sessions)
                with busy[row].watch():
                    rates[row].append(stream(wire, sessions))
    print(f"{f'sessions of an agent, {BYTES} B':32}{'round trip':>12}{'in all':>17}{'':12}share of a CPU")
    for row in rows:
        trip, rate = statistics.median(trips[row]) * 1e6, statistics.median(rates[row])
        print(f"{row:32}{trip:9.1f} µs{rate:15,.0f}/s{rate * BYTES / 1e6:7.0f} MB/s  {busy[row]}")
    return []
