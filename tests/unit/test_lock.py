# SPDX-License-Identifier: Apache-2.0

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from agentd.errors import AlreadyRunning
from agentd.lock import only_one


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "lock")


def test_a_second_one_is_refused_and_told_who_it_is(path: str) -> None:
    held = only_one(path, "a worker of box")
    with pytest.raises(AlreadyRunning, match=f"^a worker of box is running already: it holds {path}$"):
        only_one(path, "a worker of box")
    os.close(held)


def test_one_that_has_ended_makes_room_for_the_next(path: str) -> None:
    os.close(only_one(path, "first"))
    os.close(only_one(path, "second"))


HOLDER = "import os, signal, sys\nfrom agentd.lock import only_one\nonly_one(sys.argv[1], 'x')\n"


def test_the_lock_of_one_that_was_killed_is_free(path: str) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    script = HOLDER + "os.kill(os.getpid(), signal.SIGKILL)"
    assert subprocess.run([sys.executable, "-c", script, path], env=environment).returncode == -9
    os.close(only_one(path, "x"))


def test_children_do_not_keep_it(path: str) -> None:
    held = only_one(path, "x")
    assert not os.get_inheritable(held)
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    os.close(held)


def test_a_link_to_another_file_is_not_followed(path: str, tmp_path: Path) -> None:
    (tmp_path / "lock").symlink_to(tmp_path / "other")
    with pytest.raises(OSError, match="symbolic links"):
        only_one(path, "x")
    assert not (tmp_path / "other").exists()
