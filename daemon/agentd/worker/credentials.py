# SPDX-License-Identifier: Apache-2.0
"""The values of an agent's environment that are kept elsewhere, read whenever an agent is started.

So a file that was written anew is picked up without a reload.
"""

import os
import stat
from collections.abc import Mapping
from pathlib import Path

from agentd.config import EnvValue, SecretReference
from agentd.errors import CredentialUnavailable

VALUE_BYTES = 65_536
"""Longest value."""


class _Unusable(Exception):
    """What is wrong with a file, in words that follow its name."""


def resolve(env: Mapping[str, EnvValue]) -> dict[str, str]:
    """The environment with every value in its place. Reads files: not for the event loop.

    Errors: CredentialUnavailable, which says what to do and never shows a value.
    """
    return {
        variable: value if isinstance(value, str) else _resolved(variable, value)
        for variable, value in env.items()
    }


def _resolved(variable: str, reference: SecretReference) -> str:
    if reference.credential is not None:
        return _credential(variable, reference.credential)
    assert reference.file is not None  # a configuration without either is refused
    try:
        return _value(Path(reference.file))
    except _Unusable as problem:
        text = (
            f"{variable} is read from {reference.file}, which {problem}; put the value there, as UTF-8 text"
        )
        raise CredentialUnavailable(text, variable=variable, file=reference.file) from None


def _credential(variable: str, name: str) -> str:
    directory = os.environ.get("CREDENTIALS_DIRECTORY")
    try:
        if not directory:
            raise _Unusable("this worker has not been given")
        return _value(Path(directory, name))
    except _Unusable as problem:
        text = (
            f"{variable} is the credential {name}, which {problem}; give it to the worker by "
            f"LoadCredential={name}:/PATH in a drop-in of agentd@.service, or configure a file instead"
        )
        raise CredentialUnavailable(text, variable=variable, credential=name) from None


def _value(file: Path) -> str:
    """The text in a file, without the newline that editors put at its end."""
    content = _content(file)
    if b"\0" in content:
        raise _Unusable("has a NUL in it, as no variable can")
    try:
        return content.decode().removesuffix("\n")
    except UnicodeDecodeError:
        raise _Unusable("is not UTF-8") from None


def _content(file: Path) -> bytes:
    try:
        with open(file, "rb", opener=_open_at_once) as opened:
            if not stat.S_ISREG(os.fstat(opened.fileno()).st_mode):
                raise _Unusable("is not a regular file")
            content = opened.read(VALUE_BYTES + 1)
    except OSError as error:
        raise _Unusable(f"can't be read ({error.strerror})") from None
    if len(content) > VALUE_BYTES:
        raise _Unusable(f"is longer than {VALUE_BYTES} bytes")
    return content


def _open_at_once(path: str, flags: int) -> int:
    """A FIFO without a writer would make its reader wait."""
    return os.open(path, flags | os.O_NONBLOCK | os.O_NOCTTY)
