# SPDX-License-Identifier: Apache-2.0
"""An ACP agent that does what its prompts say, one command a line, and misbehaves as its switches say.

Commands in a prompt:
  say TEXT            stream a message chunk
  updates N SIZE      stream N chunks of SIZE characters
  count N             stream N numbers
  tally T FROM TO MS  stream T:FROM to T:TO-1 with pauses of MS milliseconds, until the turn is cancelled
  ask TITLE           request permission for a tool call, then say the outcome
  want KIND           the same for a tool of that kind
  withdraw TITLE      request permission and want it no more
  call METHOD JSON    send the client a request, then say the result or the error
  tell METHOD JSON    send the client a notification
  update JSON         send this session's update
  fail JSON           end the turn with this error
  raw TEXT            write TEXT to stdout as it is
  bytes HEX           write these bytes to stdout
  mixed N EVERY       stream N numbers; with every EVERY-th one, ask the client _tick and do not wait
  big SIZE            ask the client _big with SIZE characters, then say the result or the error
  hold                go on when the client sends the notification _release
  cancelled           go on when the turn is cancelled, and end it as cancelled
  close               close stdout
  stderr TEXT         write a line to stderr
  child [heir]        start a process that leaves this one's session and sleeps; an heir holds its pipes
  env NAME            say the value of a variable, or that there is none
  cwd                 say the working directory
  mode                say the mode of the session
  exit STATUS         end the process here
  die                 kill the process with SIGKILL

A session/new with `_meta.hang` is never answered, one with `_meta.text` is after an update with that text.
"""

import argparse
import asyncio
import json
import os
import signal
import subprocess
import sys
from functools import partial
from typing import Any


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--ignore-sigterm", action="store_true")
    parser.add_argument("--ignore-eof", action="store_true", help="live on when stdin has ended")
    parser.add_argument("--ignore-cancel", action="store_true")
    parser.add_argument("--hang", action="append", default=[], metavar="METHOD", help="never answer it")
    parser.add_argument("--exit-at", metavar="METHOD", help="end when it comes")
    parser.add_argument("--exit-status", type=int, default=3)
    parser.add_argument(
        "--noise", action="store_true", help="print text that is not JSON before the first frame"
    )
    parser.add_argument(
        "--stderr-first", type=int, default=0, metavar="BYTES", help="before the first frame"
    )
    parser.add_argument(
        "--early-updates", action="store_true", help="updates before session/new is answered"
    )
    parser.add_argument("--count-sessions", action="store_true", help='session ids "0", "1", …')
    parser.add_argument("--session", metavar="NAME", help="the id of the only session")
    parser.add_argument("--reject-second-prompt", action="store_true")
    parser.add_argument("--child-at-start", action="store_true")
    parser.add_argument("--can", action="append", default=[], metavar="METHOD", help="load, list, fork, …")
    parser.add_argument("--memory", metavar="DIRECTORY", help="where sessions outlive the process")
    parser.add_argument("--ledger", metavar="FILE", help="where each prompt is noted before it is run")
    parser.add_argument("--takes", action="append", default=[], metavar="KIND", help="image, audio, …")
    parser.add_argument("--models", type=words, default=[], metavar="A,B")
    parser.add_argument("--modes", type=words, default=[], metavar="A,B")
    parser.add_argument("--needs-login", action="store_true", help="no session before authenticate")
    parser.add_argument("--auth-terminal", action="store_true", help="offer a login in a terminal")
    return parser.parse_args()


def script(prompt: list[dict[str, Any]]) -> str:
    """The text that is meant for us: before it, agentd may tell what was said before our time."""
    texts = [block["text"] for block in prompt if block.get("type") == "text"]
    return str(next(text for text in texts if not text.startswith("[This session began with another")))


def words(text: str) -> list[str]:
    return text.split(",")


class Refused(Exception):
    """Has the error object that is the answer."""

    def __init__(self, code: int, message: str, **data: Any) -> None:
        super().__init__({"code": code, "message": message, "data": data})


class Session:
    """What one agent keeps of a session."""

    def __init__(self, switches: argparse.Namespace) -> None:
        self.model = switches.models[0] if switches.models else None
        self.mode = switches.modes[0] if switches.modes else None
        self.said: list[dict[str, Any]] = []


class Agent:
    def __init__(self, switches: argparse.Namespace) -> None:
        self.switches = switches
        self.greeting: dict[str, Any] = {}
        self.number = 0
        self.sessions: dict[str, Session] = {}
        self.logged_in = not switches.needs_login
        self.heard: dict[str, dict[str, Any]] = {}
        self.calls = 0
        self.waiting: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self.release = asyncio.Event()
        self.cancelled: dict[str, asyncio.Event] = {}
        self.turns: set[str] = set()
        self.tasks: set[asyncio.Task[None]] = set()
        self.patient: dict[Any, asyncio.Event] = {}

    # Wire

    def write(self, message: dict[str, Any]) -> None:
        sys.stdout.write(json.dumps({"jsonrpc": "2.0", **message}, ensure_ascii=False) + "\n")
        sys.stdout.flush()

    def notify(self, method: str, params: dict[str, Any]) -> None:
        self.write({"method": method, "params": params})

    async def call(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        number, self.calls = self.calls, self.calls + 1
        self.waiting[number] = asyncio.get_running_loop().create_future()
        self.write({"id": number, "method": method, "params": params})
        try:
            return await self.waiting[number]
        finally:
            del self.waiting[number]

    def take(self, message: dict[str, Any]) -> None:
        method = message.get("method")
        self.heard[str(method)] = message.get("params") or {}
        if method is None:
            waiting = self.waiting.get(message.get("id"))
            if waiting is not None and not waiting.done():
                waiting.set_result(message)
        elif method == self.switches.exit_at:
            os._exit(self.switches.exit_status)
        elif "id" not in message:
            self.notified(method, message.get("params") or {})
        elif method not in self.switches.hang:
            task = asyncio.ensure_future(self.serve(method, message))
            self.tasks.add(task)
            task.add_done_callback(self.tasks.discard)

    def notified(self, method: str, params: dict[str, Any]) -> None:
        if method == "_release":
            self.release.set()
        elif method == "session/cancel" and not self.switches.ignore_cancel:
            self.cancelled.setdefault(params["sessionId"], asyncio.Event()).set()
            for waiting in self.waiting.values():
                if not waiting.done():
                    waiting.set_result({"result": {"outcome": {"outcome": "cancelled"}}})
        elif method == "$/cancel_request" and params["requestId"] in self.patient:
            self.patient[params["requestId"]].set()
        elif method == "_echo":
            self.notify("_echo", params)

    # Methods

    async def serve(self, method: str, message: dict[str, Any]) -> None:
        handler = {
            "initialize": self.initialize,
            "session/new": self.new,
            "session/prompt": self.prompt,
            "authenticate": self.authenticate,
            "_echo": self.echo,
            "_wait": self.wait,
            "_big": self.big,
            "_greeted": self.greeted,
            "_params": self.params,
            "_patient": partial(self.patiently, message["id"]),
            "_elicit": partial(self.elicit, message["id"]),
            **self.extras(),
        }.get(method)
        if handler is None:
            error = {"code": -32601, "message": f"no {method} here", "data": {"method": method}}
            self.write({"id": message["id"], "error": error})
            return
        try:
            self.write({"id": message["id"], "result": await handler(message.get("params") or {})})
        except ValueError as exc:
            self.write({"id": message["id"], "error": {"code": -32602, "message": str(exc)}})
        except Refused as exc:
            self.write({"id": message["id"], "error": exc.args[0]})

    def extras(self) -> dict[str, Any]:
        """What only some agents can do."""
        found = {f"session/{name}": getattr(self, name) for name in self.switches.can if name != "logout"}
        found |= {"logout": self.logout} if "logout" in self.switches.can else {}
        found |= {"session/set_config_option": self.set_option} if self.switches.models else {}
        return found | ({"session/set_mode": self.set_mode} if self.switches.modes else {})

    async def initialize(self, params: dict[str, Any]) -> dict[str, Any]:
        self.greeting = params
        capabilities: dict[str, Any] = {"_meta": {"scripted": {"deep": [1, None, "ü"]}}}
        capabilities["loadSession"] = "load" in self.switches.can
        if self.switches.takes:
            capabilities["promptCapabilities"] = dict.fromkeys(self.switches.takes, True)
        if able := [name for name in self.switches.can if name not in ("load", "logout")]:
            capabilities["sessionCapabilities"] = {name: {} for name in able}
        return {
            "protocolVersion": 1,
            "agentCapabilities": capabilities,
            "agentInfo": {"name": "scripted", "version": "1"},
            "authMethods": self.logins(),
            "_client": params.get("clientInfo"),
            "unknownMember": {"kept": True},
        }

    def logins(self) -> list[dict[str, Any]]:
        key = {"id": "key", "name": "A key", "_meta": {"kept": 1}}
        terminal = {"id": "tty", "name": "By hand", "type": "terminal", "args": ["login"], "env": {"A": "1"}}
        both = ((key, self.switches.needs_login), (terminal, self.switches.auth_terminal))
        return [method for method, offered in both if offered]

    async def authenticate(self, params: dict[str, Any]) -> dict[str, Any]:
        if params["methodId"] not in [method["id"] for method in self.logins()]:
            raise ValueError(f"no method {params['methodId']}")
        self.logged_in = True
        return {}

    async def logout(self, params: dict[str, Any]) -> dict[str, Any]:
        self.logged_in = False
        return {}

    async def new(self, params: dict[str, Any]) -> dict[str, Any]:
        meta = params.get("_meta") or {}
        if not self.logged_in:
            raise Refused(-32000, "log in first")
        if meta.get("hang"):
            await asyncio.get_running_loop().create_future()
        session = self.begin()
        if self.switches.early_updates:
            self.update(session, {"sessionUpdate": "available_commands_update", "availableCommands": []})
        if "text" in meta:
            await self.do_say(session, meta["text"])
        return {"sessionId": session, "_cwd": params.get("cwd"), **self.settings(session)}

    def begin(self) -> str:
        number, self.number = self.number, self.number + 1
        named = str(number) if self.switches.count_sessions else f"sess-{os.getpid()}-{number}"
        session: str = self.switches.session or named
        self.sessions[session] = Session(self.switches)
        return session

    def settings(self, session: str) -> dict[str, Any]:
        """The modes and options of a session, as far as this agent has any."""
        now = self.sessions[session]
        found: dict[str, Any] = {}
        if self.switches.modes:
            modes = [{"id": each, "name": each.title()} for each in self.switches.modes]
            found["modes"] = {"currentModeId": now.mode, "availableModes": modes}
        if self.switches.models:
            models = [{"value": each, "name": each.title()} for each in self.switches.models]
            option = {"id": "model", "name": "Model", "category": "model", "type": "select"}
            found["configOptions"] = [{**option, "currentValue": now.model, "options": models, "_kept": 1}]
        return found

    async def set_mode(self, params: dict[str, Any]) -> dict[str, Any]:
        self.sessions[params["sessionId"]].mode = params["modeId"]
        return {}

    async def set_option(self, params: dict[str, Any]) -> dict[str, Any]:
        if params["configId"] != "model" or params["value"] not in self.switches.models:
            raise ValueError(f"no {params['configId']} {params['value']}")
        self.sessions[params["sessionId"]].model = params["value"]
        return self.settings(params["sessionId"])

    # Sessions of other times

    def known(self, session: str) -> Session:
        """A session, from memory where it is of another process."""
        if session not in self.sessions:
            try:
                with open(self.page(session)) as page:
                    said = [json.loads(line) for line in page]
            except OSError:
                raise Refused(-32002, "never heard of it", sessionId=session) from None
            self.sessions[session] = Session(self.switches)
            self.sessions[session].said = said
        return self.sessions[session]

    def page(self, session: str) -> str:
        return os.path.join(self.switches.memory or "/nowhere", session)

    async def load(self, params: dict[str, Any]) -> dict[str, Any]:
        session = params["sessionId"]
        for update in self.known(session).said:
            self.notify("session/update", {"sessionId": session, "update": update})
        return self.settings(session)

    async def resume(self, params: dict[str, Any]) -> dict[str, Any]:
        self.known(params["sessionId"])
        return self.settings(params["sessionId"])

    async def fork(self, params: dict[str, Any]) -> dict[str, Any]:
        said, session = self.known(params["sessionId"]).said, self.begin()
        for update in said:
            self.update(session, update)
        return {"sessionId": session, **self.settings(session)}

    async def list(self, params: dict[str, Any]) -> dict[str, Any]:
        kept = os.listdir(self.switches.memory) if self.switches.memory else ()
        names = sorted({*self.sessions, *kept})
        return {"sessions": [{"sessionId": name, "cwd": "/", "title": f"kept {name}"} for name in names]}

    async def close(self, params: dict[str, Any]) -> dict[str, Any]:
        self.known(params["sessionId"])
        del self.sessions[params["sessionId"]]
        return {"_closed": True}

    async def delete(self, params: dict[str, Any]) -> dict[str, Any]:
        await self.close(params)
        if os.path.exists(self.page(params["sessionId"])):
            os.unlink(self.page(params["sessionId"]))
        return {"_deleted": True}

    async def echo(self, params: dict[str, Any]) -> dict[str, Any]:
        return params

    async def greeted(self, params: dict[str, Any]) -> dict[str, Any]:
        """What initialize was called with."""
        return self.greeting

    async def params(self, params: dict[str, Any]) -> dict[str, Any]:
        """What it got last with a method; null where that never came."""
        return {"params": self.heard.get(params["method"]), "pid": os.getpid()}

    async def patiently(self, number: Any, params: dict[str, Any]) -> dict[str, Any]:
        """Answered when it is cancelled."""
        self.patient[number] = asyncio.Event()
        await self.patient[number].wait()
        raise Refused(-32800, "cancelled")

    async def elicit(self, number: Any, params: dict[str, Any]) -> dict[str, Any]:
        """Answered with what the client answers to a question about this very request."""
        return await self.call("elicitation/create", {**params, "requestId": number})

    async def big(self, params: dict[str, Any]) -> dict[str, Any]:
        return {"text": "x" * params["size"]}

    async def wait(self, params: dict[str, Any]) -> dict[str, Any]:
        await self.release.wait()
        self.release.clear()
        return params

    async def prompt(self, params: dict[str, Any]) -> dict[str, Any]:
        session = params["sessionId"]
        if self.switches.ledger:
            note(self.switches.ledger, session, script(params["prompt"]))
        if self.switches.reject_second_prompt and session in self.turns:
            raise ValueError("a turn is running in this session")
        self.turns.add(session)
        self.cancelled[session] = asyncio.Event()
        try:
            return await self.perform(session, script(params["prompt"]))
        finally:
            self.turns.discard(session)

    # Turns

    async def perform(self, session: str, script: str) -> dict[str, Any]:
        for line in script.splitlines():
            command, _, rest = line.strip().partition(" ")
            if command:
                await getattr(self, f"do_{command}")(session, rest)
        stopped = self.cancelled[session].is_set()
        return {"stopReason": "cancelled" if stopped else "end_turn", "_meta": {"turn": script[:20]}}

    def update(self, session: str, update: dict[str, Any]) -> None:
        if session in self.sessions:
            self.sessions[session].said.append(update)
            if self.switches.memory:
                with open(self.page(session), "a") as page:
                    page.write(json.dumps(update) + "\n")
        self.notify("session/update", {"sessionId": session, "update": update})

    async def do_update(self, session: str, update: str) -> None:
        self.update(session, json.loads(update))

    async def do_fail(self, session: str, error: str) -> None:
        fields = json.loads(error)
        raise Refused(fields.get("code", -32603), fields.get("message", "failed"), **fields.get("data", {}))

    async def do_say(self, session: str, text: str) -> None:
        self.update(
            session, {"sessionUpdate": "agent_message_chunk", "content": {"type": "text", "text": text}}
        )

    async def do_updates(self, session: str, rest: str) -> None:
        count, size = map(int, rest.split())
        for _ in range(count):
            await self.do_say(session, "x" * size)

    async def do_count(self, session: str, count: str) -> None:
        for number in range(int(count)):
            await self.do_say(session, str(number))

    async def do_tally(self, session: str, rest: str) -> None:
        token, first, end, pause = rest.split()
        for number in range(int(first), int(end)):
            if self.cancelled[session].is_set():
                return
            await self.do_say(session, f"{token}:{number}")
            await asyncio.sleep(int(pause) / 1000)

    async def do_ask(self, session: str, title: str) -> None:
        await self.ask(session, title, "edit")

    async def do_want(self, session: str, kind: str) -> None:
        await self.ask(session, f"to {kind}", kind)

    async def do_withdraw(self, session: str, title: str) -> None:
        number, asked = self.calls, asyncio.ensure_future(self.ask(session, title, "edit"))
        await asyncio.sleep(0)  # so that the question is written here
        self.notify("$/cancel_request", {"requestId": number})
        await asked

    async def ask(self, session: str, title: str, kind: str) -> None:
        options = [
            {"optionId": "yes", "name": "Allow", "kind": "allow_once"},
            {"optionId": "no", "name": "Reject", "kind": "reject_once"},
        ]
        call = {"toolCallId": "call-1", "title": title, "kind": kind, "status": "pending"}
        asked = {"sessionId": session, "toolCall": call, "options": options}
        answer = await self.call("session/request_permission", asked)
        outcome = answer.get("result", {}).get("outcome", answer.get("error"))
        await self.do_say(session, f"permission: {outcome.get('optionId', outcome.get('outcome'))}")

    async def do_call(self, session: str, rest: str) -> None:
        method, _, params = rest.partition(" ")
        answer = await self.call(method, json.loads(params or "{}"))
        await self.do_say(session, json.dumps(answer.get("result", answer.get("error")), sort_keys=True))

    async def do_tell(self, session: str, rest: str) -> None:
        method, _, params = rest.partition(" ")
        self.notify(method, json.loads(params or "{}"))

    async def do_raw(self, session: str, text: str) -> None:
        sys.stdout.write(text + "\n")
        sys.stdout.flush()

    async def do_bytes(self, session: str, text: str) -> None:
        sys.stdout.buffer.write(bytes.fromhex(text))
        sys.stdout.buffer.flush()

    async def do_close(self, session: str, rest: str) -> None:
        os.close(1)

    async def do_mixed(self, session: str, rest: str) -> None:
        count, every = map(int, rest.split())
        asked = []
        for number in range(count):
            await self.do_say(session, str(number))
            if number % every == 0:
                asked.append(asyncio.ensure_future(self.call("_tick", {"n": number})))
                await asyncio.sleep(0)  # so that the question is written here
        await asyncio.gather(*asked)

    async def do_big(self, session: str, size: str) -> None:
        answer = await self.call("_big", {"text": "x" * int(size)})
        await self.do_say(session, json.dumps(answer.get("result", answer.get("error")), sort_keys=True))

    async def do_hold(self, session: str, rest: str) -> None:
        await self.release.wait()
        self.release.clear()

    async def do_cancelled(self, session: str, rest: str) -> None:
        await self.cancelled[session].wait()

    async def do_stderr(self, session: str, text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    async def do_child(self, session: str, rest: str) -> None:
        await self.do_say(session, f"child {start_child(None if rest else subprocess.DEVNULL)}")

    async def do_env(self, session: str, name: str) -> None:
        await self.do_say(session, f"{name}={os.environ.get(name, '(unset)')}")

    async def do_cwd(self, session: str, rest: str) -> None:
        await self.do_say(session, os.getcwd())

    async def do_mode(self, session: str, rest: str) -> None:
        await self.do_say(session, str(self.sessions[session].mode))

    async def do_exit(self, session: str, status: str) -> None:
        os._exit(int(status))

    async def do_die(self, session: str, rest: str) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


def note(ledger: str, session: str, script: str) -> None:
    """The process, the session and the first line of a prompt, in one write: it is there whole or not."""
    file = os.open(ledger, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(file, f"{os.getpid()} {session} {script.splitlines()[0]}\n".encode())
    os.close(file)


def start_child(pipes: int | None = subprocess.DEVNULL) -> int:
    """A process that only a look into its environment can find again. `pipes`: None for this one's own."""
    return subprocess.Popen(
        ["sleep", "1000"], start_new_session=True, stdin=pipes, stdout=pipes, stderr=pipes
    ).pid


async def main() -> None:
    switches = options()
    if switches.ignore_sigterm:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if switches.child_at_start:
        start_child()
    sys.stderr.write("e" * switches.stderr_first)
    sys.stderr.flush()
    if switches.noise:
        print("Welcome to the scripted agent!", flush=True)
    agent = Agent(switches)
    reader = asyncio.StreamReader(limit=1 << 30)
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
    )
    while line := await reader.readline():
        agent.take(json.loads(line))
    if switches.ignore_eof:
        await asyncio.get_running_loop().create_future()


if __name__ == "__main__":
    asyncio.run(main())
