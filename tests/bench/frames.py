# SPDX-License-Identifier: Apache-2.0
"""Frames of 250 B to 10 MiB through agentd, the raw pump, and the Python SDK's typed connection."""

import contextlib
import statistics
import tempfile
from pathlib import Path

from ways import AGENT, Wire, agentd, client, over_pipes, through

DIRECT, PUMP, AGENTD, TYPED = "direct, over a pipe", "raw byte pump", "agentd", "the SDK's typed connection"
COUNTS = {250: (200_000, 4_000), 64 << 10: (1_600, 200), 1 << 20: (100, 20), 10 << 20: (12, 4)}
"""For each size how many frames in a turn, and how many through the typed connection."""
ROUNDS = 5
TRIPS, TRIP_ROUNDS = 20, 60
"""Few trips at a time: how fast an idle processor wakes up depends on what else the machine does."""
TIMES_GOAL, LATENCY_GOAL = 10.0, 0.5


def measure(ways: dict[str, Wire]) -> tuple[dict[str, float], dict[tuple[int, str], float]]:
    """Median seconds of a round trip by way, and median messages a second by size and way."""
    trips: dict[str, list[float]] = {name: [] for name in ways}
    rates: dict[tuple[int, str], list[float]] = {(size, name): [] for size in COUNTS for name in ways}
    for _ in range(TRIP_ROUNDS):
        for name, wire in ways.items():
            trips[name] += wire.round_trips(TRIPS)
    for _ in range(ROUNDS):
        for size, name in rates:
            count = COUNTS[size][name == TYPED]
            rates[size, name].append(ways[name].rate(count, size))
    median = statistics.median
    return {name: median(each) for name, each in trips.items()}, {
        key: median(each) for key, each in rates.items()
    }


def show(trips: dict[str, float], rates: dict[tuple[int, str], float]) -> None:
    print(f"{'frames, 1 client':32}{'messages':>14}{'':15}of the pump")
    for (size, name), rate in rates.items():
        share = rate / rates[size, PUMP]
        row = f"{_named(size)}, {name}"
        print(f"{row:32}{rate:12,.1f}/s{rate * size / 1e6:9.1f} MB/s{share:10.1%}")
    for name, trip in trips.items():
        print(f"{'round trip, ' + name:38}{trip * 1e6:9.1f} µs ({(trip - trips[DIRECT]) * 1e6:+.1f})")


def _named(size: int) -> str:
    for unit, name in ((1 << 20, "MiB"), (1 << 10, "KiB")):
        if size >= unit:
            return f"{size // unit} {name}"
    return f"{size} B"


def missed(trips: dict[str, float], rates: dict[tuple[int, str], float]) -> list[str]:
    """Each goal in words and figures, as far as it was missed."""
    found = []
    size = min(COUNTS)
    times = rates[size, AGENTD] / rates[size, TYPED]
    if times < TIMES_GOAL:
        found.append(f"{times:.1f} times the typed connection's messages a second, not {TIMES_GOAL:g}")
    added, typed = (trips[name] - trips[DIRECT] for name in (AGENTD, TYPED))
    if added > LATENCY_GOAL * typed:
        found.append(f"{added / typed:.0%} of the typed connection's added latency, not {LATENCY_GOAL:.0%}")
    return found


def main() -> list[str]:
    """Print the table; the goals that were missed."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        daemon = stack.enter_context(agentd(folder))
        ways = {
            DIRECT: stack.enter_context(over_pipes(AGENT)),
            PUMP: stack.enter_context(through("pump.py", folder)),
            AGENTD: stack.enter_context(client(daemon)),
            TYPED: stack.enter_context(through("typed.py", folder)),
        }
        for name, wire in ways.items():
            if name != AGENTD:
                wire.initialize()
            wire.open()
        trips, rates = measure(ways)
    show(trips, rates)
    return missed(trips, rates)
