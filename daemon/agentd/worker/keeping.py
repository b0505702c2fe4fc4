# SPDX-License-Identifier: Apache-2.0
"""Where a worker's sessions are kept: in a store on disk, or nowhere."""

import time
from collections.abc import Callable

from agentd.config import Store as Settings
from agentd.errors import AgentdError, StoreFailed
from agentd.log import Context, Redactor
from agentd.store.keeper import Keeper, Nothing, synced
from agentd.systemd.events import Event
from agentd.worker.recovery import expire, interrupt

FILE = "sessions.db"


async def open_keeper(
    path: str,
    settings: Settings,
    *,
    redact: Redactor,
    log: Context,
    on_full: Callable[[bool], None],
    on_trouble: Callable[[AgentdError | None], None],
    clock: Callable[[], float] = time.time,
) -> Keeper:
    """The store at this path, in which everything that an earlier worker left unfinished has ended.

    `on_full`: whether more waits to be written than may. `on_trouble`: why nothing can be written, None when
    it can be again. Raises StoreFailed where the store is required and cannot be had.
    """
    if settings.transcripts == "off":
        return Nothing()
    from agentd.store.store import Store

    try:
        store = await Store.open(
            path,
            contents=settings.transcripts == "full",
            required=settings.required,
            redact=redact,
            clock=clock,
            on_full=on_full,
            on_trouble=on_trouble,
        )
    except StoreFailed as exc:
        if settings.required:
            raise
        log.error("going on, but nothing will be kept: %s", exc.message, extra={"event": Event.STORE_FAILED})
        return Nothing()
    interrupt(store, store.unfinished, clock(), log)
    expire(store, store.pending)
    try:
        await synced(store)
    except StoreFailed:
        await store.close()
        raise
    return store
