# SPDX-License-Identifier: Apache-2.0
"""The agent called agentd: it stands for all of a container's, and a session picks one of them."""

from collections.abc import Iterable, Sequence
from typing import Any

from agentd import __version__
from agentd.acp import methods
from agentd.worker.catalog import Card, State
from agentd.worker.hello import Hello

AGENT_OPTION = "agentd.agent"
MODEL_OPTION = "model"
HUBS_OWN = ("list", "resume", "close", "delete")
"""What every agent can do with its sessions, because the hub does it for those that cannot."""


# initialize


def with_hubs_own(capabilities: Any) -> dict[str, Any]:
    """An agent's capabilities, and what the hub adds to them."""
    known = dict(capabilities) if isinstance(capabilities, dict) else {}
    session = known.get("sessionCapabilities")
    own = dict(session) if isinstance(session, dict) else {}
    lacking: dict[str, Any] = {
        each: {} for each in HUBS_OWN if own.get(each) is None
    }  # null is as good as not there
    known["sessionCapabilities"] = {**own, **lacking}
    known["loadSession"] = True
    return known


def greeting(cards: Sequence[Card], hello: Hello) -> dict[str, Any]:
    """The answer to initialize, promising what holds whichever agent is picked."""
    there = [card.greeting for card in cards if card.state is not State.MISSING]
    ready = [each for each in there if each is not None]
    capabilities = [each.get("agentCapabilities") for each in ready]
    common = {name: _in_common([_member(each, name) for each in capabilities]) for name in COMMON}
    return {
        "protocolVersion": methods.PROTOCOL_VERSION,
        "agentCapabilities": with_hubs_own({name: flags for name, flags in common.items() if flags}),
        "agentInfo": {"name": "agentd", "title": "agentd", "version": __version__},
        "authMethods": [each for card in cards for each in auth_methods(card, hello, prefix=True)],
    }


COMMON = ("promptCapabilities", "mcpCapabilities")


def _in_common(tables: list[Any]) -> dict[str, bool]:
    first = tables[0] if tables and isinstance(tables[0], dict) else {}
    return {
        name: True
        for name, value in first.items()
        if value is True and all(_member(each, name) is True for each in tables)
    }


def _member(value: Any, name: str) -> Any:
    return value.get(name) if isinstance(value, dict) else None


# Logging in


def auth_methods(card: Card, hello: Hello, *, prefix: bool) -> list[dict[str, Any]]:
    """What a client may do to log in to an agent. In a terminal only where it says that it can."""
    return [
        _method(each, card.name, prefix=prefix)
        for each in declared_methods(card.greeting)
        if hello.logs_in_by_terminal or each.get("type") != "terminal"
    ]


def declared_methods(agents_greeting: dict[str, Any] | None) -> list[dict[str, Any]]:
    listed = _member(agents_greeting, "authMethods")
    return [each for each in listed if isinstance(each, dict)] if isinstance(listed, list) else []


def _method(method: dict[str, Any], agent: str, *, prefix: bool) -> dict[str, Any]:
    """A method as clients see it: one in a terminal is run by agentctl, for the agent is elsewhere."""
    shown, its = dict(method), str(method.get("id"))
    if prefix:
        shown["id"] = f"{agent}/{its}"
    if method.get("type") == "terminal":
        shown["args"] = ["--login", f"{agent}/{its}"]
        shown.pop("env", None)
    return shown


# Picking an agent


def agent_option(cards: Iterable[Card], current: str) -> dict[str, Any]:
    """The option that moves a session to another agent."""
    offered = [
        card for card in cards if card.name == current or card.state in (State.READY, State.NEEDS_LOGIN)
    ]
    return {
        "id": AGENT_OPTION,
        "name": "Agent",
        "category": "_agentd_agent",
        "type": "select",
        "currentValue": current,
        "options": [{"value": card.name, "name": card.title or card.name} for card in offered],
    }


def model_option(cards: Iterable[Card], current: str, own: list[Any]) -> dict[str, Any]:
    """Agents and their models in one, for clients that pick nothing but a model."""
    options = [
        each for card in cards for each in _models(card, own if card.name == current else card.options)
    ]
    chosen = find_model(own)
    return {
        "id": MODEL_OPTION,
        "name": "Model",
        "category": "model",
        "type": "select",
        "currentValue": joined(current, str(chosen.get("currentValue")) if chosen else ""),
        "options": options,
    }


def _models(card: Card, options: list[Any] | None) -> list[dict[str, Any]]:
    model = find_model(options or [])
    title = card.title or card.name
    if model is None:
        return [{"value": joined(card.name, ""), "name": title}]
    return [
        {**each, "value": joined(card.name, str(each.get("value"))), "name": f"{title}: {each.get('name')}"}
        for each in _flat(model.get("options"))
    ]


def find_model(options: list[Any]) -> dict[str, Any] | None:
    """An agent's own choice of models, if it offers one."""
    for option in options:
        if isinstance(option, dict) and option.get("category") == "model" and option.get("type") == "select":
            return option
    return None


def _flat(options: Any) -> list[dict[str, Any]]:
    """The options of a select, which may come in groups."""
    flat: list[dict[str, Any]] = []
    for each in options if isinstance(options, list) else ():
        inner = each.get("options") if isinstance(each, dict) else None
        flat += _flat(inner) if isinstance(inner, list) else [each] if isinstance(each, dict) else []
    return flat


def joined(agent: str, model: str) -> str:
    """One value for both; said twice, it is still the same."""
    return model if model.startswith(f"{agent}:") else f"{agent}:{model}" if model else agent


def split(value: str) -> tuple[str, str]:
    """Agent and model of a value; a model's own name may have colons in it."""
    agent, _, model = value.partition(":")
    return agent, model
