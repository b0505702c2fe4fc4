# SPDX-License-Identifier: Apache-2.0
"""Makes packaging/pictures/top.svg: `agentctl top`, two minutes after several containers have begun to work.

    .venv/bin/python tests/picture.py

agentd, its workers, the scripted agents and the networks are real, as in tests/support/busy.py. The picture
is the screen itself, drawn into a file instead of on a terminal.
"""

import asyncio
import html
import io
import json
import re
import sys
import tempfile
import threading
from argparse import Namespace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from rich.console import Console
from rich.terminal_theme import TerminalTheme

from agentd.ctl.top import Top
from agentd.ctl.top.activity import Round, Sample
from agentd.ctl.top.dashboard import View
from agentd.ctl.top.live import Memory
from agentd.ctl.top.sparkline import SPAN_SEC
from support.acp_client import Client
from support.busy import Busy

PICTURE = Path(__file__).parents[1] / "packaging" / "pictures" / "top.svg"
COLUMNS, ROWS = 120, 20
CONTAINERS = {"web-shop": 2500, "data-pipeline": 900, "docs": 120, "billing-api": 20}
AGENTS = ("claude", "codex", "gemini")
THEME = TerminalTheme(
    (23, 26, 33),
    (205, 211, 222),
    [(59, 66, 82), (224, 108, 117), (126, 200, 120), (229, 192, 123), (97, 175, 239), (190, 132, 230),
     (86, 190, 210), (205, 211, 222)],
    [(92, 99, 112), (240, 128, 136), (150, 220, 140), (240, 210, 140), (120, 190, 250), (210, 160, 245),
     (110, 210, 225), (255, 255, 255)],
)  # fmt: skip
FORM = """\
<svg viewBox="0 0 {width} {height}" xmlns="http://www.w3.org/2000/svg">
<style>
.{unique_id}-matrix {{
  font-family: ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace;
  font-size: {char_height}px; line-height: {line_height}px;
}}
.{unique_id}-title {{ font: bold 16px system-ui, "DejaVu Sans", sans-serif; }}
{styles}
</style>
<defs>
<clipPath id="{unique_id}-clip-terminal">
<rect x="0" y="0" width="{terminal_width}" height="{terminal_height}"/>
</clipPath>
{lines}
</defs>
{chrome}
<g transform="translate({terminal_x}, {terminal_y})" clip-path="url(#{unique_id}-clip-terminal)">
{backgrounds}
<g class="{unique_id}-matrix">
{matrix}
</g>
</g>
</svg>
"""
"""As rich's own, but that no font is fetched from anywhere."""
TEXT = re.compile(
    r'<text class="([^"]+)" x="([\d.]+)" y="([\d.]+)" textLength="([\d.]+)"([^>]*)>([^<]*)</text>'
)


class Seen:
    """Keeps what a screen would show last."""

    def __init__(self) -> None:
        self.view: View | None = None
        self._memory = Memory()

    def show(self, sample: Sample, result: Round) -> None:
        self.view = self._memory.view(sample, result, 1.0)

    def complain(self, problem: str) -> None:
        print(problem, file=sys.stderr)

    async def until_quit(self) -> None:
        await asyncio.get_running_loop().create_future()

    def pause(self, seconds: float) -> bool:
        return True


def work(busy: Busy) -> None:
    """Have agents do what agents do: much at times, little at others, and ask, and wait."""
    for container, agent, title, script in TASKS:
        client = busy.client(container, agent)
        update = {"sessionUpdate": "session_info_update", "title": title}
        client.prompt("update " + json.dumps(update), *script)
        threading.Thread(target=read, args=[client], daemon=True).start()
        if title.startswith("Fix"):
            client.prompt("say and then run the tests once more")


def read(client: Client) -> None:
    """As an editor does."""
    try:
        while client.line():
            pass
    except (OSError, ValueError):
        pass  # the end: the connection was closed


def waves(*paces: int) -> list[str]:
    """Stretches of eight seconds, with a message each so many milliseconds."""
    return [f"tally {number} 0 {8000 // pace} {pace}" for number, pace in enumerate(paces)]


TASKS = (
    ("web-shop", "claude", "Fix the flaky checkout test", waves(*([6, 3, 2, 3, 8, 40, 60, 20, 4, 2] * 3))),
    ("web-shop", "codex", "Add pages to the list of orders", waves(*([80, 30, 10, 8, 25, 60, 200] * 4))),
    ("web-shop", "gemini", "Explain the tax rounding", ["say done"]),
    (
        "data-pipeline",
        "claude",
        "Why is the nightly job slow?",
        waves(*([150, 40, 10, 4, 3, 5, 12, 60, 200] * 3)),
    ),
    ("data-pipeline", "codex", "Drop the unused columns", ["ask May I run migrate.py?"]),
    ("docs", "gemini", "Write the release notes", waves(*([400, 100, 60, 200, 900] * 6))),
    ("billing-api", "claude", "Review the invoice export", ["say looks good"]),
)


def drawn(view: View) -> str:
    console = Console(
        record=True,
        width=COLUMNS,
        height=ROWS,
        file=io.StringIO(),
        force_terminal=True,
        color_system="truecolor",
    )
    console.print(view, height=ROWS)
    svg = console.export_svg(title="agentctl top", theme=THEME, code_format=FORM, unique_id="top")
    lines = (line.rstrip() for line in TEXT.sub(placed, svg).splitlines())
    return "\n".join(line for line in lines if line) + "\n"


def placed(found: re.Match[str]) -> str:
    """A text with wide gaps as several, each in its place: not all viewers heed the length of a text."""
    style, x, y, length, rest, escaped = found.groups()
    text = html.unescape(escaped).replace("\N{NO-BREAK SPACE}", " ")
    wide = float(length) / len(text)
    return "".join(
        f'<text class="{style}" x="{float(x) + wide * each.start():g}" y="{y}"'
        f' textLength="{wide * len(each[0]):g}"{rest}>{html.escape(each[0])}</text>'
        for each in re.finditer(r"\S+( \S+)*", text)
    )


def main() -> None:
    with (
        tempfile.TemporaryDirectory(prefix="agentd-") as name,
        Busy(Path(name), CONTAINERS, dict.fromkeys(AGENTS, "")) as busy,
    ):
        work(busy)
        seen = Seen()
        where = {"runtime_dir": str(busy.agentd.runtime_dir), "system": None, "user": None}
        Top(Namespace(**where, delay=1.0, iterations=int(SPAN_SEC) + 3), seen).run()
    assert seen.view is not None
    PICTURE.parent.mkdir(exist_ok=True)
    PICTURE.write_text(drawn(seen.view))


if __name__ == "__main__":
    main()
