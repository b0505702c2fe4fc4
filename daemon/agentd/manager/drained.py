# SPDX-License-Identifier: Apache-2.0
"""What is drained: it stays so until somebody undoes it, whatever becomes of workers and jobs."""

from collections.abc import Callable, Iterable

from agentd.errors import NoSuchContainer, NotDraining
from agentd.manager.container import Container
from agentd.manager.drains import Drains
from agentd.manager.registry import Registry
from agentd.manager.targets import Scope, Target, Targets


class Drained:
    """Containers, agents and sessions; those of containers that are not there now, too."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self.everything = False
        """Whether all is drained, containers that appear later included."""
        self.targets = Targets()
        self.unheard = Targets()
        """What was to serve again while no worker was there to hear it."""
        self.on_change: list[Callable[[], None]] = []

    def covers(self, container: str, agent: str, session: str) -> bool:
        """Whether a session is drained, by itself or with its agent or container."""
        targets = (Target(container), Target(container, agent), Target(container, session=session))
        return self.everything or any(each in self.targets for each in targets)

    def restore(self, drains: Drains) -> None:
        """Go on with what an earlier manager has written down."""
        self.everything = drains.all_drained
        self.targets = Targets(Target.split(text) for text in drains.drained)
        self.unheard = Targets(Target.split(text) for text in drains.unheard)
        for container in self._registry:
            self.appeared(container)
        self._tell()

    def containers(self, target: Target) -> list[Container]:
        """Those that an order is about, as far as they are there."""
        if target.is_all:
            return list(self._registry)
        try:
            return [self._registry.get(target.container)]
        except NoSuchContainer:
            return []

    # Orders

    def mark(self, target: Target) -> None:
        """From now on it is drained."""
        self.everything = self.everything or target.is_all
        for each in [Target(each.name) for each in self._registry] if target.is_all else [target]:
            self.targets.add(each)
        for each in self.unheard.under(target):
            if each.is_part == target.is_part:  # a container's parts still have to serve when it does
                self.unheard.discard(each)
        self._show(self.containers(target))

    def unmark(self, target: Target) -> list[Target]:
        """From now on nothing that it covers is drained. Returns what was."""
        self.everything = self.everything and target.is_part
        containers, undone = self.containers(target), self.targets.under(target)
        there = {container.name for container in containers if container.worker is not None}
        for each in undone:
            self.targets.discard(each)
            if each.container not in there:
                self.unheard.add(each)
        self._show(containers)
        return undone

    def check(self, target: Target) -> None:
        """Raises NotDraining where there is nothing to undo, or NoSuchContainer."""
        if self.targets.under(target) or (target.is_all and self.everything):
            return
        if target.is_all:
            raise NotDraining("nothing is drained; there is nothing to undo")
        name = self._registry.get(target.container).name
        if Target(name) in self.targets:
            raise NotDraining(f"{name} is drained as a whole; to undo that: agentctl undrain {name}")
        raise NotDraining(f"{target} is not drained; there is nothing to undo")

    # What comes and goes

    def appeared(self, container: Container) -> None:
        whole = Target(container.name)
        if self.everything:
            self.targets.add(whole)
        container.drained = whole in self.targets

    def forget(self, container: Container) -> bool:
        """A container that has gone: made anew, it is drained all the same, but has other sessions.

        Returns whether any of those was drained.
        """
        for each in self.unheard.of(container.name):
            self.unheard.discard(each)
        sessions = [each for each in self.targets.of(container.name) if each.scope is Scope.SESSION]
        for each in sessions:
            self.targets.discard(each)
        if sessions:
            self._tell()
        return bool(sessions)

    def adopt(self, container: Container, targets: Iterable[Target]) -> None:
        """What a worker drains is drained, though nobody has written it down."""
        before = self.targets.of(container.name), container.drained
        for each in targets:
            self.targets.add(each)
        if (self.targets.of(container.name), Target(container.name) in self.targets) != before:
            self._show([container])
            self._registry.changed(container)

    def heard(self, container: Container) -> list[Target]:
        """What its worker has to be told now to let serve again."""
        undone, whole = self.unheard.of(container.name), Target(container.name)
        for each in undone:
            self.unheard.discard(each)
        return [whole] if whole in undone else undone

    def _show(self, containers: Iterable[Container]) -> None:
        for container in containers:
            container.drained = Target(container.name) in self.targets
        self._tell()

    def _tell(self) -> None:
        for tell in self.on_change:
            tell()
