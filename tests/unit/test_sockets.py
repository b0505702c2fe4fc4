# SPDX-License-Identifier: Apache-2.0

import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from agentd.errors import AlreadyRunning, ConfigurationInvalid
from agentd.manager.container import Container
from agentd.manager.sockets import (
    EVERYBODY,
    LINK,
    OWNER_AND_GROUP,
    STORED,
    ContainerSockets,
    bind,
    take_or_bind,
)
from agentd.paths import SOCKET_PATH_BYTES, Mode, Paths

STREAM, SEQPACKET = socket.SOCK_STREAM, socket.SOCK_SEQPACKET
kinds = pytest.mark.parametrize("kind", [STREAM, SEQPACKET])


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "a.sock")


def reaches(path: str, kind: socket.SocketKind = STREAM) -> bool:
    with socket.socket(socket.AF_UNIX, kind) as client:
        return client.connect_ex(path) == 0


def leave_dead(path: str, kind: socket.SocketKind = STREAM) -> None:
    with socket.socket(socket.AF_UNIX, kind) as dead:
        dead.bind(path)


# Binding


@kinds
def test_somebody_listens_there_then(path: str, kind: socket.SocketKind) -> None:
    with bind(path, kind, EVERYBODY) as sock:
        assert reaches(path, kind)
        assert not os.get_inheritable(sock.fileno())


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077, 0o777])
@pytest.mark.parametrize("mode", [EVERYBODY, OWNER_AND_GROUP])
def test_the_mode_is_exact_and_the_umask_is_back(path: str, umask: int, mode: int) -> None:
    before = os.umask(umask)
    try:
        with bind(path, STREAM, mode):
            assert os.umask(umask) == umask
            assert stat.S_IMODE(os.stat(path).st_mode) == mode
    finally:
        os.umask(before)


@kinds
def test_what_a_dead_process_left_is_replaced(path: str, kind: socket.SocketKind) -> None:
    leave_dead(path, kind)
    with bind(path, kind, EVERYBODY):
        assert reaches(path, kind)


@kinds
def test_one_that_lives_is_left_alone(path: str, kind: socket.SocketKind) -> None:
    with bind(path, kind, EVERYBODY):
        with pytest.raises(AlreadyRunning, match="somebody listens"):
            bind(path, kind, EVERYBODY)
        assert reaches(path, kind)


def test_one_with_a_full_backlog_lives_too(path: str) -> None:
    with socket.socket(socket.AF_UNIX, STREAM) as busy, socket.socket(socket.AF_UNIX, STREAM) as client:
        busy.bind(path)
        busy.listen(0)
        client.connect(path)
        with pytest.raises(AlreadyRunning):
            bind(path, STREAM, EVERYBODY)
    assert os.path.exists(path)


def test_one_of_another_kind_lives_too(path: str) -> None:
    with bind(path, STREAM, EVERYBODY), pytest.raises(AlreadyRunning):
        bind(path, SEQPACKET, EVERYBODY)


def test_a_path_may_have_what_the_kernel_takes_and_no_more(tmp_path: Path) -> None:
    longest = str(tmp_path / ("x" * (SOCKET_PATH_BYTES - len(str(tmp_path)) - 1)))
    with bind(longest, STREAM, EVERYBODY):
        assert reaches(longest)
    with pytest.raises(ConfigurationInvalid, match="^" + longest):
        bind(longest + "x", STREAM, EVERYBODY)
    assert not os.path.exists(longest + "x")


def test_what_is_no_socket_is_left_alone(path: str) -> None:
    Path(path).write_text("precious", encoding="ascii")
    with pytest.raises(ConfigurationInvalid, match="is no socket"):
        bind(path, STREAM, EVERYBODY)
    assert Path(path).read_text(encoding="ascii") == "precious"


def test_a_path_that_cannot_be_bound_says_why_and_leaves_nothing(tmp_path: Path) -> None:
    before = os.umask(0o022)
    with pytest.raises(ConfigurationInvalid, match=r"dir\.sock cannot be listened on: No such file"):
        bind(str(tmp_path / "no" / "dir.sock"), STREAM, EVERYBODY)
    assert os.umask(before) == 0o022


# Taking what systemd gave


def test_an_inherited_socket_is_taken_and_the_path_not_touched(path: str) -> None:
    with bind(path, STREAM, EVERYBODY) as given, bind(path + "2", STREAM, EVERYBODY) as second:
        inherited = {LINK: [given, second], "other": [second]}
        assert take_or_bind(inherited, LINK, path, STREAM, EVERYBODY) is given
        assert list(inherited) == ["other"]
        assert (given.fileno() >= 0, second.fileno()) == (True, -1)


def test_without_one_we_bind_our_own(path: str) -> None:
    with take_or_bind({}, LINK, path, SEQPACKET, OWNER_AND_GROUP):
        assert reaches(path, SEQPACKET)


# Of containers


class Door:
    """Notes for whom it listens."""

    def __init__(self) -> None:
        self.listens: dict[str, socket.socket] = {}

    def listen(self, sock: socket.socket, container: str) -> None:
        self.listens[container] = sock

    def unlisten(self, sock: socket.socket) -> None:
        self.listens = {name: each for name, each in self.listens.items() if each is not sock}


class Store:
    """Systemd's store of descriptors."""

    def __init__(self) -> None:
        self.names: set[str] = set()

    def store_fd(self, name: str, descriptor: int) -> None:
        assert os.fstat(descriptor)
        self.names.add(name)

    def remove_fd(self, name: str) -> None:
        self.names.discard(name)


class House:
    """The sockets of containers, and those who deal with them."""

    def __init__(self, folder: Path, inherited: dict[str, list[socket.socket]] | None = None) -> None:
        (folder / "containers").mkdir(exist_ok=True)
        self.paths = Paths(Mode.EMBEDDED, str(folder), str(folder))
        self.door, self.store = Door(), Store()
        self.sockets = ContainerSockets(
            self.paths,
            self.door,  # type: ignore[arg-type]
            self.store,  # type: ignore[arg-type]
            inherited or {},
        )

    def reaches(self, name: str) -> bool:
        return reaches(self.paths.container_socket(name))


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    house = House(tmp_path)
    yield house
    house.sockets.close(remove=True)


def test_a_container_has_a_socket_that_systemd_keeps(house: House) -> None:
    house.sockets.add(Container("box"))
    assert house.reaches("box")
    assert (list(house.door.listens), house.store.names) == (["box"], {STORED + "box"})
    assert stat.S_IMODE(os.stat(house.paths.container_socket("box")).st_mode) == EVERYBODY


def test_a_container_that_goes_takes_its_socket_along(house: House) -> None:
    house.sockets.add(Container("box"))
    house.sockets.remove(Container("box"))
    house.sockets.remove(Container("never was here"))
    assert (house.door.listens, house.store.names) == ({}, set())
    assert not os.path.exists(house.paths.container_socket("box"))


def test_a_kept_socket_is_used_again(tmp_path: Path) -> None:
    kept = bind(str(tmp_path / "kept"), STREAM, EVERYBODY)
    house = House(tmp_path, inherited := {STORED + "box": [kept], "other": []})
    assert list(inherited) == ["other"]
    house.sockets.add(Container("box"))
    assert house.door.listens == {"box": kept}
    assert not os.path.exists(house.paths.container_socket("box"))
    house.sockets.close(remove=False)
    assert kept.fileno() == -1


def test_what_nobody_claims_after_a_restart_is_dropped(tmp_path: Path) -> None:
    house = House(tmp_path)
    kept = bind(house.paths.container_socket("gone"), STREAM, EVERYBODY)
    house = House(tmp_path, {STORED + "gone": [kept]})
    house.store.names = {STORED + "gone"}
    house.sockets.drop_unclaimed()
    assert (kept.fileno(), house.store.names) == (-1, set())
    assert not os.path.exists(house.paths.container_socket("gone"))


def test_a_name_too_long_for_a_path_does_without(house: House, caplog: pytest.LogCaptureFixture) -> None:
    house.sockets.add(Container("x" * 120))
    assert house.door.listens == {}
    assert "gets no socket of its own" in caplog.text


@pytest.mark.parametrize("remove", [True, False])
def test_paths_stay_where_somebody_will_listen_again(tmp_path: Path, remove: bool) -> None:
    house = House(tmp_path)
    house.sockets.add(Container("box"))
    house.sockets.close(remove=remove)
    assert os.path.exists(house.paths.container_socket("box")) != remove
    assert not house.reaches("box")
