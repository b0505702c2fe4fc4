# SPDX-License-Identifier: Apache-2.0
"""Turns beside a disk that takes its time: nobody acts on what is not written."""

import json
from collections.abc import Callable

from agentd.errors import AgentdError, AgentExited, NoSuchSession, StoreFull
from agentd.store.keeper import Nothing, Then
from agentd.store.records import Asked, Permission, Progress, Turn
from agentd.worker.session import HELD_BYTES
from agentd.worker.turns import Prompt
from unit.loop import run
from unit.test_session import Client, Room, prompt, update


class Disk(Nothing):
    """Writes when a test says so. `turns`, `permissions`: the last of each that it was given, by number."""

    def __init__(self) -> None:
        super().__init__()
        self.turns_put: dict[int, Turn] = {}
        self.permissions_put: dict[int, Permission] = {}
        self._waiting: list[Then] = []

    def put_turn(self, turn: Turn) -> None:
        self.turns_put[turn.number] = turn

    def put_permission(self, permission: Permission) -> None:
        self.permissions_put[permission.number] = permission

    def sync(self, then: Then, key: int | None = None) -> None:
        self._waiting.append(then)

    def write(self, error: AgentdError | None = None) -> None:
        waiting, self._waiting = self._waiting, []
        for then in waiting:
            then(error)

    def progress(self) -> list[tuple[Progress, str]]:
        return [(turn.progress, turn.outcome) for turn in self.turns_put.values()]


def beside_a_disk(test: Callable[[Room, Disk], None]) -> None:
    async def inside() -> None:
        disk = Disk()
        room = Room(store=disk)
        test(room, disk)
        room.session.close(NoSuchSession("the test is over"))
        disk.write()

    run(inside())


def test_the_agent_gets_a_prompt_once_it_is_on_disk() -> None:
    def test(room: Room, disk: Disk) -> None:
        room.prompt(1)
        assert (room.agent.frames, disk.progress()) == ([], [(Progress.RUNNING, "")])
        disk.write()
        assert room.agent.frames == [prompt(1)]

    beside_a_disk(test)


def test_the_client_gets_the_answer_once_it_is_on_disk() -> None:
    def test(room: Room, disk: Disk) -> None:
        room.prompt(1)
        disk.write()
        room.end_turn()
        assert room.client.answers == []
        assert disk.progress() == [(Progress.ENDED, "end_turn")]
        assert json.loads(disk.turns_put[1].answer)["result"] == {"stopReason": "end_turn"}
        disk.write()
        assert room.client.outcomes() == [(1, "end_turn")]

    beside_a_disk(test)


def test_what_the_agent_says_after_its_answer_comes_after_it() -> None:
    def test(room: Room, disk: Disk) -> None:
        order: list[str] = []
        room.client.reply = lambda frame: order.append("answer")  # type: ignore[method-assign]
        room.client.relay = lambda run: order.append("update")  # type: ignore[method-assign]
        room.prompt(1)
        disk.write()
        room.session.updated(update("before"))
        room.end_turn()
        room.session.updated(update("after"))
        room.ask()
        assert (order, room.client.asked) == (["update"], [])
        disk.write()
        assert order == ["update", "answer", "update"]
        assert len(room.client.asked) == 1

    beside_a_disk(test)


def test_the_next_prompt_waits_until_the_answer_is_out() -> None:
    def test(room: Room, disk: Disk) -> None:
        room.prompt(1, 2)
        assert disk.progress() == [(Progress.RUNNING, ""), (Progress.QUEUED, "")]
        disk.write()
        room.end_turn()
        assert len(room.agent.frames) == 1
        disk.write()
        disk.write()
        assert room.agent.frames == [prompt(1), prompt(2)]

    beside_a_disk(test)


def test_a_prompt_that_waits_is_kept_with_its_text_until_it_runs() -> None:
    def test(room: Room, disk: Disk) -> None:
        room.prompt(1, 2)
        assert b"prompt 2" in disk.turns_put[2].said
        disk.write()
        room.end_turn()
        disk.write()
        assert disk.turns_put[2].said == b""

    beside_a_disk(test)


def test_a_cancel_before_the_prompt_is_on_disk_ends_the_turn_without_the_agent() -> None:
    def test(room: Room, disk: Disk) -> None:
        room.prompt(1).cancel()
        disk.write()
        assert (room.agent.frames, room.client.outcomes()) == ([], [(1, "cancelled")])
        assert room.seen() == ("idle", 0)

    beside_a_disk(test)


def test_a_cancel_after_the_answer_changes_nothing() -> None:
    def test(room: Room, disk: Disk) -> None:
        room.prompt(1)
        disk.write()
        room.end_turn().cancel()
        disk.write()
        assert room.client.outcomes() == [(1, "end_turn")]

    beside_a_disk(test)


def test_an_agent_that_ends_while_the_prompt_is_written_is_started_again_and_asked_once() -> None:
    def test(room: Room, disk: Disk) -> None:
        room.prompt(1)
        room.agent.alive = False  # type: ignore[misc]
        room.session.agent_left()
        disk.write()
        assert (room.seen(), room.house.revivals) == (("resuming", 0), 1)
        room.revive()
        assert room.agent.frames == [prompt(1)]
        assert room.client.heard == []

    beside_a_disk(test)


def test_a_full_disk_refuses_a_prompt_and_the_agent_hears_nothing() -> None:
    def test(room: Room, disk: Disk) -> None:
        room.prompt(1)
        disk.write(StoreFull("full"))
        disk.write(StoreFull("full"))
        assert (room.agent.frames, room.client.outcomes()) == ([], [(1, "store_full")])
        assert room.seen() == ("idle", 0)

    beside_a_disk(test)


def test_an_answer_that_cannot_be_kept_is_told_of_as_an_error() -> None:
    def test(room: Room, disk: Disk) -> None:
        room.prompt(1)
        disk.write()
        room.end_turn()
        disk.write(StoreFull("full"))
        assert room.client.outcomes() == [(1, "store_full")]
        assert room.client.answers[0]["error"]["data"]["outcome"] == "end_turn"

    beside_a_disk(test)


def test_a_session_that_is_closed_still_gives_the_answer_it_has() -> None:
    def test(room: Room, disk: Disk) -> None:
        room.prompt(1)
        disk.write()
        room.end_turn()
        room.session.close(AgentExited("the end"))
        disk.write()
        assert room.client.outcomes() == [(1, "end_turn")]

    beside_a_disk(test)


def test_a_client_that_comes_back_gets_the_answers_of_its_old_connection() -> None:
    def test(room: Room, disk: Disk) -> None:
        back = room.enter(Client(2))
        room.prompt(1, 2)
        adopt = room.session.turns.adopt
        assert adopt("client 1", b"1", back) and adopt("client 1", b"2", back)
        assert not adopt("client 1", b"1", back) and not adopt("client 9", b"2", back)
        disk.write()
        room.end_turn()
        disk.write()
        assert (room.client.outcomes(), back.outcomes()) == ([], [(1, "end_turn")])

    beside_a_disk(test)


def test_nobody_of_another_account_gets_them() -> None:
    def test(room: Room, disk: Disk) -> None:
        stranger = Client(2)
        stranger.uid = 2000
        room.prompt(1)
        assert not room.session.turns.adopt("client 1", b"1", stranger)

    beside_a_disk(test)


def test_an_id_is_kept_as_everybody_spells_it() -> None:
    def test(room: Room, disk: Disk) -> None:
        room.session.prompt(Prompt(room.client, b'"\\u0061"', prompt(1)))
        assert disk.turns_put[1].raw_id == b'"a"'

    beside_a_disk(test)


def test_a_request_for_permission_is_kept_until_it_is_answered() -> None:
    def test(room: Room, disk: Disk) -> None:
        room.ask(options=[{"optionId": "yes", "kind": "allow_once"}])
        (pending,) = disk.permissions_put.values()
        assert (pending.progress, b'"yes"' in pending.frame) == (Asked.PENDING, True)
        outcome = {"outcome": {"outcome": "selected", "optionId": "yes"}}
        answer = json.dumps({"jsonrpc": "2.0", "id": 7, "result": outcome}).encode()
        room.client.asked[0].asker.answer(room.client.asked[0], answer)
        (answered,) = disk.permissions_put.values()
        assert (answered.progress, answered.outcome) == (Asked.ANSWERED, "yes")

    beside_a_disk(test)


def test_one_that_nobody_has_answered_when_its_agent_goes_has_expired() -> None:
    def test(room: Room, disk: Disk) -> None:
        room.ask()
        room.session.agent_left()
        assert [each.progress for each in disk.permissions_put.values()] == [Asked.EXPIRED]

    beside_a_disk(test)


def test_an_agent_that_says_too_much_meanwhile_waits_and_goes_on_also_without_the_session() -> None:
    def test(room: Room, disk: Disk) -> None:
        holds: list[tuple[str, bool]] = []
        room.agent.hold = lambda reason, held: holds.append((reason, held))  # type: ignore[attr-defined]
        room.prompt(1)
        disk.write()
        room.end_turn()
        for _ in range(3):
            room.session.updated(update("x" * HELD_BYTES))
        assert holds == [("session 1", True)]
        room.session.leave_agent()
        disk.write()
        assert holds == [("session 1", True), ("session 1", False)]

    beside_a_disk(test)
