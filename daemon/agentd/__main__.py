# SPDX-License-Identifier: Apache-2.0
"""The `agentd` command: serve, watch, worker and check."""

import argparse
import asyncio
import os
import sys
from collections.abc import Coroutine
from typing import Any

from agentd import __version__
from agentd.config import valid_name
from agentd.errors import AgentdError, InvalidArgs
from agentd.paths import Mode, Paths, paths_for
from agentd.printable import indented
from agentd.systemd.journal import setup_logging

BUSES = {"system": Mode.SYSTEM, "session": Mode.USER, "private": Mode.EMBEDDED, "none": Mode.EMBEDDED}


def parser() -> argparse.ArgumentParser:
    places = argparse.ArgumentParser(add_help=False)
    places.add_argument(
        "--user", action="store_true", help="as a user's own service (implies --bus session)"
    )
    places.add_argument(
        "--config", metavar="F", help="read this configuration file instead of the usual ones"
    )
    places.add_argument("--runtime-dir", metavar="D", help="where the sockets are")
    places.add_argument("--state-dir", metavar="D", help="where state is kept")
    places.add_argument(
        "--bus", choices=BUSES, help="the D-Bus to be on (private, a bus of our own, by default)"
    )
    top = argparse.ArgumentParser(prog="agentd", description=__doc__)
    top.add_argument("--version", action="version", version=f"agentd {__version__}")
    verbs = top.add_subparsers(dest="verb", required=True, metavar="VERB")
    verbs.add_parser("serve", parents=[places], help="run the manager")
    verbs.add_parser("watch", parents=[places], help="follow the container engines for a manager")
    worker = verbs.add_parser("worker", parents=[places], help="serve one container for a manager")
    worker.add_argument("name", metavar="NAME")
    verbs.add_parser(
        "check", parents=[places], help="print the configuration that would be used, and from where"
    )
    return top


def main() -> int:
    options = parser().parse_args()
    options.bus = options.bus or ("session" if options.user else "private")
    setup_logging("agentd")
    try:
        return _run(options)
    except AgentdError as exc:
        print(f"agentd: {indented(exc.message)}", file=sys.stderr)
        return exc.exit_status


def _run(options: argparse.Namespace) -> int:
    paths = paths_for(
        Mode.USER if options.user else BUSES[options.bus],
        runtime_dir=options.runtime_dir,
        state_dir=options.state_dir,
        config=options.config,
        environ=os.environ,
    )
    if options.verb == "check":
        from agentd import check

        return check.run(paths)
    return run_loop(_service(options, paths))


async def _service(options: argparse.Namespace, paths: Paths) -> int:
    """Loads only the process it is to be: a worker has no D-Bus, a manager no runtime."""
    if options.verb == "serve":
        from agentd.manager.service import Service

        return await Service(paths, options.bus, _places(options, paths)).run()
    if options.verb == "watch":
        from agentd.watcher.service import Watcher

        return await Watcher(paths).run()
    if not valid_name(options.name):
        raise InvalidArgs(f"{options.name!r} cannot be the name of a container")
    from agentd.worker.service import Worker

    return await Worker(options.name, paths).run()


def _places(options: argparse.Namespace, paths: Paths) -> list[str]:
    """The arguments that make a child of ours find what we found."""
    places = ["--bus", options.bus, "--runtime-dir", paths.runtime_dir, "--state-dir", paths.state_dir]
    places += ["--user"] if options.user else []
    return [*places, "--config", options.config] if options.config else places


def run_loop(service: Coroutine[Any, Any, int]) -> int:
    """Run to the end, on uvloop where it is installed."""
    try:
        import uvloop
    except ImportError:
        return _run_on(None, service)
    return _run_on(uvloop.new_event_loop, service)


def _run_on(factory: Any, service: Coroutine[Any, Any, int]) -> int:
    if sys.version_info < (3, 12):  # later ones watch children through pidfds of themselves, not by threads
        asyncio.set_child_watcher(asyncio.PidfdChildWatcher())
    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(service)


if __name__ == "__main__":
    sys.exit(main())
