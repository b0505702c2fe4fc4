# SPDX-License-Identifier: Apache-2.0
"""The protocol: frames, envelopes and streams of the Agent Client Protocol, version 1."""
