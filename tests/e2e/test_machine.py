# SPDX-License-Identifier: Apache-2.0
"""The machine itself: whether what the other tests of this ring stand on is really there."""

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from . import roots, stage
from .machine import CommandError, Machine

# CAP_SYS_MODULE, CAP_SYS_RAWIO and CAP_SYS_TIME, as bits of a capability set.
HOSTS_OWN = 1 << 16 | 1 << 17 | 1 << 25

ECHO = "import sys\nfor line in sys.stdin: print(line.strip().upper(), flush=True)"

INITIALIZE = {
    "jsonrpc": "2.0",
    "id": 0,
    "method": "initialize",
    "params": {"protocolVersion": 1, "clientCapabilities": {}},
}

NOTIFY = """\
import os, socket, time
socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).sendto(b"READY=1", os.environ["NOTIFY_SOCKET"])
time.sleep(600)
"""

# A stand-in for the project: one module, one unit, one account.
MAKEFILE = """\
install:
	install -D -m 644 demo.py $(DESTDIR)$(PYTHON_DIR)/demo/__init__.py
	install -D -m 644 demo.service $(DESTDIR)$(PREFIX)/lib/systemd/system/demo.service
	install -D -m 644 demo.conf $(DESTDIR)$(PREFIX)/lib/sysusers.d/demo.conf
"""
DEMO_UNIT = """\
[Service]
Type=oneshot
User=demo
ExecStart=python3 -c "import demo; print(demo.WORD)"
"""


@pytest.fixture
def box(machine: Machine) -> Iterator[str]:
    """A running container, for one test."""
    machine.start_container("box")
    yield "box"
    machine.run("podman", "rm", "--force", "--time=0", "box")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A project that can be installed."""
    (tmp_path / "Makefile").write_text(MAKEFILE)
    (tmp_path / "demo.py").write_text('WORD = "installed"\n')
    (tmp_path / "demo.service").write_text(DEMO_UNIT)
    (tmp_path / "demo.conf").write_text("u demo -\n")
    return tmp_path


# systemd


def test_boots_without_a_failed_unit(machine: Machine) -> None:
    assert machine.state == "running", machine.run("systemctl", "--failed").stdout


def test_commands_run_in_a_unit_of_the_machine(machine: Machine) -> None:
    assert machine.run("cat", "/proc/self/cgroup").stdout.endswith("0::/system.slice/operator.service\n")


def test_services_are_sandboxed(machine: Machine) -> None:
    sandbox = ("--property=ProtectSystem=strict", "--property=PrivateTmp=yes", "--property=DynamicUser=yes")
    run = ("systemd-run", "--pipe", "--quiet", *sandbox, "sh", "-c")
    assert int(machine.run(*run, "touch /tmp/mine && id -u").stdout) >= 61184
    assert "Read-only file system" in machine.run(*run, "touch /var/mine", check=False).stderr
    assert machine.run("test", "-e", "/tmp/mine", check=False).returncode == 1


def test_watchdog_restarts_a_hung_service(machine: Machine) -> None:
    settings = ("Type=notify", "NotifyAccess=all", "WatchdogSec=1", "Restart=always")
    properties = (f"--property={setting}" for setting in settings)
    machine.run("systemd-run", "--unit=hung", *properties, "python3", "-c", NOTIFY)

    def restarted() -> bool:
        return machine.run("systemctl", "show", "--value", "-P", "NRestarts", "hung").stdout != "0\n"

    machine.wait_for(restarted, 10, "the watchdog to bite")
    machine.run("systemctl", "stop", "hung")
    messages = [str(entry["MESSAGE"]) for entry in machine.journal("--unit=hung")]
    assert any("Watchdog timeout" in message for message in messages)


def test_bus_activates_and_polkit_decides(machine: Machine) -> None:
    machine.run("busctl", "call", "org.freedesktop.hostname1", "/", "org.freedesktop.DBus.Peer", "Ping")
    assert machine.run("systemctl", "is-active", "systemd-hostnamed").stdout == "active\n"
    stop = ("busctl", "call", "org.freedesktop.systemd1", "/org/freedesktop/systemd1")
    manager = ("org.freedesktop.systemd1.Manager", "StopUnit", "ss", "operator.service", "replace")
    with pytest.raises(CommandError, match="Interactive authentication required"):
        machine.run(*stop, *manager, user="nobody")


def test_journal_finds_fields(machine: Machine) -> None:
    machine.run("logger", "--journald", input="MESSAGE=hello\nDEMO=1\n")
    assert [entry["MESSAGE"] for entry in machine.journal("DEMO=1")] == ["hello"]


# Read off the capabilities, and never by trying: a machine that failed this would change the host.
@pytest.mark.parametrize("how", [(), ("systemd-run", "--pipe", "--quiet")], ids=["command", "service"])
def test_clock_and_kernel_of_the_host_are_out_of_reach(machine: Machine, how: tuple[str, ...]) -> None:
    sets = machine.run(*how, "grep", "^Cap", "/proc/self/status").stdout.splitlines()
    assert len(sets) == 5
    for line in sets:
        name, value = line.split()
        assert not int(value, 16) & HOSTS_OWN, f"{name} {value}"


# Commands and files


def test_failure_says_what_was_printed(machine: Machine) -> None:
    with pytest.raises(CommandError, match=r"(?s)status 3.*to out.*to err"):
        machine.run("sh", "-c", "echo to out; echo to err >&2; exit 3")


def test_user_and_environment(machine: Machine) -> None:
    done = machine.run("sh", "-c", "id -un; env", user="nobody", env={"EXTRA": "1"})
    assert done.stdout.splitlines()[0] == "nobody"
    assert {"HOME=/nonexistent", "EXTRA=1"} < set(done.stdout.splitlines())


def test_files(machine: Machine) -> None:
    machine.write("/etc/demo/secret", "word\n", mode=0o600)
    assert machine.read("/etc/demo/secret") == "word\n"
    assert machine.run("stat", "--format=%a %U", "/etc/demo/secret").stdout == "600 root\n"


def test_command_dies_with_its_caller(machine: Machine) -> None:
    with machine.popen("sleep", "4711") as process:
        machine.wait_for(lambda: machine.run("pgrep", "-f", "sleep 4711", check=False).stdout)
        process.kill()
    machine.wait_for(lambda: not machine.run("pgrep", "-f", "sleep 4711", check=False).stdout)


def test_signal_reaches_the_command(machine: Machine) -> None:
    waits = (  # a shell would lose a signal that comes between its look for one and its read
        "import signal; signal.pthread_sigmask(signal.SIG_BLOCK, [2]); print('ready', flush=True); "
        "signal.sigwait([2]); print('caught', flush=True); exit(7)"
    )
    with machine.dialogue("python3", "-c", waits) as dialogue:
        assert dialogue.hear() == "ready"
        machine.signal(dialogue.process, signal.SIGINT)
        assert dialogue.hear() == "caught"
        assert dialogue.close() == 7


# Containers


def test_container_runs_in_scopes_of_its_own(machine: Machine, box: str) -> None:
    pid = machine.run("podman", "inspect", "--format={{.State.Pid}}", box).stdout.strip()
    assert "0::/machine.slice/libpod-" in machine.read(f"/proc/{pid}/cgroup")


def test_container_answers_over_exec(machine: Machine, box: str) -> None:
    with machine.dialogue("podman", "exec", "-i", box, "python3", "-c", ECHO) as dialogue:
        for word in ("one", "two"):
            dialogue.say(word)
            assert dialogue.hear() == word.upper()
        assert dialogue.close() == 0


def test_example_agent_answers_initialize(machine: Machine, box: str) -> None:
    with machine.dialogue("podman", "exec", "-i", box, "python3", "/opt/agent/agent.py") as agent:
        agent.say(json.dumps(INITIALIZE))
        answer = json.loads(agent.hear())
    assert (answer["id"], answer["result"]["protocolVersion"]) == (0, 1)


def test_container_stops_at_once(machine: Machine, box: str) -> None:
    machine.run("podman", "stop", box, timeout=9)  # podman would kill it after 10 s
    assert machine.run("podman", "ps", "--format={{.Names}}").stdout == ""


def test_rootless_container(suite: str) -> None:
    with Machine(suite) as machine:
        machine.add_user("alice")
        machine.import_image("alice")
        machine.start_container("box", user="alice")
        done = machine.run("podman", "exec", "-i", "box", "cat", input="hello", user="alice")
    assert done.stdout == "hello"


# Installing, and leaving


def test_install_into_a_running_machine(machine: Machine, checkout: Path) -> None:
    machine.install(checkout)
    machine.run("systemctl", "start", "demo")
    assert "installed" in [entry["MESSAGE"] for entry in machine.journal("--unit=demo")]


def test_layer_is_installed_from_the_start(
    suite: str, checkout: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    layer = tmp_path_factory.mktemp("layer")
    stage.fill(layer, checkout, roots.machine_root(suite))
    with Machine(suite, layers=[layer]) as machine:
        machine.run("systemctl", "start", "demo")
        assert "installed" in [entry["MESSAGE"] for entry in machine.journal("--unit=demo")]


def test_failed_install_says_why(machine: Machine, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="No rule to make target 'install'"):
        machine.install(tmp_path)


def test_nothing_is_left(suite: str) -> None:
    before = _traces()
    with Machine(suite) as other:
        other.start_container("box")
        assert _traces() != before
    assert _traces() == before


def test_nothing_is_left_when_a_boot_fails(suite: str, tmp_path: Path) -> None:
    before = _traces()
    (tmp_path / "usr").write_text("not a folder: nothing to boot here\n")
    with pytest.raises(RuntimeError, match="the machine died"), Machine(suite, layers=[tmp_path]):
        pass
    assert _traces() == before


def _traces() -> set[str]:
    """What a machine of ours could leave on the host: processes, mounts, cgroups."""
    me = os.getpid()
    processes = Path(f"/proc/self/task/{me}/children").read_text().split()
    mounts = Path("/proc/self/mounts").read_text().splitlines()
    cgroups = map(str, Path("/sys/fs/cgroup").rglob(f"agentd-test-{me}-*"))
    return {*processes, *mounts, *cgroups}
