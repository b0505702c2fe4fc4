# SPDX-License-Identifier: Apache-2.0
"""The names of the protocol that agentd itself has to know. Every other method passes through unseen."""

PROTOCOL_VERSION = 1

INITIALIZE = "initialize"
SESSION_NEW = "session/new"
SESSION_LOAD = "session/load"
SESSION_RESUME = "session/resume"
SESSION_FORK = "session/fork"
SESSION_LIST = "session/list"
SESSION_CLOSE = "session/close"
SESSION_DELETE = "session/delete"
SESSION_PROMPT = "session/prompt"
SESSION_CANCEL = "session/cancel"
SESSION_UPDATE = "session/update"
REQUEST_PERMISSION = "session/request_permission"
CANCEL_REQUEST = "$/cancel_request"

ATTACH = "_agentd/attach"
"""Ours: the first line of a connection. Params {container?, agent?}; result {container, agent}."""

HANDSHAKES = frozenset({INITIALIZE, SESSION_NEW, SESSION_LOAD, SESSION_RESUME, SESSION_FORK, SESSION_LIST})
"""Requests no human has a hand in: an agent that is silent over one of them for long has hung."""

STARTS_WORK = frozenset({SESSION_PROMPT, SESSION_NEW, SESSION_FORK})
"""Requests a drain refuses."""

CREATES_SESSION = frozenset({SESSION_NEW, SESSION_FORK})
"""Requests whose result carries the id of a new session."""

OPENS_SESSION = frozenset({SESSION_LOAD, SESSION_RESUME})
"""Requests that, once answered, make the session they name usable on this connection."""

ENDS_SESSION = frozenset({SESSION_CLOSE, SESSION_DELETE})
