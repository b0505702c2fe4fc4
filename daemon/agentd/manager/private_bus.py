# SPDX-License-Identifier: Apache-2.0
"""A D-Bus of our own for embedded mode: a dbus-daemon child that serves our account and nobody else."""

import asyncio
import os
import subprocess
from pathlib import Path
from xml.sax.saxutils import escape

from agentd.errors import ManagerUnreachable
from agentd.paths import check_socket_path
from agentd.process import Child, dies_with_us, engine_environment, spawn

START_SEC = 10.0

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


async def start(path: str, address: str) -> Child:
    """Start the bus and return when it listens at `path`, which is `address` in D-Bus's words.

    It ends with this process. Raises ManagerUnreachable.
    """
    check_socket_path(path)
    Path(path).unlink(missing_ok=True)
    configuration = Path(path + ".conf")
    configuration.write_text(CONFIGURATION.format(address=escape(address)))
    ours, theirs = os.pipe()
    argv = ["dbus-daemon", "--nofork", "--nopidfile", "--nosyslog", f"--config-file={configuration}"]
    try:
        child = spawn(
            dies_with_us([*argv, f"--print-address={theirs}"]),
            env=engine_environment(),
            pass_fds=[theirs],
            stdout=subprocess.DEVNULL,
        )
    except OSError as exc:
        os.close(ours)
        raise ManagerUnreachable(f"a private bus needs setpriv (util-linux): {exc.strerror}") from None
    finally:
        os.close(theirs)
    await _until_it_listens(child, ours)
    return child


async def _until_it_listens(child: Child, printed: int) -> None:
    """It prints its address once it listens; the pipe ends without a word where it could not."""
    spoke = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_reader(printed, spoke.set)
    try:
        await asyncio.wait_for(spoke.wait(), START_SEC)
        heard = os.read(printed, 4096)
    except TimeoutError:
        heard = b""
    finally:
        loop.remove_reader(printed)
        os.close(printed)
    if not heard:
        await child.stop(term=1, kill=1)
        raise ManagerUnreachable("dbus-daemon does not start; is it installed? --bus none does without it")
