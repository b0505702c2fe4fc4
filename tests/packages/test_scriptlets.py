# SPDX-License-Identifier: Apache-2.0
"""What the packages do to a system, with dpkg and with rpm: compared, and each difference explained.

Both are installed, upgraded and removed for real, in a Debian that is not running. What their scripts ask of
systemd is written down instead; what they enable are links in /etc/systemd, as everywhere.
"""

import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from e2e import cache, roots
from support.packages import build_docker

# Stand in for programs that talk to a running systemd. Units are enabled and disabled without one, too.
RECORDER = """\
#!/bin/sh
echo "${0##*/} $*" >>/bench/record
case "${0##*/} $*" in
"systemctl "*"enable "* | "systemctl "*"disable "* | "systemctl "*"preset "*)
    [ "$1 $2" != "disable --now" ] || { shift 2; set -- disable "$@"; }
    SYSTEMD_OFFLINE=1 exec /usr/bin/systemctl "$@"
    ;;
esac
"""
RECORDED = ("deb-systemd-invoke", "journalctl", "systemctl", "systemd-sysusers", "systemd-tmpfiles")

# Between installation and upgrade an administrator decides some things. All of it is in memory.
PLAY = """\
set -eu
root=$1 mnt=$2 bench=$3 kind=$4
mount -t tmpfs -o mode=0755 agentd-test "$mnt"
mkdir "$mnt/upper" "$mnt/work" "$mnt/root"
mount -t overlay -o "lowerdir=$root,upperdir=$mnt/upper,workdir=$mnt/work" agentd-test "$mnt/root"
root=$mnt/root
mkdir -p "$root/bench" "$root/run/systemd/system"
mount --bind "$bench" "$root/bench"
for fs in proc sys dev; do mount --rbind "/$fs" "$root/$fs"; done
path=/bench/stubs:/usr/sbin:/usr/bin

in_root() { chroot "$root" env -i "PATH=$path" sh -ec "$1"; }
with_rpm() {
    rpm --root="$root" --force-debian --dbpath=/var/lib/rpm --nodeps \\
        --define="_install_script_path $path" "$@"
}
step() {
    echo "step $1" >>"$bench/record"
    shift
    "$@"
    (cd "$root/etc/systemd" && find . -lname '*agentd*' -printf 'link %P\\n') >>"$bench/record"
}
# Somebody else's package, which brings docker.
docker_rpm() {
    printf '%s\\n' 'Name: docker-cli' 'Version: 1' 'Release: 1' 'Summary: docker' 'License: none' \
        'BuildArch: noarch' '%description' '%install' 'install -D /dev/null %{buildroot}/usr/bin/docker' \
        '%files' /usr/bin/docker >"$mnt/docker.spec"
    rpmbuild --quiet -bb --define="_topdir $mnt/rpm" "$mnt/docker.spec"
    with_rpm --upgrade "$mnt"/rpm/RPMS/noarch/*.rpm
}
decide() {
    in_root 'export SYSTEMD_OFFLINE=1
        /usr/bin/systemctl --quiet disable agentd-watch.service
        /usr/bin/systemctl --quiet enable agentd-metrics.socket agentd-prompt@nightly.timer
        /usr/bin/systemctl --quiet --global enable agentd.socket'
}

case $kind in
deb)
    step install in_root 'dpkg --install /bench/*.deb'
    step decide decide
    step engine in_root 'dpkg --install /bench/theirs/docker.deb'
    step upgrade in_root 'dpkg --install /bench/*.deb'
    step remove in_root 'dpkg --remove agentd agentctl'
    step purge in_root 'dpkg --purge agentd agentctl'
    ;;
rpm)
    step install with_rpm --upgrade "$bench"/*.rpm
    step decide decide
    step engine docker_rpm
    step upgrade with_rpm --upgrade --force "$bench"/*.rpm
    step remove with_rpm --erase agentd agentctl
    ;;
esac
"""

STARTS = "Debian starts what it installs; on Fedora that is left to the administrator"
RELOADS = "with rpm, systemd's and the bus's own packages look after that"
CATALOG = "Debian's systemd sees a catalog come and go; rpm's scripts only say that it came"

# What only the deb does (<) or only the rpm (>), and why.
EXPECTED = {
    "install < daemon-reload": RELOADS,
    "install < reload dbus.service": RELOADS,
    "install < start agentd-link.socket": STARTS,
    "install < start agentd-watch.service": STARTS,
    "install < start agentd.service": STARTS,
    "install < start agentd.socket": STARTS,
    "upgrade < reload dbus.service": RELOADS,
    "upgrade < start agentd-link.socket": STARTS,
    "upgrade < start agentd.socket": STARTS,
    "remove < daemon-reload": RELOADS,
    "remove < explain": CATALOG,
}

MANAGER_AND_WATCHER = {"agentd.service", "agentd-watch.service"}


@dataclass
class Step:
    did: list[str] = field(default_factory=list)
    """Verb and object, in order."""
    links: set[str] = field(default_factory=set)
    """What is enabled after it."""

    def objects(self, verb: str) -> set[str]:
        return {each.partition(" ")[2] for each in self.did if each.split()[0] == verb}


def meaning(call: str) -> Iterator[str]:
    """What a call does, whichever program is called for it."""
    program, *words = call.split()
    verb, *objects = [word for word in words if not word.startswith("-")] or [""]
    match program, verb:
        case "journalctl", "":
            yield "explain"
        case "systemd-sysusers" | "systemd-tmpfiles", name:
            yield f"{program} {name}"
        case "systemctl", "preset" | "enable":
            pass  # the links show what comes of it
        case "systemctl", "disable":
            yield from (f"stop {each}" for each in objects if "--now" in words)
        case _, "daemon-reload":
            yield verb
        case _, "start" | "stop" | "restart" | "try-restart" | "reload" | "reset-failed":
            yield from (f"{verb.removeprefix('try-')} {each}" for each in objects)
        case _:
            raise AssertionError(f"nobody has said what this means: {call}")


def played(kind: str, packages: list[Path], bench: Path) -> dict[str, Step]:
    (bench / "stubs").mkdir()
    for name in RECORDED:
        (bench / "stubs" / name).write_text(RECORDER)
        (bench / "stubs" / name).chmod(0o755)
    for package in packages:
        shutil.copy(package, bench)
    (bench / "theirs").mkdir()
    build_docker(bench / "theirs/docker.deb")
    script = ("sh", "-c", PLAY, "play", roots.machine_root("trixie"), cache.subfolder("mnt"), bench, kind)
    argv = ("setpriv", "--pdeathsig=KILL", "unshare", "--mount", *script)
    done = subprocess.run(argv, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    steps: dict[str, Step] = {}
    for line in (bench / "record").read_text().splitlines():
        match line.split(maxsplit=1):
            case "step", name:
                step = steps[name] = Step()
            case "link", name:
                step.links.add(name)
            case _:
                step.did += meaning(line)
    return steps


@pytest.fixture(scope="module")
def deb(debs: list[Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Step]:
    """That dpkg goes through with it shows that Debian 13 has what the packages depend on."""
    return played("deb", debs, tmp_path_factory.mktemp("deb"))


@pytest.fixture(scope="module")
def rpm(rpms: list[Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Step]:
    return played("rpm", rpms, tmp_path_factory.mktemp("rpm"))


@pytest.fixture(scope="module", params=["deb", "rpm"])
def either(request: pytest.FixtureRequest) -> dict[str, Step]:
    steps: dict[str, Step] = request.getfixturevalue(request.param)
    return steps


# Compared


def test_both_do_the_same_but_for_what_is_explained(deb: dict[str, Step], rpm: dict[str, Step]) -> None:
    found = []
    for name in ("install", "upgrade", "remove"):
        debs, rpms = set(deb[name].did), set(rpm[name].did)
        found += [f"{name} < {each}" for each in debs - rpms] + [f"{name} > {each}" for each in rpms - debs]
    assert sorted(found) == sorted(EXPECTED)


def test_both_enable_the_same(deb: dict[str, Step], rpm: dict[str, Step]) -> None:
    assert deb["install"].links == rpm["install"].links
    assert {name for name in deb["install"].links if name.startswith("user/")} == set()
    enabled = {Path(name).name for name in deb["install"].links}
    assert enabled == MANAGER_AND_WATCHER | {
        "agentd.socket",
        "agentd-link.socket",
        "dbus-org.agentd1.service",
    }


# Each


def test_makes_the_account_and_its_folders_before_anything_starts(either: dict[str, Step]) -> None:
    for name in ("install", "upgrade"):
        assert either[name].did[:2] == ["systemd-sysusers agentd.conf", "systemd-tmpfiles agentd.conf"]


def test_an_upgrade_restarts_the_manager_and_the_watcher_alone(either: dict[str, Step]) -> None:
    """No socket, no worker, no prompt, and nothing of a user's."""
    assert either["upgrade"].objects("restart") == MANAGER_AND_WATCHER
    assert either["upgrade"].objects("stop") == set()
    assert either["upgrade"].did.index("daemon-reload") < either["upgrade"].did.index(
        "restart agentd.service"
    )


def test_an_engine_that_comes_is_followed(either: dict[str, Step]) -> None:
    assert either["engine"].did == ["restart agentd-watch.service"]


def test_an_upgrade_changes_nothing_that_an_administrator_decided(either: dict[str, Step]) -> None:
    assert either["decide"].links != either["install"].links
    assert either["upgrade"].links == either["decide"].links


def test_a_removal_stops_all_there_may_be_and_first_what_would_start_others(either: dict[str, Step]) -> None:
    stopped = [each.partition(" ")[2] for each in either["remove"].did if each.startswith("stop ")]
    timers, prompts = stopped.index("agentd-prompt@*.timer"), stopped.index("agentd-prompt@*.service")
    sockets = [stopped.index(f"agentd{each}.socket") for each in ("", "-link", "-metrics")]
    services = [stopped.index(each) for each in sorted(MANAGER_AND_WATCHER)]
    workers = stopped.index("agentd@*.service")
    assert timers < prompts
    assert max(sockets) < workers and max(services) < workers < stopped.index("agentd.slice")
    assert len(stopped) == 9
    assert either["remove"].objects("restart") | either["remove"].objects("start") == set()


def test_a_purge_leaves_nothing_enabled(deb: dict[str, Step]) -> None:
    assert deb["purge"].links == set()


def test_an_rpm_leaves_what_an_administrator_enabled_of_templates(rpm: dict[str, Step]) -> None:
    """There is no purge, and which instances there are only the administrator knows."""
    assert {Path(name).name for name in rpm["remove"].links} == {"agentd-prompt@nightly.timer"}
