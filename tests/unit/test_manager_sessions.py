# SPDX-License-Identifier: Apache-2.0

import pytest

from agentd import errors, link
from agentd.manager.bus.paths import of_session
from agentd.manager.container import Container
from agentd.manager.sessions import Session, Sessions
from unit.loop import run
from unit.wire import served


def info(key: int, state: str = "idle") -> link.SessionInfo:
    return link.SessionInfo(id=f"s{key}", agent="claude", state=state, key=key)


class Listener:
    """What it was told, in order."""

    def __init__(self, sessions: Sessions) -> None:
        self.heard: list[str] = []
        for name in ("on_new", "on_removed", "on_change"):
            getattr(sessions, name).append(self._note(name))

    def _note(self, name: str):  # type: ignore[no-untyped-def]
        return lambda session: self.heard.append(f"{name} {session.id} {session.info.state}")


def told(container: Container, *sessions: link.SessionInfo) -> None:
    container.told(link.Snapshot(state="serving", sessions=list(sessions)))


def test_sessions_come_change_and_go() -> None:
    async def scenario() -> None:
        sessions = Sessions()
        listener, (box, _) = Listener(sessions), served("box", info(1), info(2))
        sessions.told(box)
        told(box, info(1, "prompting"), info(3))
        sessions.told(box)
        sessions.told(box)
        assert listener.heard == [
            *("on_new s1 idle", "on_new s2 idle", "on_removed s2 idle"),
            *("on_change s1 prompting", "on_new s3 idle"),
        ]
        assert sorted(each.id for each in sessions) == ["s1", "s3"]

    run(scenario())


def test_they_go_with_their_worker() -> None:
    async def scenario() -> None:
        sessions, (box, _) = Sessions(), served("box", info(1))
        sessions.told(box)
        box.detach()
        sessions.told(box)
        assert not list(sessions) and not list(sessions.of("box"))

    run(scenario())


def test_one_is_found_by_the_id_that_clients_know() -> None:
    async def scenario() -> None:
        sessions, (box, _) = Sessions(), served("box", info(1))
        sessions.told(box)
        assert sessions.find("box", "s1").key == ("box", 1)
        with pytest.raises(errors.NoSuchSession, match="agentctl sessions box"):
            sessions.find("box", "s2")
        with pytest.raises(errors.NoSuchSession):
            sessions.find("other", "s1")

    run(scenario())


def test_a_worker_too_old_to_number_its_sessions_shows_none() -> None:
    async def scenario() -> None:
        sessions, (box, _) = Sessions(), served("box", info(0))
        sessions.told(box)
        assert not list(sessions) and box.sessions_open == 1

    run(scenario())


def test_a_session_has_the_same_path_whoever_serves_it_and_no_other_has_it() -> None:
    async def scenario() -> None:
        (one, _), (two, _) = served("my-box.1"), served("my-box")
        assert of_session(Session(one, info(7))) == "/org/agentd1/session/my_2dbox_2e1_7"
        paths = {of_session(Session(each, info(key))) for each in (one, two) for key in (1, 11)}
        assert len(paths) == 4

    run(scenario())
