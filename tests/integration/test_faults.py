# SPDX-License-Identifier: Apache-2.0
"""Whatever is killed, whenever: nothing is lost, nothing is done twice, nothing is left behind.

`tests/soak.py` does the same for minutes.
"""

from pathlib import Path

from support.faults import Trial

SEED = 7


def test_clients_lose_nothing_over_whatever_is_killed(tmp_path: Path) -> None:
    with Trial(tmp_path, SEED) as trial:
        trial.random_faults(12)
        trial.restarts(6)
        trial.close()
        assert not trial.ledger.problems, "\n".join(trial.ledger.problems)
        assert len(trial.ledger.prompts) > 100 and trial.killer.killed.total() > 10
