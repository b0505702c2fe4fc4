# SPDX-License-Identifier: Apache-2.0
"""`agentctl history SESSION`: what was said in a session, as people read it or as lines of JSON.

--json: a line {seq, at, update} for each update, as it was on the ACP connection; `at` is seconds of Unix
time, null where nobody noted it. Turns and permissions are in the updates.
"""

import argparse
import asyncio
import json
import os
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import Any

from agentd.acp import methods
from agentd.acp.extensions import Entry, HistoryPage, HistoryWish, PermissionReport, TurnReport
from agentd.ctl.pager import Pager, is_coloured
from agentd.ctl.sessions import ANSWER_SEC, ask_all, asked, containers, named, tell
from agentd.ctl.worker import Worker
from agentd.errors import AmbiguousContainer, NoSuchSession
from agentd.printable import LINES, printable

HELD = 1 << 20
"""Characters that wait, at most, for a tool call to end: it is shown with its last status."""
GATHERED_SEC = 1.0
"""Frames that are written together have come within this, and mostly within a tenth of it."""
TITLE = 256
"""Characters of a tool call's title that are shown."""
ENDED = ("completed", "failed")
"""Statuses of a tool call after which no other comes."""
THOUGHT, TOOL, QUESTION, END = "~ ", "· ", "? ", "— "
DIM, PLAIN = "\x1b[2m", "\x1b[0m"


def run(options: argparse.Namespace) -> int:
    name, session_id = named(options)
    name = name or container_of(options, session_id)
    show = _show_json if options.json else _show_text
    with Pager(wanted=not (options.json or options.no_pager)) as pager:
        asyncio.run(asked(options, name, lambda worker: show(worker, session_id, pager.write)))
    return 0


# Which one


def container_of(options: argparse.Namespace, session_id: str) -> str:
    """The container that has it. Raises NoSuchSession, AmbiguousContainer or ManagerUnreachable."""
    known = containers(options)
    if len(known) == 1:
        return str(known[0]["name"])

    async def look(worker: Worker) -> HistoryPage:
        return await _page(worker, HistoryWish(session_id=session_id, limit=1))

    running = [each["name"] for each in known if each["worker_pid"]]
    having, problems = asyncio.run(ask_all(options, running, look))
    tell({name: why for name, why in problems.items() if not isinstance(why, NoSuchSession)})
    return _only(sorted(having), session_id)


def _only(having: list[str], session_id: str) -> str:
    if len(having) > 1:
        names = " and ".join(having)
        raise AmbiguousContainer(f"{names} have a session {session_id} each: name one with --container")
    if not having:
        raise NoSuchSession(
            f"no container whose worker runs has a session {session_id}: name its container with --container"
        )
    return having[0]


# Reading and showing

Write = Callable[[str], Awaitable[None]]


async def _page(worker: Worker, wish: HistoryWish) -> HistoryPage:
    return await worker.ask(methods.HISTORY, wish, HistoryPage, deadline=ANSWER_SEC)


async def _pages(worker: Worker, session_id: str) -> AsyncIterator[HistoryPage]:
    """One after the other, as they are wanted. Raises NoSuchSession."""
    page = await _page(worker, HistoryWish(session_id=session_id))
    yield page
    while page.next is not None:
        page = await _page(worker, HistoryWish(session_id=session_id, after=page.next))
        yield page


async def _show_json(worker: Worker, session_id: str, write: Write) -> None:
    """Each entry as {"seq", "at", "update"}."""
    async for page in _pages(worker, session_id):
        lines = (
            json.dumps({"seq": each.seq, "at": each.at, "update": each.frame}) + "\n"
            for each in page.entries
        )
        await write("".join(lines))


async def _show_text(worker: Worker, session_id: str, write: Write) -> None:
    story, shown = None, False
    async for page in _pages(worker, session_id):
        text = ""
        if story is None:
            text = _preface(page, session_id)
            story = Story(page, coloured=is_coloured(os.environ))
        text += "".join(map(story.tell, page.entries))
        text += story.rest() if page.next is None else ""
        await write(text)
        shown = shown or bool(text)
    if not shown:
        await write(f"nothing was said in {printable(session_id)}\n")


def _preface(page: HistoryPage, session_id: str) -> str:
    """What is to be known of a session that is not kept."""
    session = printable(session_id)
    if page.kept or not (page.entries or page.turns):
        return ""
    if page.entries:
        return f"nothing of {session} is kept on disk: this is what its worker remembers\n\n"
    return f"what was said in {session} is not kept, only when\n{_turns(page.turns)}\n"


def _turns(turns: Iterable[TurnReport]) -> str:
    """The widest of `when` has the year."""
    rows = [("WHEN", "OUTCOME"), *((when(each.at), each.outcome or each.progress) for each in turns)]
    return "\n".join(f"{at:<17}  {printable(outcome)}" for at, outcome in rows)


def when(at: float) -> str:
    """A time as journalctl writes it, without seconds; with the year where that is not this one."""
    then = time.localtime(at)
    year = "" if then.tm_year == time.localtime().tm_year else " %Y"
    return time.strftime(f"%b %d{year} %H:%M", then)


class Tool:
    """A tool call, which changes until it has ended."""

    def __init__(self, title: str) -> None:
        self.title = title
        self.status = "pending"

    def take(self, update: dict[str, Any]) -> None:
        for name in ("title", "status"):
            if isinstance(value := update.get(name), str) and value:
                setattr(self, name, value[:TITLE])

    def __str__(self) -> str:
        return printable(f"{TOOL}{self.title} [{self.status}]") + "\n"


class Story:
    """What was said, as text. `tell` takes one entry after the other, and returns what can be shown by then.

    What comes after a tool call that has not ended waits for its end, or for that of the turn.
    """

    def __init__(self, first: HistoryPage, *, coloured: bool) -> None:
        self._agent = first.agent
        self._permissions = deque(sorted(first.permissions, key=lambda each: each.at))
        self._turns = {each.number: each.at for each in first.turns}
        self._coloured = coloured
        self._held: deque[str | Tool] = deque()
        self._held_size = 0
        self._tools: dict[str, Tool] = {}
        """Those that have not ended, by their ids."""
        self._who = ""
        self._begun = False
        self._line = ""
        """What the line is that has begun: "" for none, else the mark it has, or " "."""

    def tell(self, entry: Entry) -> str:
        while self._permissions and self._is_due(self._permissions[0], entry):
            self._permission(self._permissions.popleft())
        if isinstance(entry.frame, dict):
            self._update(entry.frame, entry.at)
        return self._released()

    def rest(self) -> str:
        """What is left in the end."""
        while self._permissions:
            self._permission(self._permissions.popleft())
        self._break()
        self._tools.clear()
        return self._released()

    def _is_due(self, asked: PermissionReport, entry: Entry) -> bool:
        """Whether it comes before the entry, which has the time of the first one it was written with.

        So the end of a turn can seem to be older than a permission of that turn.
        """
        if entry.at is None:
            return False
        ends = outcome_of(entry.frame) is not None and self._turns.get(asked.turn, entry.at) < entry.at
        return asked.at < entry.at + (GATHERED_SEC if ends else 0)

    # What is said

    def _update(self, update: dict[str, Any], at: float | None) -> None:
        match update:
            case {"_meta": {"agentd.notice": str(text)}}:
                self._aside(f"[agentd] {text}")
            case {"sessionUpdate": "user_message_chunk", "content": content}:
                self._say("You", at, said(content))
            case {"sessionUpdate": "agent_message_chunk", "content": content}:
                self._say(self._agent, at, said(content))
            case {"sessionUpdate": "agent_thought_chunk", "content": content}:
                self._say(self._agent, at, said(content), THOUGHT)
            case {"sessionUpdate": "tool_call" | "tool_call_update", "toolCallId": str(call)}:
                self._tool(call, update, at)
            case _ if (outcome := outcome_of(update)) is not None:
                self._turn_ended(outcome)

    def _say(self, who: str, at: float | None, text: str, mark: str = "") -> None:
        """Chunks of one kind go on in one line."""
        if not text:
            return
        self._head(who, at)
        if self._line != (mark or " "):
            self._break()
        for line in text.replace("\r\n", "\n").splitlines(keepends=True):
            shown = printable(line, keep=LINES)
            opening = mark if not self._line else ""
            self._put(self._dim(opening + shown) if mark else shown)
            self._line = "" if shown.endswith("\n") else mark or " "

    def _tool(self, call: str, update: dict[str, Any], at: float | None) -> None:
        tool = self._tools.get(call)
        if tool is None and update["sessionUpdate"] == "tool_call":
            self._head(self._agent, at)
            self._break()
            tool = self._tools[call] = Tool("a tool call")
            self._put(tool)
        if tool is not None:
            tool.take(update)
            if tool.status in ENDED:
                del self._tools[call]

    def _permission(self, asked: PermissionReport) -> None:
        self._head(self._agent, asked.at)
        self._break()
        outcome = asked.choice or asked.outcome if asked.progress == "answered" else asked.progress
        title = asked.title or "something"
        self._put(printable(f"{QUESTION}{title} → {outcome}") + "\n")

    def _turn_ended(self, outcome: str) -> None:
        self._tools.clear()
        if outcome != "end_turn":
            self._break()
            self._put(printable(f"{END}{outcome}") + "\n")
        self._who = ""

    def _aside(self, text: str) -> None:
        """Something that neither of them has said."""
        self._break()
        self._put(("\n" if self._begun else "") + printable(text.strip()) + "\n")
        self._who, self._begun = "", True

    # Lines

    def _head(self, who: str, at: float | None) -> None:
        """Say who speaks from now on, where that is somebody else."""
        if who == self._who:
            return
        self._break()
        time_of_it = f"  {when(at)}" if at is not None else ""
        self._put(("\n" if self._begun else "") + printable(who) + time_of_it + "\n")
        self._who, self._begun = who, True

    def _break(self) -> None:
        if self._line:
            self._put("\n")
            self._line = ""

    def _dim(self, line: str) -> str:
        """A line by itself: pagers take a colour back at its end."""
        if not self._coloured:
            return line
        bare = line.removesuffix("\n")
        return DIM + bare + PLAIN + line[len(bare) :]

    def _put(self, piece: str | Tool) -> None:
        self._held.append(piece)
        self._held_size += _size(piece)

    def _released(self) -> str:
        """All up to the first tool call that has not ended; where that is too much, all."""
        if self._held_size > HELD:
            self._tools.clear()
        open_calls = set(map(id, self._tools.values()))
        pieces = []
        while self._held and id(self._held[0]) not in open_calls:
            pieces.append(self._held.popleft())
        self._held_size -= sum(map(_size, pieces))
        return "".join(map(str, pieces))


def _size(piece: str | Tool) -> int:
    return len(piece) if isinstance(piece, str) else TITLE


def outcome_of(update: Any) -> str | None:
    """How a turn has ended, None where this is no such news."""
    match update:
        case {"_meta": {"agentd.turn": {"outcome": str(outcome)}}}:
            return outcome
    return None


def said(content: Any) -> str:
    """A content block as text; what is none is named."""
    match content:
        case {"type": "text", "text": str(text)}:
            return text
        case {"type": "resource", "resource": {"uri": str(uri)}} | {"type": str(), "uri": str(uri)}:
            return f"[{content['type']} {uri}]"
        case {"type": str(kind)}:
            return f"[{kind}]"
    return ""
