# SPDX-License-Identifier: Apache-2.0
"""`make demo`: agentd from its start to its end, on this machine alone, and what can be done meanwhile.

No systemd and no container engine: the container is this host (runtime "host"), the agent is the scripted
one of the tests, the bus a private one. Everything goes through the same commands a user has.
"""

import contextlib
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from support.acp_client import Client, texts
from support.editor import Editor
from support.embedded import Embedded, eventually, scripted

BOLD, PLAIN = ("\033[1m", "\033[0m") if sys.stdout.isatty() else ("", "")


def configuration(folder: Path) -> str:
    command = ", ".join(f"'{word}'" for word in scripted())
    return f"""\
default_agent = "scripted"
runtimes = []

[agents.scripted]
command = [{command}]

[containers.demo]
runtime = "host"
directory = "{folder}"
"""


class Demo:
    """The steps, in order; each shows its command and what came of it."""

    def __init__(self, agentd: Embedded) -> None:
        self.agentd = agentd
        self.summary: list[str] = []

    def say(self, text: str) -> None:
        print(f"\n{BOLD}{text}{PLAIN}", flush=True)

    def note(self, text: str) -> None:
        self.summary.append(text)

    def agentctl(self, *arguments: str) -> str:
        """Run agentctl as a user would, show what it prints, and insist on its success."""
        print(f"$ agentctl {shlex.join(arguments)}", flush=True)
        done = self.agentd.agentctl(*arguments)
        print(done.stdout + done.stderr, end="", flush=True)
        assert done.returncode == 0, f"exit status {done.returncode}"
        return done.stdout

    @contextlib.contextmanager
    def editor(self) -> Iterator[Client]:
        """A client of its own on the real socket, with a session open, as an editor would have it."""
        with self.agentd.client() as client:
            yield client.open("demo")

    # Steps

    def prompt(self) -> None:
        self.say("A turn, with an answer that streams and a question that has to be answered")
        script = "say The agent reads your prompt…\nask May I edit main.py?\nsay …and is done."
        said = self.agentctl("prompt", "demo", "--permission", "allow", script)
        assert "permission: yes" in said
        self.note("a turn streamed its answer, asked for permission and was allowed")

    def cancel(self) -> None:
        self.say("A turn that would never end, and is cancelled")
        with self.editor() as editor:
            turn = editor.prompt("say working", "cancelled")
            editor.until_text("working")
            editor.cancel()
            answer, _ = editor.answer_to(turn)
        assert answer["result"]["stopReason"] == "cancelled"
        print("the agent ended it: stopReason cancelled")
        self.note("a turn was cancelled and ended as cancelled")

    def share(self) -> None:
        self.say("An editor that leaves in the middle of a turn, and another that comes for it")
        with self.editor() as editor:
            editor.prompt("say begun", "hold", "say and ended")
            editor.until_text("begun")
            session = editor.session
        with self.agentd.client() as other:
            other.attach("demo")
            other.call("initialize", {"protocolVersion": 1})
            _, seen = other.answer_to(
                other.request("session/load", {"sessionId": session, "cwd": "/", "mcpServers": []})
            )
            assert texts(seen) == ["begun"]
            other.notify("_release")
            other.until_text("and ended")
        print("it was shown what it had missed, and then the rest as it came")
        self.note("a turn went on without its editor, and another one saw all of it")

    def survive(self) -> None:
        self.say(
            "A worker that is killed in the middle of a turn, and an editor that does not lose its session"
        )
        command = self.agentd.agentctl_command("attach", "demo")
        with contextlib.closing(Editor(command, self.agentd.environment)) as editor:
            editor.initialize()
            session = editor.session
            editor.turn("say what was promised")
            turn = editor.prompt("say on it", "hold")
            editor.until_text("on it")
            (worker,) = self.agentd.workers()
            print(f"$ kill -9 {worker}", flush=True)
            os.kill(worker, signal.SIGKILL)
            answer, _ = editor.answer_to(turn)
            print(f"the editor is told: {answer['error']['message']}")
            assert answer["error"]["data"]["reason"] == "interrupted"
            assert "result" in editor.turn("say and on we go")[0]
        assert session in self.agentctl("sessions", "demo")
        assert "what was promised" in self.agentctl("history", session, "--container", "demo")
        self.note("a worker was killed; its editor went on in the same session, and nothing was lost")

    def status(self) -> None:
        self.say("What is going on")
        assert "demo" in self.agentctl("status")
        self.note("status showed the worker, its session and its agent")

    def drain(self) -> None:
        self.say("A drain, while a turn runs: it may end, and no other may begin")
        with self.editor() as editor:
            turn = editor.prompt("say still at it", "hold", "say finished in peace")
            editor.until_text("still at it")
            eventually(lambda: self.agentd.container("demo")["turns"] == 1, "the turn shows in the status")
            self.status()
            draining = self.start_drain()
            eventually(lambda: self.agentd.container("demo")["state"] == "draining", "the drain has begun")
            refused = editor.call("session/prompt", {"sessionId": editor.session, "prompt": []})
            print(f"a new prompt is refused: {refused['error']['message']}")
            editor.notify("_release")
            answer, before = editor.answer_to(turn)
            assert answer["result"]["stopReason"] == "end_turn" and texts(before) == ["finished in peace"]
            assert draining.wait(30) == 0
        self.note("a drain let the running turn end, refused a new one, and was done")

    def start_drain(self) -> "subprocess.Popen[bytes]":
        print("$ agentctl drain demo --wait", flush=True)
        door = ["--runtime-dir", str(self.agentd.runtime_dir)]
        return subprocess.Popen([sys.executable, "-m", "agentd.ctl", *door, "drain", "demo", "--wait"])


def main() -> int:
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="agentd-demo-") as name:
        folder = Path(name)
        agentd = Embedded(folder, configuration(folder), bus="private")
        demo = Demo(agentd)
        demo.say("Starting agentd in embedded mode")
        print(f"$ agentd serve {shlex.join(agentd.places())}", flush=True)
        try:
            agentd.start()
            demo.prompt()
            demo.cancel()
            demo.share()
            demo.survive()
            demo.drain()
            demo.say("Stopping it")
            assert agentd.stop() == 0
            demo.note("agentd stopped and left no process behind")
        finally:
            agentd.clean_up()
    demo.say(f"What happened, in {time.monotonic() - began:.1f} s")
    for number, text in enumerate(demo.summary, 1):
        print(f"  {number}. {text}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
