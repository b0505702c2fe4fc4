# SPDX-License-Identifier: Apache-2.0
"""A client with a session and the agent that has it, both played by the test, and what arrives compared."""

import itertools
import json
import socket
import time
from collections.abc import Iterable
from types import TracebackType
from typing import NamedTuple, Self

import msgspec
import pytest

from support.acp_client import DEADLINE
from support.corpus import Corpus, Json, Schema, differences, frame, read
from support.embedded import Embedded
from support.stage import End, Stage

IDS = ["0", "-1", "9223372036854775807", '"0"', r'"\u0031\" ü"', "null", '""', "1"]
GRACE = 2.0
"""Seconds in which a message may still arrive after its sender has heard something else instead."""
MOST_TOLD = 200
VERSION_1 = {"ProtocolVersion": [1]}
FRESH = {"SessionId": ["@fresh@"]}
"""For answers that make sessions: each gets an id of its own."""


class Script:
    """What agents answer before the test takes their part: the fullest answers there are."""

    def __init__(self, schema: Schema) -> None:
        self.schema = schema
        self.results: dict[str, Json] = {
            "initialize": Corpus(schema, VERSION_1).of("InitializeResponse")[0],
            "session/new": Corpus(schema, FRESH).of("NewSessionResponse")[0],
            "session/list": {"sessions": []},
        }
        self.session = ""
        """The id of the sessions to be made, where they are not to have one each."""
        self._numbers = itertools.count()

    def fresh(self) -> str:
        """A session id as JSON."""
        return json.dumps(self.session or f"ü-{next(self._numbers)}")

    def answer(self, message: Json) -> bytes:
        answer = {"id": "@id@", "result": self.results.get(message["method"], {})}
        return frame(0, answer, id=json.dumps(message["id"]), fresh=self.fresh())

    def greeting(self, token: str) -> Json:
        """From a client that can do everything; nobody else's agent is told of the same capabilities."""
        hello = Corpus(self.schema, VERSION_1).of("InitializeRequest")[0]
        return hello | {"clientCapabilities": hello["clientCapabilities"] | {"_token": token}}


class Theatre(NamedTuple):
    """An agentd and its agents."""

    agentd: Embedded
    stage: Stage
    script: Script

    def client(self, agent: str) -> End:
        """A connection to the container `here`, that has not said anything yet but which agent it wants."""
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.connect(str(self.agentd.runtime_dir / "agentd.sock"))
        client = End(sock)
        result_of(client.call("_agentd/attach", {"container": "here"} | ({"agent": agent} if agent else {})))
        return client


class Case(NamedTuple):
    """The members of a message as it is sent, and as it is to arrive. `id` stays out of it."""

    name: str
    sent: Json
    wanted: Json


class Wire:
    """A connection to an agent, to none in particular where `agent` is "", and a session on it.

    `session` is the id that the agent gives it, a fresh one where that is "".
    """

    def __init__(self, theatre: Theatre, token: str, *, agent: str = "recorder", session: str = "") -> None:
        self.faults: list[str] = []
        self.aggregated = not agent
        self._agent = agent
        self._theatre = theatre
        self._token = token
        self._session = session
        self._numbers = itertools.count()

    def __enter__(self) -> Self:
        self.client = self._theatre.client(self._agent)
        try:
            self._open()
        except BaseException:
            self.client.close()
            raise
        return self

    def _open(self) -> None:
        script, word = self._theatre.script, f"{self._token}/session"
        script.session = self._session
        result_of(self.client.call("initialize", script.greeting(self._token)))
        params = {"cwd": "/", "mcpServers": [], "additionalDirectories": ["/tmp"], "_token": word}
        self.made = result_of(self.client.call("session/new", params))
        """What session/new was answered with."""
        self.public = str(self.made["sessionId"])
        self.own = self._session or self.public
        """The session's id as its agent knows it; `public` is the one its client knows."""
        script.session = ""
        self.actor, _ = self._theatre.stage.actor_told(word)
        self.actor.play()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.client.close()

    def another_client(self) -> End:
        """One more on the same agent, without a session."""
        client = self._theatre.client(self._agent)
        result_of(client.call("initialize", self._theatre.script.greeting(self._token)))
        return client

    # What to send

    def corpora(self, requests: tuple[Json, Json] = (0, 0)) -> tuple[Corpus, Corpus]:
        """The same messages as the client and as the agent knows them; so is the id of a pending request."""
        ids = zip((self.public, self.own), requests, strict=True)
        mine, its = (
            Corpus(self._theatre.script.schema, {"SessionId": [session], "RequestId": [request]})
            for session, request in ids
        )
        return mine, its

    def routed(self, cases: Iterable[Case]) -> list[Case]:
        """Without those that name no session, where only that tells which agent is meant."""
        known = (self.public, self.own)
        return [case for case in cases if not self.aggregated or _session(case.sent) in known]

    # Sending

    def pending(self, method: str, asker: End, other: End) -> tuple[Json, Json]:
        """Send a request that is not answered: its id here and there."""
        session = self.own if asker is self.actor else self.public
        params = {"sessionId": session}
        asker.say(frame(0, {"id": f"{method} 1", "method": method, "params": params}))
        return f"{method} 1", json.loads(members(self._arrival(method, asker, other))["id"])

    def pass_on(self, case: Case, teller: End, hearer: End) -> None:
        """Send a notification."""
        number = next(self._numbers)
        line = frame(number, case.sent)
        teller.say(line)
        came = self._arrival(case.name, teller, hearer)
        self._compare(case.name, line, frame(number, case.wanted), came)

    def exchange(self, case: Case, answer: Case, asker: End, other: End) -> None:
        """Send a request, and the answer to it."""
        number = next(self._numbers)
        raw_id = IDS[number % len(IDS)]
        line = frame(number, {"id": "@id@", **case.sent}, id=raw_id)
        asker.say(line)
        came = self._arrival(case.name, asker, other, answers=True)
        if came:
            self._compare(case.name, line, frame(number, {"id": "@id@", **case.wanted}, id=raw_id), came)
            self._answer(answer, raw_id, members(came)["id"], other, asker)

    def _answer(self, case: Case, raw_id: str, other_id: str, other: End, asker: End) -> None:
        number, fresh = next(self._numbers), self._theatre.script.fresh()
        line = frame(number, {"id": "@id@", **case.sent}, id=other_id, fresh=fresh)
        other.say(line)
        came = self._arrival(case.name, other, asker)
        wanted = frame(number, {"id": "@id@", **case.wanted}, id=raw_id, fresh=fresh)
        self._compare(case.name, line, wanted, came)
        its_id = members(came).get("id", "")
        if not its_id or read(its_id.encode()) != read(raw_id.encode()):
            self.faults.append(f"{case.name}: the id {raw_id} became {its_id}")

    def _arrival(self, name: str, teller: End, hearer: End, *, answers: bool = False) -> bytes:
        """What the hearer hears; b"" where somebody else has answered the teller."""
        end = time.monotonic() + DEADLINE
        while time.monotonic() < end:
            if (line := hearer.hear(0.05)) is not None:
                return line
            if (instead := teller.hear(0)) is not None:
                self.faults.append(f"{name}: not passed on (yet), but: {_shown(instead)}")
                end = min(end, time.monotonic() + GRACE)
                if answers and "method" not in members(instead):
                    return b""
        pytest.fail("\n".join([*self.faults, f"{name}: lost"]))

    # Comparing

    def _compare(self, name: str, sent: bytes, wanted: bytes, came: bytes) -> None:
        """Where nothing had to be rewritten, not a byte of what is in an envelope may be another."""
        ours, theirs = without_id(read(wanted)), without_id(read(came))
        rewritten = _own_text(sent) != _own_text(wanted)
        if self.aggregated and (b"configOptions" in sent or b"agentd.agent" in came):
            ours, theirs, rewritten = without_picker(ours), without_picker(theirs), True
        found = list(differences(ours, theirs))
        self.faults += [f"{name}{each}" for each in found]
        if not found and not rewritten and _own_text(sent) != _own_text(came):
            self.faults.append(f"{name}: the same value in other bytes: {_shown(came)}")

    def finish(self) -> None:
        """Tell the faults, if there are any; to hear what nobody has sent is one too."""
        for teller, its, hearer in (
            (self.client, self.public, self.actor),
            (self.actor, self.own, self.client),
        ):
            fence = {"jsonrpc": "2.0", "method": "_fence", "params": {"sessionId": its}}
            teller.say(json.dumps(fence).encode())
            while (line := self._arrival("_fence", teller, hearer)) and read(line).get("method") != "_fence":
                self.faults.append(f"nobody has sent this: {_shown(line)}")
        told = "\n".join(list(dict.fromkeys(self.faults))[:MOST_TOLD])
        assert not self.faults, f"{len(self.faults)} faults:\n{told}"


def result_of(answer: tuple[bytes, list[bytes]]) -> Json:
    """The result in an answer, by value."""
    message = read(answer[0])
    assert "result" in message, message
    return message["result"]


def members(line: bytes) -> dict[str, str]:
    """The members of a message, each as its own text."""
    cut = msgspec.json.decode(line, type=dict[str, msgspec.Raw])
    return {name: bytes(raw).decode() for name, raw in cut.items()}


def without_id(message: Json) -> Json:
    return {name: value for name, value in message.items() if name != "id"}


def without_picker(message: Json) -> Json:
    """A message without what an aggregated connection adds to an agent's own config options."""
    match message:
        case {"result": dict(holder)} | {"params": {"update": dict(holder)}}:
            options = holder.pop("configOptions", None) or []
            if own := [each for each in options if not str(each["id"]).startswith("agentd.")]:
                holder["configOptions"] = own
    return message


def _own_text(line: bytes) -> object:
    """What may not change: all of a notification, and of other messages each member but the id."""
    cut = members(line)
    return [member for member in cut.items() if member[0] != "id"] if "id" in cut else line


def _session(message: Json) -> object:
    params = message.get("params")
    return params.get("sessionId") if isinstance(params, dict) else None


def _shown(line: bytes) -> str:
    return line.decode()[:300]
