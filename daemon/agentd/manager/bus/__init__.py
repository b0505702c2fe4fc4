# SPDX-License-Identifier: Apache-2.0
"""org.agentd1 on D-Bus: one face an object, each only translates between its model and the bus."""
