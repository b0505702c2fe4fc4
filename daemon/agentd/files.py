# SPDX-License-Identifier: Apache-2.0
"""Files that are whole after a power cut, too. All of this blocks."""

import os


def replace_file(path: str, data: bytes) -> None:
    """Write a file, for us alone, so that whoever reads it finds the old or the new one whenever that is."""
    fresh = path + ".new"
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with open(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(descriptor)
    os.replace(fresh, path)
    sync_directory(os.path.dirname(path))


def sync_directory(path: str) -> None:
    """Return once it is on disk which files are in it."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
