# SPDX-License-Identifier: Apache-2.0
"""A raw ACP client for tests: sends and reads single frames over a socket, with a deadline on every wait."""

import json
import socket
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

DEADLINE = 20.0

Frame = dict[str, Any]


class Client:
    """One connection to a front door; given a socket, it is connected already."""

    def __init__(self, door: Path | str | socket.socket) -> None:
        connected = isinstance(door, socket.socket)
        self.sock = door if connected else socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(DEADLINE)
        if not connected:
            self.sock.connect(str(door))
        self._lines = self.sock.makefile("rb")
        self._number = 0
        self._kept: list[Frame] = []
        self.session = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._lines.close()
        self.sock.close()

    # Frames

    def raw(self, data: bytes) -> None:
        self.sock.sendall(data)

    def send(self, message: Frame) -> None:
        self.raw(json.dumps({"jsonrpc": "2.0", **message}).encode() + b"\n")

    def line(self) -> bytes:
        """The next line; b"" at the end of the connection."""
        try:
            return self._lines.readline()
        except ConnectionResetError:
            return b""

    def read(self) -> Frame:
        """The next frame. Fails at the end of the connection."""
        if self._kept:
            return self._kept.pop(0)
        line = self.line()
        assert line, "the connection was closed"
        frame = json.loads(line)
        assert isinstance(frame, dict)
        return frame

    def at_end(self) -> bool:
        """Whether the other side closes, having sent nothing more."""
        return self.line() == b""

    # Requests

    def request(self, method: str, params: Frame | None = None) -> int:
        """Send a request and return its id."""
        self._number += 1
        self.send({"id": self._number, "method": method, "params": params or {}})
        return self._number

    def notify(self, method: str, params: Frame | None = None) -> None:
        self.send({"method": method, "params": params or {}})

    def answer_to(self, number: object) -> tuple[Frame, list[Frame]]:
        """The answer to a request, and what came before it."""
        before = []
        while (frame := self.read()).get("id") != number or "method" in frame:
            before.append(frame)
        return frame, before

    def call(self, method: str, params: Frame | None = None) -> Frame:
        """Send a request and return its answer, result or error."""
        return self.answer_to(self.request(method, params))[0]

    # ACP

    def attach(self, container: str, agent: str = "") -> Frame:
        params = {"container": container} | ({"agent": agent} if agent else {})
        return self.call("_agentd/attach", params)

    def open(self, container: str = "here", agent: str = "") -> Self:
        """Attach, initialize, and make a session."""
        self.greet(container, agent)
        self.session = self.new_session()
        return self

    def greet(self, container: str = "here", agent: str = "", capabilities: Frame | None = None) -> Frame:
        """Attach and initialize: what that answers."""
        attached = self.attach(container, agent)
        assert "result" in attached, attached
        hello = {"protocolVersion": 1, "clientCapabilities": capabilities or {}}
        return result(self.call("initialize", hello))

    def new_session(self, cwd: str = "/", **more: Any) -> str:
        made = result(self.call("session/new", {"cwd": cwd, "mcpServers": [], **more}))
        return str(made["sessionId"])

    def load(self, session: str, method: str = "session/load") -> tuple[Frame, list[Frame]]:
        """Enter a session that is there already: the answer, and what was shown before it."""
        asked = self.request(method, {"sessionId": session, "cwd": "/", "mcpServers": []})
        answer, before = self.answer_to(asked)
        self.session = session if "result" in answer else self.session
        return answer, before

    def prompt(self, *script: str, session: str = "") -> int:
        """Send a prompt of script lines and return its id."""
        text = {"type": "text", "text": "\n".join(script)}
        return self.request("session/prompt", {"sessionId": session or self.session, "prompt": [text]})

    def turn(self, *script: str) -> tuple[Frame, list[str]]:
        """Run a prompt to its end: the answer, and the texts of the chunks before it."""
        answer, before = self.answer_to(self.prompt(*script))
        return answer, texts(before)

    def until(self, method: str) -> Frame:
        """The next request or notification of that name; what comes before it is dropped."""
        while (frame := self.read()).get("method") != method:
            pass
        return frame

    def until_text(self, text: str) -> None:
        """Read up to the message chunk with that text."""
        while texts([self.read()]) != [text]:
            pass

    def cancel(self, session: str = "") -> None:
        self.notify("session/cancel", {"sessionId": session or self.session})


def result(answer: Frame) -> Frame:
    """The result of an answer that is no error."""
    assert "result" in answer, answer
    found = answer["result"]
    assert isinstance(found, dict)
    return found


def texts(frames: Iterable[Frame]) -> list[str]:
    """The texts of the message chunks among some frames, without agentd's own notices."""
    said = updates(frames, "agent_message_chunk")
    return [each["content"]["text"] for each in said if "agentd.notice" not in (each.get("_meta") or {})]


def reason(frame: Frame) -> str:
    """The reason of an error answer."""
    assert "error" in frame, frame
    return str(frame["error"]["data"]["reason"])


def told(client: Client, method: str, **more: object) -> Any:
    """The params that an agent was last sent with a method; None where it never came."""
    return result(client.call("_params", {"method": method, **more}))["params"]


def process(client: Client, **more: object) -> int:
    """The number of the agent process that serves this client, or the session named."""
    return int(result(client.call("_params", {"method": "initialize", **more}))["pid"])


def updates(frames: Iterable[Frame], kind: str) -> list[Frame]:
    """The updates of a kind among some frames."""
    inside = [frame["params"]["update"] for frame in frames if frame.get("method") == "session/update"]
    return [each for each in inside if each["sessionUpdate"] == kind]
