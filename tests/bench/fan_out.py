# SPDX-License-Identifier: Apache-2.0
"""Updates of one session to 1, 4 and 16 clients. A turn is shorter than what makes a client slow enough to
be cut off, and the next one begins when everybody has it all: so all clients get every update."""

import contextlib
import statistics
import tempfile
import time
from pathlib import Path

from busy import Busy
from ways import Wire, agentd, client, collect, through

CROWDS = (1, 4, 16)
UPDATES, BYTES, TURNS = 28_000, 250, 3
ROUNDS = 7
OWN, OTHERS = 1, 2
"""Lines besides the updates: the answer to one's own prompt; the prompt and the end of another's turn."""


def turns(crowd: list[Wire]) -> float:
    """Updates a second to each, over some turns of the first one's."""
    began = time.perf_counter()
    for _ in range(TURNS):
        crowd[0].prompt(f"{UPDATES} {BYTES}")
        collect({wire: UPDATES + (OWN if wire is crowd[0] else OTHERS) for wire in crowd})
    return TURNS * UPDATES / (time.perf_counter() - began)


def main() -> list[str]:
    """Print the table; there is no goal in it."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        daemon = stack.enter_context(agentd(folder, *(f"c{size}" for size in CROWDS)))
        pump = stack.enter_context(through("pump.py", folder))
        pump.initialize()
        pump.open()
        rows, busy = {"raw byte pump, 1": [pump]}, {"raw byte pump, 1": Busy({})}
        for size in CROWDS:
            known = set(daemon.workers())
            crowd = [stack.enter_context(client(daemon, f"c{size}")) for _ in range(size)]
            session = crowd[0].open()
            for wire in crowd[1:]:
                wire.join(session)
            (worker,) = set(daemon.workers()) - known
            rows[f"agentd, {size}"], busy[f"agentd, {size}"] = crowd, Busy({"worker": worker})
        rates: dict[str, list[float]] = {name: [] for name in rows}
        for _ in range(ROUNDS):
            for name, crowd in rows.items():
                with busy[name].watch():
                    rates[name].append(turns(crowd))
    print(f"{f'clients of one session, {BYTES} B':32}{'each':>14}{'in all':>16}{'':12}share of a CPU")
    for name, crowd in rows.items():
        rate = statistics.median(rates[name])
        in_all = rate * len(crowd)
        print(f"{name:32}{rate:12,.0f}/s{in_all:14,.0f}/s{in_all * BYTES / 1e6:7.0f} MB/s  {busy[name]}")
    return []
