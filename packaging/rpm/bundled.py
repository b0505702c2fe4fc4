# SPDX-License-Identifier: Apache-2.0
# The end of agentd/__init__.py where the package brings what the distribution lacks, or has too old.
import sys

sys.path.insert(0, "/usr/lib/agentd/python")
