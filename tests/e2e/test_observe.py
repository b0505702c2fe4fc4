# SPDX-License-Identifier: Apache-2.0
"""Looking at agentd as an administrator does: logs, doctor, and Prometheus at the metrics socket.

One machine for all: every test leaves agentd running, with a container called box.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from .machine import Machine
from .test_agentd import CONFIGURATION, Host, attached

SCRAPE = """\
import socket, sys
sock = socket.create_connection(("127.0.0.1", 9786), 20)
sock.sendall(b"GET %s HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n" % sys.argv[1].encode())
sys.stdout.write(sock.makefile("rb").read().decode())
"""


@pytest.fixture(scope="module")
def host(suite: str, staged: Path) -> Iterator[Host]:
    with Machine(suite, layers=[staged]) as machine:
        yield Host(machine).begin(CONFIGURATION)


def logged(host: Host, *words: str) -> list[dict[str, Any]]:
    host.run("journalctl", "--sync")
    lines = host.run("agentctl", "logs", "--json", *words).stdout.splitlines()
    return [json.loads(line) for line in lines]


def messages(host: Host, *words: str) -> list[str]:
    return [str(entry["MESSAGE"]) for entry in logged(host, *words)]


def found(host: Host, **options: Any) -> tuple[int, dict[str, list[dict[str, str]]]]:
    """The exit status of doctor, and its findings by check."""
    done = host.run("agentctl", "doctor", "--json", check=False, **options)
    assert done.stdout, done.stderr
    by_check: dict[str, list[dict[str, str]]] = {}
    for each in json.loads(done.stdout)["findings"]:
        by_check.setdefault(each["check"], []).append(each)
    return done.returncode, by_check


def problems(checks: dict[str, list[dict[str, str]]]) -> list[str]:
    return [each["what"] for one in checks.values() for each in one if each["state"] == "problem"]


def scrape(host: Host, path: str = "/metrics") -> str:
    return host.run("python3", "-c", SCRAPE, path).stdout


def test_logs_of_a_container_are_all_that_is_said_of_it_and_nothing_else(host: Host) -> None:
    editor = attached(host, "--agent", "scripted")
    with editor.dialogue:
        editor.answer(editor.prompt("stderr a complaint"))
    host.run("logger", "--journald", input="MESSAGE=a lie\nAGENTD_CONTAINER=box\n", user="nobody")
    units = {entry["_SYSTEMD_UNIT"] for entry in logged(host, "box")}
    assert units == {"agentd@box.service", "agentd.service", "init.scope"}
    assert "a complaint" in messages(host, "box") and "a lie" not in messages(host, "box")
    assert messages(host, "nobox") == [] and "a complaint" in messages(host)
    assert {entry["AGENTD_AGENT"] for entry in logged(host, "box", "--agent", "scripted")} == {"scripted"}
    assert {entry["AGENTD_SESSION"] for entry in logged(host, "--session", editor.session)} == {
        editor.session
    }
    assert len(messages(host, "-n", "2")) == 2


def test_doctor_finds_nothing_where_all_is_well(host: Host) -> None:
    status, checks = found(host)
    assert status == 0, problems(checks)
    notes = {each["check"] for one in checks.values() for each in one if each["state"] == "note"}
    assert notes <= {"packages", "engines"}, checks
    status, checks = found(host, user="nobody")
    assert status == 0, problems(checks)
    assert "may use no container" in checks["account"][0]["what"]


def test_doctor_says_what_is_wrong_and_what_to_do(host: Host) -> None:
    host.run("chmod", "0600", "/run/agentd/agentd.sock")
    host.run("systemctl", "stop", "agentd-watch.service")
    host.run("chmod", "0755", "/var/lib/agentd/manager")
    host.machine.write(
        "/etc/systemd/system/agentd@broken.service.d/x.conf",
        "[Service]\nExecStart=\nExecStart=false\nRestart=no\n",
    )
    host.run("systemctl", "daemon-reload")
    host.run("systemctl", "start", "agentd@broken", check=False)
    status, checks = found(host)
    assert status == 1
    said = {name: " ".join(each["what"] for each in checks[name]) for name in checks}
    assert (
        "mode 0600" in said["front-door"] and "/var/lib/agentd/manager has mode 0755" in said["directories"]
    )
    assert "agentd-watch.service is inactive" in said["units"] and "agentd@broken.service" in said["units"]
    for advice in ("systemctl restart agentd.socket", "systemd-tmpfiles --create"):
        assert advice in {each["advice"] for one in checks.values() for each in one}
    host.run("rm", "-r", "/etc/systemd/system/agentd@broken.service.d")
    host.run("systemctl", "daemon-reload")
    host.run("systemctl", "reset-failed", "agentd@broken")
    host.run("systemctl", "start", "agentd-watch.service")
    host.run("systemd-tmpfiles", "--create")
    host.run("systemctl", "restart", "agentd.socket", "agentd.service")
    host.machine.wait_for(lambda: found(host)[0] == 0, 20, "everything to be well again")


def test_prometheus_gets_metrics_once_the_socket_is_enabled(host: Host) -> None:
    assert host.show("agentd-metrics.socket", "UnitFileState") == "disabled"
    host.run("systemctl", "enable", "--now", "agentd-metrics.socket")
    for _ in range(3):
        page = scrape(host)
        assert page.startswith("HTTP/1.0 200 ") and "\nagentd_up 1.0\n" in page
    assert '\nagentd_engine_up{engine="podman"} 1.0\n' in page
    assert '\nagentd_info{mode="system",' in page and 'agentd_container_state{container="box"' in page
    assert scrape(host, "/").startswith("HTTP/1.0 404 ")
    instances = "agentd-metrics@*.service"
    leaving = lambda: not host.run("systemctl", "list-units", "--all", "--quiet", instances).stdout  # noqa: E731
    host.machine.wait_for(leaving, 20, "the instances to be gone")
    units = {str(entry.get("UNIT")) for entry in host.machine.journal("_PID=1")}
    assert not [unit for unit in units if unit.startswith("agentd-metrics@")]
    host.run("systemctl", "stop", "agentd@box", "agentd-watch.service")
    host.run("systemctl", "stop", "agentd.socket", "agentd-link.socket", "agentd.service")
    assert "\nagentd_up 0.0\n" in scrape(host) + "\n"
    assert host.show("agentd.service", "ActiveState") == "inactive"
    host.run("systemctl", "start", "agentd.service")
    host.run("systemctl", "disable", "--now", "agentd-metrics.socket")


def test_metrics_unit_may_do_next_to_nothing(host: Host) -> None:
    done = host.run("systemd-analyze", "verify", "agentd-metrics.socket", "agentd-metrics@x.service")
    assert "agentd-metrics" not in done.stderr
    host.run("systemd-analyze", "security", "--threshold=15", "agentd-metrics@x.service")


def test_the_journal_explains_what_it_has(host: Host) -> None:
    host.run("journalctl", "--update-catalog")
    explained = host.run("journalctl", "--catalog", "--no-pager", "--unit=agentd.service").stdout
    assert "Subject: The manager of agentd is ready" in explained, explained[-2000:]


def test_status_of_a_container_ends_with_what_was_logged_of_it(host: Host) -> None:
    host.run("systemctl", "start", "agentd@box")
    host.run("journalctl", "--sync")
    shown = host.run("agentctl", "status", "box", "--lines=5").stdout.splitlines()
    assert shown[0].startswith("● box - podman container")
    assert any("serving box" in line for line in shown[-5:]), shown
