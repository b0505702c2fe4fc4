# SPDX-License-Identifier: Apache-2.0

from typing import Any

import msgspec
import pytest

from agentd import __version__, link
from agentd.ctl.status import pretty
from agentd.manager import status
from agentd.manager.container import Container, WorkerEnd


def container(code: str) -> Container:
    """One with a worker of that version of agentd; none for ""."""
    box = Container("box")
    if code:
        hello = link.Hello(
            version=1, pid=5, code=code, container="box", snapshot=link.Snapshot(state="serving")
        )
        box.attach(WorkerEnd(None, hello))  # type: ignore[arg-type]
    return box


def shown(code: str, unit: str) -> str:
    box = msgspec.to_builtins(status.of_container(container(code), unit))
    whole: dict[str, Any] = {"version": "9", "mode": "system", "state": "running", "pid": 1, "jobs": []}
    return pretty({**whole, "watcher": {"connected": False}, "containers": [box]})


@pytest.mark.parametrize(("code", "outdated"), [("0.0.1", True), (__version__, False), ("", False)])
def test_a_worker_of_another_version_is_outdated(code: str, outdated: bool) -> None:
    assert status.of_container(container(code), "").outdated is outdated


def test_older_code_is_seen_with_what_to_do() -> None:
    said = "box: older code 0.0.1: systemctl restart agentd@box, when it suits"
    assert said in shown("0.0.1", "agentd@box.service")
    assert "box: older code 0.0.1: agentctl stop box" in shown("0.0.1", "")
    assert "older code" not in shown(__version__, "agentd@box.service")


def test_a_status_of_an_older_manager_is_shown_too() -> None:
    box = msgspec.to_builtins(status.of_container(container("0.0.1"), ""))
    del box["outdated"]
    whole: dict[str, Any] = {"version": "9", "mode": "system", "state": "running", "pid": 1, "jobs": []}
    assert "box" in pretty({**whole, "watcher": {"connected": False}, "containers": [box]})
