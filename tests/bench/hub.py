# SPDX-License-Identifier: Apache-2.0
"""`make bench`, third table: many clients, many sessions, large frames, and a client that does not read.

Figures are medians of rounds taken in turns, with the same agent, but for what a stalled client costs: there
the highest gain of memory counts, and the best time of each turn. "share of a CPU" shows which
process is the limit. Exits with 1 where a goal is missed.
"""

import sys

import fan_out
import frames
import sessions
import stalled
from ways import set_deadline

TABLES = (fan_out, sessions, frames, stalled)
GOALS = (
    f"{frames.TIMES_GOAL:g} times the SDK's typed connection in messages a second, at most "
    f"{frames.LATENCY_GOAL:.0%} of its added latency; a stalled client adds at most 8 MiB and a frame, and "
    f"{stalled.SLOWER_GOAL:.0%} to the time of others"
)


def main() -> int:
    missed = []
    for table in TABLES:
        set_deadline()
        missed += table.main()
        print(flush=True)
    print(f"goals: {GOALS}: {'MISSED' if missed else 'met'}", *missed, sep="\n")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
