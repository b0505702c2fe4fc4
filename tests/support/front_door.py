# SPDX-License-Identifier: Apache-2.0
"""A front door with nothing behind it but canned answers, and logins that really run on this host."""

import asyncio
import base64
import json
import logging
import threading
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any, Self

from agentd import proctree
from agentd.config import Configuration, Container, Limits
from agentd.errors import AgentdError
from agentd.link import ContainerInfo
from agentd.log import Context, Redactor
from agentd.runtimes import Command
from agentd.runtimes.host import Host
from agentd.worker.agent import Place
from agentd.worker.login import Login

Frame = dict[str, Any]
PATIENCE = 20.0


class FrontDoor:
    """Answers with `answers[method]`, a result or an AgentdError; a login runs the command `login`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.answers: dict[str, Any] = {"_agentd/attach": {"container": "box", "agent": "claude"}}
        self.login: list[str] = []
        self.spelled: Callable[[bytes], str] = lambda data: base64.b64encode(data).decode()
        self.received: list[Frame] = []
        self.owner = proctree.owner_of(str(folder), "box")
        self._loop = asyncio.new_event_loop()
        self._open: set[asyncio.StreamWriter] = set()
        self._thread = threading.Thread(target=self._loop.run_forever, name="front door")

    def __enter__(self) -> Self:
        self._thread.start()
        self._do(self._start())
        return self

    def __exit__(self, *_: object) -> None:
        self.hang_up()
        self._do(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(PATIENCE)
        self._loop.close()

    def _do(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(PATIENCE)

    async def _start(self) -> None:
        self._server = await asyncio.start_unix_server(self._serve, self.folder / "agentd.sock")

    async def _stop(self) -> None:
        self._server.close()
        serving = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        await asyncio.gather(*serving)
        await self._loop.shutdown_default_executor()

    def hang_up(self) -> None:
        """Close every connection."""
        for writer in list(self._open):
            self._loop.call_soon_threadsafe(writer.close)

    def inside(self) -> list[int]:
        """The processes of logins that run."""
        return proctree.find(self.owner)

    def methods(self) -> list[str]:
        return [frame["method"] for frame in self.received]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open.add(writer)
        visit = Visit(self, writer)
        try:
            while line := await reader.readline():
                frame = json.loads(line)
                self.received.append(frame)
                visit.take(frame)
        except ConnectionError:
            pass  # the client has gone with something of ours unread
        await visit.end()
        self._open.discard(writer)
        writer.close()


class Visit:
    """One connection, and its login."""

    def __init__(self, door: FrontDoor, writer: asyncio.StreamWriter) -> None:
        self._door = door
        self._writer = writer
        self._login: Login | None = None
        self._running: asyncio.Task[None] | None = None

    def take(self, frame: Frame) -> None:
        params = frame["params"]
        match frame["method"]:
            case "_agentd/terminal_input" if self._login:
                self._login.input(base64.b64decode(params["data"]))
            case "_agentd/terminal_resize" if self._login:
                self._login.resize(params["columns"], params["rows"])
            case "_agentd/login" if self._door.login:
                self._login = self._made()
                self._running = asyncio.ensure_future(self._run(self._login, frame["id"], params))
            case method if "id" in frame:
                self._answer(frame["id"], self._door.answers[method])

    def _made(self) -> Login:
        here = Container(runtime="host", directory=str(self._door.folder))
        host = Host(Configuration(containers={"box": here}))
        box = ContainerInfo(name="box", runtime="host", running=True, id="box")
        log = Context(logging.getLogger("test"), {})
        place = Place(host, box, self._door.owner, Limits(agent_stop_sec=0.5), Redactor([]), log)
        return Login(place, self._show)

    async def _run(self, login: Login, number: int, params: Frame) -> None:
        try:
            command = Command(self._door.login, {"TERM": params["term"]})
            status = await login.run(command, params["columns"], params["rows"])
            self._answer(number, {"exitStatus": status})
        except AgentdError as exc:
            self._answer(number, exc)

    def _show(self, data: bytes) -> None:
        params = {"data": self._door.spelled(data)}
        self._send({"method": "_agentd/terminal_output", "params": params})

    def _answer(self, number: int, answer: Mapping[str, Any] | AgentdError) -> None:
        if isinstance(answer, AgentdError):
            data = {"reason": answer.reason}
            self._send(
                {"id": number, "error": {"code": answer.code, "message": answer.message, "data": data}}
            )
        else:
            self._send({"id": number, "result": answer})

    def _send(self, frame: Frame) -> None:
        self._writer.write(json.dumps({"jsonrpc": "2.0", **frame}).encode() + b"\n")

    async def end(self) -> None:
        """The client has gone."""
        if self._login is not None and self._running is not None:
            self._login.close()
            await self._running
