# SPDX-License-Identifier: Apache-2.0
"""The worker: one process for one container, with its clients, sessions and agents.

What a client sends comes in at `client`, which knows it only by its envelope. A prompt goes to its
`session`, whose `turns` have it written down and then sent to an `agent`, one at a time; what the hub
answers itself goes to the `desk`, or to `opening` where a session is to begin; everything else passes on to
the agent unseen. What an agent sends comes in at `agent`, and its `router` brings it to the session, or the
client, that it is for; the session keeps updates in its `transcript`, from which every `attachment` of a
client reads, live or behind. `sessions` has all of them, those that are alive and those that are only kept,
`agents` the processes; `keeping` says where things are kept, and `recovery` what an earlier worker has left
undone. `hub` is the house in which they meet: who is here, and what may begin.
"""
