# SPDX-License-Identifier: Apache-2.0
"""Declaring D-Bus interfaces, which needs no bus."""

from typing import Any

import pytest

from agentd.interface import Interface, Objects, complete_types, method, prop, signal


class Lamp(Interface, name="org.example.Lamp"):
    @method("b")
    async def switch(self, on: bool) -> None: ...

    @signal("bs")
    def switched(self, on: bool, by: str) -> None: ...

    @prop("b")
    def is_on(self) -> bool:
        return True


class Dimmer(Lamp, name="org.example.Dimmer"):
    @prop("y")
    def level(self) -> int:
        return 7


@pytest.mark.parametrize(
    ("signature", "types"),
    [
        ("", ()),
        ("s", ("s",)),
        ("sa{sv}u", ("s", "a{sv}", "u")),
        ("aa{s(ii)}(a(ss)v)ah", ("aa{s(ii)}", "(a(ss)v)", "ah")),
    ],
)
def test_a_signature_is_a_row_of_complete_types(signature: str, types: tuple[str, ...]) -> None:
    assert complete_types(signature) == types


def test_names_are_those_of_the_bus() -> None:
    assert list(Lamp.members) == ["Switch", "Switched", "IsOn"]
    assert [argument.name for argument in Lamp.members["Switched"].takes] == ["on", "by"]


def test_an_interface_may_build_on_another() -> None:
    assert Dimmer.dbus_name == "org.example.Dimmer" and Lamp.dbus_name == "org.example.Lamp"
    assert set(Dimmer.members) == {*Lamp.members, "Level"} and "Level" not in Lamp.members


@pytest.mark.parametrize(("takes", "gives", "names"), [("", "", ()), ("bb", "", ()), ("b", "ss", ("one",))])
def test_a_signature_that_does_not_fit_is_found_at_once(
    takes: str, gives: str, names: tuple[str, ...]
) -> None:
    async def switch(self: Any, on: bool) -> None: ...

    with pytest.raises(ValueError, match="zip"):
        method(takes, gives, names=names)(switch)


def test_descriptors_are_for_the_top_level() -> None:
    with pytest.raises(TypeError, match="container"):
        prop("ah")(lambda self: [])


def test_signals_go_to_the_bus_it_is_on() -> None:
    told: list[tuple[object, ...]] = []
    objects, lamp = Objects(lambda *args: told.append(args)), Lamp()
    lamp.switched(True, "nobody hears")
    objects.add("/lamp", lamp)
    lamp.switched(False, by="me")
    objects.remove("/lamp")
    lamp.switched(True, "nobody hears")
    assert told == [("/lamp", "org.example.Lamp", "Switched", "bs", False, "me")]
