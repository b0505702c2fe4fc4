# SPDX-License-Identifier: Apache-2.0

import copy
from typing import Any

import msgspec
import pytest

from agentd.errors import INVALID_PARAMS, UnmappedPath
from agentd.worker.pathmap import PathMap
from agentd.worker.translate import needs_look, result_to_client, to_agent, to_client

PATHS = PathMap([("/home/alice/src", "/workspace"), ("/data", "/mnt/data")])
HOST, INSIDE = "/home/alice/src/a.py", "/workspace/a.py"
HOST_URI, INSIDE_URI = f"file://{HOST}", f"file://{INSIDE}"

Json = dict[str, Any]


def sent(method: str, **params: object) -> Json:
    """What an agent gets of a client's params; whether they have changed is checked on the way."""
    before = copy.deepcopy(params)
    assert to_agent(method, params, PATHS) == (params != before)
    return params


def received(method: str, **params: object) -> Json:
    """What a client gets of an agent's params."""
    before = copy.deepcopy(params)
    assert to_client(method, params, PATHS) == (params != before)
    return params


def updated(**update: object) -> Json:
    return dict(received("session/update", sessionId="s", update=update)["update"])


# To the agent

PLACED = pytest.mark.parametrize("method", ["session/new", "session/load", "session/resume", "session/fork"])


@PLACED
def test_a_session_is_where_the_container_has_its_directories(method: str) -> None:
    moved = sent(method, cwd="/home/alice/src/", additionalDirectories=["/data/1", HOST], mcpServers=[])
    assert moved == {
        "cwd": "/workspace",
        "additionalDirectories": ["/mnt/data/1", INSIDE],
        "mcpServers": [],
    }


@PLACED
@pytest.mark.parametrize(
    "directories",
    [{"cwd": "/etc"}, {"cwd": "/data", "additionalDirectories": ["/data", "/etc"]}],
)
def test_a_session_in_a_directory_the_container_does_not_have_is_refused(
    method: str, directories: Json
) -> None:
    with pytest.raises(
        UnmappedPath, match=r"^the container does not have /etc: .* /home/alice/src, /data;"
    ) as e:
        to_agent(method, copy.deepcopy(directories), PATHS)
    assert e.value.data == {"path": "/etc", "mapped": ["/home/alice/src", "/data"]}
    assert (e.value.code, e.value.reason) == (INVALID_PARAMS, "unmapped_path")


def test_a_container_that_shares_nothing_says_so() -> None:
    with pytest.raises(UnmappedPath, match="shares no directory with the host") as e:
        to_agent("session/new", {"cwd": "/etc"}, PathMap([]))
    assert e.value.data["mapped"] == []


def test_a_long_list_is_cut_in_the_sentence_only() -> None:
    many = PathMap((f"/h{number}", f"/c{number}") for number in range(30))
    with pytest.raises(UnmappedPath, match=r"/h9, …; choose") as e:
        to_agent("session/new", {"cwd": "/etc"}, many)
    assert e.value.data["mapped"] == [f"/h{number}" for number in range(30)]


def test_a_session_elsewhere_may_be_in_the_images_own_directory() -> None:
    params = {"cwd": "/etc", "additionalDirectories": ["/data"]}
    assert to_agent("session/new", params, PATHS, workdir="/app")
    assert params == {"cwd": "/app", "additionalDirectories": ["/mnt/data"]}
    params = {"cwd": "/data"}
    to_agent("session/new", params, PATHS, workdir="/app")
    assert params == {"cwd": "/mnt/data"}
    with pytest.raises(UnmappedPath):
        to_agent("session/new", {"cwd": "/etc", "additionalDirectories": ["/etc"]}, PATHS, workdir="/app")


def test_a_list_is_asked_for_as_the_container_calls_it() -> None:
    assert sent("session/list", cwd="/data") == {"cwd": "/mnt/data"}
    assert sent("session/list", cwd="/etc", cursor="/data") == {"cwd": "/etc", "cursor": "/data"}
    assert sent("session/list", cwd=None) == {"cwd": None}


def test_files_of_a_prompt_are_named_as_the_container_calls_them() -> None:
    blocks = [
        {"type": "resource_link", "name": HOST, "uri": HOST_URI},
        {"type": "resource", "resource": {"uri": f"{HOST_URI}#L1", "text": HOST_URI}},
        {"type": "resource", "resource": {"uri": HOST_URI, "blob": "AA=="}},
        {"type": "image", "data": "AA==", "mimeType": "image/png", "uri": HOST_URI},
    ]
    assert sent("session/prompt", sessionId="s", prompt=blocks)["prompt"] == [
        {"type": "resource_link", "name": HOST, "uri": INSIDE_URI},
        {"type": "resource", "resource": {"uri": f"{INSIDE_URI}#L1", "text": HOST_URI}},
        {"type": "resource", "resource": {"uri": INSIDE_URI, "blob": "AA=="}},
        {"type": "image", "data": "AA==", "mimeType": "image/png", "uri": INSIDE_URI},
    ]


@pytest.mark.parametrize(
    "block",
    [
        {"type": "text", "text": f"see {HOST_URI} and {HOST}"},
        {"type": "text", "text": HOST, "uri": HOST_URI},
        {"type": "audio", "data": HOST, "mimeType": "audio/wav", "uri": HOST_URI},
        {"type": "resource_link", "name": "a", "uri": "file:///etc/passwd"},
        {"type": "resource_link", "name": "a", "uri": "https://localhost/data"},
        {"type": "resource_link", "name": "a", "uri": "", "_meta": {"uri": HOST_URI, "path": HOST}},
        {"type": "resource", "uri": HOST_URI},
        {"type": "hologram", "uri": HOST_URI},
    ],
)
def test_text_and_what_is_not_shared_stay_as_they_are(block: Json) -> None:
    assert sent("session/prompt", prompt=[copy.deepcopy(block)])["prompt"] == [block]
    update = {"sessionUpdate": "agent_message_chunk", "content": swapped(block)}
    assert updated(**copy.deepcopy(update)) == update


def swapped(value: object) -> Any:
    """The same with the container's names in it."""
    return msgspec.json.decode(msgspec.json.encode(value).replace(HOST.encode(), INSIDE.encode()))


@pytest.mark.parametrize("event", ["didOpen", "didChange", "didClose", "didSave", "didFocus"])
def test_documents_are_named_as_the_container_calls_them(event: str) -> None:
    assert sent(f"document/{event}", uri=HOST_URI, text=HOST_URI) == {"uri": INSIDE_URI, "text": HOST_URI}


def test_a_workspace_is_named_as_the_container_calls_it() -> None:
    folders = [{"uri": "file:///data", "name": "/data"}, {"uri": "file:///etc"}]
    assert sent("nes/start", workspaceUri="file:///home/alice/src", workspaceFolders=folders) == {
        "workspaceUri": "file:///workspace",
        "workspaceFolders": [{"uri": "file:///mnt/data", "name": "/data"}, {"uri": "file:///etc"}],
    }
    assert sent("nes/start", workspaceUri=None, workspaceFolders=folders[1:]) == {
        "workspaceUri": None,
        "workspaceFolders": [{"uri": "file:///etc"}],
    }


@pytest.mark.parametrize(
    "kind", ["recentFiles", "relatedSnippets", "editHistory", "userActions", "openFiles", "diagnostics"]
)
def test_the_context_of_a_suggestion_is_named_as_the_container_calls_it(kind: str) -> None:
    entries = [{"uri": HOST_URI, "text": HOST}, {"uri": HOST_URI}]
    moved = sent("nes/suggest", uri="file:///etc/a", context={kind: entries, "other": [{"uri": HOST_URI}]})
    assert moved["context"] == {
        kind: [{"uri": INSIDE_URI, "text": HOST}, {"uri": INSIDE_URI}],
        "other": [{"uri": HOST_URI}],
    }
    assert sent("nes/suggest", uri=HOST_URI, context=None) == {"uri": INSIDE_URI, "context": None}


@pytest.mark.parametrize("method", ["initialize", "session/set_mode", "_vendor/thing", "session/prompts"])
def test_other_methods_pass_as_they_are(method: str) -> None:
    params = {
        "cwd": "/data",
        "uri": HOST_URI,
        "path": HOST,
        "prompt": [{"type": "resource_link", "uri": HOST_URI}],
    }
    assert sent(method, **copy.deepcopy(params)) == params
    assert received(method, **copy.deepcopy(params)) == params


# To the client

CALL: Json = {
    "toolCallId": "1",
    "title": f"Edit {INSIDE}",
    "rawInput": {"path": INSIDE},
    "rawOutput": {"uri": INSIDE_URI},
    "locations": [{"path": INSIDE, "line": 3}, {"path": "/usr/lib"}, {"path": "a.py"}],
    "content": [
        {"type": "diff", "path": INSIDE, "oldText": INSIDE, "newText": INSIDE_URI},
        {"type": "diff", "path": "/etc/hosts", "newText": ""},
        {"type": "content", "content": {"type": "resource_link", "name": "a", "uri": INSIDE_URI}},
        {"type": "content", "content": {"type": "text", "text": INSIDE_URI}},
        {"type": "terminal", "terminalId": "t", "path": INSIDE},
    ],
}
MOVED = CALL | {
    "locations": [{"path": HOST, "line": 3}, {"path": "/usr/lib"}, {"path": "a.py"}],
    "content": [
        {"type": "diff", "path": HOST, "oldText": INSIDE, "newText": INSIDE_URI},
        {"type": "diff", "path": "/etc/hosts", "newText": ""},
        {"type": "content", "content": {"type": "resource_link", "name": "a", "uri": HOST_URI}},
        {"type": "content", "content": {"type": "text", "text": INSIDE_URI}},
        {"type": "terminal", "terminalId": "t", "path": INSIDE},
    ],
}


@pytest.mark.parametrize("kind", ["tool_call", "tool_call_update"])
def test_a_tool_call_names_files_as_the_host_calls_them(kind: str) -> None:
    assert updated(sessionUpdate=kind, **copy.deepcopy(CALL)) == {"sessionUpdate": kind, **MOVED}


def test_so_does_the_tool_call_that_needs_a_permission() -> None:
    moved = received("session/request_permission", toolCall=copy.deepcopy(CALL), options=[])
    assert moved == {"toolCall": MOVED, "options": []}


@pytest.mark.parametrize("member", ["locations", "content"])
def test_any_one_of_its_members_is_enough(member: str) -> None:
    assert (
        updated(sessionUpdate="tool_call", **copy.deepcopy({member: CALL[member]}))[member] == MOVED[member]
    )


@pytest.mark.parametrize(
    "kind", ["user_message_chunk", "agent_message_chunk", "agent_thought_chunk", "new_chunk"]
)
def test_a_chunk_names_files_as_the_host_calls_them(kind: str) -> None:
    block, moved = {"type": "resource_link", "uri": INSIDE_URI}, {"type": "resource_link", "uri": HOST_URI}
    assert updated(sessionUpdate=kind, content=dict(block)) == {"sessionUpdate": kind, "content": moved}
    several = updated(sessionUpdate=kind, content=[dict(block), {"type": "text"}, dict(block)])
    assert several["content"] == [moved, {"type": "text"}, moved]


def test_a_plan_in_a_file_is_named_as_the_host_calls_it() -> None:
    plan = {"type": "file", "id": "p", "uri": INSIDE_URI}
    assert updated(sessionUpdate="plan_update", plan=plan)["plan"]["uri"] == HOST_URI
    other = {"type": "markdown", "id": "p", "content": INSIDE_URI, "uri": INSIDE_URI}
    assert updated(sessionUpdate="plan_update", plan=dict(other))["plan"] == other


@pytest.mark.parametrize("kind", ["plan", "usage_update", "session_info_update", "something_new"])
def test_other_updates_pass_as_they_are(kind: str) -> None:
    update = {"sessionUpdate": kind, **CALL, "title": INSIDE, "_meta": {"uri": INSIDE_URI}}
    assert updated(**copy.deepcopy(update)) == update


REQUESTS = pytest.mark.parametrize(
    ("method", "member"),
    [("fs/read_text_file", "path"), ("fs/write_text_file", "path"), ("terminal/create", "cwd")],
)


@REQUESTS
def test_a_client_works_on_its_own_files(method: str, member: str) -> None:
    moved = received(method, **{member: INSIDE, "content": INSIDE, "command": INSIDE})
    assert moved == {member: HOST, "content": INSIDE, "command": INSIDE}


@REQUESTS
@pytest.mark.parametrize("path", ["/etc/passwd", "/workspace/../etc/passwd", "passwd", ""])
def test_a_client_is_not_asked_to_work_on_a_file_of_the_container(
    method: str, member: str, path: str
) -> None:
    with pytest.raises(
        UnmappedPath, match=r"is inside the container only: .* /workspace, /mnt/data; use"
    ) as e:
        to_client(method, {member: path}, PATHS)
    assert e.value.data == {"path": path, "mapped": ["/workspace", "/mnt/data"]}


def test_a_terminal_need_not_say_where() -> None:
    assert received("terminal/create", command="ls", cwd=None) == {"command": "ls", "cwd": None}
    assert received("terminal/create", command="ls") == {"command": "ls"}


# Results


def result(method: str, value: object) -> object:
    before = copy.deepcopy(value)
    assert result_to_client(method, value, PATHS) == (value != before)
    return value


def test_sessions_are_listed_where_the_host_has_them() -> None:
    listed = [
        {
            "sessionId": "1",
            "cwd": "/workspace",
            "title": "/workspace",
            "additionalDirectories": ["/mnt/data", "/etc"],
        },
        {"sessionId": "2", "cwd": "/root"},
    ]
    assert result("session/list", {"sessions": listed, "nextCursor": "/workspace"}) == {
        "sessions": [
            {
                "sessionId": "1",
                "cwd": "/home/alice/src",
                "title": "/workspace",
                "additionalDirectories": ["/data", "/etc"],
            },
            {"sessionId": "2", "cwd": "/root"},
        ],
        "nextCursor": "/workspace",
    }


def test_suggestions_name_files_as_the_host_calls_them() -> None:
    suggestions = [{"kind": kind, "id": "1", "uri": INSIDE_URI} for kind in ("edit", "jump", "rename")]
    moved = result("nes/suggest", {"suggestions": suggestions})
    assert moved == {"suggestions": [each | {"uri": HOST_URI} for each in suggestions]}


def test_other_results_pass_as_they_are() -> None:
    other = {"sessions": [{"cwd": "/workspace"}], "suggestions": [{"uri": INSIDE_URI}]}
    assert result("session/new", copy.deepcopy(other)) == other


# What is not as it should be

ODD: list[Any] = [
    None,
    7,
    "x",
    True,
    [],
    {},
    [None],
    [[]],
    ["x"],
    [{"path": 7}],
    {"uri": None},
    {"type": "diff"},
]


@pytest.mark.parametrize("odd", ODD, ids=repr)
def test_a_wrong_shape_stays_as_it_is(odd: object) -> None:
    methods = [
        "session/prompt",
        "document/didOpen",
        "nes/start",
        "nes/suggest",
        "session/load",
        "session/list",
    ]
    for name in ("prompt", "uri", "workspaceFolders", "workspaceUri", "context", "additionalDirectories"):
        for method in methods:
            if (method, name, odd) != ("session/load", "additionalDirectories", ["x"]):
                assert sent(method, **{name: copy.deepcopy(odd)}) == {name: odd}
    for method in ("session/update", "session/request_permission", "fs/read_text_file", "terminal/create"):
        for name in ("update", "toolCall"):
            assert received(method, **{name: copy.deepcopy(odd)}) == {name: odd}


@pytest.mark.parametrize("odd", ODD, ids=repr)
def test_a_wrong_shape_deeper_inside_stays_as_it_is(odd: object) -> None:
    for name in ("content", "locations"):
        for kind in ("tool_call", "agent_message_chunk", "plan_update", odd):
            update = {"sessionUpdate": kind, name: odd, "plan": odd}
            assert updated(**copy.deepcopy(update)) == update
    for name in ("sessions", "suggestions"):
        assert result("session/list", {name: copy.deepcopy(odd)}) == {name: odd}
    sessions = {"sessions": [{"cwd": odd, "additionalDirectories": odd}]}
    assert result("session/list", copy.deepcopy(sessions)) == sessions


@pytest.mark.parametrize("odd", [None, 7, "x", [], ["cwd"]], ids=repr)
@pytest.mark.parametrize("method", ["session/new", "session/update", "fs/read_text_file", "session/list"])
def test_params_and_results_may_be_of_any_shape(method: str, odd: object) -> None:
    assert not to_agent(method, odd, PATHS)
    assert not to_client(method, odd, PATHS)
    assert not result_to_client(method, odd, PATHS)


# Which bytes to look into


@pytest.mark.parametrize(
    "update",
    [
        {"sessionUpdate": "tool_call", **CALL},
        {"sessionUpdate": "tool_call_update", "locations": [{"path": INSIDE}]},
        {"sessionUpdate": "some_chunk", "content": {"type": "image", "uri": INSIDE_URI}},
        {"sessionUpdate": "plan_update", "plan": {"type": "file", "uri": INSIDE_URI}},
    ],
)
def test_what_would_be_changed_is_looked_into_even_with_its_slashes_escaped(update: Json) -> None:
    frame = msgspec.json.encode({"method": "session/update", "params": {"update": update}})
    assert needs_look(frame)
    assert needs_look(frame.replace(b"/", b"\\/"))
    assert updated(**copy.deepcopy(update)) != update


def test_a_chunk_of_text_is_not_looked_into() -> None:
    update = {"sessionUpdate": "agent_message_chunk", "content": {"type": "text", "text": f"see {INSIDE}"}}
    assert not needs_look(msgspec.json.encode({"method": "session/update", "params": {"update": update}}))
