# SPDX-License-Identifier: Apache-2.0
"""Turns a second with and without the store: one session with a turn after the other, and sixteen."""

import contextlib
import re
import statistics
import tempfile
import time
from pathlib import Path

from ways import Wire, agentd, client

KINDS = ("off", "metadata", "full")
SHAPES = ((1, 0), (1, 20), (16, 0), (16, 20), (16, 100))
"""How many sessions have a turn at the same time, and how many updates each turn has."""
BYTES = 250
TURNS, ROUNDS = 480, 5
GOAL = 0.80
ENDED = re.compile(rb'"id": ?(\d+)')
"""No update has an id."""


def rate(wire: Wire, sessions: list[str], updates: int) -> float:
    """Turns a second in all; every session begins its next turn when it has ended the one before."""
    text = f"{updates} {BYTES}" if updates else ""
    began, begun, partial = time.perf_counter(), 0, b""
    running: dict[int, str] = {}
    for session in sessions:
        running[wire.prompt(text, session)] = session
        begun += 1
    while running:
        data = partial + wire.buffer[: wire.take()]
        whole, _, partial = data.rpartition(b"\n")
        for number in ENDED.findall(whole):
            session = running.pop(int(number))
            if begun < TURNS:
                running[wire.prompt(text, session)] = session
                begun += 1
    return TURNS / (time.perf_counter() - began)


def main() -> list[str]:
    """Print the table and return the goals that were missed."""
    rates: dict[tuple[str, tuple[int, int]], list[float]] = {}
    with contextlib.ExitStack() as stack:
        wires: dict[str, tuple[Wire, list[str]]] = {}
        for kind in KINDS:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            daemon = stack.enter_context(agentd(folder, transcripts=kind))
            wire = stack.enter_context(client(daemon))
            wires[kind] = wire, [wire.open() for _ in range(16)]
        for _ in range(ROUNDS):
            for shape in SHAPES:
                for kind, (wire, sessions) in wires.items():
                    rates.setdefault((kind, shape), []).append(rate(wire, sessions[: shape[0]], shape[1]))
    print(f"\nTurns a second, of {TURNS} in a round; medians of {ROUNDS} rounds")
    print(f"{'sessions, updates':22}" + "".join(f"{kind:>22}" for kind in KINDS))
    missed = []
    for shape in SHAPES:
        medians = [statistics.median(rates[kind, shape]) for kind in KINDS]
        print(
            f"{shape[0]:8} x {shape[1]:8}   "
            + "".join(f"{each:13,.0f} ({each / medians[0]:5.0%})" for each in medians)
        )
        if shape == SHAPES[-1] and medians[-1] < GOAL * medians[0]:
            missed.append(f"turns: with the store {medians[-1] / medians[0]:.0%} of those without")
    return missed


if __name__ == "__main__":
    raise SystemExit("\n".join(main()))
