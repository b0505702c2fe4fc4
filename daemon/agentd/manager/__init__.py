# SPDX-License-Identifier: Apache-2.0
"""The manager: accepts every connection, decides, and hands over. It reads no more than the first line."""
