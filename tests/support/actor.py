# SPDX-License-Identifier: Apache-2.0
"""Clients that do what their random numbers say, each with an `agentctl attach` of its own."""

import json
import os
import random
import select
import signal
import subprocess
import threading
import time
from pathlib import Path

from support.acp_client import Frame
from support.embedded import Embedded
from support.ledger import Ledger, Prompt, View
from support.site import Site

ANSWER_SEC = 60.0
"""How long a client waits for any answer."""
PLACE = {"cwd": "/", "mcpServers": []}
YES = {"outcome": {"outcome": "selected", "optionId": "yes"}}


class Gone(Exception):
    """The process has ended."""


class Pipe:
    """`agentctl attach CONTAINER`, with deadlines; `Gone` is raised at its end."""

    def __init__(self, agentd: Embedded, container: str, complaints: Path) -> None:
        self.complaints = complaints
        with complaints.open("wb") as stderr:
            self.process = subprocess.Popen(
                agentd.agentctl_command("attach", container),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                env=agentd.environment,
                bufsize=0,
            )
        assert self.process.stdin and self.process.stdout
        self._stdin, self._stdout = self.process.stdin, self.process.stdout
        self._poll = select.poll()
        self._poll.register(self._stdout, select.POLLIN)
        self._lines: list[bytes] = []
        self._half = b""

    def send(self, message: Frame) -> None:
        try:
            self._stdin.write(json.dumps({"jsonrpc": "2.0", **message}).encode() + b"\n")
        except BrokenPipeError:
            raise Gone from None

    def receive(self, until: float) -> Frame | None:
        """The next frame; None where none has come by then (`time.monotonic()`)."""
        while not self._lines:
            if not self._poll.poll(max(0.0, until - time.monotonic()) * 1000):
                return None
            self._read()
        return dict(json.loads(self._lines.pop(0)))

    def _read(self) -> None:
        if not (data := os.read(self._stdout.fileno(), 1 << 18)):
            raise Gone
        *lines, self._half = (self._half + data).split(b"\n")
        self._lines += lines

    def end(self, *, politely: bool) -> tuple[int, str]:
        """End it, and wait: its status, and what it has complained of."""
        try:
            if not politely:
                self.process.kill()
            self._stdin.close()
            return self.process.wait(ANSWER_SEC), self.complaints.read_text()
        finally:
            self.process.kill()
            self.process.wait()
            self._stdout.close()


class Actor:
    """A client in one session, who does what its random numbers say and notes all of it in the ledger."""

    def __init__(self, site: Site, ledger: Ledger, name: str, container: str, luck: random.Random) -> None:
        self.name = name
        self.container = container
        self.session = ""
        self._site, self._ledger, self._luck = site, ledger, luck
        self._pipe: Pipe | None = None
        self.extras: list[str] = []
        """Sessions that it has made besides, and closed if it could."""
        self._views: dict[str, View] = {}
        self._numbers = self._tokens = 0
        self._waiting: dict[int, Prompt | None] = {}
        self._answers: dict[int, Frame] = {}

    @property
    def pid(self) -> int:
        """Its agentctl's process; 0 where there is none."""
        pipe = self._pipe
        return pipe.process.pid if pipe is not None else 0

    @property
    def view(self) -> View:
        """Of its own session."""
        return self._views[self.session]

    # Coming and going

    def come(self, session: str = "") -> None:
        """Start an agentctl and enter the session, or make one; again and again while agentd is away."""
        self.session = session or self.session
        end = time.monotonic() + ANSWER_SEC
        while not self._try_to_come():
            assert time.monotonic() < end, f"{self.name} could not come back within {ANSWER_SEC:g} s"
            time.sleep(0.1)

    def _try_to_come(self) -> bool:
        self._pipe = Pipe(self._site.agentd, self.container, self._site.folder / f"{self.name}.stderr")
        try:
            self._views.clear()
            self._require("initialize", {"protocolVersion": 1, "clientCapabilities": {}})
            if self.session:
                self.load(self.session)
            else:
                self.session = self._make()
            return True
        except Gone:
            self._lose()
            return False

    def load(self, session: str) -> View:
        """Enter a session: what is shown of it, which must be all that is known to be over. Raises Gone."""
        view = self._views[session] = View(self._ledger, self.name, self.container)
        over = [each for each in self._ledger.of(session) if each.outcome == "end_turn"]
        self._require("session/load", {"sessionId": session, **PLACE})
        view.check_all_of(over)
        return view

    def close_session(self, session: str) -> None:
        """Raises Gone."""
        self._require("session/close", {"sessionId": session})

    def listed(self) -> set[str]:
        """All sessions that it is told of, page by page. Raises Gone."""
        found: set[str] = set()
        cursor: Frame = {}
        while True:
            page = self._require("session/list", cursor)["result"]
            found.update(each["sessionId"] for each in page["sessions"])
            if "nextCursor" not in page:
                return found
            cursor = {"cursor": page["nextCursor"]}

    def _make(self) -> str:
        session = str(self._require("session/new", PLACE)["result"]["sessionId"])
        self._views[session] = View(self._ledger, self.name, self.container)
        return session

    def _require(self, method: str, params: Frame) -> Frame:
        """Raises Gone where it is answered by an error, after having judged that."""
        answer = self.call(method, params)
        if "error" in answer:
            error = answer["error"]
            reason = error.get("data", {}).get("reason", "its agent refuses")
            self._refused(f"{method}: {reason}", str(error), {"manager", "worker", "agent"})
            raise Gone
        return answer

    def _refused(self, what: str, text: str, blamed: set[str]) -> None:
        self._ledger.refusal(what)
        if not self._ledger.struck_lately(blamed, self.container):
            self._ledger.problem(f"{self.name}: {what} without a fault: {text}")

    def _lose(self) -> None:
        """Its agentctl has gone, and with it whatever it waited for."""
        if self._pipe is None:
            return
        pipe, self._pipe = self._pipe, None
        status, said = pipe.end(politely=False)
        for prompt in self._waiting.values():
            if prompt is not None:
                prompt.orphaned = True
        self._waiting.clear()
        if status != -signal.SIGKILL:
            self._refused(
                said.partition(";")[0].strip()[:60] or f"status {status}", said, {"manager", "worker"}
            )
        if "cannot go on" in said:
            self._ledger.problem(f"{self.name}: {said}")

    def vanish(self) -> None:
        """Have no agentctl any more."""
        pipe, self._pipe = self._pipe, None
        if pipe is not None:
            pipe.end(politely=False)

    def leave(self) -> None:
        """As an editor does that is closed."""
        if self._pipe is not None:
            pipe, self._pipe = self._pipe, None
            done = pipe.end(politely=True)
            if done != (0, ""):
                self._ledger.problem(f"{self.name}: agentctl ended with {done}")

    # Living

    def live(self, enough: threading.Event) -> None:
        """Do something, then something else. Raises nothing: what goes wrong is a problem in the ledger."""
        try:
            while not enough.is_set():
                try:
                    self._act()
                except Gone:
                    self._lose()
                    self.come()
        except Exception as exc:
            self._ledger.problem(f"{self.name}: {type(exc).__name__}: {exc}")

    def _act(self) -> None:
        self._attend(time.monotonic() + self._luck.uniform(0.0, 0.1))
        [act] = self._luck.choices(
            (
                self._prompt_one,
                self._prompt_many,
                self._change_its_mind,
                self._answer_a_question,
                self._open_another,
            ),
            (68, 12, 8, 10, 2),
        )
        act()

    def _prompt_one(self) -> None:
        self.turn(self._luck.randint(1, 40), self._luck.choice((0, 5, 20)))

    def _prompt_many(self) -> None:
        for _ in range(self._luck.randint(2, 3)):
            self._prompt(self._luck.randint(1, 10), 2)
        self._wait()

    def _change_its_mind(self) -> None:
        self._prompt(40, 10)
        self._attend(time.monotonic() + self._luck.uniform(0.0, 0.3))
        self._ledger.cancelled(self.session)
        self._send({"method": "session/cancel", "params": {"sessionId": self.session}})
        self._wait()

    def _answer_a_question(self) -> None:
        self._prompt(self._luck.randint(2, 10), 5, "ask May I?")
        self._wait()

    def _open_another(self) -> None:
        own = self.session
        session = self._make()
        self.extras.append(session)
        self.session = session
        try:
            self.turn(self._luck.randint(1, 5), 5)
            self.close_session(session)
        finally:
            self.session = own

    # Prompts

    def turn(self, count: int, pause: int) -> str:
        """A prompt for so many chunks, so many milliseconds apart: how it has ended. Raises Gone."""
        prompt = self._prompt(count, pause)
        self._wait()
        return prompt.outcome

    def _prompt(self, count: int, pause: int, between: str = "") -> Prompt:
        self._tokens += 1
        token, half = f"{self.name}-{self._tokens}", count // 2
        prompt = Prompt(token, self.container, self.session, count, time.monotonic())
        script = f"tally {token} 0 {half} {pause}\n{between}\ntally {token} {half} {count} {pause}"
        self._ledger.sent(prompt)
        self._views[self.session].own.add(token)
        said = [{"type": "text", "text": script}]
        try:
            number = self._ask("session/prompt", {"sessionId": self.session, "prompt": said})
        except Gone:
            prompt.orphaned = True  # its agentctl was killed before it could read that
            raise
        self._waiting[number] = prompt
        return prompt

    def _wait(self) -> None:
        """Until everything is answered. Raises Gone, at the latest at its deadline."""
        end = time.monotonic() + ANSWER_SEC
        while self._waiting:
            if not self._take(end):
                waiting = [each.token if each else "a request" for each in self._waiting.values()]
                self._ledger.problem(f"{self.name}: no answer within {ANSWER_SEC:g} s: {waiting}")
                raise Gone

    # Frames

    def call(self, method: str, params: Frame) -> Frame:
        """The answer to a request. Raises Gone."""
        number = self._ask(method, params)
        self._waiting[number] = None
        self._wait()
        return self._answers.pop(number)

    def _ask(self, method: str, params: Frame) -> int:
        self._numbers += 1
        self._send({"id": self._numbers, "method": method, "params": params})
        return self._numbers

    def _send(self, message: Frame) -> None:
        assert self._pipe is not None
        self._pipe.send(message)

    def _attend(self, until: float) -> None:
        """Listen to what is said meanwhile."""
        while self._take(until):
            pass

    def _take(self, until: float) -> bool:
        """Take one frame in; False where none has come."""
        assert self._pipe is not None
        frame = self._pipe.receive(until)
        match frame:
            case None:
                return False
            case {"method": "session/update", "params": {"sessionId": session, "update": update}} if (
                session in self._views
            ):
                self._take_update(self._views[session], update)
            case {"method": "session/request_permission", "id": number}:
                self._send({"id": number, "result": YES})
            case {"method": "$/cancel_request"}:
                pass  # somebody else has answered the question, or its worker has gone
            case {"id": number} if number in self._waiting:
                self._answered(number, frame)
            case _:
                self._ledger.problem(f"{self.name}: nobody has asked for {frame}")
        return True

    def _take_update(self, view: View, update: Frame) -> None:
        view.take(update)
        if view.is_finishing:
            self._site.finishing[self.container].set()

    def _answered(self, number: int, frame: Frame) -> None:
        prompt = self._waiting.pop(number)
        if prompt is None:
            self._answers[number] = frame
            return
        prompt.answered = time.monotonic()
        error = frame.get("error", {})
        prompt.outcome = (
            (error.get("data") or {}).get("reason") or error.get("message") or stop_reason(frame)
        )
        self._views[prompt.session].answered(prompt.token, prompt.outcome)


def stop_reason(frame: Frame) -> str:
    return str(frame.get("result", {}).get("stopReason", "no stop reason"))
