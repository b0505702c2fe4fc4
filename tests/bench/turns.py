# SPDX-License-Identifier: Apache-2.0
"""Turns a second with and without the store: one session with a turn after the other, and sixteen."""

import contextlib
import re
import statistics
import tempfile
import time
from pathlib import Path

from ways import AGENT, SDK_AGENT, Wire, agentd, client

KINDS = ("off", "metadata", "full")
AGENTS = {"quick": AGENT, "the SDK's": SDK_AGENT}
SHAPES = ((1, 20), (16, 20), (16, 100))
"""How many sessions have a turn at the same time, and how many updates each turn has."""
BYTES = 250
TURNS, ROUNDS = 480, 3
GOAL = 0.80
"""Of turns a second without the store: for an agent as people write them, and turns of a hundred updates in
sixteen sessions. The rest of the table shows what two writes a turn cost where there is little besides."""
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
    missed = []
    print(f"\nTurns a second, of {TURNS} in a round; medians of {ROUNDS} rounds")
    print(f"{'agent, sessions, updates':28}" + "".join(f"{kind:>22}" for kind in KINDS))
    for name, command in AGENTS.items():
        rates = measured(command)
        for shape in SHAPES:
            medians = [statistics.median(rates[kind, shape]) for kind in KINDS]
            shares = "".join(f"{each:13,.0f} ({each / medians[0]:5.0%})" for each in medians)
            print(f"{name:12} {shape[0]:6} {shape[1]:6}   {shares}")
            if command is SDK_AGENT and shape == SHAPES[-1] and medians[-1] < GOAL * medians[0]:
                missed.append(f"turns: {shape}, with the store {medians[-1] / medians[0]:.0%}")
    return missed


def measured(command: list[str]) -> dict[tuple[str, tuple[int, int]], list[float]]:
    """The rates of each kind of store and each shape, taken in turns."""
    rates: dict[tuple[str, tuple[int, int]], list[float]] = {}
    with contextlib.ExitStack() as stack:
        wires: dict[str, tuple[Wire, list[str]]] = {}
        for kind in KINDS:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            daemon = stack.enter_context(agentd(folder, transcripts=kind, agent=command))
            wire = stack.enter_context(client(daemon))
            wires[kind] = wire, [wire.open() for _ in range(16)]
        for _ in range(ROUNDS):
            for shape in SHAPES:
                for kind, (wire, sessions) in wires.items():
                    rates.setdefault((kind, shape), []).append(rate(wire, sessions[: shape[0]], shape[1]))
    return rates


if __name__ == "__main__":
    raise SystemExit("\n".join(main()) or 0)
