#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""The man page org.agentd1(5), from the comments in dbus/org.agentd1.xml: interface.py XML > org.agentd1.5

The comment before a member tells of it. That before everything tells of the whole; its first paragraph
is for readers of the file, and not taken.
"""

import re
import sys
from collections.abc import Iterator
from typing import NamedTuple
from xml.dom import minidom

HEAD = r"""
.\" SPDX-License-Identifier: Apache-2.0
.\" Made by packaging/man/interface.py from dbus/org.agentd1.xml: change that.
.Dd November 21, 2026
.Dt ORG.AGENTD1 5
.Os agentd
.Sh NAME
.Nm org.agentd1
.Nd the D-Bus interfaces of agentd
.Sh DESCRIPTION
.Xr agentd 8
is
.Nm
on the system bus; for a user's own manager on the session bus, and for one that was started by hand on a bus
of its own, at
.Pa bus
in its runtime directory.
Everything that
.Xr agentctl 1
orders goes this way.
No member ever changes its signature: what grows, grows in options.
"""

TAIL = r"""
.Sh FILES
.Bl -tag -width Ds
.It Pa /usr/share/dbus-1/interfaces/org.agentd1.xml
The interfaces as introspection data, from which this page was made.
.It Pa /usr/share/dbus-1/system.d/org.agentd1.conf
Who may own the name, and call.
.It Pa /usr/share/polkit-1/actions/org.agentd1.policy
What
.Xr polkit 8
is asked.
.El
.Sh EXAMPLES
All there is, and what it can do:
.Bd -literal -offset indent
busctl tree org.agentd1
busctl introspect org.agentd1 /org/agentd1/container/box
.Ed
.Pp
How many turns run now, for a script:
.Bd -literal -offset indent
busctl get-property org.agentd1 /org/agentd1 org.agentd1.Manager NTurns
.Ed
.Pp
Drain a container, cut turns off after ten minutes, and watch what comes of it:
.Bd -literal -offset indent
busctl call org.agentd1 /org/agentd1 org.agentd1.Manager \e
    Drain 'sa{sv}' box 1 timeout_usec t 600000000
busctl monitor org.agentd1
.Ed
.Pp
The same for a manager that was started with
.Fl Fl runtime-dir Ar D :
.Bd -literal -offset indent
busctl --address=unix:path=D/bus tree org.agentd1
.Ed
.Sh SEE ALSO
.Xr agentctl 1 ,
.Xr busctl 1 ,
.Xr gdbus 1 ,
.Xr agentd 8 ,
.Xr polkit 8
"""

NAMED = re.compile(r"(?:`([^`]+)`|([a-z][a-z.-]+)\((\d)\))([.,:;]?)")
"""An argument, or another page, and the punctuation that follows."""
CHANGES = {
    "true": "",
    "const": ", constant",
    "false": ", changes are not signalled",
    "invalidates": ", changes are signalled without the value",
}
"""What a property's annotation says, in words."""


class Argument(NamedTuple):
    name: str
    type: str
    direction: str

    def __str__(self) -> str:
        return " ".join(filter(None, (self.direction, self.type, self.name)))


class Documented(NamedTuple):
    """A member, and what its comment says."""

    kind: str
    name: str
    text: str
    arguments: list[Argument]
    detail: str


def main() -> None:
    sys.stdout.write(page(sys.argv[1]))


def page(file: str) -> str:
    """The page as mdoc(7). Raises LookupError that names the members without a comment."""
    document = minidom.parse(file)  # noqa: S318  # our own file
    comments = [node.data for node in document.childNodes if isinstance(node, minidom.Comment)]
    node = document.documentElement
    assert node is not None
    interfaces = {each.getAttribute("name"): list(members(each)) for each in elements(node, "interface")}
    if bare := [
        f"{name}.{each.name}" for name, found in interfaces.items() for each in found if not each.text
    ]:
        raise LookupError(f"without a comment: {', '.join(bare)}")
    lines = [*HEAD.strip().splitlines(), *overview(comments[-1])]
    for name, found in interfaces.items():
        lines += interface(name, found)
    return "\n".join([*lines, *TAIL.strip().splitlines(), ""])


# Reading


def members(interface: minidom.Element) -> Iterator[Documented]:
    """In the order of the file."""
    text = ""
    for node in interface.childNodes:
        if isinstance(node, minidom.Comment):
            text = node.data
        elif isinstance(node, minidom.Element):
            yield member(node, text)
            text = ""


def member(node: minidom.Element, text: str) -> Documented:
    arguments = [
        Argument(*(each.getAttribute(key) for key in ("name", "type", "direction")))
        for each in elements(node, "arg")
    ]
    detail = ""
    if node.tagName == "property":
        changes = [each.getAttribute("value") for each in elements(node, "annotation")]
        detail = node.getAttribute("type") + CHANGES[(changes or ["true"])[0]]
    return Documented(node.tagName, node.getAttribute("name"), " ".join(text.split()), arguments, detail)


def elements(node: minidom.Element, tag: str) -> list[minidom.Element]:
    return [each for each in node.childNodes if isinstance(each, minidom.Element) and each.tagName == tag]


# Writing


def overview(header: str) -> Iterator[str]:
    for paragraph in header.split("\n\n")[1:]:
        yield ".Pp"
        yield from prose(" ".join(paragraph.split()))


def interface(name: str, found: list[Documented]) -> Iterator[str]:
    yield f".Sh INTERFACE {name}"
    for kind, title in (("method", "Methods"), ("signal", "Signals"), ("property", "Properties")):
        if mine := [each for each in found if each.kind == kind]:
            yield f".Ss {title}"
            yield ".Bl -tag -width Ds"
            for each in mine:
                yield item(each)
                yield from prose(each.text)
            yield ".El"


def item(member: Documented) -> str:
    if member.kind == "property":
        return f'.It Va {member.name} Pq "{member.detail}"'
    arguments = "".join(f' "{each}"' for each in member.arguments)
    return f".It Fn {member.name}{arguments}"


def prose(text: str) -> Iterator[str]:
    """A line a sentence, and one for each `argument` and page(N) that it names."""
    for sentence in re.split(r"(?<=[.:]) (?=[A-Z`])", text.replace("\\", r"\e")):
        end = 0
        for found in NAMED.finditer(sentence):
            yield from words(sentence[end : found.start()])
            argument, manual, number, mark = found.groups()
            after = f" {mark}" if mark else ""
            yield f".Fa {argument}{after}" if argument else f".Xr {manual} {number}{after}"
            end = found.end()
        yield from words(sentence[end:])


def words(text: str) -> Iterator[str]:
    """A line that is no macro, if there is anything to say."""
    if text := text.strip():
        yield rf"\&{text}" if text[0] in ".'" else text


if __name__ == "__main__":
    main()
