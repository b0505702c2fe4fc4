# SPDX-License-Identifier: Apache-2.0
"""A whole hub in one process: real pipes and sockets, and agents and clients made here at their ends."""

import asyncio
import itertools
import json
import logging
import os
import socket
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Mapping
from pathlib import Path
from typing import Any

from agentd import link
from agentd.config import Agent, Configuration, Container, Limits
from agentd.config import Store as Settings
from agentd.errors import NoSuchContainer, ShuttingDown
from agentd.link import ContainerInfo
from agentd.log import Context, Redactor
from agentd.process import Child, Pipes, Size
from agentd.proctree import MARKER
from agentd.runtimes import Command
from agentd.store.keeper import Keeper, Nothing
from agentd.tasks import Tasks
from agentd.worker.agent import Place
from agentd.worker.hub import Hub
from unit.loop import Changes, run

Message = dict[str, Any]
HERE = {"cwd": "/work", "mcpServers": []}
MINE = 1000
"""The account that clients belong to where a test does not say."""


class Process:
    """What an agent looks like to whoever has started it."""

    pid = 4711

    def __init__(self) -> None:
        self._ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    @property
    def status(self) -> int | None:
        return self._ended.result() if self._ended.done() else None

    async def wait(self) -> int:
        return await asyncio.shield(self._ended)

    def signal(self, number: int) -> None:
        self.end(-number)

    async def stop(self, *, term: float, kill: float) -> None:
        self.signal(15)

    def end(self, status: int) -> None:
        if not self._ended.done():
            self._ended.set_result(status)


class Ends:
    """The child's ends of its three pipes, and the process."""

    def __init__(self) -> None:
        self.process = Process()
        self.stdin, stdin = os.pipe()
        stdout, self.stdout = os.pipe()
        stderr, self.stderr = os.pipe()
        self.pipes = Pipes(stdin, stdout, stderr)

    def write(self, data: bytes) -> None:
        assert os.write(self.stdout, data) == len(data)

    def close_stdout(self) -> None:
        if self.stdout >= 0:
            os.close(self.stdout)
            self.stdout = -1

    def close(self, status: int) -> None:
        self.close_stdout()
        os.close(self.stdin)
        os.close(self.stderr)
        self.process.end(status)


class FakeAgent:
    """An agent that answers what a test has told it to. What is not in `answers` is kept in `requests`.

    `answers`: by method, the result of a request, or None to leave it open for now.
    """

    def __init__(self, world: "World", name: str, mark: str) -> None:
        self.capabilities: Message = {}
        self.world, self.name, self.mark = world, name, mark
        self.ends = Ends()
        self.alive = True
        self.may_die = asyncio.Event()
        """Cleared, it is slow to end, whoever wants it to."""
        self.may_die.set()
        self.asked: list[Message] = []
        self.told: list[Message] = []
        self.open: list[Message] = []
        self.outcomes: dict[Any, Message] = {}
        self.answers: dict[str, Callable[[Message], Any]] = {
            "initialize": lambda params: {"protocolVersion": 1, "agentCapabilities": self.capabilities},
            "session/new": lambda params: {"sessionId": self.new_id()},
            "session/close": lambda params: {},
        }
        self._numbers = itertools.count()
        self._ids = itertools.count()
        self._partial = b""
        os.set_blocking(self.ends.stdin, False)
        asyncio.get_running_loop().add_reader(self.ends.stdin, self._readable)

    def new_id(self) -> str:
        """As the SDK's example agent does it."""
        return str(next(self._numbers))

    # From the hub

    def _readable(self) -> None:
        data = os.read(self.ends.stdin, 1 << 20)
        if not data:
            self._stdin_ended()
        *lines, self._partial = (self._partial + data).split(b"\n")
        for line in lines:
            self.world.check(self.take, json.loads(line))
        self.world.changed()

    def _stdin_ended(self) -> None:
        if self.may_die.is_set():
            self.crash(0)
        else:
            asyncio.get_running_loop().remove_reader(self.ends.stdin)

    def take(self, message: Message) -> None:
        if "method" not in message:
            assert message["id"] not in self.outcomes, f"answered twice: {message}"
            self.outcomes[message["id"]] = message
        elif "id" not in message:
            self.told.append(message)
            self.notified(message["method"], message["params"])
        else:
            self.asked.append(message)
            self.requested(message)

    def requested(self, message: Message) -> None:
        answer = self.answers.get(message["method"], lambda params: None)(message["params"])
        if answer is None:
            self.open.append(message)
        else:
            self.say({"id": message["id"], "result": answer})

    def notified(self, method: str, params: Message) -> None:
        """Overridden by agents that mind."""

    # To the hub

    def say(self, *messages: Message) -> None:
        """All in one write."""
        lines = [json.dumps({"jsonrpc": "2.0", **each}) + "\n" for each in messages]
        self.ends.write("".join(lines).encode())

    def answer(self, result: Any, method: str = "session/prompt") -> None:
        """Answer the oldest request of this kind that is open."""
        message = next(each for each in self.open if each["method"] == method)
        self.open.remove(message)
        self.say({"id": message["id"], "result": result})

    def refuse(self, method: str, code: int = -32603) -> None:
        message = next(each for each in self.open if each["method"] == method)
        self.open.remove(message)
        self.say({"id": message["id"], "error": {"code": code, "message": "no"}})

    def ask(self, method: str, params: Message) -> int:
        number = next(self._ids)
        self.say({"id": number, "method": method, "params": params})
        return number

    def methods(self) -> list[str]:
        return [message["method"] for message in self.asked]

    # The end

    def crash(self, status: int = 1) -> None:
        if self.alive:
            self.alive = False
            asyncio.get_running_loop().remove_reader(self.ends.stdin)
            self.ends.close(status)
            self.world.changed()


def update(session: str, text: str) -> Message:
    content = {"type": "text", "text": text}
    about = {"sessionId": session, "update": {"sessionUpdate": "agent_message_chunk", "content": content}}
    return {"method": "session/update", "params": about}


def prompt(session: str, text: str) -> Message:
    return {"sessionId": session, "prompt": [{"type": "text", "text": text}]}


def said(message: Message) -> str | None:
    """What an update says: the text of a chunk, <outcome> for the end of a turn, None for anything else."""
    match message:
        case {"params": {"update": {"_meta": {"agentd.notice": _}}}}:
            return None
        case {"params": {"update": {"content": {"text": str(text)}}}}:
            return text
        case {"params": {"update": {"_meta": {"agentd.turn": {"outcome": outcome}}}}}:
            return f"<{outcome}>"
    return None


class FakeClient:
    """An editor. `inbox`: all it was sent; `answers`: those to its requests, by id."""

    def __init__(self, world: "World", number: int, uid: int) -> None:
        self.world, self.number, self.uid = world, number, uid
        self.inbox: list[Message] = []
        self.answers: dict[Any, Message] = {}
        self.asked: list[Message] = []
        self.here = True
        self.closed = False
        """By the hub."""
        self._ids = itertools.count()
        self._partial = b""
        self._sock, self.theirs = socket.socketpair()
        self._sock.setblocking(False)
        asyncio.get_running_loop().add_reader(self._sock, self._readable)

    # From the hub

    def _readable(self) -> None:
        data = self._sock.recv(1 << 20)
        if not data:
            self.closed = True
            asyncio.get_running_loop().remove_reader(self._sock)
        *lines, self._partial = (self._partial + data).split(b"\n")
        for line in lines:
            self.world.check(self.take, json.loads(line))
        self.world.changed()

    def take(self, message: Message) -> None:
        self.inbox.append(message)
        if "method" not in message:
            assert message["id"] not in self.answers, f"answered twice: {message}"
            self.answers[message["id"]] = message
        elif "id" in message:
            self.asked.append(message)

    def heard(self, session: str, since: int = 0) -> list[str]:
        """What was said in a session, in order, from a place in the inbox on."""
        mine = [each for each in self.inbox[since:] if each.get("params", {}).get("sessionId") == session]
        return [text for each in mine if (text := said(each)) is not None]

    # To the hub

    def say(self, message: Message) -> None:
        data = json.dumps({"jsonrpc": "2.0", **message}).encode() + b"\n"
        assert self._sock.send(data) == len(data)

    def request(self, method: str, params: Message) -> int:
        number = next(self._ids)
        self.say({"id": number, "method": method, "params": params})
        return number

    def notify(self, method: str, params: Message) -> None:
        self.say({"method": method, "params": params})

    async def answer_to(self, number: Any) -> Message:
        await self.world.until(lambda: number in self.answers)
        return self.answers[number]

    async def call(self, method: str, params: Message) -> Any:
        """The result of a request, or the reason of its error."""
        answer = await self.answer_to(self.request(method, params))
        return outcome(answer)

    async def new(self, **more: Any) -> str:
        result = await self.call("session/new", {**HERE, **more})
        assert isinstance(result, dict), result
        return str(result["sessionId"])

    async def sync(self) -> None:
        """Return when all that was sent to it until now has come."""
        await self.call("_agentd/paths", {})

    def choose(self, message: Message, option: str) -> None:
        """Answer a request for permission."""
        self.say({"id": message["id"], "result": {"outcome": {"outcome": "selected", "optionId": option}}})

    def end_writing(self) -> None:
        self._sock.shutdown(socket.SHUT_WR)

    def leave(self) -> None:
        if self.here:
            self.here = False
            asyncio.get_running_loop().remove_reader(self._sock)
            self._sock.close()


def outcome(answer: Message) -> Any:
    if "error" not in answer:
        return answer["result"]
    return (answer["error"].get("data") or {}).get("reason", answer["error"]["code"])


class FakeRuntime:
    """Starts the agents of a world. `name`: with that of the host's, every path is the same inside."""

    def __init__(self, world: "World", name: str) -> None:
        self.name = name
        self._world = world

    async def inspect(self, name: str) -> ContainerInfo:
        raise NoSuchContainer(name)

    def exec(self, container: ContainerInfo, command: Command) -> tuple[Child, Pipes]:
        if command.argv[0] == "sh":
            return self._look(command.argv)
        agent = self._world.agent_class(self._world, command.argv[0], command.env[MARKER])
        self._world.agents.append(agent)
        self._world.changed()
        return agent.ends.process, agent.ends.pipes  # type: ignore[return-value]

    def _look(self, argv: Iterable[str]) -> tuple[Child, Pipes]:
        """The look for programs: they are all there but those that the world says are missing."""
        self._world.looks += 1
        there = [each for each in list(argv)[4:] if each not in self._world.missing]
        ends = Ends()
        ends.write("".join(f"{each}\n" for each in there).encode())
        ends.close(self._world.look_status)
        return ends.process, ends.pipes  # type: ignore[return-value]

    def terminal(self, container: ContainerInfo, command: Command, size: Size) -> tuple[Child, int]:
        raise AssertionError("nobody logs in here")

    async def connect(self, container: ContainerInfo, port: int) -> socket.socket:
        raise AssertionError("no agent listens here")

    async def wait(self, container: ContainerInfo) -> None:
        raise AssertionError("it does not end")

    async def reap(self, container: ContainerInfo, owner: str, *, term: float, kill: float) -> int:
        for agent in [each for each in self._world.agents if each.mark == owner]:
            await agent.may_die.wait()
            agent.crash(-15)
        return 0

    async def containers(self) -> list[ContainerInfo]:
        return []

    async def events(self, since: float) -> AsyncIterator[str]:
        raise AssertionError("nobody follows")
        yield ""


class World(Changes):
    """A hub with its agents and clients. `agents`: every process that was started, in order.

    `reports`: of drains.
    """

    def __init__(
        self,
        folder: Path,
        names: Iterable[str] = ("one",),
        *,
        agent_class: type[FakeAgent] = FakeAgent,
        runtime: str = "host",
        container: Container | None = None,
        info: Mapping[str, Any] | None = None,
        limits: Limits | None = None,
        agent: Mapping[str, Any] | None = None,
        store: Keeper | None = None,
        clock: Callable[[], float] = time.time,
        settings: Settings | None = None,
        **more: Any,
    ) -> None:
        """`container`, `info`, `limits`, `more`: of the configuration; `agent`: of each of the agents."""
        super().__init__()
        self.agent_class = agent_class
        self.agents: list[FakeAgent] = []
        self.clients: list[FakeClient] = []
        self.missing: set[str] = set()
        self.problems: list[AssertionError] = []
        self.looks = 0
        self.look_status = 0
        self.tasks = Tasks()
        names = tuple(names)
        limits = limits or Limits()
        configuration = Configuration(
            limits=limits,
            store=settings or Settings(),
            agents={name: Agent(command=(name,), **(agent or {})) for name in names},
            containers={"box": container or Container(agents=names)},
            **more,
        )
        place = Place(
            FakeRuntime(self, runtime),
            ContainerInfo(name="box", runtime=runtime, running=True, id="box", **(info or {})),
            "owner",
            limits,
            Redactor([]),
            Context(logging.getLogger("test"), {}),
        )
        self.reports: list[link.Progress | link.Ended] = []
        self.hub = Hub(
            place,
            configuration,
            str(folder),
            store or Nothing(),
            self.tasks,
            self.changed,
            self.reports.append,
            clock=clock,
        )

    def check(self, take: Callable[[Message], None], message: Message) -> None:
        """Have a message taken; what is wrong with it is raised where the test waits."""
        try:
            take(message)
        except AssertionError as exc:
            self.problems.append(exc)

    async def until(self, condition: Callable[[], object]) -> None:
        await super().until(lambda: self.problems or condition())
        if self.problems:
            raise self.problems[0]

    @property
    def agent(self) -> FakeAgent:
        """The one that was started last."""
        return self.agents[-1]

    async def client(
        self, agent: str = "", *, uid: int = MINE, capabilities: Message | None = None, **more: Any
    ) -> FakeClient:
        """A client that has introduced itself, and been answered."""
        client = await self.stranger(agent, uid=uid, **more)
        await client.call("initialize", {"protocolVersion": 1, "clientCapabilities": capabilities or {}})
        return client

    async def stranger(
        self, agent: str = "", *, uid: int = MINE, kind: type[FakeClient] = FakeClient
    ) -> FakeClient:
        """A client that has said nothing yet."""
        client = kind(self, len(self.clients) + 1, uid)
        self.clients.append(client)
        await self.hub.accept(link.Connect(connection=client.number, uid=uid, agent=agent), client.theirs)
        return client

    async def until_agents(self, number: int) -> FakeAgent:
        await self.until(lambda: len(self.agents) >= number)
        return self.agents[number - 1]

    async def lose(self, agent: FakeAgent) -> None:
        """Have an agent end, or only close its output where it may not die yet, and the hub notice it."""
        if agent.may_die.is_set():
            agent.crash()
        else:
            agent.ends.close_stdout()
        while any(
            each.agent.alive and agent.mark.endswith(each.agent.instance)
            for each in self.hub.agents._routers
        ):
            await asyncio.sleep(0)

    async def until_gone(self, client: FakeClient) -> None:
        """Until the hub has noticed that a client has left."""
        client.leave()
        # the hub tells of it when its timer goes off, and nobody waits for timers here
        while client.number in self.hub._clients:
            await asyncio.sleep(0)

    async def close(self) -> None:
        for agent in self.agents:
            agent.may_die.set()
        await self.hub.close(ShuttingDown("the test is over"))
        for client in self.clients:
            client.leave()
        while self.hub._clients:
            await asyncio.sleep(0)
        await self.tasks.close()


Test = Callable[[World], Coroutine[Any, Any, None]]


def in_world(folder: Path, test: Test, *names: str, **options: Any) -> None:
    """Run a test in a world of its own, and leave nothing of it behind."""

    async def whole() -> None:
        world = World(folder, names or ("one",), **options)
        try:
            await test(world)
        finally:
            await world.close()

    run(whole())
