# SPDX-License-Identifier: Apache-2.0
"""The first line of a connection: which container, which agent, and nothing else is read from a stranger."""

import asyncio
import socket
from typing import NamedTuple

import msgspec

from agentd.acp import envelope, methods
from agentd.errors import FrameTooLarge, HandshakeTimeout, InvalidArgs, InvalidRequest, ParseError

CONTAINER_META, AGENT_META = "agentd.container", "agentd.agent"


class Opening(NamedTuple):
    """What a connection asks for. `container` and `agent` are "" where it leaves that to agentd.

    `attach_id` is the raw id to answer once a worker has the connection, b"" for one that began with ACP;
    `data` is what the worker must read first. `session`: the one to go on with, or "". `start`: whether a
    worker is to be started where there is none.
    """

    container: str
    agent: str
    attach_id: bytes
    data: bytes
    session: str = ""
    start: bool = True


class _Attach(msgspec.Struct, forbid_unknown_fields=True):
    container: str = ""
    agent: str = ""
    session: str = ""
    start: bool = True


async def first_line(sock: socket.socket, *, limit: int, deadline: float) -> tuple[bytes, bytes] | None:
    """Read the first line, and what came with it. None where the peer left without a word.

    Raises HandshakeTimeout, FrameTooLarge, or ParseError where the line breaks off.
    """
    try:
        return await asyncio.wait_for(_first_line(sock, limit), deadline)
    except TimeoutError:
        raise HandshakeTimeout(f"no complete first line came within {deadline:g} s") from None


async def _first_line(sock: socket.socket, limit: int) -> tuple[bytes, bytes] | None:
    loop = asyncio.get_running_loop()
    data = b""
    while b"\n" not in data:
        if len(data) > limit:
            raise FrameTooLarge(f"the first line may have {limit} bytes at most")
        more = await loop.sock_recv(sock, limit + 1 - len(data))
        if not more and data:
            raise ParseError("the connection ended in the middle of its first line")
        if not more:
            return None
        data += more
    line, _, rest = data.partition(b"\n")
    return line, rest


def understand(line: bytes, rest: bytes) -> Opening:
    """What a first line asks for. Raises ParseError, BatchRefused, InvalidRequest or InvalidArgs."""
    envelope.require_utf8(line)
    message = envelope.decode(line)
    if not message.is_request:
        raise InvalidRequest("the first message must be a request: initialize, or _agentd/attach")
    params = envelope.members(line).get("params", b"{}")
    if message.method == methods.ATTACH:
        wanted = _attach(params)
        return Opening(
            wanted.container, wanted.agent, message.raw_id, rest, session=wanted.session, start=wanted.start
        )
    if message.method != methods.INITIALIZE:
        raise InvalidRequest(f"the first message must be initialize or _agentd/attach, not {message.method}")
    meta = envelope.members(envelope.members(params).get("_meta", b"{}"))
    container, agent = (envelope.text(meta.get(key)) or "" for key in (CONTAINER_META, AGENT_META))
    return Opening(container, agent, b"", line + b"\n" + rest)


def _attach(params: bytes | msgspec.Raw) -> _Attach:
    try:
        return msgspec.json.decode(params, type=_Attach)
    except msgspec.ValidationError as exc:
        raise InvalidArgs(
            f"_agentd/attach takes container and agent and session, all strings, and start, a boolean: {exc}"
        ) from None
