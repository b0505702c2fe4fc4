# SPDX-License-Identifier: Apache-2.0

import pytest

from agentd.errors import AgentdError, TooManyRequests
from agentd.worker.calls import MOST, Call, Calls


class Nobody:
    """An asker, told apart from others by identity alone, as clients are."""

    def answer(self, call: Call, frame: bytes) -> None:
        raise AssertionError

    def fail(self, call: Call, error: AgentdError) -> None:
        raise AssertionError


ONE, TWO = Nobody(), Nobody()


def call(asker: Nobody = ONE, raw_id: bytes = b"0", owner: object = None) -> Call:
    return Call(asker, raw_id, "m", owner=owner or asker)


def test_every_call_has_an_id_of_its_own_whatever_the_askers_use() -> None:
    calls = Calls()
    issued = [calls.issue(call(asker)) for asker in (ONE, TWO, ONE)]
    assert len(set(issued)) == len(calls) == 3
    assert all(each.isdigit() for each in issued)


def test_an_answer_settles_its_call_once() -> None:
    calls = Calls()
    one, two = call(raw_id=b"1"), call(raw_id=b"2")
    first, second = calls.issue(one), calls.issue(two)
    assert calls.settle(second) is two
    assert calls.settle(second) is None
    assert calls.settle(first) is one
    assert len(calls) == 0


def test_an_id_is_not_used_again() -> None:
    calls = Calls()
    first = calls.issue(call())
    calls.settle(first)
    assert calls.issue(call()) != first


@pytest.mark.parametrize("raw_id", [b'"1"', b"null", b"1.0", b"-1", b"", b"2", b"1e0", b"[1]", b"9" * 30])
def test_an_answer_nobody_waits_for_settles_nothing(raw_id: bytes) -> None:
    calls = Calls()
    assert calls.issue(call()) == b"1"
    assert calls.settle(raw_id) is None
    assert len(calls) == 1


def test_a_call_is_found_by_its_owner_and_the_owners_id() -> None:
    calls = Calls()
    mine, theirs = calls.issue(call(TWO, b"7", owner=ONE)), calls.issue(call(ONE, b"7", owner=TWO))
    assert (calls.id_of(ONE, b"7"), calls.id_of(TWO, b"7")) == (mine, theirs)
    assert calls.id_of(ONE, b'"7"') is None
    calls.settle(mine)
    assert calls.id_of(ONE, b"7") is None


def test_a_call_is_found_by_its_id_and_stays_open() -> None:
    calls = Calls()
    one = call()
    raw_id = calls.issue(one)
    assert (calls.get(raw_id), calls.get(b"2"), calls.get(b'"1"')) == (one, None, None)
    assert calls.settle(raw_id) is one
    assert calls.get(raw_id) is None


def test_all_calls_of_one_asker_can_be_taken_out_or_all_there_are() -> None:
    calls = Calls()
    one, two, three = call(ONE, b"1"), call(TWO, b"2"), call(ONE, b"3")
    for each in (one, two, three):
        calls.issue(each)
    assert calls.settle_all(ONE) == [one, three]
    assert calls.settle_all() == [two]
    assert (calls.settle_all(), len(calls)) == ([], 0)


def test_there_is_a_bound() -> None:
    calls = Calls()
    issued = [calls.issue(call()) for _ in range(MOST)]
    with pytest.raises(TooManyRequests, match=str(MOST)):
        calls.issue(call())
    calls.settle(issued[0])
    calls.issue(call())
