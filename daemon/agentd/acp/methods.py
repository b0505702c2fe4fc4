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
SESSION_SET_MODE = "session/set_mode"
SESSION_SET_CONFIG_OPTION = "session/set_config_option"
AUTHENTICATE = "authenticate"
LOGOUT = "logout"
SESSION_UPDATE = "session/update"
REQUEST_PERMISSION = "session/request_permission"
CANCEL_REQUEST = "$/cancel_request"
ELICITATION = "elicitation/create"
TERMINAL_CREATE = "terminal/create"

ATTACH = "_agentd/attach"
"""Ours: the first line of a connection. Params {container?, agent?}; result {container, agent}."""

RECOVER = "_agentd/recover"
"""Ours: a client whose connection broke asks on a new one for the answers it has not had."""
LEAVING = "_agentd/leaving"
"""Ours, to clients that came by `_agentd/attach`: the worker closes, and why. Params {reason, message}."""

SESSIONS, HISTORY = "_agentd/sessions", "_agentd/history"
"""Ours: the sessions that are kept, and what was said in one, page by page."""

AGENTS, PATHS = "_agentd/agents", "_agentd/paths"
"""Ours: what agents the container has, and which of the host's directories it shares."""

LOGIN = "_agentd/login"
TERMINAL_INPUT, TERMINAL_RESIZE, TERMINAL_OUTPUT = (
    "_agentd/terminal_input", "_agentd/terminal_resize", "_agentd/terminal_output"
)  # fmt: skip
"""Ours: an agent's own login, in a terminal inside the container."""
TO_TERMINAL = frozenset({TERMINAL_INPUT, TERMINAL_RESIZE})

HANDSHAKES = frozenset({INITIALIZE, SESSION_NEW, SESSION_LOAD, SESSION_RESUME, SESSION_FORK, SESSION_LIST})
"""Requests no human has a hand in: an agent that is silent over one of them for long has hung."""

STARTS_WORK = frozenset({SESSION_PROMPT, SESSION_NEW, SESSION_FORK})
"""Requests a drain refuses."""
