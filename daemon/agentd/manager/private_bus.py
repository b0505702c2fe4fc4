# SPDX-License-Identifier: Apache-2.0
"""A D-Bus of our own for embedded mode: a dbus-daemon child that serves our account and nobody else."""

import asyncio
import logging
import os
import subprocess
from pathlib import Path
from xml.sax.saxutils import escape

from agentd.errors import ManagerUnreachable
from agentd.paths import Paths, check_socket_path
from agentd.process import Child, dies_with_us, engine_environment, spawn

START_SEC = 10.0
AGAIN_SEC = 1.0
"""Before a bus that has ended is started again."""

CONFIGURATION = """<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <listen>{address}</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow send_destination="*"/>
    <allow receive_sender="*"/>
    <allow own="*"/>
  </policy>
</busconfig>
"""

log = logging.getLogger(__name__)


class PrivateBus:
    """The daemon, its socket and its configuration file. It ends with this process, however that ends."""

    def __init__(self, paths: Paths) -> None:
        self._socket = Path(paths.bus)
        self._configuration = Path(paths.bus + ".conf")
        self._address = paths.bus_address
        self._child: Child | None = None

    async def start(self) -> None:
        """Return when it listens. Raises ManagerUnreachable, or ConfigurationInvalid for too long a path."""
        check_socket_path(str(self._socket))
        self._socket.unlink(missing_ok=True)
        self._configuration.write_text(CONFIGURATION.format(address=escape(self._address)))
        ours, theirs = os.pipe()
        try:
            self._child = self._spawn(theirs)
        except OSError as exc:
            os.close(ours)
            raise ManagerUnreachable(f"a private bus needs setpriv (util-linux): {exc.strerror}") from None
        finally:
            os.close(theirs)
        if not await _speaks(ours):
            await self._child.stop(term=1, kill=1)
            raise ManagerUnreachable(
                "dbus-daemon does not start; is it installed? --bus none does without it"
            )

    def _spawn(self, address_pipe: int) -> Child:
        options = ["--nofork", "--nopidfile", "--nosyslog", f"--print-address={address_pipe}"]
        return spawn(
            dies_with_us(["dbus-daemon", *options, f"--config-file={self._configuration}"]),
            env=engine_environment(),
            pass_fds=[address_pipe],
            stdout=subprocess.DEVNULL,
        )

    async def keep(self) -> None:
        """Start it again whenever it ends, until cancelled."""
        while self._child is not None:
            await self._child.wait()
            await asyncio.sleep(AGAIN_SEC)
            log.warning("the private bus has ended; starting it again")
            await self.start()

    async def stop(self) -> None:
        if self._child is not None:
            await self._child.stop(term=2, kill=2)
        self._socket.unlink(missing_ok=True)
        self._configuration.unlink(missing_ok=True)


async def _speaks(printed: int) -> bool:
    """It prints its address once it listens; the pipe ends without a word where it could not."""
    spoke = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_reader(printed, spoke.set)
    try:
        await asyncio.wait_for(spoke.wait(), START_SEC)
        return bool(os.read(printed, 4096))
    except TimeoutError:
        return False
    finally:
        loop.remove_reader(printed)
        os.close(printed)
