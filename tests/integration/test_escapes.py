# SPDX-License-Identifier: Apache-2.0
"""Whatever an agent says, a terminal gets no orders from it, and no line is forged.

An agent ends all that people get to see of it in orders to terminals. What agentctl then shows has the same
orders in it as where the agent says plain text instead: those of our own screens.
"""

import json
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from agentd.printable import LINES, printable
from support.acp_client import Client
from support.embedded import Embedded
from support.screen import Screen

HOSTILE = Path(__file__).parents[1] / "agents" / "hostile.py"
TEXT = (
    "<\x1b[2J\x1b[31m\x1b]0;title\x07\x1b]52;c;eA==\x07\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\"
    "\x1bP$q\x1b\\\x9b2J\x9d0;x\x9c\x85\b\x7f\x07\r\u202ebidi\u2066\u200b\u2028[bold]x[/bold]>"
)
WORD = TEXT + "\nagentctl: forged\n\tFORGED  ready"
ORDER = re.compile(
    "\x1b\\[[0-9;:?]*[A-Za-z]|\x1b[^\\[]|[\x00-\x08\x0b-\x0c\x0e-\x1a\x1c-\x1f\x7f-\x9f]"
    "|[\xad\u200b\u2028-\u202e\u2066-\u2069]"
)
"""An order to a terminal as far as one ends, or a character that nobody should see there."""
SESSION = "0"
"""The id of the first session."""
END = b"THE END\r\n"
CALL = {"sessionUpdate": "tool_call", "toolCallId": "c", "title": "read", "status": "completed"}
INFO = {"sessionUpdate": "session_info_update", "title": "about"}


class Told:
    """An agentd whose agent says such things, and a terminal to see them on."""

    def __init__(self, folder: Path, text: str, word: str) -> None:
        command = [sys.executable, str(HOSTILE), json.dumps(text), json.dumps(word), "--count-sessions"]
        switches = {
            "odd": ["--auth-terminal", "--modes", "a,b", "--models", "c,d"],
            "lost": ["--exit-at", "initialize"],
        }
        agents = "".join(
            f"[agents.{name}]\ncommand = {json.dumps([*command, *more])}\n"
            for name, more in switches.items()
        )
        self.agentd = Embedded(
            folder,
            f'default_agent = "odd"\nruntimes = []\n[limits]\nagent_stop_sec = 1.0\n{agents}'
            f'[containers.here]\nruntime = "host"\ndirectory = "{folder}"\nagents = ["odd", "lost"]\n',
            bus="private",
        )
        self.screens: dict[str, str] = {}

    def screen(self, *arguments: str) -> Screen:
        environment = {**self.agentd.environment, "TERM": "xterm-256color", "PAGER": "cat", "TZ": "UTC"}
        for name in ("COLUMNS", "NO_COLOR", "SYSTEMD_PAGER", "FORCE_COLOR"):
            environment.pop(name, None)
        script = 'stty cols 4000 rows 60; "$@"; echo THE END'
        return Screen(["sh", "-c", script, "sh", *self.agentd.agentctl_command(*arguments)], environment)

    def look(self, arguments: list[str], name: str) -> None:
        with self.screen(*arguments) as screen:
            screen.until(END)
            self.keep(name, screen)

    def keep(self, name: str, screen: Screen) -> None:
        self.screens[name] = screen.shown.decode().replace("\r\n", "\n")

    # What goes on

    def tell(self, client: Client) -> None:
        """All that an agent can tell: what people see of it stays to be looked at."""
        client.open()
        client.turn(f"update {json.dumps(INFO)}", "say hello", f"update {json.dumps(CALL)}", "stderr noise")
        client.turn(f"fail {json.dumps({'message': 'it broke'})}")
        looks = [
            ["agents", "here"], ["sessions", "here"], ["status"], ["status", "here"],
            ["show", "here"], ["show", f"here#{SESSION}"], ["history", SESSION],
            ["top", "-n", "2", "-d", "0.2"], ["login", "here", "odd", "nope"], ["login", "here", "lost"],
            ["prompt", "here", f"update {json.dumps(CALL)}\nsay hello"],
            ["prompt", "here", f"fail {json.dumps({'message': 'it broke'})}"],
            ["prompt", "here", "--agent", "lost", "x"], ["attach", "here", "--agent", "nobody"],
        ]  # fmt: skip
        json_too = ("sessions", "history", "prompt", "top")
        for arguments in looks:
            name = " ".join(arguments)
            self.look(arguments, name)
            if arguments[0] in json_too:
                self.look([*arguments, "--json"], f"{name} --json")

    def ask(self) -> None:
        """A question, on the terminal that it is asked on."""
        with self.screen("prompt", "here", "ask May I?") as screen:
            screen.until(b"Your choice: ")
            screen.type(b"1\n")
            screen.until(END)
            self.keep("ask", screen)


@contextmanager
def told(folder: Path, text: str, word: str) -> Iterator[Told]:
    """What there is to see, when all has been told."""
    folder.mkdir()
    told = Told(folder, text, word)
    try:
        told.agentd.start()
        with told.agentd.client() as client:
            told.tell(client)
            told.ask()
        yield told
    finally:
        told.agentd.clean_up()


def own_lines(shown: str) -> list[str]:
    """Those that are no others' continuation: what begins with blanks looks like one."""
    return [line for line in shown.split("\n") if not line.startswith("  ")]


def orders(shown: str) -> set[str]:
    return set(ORDER.findall(shown))


def test_a_terminal_gets_no_orders_from_an_agent(tmp_path: Path) -> None:
    with told(tmp_path / "evil", TEXT, WORD) as evil:
        pass
    with told(tmp_path / "good", printable(TEXT, keep=LINES), printable(WORD)) as good:
        pass
    assert evil.screens.keys() == good.screens.keys()
    for name, shown in evil.screens.items():
        assert orders(shown) <= orders(good.screens[name]), (name, shown)
        if not name.startswith("top"):  # whose screen is drawn as often as there is something new
            assert len(own_lines(shown)) == len(own_lines(good.screens[name])), (name, shown)
    for name in ("agents here", "status here", "sessions here", "ask", f"history {SESSION}"):
        assert r"<\x1b[2J" in evil.screens[name], f"{name} shows nothing that it could have obeyed"
    log = evil.agentd.log()
    assert r"noise<\x1b[2J" in log and not orders(log)
    assert not re.search(r"^(agentctl: forged|\s*FORGED)", log, re.MULTILINE)
