# SPDX-License-Identifier: Apache-2.0
"""What code in a container tries that has the agent, its output and the shared folders: nobody else suffers.

bob talks to agents that are not his friends any more; eve is somebody else in the same container, and the
host and the other containers are what is to be reached.
"""

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from .attack import BOB, EVE, SECRET, Editor, Ground, attach, reason
from .machine import Machine

STATE = "/var/lib/agentd"
ODD = """\
import json, sys

with open("/work/odd-id") as file:
    session = json.load(file)
for line in sys.stdin:
    message = json.loads(line)
    result = {"stopReason": "end_turn"}
    if message.get("method") == "initialize":
        odd = {"name": "x\\0\\ud800" + "n" * 100_000, "version": "v\\0" * 50_000}
        result = {"protocolVersion": 1, "agentInfo": odd, "agentCapabilities": {}}
    elif message.get("method") == "session/new":
        result = {"sessionId": session}
    if "id" in message:
        print(json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": result}), flush=True)
    if message.get("method") == "session/new":
        update = {"sessionUpdate": "session_info_update", "title": "t\\0\\ud800\\n" * 50_000}
        params = {"sessionId": session, "update": update}
        print(json.dumps({"jsonrpc": "2.0", "method": "session/update", "params": params}), flush=True)
"""
LOOKS = "ls -l /proc/self/fd >/work/fds; env >/work/env; exec python3 /srv/agents/scripted.py"
MORE = """\
[limits]
engine_sec = 3
probe_sec = 2
[agents.looks]
command = ["sh", "/srv/agents/looks.sh"]
[agents.odd]
command = ["python3", "/srv/agents/odd.py"]
[agents.endless]
command = ["sh", "-c", "tr '\\\\0' a </dev/zero"]
[agents.complaining]
command = ["sh", "-c", "tr '\\\\0' a </dev/zero >&2"]
[agents.babbling]
command = ["yes"]
[agents.liar]
command = ["python3", "/srv/agents/liar.py"]
[agents.keyed]
command = ["python3", "/srv/agents/scripted.py"]
env = { KEY = { file = "/srv/box/key" } }
"""


@pytest.fixture(scope="module")
def ground(suite: str, staged: Path) -> Iterator[Ground]:
    with Machine(suite, layers=[staged]) as machine:
        ground = Ground(machine)
        machine.write("/etc/agentd/agentd.toml.d/10-more.toml", MORE)
        machine.write("/srv/agents/odd.py", ODD)
        machine.write("/srv/agents/liar.py", LIAR)
        machine.write("/srv/agents/looks.sh", LOOKS)
        ground.settle("box", "vault", "common")
        yield ground


@pytest.fixture(autouse=True)
def unharmed(ground: Ground) -> Iterator[None]:
    """Whatever is tried, the manager goes on and keeps its connection to the bus."""

    def known() -> tuple[Any, ...]:
        owner = ground.run("busctl", "status", "org.agentd1").stdout
        return ground.pids("agentd", "agentd-watch"), re.findall(r"^UniqueName=.*$", owner, re.M)

    before = known()
    yield
    assert known() == before


# What an agent says


def line(**members: Any) -> str:
    return json.dumps({"jsonrpc": "2.0", **members})


def forged(victim: str) -> list[str]:
    """Lines of an agent that knows another account's session, and means it."""
    chunk = {"sessionUpdate": "agent_message_chunk", "content": {"type": "text", "text": "forged"}}
    option = {"optionId": "yes", "name": "Yes", "kind": "allow_always"}
    ask = {"sessionId": victim, "toolCall": {"toolCallId": "1"}, "options": [option]}
    update = line(method="session/update", params={"sessionId": victim, "update": chunk})
    answers = [
        line(id=number, result={"stopReason": "end_turn", "sessionId": victim}) for number in range(60)
    ]
    return [
        update,
        update.replace('"sessionId"', '"sessionId": "mine", "sessionId"'),
        update.replace('"params"', '"params": {"sessionId": "mine"}, "params"'),
        line(id=99, method="session/request_permission", params=ask),
        line(id=98, method="fs/write_text_file", params={"sessionId": victim, "path": "/work/x"}),
        line(method="session/cancel", params={"sessionId": victim}),
        line(method="$/cancel_request", params={"requestId": 1}),
        line(id=97, method="session/close", params={"sessionId": victim}),
        line(id=96, method="_agentd/history", params={"sessionId": victim}),
        line(method="_agentd/session/ended", params={"sessionId": victim, "outcome": "end_turn"}),
        *answers,
        line(id=10**300, result={}),
        line(id="1" * 5000, error={"code": 0}),
        line(id=None, result={"stopReason": "end_turn"}),
        line(id={"a": [1]}, result={}),
        line(id=-1, result={}),
        line(id=1.5, error=[]),
        '{"jsonrpc":"2.0","id":1e999,"result":{}}',
        '{"jsonrpc":"2.0","method":"session/update","params":{"sessionId":"\\ud800","update":"\\u0000"}}',
        '{"jsonrpc":"2.0","method":"session/update","params":' + "[" * 50_000 + "]" * 50_000 + "}",
        '{"jsonrpc":"2.0","method":"session/update","params":' + '{"a":' * 50_000,
        "[" + update + "]", "{}", "null", "[]", '"', "{" * 1000, "\x01\x02\x7f", "x" * 100_000,
    ]  # fmt: skip


def test_forged_words_reach_nobody_else_in_the_container(ground: Ground) -> None:
    with ground.attached(EVE, "common", "--agent", "hostile") as eve:
        turn = eve.prompt("say mine", "hold", "say done")
        eve.until_text("mine")
        with ground.attached(BOB, "common", "--agent", "hostile") as bob:
            bob.prompt(*(f"raw {each}" for each in forged(eve.session)))
            bob.prompt("bytes fffe00c328f0288cbc0a00000a", "say on")
        with ground.attached(
            BOB, "common", "--agent", "hostile"
        ) as bob:  # it was his agent, and may have ended
            assert bob.answer(bob.prompt("say again"))[1] == ["again"]
        eve.release()
        heard = until_answered(eve, turn)
        assert heard[-1]["result"]["stopReason"] == "end_turn"
        assert [frame["params"]["update"]["content"]["text"] for frame in heard[:-1]] == ["done"]


def until_answered(editor: Editor, number: int) -> list[dict[str, Any]]:
    """Everything that is heard up to the answer."""
    heard = [editor.hear()]
    while heard[-1].get("id") != number or "method" in heard[-1]:
        heard.append(editor.hear())
    return heard


def test_an_agent_cannot_speak_in_a_session_of_another_agent(ground: Ground) -> None:
    """Both are of one connection: what it says has another name there."""
    editor = ground.as_editor(BOB, "common")
    with editor.dialogue:
        editor.open()
        victim = editor.session
        new = editor.call("session/new", {"cwd": "/srv/agents", "mcpServers": []})
        editor.session = new["result"]["sessionId"]
        editor.call(
            "session/set_config_option",
            {"sessionId": editor.session, "configId": "agentd.agent", "value": "hostile"},
        )
        heard = until_answered(
            editor, editor.prompt(*(f"raw {each}" for each in forged(victim)[:9]), "say end")
        )
        named = [
            frame.get("params", {}).get("sessionId") for frame in heard if "forged" in json.dumps(frame)
        ]
        assert named and victim not in named


@pytest.mark.parametrize(
    "session",
    [
        *("../../../etc/x", "a\0b", "\ud800", "x" * 300_000, "", "%i %n", "$(touch /tmp/pwned)", "a\nb"),
        "'; DROP TABLE sessions; --",
    ],
)
def test_odd_names_of_sessions_and_agents_break_nothing(ground: Ground, session: str) -> None:
    ground.machine.write("/srv/common/odd-id", json.dumps(session))
    editor = ground.as_editor(BOB, "common", "--agent", "odd")
    with editor.dialogue:
        editor.call("initialize", {"protocolVersion": 1, "clientCapabilities": {}})
        made = editor.call("session/new", {"cwd": "/srv/agents", "mcpServers": []})
        if "result" in made:
            editor.session = made["result"]["sessionId"]
            editor.answer(editor.prompt("anything"))
        assert ground.property("/org/agentd1/container/common", "Container", "NClients") == 1
        for command in (("list",), ("sessions",), ("status",)):
            ground.run("agentctl", *command, "--json")
        for path in ("/org/agentd1/container/common", "/org/agentd1"):
            ground.run("busctl", "--json=short", "introspect", "org.agentd1", path)
        ground.call("Drain", "sa{sv}", "common", "0")
        ground.call("Undrain", "s", "common")
    kept = ground.run("find", STATE, "-newer", "/srv/common/odd-id", "-type", "f").stdout.split()
    assert all(path.startswith((f"{STATE}/containers/common/", f"{STATE}/manager/")) for path in kept), kept
    assert ground.run("test", "-e", "/tmp/pwned", check=False).returncode == 1


@pytest.mark.parametrize("agent", ["endless", "complaining", "babbling"])
def test_an_agent_that_never_stops_talking_costs_its_own_clients_only(ground: Ground, agent: str) -> None:
    with ground.as_editor(BOB, "common", "--agent", agent).dialogue as dialogue:
        Editor(dialogue).send("initialize", {"protocolVersion": 1, "clientCapabilities": {}})
        time.sleep(1)
        began = time.monotonic()
        assert ground.prompt(EVE, "common", "say through", "--agent", "hostile").stdout == "through\n"
        assert time.monotonic() - began < 10
        assert ground.memory("agentd@common") < 512 * 1024
        logged = ground.run("journalctl", "--quiet", "--output=cat", "--unit=agentd@common", "--since=-15s")
        assert len(logged.stdout) < 1 << 20, "the journal is everybody's"
        dialogue.process.kill()


# Files of the host


PATHS = [
    *(
        "/etc/shadow",
        "/work/../etc/shadow",
        "/work/../../../etc/shadow",
        "//etc/shadow",
        "/work/./../srv/vault",
    ),
    *("work/x", "../x", "/workx", "/proc/self/root/etc/shadow", "/work/\0/../x", "file:///etc/shadow", ""),
    "/srv/agents/../../etc/shadow",
]


@pytest.mark.parametrize("method", ["fs/read_text_file", "fs/write_text_file", "terminal/create"])
def test_an_agent_gets_its_client_to_no_file_outside_of_shared_folders(ground: Ground, method: str) -> None:
    """And agentd opens none for it: the name of a link in the shared folder is all the client gets."""
    ground.run("podman", "exec", "box", "ln", "-sf", "/etc/shadow", "/work/link")
    name = "cwd" if method == "terminal/create" else "path"
    fs = {"readTextFile": True, "writeTextFile": True}
    editor = ground.as_editor(EVE, "box", "--agent", "hostile")
    with editor.dialogue:
        editor.call("initialize", {"protocolVersion": 1, "clientCapabilities": {"fs": fs, "terminal": True}})
        new = editor.call("session/new", {"cwd": "/srv/agents", "mcpServers": []})
        editor.session = new["result"]["sessionId"]
        params = {"sessionId": editor.session, "content": "x", "command": "cat"}
        calls = [f"call {method} {json.dumps({**params, name: path})}" for path in PATHS]
        heard = until_answered(editor, editor.prompt(*calls))
        asked = [frame["params"] for frame in heard if frame.get("method") == method]
        assert asked == []
        assert json.dumps(heard).count("unmapped_path") >= len(PATHS) - 1, heard
        turn = editor.prompt(f"call {method} {json.dumps({**params, name: '/work/a/../link'})}")
        while (frame := editor.hear()).get("method") != method:
            pass
        assert frame["params"][name] == "/srv/box/link"
        editor.dialogue.say(line(id=frame["id"], error={"code": 1, "message": "no"}))
        editor.answer(turn)


@pytest.mark.parametrize(
    "make",
    ["mkfifo $1", "ln -s /dev/zero $1", "ln -s /dev/tty $1", "mkdir $1", "truncate -s 10G $1", "ln -s $1 $1",
     "printf 'a\\0b' >$1", "printf '\\377' >$1"],
)  # fmt: skip
def test_a_credential_that_is_no_plain_file_hangs_nothing(ground: Ground, make: str) -> None:
    inside = f"rm -rf $1; {make}"
    ground.run("podman", "exec", "box", "sh", "-c", inside, "sh", "/work/key")
    began = time.monotonic()
    done = ground.prompt(None, "box", "env KEY", "--agent", "keyed")
    assert done.returncode != 0 and "KEY" in done.stderr and time.monotonic() - began < 10, done
    assert ground.prompt(EVE, "box", "say on", "--agent", "hostile").stdout == "on\n"


# Out of the container


def test_an_agent_has_three_descriptors_and_an_environment_of_its_own(ground: Ground) -> None:
    assert ground.prompt(None, "box", "say hi", "--agent", "looks").stdout == "hi\n"
    fds = [each.split() for each in ground.machine.read("/srv/box/fds").splitlines()[1:]]
    open_by_ls = [each for each in fds if not each[-1].startswith("/proc/")]
    assert sorted(each[-3] for each in open_by_ls) == ["0", "1", "2"]
    names = {each.partition("=")[0] for each in ground.machine.read("/srv/box/env").splitlines()}
    private = (
        r"NOTIFY_|LISTEN_|WATCHDOG_|MAINPID|INVOCATION_ID|JOURNAL_|CREDENTIALS|DBUS_|XDG_|SSH_|SUDO|AGENT_"
    )
    assert [name for name in names if re.match(private, name)] == []
    assert {name for name in names if name.startswith("AGENTD_")} == {"AGENTD_OWNER"}
    assert SECRET not in ground.machine.read("/srv/box/env")


SOCKETS = """\
import os, socket
print([at for at in ("/run/agentd", "/var/lib/agentd", "/run/dbus", "/run/systemd") if os.path.exists(at)])
for line in open("/proc/net/unix"):
    path = line.split()[7] if len(line.split()) > 7 else ""
    if path.startswith("@") and ("agentd" in path or "dbus" in path):
        print(path)
"""


def test_nothing_of_agentd_is_to_be_seen_from_inside(ground: Ground) -> None:
    python = ("python3", "-c", SOCKETS)
    assert ground.run("podman", "exec", "box", *python).stdout == "[]\n"
    options = ("--network=host", "--rm", "--entrypoint=")
    assert ground.run("podman", "run", *options, "localhost/agentbox", *python).stdout == "[]\n"
    seen = ground.run("podman", "exec", "box", "sh", "-c", "cat /proc/[0-9]*/cmdline | tr '\\0' ' '").stdout
    assert "agentd worker" not in seen and "podman exec" not in seen


LIAR = """\
import socket, struct, sys


def text(words):
    return bytes([0xA0 | len(words)]) + words.encode()


hello = {"type": text("Hello"), "version": b"\\2", "code": text("x"), "container": text("bare")}
folder = sys.argv[1] if sys.argv[1:] else "/work"
with open(f"{folder}/pid") as file:
    hello["pid"] = b"\\xce" + struct.pack(">I", int(file.read()))
link = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
link.settimeout(5)
try:
    link.connect("/run/agentd/link.sock")
    link.send(bytes([0x80 | len(hello)]) + b"".join(text(key) + value for key, value in hello.items()))
    said = link.recv(1 << 18)
except OSError as exc:
    said = str(exc).encode()
with open(f"{folder}/said", "wb") as file:
    file.write(said)
"""


def test_an_agent_in_the_workers_control_group_is_not_the_worker(ground: Ground) -> None:
    """As in a container without control groups of its own, which somebody has given agentd's sockets."""
    can_do_without = ground.machine.suite != "bookworm"  # runc, which is its runtime, cannot
    without = ("--cgroups=disabled",) if can_do_without else ()
    ground.start_container("bare", *without, "--volume=/run/agentd:/run/agentd")
    ground.machine.wait_for(lambda: ground.idle("bare"), 10, "the watcher to tell of bare")
    with ground.attached(None, "bare", "--agent", "hostile") as root:
        worker = ground.pids("agentd@bare")["agentd@bare"]
        ground.machine.write("/srv/bare/pid", worker)
        if can_do_without:
            ground.prompt(None, "bare", "say hi", "--agent", "liar")
        else:
            group = "/sys/fs/cgroup/agentd.slice/agentd@bare.service/cgroup.procs"
            ground.sh(f"echo 0 >{group} && exec python3 /srv/agents/liar.py /srv/bare", user=None)
        said = ground.machine.read("/srv/bare/said")
        assert "Refused" in said and "access_denied" in said, said
        assert root.answer(root.prompt("say mine"))[1] == ["mine"]
        assert ground.pids("agentd@bare")["agentd@bare"] == worker


# Processes that are not what they say


def test_a_mark_of_another_container_neither_saves_nor_ends_anybody(ground: Ground) -> None:
    """The mark is no secret: it is made of the container's name."""
    owner = f"from agentd.proctree import owner_of; print(owner_of({STATE!r}, 'box'))"
    mark = ground.python(owner, user=None)
    sleep = ("env", f"AGENTD_OWNER={mark}/0", "sleep", "4321")
    ground.run("podman", "exec", "--detach", "common", *sleep)
    ground.run("podman", "exec", "--detach", "common", "env", f"AGENTD_OWNER={mark}", *sleep[2:])
    sleeping = ("podman", "exec", "common", "pgrep", "--full", "--count", "^sleep 4321")
    ground.machine.wait_for(lambda: ground.run(*sleeping, check=False).stdout == "2\n", 10)
    ground.run("agentctl", "stop", "box")
    assert ground.prompt(EVE, "box", "say hi", "--agent", "hostile").stdout == "hi\n"
    assert ground.run(*sleeping).stdout == "2\n"


CHAIN = """\
import os, sys, time
left = int(sys.argv[1])
while left and os.fork() == 0:
    left -= 1
if not left:
    open("/work/deep", "w").close()
time.sleep(600)
"""


def test_very_many_processes_do_not_keep_an_agent_from_being_stopped(ground: Ground) -> None:
    ground.run("podman", "exec", "--detach", "common", "python3", "-c", CHAIN, "300")
    deep = ("test", "-e", "/srv/common/deep")
    ground.machine.wait_for(lambda: ground.run(*deep, check=False).returncode == 0, 30, "the processes")
    with ground.attached(EVE, "box", "--agent", "hostile") as eve:
        eve.answer(eve.prompt("child"))
        path = ("org.agentd1", "/org/agentd1/container/box", "org.agentd1.Container")
        began = time.monotonic()
        ground.run("busctl", "call", *path, "StopAgent", "s", "hostile")
        assert time.monotonic() - began < 10
        assert eve.answer(eve.prompt("say again"))[1][-1] == "again"
    ground.run("podman", "exec", "common", "pkill", "-KILL", "python3", check=False)


# Containers that change under a worker


@pytest.mark.parametrize("end", ["rm --force --time=0 shift", "rename shift moved"])
def test_a_name_that_is_used_again_leads_to_the_container_that_has_it_now(ground: Ground, end: str) -> None:
    def which() -> str:
        return ground.prompt(None, "shift", "env WHICH", "--agent", "hostile").stdout

    ground.start_container("shift", "--env=WHICH=old")
    ground.machine.wait_for(lambda: "shift" in ground.listed(), 10, "the watcher to tell of shift")
    assert which() == "WHICH=old\n"
    ground.run("podman", *end.split())
    ground.start_container("shift", "--env=WHICH=new")
    ground.machine.wait_for(lambda: which() == "WHICH=new\n", 15, "the new container")
    ground.run("podman", "rm", "--force", "--time=0", "shift")
    ground.machine.wait_for(lambda: "shift" not in ground.listed(), 10, "the end of shift")


TRAPS = {
    "hangs": "import time; time.sleep(1000)",
    "lies": "print('scripted\\n$(touch /tmp/pwned)\\n../../bin/sh\\n' * 1000)",
    "floods": "while True: print('x' * 65536)",
}


@pytest.mark.parametrize("trap", TRAPS)
def test_a_shell_that_was_replaced_is_not_waited_for_nor_believed(ground: Ground, trap: str) -> None:
    name = f"trap-{trap}"
    ground.start_container(name)
    ground.machine.write(f"/srv/{name}/sh", f"#!/usr/bin/python3\n{TRAPS[trap]}\n", mode=0o755)
    ground.run("podman", "exec", name, "sh", "-c", "cp /work/sh /bin/sh.new && mv /bin/sh.new /bin/sh")
    ground.machine.wait_for(lambda: name in ground.listed(), 10, "the watcher to tell of it")
    began = time.monotonic()
    editor = ground.as_editor(None, name)
    with editor.dialogue:
        greeting = editor.call("initialize", {"protocolVersion": 1, "clientCapabilities": {}})
        assert "result" in greeting and "$(" not in json.dumps(greeting)
        assert time.monotonic() - began < 15
        editor.dialogue.process.kill()
    assert ground.run("test", "-e", "/tmp/pwned", check=False).returncode == 1
    ground.run("podman", "rm", "--force", "--time=0", name)


def test_nobody_else_has_suffered(ground: Ground) -> None:
    for user, container in ((EVE, "box"), (BOB, "vault"), (EVE, "common")):
        assert ground.prompt(user, container, "say on", "--agent", "hostile").stdout == "on\n"
    assert reason(ground.says(EVE, attach("vault"))[0]) == "access_denied"
    assert ground.run("systemctl", "--failed", "--quiet").stdout == ""
