# SPDX-License-Identifier: Apache-2.0
"""The machine: a Debian with a systemd of its own, booted in under a second and gone without a trace.

`python -m tests.e2e.machine [SUITE]`, as root in the top folder of the checkout, gives a shell in one.
"""

import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Self, TypeVar

from . import cache, roots, stage
from .cgroup import Cgroup
from .dialogue import Dialogue
from .wait import wait_for

T = TypeVar("T")

BOOT_TIMEOUT = 60.0
STOP_TIMEOUT = 10.0
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin"

WITNESSES = [f"--unit={unit}" for unit in ("agentd*", "dbus.service", "polkit.service")]
"""Those whose logs are shown of a machine on which a test has failed."""

# Whoever runs commands in the machine is in a unit of it, as a person at a terminal is: systemd can name it.
OPERATOR = "operator.service"

# Enter cgroups, up to "--", then be the command.
ENTER = 'while [ "$1" != -- ]; do echo 0 >"$1"; shift; done; shift; exec "$@"'

# Runs in mount and PID namespaces of its own: what the machine writes is in memory, and its mounts and
# processes end with this one, however it ends. Podman can't write to an overlay: its folders lie beside.
BOOT = """\
set -eu
mnt=$1 layers=$2 store=$3
shift 3
mount -t tmpfs -o mode=0755 agentd-test "$mnt"
mkdir "$mnt/upper" "$mnt/work" "$mnt/root" "$mnt/containers" "$mnt/home"
mount -t overlay -o "lowerdir=$layers,upperdir=$mnt/upper,workdir=$mnt/work" agentd-test "$mnt/root"
mkdir -p /run/systemd/nspawn
mount -t tmpfs agentd-test /run/systemd/nspawn
exec systemd-nspawn --directory="$mnt/root" \\
    --bind="$mnt/containers:/var/lib/containers" --bind="$mnt/home:/home" --bind-ro="$store:$STORE" "$@"
"""

# No namespace parts the machine's clock, modules and hardware from the host's. So nothing in it may touch
# them, nor what enters it: nsenter by itself keeps all the capabilities that root has on the host.
HOSTS_OWN = ("sys_module", "sys_rawio", "sys_time")

NSPAWN = (
    "--boot",
    "--register=no",
    "--keep-unit",
    "--private-network",
    "--capability=all",
    f"--drop-capability={','.join(f'CAP_{name.upper()}' for name in HOSTS_OWN)}",
    "--system-call-filter=add_key keyctl bpf",
    "--resolv-conf=off",
    "--timezone=off",
    "--console=read-only",
)

NSPAWN_ENVIRONMENT = {
    "PATH": PATH,
    "STORE": roots.IMAGE_STORE,
    "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1",
    # Not "yes": the machine's sysctl.d must not change the settings of the host's kernel.
    "SYSTEMD_NSPAWN_API_VFS_WRITABLE": "network",
}


NSENTER = ("nsenter", "--pid", "--mount", "--uts", "--ipc", "--net", "--cgroup", "--root", "--wd")


class CommandError(RuntimeError):
    """A command in the machine failed: the message has all it said."""

    def __init__(self, argv: Sequence[str | Path], done: subprocess.CompletedProcess[str]) -> None:
        command = " ".join(map(str, argv))
        super().__init__(
            f"{command}: status {done.returncode}\nstdout: {done.stdout}\nstderr: {done.stderr}"
        )
        self.done = done


class Machine:
    """A context manager: booted inside, nothing left of it outside.

    `suite` is a release in roots.SUITES; `layers` are folders that lie over its files, the first one on top.
    """

    running: ClassVar[list["Machine"]] = []

    def __init__(self, suite: str = "trixie", *, layers: Sequence[Path] = ()) -> None:
        self.suite = suite
        self.state = "stopped"
        self._layers = layers
        self._operator: tuple[str, ...] = ()
        self._leader = 0

    # Booting and leaving

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self._console = stack.enter_context(tempfile.TemporaryFile())
            self._nspawn = self._spawn(self._cgroup(stack))
            stack.callback(self._kill)
            self._boot()
            self.running.append(self)
            stack.callback(self.running.remove, self)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.state = "stopped"
        self._stack.close()

    def _cgroup(self, stack: ExitStack) -> list[str]:
        """What starts the machine in a cgroup that is its own to divide."""
        if Path("/run/systemd/system").is_dir():
            return ["systemd-run", "--scope", "--quiet", "--collect", "--property=Delegate=yes", "--"]
        cgroup = Cgroup(f"agentd-test-{os.getpid()}-{secrets.token_hex(4)}")
        stack.callback(cgroup.remove)
        return ["sh", "-c", ENTER, "enter", *cgroup.admission(), "--"]

    def _spawn(self, cgroup: list[str]) -> subprocess.Popen[bytes]:
        layers = ":".join(map(str, (*self._layers, roots.machine_root(self.suite))))
        store = roots.image_store(self.suite)
        boot = ("sh", "-c", BOOT, "boot", cache.subfolder("mnt"), layers, store, *NSPAWN)
        spaces = ("unshare", "--mount", "--pid", "--fork", "--kill-child=KILL", "--mount-proc")
        return subprocess.Popen(
            ("setpriv", "--pdeathsig=KILL", *cgroup, *spaces, *boot),
            stdin=subprocess.DEVNULL,
            stdout=self._console,
            stderr=subprocess.STDOUT,
            env=NSPAWN_ENVIRONMENT,
            start_new_session=True,
        )

    def _boot(self) -> None:
        self._leader = wait_for(self._find_leader, BOOT_TIMEOUT, "the machine's systemd to start")
        self.state = wait_for(self._system_state, BOOT_TIMEOUT, "the machine to be up")
        self.run("systemd-run", "--quiet", f"--unit={OPERATOR}", "sleep", "infinity")
        group = f"/proc/{self._leader}/root/sys/fs/cgroup/system.slice/{OPERATOR}/cgroup.procs"
        self._operator = ("sh", "-c", ENTER, "enter", group, "--")

    def _find_leader(self) -> int | None:
        self._check_alive()
        for nspawn in _children(self._nspawn.pid):
            for child in _children(nspawn):
                if _name(child) == "systemd":
                    return child
        return None

    def _system_state(self) -> str | None:
        self._check_alive()
        state = self.run("systemctl", "is-system-running", "--wait", check=False).stdout.strip()
        return state if state in ("running", "degraded") else None

    def _check_alive(self) -> None:
        if self._nspawn.poll() is not None:
            raise RuntimeError(f"the machine died:\n{self.console()}")

    def _kill(self) -> None:
        """End the machine as a power cut would: the first process of its PID namespace takes all others."""
        for first in _children(self._nspawn.pid):
            with suppress(ProcessLookupError):  # it may be ending just now
                os.kill(first, signal.SIGKILL)
        try:
            self._nspawn.wait(STOP_TIMEOUT)
        finally:
            self._nspawn.kill()

    def console(self) -> str:
        """What systemd and nspawn printed so far."""
        return os.pread(self._console.fileno(), 1 << 20, 0).decode(errors="replace")

    def last_words(self) -> str:
        """What the witnesses have logged of late; why that cannot be said where it cannot."""
        journal = ("journalctl", "--quiet", "--no-hostname", "--output=short-precise", "--lines=60")
        try:
            logged = self.run(*journal, *WITNESSES, check=False, timeout=10).stdout
        except (OSError, subprocess.SubprocessError) as exc:
            return str(exc)
        return "\n".join(line[:300] for line in logged.splitlines())

    # Running commands

    def command(
        self, *argv: str | Path, user: str | None = None, env: Mapping[str, str] | None = None
    ) -> list[str]:
        """The host's command line that runs argv in the machine, in a clean environment.

        The command dies with the host's process, but other signals don't reach it: see `signal`.
        """
        spaces = (*NSENTER, f"--target={self._leader}", "--")
        variables = {"PATH": PATH, "LANG": "C.UTF-8", "HOME": "/root", "USER": "root", "LOGNAME": "root"}
        identity: tuple[str, ...] = ()
        if user is not None:
            identity, account = self._become(user)
            variables |= account
        variables |= env or {}
        settings = (f"{name}={value}" for name, value in variables.items())
        fence = f"--bounding-set={','.join(f'-{name}' for name in HOSTS_OWN)}"
        guard = ("setpriv", "--pdeathsig=KILL", fence, *identity, "env", "-i", *settings)
        return [*self._operator, *spaces, *guard, *map(str, argv)]

    def _become(self, user: str) -> tuple[tuple[str, ...], dict[str, str]]:
        """The setpriv options and the environment of an account of the machine."""
        name, _, uid, gid, _, home, shell = self.run("getent", "passwd", user).stdout.strip().split(":")
        identity = (f"--reuid={uid}", f"--regid={gid}", "--init-groups")
        return identity, {
            "HOME": home,
            "USER": name,
            "LOGNAME": name,
            "SHELL": shell,
            "XDG_RUNTIME_DIR": f"/run/user/{uid}",
        }

    def run(
        self,
        *argv: str | Path,
        check: bool = True,
        input: str | None = None,
        timeout: float = 60.0,
        user: str | None = None,
        env: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command to its end; CommandError when it fails and `check` is set."""
        command = self.command(*argv, user=user, env=env)
        done = subprocess.run(
            command, input=input or "", capture_output=True, text=True, errors="replace", timeout=timeout
        )
        if check and done.returncode != 0:
            raise CommandError(argv, done)
        return done

    def popen(
        self,
        *argv: str | Path,
        user: str | None = None,
        env: Mapping[str, str] | None = None,
        **options: Any,
    ) -> subprocess.Popen[Any]:
        """Start a command, by default with pipes of text for its input and output."""
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        return subprocess.Popen(self.command(*argv, user=user, env=env), **(pipes | options))

    def dialogue(
        self, *argv: str | Path, user: str | None = None, env: Mapping[str, str] | None = None
    ) -> Dialogue:
        return Dialogue(self.popen(*argv, user=user, env=env, text=False))

    def signal(self, process: subprocess.Popen[Any], number: signal.Signals) -> None:
        """Send a signal to the command itself, not to the nsenter that waits for it."""
        for child in _children(process.pid):
            os.kill(child, number)

    def wait_for(
        self, predicate: Callable[[], T | None], timeout: float = 10.0, what: str = "the condition"
    ) -> T:
        return wait_for(predicate, timeout, what)

    # Files

    def read(self, path: str) -> str:
        return self.run("cat", path).stdout

    def write(self, path: str, text: str, mode: int = 0o644) -> None:
        """Write a file, with the folders above it."""
        self.run("install", "-D", f"--mode={mode:o}", "/dev/stdin", path, input=text)

    def copy(self, source: Path, target: str = "/") -> None:
        """Copy what is in the host's folder `source` into the machine's folder `target`, owned by root."""
        pack = ("tar", "--create", f"--directory={source}", "--owner=0", "--group=0", ".")
        keep = ("--no-overwrite-dir", "--keep-directory-symlink")
        self.run("mkdir", "-p", target)
        pipe(pack, self.command("tar", "--extract", f"--directory={target}", *keep))

    def copy_written(self, target: Path) -> None:
        """Copy what was written in the machine, but logs and caches, to the host's empty folder: a layer."""
        [first] = _children(self._nspawn.pid)  # it sees what was mounted for the machine
        upper = f"/proc/{first}/root{cache.subfolder('mnt')}/upper"
        copy = (
            "cp",
            "--archive",
            "--no-target-directory",
        )  # with all attributes: overlayfs hides files by them
        subprocess.run((*copy, upper, target), check=True, timeout=60)
        for name in ("tmp", "var/cache", "var/log", "var/tmp"):
            shutil.rmtree(target / name, ignore_errors=True)

    # agentd

    def start_agentd(self) -> None:
        """Have it run, from every boot on, with the configuration as it is now: it may run already."""
        self.run("systemctl", "enable", "agentd.service")
        self.run("systemctl", "restart", "agentd.service")

    def install(self, source: Path) -> None:
        """Install the checkout at `source` as a package would do on a running system."""
        with tempfile.TemporaryDirectory() as folder:
            stage.fill(Path(folder), source, roots.machine_root(self.suite))
            self.copy(Path(folder))
        self.run("systemd-sysusers")
        self.run("systemd-tmpfiles", "--create")
        self.run("journalctl", "--update-catalog")
        self.run("systemctl", "daemon-reload")
        bus = ("org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus")
        self.run("busctl", "call", *bus, "ReloadConfig")

    def journal(self, *matches: str) -> list[dict[str, Any]]:
        """The entries of the journal that journalctl finds for these arguments, oldest first."""
        self.run("journalctl", "--sync")
        lines = self.run("journalctl", "--output=json", "--all", "--quiet", *matches).stdout.splitlines()
        return [json.loads(line) for line in lines]

    # Containers, and accounts that own some

    def start_container(
        self,
        name: str,
        *options: str,
        label_enable: bool = True,
        init: bool = True,
        user: str | None = None,
        engine: str = "podman",
    ) -> str:
        """Run a container of the image, with more options of the engine's if need be; its id.

        Without `init` its first process reaps no zombies and is deaf to SIGTERM.
        """
        label = ("--label=agentd.enable=true",) if label_enable else ()
        reaper = ("--init",) if init else ()
        run = (engine, "run", "--detach", "--network=none", f"--name={name}", *label, *reaper, *options)
        return self.run(*run, roots.IMAGE, "sleep", "infinity", user=user).stdout.strip()

    def add_user(self, name: str) -> None:
        """Add an account, and start its own systemd as a login would."""
        self.run("useradd", "--create-home", name)
        self.run("loginctl", "enable-linger", name)
        wait_for(lambda: self._user_is_up(name), 10, f"the systemd of {name}")

    def _user_is_up(self, name: str) -> bool:
        state = self.run("systemctl", "--user", "is-system-running", check=False, user=name)
        return state.stdout == "running\n"

    def import_image(self, user: str) -> None:
        """Give an account its copy of the image, for rootless containers. Root need not import it."""
        pipe(self.command("podman", "save", roots.IMAGE), self.command("podman", "load", user=user))


def pipe(source: Sequence[str | Path], sink: Sequence[str], timeout: float = 60.0) -> None:
    """source | sink, either of which may fail."""
    with subprocess.Popen(source, stdout=subprocess.PIPE) as producer:
        try:
            done = subprocess.run(
                sink, stdin=producer.stdout, capture_output=True, text=True, timeout=timeout
            )
        except BaseException:
            producer.kill()
            raise
    if done.returncode != 0:
        raise CommandError(sink, done)
    if producer.returncode != 0:
        raise RuntimeError(f"{source[0]} failed with status {producer.returncode}")


# The host's view of processes


def _children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        return []


def _name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except (FileNotFoundError, ProcessLookupError):
        return ""


if __name__ == "__main__":
    with Machine(*sys.argv[1:2]) as shell:
        subprocess.run(shell.command("bash", "-i", env={"TERM": os.environ.get("TERM", "dumb")}))
