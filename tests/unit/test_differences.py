# SPDX-License-Identifier: Apache-2.0

from agentd.config import Access, Agent, Configuration, Container, Limits
from agentd.manager.access import unknown_names
from agentd.manager.differences import differences, needs_restart

OLD = Configuration(
    agents={"a": Agent(command=("a",))},
    containers={"box": Container(runtime="podman"), "here": Container(runtime="host", directory="/")},
)


def new(**changes: object) -> Configuration:
    values = {name: getattr(OLD, name) for name in OLD.__struct_fields__}
    return Configuration(**(values | changes))


def test_only_what_has_changed_is_named() -> None:
    assert differences(OLD, new()) == []
    assert differences(OLD, new(limits=Limits(clients=2), default_agent="a")) == ["default_agent", "limits"]


def test_agents_and_containers_are_named_one_by_one() -> None:
    changed = new(
        agents={"b": Agent(command=("b",))}, containers={**OLD.containers, "box": Container(users=("root",))}
    )
    assert differences(OLD, changed) == ["agents.a", "agents.b", "containers.box"]


def test_only_workers_that_run_need_a_restart() -> None:
    moved = new(containers={**OLD.containers, "box": Container(runtime="docker")})
    assert needs_restart(OLD, moved, {"here"}) == []
    assert needs_restart(OLD, moved, {"here", "box"}) == ["containers.box"]
    assert needs_restart(OLD, new(runtimes=("docker",)), {"here"}) == ["runtimes"]
    assert needs_restart(OLD, new(runtimes=("docker",)), set()) == []


def test_what_a_worker_looks_at_again_needs_no_restart() -> None:
    shared = new(containers={**OLD.containers, "box": Container(runtime="podman", share_sessions=True)})
    assert needs_restart(OLD, shared, {"box"}) == []


def test_accounts_that_do_not_exist_are_named() -> None:
    configuration = new(
        access=Access(users=("root", "nobody-at-all"), groups=("0",)),
        containers={"box": Container(groups=("no-such-group",))},
    )
    assert unknown_names(configuration) == [
        "access.users: there is no nobody-at-all on this host",
        "containers.box.groups: there is no no-such-group on this host",
    ]
