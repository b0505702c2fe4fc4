# SPDX-License-Identifier: Apache-2.0

from agentd.worker.transcript import Transcript


def kept(transcript: Transcript) -> list[bytes]:
    return [transcript.run(number) for number in range(transcript.start, transcript.end)]


def test_runs_are_kept_in_order_and_by_number() -> None:
    transcript = Transcript(100)
    for run in (b"one\n", b"two\n", b"three\n"):
        transcript.append(run)
    assert kept(transcript) == [b"one\n", b"two\n", b"three\n"]
    assert (transcript.start, transcript.end, len(transcript)) == (0, 3, 14)


def test_past_the_bound_the_oldest_are_lost_and_numbers_stay() -> None:
    transcript = Transcript(10)
    for run in (b"1234", b"5678", b"90", b"abc"):
        transcript.append(run)
    assert (kept(transcript), transcript.start, len(transcript)) == ([b"5678", b"90", b"abc"], 1, 9)
    assert transcript.run(2) == b"90"


def test_the_last_run_is_kept_however_long_it_is() -> None:
    transcript = Transcript(10)
    transcript.append(b"x")
    transcript.append(b"y" * 100)
    assert (kept(transcript), transcript.start) == ([b"y" * 100], 1)
    transcript.append(b"z")
    assert kept(transcript) == [b"z"]


def test_what_is_cleared_has_never_been_but_its_numbers_are_not_used_again() -> None:
    transcript = Transcript(10)
    transcript.append(b"1")
    transcript.clear()
    assert (kept(transcript), transcript.start, transcript.end, len(transcript)) == ([], 1, 1, 0)
    transcript.append(b"2")
    assert transcript.run(1) == b"2"
