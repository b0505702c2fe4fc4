# SPDX-License-Identifier: Apache-2.0
"""What tests need of the host that few hosts have: root that may mount, and programs."""

import os
import shutil
import subprocess
from collections.abc import Iterable


def obstacle(what: str, tools: Iterable[str], packages: str, lacking: Iterable[str] = ()) -> str | None:
    """Why `what` cannot be done here, if so. `packages`: the file that lists what has the tools.

    `lacking`: what else is known not to be there.
    """
    if os.geteuid() != 0:
        return f"{what}, which needs root"
    if missing := [*(tool for tool in tools if shutil.which(tool) is None), *lacking]:
        return f"not installed: {', '.join(missing)}; {packages} lists the packages"
    if subprocess.run(("unshare", "--mount", "true"), capture_output=True).returncode != 0:
        return f"{what}, and root may not mount here"
    return None
