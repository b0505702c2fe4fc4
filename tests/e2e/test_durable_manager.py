# SPDX-License-Identifier: Apache-2.0
"""What outlives the manager, and what it does about workers that fail: real systemd, real units."""

import json
from typing import Any

import pytest

from .machine import Machine
from .test_agentd import CONFIGURATION, Host, attached

BOX = "/org/agentd1/container/box"


@pytest.fixture
def host(fresh: Machine) -> Host:
    return Host(fresh).begin(CONFIGURATION)


def status(host: Host) -> dict[str, Any]:
    said = json.loads(host.run("agentctl", "status", "--json").stdout)
    assert isinstance(said, dict)
    return said


def box(host: Host) -> dict[str, Any]:
    found = next(each for each in status(host)["containers"] if each["name"] == "box")
    assert isinstance(found, dict)
    return found


def refusal(host: Host) -> str:
    """What a connection is told that gets no worker."""
    done = host.run("agentctl", "prompt", "box", "hello", check=False)
    assert done.returncode == 69, (done.stdout, done.stderr)
    return str(done.stderr)


def crash(host: Host) -> None:
    """Kill the worker whenever systemd has started it again, until it does not any more."""
    host.run("systemctl", "start", "agentd@box")
    for _ in range(5):
        ready = lambda: host.show("agentd@box", "ActiveState") in ("active", "failed")  # noqa: E731
        host.machine.wait_for(ready, 20, "the worker to be there again")
        host.run("systemctl", "kill", "--signal=KILL", "agentd@box", check=False)
        host.machine.wait_for(lambda: host.show("agentd@box", "ActiveState") != "active", 10)
    host.machine.wait_for(lambda: host.show("agentd@box", "ActiveState") == "failed", 20, "the unit to fail")


# Drains


@pytest.mark.parametrize("end", ["restart", "kill --signal=KILL"])
def test_a_drain_goes_on_over_the_end_of_the_manager(host: Host, end: str) -> None:
    editor = attached(host, "--agent", "scripted")
    with editor.dialogue:
        turn = editor.prompt("say working", "hold")
        editor.until_text("working")
        host.call("Drain", "sa{sv}", "box", "0")
        [before] = status(host)["jobs"]
        manager = host.show("agentd", "MainPID")
        host.run("systemctl", *end.split(), "agentd")
        editor.release()
        editor.answer(turn)
        host.machine.wait_for(lambda: host.show("agentd", "MainPID") not in (manager, "0"), 20)
        host.machine.wait_for(lambda: [each["state"] for each in status(host)["jobs"]] == ["done"], 20)
        [job] = status(host)["jobs"]
        assert job == {**before, "state": "done", "remaining": 0, "drained": [editor.session]}
    assert "being drained" in host.run("agentctl", "prompt", "box", "hello", check=False).stderr
    host.run("agentctl", "undrain", "box")
    host.run("systemctl", "restart", "agentd")
    assert "Client sent:" in host.run("agentctl", "prompt", "box", "hello").stdout


def test_a_worker_that_is_restarted_along_with_the_manager_is_not_drained(host: Host) -> None:
    editor = attached(host, "--agent", "scripted")
    with editor.dialogue:
        turn = editor.prompt("say working", "hold")
        editor.until_text("working")
        with host.machine.popen("systemctl", "restart", "agentd@box") as restart:
            host.machine.wait_for(lambda: host.show("agentd@box", "StatusText") == "draining")
            host.run("systemctl", "restart", "agentd")
            host.machine.wait_for(lambda: host.state() == "draining")
            editor.release()
            editor.answer(turn)
            assert restart.wait(30) == 0
    assert "Client sent:" in host.run("agentctl", "prompt", "box", "hello").stdout


# Versions


def test_a_worker_with_older_code_is_seen_and_what_to_do(host: Host) -> None:
    host.run("systemctl", "start", "agentd@box")
    assert box(host)["outdated"] is False
    package = "/usr/lib/python3/dist-packages/agentd/__init__.py"
    host.run("sed", "-i", 's/__version__ = .*/__version__ = "9.9.9"/', package)
    host.run("systemctl", "restart", "agentd")
    host.machine.wait_for(lambda: host.state() == "serving")
    old = box(host)
    assert old["outdated"] is True and old["state"] == "serving"
    hint = f"box: older code {old['worker_version']}: systemctl restart agentd@box, when it suits"
    assert hint in host.run("agentctl", "status").stdout
    host.run("systemctl", "restart", "agentd@box")
    assert (box(host)["outdated"], box(host)["worker_version"]) == (False, "9.9.9")


# Failing again and again


def test_a_worker_that_crashes_again_and_again_is_given_up_until_it_is_reset(host: Host) -> None:
    crash(host)
    assert box(host)["state"] == "failed"
    for _ in range(2):
        said = refusal(host)
        assert "again and again" in said and "systemctl reset-failed agentd@box.service" in said
    assert box(host)["last_error"] == "the worker of box ended without a word"
    host.run("systemctl", "reset-failed", "agentd@box")
    assert "Client sent:" in host.run("agentctl", "prompt", "box", "hello").stdout
    assert (box(host)["state"], box(host)["last_error"]) == ("serving", "")


def test_a_worker_that_cannot_start_is_given_up_with_its_own_last_words(host: Host) -> None:
    host.machine.write(
        "/etc/systemd/system/agentd@.service.d/10-lost.conf", "[Service]\nEnvironment=PATH=/\n"
    )
    host.run("systemctl", "daemon-reload")
    for _ in range(5):
        assert "reset-failed" not in refusal(host)
    said = refusal(host)
    assert "podman is not installed" in said and "systemctl reset-failed agentd@box.service" in said
    assert (box(host)["state"], "podman" in box(host)["last_error"]) == ("failed", True)


@pytest.mark.parametrize("way", ["start", "container"])
def test_one_that_was_given_up_is_started_for_whoever_means_it(host: Host, way: str) -> None:
    crash(host)
    refusal(host)
    if way == "start":
        host.run("busctl", "call", "org.agentd1", BOX, "org.agentd1.Container", "Start")
    else:
        host.run("podman", "restart", "--time=0", "box")
        host.machine.wait_for(lambda: host.state() == "idle", 20)
    assert "Client sent:" in host.run("agentctl", "prompt", "box", "hello").stdout


# Masked


def test_who_masks_it_is_told_how_to_have_it_back(host: Host) -> None:
    host.run("systemctl", "mask", "--now", "agentd.service")
    said = host.run("agentctl", "list", check=False)
    assert said.returncode == 69
    assert "agentd.service is masked; to have it back: systemctl unmask agentd.service" in said.stderr
