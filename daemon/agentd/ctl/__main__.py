# SPDX-License-Identifier: Apache-2.0
"""`python -m agentd.ctl` is agentctl."""

import sys

from agentd.ctl import main

sys.exit(main())
