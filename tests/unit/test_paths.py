# SPDX-License-Identifier: Apache-2.0

import os
import pwd
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from agentd import errors, paths
from agentd.paths import Mode, Paths, paths_for

NOBODY = 65534
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="gives files away, which only root may")


@pytest.fixture(autouse=True)
def odd_umask() -> Iterator[None]:
    """Modes must come out right under a umask that would spoil both 0755 and a careless 0777."""
    before = os.umask(0o027)
    yield
    os.umask(before)


@pytest.fixture
def session(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "run").mkdir()
    return {"XDG_RUNTIME_DIR": str(tmp_path / "run"), "HOME": str(tmp_path / "home")}


def mode_of(path: str | Path) -> int:
    return stat.S_IMODE(os.lstat(path).st_mode)


def touch(path: Path, text: str = "") -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return str(path)


def embedded(tmp_path: Path) -> Paths:
    return paths_for(Mode.EMBEDDED, runtime_dir=str(tmp_path / "run"), environ={})


# Which directories


def test_system_mode_ignores_the_environment(session: dict[str, str]) -> None:
    found = paths_for(Mode.SYSTEM, environ=session)
    assert (found.runtime_dir, found.state_dir) == ("/run/agentd", "/var/lib/agentd")
    assert found.config_bases == (
        "/usr/lib/agentd/agentd.toml",
        "/etc/agentd/agentd.toml",
        "/run/agentd/agentd.toml",
    )


def test_user_mode_defaults(tmp_path: Path, session: dict[str, str]) -> None:
    found = paths_for(Mode.USER, environ=session)
    assert found.runtime_dir == f"{tmp_path}/run/agentd"
    assert found.state_dir == f"{tmp_path}/home/.local/state/agentd"
    assert found.config_bases == (f"{tmp_path}/home/.config/agentd/agentd.toml",)


def test_user_mode_follows_xdg_and_ignores_relative_ones(tmp_path: Path, session: dict[str, str]) -> None:
    found = paths_for(Mode.USER, environ=session | {"XDG_STATE_HOME": "/s", "XDG_CONFIG_HOME": "c"})
    assert found.state_dir == "/s/agentd"
    assert found.config_bases == (f"{tmp_path}/home/.config/agentd/agentd.toml",)


def test_user_mode_without_home_asks_the_password_database(
    monkeypatch: pytest.MonkeyPatch, session: dict[str, str]
) -> None:
    del session["HOME"]
    entry = pwd.struct_passwd(("me", "x", 0, 0, "", "/home/me", "/bin/sh"))
    monkeypatch.setattr("pwd.getpwuid", {os.geteuid(): entry}.__getitem__)
    assert paths_for(Mode.USER, environ=session).state_dir == "/home/me/.local/state/agentd"


def test_an_account_without_any_home_is_told(
    monkeypatch: pytest.MonkeyPatch, session: dict[str, str]
) -> None:
    del session["HOME"]
    monkeypatch.setattr("pwd.getpwuid", {}.__getitem__)
    with pytest.raises(errors.ConfigurationInvalid, match="has no entry in the password database"):
        paths_for(Mode.USER, environ=session)


@pytest.mark.parametrize("value", ["", "relative", "/no/such/directory"])
def test_user_mode_needs_a_session(value: str) -> None:
    with pytest.raises(
        errors.ConfigurationInvalid, match="XDG_RUNTIME_DIR names no directory of this account"
    ):
        paths_for(Mode.USER, environ={"XDG_RUNTIME_DIR": value, "HOME": "/"})


def test_embedded_mode_lives_in_the_session(tmp_path: Path, session: dict[str, str]) -> None:
    found = paths_for(Mode.EMBEDDED, environ=session)
    assert (found.runtime_dir, found.private) == (f"{tmp_path}/run/agentd-embedded", False)
    assert found.state_dir == f"{tmp_path}/run/agentd-embedded/state"
    assert found.config_files == ()


@as_root
def test_the_session_of_another_account_is_not_used(tmp_path: Path, session: dict[str, str]) -> None:
    os.chown(session["XDG_RUNTIME_DIR"], NOBODY, NOBODY)
    found = paths_for(Mode.EMBEDDED, environ=session | {"TMPDIR": str(tmp_path)})
    assert found.runtime_dir == f"{tmp_path}/agentd-0"


def test_embedded_mode_without_a_session_takes_a_private_folder(tmp_path: Path) -> None:
    found = paths_for(Mode.EMBEDDED, environ={"TMPDIR": str(tmp_path)})
    assert (found.runtime_dir, found.private) == (f"{tmp_path}/agentd-{os.geteuid()}", True)
    assert paths_for(Mode.EMBEDDED, environ={}).runtime_dir == f"/tmp/agentd-{os.geteuid()}"


def test_directories_that_were_named_win_and_become_absolute(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/")
    found = paths_for(Mode.EMBEDDED, runtime_dir="r/../run", state_dir="s", environ={})
    assert (found.runtime_dir, found.state_dir, found.private) == ("/run", "/s", False)


def test_places_in_the_directories() -> None:
    found = Paths(Mode.EMBEDDED, "/r", "/s")
    assert (found.front_door, found.link) == ("/r/agentd.sock", "/r/link.sock")
    assert (found.lock, found.bus) == ("/r/manager.lock", "/r/bus")
    assert found.container_socket("my.box") == "/r/containers/my.box.sock"
    assert (found.manager_state, found.container_state("box")) == ("/s/manager", "/s/containers/box")


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "a/b", ".hidden", "a\0"])
def test_no_name_leads_out_of_the_directories(name: str) -> None:
    for place in (
        Paths(Mode.EMBEDDED, "/r", "/s").container_socket,
        Paths(Mode.EMBEDDED, "/r", "/s").container_state,
    ):
        with pytest.raises(errors.InvalidArgs):
            place(name)


def test_paths_are_frozen() -> None:
    found = Paths(Mode.EMBEDDED, "/r", "/s")
    with pytest.raises(AttributeError, match="frozen"):
        found.state_dir = "/elsewhere"
    assert found.state_dir == "/s"


# Configuration files


def test_drop_ins_follow_their_file_in_order(tmp_path: Path, session: dict[str, str]) -> None:
    folder = tmp_path / "home/.config/agentd"
    later, first = touch(folder / "agentd.toml.d/20-b.toml"), touch(folder / "agentd.toml.d/10-a.toml")
    for ignored in (".#10-a.toml", "10-a.toml~", "README"):
        touch(folder / "agentd.toml.d" / ignored)
    assert paths_for(Mode.USER, environ=session).config_files == (first, later)
    main = touch(folder / "agentd.toml")
    assert paths_for(Mode.USER, environ=session).config_files == (main, first, later)


def test_a_later_drop_in_of_the_same_name_replaces_the_earlier(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vendor, local, run = (tmp_path / name for name in ("usr", "etc", "run"))
    monkeypatch.setattr(paths, "SYSTEM_CONFIG_DIRECTORIES", (str(vendor), str(local), str(run)))
    expected = [touch(vendor / "agentd.toml"), touch(vendor / "agentd.toml.d/20.toml")]
    touch(vendor / "agentd.toml.d/10.toml")
    expected += [touch(local / "agentd.toml"), touch(local / "agentd.toml.d/10.toml")]
    expected += [touch(run / "agentd.toml.d/05.toml")]
    assert paths_for(Mode.SYSTEM, environ={}).config_files == tuple(expected)


def test_drop_ins_are_sorted_whatever_the_folder_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    named = touch(tmp_path / "my.toml")
    monkeypatch.setattr(os, "listdir", lambda _: ["2.toml", "10.toml", "1.toml"])
    files = paths_for(Mode.EMBEDDED, config=named, environ={}).config_files
    assert [Path(file).name for file in files] == ["my.toml", "1.toml", "10.toml", "2.toml"]


def test_files_are_looked_up_anew_for_a_reload(tmp_path: Path, session: dict[str, str]) -> None:
    found = paths_for(Mode.USER, environ=session)
    before = found.config_files
    main = touch(tmp_path / "home/.config/agentd/agentd.toml")
    assert (before, found.config_files) == ((), (main,))


@pytest.mark.parametrize("mode", Mode)
def test_a_file_that_was_named_replaces_the_list(
    tmp_path: Path, mode: Mode, session: dict[str, str]
) -> None:
    touch(tmp_path / "home/.config/agentd/agentd.toml")
    named, drop_in = touch(tmp_path / "my.toml"), touch(tmp_path / "my.toml.d/1.toml")
    assert paths_for(mode, config=named, environ=session).config_files == (named, drop_in)


def test_a_file_that_was_named_must_be_there_and_stay_there(tmp_path: Path) -> None:
    named = tmp_path / "my.toml"
    with pytest.raises(errors.ConfigurationInvalid, match=r"my\.toml: .* No such file"):
        paths_for(Mode.EMBEDDED, config=str(named), environ={})
    found = paths_for(Mode.EMBEDDED, config=touch(named), environ={})
    named.unlink()
    with pytest.raises(errors.ConfigurationInvalid, match=r"my\.toml: .* No such file"):
        assert found.config_files


def test_drop_ins_that_cannot_be_listed_are_an_error(tmp_path: Path) -> None:
    named = touch(tmp_path / "my.toml")
    touch(tmp_path / "my.toml.d")
    with pytest.raises(errors.ConfigurationInvalid, match=r"my\.toml\.d: can't be listed: Not a directory"):
        assert paths_for(Mode.EMBEDDED, config=named, environ={}).config_files


# Making the directories


def test_prepare_gives_each_directory_its_mode(tmp_path: Path) -> None:
    found = paths_for(
        Mode.EMBEDDED, runtime_dir=str(tmp_path / "a/b/run"), state_dir=str(tmp_path / "c/state"), environ={}
    )
    paths.prepare(found)
    for open_to_all in (found.runtime_dir, f"{found.runtime_dir}/containers", tmp_path / "a/b"):
        assert mode_of(open_to_all) == 0o755
    for closed in (found.state_dir, found.manager_state, tmp_path / "c"):
        assert mode_of(closed) == 0o700


def test_prepare_twice_is_fine_and_keeps_a_stricter_mode(tmp_path: Path) -> None:
    found = embedded(tmp_path)
    paths.prepare(found)
    Path(found.runtime_dir).chmod(0o700)
    paths.prepare(found)
    assert mode_of(found.runtime_dir) == 0o700


def test_a_private_folder_is_closed_to_others(tmp_path: Path) -> None:
    found = paths_for(Mode.EMBEDDED, environ={"TMPDIR": str(tmp_path)})
    paths.prepare(found)
    assert mode_of(found.runtime_dir) == 0o700


def test_a_private_folder_that_others_may_enter_is_refused(tmp_path: Path) -> None:
    found = paths_for(Mode.EMBEDDED, environ={"TMPDIR": str(tmp_path)})
    Path(found.runtime_dir).mkdir(mode=0o755)
    with pytest.raises(errors.ConfigurationInvalid, match="must be this account's alone"):
        paths.prepare(found)


def test_a_symlink_is_refused_and_its_target_left_alone(tmp_path: Path) -> None:
    (tmp_path / "victim").mkdir(mode=0o700)
    (tmp_path / "run").symlink_to(tmp_path / "victim")
    with pytest.raises(errors.ConfigurationInvalid, match="run: must be a real directory"):
        paths.prepare(embedded(tmp_path))
    assert list((tmp_path / "victim").iterdir()) == []


def test_a_dangling_symlink_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run").symlink_to(tmp_path / "nowhere")
    with pytest.raises(errors.ConfigurationInvalid, match="run: must be a real directory"):
        paths.prepare(embedded(tmp_path))
    assert not (tmp_path / "nowhere").exists()


def test_a_file_in_the_way_is_refused(tmp_path: Path) -> None:
    touch(tmp_path / "run")
    with pytest.raises(errors.ConfigurationInvalid, match="run: must be a real directory"):
        paths.prepare(embedded(tmp_path))


def test_a_parent_that_is_a_file_is_refused(tmp_path: Path) -> None:
    touch(tmp_path / "file")
    with pytest.raises(
        errors.ConfigurationInvalid, match="file/run: can't be made or opened: Not a directory"
    ):
        paths.make_directory(str(tmp_path / "file/run"), 0o755)


@pytest.mark.parametrize("mode", [0o1777, 0o770, 0o702])
def test_a_directory_that_others_may_write_to_is_refused_and_unchanged(tmp_path: Path, mode: int) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run").chmod(mode)
    with pytest.raises(errors.ConfigurationInvalid, match=rf"others may write to it \(mode {mode:04o}\)"):
        paths.prepare(embedded(tmp_path))
    assert mode_of(tmp_path / "run") == mode


@as_root
@pytest.mark.parametrize("private", [True, False])
def test_a_directory_of_another_account_is_refused(tmp_path: Path, private: bool) -> None:
    (tmp_path / "run").mkdir(mode=0o700)
    os.chown(tmp_path / "run", NOBODY, NOBODY)
    found = Paths(Mode.EMBEDDED, str(tmp_path / "run"), str(tmp_path / "state"), private=private)
    with pytest.raises(errors.ConfigurationInvalid, match=f"belongs to uid {NOBODY}"):
        paths.prepare(found)


# Socket addresses


def test_a_socket_path_holds_107_bytes() -> None:
    paths.check_socket_path("/" + "a" * 106)
    with pytest.raises(errors.ConfigurationInvalid, match="may be 107 bytes long and this one is 108"):
        paths.check_socket_path("/" + "a" * 107)


def test_a_socket_path_is_measured_in_bytes() -> None:
    with pytest.raises(errors.ConfigurationInvalid, match="this one is 121"):
        paths.check_socket_path("/" + "é" * 60)


# Where a client looks


def test_a_client_looks_where_something_may_be(
    session: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    system = Paths(Mode.SYSTEM, str(tmp_path / "system"), "/s")
    monkeypatch.setattr(
        paths,
        "paths_for",
        lambda mode, environ: system if mode is Mode.SYSTEM else paths_for(mode, environ=environ),
    )
    assert paths.client_candidates(session) == []
    for directory in ("system", "run/agentd-embedded", "run/agentd"):
        (tmp_path / directory).mkdir()
    modes = [found.mode for found in paths.client_candidates(session)]
    assert modes == [Mode.USER, Mode.EMBEDDED, Mode.SYSTEM]


def test_a_client_without_a_session_finds_the_private_folder(tmp_path: Path) -> None:
    environ = {"TMPDIR": str(tmp_path)}
    paths.prepare(paths_for(Mode.EMBEDDED, environ=environ))
    assert paths.client_candidates(environ)[0].runtime_dir == f"{tmp_path}/agentd-{os.geteuid()}"


def test_a_client_does_not_follow_a_symlink_in_the_temp_folder(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / f"agentd-{os.geteuid()}").symlink_to(tmp_path / "real")
    assert all(found.mode is Mode.SYSTEM for found in paths.client_candidates({"TMPDIR": str(tmp_path)}))


@as_root
def test_a_client_does_not_trust_the_folder_of_another_account(tmp_path: Path) -> None:
    (tmp_path / "agentd-0").mkdir()
    os.chown(tmp_path / "agentd-0", NOBODY, NOBODY)
    assert all(found.mode is Mode.SYSTEM for found in paths.client_candidates({"TMPDIR": str(tmp_path)}))


def test_the_import_stays_cheap() -> None:
    heavy = {"dataclasses", "inspect", "msgspec", "pathlib", "tempfile", "tomllib", "asyncio"}
    code = "import sys; before = set(sys.modules); import agentd.paths; print(*set(sys.modules) - before)"
    source = str(Path(paths.__file__).parent.parent)
    run = subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONPATH": source}, check=True, capture_output=True, text=True
    )
    assert "agentd.paths" in run.stdout.split()
    assert not heavy & set(run.stdout.split())
