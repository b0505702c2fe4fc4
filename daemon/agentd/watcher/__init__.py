# SPDX-License-Identifier: Apache-2.0
"""The watcher: follows the container engines, so that the manager need not reach them."""
