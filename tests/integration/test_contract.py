# SPDX-License-Identifier: Apache-2.0
"""dbus/org.agentd1.xml is the contract: the running service must say the same of itself."""

import re
import subprocess
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path

import pytest

from support.embedded import Embedded, eventually

CONTRACT = Path(__file__).parents[2] / "dbus" / "org.agentd1.xml"


def members(interface: ET.Element) -> set[tuple[object, ...]]:
    """Every member with its signature, names of arguments, access and annotations."""
    found = set()
    for member in interface:
        details = [tuple(sorted(part.attrib.items())) for part in member]
        found.add((member.tag, tuple(sorted(member.attrib.items())), *details))
    return found


def described(xml: str) -> dict[str, set[tuple[object, ...]]]:
    """The interfaces of ours in an introspection document."""
    interfaces = ET.fromstring(xml).iter("interface")
    return {each.attrib["name"]: members(each) for each in interfaces if "agentd1" in each.attrib["name"]}


def dbus_send(agentd: Embedded, path: str, member: str, *arguments: str) -> str:
    """What dbus-send prints, as a stranger to this project would call."""
    address = f"--bus=unix:path={agentd.runtime_dir}/bus"
    command = ["dbus-send", address, "--print-reply=literal", "--dest=org.agentd1", path, member, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=20).stdout.strip()


@pytest.fixture
def introspected(start: Callable[..., Embedded]) -> dict[str, set[tuple[object, ...]]]:
    """What an object of each kind says of itself."""
    agentd = start(bus="private")
    with agentd.client() as client:
        client.open()
        assert agentd.agentctl("drain", "here").returncode == 0
        objects = ("", "/container/here", "/session/here_1", "/job/1")
        found = {}
        for each in objects:
            text = dbus_send(agentd, f"/org/agentd1{each}", "org.freedesktop.DBus.Introspectable.Introspect")
            found |= described(text)
    return found


def test_service_is_what_the_contract_says(introspected: dict[str, set[tuple[object, ...]]]) -> None:
    contract = described(CONTRACT.read_text())
    assert set(contract) == {f"org.agentd1.{name}" for name in ("Manager", "Container", "Session", "Job")}
    assert introspected == contract


def test_every_member_of_the_contract_is_explained() -> None:
    text = CONTRACT.read_text()
    for found in re.finditer(r"\n    <(method|signal|property) name=\"(\w+)\"", text):
        assert text[: found.start()].endswith("-->"), f"{found[2]} has no comment"


def test_bus_that_died_comes_back_with_everything_on_it(start: Callable[..., Embedded]) -> None:
    agentd = start(bus="private")
    daemon = next(pid for pid, text in agentd.processes().items() if text.startswith("dbus-daemon"))
    subprocess.run(["kill", "-KILL", str(daemon)], check=True)
    eventually(lambda: "private bus has ended" in agentd.log(), "the bus is started again")
    eventually(lambda: agentd.agentctl("status").returncode == 0, "agentd is on it")
    assert agentd.container("here")["state"] == "idle"
