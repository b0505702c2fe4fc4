# SPDX-License-Identifier: Apache-2.0
"""Where everything is: the directories, sockets and configuration files of a mode.

`agentctl attach` imports this on the way to an editor's first byte, so it goes without pathlib,
dataclasses, typing, re and tempfile, which cost 5 to 12 ms each: paths are absolute `str` here.
"""

import enum
import os
from collections.abc import Mapping

from agentd import errors

SOCKET_PATH_BYTES = 107  # sun_path has 108, and the kernel wants the last one for a NUL
SYSTEM_CONFIG_DIRECTORIES = ("/usr/lib/agentd", "/etc/agentd", "/run/agentd")  # later ones win


class Mode(enum.StrEnum):
    SYSTEM = "system"
    USER = "user"
    EMBEDDED = "embedded"


class Paths:
    """The places of one agentd. Frozen; nothing is touched or read before it is asked for.

    `config_bases` are the main configuration files, each with its drop-ins in `FILE.d/*.toml`.
    `config_required` says that a person named them, so that a missing one is an error.
    `private` says that the runtime directory lies in a folder that others write to.
    """

    __slots__ = ("config_bases", "config_required", "mode", "private", "runtime_dir", "state_dir")

    mode: Mode
    runtime_dir: str
    state_dir: str
    config_bases: tuple[str, ...]
    config_required: bool
    private: bool

    def __init__(
        self,
        mode: Mode,
        runtime_dir: str,
        state_dir: str,
        config_bases: tuple[str, ...] = (),
        *,
        config_required: bool = False,
        private: bool = False,
    ) -> None:
        keep = object.__setattr__
        keep(self, "mode", mode)
        keep(self, "runtime_dir", runtime_dir)
        keep(self, "state_dir", state_dir)
        keep(self, "config_bases", config_bases)
        keep(self, "config_required", config_required)
        keep(self, "private", private)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"Paths is frozen: {name} stays {getattr(self, name, None)!r}, not {value!r}")

    # Configuration

    @property
    def config_files(self) -> tuple[str, ...]:
        """The files to read now, in order of merging: looked up each time, for a reload sees new drop-ins.

        Errors: ConfigurationInvalid for a file that was named and is not there, and for a folder of
        drop-ins that can't be listed.
        """
        if self.config_required:
            for base in self.config_bases:
                _check_named(base)
        return _config_files(self.config_bases)

    def prompt_file(self, name: str) -> str:
        """The file of a scheduled prompt. Errors: ConfigurationInvalid in embedded mode, that has none."""
        if self.mode is Mode.EMBEDDED:
            raise errors.ConfigurationInvalid(
                "an agentd with a directory of its own has no scheduled prompts: say --system or --user"
            )
        folder = "/etc/agentd" if self.mode is Mode.SYSTEM else os.path.dirname(self.config_bases[-1])
        return os.path.join(folder, "prompts", f"{_component(name)}.toml")

    # In the runtime directory

    @property
    def front_door(self) -> str:
        return os.path.join(self.runtime_dir, "agentd.sock")

    @property
    def link(self) -> str:
        return os.path.join(self.runtime_dir, "link.sock")

    @property
    def lock(self) -> str:
        return os.path.join(self.runtime_dir, "manager.lock")

    @property
    def bus(self) -> str:
        """The socket of the private bus, in embedded mode."""
        return os.path.join(self.runtime_dir, "bus")

    def container_socket(self, name: str) -> str:
        return os.path.join(self.runtime_dir, "containers", f"{_component(name)}.sock")

    @property
    def bus_address(self) -> str:
        """Where the manager of this mode is on D-Bus: "system", "session" or a D-Bus address."""
        if self.mode is Mode.SYSTEM:
            return "system"
        if self.mode is Mode.USER:
            return "session"
        from urllib.parse import quote  # only here: it costs an editor's start 3 ms

        return "unix:path=" + quote(self.bus, safe="/-_.")

    # In the state directory

    @property
    def manager_state(self) -> str:
        return os.path.join(self.state_dir, "manager")

    def container_state(self, name: str) -> str:
        return os.path.join(self.state_dir, "containers", _component(name))


def paths_for(
    mode: Mode,
    *,
    runtime_dir: str | None = None,
    state_dir: str | None = None,
    config: str | None = None,
    environ: Mapping[str, str],
) -> Paths:
    """The places of `mode`, each of them replaced where a person named another one.

    Errors: ConfigurationInvalid where the environment does not say enough (no XDG_RUNTIME_DIR in user
    mode) and where `config` is not there.
    """
    runtime, private = (runtime_dir, False) if runtime_dir else _default_runtime(mode, environ)
    runtime = os.path.abspath(runtime)
    state = os.path.abspath(state_dir or _default_state(mode, runtime, environ))
    if config is None:
        return Paths(mode, runtime, state, _default_bases(mode, environ), private=private)
    base = os.path.abspath(config)
    _check_named(base)
    return Paths(mode, runtime, state, (base,), config_required=True, private=private)


def client_candidates(environ: Mapping[str, str]) -> list[Paths]:
    """Where a manager may be listening for this caller: user, embedded default, system, in that order."""
    return [paths for mode in (Mode.USER, Mode.EMBEDDED, Mode.SYSTEM) for paths in _candidate(mode, environ)]


def prepare(paths: Paths) -> None:
    """Make the directories that the manager needs.

    Errors: ConfigurationInvalid, as of `make_directory`; and, in a folder that others write to, for a
    runtime directory that is not ours alone.
    """
    make_directory(paths.runtime_dir, 0o700 if paths.private else 0o755)
    if paths.private:
        _check_ours_alone(paths.runtime_dir)
    make_directory(os.path.join(paths.runtime_dir, "containers"), 0o755)
    for directory in (paths.state_dir, paths.manager_state):
        make_directory(directory, 0o700)


def make_directory(path: str, mode: int) -> None:
    """Make `path`, and parents that are missing, with exactly `mode`, whatever the umask is.

    One that is there keeps its mode, for it may have been named by mistake (`--state-dir /var`), but
    it must be a real directory of ours or root's that nobody else may write to.

    Errors: ConfigurationInvalid that says which directory, and what about it.
    """
    parent = os.path.dirname(path)
    if not os.path.exists(parent):
        make_directory(parent, mode)
    try:
        made = _make_closed(path)
        _open_up(path, mode if made else None)
    except OSError as error:
        raise _invalid(path, f"can't be made or opened: {error.strerror}") from error


def check_socket_path(path: str) -> None:
    """Errors: ConfigurationInvalid for a path that does not fit into a socket address."""
    length = len(os.fsencode(path))
    if length > SOCKET_PATH_BYTES:
        text = f"a socket's path may be {SOCKET_PATH_BYTES} bytes long and this one is {length}"
        raise _invalid(path, f"{text}: use a shorter name or a shorter runtime directory")


# The defaults of a mode


def _default_runtime(mode: Mode, environ: Mapping[str, str]) -> tuple[str, bool]:
    """The runtime directory, and whether it lies in a folder that others write to."""
    if mode is Mode.SYSTEM:
        return "/run/agentd", False
    session = _session_runtime(environ)
    if session is None and mode is Mode.USER:
        raise errors.ConfigurationInvalid(
            "XDG_RUNTIME_DIR names no directory of this account: log in as that user, or pass --runtime-dir"
        )
    if session is None:
        return os.path.join(_absolute(environ, "TMPDIR") or "/tmp", f"agentd-{os.geteuid()}"), True  # noqa: S108
    return os.path.join(session, "agentd" if mode is Mode.USER else "agentd-embedded"), False


def _default_state(mode: Mode, runtime_dir: str, environ: Mapping[str, str]) -> str:
    if mode is Mode.SYSTEM:
        return "/var/lib/agentd"
    if mode is Mode.EMBEDDED:
        return os.path.join(runtime_dir, "state")
    base = _absolute(environ, "XDG_STATE_HOME") or os.path.join(_home(environ), ".local", "state")
    return os.path.join(base, "agentd")


def _default_bases(mode: Mode, environ: Mapping[str, str]) -> tuple[str, ...]:
    if mode is Mode.SYSTEM:
        return tuple(os.path.join(directory, "agentd.toml") for directory in SYSTEM_CONFIG_DIRECTORIES)
    if mode is Mode.EMBEDDED:
        return ()
    base = _absolute(environ, "XDG_CONFIG_HOME") or os.path.join(_home(environ), ".config")
    return (os.path.join(base, "agentd", "agentd.toml"),)


def _session_runtime(environ: Mapping[str, str]) -> str | None:
    """XDG_RUNTIME_DIR if it is this account's: `su` leaves that of the caller in the environment."""
    directory = _absolute(environ, "XDG_RUNTIME_DIR")
    return directory if directory and _owned(directory) else None


def _home(environ: Mapping[str, str]) -> str:
    home = _absolute(environ, "HOME")
    if home is not None:
        return home
    import pwd  # not in the way of those who have HOME

    try:
        return pwd.getpwuid(os.geteuid()).pw_dir
    except KeyError:
        raise errors.ConfigurationInvalid(
            f"HOME is not set and uid {os.geteuid()} has no entry in the password database"
        ) from None


def _absolute(environ: Mapping[str, str], name: str) -> str | None:
    """The XDG rule: a relative path is no path."""
    value = environ.get(name, "")
    return value if value.startswith("/") else None


def _candidate(mode: Mode, environ: Mapping[str, str]) -> list[Paths]:
    try:
        paths = paths_for(mode, environ=environ)
    except errors.ConfigurationInvalid:
        return []  # this account has no such place, so nothing listens there
    reachable = os.path.isdir(paths.runtime_dir) if mode is Mode.SYSTEM else _owned(paths.runtime_dir)
    return [paths] if reachable else []


def _owned(directory: str) -> bool:
    """Is it a real directory of this account? One that somebody else made could hold anybody's socket."""
    try:
        found = os.lstat(directory)
    except OSError:
        return False
    return _is_directory(found) and found.st_uid == os.geteuid()


# Configuration files


def _config_files(bases: tuple[str, ...]) -> tuple[str, ...]:
    drop_ins = [(f"{base}.d", name) for base in bases for name in _drop_ins(f"{base}.d")]
    winner = {name: directory for directory, name in drop_ins}
    files: list[str] = []
    for base in bases:
        files += [base] if os.path.lexists(base) else []
        files += [os.path.join(at, name) for at, name in drop_ins if at == f"{base}.d" == winner[name]]
    return tuple(files)


def _drop_ins(directory: str) -> list[str]:
    """File names, sorted; those that editors hide while they write are none."""
    try:
        names = os.listdir(directory)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise _invalid(directory, f"can't be listed: {error.strerror}") from error
    return sorted(name for name in names if name.endswith(".toml") and not name.startswith("."))


def _check_named(config: str) -> None:
    """A file that a person named must be there: defaults instead of it would be a surprise."""
    try:
        os.stat(config)
    except OSError as error:
        raise _invalid(
            config, f"the configuration file that was named can't be used: {error.strerror}"
        ) from error


# Directories


def _make_closed(path: str) -> bool:
    """Make a directory that nobody else can enter, and say whether it was not there."""
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        return False
    return True


def _open_up(path: str, mode: int | None) -> None:
    """Check the directory and, if we made it, set its mode; on a descriptor, so both are of the same one."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except NotADirectoryError:
        raise _invalid(path, "must be a real directory, not a file or a symbolic link") from None
    try:
        _check_safe(path, os.fstat(descriptor))
        if mode is not None:
            os.fchmod(descriptor, mode)
    finally:
        os.close(descriptor)


def _check_safe(path: str, found: os.stat_result) -> None:
    if found.st_uid not in (0, os.geteuid()):
        raise _invalid(path, f"belongs to uid {found.st_uid}, not to root or to this account")
    if found.st_mode & 0o022:
        text = f"others may write to it (mode {found.st_mode & 0o7777:04o})"
        raise _invalid(path, f"{text}: take that away (chmod go-w) or name another directory")


def _check_ours_alone(path: str) -> None:
    found = os.lstat(path)
    if found.st_uid != os.geteuid() or found.st_mode & 0o077:
        raise _invalid(path, "must be this account's alone (mode 0700), since its parent is open to all")


def _is_directory(found: os.stat_result) -> bool:
    return found.st_mode & 0o170000 == 0o040000  # S_ISDIR, and no import of stat for it


def _component(name: str) -> str:
    """A container's name as a file name. A stranger's `../x` is refused earlier; if not, it is here."""
    if not name or name.startswith(".") or "/" in name or "\0" in name:
        raise errors.InvalidArgs(f"{name!r} can't be the name of a container")
    return name


def _invalid(path: str, text: str) -> errors.ConfigurationInvalid:
    return errors.ConfigurationInvalid(f"{path}: {text}", path=path)
