# SPDX-License-Identifier: Apache-2.0
"""Minutes of random kills, and of restarts of the manager, under eight clients: nothing may be lost.

Exits with 1 where anything was; the folder with all logs is kept then.
"""

import argparse
import shutil
import sys
import tempfile
import time
from pathlib import Path

from support.trial import Trial

MOST = 50
"""Violations that are told one by one."""


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=300.0, help="of random kills")
    parser.add_argument("--restarts", type=float, default=60.0, help="seconds of restarts every 2 s")
    parser.add_argument("--seed", type=int, default=1)
    return parser.parse_args()


def table(trial: Trial) -> list[tuple[str, object]]:
    """What there was, line by line."""
    outcomes, killed = trial.ledger.outcomes, trial.killer.killed
    return [
        ("prompts", len(trial.ledger.prompts)),
        *((f"  {outcome}", count) for outcome, count in outcomes.most_common()),
        ("killed", killed.total()),
        *((f"  {kind}", count) for kind, count in killed.most_common()),
        ("connections tried again", trial.ledger.refused.total()),
        *((f"  {what}", count) for what, count in trial.ledger.refused.most_common()),
        ("slowest answer, s", f"{trial.ledger.slowest:.2f}"),
        *((f"open in {name}", opened(trial, name)) for name in trial.before.open),
        ("violations", len(trial.ledger.problems)),
    ]


def opened(trial: Trial, name: str) -> str:
    """A process's descriptors and threads, before and after."""
    before, after = (
        f"{each.open[name].total()}/{each.threads[name]}" for each in (trial.before, trial.after)
    )
    return f"{before} {after}"


def main() -> int:
    asked = options()
    folder, began = Path(tempfile.mkdtemp(prefix="soak")), time.monotonic()
    with Trial(folder, asked.seed) as trial:
        trial.restarts(asked.restarts)
        trial.random_faults(asked.seconds)
        trial.close()
    print(f"seed {asked.seed}, {time.monotonic() - began:.0f} s")
    for name, value in table(trial):
        print(f"{name:32}{value:>12}")
    for problem in trial.ledger.problems[:MOST]:
        print(f"VIOLATION: {problem}")
    if trial.ledger.problems:
        print(f"see: {folder}")
        return 1
    shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
