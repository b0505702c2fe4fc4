# SPDX-License-Identifier: Apache-2.0

import pytest

from agentd import __version__, link
from agentd.manager import status
from agentd.manager.container import Container, WorkerEnd
from agentd.manager.sessions import Session
from unit.wire import served


def container(code: str) -> Container:
    """One with a worker of that version of agentd; none for ""."""
    box = Container("box")
    if code:
        hello = link.Hello(
            version=1, pid=5, code=code, container="box", snapshot=link.Snapshot(state="serving")
        )
        box.attach(WorkerEnd(None, hello))  # type: ignore[arg-type]
    return box


def shown(box: Container) -> status.ContainerStatus:
    return status.of_container(box, unit="", socket="", drained=[], sessions=[])


@pytest.mark.parametrize(("code", "outdated"), [("0.0.1", True), (__version__, False), ("", False)])
def test_a_worker_of_another_version_is_outdated(code: str, outdated: bool) -> None:
    assert shown(container(code)).outdated is outdated


def test_a_network_is_shown_once_it_was_measured() -> None:
    box = container(__version__)
    assert (shown(box).network, shown(box).addresses) == (None, [])
    box.measured = link.Measured(container="box", addresses=["10.0.0.2"], received=3, sent=4)
    assert shown(box).network == status.NetworkStatus(received=3, sent=4)
    assert shown(box).addresses == ["10.0.0.2"]


def test_sessions_that_the_worker_could_not_tell_of_are_counted() -> None:
    box, _ = served("box", link.SessionInfo(id="s1", agent="a", state="idle", key=1))
    assert shown(box).sessions_open == 1
    box.told(link.Snapshot(state="serving", sessions_open=900))
    assert shown(box).sessions_open == 900


def test_a_title_is_what_whoever_asks_may_read() -> None:
    box, _ = served()
    info = link.SessionInfo(id="s1", agent="a", state="idle", key=1, title="secret", owner=7)
    assert status.of_session(Session(box, info), path="/p", drained=False, title="").title == ""
