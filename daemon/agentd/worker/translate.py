# SPDX-License-Identifier: Apache-2.0
"""Paths in messages: the places where the protocol has one, and how each is rewritten.

These functions work in place on `params` and `result` as msgspec decodes them, and tell whether anything
has changed: where nothing has, the message can be passed on as the bytes it came as. Where one raises, the
message is of no use any more. What has another shape than the protocol's is left alone; text, `_meta` and
members the protocol does not know are never touched.
"""

from collections.abc import Callable, Iterable
from typing import Any

from agentd.acp.methods import (
    REQUEST_PERMISSION,
    SESSION_FORK,
    SESSION_LIST,
    SESSION_LOAD,
    SESSION_NEW,
    SESSION_PROMPT,
    SESSION_RESUME,
    SESSION_UPDATE,
    TERMINAL_CREATE,
)
from agentd.errors import UnmappedPath
from agentd.worker.pathmap import PathMap

READ_TEXT_FILE = "fs/read_text_file"
WRITE_TEXT_FILE = "fs/write_text_file"
NES_START = "nes/start"
NES_SUGGEST = "nes/suggest"
DOCUMENT_PREFIX = "document/"

PLACES_SESSION = frozenset({SESSION_NEW, SESSION_LOAD, SESSION_RESUME, SESSION_FORK})
NES_CONTEXT = ("recentFiles", "relatedSnippets", "editHistory", "userActions", "openFiles", "diagnostics")
"""The lists in the context of nes/suggest whose elements name a file."""

TELLTALES = (b"file:", b"tool_call")
"""Every session/update that has a path has one of these; neither has a character that encoders escape."""
LISTED = 10
"""Directories that an error's sentence names; its data has them all."""

Change = Callable[[str], str]


# From the client to the agent


def to_agent(method: str, params: object, paths: PathMap, *, workdir: str = "") -> bool:
    """Put the container's paths into what a client sends. Returns whether anything has changed.

    Raises UnmappedPath where a session would be in a directory that the container does not have; with
    `workdir`, a directory of the container, it is there instead.
    """
    if method == SESSION_PROMPT:
        return _any(_block(each, paths.inward_uri) for each in _list(params, "prompt"))
    if method in PLACES_SESSION:
        return _session_directories(params, paths, workdir)
    if method == SESSION_LIST:
        return _change(params, "cwd", lambda path: paths.inward(path) or path)
    if method.startswith(DOCUMENT_PREFIX):
        return _change(params, "uri", paths.inward_uri)
    if method == NES_START:
        folders = _change_each(params, "workspaceFolders", "uri", paths.inward_uri)
        return _change(params, "workspaceUri", paths.inward_uri) or folders
    if method == NES_SUGGEST:
        context = _member(params, "context")
        named = _any(_change_each(context, each, "uri", paths.inward_uri) for each in NES_CONTEXT)
        return _change(params, "uri", paths.inward_uri) or named
    return False


def _session_directories(params: object, paths: PathMap, workdir: str) -> bool:
    def inside(path: str, otherwise: str = "") -> str:
        mapped = paths.inward(path) or otherwise
        if not mapped:
            raise _unmapped_on_host(path, paths)
        return mapped

    moved = _change(params, "cwd", lambda path: inside(path, workdir))
    return _change_strings(params, "additionalDirectories", inside) or moved


# From the agent to the client


def to_client(method: str, params: object, paths: PathMap) -> bool:
    """Put the host's paths into what an agent sends. Returns whether anything has changed.

    Raises UnmappedPath where the client would have to work on a file that the host does not have.
    """
    if method == SESSION_UPDATE:
        return _update(_member(params, "update"), paths)
    if method == REQUEST_PERMISSION:
        return _tool_call(_member(params, "toolCall"), paths)
    if method in (READ_TEXT_FILE, WRITE_TEXT_FILE):
        return _change(params, "path", lambda path: _on_host(path, paths))
    if method == TERMINAL_CREATE:
        return _change(params, "cwd", lambda path: _on_host(path, paths))
    return False


def result_to_client(method: str, result: object, paths: PathMap) -> bool:
    """The same for the result of a client's request."""
    if method == SESSION_LIST:
        return _any(_listed_session(each, paths) for each in _list(result, "sessions"))
    if method == NES_SUGGEST:
        return _change_each(result, "suggestions", "uri", paths.outward_uri)
    return False


def needs_look(block: bytes) -> bool:
    """Whether any of these session/update messages may have a path: says yes too often, but is cheap."""
    return any(telltale in block for telltale in TELLTALES)


def _update(update: object, paths: PathMap) -> bool:
    match update:
        case {"sessionUpdate": "tool_call" | "tool_call_update"}:
            return _tool_call(update, paths)
        case {"sessionUpdate": "plan_update", "plan": {"type": "file"} as plan}:
            return _change(plan, "uri", paths.outward_uri)
        case {"sessionUpdate": str(kind), "content": content} if kind.endswith("_chunk"):
            blocks = content if isinstance(content, list) else [content]
            return _any(_block(each, paths.outward_uri) for each in blocks)
    return False


def _tool_call(call: object, paths: PathMap) -> bool:
    outward = _where_mapped(paths)
    located = _change_each(call, "locations", "path", outward)
    return _any(_tool_content(each, paths) for each in _list(call, "content")) or located


def _tool_content(content: object, paths: PathMap) -> bool:
    match content:
        case {"type": "diff"}:
            return _change(content, "path", _where_mapped(paths))
        case {"type": "content", "content": block}:
            return _block(block, paths.outward_uri)
    return False


def _listed_session(session: object, paths: PathMap) -> bool:
    outward = _where_mapped(paths)
    others = _change_strings(session, "additionalDirectories", outward)
    return _change(session, "cwd", outward) or others


def _where_mapped(paths: PathMap) -> Change:
    return lambda path: paths.outward(path) or path


# What both directions have


def _block(block: object, change: Change) -> bool:
    """A content block: a file that is linked, embedded, or shown."""
    match block:
        case {"type": "resource_link" | "image"}:
            return _change(block, "uri", change)
        case {"type": "resource", "resource": resource}:
            return _change(resource, "uri", change)
    return False


def _on_host(path: str, paths: PathMap) -> str:
    mapped = paths.outward(path)
    if mapped is None:
        raise _unmapped_in_container(path, paths)
    return mapped


def _unmapped_on_host(path: str, paths: PathMap) -> UnmappedPath:
    mapped = list(dict.fromkeys(host for host, _ in paths.pairs))
    message = f"the container does not have {path}: {_shared(mapped)}; choose one, or mount it there"
    return UnmappedPath(message, path=path, mapped=mapped)


def _unmapped_in_container(path: str, paths: PathMap) -> UnmappedPath:
    mapped = list(dict.fromkeys(inside for _, inside in paths.pairs))
    message = f"{path} is inside the container only: {_shared(mapped)}; use tools of your own for it"
    return UnmappedPath(message, path=path, mapped=mapped)


def _shared(directories: list[str]) -> str:
    if not directories:
        return "it shares no directory with the host"
    more = ["…"] if len(directories) > LISTED else []
    return f"shared with the host are {', '.join([*directories[:LISTED], *more])}"


# Untrusted JSON


def _any(changes: Iterable[bool]) -> bool:
    """Whether anything has changed, when all of it is done."""
    return any(list(changes))


def _member(parent: object, name: str) -> object:
    return parent.get(name) if isinstance(parent, dict) else None


def _list(parent: object, name: str) -> list[Any]:
    found = _member(parent, name)
    return found if isinstance(found, list) else []


def _change(parent: object, name: str, change: Change) -> bool:
    """Change a string member; nothing happens where there is none."""
    if not isinstance(parent, dict) or not isinstance(old := parent.get(name), str):
        return False
    parent[name] = change(old)
    return bool(parent[name] != old)


def _change_each(parent: object, name: str, member: str, change: Change) -> bool:
    """Change a string member of every object in a list."""
    return _any(_change(each, member, change) for each in _list(parent, name))


def _change_strings(parent: object, name: str, change: Change) -> bool:
    """Change every string in a list."""
    old = list(strings := _list(parent, name))
    strings[:] = [change(each) if isinstance(each, str) else each for each in old]
    return strings != old
