# SPDX-License-Identifier: Apache-2.0
"""Which directory of the host is which in the container.

Paths are taken by their words alone: nobody follows a symbolic link here, on either side.
"""

import posixpath
from collections.abc import Callable, Iterable
from urllib.parse import quote, unquote

FILE = "file://"
LOCAL = ("", "localhost")
"""Authorities of a `file://` URI that mean this machine."""
SAFE = "/:@!$&'()*+,;=~"
"""What stands in the path of a URI as itself, next to letters and digits (RFC 3986)."""

Pair = tuple[str, str]


class PathMap:
    """Pairs of directories (host, container), the ones that count more first.

    The longest prefix wins, in whole components. What comes out is normalised: it lies inside the directory
    it was mapped to, whatever `..` went in.
    """

    def __init__(self, pairs: Iterable[Pair]) -> None:
        given = [(_normal(host), _normal(inside)) for host, inside in pairs]
        self._pairs = tuple(dict.fromkeys((host, inside) for host, inside in given if host and inside))
        self._by_host = sorted(self._pairs, key=lambda pair: len(pair[0]), reverse=True)
        self._by_inside = sorted(self._pairs, key=lambda pair: len(pair[1]), reverse=True)
        self.same = all(host == inside for host, inside in self._pairs)
        """Whether no path changes. Some may still have to be refused, unless it `is_everything`."""
        self.is_everything = False
        """Whether every path is itself on the other side: then there is nothing to change or to refuse."""

    @classmethod
    def everything(cls) -> "PathMap":
        """The map of a container that is the host: every path is itself, and not even normalised."""
        paths = cls([("/", "/")])
        paths.is_everything = True
        return paths

    @property
    def pairs(self) -> tuple[Pair, ...]:
        return self._pairs

    # Paths

    def inward(self, path: str) -> str | None:
        """What the container calls a path of the host; None where it does not have it, or it is relative."""
        if self.is_everything:
            return path
        normal = _normal(path)
        for host, inside in self._by_host:
            if _is_under(normal, host) and not self._hidden(mapped := _moved(normal, host, inside), inside):
                return mapped
        return None

    def outward(self, path: str) -> str | None:
        """What the host calls a path of the container; None where it does not have it, or it is relative."""
        if self.is_everything:
            return path
        normal = _normal(path)
        for host, inside in self._by_inside:
            if _is_under(normal, inside):
                return _moved(normal, inside, host)
        return None

    def _hidden(self, path: str, inside: str) -> bool:
        """Whether something else is mounted over a path of the container, deeper than at `inside`."""
        return any(_is_under(path, other) and len(other) > len(inside) for _, other in self._by_inside)

    # URIs

    def inward_uri(self, uri: str) -> str:
        """The same for a `file://` URI; any other, and one that is not mapped, is returned as it is."""
        return _in_uri(uri, self.inward)

    def outward_uri(self, uri: str) -> str:
        return _in_uri(uri, self.outward)


def _normal(path: str) -> str:
    """An absolute path without `.`, `..` and needless slashes; "" for a relative one, or what is no path."""
    usable = path.startswith("/") and "\0" not in path
    return posixpath.normpath("/" + path.lstrip("/")) if usable else ""


def _is_under(path: str, directory: str) -> bool:
    return path == directory or path.startswith(directory.rstrip("/") + "/")


def _moved(path: str, old: str, new: str) -> str:
    return _normal(f"{new}/{path[len(old) :]}")


def _in_uri(uri: str, change: Callable[[str], str | None]) -> str:
    if not uri.startswith(FILE):
        return uri
    authority, slash, rest = uri[len(FILE) :].partition("/")
    if authority.lower() not in LOCAL:
        return uri
    encoded, tail = _split(slash + rest)
    path = unquote(encoded, errors="surrogateescape")
    mapped = change(path)
    if mapped is None or mapped == path:
        return uri
    if path.endswith("/") and mapped != "/":
        mapped += "/"  # clients mark directories so
    return f"{FILE}{authority}{quote(mapped, safe=SAFE, errors='surrogateescape')}{tail}"


def _split(rest: str) -> tuple[str, str]:
    """The path of a URI, and its query and fragment as they are: editors put line numbers there."""
    end = min((at for at in (rest.find("?"), rest.find("#")) if at >= 0), default=len(rest))
    return rest[:end], rest[end:]
