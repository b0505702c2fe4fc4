# SPDX-License-Identifier: Apache-2.0
"""The worker: one process for one container, with its clients, sessions and agents."""
