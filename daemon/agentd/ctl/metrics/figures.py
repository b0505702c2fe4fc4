# SPDX-License-Identifier: Apache-2.0
"""What Prometheus is told, from Status(): counts and states, never titles, sessions' ids, or errors.

Structs here have the members of Status() that count, and no others: what is not read cannot leak. One that
an older manager does not tell has a default. Imports prometheus_client: for verbs that cannot do without.

    agentd_up                                     1, or 0 where no manager answers, and then nothing follows
    agentd_info{version,mode}                     1
    agentd_start_time_seconds                     of the manager, Unix time
    agentd_draining                               1 while everything is drained, or drains
    agentd_watcher_connected, agentd_engine_up{engine}
    agentd_containers{state}                      of every state
    agentd_jobs{state}                            those that run, and the results of the last minute
    agentd_container_state{container,state}       1 for the one it has, 0 for all others
    agentd_container_clients, _sessions, _turns_running, _prompts_queued, _permissions_pending {container}
    agentd_container_frames_total{container}      since its worker has begun
    agentd_container_agents{container,agent,state}
    agentd_container_network_receive_bytes_total, _transmit_bytes_total {container}
    agentd_container_budget_turns{container,window}        in the last minute, and day
    agentd_container_budget_limit_turns{container,window}  where there is a limit
    agentd_container_worker_outdated{container}   1 where it runs another version than the manager

Prompts that wait and permissions are those of the sessions in Status(), which are not all where there are
very many.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator

import msgspec
from prometheus_client import CollectorRegistry, Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

CONTAINER_STATES = ("stopped", "idle", "starting", "serving", "draining", "drained", "failed")
JOB_STATES = ("running", "done", "timeout", "canceled", "failed")

# Status


class Network(msgspec.Struct, frozen=True):
    received: int = 0
    sent: int = 0


class Budget(msgspec.Struct, frozen=True):
    last_minute: int = 0
    last_day: int = 0
    per_minute: int = 0
    per_day: int = 0


class Session(msgspec.Struct, frozen=True):
    queued: int = 0
    permissions: int = 0


class Agent(msgspec.Struct, frozen=True):
    name: str
    state: str


class Container(msgspec.Struct, frozen=True):
    name: str
    state: str
    outdated: bool = False
    clients: int = 0
    turns: int = 0
    sessions_open: int = 0
    frames: int = 0
    network: Network | None = None
    budget: Budget | None = None
    sessions: list[Session] = []
    agents: list[Agent] = []


class Watcher(msgspec.Struct, frozen=True):
    connected: bool = False
    engines: dict[str, str] = {}


class Job(msgspec.Struct, frozen=True):
    state: str


class Status(msgspec.Struct, frozen=True):
    version: str
    mode: str
    started_usec: int = 0
    draining: bool = False
    watcher: Watcher = Watcher()
    containers: list[Container] = []
    jobs: list[Job] = []


# Metrics

Labelled = tuple[tuple[str, ...], float]
"""The values of a metric's labels, and its own."""


GAUGES: dict[str, tuple[str, Callable[[Container], float]]] = {
    "clients": ("Connections that its worker serves.", lambda one: one.clients),
    "sessions": ("Open sessions.", lambda one: one.sessions_open),
    "turns_running": ("Turns that run now.", lambda one: one.turns),
    "prompts_queued": ("Prompts that wait.", lambda one: sum(each.queued for each in one.sessions)),
    "permissions_pending": (
        "Requests for permission that nobody has decided.",
        lambda one: sum(each.permissions for each in one.sessions),
    ),
    "worker_outdated": ("Whether its worker runs another version of agentd.", lambda one: one.outdated),
}
"""Of each container: what it is about, and how it is read off."""


class Figures(Collector):
    """Asks `look` whenever they are collected; None from it stands for a manager that does not answer."""

    def __init__(self, look: Callable[[], Status | None]) -> None:
        self._look = look

    def collect(self) -> Iterator[Metric]:
        status = self._look()
        yield gauge("agentd_up", "Whether a manager answers.", (), [((), float(status is not None))])
        if status is not None:
            yield from _of_manager(status)
            yield from _of_containers(status.containers)


def registry(look: Callable[[], Status | None]) -> CollectorRegistry:
    """A registry with these figures and no others: not those of this process, which ends at once."""
    made = CollectorRegistry(auto_describe=False)
    made.register(Figures(look))
    return made


def _of_manager(status: Status) -> Iterator[Metric]:
    this = [((status.version, status.mode), 1.0)]
    yield gauge("agentd_info", "Version and mode of the manager.", ("version", "mode"), this)
    started, draining = [((), status.started_usec / 1e6)], [((), float(status.draining))]
    yield gauge("agentd_start_time_seconds", "When the manager started, in Unix time.", (), started)
    yield gauge("agentd_draining", "Whether everything was ordered to drain.", (), draining)
    watcher = status.watcher
    connected = [((), float(watcher.connected))]
    yield gauge("agentd_watcher_connected", "Whether the watcher of engines is there.", (), connected)
    engines = [((name,), float(not problem)) for name, problem in sorted(watcher.engines.items())]
    yield gauge("agentd_engine_up", "Whether the watcher follows an engine.", ("engine",), engines)
    containers = counted((each.state for each in status.containers), CONTAINER_STATES)
    yield gauge("agentd_containers", "Containers that opted in, by state.", ("state",), containers)
    jobs = counted((each.state for each in status.jobs), JOB_STATES)
    yield gauge("agentd_jobs", "Drains that run, or have ended a moment ago.", ("state",), jobs)


def _of_containers(containers: list[Container]) -> Iterator[Metric]:
    states = [
        ((one.name, state), float(one.state == state)) for one in containers for state in CONTAINER_STATES
    ]
    yield gauge("agentd_container_state", "Its state.", ("container", "state"), states)
    for name, (text, value) in GAUGES.items():
        values = [((one.name,), float(value(one))) for one in containers]
        yield gauge(f"agentd_container_{name}", text, ("container",), values)
    frames = [((one.name,), float(one.frames)) for one in containers]
    yield counter(
        "agentd_container_frames_total", "Messages passed on by its worker.", ("container",), frames
    )
    agents = [((one.name, *of), float(number)) for one in containers for of, number in _processes(one)]
    labels = ("container", "agent", "state")
    yield gauge("agentd_container_agents", "Processes of agents, by state.", labels, agents)
    yield from _of_networks({one.name: one.network for one in containers if one.network})
    yield from _of_budgets({one.name: one.budget for one in containers if one.budget})


def _processes(container: Container) -> list[tuple[tuple[str, str], int]]:
    """How many there are of each agent in each state."""
    return sorted(Counter((agent.name, agent.state) for agent in container.agents).items())


def _of_networks(networks: dict[str, Network]) -> Iterator[Metric]:
    received = [((name,), float(each.received)) for name, each in networks.items()]
    sent = [((name,), float(each.sent)) for name, each in networks.items()]
    for what, text, values in (("receive", "received", received), ("transmit", "sent", sent)):
        name = f"agentd_container_network_{what}_bytes_total"
        yield counter(name, f"Bytes that its own interfaces have {text}.", ("container",), values)


def _of_budgets(budgets: dict[str, Budget]) -> Iterator[Metric]:
    labels = ("container", "window")
    begun, limits = [], []
    for name, each in budgets.items():
        begun += [((name, "minute"), float(each.last_minute)), ((name, "day"), float(each.last_day))]
        limits += [((name, "minute"), float(each.per_minute)), ((name, "day"), float(each.per_day))]
    text = "Turns that have begun in the last minute, or day, where there is a budget."
    yield gauge("agentd_container_budget_turns", text, labels, begun)
    limited = [each for each in limits if each[1]]
    yield gauge("agentd_container_budget_limit_turns", "How many of them may.", labels, limited)


def counted(states: Iterable[str], known: Iterable[str]) -> list[Labelled]:
    """How many there are of each state, those with none included."""
    found = Counter(dict.fromkeys(known, 0))
    found.update(states)
    return [((state,), float(number)) for state, number in found.items()]


def gauge(name: str, text: str, labels: tuple[str, ...], values: Iterable[Labelled]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, text, labels=labels)
    for of, value in values:
        family.add_metric(of, value)
    return family


def counter(
    name: str, text: str, labels: tuple[str, ...], values: Iterable[Labelled]
) -> CounterMetricFamily:
    family = CounterMetricFamily(name, text, labels=labels)
    for of, value in values:
        family.add_metric(of, value)
    return family
