# SPDX-License-Identifier: Apache-2.0

import json
import time

import pytest

from agentd.ctl.text import ago, as_json, complaint, count, moment, since, size, span

HOUR, DAY = 3600, 86_400


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (-3, "0s"), (0.9, "0s"), (59.9, "59s"), (60, "1min"), (125, "2min 5s"), (HOUR, "1h"),
        (2.1 * HOUR, "2h 6min"),
        (DAY, "1 day"), (3 * DAY + 4 * HOUR, "3 days 4h"), (7 * DAY, "1 week"), (15 * DAY, "2 weeks 1 day"),
        (40 * DAY, "1 month 10 days"), (800 * DAY, "2 years 2 months"),
    ],
)  # fmt: skip
def test_spans_have_two_units(seconds: float, said: str) -> None:
    assert span(seconds) == said


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (-5, "0s ago"), (59.9, "59s ago"), (61, "1min ago"), (119 * 60, "1h ago"), (2 * DAY, "2 days ago"),
        (8 * DAY, "1 week ago"), (31 * DAY, "1 month ago"), (730 * DAY, "2 years ago"),
    ],
)  # fmt: skip
def test_what_is_past_has_one_unit(seconds: float, said: str) -> None:
    assert ago(seconds) == said


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (0, "0B"),
        (1023, "1023B"),
        (1024, "1.0K"),
        (1.25 * 2**30, "1.2G"),
        (2**60, "1.0E"),
        (2**72, "4096.0E"),
    ],
)
def test_sizes_are_as_systemctl_has_them(number: float, said: str) -> None:
    assert size(number) == said


def test_points_in_time_are_as_systemctl_has_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    assert moment(1_748_959_331_000_000) == "Tue 2025-06-03 14:02:11 UTC"
    assert since(1_748_959_331_000_000, 1_748_959_636) == "Tue 2025-06-03 14:02:11 UTC; 5min 5s ago"
    assert moment(0) == ""


def test_one_has_no_plural() -> None:
    assert [count(number, "turn") for number in (0, 1, 2)] == ["0 turns", "1 turn", "2 turns"]


def test_further_lines_of_an_error_say_nothing_of_their_own() -> None:
    said = complaint("it broke\nagentctl: all is well\r\n$ \x1b[2J\u2028x")
    assert said == "agentctl: it broke\n  agentctl: all is well\n  $ \\x1b[2J\\u2028x"


def test_json_is_the_same_to_a_terminal_as_to_a_program() -> None:
    value = {
        "text": "".join(map(chr, [*range(0x20), 0x7F, *range(0x80, 0xA0), 0x202E, 0x2028, 0xE9, 0x1F600]))
    }
    text = as_json(value)
    assert text.isascii() and text.isprintable() and json.loads(text) == value
