# SPDX-License-Identifier: Apache-2.0
"""A container that is not the host, in an engine that only looks like one (tests/support/engine)."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

from support.embedded import SCRIPTED

ENGINE = Path(__file__).parent / "engine"


class Box:
    """The container `here`. `mounts`: directories of the host, and what they are called inside."""

    def __init__(
        self,
        folder: Path,
        *,
        mounts: dict[str, str] | None = None,
        labels: dict[str, str] | None = None,
        image: str = "sha256:1",
        workdir: str = "/work",
    ) -> None:
        self.folder = folder
        (folder / "bin").mkdir(parents=True)
        os.mkfifo(folder / "events")
        self.process = subprocess.Popen(["sleep", "infinity"])
        bound = [
            {"Type": "bind", "Source": host, "Destination": inside}
            for host, inside in (mounts or {}).items()
        ]
        self.inspected: dict[str, Any] = {
            "Id": "0123abcd",
            "Name": "here",
            "State": {"Running": True, "Pid": self.process.pid},
            "Config": {"Labels": labels or {}, "Image": "img", "WorkingDir": workdir},
            "Image": image,
            "Mounts": bound,
        }
        self.write()

    def write(self) -> None:
        (self.folder / "containers").write_text(json.dumps([self.inspected]))

    def install(self, program: str, *switches: str) -> None:
        """Put a scripted agent into the container as a program, whose arguments it ignores."""
        command = shlex.join([sys.executable, str(SCRIPTED), *switches])
        file = self.folder / "bin" / program
        file.write_text(f"#!/bin/sh\nexec {command}\n")
        file.chmod(0o755)

    @property
    def environment(self) -> dict[str, str]:
        """What agentd needs to find this engine."""
        return {"PATH": f"{ENGINE}:{os.environ['PATH']}", "ENGINE": str(self.folder)}

    def calls(self, *words: str) -> list[list[str]]:
        """The calls of the engine so far whose arguments have all of these words."""
        file = self.folder / "calls"
        lines = file.read_text().splitlines() if file.exists() else []
        return [call for call in map(json.loads, lines) if set(words) <= set(call)]

    def end(self) -> None:
        """The container ends."""
        self.process.kill()
        self.process.wait()


def configuration(*, top: str = "", limits: str = "", here: str = "", tables: str = "") -> str:
    """An agentd for the engine; `here` is the table of the container."""
    return f"""
runtimes = ["podman"]
{top}
[limits]
agent_stop_sec = 1.0
drain_sec = 5.0
{limits}
[containers.here]
{here}
{tables}
"""
