# SPDX-License-Identifier: Apache-2.0
"""packaging/deb against the rest of the tree: what would be wrong in a package before one is built."""

import ast
import fnmatch
import re
import subprocess
import sys
import sysconfig
import tomllib
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from agentd import __version__, config

ROOT = Path(__file__).parents[2]
DEB = ROOT / "packaging" / "deb"
PACKAGES = ("agentd", "agentctl")
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PYTHON_DIR = "usr/lib/python3.13/dist-packages"
BUILT_BY_PYBUILD = f"{PYTHON_DIR.replace('3.13', '3*')}/agentd_acp-*.dist-info"
CONFIGURATION = ROOT / "packaging" / "agentd.toml"


def wanted(package: str) -> list[str]:
    """The patterns that say what is in a package."""
    return (DEB / f"{package}.install").read_text().split()


def takes(pattern: str, path: str) -> bool:
    """A pattern also takes all that is below a folder."""
    parts = path.split("/")
    return any(fnmatch.fnmatch("/".join(parts[:end]), pattern) for end in range(1, len(parts) + 1))


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What debian/rules has dh_install look at, but for what pybuild makes of pyproject.toml."""
    stage = tmp_path_factory.mktemp("stage")
    options = (f"DESTDIR={stage}", "PREFIX=/usr", f"PYTHON_DIR=/{PYTHON_DIR}", f"PYTHON={sys.executable}")
    subprocess.run(("make", "-s", "-C", ROOT, "install", *options), check=True, timeout=60)
    (stage / "etc/agentd").mkdir(parents=True)
    (stage / "etc/agentd/agentd.toml").write_bytes(CONFIGURATION.read_bytes())
    return stage


@pytest.fixture(scope="module")
def files(installed: Path) -> list[str]:
    """Without what linters leave in a checkout: packages are built from a copy that has none of it."""
    paths = (each.relative_to(installed) for each in installed.rglob("*") if not each.is_dir())
    return sorted(str(path) for path in paths if not any(part.startswith(".") for part in path.parts))


# Versions and dependencies


def test_versions_agree() -> None:
    changelog = (DEB / "changelog").read_text()
    found = re.match(r"agentd \((\S+)\)", changelog)
    assert found is not None
    assert (found[1], __version__) == (PYPROJECT["version"],) * 2


def test_control_has_what_pyproject_depends_on() -> None:
    depends = re.findall(r"^Depends:\n((?: .+\n)+)", (DEB / "control").read_text(), flags=re.MULTILINE)
    assert len(depends) == len(PACKAGES)
    for requirement in PYPROJECT["dependencies"]:
        name = re.match(r"[\w-]+", requirement)
        assert name is not None
        assert re.search(rf"^ python3-{name[0]}\b", "".join(depends), flags=re.MULTILINE), requirement


# Which file is in which package


def test_every_file_is_in_exactly_one_package(files: list[str]) -> None:
    having = {path: [p for p in PACKAGES if any(takes(each, path) for each in wanted(p))] for path in files}
    assert {path: packages for path, packages in having.items() if len(packages) != 1} == {}


def test_every_file_of_the_tree_is_installed(files: list[str]) -> None:
    names = {Path(path).name for path in files}
    for folder in ("units", "dbus"):
        there = {each.name for each in (ROOT / folder).rglob("*") if each.is_file()}
        assert {
            name.replace(".session", "") for name in there
        } <= names  # one folder less to tell them apart


@pytest.mark.parametrize("package", PACKAGES)
def test_no_list_names_what_is_not_there(package: str, files: list[str]) -> None:
    patterns = [each for each in wanted(package) if each != BUILT_BY_PYBUILD]
    assert [each for each in patterns if not any(takes(each, path) for path in files)] == []


# The client's package is complete in itself


@pytest.fixture(scope="module")
def client(installed: Path, files: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the modules of agentctl's package alone."""
    folder = tmp_path_factory.mktemp("client")
    for path in files:
        if path.startswith(PYTHON_DIR) and any(takes(each, path) for each in wanted("agentctl")):
            copy = folder / Path(path).relative_to(PYTHON_DIR)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes((installed / path).read_bytes())
    return folder


def modules(folder: Path) -> dict[str, Path]:
    """By their dotted names."""
    names = {path: ".".join(path.relative_to(folder).with_suffix("").parts) for path in folder.rglob("*.py")}
    return {name.removesuffix(".__init__"): path for path, name in names.items()}


def imported(name: str, path: Path) -> Iterator[str]:
    """All that it may ever import, also within functions; names from modules as if they were modules."""
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            yield from (each.name for each in node.names)
        elif isinstance(node, ast.ImportFrom):
            outer = package.split(".")[: -(node.level - 1) or None] if node.level else []
            origin = ".".join((*outer, *([node.module] if node.module else [])))
            yield from (origin, *(f"{origin}.{each.name}" for each in node.names))


def test_client_imports_only_what_it_has(client: Path) -> None:
    everything, its = modules(ROOT / "daemon"), modules(client)
    missing = {name: set(imported(name, path)) & (everything.keys() - its) for name, path in its.items()}
    assert {name: lacking for name, lacking in missing.items() if lacking} == {}


# The interpreter has no agentd of its own, and of the libraries none that the package does not ask for.
IMPORT_ALL = """\
import importlib, sys
sys.path[:0] = sys.argv[1:3]
sys.modules |= dict.fromkeys(("sdnotify", "systemd", "uvloop", "pyroute2"))
for name in sys.argv[3:]:
    importlib.import_module(name)
"""


def test_client_runs_alone(client: Path) -> None:
    names = sorted(name for name in modules(client) if not name.endswith("__main__"))
    assert "agentd.ctl.attach.bridge" in names
    argv = (sys.executable, "-I", "-S", "-c", IMPORT_ALL, client, sysconfig.get_path("purelib"), *names)
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


# Units


def also(unit: str) -> set[str]:
    found = re.search(r"^Also=(.+)", (ROOT / "units" / unit).read_text(), flags=re.MULTILINE)
    return set(found[1].split()) if found else set()


def test_every_unit_that_can_be_enabled_is_decided_on() -> None:
    rules = (DEB / "rules").read_text()
    calls = "".join(re.findall(r"^\tdh_installsystemd.*", rules, flags=re.MULTILINE))
    named = set(re.findall(r"\bagentd[\w-]*\.(?:service|socket)", calls))
    units = (path for path in (ROOT / "units").iterdir() if path.is_file() and "@" not in path.name)
    installable = {path.name for path in units if "\n[Install]\n" in path.read_text()}
    assert named.union(*map(also, named)) == installable


# /etc/agentd/agentd.toml


def test_configuration_says_nothing() -> None:
    loaded = config.load([CONFIGURATION])
    assert (loaded.configuration, loaded.sources) == (config.Configuration(), {})


@pytest.fixture
def all_of_it(tmp_path: Path) -> Path:
    """The file with every line in force that is commented out."""
    file = tmp_path / "agentd.toml"
    file.write_text(re.sub(r"^#(?=[^ \n])", "", CONFIGURATION.read_text(), flags=re.MULTILINE))
    return file


def test_all_of_the_configuration_is_valid(all_of_it: Path) -> None:
    assert config.load([all_of_it]).configuration.containers.keys() == {"box", "here"}


def test_configuration_has_every_key(all_of_it: Path) -> None:
    written = tomllib.loads(all_of_it.read_text())
    assert written.keys() == set(config.Configuration.__struct_fields__)
    for name in ("access", "limits", "permissions", "store", "budget"):
        table = type(getattr(config.Configuration(), name))
        assert written[name].keys() == set(table.__struct_fields__), name
    for name, entry in (("agents", config.Agent), ("containers", config.Container)):
        assert set().union(*written[name].values()) == set(entry.__struct_fields__), name


@pytest.mark.parametrize("table", ["access", "limits", "permissions", "store"])
def test_configuration_shows_defaults(table: str, all_of_it: Path) -> None:
    default = getattr(config.Configuration(), table)
    written = tomllib.loads(all_of_it.read_text())[table]
    shown = msgspec.convert(written, type(default))
    assert shown == default
