# SPDX-License-Identifier: Apache-2.0
"""A container that is not the host: its agents, its files, and what it may be told of the host's."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from support.acp_client import Client, Frame, process, reason, result, texts, told, updates
from support.box import Box, configuration
from support.embedded import Embedded, Start, eventually

FS = {"fs": {"readTextFile": True, "writeTextFile": True}, "terminal": True}
SRC, WORK = "/home/alice/src", "/workspace"
MOUNTS = {SRC: WORK, "/home/alice/src/big": "/data/big", "/var/cache": "/var/cache"}
Boxes = Callable[..., Box]
ENABLE = {"agentd.enable": "true"}


@pytest.fixture
def boxes(tmp_path: Path) -> Iterator[Boxes]:
    """Makes the container `here`, with claude in it."""
    made: list[Box] = []

    def boxes(*switches: str, **options: Any) -> Box:
        box = Box(tmp_path / "engine", **options)
        made.append(box)
        box.install("claude-agent-acp", *switches)
        return box

    yield boxes
    for box in made:
        box.end()


@pytest.fixture
def mapped(boxes: Boxes, serve: Start) -> Embedded:
    """A container that has directories of the host."""
    return serve(configuration(), **boxes(mounts=MOUNTS).environment)


@pytest.fixture
def editor(mapped: Embedded) -> Iterator[Client]:
    """A client that has files and terminals, with a session in a directory that both have."""
    with mapped.client() as client:
        client.greet(agent="claude", capabilities=FS)
        client.session = client.new_session(SRC)
        yield client


def asked_by_agent(client: Client, method: str, **params: object) -> Frame:
    """What comes of a request of the agent's: the request at the client, or the agent's error."""
    inside = {"sessionId": client.session, **params}
    turn = client.prompt(f"call {method} {json.dumps(inside)}")
    while (frame := client.read()).get("method") != method:
        if said := texts([frame]):
            client.answer_to(turn)
            answer = json.loads(said[0])
            assert isinstance(answer, dict)
            return answer
    client.send({"id": frame["id"], "result": {"terminalId": "t1"}})
    client.answer_to(turn)
    return frame


def shown(client: Client, update: Frame) -> Frame:
    """An update of the agent's as the client sees it."""
    _, before = client.answer_to(client.prompt(f"update {json.dumps(update)}"))
    [seen] = updates(before, str(update["sessionUpdate"]))
    return seen


# Paths on the way in


@pytest.mark.parametrize(
    ("outside", "inside"),
    [
        (SRC, WORK),
        (f"{SRC}/app/ü b", f"{WORK}/app/ü b"),
        (f"{SRC}/big/data", "/data/big/data"),  # the longest prefix wins
        (f"{SRC}/bigger", f"{WORK}/bigger"),  # whole components only
        (f"{SRC}/app/../lib/./x//y", f"{WORK}/lib/x/y"),
        ("/var/cache/x", "/var/cache/x"),
    ],
)
def test_the_directory_of_a_session_is_the_containers(editor: Client, outside: str, inside: str) -> None:
    made = result(editor.call("session/new", {"cwd": outside, "mcpServers": []}))
    assert made["_cwd"] == inside


def test_further_directories_are_the_containers_too(editor: Client) -> None:
    more = {"additionalDirectories": [f"{SRC}/a", "/var/cache"], "_meta": {"cwd": SRC}}
    session = editor.new_session(SRC, **more)
    asked = told(editor, "session/new", sessionId=session)
    assert asked["additionalDirectories"] == [f"{WORK}/a", "/var/cache"]
    assert asked["_meta"] == {"cwd": SRC}


@pytest.mark.parametrize("cwd", ["/home/alice", "/home/alice/srcs", f"{SRC}/../x", "relative", "/workspace"])
def test_a_directory_that_the_container_has_not_is_refused_with_those_it_has(
    editor: Client, cwd: str
) -> None:
    error = editor.call("session/new", {"cwd": cwd, "mcpServers": []})
    assert reason(error) == "unmapped_path"
    assert error["error"]["data"]["path"] == cwd
    assert sorted(error["error"]["data"]["mapped"]) == sorted(MOUNTS)
    assert all(each in error["error"]["message"] for each in (cwd, *MOUNTS))
    assert editor.turn("say fine")[1] == ["fine"]


def test_a_further_directory_that_it_has_not_is_refused(editor: Client) -> None:
    asked = {"cwd": SRC, "mcpServers": [], "additionalDirectories": ["/etc"]}
    assert reason(editor.call("session/new", asked)) == "unmapped_path"


def test_files_in_a_prompt_are_the_containers(editor: Client) -> None:
    blocks = [
        {"type": "text", "text": f"say {SRC} file://{SRC}/a"},
        {"type": "resource_link", "uri": f"file://{SRC}/a%20b.py?x#L3", "name": SRC},
        {"type": "resource", "resource": {"uri": f"file://{SRC}/c", "text": f"file://{SRC}/c"}},
        {"type": "resource_link", "uri": "https://example.org/home/alice/src", "name": "x"},
        {"type": "resource_link", "uri": "file:///elsewhere", "name": "x"},
    ]
    answer, before = editor.answer_to(
        editor.request("session/prompt", {"sessionId": editor.session, "prompt": blocks})
    )
    assert "result" in answer and texts(before) == [f"{SRC} file://{SRC}/a"]  # text is never touched
    got = told(editor, "session/prompt", sessionId=editor.session)["prompt"]
    assert [got[0], *got[3:]] == [blocks[0], *blocks[3:]]
    assert got[1] == {**blocks[1], "uri": f"file://{WORK}/a%20b.py?x#L3"}
    assert got[2]["resource"] == {"uri": f"file://{WORK}/c", "text": f"file://{SRC}/c"}


# Paths on the way out


def test_tool_calls_show_the_hosts_paths(editor: Client) -> None:
    call = {
        "sessionUpdate": "tool_call",
        "toolCallId": "1",
        "title": f"edit {WORK}/a",
        "locations": [{"path": f"{WORK}/a", "line": 3}, {"path": "/etc/passwd"}],
        "content": [
            {"type": "diff", "path": f"{WORK}/a", "oldText": f"{WORK}/a", "newText": ""},
            {
                "type": "content",
                "content": {"type": "resource_link", "uri": f"file://{WORK}/a", "name": "a"},
            },
        ],
        "rawInput": {"path": f"{WORK}/a"},
    }
    seen = shown(editor, call)
    assert seen["locations"] == [{"path": f"{SRC}/a", "line": 3}, {"path": "/etc/passwd"}]
    assert seen["content"][0] == {"type": "diff", "path": f"{SRC}/a", "oldText": f"{WORK}/a", "newText": ""}
    assert seen["content"][1]["content"]["uri"] == f"file://{SRC}/a"
    assert (seen["title"], seen["rawInput"]) == (call["title"], call["rawInput"])


def test_text_is_shown_as_it_was_said(editor: Client) -> None:
    assert editor.turn(f"say {WORK}/a file://{WORK}/a")[1] == [f"{WORK}/a file://{WORK}/a"]


def test_links_in_messages_show_the_hosts_paths(editor: Client) -> None:
    link = {"type": "resource_link", "uri": f"file://{WORK}/a", "name": "a"}
    seen = shown(editor, {"sessionUpdate": "agent_message_chunk", "content": link})
    assert seen["content"]["uri"] == f"file://{SRC}/a"


def test_permissions_show_the_hosts_paths(editor: Client) -> None:
    call = {"toolCallId": "1", "kind": "edit", "locations": [{"path": f"{WORK}/a"}]}
    asked = asked_by_agent(editor, "session/request_permission", toolCall=call, options=[])
    assert asked["params"]["toolCall"]["locations"] == [{"path": f"{SRC}/a"}]


@pytest.mark.parametrize("method", ["fs/read_text_file", "fs/write_text_file"])
def test_files_are_read_and_written_where_the_host_has_them(editor: Client, method: str) -> None:
    asked = asked_by_agent(editor, method, path="/data/big/x", content=WORK)
    assert asked["params"] == {
        "sessionId": editor.session, "path": f"{SRC}/big/x", "content": WORK
    }  # fmt: skip


@pytest.mark.parametrize(
    ("method", "name"),
    [("fs/read_text_file", "path"), ("fs/write_text_file", "path"), ("terminal/create", "cwd")],
)
@pytest.mark.parametrize("path", ["/etc/passwd", f"{WORK}/../etc/passwd", "/home/alice/src/a"])
def test_files_of_the_container_alone_never_reach_the_host(
    editor: Client, method: str, name: str, path: str
) -> None:
    answer = asked_by_agent(editor, method, **{name: path})
    assert (answer.get("code"), answer.get("data", {}).get("reason")) == (-32602, "unmapped_path")
    assert sorted(answer["data"]["mapped"]) == sorted(MOUNTS.values())


def test_a_terminal_runs_where_the_host_has_the_directory(editor: Client) -> None:
    asked = asked_by_agent(editor, "terminal/create", command="ls", cwd=f"{WORK}/app")
    assert asked["params"]["cwd"] == f"{SRC}/app"


def test_what_is_replayed_has_the_hosts_paths_too(mapped: Embedded, editor: Client) -> None:
    call = {"sessionUpdate": "tool_call", "toolCallId": "1", "locations": [{"path": f"{WORK}/a"}]}
    shown(editor, call)
    with mapped.client() as other:
        other.greet(agent="claude")
        [seen] = updates(other.load(editor.session)[1], "tool_call")
        assert seen["locations"] == [{"path": f"{SRC}/a"}]


def test_listed_sessions_have_the_hosts_paths(editor: Client) -> None:
    listed = result(editor.call("session/list", {"cwd": SRC}))["sessions"]
    assert [(each["sessionId"], each["cwd"]) for each in listed] == [(editor.session, SRC)]


# Paths of the configuration


def test_the_configuration_comes_before_the_engine(boxes: Boxes, serve: Start) -> None:
    here = 'paths = { "/home/alice/src" = "/else", "/home/bob" = "/bob" }'
    agentd = serve(configuration(here=here), **boxes(mounts=MOUNTS).environment)
    with agentd.client() as client:
        client.greet(agent="claude")
        for outside, inside in ((SRC, "/else"), ("/home/bob/x", "/bob/x"), ("/var/cache", "/var/cache")):
            assert result(client.call("session/new", {"cwd": outside}))["_cwd"] == inside


def test_elsewhere_the_workdir_will_do_where_the_configuration_says_so(boxes: Boxes, serve: Start) -> None:
    box = boxes(mounts=MOUNTS, workdir="/image/work")
    agentd = serve(configuration(here='unmapped_cwd = "workdir"'), **box.environment)
    with agentd.client() as client:
        client.greet(agent="claude")
        assert result(client.call("session/new", {"cwd": "/elsewhere"}))["_cwd"] == "/image/work"
        assert result(client.call("session/new", {"cwd": SRC}))["_cwd"] == WORK
        asked = {"cwd": SRC, "additionalDirectories": ["/elsewhere"]}
        assert reason(client.call("session/new", asked)) == "unmapped_path"


def test_a_container_that_shares_nothing_says_so(boxes: Boxes, serve: Start) -> None:
    agentd = serve(configuration(), **boxes().environment)
    with agentd.client() as client:
        client.greet(agent="claude")
        error = client.call("session/new", {"cwd": "/", "mcpServers": []})
        assert reason(error) == "unmapped_path" and "shares no directory" in error["error"]["message"]


def test_volumes_are_no_directories_of_the_host(boxes: Boxes, serve: Start) -> None:
    box = boxes()
    box.inspected["Mounts"] = [{"Type": "volume", "Source": SRC, "Destination": WORK}]
    box.write()
    with serve(configuration(), **box.environment).client() as client:
        client.greet(agent="claude")
        assert reason(client.call("session/new", {"cwd": SRC})) == "unmapped_path"


def test_agentctl_shows_the_map(mapped: Embedded) -> None:
    done = mapped.agentctl("paths", "here")
    assert done.returncode == 0, done.stderr
    shown = [line.split() for line in done.stdout.splitlines()]
    assert shown[1 : 1 + len(MOUNTS)] == [list(pair) for pair in MOUNTS.items()]


# The client's own files


def test_an_agent_is_told_of_the_clients_files_where_both_have_them(editor: Client) -> None:
    hello = told(editor, "initialize", sessionId=editor.session)
    assert hello["clientCapabilities"] == FS


def test_elsewhere_it_is_told_of_everything_but_its_files(boxes: Boxes, serve: Start) -> None:
    here = 'unmapped_cwd = "workdir"'
    agentd = serve(configuration(here=here), **boxes(mounts=MOUNTS).environment)
    with agentd.client() as client:
        client.greet(agent="claude", capabilities={**FS, "_meta": {"x": 1}, "other": True})
        inside, outside = client.new_session(SRC), client.new_session("/elsewhere")
        both = {**FS, "_meta": {"x": 1}, "other": True}
        assert told(client, "initialize", sessionId=inside)["clientCapabilities"] == both
        assert told(client, "initialize", sessionId=outside)["clientCapabilities"] == {
            "_meta": {"x": 1}, "other": True
        }  # fmt: skip
        assert process(client, sessionId=inside) != process(client, sessionId=outside)


# Which agents there are


def found(client: Client) -> dict[str, str]:
    """Every agent that is there, and its state."""
    reports = result(client.call("_agentd/agents"))["agents"]
    return {each["name"]: each["state"] for each in reports if each["state"] != "missing"}


def test_agents_that_are_installed_are_found(boxes: Boxes, serve: Start) -> None:
    box = boxes(mounts=MOUNTS)
    box.install("gemini")
    box.install("codex-acp", "--needs-login")
    with serve(configuration(), **box.environment).client() as client:
        client.greet()
        assert found(client) == {"claude": "ready", "gemini": "ready", "codex": "needs-login"}


def test_one_look_is_enough_for_all(boxes: Boxes, serve: Start) -> None:
    box = boxes(mounts=MOUNTS)
    box.install("gemini")
    with serve(configuration(), **box.environment).client() as client:
        client.greet()
        [look] = box.calls("exec", "sh")
        assert {"claude-agent-acp", "codex-acp", "gemini", "opencode", "goose"} <= set(look)


def test_an_agent_of_the_configuration_is_found_too(boxes: Boxes, serve: Start) -> None:
    box = boxes(mounts=MOUNTS)
    box.install("mine")
    tables = '[agents.own]\ncommand = ["mine"]\n[agents.lost]\ncommand = ["not-there"]'
    with serve(configuration(tables=tables), **box.environment).client() as client:
        client.greet()
        assert found(client) == {"claude": "ready", "own": "ready"}


@pytest.mark.parametrize("label", ["agentd.agents", "ai.terok.agents"])
@pytest.mark.parametrize("names", ["gemini,claude", "gemini claude", " gemini , nonsense,claude"])
def test_a_label_names_the_agents(boxes: Boxes, serve: Start, label: str, names: str) -> None:
    box = boxes(mounts=MOUNTS, labels={**ENABLE, label: names})
    for program in ("gemini", "codex-acp"):
        box.install(program)
    with serve(configuration(), **box.environment).client() as client:
        client.greet()
        assert list(found(client)) == ["gemini", "claude"]


def test_the_configuration_counts_more_than_labels(boxes: Boxes, serve: Start) -> None:
    box = boxes(mounts=MOUNTS, labels={**ENABLE, "agentd.agents": "claude"})
    box.install("gemini")
    agentd = serve(configuration(here='agents = ["gemini"]'), **box.environment)
    with agentd.client() as client:
        client.greet()
        assert "gemini" in found(client)
        assert (
            result(client.call("session/new", {"cwd": SRC}))["configOptions"][0]["currentValue"] == "gemini"
        )


def test_a_label_alone_opts_in(boxes: Boxes, serve: Start) -> None:
    box = boxes(mounts=MOUNTS, labels=ENABLE)
    text = configuration().replace("[containers.here]", "")
    with serve(text, **box.environment).client() as client:
        client.greet(agent="claude")
        assert client.new_session(SRC)


def test_an_agent_that_is_not_installed_says_so(boxes: Boxes, serve: Start) -> None:
    with serve(configuration(), **boxes(mounts=MOUNTS).environment).client() as client:
        client.attach("here", "gemini")
        error = client.call("initialize", {"protocolVersion": 1})
        assert reason(error) == "agent_missing"
        assert "gemini" in error["error"]["message"]


def test_a_look_that_fails_is_tried_again(boxes: Boxes, serve: Start) -> None:
    """The shell is missing at first."""
    box = boxes(mounts=MOUNTS)
    (box.folder / "bin" / "sh").write_text("#!/bin/false\n")
    (box.folder / "bin" / "sh").chmod(0o755)
    agentd = serve(configuration(), **box.environment)
    with agentd.client() as client:
        client.greet()
        assert "ready" not in found(client).values()
    (box.folder / "bin" / "sh").unlink()
    with agentd.client() as client:
        client.greet()
        assert found(client) == {"claude": "ready"}


def test_a_container_without_agents_has_none_and_says_so(boxes: Boxes, serve: Start) -> None:
    box = boxes(mounts=MOUNTS)
    (box.folder / "bin" / "claude-agent-acp").unlink()
    agentd = serve(configuration(), **box.environment)
    with agentd.client() as client:
        client.greet()
        assert found(client) == {}
        assert reason(client.call("session/new", {"cwd": SRC})) == "no_such_agent"
    done = agentd.agentctl("agents", "here")
    assert done.returncode == 0, done.stderr


def test_what_an_image_can_do_is_remembered_by_its_id(boxes: Boxes, serve: Start) -> None:
    box = boxes(mounts=MOUNTS)
    box.install("gemini")
    agentd = serve(configuration(top='default_agent = "claude"'), **box.environment)

    def runs_of_gemini() -> int:
        with agentd.client() as client:
            client.greet()
        return len([call for call in box.calls("exec", "gemini") if "sh" not in call])

    assert (runs_of_gemini(), runs_of_gemini()) == (1, 1)
    agentd.stop()
    agentd.start()
    assert runs_of_gemini() == 1
    agentd.stop()
    box.inspected["Image"] = "sha256:2"
    box.write()
    agentd.start()
    assert runs_of_gemini() == 2


def test_an_agent_that_failed_is_not_started_for_every_client(boxes: Boxes, serve: Start) -> None:
    box = boxes(mounts=MOUNTS)
    box.install("gemini", "--exit-at", "initialize")
    agentd = serve(configuration(top='default_agent = "claude"'), **box.environment)
    for _ in range(3):
        with agentd.client() as client:
            client.greet()
    assert len([call for call in box.calls("exec", "gemini") if "sh" not in call]) == 1


# What reaches the container


def test_only_what_is_meant_for_it_reaches_an_agent(boxes: Boxes, serve: Start) -> None:
    box = boxes(mounts=MOUNTS)
    path = f"{box.folder}/bin:/usr/bin:/bin:/x"
    tables = f'[agents.claude.env]\nTOKEN = "hush-hush-hush"\nPATH = "{path}"'
    agentd = serve(configuration(tables=tables), MY_KEY="x", **box.environment)
    with agentd.client() as client:
        client.greet(agent="claude")
        client.session = client.new_session(SRC)
        asked = ("TOKEN", "PATH", "MY_KEY", "ENGINE", "HOME")
        said = client.turn(*(f"env {name}" for name in asked))[1]
        assert said[:2] == ["TOKEN=hush-hush-hush", f"PATH={path}"]
        assert said[2:] == [f"{name}=(unset)" for name in asked[2:]]
    assert "hush-hush-hush" not in (box.folder / "calls").read_text()


def test_its_user_and_directory_are_those_of_the_configuration(boxes: Boxes, serve: Start) -> None:
    box = boxes(mounts=MOUNTS)
    here = 'user = "1000:1000"\nworkdir = "/somewhere"'
    with serve(configuration(here=here), **box.environment).client() as client:
        client.greet(agent="claude")
    [call] = box.calls("exec", "claude-agent-acp")[-1:]
    assert (call[call.index("--user") + 1], call[call.index("--workdir") + 1]) == ("1000:1000", "/somewhere")


def test_when_the_container_ends_everybody_is_told(boxes: Boxes, serve: Start) -> None:
    box = boxes(mounts=MOUNTS)
    agentd = serve(configuration(), **box.environment)
    with agentd.client() as client:
        client.greet(agent="claude")
        client.session = client.new_session(SRC)
        turn = client.prompt("say on", "hold")
        client.until_text("on")
        box.inspected["State"] = {"Running": False, "Pid": 0}
        box.write()
        box.end()
        assert reason(client.answer_to(turn)[0]) == "not_running"
    eventually(lambda: not agentd.agents(), "its agents have ended")
