# SPDX-License-Identifier: Apache-2.0
"""Whatever happens in whatever order: no frame is lost, said twice, or heard where it does not belong.

Every session has a key that is in all its frames, so that each frame tells where it comes from. Agents and
clients write down what they say and hear, and at the end the books are compared. The seed of a run that
fails is in the name of its test; how the loop orders what is ready is not part of it.
"""

import asyncio
import itertools
import random
import re
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from unit.world import HERE, FakeAgent, FakeClient, Message, World, in_world, prompt, said, update

AGENTS = {
    "counting": {},
    "loading": {"loadSession": True, "sessionCapabilities": {"close": {}}},
    "resuming": {"sessionCapabilities": {"resume": {}}},
}
"""All but "loading" call their sessions 0, 1, and so on, in each of their processes."""
OPERATIONS, SESSIONS, CLIENTS = 150, 8, 2
SEEDS = range(30)


class Book:
    """What there is, and what was said of it. Keys name sessions for good; public ids are the hub's."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.ending = False
        self.public: dict[str, str] = {}
        self.begun: set[str] = set()
        """The sessions that were prompted, which is when a session is there to stay."""
        self.served: dict[str, tuple[Talker, str]] = {}
        self.spoken: dict[str, list[str]] = defaultdict(list)
        self.prompted: dict[str, list[str]] = defaultdict(list)
        self.kept: dict[tuple[str, str], str] = {}
        """What agents know of sessions when they are started anew: the key, by agent and its own id."""
        self.chosen: set[str] = set()
        self._numbers = itertools.count()

    def token(self, text: str) -> str:
        return f"{text}/{next(self._numbers)}"

    def key_of(self, public: str) -> str | None:
        return next((key for key, known in self.public.items() if known == public), None)


def key_in(text: str) -> str:
    """The key of the session a token was made for."""
    return re.split("[@#?!]", text)[0]


class Talker(FakeAgent):
    """Says something about each of its sessions, and knows which is which."""

    def __init__(self, world: World, name: str, mark: str) -> None:
        super().__init__(world, name, mark)
        self.book: Book = world.book  # type: ignore[attr-defined]
        self.capabilities = AGENTS[name]
        self.keys: dict[str, str] = {}
        self.questions: dict[int, str] = {}
        self.answers["_echo"] = self._echo

    @property
    def mine(self) -> list[str]:
        """Its names of the sessions that it is the one to serve."""
        return [native for native, key in self.keys.items() if self.book.served[key] == (self, native)]

    @property
    def speaks(self) -> bool:
        return self.alive and self.ends.stdout >= 0

    # From the hub

    def requested(self, message: Message) -> None:
        if not self.speaks:
            return
        match message["method"], message["params"]:
            case "session/new", {"_meta": {"key": key}}:
                self._new(message["id"], key)
            case "session/new", _:  # a probe
                self.say({"id": message["id"], "result": {"sessionId": "probe"}})
            case (("session/load" | "session/resume"), params) if not self._knows(params):
                self.say({"id": message["id"], "error": {"code": -32002, "message": "not that one"}})
            case "session/prompt", params:
                self._prompted(message, params)
            case ("session/load" | "session/resume") as method, params:
                self._reopen(message["id"], params, replays=method == "session/load")
            case _:
                super().requested(message)

    def _new(self, number: int, key: str) -> None:
        native = next(each for _ in range(99) if (each := self._made_id()) not in self.keys)
        self._serve(native, key)
        answer = {"id": number, "result": {"sessionId": native, "_meta": {"key": key}}}
        self.say(*self._words(native), answer, *self._words(native))

    def _words(self, native: str) -> list[Message]:
        """Nothing, or not much."""
        return [self.update(native) for _ in range(self.book.random.randrange(3))]

    def _made_id(self) -> str:
        return self.book.token("loaded") if self.name == "loading" else self.new_id()

    def _serve(self, native: str, key: str) -> None:
        self.keys[native] = key
        self.book.served[key] = self, native
        self.book.kept[self.name, native] = key

    def _reopen(self, number: int, params: Message, *, replays: bool) -> None:
        native, key = params["sessionId"], params["_meta"]["key"]
        self._serve(native, key)
        mine = [text for text in self.book.spoken[key] if replays and f"@{self.name}" in text]
        again = [update(native, text) for text in mine]
        self.say(*again, {"id": number, "result": {}}, *self._words(native))

    def _knows(self, params: Message) -> bool:
        """It keeps one session of a name, and does not load one that it serves already."""
        native = params["sessionId"]
        return native not in self.keys and self.book.kept.get((self.name, native)) == params["_meta"]["key"]

    def _echo(self, params: Message) -> Message:
        return {"key": self.keys[params["sessionId"]], "token": params["token"]}

    def _prompted(self, message: Message, params: Message) -> None:
        native, text = params["sessionId"], params["prompt"][-1]["text"]
        assert self.keys[native] == key_in(text), f"{text} for {self.keys[native]}"
        assert native not in self._running(), "a second prompt in a turn"
        self.book.prompted[key_in(text)].append(text)
        self.open.append(message)
        if self.book.ending:
            self.end_turn(message)

    def _running(self) -> list[str]:
        return [message["params"]["sessionId"] for message in self.open]

    def notified(self, method: str, params: Message) -> None:
        if method == "session/cancel" and self.speaks:
            assert params["sessionId"] in self.keys
            for message in list(self.open):
                if message["params"]["sessionId"] == params["sessionId"]:
                    self.end_turn(message, "cancelled")

    # To the hub

    def update(self, native: str) -> Message:
        """Something new to say."""
        key = self.keys[native]
        text = self.book.token(f"{key}@{self.name}")
        self.book.spoken[key].append(text)
        return update(native, text)

    def end_turn(self, message: Message, reason: str = "end_turn") -> None:
        """With last words, sometimes."""
        params = message["params"]
        self.open.remove(message)
        result = {"stopReason": reason, "_meta": {"turn": params["prompt"][-1]["text"]}}
        self.say(*self._words(params["sessionId"]), {"id": message["id"], "result": result})

    def ask_permission(self, native: str) -> None:
        token = self.book.token(f"{self.keys[native]}?")
        option = {"optionId": token, "name": "Yes", "kind": "allow_once"}
        about = {"sessionId": native, "toolCall": {"toolCallId": token, "title": token}, "options": [option]}
        self.questions[self.ask("session/request_permission", about)] = token

    # The end

    def check(self) -> None:
        """Everything it has asked for was decided, by somebody who was asked just that."""
        for number, token in self.questions.items():
            decided = self.outcomes[number]["result"]["outcome"] if self.speaks else {"outcome": "cancelled"}
            if decided["outcome"] == "selected":
                assert decided["optionId"] == token
                assert token in self.book.chosen
            else:
                assert decided == {"outcome": "cancelled"}


class Editor(FakeClient):
    """Knows what it has asked for, and which sessions it is in."""

    def __init__(self, world: World, number: int, uid: int) -> None:
        super().__init__(world, number, uid)
        self.book: Book = world.book  # type: ignore[attr-defined]
        self.agent = ""
        self.leaves = False
        """Then it begins nothing more: nobody can tell whether the hub would hear of that."""
        self.wanted: dict[int, tuple[str, str]] = {}
        """What each request was for: its method and a token."""
        self.entered: dict[str, str] = {}
        """How it came into each session, by key."""
        self.since: dict[str, int] = {}
        """How much of the inbox was there before: the hub's name for a session may be one it has seen."""
        self.inside: set[str] = set()
        self.prompts: set[str] = set()
        self.copies: dict[int, str] = {}
        """Requests for permission that nobody has answered or taken back yet."""

    # From the hub

    def take(self, message: Message) -> None:
        super().take(message)
        match message:
            case {"id": number, "method": "session/request_permission", "params": params}:
                self._asked(number, params)
            case {"method": "$/cancel_request", "params": {"requestId": number}}:
                assert number in [each["id"] for each in self.asked], "what it was not asked is taken back"
                self.copies.pop(number, None)  # it may have answered at the same time
            case {"method": "session/update", "params": params}:
                self._check_place(params["sessionId"], said(message))
            case {"id": number, "result": result}:
                self._answered(number, result)

    def _asked(self, number: int, params: Message) -> None:
        token = params["toolCall"]["title"]
        self._check_place(params["sessionId"], token)
        assert token not in self.copies.values(), "asked twice"
        self.copies[number] = token
        if self.book.ending:
            self.allow(number)

    def _check_place(self, public: str, text: str | None) -> None:
        key = self.book.key_of(public)
        if text is not None and not text.startswith("<"):
            assert key in (None, key_in(text)), f"{text} in {key}"
            assert key in self.entered or key_in(text) not in self.book.begun, f"{text} in {public}"

    def _answered(self, number: int, result: Message) -> None:
        method, key = self.wanted.get(number, ("", ""))
        if method == "session/new":
            self._made(key, result)
        elif method == "session/set_config_option" and not self.leaves:
            self.prompt(key)
        elif method in ("session/load", "session/resume"):
            self.inside.add(key)

    def _made(self, key: str, result: Message) -> None:
        assert result["_meta"]["key"] == key
        if (before := self.book.key_of(result["sessionId"])) is not None:
            assert before not in self.book.begun, "two sessions of one name"
            del self.book.public[before]  # it never began, and whoever made it has left
        self.book.public[key] = result["sessionId"]
        self.entered[key], self.since[key] = "session/new", len(self.inbox)
        self.inside.add(key)
        if self.leaves:
            return
        if not self.agent and self.book.random.random() < 0.5:
            about = {"configId": "agentd.agent", "value": self.book.random.choice(list(AGENTS))}
            self.want("session/set_config_option", key, sessionId=result["sessionId"], **about)
        else:
            self.prompt(key)

    # To the hub

    def want(self, method: str, why: str, **params: Any) -> None:
        self.wanted[self.request(method, params)] = method, why

    def new(self, key: str) -> None:  # type: ignore[override]
        self.want("session/new", key, **HERE, _meta={"key": key})

    def enter(self, method: str, key: str) -> None:
        self.entered[key], self.since[key] = method, len(self.inbox)
        self.want(method, key, sessionId=self.book.public[key], **HERE, _meta={"key": key})

    def prompt(self, key: str) -> None:
        text = self.book.token(f"{key}#")
        self.book.begun.add(key)
        self.prompts.add(text)
        self.want("session/prompt", text, **prompt(self.book.public[key], text))

    def echo(self, key: str) -> None:
        token = self.book.token(f"{key}!")
        self.want("_echo", token, sessionId=self.book.public[key], token=token)

    def allow(self, number: int) -> None:
        token = self.copies.pop(number)
        self.book.chosen.add(token)
        self.choose({"id": number}, token)

    # The end

    @property
    def is_answered(self) -> bool:
        return self.wanted.keys() <= self.answers.keys()

    def check(self, everything: dict[str, list[str]]) -> None:
        """Compare what it has heard with what was said."""
        self._check_answers()
        assert self.copies == {} or not self.here, "a question was left open"
        for key in self.entered.keys() & everything.keys():
            own = [text for text in everything[key] if text not in self.prompts and text[0] != "<"]
            heard = self._heard_of(key)
            at = own.index(heard[0]) if heard else 0
            assert heard == own[at : at + len(heard)], f"{key} from {at} on"
            assert at == 0 or self.entered[key] == "session/resume", f"{key}: the beginning is missing"
            whole = at + len(heard) == len(own) or not self.here
            assert whole or (not heard and self.entered[key] == "session/resume"), (
                f"{key}: the end is missing"
            )

    def _heard_of(self, key: str) -> list[str]:
        """Without the ends of turns, and without what an agent said from which the session was moved."""
        agent = self.book.served[key][0].name
        heard = self.heard(self.book.public[key], self.since[key])
        return [text for text in heard if text[0] != "<" and ("@" not in text or f"@{agent}/" in text)]

    def _check_answers(self) -> None:
        for number, (method, token) in self.wanted.items():
            match self.answers.get(number):
                case None:
                    assert not self.here
                case {"result": {"key": key, "token": same}}:
                    assert (method, token, key) == ("_echo", same, key_in(token))
                case {"result": {"_meta": {"turn": text}}}:
                    assert (method, token) == ("session/prompt", text)
                case {"result": result} if method == "session/prompt":
                    assert result == {"stopReason": "cancelled"}
                case {"result": result} if method == "session/new":
                    assert result["_meta"]["key"] == token
                case {"error": error}:
                    self._check_error(method, error)

    def _check_error(self, method: str, error: Message) -> None:
        reason = (error.get("data") or {}).get("reason")
        usual = ["agent_exited", "agent_failed"]
        assert reason in [*usual, "queue_full", "agent_fixed"] or error["code"] == -32800, (method, error)


class Play:
    """Random things happen."""

    def __init__(self, world: World, book: Book) -> None:
        self.world, self.book, self.random = world, book, book.random
        self.editors: list[Editor] = []
        self._keys = itertools.count(1)
        self._doings: dict[Callable[[], Any], int] = {
            self.new: 4, self.prompt: 12, self.speak: 25, self.end_turn: 12, self.ask: 6, self.allow: 6,
            self.cancel: 2, self.withdraw: 1, self.echo: 4, self.enter: 6, self.leave: 2, self.crash: 1,
        }  # fmt: skip

    async def run(self) -> None:
        for _ in range(CLIENTS):
            await self.come()
        for _ in range(OPERATIONS):
            (do,) = self.random.choices(list(self._doings), list(self._doings.values()))
            if (more := do()) is not None:
                await more
            for _ in range(self.random.choice([0, 0, 1, 2, 5, 20])):
                await asyncio.sleep(0)

    async def come(self) -> Editor:
        agent = self.random.choice(["", *AGENTS])
        editor = await self.world.stranger(agent, kind=Editor)
        assert isinstance(editor, Editor)
        editor.agent = agent
        await editor.call("initialize", {"protocolVersion": 1, "clientCapabilities": {}})
        self.editors.append(editor)
        return editor

    # Who there is

    def _talkers(self) -> Iterator[Talker]:
        for agent in self.world.agents:
            if isinstance(agent, Talker) and agent.speaks:
                yield agent

    def _some(self, things: Any) -> list[Any]:
        """One of them, or none where there are none."""
        listed = list(things)
        return [self.random.choice(listed)] if listed else []

    def _places(self) -> Iterator[tuple[Editor, str]]:
        """Who is in which of the sessions that have begun."""
        for editor in self.editors:
            for key in sorted(editor.inside & self.book.begun):
                yield editor, key

    # What they do

    def new(self) -> None:
        if (number := next(self._keys)) <= SESSIONS:
            self.random.choice(self.editors).new(f"s{number}")

    def prompt(self) -> None:
        for editor, key in self._some(self._places()):
            editor.prompt(key)

    def cancel(self) -> None:
        for editor, key in self._some(self._places()):
            editor.notify("session/cancel", {"sessionId": self.book.public[key]})

    def withdraw(self) -> None:
        for editor in self._some(self.editors):
            for number in self._some(editor.wanted.keys() - editor.answers.keys()):
                if editor.wanted[number][0] == "session/prompt":
                    editor.notify("$/cancel_request", {"requestId": number})

    def echo(self) -> None:
        for editor, key in self._some(self._places()):
            editor.echo(key)

    def enter(self) -> None:
        for editor in self._some(self.editors):
            for key in self._some(sorted(self.book.begun - editor.entered.keys())):
                editor.enter(self.random.choice(["session/load", "session/load", "session/resume"]), key)

    def allow(self) -> None:
        for editor in self._some(self.editors):
            for number in self._some(editor.copies):
                editor.allow(number)

    def speak(self) -> None:
        """Of several sessions in one write."""
        for agent in self._some(self._talkers()):
            if agent.mine:
                agent.say(*[agent.update(self.random.choice(agent.mine)) for _ in range(5)])

    def end_turn(self) -> None:
        for agent, message in self._some((one, each) for one in self._talkers() for each in one.open):
            agent.end_turn(message)

    def ask(self) -> None:
        for agent, native in self._some((one, each) for one in self._talkers() for each in one.mine):
            if agent.keys[native] in self.book.begun:
                agent.ask_permission(native)

    def crash(self) -> None:
        """At once, or it closes its output and takes some time to die."""
        for agent in self._some(self._talkers()):
            if self.random.random() < 0.5:
                agent.crash()
            else:
                agent.may_die.clear()
                agent.ends.close_stdout()

    async def leave(self) -> None:
        """And somebody else comes."""
        editor = self.random.choice(self.editors)
        self.editors.remove(editor)
        editor.leaves = True
        await editor.sync()
        editor.leave()
        for slow in self._some(agent for agent in self.world.agents if not agent.may_die.is_set()):
            slow.may_die.set()
        await self.come()

    # The end

    async def end(self) -> None:
        """Everything that is under way comes to its end."""
        self.book.ending = True
        for agent in self.world.agents:
            agent.may_die.set()
        for editor in self.editors:
            for number in list(editor.copies):
                editor.allow(number)
        for agent in list(self._talkers()):
            for message in list(agent.open):
                agent.end_turn(message)
        await self.world.until(lambda: all(editor.is_answered for editor in self.editors))

    async def see_all(self) -> Editor:
        """Somebody comes, loads everything, and has every agent answer, after all it has said before."""
        observer = await self.come()
        for key in sorted(self.book.begun):
            observer.enter("session/load", key)
        await self.world.until(lambda: observer.is_answered)
        for key in sorted(self.book.begun):
            observer.echo(key)
        await self.world.until(lambda: observer.is_answered)
        return observer

    async def check(self) -> None:
        await self.end()
        await self.see_all()
        last = await self.see_all()
        everything = {key: last.heard(self.book.public[key]) for key in sorted(self.book.begun)}
        for editor in self.editors:
            await editor.sync()
        for agent in self.world.agents:
            assert isinstance(agent, Talker)
            agent.check()
        for key, heard in everything.items():
            self._check_session(key, heard)
        for client in self.world.clients:
            assert isinstance(client, Editor)
            client.check(everything)

    def _check_session(self, key: str, heard: list[str]) -> None:
        """What is kept of it is what its agent has said and was asked, each prompt before its turn's end."""
        agent = self.book.served[key][0].name
        spoken = [text for text in self.book.spoken[key] if f"@{agent}/" in text]
        assert [text for text in heard if f"@{agent}/" in text] == spoken
        prompts = [text for text in heard if "#" in text]
        assert len(set(prompts)) == len(prompts)
        assert [text for text in prompts if text in self.book.prompted[key]] == self.book.prompted[key]
        turns = "".join("#" if "#" in text else "<" if text[0] == "<" else "" for text in heard)
        assert "##" not in turns and turns.endswith("<"), turns
        assert len(set(self.book.prompted[key])) == len(self.book.prompted[key])


@pytest.mark.parametrize("seed", SEEDS)
def test_whatever_happens_every_frame_is_heard_once_and_where_it_belongs(seed: int, tmp_path: Path) -> None:
    async def test(world: World) -> None:
        book = world.book = Book(seed)  # type: ignore[attr-defined]
        play = Play(world, book)
        await play.run()
        await play.check()
        assert book.begun  # else nothing was shown

    in_world(tmp_path, test, *AGENTS, agent_class=Talker)
