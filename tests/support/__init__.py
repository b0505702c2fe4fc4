# SPDX-License-Identifier: Apache-2.0
"""What tests of every ring use: a raw ACP client, and a whole agentd in a folder."""
