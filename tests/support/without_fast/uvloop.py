# SPDX-License-Identifier: Apache-2.0
"""Found first where the faster libraries are to be missing."""

raise ImportError("hidden by a test")
