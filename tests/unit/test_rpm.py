# SPDX-License-Identifier: Apache-2.0
"""packaging/rpm/agentd.spec against the tree it packages. tests/packages has what is built of it."""

import re
import tomllib
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import pytest

from agentd import __version__
from support.packages import make_install

ROOT = Path(__file__).parents[2]
RPM = ROOT / "packaging/rpm"
SPEC = (RPM / "agentd.spec").read_text()
SECTION = re.compile(
    r"^%(?:package|description|prep|generate_buildrequires|build|install|post|preun|postun|files|changelog)\b.*",
    re.MULTILINE,
)
PYTHON = "/usr/lib/python3/dist-packages/"

# Those of every rpm; then ours, and Fedora's as they are where it has none.
MACROS = {"_prefix": "/usr", "_bindir": "/usr/bin", "_datadir": "/usr/share", "_mandir": "/usr/share/man"}
for text in ((RPM / "macros.fallback").read_text(), SPEC):
    MACROS |= dict(re.findall(r"^%(?:global )?(\w+) (\S.*)$", text, re.MULTILINE))


class Entry(NamedTuple):
    path: str
    alone: bool
    """A folder without what is in it."""

    def takes(self, path: str) -> bool:
        own = PurePosixPath(path)
        places = [own] if self.alone else [own, *own.parents]
        return any(place.match(self.path) for place in places)


def expanded(text: str) -> str:
    while (more := re.sub(r"%\{(\w+)\}", lambda found: MACROS.get(found[1], found[0]), text)) != text:
        text = more
    return text


def tag(name: str) -> str:
    found = re.search(rf"^{name}: +(.+)$", SPEC, re.MULTILINE)
    assert found
    return found[1]


def section(header: str) -> str:
    _, _, rest = SPEC.partition(f"\n{header}\n")
    assert rest, f"no {header}"
    end = SECTION.search(rest)
    return expanded(rest[: end.start()] if end else rest)


def entries(package: str) -> list[Entry]:
    """The lines of %files, and the modules, of which it is Debian's list that counts."""
    header = (
        "%files -f agentd.modules" if package == "agentd" else f"%files -n {package} -f {package}.modules"
    )
    lines = re.findall(r"^(%dir )?(?:%config\(noreplace\) )?(/.*)$", section(header), re.MULTILINE)
    listed = (ROOT / f"packaging/deb/{package}.install").read_text()
    modules = re.findall(r"^usr/lib/python3\*/dist-packages/(agentd/.*)$", listed, re.MULTILINE)
    return [Entry(path, bool(alone)) for alone, path in lines] + [
        Entry(PYTHON + path, False) for path in modules
    ]


def brought(root: Path) -> dict[str, bool]:
    """What the spec's %install brings by `make install` and by its own lines, and whether it is a folder."""
    make_install(root)
    script = section("%install")
    for source, target in re.findall(r"^install -D -m 644 (\S+) %{buildroot}(\S+)$", script, re.MULTILINE):
        place = root / target[1:]
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes((ROOT / source).read_bytes())
    for line in re.findall(r"^install -d (.+)$", script, re.MULTILINE):
        for target in line.split():
            (root / target.removeprefix("%{buildroot}/")).mkdir(parents=True, exist_ok=True)
    for source, target in re.findall(r"^mv %{buildroot}/(\S+) %{buildroot}/(\S+)/$", script, re.MULTILINE):
        (root / source).rename(root / target / Path(source).name)
    return {f"/{path.relative_to(root)}": path.is_dir() for path in root.rglob("*")}


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bool]:
    """Without what linters leave in a checkout: packages are built from a copy that has none of it."""
    found = brought(tmp_path_factory.mktemp("root"))
    return {path: folder for path, folder in found.items() if "/." not in path}


MACROS["version"] = tag("Version")
PACKAGES = {name: entries(name) for name in ("agentd", "agentctl")}


def test_each_installed_file_is_in_one_package(paths: dict[str, bool]) -> None:
    files = [path for path, folder in paths.items() if not folder]
    takers = {
        path: [name for name, listed in PACKAGES.items() if any(entry.takes(path) for entry in listed)]
        for path in files
    }
    assert len(files) > 150
    assert {path: names for path, names in takers.items() if len(names) != 1} == {}


@pytest.mark.parametrize("package", PACKAGES)
def test_each_listed_file_is_installed(paths: dict[str, bool], package: str) -> None:
    """But for what comes of the build itself: metadata, bytecode and what is bundled."""
    made = re.compile(r"\.dist-info$|/__pycache__$|^/usr/lib/agentd(/|$)")
    listed = [entry for entry in PACKAGES[package] if not made.search(entry.path)]
    assert [entry.path for entry in listed if not any(entry.takes(path) for path in paths)] == []


def test_folders_of_ours_belong_to_a_package(paths: dict[str, bool]) -> None:
    folders = [path for path, folder in paths.items() if folder and "agentd" in PurePosixPath(path).parts]
    assert "/etc/agentd/prompts" in folders
    listed = PACKAGES["agentd"] + PACKAGES["agentctl"]
    assert [path for path in folders if not any(entry.takes(path) for entry in listed)] == []


def test_all_paths_are_known_by_the_fallback() -> None:
    assert [entry.path for listed in PACKAGES.values() for entry in listed if "%" in entry.path] == []


def test_version_is_the_projects() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert tag("Version") == project["version"] == __version__
    assert section("%changelog").splitlines()[0].endswith(f" - {project['version']}-1")


def test_dependencies_are_the_projects() -> None:
    """Each of its libraries is asked for by name, or bundled; dbus-fast stands in for dbus-next."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extra = project["optional-dependencies"]
    wanted = set(project["dependencies"]) | {
        one for name, group in extra.items() if name != "dev" for one in group
    }
    wanted -= {"dbus-next>=0.2.3"}
    asked = re.findall(r"^(?:Requires|Recommends): +python3dist\((\S+)\) >= (\S+)$", SPEC, re.MULTILINE)
    assert {f"{name}>={version}" for name, version in asked} == wanted


def test_bundled_sources_are_those_whose_hashes_are_pinned() -> None:
    pinned = dict(
        re.findall(r"^(\S+)==(\S+) --hash=sha256:[0-9a-f]{64}$", (RPM / "bundled.txt").read_text(), re.M)
    )
    assert pinned == {
        "dbus-fast": MACROS["dbus_fast_version"],
        "sdnotify": MACROS["sdnotify_version"],
    }


def test_what_is_bundled_is_found_where_it_is() -> None:
    assert f'sys.path.insert(0, "{expanded("%{bundled}")}")' in (RPM / "bundled.py").read_text()


# Units


def test_scriptlets_know_every_unit_that_can_be_enabled() -> None:
    units = [path for path in (ROOT / "units").iterdir() if path.is_file() and "@" not in path.name]
    installable = {path.name for path in units if "[Install]" in path.read_text().splitlines()}
    assert set(MACROS["units"].split()) == installable
    assert section("%post").splitlines().count(f"%systemd_post {MACROS['units']}") == 1
    assert section("%preun").splitlines().count(f"%systemd_preun {MACROS['units']}") == 1


def preset(name: str) -> dict[str, str]:
    lines = (RPM / name).read_text().splitlines()
    return dict(line.split()[::-1] for line in lines if line[0] != "#")


def test_preset_decides_about_each_of_them() -> None:
    decided = preset("90-agentd.preset")
    assert decided.keys() == set(MACROS["units"].split())
    assert [name for name, verdict in decided.items() if verdict == "disable"] == ["agentd-metrics.socket"]


def test_preset_enables_nothing_for_users() -> None:
    units = [path for path in (ROOT / "units/user").iterdir() if "@" not in path.name]
    installable = {path.name for path in units if "[Install]" in path.read_text().splitlines()}
    assert preset("90-agentd.user.preset") == dict.fromkeys(installable, "disable")
