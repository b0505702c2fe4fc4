# SPDX-License-Identifier: Apache-2.0
"""`agentctl attach NAME`: the bridge an editor starts. What passes through is ACP and nothing else.

Two threads that block, and no event loop: it is the fastest thing Python can do here, to start and to relay.
Errors go to stderr, with an exit status, since editors take anything on stdout for ACP.
"""

import os
import socket
import sys
import threading

from agentd.ctl.places import front_door
from agentd.errors import EX_UNAVAILABLE, InvalidArgs, ManagerUnreachable, revive

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse

CHUNK = 1 << 18
ANSWER_SEC = 120.0
"""A worker may have to be started, and its container's engine may be slow."""
ACCEPTED = b'{"jsonrpc":"2.0","id":0,"result":'
PLAIN = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-")


def run(options: "argparse.Namespace") -> int:
    if options.login:
        from agentd.ctl import login

        return login.run_attached(options)
    sock = front_door(options)
    early = attach(sock, options.container, options.agent)
    return bridge(sock, early)


def attach(sock: socket.socket, container: str, agent: str) -> bytes:
    """Ask for a container; returns what came after the answer. Raises the error the manager gave."""
    for name in (container, agent):
        if not PLAIN.issuperset(name):
            raise InvalidArgs(f"{name!r} has characters that no container's or agent's name can have")
    request = f'{{"jsonrpc":"2.0","id":0,"method":"_agentd/attach","params":{_params(container, agent)}}}\n'
    sock.settimeout(ANSWER_SEC)
    try:
        sock.sendall(request.encode())
        answer, _, early = _read_line(sock).partition(b"\n")
    except TimeoutError:
        raise ManagerUnreachable(f"agentd did not answer within {ANSWER_SEC:g} s") from None
    except OSError as exc:
        raise ManagerUnreachable(f"agentd closed the connection: {exc.strerror}") from None
    sock.settimeout(None)
    if not answer.startswith(ACCEPTED):
        raise _refusal(answer)
    return early


def _params(container: str, agent: str) -> str:
    chosen = f',"agent":"{agent}"' if agent else ""
    return f'{{"container":"{container}"{chosen}}}'


def _read_line(sock: socket.socket) -> bytes:
    data = b""
    while b"\n" not in data and (more := sock.recv(CHUNK)):
        data += more
    return data


def _refusal(answer: bytes) -> Exception:
    import json

    try:
        error = json.loads(answer)["error"]
        return revive(error["data"]["reason"], error["message"])
    except (ValueError, KeyError, TypeError):
        return ManagerUnreachable("agentd closed the connection without an answer")


def bridge(sock: socket.socket, early: bytes) -> int:
    """Pump both ways until agentd closes. Returns 0 where the editor had closed its side before."""
    input_ended = threading.Event()
    threading.Thread(target=_pump_in, args=(sock, input_ended), daemon=True).start()
    try:
        _write(early)
        while data := _receive(sock):
            _write(data)
    except BrokenPipeError:
        return 0  # the editor has gone, and there is nobody to tell
    if input_ended.is_set():
        return 0
    print("agentctl: agentd has closed the connection", file=sys.stderr)
    return EX_UNAVAILABLE


def _pump_in(sock: socket.socket, ended: threading.Event) -> None:
    try:
        while data := os.read(0, CHUNK):
            sock.sendall(data)
        ended.set()
        sock.shutdown(socket.SHUT_WR)
    except OSError:
        pass  # agentd has closed; the other thread sees it too, and says so


def _receive(sock: socket.socket) -> bytes:
    try:
        return sock.recv(CHUNK)
    except ConnectionResetError:
        return b""  # closed with something of ours unread


def _write(data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(1, view) :]
