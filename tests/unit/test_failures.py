# SPDX-License-Identifier: Apache-2.0

import pytest

from agentd.manager.failures import FIRST_PAUSE, MOST, WITHIN_SEC, Failures


def failed(*times: float) -> Failures:
    failures = Failures()
    for at in times:
        failures.add(at)
    return failures


def test_the_pause_doubles_with_every_failure() -> None:
    pauses = [failed(*([100.0] * count)).pause(100.0) for count in range(MOST)]
    assert pauses == [0.0] + [FIRST_PAUSE * 2**number for number in range(MOST - 1)]


def test_time_that_has_passed_is_part_of_the_pause() -> None:
    assert failed(10.0).pause(10.2) == pytest.approx(FIRST_PAUSE - 0.2)
    assert failed(10.0).pause(20.0) == 0.0


def test_so_many_within_a_minute_are_too_many_and_stay_so() -> None:
    failures = failed(0, 1, 2, 3)
    assert not failures.too_many
    failures.add(WITHIN_SEC)
    assert failures.too_many
    failures.add(10 * WITHIN_SEC)
    assert failures.too_many


def test_one_that_served_for_long_starts_afresh() -> None:
    failures = failed(0, 1, 2, 3)
    failures.add(WITHIN_SEC + 4)
    assert not failures.too_many
    assert failures.pause(WITHIN_SEC + 4) == FIRST_PAUSE
