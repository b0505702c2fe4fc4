# SPDX-License-Identifier: Apache-2.0
"""Whatever is killed, whenever: nothing is lost, nothing is done twice, nothing is left behind.

`tests/soak.py` does the same for minutes. The other tests see to it that what is wrong is noticed.
"""

import random
import time
from pathlib import Path
from typing import Any

import pytest

from support.faults import plan
from support.ledger import Ledger, Prompt, Shown, View
from support.trial import Trial

SEED = 7


def test_clients_lose_nothing_over_whatever_is_killed(tmp_path: Path) -> None:
    with Trial(tmp_path, SEED) as trial:
        trial.restarts(6)
        trial.random_faults(12)
        trial.close()
        assert not trial.ledger.problems, "\n".join(trial.ledger.problems)
        assert len(trial.ledger.prompts) > 100 and trial.killer.killed.total() > 10


# What is killed


def test_plan_follows_from_the_seed_and_spares_a_worker_that_would_be_given_up() -> None:
    blows = plan(random.Random("a"), 300)
    assert blows == plan(random.Random("a"), 300) != plan(random.Random("b"), 300)
    ends = [each.at for each in blows if (each.kind, each.container) == ("worker", "alpha")]
    assert len(ends) > 5
    assert all(later - earlier > 60 for earlier, later in zip(ends, ends[4:], strict=False))


# What is noticed


def ledger(outcome: str = "", *faults: str) -> Ledger:
    """One with a prompt t-1 for two chunks, and t-2 behind it; the first has ended so after these faults."""
    made = Ledger()
    for token in ("t-1", "t-2"):
        made.sent(Prompt(token, "alpha", "s", 2, time.monotonic()))
    for each in faults:
        made.fault(each, "alpha")
    made.prompts["t-1"].outcome, made.prompts["t-1"].answered = outcome, time.monotonic()
    made.prompts["t-2"].orphaned = True
    return made


def said(token: str) -> dict[str, Any]:
    return {"sessionUpdate": "user_message_chunk", "content": {"text": f"tally {token} 0 2 0"}}


def chunk(text: str) -> dict[str, Any]:
    return {"sessionUpdate": "agent_message_chunk", "content": {"text": text}}


ENDED = {"sessionUpdate": "session_info_update", "_meta": {"agentd.turn": {"outcome": "end_turn"}}}
WHOLE = [said("t-1"), chunk("t-1:0"), chunk("t-1:1"), ENDED]


@pytest.mark.parametrize(
    ("updates", "word"),
    [
        (WHOLE, ""),
        ([said("t-1"), chunk("t-1:1")], "chunk 1 came where 0 was next"),
        ([*WHOLE[:2], chunk("t-1:0")], "chunk 0 came where 1 was next"),
        ([*WHOLE, chunk("t-1:2")], "came after its end"),
        ([*WHOLE, said("t-1")], "shown twice"),
        ([said("t-1"), said("t-2")], "before the end of t-1"),
        ([chunk("t-1:0")], "not announced"),
    ],
)
def test_view_notices_what_is_out_of_order(updates: list[dict[str, Any]], word: str) -> None:
    view = View(ledger(), "c", "alpha")
    for each in updates:
        view.take(each)
    assert (word in view.ledger.problems[0]) if word else not view.ledger.problems


@pytest.mark.parametrize(
    ("outcome", "faults", "wrong"),
    [
        ("end_turn", [], 0),
        ("", [], 1),
        ("interrupted", ["worker"], 0),
        ("interrupted", ["agent", "manager"], 1),
        ("agent_exited", ["agent"], 0),
        ("agent_exited", ["manager", "bus"], 1),
        ("cancelled", ["worker"], 1),
    ],
)
def test_every_prompt_needs_an_answer_and_every_error_a_fault(
    outcome: str, faults: list[str], wrong: int
) -> None:
    kept = ledger(outcome, *faults)
    kept.judge_answers()
    assert len(kept.problems) == wrong


@pytest.mark.parametrize(
    ("runs", "wrong"), [(["t-1"], 0), ([], 1), (["t-1", "t-1"], 1), (["t-2", "t-1"], 1)]
)
def test_prompt_with_a_result_was_run_once_and_in_order(runs: list[str], wrong: int) -> None:
    kept = ledger("end_turn")
    kept.judge_runs(runs)
    assert len(kept.problems) == wrong


@pytest.mark.parametrize(
    ("outcome", "turn", "wrong"),
    [
        ("end_turn", Shown(2, "end_turn", ""), 0),
        ("end_turn", Shown(1, "end_turn", ""), 1),
        ("end_turn", None, 1),
        ("interrupted", Shown(2, "end_turn", ""), 1),
        ("interrupted", Shown(0, "interrupted", "interrupted: this prompt was not run"), 1),
        ("interrupted", None, 0),
    ],
)
def test_what_is_kept_is_what_was_answered(outcome: str, turn: Shown | None, wrong: int) -> None:
    kept = ledger(outcome)
    kept.judge_replay("s", {"t-1": turn} if turn else {}, {"t-1"})
    assert len(kept.problems) == wrong


def test_a_session_in_which_nothing_ran_need_not_be_there() -> None:
    kept = ledger("interrupted")
    assert kept.used(["s", "made and left"], {"t-1"}) == ["s"]
    assert kept.used(["s"], {"t-3"}) == []
