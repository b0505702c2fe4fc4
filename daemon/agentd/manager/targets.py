# SPDX-License-Identifier: Apache-2.0
"""What an order is about: everything, a container, one agent of it, or one session."""

import enum
import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple, Self

from agentd.config import AGENT_NAME, valid_name
from agentd.errors import NoSuchTarget

FORMS = 'a target is NAME, NAME/AGENT or NAME#SESSION, and "" is everything'


class Scope(enum.StrEnum):
    ALL = "all"
    CONTAINER = "container"
    AGENT = "agent"
    SESSION = "session"


class Target(NamedTuple):
    """`container` is "" for everything. At most one of `agent` and `session` is set."""

    container: str = ""
    agent: str = ""
    session: str = ""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Somebody's word for it: "", "box", "box/claude" or "box#SESSION". Raises NoSuchTarget.

        A session's id is all that follows the first "#", and may contain anything.
        """
        if not text:
            return cls()
        container, sign, part = _cut(text)
        if not container:
            raise NoSuchTarget(f"{text!r:.200} names no container: {FORMS}")
        if not valid_name(container):
            raise NoSuchTarget(f"{container!r:.200} is no container's name: {FORMS}")
        if sign and not part:
            raise NoSuchTarget(f"{text} names no {'agent' if sign == '/' else 'session'}: {FORMS}")
        if sign == "/" and not re.match(AGENT_NAME, part):
            raise NoSuchTarget(f"{part!r:.200} is no agent's name: {FORMS}")
        return cls.split(text)

    @classmethod
    def split(cls, text: str) -> Self:
        """Our own word for it, of which `str` made that text."""
        container, sign, part = _cut(text)
        return cls(container, session=part) if sign == "#" else cls(container, agent=part)

    def __str__(self) -> str:
        if self.session:
            return f"{self.container}#{self.session}"
        return f"{self.container}/{self.agent}" if self.agent else self.container

    @property
    def scope(self) -> Scope:
        if self.is_all:
            return Scope.ALL
        if self.session:
            return Scope.SESSION
        return Scope.AGENT if self.agent else Scope.CONTAINER

    @property
    def is_all(self) -> bool:
        return not self.container

    @property
    def is_part(self) -> bool:
        """Whether it is less than a whole container."""
        return bool(self.agent or self.session)

    def covers(self, other: "Target") -> bool:
        """Whether the other is the same, or a part of this."""
        return self.is_all or other == self or (not self.is_part and other.container == self.container)


EVERYTHING = Target()


def _cut(text: str) -> tuple[str, str, str]:
    """The container, the sign that ends its name ("" where none does), and what follows it."""
    container = re.split("[/#]", text, maxsplit=1)[0]
    rest = text[len(container) :]
    return container, rest[:1], rest[1:]


class Targets:
    """A set of containers and parts of them, which knows those of one container at once."""

    def __init__(self, targets: Iterable[Target] = ()) -> None:
        self._by_container: dict[str, set[Target]] = {}
        for each in targets:
            self.add(each)

    def __iter__(self) -> Iterator[Target]:
        """Sorted, a container before its parts."""
        return iter(sorted(each for some in self._by_container.values() for each in some))

    def __contains__(self, target: Target) -> bool:
        return target in self._by_container.get(target.container, ())

    def of(self, container: str) -> list[Target]:
        """The container and the parts of it that are in the set."""
        return sorted(self._by_container.get(container, ()))

    def under(self, target: Target) -> list[Target]:
        """Those in the set that the target covers."""
        return (
            list(self)
            if target.is_all
            else [each for each in self.of(target.container) if target.covers(each)]
        )

    def add(self, target: Target) -> None:
        self._by_container.setdefault(target.container, set()).add(target)

    def discard(self, target: Target) -> None:
        some = self._by_container.get(target.container, set())
        some.discard(target)
        if not some:
            self._by_container.pop(target.container, None)
