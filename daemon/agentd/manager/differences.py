# SPDX-License-Identifier: Apache-2.0
"""Two configurations compared: what has changed, and what of it running workers will not look at again."""

from collections.abc import Set
from typing import Any

from agentd.config import Configuration

TABLES = ("agents", "containers")
"""Those whose entries are told apart."""
AT_START = ("runtime",)
"""Keys of a container that its worker looks at only when it starts."""


def differences(old: Configuration, new: Configuration) -> list[str]:
    """The top-level keys, and the agents and containers one by one, that are not the same in both."""
    fields = [field for field in old.__struct_fields__ if field not in TABLES]
    changed = [field for field in fields if getattr(old, field) != getattr(new, field)]
    for table in TABLES:
        before, after = getattr(old, table), getattr(new, table)
        names = sorted(before.keys() | after.keys())
        changed += [f"{table}.{name}" for name in names if before.get(name) != after.get(name)]
    return changed


def needs_restart(old: Configuration, new: Configuration, serving: Set[str]) -> list[str]:
    """What of it takes effect only when workers are started again. `serving`: containers that have one."""
    later = ["runtimes"] if serving and old.runtimes != new.runtimes else []
    for name in sorted(serving):
        before, after = _at_start(old, name), _at_start(new, name)
        if before != after:
            later.append(f"containers.{name}")
    return later


def _at_start(configuration: Configuration, name: str) -> tuple[Any, ...]:
    entry = configuration.containers.get(name)
    return tuple(getattr(entry, key, None) for key in AT_START)
