# SPDX-License-Identifier: Apache-2.0
"""D-Bus interfaces as plain Python classes. No D-Bus library is needed to declare one, or to test one.

    class Manager(Interface, name="org.agentd1.Manager"):
        @method("sa{sv}", "o", names=("job",))
        async def drain(self, target: str, options: dict[str, Any]) -> str: ...

        @signal("us")
        def job_new(self, id: int, target: str) -> None: ...

        @prop("u")
        def n_clients(self) -> int:
            return len(self._clients)

They are known to the bus as `Drain`, `JobNew` and `NClients`. Values are plain Python in both directions:
a struct arrives as a list and may be sent as a tuple; `a{sv}` arrives as a dict with its variants unwrapped,
and leaves with `variant()` around each value; `h`, at the top level of a signature only, is a descriptor.
One that arrives is closed when the method returns (dup what you keep), and one that is returned is closed
once it is sent. Import all this from bus.py, which exports it.
"""

import asyncio
import contextvars
import functools
import inspect
import logging
import xml.etree.ElementTree as ET
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Concatenate, Literal, ParamSpec, TypeVar

from .errors import DBUS_PREFIX, AgentdError

logger = logging.getLogger(__name__)

FREEDESKTOP_ERROR = "org.freedesktop.DBus.Error."
PROPERTIES = "org.freedesktop.DBus.Properties"
OBJECT_MANAGER = "org.freedesktop.DBus.ObjectManager"

PAUSE_SEC = 0.05
"""At least so long between two PropertiesChanged of one interface of an object."""

Kind = Literal["method", "signal", "property"]
Emits = Literal["true", "invalidates", "const", "false"]

P = ParamSpec("P")
S = TypeVar("S", bound="Interface")
Method = TypeVar("Method", bound=Callable[..., Coroutine[Any, Any, Any]])
Getter = TypeVar("Getter", bound=Callable[[Any], Any])


class BusError(AgentdError):
    """An error that only its D-Bus name tells from others, to be raised here or raised by a peer."""

    reason = "bus_error"
    dbus_name = DBUS_PREFIX + "Internal"

    def __init__(self, name: str, message: str) -> None:
        super().__init__(message)
        self.name = name
        self.dbus_name = name  # type: ignore[misc]  # the class says what is usual, this one what it is


@dataclass(frozen=True, slots=True)
class Variant:
    signature: str
    value: Any


def variant(signature: str, value: object) -> Variant:
    """What to send where a signature has `v`."""
    return Variant(signature, value)


@dataclass(frozen=True, slots=True)
class Caller:
    """Who called the method that is running. `interactive`: and would wait for a person to authenticate.

    `uid` is -1, and `groups` are none, where the bus does not know them.
    """

    sender: str
    interactive: bool
    uid: int = -1
    groups: frozenset[int] = frozenset()


EVERYBODY = Caller("", False)
"""To whom signals go."""

current_caller: ContextVar[Caller] = ContextVar("current_caller", default=EVERYBODY)


def caller() -> Caller:
    """Who called the method that is running, or reads the property; EVERYBODY where a signal tells."""
    return current_caller.get()


class Repeated:
    """A result that many callers get: to make it ready to be sent is done once, however long it is."""

    def __init__(self, value: Any) -> None:
        self.value = value
        self.body: list[Any] | None = None
        """As the bus has made it ready."""


# Declaring members


@dataclass(frozen=True, slots=True)
class Argument:
    name: str
    type: str


@dataclass(frozen=True, slots=True)
class Member:
    kind: Kind
    name: str
    attribute: str
    takes: tuple[Argument, ...] = ()
    gives: tuple[Argument, ...] = ()
    emits: Emits = "true"


def signature_of(arguments: Iterable[Argument]) -> str:
    return "".join(argument.type for argument in arguments)


@functools.cache
def complete_types(signature: str) -> tuple[str, ...]:
    """The types that a signature is made of: `sa{sv}u` is `s`, `a{sv}`, `u`."""
    types, begin, depth = [], 0, 0
    for end, char in enumerate(signature, start=1):
        depth += (char in "({") - (char in ")}")
        if depth == 0 and char != "a":
            types.append(signature[begin:end])
            begin = end
    return tuple(types)


def _arguments(signature: str, names: Sequence[str]) -> tuple[Argument, ...]:
    types = complete_types(signature)
    if any("h" in kind for kind in types if kind != "h"):
        raise TypeError(f"a descriptor inside a container is not supported: {signature}")
    return tuple(Argument(name.rstrip("_"), kind) for name, kind in zip(names, types, strict=True))


def _parameters(function: Callable[..., Any]) -> list[str]:
    return list(inspect.signature(function).parameters)[1:]


def _camel(name: str) -> str:
    return "".join(part[:1].upper() + part[1:] for part in name.split("_"))


def method(
    takes: str = "", gives: str = "", *, names: Sequence[str] = (), name: str = ""
) -> Callable[[Method], Method]:
    """Export a coroutine method: its parameters name the arguments, `names` the results.

    One result is returned as it is, several as a tuple.
    """

    def decorate(function: Method) -> Method:
        arguments = _arguments(takes, _parameters(function))
        results = _arguments(gives, names or [""] * len(complete_types(gives)))
        member = Member("method", name or _camel(function.__name__), function.__name__, arguments, results)
        function.__dict__["_dbus"] = member
        return function

    return decorate


def signal(
    takes: str = "", *, name: str = ""
) -> Callable[[Callable[Concatenate[S, P], None]], Callable[Concatenate[S, P], None]]:
    """Declare a signal: to call the method is to emit it, and its body is never run."""

    def decorate(function: Callable[Concatenate[S, P], None]) -> Callable[Concatenate[S, P], None]:
        arguments = _arguments(takes, _parameters(function))
        member = Member("signal", name or _camel(function.__name__), function.__name__, arguments)
        shape = inspect.signature(function)

        @functools.wraps(function)
        def emit(self: S, /, *args: P.args, **kwargs: P.kwargs) -> None:
            self.emit(self.dbus_name, member.name, takes, *shape.bind(self, *args, **kwargs).args[1:])

        emit.__dict__["_dbus"] = member
        return emit

    return decorate


def prop(kind: str, *, emits: Emits = "true", name: str = "") -> Callable[[Getter], Getter]:
    """Export a quick method without arguments as a read-only property.

    `emits` is what `Interface.changed` tells of it: the value, only that the old one is invalid, or nothing.
    """

    def decorate(function: Getter) -> Getter:
        value = _arguments(kind, [""])
        member_name = name or _camel(function.__name__)
        function.__dict__["_dbus"] = Member("property", member_name, function.__name__, (), value, emits)
        return function

    return decorate


# Interfaces


class Interface:
    """One D-Bus interface of one object. While it is not exported, its signals go nowhere."""

    dbus_name: ClassVar[str] = ""
    members: ClassVar[dict[str, Member]] = {}

    # Initialization

    def __init_subclass__(cls, *, name: str = "") -> None:
        cls.dbus_name = name or cls.dbus_name
        attributes = [attribute for base in reversed(cls.__mro__) for attribute in vars(base).values()]
        declared = [getattr(attribute, "_dbus", None) for attribute in attributes]
        cls.members = {member.name: member for member in declared if member is not None}

    def __init__(self) -> None:
        self.exported_at: tuple[Objects, str] | None = None
        self._changed: set[str] = set()
        self._announced = -PAUSE_SEC
        """When everybody was told last, by the loop's clock."""
        self._told: dict[str, object] = {}
        """What everybody has been told of properties, by name."""

    # Telling listeners

    def emit(self, interface: str, member: str, signature: str, *args: object) -> None:
        if self.exported_at is not None:
            objects, path = self.exported_at
            objects.emit(path, interface, member, signature, *args)

    def changed(self, *names: str) -> None:
        """Tell of these properties, by their D-Bus names, in one PropertiesChanged: after this pass of the
        loop, or PAUSE_SEC after the one before. Those that are as everybody has been told are left out.
        """
        if unknown := set(names) - self.members.keys():
            raise ValueError(f"{self.dbus_name} has no {unknown}")
        if self.exported_at is None:
            return
        if not self._changed:
            loop = asyncio.get_running_loop()
            wait = self._announced + PAUSE_SEC - loop.time()
            loop.call_later(max(wait, 0.0), self._announce, context=contextvars.Context())
        self._changed.update(names)

    def _announce(self) -> None:
        names, self._changed = self._changed, set()
        self._announced = asyncio.get_running_loop().time()
        values = self.values(self._those(names, "true"))
        values = {name: value for name, value in values.items() if self._told.get(name) != value}
        self._told |= values
        invalid = [member.name for member in self._those(names, "invalidates")]
        if values or invalid:
            self.emit(PROPERTIES, "PropertiesChanged", "sa{sv}as", self.dbus_name, values, invalid)

    def _those(self, names: set[str], emits: Emits) -> list[Member]:
        return [member for name, member in self.members.items() if name in names and member.emits == emits]

    def told(self) -> dict[str, Variant]:
        """All properties, as everybody is about to be told of them."""
        values: dict[str, Variant] = contextvars.Context().run(self.values, self.members.values())
        self._told = dict(values)
        return values

    # Properties

    def value(self, member: Member) -> Variant:
        return variant(signature_of(member.gives), getattr(self, member.attribute)())

    def values(self, members: Iterable[Member]) -> dict[str, Variant]:
        """The properties among them, without those that fail: one of them must not hide the others."""
        values = {}
        for member in members:
            if member.kind == "property":
                try:
                    values[member.name] = self.value(member)
                except Exception:
                    logger.exception("the property %s.%s failed", self.dbus_name, member.name)
        return values

    # Introspection

    def describe(self) -> ET.Element:
        element = ET.Element("interface", name=self.dbus_name)
        element.extend(_describe(member) for member in self.members.values())
        return element


def _describe(member: Member) -> ET.Element:
    element: ET.Element = ET.Element(str(member.kind), name=member.name)
    if member.kind == "property":
        element.attrib |= {"type": signature_of(member.gives), "access": "read"}
    if member.emits != "true":
        annotation = "org.freedesktop.DBus.Property.EmitsChangedSignal"
        ET.SubElement(element, "annotation", name=annotation, value=member.emits)
    if member.kind == "signal":
        element.extend(_describe_argument(argument) for argument in member.takes)
    if member.kind == "method":
        element.extend(_describe_argument(argument, direction="in") for argument in member.takes)
        element.extend(_describe_argument(argument, direction="out") for argument in member.gives)
    return element


def _describe_argument(argument: Argument, **attributes: str) -> ET.Element:
    named = {"name": argument.name} if argument.name else {}
    return ET.Element("arg", named | {"type": argument.type} | attributes)


# The standard interfaces


class Peer(Interface, name="org.freedesktop.DBus.Peer"):
    @method()
    async def ping(self) -> None:
        pass

    @method("", "s", names=("machine_uuid",))
    async def get_machine_id(self) -> str:
        return Path("/etc/machine-id").read_text().strip()


class Introspectable(Interface, name="org.freedesktop.DBus.Introspectable"):
    def __init__(self, interfaces: Iterable[Interface], children: Callable[[], Iterable[str]]) -> None:
        super().__init__()
        self._interfaces = [*interfaces, self]
        self._children = children

    @method("", "s", names=("xml_data",))
    async def introspect(self) -> str:
        node = ET.Element("node")
        node.extend(interface.describe() for interface in self._interfaces)
        node.extend(ET.Element("node", name=child) for child in sorted(self._children()))
        ET.indent(node)
        return ET.tostring(node, encoding="unicode") + "\n"


class Properties(Interface, name=PROPERTIES):
    """The properties of the other interfaces of an object."""

    def __init__(self, interfaces: Mapping[str, Interface]) -> None:
        super().__init__()
        self._interfaces = interfaces

    @method("ss", "v", names=("value",))
    async def get(self, interface_name: str, property_name: str) -> Variant:
        interface, member = self._find(interface_name, property_name)
        return interface.value(member)

    @method("ssv")
    async def set(self, interface_name: str, property_name: str, value: object) -> None:
        self._find(interface_name, property_name)
        raise BusError(
            FREEDESKTOP_ERROR + "PropertyReadOnly", f"{interface_name}.{property_name} is read-only"
        )

    @method("s", "a{sv}", names=("props",))
    async def get_all(self, interface_name: str) -> dict[str, Variant]:
        interface = self._interface(interface_name)
        return interface.values(interface.members.values())

    @signal("sa{sv}as")
    def properties_changed(
        self, interface_name: str, changed_properties: dict[str, Variant], invalidated_properties: list[str]
    ) -> None: ...

    def _find(self, interface_name: str, property_name: str) -> tuple[Interface, Member]:
        interface = self._interface(interface_name)
        member = interface.members.get(property_name)
        if member is None or member.kind != "property":
            raise BusError(
                FREEDESKTOP_ERROR + "UnknownProperty", f"{interface_name} has no property {property_name}"
            )
        return interface, member

    def _interface(self, name: str) -> Interface:
        if name not in self._interfaces:
            raise BusError(
                FREEDESKTOP_ERROR + "UnknownInterface", f"this object has no properties of {name}"
            )
        return self._interfaces[name]


class ObjectManager(Interface, name=OBJECT_MANAGER):
    """Exported at the top of a tree of objects, it lists them, and tells of those that come and go."""

    @method("", "a{oa{sa{sv}}}", names=("objpath_interfaces_and_properties",))
    async def get_managed_objects(self) -> dict[str, dict[str, dict[str, Variant]]]:
        if self.exported_at is None:
            return {}
        objects, top = self.exported_at
        return {path: snapshot(interfaces.values()) for path, interfaces in objects.below(top)}

    @signal("oa{sa{sv}}")
    def interfaces_added(
        self, object_path: str, interfaces_and_properties: dict[str, dict[str, Variant]]
    ) -> None: ...

    @signal("oas")
    def interfaces_removed(self, object_path: str, interfaces: list[str]) -> None: ...


def snapshot(interfaces: Iterable[Interface]) -> dict[str, dict[str, Variant]]:
    return {interface.dbus_name: interface.values(interface.members.values()) for interface in interfaces}


# What is exported


class Objects:
    """The interfaces of every path. `emit(path, interface, member, signature, *args)` sends a signal."""

    def __init__(self, emit: Callable[..., None]) -> None:
        self.emit = emit
        self._paths: dict[str, dict[str, Interface]] = {}

    def add(self, path: str, interface: Interface) -> None:
        here = self._paths.setdefault(path, {})
        if interface.exported_at is not None or interface.dbus_name in here:
            raise ValueError(f"{interface.dbus_name} is exported already")
        here[interface.dbus_name] = interface
        interface.exported_at = (self, path)
        for manager in self._managers(path):
            manager.interfaces_added(path, {interface.dbus_name: interface.told()})

    def remove(self, path: str) -> None:
        gone = self._paths.pop(path, {})
        for interface in gone.values():
            interface.exported_at = None
        for manager in self._managers(path) if gone else ():
            manager.interfaces_removed(path, list(gone))

    def clear(self) -> None:
        for path in list(self._paths):
            self.remove(path)

    def below(self, top: str) -> Iterator[tuple[str, dict[str, Interface]]]:
        prefix = top.rstrip("/") + "/"
        return (
            (path, here) for path, here in self._paths.items() if path.startswith(prefix) and path != top
        )

    def find(self, path: str, interface_name: str, member_name: str) -> tuple[Interface, Member]:
        """The method that is meant, maybe one of the standard interfaces, or a BusError."""
        here = self._paths.get(path, {})
        if not here and next(self.below(path), None) is None:
            raise BusError(FREEDESKTOP_ERROR + "UnknownObject", f"there is no object {path}")
        described = [*here.values(), Properties(here), Peer()]
        for interface in [*described, Introspectable(described, functools.partial(self._children, path))]:
            member = interface.members.get(member_name)
            if member and member.kind == "method" and interface_name in (interface.dbus_name, ""):
                return interface, member
        text = f"{path} has no method {interface_name}.{member_name}"
        raise BusError(FREEDESKTOP_ERROR + "UnknownMethod", text)

    def _children(self, path: str) -> set[str]:
        return {below[len(path) :].strip("/").split("/")[0] for below, _ in self.below(path)}

    def _managers(self, path: str) -> Iterator[ObjectManager]:
        while path := path.rpartition("/")[0]:
            manager = self._paths.get(path, {}).get(OBJECT_MANAGER)
            if isinstance(manager, ObjectManager):
                yield manager
