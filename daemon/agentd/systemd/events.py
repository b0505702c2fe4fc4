# SPDX-License-Identifier: Apache-2.0
"""What happens often enough to be looked for: the MESSAGE_ID of a log record, given as `extra={"event": …}`.

Each has an entry in the journal's message catalog. An id is never changed and never used again.
"""

from enum import StrEnum


class Event(StrEnum):
    MANAGER_READY = "fd4a56042b3f45a7987649aeaacdfeee"
    MANAGER_STOPPING = "6b89e1b111a34d71964c9a82f69436ed"
    CONFIG_RELOADED = "b5e80e5a80da480fa302020bb306dc1b"
    CONFIG_REFUSED = "31920b1c691a423fbac33e126aa930f8"
    WORKER_STARTED = "040d31713ef348d8b61dc2e9fb6e6019"
    WORKER_GONE = "86e7108ee9a049e48c2e295b34592e07"
    CONTAINER_ENDED = "806ab41f5270434c80eb4d00897fb477"
    AGENT_STARTED = "94b9d54caa0f42e1844929cfba5bcee9"
    AGENT_EXITED = "42fd8f22edb24ffcaa5bc1c6c52b8889"
    AGENT_STDERR = "3a866d44b96d47fd879b16de3c0b8ebf"
    TURN_STARTED = "d4c97bb9441042908cb75005ec479825"
    TURN_ENDED = "82f4efc8e25b415ea9add26510cb6e33"
    CLIENT_ATTACHED = "0158ef8c5ffb46e5a78089a967166e6c"
    CLIENT_DETACHED = "da52d2764aa34cce8e7a75c78ab05dad"
    PERMISSION_DECIDED = "569735dc19024fd3ba41098c84a7b063"
    ACCESS_DENIED = "3073747ebace42d1af8213c47cc2c4dc"
    DRAIN_STARTED = "23265b62f05d41949b854a7e7c8f8a5d"
    DRAIN_ENDED = "3acaf627ba8d4425bfaaa06ecd81c50d"
    BUS_LOST = "5b4193cd4cba4278a9278ec4b0f79332"
    WATCHER_LOST = "2f6a0cad9512490eac927b7e720ab6aa"
    TURN_INTERRUPTED = "f5f2db572a564239b76cd1bccc721635"
    SESSION_CLOSED = "549424767e5f4487a4f91e2d8037256c"
    WORKER_IDLE = "fefb6e78a6194988b795fe119f03ee8d"
    STORE_FAILED = "c5fca98812b74455b3326a333f5a13af"
    STORE_RECOVERED = "a5b6a10a805646b1afa887c005cd0fc9"
    PROMPT_ENDED = "247927d0cfab4496bf1d42476d1c4cec"
    PROMPT_SKIPPED = "12c6ab70a43047f9aeaa0512e78b59e4"
