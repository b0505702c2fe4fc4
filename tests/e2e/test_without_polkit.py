# SPDX-License-Identifier: Apache-2.0
"""A host without polkit, by whose leave the manager starts workers: it is named wherever that fails."""

import json

import pytest

from .machine import Machine
from .test_agentd import CONFIGURATION, Host

SERVICE = "/usr/share/dbus-1/system-services/org.freedesktop.PolicyKit1.service"
NO = "polkit.addRule(function (action) { return polkit.Result.NO; });\n"
BY_HAND = "as root: systemctl start agentd@box.service"


class Bare(Host):
    """`start_box` has happened, and no worker runs."""

    def take_polkit_away(self, how: str) -> None:
        if how == "refuses":
            self.machine.write("/etc/polkit-1/rules.d/00-no.rules", NO)
            self.run("systemctl", "restart", "polkit.service")
            return
        self.run("systemctl", "mask", "--now", "polkit.service")
        if how == "is not installed":
            self.run("rm", SERVICE)
            self.run("systemctl", "reload", "dbus.service")

    def said(self, *command: str, user: str | None = None) -> str:
        """What a command that fails says of it."""
        done = self.run("agentctl", *command, user=user, check=False)
        assert done.returncode != 0, done
        return done.stderr

    def journal(self) -> str:
        return "\n".join(str(each["MESSAGE"]) for each in self.machine.journal("--unit=agentd.service"))

    def doctor(self) -> dict[str, list[dict[str, str]]]:
        """What is amiss, by the name of the check."""
        found = json.loads(self.run("agentctl", "doctor", "--json", check=False).stdout)["findings"]
        amiss = [each for each in found if each["state"] == "problem"]
        return {each["check"]: [one for one in amiss if one["check"] == each["check"]] for each in amiss}


@pytest.fixture
def host(fresh: Machine) -> Bare:
    return Bare(fresh).begin(CONFIGURATION)


@pytest.mark.parametrize("how", ["does not start", "is not installed"])
def test_everybody_is_told_that_polkit_does_not_answer_and_what_to_do(host: Bare, how: str) -> None:
    host.take_polkit_away(how)
    remedies = ("polkit does not answer", "apt install polkitd", "dnf install polkit", BY_HAND)
    told = {
        "a client": host.said("prompt", "box", "hello"),
        "start": host.said("start", "box"),
        "status": host.run("agentctl", "status").stdout,
        "status of box": host.run("agentctl", "status", "box", "--lines=0", check=False).stdout,
        "the journal": host.journal(),
        "doctor": str(host.doctor()["manager"]),
    }
    assert [who for who, text in told.items() if not all(words in text for words in remedies)] == [], told
    [polkit] = host.doctor()["polkit"]
    assert "can start no worker" in polkit["what"] and "systemctl start agentd@NAME" in polkit["advice"]


def test_what_is_said_to_help_helps(host: Bare) -> None:
    host.take_polkit_away("does not start")
    assert BY_HAND in host.said("prompt", "box", "hello")
    host.run(*BY_HAND.removeprefix("as root: ").split())
    assert host.run("agentctl", "prompt", "box", "hello").stdout == "Client sent:hello\n"
    assert "as root: systemctl stop agentd@box.service" in host.said("stop", "box")
    host.run("systemctl", "unmask", "polkit.service")
    host.run("agentctl", "stop", "box")
    assert host.run("agentctl", "prompt", "box", "hello").stdout == "Client sent:hello\n"
    assert host.doctor() == {}


def test_a_polkit_that_refuses_is_told_from_one_that_is_not_there(host: Bare) -> None:
    host.take_polkit_away("refuses")
    for text in (host.said("prompt", "box", "hello"), host.said("start", "box"), host.journal()):
        assert "polkit does not let agentd start agentd@box.service" in text, text
        assert "agentd.rules" in text and BY_HAND in text and "apt install" not in text, text
    assert "polkit does not let agentd start" in str(host.doctor()["manager"])


def test_who_would_be_asked_for_a_password_is_told_too(host: Bare) -> None:
    host.take_polkit_away("is not installed")
    host.run("useradd", "olga")
    told = host.said("drain", "box", user="olga")
    assert "polkit gave no answer" in told and "apt install polkitd" in told, told
