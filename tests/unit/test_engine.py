# SPDX-License-Identifier: Apache-2.0

import asyncio
import json
import os
import subprocess
from pathlib import Path
from typing import Literal

import msgspec
import pytest
from pytest_subprocess import FakeProcess

from agentd.config import Configuration, Container, Limits
from agentd.errors import EngineFailed, EngineMissing, NoSuchContainer
from agentd.link import ContainerInfo, Mount, Seen, fits
from agentd.runtimes import Command, lifetime
from agentd.runtimes.docker import Docker
from agentd.runtimes.engine import EVENT_BYTES, STEERING, Engine
from agentd.runtimes.podman import Podman
from unit.loop import run

ENGINES = [Podman, Docker]
both = pytest.mark.parametrize("engine", ENGINES)
Kind = type[Podman] | type[Docker]

NO_SUCH = {
    Podman: "Error: no such container box\n",
    Docker: "Error response from daemon: No such container: box\n",
}


def inspected(
    name: str = "box", *, running: bool = True, pid: int = 4242, **config: object
) -> dict[str, object]:
    return {
        "Id": f"id-of-{name}",
        "Name": name,
        "State": {"Running": running, "Pid": pid, "Status": "whatever", "OCIVersion": "1.2"},
        "Config": {"Labels": {"agentd.enable": "true"}, "Image": "localhost/agentbox", **config},
        "Mounts": [],
    }


def inspect(engine: Kind, *names: str) -> list[str]:
    return [engine.name, "container", "inspect", "--", *names]


def ps(engine: Kind, *filters: str) -> list[str]:
    return [engine.name, "ps", "--all", "--format", "{{.Names}}", *filters]


def made(engine: Kind, configuration: Configuration | None = None) -> Engine:
    return engine(configuration or Configuration())


# inspect


@both
def test_inspect_tells_what_the_engine_knows(engine: Kind, fp: FakeProcess) -> None:
    fp.register(inspect(engine, "box"), stdout=json.dumps([inspected()]))
    assert run(made(engine).inspect("box")) == ContainerInfo(
        name="box",
        runtime=engine.name,
        running=True,
        id="id-of-box",
        pid=4242,
        image="localhost/agentbox",
        labels={"agentd.enable": "true"},
    )


def test_dockers_names_lose_their_slash(fp: FakeProcess) -> None:
    fp.register(inspect(Docker, "box"), stdout=json.dumps([inspected("/box")]))
    assert run(made(Docker).inspect("box")).name == "box"


@both
def test_a_stopped_container_is_not_running(engine: Kind, fp: FakeProcess) -> None:
    fp.register(inspect(engine, "box"), stdout=json.dumps([inspected(running=False, pid=0, Labels=None)]))
    box = run(made(engine).inspect("box"))
    assert (box.running, box.pid, box.labels) == (False, 0, {})


def described(engine: Kind, fp: FakeProcess, mounts: object) -> ContainerInfo:
    fp.register(inspect(engine, "box"), stdout=json.dumps([inspected() | {"Mounts": mounts}]))
    return run(made(engine).inspect("box"))


@both
def test_inspect_tells_what_the_container_has_from_the_host(engine: Kind, fp: FakeProcess) -> None:
    mounts = [
        {"Type": "bind", "Source": "/home/alice/src", "Destination": "/workspace", "RW": True, "Mode": ""},
        {"Type": "volume", "Name": "v", "Source": "/var/lib/volumes/v", "Destination": "/data"},
        {"Type": "tmpfs", "Source": "", "Destination": "/tmp"},
        {"Type": "bind", "Source": "/etc/zsh", "Destination": "/etc/zsh", "Options": ["rbind"]},
    ]
    found = described(engine, fp, mounts).mounts
    assert found == [Mount("/home/alice/src", "/workspace"), Mount("/etc/zsh", "/etc/zsh")]


@both
def test_inspect_tells_which_image_and_where_its_processes_start(engine: Kind, fp: FakeProcess) -> None:
    image = inspected(WorkingDir="/app") | {"Image": "sha256:abc"}
    fp.register(inspect(engine, "box"), stdout=json.dumps([image]))
    box = run(made(engine).inspect("box"))
    assert (box.image_id, box.image, box.workdir) == ("sha256:abc", "localhost/agentbox", "/app")


@both
def test_a_container_without_mounts_has_none(engine: Kind, fp: FakeProcess) -> None:
    assert described(engine, fp, None).mounts == []


@both
@pytest.mark.parametrize(("count", "length", "kept"), [(256, 8, 256), (300, 8, 256), (256, 1024, 32)])
def test_what_is_told_of_mounts_fits_into_a_message(
    engine: Kind, fp: FakeProcess, caplog: pytest.LogCaptureFixture, count: int, length: int, kept: int
) -> None:
    paths = [f"/{number:0{length - 1}}" for number in range(count)]
    box = described(engine, fp, [{"Type": "bind", "Source": each, "Destination": each} for each in paths])
    assert box.mounts == [Mount(each, each) for each in paths[:kept]]
    assert fits(Seen(container=box))
    warnings = [] if kept == count else [f"only {kept} of the {count} bind mounts of box are used"]
    assert caplog.messages == warnings


@both
def test_labels_that_are_not_for_agentd_take_no_room(engine: Kind, fp: FakeProcess) -> None:
    mine = {"agentd.enable": "true", "ai.terok.agents": "claude"}
    others = {"org.example": "x" * 300_000, "agentd.agents": "y" * 2000}
    many = {f"agentd.{number}": "z" for number in range(500)}
    fp.register(inspect(engine, "box"), stdout=json.dumps([inspected(Labels={**others, **mine, **many})]))
    box = run(made(engine).inspect("box"))
    assert mine.items() <= box.labels.items() and not others.keys() & box.labels.keys()
    assert fits(Seen(container=box))


@both
def test_a_container_the_engine_does_not_have(engine: Kind, fp: FakeProcess) -> None:
    fp.register(inspect(engine, "box"), returncode=125, stdout="[]\n", stderr=NO_SUCH[engine])
    with pytest.raises(NoSuchContainer, match=f"^{engine.name} has no container box"):
        run(made(engine).inspect("box"))


@both
def test_an_engine_that_fails_is_quoted(engine: Kind, fp: FakeProcess) -> None:
    fp.register(inspect(engine, "box"), returncode=1, stderr=b"Cannot connect to the \xff daemon\n")
    with pytest.raises(EngineFailed, match=f"^{engine.name} inspect box: Cannot connect to the . daemon$"):
        run(made(engine).inspect("box"))


@both
@pytest.mark.parametrize(
    "garbage", ["", "hello", "{}", "[{}]", "null", '[{"Id": 7}]', "[" * 20, b'[{"Id":"\xff"}]']
)
def test_garbage_is_an_error_of_the_engine(engine: Kind, fp: FakeProcess, garbage: str | bytes) -> None:
    fp.register(inspect(engine, "box"), stdout=garbage)
    with pytest.raises(EngineFailed, match=f"^{engine.name} inspect printed something unexpected"):
        run(made(engine).inspect("box"))


@both
def test_an_engine_that_describes_nothing_is_an_error_of_it(engine: Kind, fp: FakeProcess) -> None:
    fp.register(inspect(engine, "box"), stdout="[]")
    with pytest.raises(EngineFailed, match=f"^{engine.name} inspect box printed nothing"):
        run(made(engine).inspect("box"))


@both
def test_an_engine_that_is_not_installed(
    engine: Kind, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(EngineMissing, match=f"^{engine.name} is not installed"):
        run(made(engine).inspect("box"))
    with pytest.raises(EngineMissing, match=f"^{engine.name} is not installed"):
        run(made(engine).containers())


@both
def test_an_engine_that_hangs_is_ended_at_the_deadline(
    engine: Kind, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    program(tmp_path, engine, "exec sleep 60", monkeypatch)
    slow = made(engine, Configuration(limits=Limits(engine_sec=0.1)))
    with pytest.raises(EngineFailed, match=f"^{engine.name} container gave no answer within 0.1 s$"):
        run(slow.inspect("box"))


# containers


@both
def test_those_with_the_label_and_those_in_the_configuration_are_listed(
    engine: Kind, fp: FakeProcess
) -> None:
    names: list[Literal["podman", "docker"]] = ["podman", "docker"]
    mine, other = names if engine is Podman else reversed(names)
    entries = {
        "mine": Container(runtime=mine),
        "anyones": Container(),
        "absent": Container(),
        "theirs": Container(runtime=other),
    }
    fp.register(ps(engine, "--filter", "label=agentd.enable=true"), stdout="labelled\nmine\n")
    fp.register(ps(engine), stdout="other\nlabelled\nmine\nanyones\ntheirs\n")
    wanted = ["anyones", "labelled", "mine"]
    fp.register(inspect(engine, *wanted), stdout=json.dumps([inspected(name) for name in wanted]))
    found = run(made(engine, Configuration(containers=entries)).containers())
    assert [each.name for each in found] == wanted


@both
def test_where_nothing_opted_in_nothing_is_inspected(engine: Kind, fp: FakeProcess) -> None:
    fp.register(ps(engine, "--filter", "label=agentd.enable=true"), stdout="")
    assert run(made(engine).containers()) == []


@both
def test_one_that_went_away_meanwhile_spoils_nothing(engine: Kind, fp: FakeProcess) -> None:
    fp.register(ps(engine, "--filter", "label=agentd.enable=true"), stdout="box\ngone\n")
    fp.register(
        inspect(engine, "box", "gone"), returncode=1, stdout=json.dumps([inspected()]), stderr="no such"
    )
    assert [each.name for each in run(made(engine).containers())] == ["box"]


@both
def test_a_list_that_fails_is_an_error(engine: Kind, fp: FakeProcess) -> None:
    fp.register(
        ps(engine, "--filter", "label=agentd.enable=true"), returncode=125, stderr="database is locked"
    )
    with pytest.raises(EngineFailed, match=f"^{engine.name} ps: database is locked$"):
        run(made(engine).containers())


# exec

BOX = ContainerInfo(name="box", runtime="podman", running=True, id="id-of-box")
DUMP = r"""
tr '\0' '\n' </proc/$$/cmdline
echo ---
tr '\0' '\n' </proc/$$/environ
"""


def program(folder: Path, engine: Kind, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put a shell script in the engine's place."""
    (folder / engine.name).write_text(f"#!/bin/sh\n{script}", encoding="utf-8")
    (folder / engine.name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")


def dumped(engine: Kind, command: Command) -> tuple[list[str], dict[str, str]]:
    """The argument vector and environment that the engine's program gets for an exec."""

    async def test() -> str:
        child, pipes = made(engine).exec(BOX, command)
        await child.wait()
        printed = os.read(pipes.stdout, 1 << 16).decode()
        for each in pipes:
            os.close(each)
        return printed

    arguments, _, environment = run(test()).partition("---\n")
    pairs = (line.partition("=") for line in environment.splitlines())
    return arguments.splitlines()[2:], {key: value for key, _, value in pairs}


@both
def test_exec_is_an_interactive_exec(engine: Kind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(tmp_path, engine, DUMP, monkeypatch)
    command = Command(["agent", "--acp"], {"A": "1"}, user="dev:dev", workdir="/src")
    arguments, _ = dumped(engine, command)
    options = ["--interactive", "--env", "A", "--user", "dev:dev", "--workdir", "/src"]
    assert arguments == ["exec", *options, "id-of-box", "agent", "--acp"]
    arguments, _ = dumped(engine, Command(["agent"], {}))
    assert arguments == ["exec", "--interactive", "id-of-box", "agent"]


@both
def test_no_value_of_the_environment_is_in_the_arguments(
    engine: Kind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program(tmp_path, engine, DUMP, monkeypatch)
    secrets = {
        "ANTHROPIC_API_KEY": "hunter2-1",
        "AGENTD_OWNER": "hunter2-2",
        "_X": "hunter2-3",
        "LANG": "hunter2-4",
    }
    arguments, environment = dumped(engine, Command(["agent"], secrets))
    assert "hunter2" not in " ".join(arguments)
    assert {key: environment.get(key) for key in secrets} == secrets


@both
def test_a_name_that_only_begins_like_one_that_steers_is_hidden_too(
    engine: Kind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program(tmp_path, engine, DUMP, monkeypatch)
    names = ["HOMEBREW_GITHUB_API_TOKEN", "LD_API_KEY", "PATHFINDER_KEY", "DOCKER_PAT"]
    arguments, environment = dumped(engine, Command(["agent"], dict.fromkeys(names, "hunter2")))
    assert "hunter2" not in " ".join(arguments)
    assert [environment.get(name) for name in names] == ["hunter2"] * 4


@both
def test_what_would_steer_the_engine_itself_is_in_the_arguments_alone(
    engine: Kind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program(tmp_path, engine, DUMP, monkeypatch)
    given = {"PATH", "HOME", "TMPDIR", "LD_PRELOAD", "DOCKER_HOST", "CONTAINERS_CONF", "LISTEN_FDS"}
    assert given < STEERING
    arguments, environment = dumped(engine, Command(["agent"], dict.fromkeys(STEERING, "/in/the/container")))
    assert set(arguments) >= {f"{name}=/in/the/container" for name in STEERING}
    assert "/in/the/container" not in environment.values()


@both
def test_exec_without_an_engine(engine: Kind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        made(engine).exec(BOX, Command(["agent"], {}))

    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(EngineMissing, match=f"^{engine.name} is not installed"):
        run(test())
    (tmp_path / engine.name).mkdir()
    with pytest.raises(EngineFailed, match="cannot be started: Permission denied"):
        run(test())


# wait


def alive(child: "subprocess.Popen[bytes]") -> ContainerInfo:
    return ContainerInfo(name="box", runtime="x", running=True, id="id-of-box", pid=child.pid)


def answering(description: dict[str, object]) -> str:
    """A script that answers every inspect with this."""
    return f"cat <<'END'\n{json.dumps([description])}\nEND\n"


@both
def test_waiting_ends_with_the_first_process(
    engine: Kind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test(child: "subprocess.Popen[bytes]") -> None:
        looked = tmp_path / "looked"
        program(tmp_path, engine, answering(inspected(pid=child.pid)) + f"mkdir {looked}", monkeypatch)
        waiting = asyncio.ensure_future(made(engine).wait(alive(child)))
        while not looked.exists():
            await asyncio.sleep(0)
        assert not waiting.done()
        child.kill()
        await waiting

    with subprocess.Popen(["sleep", "60"]) as child:
        run(test(child))


@both
@pytest.mark.parametrize("change", ["another pid", "another id", "stopped", "removed"])
def test_waiting_for_what_is_another_by_now_ends_at_once(engine: Kind, fp: FakeProcess, change: str) -> None:
    async def test() -> None:
        me = os.getpid()
        described = inspected(pid=me + 1 if change == "another pid" else me, running=change != "stopped")
        described |= {"Id": "new"} if change == "another id" else {}
        if change == "removed":
            fp.register(inspect(engine, "box"), returncode=1, stderr=NO_SUCH[engine])
        else:
            fp.register(inspect(engine, "box"), stdout=json.dumps([described]))
        await made(engine).wait(ContainerInfo(name="box", runtime="x", running=True, id="id-of-box", pid=me))

    run(test())


@both
def test_waiting_that_is_given_up_leaves_nothing(
    engine: Kind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test() -> None:
        looked = tmp_path / "looked"
        program(tmp_path, engine, f"mkdir {looked}; exec sleep 60", monkeypatch)
        waiting = asyncio.ensure_future(made(engine).wait(BOX))  # its first process is out of sight
        while not looked.exists():
            await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.wait([waiting])

    run(test())


@both
def test_an_engine_that_fails_does_not_end_the_wait(
    engine: Kind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test(child: "subprocess.Popen[bytes]") -> None:
        monkeypatch.setattr(lifetime, "ASK_AGAIN_SEC", 0.01)
        asked = tmp_path / "asked"
        answer = answering(inspected(pid=child.pid))
        program(
            tmp_path, engine, f"mkdir {asked} 2>/dev/null && exit 125\n{answer}mkdir {asked}2", monkeypatch
        )
        waiting = asyncio.ensure_future(made(engine).wait(alive(child)))
        while not (tmp_path / "asked2").exists():
            await asyncio.sleep(0)
        assert not waiting.done()
        child.kill()
        await waiting

    with subprocess.Popen(["sleep", "60"]) as child:
        run(test(child))


@both
def test_a_container_that_ends_while_its_engine_fails_has_ended(
    engine: Kind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test(child: "subprocess.Popen[bytes]") -> None:
        asked = tmp_path / "asked"
        program(tmp_path, engine, f"mkdir {asked}; exit 125", monkeypatch)
        waiting = asyncio.ensure_future(made(engine).wait(alive(child)))
        while not asked.exists():
            await asyncio.sleep(0)
        child.kill()
        await waiting

    with subprocess.Popen(["sleep", "60"]) as child:
        run(test(child))


def waits(folder: Path, description: str) -> str:
    """A script that fails the first `wait`, and in the second one says so and has an end."""
    again = f"mkdir {folder}/first 2>/dev/null && exit 125; mkdir {folder}/second; exit 0"
    return f"case $1 in wait) {again};; esac\n{description}"


@both
def test_a_wait_of_the_engine_that_fails_is_begun_again_while_the_container_is_what_it_was(
    engine: Kind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test() -> None:
        await made(engine).wait(BOX)
        assert (tmp_path / "second").exists()

    monkeypatch.setattr(lifetime, "ASK_AGAIN_SEC", 0.01)
    program(tmp_path, engine, waits(tmp_path, answering(inspected(pid=0))), monkeypatch)
    run(test())


@both
def test_a_wait_of_the_engine_that_fails_ends_where_the_container_has_gone(
    engine: Kind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = waits(tmp_path, f"echo '{NO_SUCH[engine].strip()}' >&2; exit 1")
    program(tmp_path, engine, script, monkeypatch)
    run(made(engine).wait(BOX))
    assert not (tmp_path / "second").exists()


# events

PODMAN_START = (
    b'{"ID":"4f1c","Image":"localhost/agentbox:latest","Name":"box","Status":"start",'
    b'"Time":"2026-11-20T10:00:00.123456789Z","Type":"container","Attributes":{"agentd.enable":"true"}}\n'
)
PODMAN_DIED = (
    b'{"ContainerExitCode":137,"ID":"4f1c","Image":"localhost/agentbox:latest","Name":"my.box-2",'
    b'"Status":"died","Time":"2026-11-20T10:00:00Z","Type":"container","Attributes":null}\n'
)
DOCKER_DIE = (
    b'{"status":"die","id":"4f1c","from":"agentbox","Type":"container","Action":"die","Actor":{"ID":"4f1c",'
    b'"Attributes":{"exitCode":"137","image":"agentbox","name":"box"}},"scope":"local","time":1763632800,'
    b'"timeNano":1763632800123456789}\n'
)
DOCKER_RENAME = (
    b'{"status":"rename","id":"4f1c","from":"agentbox","Type":"container","Action":"rename","Actor":{"ID":"4f1c",'
    b'"Attributes":{"image":"agentbox","name":"new","oldName":"/box"}},"scope":"local","time":1763632800}\n'
)


@pytest.mark.parametrize(
    ("engine", "line", "name"),
    [
        (Podman, PODMAN_START, "box"),
        (Podman, PODMAN_DIED, "my.box-2"),
        (Podman, b'{"Type":"system","Status":"refresh"}\n', ""),
        (Docker, DOCKER_DIE, "box"),
        (Docker, DOCKER_RENAME, "new"),
        (Docker, b'{"Type":"daemon","Action":"reload","Actor":{"ID":"x"}}\n', ""),
        (Docker, b'{"Type":"daemon"}\n', ""),
    ],
)
def test_an_event_names_its_container(engine: Kind, line: bytes, name: str) -> None:
    assert made(engine).event_name(line) == name


@pytest.mark.parametrize(
    ("engine", "line"),
    [
        (Podman, b"garbage\n"),
        (Podman, b"\xff\n"),
        (Podman, b'{"Name":"\xff"}\n'),
        (Podman, b'{"Name":7}\n'),
        (Podman, b"\n"),
        (Docker, b"garbage\n"),
        (Docker, b'{"Actor":null}\n'),
        (Docker, b'{"Actor":{"Attributes":null}}\n'),
        (Docker, b"[1]\n"),
    ],
)
def test_an_event_that_is_not_understood_names_nothing(
    engine: Kind, line: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises((msgspec.DecodeError, UnicodeDecodeError)):
        made(engine).event_name(line)
    assert made(engine)._event_name(line) == ""
    assert "words that are not understood" in caplog.text


@pytest.mark.parametrize(
    ("engine", "lines"),
    [(Podman, PODMAN_START + b"garbage\n" + PODMAN_DIED), (Docker, DOCKER_DIE + b"{\n" + DOCKER_RENAME)],
)
def test_events_are_followed_to_their_end(engine: Kind, lines: bytes, fp: FakeProcess) -> None:
    async def test() -> list[str]:
        return [name async for name in made(engine).events(1763632800.9)]

    filters = [item for kind in engine.event_kinds for item in ("--filter", f"event={kind}")]
    argv = [engine.name, "events", "--since", "1763632800", "--format", "{{json .}}"]
    fp.register([*argv, "--filter", "type=container", *filters], stdout=lines)
    assert run(test()) == (["box", "my.box-2"] if engine is Podman else ["box", "new"])


@both
def test_an_engine_that_goes_on_talking_is_ended_when_nobody_listens(
    engine: Kind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test() -> str:
        events = made(engine).events(0)
        first = await anext(events)
        await events.aclose()  # type: ignore[attr-defined]
        return first

    line = (PODMAN_START if engine is Podman else DOCKER_DIE).decode()
    program(tmp_path, engine, f"cat <<'END'\n{line}END\nexec sleep 60", monkeypatch)
    assert run(test()) == "box"


@both
def test_no_events_without_an_engine(engine: Kind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        async for _ in made(engine).events(0):
            pass

    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(EngineMissing):
        run(test())


@both
def test_an_event_that_does_not_end_is_an_error_of_the_engine(
    engine: Kind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test() -> None:
        async for _ in made(engine).events(0):
            pass

    program(tmp_path, engine, f"head -c {2 * EVENT_BYTES + 10} /dev/zero; exec sleep 60", monkeypatch)
    with pytest.raises(EngineFailed, match=f"^{engine.name} told of an event in more than"):
        run(test())


def test_what_an_engine_says_must_be_read_by_a_class_of_its_own() -> None:
    with pytest.raises(TypeError, match="event_name"):
        Engine(Configuration())  # type: ignore[abstract]
