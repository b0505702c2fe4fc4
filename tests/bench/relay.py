# SPDX-License-Identifier: Apache-2.0
"""`make bench`, first table: round trips and updates through agentd, beside the limits of the machine.

The same client and the same agent in every row, one after the other in one run; each figure is the median
of several rounds taken in turns, so that a machine whose speed drifts treats all rows alike. Exits with 1
where a goal is missed.
"""

import contextlib
import statistics
import sys
import tempfile
from pathlib import Path

from ways import AGENT, Wire, agentd, over_pipes, over_socket, set_deadline, through

KEEPING = "agentd, with the store"
"""Where a turn takes the time in which a disk writes twice, one after the other."""
ROUNDS = 7
TRIPS = 400
UPDATE_BYTES = 250
ROUND_TRIP_GOAL, RATE_GOAL = 1.25, 0.30


def measure(ways: dict[str, Wire], heavy: dict[str, int]) -> dict[str, tuple[float, float]]:
    """Median seconds of a round trip and updates a second, for every way."""
    trips: dict[str, list[float]] = {name: [] for name in ways}
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(ROUNDS):
        for name, wire in ways.items():
            trips[name] += wire.round_trips(TRIPS)
            rates[name].append(wire.rate(heavy[name], UPDATE_BYTES))
    return {name: (statistics.median(trips[name]), statistics.median(rates[name])) for name in ways}


def show(figures: dict[str, tuple[float, float]], limit: str) -> None:
    trip_of_limit, rate_of_limit = figures[limit]
    print(f"{'':38}{'round trip':>12}{'':8}{'updates of ' + str(UPDATE_BYTES) + ' B':>22}")
    for name, (trip, rate) in figures.items():
        times, share = trip / trip_of_limit, 100 * rate / rate_of_limit
        print(f"{name:38}{trip * 1e6:9.1f} µs{times:7.2f}x{rate:18,.0f}/s{share:7.1f} %")


def main() -> int:
    set_deadline()
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        (keeps := folder / "keeps").mkdir()
        daemon = stack.enter_context(agentd(folder, isolation="session"))  # one agent a row
        keeper = stack.enter_context(agentd(keeps, transcripts="full"))
        door = ["--runtime-dir", str(daemon.runtime_dir), "attach", "here"]
        connector = [sys.executable, "-m", "agentd.ctl", *door]
        ways = {
            "direct, over a pipe": stack.enter_context(over_pipes(AGENT)),
            "raw byte pump": stack.enter_context(through("pump.py", folder)),
            "agentd": stack.enter_context(over_socket(daemon.runtime_dir / "agentd.sock")),
            "agentd, through agentctl attach": stack.enter_context(over_pipes(connector)),
            KEEPING: stack.enter_context(over_socket(keeper.runtime_dir / "agentd.sock")),
            "parse and re-serialise (json)": stack.enter_context(through("reserialise.py", folder)),
            "the Python SDK's typed connection": stack.enter_context(through("typed.py", folder)),
        }
        for name, wire in ways.items():
            if name in ("agentd", KEEPING):
                wire.attach()
            wire.initialize()
            wire.open()
        quick = 400_000
        parts = {"SDK": 100, "json": 8, "store": 4}
        heavy = {name: quick // next((n for word, n in parts.items() if word in name), 1) for name in ways}
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
