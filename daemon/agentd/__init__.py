# SPDX-License-Identifier: Apache-2.0
"""agentd: one ACP endpoint on the host for every container that has coding agents in it."""

__version__ = "0.1.0"
