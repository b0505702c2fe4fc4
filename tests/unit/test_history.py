# SPDX-License-Identifier: Apache-2.0

import argparse
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import pytest

from agentd.acp.extensions import (
    Entry,
    HistoryPage,
    PermissionReport,
    SessionList,
    SessionReport,
    TurnReport,
)
from agentd.config import Container
from agentd.ctl.history import HELD, Story, said, when
from agentd.ctl.sessions import Found, named, show
from agentd.errors import AgentdError, AmbiguousContainer, InvalidArgs, NoSuchSession, StoreFull
from agentd.store.keeper import Nothing, Then
from agentd.store.records import Asked, Permission, Progress, Record, Run, Turn
from agentd.worker import history as module
from agentd.worker.client import Request
from agentd.worker.history import History
from unit.world import FakeClient, World, in_world, prompt, update

Update = dict[str, Any]


def frame(change: object, session: str = "old") -> bytes:
    params = {"sessionId": session, "update": change}
    return json.dumps({"jsonrpc": "2.0", "method": "session/update", "params": params}).encode() + b"\n"


def chunk(text: str, kind: str = "agent_message_chunk") -> Update:
    return {"sessionUpdate": kind, "content": {"type": "text", "text": text}}


QUESTION = {
    "toolCall": {"toolCallId": "1", "title": "Edit x"},
    "options": [{"optionId": "yes", "name": "Allow", "kind": "allow_once"}],
}


class Shelf(Nothing):
    """Has a session `old`, number 7, of uid 1000, with what was said. `full`: nothing can be written."""

    keeps_frames = True

    def __init__(self, *said: Update) -> None:
        super().__init__()
        self.full = False
        self.runs: dict[int, list[Run]] = {7: []}
        self.said_turns: list[Turn] = []
        self.asked: list[Permission] = []
        for each in said:
            self.append(7, self.span(7)[1], frame(each))
        self.keep("old", key=7)

    def keep(self, name: str, *, key: int, owner: int = 1000, **more: Any) -> None:
        about = {"native": "n", "agent": "one", "state": "idle", "created": 1.0, "updated": 2.0}
        record = Record(key=key, id=name, owner=owner, **{**about, "prompted": True, **more})
        self.sessions[name] = record

    def save(self, record: Record, facts: bytes | None = None) -> None:
        self.sessions[record.id] = record
        self.runs.setdefault(record.key, [])

    def new_key(self) -> int:
        return super().new_key() + 100

    def sync(self, then: Then, key: int | None = None) -> None:
        then(StoreFull("the disk is full") if self.full else None)

    def append(self, key: int, seq: int, run: bytes) -> None:
        self.runs[key].append(Run(seq, run.count(b"\n"), 100.0 + seq, run))

    def span(self, key: int) -> tuple[int, int]:
        runs = self.runs.get(key)
        return (runs[0].seq, runs[-1].end) if runs else (0, 0)

    async def read(self, key: int, seq: int, most_bytes: int) -> list[Run]:
        return [] if self.full else [run for run in self.runs[key] if run.seq >= seq]

    async def turns(self, key: int) -> list[Turn]:
        return self.said_turns

    async def permissions(self, key: int) -> list[Permission]:
        return self.asked


class Visitor:
    def __init__(self, uid: int) -> None:
        self.uid = uid


def request(uid: int = 1000, **params: Any) -> Request:
    return Request(cast(Any, Visitor(uid)), b"1", "_agentd/history", params, b"")


def asking(tmp_path: Path, shelf: Nothing, *requests: Request, **options: Any) -> list[Any]:
    """What a hub with that store answers to requests for histories: pages, or errors."""
    found: list[Any] = []

    async def test(world: World) -> None:
        history = History(world.hub)
        for each in requests:
            try:
                found.append(await history.page(each))
            except AgentdError as exc:
                found.append(exc)

    in_world(tmp_path, test, store=shelf, **options)
    return found


def frames(page: HistoryPage) -> list[Any]:
    return [json.loads(bytes(each.frame)) for each in page.entries]


# _agentd/history


def test_a_kept_session_is_read_without_an_agent(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        page = await History(world.hub).page(request(sessionId="old"))
        assert frames(page) == [chunk("one"), chunk("two")]
        assert [(each.seq, each.at) for each in page.entries] == [(0, 100.0), (1, 101.0)]
        assert (page.agent, page.next, page.first, page.end, page.kept) == ("one", None, 0, 2, True)
        assert not world.agents and not world.hub.sessions.alive

    in_world(tmp_path, test, store=Shelf(chunk("one"), chunk("two")))


def test_pages_follow_each_other(tmp_path: Path) -> None:
    shelf = Shelf(*(chunk(str(number)) for number in range(5)))
    first, second, last = asking(
        tmp_path,
        shelf,
        request(sessionId="old", limit=2),
        request(sessionId="old", limit=2, after=1),
        request(sessionId="old", limit=2, after=3),
    )
    assert [each.next for each in (first, second, last)] == [1, 3, None]
    texts = [each["content"]["text"] for page in (first, second, last) for each in frames(page)]
    assert texts == ["0", "1", "2", "3", "4"]


def test_after_the_end_there_is_nothing(tmp_path: Path) -> None:
    [page] = asking(tmp_path, Shelf(chunk("one")), request(sessionId="old", after=0))
    assert (page.entries, page.next, page.end) == ([], None, 1)


def test_a_page_has_an_end_whatever_was_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PAGE_BYTES", 1000)
    shelf = Shelf(*(chunk("x" * 600) for _ in range(4)))
    [page] = asking(tmp_path, shelf, request(sessionId="old", limit=1000))
    assert (len(page.entries), page.next) == (2, 1)


@pytest.mark.parametrize("params", [{"after": -1}, {"limit": 0}, {"limit": 1001}, {"sessionId": 7}])
def test_what_is_asked_for_must_make_sense(tmp_path: Path, params: Mapping[str, Any]) -> None:
    [error] = asking(tmp_path, Shelf(), request(**{"sessionId": "old", **params}))
    assert isinstance(error, InvalidArgs)


def test_a_session_of_somebody_else_is_not_known(tmp_path: Path) -> None:
    theirs, unknown = asking(
        tmp_path, Shelf(), request(1001, sessionId="old"), request(1001, sessionId="new")
    )
    assert isinstance(theirs, NoSuchSession) and isinstance(unknown, NoSuchSession)
    assert theirs.message.replace("old", "new") == unknown.message


def test_a_session_that_is_shared_is(tmp_path: Path) -> None:
    shared = Container(agents=("one",), share_sessions=True)
    [page] = asking(tmp_path, Shelf(chunk("one")), request(1001, sessionId="old"), container=shared)
    assert frames(page) == [chunk("one")]


def test_turns_and_permissions_are_on_the_first_page(tmp_path: Path) -> None:
    shelf = Shelf(chunk("one"), chunk("two"))
    shelf.said_turns = [turn(number) for number in range(1001)]
    shelf.asked = [question(QUESTION, "yes"), question({}, ""), question({"toolCall": 7, "options": 7}, "x")]
    first, second = asking(tmp_path, shelf, request(sessionId="old"), request(sessionId="old", after=0))
    assert [each.number for each in first.turns] == list(range(1, 1001))
    assert [(each.title, each.outcome, each.choice) for each in first.permissions] == [
        ("Edit x", "yes", "Allow"),
        ("", "", ""),
        ("", "x", ""),
    ]
    assert (second.turns, second.permissions) == ([], [])


def turn(number: int) -> Turn:
    return Turn(
        number=number, session=7, client="", owner=1000, raw_id=b"1", progress=Progress.ENDED, at=1.0
    )


def question(params: object, outcome: str) -> Permission:
    frame = json.dumps({"params": params}).encode()
    return Permission(
        number=1, session=7, turn=1, progress=Asked.ANSWERED, at=1.0, frame=frame, outcome=outcome
    )


def test_half_a_character_is_made_whole(tmp_path: Path) -> None:
    [page] = asking(tmp_path, Shelf(chunk("a\ud83d")), request(sessionId="old"))
    assert frames(page) == [chunk("a\ufffd")]


def test_what_is_no_update_is_null(tmp_path: Path) -> None:
    shelf = Shelf()
    shelf.append(7, 0, b'{"params":7}\nnonsense\n')
    [page] = asking(tmp_path, shelf, request(sessionId="old"))
    assert frames(page) == [None, None]


async def talked(world: World) -> tuple[FakeClient, str]:
    """A client, and its session, in which one turn was had."""
    client = await world.client("one")
    session = await client.new()
    asked = client.request("session/prompt", prompt(session, "hello"))
    await world.until(lambda: world.agent.open)
    world.agent.say(update(session, "hi"))
    world.agent.answer({"stopReason": "end_turn"})
    await client.answer_to(asked)
    await client.sync()
    return client, session


def test_without_a_store_there_is_what_is_in_memory(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        _, session = await talked(world)
        history = History(world.hub)
        page = await history.page(request(sessionId=session, limit=2))
        assert (page.kept, page.first, page.end, page.next, page.entries[0].at) == (False, 0, 3, 1, None)
        rest = await history.page(request(sessionId=session, after=page.next))
        assert frames(page) == [chunk("hello", "user_message_chunk"), chunk("hi")]
        assert frames(rest)[0]["_meta"] == {"agentd.turn": {"state": "ended", "outcome": "end_turn"}}

    in_world(tmp_path, test)


def test_a_full_disk_does_not_hide_what_was_said(tmp_path: Path) -> None:
    shelf = Shelf()

    async def test(world: World) -> None:
        _, session = await talked(world)
        shelf.full = True
        page = await History(world.hub).page(request(sessionId=session))
        assert len(page.entries) == 3 and page.kept

    in_world(tmp_path, test, store=shelf)


# _agentd/sessions


def listed(tmp_path: Path, shelf: Nothing, uid: int = 1000, **options: Any) -> SessionList:
    async def test(world: World) -> None:
        found.append(await History(world.hub).sessions(request(uid)))

    found: list[SessionList] = []
    in_world(tmp_path, test, store=shelf, **options)
    return found[0]


def test_sessions_are_listed_newest_first(tmp_path: Path) -> None:
    shelf = Shelf()
    shelf.keep("newer", key=8, updated=3.0, title="t" * 1000, cwd="/work")
    newer, old = listed(tmp_path, shelf).sessions
    assert (newer.id, newer.title, newer.cwd, newer.updated) == ("newer", "t" * 256, "/work", 3.0)
    assert (old.id, old.title, old.state, old.owner, old.prompted) == ("old", None, "kept", 1000, True)


def test_a_session_that_is_alive_is_listed_once_and_as_it_is(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        client, session = await talked(world)
        client.request("session/prompt", prompt(session, "again"))
        await world.until(lambda: world.agent.open)
        alive, _ = (await History(world.hub).sessions(request())).sessions
        assert (alive.id, alive.state, alive.clients, alive.title) == (session, "prompting", 1, "hello")

    in_world(tmp_path, test, store=Shelf())


def test_the_sessions_of_others_are_theirs_unless_they_are_shared(tmp_path: Path) -> None:
    assert listed(tmp_path, Shelf(), 1001).sessions == []
    shared = Container(agents=("one",), share_sessions=True)
    assert len(listed(tmp_path, Shelf(), 1001, container=shared).sessions) == 1


def test_a_list_of_sessions_is_bounded(tmp_path: Path) -> None:
    shelf = Shelf()
    for number in range(1000):
        shelf.keep(str(number), key=1000 + number, updated=10.0 + number)
    found = listed(tmp_path, shelf)
    assert (len(found.sessions), found.more, found.sessions[0].id) == (1000, True, "999")


# agentctl sessions


def test_sessions_of_all_containers_have_a_column_for_it(capfd: pytest.CaptureFixture[str]) -> None:
    report = SessionReport(
        id="s", agent="a", state="kept", title="\x1b[31mred", owner=0, created=0, updated=time.time() + 9
    )
    show(argparse.Namespace(container="", no_pager=False), [Found("box", report)])
    header, row = capfd.readouterr().out.splitlines()
    assert header.split() == ["CONTAINER", "SESSION", "AGENT", "STATE", "LAST", "USED", "TITLE"]
    assert row == "box        s        a      kept   0s ago     \\x1b[31mred"


# agentctl history: which session


class Options:
    def __init__(self, session: str, container: str = "") -> None:
        self.session, self.container = session, container


def test_a_session_can_be_named_with_its_container() -> None:
    assert named(cast(Any, Options("box#a#b"))) == ("box", "a#b")
    assert named(cast(Any, Options("ab"))) == ("", "ab")
    assert named(cast(Any, Options("a#b", "box"))) == ("box", "a#b")


def test_a_session_that_two_containers_have_must_be_named_with_one() -> None:
    from agentd.ctl.history import _only

    assert _only(["box"], "s") == "box"
    with pytest.raises(AmbiguousContainer, match="box and den have a session s each"):
        _only(["box", "den"], "s")
    with pytest.raises(NoSuchSession, match="--container"):
        _only([], "s")


# agentctl history: how it is told

AT = time.mktime((2020, 11, 21, 16, 2, 0, 0, 0, -1))
TIME = "Nov 21 2020 16:02"


def first_page(*asked: PermissionReport) -> HistoryPage:
    turns = [
        TurnReport(number=1, progress="ended", at=AT - 1),
        TurnReport(number=2, progress="ended", at=AT + 1.1),
    ]
    return HistoryPage(agent="claude", entries=[], turns=turns, permissions=list(asked), first=0, end=0)


def story(*updates: Update, asked: tuple[PermissionReport, ...] = (), coloured: bool = False) -> list[str]:
    """The lines of a story, one update a second."""
    told = Story(first_page(*asked), coloured=coloured)
    texts = [told.tell(Entry(seq=n, at=AT + n, frame=each)) for n, each in enumerate(updates)]
    return ("".join(texts) + told.rest()).splitlines()


def user(text: str) -> Update:
    return chunk(text, "user_message_chunk")


def thought(text: str) -> Update:
    return chunk(text, "agent_thought_chunk")


def ended(outcome: str) -> Update:
    about = {"agentd.turn": {"state": "ended", "outcome": outcome}}
    return {"sessionUpdate": "session_info_update", "_meta": about}


def tool(call: str, title: str, status: str = "pending") -> Update:
    return {"sessionUpdate": "tool_call", "toolCallId": call, "title": title, "status": status}


def tool_is(call: str, status: str) -> Update:
    return {"sessionUpdate": "tool_call_update", "toolCallId": call, "status": status}


def test_who_said_it_stands_above_what_was_said() -> None:
    assert story(user("hi"), chunk("hel"), chunk("lo\nthere"), ended("end_turn"), user("bye")) == [
        f"You  {TIME}", "hi", "", f"claude  {TIME}", "hello", "there", "", f"You  {TIME}", "bye",
    ]  # fmt: skip


def test_every_turn_has_its_headings() -> None:
    lines = story(user("one"), ended("cancelled"), user("two"), ended("agent_exited"))
    assert lines == [
        f"You  {TIME}", "one", "— cancelled", "", f"You  {TIME}", "two", "— agent_exited",
    ]  # fmt: skip


def test_a_tool_call_is_a_line_with_its_last_status() -> None:
    lines = story(
        tool("1", "read\nx"), tool("2", "edit"), chunk("text"), tool_is("2", "failed"),
        tool_is("1", "in_progress"), tool_is("1", "completed"), tool_is("9", "completed"), chunk(" on"),
    )  # fmt: skip
    assert lines[1:] == [r"· read\nx [completed]", "· edit [failed]", "text on"]


def test_what_comes_after_an_open_tool_call_waits_for_it() -> None:
    told = Story(first_page(), coloured=False)
    assert told.tell(Entry(seq=0, at=None, frame=tool("1", "read"))) == "claude\n"
    assert told.tell(Entry(seq=1, at=None, frame=chunk("text"))) == ""
    assert told.tell(Entry(seq=2, at=None, frame=tool_is("1", "completed"))) == "· read [completed]\ntext"


def test_but_not_for_ever() -> None:
    told = Story(first_page(), coloured=False)
    told.tell(Entry(seq=0, at=None, frame=tool("1", "read")))
    assert told.tell(Entry(seq=1, at=None, frame=chunk("x" * (HELD + 1)))).startswith("· read [pending]\nx")
    told.tell(Entry(seq=2, at=None, frame=tool("2", "edit")))
    assert told.tell(Entry(seq=3, at=None, frame=ended("cancelled"))) == "· edit [pending]\n— cancelled\n"


def test_permissions_stand_where_they_were_decided() -> None:
    asked = (
        PermissionReport(turn=1, at=AT + 0.5, title="x", progress="answered", outcome="yes", choice="Allow"),
        PermissionReport(turn=1, at=AT + 1.5, title="y", progress="answered", outcome="cancelled"),
        PermissionReport(turn=1, at=AT + 9, title="z\x1b", progress="expired"),
    )
    lines = story(chunk("one"), chunk("two"), chunk("three"), asked=asked)
    assert lines[1:] == ["one", "? x → Allow", "two", "? y → cancelled", "three", r"? z\x1b → expired"]


def test_permissions_of_a_turn_stand_before_its_end() -> None:
    asked = (
        PermissionReport(turn=1, at=AT + 1.05, title="x", progress="expired"),
        PermissionReport(turn=2, at=AT + 1.2, title="y", progress="expired"),
    )
    lines = story(chunk("one"), ended("cancelled"), user("two"), chunk("three"), asked=asked)
    assert lines[1:5] == ["one", "? x → expired", "— cancelled", ""]
    assert lines.index("? y → expired") > lines.index("— cancelled")


def test_notices_are_agentds_own() -> None:
    notice = {**chunk("\n[agentd] gone\n"), "_meta": {"agentd.notice": "gone"}}
    assert story(chunk("one"), notice, chunk("two"))[1:] == [
        "one", "", "[agentd] gone", "", f"claude  {TIME}", "two",
    ]  # fmt: skip


def test_thoughts_are_marked_and_dim_where_there_are_colours() -> None:
    thoughts = (chunk("a"), thought("b"), thought("b\nc"), chunk("d"))
    assert story(*thoughts)[1:] == ["a", "~ bb", "~ c", "d"]
    dim = story(*thoughts, coloured=True)
    assert dim[2] == "\x1b[2m~ b\x1b[0m\x1b[2mb\x1b[0m" and dim[3] == "\x1b[2m~ c\x1b[0m"


def test_nothing_that_a_terminal_obeys_gets_through() -> None:
    bad = "\x1b]0;x\x07\x9b\r\u202e"
    lines = story(
        user(bad),
        thought(bad),
        tool(bad, bad, bad),
        tool_is(bad, "failed"),
        chunk(bad + "\n\n" + bad),
        ended(bad),
    )
    assert all(line.isprintable() for line in lines)


@pytest.mark.parametrize(
    "odd", [None, 7, [], {}, {"sessionUpdate": "tool_call"}, {"sessionUpdate": "user_message_chunk"},
            chunk(""), {"sessionUpdate": "plan", "entries": []}, tool_is("1", "completed")]
)  # fmt: skip
def test_what_says_nothing_is_left_out(odd: Any) -> None:
    assert story(odd) == []


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ({"type": "image", "data": "…", "mimeType": "x"}, "[image]"),
        ({"type": "resource_link", "uri": "file:///x", "name": "x"}, "[resource_link file:///x]"),
        ({"type": "resource", "resource": {"uri": "file:///x", "text": "…"}}, "[resource file:///x]"),
        ({}, ""),
    ],
)
def test_what_is_no_text_is_named(content: Any, text: str) -> None:
    assert said(content) == text


def test_a_time_of_this_year_needs_no_year() -> None:
    assert when(AT) == TIME
    assert when(time.time()) == time.strftime("%b %d %H:%M", time.localtime(time.time()))
