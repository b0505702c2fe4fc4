# SPDX-License-Identifier: Apache-2.0
"""`_agentd/login`: a client in front of an agent's own login, which runs in a terminal in the container."""

import asyncio
from collections.abc import Callable
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from agentd.acp import envelope, methods
from agentd.acp.extensions import LoginEnd, LoginStart, TerminalData, TerminalSize, parsed
from agentd.errors import InvalidArgs, NoSuchAgent
from agentd.runtimes import Command
from agentd.worker import aggregate
from agentd.worker.agent import Place, Recipe
from agentd.worker.catalog import Catalog
from agentd.worker.client import Client, Request
from agentd.worker.credentials import resolve
from agentd.worker.login import Login

Word = Annotated[str, Meta(pattern=r"^[^\x00]*\Z")]
Name = Annotated[str, Meta(pattern=r"^[^\x00=]+\Z")]


class _Terminal(msgspec.Struct):
    """What an agent says its login in a terminal takes; the agent is not trusted to say it well."""

    args: list[Word] = []
    env: dict[Name, Word] = {}


class FrontTerminal:
    """The messages between a client and one login."""

    def __init__(
        self, request: Request, place: Place, catalog: Catalog, recipe: Callable[[str], Recipe]
    ) -> None:
        self._client: Client = request.client
        self._start: LoginStart = parsed(request.params, LoginStart)
        self._place = place
        self._catalog = catalog
        self._recipe = recipe
        self._login = Login(place, self._show)

    async def run(self) -> LoginEnd:
        """Run the agent's login to its end. Raises InvalidArgs for a method that is none in a terminal."""
        if self._client.terminal is not None:
            raise InvalidArgs("a login is under way on this connection already")
        self._client.terminal = self  # before anything is waited for: the client may type at once
        try:
            command = await self._command()
            status = await self._login.run(command, self._start.columns, self._start.rows)
            return LoginEnd(exit_status=status)
        finally:
            self._client.terminal = None

    async def _command(self) -> Command:
        """The agent's own program, with what its login method adds."""
        method = await self._method()
        recipe = self._recipe(self._start.agent)
        if recipe.port is not None:
            raise InvalidArgs(f"{self._start.agent} is a server in the container, which has no terminal")
        env = await asyncio.to_thread(resolve, recipe.env)
        self._place.redact.add(env.values())
        try:
            its = msgspec.convert(method, _Terminal)
        except msgspec.ValidationError as exc:
            raise InvalidArgs(f"{self._start.agent} describes its login in a wrong way: {exc}") from None
        argv, env = [*recipe.command.argv, *its.args], {**env, **its.env}
        return recipe.command._replace(argv=argv, env={**env, "TERM": self._start.term})

    async def _method(self) -> dict[str, Any]:
        agent = self._start.agent
        await self._catalog.look()
        if agent not in [card.name for card in self._catalog.cards]:
            raise NoSuchAgent(f"there is no agent {agent} here; see: agentctl agents", agent=agent)
        await self._catalog.probe([agent], anew=True)
        for method in aggregate.declared_methods(self._catalog.card(agent).greeting):
            if method.get("id") == self._start.method and method.get("type") == "terminal":
                return method
        raise InvalidArgs(
            f"{agent} has no way to log in in a terminal that is called {self._start.method}; "
            f"see: agentctl agents",
            agent=agent,
        )

    def _show(self, data: bytes) -> None:
        self._client.send(envelope.notification(methods.TERMINAL_OUTPUT, TerminalData(data=data)))

    # From the client

    def told(self, method: str, params: dict[str, Any]) -> None:
        if method == methods.TERMINAL_INPUT:
            self._login.input(parsed(params, TerminalData).data)
        else:
            size = parsed(params, TerminalSize)
            self._login.resize(size.columns, size.rows)

    def hold(self, held: bool) -> None:
        self._login.hold(held)

    def close(self) -> None:
        self._login.close()
