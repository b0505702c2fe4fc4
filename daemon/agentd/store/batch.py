# SPDX-License-Identifier: Apache-2.0
"""What is to be written next, and as which rows."""

import json
from collections.abc import Collection, Iterable, Iterator
from itertools import chain
from typing import Any, NamedTuple, Protocol

import msgspec

from agentd.log import HIDDEN
from agentd.store.records import Permission, Record, Turn
from agentd.store.schema import place

ROW_BYTES = 256 * 1024
"""Frames are joined to rows of this size at most; frames that were appended in one go stay together."""

PIECE = 64 * 1024
"""Characters that are searched for secrets at a time: no other thread of Python's runs meanwhile."""

Statement = tuple[str, tuple[Any, ...]]

FORGET = (
    "DELETE FROM session WHERE key = ?",
    "DELETE FROM facts WHERE session = ?",
    "DELETE FROM turn WHERE session = ?",
    "DELETE FROM permission WHERE session = ?",
)
DELETE_RUNS = "DELETE FROM run WHERE place >= ? AND place < ?"
START = "UPDATE session SET start = ? WHERE key = ?"
AT_ONCE = (64, 16, 4, 1)
"""How many rows a statement may have. With each statement the thread lets go of the interpreter, and has to
wait until the event loop does; and of so few shapes SQLite's module remembers all."""


class Insert(NamedTuple):
    """A statement for any number of rows."""

    head: str
    row: str
    tail: str = ""

    def of(self, rows: Iterable[tuple[Any, ...]]) -> Iterator[Statement]:
        left = list(rows)
        for most in AT_ONCE:
            text = self.head + ", ".join([self.row] * most) + self.tail
            while len(left) >= most:
                yield text, tuple(chain.from_iterable(left[:most]))
                del left[:most]


APPEND = Insert("INSERT INTO run (place, count, at, data) VALUES ", "(?, ?, ?, ?)")


def _upsert(table: str, names: str, texts: str) -> Insert:
    """Text is bound as bytes: SQLite's own binding refuses the lone surrogates that JSON may have."""
    columns, as_text = names.split(), texts.split()
    values = ", ".join("CAST(? AS TEXT)" if name in as_text else "?" for name in columns)
    new = ", ".join(f"{name} = excluded.{name}" for name in columns[1:])
    return Insert(
        f"INSERT INTO {table} ({', '.join(columns)}) VALUES ",  # noqa: S608, names of ours
        f"({values})",
        f" ON CONFLICT ({columns[0]}) DO UPDATE SET {new}",
    )


SAVE = _upsert(
    "session",
    "key id native agent owner state created updated prompted cwd title",
    "id native agent state cwd title",
)
PUT_FACTS = _upsert("facts", "session data", "")
PUT_TURN = _upsert(
    "turn",
    "number session client owner raw_id progress at said ended outcome answer begun",
    "client progress outcome",
)
PUT_PERMISSION = _upsert("permission", "number session turn progress at frame outcome", "progress outcome")


def encoded(text: str) -> bytes:
    """Text as it is in the database. `decoded` undoes it, whatever is in it."""
    return text.encode("utf-8", "surrogatepass")


def decoded(data: bytes) -> str:
    return data.decode("utf-8", "surrogatepass")


# What may be seen of it


class Redact(Protocol):
    """Hides secrets in a text. `longest`: bytes of the longest of them, 0 while there are none."""

    @property
    def longest(self) -> int: ...

    def __call__(self, text: str) -> str: ...


class Contents:
    """What is kept of what was said: `kept` tells whether any of it is. Secrets never are."""

    def __init__(self, kept: bool, redact: Redact) -> None:
        self.kept = kept
        self._redact = redact

    def title(self, text: str | None) -> bytes | None:
        return encoded(self._redact(text)) if self.kept and text is not None else None

    def said(self, data: bytes) -> bytes:
        """Lines of what somebody said."""
        return self.hidden(data) if self.kept else b""

    def hidden(self, data: bytes) -> bytes:
        """The same lines without secrets; what is not UTF-8 stays as it is."""
        if not data or not self._redact.longest:
            return data
        lines = data.decode("utf-8", "surrogateescape").split("\n")
        return "\n".join(map(self._hidden_line, lines)).encode("utf-8", "surrogateescape")

    def _hidden_line(self, line: str) -> str:
        pieces = [line] if len(line) <= PIECE else self._pieces(line)
        hidden = "".join(map(self._redact, pieces))
        return line if hidden == line else self._still_json(line, hidden)

    def _still_json(self, line: str, hidden: str) -> str:
        """A secret may have been part of a number, or of a name: then only whole values are hidden."""
        if _is_json(hidden) or not _is_json(line):
            return hidden
        return json.dumps(self._without(json.loads(line)), ensure_ascii=False, separators=(",", ":"))

    def _without(self, value: Any) -> Any:
        match value:
            case dict():
                return {self._redact(name): self._without(each) for name, each in value.items()}
            case list():
                return [self._without(each) for each in value]
            case str():
                return self._redact(value)
            case int() | float() if self._redact(str(value)) == HIDDEN:
                return HIDDEN
        return value

    def _pieces(self, line: str) -> Iterator[str]:
        """Cut where there is no secret around."""
        begin, longest = 0, self._redact.longest
        while begin < len(line):
            end = begin + PIECE
            while end < len(line) and self._hides(line[max(0, end - longest) : end + longest]):
                end += longest
            yield line[begin:end]
            begin = end

    def _hides(self, text: str) -> bool:
        return self._redact(text) != text


def _is_json(line: str) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return False
    return True


# What there is to write


class Row:
    """Frames that become one row: `count` of them from number `seq` on, in parts as they came."""

    __slots__ = ("at", "count", "parts", "seq", "size")

    def __init__(self, seq: int, count: int, at: float, run: bytes) -> None:
        self.seq = seq
        self.count = count
        self.at = at
        self.parts = [run]
        self.size = len(run)

    @property
    def end(self) -> int:
        return self.seq + self.count

    def join(self, other: "Row") -> None:
        """Take what comes right after it."""
        self.count += other.count
        self.size += other.size
        self.parts += other.parts


class Batch:
    """Changes that reach the disk together. Of what was changed twice only the last state is in it."""

    def __init__(self) -> None:
        self.records: dict[int, Record] = {}
        self.facts: dict[int, bytes] = {}
        self.frames: dict[int, list[Row]] = {}
        self.turns: dict[int, Turn] = {}
        self.permissions: dict[int, Permission] = {}
        self.forgotten: set[int] = set()
        self.cleared: dict[int, int] = {}
        """By a session's key: of its frames only those from this number on stay."""
        self.size = 0
        """Bytes of frames."""

    def __bool__(self) -> bool:
        return bool(
            self.turns
            or self.frames
            or self.records
            or self.permissions
            or self.facts
            or self.forgotten
            or self.cleared
        )

    def forget(self, key: int) -> None:
        for table in (self.records, self.facts, self.cleared):
            table.pop(key, None)
        self.drop_frames(key)
        self.turns = {number: turn for number, turn in self.turns.items() if turn.session != key}
        self.permissions = {number: each for number, each in self.permissions.items() if each.session != key}
        self.forgotten.add(key)

    def clear(self, key: int, end: int) -> None:
        self.drop_frames(key)
        self.cleared[key] = end

    def append(self, key: int, seq: int, count: int, at: float, run: bytes) -> None:
        rows = self.frames.get(key)
        if rows is None:
            self.frames[key] = [Row(seq, count, at, run)]
        elif (last := rows[-1]).size + len(run) <= ROW_BYTES:
            last.parts.append(run)
            last.count += count
            last.size += len(run)
        else:
            rows.append(Row(seq, count, at, run))
        self.size += len(run)

    def put_off(self, urgent: Collection[int]) -> "Batch":
        """Take out, and return, the frames of all other sessions: later there are fewer rows of them."""
        later = Batch()
        later.frames = {key: rows for key, rows in self.frames.items() if key not in urgent}
        later.size = sum(row.size for rows in later.frames.values() for row in rows)
        self.frames = {key: rows for key, rows in self.frames.items() if key in urgent}
        self.size -= later.size
        return later

    def drop_frames(self, key: int) -> None:
        self.size -= sum(row.size for row in self.frames.pop(key, ()))

    def drop_all_frames(self) -> None:
        self.frames, self.size = {}, 0

    def sessions(self) -> set[int]:
        """Keys of those that are no longer as they were, frames and turns left out."""
        return {*self.records, *self.facts, *self.cleared, *self.forgotten}

    def merge(self, newer: "Batch") -> None:
        """Take what came after it."""
        for key in newer.forgotten:
            self.forget(key)
        for key, end in newer.cleared.items():
            self.clear(key, end)
        self.records |= newer.records
        self.facts |= newer.facts
        self.turns |= newer.turns
        self.permissions |= newer.permissions
        for key, rows in newer.frames.items():
            self._extend(self.frames.setdefault(key, []), rows)
        self.size += newer.size

    @staticmethod
    def _extend(rows: list[Row], newer: list[Row]) -> None:
        for row in newer:
            if rows and rows[-1].end == row.seq and rows[-1].size + row.size <= ROW_BYTES:
                rows[-1].join(row)
            else:
                rows.append(row)

    # As statements

    def statements(self, contents: Contents) -> Iterator[Statement]:
        """In the order in which they have to be carried out: what is gone makes room for what comes."""
        return chain(
            self._deletions(), self._sessions(contents), self._rows(contents), self._turns(contents)
        )

    def _deletions(self) -> Iterator[Statement]:
        for key in self.forgotten:
            yield from ((statement, (key,)) for statement in FORGET)
            yield DELETE_RUNS, (place(key, 0), place(key + 1, 0))
        for key, end in self.cleared.items():
            yield DELETE_RUNS, (place(key, 0), place(key, end))

    def _sessions(self, contents: Contents) -> Iterator[Statement]:
        yield from SAVE.of(
            _values(record, title=contents.title(record.title)) for record in self.records.values()
        )
        yield from PUT_FACTS.of((key, contents.hidden(data)) for key, data in self.facts.items())
        for key, end in self.cleared.items():
            yield START, (end, key)

    def _rows(self, contents: Contents) -> Iterator[Statement]:
        yield from APPEND.of(
            (place(key, row.seq), row.count, row.at, contents.hidden(b"".join(row.parts)))
            for key, rows in self.frames.items()
            for row in rows
        )

    def _turns(self, contents: Contents) -> Iterator[Statement]:
        yield from PUT_TURN.of(
            _values(turn, said=contents.said(turn.said), answer=contents.said(turn.answer))
            for turn in self.turns.values()
        )
        yield from PUT_PERMISSION.of(
            _values(permission, frame=contents.said(permission.frame))
            for permission in self.permissions.values()
        )


def _values(row: msgspec.Struct, **instead: bytes | None) -> tuple[Any, ...]:
    """A record's fields in the order in which it has them, which is that of the columns."""
    values = (instead.get(name, getattr(row, name)) for name in row.__struct_fields__)
    return tuple(encoded(value) if isinstance(value, str) else value for value in values)
