# SPDX-License-Identifier: Apache-2.0
"""What is kept of sessions, as the rest of the worker sees it: on the event loop, which never waits."""

import asyncio
import contextlib
import functools
import logging
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple, TypeVar, cast

from agentd.errors import AgentdError, StoreFailed
from agentd.store.batch import Batch, Contents, Redact
from agentd.store.keeper import Then, synced
from agentd.store.records import Begun, Permission, Record, Run, Turn
from agentd.store.writer import Loaded, Reader, Thread, Writer

log = logging.getLogger(__name__)

FLUSH_SEC = 0.1
"""Until something that nobody waits for is written."""

RETRY_SEC = 1.0
WRITE_SEC = 30.0
READ_SEC = 30.0
OPEN_SEC = 60.0
CLOSE_SEC = 5.0
SHUT_SEC = 2.0

EAGER_BYTES = 1024 * 1024
"""So much is written at once."""

FULL_BYTES = 8 * 1024 * 1024
ROOM_BYTES = 4 * 1024 * 1024
"""`on_full` is called when more than FULL_BYTES wait to be written, and again when less than these do."""

MOST_TURNS = 10_000
"""So many wait to be written where they are not required, before they are given up."""

T = TypeVar("T")


class Kept:
    """What is known of a session without a look at the disk: itself, and the numbers of its frames."""

    __slots__ = ("end", "record", "start", "written")

    def __init__(self, record: Record, start: int = 0, end: int = 0) -> None:
        self.record = record
        self.start = start
        self.end = end
        self.written = end


class Unwritten(NamedTuple):
    """By their numbers, those of which the disk may have nothing or an earlier state."""

    turns: dict[int, Turn]
    permissions: dict[int, Permission]


class Store:
    """Sessions, their frames, turns and permissions.

    A change is seen here at once, reaches the disk soon after, and `sync` tells when. Changes reach it in
    the order in which they were made; those made without an await between them reach it together or not at
    all. Who is called back is called from the loop, never from within a call. What is said about a session
    that was forgotten is not kept; about one that was never saved it is a mistake, and ValueError.
    """

    def __init__(
        self,
        path: str,
        contents: Contents,
        clock: Callable[[], float],
        on_full: Callable[[bool], None],
        on_trouble: Callable[[AgentdError | None], None],
        required: bool,
    ) -> None:
        """For `open`, which is what others call."""
        self.path = path
        self._required = required
        self._trouble: AgentdError | None = None
        self.unfinished: list[Turn] = []
        """Turns that were queued or running when the database was opened: the earlier worker died."""
        self.pending: list[Permission] = []
        """Likewise permissions that were pending."""
        self.on_written: list[Callable[[], None]] = []
        """Called after each commit, for those who keep in memory what is not on disk."""
        self._contents = contents
        self._clock = clock
        self._on_full = on_full
        self._on_trouble = on_trouble
        self._loop = asyncio.get_running_loop()
        self._writer = Writer(path, contents)
        self._reader = Reader(path)
        self._writing = Thread("store-writer", path, "written")
        self._reading = Thread("store-reader", path, "read")
        self._sessions: dict[str, Record] = {}
        self.sessions: Mapping[str, Record] = MappingProxyType(self._sessions)
        """Every session, by the id clients know it by."""
        self._kept: dict[int, Kept] = {}
        self._unsaved: set[int] = set()
        self._last_key = self._last_number = 0
        self._gathering = Batch()
        self._under_way: Batch | None = None
        self._waiting: list[Then] = []
        self._served: list[Then] = []
        """Those of `_waiting` whose changes are under way."""
        self._views: list[Unwritten] = []
        self._timer: asyncio.TimerHandle | None = None
        self._late: asyncio.TimerHandle | None = None
        self._soon: asyncio.Handle | None = None
        self._everything = False
        """Whether the next batch has all that was gathered, and not only frames of `_urgent` sessions."""
        self._urgent: set[int] = set()
        self._hurry = False
        """Whether the next batch goes as soon as that under way has ended."""
        self._dropping = False
        self._full = False
        self._closed = False

    # Beginning and end

    @classmethod
    async def open(
        cls,
        path: str,
        *,
        contents: bool,
        redact: Redact,
        clock: Callable[[], float] = time.time,
        on_full: Callable[[bool], None],
        on_trouble: Callable[[AgentdError | None], None],
        required: bool = True,
    ) -> "Store":
        """Open the database, or make it.

        `contents`: whether what was said is kept, or only that there were sessions and turns: no frames
        then, no titles, and Turn.said, Turn.answer and Permission.frame are empty. `redact` hides secrets in
        what is written; `clock` gives Unix time. `on_full(True)`: more waits to be written than should, so
        append less; `on_full(False)`: there is room again. `on_trouble`: it cannot write, for a reason of
        another kind than before; with None: it can again. `required`: whether that stops those who wait in
        `sync`; else they go on, and what there is no room for is given up.

        Raises StoreCorrupt, StoreTooNew, StoreFull or StoreFailed.
        """
        store = cls(path, Contents(contents, redact), clock, on_full, on_trouble, required)
        try:
            await store._in_time(store._writing.do(store._writer.open), OPEN_SEC)
            store._take(await store._in_time(store._reading.do(store._reader.open), OPEN_SEC))
        except BaseException:
            await store._shut()
            raise
        return store

    async def close(self) -> None:
        """Write what is left, as long as that does not take too long. Nothing is kept after this."""
        try:
            async with asyncio.timeout(CLOSE_SEC):
                await self._write_rest()
        except TimeoutError:
            self._log_loss()
        self._closed = True
        for handle in (self._timer, self._late, self._soon):
            if handle is not None:
                handle.cancel()
        self._tell_waiting(StoreFailed(f"{self.path} was closed before this was written"))
        await self._shut()

    async def _write_rest(self) -> None:
        while self._gathering or self._under_way is not None:
            try:
                await self._written_out()
            except AgentdError:  # `trouble` has it
                await asyncio.sleep(RETRY_SEC)

    def _log_loss(self) -> None:
        """Say what will not be on disk."""
        lost = [self._gathering, *([self._under_way] if self._under_way is not None else [])]
        rows = [row for batch in lost for rows in batch.frames.values() for row in rows]
        log.error(
            "%s: lost, for they could not be written: changes of %d sessions, %d turns and %d permissions, "
            "and %d frames (%s)",
            self.path,
            len({key for batch in lost for key in batch.sessions()}),
            len({number for batch in lost for number in batch.turns}),
            len({number for batch in lost for number in batch.permissions}),
            sum(row.count for row in rows),
            self._trouble or "the disk is too slow",
        )

    async def _shut(self) -> None:
        """Close both connections, the writer's last, for it takes the log away with it."""
        for thread, connection in ((self._reading, self._reader), (self._writing, self._writer)):
            try:
                await self._in_time(thread.do(connection.close), SHUT_SEC)
                thread.close(wait=True)
            except StoreFailed as exc:
                log.error("%s was not closed as it should be: %s", self.path, exc)
                thread.close(wait=False)

    def _take(self, loaded: Loaded) -> None:
        for record in loaded.records:
            self._sessions[record.id] = record
            self._kept[record.key] = Kept(record, *loaded.spans[record.key])
        self.unfinished, self.pending = loaded.unfinished, loaded.pending
        self._last_key, self._last_number = loaded.last_key, loaded.last_number

    @property
    def trouble(self) -> AgentdError | None:
        """Why it cannot write at present, where that matters."""
        return self._trouble if self._required else None

    @property
    def keeps_frames(self) -> bool:
        """Whether what was said can be read again."""
        return self._contents.kept

    # Changes

    def new_key(self) -> int:
        """A key for a Record, that no other ever had or will have."""
        self._last_key += 1
        self._unsaved.add(self._last_key)
        return self._last_key

    def new_number(self) -> int:
        """A number for a Turn or a Permission, above all there were."""
        self._last_number += 1
        return self._last_number

    def save(self, record: Record, facts: bytes | None = None) -> None:
        """Keep a session as it is now. `facts`: what else is to be kept of it, None: what was kept before.

        Raises ValueError where its id is another one's, or was another one.
        """
        new = record.key in self._unsaved
        kept = None if new else self._known(record.key)
        if kept is None and not new:
            return
        if (record.id in self._sessions) if kept is None else (kept.record.id != record.id):
            raise ValueError(
                f"session {record.key} cannot be {record.id}"
            )  # the database would never take it
        if kept is None:
            self._unsaved.discard(record.key)
            self._kept[record.key] = Kept(record)
        else:
            kept.record = record
        self._sessions[record.id] = record
        self._gathering.records[record.key] = record
        if facts is not None:
            self._gathering.facts[record.key] = facts
        self._changed()

    def forget(self, key: int) -> None:
        """Let go of a session, its frames, turns and permissions. Its id is free for another."""
        if (kept := self._known(key)) is None:
            return
        del self._kept[key], self._sessions[kept.record.id]
        self._gathering.forget(key)
        self._changed()
        self._weigh()

    def append(self, key: int, seq: int, run: bytes) -> None:
        """Keep frames, each with its newline. `seq`: the number of the first, which is the end of `span`."""
        if (kept := self._known(key)) is None:
            return
        if seq != kept.end:
            raise ValueError(f"the next frame of session {key} is {kept.end}, not {seq}")
        count = run.count(b"\n")
        kept.end += count
        if self._contents.kept:
            self._gathering.append(key, seq, count, self._clock(), run)
            self._weigh()
        else:
            self._not_kept(kept, seq)
        self._changed()

    def clear(self, key: int) -> None:
        """Forget the frames of a session. Those that come are numbered on."""
        if (kept := self._known(key)) is None:
            return
        kept.start = kept.written = kept.end
        self._gathering.clear(key, kept.end)
        self._changed()
        self._weigh()

    def put_turn(self, turn: Turn) -> None:
        """Keep a turn as it is now, new or known by its number."""
        if self._known(turn.session) is None:
            return
        self._gathering.turns[turn.number] = turn
        for view in self._views:
            view.turns[turn.number] = turn
        self._changed()

    def put_permission(self, permission: Permission) -> None:
        """Keep a request for permission as it is now, new or known by its number."""
        if self._known(permission.session) is None:
            return
        self._gathering.permissions[permission.number] = permission
        for view in self._views:
            view.permissions[permission.number] = permission
        self._changed()

    def drop_backlog(self) -> None:
        """Give up frames that are not written yet. Their numbers are not used again while this is open."""
        for batch in filter(None, (self._gathering, self._under_way)):
            for key, rows in batch.frames.items():
                if key in self._kept:
                    self._not_kept(self._kept[key], rows[0].seq)
        self._gathering.drop_all_frames()
        self._dropping = self._under_way is not None
        self._changed()
        self._weigh()

    def sync(self, then: Then, key: int | None = None) -> None:
        """Have all that was said so far written now; with a `key`, frames of other sessions in their time.

        `then(None)` is called once it is on disk, `then(error)` if it could not be written, in which case it
        is kept and tried again. Those who call are called in that order.
        """
        if self._closed:
            self._loop.call_soon(then, StoreFailed(f"{self.path} is closed"))
            return
        self._waiting.append(then)
        self._need(key)

    def _known(self, key: int) -> Kept | None:
        """The session, None for one that was forgotten."""
        if (kept := self._kept.get(key)) is None and (key in self._unsaved or key > self._last_key):
            raise ValueError(f"session {key} has to be saved first")
        return kept

    @staticmethod
    def _not_kept(kept: Kept, seq: int) -> None:
        """Nothing from that frame on will be on disk, nor will it be missed."""
        kept.written = kept.end
        if kept.start >= seq:
            kept.start = kept.end

    # What is there

    def span(self, key: int) -> tuple[int, int]:
        """Numbers of the first frame that is kept and of the one that comes next, the same for none.

        Frames may be missing between them only where `drop_backlog` was called.
        """
        kept = self._kept.get(key)
        return (kept.start, kept.end) if kept is not None else (0, 0)

    def written(self, key: int) -> int:
        """Every frame below this number is on disk, or is not kept."""
        kept = self._kept.get(key)
        return kept.written if kept is not None else 0

    async def read(self, key: int, seq: int, most_bytes: int) -> list[Run]:
        """What is on disk of a session's frames from number `seq` on, or from the first after it.

        It ends with the run that reaches `most_bytes`. Raises StoreFailed, as all the following do.
        """
        if (kept := self._kept.get(key)) is None:
            return []
        wanted = min(max(seq, kept.start), kept.end)
        runs = await self._ask(self._reader.runs, key, wanted, most_bytes)
        return [run for run in runs if run.end > kept.start] if key in self._kept else []

    async def facts(self, key: int) -> bytes:
        """What was saved with a session, b"" for nothing."""
        for batch in filter(None, (self._gathering, self._under_way)):
            if key in batch.facts:
                return batch.facts[key]
        return await self._ask(self._reader.facts, key) if key in self._kept else b""

    async def turns(self, key: int) -> list[Turn]:
        """All turns of a session, those that are not on disk yet included."""
        with self._unwritten() as newer:
            found = await self._ask(self._reader.turns, key)
        turns = {turn.number: turn for turn in found} | newer.turns
        return [turns[number] for number in sorted(turns) if self._is_of(turns[number], key)]

    async def permissions(self, key: int) -> list[Permission]:
        """All requests for permission in a session, those that are not on disk yet included."""
        with self._unwritten() as newer:
            found = await self._ask(self._reader.permissions, key)
        asked = {permission.number: permission for permission in found} | newer.permissions
        return [asked[number] for number in sorted(asked) if self._is_of(asked[number], key)]

    async def turn_of(self, client: str, raw_id: bytes) -> Turn | None:
        """The latest turn a client has asked for with that id, also if it is not on disk yet."""
        with self._unwritten() as newer:
            found = await self._ask(self._reader.turn_of, client, raw_id)
        turns = {found.number: found} if found is not None else {}
        turns |= {
            number: turn
            for number, turn in newer.turns.items()
            if (turn.client, turn.raw_id) == (client, raw_id)
        }
        return max(
            (turn for turn in turns.values() if turn.session in self._kept),
            key=lambda turn: turn.number,
            default=None,
        )

    async def begun(self, since: float, until: float, most: int) -> list[Begun]:
        """Turns that have begun between these times, by what is on disk: the latest `most`, latest first."""
        return await self._ask(self._reader.begun, since, until, most)

    def _is_of(self, row: Turn | Permission, key: int) -> bool:
        return row.session == key and key in self._kept

    @contextlib.contextmanager
    def _unwritten(self) -> Iterator[Unwritten]:
        """What the disk may not have yet, with what comes while somebody looks there."""
        view = Unwritten({}, {})
        for batch in filter(None, (self._under_way, self._gathering)):
            view.turns.update(batch.turns)
            view.permissions.update(batch.permissions)
        self._views.append(view)
        try:
            yield view
        finally:
            self._views = [each for each in self._views if each is not view]

    async def _ask(self, work: Callable[..., T], *arguments: Any) -> T:
        if self._closed:
            raise StoreFailed(f"{self.path} is closed")
        return await self._in_time(self._reading.do(work, *arguments), READ_SEC)

    async def _in_time(self, answer: "asyncio.Future[T]", seconds: float) -> T:
        try:
            return await asyncio.wait_for(answer, seconds)
        except TimeoutError:
            raise StoreFailed(f"the disk with {self.path} has not answered for {seconds:g} s") from None

    # Retention

    async def prune(self, *, before: float, most_bytes: int, keep: Collection[int]) -> list[Record]:
        """Forget sessions last updated before that time, and then those not used for longest while the
        database is larger than `most_bytes`, but none whose key is in `keep` at that moment.

        Returns those it has forgotten. It stops early where something cannot be read or written.
        """
        gone: list[Record] = []
        try:
            while (oldest := self._oldest(keep)) is not None:
                if oldest.updated >= before and await self._ask(self._reader.used_bytes) <= most_bytes:
                    break
                if self._oldest(keep) is oldest:  # nobody has come meanwhile
                    self.forget(oldest.key)
                    gone.append(oldest)
                    await self._written_out()  # one at a time, so that others get their turn
            await self._give_back()
        except AgentdError as exc:
            log.warning("%s was not tidied up to the end: %s", self.path, exc)
        return gone

    def _oldest(self, keep: Collection[int]) -> Record | None:
        """The one that was not used for longest."""
        unused = (record for record in self._sessions.values() if record.key not in keep)
        return min(unused, key=lambda record: record.updated, default=None)

    async def _give_back(self) -> None:
        """Let the file system have the space that is free, step by step."""
        left, before = await self._vacuum(), -1
        while 0 < left != before:
            left, before = await self._vacuum(), left

    async def _vacuum(self) -> int:
        return await self._in_time(self._writing.do(self._writer.vacuum), WRITE_SEC)

    # Writing

    def _changed(self) -> None:
        """Have it written in time. In trouble, the timer is there already and runs for longer."""
        if self._timer is None and not self._closed:
            self._timer = self._loop.call_later(FLUSH_SEC, self._flush)

    def _flush(self) -> None:
        self._timer = None
        self._hurry = self._everything = True
        self._go()

    def _need(self, key: int | None) -> None:
        if key is None:
            self._everything = True
        else:
            self._urgent.add(key)
        self._go_soon()

    def _weigh(self) -> None:
        """Tell whether too much waits to be written."""
        size = self._gathering.size + (self._under_way.size if self._under_way is not None else 0)
        if (size < ROOM_BYTES) if self._full else (size > FULL_BYTES):
            self._full = not self._full
            self._loop.call_soon(self._on_full, self._full)
        if self._gathering.size >= EAGER_BYTES and self._trouble is None:
            self._need(None)

    def _go_soon(self) -> None:
        """Write what comes in this pass of the loop, after what is under way."""
        self._hurry = True
        if self._soon is None and self._under_way is None:
            self._soon = self._loop.call_soon(self._go)

    def _go(self) -> None:
        """Write what was gathered, unless something is under way: its end comes here again."""
        self._soon = None
        if self._under_way is not None or self._closed:
            return
        self._hurry = False
        batch, self._gathering = self._gathering, Batch()
        if not self._everything and self._trouble is None:
            self._gathering = batch.put_off(self._urgent)
        self._everything, self._urgent = False, set()
        self._served, self._waiting = self._waiting, []
        if batch or self._trouble is not None:
            self._write(batch)
        else:
            self._on_disk(batch)

    def _write(self, batch: Batch) -> None:
        self._under_way = batch
        self._late = self._loop.call_later(WRITE_SEC, self._overdue)
        self._writing.do(self._writer.write, batch).add_done_callback(functools.partial(self._landed, batch))

    def _landed(self, batch: Batch, written: "asyncio.Future[None]") -> None:
        error = cast(StoreFailed | None, written.exception())
        if self._closed:
            return
        self._under_way = None
        if self._late is not None:
            self._late.cancel()
        if error is None:
            self._on_disk(batch)
        else:
            self._not_on_disk(batch, error)

    def _on_disk(self, batch: Batch) -> None:
        for key, rows in batch.frames.items():
            if (kept := self._kept.get(key)) is not None:
                kept.written = max(kept.written, rows[-1].end)
        self._dropping = False
        self._tell_trouble(None)
        served, self._served = self._served, []
        self._tell(served, None)
        for each in self.on_written:
            self._loop.call_soon(each)
        self._weigh()
        if self._hurry:
            self._go()
        elif self._writer.behind:
            self._write(Batch())

    def _not_on_disk(self, batch: Batch, error: AgentdError) -> None:
        """Keep it for the next attempt."""
        if self._dropping:
            batch.drop_all_frames()
        self._dropping = self._hurry = False
        batch.merge(self._gathering)
        self._gathering = batch
        self._tell_trouble(error)
        self._tell_waiting(error)
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(RETRY_SEC, self._flush)
        if not self._required and (batch.size > ROOM_BYTES or len(batch.turns) > MOST_TURNS):
            batch.turns.clear()
            self.drop_backlog()
        self._weigh()

    def _overdue(self) -> None:
        """It is still not written. It cannot be called off, but nobody is to wait for it."""
        error = StoreFailed(f"the disk with {self.path} has not answered for {WRITE_SEC:g} s")
        self._late = self._loop.call_later(WRITE_SEC, self._overdue)
        self._tell_trouble(error)
        self._tell_waiting(error)

    # Telling others

    def _tell_trouble(self, error: AgentdError | None) -> None:
        """Once for each kind: the next attempt fails with much the same words."""
        news = type(error) is not type(self._trouble)
        self._trouble = error
        if news:
            self._loop.call_soon(self._on_trouble, error)

    def _tell_waiting(self, error: AgentdError) -> None:
        waiting = self._served + self._waiting
        self._served, self._waiting = [], []
        self._tell(waiting, error)

    def _tell(self, waiting: list[Then], error: AgentdError | None) -> None:
        for then in waiting:
            self._loop.call_soon(then, error if self._required else None)

    async def _written_out(self) -> None:
        """Wait until all is on disk. Raises what was the matter if it could not be written."""
        await synced(self)
        if self._trouble is not None:  # of which those who can do without it do not hear
            raise self._trouble
