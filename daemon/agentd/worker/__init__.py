# SPDX-License-Identifier: Apache-2.0
"""The worker: one process for one container, with its clients, sessions and agents.

What a client sends comes in at `client`, which knows it only by its envelope. A prompt goes to its `session`
and from there, when its turn has come, to an `agent`; what the hub answers itself goes to the `desk`, or to
`opening` where a session is to begin; everything else passes on to the agent unseen. What an agent sends
comes in at `agent`, and its `router` brings it to the session, or the client, that it is for; the session
keeps updates in its `transcript`, from which every `attachment` of a client reads, live or behind. `hub` is
the house in which they meet: who is here, and what may begin.
"""
