# SPDX-License-Identifier: Apache-2.0
"""The memory of a worker over the traffic of a day, as fast as it goes: sessions and clients come and go."""

import tempfile
from pathlib import Path

from footprint import memory
from ways import Wire, agentd, client, collect

TURNS_A_DAY = 2880
"""One every 30 seconds."""
UPDATES, BYTES = 100, 250
TURNS_A_SESSION, TURNS_A_CLIENT = 40, 10
LOOKS = 12
GOAL = 0.10


def work(wires: list[Wire], turns: int) -> None:
    """Turns in the session of the first, while the others watch."""
    for _ in range(turns):
        wires[0].prompt(f"{UPDATES} {BYTES}")
        # who watches sees prompt, updates and end of the turn, who has asked sees updates and the answer
        collect({wires[0]: UPDATES + 1} | dict.fromkeys(wires[1:], UPDATES + 2))


def main() -> list[str]:
    """Print the table and return the goals that were missed."""
    found: list[float] = []
    with tempfile.TemporaryDirectory() as name, agentd(Path(name), transcripts="full") as daemon:
        done = 0
        while done < TURNS_A_DAY:
            with client(daemon) as first:
                session = first.open()
                for _ in range(TURNS_A_SESSION // TURNS_A_CLIENT):
                    with client(daemon) as other:
                        other.join(session, "session/resume")
                        work([first, other], TURNS_A_CLIENT)
                    done += TURNS_A_CLIENT
            if done // (TURNS_A_DAY // LOOKS) > len(found):
                (worker,) = daemon.workers()
                found.append(memory(worker)[0])
    print(f"\nPrivate memory of a worker over {TURNS_A_DAY:,} turns of {UPDATES} updates, MiB")
    print("  ".join(f"{each:.1f}" for each in found))
    middle = found[len(found) // 2]
    print(f"from the middle to the end: {found[-1] / middle - 1:+.1%}")
    return [f"memory: grew by {found[-1] / middle - 1:.0%}"] if found[-1] > (1 + GOAL) * middle else []


if __name__ == "__main__":
    raise SystemExit("\n".join(main()) or 0)
