# SPDX-License-Identifier: Apache-2.0

import asyncio
import os
import shutil
import socket
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from pytest_subprocess import FakeProcess

from agentd.config import Configuration, Container, Limits
from agentd.errors import AgentFailed, EngineFailed, EngineMissing, NoSuchContainer, NotRunning
from agentd.link import ContainerInfo
from agentd.proctree import MARKER
from agentd.runtimes import Command, entering, lifetime, runtime, start
from agentd.runtimes.accounts import Account
from agentd.runtimes.machined import PROPERTIES, Machined
from unit.loop import run, settle

SHOWN = "Leader=4242\nClass=container\nRootDirectory=/var/lib/machines/box\nState=running\n"
BOX = ContainerInfo(
    name="box", runtime="machined", running=True, id="box", pid=4242, image="/var/lib/machines/box"
)
STOPPED = ContainerInfo(name="box", runtime="machined", running=False, id="box")
UNKNOWN = "Could not get path to machine: No machine 'box' known\n"


def show(name: str = "box") -> list[str]:
    return ["machinectl", "show", *(f"--property={each}" for each in PROPERTIES), "--", name]


def made(**containers: Container) -> Machined:
    return Machined(Configuration(containers=containers))


def test_it_is_the_runtime_of_that_name() -> None:
    assert isinstance(runtime("machined", Configuration()), Machined)


# inspect


def test_inspect_tells_what_machined_knows(fp: FakeProcess) -> None:
    fp.register(show(), stdout=SHOWN)
    assert run(made().inspect("box")) == BOX


@pytest.mark.parametrize(("state", "running"), [("opening", True), ("running", True), ("closing", False)])
def test_what_is_closing_is_not_running(fp: FakeProcess, state: str, running: bool) -> None:
    fp.register(show(), stdout=SHOWN.replace("State=running", f"State={state}"))
    assert run(made().inspect("box")).running is running


def test_a_machine_that_is_not_there(fp: FakeProcess) -> None:
    fp.register(show(), returncode=1, stderr=UNKNOWN, occurrences=2)
    for machined in (made(), made(box=Container())):
        with pytest.raises(NoSuchContainer, match=r"^machined knows no machine box"):
            run(machined.inspect("box"))


def test_a_machine_that_is_configured_and_not_there_is_stopped(fp: FakeProcess) -> None:
    fp.register(show(), returncode=1, stderr=UNKNOWN)
    assert run(made(box=Container(runtime="machined")).inspect("box")) == STOPPED


def test_a_virtual_machine_is_no_container(fp: FakeProcess) -> None:
    fp.register(show(), stdout=SHOWN.replace("=container", "=vm"))
    with pytest.raises(NoSuchContainer, match="the machine box is of the class vm"):
        run(made(box=Container(runtime="machined")).inspect("box"))


def test_machined_that_cannot_be_reached_is_quoted(fp: FakeProcess) -> None:
    fp.register(show(), returncode=1, stderr=b"Failed to connect to bus: \xff\n")
    with pytest.raises(EngineFailed, match=r"^machinectl show box: Failed to connect to bus: .$"):
        run(made(box=Container(runtime="machined")).inspect("box"))


@pytest.mark.parametrize(
    "garbage", ["Class=container\n", "Class=container\nLeader=\n", SHOWN.replace("42", "x")]
)
def test_garbage_is_an_error_of_machined(fp: FakeProcess, garbage: str) -> None:
    fp.register(show(), stdout=garbage)
    with pytest.raises(EngineFailed, match="did not tell its first process"):
        run(made().inspect("box"))


def test_machinectl_that_is_not_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(EngineMissing, match=r"^machinectl is not installed"):
        run(made().inspect("box"))


def test_machinectl_that_hangs_is_ended_at_the_deadline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program(tmp_path, "machinectl", "exec sleep 60", monkeypatch)
    slow = Machined(Configuration(limits=Limits(engine_sec=0.1)))
    with pytest.raises(EngineFailed, match=r"^machinectl show gave no answer within 0.1 s$"):
        run(slow.inspect("box"))


# containers


def test_machines_are_listed_that_are_configured(fp: FakeProcess) -> None:
    entries = {
        "box": Container(runtime="machined"),
        "anyones": Container(),
        "absent": Container(),
        "theirs": Container(runtime="podman"),
    }
    fp.register(show("box"), returncode=1, stderr=UNKNOWN)
    fp.register(show("anyones"), stdout=SHOWN)
    fp.register(show("absent"), returncode=1, stderr=UNKNOWN.replace("box", "absent"))
    found = run(made(**entries).containers())
    assert [(each.name, each.running) for each in found] == [("box", False), ("anyones", True)]


def test_where_no_machine_is_configured_machined_is_not_asked() -> None:
    assert run(made(theirs=Container(runtime="podman")).containers()) == []


# exec, by the machine's systemd

SYSTEMD_RUN = r"""
tr '\0' '\n' </proc/$$/cmdline >{folder}/arguments
tr '\0' '\n' </proc/$$/environ >{folder}/environment
while [ "$1" != -- ]; do shift; done
shift
for word; do shift; set -- "$@" "$(printf '%s_' "$word" | sed 's/\$\$/$/g')"; done
for word; do shift; set -- "$@" "${{word%_}}"; done
exec env -i PATH="$PATH" "$@"
"""
"""Does with a command what systemd-run does: no variable comes along by itself, and $$ means $."""


def program(folder: Path, name: str, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / name).write_text(f"#!/bin/sh\n{script}", encoding="utf-8")
    (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")


@pytest.fixture
def systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine whose first process is systemd. The folder is where systemd-run leaves what it got."""
    monkeypatch.setattr(entering, "_about", lambda container, file: {"comm": "systemd\n"}[file])
    program(tmp_path, "systemd-run", SYSTEMD_RUN.format(folder=tmp_path), monkeypatch)
    return tmp_path


def talk(command: Command, said: bytes = b"") -> tuple[int, bytes]:
    """The status of an exec, and what it printed, when it is told something and then nothing more."""

    async def test() -> tuple[int, bytes]:
        child, pipes = made().exec(BOX, command)
        os.write(pipes.stdin, said)
        os.close(pipes.stdin)
        status = await child.wait()
        printed = os.read(pipes.stdout, 1 << 20)
        os.close(pipes.stdout)
        os.close(pipes.stderr)
        return status, printed

    return run(test())


AGENT = ["sh", "-c", 'env -0; cat; printf "%s|" "$@"; exit 9', "agent"]


def test_the_machines_systemd_runs_it(systemd: Path) -> None:
    odd = ["a$HOME", "${X}", "$$", "50%n", "", "two words", '"', "\\x41"]
    status, printed = talk(Command([*AGENT, *odd], {}), b"a frame\n")
    assert (status, printed.rpartition(b"\0")[2]) == (9, b"a frame\n" + "|".join([*odd, ""]).encode())


def test_who_and_where_are_options(systemd: Path) -> None:
    talk(Command(["true"], {MARKER: "me/1"}, user="dev:staff", workdir="/src"))
    options = (systemd / "arguments").read_text().split("\n--\n")[0].splitlines()[2:]
    modes = ["--pipe", "--quiet", "--collect", "--wait", "--service-type=exec"]
    last = "--description=agent of agentd"
    who = ["--machine=box", "--uid=dev", "--gid=staff", "--working-directory=/src", f"--setenv={MARKER}"]
    assert options == [*modes, *who, last]
    talk(Command(["true"], {}))
    assert (systemd / "arguments").read_text().split("\n--\n")[0].splitlines()[2:] == [
        *modes,
        *who[:1],
        "--uid=root",
        last,
    ]


ODD = {
    "EMPTY": "",
    "LINES": "one\n\ntwo\n",
    "SLASHES": "\\n \\\\ \\c \\0101 \\",
    "BLANKS": "  both ends\t ",
    "QUOTES": "'\"`$(id)$HOME",
    "UNICODE": "é ŁĂ 漢字 \U0001f980 \x81\x88",
    "CONTROL": "\x01\r\x1b\x7f",
    "IFS": "=",
}


def test_an_environment_arrives_as_it_was_given(systemd: Path) -> None:
    _, printed = talk(Command(["env", "-0"], ODD))
    got = dict(entry.split("=", 1) for entry in printed.decode().split("\0")[:-1])
    assert {key: got.get(key) for key in ODD} == ODD
    assert got.keys() - ODD.keys() <= {"PATH", "PWD", "OLDPWD", "SHLVL", "_"}


def test_an_environment_may_be_longer_than_a_pipe_is_by_itself(systemd: Path) -> None:
    status, printed = talk(
        Command(["sh", "-c", 'echo "${#A} ${#B}"; cat'], {"A": "x" * 90_000, "B": "y" * 90_000}), b"on"
    )
    assert (status, printed) == (0, b"90000 90000\non")


def test_of_an_environment_only_the_mark_is_seen_from_outside(systemd: Path) -> None:
    secrets = {"ANTHROPIC_API_KEY": "hunter2", "PATH": "/hunter2", "LD_PRELOAD": "/hunter2", MARKER: "me/1"}
    talk(Command(["true"], secrets))
    assert "hunter2" not in (systemd / "arguments").read_text() + (systemd / "environment").read_text()
    assert f"{MARKER}=me/1" in (systemd / "environment").read_text().splitlines()


def test_a_program_that_is_not_there_has_the_status_of_shells(systemd: Path) -> None:
    assert talk(Command(["no-such-agent"], {}))[0] == 127
    assert talk(Command(["/etc"], {}))[0] == 126


def test_nothing_is_run_with_half_an_environment() -> None:
    done = subprocess.run(
        ["sh", "-c", start.READ_ENVIRONMENT, "sh", "echo", "ran"], input=b"A=1\n", capture_output=True
    )
    assert (done.returncode, done.stdout) == (1, b"")


def test_systemd_run_that_ends_at_once_is_told_by_its_status(
    systemd: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program(systemd, "systemd-run", "exec <&-; exit 1", monkeypatch)

    async def test() -> int:
        child, pipes = made().exec(BOX, Command(["agent"], ODD))
        for each in pipes:
            os.close(each)
        return await child.wait()

    assert run(test()) == 1


def test_an_environment_that_cannot_be_written_is_an_error() -> None:
    ours, theirs = socket.socketpair()  # not a pipe, whose size could be set
    with ours, theirs, pytest.raises(EngineFailed, match="an environment of 5 bytes cannot be passed on"):
        start.feed(ours.fileno(), b"A=1\n\n")


def test_systemd_run_that_is_not_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(entering, "_about", lambda container, file: "systemd\n")
    monkeypatch.setenv("PATH", str(tmp_path))

    async def test() -> None:
        made().exec(BOX, Command(["agent"], {}))

    with pytest.raises(EngineMissing, match=r"^systemd-run is not installed"):
        run(test())


# exec, by the machine's namespaces

KERNEL = {
    "comm": "(sd-stubinit)\n",
    "cgroup": "9:name=systemd:/\n0::/machine.slice/machine-box.scope/payload\n",
    "status": "Name:\tx\nCapInh:\t0000000000000000\nCapBnd:\t0000000000240003\n",
}


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without systemd."""
    monkeypatch.setattr(entering, "_about", lambda container, file: KERNEL[file])
    monkeypatch.setattr(entering, "_has_own_users", lambda container: False)
    monkeypatch.setattr(entering, "account", lambda leader, user: Account(7, 8, "dev", "/home/dev"))


def after(argv: list[str], word: str) -> list[str]:
    return argv[argv.index(word) + 1 :]


def test_the_namespaces_of_the_first_process_are_entered(plain: None) -> None:
    way = entering.by_namespaces(BOX, Command(["agent", "--acp"], {"A": "1"}, workdir="/src"))
    group = "/sys/fs/cgroup/machine.slice/machine-box.scope/payload/cgroup.procs"
    assert way.argv[:5] == [shutil.which("sh"), "-c", entering.JOIN, "sh", group]
    caps = ["--inh-caps=-all", "--bounding-set=-all,+cap_0,+cap_1,+cap_18,+cap_21"]
    assert way.argv[5:10] == [shutil.which("setpriv"), *caps, "--", shutil.which("nsenter")]
    options = way.argv[10 : way.argv.index("--", 10)]
    spaces = ["--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup", "--root"]
    assert options == ["--target=4242", *spaces, "--wdns=/src", "--setuid=7", "--setgid=8"]
    assert after(way.argv[10:], "--") == ["agent", "--acp"]
    own = {"PATH": entering.PATH, "HOME": "/home/dev", "USER": "dev", "LOGNAME": "dev"}
    assert (way.env, way.preamble) == (own | {"A": "1"}, b"")


def test_users_of_its_own_are_entered_too(plain: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(entering, "_has_own_users", lambda container: True)
    assert "--user" in entering.by_namespaces(BOX, Command(["agent"], {})).argv


def test_nothing_of_ours_and_no_value_shows(plain: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSH_AUTH_SOCK", "/ours")
    secrets = {"KEY": "hunter2", "PATH": "/inside", "HOME": "/mine", MARKER: "me/1"}
    way = entering.by_namespaces(BOX, Command(["agent"], secrets))
    assert "hunter2" not in " ".join(way.argv)
    assert way.env == {"USER": "dev", "LOGNAME": "dev", **secrets}


def test_what_would_change_the_tools_outside_is_set_inside(plain: None) -> None:
    way = entering.by_namespaces(BOX, Command(["agent"], {"LD_PRELOAD": "/x.so", "LD_API_KEY": "hunter2"}))
    assert way.argv[-3:] == ["env", "LD_PRELOAD=/x.so", "agent"]
    assert "LD_PRELOAD" not in way.env and way.env["LD_API_KEY"] == "hunter2"


def test_a_host_without_unified_control_groups_is_refused(
    plain: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(KERNEL, "cgroup", "9:name=systemd:/\n")
    with pytest.raises(EngineFailed, match="no control group of version 2"):
        entering.by_namespaces(BOX, Command(["agent"], {}))


def test_a_tool_that_is_not_installed(plain: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(EngineMissing, match=r"^sh is not installed"):
        made().exec(BOX, Command(["agent"], {}))


def test_a_user_that_is_not_there_is_said() -> None:
    here = ContainerInfo(name="box", runtime="machined", running=True, pid=os.getpid())
    with pytest.raises(AgentFailed, match="the machine has no user no-such-user"):
        entering.by_namespaces(here, Command(["agent"], {}, user="no-such-user"))


def test_a_machine_that_has_ended_is_not_entered() -> None:
    gone = ContainerInfo(name="box", runtime="machined", running=True, pid=2**22 + 1)
    with pytest.raises(NotRunning, match=r"^box has ended"):
        made().exec(gone, Command(["agent"], {}))
    with pytest.raises(NotRunning, match=r"^box cannot be entered"):
        entering.by_namespaces(gone, Command(["agent"], {}))


# wait


def machinectl(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Mapping[str, object]], None]:
    """Puts a machinectl in place whose answers are what was given last."""

    def answer(known: Mapping[str, object]) -> None:
        lines = "".join(f"{key}={value}\n" for key, value in known.items())
        script = f"cat <<'END'\n{lines}END\n" if known else "echo \"No machine 'box' known\" >&2; exit 1"
        program(folder, "machinectl", script, monkeypatch)

    return answer


def test_waiting_ends_with_the_first_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(child: "subprocess.Popen[bytes]") -> None:
        answer = machinectl(tmp_path, monkeypatch)
        answer({"Class": "container", "State": "running", "Leader": child.pid})
        box = await made().inspect("box")
        waiting = asyncio.ensure_future(made().wait(box))
        await settle()
        child.kill()
        await waiting

    with subprocess.Popen(["sleep", "60"]) as child:
        run(test(child))


def test_waiting_for_one_that_has_ended_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machinectl(tmp_path, monkeypatch)({})
    run(made(box=Container(runtime="machined")).wait(STOPPED))
    run(made().wait(STOPPED))


def test_one_that_machined_still_knows_is_asked_for_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its first process has just ended, and machined has not noticed yet."""

    async def test() -> None:
        answer = machinectl(tmp_path, monkeypatch)
        answer({"Class": "container", "State": "running", "Leader": 2**22 + 1})
        box = await made().inspect("box")
        waiting = asyncio.ensure_future(made().wait(box))
        await settle()
        answer({})
        await waiting

    monkeypatch.setattr(lifetime, "ASK_AGAIN_SEC", 0.01)
    run(test())


# events


def test_nobody_listens_where_no_machine_is_configured() -> None:
    async def test() -> None:
        listening = asyncio.ensure_future(anext(made().events(0)))
        await settle()
        assert not listening.done()
        listening.cancel()
        await asyncio.wait([listening])

    run(test())
