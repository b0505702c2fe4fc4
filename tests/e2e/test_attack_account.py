# SPDX-License-Identifier: Apache-2.0
"""What an attacker with an ordinary account on the host tries, and what comes of it: nothing.

mallory may use no container; eve may use `box` and `common`, and not `vault`; bob is the one to be robbed.
"""

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from . import package
from .attack import BOB, EVE, INITIALIZE, MALLORY, SECRET, Ground, attach, reason, request
from .machine import Machine
from .test_agentd import MANAGER

DOOR, LINK = "/run/agentd/agentd.sock", "/run/agentd/link.sock"
BUS = ("org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus")
DENIED = (
    r"[Pp]ermission denied|[Nn]ot permitted|[Aa]ccess denied|[Aa]uthentication|AccessDenied|NotAuthorized"
)
SAID = "bobs-words"

# One release is enough here: what the bus and polkit of the other allow is tried in test_polkit.
pytestmark = pytest.mark.parametrize("suite", [package.SUITE], indirect=True, scope="session")


@pytest.fixture(scope="module")
def ground(suite: str, staged: Path) -> Iterator[Ground]:
    with Machine(suite, layers=[staged]) as machine:
        ground = Ground(machine)
        ground.settle("box", "vault", "common")
        assert ground.prompt(EVE, "box", "say hello").stdout == "hello\n"
        assert ground.prompt(BOB, "vault", f"say {SAID}").stdout == f"{SAID}\n"
        yield ground


@pytest.fixture(autouse=True)
def unharmed(ground: Ground) -> Iterator[None]:
    """Whatever is tried, the same processes go on."""
    before = ground.pids("agentd", "agentd-watch", "agentd@box", "agentd@vault")
    yield
    assert ground.pids(*before) == before


# Doors


@pytest.mark.parametrize(
    ("user", "socket", "line"),
    [
        (MALLORY, DOOR, attach("box")),
        (MALLORY, DOOR, attach("common", agent="scripted", start=False)),
        (MALLORY, "/run/agentd/containers/box.sock", INITIALIZE),
        (MALLORY, "/run/agentd/containers/vault.sock", attach("")),
        (EVE, DOOR, attach("vault")),
        (EVE, "/run/agentd/containers/vault.sock", attach("box")),
        (EVE, DOOR, request("initialize", {"protocolVersion": 1, "_meta": {"agentd.container": "vault"}})),
    ],
)
def test_who_may_not_use_a_container_is_let_in_by_no_door(
    ground: Ground, user: str, socket: str, line: str
) -> None:
    [answer] = ground.says(user, line, socket=socket)
    assert reason(answer) == "access_denied"


def test_the_door_of_one_container_leads_to_no_other(ground: Ground) -> None:
    [answer] = ground.says(EVE, attach("vault"), socket="/run/agentd/containers/box.sock")
    assert answer["result"]["container"] == "box"


def test_who_asks_for_any_container_hears_of_none_that_are_not_theirs(ground: Ground) -> None:
    [nothing] = ground.says(MALLORY, INITIALIZE)
    assert (reason(nothing), nothing["error"]["data"]["containers"]) == ("no_such_container", [])
    [mine] = ground.says(EVE, INITIALIZE)
    assert mine["error"]["data"]["containers"] == ["box", "common"]


@pytest.mark.parametrize(
    "name",
    ["../vault", "box/../vault", "vault\0", "/run/agentd/containers/vault", "-", "%i", "Vault ", "box\n"],
)
def test_a_first_line_names_containers_and_no_paths(ground: Ground, name: str) -> None:
    [answer] = ground.says(EVE, attach(name))
    assert reason(answer) == "no_such_container"


CONNECT = """\
import socket, sys
for kind in (socket.SOCK_STREAM, socket.SOCK_SEQPACKET):
    try:
        socket.socket(socket.AF_UNIX, kind).connect(sys.argv[1])
        print("open")
    except OSError as exc:
        print(exc.strerror)
"""


def test_strangers_can_open_front_doors_and_no_other_socket(ground: Ground) -> None:
    sockets = ground.run("find", "/run/agentd", "/var/lib/agentd", "-type", "s").stdout.split()
    opened = {path for path in sockets if "open" in ground.python(CONNECT, path)}
    assert opened == {DOOR, *(f"/run/agentd/containers/{name}.sock" for name in ("box", "vault", "common"))}
    assert "Permission denied" in ground.python(CONNECT, LINK)


# Sessions of others


FOREIGN = [
    ("session/load", {"cwd": "/srv/agents", "mcpServers": []}),
    ("session/resume", {"cwd": "/srv/agents"}),
    ("session/fork", {"cwd": "/srv/agents", "mcpServers": []}),
    ("session/prompt", {"prompt": [{"type": "text", "text": "say mine"}]}),
    ("session/close", {}),
    ("session/set_mode", {"modeId": "x"}),
    ("session/set_config_option", {"configId": "agent", "value": "hostile"}),
    ("_agentd/history", {}),
]


def test_in_a_shared_container_nobody_reaches_or_sees_the_sessions_of_others(ground: Ground) -> None:
    with ground.attached(BOB, "common", "--agent", "hostile") as bob:
        turn = bob.prompt(f"say {SAID}", "hold", "say done")
        bob.until_text(SAID)
        with ground.attached(EVE, "common", "--agent", "hostile") as eve:
            for method, params in FOREIGN:
                theirs = eve.call(method, {**params, "sessionId": bob.session})
                nobodys = eve.call(method, {**params, "sessionId": "no-such"})
                assert "error" in theirs, (method, theirs)
                assert theirs["error"]["code"] == nobodys["error"]["code"], (theirs, nobodys)
                assert reason(theirs) in ("no_such_session", reason(nobodys)), (method, theirs)
            assert "error" in eve.call("session/whatever", {"sessionId": bob.session})
            cancel = {"method": "session/cancel", "params": {"sessionId": bob.session}}
            eve.dialogue.say(json.dumps({"jsonrpc": "2.0", **cancel}))
            eve.dialogue.say(json.dumps({"jsonrpc": "2.0", "id": 1, "result": {"outcome": "selected"}}))
            listed = str([eve.call(each, {}) for each in ("session/list", "_agentd/sessions")])
            assert bob.session not in listed and eve.session in listed
        new = request("session/new", {"cwd": "/srv/agents", "mcpServers": []}, 8)
        *_, taken = ground.says(EVE, attach("common", session=bob.session), INITIALIZE, new)
        assert reason(taken) == "no_such_session"
        bob.release()
        assert bob.answer(turn)[0]["result"]["stopReason"] == "end_turn"


def test_a_session_of_another_is_not_had_by_the_name_that_its_agent_has_for_it(ground: Ground) -> None:
    """The agents of both are the same program in the same container, and know each other's sessions."""
    editor = ground.as_editor(BOB, "common")
    with editor.dialogue:
        bob = editor.open()
        choice = {"sessionId": bob.session, "configId": "agentd.agent", "value": "remembers"}
        assert "result" in bob.call("session/set_config_option", choice)
        assert bob.answer(bob.prompt(f"say {SAID}"))[1] == [SAID]
    assert SAID in ground.machine.read("/srv/common/0") and bob.session != "0"
    editor = ground.as_editor(EVE, "common", "--agent", "remembers")
    with editor.dialogue:
        editor.call("initialize", {"protocolVersion": 1, "clientCapabilities": {}})
        for method in ("session/load", "session/delete", "session/close"):
            params = {"sessionId": "0", "cwd": "/srv/agents", "mcpServers": []}
            answer, texts = editor.answer(editor.send(method, params))
            assert (texts, reason(answer)) == ([], "no_such_session"), method
    assert SAID in ground.machine.read("/srv/common/0")


SESSION_ORDERS = (
    "Cancel",
    "Close",
    "ListPermissions",
    "Drain a{sv} 0",
    "Undrain",
    "ResolvePermission ss 1 x",
)


@pytest.mark.parametrize("user", [MALLORY, EVE])
def test_nobody_gives_orders_about_sessions_of_others_over_the_bus(ground: Ground, user: str) -> None:
    with ground.attached(BOB, "common", "--agent", "hostile") as bob:
        listed = ("busctl", "--json=short", "call", *MANAGER, "ListSessions", "s", "common")

        def path() -> str:
            sessions = json.loads(ground.run(*listed).stdout)["data"][0]
            return next((each[-1] for each in sessions if each[0] == bob.session), "")

        session = ground.machine.wait_for(path, 10, "the session of bob")
        for order in SESSION_ORDERS:
            words = ("org.agentd1", session, "org.agentd1.Session", *order.split())
            denied(ground, user, "busctl", "call", *words)
        turn = bob.prompt("say alive")
        assert bob.answer(turn)[1] == ["alive"]


def denied(ground: Ground, user: str | None, *command: str) -> None:
    """Not unknown, not failed: not allowed."""
    done = ground.run(*command, user=user, check=False)
    said = done.stdout + done.stderr
    assert done.returncode != 0 and re.search(DENIED, said), (command, said)


# Reading


@pytest.mark.parametrize("user", [MALLORY, EVE])
@pytest.mark.parametrize(
    "path",
    [
        *("/var/lib/agentd/containers", "/var/lib/agentd/containers/box", "/var/lib/agentd/manager"),
        *("/var/lib/agentd/containers/vault/sessions.db", "/etc/agentd/keys/agent"),
        *("/run/agentd/manager.lock", "/run/credentials/agentd@vault.service"),
    ],
)
def test_state_and_secrets_are_closed(ground: Ground, user: str, path: str) -> None:
    done = ground.sh('if [ -d "$1" ]; then ls -A "$1"; else cat "$1"; fi', path, user=user)
    assert done.stdout == "" and re.search("Permission denied|No such file", done.stderr), done
    hard = ground.sh('ln "$1" /tmp/hard.$$ && cat /tmp/hard.$$', path, user=user)
    assert hard.returncode != 0 and hard.stdout == ""


PRY = """\
import ctypes, os, signal, sys
pid = int(sys.argv[1])
libc = ctypes.CDLL(None, use_errno=True)
for file in ("environ", "mem", "auxv", "maps", "syscall", "stack", "io", "personality"):
    try:
        with open(f"/proc/{pid}/{file}", "rb") as opened:
            print(file, "open", opened.read(1) != b"")
    except OSError:
        pass
for link in ("fd", "map_files", "fdinfo", "root/etc", "cwd/."):
    try:
        print(link, os.listdir(f"/proc/{pid}/{link}"))
    except OSError:
        pass
for number in (signal.SIGTERM, signal.SIGKILL, signal.SIGHUP, signal.SIGSTOP, 0):
    try:
        os.kill(pid, number)
        print("signal", number)
    except PermissionError:
        pass
pidfd = os.pidfd_open(pid)
for taken in range(8):
    if libc.syscall(438, pidfd, taken, 0) >= 0:
        print("pidfd_getfd", taken)
if libc.ptrace(0x4206, pid, 0, 0) >= 0:
    print("ptrace")
"""


def test_processes_of_agentd_cannot_be_looked_into_or_signalled(ground: Ground) -> None:
    with ground.attached(BOB, "vault"):
        agents = ground.run("pgrep", "--full", "scripted.py").stdout.split()
        pids = [*ground.pids("agentd", "agentd-watch", "agentd@box", "agentd@vault").values(), *agents]
        assert len(pids) >= 5
        for pid in pids:
            assert ground.python(PRY, pid) == "", pid


def test_no_secret_and_no_word_of_a_session_is_in_an_argument_or_in_the_journal(ground: Ground) -> None:
    text = f"{SAID}-unheard"
    with ground.attached(BOB, "vault") as bob:
        assert bob.answer(bob.prompt("env AGENT_KEY"))[1] == [f"AGENT_KEY={SECRET}"]
        bob.answer(bob.prompt(f"say {text}"))
        shown = ground.sh("cat /proc/[0-9]*/cmdline /proc/[0-9]*/comm | tr '\\0' '\\n'", user=None).stdout
    assert "scripted.py" in shown and SECRET not in shown and text not in shown
    own = ground.sh("journalctl --all --no-pager --output=json; coredumpctl --no-pager list").stdout
    assert "agentd@" not in own and SAID not in own
    whole = str(ground.machine.journal())
    assert SECRET not in whole and text not in whole


# Writing

OURS = (
    *("/run/agentd", "/var/lib/agentd", "/etc/agentd", "/usr/lib/agentd", "/usr/share/agentd"),
    *("/usr/lib/python3/dist-packages/agentd", "/usr/bin/agentd", "/usr/bin/agentctl"),
    *("/usr/lib/systemd/system", "/usr/lib/tmpfiles.d", "/usr/lib/sysusers.d", "/usr/share/dbus-1"),
    "/usr/share/polkit-1",
)


def test_nothing_of_agentd_can_be_written_but_doors(ground: Ground) -> None:
    find = 'for place; do [ -e "$place" ] && find "$place" ! -type l "$test" $more; done 2>/dev/null'
    writable = ground.sh(f"test=-writable more=; {find}", *OURS).stdout.split()
    assert {path for path in writable if not path.endswith(".sock")} == set()
    special = ground.sh(f"test=-perm more=/7022; {find}", *OURS, user=None).stdout.split()
    assert {path for path in special if not path.endswith(".sock")} == set()


@pytest.mark.parametrize(
    "script",
    [
        *("mv /run/agentd/containers/box.sock /tmp/", "rm /run/agentd/agentd.sock", "mkdir /run/agentd/x"),
        *("ln -s /tmp /run/agentd/containers/x.sock", "rm -r /run/agentd", "mkdir /run/agentd-x"),
        *("touch /run/agentd/agentd.toml", "mkdir -p /run/agentd/agentd.toml.d", "touch /etc/agentd/x.toml"),
        *(
            "mkdir /var/lib/agentd/containers/evil",
            "ln -s /etc /var/lib/agentd/x",
            "mv /var/lib/agentd /tmp/",
        ),
        *(": >/run/agentd/manager.lock", "chmod 777 /run/agentd", "chgrp mallory /run/agentd/link.sock"),
    ],
)
def test_nothing_is_moved_replaced_or_put_beside(ground: Ground, script: str) -> None:
    done = ground.sh(script)
    assert done.returncode != 0 and re.search(DENIED, done.stderr), done


# The bus


def arguments(signature: str) -> list[str]:
    """Something for each argument of a method, as busctl takes it."""
    plain = {"s": "box", "o": "/", "u": "1", "t": "1", "b": "true"}
    return [plain.get(kind, "0") for kind in re.findall(r"a\{sv\}|[a-z]", signature)]


def members(ground: Ground, path: str, kind: str) -> Iterator[tuple[str, str, str]]:
    """The interface, name and signature of every method or property of org.agentd1 at a path."""
    interface = ""
    for line in ground.run("busctl", "introspect", "--no-legend", "org.agentd1", path).stdout.splitlines():
        name, what, signature = line.split()[:3]
        interface = name if what == "interface" else interface
        if what == kind and interface.startswith("org.agentd1."):
            yield interface, name.removeprefix("."), signature.replace("-", "")


PLACES = ("/org/agentd1", "/org/agentd1/container/box", "/org/agentd1/container/vault")


@pytest.mark.parametrize("path", PLACES)
def test_every_method_on_the_bus_is_refused_to_strangers(ground: Ground, path: str) -> None:
    methods = list(members(ground, path, "method"))
    assert len(methods) > 5
    for interface, name, signature in methods:
        words = (signature, *arguments(signature)) if signature else ()
        denied(ground, MALLORY, "busctl", "call", "org.agentd1", path, interface, name, *words)


def test_who_may_use_one_container_gives_no_orders_about_any(ground: Ground) -> None:
    harmless = {"Status", "ListContainers", "ListSessions", "GetContainer", "OpenContainer"}
    for path in PLACES:
        for interface, name, signature in members(ground, path, "method"):
            if name not in harmless:
                words = (signature, *arguments(signature)) if signature else ()
                denied(ground, EVE, "busctl", "call", "org.agentd1", path, interface, name, *words)
    denied(ground, EVE, "busctl", "call", *MANAGER, "OpenContainer", "sa{sv}", "vault", "0")
    denied(ground, EVE, "busctl", "call", *MANAGER, "ListSessions", "s", "vault")


def test_no_property_can_be_set(ground: Ground) -> None:
    for path in PLACES:
        for interface, name, signature in members(ground, path, "property"):
            value = arguments(signature) if len(signature) == 1 else ["0"]
            set_it = ("busctl", "set-property", "org.agentd1", path, interface, name, signature, *value)
            for user in (MALLORY, EVE):
                assert ground.run(*set_it, user=user, check=False).returncode != 0, name


def test_the_name_on_the_bus_is_not_to_be_had(ground: Ground) -> None:
    for name in ("org.agentd1", "org.agentd1.x"):
        denied(ground, MALLORY, "busctl", "call", *BUS, "RequestName", "su", name, "7")


FORGER = """\
import asyncio, sys
from agentd import bus

SYSTEMD, AGENTD = "/org/freedesktop/systemd1", "/org/agentd1"


def forged(path, interface, member, signature, *body):
    kind = bus.MessageType.SIGNAL
    return bus.Message(sys.argv[1], path, interface, member, kind, signature=signature, body=list(body))


async def main():
    async with await bus.Bus.connect("system") as ours:
        while True:
            for job in range(1000):
                ended = (job, f"{SYSTEMD}/job/{job}", "agentd@common.service", "failed")
                manager = "org.freedesktop.systemd1.Manager"
                ours._send(forged(SYSTEMD, manager, "JobRemoved", "uoss", *ended))
            news = ("org.freedesktop.systemd1", "", ours.unique_name)
            daemon = "org.freedesktop.DBus"
            ours._send(forged("/org/freedesktop/DBus", daemon, "NameOwnerChanged", "sss", *news))
            await asyncio.sleep(0.1)


asyncio.run(main())
"""


def test_signals_in_the_name_of_others_are_not_believed(ground: Ground) -> None:
    """Nobody needs leave to send a signal to a connection: not even to say that a worker has failed."""
    status = ground.run("busctl", "status", "org.agentd1").stdout
    manager = re.search(r"^UniqueName=(.*)$", status, re.M)
    assert manager is not None
    ground.run("agentctl", "stop", "common")
    with ground.machine.popen("python3", "-c", FORGER, manager[1], user=MALLORY) as forger:
        time.sleep(1)
        assert ground.prompt(EVE, "common", "say started").stdout == "started\n"
        forger.kill()


@pytest.mark.parametrize(
    "words",
    [
        ("Drain", "sa{sv}", "x" * 100_000, "0"),
        ("Drain", "sa{sv}", "box", "1", "timeout_usec", "s", "never"),
        ("Drain", "s", "box"),
        ("StartContainer", "s", "../../etc"),
        ("StartContainer", "s", "box.service; touch /tmp/pwned"),
        ("StopContainer", "v", "v", "v", "s", "box"),
        ("OpenContainer", "sa{sv}", "vault", "2", "agent", "s", "x", "uid", "u", "0"),
        ("Nothing", "s", "box"),
    ],
)
def test_odd_arguments_get_nobody_anywhere(ground: Ground, words: tuple[str, ...]) -> None:
    assert ground.run("busctl", "call", *MANAGER, *words, user=MALLORY, check=False).returncode != 0
    assert ground.property("/org/agentd1", "Manager", "Draining") is False


# Units


@pytest.mark.parametrize("verb", ["stop", "restart", "kill", "reload", "mask", "disable", "reset-failed"])
def test_no_unit_can_be_stopped_or_changed(ground: Ground, verb: str) -> None:
    units = ("agentd", "agentd-watch", "agentd@box", "agentd.socket", "agentd-link.socket", "agentd.slice")
    denied(ground, MALLORY, "systemctl", "--no-ask-password", verb, *units)


def test_systemd_takes_no_orders_about_units_of_agentd(ground: Ground) -> None:
    systemd = ("org.freedesktop.systemd1", "/org/freedesktop/systemd1", "org.freedesktop.systemd1.Manager")
    denied(ground, MALLORY, "busctl", "call", *systemd, "StopUnit", "ss", "agentd@box.service", "replace")
    denied(ground, MALLORY, "busctl", "call", *systemd, "StartUnit", "ss", "agentd@evil.service", "replace")
    denied(ground, MALLORY, "busctl", "call", *systemd, "KillUnit", "ssi", "agentd.service", "all", "9")
    change = ("SetUnitProperties", "sba(sv)", "agentd.slice", "true", "1", "TasksMax", "t", "1")
    denied(ground, MALLORY, "busctl", "call", *systemd, *change)


HELLO = """\
import socket, sys
import msgspec
from agentd import link
sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
sock.connect("/run/agentd/link.sock")
sock.settimeout(10)
try:
    hello = link.Hello(version=2, pid=int(sys.argv[2]), code="x", container=sys.argv[1])
    sock.send(msgspec.msgpack.encode(hello))
    answer = sock.recv(1 << 18)
except (ConnectionResetError, BrokenPipeError):  # which are told before the last words
    answer = sock.recv(1 << 18)
print(msgspec.msgpack.decode(answer))
"""


def test_a_user_unit_of_the_same_name_is_no_worker(ground: Ground) -> None:
    """Nor is whoever belongs to the group that may connect to the link's socket."""
    ground.run("loginctl", "enable-linger", MALLORY)
    up = lambda: ground.sh("systemctl --user is-system-running").stdout == "running\n"  # noqa: E731
    ground.machine.wait_for(up, 10, "the systemd of mallory")
    ground.machine.write("/home/mallory/hello.py", HELLO)
    unit = "/home/mallory/.config/systemd/user/agentd@box.service"
    ground.machine.write(unit, "[Service]\nType=oneshot\nExecStart=python3 /home/mallory/hello.py box 1\n")
    ground.run("chown", "--recursive", MALLORY, "/home/mallory")
    assert ground.sh("systemctl --user daemon-reload; systemctl --user start agentd@box").returncode == 1
    [refused] = [
        entry["MESSAGE"]
        for entry in ground.machine.journal("_SYSTEMD_USER_UNIT=agentd@box.service", "_COMM=python3")
        if "Error" in entry["MESSAGE"]
    ]
    assert refused == "PermissionError: [Errno 13] Permission denied"
    ground.run("useradd", "--create-home", "--groups=agentd", "member")
    for container, pid in (("box", ground.pids("agentd@box")["agentd@box"]), ("", "1"), ("evil", "1")):
        answer = ground.run("python3", "-c", HELLO, container, pid, user="member").stdout
        assert "Refused" in answer and "access_denied" in answer


# Places where others look


EVIL = """\
mkdir --mode=0755 /tmp/evil && cd /tmp/evil
for name in agentd json asyncio socket argparse encodings sitecustomize usercustomize msgspec rich less; do
    echo 'open("/tmp/evil-was-run", "a").write(__name__)' >$name.py
done
printf '#!/bin/sh\\necho $0 >>/tmp/evil-was-run\\n' >agentctl
for name in less pager systemctl journalctl podman ssh; do cp agentctl $name; done
chmod 755 less pager systemctl journalctl podman ssh agentctl
printf '[agents.evil]\\ncommand = ["sh", "-c", "touch /tmp/evil-was-run"]\\n' >agentd.toml
mkdir agentd.toml.d prompts && cp agentd.toml agentd.toml.d/ && chmod 1777 /tmp/evil
"""


@pytest.fixture(scope="module")
def evil(ground: Ground) -> str:
    """A folder of mallory's, in which root comes to work."""
    assert ground.sh(EVIL).returncode == 0
    return "/tmp/evil"


@pytest.mark.parametrize(
    "command",
    [
        *("agentctl list", "agentctl status", "agentctl doctor", "agentctl check", "agentctl logs box"),
        *("agentctl prompt box 'say hi'", "agentctl history box", "agentd check", "agentd --version"),
        "timeout 4 agentd serve --runtime-dir /root/embedded",
    ],
)
def test_root_runs_nothing_that_lies_about(ground: Ground, evil: str, command: str) -> None:
    python = {
        "PYTHONPATH": evil,
        "PYTHONSTARTUP": f"{evil}/json.py",
        "PYTHONHOME": evil,
        "PYTHONINSPECT": "",
    }
    for environment in ({}, python):
        ground.run("sh", "-c", f"cd {evil} && {command}", env=environment, check=False)
    assert ground.sh("cat /tmp/evil-was-run").stdout == ""


@pytest.mark.parametrize(
    "host",
    [
        *("-oProxyCommand=touch /tmp/pwned", "x@-oProxyCommand=touch /tmp/pwned", "-F/tmp/evil/config"),
        *("@-oProxyCommand=touch", "-l root", "[-oProxyCommand=touch /tmp/pwned]:22"),
    ],
)
def test_the_name_of_a_host_is_no_option_of_ssh(ground: Ground, host: str) -> None:
    refused = ground.run("agentctl", f"--host={host}", "list", check=False)
    assert refused.returncode == 64 and "is no host" in refused.stderr, refused.stderr
    assert ground.run("test", "-e", "/tmp/pwned", check=False).returncode == 1


@pytest.mark.parametrize(
    "name", ["-x", "--help", "../box", "box\nvault", "$(touch /tmp/pwned)", "box;id", "%i"]
)
def test_what_begins_or_reads_oddly_is_no_name(ground: Ground, name: str) -> None:
    for verb in (("prompt", "--", name, "say hi"), ("attach", "--", name), ("start", "--", name)):
        done = ground.run("agentctl", "--system", *verb, check=False)
        assert done.returncode in (64, 66, 69, 1, 2), (verb, done.returncode, done.stderr)
    assert ground.run("test", "-e", "/tmp/pwned", check=False).returncode == 1


FAKE = """\
import os, socket, sys
os.makedirs(os.path.dirname(sys.argv[1]), exist_ok=True)
server = socket.socket(socket.AF_UNIX)
server.bind(sys.argv[1])
os.chmod(sys.argv[1], 0o666)
server.listen()
print("up", flush=True)
while True:
    connection, _ = server.accept()
    print("caught", connection.recv(4096), flush=True)
    connection.close()
"""


@pytest.mark.parametrize(
    ("path", "environment"),
    [
        ("/tmp/fake/agentd/agentd.sock", {"XDG_RUNTIME_DIR": "/tmp/fake"}),
        ("/tmp/fake2/agentd-embedded/agentd.sock", {"XDG_RUNTIME_DIR": "/tmp/fake2"}),
        ("/tmp/agentd-0/agentd.sock", {}),
        ("/tmp/other/agentd-0/agentd.sock", {"TMPDIR": "/tmp/other"}),
    ],
)
def test_agentctl_talks_to_no_agentd_in_a_place_of_somebody_else(
    ground: Ground, path: str, environment: dict[str, str]
) -> None:
    """As after `su`, which leaves the environment of whoever was there before."""
    with ground.machine.dialogue("python3", "-c", FAKE, path, user=MALLORY) as fake:
        assert fake.hear() == "up"
        said = ground.run("agentctl", "prompt", "box", "say for-you", env=environment)
        assert said.stdout == "for-you\n"
        assert "box" in ground.run("agentctl", "list", env=environment).stdout
        with pytest.raises(TimeoutError):
            fake.hear(timeout=0.1)
        fake.process.kill()
    ground.sh('rm -rf "$(dirname "$1")"', path)


@pytest.mark.parametrize(
    "trap", ["mkdir -m 777 $1", "mkdir -m 700 $1", "ln -s /tmp/trap $1; mkdir /tmp/trap"]
)
def test_no_agentd_is_started_in_a_place_that_somebody_else_has_made(ground: Ground, trap: str) -> None:
    assert ground.sh(f"rm -rf /tmp/agentd-0 /tmp/trap; {trap}", "/tmp/agentd-0").returncode == 0
    refused = ground.run("timeout", "5", "agentd", "serve", check=False)
    assert refused.returncode == 78 and "/tmp/agentd-0" in refused.stderr, refused
    assert (
        ground.sh("find /tmp/agentd-0/ /tmp/trap -mindepth 1; rm -rf /tmp/agentd-0 /tmp/trap").stdout == ""
    )


# Too much of everything


CROWD = """\
import os, socket, sys, time
children = []
for uid in map(int, sys.argv[2].split()):
    pid = os.fork()
    if pid == 0:
        if uid:
            os.setgroups([])
            os.setgid(uid)
            os.setuid(uid)
        held = []
        for _ in range(int(sys.argv[1])):
            sock = socket.socket(socket.AF_UNIX)
            sock.connect("/run/agentd/agentd.sock")
            held.append(sock)
        time.sleep(1)
        waiting = 0
        for sock in held:
            sock.setblocking(False)
            try:
                sock.recv(1)
            except BlockingIOError:
                waiting += 1
        print(waiting, flush=True)
        time.sleep(float(sys.argv[3]))
        os._exit(0)
    children.append(pid)
for child in children:
    os.waitpid(child, 0)
"""


def test_one_account_cannot_keep_others_out_by_connections(ground: Ground) -> None:
    with ground.machine.dialogue("python3", "-c", CROWD, "900", "0", "4", user=EVE) as crowd:
        assert int(crowd.hear(20)) <= 32
        for user, container in ((BOB, "common"), (None, "box")):
            assert ground.prompt(user, container, "say in").stdout == "in\n"


def test_nobody_is_many_by_subordinate_uids(ground: Ground) -> None:
    """Each account has 65,536 of them, and each of them counted as an account of its own."""
    uids = " ".join(map(str, range(1, 41)))
    unshare = ("unshare", "--map-root-user", "--map-auto")
    if ground.machine.suite == "bookworm":
        unshare = ("podman", "unshare")
    crowd = ground.run(*unshare, "python3", "-c", CROWD, "32", uids, "0", user=MALLORY)
    waiting = [int(number) for number in crowd.stdout.split()]
    assert len(waiting) == 40 and sum(waiting) <= 32


LINK_FLOOD = """\
import socket, time
import msgspec
from agentd import link
held = []
for _ in range(200):
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    sock.connect("/run/agentd/link.sock")
    sock.setblocking(False)
    held.append(sock)
hello = msgspec.msgpack.encode(link.Hello(version=2, pid=1, code="x", container="box"))
more = msgspec.msgpack.encode(link.Failed(reason="x", message="y" * 190_000))
for sock in held[:20]:
    try:
        sock.send(hello)
    except OSError:
        pass
end = time.monotonic() + 2
while time.monotonic() < end:
    for sock in held[:20]:
        try:
            sock.send(more)
        except OSError:
            pass
    time.sleep(0.001)
alive = 0
for sock in held:
    try:
        while sock.recv(1 << 18):
            pass
    except BlockingIOError:
        alive += 1
    except OSError:
        pass
print(alive)
"""


def test_members_of_the_group_cannot_keep_the_manager_busy_over_the_link(ground: Ground) -> None:
    ground.run("useradd", "--create-home", "--groups=agentd", "flooder")
    before = ground.memory("agentd")
    assert ground.python(LINK_FLOOD, user="flooder") == "0"
    assert ground.memory("agentd") < before + 64 * 1024


HUGE_ENVIRONMENT = """\
import ctypes, struct, time
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = libc.sbrk.restype = ctypes.c_void_p
libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long)
size = 1 << 30
at = libc.mmap(None, size, 3, 0x4022, -1, 0)  # private, anonymous, without a page of its own
with open("/proc/self/stat") as file:
    stat = [0] * 3 + file.read().rpartition(")")[2].split()
code, stack, data, arguments = stat[26:28], [stat[28]], stat[45:48], stat[48:50]
numbers = [*code, *data[:2], data[2], libc.sbrk(0), *stack, *arguments, at, at + size]
told = struct.pack("=11QQIi", *map(int, numbers), 0, 0, -1)
print(libc.prctl(35, 14, told, len(told), 0), flush=True)  # PR_SET_MM, PR_SET_MM_MAP
time.sleep(60)
"""


def test_a_process_with_a_huge_environment_costs_workers_nothing(ground: Ground) -> None:
    """Workers look for their agents by it, among all processes of the host."""
    with ground.machine.dialogue("python3", "-c", HUGE_ENVIRONMENT, user=MALLORY) as huge:
        assert huge.hear() == "0"
        with ground.attached(EVE, "box", "--agent", "hostile"):
            path = ("org.agentd1", "/org/agentd1/container/box", "org.agentd1.Container")
            ground.run("busctl", "call", *path, "StopAgent", "s", "hostile")
        huge.process.kill()
    assert ground.memory("agentd@box") < 256 * 1024


def test_a_flood_of_calls_on_the_bus_keeps_nobody_from_theirs(ground: Ground) -> None:
    call = f"busctl call {' '.join(MANAGER)} Status >/dev/null 2>&1"
    flood = f"while :; do for n in 1 2 3 4 5 6 7 8; do {call} & done; wait; done"
    with ground.machine.popen("sh", "-c", flood, user=MALLORY) as flooder:
        began = time.monotonic()
        assert "box" in ground.run("agentctl", "list").stdout
        assert ground.prompt(EVE, "box", "say through").stdout == "through\n"
        assert time.monotonic() - began < 10
        flooder.kill()


# Containers that are not what they say


LABELS = (
    *("agentd.user=root", "agentd.users=mallory", "agentd.owner=1000", "agentd.command=touch /tmp/pwned"),
    *(
        "agentd.agents=scripted $(touch /tmp/pwned) %i ;id",
        "ai.terok.agents=hostile\nscripted",
        "agentd.=%n",
    ),
    *("agentd.runtime=host", "agentd.directory=/", "agentd.paths=/=/", "agentd.x=" + "y" * 60_000),
)


def test_containers_of_an_ordinary_account_are_not_the_hosts(ground: Ground) -> None:
    before = ground.listed()
    for name in ("box", "mine"):
        create = (
            "podman",
            "create",
            "--rootfs",
            f"--name={name}",
            "--label=agentd.enable=true",
            "/",
            "true",
        )
        ground.run(*create, user=MALLORY)
    time.sleep(1)
    assert ground.listed().keys() == before.keys()
    [answer] = ground.says(MALLORY, attach("mine"))
    assert reason(answer) == "no_such_container"


def test_a_label_opts_in_and_does_nothing_else(ground: Ground) -> None:
    ground.start_container("labelled", *(f"--label={label}" for label in LABELS))
    ground.machine.wait_for(lambda: "labelled" in ground.listed(), 10, "the watcher to tell of it")
    assert reason(ground.says(MALLORY, attach("labelled"))[0]) == "access_denied"
    assert ground.prompt(None, "labelled", "say hi", "--agent", "hostile").stdout == "hi\n"
    assert ground.run("test", "-e", "/tmp/pwned", check=False).returncode == 1
    assert ground.show("agentd@labelled.service", "User") == ""


HUGE_IMAGE = """\
set -e
mkdir /root/image && cd /root/image && podman save localhost/agentbox | tar -x
python3 -c '
import hashlib, json
manifest = json.load(open("manifest.json"))
configuration = json.load(open(manifest[0]["Config"]))
configuration["config"] = {"WorkingDir": "/" + "a" * 300_000, "Labels": {"agentd.enable": "true"}}
data = json.dumps(configuration).encode()
manifest[0] |= {"Config": hashlib.sha256(data).hexdigest() + ".json", "RepoTags": ["localhost/huge:latest"]}
open(manifest[0]["Config"], "wb").write(data)
json.dump(manifest, open("manifest.json", "w"))'
tar -c * | podman load
podman create --name=huge localhost/huge true
"""


def test_an_image_with_a_huge_folder_does_not_blind_the_watcher(ground: Ground) -> None:
    """What is told of a container has to fit into a message, whoever has made its image."""
    done = ground.sh(HUGE_IMAGE, user=None)
    assert done.returncode == 0, done.stderr
    ground.start_container("afterwards")
    ground.machine.wait_for(lambda: "afterwards" in ground.listed(), 10, "the watcher to tell of another")
    ground.machine.wait_for(lambda: "huge" in ground.listed(), 10, "the watcher to tell of it")
    assert "cannot be sent" not in str(ground.machine.journal("--unit=agentd-watch.service"))


def test_everybody_can_still_work(ground: Ground) -> None:
    assert ground.prompt(EVE, "box", "say still-here").stdout == "still-here\n"
    assert ground.prompt(BOB, "vault", "say still-here").stdout == "still-here\n"
    assert ground.run("systemctl", "--failed", "--quiet").stdout == ""
