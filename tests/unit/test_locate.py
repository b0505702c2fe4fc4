# SPDX-License-Identifier: Apache-2.0

import json
from pathlib import Path

import pytest
from pytest_subprocess import FakeProcess

from agentd import errors, runtimes
from agentd.config import Configuration, Container
from agentd.runtimes.docker import Docker
from agentd.runtimes.host import Host
from agentd.runtimes.podman import Podman
from unit.loop import run


class Engines:
    """What each engine will say when it is asked for `box`."""

    def __init__(self, fp: FakeProcess) -> None:
        self._fp = fp

    def say(self, engine: str, answer: str) -> None:
        argv = [engine, "container", "inspect", "--", "box"]
        described = {"Id": "1", "Name": "box", "State": {"Running": True}, "Config": {}}
        match answer:
            case "yes":
                self._fp.register(argv, stdout=json.dumps([described]))
            case "no":
                self._fp.register(argv, returncode=125, stderr="Error: no such container box")
            case "broken":
                self._fp.register(argv, returncode=1, stderr=f"{engine} is on fire")
            case "missing":
                pass  # and nobody is on the PATH either


@pytest.fixture
def engines(fp: FakeProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Engines:
    monkeypatch.setenv("PATH", str(tmp_path))
    fp.allow_unregistered(True)
    return Engines(fp)


def locate(configuration: Configuration | None = None) -> tuple[str, str]:
    runtime, info = run(runtimes.locate("box", configuration or Configuration()))
    return runtime.name, info.runtime


@pytest.mark.parametrize("other", ["no", "missing", "broken"])
@pytest.mark.parametrize("engine", ["podman", "docker"])
def test_the_one_that_knows_the_name_is_taken(engines: Engines, engine: str, other: str) -> None:
    engines.say(engine, "yes")
    engines.say({"podman": "docker", "docker": "podman"}[engine], other)
    assert locate() == (engine, engine)


def test_two_that_know_the_name_are_one_too_many(engines: Engines) -> None:
    engines.say("podman", "yes")
    engines.say("docker", "yes")
    with pytest.raises(errors.AmbiguousContainer, match=r"podman and docker both .* \[containers.box\]"):
        locate()


@pytest.mark.parametrize(
    ("podman", "docker", "error", "text"),
    [
        ("no", "no", errors.NoSuchContainer, "no container is called box"),
        ("no", "missing", errors.NoSuchContainer, "no container is called box"),
        ("missing", "no", errors.NoSuchContainer, "no container is called box"),
        ("missing", "missing", errors.EngineMissing, "podman is not installed"),
        ("no", "broken", errors.EngineFailed, "docker is on fire"),
        ("broken", "no", errors.EngineFailed, "podman is on fire"),
        ("missing", "broken", errors.EngineFailed, "docker is on fire"),
    ],
)
def test_of_several_failures_the_most_telling_is_told(
    engines: Engines, podman: str, docker: str, error: type[errors.AgentdError], text: str
) -> None:
    engines.say("podman", podman)
    engines.say("docker", docker)
    with pytest.raises(error, match=text) as caught:
        locate()
    assert type(caught.value) is error


def test_no_runtime_configured_finds_nothing(engines: Engines) -> None:
    with pytest.raises(errors.NoSuchContainer, match="no runtime is configured"):
        locate(Configuration(runtimes=()))


def test_the_configuration_settles_which_runtime_is_asked(engines: Engines) -> None:
    engines.say("podman", "yes")
    engines.say("docker", "yes")
    assert locate(Configuration(containers={"box": Container(runtime="docker")})) == ("docker", "docker")


def test_an_entry_without_a_runtime_settles_nothing(engines: Engines) -> None:
    engines.say("docker", "yes")
    assert locate(Configuration(containers={"box": Container()})) == ("docker", "docker")


def test_a_runtime_that_was_settled_tells_its_own_error(engines: Engines) -> None:
    engines.say("docker", "yes")
    with pytest.raises(errors.EngineMissing, match="podman"):
        locate(Configuration(containers={"box": Container(runtime="podman")}))


def test_only_configured_runtimes_are_asked(engines: Engines) -> None:
    engines.say("podman", "yes")
    with pytest.raises(errors.EngineMissing, match="docker"):
        locate(Configuration(runtimes=("docker",)))


def test_a_host_container_needs_no_engine(engines: Engines, tmp_path: Path) -> None:
    entry = Container(runtime="host", directory=str(tmp_path))
    assert locate(Configuration(containers={"box": entry})) == ("host", "host")


def test_every_runtime_has_its_class() -> None:
    found = [type(runtimes.runtime(name, Configuration())) for name in ("host", "podman", "docker")]
    assert found == [Host, Podman, Docker]
